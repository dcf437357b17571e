"""Running a lane inside the envelope."""

import dataclasses
from collections.abc import Sequence
from typing import Any

import jax.numpy as jnp
from jaxtyping import Array, Int

from vtune.fusion import internals
from vtune.fusion.evaluate import Bind, Run, as_declared, control_flow, noted
from vtune.fusion.flat import Atom, Variable
from vtune.fusion.padding import Planned, PlannedBody
from vtune.fusion.placement import live
from vtune.fusion.rules.rule import masked
from vtune.fusion.widening import WideFunction


def evaluate_wide(
    function: WideFunction,
    lifted: Sequence[Any],
    lane_sizes: Int[Array, " sizes"],
    *inputs: Any,
    bind: Bind = internals.bind,
) -> list[Any]:
    """Computes a function for one lane inside the envelope.

    Args:
        function: the function.
        lifted: the constants that are handed in, in the shapes of the envelope.
        lane_sizes: the lane's own sizes, from `Widening.lane_sizes`.
        *inputs: the flat arguments, in the shapes of the envelope.
        bind: computes an equation: as it is, or by an equal, faster one.

    Returns:
        The flat results, none of them weakly typed. The live entries are those that
        the lane's own function has.
    """
    constants = list(function.flat.constants)
    for slot, value in zip(function.slots, lifted, strict=True):
        constants[slot] = value
    inputs = tuple(map(as_declared, inputs, function.flat.in_avals))
    results = _run(function.body, constants, lane_sizes, inputs, bind)
    results = list(map(as_declared, results, function.flat.out_avals))
    for number, place in enumerate(function.body.results):
        if function.resets[number]:
            results[number] = masked(results[number], place, 0, lane_sizes)
    return results


def _run(
    body: PlannedBody,
    constants: Sequence[Any],
    lane_sizes: Any,
    inputs: Sequence[Any],
    bind: Bind,
) -> list[Any]:
    environment: dict[Atom, Any] = dict(zip(body.inputs, inputs, strict=True))

    def read(atom: Atom) -> Any:
        return environment[atom] if isinstance(atom, Variable) else constants[atom.slot]

    for planned in body.equations:
        operands = list(map(read, planned.atoms))
        with noted(planned.equation):
            results = _apply(planned, constants, lane_sizes, operands, bind)
            for number, zeros in enumerate(planned.resets):
                if zeros is not None:
                    place = planned.step.results[number]
                    zeros = zeros if isinstance(zeros, int) else environment[zeros]
                    results[number] = masked(results[number], place, zeros, lane_sizes)
        environment.update(zip(planned.equation.outputs, results))
    return [read(atom) for atom in body.outputs]


def _apply(
    planned: Planned,
    constants: Sequence[Any],
    lane_sizes: Any,
    operands: list[Any],
    bind: Bind,
) -> list[Any]:
    if planned.bodies:

        def runner(body: PlannedBody) -> Run:
            return lambda *inputs: _run(body, constants, lane_sizes, inputs, bind)

        runs = list(map(runner, planned.bodies))
        steps = None
        if planned.length is not None:
            numbers = jnp.arange(planned.length.wide, dtype=jnp.int32)
            steps = live(planned.length, lane_sizes, numbers)
        return control_flow(planned.equation, runs, operands, steps)
    if planned.rule is None:
        return bind(planned.equation, operands)
    operands = [
        value if mask is None else masked(value, place, mask, lane_sizes)
        for value, place, mask in zip(operands, planned.step.operands, planned.masks)
    ]
    step = dataclasses.replace(planned.step, bind=bind)
    return planned.rule.emit(step, operands, lane_sizes)
