"""Convolutions of all kinds: strided, dilated, grouped, transposed, and gradients."""

import enum
from collections.abc import Mapping, Sequence
from typing import Any

from vtune.fusion.family import Site
from vtune.fusion.refusal import Refusal
from vtune.fusion.rules.contents import ANY, ZERO, Contents, is_zero
from vtune.fusion.rules.contraction import after, vanishes
from vtune.fusion.rules.elementwise import has_range
from vtune.fusion.rules.nodes import Definition, Nodes, Sizes
from vtune.fusion.rules.rule import Plan, Rule, Step, is_whole
from vtune.fusion.rules.windows import from_front, to_front, worst


class _Kind(enum.Enum):
    """What a convolution does along a spatial axis."""

    KEPT = "the kernel has one entry there, and what is convolved stays as it is"
    SUMMED = "there is one result, the sum of products of the same entries"
    SLID = "the kernel slides"


def _kinds(
    params: Mapping[str, Any],
    left: Sequence[Sizes],
    right: Sequence[Sizes],
    result: Sequence[Sizes],
) -> list[_Kind]:
    """The kind of each spatial axis, from the sizes of all axes of the arrays."""
    numbers = params["dimension_numbers"]
    every = zip(
        numbers.lhs_spec[2:],
        numbers.rhs_spec[2:],
        numbers.out_spec[2:],
        params["window_strides"],
        params["padding"],
        params["lhs_dilation"],
        params["rhs_dilation"],
        strict=True,
    )
    kinds = []
    for i, j, k, stride, border, left_dilation, right_dilation in every:
        plain = tuple(border) == (0, 0) and left_dilation == 1
        if plain and stride == 1 and set(right[j]) == {1}:
            kinds.append(_Kind.KEPT)
        elif (
            plain
            and right_dilation == 1
            and set(result[k]) == {1}
            and left[i] == right[j]
        ):
            kinds.append(_Kind.SUMMED)
        else:
            kinds.append(_Kind.SLID)
    return kinds


def _relate(site: Site, nodes: Nodes) -> None:
    params = site.wide.params
    numbers = params["dimension_numbers"]
    arrays = (*site.inputs[:2], site.outputs[0])
    specs = (numbers.lhs_spec, numbers.rhs_spec, numbers.out_spec)
    left, right, result = [
        [array.axes[axis] for axis in spec] for array, spec in zip(arrays, specs)
    ]
    nodes.same(right[0], result[1])
    _divide(nodes, site.parameters("feature_group_count"), left[1], right[1], result[1])
    _divide(nodes, site.parameters("batch_group_count"), left[0], result[0], result[1])
    sizes = [[nodes.sizes(node) for node in array.axes] for array in arrays]
    for place, kind in enumerate(_kinds(params, *sizes), 2):
        if kind is _Kind.KEPT:
            nodes.same(left[place], result[place])
        elif kind is _Kind.SUMMED:
            nodes.same(left[place], right[place])


def _divide(nodes: Nodes, counts: Sizes, whole: int, part: int, results: int) -> None:
    """Divides an axis into groups, each of which has its own share of the results.

    Args:
        nodes: the axes.
        counts: the number of groups.
        whole: the axis.
        part: the axis of one group's entries.
        results: the axis of the results of all groups.
    """
    if set(counts) == {1}:
        nodes.same(whole, part)
        return
    group = whole
    if set(nodes.sizes(part)) != {1}:
        group = nodes.add(counts)
        nodes.define(whole, Definition("product", (group, part)))
    each = _shares(nodes.sizes(results), counts)
    if set(each) == {1}:
        nodes.same(results, group)
    else:
        share = nodes.add(each)
        nodes.define(results, Definition("product", (group, share)))


def _shares(sizes: Sizes, counts: Sizes) -> Sizes:
    return tuple([n // max(count, 1) for n, count in zip(sizes, counts, strict=True)])


def _slid(step: Step, spec: Sequence[int], wanted: _Kind = _Kind.SLID) -> list[int]:
    """The axes of one array that are of one kind."""
    places = (*step.operands[:2], step.results[0])
    sizes = [[layout.sizes for layout in place.layouts] for place in places]
    kinds = _kinds(step.params, *sizes)
    return [axis for axis, kind in zip(spec[2:], kinds, strict=True) if kind is wanted]


def _plan(step: Step) -> Plan:
    left, right = step.operands[:2]
    (result,) = step.results
    numbers = step.params["dimension_numbers"]
    masks = _masks(step)
    first, second = after(left, masks[0]), after(right, masks[1])
    spills = any(result.varies(axis) for axis in _slid(step, numbers.out_spec))
    rows = [numbers.out_spec[0], *_slid(step, numbers.out_spec, _Kind.KEPT)]
    zero = not spills
    zero &= not any(map(result.varies, rows)) or vanishes(first, right, second)
    zero &= (
        not result.varies(numbers.out_spec[1])
        or vanishes(second, left, first)
        or (_padded_by_groups(step) and _vanish(first, second))
    )
    tame = left.tame and right.tame and has_range(result.aval)
    found = ZERO if zero else worst(result.aval)
    return Plan(masks, (found,), (tame or is_whole(result.aval),))


def _masks(step: Step) -> tuple[Any, ...]:
    left, right = step.operands[:2]
    numbers = step.params["dimension_numbers"]
    slides = any(map(left.varies, _slid(step, numbers.lhs_spec)))
    weighs = any(map(right.varies, _slid(step, numbers.rhs_spec)))
    if weighs and not left.tame:
        raise Refusal(
            "the window of a convolution has another size in some trials, and what it "
            "slides over might be infinite"
        )
    contracted = [numbers.rhs_spec[1], *_slid(step, numbers.rhs_spec, _Kind.SUMMED)]
    summed = any(map(right.varies, contracted))
    # XLA may compute groups of the batch as one convolution, in which zeros meet the
    # kernels of the other groups, even those of other trials.
    together = step.params["batch_group_count"] > 1
    # Behind its live entries, what a kernel slides over continues the border of the
    # narrow array, and a kernel has nothing but zeros.
    masks = [
        0 if (zero and not is_zero(held)) or (finite and held is ANY) else None
        for held, zero, finite in (
            (left.contents, slides, summed),
            (right.contents, weighs, summed or together),
        )
    ]
    if summed and not any(is_zero(after(p, m)) for p, m in zip((left, right), masks)):
        masks[1] = 0  # mostly the smaller of the two
    return tuple(masks)


def _padded_by_groups(step: Step) -> bool:
    """Whether padding among the results belongs to groups that are padding."""
    left, right = step.operands[:2]
    numbers = step.params["dimension_numbers"]
    features = step.results[0].layouts[numbers.out_spec[1]].sizes
    whole = left.layouts[numbers.lhs_spec[1]].sizes
    part = right.layouts[numbers.rhs_spec[1]].sizes
    if step.params["batch_group_count"] > 1:
        whole = left.layouts[numbers.lhs_spec[0]].sizes
        part = step.results[0].layouts[numbers.out_spec[0]].sizes
    shares = _shares(features, _shares(whole, part))
    return len(set(shares)) == 1


def _vanish(first: Contents, second: Contents) -> bool:
    """Whether products of padding are zero."""
    return (is_zero(first) or is_zero(second)) and ANY not in (first, second)


def _emit(step: Step, operands: Sequence[Any], lane_sizes: Any) -> list[Any]:
    numbers = step.params["dimension_numbers"]
    specs = (numbers.lhs_spec, numbers.rhs_spec)
    fronts = [
        to_front(operand, place, _slid(step, spec), 0, lane_sizes)
        for operand, place, spec in zip(operands, step.operands, specs)
    ]
    (result,) = step.bind(step.equation, fronts)
    axes = _slid(step, numbers.out_spec)
    return [from_front(result, step.results[0], axes, lane_sizes)]


RULES: Mapping[str, Rule] = {"conv_general_dilated": Rule(_relate, _plan, _emit)}
