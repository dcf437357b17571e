"""A trial's state before its first step."""

from collections.abc import Sequence
from typing import Any

import jax
from jaxtyping import Array, UInt32

from vtune.fusion.evaluate import evaluate
from vtune.fusion.evaluate_wide import evaluate_wide
from vtune.fusion.flat import FlatFunction
from vtune.fusion.widening import Widening
from vtune.training.epoch import Sizes
from vtune.training.leaves import State, plain


def wide_init(
    widening: Widening,
    constants: tuple[Array, ...],
    sizes: Sizes,
    key: UInt32[Array, " data"],
    batch: Any,
) -> State:
    """A trial's state before its first step, in the envelope.

    Args:
        widening: the cohort's functions, with an initialization.
        constants: the trial's values of the lifted constants of `init`.
        sizes: the trial's own sizes.
        key: the trial's key for its initial state, as data.
        batch: the first training batch, in the order of the data.

    Returns:
        The leaves of the state; random keys as their data.
    """
    inputs = (jax.random.wrap_key_data(key), *jax.tree.leaves(batch))
    leaves = evaluate_wide(widening.functions.init, constants, sizes, *inputs)
    return plain(leaves, widening.envelope.state_avals)


def own_init(
    function: FlatFunction,
    slots: tuple[int, ...],
    avals: Sequence[Any],
    constants: tuple[Array, ...],
    key: UInt32[Array, " data"],
    batch: Any,
) -> State:
    """A trial's state before its first step, by its own initialization.

    Args:
        function: the initialization.
        slots: which of its constants are handed in.
        avals: what the leaves of the state are.
        constants: the values of those constants.
        key: the trial's key for its initial state, as data.
        batch: the first training batch, in the order of the data.

    Returns:
        The leaves of the state; random keys as their data.
    """
    inputs = (jax.random.wrap_key_data(key), *jax.tree.leaves(batch))
    return plain(evaluate(function, slots, constants, *inputs), avals)
