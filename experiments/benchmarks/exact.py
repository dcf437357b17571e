"""What does a search train, beside a scan written by hand for each exact shape?

vtune pads networks of different widths so that they share a program. Beside it every
trial of the same search trains as many epochs in a program for its very shape, a scan
over the epoch's steps with an evaluation at its end, one trial after another. Only
training and evaluation count: what the shapes cost to compile does not. In turns; of
each the best turn counts.

    python experiments/benchmarks/exact.py --spaces tutorial depth --trials 48
"""

import argparse
import json
import time
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

import vtune as vt
from experiments import datasets, depth, tutorial
from experiments.benchmarks import searches
from experiments.benchmarks.tutorial import FACTOR, rungs
from vtune.training.keys import epoch_order, lane_keys


SEED = 0
METRICS = ("loss", "accuracy")
SPACES = {"tutorial": tutorial.build, "depth": depth.build}
MAX_EPOCHS = 10


def searched(flags: argparse.Namespace, space: str, data: datasets.DataSet) -> vt.Tuner:
    """A search that has ended: the tutorial's rungs, or so many trials at random.

    Args:
        flags: the sizes.
        space: its name.
        data: what is trained and evaluated on.
    """
    if space == "tutorial":
        tuner = vt.Hyperband(
            SPACES[space],
            "val_accuracy",
            max_epochs=flags.budget,
            brackets=rungs(flags.budget, FACTOR),
            seed=SEED,
        )
    else:
        tuner = vt.RandomSearch(
            SPACES[space],
            "val_accuracy",
            max_trials=flags.trials,
            max_epochs=flags.epochs,
            seed=SEED,
        )
    tuner.search(
        data.x_train,
        data.y_train,
        batch_size=searches.BATCH_SIZE,
        validation_data=(data.x_test, data.y_test),
        verbose=0,
    )
    return tuner


def measured(logits: Any, labels: Any) -> dict[str, Any]:
    """The means of the loss and of the accuracy over some samples.

    Args:
        logits: a row for each sample.
        labels: each sample's class.
    """
    losses = optax.softmax_cross_entropy_with_integer_labels(logits, labels)
    right = logits.argmax(-1) == labels
    return dict(zip(METRICS, (losses.mean(), right.mean()), strict=True))


def exact_epoch(module: Any) -> Callable[..., tuple[Any, dict[str, Any]]]:
    """An epoch of one exact shape: a scan over its steps, then an evaluation.

    Args:
        module: the network.
    """

    def evaluated(parameters: Any, x: Any, y: Any) -> tuple[Any, dict[str, Any]]:
        metrics = measured(module.apply(parameters, x), y)
        return metrics["loss"], metrics

    def epoch(
        state: Any, rate: Any, key: Any, number: Any, training: Any, held_out: Any
    ) -> tuple[Any, dict[str, Any]]:
        x, y = training

        def step(state: Any, batch: Any) -> tuple[Any, dict[str, Any]]:
            parameters, optimizer_state = state
            gradients, metrics = jax.grad(evaluated, has_aux=True)(
                parameters, x[batch], y[batch]
            )
            updates, optimizer_state = optax.adam(rate).update(
                gradients, optimizer_state
            )
            return (optax.apply_updates(parameters, updates), optimizer_state), metrics

        steps = len(x) // searches.BATCH_SIZE
        order = epoch_order(jax.random.wrap_key_data(key), number, len(x))
        batches = order[: steps * searches.BATCH_SIZE].reshape(steps, -1)
        state, metrics = jax.lax.scan(step, state, batches)
        found = {name: values.mean() for name, values in metrics.items()}
        _, metrics = evaluated(state[0], *held_out)
        return state, found | {f"val_{name}": v for name, v in metrics.items()}

    return epoch


class ByHand:
    """The trials of a search, each in a program for its shape, one after another.

    Args:
        build: the space.
        trials: the trials that the search trained.
        data: what is trained and evaluated on.
    """

    def __init__(
        self,
        build: Callable[[vt.HyperParameters], vt.Model],
        trials: Sequence[vt.Trial],
        data: datasets.DataSet,
    ):
        self._data = jax.device_put(
            ((data.x_train, data.y_train), (data.x_test, data.y_test))
        )
        self._samples = data.x_train[: searches.BATCH_SIZE]
        self._trials = trials
        self._modules = [build(vt.HyperParameters(t.values)).module for t in trials]
        self._keys = [
            jax.device_get(lane_keys(jnp.uint32(SEED), jnp.int32(trial.number)))
            for trial in trials
        ]
        self._programs: dict[Any, Any] = {}

    @property
    def shapes(self) -> int:
        """How many programs there are."""
        return len({*self._modules})

    def turn(self) -> tuple[float, dict[int, dict[str, float]]]:
        """Trains all anew; the seconds, and each trial's metrics of its first epoch."""
        seconds, first = 0.0, {}
        for trial, module, keys in zip(
            self._trials, self._modules, self._keys, strict=True
        ):
            rate = jnp.float32(trial.values["learning_rate"])
            state = self._first_state(module, keys.init)
            arguments = (rate, keys.order)
            program = self._program(module, state, *arguments)
            started = time.perf_counter()
            for number in range(trial.epoch):
                state, metrics = program(state, *arguments, number, *self._data)
                found = jax.device_get(metrics)
                if not number:
                    first[trial.number] = {k: float(v) for k, v in found.items()}
            seconds += time.perf_counter() - started
        return seconds, first

    def _first_state(self, module: Any, key: Any) -> Any:
        parameters = module.init(jax.random.wrap_key_data(key), self._samples)
        state = parameters, optax.adam(0.0).init(parameters)
        return jax.block_until_ready(state)

    def _program(self, module: Any, state: Any, *arguments: Any) -> Any:
        if module not in self._programs:
            jitted = jax.jit(exact_epoch(module), donate_argnums=0)
            lowered = jitted.lower(state, *arguments, 0, *self._data)
            self._programs[module] = lowered.compile()
        return self._programs[module]


def measure(
    flags: argparse.Namespace, space: str, data: datasets.DataSet
) -> dict[str, Any]:
    """The seconds of training and evaluation on both sides.

    Args:
        flags: the sizes.
        space: its name.
        data: what is trained and evaluated on.
    """
    tuner = searched(flags, space, data)
    trials = [trial for trial in tuner.trials if trial.epoch]
    by_hand = ByHand(SPACES[space], trials, data)
    by_hand.turn()
    ours: list[float] = []
    theirs: list[float] = []
    first: dict[int, dict[str, float]] = {}
    for _ in range(flags.turns):
        ours.append(searched(flags, space, data).statistics.training_seconds)
        seconds, first = by_hand.turn()
        theirs.append(seconds)
    return {
        "space": space,
        "trials": len(trials),
        "epochs": sum(trial.epoch for trial in trials),
        "shapes": by_hand.shapes,
        "programs": tuner.statistics.training_programs,
        "vtune": min(ours),
        "by_hand": min(theirs),
        "ratio": min(theirs) / min(ours),
        "losses": {
            name: [
                float(np.mean([trial.metrics[name][0] for trial in trials])),
                float(np.mean([first[trial.number][name] for trial in trials])),
            ]
            for name in ("loss", "val_loss")
        },
    }


def main(arguments: Sequence[str] | None = None) -> None:
    """Prints a table, and the same as one line of JSON."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    searches.add_flags(parser)
    parser.add_argument("--spaces", nargs="+", choices=SPACES, default=[*SPACES])
    parser.add_argument("--budget", type=int, default=MAX_EPOCHS, help="the tutorial's")
    parser.add_argument("--trials", type=int, default=48, help="of the other space")
    parser.add_argument("--turns", type=int, default=3)
    parser.add_argument("--smoke", action="store_true", help="a minute, to try it")
    flags = parser.parse_args(arguments)
    if flags.smoke:
        flags.images, flags.held_out, flags.turns = 256, 64, 1
        flags.budget, flags.trials = 3, 3
    data = searches.load(flags)
    print(
        f"Data: {data}.\nSeconds of training and evaluation, on "
        f"{jax.devices()[0].device_kind}"
    )
    headings = ("trials", "epochs", "shapes", "programs", "vtune", "by hand", "ratio")
    print(" " * 10 + "".join(f"{heading:>10}" for heading in headings))
    found = []
    for space in flags.spaces:
        row = measure(flags, space, data)
        found.append(row)
        counts = [row[name] for name in ("trials", "epochs", "shapes", "programs")]
        figures = (row["vtune"], row["by_hand"], row["ratio"])
        print(
            f"{space:10}"
            + "".join(f"{count:>10,}" for count in counts)
            + "".join(f"{figure:>10,.2f}" for figure in figures),
            flush=True,
        )
    print(json.dumps({**vars(flags), "rows": found}))


if __name__ == "__main__":
    main()
