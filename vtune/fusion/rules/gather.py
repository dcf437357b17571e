"""Windows of an array that are read or written at computed places.

An index counts the lane's own entries. Inside the envelope it is brought into the range
that the lane's own sizes allow, and then to where that entry lies.
"""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.lax import GatherScatterMode
from jaxtyping import Array, Bool, Int, Integer

from vtune.fusion.family import Operand, Site
from vtune.fusion.layout import Tail
from vtune.fusion.placement import live_box, narrow_size, to_wide_index
from vtune.fusion.refusal import Refusal
from vtune.fusion.rules.contents import ANY, ZERO, Contents, is_finite, is_zero, join
from vtune.fusion.rules.elementwise import has_range
from vtune.fusion.rules.nodes import Nodes
from vtune.fusion.rules.rule import Place, Plan, Rule, Step, bound, is_whole, unmasked


class _Numbers(NamedTuple):
    """Which axis is which, in one form for gathers and scatters.

    Args:
        window: of the array of windows the axes along which a window extends.
        dropped: of the operand the axes that windows do not have.
        batching: of the operand the axes that are also axes of the indices.
        index_batching: which these are.
        addressed: of the operand the axis that each number of an index counts along.
    """

    window: tuple[int, ...]
    dropped: tuple[int, ...]
    batching: tuple[int, ...]
    index_batching: tuple[int, ...]
    addressed: tuple[int, ...]

    def kept(self, rank: int) -> list[int]:
        """Of an operand of some rank the axes that windows have."""
        gone = {*self.dropped, *self.batching}
        return [axis for axis in range(rank) if axis not in gone]


def _numbers(params: Mapping[str, Any]) -> _Numbers:
    given = params["dimension_numbers"]
    if isinstance(given, jax.lax.GatherDimensionNumbers):
        return _Numbers(
            given.offset_dims,
            given.collapsed_slice_dims,
            given.operand_batching_dims,
            given.start_indices_batching_dims,
            given.start_index_map,
        )
    return _Numbers(
        given.update_window_dims,
        given.inserted_window_dims,
        given.operand_batching_dims,
        given.scatter_indices_batching_dims,
        given.scatter_dims_to_operand_dims,
    )


# Axes.


def _relate_windows(
    numbers: _Numbers,
    operand: Operand,
    indices: Operand,
    windows: Operand,
    nodes: Nodes,
) -> None:
    kept = numbers.kept(len(operand.axes))
    for axis, window in zip(kept, numbers.window, strict=True):
        _relate_window(operand.axes[axis], windows.axes[window], nodes)
    rows = [n for axis, n in enumerate(windows.axes) if axis not in numbers.window]
    for first, second in zip(indices.axes[:-1], rows, strict=True):
        nodes.same(first, second)
    for axis, row in zip(numbers.batching, numbers.index_batching, strict=True):
        nodes.same(operand.axes[axis], indices.axes[row])


def _relate_window(whole: int, window: int, nodes: Nodes) -> None:
    if nodes.sizes(whole) == nodes.sizes(window):
        nodes.same(whole, window)
    elif nodes.varies(window):
        raise Refusal(
            "at a computed place a part of an array is read or written that has "
            "another size in other trials"
        )


def _relate_gather(site: Site, nodes: Nodes) -> None:
    (operand, indices), (result,) = site.inputs, site.outputs
    _relate_windows(_numbers(site.wide.params), operand, indices, result, nodes)


def _relate_scatter(site: Site, nodes: Nodes) -> None:
    (operand, indices, updates), (result,) = site.inputs, site.outputs
    _relate_windows(_numbers(site.wide.params), operand, indices, updates, nodes)
    for first, second in zip(operand.axes, result.axes, strict=True):
        nodes.same(first, second)


def _relate_slice(site: Site, nodes: Nodes) -> None:
    for whole, window in zip(site.inputs[0].axes, site.outputs[0].axes, strict=True):
        _relate_window(whole, window, nodes)


def _relate_update(site: Site, nodes: Nodes) -> None:
    (operand, update, *_), (result,) = site.inputs, site.outputs
    for whole, window in zip(operand.axes, update.axes, strict=True):
        _relate_window(whole, window, nodes)
    for first, second in zip(operand.axes, result.axes, strict=True):
        nodes.same(first, second)


# Places.


def _require_runs(place: Place, addressed: Sequence[int], sizes: Sequence[int]) -> None:
    """Refuses windows whose entries are not next to each other in the envelope."""
    for axis, (layout, size) in enumerate(zip(place.layouts, sizes, strict=True)):
        single = size == 1 and axis in addressed
        if layout.varies and size < layout.wide and not single:
            if not isinstance(layout, Tail):
                raise Refusal(
                    f"{size} neighbours are read or written at a computed place of an "
                    f"axis that is made of others"
                )


def _places(
    place: Place,
    addressed: Sequence[int],
    sizes: Sequence[int],
    numbers: Sequence[Any],
    lane_sizes: Int[Array, " sizes"],
) -> tuple[list[Int[Array, "..."]], Bool[Array, "..."]]:
    """Where windows lie in the envelope.

    Args:
        place: the array that they are windows of.
        addressed: the axis that each number counts along.
        sizes: how far a window extends along each axis.
        numbers: where windows start in the lane's own array, integers of any dtype.
        lane_sizes: the lane's sizes.

    Returns:
        Where they start in the wide array, after they were brought into the range in
        which whole windows lie; and whether they were there at once.
    """
    starts, inside = [], jnp.asarray(True)
    for axis, number in zip(addressed, numbers, strict=True):
        layout, size = place.layouts[axis], sizes[axis]
        whole = size == layout.wide
        last = 0 if whole else narrow_size(layout, lane_sizes) - size
        number = _signed(jnp.asarray(number))
        start = jnp.clip(number, 0, last)
        inside = inside & (start == number)
        starts.append(to_wide_index(layout, lane_sizes, start))
    return starts, inside


def _signed(number: Integer[Array, "..."]) -> Int[Array, "..."]:
    """As int32; what does not fit stays out of every range."""
    own, target = jnp.iinfo(number.dtype), jnp.iinfo(jnp.int32)
    if own.max > target.max:
        number = jnp.clip(number, max(own.min, target.min), target.max)
    return number.astype(jnp.int32)


def _moves(place: Place, addressed: Sequence[int], sizes: Sequence[int]) -> bool:
    """Whether the lane's own sizes say where windows lie."""
    return any(
        place.varies(axis) and sizes[axis] < place.layouts[axis].wide
        for axis in addressed
    )


def _bind(step: Step, operands: Sequence[Any], **params: Any) -> list[Any]:
    params = {**step.params, **params}
    return step.bind(dataclasses.replace(step.equation, params=params), operands)


# Reading.


def _plan_gather(step: Step) -> Plan:
    operand, indices = step.operands
    numbers, sizes = _numbers(step.params), list(step.params["slice_sizes"])
    for axis in numbers.batching:
        sizes[axis] = operand.layouts[axis].wide
    _require_runs(operand, numbers.addressed, sizes)
    # Padded rows of the indices address whatever there is.
    spread = _row_layouts(numbers, indices)
    spread = any(layout.varies for layout in spread)
    contents = operand.everywhere if spread else operand.contents
    tame = operand.tame and not (_fills(step) and not is_finite(_fill(step)))
    return Plan(unmasked(step), (contents,), (tame or is_whole(operand.aval),))


def _row_layouts(numbers: _Numbers, indices: Place) -> list[Any]:
    """The axes of the indices, those of the operand as if they did not vary."""
    return [
        Tail(None, (layout.wide,)) if axis in numbers.index_batching else layout
        for axis, layout in enumerate(indices.layouts[:-1])
    ]


def _fills(step: Step) -> bool:
    return step.params["mode"] == GatherScatterMode.FILL_OR_DROP


def _fill(step: Step) -> Any:
    return step.params["fill_value"]


def _emit_gather(step: Step, operands: Sequence[Any], lane_sizes: Any) -> list[Any]:
    operand, indices = operands
    (place, _), (result,) = step.operands, step.results
    numbers, sizes = _numbers(step.params), step.params["slice_sizes"]
    moves = _moves(place, numbers.addressed, sizes)
    if not numbers.addressed or not (moves or result.padded):
        return bound(step, operands, lane_sizes)
    starts, inside = _places(
        place, numbers.addressed, sizes, _columns(indices), lane_sizes
    )
    (found,) = _bind(
        step,
        (operand, jnp.stack(starts, -1)),
        mode=GatherScatterMode.PROMISE_IN_BOUNDS,
        indices_are_sorted=False,
        unique_indices=False,
    )
    if _fills(step):
        missing = jnp.expand_dims(~inside, numbers.window)
        # What is filled in is often NaN; padding that was zero can stay so.
        box = live_box(result.layouts, lane_sizes, result.aval.shape)
        missing = missing if box is None else missing & box
        found = jnp.where(missing, jax.lax.full_like(found, _fill(step)), found)
    return [found]


def _columns(indices: Any) -> list[Any]:
    return [indices[..., number] for number in range(indices.shape[-1])]


def _plan_slice(step: Step) -> Plan:
    operand, sizes = step.operands[0], step.params["slice_sizes"]
    _require_runs(operand, range(len(sizes)), sizes)
    return Plan(unmasked(step), (operand.contents,), (operand.tame,))


def _emit_slice(step: Step, operands: Sequence[Any], lane_sizes: Any) -> list[Any]:
    (operand, *numbers), place = operands, step.operands[0]
    sizes = step.params["slice_sizes"]
    axes = range(len(sizes))
    if not _moves(place, axes, sizes):
        return bound(step, operands, lane_sizes)
    starts, _ = _places(place, axes, sizes, numbers, lane_sizes)
    return step.bind(step.equation, (operand, *starts))


# Writing.


def _written_sizes(step: Step) -> list[int]:
    """How far a window of a scatter extends along each axis of the operand."""
    operand, _, updates = step.operands
    numbers = _numbers(step.params)
    sizes = [1] * len(operand.layouts)
    for axis, window in zip(numbers.kept(len(sizes)), numbers.window, strict=True):
        sizes[axis] = updates.aval.shape[window]
    return sizes


def _scatter_planner(
    combined: Callable[[Contents, Contents], Contents], in_range: bool
) -> Callable[[Step], Plan]:
    """A plan for one kind of scatter.

    Args:
        combined: what padding holds that updates from padding may have reached.
        in_range: whether a result is finite if what it is made of is.
    """

    def plan(step: Step) -> Plan:
        operand, indices, updates = step.operands
        numbers, sizes = _numbers(step.params), _written_sizes(step)
        for axis in numbers.batching:
            sizes[axis] = operand.layouts[axis].wide
        _require_runs(operand, numbers.addressed, sizes)
        rows = any(layout.varies for layout in _row_layouts(numbers, indices))
        if rows and not numbers.addressed:
            raise Refusal("an array is updated as a whole, by a number that varies")
        reached = any(map(updates.varies, numbers.window))
        reached |= any(map(indices.varies, numbers.index_batching))
        applies = step.equation.primitive.name == "scatter" and _applies(step)
        contents = operand.contents
        if reached:
            contents = ANY if applies else combined(contents, updates.contents)
        tame = operand.tame and updates.tame and not applies
        tame = tame and (in_range or has_range(operand.aval))
        return Plan(unmasked(step), (contents,), (tame or is_whole(operand.aval),))

    return plan


def _applies(step: Step) -> bool:
    """Whether entries become a function of themselves, as by `x.at[i].apply(f)`."""
    return step.params["update_jaxpr"] is not None


def _of_sum(contents: Contents, updates: Contents) -> Contents:
    if not is_zero(updates):
        return ANY
    return ZERO if is_zero(contents) else contents


def _of_product(contents: Contents, updates: Contents) -> Contents:
    if is_zero(contents) and updates is not ANY:
        return ZERO
    return ANY


def _emit_scatter(step: Step, operands: Sequence[Any], lane_sizes: Any) -> list[Any]:
    operand, indices, updates = operands
    place, index_place, _ = step.operands
    numbers, sizes = _numbers(step.params), _written_sizes(step)
    unordered = {"indices_are_sorted": False, "unique_indices": False}
    rows = live_box(
        _row_layouts(numbers, index_place), lane_sizes, index_place.aval.shape[:-1]
    )
    if rows is None and not _moves(place, numbers.addressed, sizes):
        # Padding's own indices are in no order.
        return _bind(step, operands, **(unordered if index_place.padded else {}))
    starts, inside = _places(
        place, numbers.addressed, sizes, _columns(indices), lane_sizes
    )
    if step.params["mode"] == GatherScatterMode.CLIP:
        inside = jnp.asarray(True)
    inside = inside if rows is None else inside & rows
    # Updates that the lane does not make start behind the array, and are dropped.
    behind = place.layouts[numbers.addressed[0]].wide
    starts[0] = jnp.where(inside, starts[0], behind)
    return _bind(
        step,
        (operand, jnp.stack(starts, -1), updates),
        mode=GatherScatterMode.FILL_OR_DROP,
        **unordered,
    )


def _plan_update(step: Step) -> Plan:
    operand, update = step.operands[:2]
    sizes = update.aval.shape
    _require_runs(operand, range(len(sizes)), sizes)
    contents = join(operand.contents, update.contents)
    return Plan(unmasked(step), (contents,), (operand.tame and update.tame,))


def _emit_update(step: Step, operands: Sequence[Any], lane_sizes: Any) -> list[Any]:
    (operand, update, *numbers), place = operands, step.operands[0]
    axes = range(update.ndim)
    if not _moves(place, axes, update.shape):
        return bound(step, operands, lane_sizes)
    starts, _ = _places(place, axes, update.shape, numbers, lane_sizes)
    return step.bind(step.equation, (operand, update, *starts))


def _scatter(
    combined: Callable[[Contents, Contents], Contents], in_range: bool
) -> Rule:
    return Rule(_relate_scatter, _scatter_planner(combined, in_range), _emit_scatter)


RULES: Mapping[str, Rule] = {
    "gather": Rule(_relate_gather, _plan_gather, _emit_gather),
    "scatter": _scatter(join, in_range=True),
    "scatter-add": _scatter(_of_sum, in_range=False),
    "scatter-sub": _scatter(_of_sum, in_range=False),
    "scatter-mul": _scatter(_of_product, in_range=False),
    "scatter-min": _scatter(join, in_range=True),
    "scatter-max": _scatter(join, in_range=True),
    "dynamic_slice": Rule(_relate_slice, _plan_slice, _emit_slice),
    "dynamic_update_slice": Rule(_relate_update, _plan_update, _emit_update),
}
