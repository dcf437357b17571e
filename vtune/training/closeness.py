"""How far arrays in the host's memory are from what they ought to be."""

from typing import Any

import jax.numpy as jnp
import numpy as np


def is_float(array: Any) -> bool:
    """Whether an array holds floating-point numbers, of 8 bits or of 64."""
    return bool(jnp.issubdtype(array.dtype, jnp.floating))


def noisy(array: np.ndarray, index: int, rounding: float) -> np.ndarray:
    """An array with a rounding error in each entry; integers stay as they are.

    Args:
        array: any array.
        index: decides the signs of the errors.
        rounding: the size of the errors, relative to the entries.
    """
    if not is_float(array):
        return array
    positive = np.random.default_rng(index).random(array.shape, np.float32) < 0.5
    factors = np.where(positive, np.float32(1 + rounding), np.float32(1 - rounding))
    return (array * factors).astype(array.dtype)


def largest(array: np.ndarray) -> float:
    """The largest finite absolute value; 0.0 if there is none."""
    sizes = np.abs(array.astype(np.float32))
    return float(sizes.max(initial=0.0, where=np.isfinite(sizes)))


def relative(found: Any, expected: Any, least: float) -> float:
    """How far a number is from what it ought to be.

    Args:
        found: the number.
        expected: what it ought to be.
        least: what the difference is at least relative to.
    """
    expected = np.asarray(expected, np.float32)
    scale = max(float(np.abs(expected)), least)
    return worst(np.asarray(found, np.float32), expected, scale)


def worst(found: np.ndarray, expected: np.ndarray, scale: float) -> float:
    """The largest difference; NaN equals NaN, and nothing else.

    Args:
        found: an array.
        expected: what it ought to be.
        scale: what differences are relative to.
    """
    found, expected = found.astype(np.float32), expected.astype(np.float32)
    same = (found == expected) | (np.isnan(found) & np.isnan(expected))
    with np.errstate(all="ignore"):
        error = np.where(same, 0.0, np.abs(found - expected) / np.float32(scale))
    return float(np.where(np.isnan(error), np.inf, error).max(initial=0.0))


def differs(found: np.ndarray, expected: np.ndarray) -> float:
    """1.0 if two arrays differ in an entry, else 0.0.

    Args:
        found: an array, of integers or truth values.
        expected: what it ought to be.
    """
    return float((found != expected).any())
