"""How close does vtune come to what the device can do?

A training step of a lane has to move some bytes and to carry out some operations. What
the device moves in a second is measured with an array too large for any cache, and what
it multiplies with a large matrix product; neither is exceeded for long by a network
that fills the memory. The states of a few lanes may fit into the caches of a CPU: the
ratio can be more than 1 there.

    python experiments/benchmarks/limit.py --lanes 2 4 8 16
"""

import argparse
import json
import time
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp

from experiments.benchmarks.networks import CLASSES, MLP, Network
from experiments.benchmarks.sides import by_vtune, race
from vtune.training.device import device_rule


PIXELS = 784
BYTES = 4
# Of each parameter a step writes and reads the gradient, and reads and writes the
# parameter itself and both moments of Adam.
PASSES = 8
CALLS = 5


def best_seconds(run: Callable[[Any], Any], value: Any, repeats: int) -> float:
    """The seconds that one call takes, of several; each gets what the last returned.

    Args:
        run: what is called.
        value: what it gets first.
        repeats: how often the calls are timed.
    """
    value = jax.block_until_ready(run(value))
    seconds = []
    for _ in range(repeats):
        started = time.perf_counter()
        for _ in range(CALLS):
            value = run(value)
        jax.block_until_ready(value)
        seconds.append((time.perf_counter() - started) / CALLS)
    return min(seconds)


def bandwidth(mebibytes: int, repeats: int) -> float:
    """The bytes that the device reads and writes in a second, in place.

    Args:
        mebibytes: the size of the array.
        repeats: the best of how many.
    """
    entries = mebibytes * 2**20 // BYTES
    run = jax.jit(lambda array: array + 1, donate_argnums=0)
    seconds = best_seconds(run, jnp.zeros(entries), repeats)
    return 2 * BYTES * entries / seconds


def matrix_rate(size: int, repeats: int) -> float:
    """The operations of a matrix product that the device carries out in a second.

    Args:
        size: rows and columns of the matrices; the precision is JAX's own.
        repeats: the best of how many.
    """
    matrix = jnp.full((size, size), 1 / size)
    run = jax.jit(lambda product: product @ matrix)
    return 2 * size**3 / best_seconds(run, matrix, repeats)


def step_bytes(units: int) -> int:
    """The bytes that a step of one lane moves at least, activations left out.

    Args:
        units: of the hidden layer.
    """
    parameters = (PIXELS + 1) * units + (units + 1) * CLASSES
    return PASSES * BYTES * parameters


def step_operations(units: int, batch: int) -> int:
    """The operations of the matrix products in a step of one lane.

    Args:
        units: of the hidden layer.
        batch: samples in a step.
    """
    # The first layer has no gradient towards its input.
    products = 2 * PIXELS * units + 3 * units * CLASSES
    return 2 * batch * products


def limits(flags: argparse.Namespace) -> dict[str, float]:
    """The trial-steps a second that the device allows, measured and printed.

    Args:
        flags: the sizes.

    Returns:
        What was measured, what a step needs, and the smaller of the two limits.
    """
    moved = bandwidth(flags.mebibytes, flags.turns)
    multiplied = matrix_rate(flags.size, flags.turns)
    needed = step_bytes(flags.units), step_operations(flags.units, flags.batch)
    by_bytes, by_operations = moved / needed[0], multiplied / needed[1]
    print(
        f"{jax.devices()[0].device_kind} moves {moved / 1e9:,.1f} GB and multiplies "
        f"{multiplied / 1e9:,.0f} GFLOP a second.\n"
        f"A step of the MLP {PIXELS}-{flags.units}-{CLASSES} with batch {flags.batch} "
        f"moves {needed[0] / 1e6:.2f} MB and multiplies {needed[1] / 1e6:.1f} MFLOP:\n"
        f"at most {by_bytes:,.0f} trial-steps a second by its bytes, "
        f"{by_operations:,.0f} by its operations."
    )
    return {
        "bytes_per_second": moved,
        "operations_per_second": multiplied,
        "limit_by_bytes": by_bytes,
        "limit_by_operations": by_operations,
        "limit": min(by_bytes, by_operations),
    }


def main(arguments: Sequence[str] | None = None) -> None:
    """Prints a table, and the same as one line of JSON."""
    on_cpu = jax.default_backend() == "cpu"
    most = device_rule(jax.default_backend()).most
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--units", type=int, default=512)
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument(
        "--lanes",
        type=int,
        nargs="+",
        default=[lanes for lanes in (1, 2, 4, 8, 16, 32, 64, 128) if lanes <= most],
    )
    parser.add_argument("--lanes-by", choices=("auto", "vmap", "map"), default="auto")
    parser.add_argument("--steps", type=int, default=100 if on_cpu else 400)
    parser.add_argument("--turns", type=int, default=5)
    parser.add_argument("--mebibytes", type=int, default=512 if on_cpu else 4096)
    parser.add_argument("--size", type=int, default=2048 if on_cpu else 8192)
    parser.add_argument("--smoke", action="store_true", help="a few seconds, to try it")
    flags = parser.parse_args(arguments)
    if flags.smoke:
        flags.lanes, flags.steps, flags.turns = [2], 4, 1
        flags.mebibytes, flags.size = 16, 128

    found = limits(flags)
    print(f"{'lanes':>6} {'trial-steps/s':>14} {'of the limit':>13}")
    network = Network(MLP(flags.units), (PIXELS,), flags.steps)
    rows = []
    for lanes in flags.lanes:
        work = network.work(lanes, flags.batch)
        result = race({"vtune": by_vtune(work, lanes=flags.lanes_by)}, flags.turns)
        rate = lanes * work.steps / result["vtune"].seconds
        rows.append({"lanes": lanes, "rate": rate, "ratio": rate / found["limit"]})
        print(f"{lanes:>6} {rate:>14,.0f} {rows[-1]['ratio']:>13.0%}", flush=True)
    print(json.dumps({**vars(flags), **found, "rows": rows}))


if __name__ == "__main__":
    main()
