"""The random keys of a lane: a pure function of the seed, the trial and the step."""

from typing import Any, NamedTuple

import jax
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


def epoch_order(
    order: Key[Array, ""], epoch: Int[Array, ""], samples: int
) -> Int[Array, " samples"]:
    """The order of the samples in an epoch.

    `permutation(fold_in(order, epoch), samples)`

    Args:
        order: the lane's key for its data order.
        epoch: the epoch, counted from 0.
        samples: the number of training samples.

    Returns:
        Each sample's index once.
    """
    return jax.random.permutation(jax.random.fold_in(order, epoch), samples)


def step_key(step: Key[Array, ""], index: Int[Array, ""]) -> Key[Array, ""]:
    """The key of one training step: `fold_in(step, index)`.

    Args:
        step: the lane's key for its steps.
        index: the step, counted from 0 over all epochs.

    Returns:
        The key that `train_step` gets.
    """
    return jax.random.fold_in(step, index)
