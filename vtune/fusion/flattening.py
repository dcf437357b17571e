"""From a jaxpr to the flat form."""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from vtune.fusion import internals
from vtune.fusion.flat import Atom, Body, Constant, Equation, FlatFunction, Variable


def flatten(closed_jaxpr: Any, in_tree: Any, out_tree: Any) -> FlatFunction:
    """The flat form of a jaxpr.

    Equations that nobody reads and that have no side effect are left out, and so are
    conversions to the dtype that a value already has.

    Args:
        closed_jaxpr: what `jax.make_jaxpr` returns.
        in_tree: the structure of the arguments.
        out_tree: the structure of the result.

    Returns:
        The flat function, with the jaxpr's flat inputs and outputs.
    """
    slots = _Slots()
    body = _seal(_draft(closed_jaxpr, ()), slots)
    return FlatFunction(body, tuple(slots.values), in_tree, out_tree)


@dataclasses.dataclass(frozen=True, slots=True, eq=False)
class _Held:
    """A constant that has no slot yet."""

    value: Any
    aval: Any


_DraftAtom = Variable | _Held


class _DraftEquation(NamedTuple):
    """An `Equation` whose constants have no slots yet, and that nobody may read."""

    primitive: Any
    params: Mapping[str, Any]
    inputs: Sequence[_DraftAtom]
    outputs: tuple[Variable, ...]
    bodies: "tuple[_DraftBody, ...]"
    effects: Any
    context: Any
    sources: tuple[Any, ...]


class _DraftBody(NamedTuple):
    inputs: tuple[Variable, ...]
    equations: list[_DraftEquation]
    outputs: list[_DraftAtom]


def _draft(closed_jaxpr: Any, sources: tuple[Any, ...]) -> _DraftBody:
    jaxpr, constants = internals.open_jaxpr(closed_jaxpr)
    inputs = tuple(Variable(internals.strong(v.aval)) for v in jaxpr.invars)
    equations: list[_DraftEquation] = []
    outputs = _inline(jaxpr, constants, inputs, sources, equations)
    return _DraftBody(inputs, equations, outputs)


def _inline(
    jaxpr: Any,
    constants: Sequence[Any],
    arguments: Sequence[_DraftAtom],
    sources: tuple[Any, ...],
    equations: list[_DraftEquation],
) -> list[_DraftAtom]:
    """Appends a jaxpr's equations and returns its outputs.

    One jaxpr object may be called many times, and shares variables with the jaxpr
    around it, so every call has an environment of its own.
    """
    environment: dict[Any, _DraftAtom] = dict(zip(jaxpr.invars, arguments))
    for variable, value in zip(jaxpr.constvars, constants):
        environment[variable] = _held(value, variable.aval)

    def read(atom: Any) -> _DraftAtom:
        if internals.is_literal(atom):
            return _held(atom.val, atom.aval)
        return environment[atom]

    for equation in jaxpr.eqns:
        inputs = [read(atom) for atom in equation.invars]
        outputs = _equation(equation, inputs, sources, equations)
        environment.update(zip(equation.outvars, outputs))
    return [read(atom) for atom in jaxpr.outvars]


def _held(value: Any, aval: Any) -> _Held:
    aval = internals.strong(aval)
    return _Held(internals.concrete(value, aval), aval)


def _equation(
    equation: Any,
    inputs: list[_DraftAtom],
    sources: tuple[Any, ...],
    equations: list[_DraftEquation],
) -> Sequence[_DraftAtom]:
    name, params = equation.primitive.name, equation.params
    sources = (*sources, equation.source_info)
    if name == "convert_element_type":
        # Whether the result is weakly typed only matters to tracing.
        if internals.converts_nothing(params, inputs[0].aval):
            return inputs
        params = {**params, "weak_type": False}
    called = internals.called(name, params)
    if called is not None:
        barred = internals.barred_arguments(name, params, len(inputs))
        inputs = _behind_barrier(equation, inputs, barred, sources, equations)
        jaxpr, constants = internals.open_jaxpr(called)
        return _inline(jaxpr, constants, inputs, sources, equations)
    bodies: tuple[_DraftBody, ...] = ()
    control = internals.control_flow(name, params)
    if control is not None:
        params = control.params
        bodies = tuple([_draft(body, sources) for body in control.bodies])
    outputs = tuple([Variable(internals.strong(v.aval)) for v in equation.outvars])
    equations.append(
        _DraftEquation(
            equation.primitive,
            params,
            inputs,
            outputs,
            bodies,
            equation.effects,
            equation.ctx,
            sources,
        )
    )
    return outputs


def _behind_barrier(
    equation: Any,
    inputs: list[_DraftAtom],
    barred: list[bool],
    sources: tuple[Any, ...],
    equations: list[_DraftEquation],
) -> list[_DraftAtom]:
    places = [i for i, bar in enumerate(barred) if bar]
    places = [i for i in places if isinstance(inputs[i], Variable)]
    if not places:
        return inputs
    outputs = tuple([Variable(inputs[i].aval) for i in places])
    barrier = internals.OPTIMIZATION_BARRIER
    operands = [inputs[i] for i in places]
    equations.append(
        _DraftEquation(barrier, {}, operands, outputs, (), (), equation.ctx, sources)
    )
    replaced = dict(zip(places, outputs))
    return [replaced.get(i, atom) for i, atom in enumerate(inputs)]


class _Slots:
    """Numbers constants in the order in which live equations read them."""

    def __init__(self):
        self.values: list[Any] = []
        self._constants: dict[_Held, Constant] = {}

    def atom(self, atom: _DraftAtom) -> Atom:
        if isinstance(atom, Variable):
            return atom
        constant = self._constants.get(atom)
        if constant is None:
            constant = Constant(len(self.values), atom.aval)
            self._constants[atom] = constant
            self.values.append(atom.value)
        return constant


def _seal(draft: _DraftBody, slots: _Slots) -> Body:
    equations = []
    for live in _live(draft):
        equations.append(
            Equation(
                live.primitive,
                live.params,
                tuple([slots.atom(atom) for atom in live.inputs]),
                live.outputs,
                tuple([_seal(body, slots) for body in live.bodies]),
                frozenset(live.effects),
                live.context,
                live.sources,
            )
        )
    outputs = tuple([slots.atom(atom) for atom in draft.outputs])
    return Body(draft.inputs, tuple(equations), outputs)


def _live(draft: _DraftBody) -> list[_DraftEquation]:
    read = {atom for atom in draft.outputs if isinstance(atom, Variable)}
    live = []
    for equation in reversed(draft.equations):
        if equation.effects or not read.isdisjoint(equation.outputs):
            live.append(equation)
            read.update(a for a in equation.inputs if isinstance(a, Variable))
    return live[::-1]
