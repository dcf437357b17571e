"""Arrays as values: what they hold, to the byte."""

import hashlib
from collections.abc import Hashable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer


# From this size on an array's bytes are represented by their SHA-256.
_DIGEST_FROM = 256


def array_identity(value: Any) -> Hashable:
    """An array's shape, dtype and bytes; for random keys their implementation and bits.

    Args:
        value: a NumPy or JAX array, a scalar, or an array of typed random keys.

    Returns:
        A value that is equal for equal bytes only.
    """
    if is_key(value):
        data = np.asarray(jax.random.key_data(value))
        return (value.dtype, value.shape, _bytes(data))
    array = np.asarray(value)
    return (array.dtype, array.shape, _bytes(array))


def is_array(value: Any) -> bool:
    """Whether a value is an array whose elements are known."""
    return isinstance(value, (np.ndarray, jax.Array)) and not isinstance(value, Tracer)


def is_key(value: Any) -> bool:
    """Whether a value (or an abstract one) is an array of typed random keys."""
    dtype = getattr(value, "dtype", None)
    return dtype is not None and jnp.issubdtype(dtype, jax.dtypes.prng_key)


def summing(dtype: Any) -> Any:
    """In which dtype many entries are added up, so that none gets lost by rounding."""
    if jnp.issubdtype(dtype, jnp.floating):
        return jnp.promote_types(dtype, jnp.float32)
    return dtype


def _bytes(array: np.ndarray) -> bytes:
    raw = array.tobytes()
    return raw if len(raw) < _DIGEST_FROM else hashlib.sha256(raw).digest()
