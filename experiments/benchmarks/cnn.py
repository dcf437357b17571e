"""How fast are convolutions, beside the same by hand and beside KerasTuner?

First a random search of small CNNs beside KerasTuner's, with as many trials and epochs,
each in a process of its own. Then a training step of a lane, in milliseconds: vtune
beside a hand-written scan over the vmapped step, whose convolutions are those of `lax`.

    pip install -e ".[benchmarks]"
    python experiments/benchmarks/cnn.py --lanes 8 --trials 24
"""

import argparse
import functools
import json
import sys
from collections.abc import Callable, Sequence
from typing import Any

import jax
import optax

import vtune as vt
from experiments.benchmarks import searches
from experiments.benchmarks.networks import (
    CLASSES,
    CNN,
    Network,
    OneDimensional,
    Residual,
    Separable,
    Work,
)
from experiments.benchmarks.sides import (
    Side,
    by_vmapped_scan,
    by_vtune,
    race,
)


CHANNELS = (8, 32)
STEP = 8
UNITS = [64, 128]
LEARNING_RATE = (1e-4, 1e-2)
TRIALS = 24

NETWORKS = {
    "CNN 16-32-128": Network(CNN(), (28, 28, 1), 8),
    "residual": Network(Residual(), (32, 32, 3), 2),
    "separable": Network(Separable(), (32, 32, 3), 2),
    "1-D": Network(OneDimensional(), (128, 4), 16),
}
SIDES: dict[str, Callable[[Work], Side]] = {
    "vtune": by_vtune,
    "unrewritten": functools.partial(by_vtune, rewrites=False),
    "vmapped scan": by_vmapped_scan,
}


def measure(flags: argparse.Namespace, name: str) -> dict[str, Any]:
    """The milliseconds that a step of a lane takes on each side.

    Args:
        flags: the sizes.
        name: the network's.
    """
    work = NETWORKS[name].work(flags.lanes, flags.batch, flags.steps)
    sides = {side: prepare(work) for side, prepare in SIDES.items()}
    results = race(sides, flags.turns)
    each = 1000 / (work.lanes * work.steps)
    milliseconds = {side: each * result.seconds for side, result in results.items()}
    return {
        "network": name,
        "milliseconds": milliseconds,
        "ratio": milliseconds["vmapped scan"] / milliseconds["vtune"],
        "losses": {side: result.loss for side, result in results.items()},
    }


def build(hp: vt.HyperParameters) -> vt.Model:
    """The CNN with the values in `hp`."""
    channels = tuple(hp.Int(f"channels_{i}", *CHANNELS, step=STEP) for i in range(2))
    return vt.Model(
        CNN(channels, hp.Choice("units", UNITS)),
        optimizer=optax.adam(hp.Float("rate", *LEARNING_RATE, sampling="log")),
        loss="sparse_categorical_crossentropy",
        metrics=["accuracy"],
    )


def build_keras(hp: Any) -> Any:
    """The same for KerasTuner."""
    import keras  # pyright: ignore[reportMissingImports]

    channels = tuple(hp.Int(f"channels_{i}", *CHANNELS, step=STEP) for i in range(2))
    layers = keras.layers
    model = keras.Sequential(
        [
            layers.Conv2D(channels[0], 3, padding="same", activation="relu"),
            layers.MaxPooling2D(2),
            layers.Conv2D(channels[1], 3, padding="same", activation="relu"),
            layers.MaxPooling2D(2),
            layers.Flatten(),
            layers.Dense(hp.Choice("units", UNITS), activation="relu"),
            layers.Dense(CLASSES),
        ]
    )
    model.compile(
        optimizer=keras.optimizers.Adam(
            hp.Float("rate", *LEARNING_RATE, sampling="log")
        ),
        loss=keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        metrics=["accuracy"],
    )
    return model


def compare(arguments: Sequence[str]) -> dict[str, Any]:
    """Searches with both tuners, prints what they took, and returns it.

    Args:
        arguments: those of this script.
    """
    found = {"vtune": searches.in_child(__file__, [*arguments, "--search", "vtune"])}
    if searches.has_kerastuner():
        child = [*arguments, "--search", "kerastuner"]
        found["kerastuner"] = searches.in_child(__file__, child)
    for tuner, row in found.items():
        print(
            f"{tuner:12} {row['trials']} trials in {row['seconds']:.1f} s, "
            f"the best with an accuracy of {row['best']:.3f}",
            flush=True,
        )
    return found


def main(arguments: Sequence[str] | None = None) -> None:
    """Prints tables, and the same as one line of JSON."""
    arguments = sys.argv[1:] if arguments is None else arguments
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    searches.add_flags(parser)
    parser.add_argument("--networks", nargs="*", choices=NETWORKS, default=[*NETWORKS])
    parser.add_argument("--lanes", type=int, default=8)
    parser.add_argument("--steps", type=int, help="of an epoch, for every network")
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--turns", type=int, default=5)
    parser.add_argument("--trials", type=int, default=TRIALS, help="0: no search")
    parser.add_argument("--search", choices=searches.TUNERS, help="search once, here")
    parser.add_argument("--smoke", action="store_true", help="a minute, to try it")
    flags = parser.parse_args(arguments)
    if flags.smoke:
        flags.lanes, flags.steps, flags.turns = 2, 2, 1
        flags.images, flags.held_out = 256, 64
        flags.trials = min(flags.trials, 2)
    if flags.search:
        data = searches.with_channels(searches.load(flags))
        search = searches.Search(flags.trials, flags.epochs, data)
        print(json.dumps(searches.run(flags.search, search, build, build_keras)))
        return
    # While this process holds no memory of the device.
    found = compare(arguments) if flags.trials else {}
    print(
        f"Milliseconds of a step of a lane: {flags.lanes} lanes, Adam, batch "
        f"{flags.batch}, on {jax.devices()[0].device_kind}"
    )
    print(f"{'':16}" + "".join(f"{side:>14}" for side in SIDES) + f"{'ratio':>8}")
    rows = []
    for name in flags.networks:
        row = measure(flags, name)
        rows.append(row)
        each = "".join(f"{value:>14,.2f}" for value in row["milliseconds"].values())
        print(f"{name:16}{each}{row['ratio']:>8.1f}", flush=True)
    print(json.dumps({**vars(flags), "rows": rows, "search": found}))


if __name__ == "__main__":
    main()
