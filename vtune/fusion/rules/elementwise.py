"""What functions of single entries make of padding."""

import functools
import itertools
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from vtune.fusion import internals
from vtune.fusion.family import Site
from vtune.fusion.flat import Equation
from vtune.fusion.identity import params_identity
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
from vtune.fusion.rules.nodes import Nodes
from vtune.fusion.rules.rule import (
    Place,
    Plan,
    Rule,
    Step,
    is_whole,
    relate_alike,
    unmasked,
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


_NAMES = (
    "neg sin cos tan tanh sinh cosh asin acos atan asinh acosh atanh exp exp2 "
    "expm1 log log1p sqrt rsqrt cbrt logistic abs sign floor ceil round is_finite "
    "erf erfc erf_inv lgamma digamma not integer_pow square convert_element_type "
    "copy copy_p stop_gradient reduce_precision real imag conj complex "
    "population_count clz add sub mul div rem max min pow atan2 nextafter and or "
    "xor eq ne lt le gt ge eq_to le_to lt_to shift_left shift_right_logical "
    "shift_right_arithmetic add_any select_n clamp igamma igammac igamma_grad_a "
    "polygamma zeta regularized_incomplete_beta bessel_i0e bessel_i1e"
).split()

# Finite for finite operands, or a sum or product of them.
_TAME = frozenset(
    "neg sin cos tanh logistic abs sign floor ceil round erf erfc atan max min clamp "
    "copy copy_p stop_gradient add sub mul add_any select_n square".split()
)


# A division by less may overflow without any sum or product.
_SMALL = 1e-10


def tame_result(equation: Equation, operands: Sequence[Place]) -> bool:
    """Whether the live entries of a result are finite unless something overflows.

    Args:
        equation: an elementwise equation, or one that only moves or adds entries.
        operands: what it reads.
    """
    name, aval = equation.primitive.name, equation.outputs[0].aval
    if is_whole(aval):
        return True
    if not all(operand.tame for operand in operands) or not has_range(aval):
        return False
    if name == "integer_pow":
        return equation.params["y"] >= 0
    if name == "div":
        divisor = operands[1].value
        return divisor is not None and abs(float(divisor)) > _SMALL
    return name == "convert_element_type" or name in _TAME


def has_range(aval: Any) -> bool:
    """Whether an array holds nothing narrower in range than single precision."""
    dtype = aval.dtype
    if is_whole(aval):
        return True
    return jnp.issubdtype(dtype, jnp.floating) and float(jnp.finfo(dtype).max) > 1e30


def _plan(step: Step) -> Plan:
    tame = tame_result(step.equation, step.operands)
    contents: Contents = None
    if step.results[0].padded:
        operands = [_held(operand, step.results[0]) for operand in step.operands]
        contents = _remembered(step.equation, operands)
    return Plan(unmasked(step), (contents,), (tame,))


def _held(place: Place, result: Place) -> Known | Unknown:
    """What an operand holds where the result has padding."""
    if not place.padded:
        return place.spread
    pairs = zip(place.layouts, result.layouts)
    if any(whole.varies and not own.varies for own, whole in pairs):
        return place.everywhere
    return ANY if place.contents is None else place.contents


# By primitive, parameters, dtypes and what the operands hold: trying an operation with
# known numbers is slow the first time.
_FOUND: dict[Any, Known | Unknown] = {}
_MOST_FOUND = 1 << 12


def _remembered(
    equation: Equation, operands: Sequence[Known | Unknown]
) -> Known | Unknown:
    dtypes = tuple([atom.aval.dtype for atom in equation.inputs])
    place = (
        params_identity(equation.primitive, equation.params),
        equation.primitive,
        equation.outputs[0].aval.dtype,
        dtypes,
        tuple(operands),
    )
    found = _FOUND.get(place)
    if found is None:
        if len(_FOUND) >= _MOST_FOUND:
            _FOUND.clear()
        found = _FOUND[place] = result_contents(equation, operands)
    return found


def _relate_barrier(site: Site, nodes: Nodes) -> None:
    for operand, result in zip(site.inputs, site.outputs, strict=True):
        for first, second in zip(operand.axes, result.axes, strict=True):
            nodes.same(first, second)


def _plan_barrier(step: Step) -> Plan:
    contents = tuple([operand.contents for operand in step.operands])
    tame = tuple([operand.tame for operand in step.operands])
    return Plan(unmasked(step), contents, tame)


def _relate_bitcast(site: Site, nodes: Nodes) -> None:
    (operand,), (result,) = site.inputs, site.outputs
    for first, second in zip(operand.axes, result.axes):
        nodes.same(first, second)


def _plan_bitcast(step: Step) -> Plan:
    (operand,), (result,) = step.operands, step.results
    alike = len(operand.layouts) == len(result.layouts)
    contents = _plan(step).contents if alike else (ANY,)
    return Plan(unmasked(step), contents, (is_whole(result.aval),))


RULES: Mapping[str, Rule] = {
    **{name: Rule(relate_alike, _plan) for name in _NAMES},
    "bitcast_convert_type": Rule(_relate_bitcast, _plan_bitcast),
    "optimization_barrier": Rule(_relate_barrier, _plan_barrier),
}
