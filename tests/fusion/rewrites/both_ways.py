"""Equations of a function and of its gradients, each beside other forms of itself."""

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import jax
import numpy as np

from vtune.fusion import internals
from vtune.fusion.evaluate import Bind, evaluate
from vtune.fusion.flat import Equation
from vtune.fusion.trace import trace_function


# From an equation and its operands to other forms of its result, by name.
Forms = Callable[[Equation, Sequence[Any]], dict[str, Any]]


def both_ways(function):
    """A function and its gradients, for a cotangent behind the arguments."""

    def values(*arguments):
        result, pull = jax.vjp(function, *arguments[:-1])
        return result, pull(arguments[-1])

    return values


def small_numbers(shape, seed, dtype=np.float32):
    """Integers: their sums are exact in any order."""
    generator = np.random.default_rng((seed, *shape))
    return np.asarray(generator.integers(-3, 4, size=shape), dtype)


def compared(
    forms: Forms,
    function: Callable[..., Any],
    *arguments: Any,
    bind: Bind = internals.bind,
) -> Iterator[tuple[str, np.ndarray, np.ndarray]]:
    """Each result of an equation that has other forms, beside each of these.

    Args:
        forms: the forms.
        function: the function whose equations are meant.
        *arguments: its arguments.
        bind: computes the equation as it is.

    Yields:
        Of each form the name, what is expected and what is found.
    """
    flat = trace_function(function, *arguments)
    names = []

    def run(*inputs):
        pairs = []

        def beside(equation, operands):
            results = bind(equation, operands)
            for name, other in forms(equation, operands).items():
                names.append(f"{equation.primitive.name}, {name}")
                assert other.aval == results[0].aval, names[-1]
                pairs.append((results[0], other))
            return results

        evaluate(flat, (), (), *inputs, bind=beside)
        return pairs

    inputs = jax.tree.leaves(arguments)
    # What runs once need not be fast.
    quickly = {"xla_backend_optimization_level": "1"}
    pairs = jax.device_get(jax.jit(run).lower(*inputs).compile(quickly)(*inputs))
    for name, (expected, found) in zip(names, pairs, strict=True):
        yield name, expected, found
