"""Sums, products, maxima and the like over whole axes."""

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from vtune.fusion.family import Site
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
from vtune.fusion.rules.elementwise import has_range
from vtune.fusion.rules.nodes import Nodes
from vtune.fusion.rules.rule import Plan, Rule, Step, highest, lowest


def _relate(site: Site, nodes: Nodes) -> None:
    axes = site.wide.params["axes"]
    first = site.inputs[0].axes
    for operand in site.inputs[1:]:
        for a, b in zip(first, operand.axes):
            nodes.same(a, b)
    kept = [node for axis, node in enumerate(first) if axis not in axes]
    for result in site.outputs:
        for a, b in zip(kept, result.axes, strict=True):
            nodes.same(a, b)


def _zero(dtype: Any) -> Any:
    return np.zeros((), dtype)


def _one(dtype: Any) -> Any:
    return np.ones((), dtype)


def _planner(
    neutral: Callable[[Any], Any],
    kept: Callable[[Known | Unknown], Known | Unknown],
    stays: Callable[[Contents], bool] = lambda contents: False,
) -> Callable[[Step], Plan]:
    """A plan for one kind of reduction.

    Args:
        neutral: what it is not changed by.
        kept: what the reduction of padding alone holds.
        stays: whether padding of these contents is neutral already.
    """

    def plan(step: Step) -> Plan:
        (operand,) = step.operands
        reduced = any(operand.varies(axis) for axis in step.params["axes"])
        mask, contents = None, operand.contents
        if reduced and not stays(contents):
            mask = neutral(operand.aval.dtype)
            contents = ANY if not np.isfinite(float(mask)) else Known(mask)
        found = ANY if contents is None else kept(contents)
        tame = operand.tame and has_range(operand.aval)
        return Plan((mask,), (found,), (tame,))

    return plan


def _of_sum(contents: Known | Unknown) -> Known | Unknown:
    return ZERO if is_zero(contents) else ANY


def _of_selection(contents: Known | Unknown) -> Known | Unknown:
    return contents


def _of_product(contents: Known | Unknown) -> Known | Unknown:
    one = isinstance(contents, Known) and contents.value == 1
    return contents if one or is_zero(contents) else ANY


def _of_parity(contents: Known | Unknown) -> Known | Unknown:
    return contents if is_zero(contents) else FINITE


def _refuse(step: Step) -> Plan:
    axes = step.params.get("axes", step.params.get("dimensions"))
    if any(o.varies(axis) for o in step.operands if o.layouts for axis in axes):
        raise Refusal(
            "a reduction by a function of the user's own would also reduce padding"
        )
    masks = (None,) * len(step.operands)
    count = len(step.results)
    return Plan(masks, (ANY,) * count, (False,) * count)


def _relate_general(site: Site, nodes: Nodes) -> None:
    axes = site.wide.params["dimensions"]
    count = len(site.outputs)
    first = site.inputs[0].axes
    for operand in site.inputs[:count]:
        for a, b in zip(first, operand.axes, strict=True):
            nodes.same(a, b)
    kept = [node for axis, node in enumerate(first) if axis not in axes]
    for result in site.outputs:
        for a, b in zip(kept, result.axes, strict=True):
            nodes.same(a, b)


RULES: Mapping[str, Rule] = {
    "reduce_sum": Rule(_relate, _planner(_zero, _of_sum, is_zero)),
    "reduce_max": Rule(_relate, _planner(lowest, _of_selection)),
    "reduce_min": Rule(_relate, _planner(highest, _of_selection)),
    "reduce_prod": Rule(_relate, _planner(_one, _of_product)),
    "reduce_and": Rule(_relate, _planner(highest, _of_selection)),
    "reduce_or": Rule(_relate, _planner(lowest, _of_selection)),
    "reduce_xor": Rule(_relate, _planner(_zero, _of_parity, is_zero)),
    "reduce": Rule(_relate_general, _refuse),
}
