"""A family: functions that are the same up to sizes, equation by equation."""

import dataclasses
from collections.abc import Sequence
from typing import Any

from vtune.fusion.flat import Atom, Body, Constant, Equation, FlatFunction, Variable
from vtune.fusion.rules.nodes import Nodes


@dataclasses.dataclass(frozen=True, slots=True, eq=False)
class Operand:
    """What an equation reads or computes, with the axes that it has in all members.

    Args:
        atom: the envelope's variable or constant.
        axes: the node of each axis.
    """

    atom: Atom
    axes: tuple[int, ...]

    @property
    def aval(self) -> Any:
        """The envelope's abstract value."""
        return self.atom.aval


@dataclasses.dataclass(frozen=True, slots=True, eq=False)
class Site:
    """One equation of a family.

    Args:
        equations: that of each member, of the envelope last.
        inputs: what it reads.
        outputs: what it computes.
        bodies: of scan, while and cond.
        length: of a scan, the node that stands for its number of steps.
    """

    equations: tuple[Equation, ...]
    inputs: tuple[Operand, ...]
    outputs: tuple[Operand, ...]
    bodies: "tuple[SiteBody, ...]"
    length: int | None

    @property
    def name(self) -> str:
        """The primitive's name."""
        return self.equations[-1].primitive.name

    @property
    def wide(self) -> Equation:
        """The envelope's equation."""
        return self.equations[-1]

    def parameters(self, name: str) -> tuple[Any, ...]:
        """A parameter in each member.

        Args:
            name: the parameter's name.
        """
        return tuple([equation.params[name] for equation in self.equations])

    @property
    def axes(self) -> list[int]:
        """The nodes of all axes of what it reads and computes."""
        axes = [node for operand in self.inputs for node in operand.axes]
        axes += [node for operand in self.outputs for node in operand.axes]
        return axes if self.length is None else [*axes, self.length]


@dataclasses.dataclass(frozen=True, slots=True, eq=False)
class SiteBody:
    """The equations of a family's functions, or of a loop's body.

    Args:
        inputs: what is handed in.
        sites: the equations.
        outputs: what is handed out.
    """

    inputs: tuple[Operand, ...]
    sites: tuple[Site, ...]
    outputs: tuple[Operand, ...]


@dataclasses.dataclass(frozen=True, slots=True, eq=False)
class Family:
    """One function of all members.

    Args:
        members: the function of each member, of the envelope last.
        body: the equations.
        constants: by slot, as far as equations or outputs read them.
    """

    members: tuple[FlatFunction, ...]
    body: SiteBody
    constants: dict[int, Operand]


def align(members: Sequence[FlatFunction], nodes: Nodes) -> Family:
    """Takes functions of one structure together, equation by equation.

    Args:
        members: the function of each member, of the envelope last; all of one
            `flat_structure`.
        nodes: where the axes are added.

    Returns:
        The family.
    """
    aligning = _Aligning(nodes)
    body = aligning.body([flat.body for flat in members])
    return Family(tuple(members), body, aligning.constants)


class _Aligning:
    """The axes of one function while it is walked."""

    def __init__(self, nodes: Nodes):
        self.nodes = nodes
        self.constants: dict[int, Operand] = {}
        self._variables: dict[Variable, Operand] = {}

    def body(self, bodies: Sequence[Body]) -> SiteBody:
        inputs = self._define(zip(*[body.inputs for body in bodies], strict=True))
        columns = zip(*[body.equations for body in bodies], strict=True)
        sites = tuple([self._site(equations) for equations in columns])
        outputs = self._read(zip(*[body.outputs for body in bodies], strict=True))
        return SiteBody(inputs, sites, outputs)

    def _site(self, equations: tuple[Equation, ...]) -> Site:
        inputs = self._read(zip(*[e.inputs for e in equations], strict=True))
        columns = zip(*[e.bodies for e in equations], strict=True)
        bodies = tuple([self.body(column) for column in columns])
        outputs = self._define(zip(*[e.outputs for e in equations], strict=True))
        length = None
        if equations[-1].primitive.name == "scan":
            length = self.nodes.add(tuple([e.params["length"] for e in equations]))
        return Site(equations, inputs, outputs, bodies, length)

    def _define(self, columns: Any) -> tuple[Operand, ...]:
        operands = []
        for column in columns:
            operand = self._operand(column)
            self._variables[column[-1]] = operand
            operands.append(operand)
        return tuple(operands)

    def _read(self, columns: Any) -> tuple[Operand, ...]:
        return tuple([self._known(column) for column in columns])

    def _known(self, column: Sequence[Atom]) -> Operand:
        atom = column[-1]
        if isinstance(atom, Variable):
            return self._variables[atom]
        if atom.slot not in self.constants:
            self.constants[atom.slot] = self._operand(column)
        return self.constants[atom.slot]

    def _operand(self, column: Sequence[Atom]) -> Operand:
        shapes = [getattr(atom.aval, "shape", ()) for atom in column]
        axes = tuple([self.nodes.add(sizes) for sizes in zip(*shapes, strict=True)])
        return Operand(column[-1], axes)


def constant_of(operand: Operand) -> Constant | None:
    """The constant that an operand is, if it is one."""
    return operand.atom if isinstance(operand.atom, Constant) else None
