"""How long does the classic tutorial's search take, beside KerasTuner's own?

Both search the same space on the same images with the same rungs. Each runs in a
process of its own and starts cold; vtune then searches once more with its programs
compiled.

    pip install -e ".[benchmarks]"
    python experiments/benchmarks/tutorial.py --images 60000
"""

import argparse
import dataclasses
import json
import math
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from typing import Any

from experiments import datasets


MAX_EPOCHS = 10
FACTOR = 3
BATCH_SIZE = 32
SEED = 0
TUNERS = ("vtune", "kerastuner")


def rungs(max_epochs: int, factor: int) -> list[list[tuple[int, int]]]:
    """KerasTuner's Hyperband: for each bracket, its rungs as trials and epochs.

    For round r of bracket b, ⌈⌈1 + log_f R⌉ / (b + 1) · f^(b − r)⌉ trials are trained
    up to epoch ⌈R / f^(b − r)⌉ (`HyperbandOracle._get_size` and `_get_epochs`).
    """
    brackets = 1
    while max_epochs / factor**brackets >= 1:
        brackets += 1
    levels = math.ceil(1 + math.log(max_epochs, factor))
    return [
        [
            (
                math.ceil(levels / (bracket + 1) * factor ** (bracket - round_)),
                math.ceil(max_epochs / factor ** (bracket - round_)),
            )
            for round_ in range(bracket + 1)
        ]
        for bracket in reversed(range(brackets))
    ]


def run_vtune(flags: argparse.Namespace, data: datasets.DataSet) -> dict[str, Any]:
    """Searches twice with vtune: cold, and with every program compiled."""
    started = time.perf_counter()
    import vtune as vt
    from experiments import tutorial

    importing = time.perf_counter() - started

    def search() -> dict[str, Any]:
        started = time.perf_counter()
        tuner = vt.Hyperband(
            tutorial.build,
            objective="val_accuracy",
            max_epochs=flags.epochs,
            brackets=rungs(flags.epochs, FACTOR),
            seed=SEED,
        )
        tuner.search(
            data.x_train,
            data.y_train,
            batch_size=BATCH_SIZE,
            validation_data=(data.x_test, data.y_test),
            verbose=0,
        )
        seconds = time.perf_counter() - started
        statistics = tuner.statistics
        return {
            "search_seconds": seconds,
            "tracing_seconds": statistics.tracing_seconds,
            "planning_seconds": statistics.planning_seconds,
            "checking_seconds": statistics.checking_seconds,
            "compiling_seconds": statistics.compiling_seconds,
            "training_seconds": statistics.training_seconds,
            "training_programs": statistics.training_programs,
            "configurations": len(tuner.trials),
            "epochs": sum(trial.epoch for trial in tuner.trials),
            "best": max(trial.score or 0.0 for trial in tuner.trials),
        }

    return {"import_seconds": importing, **search(), "again": search()}


def run_kerastuner(flags: argparse.Namespace, data: datasets.DataSet) -> dict[str, Any]:
    """Searches once with KerasTuner on Keras's JAX backend."""
    os.environ["KERAS_BACKEND"] = "jax"
    started = time.perf_counter()
    import keras  # pyright: ignore[reportMissingImports]
    import keras_tuner  # pyright: ignore[reportMissingImports]

    importing = time.perf_counter() - started
    fits: list[list[float]] = []

    class Clock(keras.callbacks.Callback):
        def on_train_begin(self, logs: Any = None) -> None:
            self.epochs: list[float] = []
            fits.append(self.epochs)

        def on_epoch_begin(self, epoch: int, logs: Any = None) -> None:
            self.started = time.perf_counter()

        def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
            self.epochs.append(time.perf_counter() - self.started)

    def build(hp: Any) -> Any:
        units = hp.Int("units", min_value=32, max_value=512, step=32)
        learning_rate = hp.Choice("learning_rate", values=[1e-2, 1e-3, 1e-4])
        model = keras.Sequential(
            [
                keras.layers.Flatten(),
                keras.layers.Dense(units, activation="relu"),
                keras.layers.Dense(10),
            ]
        )
        model.compile(
            optimizer=keras.optimizers.Adam(learning_rate),
            loss=keras.losses.SparseCategoricalCrossentropy(from_logits=True),
            metrics=["accuracy"],
        )
        return model

    with tempfile.TemporaryDirectory() as folder:
        started = time.perf_counter()
        tuner = keras_tuner.Hyperband(
            build,
            objective="val_accuracy",
            max_epochs=flags.epochs,
            factor=FACTOR,
            seed=SEED + 1,  # 0 would mean a random one
            directory=folder,
        )
        tuner.search(
            data.x_train,
            data.y_train,
            batch_size=BATCH_SIZE,
            epochs=flags.epochs,
            validation_data=(data.x_test, data.y_test),
            callbacks=[Clock()],
            verbose=0,
        )
        seconds = time.perf_counter() - started
        trials = list(tuner.oracle.trials.values())
    values = [trial.hyperparameters.values for trial in trials]
    return {
        "import_seconds": importing,
        "search_seconds": seconds,
        # What a first epoch takes beyond the second one: tracing and compiling.
        "starting_seconds": sum(fit[0] - fit[1] for fit in fits if len(fit) > 1),
        "epochs_seconds": sum(sum(fit) for fit in fits),
        "configurations": sum(v["tuner/initial_epoch"] == 0 for v in values),
        "epochs": sum(v["tuner/epochs"] - v["tuner/initial_epoch"] for v in values),
        "best": max(trial.score for trial in trials),
    }


def run_in_child(tuner: str, arguments: Sequence[str]) -> dict[str, Any]:
    """Runs one of the tuners in a fresh process, without any cache of programs."""
    environment = {**os.environ, "JAX_ENABLE_COMPILATION_CACHE": "false"}
    done = subprocess.run(
        [sys.executable, __file__, *arguments, "--tuner", tuner],
        env=environment,
        stdout=subprocess.PIPE,
        text=True,
        check=True,
    )
    return json.loads(done.stdout.splitlines()[-1])


def table(found: dict[str, dict[str, Any]]) -> str:
    """The figures of both, one a line."""
    columns = {"vtune": found["vtune"], "vtune again": found["vtune"]["again"]}
    columns["KerasTuner"] = found["kerastuner"]
    names = [name for name in found["vtune"] if name != "again"]
    names += [name for name in found["kerastuner"] if name not in names]
    lines = [" " * 18 + "".join(f"{title:>14}" for title in columns)]
    for name in names:
        cells = (f"{c[name]:,.4g}" if name in c else "" for c in columns.values())
        lines.append(f"{name:18}" + "".join(f"{cell:>14}" for cell in cells))
    return "\n".join(lines)


def main(arguments: Sequence[str] | None = None) -> None:
    """Runs both and prints a table and a line of JSON, or one and prints its line."""
    arguments = sys.argv[1:] if arguments is None else arguments
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    datasets.add_flags(parser)
    parser.add_argument("--images", type=int, help="train on the first so many images")
    parser.add_argument("--epochs", type=int, default=MAX_EPOCHS)
    parser.add_argument("--tuner", choices=TUNERS, help="run only this one, here")
    parser.add_argument("--smoke", action="store_true", help="a few seconds, to try it")
    flags = parser.parse_args(arguments)
    if flags.smoke:
        flags.images, flags.epochs = 256, 3
    data = datasets.load(flags.dataset, flags.data, download=flags.download)
    data = dataclasses.replace(
        data,
        x_train=data.x_train[: flags.images],
        y_train=data.y_train[: flags.images],
    )
    if flags.tuner is not None:
        run = {"vtune": run_vtune, "kerastuner": run_kerastuner}[flags.tuner]
        print(json.dumps(run(flags, data)))
        return
    print(f"Data: {data}.\nRungs: {rungs(flags.epochs, FACTOR)}.", flush=True)
    found = {tuner: run_in_child(tuner, arguments) for tuner in TUNERS}
    print(table(found))
    ratio = found["kerastuner"]["search_seconds"] / found["vtune"]["search_seconds"]
    print(json.dumps({"data": data.name, **found, "kerastuner_by_vtune": ratio}))


if __name__ == "__main__":
    main()
