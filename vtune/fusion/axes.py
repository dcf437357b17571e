"""Which axes of a family's functions are one, and where each of them lies."""

import dataclasses
from collections.abc import Sequence

from vtune.fusion.family import Family, Operand, Site, SiteBody, align
from vtune.fusion.layout import Layout, Sizes, indexed, vectors
from vtune.fusion.refusal import Refusal
from vtune.fusion.rules.control import CONTROL
from vtune.fusion.rules.nodes import Nodes
from vtune.fusion.rules.table import RULES
from vtune.fusion.sizes import size_parameters
from vtune.fusion.solving import solve
from vtune.fusion.trace import Trace


@dataclasses.dataclass(frozen=True, eq=False)
class Axes:
    """The functions of a family with all their axes placed.

    Args:
        init: the initializations, or None if they have different structures.
        train: for each size of training batch.
        evaluate: for each size of evaluation batch.
        layouts: the layout of each node, which knows where its sizes stand.
        vectors: the sizes that a lane has to know, each of all members.
        state: for each leaf of the state the node of each axis.
    """

    init: Family | None
    train: tuple[Family, ...]
    evaluate: tuple[Family, ...]
    layouts: tuple[Layout, ...]
    vectors: tuple[Sizes, ...]
    state: tuple[tuple[int, ...], ...]

    def layouts_of(self, axes: Sequence[int]) -> tuple[Layout, ...]:
        """The layouts of some nodes.

        Args:
            axes: the nodes.
        """
        return tuple([self.layouts[node] for node in axes])


def place(members: Sequence[Trace], with_init: bool) -> Axes:
    """Finds out where the entries of each member lie in the arrays of the envelope.

    Args:
        members: the traces of one `training_structure`, the envelope last.
        with_init: whether the initializations have one structure, too, and are placed.

    Returns:
        The axes.

    Raises:
        Refusal: if an axis cannot be placed, with the equation and the user's line.
    """
    nodes = Nodes()
    trains = [align(group, nodes) for group in zip(*[m.train for m in members])]
    evaluations = [align(group, nodes) for group in zip(*[m.evaluate for m in members])]
    init = align([member.init for member in members], nodes) if with_init else None
    count = len(members[-1].state_avals)
    state = trains[0].body.inputs[:count]
    for family in trains:
        _tie(nodes, state, family.body.inputs[:count], members[-1])
        _tie(nodes, state, family.body.outputs[:count], members[-1])
    for family in evaluations:
        _tie(nodes, state, family.body.inputs[:count], members[-1])
    families = [*trains, *evaluations]
    if init is not None:
        _tie(nodes, state, init.body.outputs, members[-1])
        families.append(init)
    for family in families:
        _relate_body(family.body, nodes)
    layouts = solve(nodes)
    table = vectors(layouts)
    places = {sizes: number for number, sizes in enumerate(table)}
    known: dict[Layout, Layout] = {}
    for layout in layouts:
        if layout not in known:
            known[layout] = indexed(layout, places)
    return Axes(
        init,
        tuple(trains),
        tuple(evaluations),
        tuple([known[layout] for layout in layouts]),
        table,
        tuple([operand.axes for operand in state]),
    )


def _tie(
    nodes: Nodes, state: Sequence[Operand], leaves: Sequence[Operand], trace: Trace
) -> None:
    for path, one, other in zip(trace.state_paths, state, leaves, strict=True):
        try:
            for first, second in zip(one.axes, other.axes, strict=True):
                nodes.same(first, second)
        except Refusal as refusal:
            raise Refusal(f"of the state's leaf {path}, {refusal.reason}") from None


def _relate_body(body: SiteBody, nodes: Nodes) -> None:
    for site in body.sites:
        try:
            _relate(site, nodes)
        except Refusal as refusal:
            if refusal.primitive is None:
                raise Refusal(refusal.reason, site.wide) from None
            raise


def _relate(site: Site, nodes: Nodes) -> None:
    if site.bodies:
        CONTROL[site.name](site, nodes)
        for body in site.bodies:
            _relate_body(body, nodes)
    elif any(map(nodes.varies, site.axes)) or _differs(site):
        if site.name not in RULES:
            raise Refusal(_unruly(site), site.wide)
        RULES[site.name].relate(site, nodes)


def _differs(site: Site) -> bool:
    """Whether members have an equation with other sizes among its parameters."""
    return any(
        len(set(site.parameters(name))) > 1
        for name in size_parameters(site.name)
        if name in site.wide.params
    )


# What users call the equations that padding would change.
_NAMES = {
    "qr": "QR decomposition",
    "geqrf": "QR decomposition",
    "geqp3": "QR decomposition",
    "householder_product": "QR decomposition",
    "svd": "singular value decomposition",
    "eigh": "eigenvalue decomposition",
    "eig": "eigenvalue decomposition",
    "cholesky": "Cholesky decomposition",
    "lu": "LU decomposition",
    "schur": "Schur decomposition",
    "triangular_solve": "solution of a linear system",
    "custom_linear_solve": "solution of a linear system",
    "fft": "Fourier transform",
    "random_gamma": "gamma draw",
    "pure_callback": "value of a function outside JAX",
    "io_callback": "value of a function outside JAX",
}


def _unruly(site: Site) -> str:
    """Why a kind of equation without a rule cannot be fused."""
    operand = site.inputs[0] if site.inputs else site.outputs[0]
    shape = " x ".join(map(str, getattr(operand.aval, "shape", ()))) or "single"
    name = _NAMES.get(site.name, f"`{site.name}`")
    return f"takes the {name} of a {shape} array, which padding would change"
