"""How far a search is: a record of it, and what can be read off that record."""

import dataclasses
import math
import statistics
from collections.abc import Mapping, Sequence
from types import MappingProxyType

from vtune.reporting.rungs import RungState, bracket_states
from vtune.trial import Objective, Trial, TrialStatus, rank


# Enough ticks to see through the noise of a single one, few enough to be the present.
_RECENT = 10
_FITTED = 200


@dataclasses.dataclass(frozen=True)
class Tick:
    """One epoch of all running trials.

    Args:
        trials: how many trials trained.
        seconds: how long they took together, without tracing and compiling.
    """

    trials: int
    seconds: float


@dataclasses.dataclass(frozen=True)
class Progress:
    """What a person wants to see of a search at one moment.

    A record is cheap to make, so one is made after every tick and whenever `phase`
    changes. Its sequences may be the search's own lists, if those only grow.

    Args:
        objective: the metric that ranks trials.
        trials: all trials so far.
        brackets: the planned rungs of each bracket as pairs (trials, epochs), in the
            order that `Trial.bracket` counts; trials is None where it is not known how
            many there will be.
        steps_per_epoch: the training steps of one trial's epoch.
        seconds: time since the search began.
        ticks: the ticks of this search so far, oldest first; without those of an
            earlier process whose study is resumed.
        lanes: places for trials in the programs that train now.
        programs: how many programs train now.
        phase: what is being done, such as `"tracing 12 of 22"` or `"training"`.
        notes: lines that should stay readable; each is shown once.
        finished: whether this is the last record.
    """

    objective: Objective
    trials: Sequence[Trial] = ()
    brackets: Sequence[Sequence[tuple[int | None, int]]] = ()
    steps_per_epoch: int = 0
    seconds: float = 0.0
    ticks: Sequence[Tick] = ()
    lanes: int = 0
    programs: int = 0
    phase: str = ""
    notes: Sequence[str] = ()
    finished: bool = False


def best_trial(progress: Progress) -> Trial | None:
    """The trial that leads at present; None before the first finite score."""
    leaders = rank(tuple(progress.trials), progress.objective)[:1]
    has_score = leaders and progress.objective.loss(leaders[0].score) < math.inf
    return leaders[0] if has_score else None


def learning_curve(progress: Progress) -> tuple[float, ...]:
    """The objective of the best trial, one value an epoch."""
    best = best_trial(progress)
    return tuple(best.metrics.get(progress.objective.name, ())) if best else ()


def status_counts(trials: Sequence[Trial]) -> Mapping[TrialStatus, int]:
    """How many trials have each status; statuses that none has count 0."""
    counts = {status: 0 for status in TrialStatus}
    for trial in trials:
        counts[trial.status] += 1
    return MappingProxyType(counts)


def rung_states(progress: Progress) -> tuple[tuple[RungState, ...], ...]:
    """How far each rung of each bracket is, in the order of `progress.brackets`."""
    return bracket_states(progress.trials, progress.brackets, progress.finished)


def epochs_done(progress: Progress) -> int:
    """Trial-epochs: the epochs of all trials together."""
    return sum(trial.epoch for trial in progress.trials)


def epochs_left(progress: Progress) -> int | None:
    """Trial-epochs still to train if no more trials fail; None where not known."""
    lefts = [state.epochs_left for states in rung_states(progress) for state in states]
    return None if None in lefts else sum(left for left in lefts if left)


def steps_done(progress: Progress) -> int:
    """Trial-steps of this search: the training steps of all trials together."""
    return progress.steps_per_epoch * sum(tick.trials for tick in progress.ticks)


def training_seconds(progress: Progress) -> float:
    """The time of this search in which trials trained."""
    return math.fsum(tick.seconds for tick in progress.ticks)


def throughput(progress: Progress) -> float | None:
    """Trial-steps a second: of the last ticks, of all of them once finished.

    Returns:
        The rate over the seconds of the ticks; None before the first tick.
    """
    ticks = progress.ticks if progress.finished else progress.ticks[-_RECENT:]
    seconds = math.fsum(tick.seconds for tick in ticks)
    steps = progress.steps_per_epoch * sum(tick.trials for tick in ticks)
    return steps / seconds if seconds > 0 and steps > 0 else None


def tick_cost(ticks: Sequence[Tick]) -> tuple[float, float]:
    """How the time of a tick depends on the number of trials.

    Fits seconds = a + b · trials with a, b ≥ 0 to the median times of the last ticks.
    On an accelerator with idle lanes a dominates, on a busy one b. Ticks of a single
    size say nothing about a, which then is 0.

    Args:
        ticks: at least one tick.

    Returns:
        The pair (a, b).
    """
    by_size: dict[int, list[float]] = {}
    for tick in ticks[-_FITTED:]:
        by_size.setdefault(max(tick.trials, 1), []).append(tick.seconds)
    points = [(n, statistics.median(times), len(times)) for n, times in by_size.items()]
    total = sum(weight for _, _, weight in points)
    mean_n = sum(weight * n for n, _, weight in points) / total
    mean_s = sum(weight * s for _, s, weight in points) / total
    spread = sum(weight * (n - mean_n) ** 2 for n, _, weight in points)
    if spread == 0:
        return 0.0, mean_s / mean_n
    slope = sum(w * (n - mean_n) * (s - mean_s) for n, s, w in points) / spread
    if slope <= 0:
        return mean_s, 0.0
    if mean_s - slope * mean_n >= 0:
        return mean_s - slope * mean_n, slope
    squares = sum(weight * n * n for n, _, weight in points)
    return 0.0, sum(weight * n * s for n, s, weight in points) / squares


def ticks_left(progress: Progress) -> int | None:
    """How many more ticks the plan takes; None where the plan is not known.

    Brackets that have begun go on side by side. What has not begun follows, as many
    trials at a time as have trained at a time so far.
    """
    begun, later_depth, later_epochs = 0, 0, 0
    for states in rung_states(progress):
        if any(state.epochs_left is None for state in states):
            return None
        if states and states[0].entered:
            begun = max(begun, sum(state.depth for state in states))
            if states[0].unentered:
                later_depth = max(later_depth, states[0].share)
            later_epochs += states[0].unentered * states[0].share
        else:
            later_depth = max(later_depth, sum(state.depth for state in states))
            later_epochs += sum(state.epochs_left or 0 for state in states)
    at_a_time = max([tick.trials for tick in progress.ticks] + [progress.lanes, 1])
    return begun + max(later_depth, -(-later_epochs // at_a_time))


def time_left(progress: Progress) -> float | None:
    """An estimate of the seconds of training that the plan still takes.

    The sum of a + b · trials over the ticks that are left, with a and b from
    `tick_cost`. Compiling that is still to come is not in it.

    Returns:
        Seconds; None before the first tick and where the plan is not known.
    """
    epochs, ticks = epochs_left(progress), ticks_left(progress)
    if progress.finished or not progress.ticks or epochs is None or ticks is None:
        return None
    a, b = tick_cost(progress.ticks)
    return a * ticks + b * epochs
