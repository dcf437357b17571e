"""What slides a window over arrays: pooling, forward and backward.

Along most padded axes a window covers one entry at a time, so that padding stays by
itself. Where it slides along a padded axis, the axis is brought to the front (see
`to_front`): there a window starts where it does in the narrow array, and what lies
behind the live entries is what the narrow array's own border holds.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax.numpy as jnp
import numpy as np

from vtune.fusion.family import Site
from vtune.fusion.layout import Tail
from vtune.fusion.placement import (
    axis_index,
    narrow_index,
    narrow_size,
    to_wide_index,
)
from vtune.fusion.refusal import Refusal
from vtune.fusion.rules.contents import (
    ANY,
    FINITE,
    ZERO,
    Contents,
    Known,
    Unknown,
    is_zero,
)
from vtune.fusion.rules.contraction import after
from vtune.fusion.rules.elementwise import has_range
from vtune.fusion.rules.nodes import Nodes
from vtune.fusion.rules.rule import (
    Place,
    Plan,
    Rule,
    Step,
    highest,
    is_whole,
    lowest,
    unmasked,
)


def to_front(
    value: Any, place: Place, axes: Sequence[int], neutral: Any, lane_sizes: Any
) -> Any:
    """The live entries of some axes at the front, in their own order.

    Args:
        value: an array.
        place: where its entries lie.
        axes: which axes are meant.
        neutral: what stands behind the live entries, a scalar; expected in the padding
            of axes that have their live entries at the front already.
        lane_sizes: the lane's sizes.

    Returns:
        An array of the same shape.
    """
    for axis in axes:
        layout = place.layouts[axis]
        if not isinstance(layout, Tail):
            index = jnp.arange(layout.wide, dtype=jnp.int32)
            lies = to_wide_index(layout, lane_sizes, index)
            value = jnp.take(value, lies, axis=axis, mode="clip")
            alive = axis_index(axis, value.shape) < narrow_size(layout, lane_sizes)
            value = jnp.where(alive, value, jnp.asarray(neutral, value.dtype))
    return value


def from_front(value: Any, place: Place, axes: Sequence[int], lane_sizes: Any) -> Any:
    """The inverse of `to_front`; padding gets any entries.

    Args:
        value: an array whose live entries are at the front of some axes.
        place: where its entries are to lie.
        axes: which axes are meant.
        lane_sizes: the lane's sizes.

    Returns:
        An array of the same shape.
    """
    for axis in axes:
        layout = place.layouts[axis]
        if not isinstance(layout, Tail):
            index = jnp.arange(layout.wide, dtype=jnp.int32)
            number = narrow_index(layout, lane_sizes, index)
            value = jnp.take(value, number, axis=axis, mode="clip")
    return value


def worst(aval: Any) -> Unknown:
    """What padding of which nothing is known can hold."""
    return FINITE if is_whole(aval) else ANY


def _slid(params: Mapping[str, Any]) -> tuple[int, ...]:
    """The axes along which windows are more than single entries."""
    windows, strides = params["window_dimensions"], params["window_strides"]
    holes = params.get("base_dilation") or (1,) * len(windows)
    every = zip(windows, strides, params["padding"], holes, strict=True)
    return tuple(
        [
            axis
            for axis, (window, stride, border, hole) in enumerate(every)
            if (window, stride, *border, hole) != (1, 1, 0, 0, 1)
        ]
    )


def _relate(site: Site, nodes: Nodes) -> None:
    entries = [operand.axes for operand in site.inputs if operand.axes]
    windows = [result.axes for result in site.outputs]
    if site.name == "select_and_scatter_add":
        # The only one whose operand has an entry for each window, and not its result.
        entries, windows = [*entries[1:], *windows], entries[:1]
    slid = _slid(site.wide.params)
    for arrays in (entries, windows):
        for array in arrays[1:]:
            for first, second in zip(arrays[0], array, strict=True):
                nodes.same(first, second)
    for axis, (first, second) in enumerate(zip(entries[0], windows[0], strict=True)):
        if axis not in slid:
            nodes.same(first, second)


def _mixes(step: Step) -> bool:
    """Whether windows slide along a padded axis."""
    arrays = [place for place in (*step.operands, *step.results) if place.layouts]
    return any(a.varies(axis) for a in arrays for axis in _slid(step.params))


def _spills(step: Step) -> bool:
    """Whether padding of the result is made of live entries, too."""
    return any(step.results[0].varies(axis) for axis in _slid(step.params))


def _covers(step: Step) -> bool:
    """Whether every window covers an entry of the array, not its border alone."""
    params = step.params
    layouts = step.operands[-1].layouts
    ones = (1,) * len(layouts)
    for axis in _slid(params):
        dilations = [
            (params.get(name) or ones)[axis]
            for name in ("base_dilation", "window_dilation")
        ]
        border = max(params["padding"][axis])
        if dilations != [1, 1] or border >= params["window_dimensions"][axis]:
            return False
        if min(layouts[axis].sizes) < 1:
            return False
    return True


def _neutrals(step: Step) -> tuple[Any, ...]:
    """For each operand what changes no result."""
    name, dtype = step.equation.primitive.name, step.operands[-1].aval.dtype
    zero = np.zeros((), step.operands[0].aval.dtype)
    if name == "reduce_window_sum":
        return (zero,)
    if name in ("reduce_window_max", "reduce_window_min"):
        return (lowest(dtype) if name == "reduce_window_max" else highest(dtype),)
    largest = step.params["select_prim"].name == "ge"
    return zero, (lowest(dtype) if largest else highest(dtype))


def _masks(step: Step, added: bool) -> tuple[Any, ...]:
    """The masks of all operands; what is added needs none where it is zero."""
    if not _mixes(step):
        return unmasked(step)
    masks = list(_neutrals(step))
    if added and is_zero(step.operands[0].contents):
        masks[0] = None
    return tuple(masks)


def _plan_sum(step: Step) -> Plan:
    (operand,), (result,) = step.operands, step.results
    masks = _masks(step, added=True)
    contents = after(operand, masks[0])
    found = worst(result.aval)
    if not _spills(step):
        if is_zero(contents):
            found = ZERO
        elif isinstance(contents, Known) and _sums_to_finite(step, contents):
            found = FINITE
    return Plan(masks, (found,), (operand.tame and has_range(result.aval),))


def _sums_to_finite(step: Step, contents: Known) -> bool:
    dtype = step.results[0].aval.dtype
    if not jnp.issubdtype(dtype, jnp.floating):
        return False
    size = np.prod(step.params["window_dimensions"])
    return abs(float(contents.value)) * float(size) < float(jnp.finfo(dtype).max) / 2


def _plan_choice(step: Step) -> Plan:
    (operand,), (result,) = step.operands, step.results
    covers = _covers(step)
    found: Contents = worst(result.aval)
    if covers and not _mixes(step):
        found = operand.contents
    tame = is_whole(result.aval) or (operand.tame and covers)
    return Plan(_masks(step, added=False), (found,), (tame,))


def _plan_scatter(step: Step) -> Plan:
    source, (result,) = step.operands[0], step.results
    masks = _masks(step, added=True)
    contents = after(source, masks[0])
    sizes = step.params["window_dimensions"], step.params["window_strides"]
    apart = all(window <= stride for window, stride in zip(*sizes))
    found = worst(result.aval)
    if not _spills(step):
        if is_zero(contents):
            found = ZERO
        elif contents is not ANY and apart:
            found = FINITE
    return Plan(masks, (found,), (source.tame and has_range(result.aval),))


def _plan_gather(step: Step) -> Plan:
    tangents, (result,) = step.operands[0], step.results
    masks = _masks(step, added=True)
    zero = not _spills(step) and is_zero(after(tangents, masks[0]))
    return Plan(masks, (ZERO if zero else worst(result.aval),), (tangents.tame,))


def _plan_general(step: Step) -> Plan:
    if _mixes(step):
        raise Refusal(
            "a window slides along an axis that has another size in some trials, and "
            "what it computes is a function of the user's own"
        )
    contents = tuple([worst(result.aval) for result in step.results])
    tame = tuple([is_whole(result.aval) for result in step.results])
    return Plan(unmasked(step), contents, tame)


def _emit(step: Step, operands: Sequence[Any], lane_sizes: Any) -> list[Any]:
    slid = _slid(step.params)
    fronts = [
        to_front(operand, place, slid, neutral, lane_sizes)
        for operand, place, neutral in zip(operands, step.operands, _neutrals(step))
    ]
    (result,) = step.bind(step.equation, fronts)
    return [from_front(result, step.results[0], slid, lane_sizes)]


_PLANS: Mapping[str, Callable[[Step], Plan]] = {
    "reduce_window_sum": _plan_sum,
    "reduce_window_max": _plan_choice,
    "reduce_window_min": _plan_choice,
    "select_and_scatter_add": _plan_scatter,
    "select_and_gather_add": _plan_gather,
}

RULES: Mapping[str, Rule] = {
    **{name: Rule(_relate, plan, _emit) for name, plan in _PLANS.items()},
    "reduce_window": Rule(_relate, _plan_general),
}
