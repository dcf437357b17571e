"""Where every axis lies, from what the equations of a program say about them."""

import itertools
from collections.abc import Sequence

from vtune.fusion.layout import Concatenation, Layout, Product, Reversed, Tail, normal
from vtune.fusion.placement import same
from vtune.fusion.refusal import Refusal
from vtune.fusion.rules.nodes import Definition, Nodes, Sizes


def solve(nodes: Nodes) -> list[Layout]:
    """Gives every axis its layout.

    An axis that is made of others lies where they lie; one that no equation relates to
    anything has its entries at the front.

    Args:
        nodes: the axes and what was declared of them; cuts become concatenations.

    Returns:
        The layout of each node, in normal form.

    Raises:
        Refusal: if two declarations place one axis differently, if the parts of an axis
            overlap in some members only, or if an envelope is narrower than a member.
    """
    for whole, parts in nodes.cuts.items():
        _concatenate(nodes, whole, parts)
    while _unite(nodes):
        pass
    return _Solver(nodes).layouts()


def _concatenate(nodes: Nodes, whole: int, parts: Sequence[tuple[Sizes, int]]) -> None:
    """Turns the parts that an axis is cut into to a concatenation of segments."""
    sizes = nodes.sizes(whole)
    if not nodes.varies(whole) and not any(
        nodes.varies(part) or len(set(start)) > 1 for start, part in parts
    ):
        return
    spans = [(start, _plus(start, nodes.sizes(part)), part) for start, part in parts]
    # Where it was put together it is cut, too.
    known = [
        point
        for definition in nodes.definitions.get(whole, ())
        if definition.kind == "concatenation"
        for point in itertools.accumulate(map(nodes.sizes, definition.parts), _plus)
    ]
    points = sorted(
        {(0,) * len(sizes), sizes, *known, *[p for a, b, _ in spans for p in (a, b)]}
    )
    for low, high in zip(points, points[1:]):
        if any(a > b for a, b in zip(low, high)):
            raise Refusal(
                f"an axis of sizes {_shown(sizes)} is cut at {_shown(low)} and at "
                f"{_shown(high)}, which is another order in some trials"
            )
    segments = [
        nodes.add(tuple([b - a for a, b in zip(low, high)]))
        for low, high in zip(points, points[1:])
    ]
    nodes.define(whole, Definition("concatenation", tuple(segments)))
    for start, end, part in spans:
        inside = segments[points.index(start) : points.index(end)]
        if len(inside) == 1:
            nodes.same(inside[0], part)
        elif inside:
            nodes.define(part, Definition("concatenation", tuple(inside)))


def _plus(first: Sizes, second: Sizes) -> Sizes:
    return tuple([a + b for a, b in zip(first, second, strict=True)])


def _unite(nodes: Nodes) -> bool:
    """Unites the parts of axes that are made in one way from parts of equal sizes."""
    united = False
    for definitions in nodes.definitions.values():
        known: dict[tuple[str, tuple[Sizes, ...]], Definition] = {}
        for definition in definitions:
            sizes = tuple(map(nodes.sizes, definition.parts))
            first = known.setdefault((definition.kind, sizes), definition)
            for a, b in zip(first.parts, definition.parts):
                if nodes.find(a) != nodes.find(b):
                    nodes.same(a, b)
                    united = True
    return united


class _Solver:
    """The layouts of nodes, each computed once."""

    def __init__(self, nodes: Nodes):
        self._nodes = nodes
        self._definitions = nodes.definitions
        self._known: dict[int, Layout] = {}
        self._busy: set[int] = set()

    def layouts(self) -> list[Layout]:
        roots = [self._nodes.find(node) for node in range(len(self._nodes))]
        for root in roots:
            self._layout(root)
        for root, definitions in self._definitions.items():
            for definition in definitions:
                self._verify(root, definition)
        return [self._known[root] for root in roots]

    def _verify(self, root: int, definition: Definition) -> None:
        reading = self._read(definition)
        if reading is None or not same(reading, self._known[root]):
            raise Refusal(
                f"an axis of sizes {_shown(self._nodes.sizes(root))} is made of others "
                f"in two ways that do not fit together"
            )

    def _layout(self, root: int) -> Layout | None:
        """None while it is being asked for what it is made of."""
        if root in self._known:
            return self._known[root]
        if root in self._busy:
            return None
        self._busy.add(root)
        readings = [self._read(d) for d in self._definitions.get(root, ())]
        self._busy.discard(root)
        layout = self._agreed(root, [r for r in readings if r is not None])
        self._known[root] = layout
        return layout

    def _read(self, definition: Definition) -> Layout | None:
        parts = [self._layout(self._nodes.find(part)) for part in definition.parts]
        known = tuple([part for part in parts if part is not None])
        if len(known) < len(parts):
            return None
        if definition.kind == "product":
            return normal(Product(known))
        if definition.kind == "concatenation":
            return normal(Concatenation(known))
        return normal(Reversed(known[0]))

    def _agreed(self, root: int, readings: Sequence[Layout]) -> Layout:
        sizes = self._nodes.sizes(root)
        if max(sizes) > sizes[-1]:
            raise Refusal(
                f"an axis has {_shown(sizes[:-1])} entries in the trials but only "
                f"{sizes[-1]} in the widest of them"
            )
        tail = normal(Tail(None, sizes))
        structured = [reading for reading in readings if not same(reading, tail)]
        return structured[0] if structured else tail


def _shown(sizes: Sequence[int]) -> str:
    """Some sizes, each once."""
    several = [str(size) for size in dict.fromkeys(sizes)]
    return ", ".join(several[:4]) + (", ..." if len(several) > 4 else "")
