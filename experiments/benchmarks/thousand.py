"""What does a random search of a thousand trials cost, and what does each of them?

The trials are those of `experiments/depth.py`: up to three hidden layers, each with its
own width. For each number of trials a fresh process searches once; its time is split
into what it was spent on. Beside it is the time of a trial with KerasTuner, which takes
as long for the last as for the first.

    pip install -e ".[benchmarks]"
    python experiments/benchmarks/thousand.py --trials 10 100 1000 10000
"""

import argparse
import json
import sys
from collections.abc import Sequence
from typing import Any

from experiments import depth
from experiments.benchmarks import searches


TRIALS = [10, 100, 1000]
KERAS_TRIALS = 30
# The columns of the table: a heading, what it shows, its unit, and the digits.
COLUMNS = (
    ("trials", "trials", 1, 0),
    ("seconds", "seconds", 1, 1),
    ("tracing", "tracing_seconds", 1, 1),
    ("planning", "planning_seconds", 1, 1),
    ("checking", "checking_seconds", 1, 1),
    ("compiling", "compiling_seconds", 1, 1),
    ("training", "training_seconds", 1, 1),
    ("waiting", "waiting_seconds", 1, 1),
    ("idle %", "idle_share", 0.01, 1),
    ("programs", "training_programs", 1, 0),
    ("MiB", "bytes_peak", 2**20, 0),
    ("device MiB", "device_bytes_peak", 2**20, 0),
)


def line(row: dict[str, Any]) -> str:
    """A line of the table.

    Args:
        row: what a search found.
    """
    return "".join(
        f"{row[name] / unit:>11,.{digits}f}" for _, name, unit, digits in COLUMNS
    )


def build_keras(hp: Any) -> Any:
    """The model with the values in `hp`, as `experiments.depth.build` has it."""
    import keras  # pyright: ignore[reportMissingImports]

    layers = hp.Int("layers", 0, depth.MAX_LAYERS)
    widths = [hp.Choice(f"units_{index}", depth.WIDTHS) for index in range(layers)]
    activation = hp.Choice("activation", list(depth.ACTIVATIONS)) if layers else "relu"
    rate = hp.Float("learning_rate", 1e-4, 1e-2, sampling="log")
    hidden = [keras.layers.Dense(width, activation=activation) for width in widths]
    model = keras.Sequential(
        [keras.layers.Flatten(), *hidden, keras.layers.Dense(depth.CLASSES)]
    )
    model.compile(
        optimizer=keras.optimizers.Adam(rate),
        loss=keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        metrics=["accuracy"],
    )
    return model


def compare(ours: dict[str, Any], theirs: dict[str, Any]) -> dict[str, Any]:
    """The seconds of a trial with both tuners, printed.

    Args:
        ours: what the search with vtune found.
        theirs: what that with KerasTuner found.
    """
    each, other = (row["seconds"] / row["trials"] for row in (ours, theirs))
    print(
        f"Seconds a trial: {each:.3g} with vtune ({ours['trials']} trials), "
        f"{other:.3g} with KerasTuner ({theirs['trials']} trials): "
        f"{other / each:.1f} times as many."
    )
    return {"kerastuner": theirs, "kerastuner_by_vtune": other / each}


def main(arguments: Sequence[str] | None = None) -> None:
    """Prints a table, and the same as one line of JSON."""
    arguments = sys.argv[1:] if arguments is None else arguments
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    searches.add_flags(parser)
    parser.add_argument("--trials", type=int, nargs="+", default=TRIALS)
    parser.add_argument(
        "--keras-trials", type=int, default=KERAS_TRIALS, help="0: no KerasTuner"
    )
    parser.add_argument("--search", nargs=2, help="search once, here: TUNER TRIALS")
    parser.add_argument("--smoke", action="store_true", help="a minute, to try it")
    flags = parser.parse_args(arguments)
    if flags.smoke:
        flags.images, flags.held_out, flags.trials = 256, 64, [3, 6]
        flags.keras_trials = min(flags.keras_trials, 2)
    if flags.search:
        tuner, trials = flags.search
        search = searches.Search(int(trials), flags.epochs, searches.load(flags))
        print(json.dumps(searches.run(tuner, search, depth.build, build_keras)))
        return

    print(f"Data: {searches.load(flags)}. {flags.epochs} epochs a trial.")
    print("".join(f"{heading:>11}" for heading, *_ in COLUMNS))
    rows = []
    for trials in flags.trials:
        child = [*arguments, "--search", "vtune", str(trials)]
        row = searches.in_child(__file__, child)
        rows.append(row)
        print(line(row), flush=True)
    found: dict[str, Any] = {**vars(flags), "rows": rows}
    if flags.keras_trials and searches.has_kerastuner():
        child = [*arguments, "--search", "kerastuner", str(flags.keras_trials)]
        found |= compare(rows[-1], searches.in_child(__file__, child))
    print(json.dumps(found))


if __name__ == "__main__":
    main()
