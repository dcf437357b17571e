"""Axes as nodes: which are one, and which are made of others."""

import dataclasses
import itertools
from collections.abc import Sequence
from typing import Literal

from vtune.fusion.refusal import Refusal


# The sizes of one axis: of each member of a family, of the envelope last.
Sizes = tuple[int, ...]


@dataclasses.dataclass(frozen=True, slots=True)
class Definition:
    """How an axis is made of others.

    Args:
        kind: a row-major product of the parts, or the parts one after another, or the
            one part backwards.
        parts: their nodes.
    """

    kind: Literal["product", "concatenation", "reversal"]
    parts: tuple[int, ...]


class Nodes:
    """The axes of the arrays of a program, united as equations relate them."""

    def __init__(self):
        self._parents: list[int] = []
        self._sizes: list[Sizes] = []
        self._definitions: list[tuple[int, Definition]] = []
        self._cuts: list[tuple[int, Sizes, int]] = []

    def __len__(self) -> int:
        return len(self._parents)

    def add(self, sizes: Sizes) -> int:
        """A new axis that is not related to any other yet.

        Args:
            sizes: its size in each member and in the envelope.

        Returns:
            Its node.
        """
        self._parents.append(len(self._parents))
        self._sizes.append(sizes)
        return len(self._parents) - 1

    def find(self, node: int) -> int:
        """The node that stands for all that are one with this one."""
        while self._parents[node] != node:
            self._parents[node] = self._parents[self._parents[node]]
            node = self._parents[node]
        return node

    def sizes(self, node: int) -> Sizes:
        """The sizes of an axis, of the envelope last."""
        return self._sizes[node]

    def varies(self, node: int) -> bool:
        """Whether not all members and the envelope have one size."""
        return len(set(self._sizes[node])) > 1

    def same(self, first: int, second: int) -> None:
        """Declares that two axes are one.

        Args:
            first: the one.
            second: the other.

        Raises:
            Refusal: if their sizes differ.
        """
        first, second = self.find(first), self.find(second)
        if self._sizes[first] != self._sizes[second]:
            raise Refusal(
                f"axes of sizes {self._sizes[first]} and {self._sizes[second]} would "
                f"have to be one"
            )
        self._parents[second] = first

    def define(self, node: int, definition: Definition) -> None:
        """Declares how an axis is made of others.

        An axis may have several definitions, which have to place it alike.

        Args:
            node: the axis.
            definition: its parts.
        """
        self._definitions.append((node, definition))

    def cut(self, whole: int, start: Sizes, part: int) -> None:
        """Declares that an axis is a part of another, without gaps.

        Args:
            whole: the axis.
            start: where the part begins in it, in each member and in the envelope.
            part: the axis that is the part.

        Raises:
            Refusal: if the part begins before the whole, or ends after it.
        """
        ends = [a + n for a, n in zip(start, self._sizes[part], strict=True)]
        if min(start) < 0 or any(e > n for e, n in zip(ends, self._sizes[whole])):
            raise Refusal("a slice reaches beyond the array that it is taken from")
        self._cuts.append((whole, start, part))

    @property
    def cuts(self) -> dict[int, list[tuple[Sizes, int]]]:
        """For each axis that is cut where its parts begin, and which they are."""
        found: dict[int, list[tuple[Sizes, int]]] = {}
        for whole, start, part in self._cuts:
            found.setdefault(self.find(whole), []).append((start, part))
        return found

    @property
    def definitions(self) -> dict[int, tuple[Definition, ...]]:
        """For each axis that is made of others all that was declared of it."""
        found: dict[int, dict[Definition, None]] = {}
        for node, definition in self._definitions:
            parts = tuple(map(self.find, definition.parts))
            if self.varies(node) or any(map(self.varies, parts)):
                inner = found.setdefault(self.find(node), {})
                inner[Definition(definition.kind, parts)] = None
        return {node: tuple(inner) for node, inner in found.items()}

    def reshape(self, before: Sequence[int], after: Sequence[int]) -> None:
        """Relates the axes of an array before and after a reshape.

        In row-major order the axes come apart wherever a product of leading sizes of
        the one shape is also one of the other, for every member.

        Args:
            before: the axes of the operand.
            after: the axes of the result.

        Raises:
            Refusal: if an array is empty, or the numbers of entries differ.
        """
        for first, second in self._factors(before, after):
            if len(first) == len(second) == 1:
                self.same(first[0], second[0])
            elif len(second) == 1:
                self.define(second[0], Definition("product", first))
            else:
                whole = first[0]
                if len(first) > 1:
                    whole = self.add(self._leading(first)[-1])
                    self.define(whole, Definition("product", first))
                self.define(whole, Definition("product", second))

    def _factors(
        self, before: Sequence[int], after: Sequence[int]
    ) -> list[tuple[tuple[int, ...], tuple[int, ...]]]:
        if any(0 in self._sizes[node] for node in (*before, *after)):
            raise Refusal("an empty array is reshaped")
        # An axis of one entry everywhere belongs to no factor.
        before = [node for node in before if set(self._sizes[node]) != {1}]
        after = [node for node in after if set(self._sizes[node]) != {1}]
        first, second = self._leading(before), self._leading(after)
        if first[-1:] != second[-1:]:
            raise Refusal("a reshape does not keep the number of entries")
        common = [sizes for sizes in first if sizes in set(second)]
        ends = [(first.index(s) + 1, second.index(s) + 1) for s in common]
        return [
            (tuple(before[i:k]), tuple(after[j:m]))
            for (i, j), (k, m) in itertools.pairwise([(0, 0), *ends])
        ]

    def _leading(self, nodes: Sequence[int]) -> list[Sizes]:
        """The products of the sizes of the first axes, for each number of axes."""
        sizes = [self._sizes[node] for node in nodes]
        return list(
            itertools.accumulate(
                sizes, lambda a, b: tuple(x * y for x, y in zip(a, b, strict=True))
            )
        )
