"""Whether a trial's functions may run for many lanes at once, under `jax.vmap`."""

from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from vtune.fusion import internals
from vtune.fusion.constants import Slots
from vtune.fusion.evaluate import equation_of, evaluate
from vtune.fusion.flat import Body, Equation, FlatFunction
from vtune.fusion.trace import Trace


# The only generator whose draws under `vmap` are the draws of each lane alone.
_SAFE_GENERATOR = "threefry2x32"
_UNSAFE_DRAWS = frozenset({"rng_bit_generator", "rng_uniform"})


def lanes_by_map_reason(trace: Trace, slots: Slots | None = None) -> str | None:
    """Why lanes have to run one after another, under `jax.lax.map`.

    Nothing is computed or compiled; what remains after the known reasons is found by
    tracing each function under `vmap`.

    Args:
        trace: a trial's functions.
        slots: the constants that differ between lanes; None for none.

    Returns:
        None if lanes may run under `jax.vmap`, else the reason, a short sentence.
    """
    lifted = _no_slots(trace) if slots is None else _all_slots(slots)
    for flat in trace.functions:
        reason = _reason_within(flat)
        if reason is not None:
            return reason
    for flat, chosen in zip(trace.functions, lifted):
        reason = _reason_from_trying(flat, chosen)
        if reason is not None:
            return reason
    return None


def _no_slots(trace: Trace) -> list[tuple[int, ...]]:
    return [()] * len(trace.functions)


def _all_slots(slots: Slots) -> list[tuple[int, ...]]:
    return [slots.init, *slots.train, *slots.evaluate]


class _Operation(NamedTuple):
    """What matters here of an equation, flat or inside an opaque primitive."""

    name: str
    avals: Sequence[Any]
    effects: Any
    inside_cond: bool
    equation: Equation


def _reason_within(flat: FlatFunction) -> str | None:
    for aval in flat.in_avals:
        generator = internals.key_implementation(aval)
        if generator not in (None, _SAFE_GENERATOR):
            return _generator_reason(generator)
    for operation in _operations(flat.body):
        reason = _reason_of(operation)
        if reason is not None:
            line = operation.equation.line
            return f"{reason} ({line})" if line else reason
    return None


def _reason_of(operation: _Operation) -> str | None:
    if any(map(internals.is_ordered, operation.effects)):
        return f"`{operation.name}` is an ordered side effect"
    if operation.name in _UNSAFE_DRAWS:
        return _generator_reason(operation.name)
    for aval in operation.avals:
        generator = internals.key_implementation(aval)
        if generator not in (None, _SAFE_GENERATOR):
            return _generator_reason(generator)
    if operation.name == "while" and operation.inside_cond:
        return (
            "a `while` loop inside a `cond` may never end for a lane that does not "
            "take its branch"
        )
    return None


def _generator_reason(generator: str | None) -> str:
    return f"random numbers from `{generator}` are others under `vmap`"


def _operations(body: Body, inside_cond: bool = False) -> Iterator[_Operation]:
    for equation in body.equations:
        name = equation.primitive.name
        avals = [variable.aval for variable in equation.outputs]
        yield _Operation(name, avals, equation.effects, inside_cond, equation)
        within = inside_cond or name == "cond"
        for inner in equation.bodies:
            yield from _operations(inner, within)
        yield from _opaque_operations(equation, within)


def _opaque_operations(equation: Equation, inside_cond: bool) -> Iterator[_Operation]:
    inner = list(internals.inner_equations(equation.params))
    # The order of depths is lost here; a cond anywhere counts as around everything.
    within = inside_cond or any(e.primitive.name == "cond" for e in inner)
    for raw in inner:
        avals = [variable.aval for variable in raw.outvars]
        name = raw.primitive.name
        yield _Operation(name, avals, raw.effects, within, equation)


def _reason_from_trying(flat: FlatFunction, slots: tuple[int, ...]) -> str | None:
    def run(lifted: list[Any], inputs: list[Any]) -> list[Any]:
        return evaluate(flat, slots, lifted, *inputs)

    constants = [flat.constants[slot] for slot in slots]
    try:
        jax.eval_shape(
            jax.vmap(run), _in_lanes(constants), _in_lanes(list(flat.in_avals))
        )
    except Exception as error:
        # Whatever goes wrong, the answer is that it does not run under `vmap`.
        place = equation_of(error) or "an unknown equation"
        cause = (str(error).strip() or type(error).__name__).splitlines()[0]
        return f"`vmap` is refused by {place}: {cause}"
    return None


def _in_lanes(values: list[Any]) -> list[jax.ShapeDtypeStruct]:
    return [jax.ShapeDtypeStruct((2, *jnp.shape(v)), v.dtype) for v in values]
