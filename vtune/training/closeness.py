"""How far arrays are from what they ought to be."""

from typing import Any

import jax
import jax.numpy as jnp


# A rounding error of single precision.
_NOISE = 1e-7


def noisy(array: Any, index: int) -> Any:
    """An array with a rounding error in each entry; integers stay as they are.

    Args:
        array: any array.
        index: decides the signs of the errors.
    """
    if not jnp.issubdtype(array.dtype, jnp.floating):
        return array
    signs = jax.random.rademacher(jax.random.key(index), array.shape, jnp.float32)
    return (array * (1 + _NOISE * signs)).astype(array.dtype)


def relative(found: Any, expected: Any, least: float) -> Any:
    """How far a number is from what it ought to be.

    Args:
        found: the number.
        expected: what it ought to be.
        least: what the difference is at least relative to.
    """
    expected = jnp.asarray(expected, jnp.float32)
    scale = jnp.maximum(jnp.abs(expected), least)
    return worst(jnp.asarray(found, jnp.float32), expected, scale)


def worst(found: Any, expected: Any, scale: Any) -> Any:
    """The largest difference; NaN equals NaN, and nothing else.

    Args:
        found: an array.
        expected: what it ought to be.
        scale: what differences are relative to.
    """
    found, expected = found.astype(jnp.float32), expected.astype(jnp.float32)
    same = (found == expected) | (jnp.isnan(found) & jnp.isnan(expected))
    error = jnp.where(same, 0.0, jnp.abs(found - expected) / scale)
    error = jnp.where(jnp.isnan(error), jnp.inf, error)
    return error.max(initial=0.0).astype(jnp.float32)


def differs(found: Any, expected: Any) -> Any:
    """1.0 if two arrays of any dtype differ in an entry, else 0.0.

    Args:
        found: an array, also of random keys.
        expected: what it ought to be.
    """
    if jnp.issubdtype(expected.dtype, jax.dtypes.prng_key):
        found, expected = jax.random.key_data(found), jax.random.key_data(expected)
    return jnp.float32((found != expected).any())
