"""The random keys of a lane: a pure function of the seed, the trial and the step."""

import math
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Int, Key, UInt32


class LaneKeys(NamedTuple):
    """The three keys of a lane, as data: for its initial state, data order, steps."""

    init: Any
    order: Any
    step: Any


def lane_keys(seed: UInt32[Array, ""], number: Int[Array, ""]) -> LaneKeys:
    """The keys of trial `number` in a study with `seed`.

    `init, order, step = split(fold_in(key(seed), number), 3)`

    Args:
        seed: the study's seed.
        number: the trial's number.

    Returns:
        The keys' data; they depend on nothing else.
    """
    lane = jax.random.fold_in(jax.random.key(seed), number)
    return LaneKeys(*jax.random.key_data(jax.random.split(lane, 3)))


def order_bits(
    order: Key[Array, ""], epoch: Int[Array, ""], samples: int
) -> UInt32[Array, "rounds samples"]:
    """What an epoch's order is sorted by: random numbers for each sample.

    Two samples may draw the same number; so many rounds make that harmless that it
    happens in all of them once in `samples` epochs.

    Args:
        order: the lane's key for its data order.
        epoch: the epoch, counted from 0.
        samples: the number of training samples.

    Returns:
        For each of ⌈3 ln(samples) / ln(2³² - 1)⌉ rounds, at least one, the samples'
        numbers.
    """
    rounds = math.ceil(3 * math.log(samples) / math.log(2**32 - 1))
    key = jax.random.fold_in(order, epoch)
    bits = []
    for _ in range(max(1, rounds)):
        key, own = jax.random.split(key)
        bits.append(jax.random.bits(own, (samples,), jnp.uint32))
    return jnp.stack(bits)


def epoch_order(
    order: Key[Array, ""], epoch: Int[Array, ""], samples: int
) -> Int[Array, " samples"]:
    """The order of the samples in an epoch.

    The samples are sorted by the `order_bits` of each round, which gives what
    `jax.random.permutation(fold_in(order, epoch), samples)` does.

    Args:
        order: the lane's key for its data order.
        epoch: the epoch, counted from 0.
        samples: the number of training samples.

    Returns:
        Each sample's index once.
    """
    found = jnp.arange(samples, dtype=jnp.int32)
    for bits in order_bits(order, epoch, samples):
        _, found = jax.lax.sort_key_val(bits, found)
    return found


def step_key(step: Key[Array, ""], index: Int[Array, ""]) -> Key[Array, ""]:
    """The key of one training step: `fold_in(step, index)`.

    Args:
        step: the lane's key for its steps.
        index: the step, counted from 0 over all epochs.

    Returns:
        The key that `train_step` gets.
    """
    return jax.random.fold_in(step, index)
