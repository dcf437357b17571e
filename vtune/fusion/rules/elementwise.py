"""What functions of single entries make of padding."""

import functools
import itertools
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from vtune.fusion import internals
from vtune.fusion.flat import Equation
from vtune.fusion.rules.contents import (
    ANY,
    FINITE,
    ZERO,
    Contents,
    Known,
    Unknown,
    is_finite,
    is_zero,
    join,
)


# Finite for all finite operands, without an overflow on the way. Sums, products,
# powers and quotients are not among them.
_BOUNDED = frozenset(
    "neg sin cos tanh logistic abs sign floor ceil round erf erfc atan max min clamp "
    "copy".split()
)


def result_contents(
    equation: Equation, operands: Sequence[Known | Unknown]
) -> Known | Unknown:
    """What the padding of an elementwise function's result can hold.

    Args:
        equation: an equation with one result, each entry of which is a function of the
            operands' entries at the same place.
        operands: what the operands hold there: of a padded array its padding's
            contents, of a constant that no trial changes its value, else `ANY`.

    Returns:
        `Known` if all operands are and the result is finite; `FINITE` only if proved.
    """
    name, dtype = equation.primitive.name, equation.outputs[0].aval.dtype
    found = ANY
    if name == "select_n":
        found = _selected(operands)
    elif name == "mul" and any(map(is_zero, operands)):
        # Infinity times zero is NaN, and the sign of zero is the other factor's.
        found = _computed(equation, operands)
        found = ZERO if found is ANY and ANY not in operands else found
    elif all(isinstance(o, Known) or o is ZERO for o in operands):
        found = _computed(equation, operands)
    if found is not ANY:
        return found
    if _is_whole(dtype):
        return FINITE
    pairs = zip(operands, equation.inputs)
    if any(o is ANY and not _is_whole(atom.aval.dtype) for o, atom in pairs):
        return ANY
    if name == "convert_element_type":
        return FINITE if _holds(dtype, equation.inputs[0].aval.dtype) else ANY
    return FINITE if name in _BOUNDED else ANY


def _is_whole(dtype: Any) -> bool:
    return any(jnp.issubdtype(dtype, kind) for kind in (jnp.integer, jnp.bool_))


def _selected(operands: Sequence[Known | Unknown]) -> Known | Unknown:
    which, *cases = operands
    if isinstance(which, Known):
        return cases[int(which.value)]
    joined = functools.reduce(join, cases, _nothing())
    return ANY if joined is None else joined


def _nothing() -> Contents:
    return None


def _computed(
    equation: Equation, operands: Sequence[Known | Unknown]
) -> Known | Unknown:
    """The result for known operands, tried with zeros of both signs."""
    choices = []
    for operand, atom in zip(operands, equation.inputs):
        if isinstance(operand, Known):
            choices.append([operand.value])
        elif operand is ZERO:
            choices.append([np.asarray(z, atom.aval.dtype) for z in (0.0, -0.0)])
        else:
            return ANY
    joined = _nothing()
    for values in itertools.product(*choices):
        with jax.ensure_compile_time_eval():
            (result,) = internals.bind(equation, [jnp.asarray(v) for v in values])
        if not is_finite(result):
            return ANY
        joined = join(joined, Known(np.asarray(result)))
    return ANY if joined is None else joined


def _holds(target: Any, source: Any) -> bool:
    """Whether every finite number of one dtype is finite in another."""
    if not jnp.issubdtype(target, jnp.floating):
        return False
    if jnp.issubdtype(source, jnp.bool_):
        return True
    if jnp.issubdtype(source, jnp.integer):
        return float(jnp.iinfo(source).max) < float(jnp.finfo(target).max)
    if not jnp.issubdtype(source, jnp.floating):
        return False
    return float(jnp.finfo(source).max) <= float(jnp.finfo(target).max)
