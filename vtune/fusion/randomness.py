"""A lane's own draws inside a wider program.

Under partitionable threefry, entry i of an array of random bits is a hash of the key
and of the number i alone, counted row by row. Inside a wider array the numbers that the
lane alone would count are computed from its own sizes, and hashed: its entries are the
bits that it would draw alone, wherever they lie and whoever else is in the program.
"""

import math
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax.extend.random import threefry2x32_p
from jaxtyping import Array, Int, UInt

from vtune.fusion import internals
from vtune.fusion.flat import Equation
from vtune.fusion.layout import Layout
from vtune.fusion.placement import axis_index, live_box, narrow_index, narrow_size
from vtune.fusion.refusal import Refusal


_THREEFRY = "threefry2x32"

# A number of 64 bits, as JAX may not have them: its upper and its lower half. An upper
# half that is known to be zero is the Python number.
_Words = tuple[Any, Any]


def narrow_bits(
    key: Any,
    bit_width: int,
    layouts: Sequence[Layout],
    lane_sizes: Int[Array, " sizes"],
) -> UInt[Array, "..."]:
    """The random bits that a lane alone would draw, where its entries lie.

    Args:
        key: a typed threefry key, or an array of them, each of which draws an array.
        bit_width: 8, 16, 32 or 64.
        layouts: the layout of each axis of one key's draw.
        lane_sizes: the lane's sizes.

    Returns:
        Unsigned integers, the shape of the keys followed by the wide shape: the live
        entries are bit for bit those of `jax.random.bits(key, narrow_shape)`, all
        others 0.

    Raises:
        Refusal: for another generator, or without `jax_threefry_partitionable`.
    """
    require_counters(jax.typeof(key))
    upper, lower = _hashes(key, layouts, lane_sizes)
    dtype = jnp.dtype(f"uint{bit_width}")
    if bit_width == 64:
        bits = (upper.astype(dtype) << jnp.array(32, dtype)) | lower.astype(dtype)
    else:
        bits = (upper ^ lower).astype(dtype)
    box = live_box(layouts, lane_sizes, _wide_shape(layouts))
    return bits if box is None else jnp.where(box, bits, jnp.array(0, dtype))


def narrow_split(
    key: Any, layouts: Sequence[Layout], lane_sizes: Int[Array, " sizes"]
) -> Any:
    """The keys that a lane alone would get by splitting a key.

    Args:
        key: a typed threefry key, or an array of them, each of which is split.
        layouts: the layout of each axis of one key's split.
        lane_sizes: the lane's sizes.

    Returns:
        Typed keys, the shape of `key` followed by the wide shape: the live ones are
        those of `jax.random.split(key, narrow_shape)`, all others some keys.

    Raises:
        Refusal: for another generator, or without `jax_threefry_partitionable`.
    """
    require_counters(jax.typeof(key))
    data = jnp.stack(_hashes(key, layouts, lane_sizes), axis=-1)
    return jax.random.wrap_key_data(data, impl=_THREEFRY)


def require_counters(key: Any, equation: Equation | None = None) -> None:
    """Refuses draws of which an entry is not a function of its number alone.

    Args:
        key: the abstract value of a key, or of an array of them.
        equation: what draws, if it is known; the settings that it was traced under
            count, otherwise those of now.

    Raises:
        Refusal: for another generator, or without `jax_threefry_partitionable`.
    """
    implementation = internals.key_implementation(key)
    if implementation != _THREEFRY:
        raise Refusal(
            f"draws with the generator {implementation!r} are others in a wider "
            f"program; those with {_THREEFRY!r}, JAX's default, are not",
            equation,
        )
    if not internals.threefry_is_partitionable(equation):
        raise Refusal(
            "draws without `jax_threefry_partitionable`, which is on by default, are "
            "others in a wider program",
            equation,
        )


def _wide_shape(layouts: Sequence[Layout]) -> tuple[int, ...]:
    return tuple(layout.wide for layout in layouts)


def _hashes(
    key: Any, layouts: Sequence[Layout], lane_sizes: Any
) -> tuple[UInt[Array, "..."], UInt[Array, "..."]]:
    """Both words of the hash of each entry's number."""
    shape = _wide_shape(layouts)
    words = jax.random.key_data(key)
    words = jnp.expand_dims(words, tuple(range(key.ndim, key.ndim + len(shape))))
    indices = [axis_index(axis, shape) for axis in range(len(shape))]
    counters = _counters(layouts, lane_sizes, indices)
    operands = (words[..., 0], words[..., 1], *counters)
    whole = (*key.shape, *shape)
    upper, lower = threefry2x32_p.bind(*[jnp.broadcast_to(x, whole) for x in operands])
    return upper, lower


def _counters(
    layouts: Sequence[Layout], lane_sizes: Any, indices: Sequence[Array]
) -> tuple[UInt[Array, "..."], UInt[Array, "..."]]:
    """The number of an entry in the lane's own array, row by row.

    Args:
        layouts: the layout of each axis.
        lane_sizes: the lane's sizes.
        indices: for each axis the entry's place in the wide axis.

    Returns:
        The upper and the lower word.
    """
    # All numbers fit into one word if those of the envelope do.
    small = math.prod(_wide_shape(layouts)) <= 2**32
    times = _times_small if small else _times
    total: _Words = (0, jnp.uint32(0))
    stride: _Words = (0, jnp.uint32(1))
    for layout, index in reversed(list(zip(layouts, indices))):
        number = narrow_index(layout, lane_sizes, index).astype(jnp.uint32)
        total = _plus(total, times(stride, number), small)
        size = jnp.asarray(narrow_size(layout, lane_sizes)).astype(jnp.uint32)
        stride = times(stride, size)
    upper, lower = total
    # Both words vary over lanes if one does: threefry's loop carries them together.
    return jnp.asarray(upper, jnp.uint32) + (lower & jnp.uint32(0)), lower


def _plus(first: _Words, second: _Words, small: bool) -> _Words:
    lower = first[1] + second[1]
    if small:
        return 0, lower
    carry = (lower < first[1]).astype(jnp.uint32)
    return first[0] + second[0] + carry, lower


def _times_small(number: _Words, factor: Array) -> _Words:
    return 0, number[1] * factor


def _times(number: _Words, factor: Array) -> _Words:
    """The product with a number of 32 bits, from products of 16 bits."""
    mask, half = jnp.uint32(0xFFFF), jnp.uint32(16)
    upper, lower = number
    low, high = lower & mask, lower >> half
    factor_low, factor_high = factor & mask, factor >> half
    bottom, top = low * factor_low, high * factor_high
    left, right = low * factor_high, high * factor_low
    middle = (bottom >> half) + (left & mask) + (right & mask)
    carried = top + (left >> half) + (right >> half) + (middle >> half)
    return upper * factor + carried, (bottom & mask) | (middle << half)
