"""A family's functions inside its envelope."""

import dataclasses
import functools
from collections.abc import Hashable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from jaxtyping import Int

from vtune.fusion.arrays import is_array, is_key
from vtune.fusion.constants import PerFunction, constant_bytes
from vtune.fusion.flat import FlatFunction
from vtune.fusion.layout import Layout, shape_of
from vtune.fusion.padding import Planned, PlannedBody
from vtune.fusion.placement import embed, embed_lanes, extract
from vtune.fusion.rules.contents import is_finite
from vtune.fusion.signature import flat_signature
from vtune.fusion.sizes import trace_sizes
from vtune.fusion.trace import Trace


@dataclasses.dataclass(frozen=True, eq=False)
class WideFunction:
    """One function inside the envelope.

    Args:
        flat: the envelope's own.
        body: its equations, with what is masked.
        resets: for each result whether its padding is set to zero at the end: of what
            is handed on as it came; what is computed has zeros from then on.
        constants: for each constant the layout of its axes; None if nothing reads it.
        slots: the constants that are handed in.
    """

    flat: FlatFunction
    body: PlannedBody
    resets: tuple[bool, ...]
    constants: tuple[tuple[Layout, ...] | None, ...]
    slots: tuple[int, ...]

    @property
    def masks(self) -> tuple[tuple[str, str | None, str], ...]:
        """The primitive, the user's line and the neutral element of each mask."""
        return tuple(
            (planned.equation.primitive.name, planned.equation.line, str(mask))
            for planned in walk(self.body)
            for mask in planned.masks
            if mask is not None
        )


@dataclasses.dataclass(frozen=True, eq=False)
class Widening:
    """How the members of a family run inside its envelope.

    A family whose members all have the envelope's sizes is one, too: one without
    padding.

    Args:
        envelope: the trace into which all members fit.
        functions: the `WideFunction`s; `init` is None if it cannot be run in the
            envelope, so that each member's own is run.
        inits: by signature of a member's own initialization the slots that differ
            among the members that have it.
        state: for each leaf of the state the layout of each axis.
        layouts: the layouts of all axes of all functions.
        sizes: for each member its own sizes, as a lane has to know them.
        members: the row of `sizes` of a member, by all its sizes.
    """

    envelope: Trace
    functions: PerFunction
    inits: Mapping[Hashable, tuple[int, ...]]
    state: tuple[tuple[Layout, ...], ...]
    layouts: tuple[Layout, ...]
    sizes: Int[np.ndarray, "members sizes"]
    members: Mapping[Hashable, int]

    @property
    def slots(self) -> PerFunction:
        """For each function the constants that are handed in."""
        init = self.functions.init
        return PerFunction(
            () if init is None else init.slots,
            tuple([function.slots for function in self.functions.train]),
            tuple([function.slots for function in self.functions.evaluate]),
        )

    @property
    def varies(self) -> bool:
        """Whether some member has padding."""
        return bool(self.sizes.shape[1])

    @property
    def masks(self) -> tuple[tuple[str, str | None, str], ...]:
        """What is masked in training: primitive, user's line, neutral element."""
        return tuple([m for function in self.functions.train for m in function.masks])

    @functools.cached_property
    def key(self) -> Hashable:
        """Equal only for widenings whose programs are the same."""
        functions = [*self.functions.train, *self.functions.evaluate]
        functions += [] if self.functions.init is None else [self.functions.init]
        shapes: dict[Layout, Hashable] = {}
        for layout in self.layouts:
            if layout not in shapes:
                shapes[layout] = shape_of(layout)
        return (
            self.functions.init is None,
            tuple([shapes[layout] for layout in self.layouts]),
            tuple([_function_key(function) for function in functions]),
        )

    def member(self, trace: Trace) -> int | None:
        """Which member has the sizes of a trace.

        Args:
            trace: a trial's functions, of the family's structure.

        Returns:
            A row of `sizes`, or None if no member has them.
        """
        return self.members.get(trace_sizes(trace))

    def accepts(self, trace: Trace) -> bool:
        """Whether a trial of the family's structure can be run by this program.

        Args:
            trace: the trial's functions.

        Returns:
            True if its sizes are those of a member, every constant that is not handed
            in has the envelope's bytes, and those that are finite in all members are.
        """
        if self.member(trace) is None:
            return False
        pairs = zip(self.functions.train, trace.train)
        pairs = [*pairs, *zip(self.functions.evaluate, trace.evaluate)]
        if self.functions.init is not None:
            pairs.append((self.functions.init, trace.init))
        elif flat_signature(trace.init) not in self.inits:
            return False
        return all(_accepts(function, flat) for function, flat in pairs)

    def own_slots(self, trace: Trace) -> PerFunction:
        """For each of a trial's own functions the constants that differ among trials.

        Args:
            trace: the trial's functions, of a member's sizes.
        """
        slots = self.slots
        if self.functions.init is None:
            slots = slots._replace(init=self.inits[flat_signature(trace.init)])
        return slots

    def own_values(self, trace: Trace) -> PerFunction:
        """A trial's values of the constants that differ, in its own shapes.

        Args:
            trace: the trial's functions, of a member's sizes.

        Returns:
            For each function a tuple of arrays.
        """

        def own(flat: FlatFunction, slots: Sequence[int]) -> tuple[Any, ...]:
            return tuple([_value(flat.constants[slot]) for slot in slots])

        slots = self.own_slots(trace)
        return PerFunction(
            own(trace.init, slots.init),
            tuple(map(own, trace.train, slots.train)),
            tuple(map(own, trace.evaluate, slots.evaluate)),
        )

    def values(self, trace: Trace) -> PerFunction:
        """A trial's constants as its lane takes them.

        Args:
            trace: the trial's functions, of a member's sizes.

        Returns:
            For each function a tuple of arrays in the shapes of the envelope; of an
            initialization by itself in the trial's own shapes.
        """
        member = self._row(trace)
        own = self.own_values(trace)

        def wide(function: WideFunction, values: Sequence[Any]) -> tuple[Any, ...]:
            layouts = [function.constants[slot] or () for slot in function.slots]
            return tuple(_embedded(v, p, member) for v, p in zip(values, layouts))

        init = self.functions.init
        return PerFunction(
            own.init if init is None else wide(init, own.init),
            tuple(map(wide, self.functions.train, own.train)),
            tuple(map(wide, self.functions.evaluate, own.evaluate)),
        )

    def lane_sizes(self, trace: Trace) -> Int[np.ndarray, " sizes"]:
        """What the lane of a trial has to know of its own sizes.

        Args:
            trace: the trial's functions, of a member's sizes.
        """
        return self.sizes[self._row(trace)]

    def embed(self, leaves: Sequence[np.ndarray], trace: Trace) -> list[np.ndarray]:
        """A trial's state in the shapes of the envelope, padded by zeros.

        Args:
            leaves: arrays in the trial's own shapes, random keys as their data.
            trace: the trial's functions, of a member's sizes.
        """
        member = self._row(trace)
        return [_embedded(a, p, member) for a, p in zip(leaves, self.state)]

    def embed_lanes(
        self,
        states: Sequence[Sequence[np.ndarray]],
        traces: Sequence[Trace],
        lanes: int,
    ) -> list[np.ndarray]:
        """The states of some trials as lanes, in the shapes of the envelope.

        Args:
            states: for each trial its leaves, as `embed` takes them.
            traces: the trials' functions, of members' sizes.
            lanes: how many lanes there are; those beyond the trials get the first one.
        """
        members = list(map(self._row, traces))

        def placed(leaves: Sequence[np.ndarray], layouts: Sequence[Layout]) -> Any:
            if _varies(layouts):
                return embed_lanes(leaves, layouts, members, lanes)
            return np.stack([*leaves, *[leaves[0]] * (lanes - len(leaves))])

        return list(map(placed, zip(*states, strict=True), self.state))

    def extract(self, leaves: Sequence[np.ndarray], trace: Trace) -> list[np.ndarray]:
        """A trial's state in its own shapes.

        Args:
            leaves: arrays in the shapes of the envelope, random keys as their data.
            trace: the trial's functions, of a member's sizes.
        """
        member = self._row(trace)
        return [
            extract(leaf, layouts, member) if _varies(layouts) else leaf
            for leaf, layouts in zip(leaves, self.state)
        ]

    def _row(self, trace: Trace) -> int:
        return self.members[trace_sizes(trace)]


def _function_key(function: WideFunction) -> Hashable:
    flat = function.flat
    kept = sorted(set(range(len(flat.constants))) - set(function.slots))
    masks = [
        (number, str(mask))
        for number, planned in enumerate(walk(function.body))
        for mask in planned.masks
        if mask is not None
    ]
    return (
        flat_signature(flat),
        function.slots,
        tuple([constant_bytes(flat.constants[slot]) for slot in kept]),
        tuple(masks),
        tuple([planned.variant for planned in walk(function.body)]),
        tuple([tuple(map(type, each.resets)) for each in walk(function.body)]),
        function.resets,
    )


def _accepts(function: WideFunction, flat: FlatFunction) -> bool:
    """Whether constants that are not handed in agree, and none is newly infinite."""
    own, lifted = function.flat.constants, set(function.slots)
    for slot, (mine, other) in enumerate(zip(own, flat.constants, strict=True)):
        if slot in lifted:
            if is_tame(mine) and not is_tame(other):
                return False
        elif mine is not other and constant_bytes(mine) != constant_bytes(other):
            return False
    return True


def is_tame(value: Any) -> bool:
    """Whether a constant is an array of finite numbers."""
    return is_array(value) and not is_key(value) and is_finite(value)


def _value(constant: Any) -> Any:
    return constant if is_key(constant) else np.asarray(constant)


def _varies(layouts: Sequence[Layout]) -> bool:
    return any(layout.varies for layout in layouts)


def _embedded(value: Any, layouts: Sequence[Layout], member: int) -> Any:
    return embed(value, layouts, member) if _varies(layouts) else value


def walk(body: PlannedBody) -> Iterator[Planned]:
    """All equations of a body, each followed by those of its own bodies."""
    for planned in body.equations:
        yield planned
        for inner in planned.bodies:
            yield from walk(inner)
