"""A traced function in flat form: one list of equations, its constants apart.

What only calls another function (`jit`, `custom_jvp`, `checkpoint`, ...) is inlined;
`scan`, `while` and `cond` become equations with bodies, which are lists of equations
again; any other primitive stays as it is, with the jaxprs that it may hold. So a pass
over a program is one loop over `Body.equations`, recursive in `Equation.bodies`.
"""

import dataclasses
from collections.abc import Iterator, Mapping
from typing import Any

from vtune.fusion import internals


@dataclasses.dataclass(frozen=True, slots=True, eq=False)
class Variable:
    """A value that is computed or handed in; every one is an object of its own.

    Args:
        aval: its abstract value: shape and dtype, never weakly typed.
    """

    aval: Any


@dataclasses.dataclass(frozen=True, slots=True, eq=False)
class Constant:
    """A place where a constant is read.

    Args:
        slot: the constant's index in `FlatFunction.constants`.
        aval: its shape and dtype, never weakly typed.
    """

    slot: int
    aval: Any


Atom = Variable | Constant


@dataclasses.dataclass(frozen=True, slots=True, eq=False)
class Equation:
    """One operation of a flat function.

    Args:
        primitive: the JAX primitive.
        params: its parameters, without the jaxprs that became bodies.
        inputs: what it reads.
        outputs: what it computes.
        bodies: of a scan its body, of a while its condition and its body, of a cond its
            branches; empty for every other primitive.
        effects: its side effects.
        context: the settings that it was traced under.
        sources: where it comes from: the calls around it, outermost first, and itself.
    """

    primitive: Any
    params: Mapping[str, Any]
    inputs: tuple[Atom, ...]
    outputs: tuple[Variable, ...]
    bodies: "tuple[Body, ...]"
    effects: frozenset[Any]
    context: Any
    sources: tuple[Any, ...]

    @property
    def line(self) -> str | None:
        """The user's line that it comes from, as `"file.py:12 (function)"`."""
        return internals.user_line(self.sources)


@dataclasses.dataclass(frozen=True, slots=True, eq=False)
class Body:
    """Equations in an order in which they can be computed.

    A body of an equation sees its own variables and the constants of the whole
    function, never the variables around the equation.

    Args:
        inputs: the variables that are handed in.
        equations: the equations.
        outputs: what is handed out: inputs, results or constants.
    """

    inputs: tuple[Variable, ...]
    equations: tuple[Equation, ...]
    outputs: tuple[Atom, ...]


@dataclasses.dataclass(frozen=True, eq=False)
class FlatFunction:
    """A traced function in flat form.

    Args:
        body: its equations.
        constants: the constants of all depths by slot, each in its own dtype. Each
            occurrence of a literal has its own slot; an array that a jaxpr closes over
            has one, however often it is read.
        in_tree: the structure of the arguments, a tuple.
        out_tree: the structure of the result.
    """

    body: Body
    constants: tuple[Any, ...]
    in_tree: Any
    out_tree: Any

    @property
    def in_avals(self) -> tuple[Any, ...]:
        """The abstract values of the flat arguments."""
        return tuple(variable.aval for variable in self.body.inputs)

    @property
    def out_avals(self) -> tuple[Any, ...]:
        """The abstract values of the flat results."""
        return tuple(atom.aval for atom in self.body.outputs)


def walk(body: Body) -> Iterator[Equation]:
    """All equations of a body, each followed by those of its own bodies.

    Args:
        body: the body of a function or an equation.

    Yields:
        The equations of every depth.
    """
    for equation in body.equations:
        yield equation
        for inner in equation.bodies:
            yield from walk(inner)
