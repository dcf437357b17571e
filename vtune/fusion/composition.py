"""One flat function after another."""

import dataclasses

from vtune.fusion.flat import Atom, Body, Constant, Equation, FlatFunction, Variable


def compose(first: FlatFunction, second: FlatFunction) -> FlatFunction:
    """The function that applies `second` to all outputs of `first`.

    Args:
        first: computes what `second` takes.
        second: takes the flat outputs of `first`.

    Returns:
        A flat function with the inputs of `first` and the outputs of `second`; the
        constants of `first` come before those of `second`.

    Raises:
        ValueError: if `second` takes something else than what `first` computes.
    """
    given = tuple((a.aval.shape, a.aval.dtype) for a in first.body.outputs)
    wanted = tuple((v.aval.shape, v.aval.dtype) for v in second.body.inputs)
    if given != wanted:
        raise ValueError(
            f"`compose(first, second)` needs `second` to take what `first` computes, "
            f"got {wanted} for {given}."
        )
    atoms: dict[Variable, Atom] = dict(zip(second.body.inputs, first.body.outputs))
    offset = len(first.constants)
    equations = [_shifted(e, atoms, offset) for e in second.body.equations]
    body = Body(
        first.body.inputs,
        (*first.body.equations, *equations),
        tuple(_moved(atom, atoms, offset) for atom in second.body.outputs),
    )
    constants = (*first.constants, *second.constants)
    return FlatFunction(body, constants, first.in_tree, second.out_tree)


def _shifted(equation: Equation, atoms: dict[Variable, Atom], offset: int) -> Equation:
    inputs = tuple([_moved(atom, atoms, offset) for atom in equation.inputs])
    outputs = tuple([_renewed(variable, atoms) for variable in equation.outputs])
    bodies = tuple([_shifted_body(body, offset) for body in equation.bodies])
    return dataclasses.replace(equation, inputs=inputs, outputs=outputs, bodies=bodies)


def _shifted_body(body: Body, offset: int) -> Body:
    atoms: dict[Variable, Atom] = {}
    inputs = tuple([_renewed(variable, atoms) for variable in body.inputs])
    equations = tuple([_shifted(e, atoms, offset) for e in body.equations])
    outputs = tuple([_moved(atom, atoms, offset) for atom in body.outputs])
    return Body(inputs, equations, outputs)


def _renewed(variable: Variable, atoms: dict[Variable, Atom]) -> Variable:
    new = Variable(variable.aval)
    atoms[variable] = new
    return new


def _moved(atom: Atom, atoms: dict[Variable, Atom], offset: int) -> Atom:
    if isinstance(atom, Constant):
        return Constant(atom.slot + offset, atom.aval)
    return atoms[atom]
