"""What a study's database holds, as frozen records.

Everything that a study does is written down as records in one order, their *sequence*:
reading them in this order tells all that can be known of a study at any moment of it.
"""

import dataclasses
from collections.abc import Mapping
from typing import Any, Literal

from vtune.parameters import Parameter
from vtune.trial import Value


# Events that tell why a study cannot be repeated from its seed alone.
OUT_OF_MEMORY = "out of memory"
ANOTHER_MACHINE = "this is another machine"

DecisionKind = Literal["start", "promote", "stop", "fail", "apart", "halve"]


@dataclasses.dataclass(frozen=True)
class StudyRecord:
    """What a study was started with.

    Args:
        settings: what decides what it does, as values that JSON knows.
        fingerprint: what else its bits depend on: versions, device, cores, flags.
        data: what is known of the data: shapes, dtypes, a hash.
    """

    settings: Mapping[str, Any]
    fingerprint: Mapping[str, str]
    data: Mapping[str, Any]


@dataclasses.dataclass(frozen=True)
class TrialRecord:
    """A trial began.

    Args:
        sequence: its place in the order of all records.
        number: the trial.
        values: what `build` asked for and got, in this order.
        parameters: what each value was asked for as, in this order.
        bracket: the bracket that it belongs to.
        budget: the epochs of its first rung.
        digest: the hash of its values and its program up to sizes and constants; empty
            if it could not be traced.
    """

    sequence: int
    number: int
    values: Mapping[str, Value]
    parameters: tuple[Parameter, ...]
    bracket: int
    budget: int
    digest: str


@dataclasses.dataclass(frozen=True)
class EpochRecord:
    """A trial was trained for an epoch.

    Args:
        sequence: its place in the order of all records.
        trial: the trial's number.
        epoch: the epochs that the trial has trained with this one.
        metrics: the epoch's metrics by name; any float, also NaN and -0.0.
        finite: whether the training loss and all parameters are finite.
        program: the id of the program that trained it.
    """

    sequence: int
    trial: int
    epoch: int
    metrics: Mapping[str, float]
    finite: bool
    program: str


@dataclasses.dataclass(frozen=True)
class DecisionRecord:
    """Something was decided that later records depend on.

    Args:
        sequence: its place in the order of all records.
        kind: `start`, `promote` and `stop` are the schedule's, `fail` tells of trials
            that cannot be trained, `apart` of trials that are not to share a program,
            `halve` of a program that runs fewer lanes for want of memory.
        trials: the trials that it is about, ascending.
        content: what was decided, as values that JSON knows.
    """

    sequence: int
    kind: DecisionKind
    trials: tuple[int, ...]
    content: Mapping[str, Any]


@dataclasses.dataclass(frozen=True)
class EventRecord:
    """Something happened at a time of day; nothing depends on it.

    Args:
        time: seconds since 1970, UTC.
        kind: such as `started`, `resumed`, `interrupted`.
        text: what happened, for a person.
    """

    time: float
    kind: str
    text: str


@dataclasses.dataclass(frozen=True)
class CheckpointRecord:
    """A checkpoint was written, completely.

    Args:
        name: its folder.
        sequence: the last record that it holds the outcome of.
        bytes: what it takes on the disk.
        models: the folder of each kept model's weights, by trial.
    """

    name: str
    sequence: int
    bytes: int
    models: Mapping[int, str]


@dataclasses.dataclass(frozen=True)
class SealRecord:
    """A table has these rows, no more and no fewer.

    Args:
        name: the table's name.
        count: how many rows it has.
        total: the sum of their checksums, modulo 2**32.
    """

    name: str
    count: int
    total: int


@dataclasses.dataclass(frozen=True)
class Batch:
    """Records that are written together, or not at all."""

    trials: tuple[TrialRecord, ...] = ()
    epochs: tuple[EpochRecord, ...] = ()
    decisions: tuple[DecisionRecord, ...] = ()
    events: tuple[EventRecord, ...] = ()
    checkpoints: tuple[CheckpointRecord, ...] = ()


@dataclasses.dataclass(frozen=True)
class Contents:
    """All that a database holds, each kind in the order of its sequence or time."""

    study: StudyRecord
    trials: tuple[TrialRecord, ...]
    epochs: tuple[EpochRecord, ...]
    decisions: tuple[DecisionRecord, ...]
    events: tuple[EventRecord, ...]
    checkpoints: tuple[CheckpointRecord, ...]
