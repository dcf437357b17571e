"""What is known of trials yet to start when the first programs are planned."""

import dataclasses
from collections.abc import Callable, Mapping, Sequence

from vtune.fusion.sizes import dominates, training_structure
from vtune.fusion.trace import Trace


# Traces a trial with the largest values of some others, by their numbers; None if there
# is no such trial.
Envelope = Callable[[Sequence[int]], Trace | None]

# Traces the largest trial that may come of those that differ as some known ones do, by
# their numbers; with it, how many of its hyperparameters are larger than in all of
# these. None if there is no larger one.
Largest = Callable[[Sequence[int]], tuple[Trace, int] | None]

_LARGEST = -1  # its number, which is no trial's


@dataclasses.dataclass(frozen=True, eq=False)
class Outlook:
    """What is known of the trials that will start later.

    Args:
        coming: the traces of some of them, by trial number: they show what may differ
            and how large envelopes have to be.
        others: traces of further points of the space, which show what may differ.
        weight: how many trials of the study each known one stands for.
        largest: traces the largest trial that may come.
    """

    coming: Mapping[int, Trace] = dataclasses.field(default_factory=dict)
    others: Sequence[Trace] = ()
    weight: float = 1.0
    largest: Largest = lambda numbers: None


NOTHING_KNOWN = Outlook()


def expected(
    traces: Mapping[int, Trace], later: Outlook
) -> tuple[dict[int, Trace], float]:
    """The largest trial that may come, and how many are expected to need its sizes.

    Of `n + 1` values in random order the last is the largest with a probability of
    1 / (n + 1): so likely is a hyperparameter of the next trial larger than in `n`.

    Args:
        traces: the known trials of a kind, by number.
        later: what is known of later trials.

    Returns:
        The largest trial by a number that no trial has, or nothing; and how many
        trials.
    """
    known = len(traces)
    found = later.largest(list(traces)) if later.weight > 1 else None
    if found is None:
        return {}, 0.0
    trace, larger = found
    structure = training_structure(trace)
    if any(
        training_structure(other) != structure or not dominates(trace, other)
        for other in traces.values()
    ):
        return {}, 0.0
    unknown = (later.weight - 1) * known
    return {_LARGEST: trace}, unknown * min(1.0, larger / (known + 1))
