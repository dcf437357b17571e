"""Deriving how a family's members run inside its envelope."""

import dataclasses
from collections.abc import Hashable, Iterable, Sequence
from typing import Any

import numpy as np

from vtune.fusion.arrays import is_array, is_key
from vtune.fusion.axes import place
from vtune.fusion.constants import PerFunction, varying
from vtune.fusion.family import Family, Operand
from vtune.fusion.flat import Atom, FlatFunction
from vtune.fusion.padding import Known, plan
from vtune.fusion.refusal import Refusal
from vtune.fusion.rules.contents import ZERO, Contents, is_finite, is_zero
from vtune.fusion.rules.rule import Place, is_whole
from vtune.fusion.signature import flat_signature
from vtune.fusion.sizes import flat_structure, trace_sizes
from vtune.fusion.trace import Trace
from vtune.fusion.widening import WideFunction, Widening


def widen(traces: Sequence[Trace], envelope: Trace, state: Contents = ZERO) -> Widening:
    """Derives how trials that differ in sizes run in one program.

    Args:
        traces: trials of one `training_structure`.
        envelope: a trace of that structure that has no smaller size than any of them;
            one of them, or another.
        state: what the padding of the state holds before a step.

    Returns:
        The widening.

    Raises:
        Refusal: if a size cannot be told apart from padding somewhere, with the
            equation and the user's line.
    """
    structures = {flat_structure(trace.init) for trace in (*traces, envelope)}
    if len(structures) == 1:
        try:
            return _Widening(traces, envelope, state, with_init=True).widened()
        except Refusal:
            # It may be the initialization alone that cannot be done in the envelope.
            pass
    return _Widening(traces, envelope, state, with_init=False).widened()


class _Widening:
    """One attempt to widen a family."""

    def __init__(
        self,
        traces: Sequence[Trace],
        envelope: Trace,
        state: Contents,
        with_init: bool,
    ):
        distinct = {trace_sizes(trace): trace for trace in traces}
        # The envelope comes last, and is a member only if it is one of the traces.
        known = distinct.pop(trace_sizes(envelope), None)
        members = [*distinct.values(), envelope]
        self._keys = [*distinct, *([] if known is None else [trace_sizes(envelope)])]
        self._traces = [*traces, envelope]
        self._envelope = envelope
        self._state = state
        self._rows = len(members)
        self._axes = place(members, with_init)

    def widened(self) -> Widening:
        axes, envelope = self._axes, self._envelope
        count = len(envelope.state_avals)
        traces = self._traces
        init = None
        if axes.init is None:
            slots, inits = _training_slots(traces), _inits(traces)
        else:
            slots, inits = varying(traces), {}
            flats = [trace.init for trace in traces]
            init = self._function(axes.init, flats, slots.init, (0, count))
        train = self._functions(
            axes.train, zip(*[t.train for t in traces]), slots.train, count
        )
        evaluate = self._functions(
            axes.evaluate, zip(*[t.evaluate for t in traces]), slots.evaluate, 0
        )
        functions = PerFunction(init, train, evaluate)
        return Widening(
            envelope,
            functions,
            inits,
            tuple([axes.layouts_of(leaf) for leaf in axes.state]),
            axes.layouts,
            np.array(axes.vectors, np.int32).reshape(-1, self._rows).T,
            {key: number for number, key in enumerate(self._keys)},
        )

    def _functions(
        self,
        families: Sequence[Family],
        flats: Iterable[Sequence[FlatFunction]],
        slots: Sequence[tuple[int, ...]],
        kept: int,
    ) -> tuple[WideFunction, ...]:
        state = (len(self._envelope.state_avals), kept)
        columns = zip(families, flats, slots, strict=True)
        return tuple([self._function(f, all_, s, state) for f, all_, s in columns])

    def _function(
        self,
        family: Family,
        flats: Sequence[FlatFunction],
        lifted: tuple[int, ...],
        state: tuple[int, int],
    ) -> WideFunction:
        """Plans a function whose first arguments and first results are the state."""
        given, kept = state
        constants = {
            slot: self._constant(
                family.constants[slot],
                [flat.constants[slot] for flat in flats] if slot in lifted else None,
                family.members[-1].constants[slot],
            )
            for slot in family.constants
        }
        inputs: list[Known] = [
            (self._state if number < given else ZERO, True)
            for number in range(len(family.body.inputs))
        ]
        zeros: list[Atom | int] = [0] * kept
        if given and is_zero(self._state):
            zeros = [operand.atom for operand in family.body.inputs[:kept]]
        keeps = dict(zip(family.body.outputs, zeros))
        body = plan(family, self._axes.layouts, constants, inputs, keeps)
        resets = tuple(
            number < kept and result.padded and not is_zero(result.contents)
            for number, result in enumerate(body.results)
        )
        flat = family.members[-1]
        slots = range(len(flat.constants))
        layouts = tuple(constants[s].layouts if s in constants else None for s in slots)
        return WideFunction(flat, body, resets, layouts, lifted)

    def _constant(
        self, operand: Operand, values: Sequence[Any] | None, own: Any
    ) -> Place:
        """What is known of a constant.

        Args:
            operand: where it is read.
            values: what all trials have if it is handed in.
            own: what the envelope has.
        """
        layouts = self._axes.layouts_of(operand.axes)
        tame = is_whole(operand.aval) or _all_tame([own] if values is None else values)
        scalar = operand.aval.shape == () and values is None and tame
        value = own if scalar and is_array(own) and not is_key(own) else None
        contents = ZERO if any(layout.varies for layout in layouts) else None
        return Place(operand.aval, layouts, contents, tame, value)


def _training_slots(traces: Sequence[Trace]) -> PerFunction:
    init = traces[-1].init
    alike = [dataclasses.replace(trace, init=init) for trace in traces]
    return varying(alike)


def _inits(traces: Sequence[Trace]) -> dict[Hashable, tuple[int, ...]]:
    groups: dict[Hashable, list[Trace]] = {}
    for trace in traces:
        groups.setdefault(flat_signature(trace.init), []).append(trace)
    return {kind: varying(group).init for kind, group in groups.items()}


def _all_tame(values: Sequence[Any]) -> bool:
    if not all(is_array(value) and not is_key(value) for value in values):
        return False
    if np.shape(values[0]) == ():
        return is_finite(np.array([np.asarray(value) for value in values]))
    return all(map(is_finite, values))
