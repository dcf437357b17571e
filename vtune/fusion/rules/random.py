"""Random keys and draws, and numbers that count."""

from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from vtune.fusion.family import Site
from vtune.fusion.placement import narrow_index
from vtune.fusion.randomness import narrow_bits, narrow_split, require_counters
from vtune.fusion.rules.contents import ANY, FINITE, Known
from vtune.fusion.rules.nodes import Nodes
from vtune.fusion.rules.rule import Plan, Rule, Step, relate_alike, unmasked


def _relate_leading(site: Site, nodes: Nodes) -> None:
    """The axes of the keys are the first ones of the result, or all."""
    for first, second in zip(site.inputs[0].axes, site.outputs[0].axes):
        nodes.same(first, second)


def _plan_bits(step: Step) -> Plan:
    (key,), (result,) = step.operands, step.results
    if any(layout.varies for layout in _drawn(step)):
        require_counters(key.aval, step.equation)
    zero = Known(np.zeros((), result.aval.dtype))
    return Plan(unmasked(step), (FINITE if key.padded else zero,), (True,))


def _emit_bits(step: Step, operands: Sequence[Any], lane_sizes: Any) -> list[Any]:
    layouts = _drawn(step)
    if not any(layout.varies for layout in layouts):
        return step.bind(step.equation, operands)
    return [narrow_bits(operands[0], step.params["bit_width"], layouts, lane_sizes)]


def _drawn(step: Step) -> Sequence[Any]:
    """The layouts of what one key draws."""
    return step.results[0].layouts[len(step.operands[0].layouts) :]


def _plan_split(step: Step) -> Plan:
    if any(layout.varies for layout in _drawn(step)):
        require_counters(step.operands[0].aval, step.equation)
    return Plan(unmasked(step), (FINITE,), (True,))


def _emit_split(step: Step, operands: Sequence[Any], lane_sizes: Any) -> list[Any]:
    layouts = _drawn(step)
    if not any(layout.varies for layout in layouts):
        return step.bind(step.equation, operands)
    return [narrow_split(operands[0], layouts, lane_sizes)]


def _plan_finite(step: Step) -> Plan:
    return Plan(unmasked(step), (FINITE,), (True,))


def _relate_nothing(site: Site, nodes: Nodes) -> None:
    del site, nodes


def _plan_iota(step: Step) -> Plan:
    whole = jnp.issubdtype(step.results[0].aval.dtype, jnp.integer)
    return Plan(unmasked(step), (FINITE if whole else ANY,), (True,))


def _emit_iota(step: Step, operands: Sequence[Any], lane_sizes: Any) -> list[Any]:
    (wide,) = step.bind(step.equation, operands)
    layout = step.results[0].layouts[step.params["dimension"]]
    if not layout.varies:
        return [wide]
    index = jax.lax.broadcasted_iota(jnp.int32, wide.shape, step.params["dimension"])
    return [narrow_index(layout, lane_sizes, index).astype(wide.dtype)]


RULES: Mapping[str, Rule] = {
    "random_bits": Rule(_relate_leading, _plan_bits, _emit_bits),
    "random_split": Rule(_relate_leading, _plan_split, _emit_split),
    "random_clone": Rule(relate_alike, _plan_finite),
    "random_fold_in": Rule(relate_alike, _plan_finite),
    "random_seed": Rule(relate_alike, _plan_finite),
    "random_wrap": Rule(_relate_leading, _plan_finite),
    "random_unwrap": Rule(_relate_leading, _plan_finite),
    "iota": Rule(_relate_nothing, _plan_iota, _emit_iota),
}
