"""Matrix products."""

from collections.abc import Mapping
from typing import Any

from vtune.fusion.family import Site
from vtune.fusion.rules.contents import ANY, ZERO, Contents, is_zero
from vtune.fusion.rules.elementwise import has_range
from vtune.fusion.rules.nodes import Nodes
from vtune.fusion.rules.rule import Place, Plan, Rule, Step


def _relate(site: Site, nodes: Nodes) -> None:
    (contracted, batch) = site.wide.params["dimension_numbers"]
    left, right = site.inputs[0].axes, site.inputs[1].axes
    for pairs in (contracted, batch):
        for first, second in zip(*pairs, strict=True):
            nodes.same(left[first], right[second])
    kept = [left[axis] for axis in batch[0]]
    kept += [a for i, a in enumerate(left) if i not in (*contracted[0], *batch[0])]
    kept += [a for i, a in enumerate(right) if i not in (*contracted[1], *batch[1])]
    for axis, result in zip(kept, site.outputs[0].axes, strict=True):
        nodes.same(axis, result)


def _plan(step: Step) -> Plan:
    (contracted, batch) = step.params["dimension_numbers"]
    left, right = step.operands[:2]
    summed = any(left.varies(axis) for axis in contracted[0])
    masks = product_masks(left, right, summed)
    first, second = (after(p, m) for p, m in zip((left, right), masks))
    free = [
        any(
            place.varies(axis)
            for axis in range(len(place.layouts))
            if axis not in (*contracted[side], *batch[side])
        )
        for side, place in enumerate((left, right))
    ]
    zero = (
        is_zero(first)
        or is_zero(second)
        or not any(left.varies(axis) for axis in batch[0])
    )
    zero &= not free[0] or vanishes(first, right, second)
    zero &= not free[1] or vanishes(second, left, first)
    tame = left.tame and right.tame and has_range(step.results[0].aval)
    return Plan(masks, (ZERO if zero else ANY,), (tame,))


def product_masks(left: Place, right: Place, summed: bool) -> tuple[Any, Any]:
    """Which factors are masked where products are summed over padding.

    Zero times padding is zero only if the other factor is proved finite there.

    Args:
        left: one factor.
        right: the other.
        summed: whether a padded axis is summed over.

    Returns:
        0 for a factor that is to be masked, None for one that is not.
    """
    if not summed:
        return None, None
    first, second = left.contents, right.contents
    if is_zero(first) or (second is ANY and first is not ANY):
        return None, (0 if second is ANY else None)
    if is_zero(second) or (first is ANY and second is not ANY):
        return (0 if first is ANY else None), None
    return 0, (0 if second is ANY else None)


def after(place: Place, mask: Any) -> Contents:
    """What the padding of an operand holds once it is masked."""
    return ZERO if mask is not None and place.padded else place.contents


def vanishes(factor: Contents, other: Place, masked: Contents) -> bool:
    """Whether a factor's padding makes zero of all entries of the other one.

    Args:
        factor: what the padding of the one holds.
        other: the other factor, which it meets in live entries and in padding.
        masked: what the padding of the other one holds, after masking.
    """
    return is_zero(factor) and other.tame and masked is not ANY


RULES: Mapping[str, Rule] = {"dot_general": Rule(_relate, _plan)}
