"""The envelope of a family: a trial into which all its members fit."""

import operator
from collections.abc import Mapping, Sequence

from vtune.fusion.sizes import growing_sizes
from vtune.fusion.trace import Trace
from vtune.trial import Value


def find_envelope(traces: Sequence[Trace]) -> int | None:
    """The member of a family that is an envelope of all.

    Args:
        traces: trials of one `training_structure`.

    Returns:
        The index of the first trace that dominates every other, or None if there is
        none.

    Raises:
        ValueError: if the traces have different structures, as far as their sizes show
            it.
    """
    sizes = _distinct_sizes(traces)
    largest = tuple(map(max, zip(*sizes)))
    return sizes.index(largest) if largest in sizes else None


def undominated(traces: Sequence[Trace]) -> tuple[int, ...]:
    """The members that decide what the envelope of a family has to be.

    Args:
        traces: trials of one `training_structure`.

    Returns:
        The indices of those that no other dominates, of equals the first only.

    Raises:
        ValueError: as `find_envelope`.
    """
    first: dict[tuple[int, ...], int] = {}
    for number, sizes in enumerate(_distinct_sizes(traces)):
        first.setdefault(sizes, number)
    return tuple(
        number
        for sizes, number in first.items()
        if not any(other != sizes and _covers(other, sizes) for other in first)
    )


def _covers(large: tuple[int, ...], small: tuple[int, ...]) -> bool:
    return all(map(operator.ge, large, small))


def _distinct_sizes(traces: Sequence[Trace]) -> list[tuple[int, ...]]:
    """For each trace its sizes, without those that others repeat in all traces."""
    sizes = [growing_sizes(trace) for trace in traces]
    if len(set(map(len, sizes))) > 1:
        raise ValueError(
            "An envelope is looked for among traces of one structure; these have "
            "different numbers of sizes."
        )
    columns = dict.fromkeys(zip(*sizes))
    return list(zip(*columns)) if columns else [()] * len(sizes)


def envelope_values(members: Sequence[Mapping[str, Value]]) -> dict[str, Value] | None:
    """Hyperparameters of which an envelope can be hoped for.

    Where `(32, 512)` and `(512, 32)` are the widths of two trials, `(512, 512)` may
    hold both. Whether the trial with these values has the structure of the family and
    dominates it has to be seen by tracing it.

    Args:
        members: the hyperparameters of each trial that counts (see `undominated`).

    Returns:
        For each hyperparameter that a trial has its largest value, if it is a number;
        what is no number has to be the same for all who have it. None if it is not, or
        without a trial.

    Example:
        ```python
        from vtune.fusion.envelope import envelope_values

        members = [{"first": 32, "second": 512}, {"first": 512, "second": 32}]
        assert envelope_values(members) == {"first": 512, "second": 512}
        ```
    """
    values: dict[str, Value] = {}
    for member in members:
        for name, value in member.items():
            known = values.setdefault(name, value)
            if _is_number(known) and _is_number(value):
                values[name] = max(known, value)
            elif type(known) is not type(value) or known != value:
                return None
    return values or None


def _is_number(value: Value) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)
