"""Parts of arrays, and arrays with borders: `slice` and `pad`.

Both move the entries of each axis by an offset. An axis that is cut into
pieces of varying sizes, such as the halves of a gated unit, gets a layout of pieces, in
which the envelope's own equation moves every member's entries right. All else is moved
from any layout to any other: where the envelope's equation does not (the last entry of
an axis lies elsewhere in every member), entries are gathered at the lane's own offset.
"""

import dataclasses
import functools
import itertools
from collections.abc import Hashable, Mapping, Sequence
from typing import Any, Literal, NamedTuple

import jax.numpy as jnp
import numpy as np

from vtune.fusion.family import Site
from vtune.fusion.layout import Layout, Reversed, Sizes, Tail, vectors
from vtune.fusion.placement import (
    axis_index,
    narrow_index,
    narrow_size,
    positions,
    to_wide_index,
)
from vtune.fusion.refusal import Refusal
from vtune.fusion.rules.contents import Contents, Known, join
from vtune.fusion.rules.nodes import Definition, Nodes
from vtune.fusion.rules.rule import Plan, Rule, Step, masked, unmasked


class _Move(NamedTuple):
    """How one axis of a result is read from that of the operand.

    Entry `i` of the result is entry `(stride * i - low) / dilation` of the operand, if
    there is one, else the padding value.

    Args:
        source: where the operand's entries lie.
        target: where the result's entries lie.
        low: how many entries the envelope has before the operand's first; of a slice,
            which leaves entries out, negative.
        stride: of a slice, how far its entries are apart.
        dilation: of a pad, how far the operand's entries are apart afterwards.
        pads: whether there are padding values.
    """

    source: Layout
    target: Layout
    low: int
    stride: int
    dilation: int
    pads: bool

    @property
    def anchor(self) -> "_Anchor":
        """What `low` is measured from."""
        stepped = self.stride != 1 or self.dilation != 1
        return _anchor(self.low, self.source.sizes, self.target.sizes, stepped)


class _Fit(NamedTuple):
    """What the envelope's own equation does with one axis.

    Args:
        plain: it puts every live entry where it belongs.
        fills: the operand's padding lands where padding values belong.
        leaks: live entries of the operand can land in the result's padding.
    """

    plain: bool
    fills: bool
    leaks: bool


# What the offset of an axis is measured from, as far as its sizes tell it: `"start"` if
# `_Move.low` is the same for all members, `"end"` if all that is added (or left out)
# comes before the operand (or the part), None if neither is known.
_Anchor = Literal["start", "end"] | None


def _anchor(low: int, source: Sizes, target: Sizes, stepped: bool) -> _Anchor:
    rest = {t - s for s, t in zip(source, target, strict=True)}
    if stepped or low == 0 or len(rest) == 1:
        return "start"
    return "end" if low == target[-1] - source[-1] else None


def _relate(
    nodes: Nodes, source: int, target: int, lows: Sizes, stepped: bool = False
) -> None:
    """Relates an axis before and after a slice or a pad.

    Args:
        nodes: all axes.
        source: the operand's.
        target: the result's.
        lows: `_Move.low` of every member.
        stepped: whether entries are taken or put at a distance.

    Raises:
        Refusal: if it begins where no rule can find it.
    """
    before, after = nodes.sizes(source), nodes.sizes(target)
    if before == after and not any(lows):
        nodes.same(source, target)
        return
    rest = tuple([b - a for a, b in zip(before, after, strict=True)])
    anchor = _anchor(lows[-1], before, after, stepped)
    if anchor and lows != (rest if anchor == "end" else (lows[-1],) * len(lows)):
        raise Refusal(
            f"it begins {_shown(lows)} from the beginning of an axis of "
            f"{_shown(before)} entries, and so not in the same way in all trials"
        )
    highs = tuple([r - low for r, low in zip(rest, lows)])
    grows = min(*lows, *highs) >= 0
    divides = (grows or max(*lows, *highs) <= 0) and all(
        abs(width) <= abs(widths[-1]) for widths in (lows, highs) for width in widths
    )
    whole, part = (target, source) if grows else (source, target)
    start = tuple(map(abs, lows))
    if divides and not stepped and _is_piece(nodes, whole, start, part):
        return
    # A fixed part of an axis, or all but a fixed part, is found without pieces, and an
    # axis that is made of others may not be made of such pieces, too.
    fixed = not nodes.varies(part) or len(set(rest)) == 1
    made = nodes.find(whole) in nodes.definitions
    if anchor and (fixed or stepped or made or not divides):
        return
    if not divides:
        raise Refusal(
            f"it leaves {_shown(after)} of {_shown(before)} entries, and narrow trials "
            f"leave out more than the widest"
        )
    nodes.cut(whole, start, part)


def _is_piece(nodes: Nodes, whole: int, start: Sizes, part: int) -> bool:
    """Relates a part to what was put together, if it is some of that.

    So it is with the gradient of a concatenation.
    """
    zeros = (0,) * len(start)
    end = _plus(start, nodes.sizes(part))
    for definition in nodes.definitions.get(nodes.find(whole), ()):
        pieces = definition.parts
        points = list(
            itertools.accumulate(map(nodes.sizes, pieces), _plus, initial=zeros)
        )
        if definition.kind != "concatenation" or not {start, end} <= set(points):
            continue
        inside = pieces[points.index(start) : points.index(end)]
        if len(inside) == 1:
            nodes.same(inside[0], part)
        elif inside:
            nodes.define(part, Definition("concatenation", inside))
        return True
    return False


def _plus(first: Sizes, second: Sizes) -> Sizes:
    return tuple([a + b for a, b in zip(first, second, strict=True)])


def _relate_slice(site: Site, nodes: Nodes) -> None:
    (operand,), (result,) = site.inputs, site.outputs
    starts = list(zip(*site.parameters("start_indices"), strict=True))
    for axis, stride in enumerate(_strides(site.wide.params)):
        lows = tuple([-int(start) for start in starts[axis]])
        stepped = stride != 1
        _relate(nodes, operand.axes[axis], result.axes[axis], lows, stepped)


def _relate_pad(site: Site, nodes: Nodes) -> None:
    operand, (result,) = site.inputs[0], site.outputs
    columns = zip(*site.parameters("padding_config"), strict=True)
    for source, target, column in zip(operand.axes, result.axes, columns, strict=True):
        lows = tuple([int(low) for low, _, _ in column])
        stepped = int(column[-1][2]) != 0
        _relate(nodes, source, target, lows, stepped)


def _strides(params: Mapping[str, Any]) -> tuple[int, ...]:
    strides = params["strides"] or (1,) * len(params["start_indices"])
    return tuple(map(int, strides))


def _moves(step: Step) -> list[_Move]:
    sources, targets = step.operands[0].layouts, step.results[0].layouts
    if step.equation.primitive.name == "slice":
        starts, strides = step.params["start_indices"], _strides(step.params)
        lows = [-int(start) for start in starts]
        return [
            _Move(source, target, low, stride, 1, False)
            for source, target, low, stride in zip(sources, targets, lows, strides)
        ]
    config = step.params["padding_config"]
    return [
        _Move(source, target, int(low), 1, int(between) + 1, True)
        for source, target, (low, _, between) in zip(sources, targets, config)
    ]


@functools.lru_cache(maxsize=4096)
def _fit(move: _Move) -> _Fit:
    """Tries the envelope's equation for every member.

    It is also tried for sizes that no member has, so that it is not right by accident:
    a program is used again for other members if their layouts look alike.
    """
    if not move.source.varies and not move.target.varies:
        return _Fit(True, False, False)
    leaves = vectors((move.source, move.target))
    columns = list(dict.fromkeys(zip(*leaves, strict=True)))
    fits = [_fit_for(move, leaves, column) for column in columns]
    generator = np.random.default_rng(0)
    tried = zip(*[generator.integers(min(s), max(s), 8, endpoint=True) for s in leaves])
    fits += [_fit_for(move, leaves, column) for column in tried]
    plain = move.anchor is None or all(fit.plain for fit in fits)
    known = fits[: len(columns)]
    return _Fit(
        plain,
        move.anchor is not None and any(fit.fills for fit in known),
        not plain or any(fit.leaks for fit in known),
    )


def _fit_for(move: _Move, leaves: Sequence[Sizes], column: Sequence[int]) -> _Fit:
    sizes = dict(zip(leaves, column, strict=True))
    source = positions(_resized(move.source, sizes), 0)
    target = positions(_resized(move.target, sizes), 0)
    low = move.low if move.anchor == "start" else len(target) - len(source)
    inside, index = _read(move, np.arange(len(target)), low, len(source))
    every = np.arange(move.target.wide)
    found, place = _read(move, every, move.low, move.source.wide)
    alive = np.isin(place, source) & found
    right = np.full(len(target), not move.pads)
    right[inside] = found[target][inside] & (
        place[target][inside] == source[index[inside]]
    )
    fill = ~inside if move.pads else np.zeros(len(target), bool)
    right[fill] = ~alive[target][fill]
    fills = bool((found[target] & fill).any())
    leaks = bool(np.delete(alive, target).any())
    return _Fit(bool(right.all()), fills, leaks)


def _read(move: _Move, index: Any, low: Any, size: Any) -> tuple[Any, Any]:
    """Which entry of the operand is read, and whether there is one."""
    index = move.stride * index - low
    inside = (index >= 0) & (index < move.dilation * size)
    if move.dilation != 1:
        inside &= index % move.dilation == 0
        index = index // move.dilation
    return inside, index


def _resized(layout: Layout, sizes: Mapping[Sizes, int]) -> Layout:
    """A layout for one member of certain sizes, and the envelope."""
    if isinstance(layout, Tail):
        return Tail(None, (int(sizes.get(layout.sizes, layout.wide)), layout.wide))
    if isinstance(layout, Reversed):
        return Reversed(_resized(layout.part, sizes))
    parts = tuple([_resized(part, sizes) for part in layout.parts])
    return dataclasses.replace(layout, parts=parts)


def _gathered(
    value: Any, move: _Move, axis: int, lane_sizes: Any, fill: Any = None
) -> Any:
    """Moves the entries of one axis to where the lane has them."""
    numbers = jnp.arange(move.target.wide, dtype=jnp.int32)
    index = narrow_index(move.target, lane_sizes, numbers)
    low, size = move.low, narrow_size(move.source, lane_sizes)
    if move.anchor == "end":
        low = narrow_size(move.target, lane_sizes) - size
    inside, index = _read(move, index, low, size)
    places = to_wide_index(move.source, lane_sizes, jnp.maximum(index, 0))
    value = jnp.take(value, places, axis, mode="clip")
    if fill is None:
        return value
    alone = axis_index(axis, value.shape).shape
    return jnp.where(inside.reshape(alone), value, fill)


def _plan_slice(step: Step) -> Plan:
    (operand,) = step.operands
    leaks = any(_fit(move).leaks for move in _moves(step))
    contents = operand.everywhere if leaks else operand.contents
    return Plan(unmasked(step), (contents,), (operand.tame,), _variant(step))


def _variant(step: Step) -> Hashable:
    return tuple([(_fit(move), move.anchor) for move in _moves(step)])


def _emit_slice(step: Step, operands: Sequence[Any], lane_sizes: Any) -> list[Any]:
    moves = _moves(step)
    (value,) = operands
    spans = zip(
        step.params["start_indices"],
        step.params["limit_indices"],
        _strides(step.params),
        strict=True,
    )
    # Axes that are gathered are left whole before.
    spans = [
        span if _fit(move).plain else (0, move.source.wide, 1)
        for span, move in zip(spans, moves, strict=True)
    ]
    starts, limits, strides = zip(*spans, strict=True)
    changed = dict(start_indices=starts, limit_indices=limits, strides=strides)
    params = {**step.params, **changed}
    equation = dataclasses.replace(step.equation, params=params)
    (value,) = step.bind(equation, [value])
    for axis, move in enumerate(moves):
        if not _fit(move).plain:
            value = _gathered(value, move, axis, lane_sizes)
    return [value]


def _plan_pad(step: Step) -> Plan:
    operand, border = step.operands
    fits = list(map(_fit, _moves(step)))
    masks: list[Any] = [None, None]
    contents: Contents = operand.contents
    if any(fit.plain and fit.fills for fit in fits):
        if border.value is None:
            contents = border.spread
        elif contents != Known(border.value):
            masks[0], contents = border.value, Known(border.value)
    if any(fit.leaks for fit in fits):
        contents = join(contents, operand.spread)
    contents = join(contents, border.spread)
    tame = operand.tame and border.tame
    return Plan(tuple(masks), (contents,), (tame,), _variant(step))


def _emit_pad(step: Step, operands: Sequence[Any], lane_sizes: Any) -> list[Any]:
    moves = _moves(step)
    fits = list(map(_fit, moves))
    value, border = operands
    if step.operands[1].value is None and any(fit.plain and fit.fills for fit in fits):
        # No number that the plan could have masked it with.
        value = masked(value, step.operands[0], border, lane_sizes)
    config = tuple(
        [
            widths if fit.plain else (0, 0, 0)
            for widths, fit in zip(step.params["padding_config"], fits, strict=True)
        ]
    )
    params = {**step.params, "padding_config": config}
    equation = dataclasses.replace(step.equation, params=params)
    (value,) = step.bind(equation, [value, border])
    for axis, (move, fit) in enumerate(zip(moves, fits, strict=True)):
        if not fit.plain:
            value = _gathered(value, move, axis, lane_sizes, border)
    return [value]


def _shown(sizes: Sequence[int]) -> str:
    """Some sizes, each once."""
    several = [str(size) for size in dict.fromkeys(sizes)]
    return ", ".join(several[:4]) + (", ..." if len(several) > 4 else "")


RULES: Mapping[str, Rule] = {
    "slice": Rule(_relate_slice, _plan_slice, _emit_slice),
    "pad": Rule(_relate_pad, _plan_pad, _emit_pad),
}
