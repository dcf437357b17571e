"""What a study writes down of what it does, and when it writes checkpoints."""

import dataclasses
import math
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from vtune.foresight import Foresight
from vtune.fusion.trace import Trace
from vtune.hyperparameters import HyperParameters
from vtune.storage.records import (
    Batch,
    CheckpointRecord,
    DecisionKind,
    DecisionRecord,
    EpochRecord,
    EventRecord,
    TrialRecord,
)
from vtune.storage.store import States, Store
from vtune.training.pack import EpochResult
from vtune.trial import Trial


# So many times as long as a checkpoint took, rungs end without another one: short rungs
# are not to wait for the disk.
_REST = 20


class Journal:
    """Collects records and writes those of a step at once; writes checkpoints.

    When a checkpoint is written follows the clock; nothing that is trained depends on
    it.

    Args:
        store: where to; None: nothing is kept.
        sequence: the last record's place in the order of all.
        checkpoints: those that were written before.
        foreseen: decisions for want of memory that an earlier process wrote down later
            than that.
        seconds: how long what was trained may go without a checkpoint.
        most_bytes: what the checkpoints may take on the disk; None: what they need.
        clock: tells the seconds.
    """

    def __init__(
        self,
        store: Store | None = None,
        sequence: int = 0,
        checkpoints: Sequence[CheckpointRecord] = (),
        foreseen: Sequence[DecisionRecord] = (),
        seconds: float = 300.0,
        most_bytes: int | None = None,
        clock: Callable[[], float] = time.monotonic,
    ):
        self.sequence = sequence
        self.foreseen = {decision.sequence: decision for decision in foreseen}
        self._store = store
        self._seconds = seconds
        self._most_bytes = most_bytes
        self._clock = clock
        self._pending: dict[str, list[Any]] = {}
        self._saved = clock()
        self._took = 0.0
        self._started: CheckpointRecord | None = None
        self._complete = list(checkpoints)

    @property
    def kept(self) -> bool:
        """Whether anything is written at all."""
        return self._store is not None

    def trial(
        self, trial: Trial, hyperparameters: HyperParameters, digest: str
    ) -> None:
        """Writes down that a trial begins.

        Args:
            trial: its record.
            hyperparameters: what `build` asked for.
            digest: the hash of its program.
        """
        record = TrialRecord(
            self._next(),
            trial.number,
            trial.values,
            hyperparameters.parameters,
            trial.bracket,
            trial.budget,
            digest,
        )
        self._add("trials", record)

    def epoch(self, trial: Trial, result: EpochResult) -> None:
        """Writes down that a trial was trained for an epoch.

        Args:
            trial: its record after the epoch.
            result: what the epoch gave.
        """
        record = EpochRecord(
            self._next(),
            trial.number,
            trial.epoch,
            result.metrics,
            result.finite,
            result.program,
        )
        self._add("epochs", record)

    def decide(self, kind: DecisionKind, trials: tuple[int, ...], **content: Any):
        """Writes down a decision.

        Args:
            kind: what kind of decision it is.
            trials: the trials that it is about.
            **content: what was decided.
        """
        record = DecisionRecord(self._next(), kind, trials, content)
        self._add("decisions", record)

    def start(self, traces: Mapping[int, Trace], sight: Foresight) -> None:
        """Writes down that trials were admitted together.

        Args:
            traces: those that can be trained.
            sight: what was known of later trials.
        """
        # What the leaves of a state are called, once for all trials that agree.
        leaves = list(dict.fromkeys(trace.state_paths for trace in traces.values()))
        kinds = [leaves.index(trace.state_paths) for trace in traces.values()]
        self.decide(
            "start",
            tuple(traces),
            **dataclasses.asdict(sight),
            leaves=[list(names) for names in leaves],
            kinds=kinds,
        )

    def event(self, kind: str, text: str) -> None:
        """Writes down what happens at a time of day.

        Args:
            kind: what kind of event it is.
            text: what happened, for a person.
        """
        self._add("events", EventRecord(time.time(), kind, text))

    def deviate(self) -> None:
        """Takes back what an earlier process wrote down after what is written here.

        Raises:
            StorageError: if it cannot be written.
        """
        self.foreseen = {}
        if self._store is not None:
            self._store.forget(self.sequence)

    def commit(self) -> None:
        """Writes what was collected, all or nothing.

        Raises:
            StorageError: if it cannot be written; what was written before is safe.
        """
        self._collect_checkpoint(wait=False)
        if self._store is not None and self._pending:
            batch = {name: tuple(records) for name, records in self._pending.items()}
            self._store.commit(Batch(**batch))
        self._pending = {}

    def is_due(self, rung_ended: bool) -> bool:
        """Whether a checkpoint should be written now.

        Args:
            rung_ended: whether trials were promoted or stopped since the last one.
        """
        if self._store is None or self._started is not None:
            return False
        passed = self._clock() - self._saved
        return passed >= self._seconds or (rung_ended and passed >= _REST * self._took)

    def checkpoint(self, lanes: States, models: States) -> None:
        """Begins to write a checkpoint of all that was written down so far.

        Args:
            lanes: the states of the trials that go on.
            models: those of the best trials that do not, the best first; those for
                which there is no room are left out.
        """
        if self._store is None:
            return
        self._collect_checkpoint(wait=True)
        if any(record.sequence == self.sequence for record in self._complete):
            return
        name = f"step-{self.sequence:09d}"
        models = self._fitting(lanes, models)
        self._store.start_checkpoint(name, {**models, **lanes})
        places = dict.fromkeys(models, name)
        self._started = CheckpointRecord(name, self.sequence, 0, places)
        self._saved = self._clock()

    def close(self) -> None:
        """Waits for a checkpoint, writes what is left, and lets others write.

        Raises:
            StorageError: if it cannot be written; what was written before is safe.
        """
        if self._store is not None:
            try:
                self._collect_checkpoint(wait=True)
                self.commit()
            finally:
                self._store.close()

    def _collect_checkpoint(self, *, wait: bool) -> None:
        """Writes down that a checkpoint is complete, once it is."""
        if self._store is None or self._started is None:
            return
        size = self._store.checkpoint_bytes(wait=wait)
        if size is not None:
            record = dataclasses.replace(self._started, bytes=size)
            self._store.commit(Batch(checkpoints=(record,)))
            self._started = None
            self._took = self._clock() - self._saved
            known = [*self._complete, record]
            self._complete = self._newest(known)
            kept = {record.name for record in self._complete}
            self._store.drop({record.name for record in known} - kept, kept)

    def _fitting(self, lanes: States, models: States) -> States:
        """The models that fit beside the lanes, so that two checkpoints have room."""
        if self._most_bytes is None:
            return models
        left = self._most_bytes // 2 - sum(map(_bytes, lanes.values()))
        kept: dict[int, tuple[np.ndarray, ...]] = {}
        for number, leaves in models.items():
            left -= _bytes(leaves)
            if left < 0:
                break
            kept[number] = leaves
        return kept

    def _newest(self, records: Sequence[CheckpointRecord]) -> list[CheckpointRecord]:
        """The last checkpoint, and the one before if there is room.

        Should the last one turn out to be damaged, the study goes back to the other.
        """
        *before, last = sorted(records, key=lambda record: record.sequence)
        room = math.inf if self._most_bytes is None else self._most_bytes - last.bytes
        return [*(r for r in before[-1:] if r.bytes <= room), last]

    def _next(self) -> int:
        self.sequence += 1
        return self.sequence

    def _add(self, kind: str, record: Any) -> None:
        if self._store is not None:
            self._pending.setdefault(kind, []).append(record)


def _bytes(leaves: tuple[np.ndarray, ...]) -> int:
    return sum(leaf.nbytes for leaf in leaves)
