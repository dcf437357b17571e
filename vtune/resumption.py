"""What a study did so far, done once more from what was written down of it."""

import dataclasses
import functools
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from vtune import history
from vtune.fusion.digest import trace_digest
from vtune.fusion.trace import Trace
from vtune.hyperparameters import HyperParameters
from vtune.intake import Intake, Newcomer
from vtune.search.sampler import configuration_key
from vtune.storage.failure import StorageError
from vtune.storage.records import (
    CheckpointRecord,
    Contents,
    DecisionRecord,
    EpochRecord,
    TrialRecord,
)
from vtune.training.fingerprint import fingerprint
from vtune.training.trainer import Trainer
from vtune.trial import Objective, Trial, TrialStatus


Record = TrialRecord | EpochRecord | DecisionRecord


def digest_of(newcomer: Newcomer) -> str:
    """The hash of a trial's program; empty if it could not be traced.

    Args:
        newcomer: the trial.
    """
    return "" if newcomer.trace is None else trace_digest(newcomer.trace)


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
            _apply(record, trials, objective)
    except (IndexError, KeyError, TypeError, ValueError) as error:
        raise StorageError(
            "The study's records contradict each other, so its database is damaged: "
            f"{error!r}. Begin anew with `overwrite=True` or another `project_name`."
        ) from error
    return trials


class Resumption:
    """Brings an intake and a trainer to where they were after some record.

    Every trial is built and traced again, and has to be what it was; no trial is
    trained.

    Args:
        intake: draws trials; has drawn none yet.
        trainer: trains them; has admitted none yet.
        objective: the metric that ranks trials.
    """

    def __init__(self, intake: Intake, trainer: Trainer, objective: Objective):
        self.trials: list[Trial] = []
        self._intake = intake
        self._trainer = trainer
        self._objective = objective
        self._traces: dict[int, Trace] = {}
        self._apart: dict[int, str] = {}
        self._rearranged = False

    def run(self, past: Past) -> Iterator[Trial]:
        """Does all that was done until the checkpoint.

        Args:
            past: what was written down.

        Yields:
            Each trial, once it was built and traced.

        Raises:
            StorageError: if a trial is another than it was.
        """
        for record in past.records:
            self._prepare(record)
            _apply(record, self.trials, self._objective)
            if isinstance(record, TrialRecord):
                yield self.trials[-1]

    def _prepare(self, record: Record) -> None:
        match record:
            case TrialRecord():
                self._take(record)
            case EpochRecord():
                self._lay_out()
            case DecisionRecord(kind="apart"):
                self._apart[record.trials[0]] = record.content["reason"]
            case DecisionRecord(kind="start"):
                self._admit(record)
            case DecisionRecord(kind="fail"):
                if record.content["during"] == "arranging":
                    self._lay_out()
                self._rearranged |= record.content["during"] != "building"
            case DecisionRecord():
                self._rearranged = True

    def _take(self, record: TrialRecord) -> None:
        newcomer = self._intake.take()
        _compare(record, newcomer)
        if newcomer is not None and newcomer.trace is not None:
            self._traces[record.number] = newcomer.trace

    def _admit(self, record: DecisionRecord) -> None:
        others = self._intake.probe() if record.content["probed"] else []
        if record.content["exhausted"]:
            self._intake.take()
        self._trainer.admit(
            self._traces, others, self._intake.envelope, settled=self._apart
        )
        self._traces, self._apart, self._rearranged = {}, {}, True

    def _lay_out(self) -> None:
        """Decides on lanes where the study did: what follows depends on it."""
        if self._rearranged:
            self._trainer.lay_out(history.in_lanes(self.trials))
            self._rearranged = False


def _in_order(contents: Contents, sequence: int | None) -> Sequence[Record]:
    records: list[Record]
    records = [*contents.trials, *contents.epochs, *contents.decisions]
    return sorted(
        (r for r in records if sequence is None or r.sequence <= sequence),
        key=lambda record: record.sequence,
    )


def _apply(record: Record, trials: list[Trial], objective: Objective) -> None:
    """Changes the trials as the study did when it wrote the record."""
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


def _compare(record: TrialRecord, newcomer: Newcomer | None) -> None:
    values = None if newcomer is None else newcomer.hyperparameters.values
    if values is None or configuration_key(values) != configuration_key(record.values):
        _refuse(record, f"its values are {values}, and were {dict(record.values)}")
    elif newcomer is not None and digest_of(newcomer) != record.digest:
        _refuse(record, "what `build` makes of its values is another network now")


def _refuse(record: TrialRecord, difference: str) -> None:
    raise StorageError(
        f"The study cannot go on: trial {record.number} is not what it was when the "
        f"study was stored: {difference}. Restore `build` and the data, or begin anew "
        "with `overwrite=True` or another `project_name`."
    )
