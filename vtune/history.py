"""How a trial's record changes: pure functions from one record to the next."""

import dataclasses
import math
from collections.abc import Mapping, Sequence

from vtune.trial import Objective, Trial, TrialStatus


def after_epoch(
    trial: Trial, metrics: Mapping[str, float], finite: bool, objective: Objective
) -> Trial:
    """A trial's record after one more epoch.

    Args:
        trial: the record before.
        metrics: the epoch's metrics by name.
        finite: whether the training loss and all parameters are finite.
        objective: the metric that ranks trials.

    Returns:
        The record; its status is `DIVERGED` where something is not finite.
    """
    epoch = trial.epoch + 1
    history = {
        name: (*trial.metrics.get(name, ()), value) for name, value in metrics.items()
    }
    score = metrics[objective.name]
    trial = dataclasses.replace(trial, epoch=epoch, metrics=history)
    if not finite or not math.isfinite(score):
        what = "training loss or a parameter" if not finite else objective.name
        return dataclasses.replace(
            trial,
            status=TrialStatus.DIVERGED,
            score=None,
            reason=f"{what} is not finite after epoch {epoch}",
        )
    scores = history[objective.name]
    best = min(range(epoch), key=lambda index: objective.loss(scores[index]))
    return dataclasses.replace(trial, score=score, best_epoch=best + 1)


def promoted(trial: Trial, epochs: int) -> Trial:
    """A trial's record after it was promoted.

    Args:
        trial: the record before.
        epochs: how many it may have trained at the next rung's end.

    Returns:
        The record.
    """
    return dataclasses.replace(trial, budget=epochs)


def stopped(trial: Trial, status: TrialStatus) -> Trial:
    """A trial's record after it was stopped.

    Args:
        trial: the record before.
        status: `PRUNED` or `COMPLETED`.

    Returns:
        The record.
    """
    return dataclasses.replace(trial, status=status)


def failed(trial: Trial, reason: str) -> Trial:
    """A trial's record after it failed.

    Args:
        trial: the record before.
        reason: why.

    Returns:
        The record.
    """
    return dataclasses.replace(
        trial, status=TrialStatus.FAILED, score=None, reason=reason
    )


def training(trials: Sequence[Trial]) -> list[int]:
    """The numbers of the trials that have epochs of their budget left."""
    return [
        trial.number
        for trial in trials
        if trial.status is TrialStatus.RUNNING and trial.epoch < trial.budget
    ]


def epochs_left(trials: Sequence[Trial]) -> int:
    """The epochs until the first of the trials in training has none left."""
    lefts = [
        trials[number].budget - trials[number].epoch for number in training(trials)
    ]
    return min(lefts, default=0)


def foreseen(trials: Sequence[Trial]) -> list[Trial]:
    """The records as they will be when something is to be decided next.

    That is when the first of the trials in training has used its budget. Scores are not
    known yet, and stay as they are; nobody is expected to fail.

    Args:
        trials: the records.
    """
    waiting, epochs = set(training(trials)), epochs_left(trials)
    return [
        dataclasses.replace(trial, epoch=trial.epoch + epochs)
        if trial.number in waiting
        else trial
        for trial in trials
    ]


def in_lanes(trials: Sequence[Trial]) -> list[int]:
    """The numbers of the trials that hold a lane.

    These are the running ones, and those that diverged in a rung that is not over: they
    stay in place, frozen, so that what happens in one lane changes nothing in another.
    """
    rungs = {
        (trial.bracket, trial.budget)
        for trial in trials
        if trial.status is TrialStatus.RUNNING
    }
    return [
        trial.number
        for trial in trials
        if trial.status is TrialStatus.RUNNING
        or (
            trial.status is TrialStatus.DIVERGED
            and (trial.bracket, trial.budget) in rungs
        )
    ]


def consecutive_failures(trials: Sequence[Trial], count: int) -> Sequence[Trial] | None:
    """The first `count` trials with consecutive numbers that all failed, or None."""
    for start in range(len(trials) - count + 1):
        run = trials[start : start + count]
        if all(trial.status is TrialStatus.FAILED for trial in run):
            return run
    return None
