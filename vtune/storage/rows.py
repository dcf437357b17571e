"""Which row of which table is a record?"""

import dataclasses
import functools
import math
import typing
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from vtune.storage.failure import StorageError
from vtune.storage.records import (
    CheckpointRecord,
    DecisionKind,
    DecisionRecord,
    EpochRecord,
    EventRecord,
    SealRecord,
    StudyRecord,
    TrialRecord,
)
from vtune.storage.values import (
    decode,
    decode_parameters,
    encode,
    encode_parameters,
)


@dataclasses.dataclass(frozen=True)
class Form:
    """How a field of a record is kept in a column.

    Args:
        stored: the type of the column's values.
        write: from the field's value to the column's.
        read: from the column's value, of the type `stored`, to the field's.
    """

    stored: type
    write: Callable[[Any], Any]
    read: Callable[[Any], Any]


@dataclasses.dataclass(frozen=True)
class Table:
    """The table of a kind of record; its columns have the names of the fields.

    Args:
        name: the table's name.
        record: the records' class.
        forms: how each field is kept, in the order of the fields.
        order: the columns that the records are ordered by.
        key: the columns by which a repeated record is recognised; empty: no record is
            ever repeated.
        known_by: how a person calls the record with a key, such as `trial {number}`.
        replaced: whether a repeated record replaces the one before; otherwise it has
            to be the same.
    """

    name: str
    record: type
    forms: tuple[Form, ...]
    order: str
    key: tuple[str, ...]
    known_by: str
    replaced: bool = False

    @functools.cached_property
    def columns(self) -> tuple[str, ...]:
        """The columns' names."""
        return tuple(field.name for field in dataclasses.fields(self.record))

    def row(self, record: Any) -> tuple[Any, ...]:
        """The row that a record is kept as.

        Args:
            record: of the class `record`.

        Returns:
            The columns' values.

        Raises:
            StorageError: if a field is of another type than the record's class says.
        """
        return tuple(
            form.write(getattr(record, name))
            for name, form in zip(self.columns, self.forms, strict=True)
        )

    def read(self, row: Sequence[Any]) -> Any:
        """The record that is kept as a row.

        Args:
            row: the columns' values.

        Returns:
            The record.

        Raises:
            StorageError: if this is no row that `row` made.
        """
        for name, form, value in zip(self.columns, self.forms, row, strict=True):
            if type(value) is not form.stored:
                raise StorageError(
                    f"The column {self.name}.{name} holds {str(value)[:60]!r}, which "
                    f"is no {form.stored.__name__}."
                )
        return self.record(
            *(form.read(value) for form, value in zip(self.forms, row, strict=True))
        )

    def difference(self, stored: Sequence[Any], given: Sequence[Any]) -> str:
        """What a person is told of two rows with the same key.

        Args:
            stored: one row.
            given: the other.

        Returns:
            Text such as `epoch 3 of trial 0: val_loss was 0.5 and is 0.25`; empty if
            they differ at most in their sequence.
        """
        texts = []
        for name, form, *pair in zip(
            self.columns, self.forms, stored, given, strict=True
        ):
            was, now = pair
            if name != "sequence" and was != now:
                texts += _differences(name, form.read(was), form.read(now))
        names = dict(zip(self.columns, given, strict=True))
        return f"{self.known_by.format(**names)}: {'; '.join(texts)}" if texts else ""


def _differences(name: str, was: Any, now: Any) -> list[str]:
    if not isinstance(was, Mapping):
        return [f"{name} was {_shown(was)} and is {_shown(now)}"]
    names = [*was, *(other for other in now if other not in was)]
    texts = [_member_difference(member, was, now) for member in names]
    return list(filter(None, texts)) or [f"{name} were {[*was]} and are {[*now]}"]


def _member_difference(member: str, was: Any, now: Any) -> str:
    if member not in now:
        return f"{member} is missing"
    if member not in was:
        return f"{member} is new"
    pair = was[member], now[member]
    if encode(pair[0]) == encode(pair[1]):
        return ""
    return f"{member} was {_shown(pair[0])} and is {_shown(pair[1])}"


def _shown(value: Any) -> str:
    # Only their exact texts tell two NaNs apart.
    return encode(value) if value != value else repr(value)


# -------------------------------------------------------------------- the forms


def _checked(description: str, fits: Callable[[Any], bool]) -> Callable[[Any], Any]:
    def check(value: Any) -> Any:
        if not fits(value):
            raise StorageError(
                f"{_excerpt(value)} stands where a study stores {description}."
            )
        return value

    return check


def _excerpt(value: Any) -> str:
    try:
        return encode(value)[:60]
    except StorageError:
        return f"A {type(value).__name__}"


def _plain(stored: type, description: str, fits: Callable[[Any], bool]) -> Form:
    check = _checked(description, lambda value: type(value) is stored and fits(value))
    return Form(stored, check, check)


def _json(
    description: str,
    fits: Callable[[Any], bool],
    write: Callable[[Any], Any] = lambda value: value,
    read: Callable[[Any], Any] = lambda value: value,
) -> Form:
    check = _checked(description, fits)
    return Form(
        str, lambda value: encode(check(write(value))), lambda t: read(check(decode(t)))
    )


def _maps_to(*types: type) -> Callable[[Any], bool]:
    return lambda value: (
        isinstance(value, Mapping)
        and (not types or all(type(member) in types for member in value.values()))
    )


def _is_trials(value: Any) -> bool:
    return type(value) is list and all(type(trial) is int for trial in value)


def _is_models(value: Any) -> bool:
    return _maps_to(str)(value) and all(
        trial.isascii() and trial.isdecimal() and len(trial) < 19 for trial in value
    )


def _with_text(models: Mapping[int, str]) -> dict[str, str]:
    return {str(trial): folder for trial, folder in models.items()}


def _with_numbers(models: Mapping[str, str]) -> dict[int, str]:
    return {int(trial): folder for trial, folder in models.items()}


_INTEGER = _plain(int, "an integer of 64 bits", lambda n: -(2**63) <= n < 2**63)
_SECONDS = _plain(float, "a time", lambda seconds: 0 < seconds < math.inf)
_NAME = _plain(
    str, "a name in ASCII", lambda text: text.isascii() and text.isprintable()
)
_DECISION = _plain(
    str, "a kind of decision", lambda text: text in typing.get_args(DecisionKind)
)
_FLAG = Form(
    int,
    lambda value: int(_checked("True or False", lambda v: type(v) is bool)(value)),
    lambda value: bool(_checked("0 or 1", lambda v: v in (0, 1))(value)),
)
_TEXT = _json("a text", lambda value: type(value) is str)
_VALUES = _json("hyperparameters' values", _maps_to(int, float, str, bool))
_METRICS = _json("metrics", _maps_to(float))
_CONTENT = _json("a mapping", _maps_to())
_TRIALS = _json("trials' numbers", _is_trials, list, tuple)
_MODELS = _json("models' folders by trial", _is_models, _with_text, _with_numbers)
_PARAMETERS = Form(str, encode_parameters, decode_parameters)

TRIALS = Table(
    "trial_rows",
    TrialRecord,
    (_INTEGER, _INTEGER, _VALUES, _PARAMETERS, _INTEGER, _INTEGER, _NAME),
    order="sequence, number",
    key=("number",),
    known_by="trial {number}",
)
EPOCHS = Table(
    "epoch_rows",
    EpochRecord,
    (_INTEGER, _INTEGER, _INTEGER, _METRICS, _FLAG, _NAME),
    order="sequence, trial, epoch",
    key=("trial", "epoch"),
    known_by="epoch {epoch} of trial {trial}",
)
DECISIONS = Table(
    "decisions",
    DecisionRecord,
    (_INTEGER, _DECISION, _TRIALS, _CONTENT),
    order="sequence",
    key=("sequence",),
    known_by="decision {sequence}",
)
EVENTS = Table(
    "events",
    EventRecord,
    (_SECONDS, _NAME, _TEXT),
    order="time, kind, text",
    key=(),
    known_by="event",
)
CHECKPOINTS = Table(
    "checkpoints",
    CheckpointRecord,
    (_NAME, _INTEGER, _INTEGER, _MODELS),
    order="sequence, name",
    key=("name",),
    known_by="checkpoint {name}",
    replaced=True,
)
SEALS = Table(
    "seals",
    SealRecord,
    (_NAME, _INTEGER, _INTEGER),
    order="name",
    key=("name",),
    known_by="the seal of {name}",
    replaced=True,
)
STUDY = Table(
    "study",
    StudyRecord,
    (_CONTENT, _json("texts by name", _maps_to(str)), _CONTENT),
    order="rowid",
    key=(),
    known_by="study",
)
