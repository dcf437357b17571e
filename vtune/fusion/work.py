"""How much a program computes and moves, counted on its equations."""

import math
from collections.abc import Iterator
from typing import NamedTuple

from vtune.fusion.flat import Body, Equation, FlatFunction
from vtune.fusion.trace import Trace


class Work(NamedTuple):
    """The multiply-adds of a function.

    Args:
        products: in matrix products.
        convolutions: in convolutions.
    """

    products: int
    convolutions: int


# The sizes whose product is the number of multiply-adds of an equation, or the number
# of entries of a leaf of the state.
Factors = tuple[int, ...]


class Terms(NamedTuple):
    """A training step's work by its sizes, so that it can be had for larger ones.

    Args:
        multiplied: for each product and convolution its sizes.
        kept: for each leaf of the state its sizes.
    """

    multiplied: tuple[Factors, ...]
    kept: tuple[Factors, ...]


def work(function: FlatFunction) -> Work:
    """Counts the multiply-adds of matrix products and convolutions.

    A scan counts as often as it loops, a while once, a cond as its costliest branch.

    Args:
        function: the function.

    Returns:
        The counts.
    """
    products = convolutions = 0
    for name, factors in _body(function.body, ()):
        if name == "dot_general":
            products += math.prod(factors)
        else:
            convolutions += math.prod(factors)
    return Work(products, convolutions)


def terms(trace: Trace) -> Terms:
    """The work of a trial's training step, by sizes.

    Args:
        trace: the trial's functions.

    Returns:
        Of traces of one structure equally many terms.
    """
    found = [factors for _, factors in _body(trace.train[0].body, ())]
    return Terms(tuple(found), tuple([tuple(a.shape) for a in trace.state_avals]))


def equations(trace: Trace) -> int:
    """How many equations a training step and an evaluation have.

    Args:
        trace: the trial's functions.

    Returns:
        The equations of all bodies, each counted once; of traces of one structure
        equally many.
    """
    return sum(_count(flat.body) for flat in (*trace.train[:1], *trace.evaluate[:1]))


def _count(body: Body) -> int:
    inner = sum(_count(b) for equation in body.equations for b in equation.bodies)
    return len(body.equations) + inner


def _body(body: Body, around: Factors) -> Iterator[tuple[str, Factors]]:
    for equation in body.equations:
        yield from _equation(equation, around)


def _equation(equation: Equation, around: Factors) -> Iterator[tuple[str, Factors]]:
    name = equation.primitive.name
    if name == "dot_general":
        (contracted, _), _ = equation.params["dimension_numbers"]
        left = equation.inputs[0].aval.shape
        summed = tuple([left[axis] for axis in contracted])
        yield name, (*around, *equation.outputs[0].aval.shape, *summed)
    elif name == "conv_general_dilated":
        out = equation.params["dimension_numbers"].rhs_spec[0]
        kernel = equation.inputs[1].aval.shape
        summed = tuple([size for axis, size in enumerate(kernel) if axis != out])
        yield name, (*around, *equation.outputs[0].aval.shape, *summed)
    elif name == "scan":
        yield from _body(equation.bodies[0], (*around, equation.params["length"]))
    elif name == "cond":
        branches = [list(_body(body, around)) for body in equation.bodies]
        yield from max(branches, key=_total)
    else:
        for body in equation.bodies:
            yield from _body(body, around)


def _total(branch: list[tuple[str, Factors]]) -> int:
    return sum(math.prod(factors) for _, factors in branch)
