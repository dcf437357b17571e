"""How much a program computes, counted on its equations."""

import math
from typing import NamedTuple

from vtune.fusion.flat import Body, Equation, FlatFunction


class Work(NamedTuple):
    """The multiply-adds of a function.

    Args:
        products: in matrix products.
        convolutions: in convolutions.
    """

    products: int
    convolutions: int


def work(function: FlatFunction) -> Work:
    """Counts the multiply-adds of matrix products and convolutions.

    A scan counts as often as it loops, a while once, a cond as its costliest branch.

    Args:
        function: the function.

    Returns:
        The counts.
    """
    return _body(function.body)


def _body(body: Body) -> Work:
    products = convolutions = 0
    for equation in body.equations:
        inner = _equation(equation)
        products += inner.products
        convolutions += inner.convolutions
    return Work(products, convolutions)


def _equation(equation: Equation) -> Work:
    name = equation.primitive.name
    if name == "dot_general":
        (contracted, _), _ = equation.params["dimension_numbers"]
        left = equation.inputs[0].aval.shape
        summed = math.prod(left[axis] for axis in contracted)
        return Work(math.prod(equation.outputs[0].aval.shape) * summed, 0)
    if name == "conv_general_dilated":
        numbers = equation.params["dimension_numbers"]
        kernel = equation.inputs[1].aval.shape
        summed = math.prod(kernel) // kernel[numbers.rhs_spec[0]]
        return Work(0, math.prod(equation.outputs[0].aval.shape) * summed)
    bodies = [_body(body) for body in equation.bodies]
    if name == "scan":
        length = equation.params["length"]
        return Work(bodies[0].products * length, bodies[0].convolutions * length)
    if name == "cond":
        return max(bodies, key=sum)
    return Work(sum(b.products for b in bodies), sum(b.convolutions for b in bodies))
