"""Running a flat function with some of its constants handed in."""

import contextlib
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax.core import ShapedArray

from vtune.fusion import internals
from vtune.fusion.flat import Atom, Body, Equation, FlatFunction, Variable


_NOTE = "In the equation "

# From an equation without bodies and its operands to its results.
Bind = Callable[[Equation, Sequence[Any]], list[Any]]


def evaluate(
    flat: FlatFunction,
    slots: tuple[int, ...],
    lifted: Sequence[Any],
    *inputs: Any,
    bind: Bind = internals.bind,
) -> list[Any]:
    """Computes a flat function inside whatever JAX transformation is running.

    Args:
        flat: the function.
        slots: the slots of the constants that are handed in.
        lifted: their values in the order of `slots`, in the constants' own dtypes. The
            other constants keep the values that they have in `flat`.
        *inputs: the flat arguments.
        bind: computes an equation: as it is, or by an equal, faster one.

    Returns:
        The flat results, none of them weakly typed.

    Raises:
        ValueError: if the number of inputs or lifted values is wrong. An exception that
            comes from an equation gets a note that names it and the user's line.

    Example:
        ```python
        import jax.numpy as jnp
        from vtune.fusion.evaluate import evaluate
        from vtune.fusion.trace import trace_function

        flat = trace_function(lambda x: x * 0.5, jnp.ones(3))
        (doubled,) = evaluate(flat, (0,), [jnp.float32(2.0)], jnp.ones(3))
        ```
    """
    if len(inputs) != len(flat.body.inputs) or len(lifted) != len(slots):
        raise ValueError(
            f"`evaluate` was given {len(inputs)} inputs and {len(lifted)} lifted "
            f"constants, but takes {len(flat.body.inputs)} and {len(slots)}."
        )
    constants = list(flat.constants)
    for slot, value in zip(slots, lifted):
        constants[slot] = value
    inputs = tuple(map(as_declared, inputs, flat.in_avals))
    results = _run(flat.body, constants, inputs, bind)
    return list(map(as_declared, results, flat.out_avals))


def equation_of(error: Exception) -> str | None:
    """Which equation an error of `evaluate` comes from.

    Args:
        error: the exception.

    Returns:
        The primitive and the user's line, or None if no equation raised it.
    """
    for note in getattr(error, "__notes__", ()):
        if note.startswith(_NOTE):
            return note.removeprefix(_NOTE)
    return None


def _run(
    body: Body, constants: Sequence[Any], inputs: Sequence[Any], bind: Bind
) -> list[Any]:
    environment: dict[Variable, Any] = dict(zip(body.inputs, inputs))

    def read(atom: Atom) -> Any:
        return environment[atom] if isinstance(atom, Variable) else constants[atom.slot]

    for equation in body.equations:
        operands = [read(atom) for atom in equation.inputs]
        results = _apply(equation, constants, operands, bind)
        environment.update(zip(equation.outputs, results))
    return [read(atom) for atom in body.outputs]


def _apply(
    equation: Equation, constants: Sequence[Any], operands: Sequence[Any], bind: Bind
) -> list[Any]:
    def runner(body: Body) -> Run:
        return lambda *inputs: _run(body, constants, inputs, bind)

    with noted(equation):
        if equation.bodies:
            return control_flow(equation, list(map(runner, equation.bodies)), operands)
        return bind(equation, operands)


@contextlib.contextmanager
def noted(equation: Equation) -> Iterator[None]:
    """Adds to an exception which equation it comes from, as `equation_of` reads it.

    Args:
        equation: what is computed inside.
    """
    try:
        yield
    except Exception as error:
        if equation_of(error) is None:  # the innermost equation is the cause
            name, line = equation.primitive.name, equation.line
            error.add_note(f"{_NOTE}`{name}`, {line or 'of no known line'}")
        raise


# A body of an equation as a function of its inputs.
Run = Callable[..., list[Any]]


def control_flow(
    equation: Equation,
    runs: Sequence[Run],
    operands: Sequence[Any],
    steps: Any | None = None,
) -> list[Any]:
    """Computes a scan, a while or a cond.

    Args:
        equation: the equation.
        runs: each of its bodies as a function.
        operands: what it reads.
        steps: of a scan, which of its steps are taken, bool; the others leave what is
            carried as it is. None takes all.

    Returns:
        The results.
    """
    if equation.primitive.name == "scan":
        return _scan(equation, runs[0], operands, steps)
    if equation.primitive.name == "while":
        return _while(equation, runs[0], runs[1], operands)
    return _cond(equation, runs, operands)


def _scan(
    equation: Equation, run: Run, operands: Sequence[Any], steps: Any | None
) -> list[Any]:
    (body,) = equation.bodies
    params = equation.params
    start, end = params["num_consts"], params["num_consts"] + params["num_carry"]
    shared = operands[:start]
    carried = [variable.aval for variable in body.inputs[start:end]]

    def step(carry: list[Any], xs: Any) -> tuple[list[Any], list[Any]]:
        xs, taken = xs
        results = run(*shared, *carry, *xs)
        count = len(carried)
        after = list(map(as_declared, results[:count], carried))
        if taken is not None:
            after = [jnp.where(taken, new, old) for new, old in zip(after, carry)]
        return after, results[count:]

    carry, stacked = jax.lax.scan(
        step,
        list(map(as_declared, operands[start:end], carried)),
        (list(operands[end:]), steps),
        length=params["length"],
        reverse=params["reverse"],
        unroll=params["unroll"],
    )
    return [*carry, *stacked]


def _while(
    equation: Equation, condition: Run, run: Run, operands: Sequence[Any]
) -> list[Any]:
    body = equation.bodies[1]
    first = equation.params["cond_nconsts"]
    second = first + equation.params["body_nconsts"]
    carried = [variable.aval for variable in body.inputs[second - first :]]

    def goes_on(carry: list[Any]) -> Any:
        return condition(*operands[:first], *carry)[0]

    def step(carry: list[Any]) -> list[Any]:
        results = run(*operands[first:second], *carry)
        return list(map(as_declared, results, carried))

    initial = list(map(as_declared, operands[second:], carried))
    return jax.lax.while_loop(goes_on, step, initial)


def _cond(
    equation: Equation, runs: Sequence[Run], operands: Sequence[Any]
) -> list[Any]:
    declared = [variable.aval for variable in equation.outputs]

    def branch(run: Run) -> Any:
        return lambda *inputs: list(map(as_declared, run(*inputs), declared))

    index, *rest = operands
    return jax.lax.switch(index, list(map(branch, runs)), *rest)


def as_declared(value: Any, aval: Any) -> Any:
    """A value as a strongly typed array of the declared dtype.

    Args:
        value: an array, a number, or something that is no array and stays as it is.
        aval: the declaration.

    The carry of a loop has to have one dtype, and a constant's Python type or a weakly
    typed argument would give it another.
    """
    if not isinstance(aval, ShapedArray) or jnp.issubdtype(
        aval.dtype, jax.dtypes.extended
    ):
        return value
    if isinstance(value, jax.Array) and value.dtype == aval.dtype:
        return jax.lax.convert_element_type(value, aval.dtype)
    return jnp.asarray(value, dtype=aval.dtype)
