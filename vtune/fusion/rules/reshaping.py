"""What arranges entries anew: every live entry stays one, and padding padding.

The envelope's own equation does it, since axes are placed so that it does; only an axis
that is reversed may lie as it did before, and is then gathered from its end.
"""

import dataclasses
import functools
from collections.abc import Mapping, Sequence
from typing import Any

import jax.numpy as jnp

from vtune.fusion.family import Operand, Site
from vtune.fusion.layout import Reversed, normal
from vtune.fusion.placement import narrow_index, narrow_size, to_wide_index
from vtune.fusion.refusal import Refusal
from vtune.fusion.rules import slicing
from vtune.fusion.rules.contents import Contents, join
from vtune.fusion.rules.nodes import Definition, Nodes
from vtune.fusion.rules.rule import Place, Plan, Rule, Step, unmasked


def _relate_broadcast(site: Site, nodes: Nodes) -> None:
    operand, (result,) = site.inputs[0], site.outputs
    for before, number in zip(operand.axes, site.wide.params["broadcast_dimensions"]):
        after = result.axes[number]
        if nodes.sizes(before) == nodes.sizes(after):
            nodes.same(before, after)
        elif nodes.varies(before):
            raise Refusal(
                "an axis has one entry in some trials, which is repeated, and several "
                "in others, which are not"
            )


def _plan_broadcast(step: Step) -> Plan:
    operand, (result,) = step.operands[0], step.results
    kept = {
        number: operand.layouts[axis].wide == result.layouts[number].wide
        for axis, number in enumerate(step.params["broadcast_dimensions"])
    }
    spreads = any(
        result.varies(axis) and not kept.get(axis, False)
        for axis in range(len(result.layouts))
    )
    return _moved(step, operand.everywhere if spreads else operand.contents)


def _relate_reshape(site: Site, nodes: Nodes) -> None:
    operand, (result,) = site.inputs[0], site.outputs
    order = site.wide.params["dimensions"] or range(len(operand.axes))
    before = [operand.axes[axis] for axis in order]
    counts = zip(*map(nodes.sizes, (*operand.axes, *result.axes)))
    # What is empty in all trials has no entry that would have to be somewhere.
    if not all(0 in sizes for sizes in counts):
        nodes.reshape(before, result.axes)


def _relate_transpose(site: Site, nodes: Nodes) -> None:
    (operand,), (result,) = site.inputs, site.outputs
    for after, number in zip(result.axes, site.wide.params["permutation"]):
        nodes.same(operand.axes[number], after)


def _relate_squeeze(site: Site, nodes: Nodes) -> None:
    (operand,), (result,) = site.inputs, site.outputs
    dropped = {d % len(operand.axes) for d in site.wide.params["dimensions"]}
    kept = [node for axis, node in enumerate(operand.axes) if axis not in dropped]
    for before, after in zip(kept, result.axes, strict=True):
        nodes.same(before, after)


def _relate_concatenate(site: Site, nodes: Nodes) -> None:
    (result,) = site.outputs
    _join(nodes, result, site.inputs, site.wide.params["dimension"])


def _relate_split(site: Site, nodes: Nodes) -> None:
    (operand,) = site.inputs
    _join(nodes, operand, site.outputs, site.wide.params["axis"])


def _join(nodes: Nodes, whole: Operand, parts: Sequence[Operand], axis: int) -> None:
    """Relates an array to those that stand one after another in it."""
    for part in parts:
        for number, (first, second) in enumerate(
            zip(whole.axes, part.axes, strict=True)
        ):
            if number != axis:
                nodes.same(first, second)
    pieces = tuple([part.axes[axis] for part in parts])
    if len(pieces) == 1:
        nodes.same(whole.axes[axis], pieces[0])
    else:
        nodes.define(whole.axes[axis], Definition("concatenation", pieces))


def _relate_stack(site: Site, nodes: Nodes) -> None:
    (result,) = site.outputs
    _layer(nodes, result, site.inputs, site.wide.params["axis"])


def _relate_unstack(site: Site, nodes: Nodes) -> None:
    (operand,) = site.inputs
    _layer(nodes, operand, site.outputs, site.wide.params["axis"])


def _layer(nodes: Nodes, whole: Operand, layers: Sequence[Operand], axis: int) -> None:
    """Relates an array to those that lie upon another in it."""
    axis %= len(whole.axes)
    kept = [node for number, node in enumerate(whole.axes) if number != axis]
    for layer in layers:
        for first, second in zip(kept, layer.axes, strict=True):
            nodes.same(first, second)


def _relate_reverse(site: Site, nodes: Nodes) -> None:
    (operand,), (result,) = site.inputs, site.outputs
    for axis, (before, after) in enumerate(zip(operand.axes, result.axes)):
        # An axis that is added to itself backwards can only lie in one way.
        if axis not in site.wide.params["dimensions"]:
            nodes.same(before, after)


def _gathered_backwards(step: Step) -> list[int]:
    """The axes that the envelope's own equation does not reverse in place."""
    (operand,), (result,) = step.operands, step.results
    return [
        axis
        for axis in step.params["dimensions"]
        if normal(Reversed(operand.layouts[axis])) != normal(result.layouts[axis])
    ]


def _plan_reverse(step: Step) -> Plan:
    (operand,) = step.operands
    leaks = bool(_gathered_backwards(step))
    contents = operand.everywhere if leaks else operand.contents
    return Plan(unmasked(step), (contents,), (operand.tame,))


def _emit_reverse(step: Step, operands: Sequence[Any], lane_sizes: Any) -> list[Any]:
    gathered = _gathered_backwards(step)
    kept = tuple([d for d in step.params["dimensions"] if d not in gathered])
    params = {**step.params, "dimensions": kept}
    equation = dataclasses.replace(step.equation, params=params)
    (value,) = step.bind(equation, operands)
    for axis in gathered:
        source, target = step.operands[0].layouts[axis], step.results[0].layouts[axis]
        numbers = jnp.arange(target.wide, dtype=jnp.int32)
        last = narrow_size(source, lane_sizes) - 1
        index = jnp.maximum(last - narrow_index(target, lane_sizes, numbers), 0)
        places = to_wide_index(source, lane_sizes, index)
        value = jnp.take(value, places, axis, mode="clip")
    return [value]


def _relate_tile(site: Site, nodes: Nodes) -> None:
    (operand,), (result,) = site.inputs, site.outputs
    counts = list(zip(*site.parameters("reps"), strict=True))
    for before, after, count in zip(operand.axes, result.axes, counts, strict=True):
        count = tuple(map(int, count))
        if set(count) == {1}:
            nodes.same(before, after)
        else:
            parts = (nodes.add(count), before)
            nodes.define(after, Definition("product", parts))


def _plan_tile(step: Step) -> Plan:
    operand, (result,) = step.operands[0], step.results
    sizes = [
        (before.sizes, after.sizes)
        for before, after in zip(operand.layouts, result.layouts, strict=True)
    ]
    # Where the number of repetitions varies, padding are repetitions too many.
    spreads = any(
        any(n * before[-1] != after[-1] * m for m, n in zip(before, after))
        for before, after in sizes
    )
    return _moved(step, operand.everywhere if spreads else operand.contents)


def _plan_joined(step: Step) -> Plan:
    contents: Contents = functools.reduce(
        join, [operand.contents for operand in step.operands]
    )
    return _moved(step, contents)


def _plan_moved(step: Step) -> Plan:
    return _moved(step, step.operands[0].contents)


def _moved(step: Step, contents: Contents) -> Plan:
    tame = all(map(_is_tame, step.operands))
    count = len(step.results)
    return Plan(unmasked(step), (contents,) * count, (tame,) * count)


def _is_tame(place: Place) -> bool:
    return place.tame


RULES: Mapping[str, Rule] = {
    "broadcast_in_dim": Rule(_relate_broadcast, _plan_broadcast),
    "reshape": Rule(_relate_reshape, _plan_moved),
    "transpose": Rule(_relate_transpose, _plan_moved),
    "squeeze": Rule(_relate_squeeze, _plan_moved),
    "concatenate": Rule(_relate_concatenate, _plan_joined),
    "split": Rule(_relate_split, _plan_moved),
    "stack": Rule(_relate_stack, _plan_joined),
    "unstack": Rule(_relate_unstack, _plan_moved),
    "rev": Rule(_relate_reverse, _plan_reverse, _emit_reverse),
    "tile": Rule(_relate_tile, _plan_tile),
    **slicing.RULES,
}
