"""Where the entries of a narrow axis lie in the wide axis that holds it.

The entries of a narrow axis keep their order, and so a layout says for every member of
a family which entries of the wide axis are live: those at the front (`Tail`), at the
end (`Reversed`), in blocks or runs (`Product`, `Concatenation`) and combinations. The
envelope, the last member, lives in every entry.

Here are the layouts as such; `placement` computes what follows from them.
"""

import dataclasses
import functools
import itertools
import math
import operator
from collections.abc import Hashable, Iterable, Iterator, Mapping, Sequence


# One size: that of every member of a family, the envelope's last.
Sizes = tuple[int, ...]


def _wide(layout: "Layout") -> int:
    """The size of the wide axis."""
    return layout.sizes[-1]


def _varies(layout: "Layout") -> bool:
    """Whether not all members fill the wide axis."""
    return min(layout.sizes) != layout.sizes[-1]


@dataclasses.dataclass(frozen=True)
class Tail:
    """Live entries at the front, padding behind them.

    Args:
        size_index: where the lane's size stands in `lane_sizes`; of no meaning where
            the size is the same for all, and no part of the layout's identity.
        sizes: the size of each member, the envelope's last.

    Raises:
        ValueError: if a member is wider than the envelope.
    """

    size_index: int | None = dataclasses.field(compare=False)
    sizes: Sizes

    def __post_init__(self):
        if not 0 <= min(self.sizes) or max(self.sizes) != self.sizes[-1]:
            raise ValueError(
                f"`Tail({self.size_index}, {self.sizes})`: sizes are at least 0, and "
                f"none is larger than the envelope's, the last."
            )

    wide = property(_wide)
    varies = property(_varies)


@dataclasses.dataclass(frozen=True)
class Product:
    """An axis whose entries are those of several axes, the last one fastest.

    Args:
        parts: the layouts of those axes.
    """

    parts: "tuple[Layout, ...]"

    @functools.cached_property
    def sizes(self) -> Sizes:
        """The size of each member, the envelope's last."""
        return tuple(map(math.prod, zip(*[part.sizes for part in self.parts])))

    wide = property(_wide)
    varies = property(_varies)


@dataclasses.dataclass(frozen=True)
class Concatenation:
    """An axis that consists of several axes, one after another.

    Args:
        parts: the layouts of those axes.
    """

    parts: "tuple[Layout, ...]"

    @functools.cached_property
    def sizes(self) -> Sizes:
        """The size of each member, the envelope's last."""
        return tuple(map(sum, zip(*[part.sizes for part in self.parts])))

    wide = property(_wide)
    varies = property(_varies)


@dataclasses.dataclass(frozen=True)
class Reversed:
    """An axis read from its end.

    Args:
        part: the layout of the axis.
    """

    part: "Layout"

    @property
    def sizes(self) -> Sizes:
        """The size of each member, the envelope's last."""
        return self.part.sizes

    wide = property(_wide)
    varies = property(_varies)


Layout = Tail | Product | Concatenation | Reversed


def vectors(layouts: Iterable[Layout]) -> tuple[Sizes, ...]:
    """The sizes that a lane has to know.

    Args:
        layouts: any number of layouts.

    Returns:
        The sizes of all tails that vary, each once, in the order in which they appear.
    """
    found: dict[Sizes, None] = {}
    for layout in layouts:
        for tail in _tails(layout):
            if tail.varies:
                found.setdefault(tail.sizes)
    return tuple(found)


def indexed(layout: Layout, places: Mapping[Sizes, int]) -> Layout:
    """A layout that knows where its sizes stand in `lane_sizes`.

    Args:
        layout: the layout.
        places: the place of each of its `vectors`.

    Returns:
        An equal layout.
    """
    if isinstance(layout, Tail):
        index = places[layout.sizes] if layout.varies else None
        return Tail(index, layout.sizes)
    if isinstance(layout, Reversed):
        return Reversed(indexed(layout.part, places))
    parts = tuple([indexed(part, places) for part in layout.parts])
    return dataclasses.replace(layout, parts=parts)


def shape_of(layout: Layout) -> Hashable:
    """What a program depends on of a layout: all but the members' sizes.

    Args:
        layout: a layout that knows where its sizes stand.

    Returns:
        Equal only for layouts that are the same for equal `lane_sizes`.
    """
    if isinstance(layout, Tail):
        return (layout.wide, layout.size_index if layout.varies else None)
    if isinstance(layout, Reversed):
        return ("reversed", shape_of(layout.part))
    return (type(layout).__name__, tuple([shape_of(part) for part in layout.parts]))


def _tails(layout: Layout) -> Iterator[Tail]:
    if isinstance(layout, Tail):
        yield layout
    elif isinstance(layout, Reversed):
        yield from _tails(layout.part)
    else:
        for part in layout.parts:
            yield from _tails(part)


def normal(layout: Layout) -> Layout:
    """The form of a layout that all its readings share.

    Fixed axes are one fixed tail, products and concatenations are flat, a tail of whole
    blocks is a tail, and what repeats is a product with a fixed first part. Readings
    that agree whatever the sizes are get one form; `placement.same` also knows those
    that agree by the members' sizes alone.

    Args:
        layout: any layout.

    Returns:
        A layout with the same positions for every member. Its tails may have sizes that
        no tail had before, so it has to be `indexed` before a lane can use it.
    """
    if not layout.varies:
        return Tail(None, layout.sizes)
    if isinstance(layout, Tail):
        return _assembled(_runs(layout))
    if isinstance(layout, Reversed):
        return _reversed(normal(layout.part))
    parts = [normal(part) for part in layout.parts]
    return _product(parts) if isinstance(layout, Product) else _concatenation(parts)


def _reversed(part: Layout) -> Layout:
    """Of layouts in normal form, as all below."""
    if isinstance(part, Reversed):
        return part.part
    if isinstance(part, Tail):
        return _assembled(_runs(part)[::-1])
    parts = [_reversed(inner) for inner in part.parts]
    return _product(parts) if isinstance(part, Product) else _concatenation(parts[::-1])


def _product(parts: Sequence[Layout]) -> Layout:
    factors: list[Layout] = []
    for part in parts:
        for factor in part.parts if isinstance(part, Product) else (part,):
            if factor.wide == 1 and not factor.varies:
                continue
            if factors and not factor.varies:
                factors[-1] = _scaled(factors[-1], factor.wide)
            else:
                factors.append(factor)
    if not factors:
        return Tail(None, parts[0].sizes)
    return factors[0] if len(factors) == 1 else Product(tuple(factors))


def _scaled(part: Layout, size: int) -> Layout:
    """An axis of whole blocks."""
    if isinstance(part, Tail):
        return Tail(None, tuple([n * size for n in part.sizes]))
    if isinstance(part, Reversed):
        return Reversed(_scaled(part.part, size))
    if isinstance(part, Product):
        return Product((*part.parts[:-1], _scaled(part.parts[-1], size)))
    return _concatenation([_scaled(inner, size) for inner in part.parts])


# A concatenation as a series of runs: how long, and in which members it is live, or
# the layout that lies there if it is not made of such runs.
_Run = tuple[int, "tuple[bool, ...] | Layout"]

# Beyond this number of runs, what repeats is not written out to compare it.
_MOST_RUNS = 1024


def _concatenation(parts: Sequence[Layout]) -> Layout:
    runs = _merged([run for part in parts for run in _runs(part)])
    for count in range(len(runs), 1, -1):
        period = _period(runs, count)
        if period is not None:
            once = _assembled(period)
            return _product([Tail(None, (count,) * len(once.sizes)), once])
    return _assembled(runs)


def _runs(part: Layout) -> list[_Run]:
    if isinstance(part, Tail):
        steps = sorted({0, *part.sizes})
        return [
            (end - start, tuple([size > start for size in part.sizes]))
            for start, end in zip(steps, steps[1:])
        ]
    if isinstance(part, Reversed):
        return _runs(part.part)[::-1]
    if isinstance(part, Concatenation):
        return [run for inner in part.parts for run in _runs(inner)]
    first, *rest = part.parts
    if not first.varies:
        once = _runs(_product(rest))
        if first.wide * len(once) <= _MOST_RUNS:
            return once * first.wide
    return [(part.wide, part)]


def _merged(runs: Sequence[_Run]) -> list[_Run]:
    merged: list[_Run] = []
    for width, content in runs:
        if merged and merged[-1][1] == content and isinstance(content, tuple):
            width += merged.pop()[0]
        merged.append((width, content))
    return merged


def _period(runs: Sequence[_Run], count: int) -> list[_Run] | None:
    """The first of `count` equal pieces, if runs are that."""
    length, rest = divmod(sum(width for width, _ in runs), count)
    if rest:
        return None
    pieces: list[list[_Run]] = [[]]
    free = length
    for width, content in runs:
        while width:
            taken = min(width, free)
            if taken < width and not isinstance(content, tuple):
                return None
            pieces[-1].append((taken, content))
            width, free = width - taken, free - taken
            if not free:
                if pieces[-1] != pieces[0]:
                    return None
                pieces.append([])
                free = length
    return pieces[0]


def _assembled(runs: Sequence[_Run]) -> Layout:
    """The layout of a series of runs: tails and reversed tails, as long as they go."""
    parts: list[Layout] = []
    start = 0
    while start < len(runs):
        falling = _monotone(runs, start, rising=False)
        rising = _monotone(runs, start, rising=True)
        end = max(falling, rising)
        part = runs[start][1]
        if isinstance(part, tuple):
            columns = zip(*[[n * alive for alive in c] for n, c in runs[start:end]])  # pyright: ignore[reportGeneralTypeIssues]
            part = Tail(None, tuple(map(sum, columns)))
            part = Reversed(part) if rising > falling else part
        parts.append(part)
        start = end
    parts = _factored(parts)
    return parts[0] if len(parts) == 1 else Concatenation(tuple(parts))


def _monotone(runs: Sequence[_Run], start: int, rising: bool) -> int:
    """Where a stretch ends in which every run is live in fewer (or more) members."""
    end = start + 1
    while end < len(runs):
        before, after = runs[end - 1][1], runs[end][1]
        if not isinstance(before, tuple) or not isinstance(after, tuple):
            break
        more, fewer = (after, before) if rising else (before, after)
        if not all(map(operator.ge, more, fewer)):
            break
        end += 1
    return end


def _factored(parts: Sequence[Layout]) -> list[Layout]:
    """Neighbours that repeat one axis as one product."""
    factored: list[Layout] = []
    for last, group in itertools.groupby(parts, _last):
        several = list(group)
        if len(several) > 1:
            ones = Tail(None, (1,) * len(last.sizes))
            heads = [_product((ones, *_factors(part)[:-1])) for part in several]
            several = [_product([_concatenation(heads), last])]
        factored += several
    return factored


def _factors(part: Layout) -> "tuple[Layout, ...]":
    return part.parts if isinstance(part, Product) else (part,)


def _last(part: Layout) -> Layout:
    return _factors(part)[-1]
