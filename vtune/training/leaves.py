"""The leaves of a trial's state, inside a program and outside."""

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array


State = tuple[Array, ...]


def strong(leaves: Sequence[Any], avals: Sequence[Any]) -> list[Any]:
    """The leaves in the state's own dtypes, so that a loop can carry them.

    Args:
        leaves: what a step made of them.
        avals: what the leaves are.
    """
    return [
        leaf if _is_key(aval) else jax.lax.convert_element_type(leaf, aval.dtype)
        for leaf, aval in zip(leaves, avals)
    ]


def plain(leaves: Sequence[Any], avals: Sequence[Any]) -> State:
    """The leaves as arrays of numbers: keys become their data.

    Args:
        leaves: the leaves.
        avals: what they are.
    """
    return tuple(
        jax.random.key_data(leaf)
        if _is_key(aval)
        else jax.lax.convert_element_type(leaf, aval.dtype)
        for leaf, aval in zip(leaves, avals)
    )


def typed(leaves: Sequence[Any], avals: Sequence[Any]) -> list[Any]:
    """The inverse of `plain`.

    Args:
        leaves: arrays of numbers.
        avals: what the leaves are.
    """
    return [
        jax.random.wrap_key_data(leaf, impl=_implementation(aval))
        if _is_key(aval)
        else leaf
        for leaf, aval in zip(leaves, avals)
    ]


def _implementation(aval: Any) -> Any:
    found = []
    jax.eval_shape(lambda key: found.append(jax.random.key_impl(key)), aval)
    return found[0]


def _is_key(aval: Any) -> bool:
    return jnp.issubdtype(aval.dtype, jax.dtypes.prng_key)
