"""What does it cost to find out which trials share a program?

First, for families of networks that differ in their widths, the milliseconds a trial
that each part takes. Then many trials of the space of `experiments/depth.py`: tracing
them and dividing them into cohorts. Nothing is compiled, nothing is trained. On a busy
machine the seconds of the processor are what counts: those of families are such.

    python experiments/benchmarks/planning.py --trials 1000
"""

import argparse
import cProfile
import json
import pstats
import time
from collections.abc import Callable, Sequence
from typing import Any

import flax.linen as nn
import jax
import numpy as np
import optax
from flax import nnx

import vtune as vt
from experiments import depth
from vtune.fusion.envelope import envelope_values
from vtune.fusion.signature import signature
from vtune.fusion.sizes import structure, trace_sizes
from vtune.fusion.trace import Trace
from vtune.fusion.widen import widen
from vtune.parameters import Parameter
from vtune.training.assignment import Settings, assign
from vtune.training.data import DataSet, dataset
from vtune.training.loop import tracer, training_loop
from vtune.trial import Value


CLASSES = 10
SAMPLES = 128
BATCH_SIZE = 32
PARTS = ("tracing", "structure", "widening")

# Only their shapes matter.
LABELS = np.zeros(SAMPLES, np.int32)
PIXELS = np.zeros((SAMPLES, 784), np.float32)
IMAGES = np.zeros((SAMPLES, 28, 28, 1), np.float32)
SEQUENCES = np.zeros((SAMPLES, 16, 12), np.float32)


class MLP(nn.Module):
    """Two hidden layers and dropout."""

    width: int

    @nn.compact
    def __call__(self, x, train: bool = False):
        for _ in range(2):
            x = nn.relu(nn.Dense(self.width)(x))
            x = nn.Dropout(0.2, deterministic=not train)(x)
        return nn.Dense(CLASSES)(x)


class CNN(nn.Module):
    """Three convolutions with batch normalisation."""

    width: int

    @nn.compact
    def __call__(self, x, train: bool = False):
        for factor in (1, 2, 4):
            x = nn.Conv(factor * self.width, (3, 3))(x)
            x = nn.relu(nn.BatchNorm(use_running_average=not train)(x))
            x = nn.max_pool(x, (2, 2), strides=(2, 2))
        return nn.Dense(CLASSES)(nn.relu(nn.Dense(self.width)(x.reshape(len(x), -1))))


class Transformer(nn.Module):
    """Two blocks of an encoder."""

    width: int

    @nn.compact
    def __call__(self, x, train: bool = False):
        features = 4 * self.width
        x = nn.Dense(features)(x)
        for _ in range(2):
            y = nn.LayerNorm()(x)
            x = x + nn.MultiHeadDotProductAttention(
                4, dropout_rate=0.1, deterministic=not train
            )(y, y)
            y = nn.gelu(nn.Dense(2 * features)(nn.LayerNorm()(x)))
            y = nn.Dense(features)(y)
            x = x + nn.Dropout(0.1, deterministic=not train)(y)
        return nn.Dense(CLASSES)(nn.LayerNorm()(x).mean(1))


class NnxMLP(nnx.Module):
    """As `MLP`."""

    def __init__(self, width: int, rngs: nnx.Rngs):
        self.first = nnx.Linear(784, width, rngs=rngs)
        self.second = nnx.Linear(width, width, rngs=rngs)
        self.last = nnx.Linear(width, CLASSES, rngs=rngs)
        self.dropout = nnx.Dropout(0.2, rngs=rngs)

    def __call__(self, x):
        x = self.dropout(nnx.relu(self.first(x)))
        return self.last(self.dropout(nnx.relu(self.second(x))))


FAMILIES: dict[str, tuple[np.ndarray, Callable[[int], Any]]] = {
    "MLP": (PIXELS, MLP),
    "CNN": (IMAGES, CNN),
    "Transformer": (SEQUENCES, Transformer),
    "NNX MLP": (PIXELS, lambda width: lambda rngs: NnxMLP(width, rngs)),
}


def to_trace(x: np.ndarray) -> Callable[[Any], Trace]:
    """What traces trials that train on some samples and are evaluated on them."""
    data: DataSet = dataset(x, LABELS)
    return tracer(training_loop(data, data, batch_size=BATCH_SIZE), data, data)


def family(name: str, members: int) -> dict[str, Any]:
    """The milliseconds of the processor a trial, of trials whose widths all differ."""
    x, module = FAMILIES[name]
    trace = to_trace(x)
    widths = range(16, 16 + members)

    def traces_of(widths: Sequence[int]) -> list[Trace]:
        models = [_model(module(w), 1e-3 * (1 + i)) for i, w in enumerate(widths)]
        return [trace(model) for model in models]

    # What is set up once is no trial's.
    first = traces_of([8, 9])
    widen(first, first[-1])
    started = time.process_time()
    traces = traces_of(widths)
    traced = time.process_time()
    for each in traces:
        _ = (signature(each), structure(each), trace_sizes(each))
    structured = time.process_time()
    widening = widen(traces, traces[-1])
    ended = time.process_time()
    moments = (started, traced, structured, ended)
    seconds = [b - a for a, b in zip(moments, moments[1:])]
    found = {part: 1000 * s / members for part, s in zip(PARTS, seconds, strict=True)}
    return {
        "family": name,
        "equations": len(traces[0].train[0].body.equations),
        "masks": len(widening.masks),
        **found,
    }


def _model(module: Any, rate: float) -> vt.Model:
    return vt.Model(
        module,
        optax.adam(rate),
        "sparse_categorical_crossentropy",
        metrics=["accuracy"],
    )


def depth_space(trials: int) -> dict[str, Any]:
    """The seconds of tracing and dividing trials of the space of depths and widths."""
    trace = to_trace(PIXELS)
    random = np.random.default_rng(1)
    known: dict[int, dict[str, Value]] = {}
    traces: dict[int, Trace] = {}

    def drawn(parameter: Parameter) -> Value:
        return parameter.from_unit(random.random())

    started, started_work = time.perf_counter(), time.process_time()
    for number in range(trials):
        asked = vt.HyperParameters(steps_per_epoch=4, max_epochs=1, source=drawn)
        traces[number] = trace(depth.build(asked))
        known[number] = dict(asked.values)
    traced_at = time.perf_counter()

    def envelope(numbers: Sequence[int]) -> Trace | None:
        largest = envelope_values([known[number] for number in numbers])
        if largest is None:
            return None
        asked = vt.HyperParameters(largest, steps_per_epoch=4, max_epochs=1)
        return trace(depth.build(asked))

    settings = Settings(fuse_widths="always", platform=jax.default_backend())
    cohorts, chosen = assign(traces, (), settings, envelope=envelope)
    ended = time.perf_counter()
    assert set(chosen) == set(traces)
    return {
        "trials": trials,
        "shapes": len({signature(each) for each in traces.values()}),
        "cohorts": len(cohorts),
        "tracing_seconds": traced_at - started,
        "assigning_seconds": ended - traced_at,
        "seconds": ended - started,
        "processor_seconds": time.process_time() - started_work,
    }


def main(arguments: Sequence[str] | None = None) -> None:
    """Prints tables, and the same as one line of JSON."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--members", type=int, default=20, help="widths of a family")
    parser.add_argument("--trials", type=int, default=1000, help="of the depth space")
    parser.add_argument("--profile", type=int, default=0, help="functions to show")
    parser.add_argument("--smoke", action="store_true", help="a few seconds, to try it")
    flags = parser.parse_args(arguments)
    if flags.smoke:
        flags.members, flags.trials = 3, 10

    print("Milliseconds of the processor a trial, of trials whose widths all differ")
    print(f"{'':<12} {'equations':>9}" + "".join(f"{part:>11}" for part in PARTS))
    families = []
    for name in FAMILIES:
        row = family(name, flags.members)
        families.append(row)
        numbers = "".join(f"{row[part]:>11.1f}" for part in PARTS)
        print(f"{name:<12} {row['equations']:>9}{numbers}", flush=True)

    profile = cProfile.Profile()
    found = (
        profile.runcall(depth_space, flags.trials)
        if flags.profile
        else depth_space(flags.trials)
    )
    print(
        f"\n{found['trials']} trials of the depth space, of {found['shapes']} shapes: "
        f"{found['tracing_seconds']:.1f} s of tracing, "
        f"{found['assigning_seconds']:.1f} s until they are in "
        f"{found['cohorts']} cohorts "
        f"({found['processor_seconds']:.1f} s of the processor)"
    )
    if flags.profile:
        pstats.Stats(profile).sort_stats("cumulative").print_stats(flags.profile)
    print(json.dumps({**vars(flags), "families": families, "depth_space": found}))


if __name__ == "__main__":
    main()
