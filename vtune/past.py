"""What was written down of a study, and how its trials stood."""

import dataclasses
import functools
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from vtune import history
from vtune.hyperparameters import HyperParameters
from vtune.search.schedule import Schedule
from vtune.storage.failure import StorageError
from vtune.storage.records import (
    CheckpointRecord,
    Contents,
    DecisionRecord,
    EpochRecord,
    TrialRecord,
)
from vtune.training.fingerprint import fingerprint
from vtune.trial import Objective, Trial, TrialStatus


Record = TrialRecord | EpochRecord | DecisionRecord


@dataclasses.dataclass(frozen=True)
class Past:
    """What was written down of a study until its last checkpoint.

    Args:
        contents: all records, also later ones.
        checkpoint: the checkpoint.
        states: what it holds: the leaves of the state of each trial.
    """

    contents: Contents
    checkpoint: CheckpointRecord
    states: Mapping[int, tuple[np.ndarray, ...]]

    @functools.cached_property
    def records(self) -> Sequence[Record]:
        """All records until the checkpoint, in their order."""
        return _in_order(self.contents, self.checkpoint.sequence)

    @functools.cached_property
    def begun(self) -> int:
        """The number of trials that had begun."""
        return sum(isinstance(record, TrialRecord) for record in self.records)

    @property
    def is_whole(self) -> bool:
        """Whether nothing was written down after the checkpoint."""
        last = _in_order(self.contents, None)[-1:]
        return all(record.sequence <= self.checkpoint.sequence for record in last)

    @property
    def exhausted(self) -> bool:
        """Whether the space had no further configuration."""
        decisions = [r for r in self.records if isinstance(r, DecisionRecord)]
        return any(d.kind == "start" and d.content["exhausted"] for d in decisions)

    @property
    def models(self) -> dict[int, tuple[np.ndarray, ...]]:
        """The states of the best trials that had ended."""
        return {number: self.states[number] for number in self.checkpoint.models}

    @property
    def programs(self) -> dict[int, str]:
        """The identities of the programs by which trials have to be trained on.

        They are those since the last decision, which may have changed programs; on
        another machine all are others.
        """
        if self.contents.study.fingerprint != fingerprint():
            return {}
        found: dict[int, str] = {}
        for record in self.records:
            if isinstance(record, DecisionRecord):
                found = {}
            elif isinstance(record, EpochRecord):
                found[record.trial] = record.program
        return found

    def trials(self, objective: Objective) -> list[Trial]:
        """The trials as they stood.

        Args:
            objective: the metric that ranks trials.
        """
        return recalled(self.contents, objective, self.checkpoint.sequence)

    def is_complete(
        self, schedule: Schedule, objective: Objective, capacity: int
    ) -> bool:
        """Whether there is nothing left to do.

        Args:
            schedule: how long each trial trains, and which go on.
            objective: the metric that ranks trials.
            capacity: how many trials are trained at a time.
        """
        trials = self.trials(objective)
        running = any(trial.status is TrialStatus.RUNNING for trial in trials)
        more = schedule.next(trials, exhausted=self.exhausted, capacity=capacity)
        return self.is_whole and not running and not more

    def hyperparameters(self, seed: int) -> list[HyperParameters]:
        """What each trial's `build` got, by number.

        Args:
            seed: the study's.
        """
        settings = self.contents.study.settings
        return [
            HyperParameters(
                record.values,
                steps_per_epoch=settings["steps_per_epoch"],
                max_epochs=settings["max_epochs"],
                origin=(seed, record.number),
            )
            for record in self.records
            if isinstance(record, TrialRecord)
        ]


def recalled(
    contents: Contents, objective: Objective, sequence: int | None = None
) -> list[Trial]:
    """The trials as they stood after some record.

    Args:
        contents: all records.
        objective: the metric that ranks trials.
        sequence: the record's; None: the last one.

    Returns:
        The trials, by number.

    Raises:
        StorageError: if the records contradict each other.
    """
    trials: list[Trial] = []
    try:
        for record in _in_order(contents, sequence):
            apply(record, trials, objective)
    except (IndexError, KeyError, TypeError, ValueError) as error:
        raise StorageError(
            "The study's records contradict each other, so its database is damaged: "
            f"{error!r}. Begin anew with `overwrite=True` or another `project_name`."
        ) from error
    return trials


def _in_order(contents: Contents, sequence: int | None) -> Sequence[Record]:
    records: list[Record]
    records = [*contents.trials, *contents.epochs, *contents.decisions]
    return sorted(
        (r for r in records if sequence is None or r.sequence <= sequence),
        key=lambda record: record.sequence,
    )


def apply(record: Record, trials: list[Trial], objective: Objective) -> None:
    """Changes trials as the study did when it wrote a record.

    Args:
        record: the record.
        trials: the trials, by number.
        objective: the metric that ranks trials.
    """
    match record:
        case TrialRecord(number=number, values=values, bracket=bracket, budget=budget):
            trials.append(Trial(number, dict(values), bracket=bracket, budget=budget))
        case EpochRecord(trial=number, metrics=metrics, finite=finite):
            trials[number] = history.after_epoch(
                trials[number], metrics, finite, objective
            )
        case DecisionRecord():
            for number in record.trials:
                trials[number] = _decided(trials[number], record)


def _decided(trial: Trial, record: DecisionRecord) -> Trial:
    content: Any = record.content
    match record.kind:
        case "promote":
            return history.promoted(trial, content["epochs"])
        case "stop":
            return history.stopped(trial, TrialStatus(content["status"]))
        case "fail":
            return history.failed(trial, content["reason"])
        case _:
            return trial
