"""The constants of a program: which differ between trials, and handing those in."""

import dataclasses
import weakref
from collections.abc import Hashable, Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np

from vtune.fusion.arrays import array_identity, is_array, is_key
from vtune.fusion.flat import FlatFunction
from vtune.fusion.identity import Reference
from vtune.fusion.trace import Trace


class PerFunction(NamedTuple):
    """Something for each function of a trace, in the trace's own shape.

    It is a JAX pytree, so that lifted values can be stacked over lanes as they are.

    Args:
        init: for the initialization.
        train: for each training function.
        evaluate: for each evaluation function.
    """

    init: Any
    train: tuple[Any, ...]
    evaluate: tuple[Any, ...]


# For each function the slots of some of its constants, in rising order.
Slots = PerFunction


def constant_bytes(value: Any) -> Hashable:
    """What decides whether two constants are the same.

    Args:
        value: a constant of a flat function.

    Returns:
        Its shape, dtype and bytes; for random keys the implementation and the key's
        data. So `0.0` differs from `-0.0`, and NaN equals itself. Anything else that a
        function may close over is the same only if it is the same object.
    """
    return array_identity(value) if is_array(value) else Reference(value)


def varying(traces: Sequence[Trace]) -> Slots:
    """The constants in which trials of one signature differ.

    Args:
        traces: the trials' functions; all of one signature.

    Returns:
        For each function the slots at which not all trials have the same constant.

    Raises:
        ValueError: without a trace, or if the traces have different functions.
    """
    if not traces:
        raise ValueError("`varying(traces)` needs at least one trace, got none.")
    counts = {_shape(trace) for trace in traces}
    if len(counts) > 1:
        raise ValueError(
            "`varying(traces)` takes traces of one signature; these have different "
            "numbers of constants."
        )
    return _per_function(
        traces[0], [_differing(group) for group in zip(*map(_all_bytes, traces))]
    )


@dataclasses.dataclass(frozen=True, eq=False)
class Lifting:
    """Which constants a program takes as inputs, and what it assumes of the others.

    Args:
        reference: the functions that the program is made from.
        slots: the constants that are handed in.

    A cohort's lifting is `Lifting(traces[0], varying(traces))`; it accepts all of them.
    """

    reference: Trace
    slots: Slots

    def values(self, trace: Trace) -> PerFunction:
        """A trial's constants at the lifted slots.

        Args:
            trace: the trial's functions, of the reference's signature.

        Returns:
            For each function a tuple of arrays, each in the constant's own dtype: NumPy
            arrays, and JAX arrays of typed keys.
        """
        values = [
            tuple(_value(flat.constants[slot]) for slot in slots)
            for flat, slots in zip(trace.functions, _functions(self.slots))
        ]
        return _per_function(trace, values)

    def accepts(self, trace: Trace) -> bool:
        """Whether a trial of the same signature can be run by this program.

        Args:
            trace: the trial's functions.

        Returns:
            True if every constant that is not lifted has the reference's bytes.
        """
        if _shape(trace) != _shape(self.reference):
            return False
        groups = zip(_all_bytes(self.reference), _all_bytes(trace))
        return all(
            set(_differing(group)) <= set(slots)
            for group, slots in zip(groups, _functions(self.slots))
        )


def _value(constant: Any) -> Any:
    return constant if is_key(constant) else np.asarray(constant)


def _functions(per_function: PerFunction) -> Iterator[Any]:
    yield per_function.init
    yield from per_function.train
    yield from per_function.evaluate


def _per_function(trace: Trace, values: Sequence[Any]) -> PerFunction:
    end = 1 + len(trace.train)
    return PerFunction(values[0], tuple(values[1:end]), tuple(values[end:]))


def _shape(trace: Trace) -> Hashable:
    counts = tuple(len(flat.constants) for flat in trace.functions)
    return (counts, len(trace.train))


def _differing(group: Sequence[Sequence[Hashable]]) -> tuple[int, ...]:
    first, *others = group
    return tuple(
        slot
        for slot, value in enumerate(first)
        if any(other[slot] is not value and other[slot] != value for other in others)
    )


# A large table is read once; trials that share an evaluation function share this too.
_BYTES: weakref.WeakKeyDictionary[FlatFunction, tuple[Hashable, ...]] = (
    weakref.WeakKeyDictionary()
)


def _all_bytes(trace: Trace) -> list[tuple[Hashable, ...]]:
    return [_bytes_of(flat) for flat in trace.functions]


def _bytes_of(flat: FlatFunction) -> tuple[Hashable, ...]:
    found = _BYTES.get(flat)
    if found is None:
        found = tuple(constant_bytes(value) for value in flat.constants)
        _BYTES[flat] = found
    return found
