"""What is a lane worth? Trial-steps a second against the number of lanes.

Beside vtune runs what one would write by hand for this one network: a scan over the
vmapped training step, with the order of the data drawn on the device for each lane.
Both do the same work on the same data, in turns; of each the best run counts.

    python experiments/benchmarks/lanes.py --units 128 --lanes 2 4 8 16 --lanes-by vmap
"""

import argparse
import json
import time
from collections.abc import Callable, Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax

import vtune as vt


PIXELS = 784
CLASSES = 10
LEARNING_RATES = (1e-4, 1e-2)


class Classifier(nn.Module):
    """The network of both sides: one hidden layer."""

    units: int

    @nn.compact
    def __call__(self, x):
        return nn.Dense(CLASSES)(nn.relu(nn.Dense(self.units)(x)))


def vtune_seconds(
    flags: argparse.Namespace, lanes: int, x: np.ndarray, y: np.ndarray
) -> float:
    """The seconds that the epochs of a search with `lanes` trials take."""

    def build(hp: vt.HyperParameters) -> vt.Model:
        rate = hp.Float("learning_rate", *LEARNING_RATES, sampling="log")
        return vt.Model(
            Classifier(flags.units),
            optimizer=optax.adam(rate),
            loss="sparse_categorical_crossentropy",
        )

    tuner = vt.RandomSearch(
        build,
        objective="loss",
        max_trials=lanes,
        max_epochs=flags.epochs,
        lanes=flags.lanes_by,
        seed=0,
    )
    tuner.search(x, y, batch_size=flags.batch, verbose=0)
    return tuner.statistics.training_seconds


def by_hand(
    flags: argparse.Namespace, lanes: int, x: np.ndarray, y: np.ndarray
) -> Callable[[], float]:
    """The same by hand: compiles, and returns what runs the epochs and times them."""
    model = Classifier(flags.units)
    steps = len(x) // flags.batch
    images, labels = jnp.asarray(x), jnp.asarray(y)

    def lane_init(key: Any) -> Any:
        parameters = model.init(key, images[:1])
        return parameters, optax.adam(0.0).init(parameters)

    def lane_step(state: Any, rate: Any, batch: Any) -> Any:
        parameters, optimizer_state = state

        def loss(parameters: Any) -> Any:
            logits: Any = model.apply(parameters, images[batch])
            losses = optax.softmax_cross_entropy_with_integer_labels
            return losses(logits, labels[batch]).mean()

        value, gradients = jax.value_and_grad(loss)(parameters)
        updates, optimizer_state = optax.adam(rate).update(
            gradients, optimizer_state, parameters
        )
        return (optax.apply_updates(parameters, updates), optimizer_state), value

    def over_lanes(function: Callable[..., Any]) -> Callable[..., Any]:
        if flags.lanes_by == "vmap":
            return jax.vmap(function)
        return lambda *arguments: jax.lax.map(lambda a: function(*a), arguments)

    def lane_order(key: Any, epoch: Any) -> Any:
        order = jax.random.permutation(jax.random.fold_in(key, epoch), len(x))
        return order[: steps * flags.batch].reshape(steps, flags.batch)

    def lane_epoch(state: Any, rate: Any, key: Any, epoch: Any) -> Any:
        return jax.lax.scan(
            lambda state, batch: lane_step(state, rate, batch),
            state,
            lane_order(key, epoch),
        )

    def epoch(states: Any, rates: Any, keys: Any, number: Any) -> Any:
        numbers = jnp.full(lanes, number)
        if flags.lanes_by == "map":
            states, losses = over_lanes(lane_epoch)(states, rates, keys, numbers)
            return states, losses.mean(1)
        order = jnp.swapaxes(jax.vmap(lane_order)(keys, numbers), 0, 1)
        states, losses = jax.lax.scan(
            lambda states, batch: over_lanes(lane_step)(states, rates, batch),
            states,
            order,
        )
        return states, losses.mean(0)

    keys = jax.random.split(jax.random.key(0), lanes)
    rates = jnp.geomspace(*LEARNING_RATES, lanes)
    init = jax.jit(jax.vmap(lane_init))
    compiled = (
        jax.jit(epoch, donate_argnums=0)
        .lower(jax.eval_shape(init, keys), rates, keys, 0)
        .compile()
    )

    def run() -> float:
        states = jax.block_until_ready(init(keys))
        started = time.perf_counter()
        for number in range(flags.epochs):
            states, losses = compiled(states, rates, keys, number)
            jax.device_get(losses)
        return time.perf_counter() - started

    return run


def measure(flags: argparse.Namespace, lanes: int) -> dict[str, float]:
    """Runs both sides in turns; trial-steps a second of the best run of each."""
    generator = np.random.default_rng(0)
    x = generator.random((flags.images, PIXELS), dtype=np.float32)
    y = generator.integers(0, CLASSES, flags.images, dtype=np.int32)
    run_by_hand = by_hand(flags, lanes, x, y)
    seconds = [
        (vtune_seconds(flags, lanes, x, y), run_by_hand()) for _ in range(flags.repeats)
    ]
    steps = lanes * flags.epochs * (flags.images // flags.batch)
    ours, theirs = (steps / min(each) for each in zip(*seconds, strict=True))
    return {"lanes": lanes, "vtune": ours, "by_hand": theirs, "ratio": ours / theirs}


def main(arguments: Sequence[str] | None = None) -> None:
    """Prints a table, and the same as one line of JSON."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--units", type=int, default=128)
    parser.add_argument("--lanes", type=int, nargs="+", default=[2, 4, 8, 16])
    parser.add_argument("--lanes-by", choices=("vmap", "map"), default="vmap")
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--images", type=int, default=12_800)
    parser.add_argument("--epochs", type=int, default=3)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--smoke", action="store_true", help="a few seconds, to try it")
    flags = parser.parse_args(arguments)
    if flags.smoke:
        flags.lanes, flags.images, flags.repeats = [2], 256, 1

    print(
        f"MLP {PIXELS}-{flags.units}-{CLASSES}, Adam, batch {flags.batch}, lanes by "
        f"{flags.lanes_by}, on {jax.devices()[0].device_kind}: trial-steps a second"
    )
    print(f"{'lanes':>6} {'vtune':>12} {'by hand':>12} {'ratio':>6}")
    rows = []
    for lanes in flags.lanes:
        row = measure(flags, lanes)
        rows.append(row)
        print(
            f"{lanes:>6} {row['vtune']:>12,.0f} {row['by_hand']:>12,.0f} "
            f"{row['ratio']:>6.2f}",
            flush=True,
        )
    smallest = min(row["ratio"] for row in rows)
    print(json.dumps({**vars(flags), "rows": rows, "smallest_ratio": smallest}))


if __name__ == "__main__":
    main()
