"""Sorting, the largest entries and where they are, and cumulative functions.

What is told apart by order alone is always masked, since zero is as good a number as
any other. Padding comes last by its place, not by its value alone: it gets the value
that nothing comes after, and stands behind the entries that have it, too.
"""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax.numpy as jnp
import numpy as np

from vtune.fusion.family import Site
from vtune.fusion.layout import Tail
from vtune.fusion.placement import live, narrow_index, narrow_size
from vtune.fusion.rules.contents import (
    ANY,
    FINITE,
    ZERO,
    Contents,
    Known,
    Unknown,
    is_finite,
    is_zero,
    join,
)
from vtune.fusion.rules.elementwise import has_range
from vtune.fusion.rules.nodes import Nodes
from vtune.fusion.rules.rule import (
    Place,
    Plan,
    Rule,
    Step,
    bound,
    highest,
    is_whole,
    lowest,
    relate_alike,
    unmasked,
)
from vtune.fusion.rules.windows import from_front, to_front


def _held(neutral: Any) -> Known | Unknown:
    """What padding holds that a mask has filled."""
    return Known(neutral) if is_finite(neutral) else ANY


# Sorting.


def _last(dtype: Any) -> Any:
    """What a sort puts nothing behind."""
    if jnp.issubdtype(dtype, jnp.complexfloating):
        return np.asarray(complex(np.nan, np.nan), dtype)
    if jnp.issubdtype(dtype, jnp.floating):
        return np.asarray(np.nan, dtype)
    return np.asarray(highest(dtype), dtype)


def _relate_sort(site: Site, nodes: Nodes) -> None:
    """The sorted axis is another one: its entries are at the front, wherever from."""
    dimension = site.wide.params["dimension"]
    first, sorted_ = site.inputs[0].axes, site.outputs[0].axes
    for operand in site.inputs:
        for a, b in zip(first, operand.axes, strict=True):
            nodes.same(a, b)
    for result in site.outputs:
        for axis, node in enumerate(result.axes):
            nodes.same(sorted_[axis] if axis == dimension else first[axis], node)


def _plan_sort(step: Step) -> Plan:
    dimension, keys = step.params["dimension"], step.params["num_keys"]
    tame = tuple([operand.tame for operand in step.operands])
    if not step.operands[0].varies(dimension):
        contents = tuple([operand.contents for operand in step.operands])
        return Plan(unmasked(step), contents, tame)
    masks = tuple(
        [_last(o.aval.dtype) if i < keys else None for i, o in enumerate(step.operands)]
    )
    contents = []
    ends = (step.operands[0].layouts[dimension], step.results[0].layouts[dimension])
    for operand, mask in zip(step.operands, masks):
        held = operand.contents if mask is None else _held(mask)
        # On the way from or to another place live entries get into padding.
        moved = not all(isinstance(layout, Tail) for layout in ends)
        contents.append(join(held, operand.everywhere) if moved else held)
    return Plan(masks, tuple(contents), tame)


def _emit_sort(step: Step, operands: Sequence[Any], lane_sizes: Any) -> list[Any]:
    axis = step.params["dimension"]
    if not step.operands[0].varies(axis):
        return bound(step, operands, lane_sizes)
    operands = [
        to_front(value, place, (axis,), _last(place.aval.dtype), lane_sizes)
        for value, place in zip(operands, step.operands)
    ]
    # A stable sort leaves padding behind live entries that are as large.
    params = {**step.params, "is_stable": step.params["is_stable"] or len(operands) > 1}
    found = step.bind(dataclasses.replace(step.equation, params=params), operands)
    return [
        from_front(value, place, (axis,), lane_sizes)
        for value, place in zip(found, step.results)
    ]


# The largest.


def _relate_top(site: Site, nodes: Nodes) -> None:
    axis = site.wide.params["axis"]
    (operand,), first = site.inputs, site.outputs[0].axes
    for result in site.outputs:
        for number, node in enumerate(result.axes):
            nodes.same(first[number] if number == axis else operand.axes[number], node)


def _plan_top(step: Step) -> Plan:
    (operand,), values = step.operands, step.results[0]
    axis = step.params["axis"]
    mask, contents = None, operand.contents
    if operand.varies(axis):
        mask = lowest(operand.aval.dtype)
        contents = _held(mask)
    if values.varies(axis):
        contents = ANY
    return Plan((mask,), (contents, FINITE), (operand.tame, True))


def _emit_top(step: Step, operands: Sequence[Any], lane_sizes: Any) -> list[Any]:
    (operand,), (place,), axis = operands, step.operands, step.params["axis"]
    if place.varies(axis):
        least = lowest(place.aval.dtype)
        operand = to_front(operand, place, (axis,), least, lane_sizes)
    values, index = step.bind(step.equation, (operand,))
    if place.varies(axis):
        # Only a NaN with a sign comes after the least number, and so after padding.
        size = narrow_size(place.layouts[axis], lane_sizes)
        if not is_whole(place.aval):
            values = jnp.where(index < size, values, jnp.asarray(jnp.nan, values.dtype))
        index = jnp.minimum(index, size - 1)
    return [
        from_front(value, result, (axis,), lane_sizes)
        for value, result in zip((values, index), step.results)
    ]


def _relate_arg(site: Site, nodes: Nodes) -> None:
    (axis,) = site.wide.params["axes"]
    operand, result = site.inputs[0].axes, site.outputs[0].axes
    kept = [node for number, node in enumerate(operand) if number != axis]
    for first, second in zip(kept, result, strict=True):
        nodes.same(first, second)


def _plan_arg(neutral: Callable[[Any], Any]) -> Callable[[Step], Plan]:
    def plan(step: Step) -> Plan:
        (operand,), (axis,) = step.operands, step.params["axes"]
        mask = neutral(operand.aval.dtype) if operand.varies(axis) else None
        return Plan((mask,), (FINITE,), (True,))

    return plan


def _emit_arg(step: Step, operands: Sequence[Any], lane_sizes: Any) -> list[Any]:
    (found,) = step.bind(step.equation, operands)
    (axis,) = step.params["axes"]
    layout = step.operands[0].layouts[axis]
    if isinstance(layout, Tail):
        return [found]
    index = found.astype(jnp.int32)
    # Padding is chosen only if all live entries are equal to it: then the first is.
    alive = live(layout, lane_sizes, index)
    number = jnp.where(alive, narrow_index(layout, lane_sizes, index), 0)
    return [number.astype(found.dtype)]


# Cumulative functions.


def _cumulative(
    neutral: Callable[[Any], Any],
    kept: Callable[[Contents], Contents],
    stays: Callable[[Contents], bool] = lambda contents: False,
) -> Rule:
    """A rule for one cumulative function.

    Neutral entries change nothing wherever they lie, before, behind or among the live
    ones.

    Args:
        neutral: what it is not changed by.
        kept: what the cumulative function of padding alone holds.
        stays: whether padding of these contents is neutral already.
    """

    def plan(step: Step) -> Plan:
        (operand,) = step.operands
        tame = operand.tame and has_range(operand.aval)
        if not operand.varies(step.params["axis"]):
            return Plan((None,), (kept(operand.contents),), (tame,))
        mask = None
        if not stays(operand.contents):
            mask = neutral(operand.aval.dtype)
        contents = join(_held(neutral(operand.aval.dtype)), _spread(operand, tame))
        return Plan((mask,), (contents,), (tame,))

    return Rule(relate_alike, plan)


def _spread(operand: Place, tame: bool) -> Known | Unknown:
    return operand.spread if tame else ANY


def _zero(dtype: Any) -> Any:
    return np.zeros((), dtype)


def _one(dtype: Any) -> Any:
    return np.ones((), dtype)


def _of_sum(contents: Contents) -> Contents:
    return ZERO if is_zero(contents) else ANY


def _of_product(contents: Contents) -> Contents:
    return contents if is_zero(contents) or _is_one(contents) else ANY


def _is_one(contents: Contents) -> bool:
    return isinstance(contents, Known) and bool(contents.value == 1)


def _of_choice(contents: Contents) -> Contents:
    return contents


def _of_logarithm(contents: Contents) -> Contents:
    del contents
    return ANY


RULES: Mapping[str, Rule] = {
    "sort": Rule(_relate_sort, _plan_sort, _emit_sort),
    "top_k": Rule(_relate_top, _plan_top, _emit_top),
    "argmax": Rule(_relate_arg, _plan_arg(lowest), _emit_arg),
    "argmin": Rule(_relate_arg, _plan_arg(highest), _emit_arg),
    "cumsum": _cumulative(_zero, _of_sum, is_zero),
    "cumprod": _cumulative(_one, _of_product, _is_one),
    "cummax": _cumulative(lowest, _of_choice),
    "cummin": _cumulative(highest, _of_choice),
    "cumlogsumexp": _cumulative(lowest, _of_logarithm),
}
