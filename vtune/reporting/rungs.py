"""How far the rungs of a search's brackets are."""

import dataclasses
from collections.abc import Sequence

from vtune.trial import Trial, TrialStatus


@dataclasses.dataclass(frozen=True)
class RungState:
    """Where the trials of one rung stand.

    Args:
        planned: trials that the plan wants here; None where it does not say.
        epochs: the epochs that a trial has trained at the rung's end.
        share: those of them that are trained in this rung.
        entered: trials that got this far, the later ones of the next rungs included.
        running: those that still train here.
        waiting: those that have trained their share and wait for the others.
        passed: those that were promoted or completed.
        pruned: those that were dropped at the rung's end.
        failed: those that failed or diverged here.
        unentered: trials that may still enter.
        epochs_done: trial-epochs trained in this rung.
        epochs_left: trial-epochs still to train in it; None where not known.
        depth: epochs until its last trial is done.
        ended: whether nothing more will happen in it.
    """

    planned: int | None
    epochs: int
    share: int
    entered: int
    running: int
    waiting: int
    passed: int
    pruned: int
    failed: int
    unentered: int
    epochs_done: int
    epochs_left: int | None
    depth: int
    ended: bool

    @property
    def fraction(self) -> float | None:
        """The part of the rung's work that is done, from 0 to 1; None where unknown."""
        if self.ended:
            return 1.0
        if self.epochs_left is None:
            return None
        total = self.epochs_done + self.epochs_left
        return self.epochs_done / total if total else 0.0


def bracket_states(
    trials: Sequence[Trial],
    brackets: Sequence[Sequence[tuple[int | None, int]]],
    finished: bool,
) -> tuple[tuple[RungState, ...], ...]:
    """The states of all rungs of all brackets.

    Args:
        trials: all trials; those of a bracket that is not planned are left out.
        brackets: for each bracket its rungs as pairs (trials, epochs).
        finished: whether the search is over, so that no rung gets more trials.

    Returns:
        For each bracket a state for each rung.
    """
    members: list[list[Trial]] = [[] for _ in brackets]
    for trial in trials:
        if 0 <= trial.bracket < len(members):
            members[trial.bracket].append(trial)
    return tuple(
        _rungs(group, rungs, finished)
        for group, rungs in zip(members, brackets, strict=True)
    )


def _rungs(
    trials: Sequence[Trial],
    rungs: Sequence[tuple[int | None, int]],
    finished: bool,
) -> tuple[RungState, ...]:
    states: list[RungState] = []
    for planned, epochs in rungs:
        before = states[-1] if states else None
        states.append(_rung(trials, planned, epochs, before, finished))
    return tuple(states)


def _rung(
    trials: Sequence[Trial],
    planned: int | None,
    epochs: int,
    before: RungState | None,
    finished: bool,
) -> RungState:
    start = before.epochs if before else 0
    # A trial that failed before it was given a budget failed in the first rung.
    entered = [t for t in trials if t.budget >= epochs or before is None]
    here = [trial for trial in entered if trial.budget <= epochs]
    alive = [trial for trial in here if trial.status is TrialStatus.RUNNING]
    running = [trial for trial in alive if trial.epoch < epochs]
    pruned = sum(trial.status is TrialStatus.PRUNED for trial in here)
    completed = sum(trial.status is TrialStatus.COMPLETED for trial in here)
    promoted = len(entered) - len(here)
    expected = _expected(planned, before)
    # The trials of a rung after the first leave it together; those of a first rung that
    # is also the last complete one by one.
    left_together = promoted or pruned or (completed and before)
    full = expected is not None and len(entered) >= expected
    ended = bool(entered) and not alive and bool(finished or left_together or full)
    unentered = max(0, (expected or 0) - len(entered))
    if ended or finished or (before and entered):
        unentered = 0
    open_ended = expected is None and not ended and not finished
    missing = [epochs - max(trial.epoch, start) for trial in running]
    share = epochs - start
    return RungState(
        planned=planned,
        epochs=epochs,
        share=share,
        entered=len(entered),
        running=len(running),
        waiting=len(alive) - len(running),
        passed=promoted + completed,
        pruned=pruned,
        failed=len(here) - len(alive) - pruned - completed,
        unentered=unentered,
        epochs_done=sum(max(0, min(trial.epoch, epochs) - start) for trial in entered),
        epochs_left=None if open_ended else sum(missing) + unentered * share,
        depth=max([0, *missing, share if unentered and not entered else 0]),
        ended=ended,
    )


def _expected(planned: int | None, before: RungState | None) -> int | None:
    """How many trials can enter: no more than are healthy in the rung before."""
    if before is None or planned is None:
        return planned
    if before.epochs_left is None:
        return None
    healthy = before.running + before.waiting + before.passed + before.unentered
    return min(planned, healthy)
