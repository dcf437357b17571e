"""Pooling and its gradient as slices, reshapes and selections."""

import functools
import itertools
import math
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from vtune.fusion.arrays import summing
from vtune.fusion.rewrites.sliding import Slide, bordered, entries
from vtune.fusion.rules.rule import highest, lowest


Slides = Mapping[int, Slide]


def slides(params: Mapping[str, Any], shape: tuple[int, ...]) -> Slides:
    """How the window of an equation slides along the axes of an array.

    Args:
        params: the equation's parameters.
        shape: the array's shape.

    Returns:
        By axis, those where a window is more than an entry.
    """
    ones = (1,) * len(shape)
    every = zip(
        shape,
        params["window_dimensions"],
        params["window_strides"],
        *zip(*params["padding"]),
        params.get("base_dilation") or ones,
        params.get("window_dilation") or ones,
        strict=True,
    )
    found = enumerate(itertools.starmap(Slide, every))
    return {axis: slide for axis, slide in found if not slide.is_trivial}


def pooled_maximum(params: Mapping[str, Any], operand: jax.Array) -> jax.Array:
    """The greatest entry of each window.

    Args:
        params: the parameters of an equation `reduce_window_max`.
        operand: its operand.

    Returns:
        What the equation computes.
    """
    fill = lowest(operand.dtype)
    return _reduced(jax.lax.max, slides(params, operand.shape), operand, fill)


def pooled_minimum(params: Mapping[str, Any], operand: jax.Array) -> jax.Array:
    """The least entry of each window.

    Args:
        params: the parameters of an equation `reduce_window_min`.
        operand: its operand.

    Returns:
        What the equation computes.
    """
    fill = highest(operand.dtype)
    return _reduced(jax.lax.min, slides(params, operand.shape), operand, fill)


def pooled_sum(params: Mapping[str, Any], operand: jax.Array) -> jax.Array:
    """The sum of each window.

    Args:
        params: the parameters of an equation `reduce_window_sum`.
        operand: its operand.

    Returns:
        What the equation computes, up to rounding.
    """
    total = operand.astype(summing(operand.dtype))
    for axis, slide in slides(params, operand.shape).items():
        total = _summed_along(total, axis, slide)
    return total.astype(operand.dtype)


def _summed_along(array: jax.Array, axis: int, slide: Slide) -> jax.Array:
    along = {axis: slide}
    if slide.spread == 1 and (slide.places == 1 or slide.stride == slide.window):
        whole = bordered(array, along, 0)
        shape = list(whole.shape)
        shape[axis : axis + 1] = [slide.places, slide.window]
        return whole.reshape(shape).sum(axis + 1)
    return _reduced(jax.lax.add, along, array, 0)


def _reduced(
    reduce: Callable[[Any, Any], Any], along: Slides, array: jax.Array, fill: Any
) -> jax.Array:
    whole = bordered(array, along, fill)
    parts = [entries(whole, along, at) for at in _positions(along)]
    return functools.reduce(reduce, parts)


def spread_to_extreme(
    params: Mapping[str, Any], source: jax.Array, operand: jax.Array
) -> jax.Array:
    """The gradient of pooling: each window's goes to the first of its extreme entries.

    Args:
        params: the parameters of an equation `select_and_scatter_add`.
        source: its first operand, an entry for each window.
        operand: its second operand, what was pooled.

    Returns:
        What the equation computes, up to rounding where windows overlap.
    """
    along = slides(params, operand.shape)
    zero = jnp.zeros((), source.dtype)
    first = _first_extreme(params, along, operand)
    count = math.prod([slide.window for slide in along.values()])
    parts = [jnp.where(first == number, source, zero) for number in range(count)]
    if _are_tilings(along):
        return _filled_up(_side_by_side(along, parts), operand.shape)
    return _overlaid(along, parts, operand.shape)


def drawn_from_windows(
    params: Mapping[str, Any], source: jax.Array, operand: jax.Array
) -> jax.Array:
    """The gradient of pooling where no entry lies in two windows, as one loop.

    Each entry finds out by itself which one of its window is chosen: that is computed
    as often as the window has entries, but nothing is written except the result.

    Args:
        params: the parameters of an equation `select_and_scatter_add`.
        source: its first operand, an entry for each window.
        operand: its second operand, what was pooled.

    Returns:
        What the equation computes.
    """
    along = slides(params, operand.shape)
    windows = [along[n].window if n in along else 1 for n in range(operand.ndim)]
    shape = [n for pair in zip(source.shape, windows, strict=True) for n in pair]
    numbers = np.arange(math.prod(windows), dtype=np.int32)
    numbers = numbers.reshape([n for window in windows for n in (1, window)])

    def repeated(array: jax.Array) -> jax.Array:
        return jax.lax.broadcast_in_dim(array, shape, range(0, len(shape), 2))

    first = _first_extreme(params, along, operand)
    result = jnp.where(
        repeated(first) == numbers, repeated(source), jnp.zeros((), source.dtype)
    )
    tiled = [n * window for n, window in zip(source.shape, windows, strict=True)]
    return _filled_up(result.reshape(tiled), operand.shape)


def can_be_drawn(params: Mapping[str, Any], shape: tuple[int, ...]) -> bool:
    """Whether `drawn_from_windows` computes it, and fast on a CPU.

    That takes windows of few entries, of which none lies in two, and a last axis that
    is a loop over whole vectors. Beside what is written first and read again, it was
    1.2 to 1.7 times as fast for 16 to 128 channels, and slower for 8, 12 and 20.

    Args:
        params: the parameters of an equation `select_and_scatter_add`.
        shape: the shape of what was pooled.
    """
    along, channels = slides(params, shape), shape[-1]
    few = math.prod([slide.window for slide in along.values()]) <= 4
    inner = len(shape) - 1 not in along and channels >= 16 and channels % 8 == 0
    return few and inner and _are_tilings(along)


def _are_tilings(along: Slides) -> bool:
    return all(slide.is_tiling for slide in along.values())


def _filled_up(array: jax.Array, shape: tuple[int, ...]) -> jax.Array:
    """With zeros where there are entries beyond the last window."""
    rest = [(0, n - m, 0) for n, m in zip(shape, array.shape, strict=True)]
    return jax.lax.pad(array, jnp.zeros((), array.dtype), rest)


def _side_by_side(along: Slides, parts: list[jax.Array]) -> jax.Array:
    """What goes to each entry of the window, where no entry lies in two windows."""
    shape = list(parts[0].shape)
    for axis, slide in reversed(list(along.items())):
        shape[axis] *= slide.window
        parts = [
            jnp.stack(parts[first : first + slide.window], axis + 1)
            for first in range(0, len(parts), slide.window)
        ]
    return parts[0].reshape(shape)


def _overlaid(
    along: Slides, parts: list[jax.Array], shape: tuple[int, ...]
) -> jax.Array:
    """The sum of what goes to each entry of the window, each in its places."""
    dtype = parts[0].dtype
    total = jnp.zeros(shape, summing(dtype))
    for part, at in zip(parts, _positions(along), strict=True):
        borders = [(0, 0, 0)] * len(shape)
        for axis, slide in along.items():
            low = at[axis] - slide.low
            reached = (slide.places - 1) * slide.stride + 1
            borders[axis] = (low, slide.size - reached - low, slide.stride - 1)
        zero = jnp.zeros((), total.dtype)
        total = total + jax.lax.pad(part.astype(total.dtype), zero, borders)
    return total.astype(dtype)


def _first_extreme(
    params: Mapping[str, Any], along: Slides, operand: jax.Array
) -> jax.Array:
    """The number of the first extreme entry of each window.

    The entries are compared in XLA's order and by its rule, in which a comparison with
    NaN moves on. A border can be chosen like any entry, as it can on CPU and GPU, where
    JAX has it so; that matters where a window holds nothing but infinity or NaN.
    """
    largest = params["select_prim"].name == "ge"
    fill = lowest(operand.dtype) if largest else highest(operand.dtype)
    stays = jax.lax.ge if largest else jax.lax.le
    whole = bordered(operand, along, fill)
    best, *others = [entries(whole, along, at) for at in _positions(along)]
    first = jnp.zeros(best.shape, jnp.int32)
    for number, entry in enumerate(others, 1):
        stay = stays(best, entry)
        best = jnp.where(stay, best, entry)
        first = jnp.where(stay, first, number)
    return first


def _positions(along: Slides) -> Iterator[Mapping[int, int]]:
    """The entries of a window, the last axis fastest."""
    counts = [range(slide.window) for slide in along.values()]
    for position in itertools.product(*counts):
        yield dict(zip(along, position))
