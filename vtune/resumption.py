"""Bringing a study to where it was: from what was written down of it."""

import dataclasses
from collections.abc import Iterator

from vtune import history
from vtune.foresight import Foresight
from vtune.fusion.digest import trace_digest
from vtune.fusion.trace import Trace
from vtune.intake import Intake, Newcomer
from vtune.past import Past, Record, apply
from vtune.search.sampler import configuration_key
from vtune.shrinking import shrink
from vtune.storage.failure import StorageError
from vtune.storage.records import DecisionRecord, EpochRecord, TrialRecord
from vtune.training.trainer import Trainer
from vtune.trial import Objective, Trial


def digest_of(newcomer: Newcomer) -> str:
    """The hash of a trial's program; empty if it could not be traced.

    Args:
        newcomer: the trial.
    """
    return "" if newcomer.trace is None else trace_digest(newcomer.trace)


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
            apply(record, self.trials, self._objective)
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
            case DecisionRecord(kind="halve"):
                self._lay_out()
                shrink(self._trainer, record.content)
                self._rearranged = True
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
        names = [field.name for field in dataclasses.fields(Foresight)]
        sight = Foresight(**{name: record.content[name] for name in names})
        if sight.exhausted:
            self._intake.take()
        outlook = self._intake.outlook(sight)
        self._trainer.admit(
            self._traces, outlook, self._intake.envelope, settled=self._apart
        )
        self._traces, self._apart, self._rearranged = {}, {}, True

    def _lay_out(self) -> None:
        """Decides on lanes where the study did: what follows depends on it."""
        if self._rearranged:
            self._trainer.lay_out(history.in_lanes(self.trials))
            self._rearranged = False


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
