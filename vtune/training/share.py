"""What a cohort's program is made of, in numbers."""

import dataclasses
import math
from collections.abc import Mapping, Sequence

from vtune.fusion.trace import Trace
from vtune.fusion.work import terms
from vtune.training.cohort import Cohort


@dataclasses.dataclass(frozen=True, eq=False)
class Share:
    """The trials of a cohort, and what sharing its program costs them.

    Args:
        cohort: the cohort.
        trials: their numbers.
        padding: how much more the envelope multiplies than the trials alone.
        compiles: the programs that were compiled for the cohort.
    """

    cohort: Cohort
    trials: tuple[int, ...]
    padding: float
    compiles: int


def shares(
    cohorts: Sequence[Cohort],
    chosen: Mapping[int, int],
    multiplied: Mapping[int, float],
    compiles: Mapping[int, int],
) -> tuple[Share, ...]:
    """Sums up which trials share a program.

    Args:
        cohorts: all cohorts.
        chosen: each trial's cohort number.
        multiplied: each trial's multiply-adds of a training step.
        compiles: the programs of each cohort number so far.

    Returns:
        One record for each cohort that has trials.
    """
    found = []
    for cohort in cohorts:
        trials = tuple(
            sorted(t for t, number in chosen.items() if number == cohort.number)
        )
        if not trials:
            continue
        alone = sum(multiplied[trial] for trial in trials)
        wide = multiply_adds(cohort.widening.envelope) * len(trials)
        padding = wide / alone - 1 if alone else 0.0
        found.append(Share(cohort, trials, padding, compiles.get(cohort.number, 0)))
    return tuple(found)


def multiply_adds(trace: Trace) -> float:
    """The multiply-adds of a trial's training step.

    Args:
        trace: the trial's functions.
    """
    return float(sum(math.prod(factors) for factors in terms(trace).multiplied))
