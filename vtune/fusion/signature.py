"""The structure of a program without the values of its constants."""

import weakref
from collections.abc import Hashable, Iterable
from typing import Any

from vtune.fusion.arrays import is_array
from vtune.fusion.flat import Atom, Body, Equation, FlatFunction, Variable
from vtune.fusion.identity import Reference, params_identity
from vtune.fusion.trace import Trace


class Signature:
    """What has to be equal for two programs to be one up to constants.

    It compares exactly, part by part, and hashes once.

    Args:
        parts: nested tuples of what belongs to the program.
    """

    __slots__ = ("_hash", "parts")

    def __init__(self, parts: Hashable):
        self.parts = parts
        self._hash = hash(parts)

    def __hash__(self) -> int:
        return self._hash

    def __eq__(self, other: object) -> bool:
        if self is other:
            return True
        return (
            isinstance(other, Signature)
            and self._hash == other._hash
            and self.parts == other.parts
        )

    def __repr__(self) -> str:
        return f"Signature({self._hash & 0xFFFFFFFF:08x})"


def signature(trace: Trace) -> Signature:
    """The signature of a trial's programs.

    Args:
        trace: the trial's functions.

    Returns:
        A value that is equal for two trials only if their `init`, `train` and
        `evaluate` functions are the same equations, for constants of the same shapes
        and dtypes, over states with the same paths and metrics with the same names. The
        values of constants do not enter, nor do static fields of the state (such as an
        optimizer that it carries along), which no equation can see.
    """
    return Signature(
        (
            trace.train_metrics,
            trace.eval_metrics,
            trace.state_paths,
            tuple(flat_signature(flat) for flat in trace.functions),
            (len(trace.train), len(trace.evaluate)),
        )
    )


def flat_signature(flat: FlatFunction) -> Signature:
    """The signature of one function.

    Args:
        flat: the function.

    Returns:
        A value that is equal only for functions with the same equations.
    """
    found = _KNOWN.get(flat)
    if found is None:
        slots: dict[int, Any] = {}
        body = _body(flat.body, slots)
        # What is no array, such as a mutable reference, cannot be handed in.
        fixed = tuple([Reference(v) for v in flat.constants if not is_array(v)])
        avals = tuple([slots[slot] for slot in sorted(slots)])
        found = _KNOWN[flat] = Signature((body, avals, fixed))
    return found


# Trials of one module share functions, and each is asked for more than once.
_KNOWN: weakref.WeakKeyDictionary[FlatFunction, Signature] = weakref.WeakKeyDictionary()


def _body(body: Body, slots: dict[int, Any]) -> Hashable:
    numbers: dict[Variable, int] = {}
    inputs = _define(body.inputs, numbers)
    equations = tuple([_equation(e, numbers, slots) for e in body.equations])
    return (inputs, equations, _read(body.outputs, numbers, slots))


def _equation(
    equation: Equation, numbers: dict[Variable, int], slots: dict[int, Any]
) -> Hashable:
    bodies = equation.bodies
    return (
        equation.primitive,
        params_identity(equation.primitive, equation.params),
        _read(equation.inputs, numbers, slots),
        _define(equation.outputs, numbers),
        tuple([_body(body, slots) for body in bodies]) if bodies else (),
        equation.context,
    )


def _define(
    variables: Iterable[Variable], numbers: dict[Variable, int]
) -> tuple[Hashable, ...]:
    avals = []
    for variable in variables:
        numbers[variable] = len(numbers)
        avals.append(variable.aval)
    return tuple(avals)


def _read(
    atoms: Iterable[Atom], numbers: dict[Variable, int], slots: dict[int, Any]
) -> tuple[int, ...]:
    """Variables by number from 0 up, constants by slot from -1 down."""
    places = []
    for atom in atoms:
        if isinstance(atom, Variable):
            places.append(numbers[atom])
        else:
            slots[atom.slot] = atom.aval
            places.append(-1 - atom.slot)
    return tuple(places)
