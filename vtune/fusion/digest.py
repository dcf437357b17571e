"""A trace as a few bytes that are the same in every process."""

import enum
import hashlib
from collections.abc import Iterator
from typing import Any

import numpy as np

from vtune.fusion.arrays import array_identity, is_array
from vtune.fusion.flat import Atom, Body, Variable
from vtune.fusion.trace import Trace


# Parameters of equations whose text says all of them, in every process.
_PLAIN = (int, float, complex, str, bytes, type(None), enum.Enum, np.dtype, np.generic)


def trace_digest(trace: Trace) -> str:
    """A hash that changes with a trial's equations and constants.

    It is not exact: a function among an equation's parameters counts as any other.

    Args:
        trace: the trial's functions.

    Returns:
        The SHA-256 in hexadecimal digits; equal in every process.
    """
    digest = hashlib.sha256()
    names = (trace.state_paths, trace.train_metrics, trace.eval_metrics)
    digest.update(repr(names).encode("utf-8", "surrogatepass"))
    for flat in trace.functions:
        for text in _lines(flat.body, {}):
            digest.update(text.encode("utf-8", "surrogatepass"))
        for constant in flat.constants:
            digest.update(_constant(constant).encode())
    return digest.hexdigest()


def _lines(body: Body, numbers: dict[Variable, int]) -> Iterator[str]:
    yield _defined(body.inputs, numbers)
    for equation in body.equations:
        params = sorted(equation.params.items())
        yield f"{equation.primitive.name}{[(k, _text(v)) for k, v in params]}"
        yield _read(equation.inputs, numbers)
        for inner in equation.bodies:
            yield from _lines(inner, dict(numbers))
        yield _defined(equation.outputs, numbers)
    yield _read(body.outputs, numbers)


def _defined(variables: Any, numbers: dict[Variable, int]) -> str:
    for variable in variables:
        numbers[variable] = len(numbers)
    return str([str(variable.aval) for variable in variables])


def _read(atoms: Any, numbers: dict[Variable, int]) -> str:
    def place(atom: Atom) -> int:
        return numbers[atom] if isinstance(atom, Variable) else -1 - atom.slot

    return str([place(atom) for atom in atoms])


def _constant(value: Any) -> str:
    return repr(array_identity(value)) if is_array(value) else type(value).__name__


def _text(value: Any) -> str:
    if isinstance(value, _PLAIN):
        return repr(value)
    if isinstance(value, tuple | list):
        return f"{type(value).__name__}{[_text(part) for part in value]}"
    if isinstance(value, dict):
        return str(sorted((str(key), _text(part)) for key, part in value.items()))
    return type(value).__name__
