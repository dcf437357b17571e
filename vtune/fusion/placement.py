"""Where entries lie under a layout: for a member in NumPy, for a lane in JAX.

What takes a `member` knows its sizes. What takes `lane_sizes`, a vector of the lane's
own sizes that may be traced, is arithmetic, elementwise in the index that it is given,
so that it costs no memory inside a program.
"""

import math
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Int

from vtune.fusion.layout import (
    Concatenation,
    Layout,
    Product,
    Reversed,
    Sizes,
    Tail,
    vectors,
)


def positions(layout: Layout, member: int) -> Int[np.ndarray, " narrow"]:
    """Where a member's entries lie.

    Args:
        layout: the layout.
        member: which member; -1 is the envelope.

    Returns:
        For each entry of the narrow axis its place in the wide one, rising.
    """
    return _positions(layout, lambda sizes: sizes[member])


def same(first: Layout, second: Layout) -> bool:
    """Whether two layouts put every entry of every member in the same place.

    Args:
        first: a layout.
        second: another for the same members.

    Returns:
        True if `positions` agree for all of them. Equal layouts are the same, and so
        may be different ones, where the sizes of all members happen to fit.
    """
    if first.sizes != second.sizes:
        return False
    if first == second:
        return True
    leaves = vectors((first, second))
    return all(
        np.array_equal(_positions(first, of), _positions(second, of))
        for column in set(zip(*leaves))
        for of in [_column(leaves, column)]
    )


def embed(
    array: np.ndarray, layouts: Sequence[Layout], member: int, fill: Any = 0
) -> np.ndarray:
    """A member's array in the shape of the envelope.

    Args:
        array: the narrow array.
        layouts: the layout of each of its axes.
        member: whose array it is.
        fill: what padding holds.

    Returns:
        A new array of the same dtype.

    Raises:
        ValueError: if the array has not the member's shape.
    """
    array = np.asarray(array)
    wide = np.full([layout.wide for layout in layouts], fill, array.dtype)
    _write(wide, array, layouts, member)
    return wide


def embed_lanes(
    arrays: Sequence[np.ndarray],
    layouts: Sequence[Layout],
    members: Sequence[int],
    lanes: int,
) -> np.ndarray:
    """The arrays of several members in the shape of the envelope, padded by zeros.

    Args:
        arrays: the narrow arrays, of one dtype.
        layouts: the layout of each of their axes.
        members: whose array each of them is.
        lanes: how many lanes there are; those beyond the arrays get the first one.

    Returns:
        A new array with a lane axis in front.

    Raises:
        ValueError: if an array has not the member's shape.
    """
    shape = (lanes, *[layout.wide for layout in layouts])
    wide = np.zeros(shape, np.asarray(arrays[0]).dtype)
    for lane in range(lanes):
        number = lane if lane < len(arrays) else 0
        array = np.asarray(arrays[number])
        _write(wide[lane, ...], array, layouts, members[number])
    return wide


def _write(
    wide: np.ndarray, array: np.ndarray, layouts: Sequence[Layout], member: int
) -> None:
    shape = tuple(layout.sizes[member] for layout in layouts)
    if array.shape != shape:
        raise ValueError(f"`embed` takes an array of shape {shape}, got {array.shape}.")
    wide[_grid(layouts, member)] = array


def extract(array: np.ndarray, layouts: Sequence[Layout], member: int) -> np.ndarray:
    """A member's entries of an array in the shape of the envelope.

    Args:
        array: the wide array.
        layouts: the layout of each of its axes.
        member: whose entries are wanted.

    Returns:
        A new array of the member's shape.

    Raises:
        ValueError: if the array has not the envelope's shape.
    """
    array = np.asarray(array)
    shape = tuple(layout.wide for layout in layouts)
    if array.shape != shape:
        raise ValueError(
            f"`extract` takes an array of shape {shape}, got {array.shape}."
        )
    return np.array(array[_grid(layouts, member)])


def live_entries(layouts: Sequence[Layout], member: int) -> Bool[np.ndarray, "..."]:
    """Which entries of an array in the shape of the envelope are a member's own.

    Args:
        layouts: the layout of each axis.
        member: whose entries are meant.
    """
    live = np.zeros([layout.wide for layout in layouts], bool)
    live[_grid(layouts, member)] = True
    return live


def _grid(layouts: Sequence[Layout], member: int) -> tuple[Any, ...]:
    """The index of a member's entries in an array in the shape of the envelope.

    By slices wherever entries lie side by side: NumPy copies these in a tenth of the
    time.
    """
    found = [positions(layout, member) for layout in layouts]
    slices = list(map(_as_slice, found))
    if slices.count(None) > 1:
        return np.ix_(*found)
    return tuple([p if s is None else s for p, s in zip(found, slices)])


def _as_slice(places: Int[np.ndarray, " narrow"]) -> slice | None:
    """Rising places as a slice; None where there are others between them."""
    if not places.size:
        return slice(0)
    first, last = int(places[0]), int(places[-1])
    return slice(first, last + 1) if last - first + 1 == places.size else None


def _column(leaves: Sequence[Sizes], column: Sizes) -> Callable[[Sizes], int]:
    known = dict(zip(leaves, column))
    return lambda sizes: known.get(sizes, sizes[-1])


def _positions(layout: Layout, of: Callable[[Sizes], int]) -> np.ndarray:
    """The positions for the member whose size among some `sizes` is `of(sizes)`."""
    if isinstance(layout, Tail):
        return np.arange(of(layout.sizes))
    if isinstance(layout, Reversed):
        return layout.wide - 1 - _positions(layout.part, of)[::-1]
    found = [_positions(part, of) for part in layout.parts]
    if isinstance(layout, Product):
        total = np.zeros(1, int)
        for part, inner in zip(layout.parts, found):
            total = (total[:, None] * part.wide + inner).ravel()
        return total
    ends = np.cumsum([part.wide for part in layout.parts])
    starts = [end - part.wide for end, part in zip(ends, layout.parts)]
    return np.concatenate([start + inner for start, inner in zip(starts, found)])


def narrow_size(layout: Layout, lane_sizes: Int[Array, " sizes"]) -> Any:
    """The size of the lane's own axis.

    Args:
        layout: the layout.
        lane_sizes: the lane's sizes.

    Returns:
        A number, traced where it varies.

    Raises:
        ValueError: if the layout does not know where its sizes stand.
    """
    if isinstance(layout, Tail):
        if not layout.varies:
            return layout.wide
        if layout.size_index is None:
            raise ValueError(
                f"`lane_sizes` cannot be read for {layout}; use `indexed(layout, ...)`."
            )
        return lane_sizes[layout.size_index]
    if isinstance(layout, Reversed):
        return narrow_size(layout.part, lane_sizes)
    sizes = [narrow_size(part, lane_sizes) for part in layout.parts]
    return math.prod(sizes) if isinstance(layout, Product) else sum(sizes)


def live(
    layout: Layout, lane_sizes: Int[Array, " sizes"], index: Int[Array, "..."]
) -> Bool[Array, "..."]:
    """Which entries of the wide axis the lane has.

    Args:
        layout: the layout.
        lane_sizes: the lane's sizes.
        index: places in the wide axis.

    Returns:
        For each place whether it holds an entry of the lane's own axis.
    """
    return jnp.broadcast_to(_place(layout, lane_sizes, index)[0], jnp.shape(index))


def narrow_index(
    layout: Layout, lane_sizes: Int[Array, " sizes"], index: Int[Array, "..."]
) -> Int[Array, "..."]:
    """Which of the lane's own entries lie at some places of the wide axis.

    Args:
        layout: the layout.
        lane_sizes: the lane's sizes.
        index: places in the wide axis.

    Returns:
        For each place the number of the entry there; any number where it is padding.
    """
    return _place(layout, lane_sizes, index)[1]


def live_box(
    layouts: Sequence[Layout],
    lane_sizes: Int[Array, " sizes"],
    wide_shape: tuple[int, ...],
) -> Bool[Array, "..."] | None:
    """Which entries of a wide array the lane has.

    Args:
        layouts: the layout of each axis.
        lane_sizes: the lane's sizes.
        wide_shape: the array's shape.

    Returns:
        An array that can be broadcast to `wide_shape` (axes along which all entries are
        live have size 1 in it), or None if no axis varies.
    """
    box = None
    for axis, layout in enumerate(layouts):
        if layout.varies:
            index = axis_index(axis, wide_shape)
            alive = live(layout, lane_sizes, index)
            box = alive if box is None else box & alive
    return box


def axis_index(axis: int, shape: tuple[int, ...]) -> Int[Array, "..."]:
    """The numbers 0, 1, ... along one axis, and size 1 along the others."""
    alone = tuple(size if i == axis else 1 for i, size in enumerate(shape))
    return jax.lax.broadcasted_iota(jnp.int32, alone, axis)


def to_wide_index(
    layout: Layout, lane_sizes: Int[Array, " sizes"], index: Int[Array, "..."]
) -> Int[Array, "..."]:
    """Where some of the lane's own entries lie: the inverse of `narrow_index`.

    Args:
        layout: the layout.
        lane_sizes: the lane's sizes.
        index: numbers of entries, from 0 to below `narrow_size`.

    Returns:
        Their places in the wide axis; any number for an index out of range.
    """
    if not layout.varies or isinstance(layout, Tail):
        return jnp.asarray(index)
    if isinstance(layout, Reversed):
        last = narrow_size(layout, lane_sizes) - 1
        return layout.wide - 1 - to_wide_index(layout.part, lane_sizes, last - index)
    if isinstance(layout, Product):
        return _product_to_wide(layout, lane_sizes, index)
    return _concatenation_to_wide(layout, lane_sizes, index)


def _product_to_wide(layout: Product, lane_sizes: Any, index: Any) -> Any:
    total, stride = 0, 1
    for number, part in reversed(list(enumerate(layout.parts))):
        size = jnp.maximum(narrow_size(part, lane_sizes), 1)
        inner = index if number == 0 else _remainder(index, size)
        total = total + stride * to_wide_index(part, lane_sizes, inner)
        index, stride = _quotient(index, size), stride * part.wide
    return total


def _concatenation_to_wide(layout: Concatenation, lane_sizes: Any, index: Any) -> Any:
    total, narrow, wide = None, 0, 0
    for part in layout.parts:
        inner = wide + to_wide_index(part, lane_sizes, index - narrow)
        total = inner if total is None else jnp.where(index < narrow, total, inner)
        narrow, wide = narrow + narrow_size(part, lane_sizes), wide + part.wide
    return total


def _place(layout: Layout, lane_sizes: Any, index: Any) -> tuple[Any, Any]:
    """`live` (or True) and `narrow_index`."""
    if not layout.varies:
        return True, jnp.asarray(index)
    if isinstance(layout, Tail):
        return index < narrow_size(layout, lane_sizes), jnp.asarray(index)
    if isinstance(layout, Reversed):
        alive, inner = _place(layout.part, lane_sizes, layout.wide - 1 - index)
        return alive, narrow_size(layout, lane_sizes) - 1 - inner
    if isinstance(layout, Product):
        return _place_in_product(layout, lane_sizes, index)
    return _place_in_concatenation(layout, lane_sizes, index)


def _place_in_product(layout: Product, lane_sizes: Any, index: Any) -> tuple[Any, Any]:
    alive, total, stride = True, 0, 1
    for number, part in reversed(list(enumerate(layout.parts))):
        inner = index if number == 0 else _remainder(index, part.wide)
        inside, narrow = _place(part, lane_sizes, inner)
        alive = inside if alive is True else alive & inside
        total = total + stride * narrow
        index = _quotient(index, part.wide)
        stride = stride * narrow_size(part, lane_sizes)
    return alive, total


def _place_in_concatenation(
    layout: Concatenation, lane_sizes: Any, index: Any
) -> tuple[Any, Any]:
    alive, total, narrow, wide = True, None, 0, 0
    for part in layout.parts:
        inside, inner = _place(part, lane_sizes, index - wide)
        if total is None:
            alive, total = inside, inner
        else:
            alive = jnp.where(index < wide, alive, inside)
            total = jnp.where(index < wide, total, narrow + inner)
        narrow, wide = narrow + narrow_size(part, lane_sizes), wide + part.wide
    return alive, total


# Floor division of non-negative numbers, without the corrections for negative ones.


def _quotient(index: Any, by: Any) -> Any:
    return jax.lax.div(index, jnp.broadcast_to(by, index.shape).astype(index.dtype))


def _remainder(index: Any, by: Any) -> Any:
    return jax.lax.rem(index, jnp.broadcast_to(by, index.shape).astype(index.dtype))
