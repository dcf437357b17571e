"""The structure of a program without its sizes, and the sizes apart.

What a size is, is a written list: the dimensions of every array, and the parameters
named in `_SIZES`. No other number is one, whatever it looks like: an axis, an exponent
or a window says what is computed, not for how many.
"""

import functools
import weakref
from collections.abc import Callable, Hashable, Iterable, Iterator, Mapping
from typing import Any, NamedTuple

import numpy as np
from jax.core import ShapedArray

from vtune.fusion.arrays import is_array
from vtune.fusion.flat import Atom, Body, Equation, FlatFunction, Variable
from vtune.fusion.identity import Reference, params_identity
from vtune.fusion.signature import Signature
from vtune.fusion.trace import Trace


class _Split(NamedTuple):
    """A parameter taken apart.

    Args:
        exact: what belongs to the structure.
        bounds: numbers that may fall where arrays grow, such as the width of a border.
        counts: sizes.
    """

    exact: Hashable
    bounds: tuple[int, ...] = ()
    counts: tuple[int, ...] = ()


def _count(value: Any) -> _Split:
    return _Split(None, counts=(_integer(value),))


def _counts(values: Any) -> _Split:
    return _Split(len(values), counts=tuple(map(_integer, values)))


def _bounds(values: Any) -> _Split:
    return _Split(len(values), bounds=tuple(map(_integer, values)))


def _borders(config: Any) -> _Split:
    bounds = [_integer(width) for low, high, _ in config for width in (low, high)]
    return _Split(tuple([_integer(between) for *_, between in config]), tuple(bounds))


def _integer(value: Any) -> int:
    if not isinstance(value, (int, np.integer)) or isinstance(value, bool):
        raise TypeError(f"A size is an integer, got {value!r}.")
    return int(value)


_SIZES: Mapping[str, Mapping[str, Callable[[Any], _Split]]] = {
    "broadcast_in_dim": {"shape": _counts},
    "conv_general_dilated": {
        "batch_group_count": _count,
        "feature_group_count": _count,
    },
    "dynamic_slice": {"slice_sizes": _counts},
    "gather": {"slice_sizes": _counts},
    "iota": {"shape": _counts},
    "pad": {"padding_config": _borders},
    "random_bits": {"shape": _counts},
    "random_split": {"shape": _counts},
    "reshape": {"new_sizes": _counts},
    "scan": {"length": _count},
    "slice": {"limit_indices": _bounds, "start_indices": _bounds},
    "split": {"sizes": _counts},
    "tile": {"reps": _counts},
}


def size_parameters(primitive: str) -> tuple[str, ...]:
    """The names of the parameters of a kind of equation that are sizes."""
    return tuple(_SIZES.get(primitive, ()))


def structure(trace: Trace) -> Signature:
    """The structure of a trial's programs.

    Args:
        trace: the trial's functions.

    Returns:
        As `signature`, but without sizes: equal for two trials only if their functions
        are the same equations over arrays of the same dtypes and numbers of axes. Two
        trials with equal structure and equal `sizes_of` all functions have one
        signature.
    """
    return Signature((flat_structure(trace.init), training_structure(trace)))


def training_structure(trace: Trace) -> Signature:
    """The structure of a trial's programs but for its initialization.

    An initialization that takes a QR decomposition, as that of recurrent layers does,
    has another structure for every size, but says nothing about the training.

    Args:
        trace: the trial's functions.

    Returns:
        The part of `structure` that is about training and evaluation.
    """
    return Signature(
        (
            trace.train_metrics,
            trace.eval_metrics,
            trace.state_paths,
            tuple([flat_structure(flat) for flat in trace.train]),
            tuple([flat_structure(flat) for flat in trace.evaluate]),
        )
    )


def flat_structure(flat: FlatFunction) -> Signature:
    """The structure of one function.

    Args:
        flat: the function.

    Returns:
        A value that is equal only for functions that are the same up to sizes and the
        values of constants.
    """
    found = _STRUCTURES.get(flat)
    if found is None:
        slots: dict[int, Any] = {}
        body = _body(flat.body, slots)
        constants = tuple([_kind(slots[slot]) for slot in sorted(slots)])
        fixed = tuple([Reference(v) for v in flat.constants if not is_array(v)])
        found = _STRUCTURES[flat] = Signature((body, constants, fixed))
    return found


_STRUCTURES: weakref.WeakKeyDictionary[FlatFunction, Signature] = (
    weakref.WeakKeyDictionary()
)


def sizes_of(flat: FlatFunction) -> tuple[int, ...]:
    """All sizes of a function, in the order of its equations.

    Args:
        flat: the function.

    Returns:
        The dimensions of its inputs, then of each equation those of its outputs, the
        sizes among its parameters and the sizes of its bodies, at last the dimensions
        of its constants. Functions of one structure have equally many.
    """
    slots: dict[int, Any] = {}
    sizes = [n for bounds, counts in _walk(flat.body, slots) for n in bounds + counts]
    return (*sizes, *_constant_sizes(slots))


# A trace is asked for its sizes whenever one of its arrays is moved.
_GROWING_SIZES: weakref.WeakKeyDictionary[Trace, tuple[int, ...]]
_GROWING_SIZES = weakref.WeakKeyDictionary()
_TRACE_SIZES: weakref.WeakKeyDictionary[Trace, Signature] = weakref.WeakKeyDictionary()


def trace_sizes(trace: Trace) -> Signature:
    """All sizes of a trial's functions.

    Args:
        trace: the trial's functions.

    Returns:
        Of two trials of one structure equal only if all their sizes are.
    """
    found = _TRACE_SIZES.get(trace)
    if found is None:
        found = Signature(tuple([sizes_of(flat) for flat in trace.functions]))
        _TRACE_SIZES[trace] = found
    return found


def dominates(wide: Trace, narrow: Trace) -> bool:
    """Whether all of a trial's arrays fit into those of another.

    Args:
        wide: the trial that may be an envelope.
        narrow: another of the same `training_structure`.

    Returns:
        True if no dimension, no number of repetitions and no number of groups of
        `narrow` exceeds that of `wide`, in training and evaluation. Bounds of slices
        and widths of borders do not count, since they may be smaller where arrays are
        larger.

    Raises:
        ValueError: if the two have different structures, as far as their sizes show it.
    """
    large, small = growing_sizes(wide), growing_sizes(narrow)
    if len(large) != len(small):
        raise ValueError(
            f"`dominates(wide, narrow)` takes traces of one structure; these have "
            f"{len(large)} and {len(small)} sizes."
        )
    return all(a >= b for a, b in zip(large, small))


def growing_sizes(trace: Trace) -> tuple[int, ...]:
    """What an envelope must not have less of.

    Args:
        trace: a trial's functions.

    Returns:
        Of training and evaluation the `sizes_of` without bounds of slices and widths of
        borders.
    """
    found = _GROWING_SIZES.get(trace)
    if found is None:
        sizes: list[int] = []
        for flat in (*trace.train, *trace.evaluate):
            slots: dict[int, Any] = {}
            for _, counts in _walk(flat.body, slots):
                sizes += counts
            sizes += _constant_sizes(slots)
        found = _GROWING_SIZES[trace] = tuple(sizes)
    return found


# What belongs to the structure.


def _body(body: Body, slots: dict[int, Any]) -> Hashable:
    numbers: dict[Variable, int] = {}
    inputs = _define(body.inputs, numbers)
    equations = tuple([_equation(e, numbers, slots) for e in body.equations])
    return (inputs, equations, _read(body.outputs, numbers, slots))


def _equation(
    equation: Equation, numbers: dict[Variable, int], slots: dict[int, Any]
) -> Hashable:
    primitive, params = equation.primitive, equation.params
    parts = _parts(equation)
    if parts:
        params = {name: value for name, value in params.items() if name not in parts}
    bodies = equation.bodies
    return (
        primitive,
        params_identity(primitive, params),
        tuple([(name, part.exact) for name, part in parts.items()]),
        _read(equation.inputs, numbers, slots),
        _define(equation.outputs, numbers),
        tuple([_body(body, slots) for body in bodies]) if bodies else (),
        equation.context,
    )


def _parts(equation: Equation) -> dict[str, _Split]:
    rules = _SIZES.get(equation.primitive.name)
    if not rules:
        return {}
    params = equation.params
    return {name: rule(params[name]) for name, rule in rules.items() if name in params}


def _define(
    variables: Iterable[Variable], numbers: dict[Variable, int]
) -> tuple[Hashable, ...]:
    kinds = []
    for variable in variables:
        numbers[variable] = len(numbers)
        kinds.append(_kind(variable.aval))
    return tuple(kinds)


def _read(
    atoms: Iterable[Atom], numbers: dict[Variable, int], slots: dict[int, Any]
) -> tuple[int, ...]:
    """Variables by number from 0 up, constants by slot from -1 down."""
    places = []
    for atom in atoms:
        if isinstance(atom, Variable):
            places.append(numbers[atom])
        else:
            slots[atom.slot] = atom.aval
            places.append(-1 - atom.slot)
    return tuple(places)


def _kind(aval: Any) -> Hashable:
    """An array's abstract value without its dimensions; any other as it is."""
    if not isinstance(aval, ShapedArray):
        return aval
    return _sizeless(aval)


@functools.lru_cache(maxsize=1 << 14)
def _sizeless(aval: ShapedArray) -> ShapedArray:
    # Only the shape goes: a sharding, a memory space and whatever else there is stay.
    return aval.update(shape=(0,) * len(aval.shape))


# What does not.


def _walk(
    body: Body, slots: dict[int, Any]
) -> Iterator[tuple[tuple[int, ...], tuple[int, ...]]]:
    """Bounds and counts, and the abstract values of the constants on the way."""
    for variable in body.inputs:
        yield (), _shape(variable.aval)
    for equation in body.equations:
        _collect(equation.inputs, slots)
        for variable in equation.outputs:
            yield (), _shape(variable.aval)
        for part in _parts(equation).values():
            yield part.bounds, part.counts
        for inner in equation.bodies:
            yield from _walk(inner, slots)
    _collect(body.outputs, slots)


def _collect(atoms: Iterable[Atom], slots: dict[int, Any]) -> None:
    slots.update([(a.slot, a.aval) for a in atoms if not isinstance(a, Variable)])


def _constant_sizes(slots: dict[int, Any]) -> tuple[int, ...]:
    return tuple([n for slot in sorted(slots) for n in _shape(slots[slot])])


def _shape(aval: Any) -> tuple[int, ...]:
    return tuple(aval.shape) if isinstance(aval, ShapedArray) else ()
