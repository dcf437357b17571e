"""What does a random search cost with vtune, and what with KerasTuner?

Each search runs in a process of its own, which starts with nothing compiled.
"""

import argparse
import contextlib
import dataclasses
import importlib.util
import json
import math
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

from experiments import datasets


BATCH_SIZE = 32
TUNERS = ("vtune", "kerastuner")
SEED = 1  # 0 would mean a random one to KerasTuner
# What JAX calls the parts of compiling a program.
COMPILING = (
    "/jax/core/compile/jaxpr_to_mlir_module_duration",
    "/jax/core/compile/backend_compile_duration",
)

Span = tuple[float, float]


@dataclasses.dataclass(frozen=True)
class Search:
    """A random search that both tuners carry out.

    Args:
        trials: how many candidates.
        epochs: of each.
        data: what they train on; its images may have an axis of channels.
    """

    trials: int
    epochs: int
    data: datasets.DataSet


def add_flags(parser: argparse.ArgumentParser) -> None:
    """Adds the flags of the data, of its size and of the epochs.

    Args:
        parser: gets them.
    """
    datasets.add_flags(parser)
    parser.add_argument("--images", type=int, default=6000, help="to train on")
    parser.add_argument("--held-out", type=int, default=1000, help="to validate on")
    parser.add_argument("--epochs", type=int, default=2, help="of each trial")


def load(flags: argparse.Namespace) -> datasets.DataSet:
    """The data that the flags ask for.

    Args:
        flags: those of `add_flags`.
    """
    data = datasets.load(flags.dataset, flags.data, download=flags.download)
    return dataclasses.replace(
        data,
        x_train=data.x_train[: flags.images],
        y_train=data.y_train[: flags.images],
        x_test=data.x_test[: flags.held_out],
        y_test=data.y_test[: flags.held_out],
    )


def with_channels(data: datasets.DataSet) -> datasets.DataSet:
    """The images with one channel, as the last axis.

    Args:
        data: the images without.
    """
    images = (data.x_train[..., None], data.x_test[..., None])
    return dataclasses.replace(data, x_train=images[0], x_test=images[1])


def with_vtune(build: Callable[[Any], Any], search: Search) -> dict[str, Any]:
    """Searches with vtune, and says where the time went.

    Args:
        build: the space, for vtune.
        search: how many trials of it, and on what.
    """
    import jax

    import vtune as vt

    tuner = vt.RandomSearch(
        build,
        objective="val_accuracy",
        max_trials=search.trials,
        max_epochs=search.epochs,
        seed=SEED,
    )
    data, before = search.data, peak_bytes()
    with busy_spans() as spans:
        started = time.time()
        tuner.search(
            data.x_train,
            data.y_train,
            batch_size=BATCH_SIZE,
            validation_data=(data.x_test, data.y_test),
            verbose=0,
        )
        seconds = time.time() - started
    return {
        "trials": len(tuner.trials),
        **parts(tuner.statistics, seconds),
        "idle_share": 1 - covered(spans) / seconds,
        "bytes_before": before,
        "bytes_peak": peak_bytes(),
        "device_bytes_peak": (jax.devices()[0].memory_stats() or {}).get(
            "peak_bytes_in_use", 0
        ),
        "best": max(trial.score or 0.0 for trial in tuner.trials),
    }


@contextlib.contextmanager
def busy_spans() -> Iterator[list[Span]]:
    """When a program was compiled, or one ran on the device, in the meantime."""
    import jax

    from vtune.training.compile import Program

    spans: list[Span] = []
    call = Program.__call__

    def timed(self: Program, *arguments: Any) -> Any:
        began = time.time()
        results = jax.block_until_ready(call(self, *arguments))
        spans.append((began, time.time()))
        return results

    def compiled(event: str, start_time: float, end_time: float, **_: Any) -> None:
        if event in COMPILING:
            spans.append((start_time, end_time))

    Program.__call__ = timed
    jax.monitoring.register_event_time_span_listener(compiled)
    try:
        yield spans
    finally:
        jax.monitoring.unregister_event_time_span_listener(compiled)
        Program.__call__ = call


def parts(statistics: Any, seconds: float) -> dict[str, float]:
    """A search's seconds, and what they were spent on.

    Args:
        statistics: the tuner's.
        seconds: that the search took.

    Returns:
        Each by its name. Tracing goes on beside the rest, so that only what hides
        behind nothing else is waiting.
    """
    found = dataclasses.asdict(statistics)
    beside = found["tracing_seconds"] + found["training_programs"]
    waiting = max(0.0, seconds - (sum(found.values()) - beside))
    return {"seconds": seconds, **found, "waiting_seconds": waiting}


def covered(spans: Iterable[Span]) -> float:
    """The seconds that lie in at least one of some spans of time.

    Args:
        spans: when each begins and ends.
    """
    total, reached = 0.0, -math.inf
    for begin, end in sorted(spans):
        total += max(0.0, end - max(begin, reached))
        reached = max(reached, end)
    return total


def peak_bytes() -> int:
    """The most memory that this process held; 0 where the system does not tell."""
    try:
        lines = Path("/proc/self/status").read_text(encoding="ascii").splitlines()
    except OSError:
        return 0
    return sum(1024 * int(ln.split()[1]) for ln in lines if ln.startswith("VmHWM:"))


def with_kerastuner(build: Callable[[Any], Any], search: Search) -> dict[str, Any]:
    """Searches with KerasTuner on Keras's JAX backend.

    Args:
        build: the space, for KerasTuner; it is called once Keras is imported.
        search: how many trials of it, and on what.
    """
    os.environ["KERAS_BACKEND"] = "jax"
    import keras_tuner  # pyright: ignore[reportMissingImports]

    data = search.data
    with tempfile.TemporaryDirectory() as folder:
        started = time.time()
        tuner = keras_tuner.RandomSearch(
            build,
            objective="val_accuracy",
            max_trials=search.trials,
            seed=SEED,
            directory=folder,
        )
        tuner.search(
            data.x_train,
            data.y_train,
            batch_size=BATCH_SIZE,
            epochs=search.epochs,
            validation_data=(data.x_test, data.y_test),
            verbose=0,
        )
        seconds = time.time() - started
        scores = [trial.score for trial in tuner.oracle.trials.values()]
    return {
        "trials": len(scores),
        "seconds": seconds,
        "bytes_peak": peak_bytes(),
        "best": max(scores),
    }


def run(
    tuner: str,
    search: Search,
    build: Callable[[Any], Any],
    build_keras: Callable[[Any], Any],
) -> dict[str, Any]:
    """Searches in this process.

    Args:
        tuner: `"vtune"` or `"kerastuner"`.
        search: how many trials, and on what.
        build: the space, for vtune.
        build_keras: the same for KerasTuner; called once Keras is imported.
    """
    if tuner == "kerastuner":
        return with_kerastuner(build_keras, search)
    return with_vtune(build, search)


def has_kerastuner() -> bool:
    """Whether KerasTuner is installed; says so where it is not."""
    found = importlib.util.find_spec("keras_tuner") is not None
    if not found:
        print(
            "KerasTuner is not installed: there is nothing to compare with. Install it "
            'with `pip install -e ".[benchmarks]"`.'
        )
    return found


def in_child(script: str, arguments: Sequence[str]) -> dict[str, Any]:
    """What a script prints last, run in a fresh process without a cache of programs.

    Args:
        script: its file.
        arguments: what it is called with.
    """
    environment = {**os.environ, "JAX_ENABLE_COMPILATION_CACHE": "false"}
    done = subprocess.run(
        [sys.executable, script, *arguments],
        env=environment,
        stdout=subprocess.PIPE,
        text=True,
        check=True,
    )
    return json.loads(done.stdout.splitlines()[-1])
