"""How are the rows of a table written and read, so that none is lost or changed?

Each row has a checksum of itself, and each table a seal: how many rows it has, and the
sum of their checksums. Whoever writes or deletes rows brings both up to date, and
whoever reads them compares: no bit on the disk can turn unnoticed.
"""

import json
import sqlite3
import zlib
from collections.abc import Sequence
from typing import Any

from vtune.storage.failure import PUT_BACK, StorageError
from vtune.storage.records import SealRecord, StudyRecord
from vtune.storage.rows import (
    CHECKPOINTS,
    DECISIONS,
    EPOCHS,
    EVENTS,
    SEALS,
    STUDY,
    TRIALS,
    Table,
)


# A study of 100,000 trials stays far below both.
MOST_ROWS = 10_000_000
MOST_CHARACTERS = 2**30

Row = Sequence[Any]

# What vtune never writes, such as bytes, has a checksum like all else.
_JSON = json.JSONEncoder(default=repr)
_SUMS = 2**32


def begin(connection: sqlite3.Connection, study: StudyRecord) -> None:
    """Writes what a new database holds.

    Args:
        connection: to a database with empty tables, in a transaction.
        study: what the study is started with.
    """
    for table in (STUDY, TRIALS, EPOCHS, DECISIONS, EVENTS, CHECKPOINTS):
        _put(connection, SEALS, SEALS.row(SealRecord(table.name, 0, 0)))
    insert(connection, STUDY, [STUDY.row(study)])


def insert(connection: sqlite3.Connection, table: Table, rows: Sequence[Row]) -> None:
    """Writes rows that `table.row` made.

    Args:
        connection: to the database, in a transaction.
        table: the table.
        rows: the rows.

    Raises:
        StorageError: if a row has the key of another one that is there and, beside its
            sequence, says something else; the transaction is not to be committed.
    """
    replaced: list[Row] = []
    differences: list[str] = []
    for row in rows:
        stored = _stored(connection, table, row)
        if stored is not None:
            replaced.append(stored)
            if not table.replaced:
                differences.append(table.difference(stored, row))
        _put(connection, table, row)
    if differences := list(filter(None, differences)):
        raise StorageError(
            f"what is written again says something else ({len(differences)} times). "
            f"{differences[0]}. So what the study depends on has changed since it was "
            "started: go back to it, or start anew in another directory."
        )
    _seal(connection, table, replaced, rows)


def delete(
    connection: sqlite3.Connection, table: Table, condition: str, values: Row = ()
) -> None:
    """Deletes rows.

    Args:
        connection: to the database, in a transaction.
        table: the table.
        condition: of the rows to delete, in SQL.
        values: those of the marks in the condition.

    Raises:
        StorageError: if such a row is damaged.
    """
    found = connection.execute(
        f"SELECT {_names(table)} FROM {table.name} WHERE {condition}", values
    )
    gone = [_verified(table, row) for row in found]
    connection.execute(f"DELETE FROM {table.name} WHERE {condition}", values)
    _seal(connection, table, gone, [])


def read_study(connection: sqlite3.Connection) -> StudyRecord:
    """Reads what a study was started with.

    Args:
        connection: to the database, in a transaction.

    Returns:
        The record.

    Raises:
        StorageError: if there is none, or more than one, or it is damaged.
    """
    studies = read(connection, STUDY)
    if len(studies) != 1:
        raise StorageError(f"it holds {len(studies)} studies in place of one.")
    return studies[0]


def read(connection: sqlite3.Connection, table: Table) -> tuple[Any, ...]:
    """Reads all records of a table.

    Args:
        connection: to the database, in a transaction.
        table: the table.

    Returns:
        The records, in the table's order.

    Raises:
        StorageError: if there are others than were written, or more than vtune writes.
    """
    count = connection.execute(f"SELECT count(*) FROM {table.name}").fetchone()[0]
    if count > MOST_ROWS:
        raise StorageError(
            f"`{table.name}` has {count:,} rows; vtune reads up to {MOST_ROWS:,}."
        )
    records, characters, checksums = [], 0, 0
    for stored in connection.execute(
        f"SELECT {_names(table)} FROM {table.name} ORDER BY {table.order}"
    ):
        characters += sum(len(value) for value in stored if isinstance(value, str))
        if characters > MOST_CHARACTERS:
            raise StorageError(
                f"`{table.name}` holds more than {MOST_CHARACTERS:,} characters, the "
                "most that vtune reads."
            )
        records.append(table.read(_verified(table, stored)))
        checksums += stored[-1]
    _compare(connection, table, len(records), checksums)
    return tuple(records)


# -------------------------------------------------------------------- rows


def _put(connection: sqlite3.Connection, table: Table, row: Row) -> None:
    marks = ", ".join("?" * (len(row) + 1))
    statement = f"INSERT INTO {table.name} ({_names(table)}) VALUES ({marks})"
    if table.key:
        others = [name for name in _columns(table) if name not in table.key]
        changes = ", ".join(f'"{name}" = excluded."{name}"' for name in others)
        statement += f" ON CONFLICT ({', '.join(table.key)}) DO UPDATE SET {changes}"
    connection.execute(statement, (*row, _checksum(table, row)))


def _stored(connection: sqlite3.Connection, table: Table, row: Row) -> Row | None:
    """The row with the key of another one, if it is there."""
    if not table.key:
        return None
    condition = " AND ".join(f"{name} = ?" for name in table.key)
    found = connection.execute(
        f"SELECT {_names(table)} FROM {table.name} WHERE {condition}",
        [row[table.columns.index(name)] for name in table.key],
    ).fetchone()
    return None if found is None else _verified(table, found)


def _verified(table: Table, stored: Row) -> Row:
    """A row without its checksum, which has to be right."""
    *row, checksum = stored
    if checksum != _checksum(table, row):
        place = table.known_by.format(**dict(zip(table.columns, row, strict=True)))
        raise StorageError(
            f"it is damaged: a row of `{table.name}`, {place:.60}, is not as it was "
            f"written. {PUT_BACK}."
        )
    return row


def _checksum(table: Table, row: Row) -> int:
    return zlib.crc32(_JSON.encode([table.name, *row]).encode("ascii"))


def _columns(table: Table) -> tuple[str, ...]:
    return (*table.columns, "checksum")


def _names(table: Table) -> str:
    return ", ".join(f'"{name}"' for name in _columns(table))


# -------------------------------------------------------------------- seals


def _seal(
    connection: sqlite3.Connection,
    table: Table,
    gone: Sequence[Row],
    new: Sequence[Row],
) -> None:
    """Brings the seal of a table up to date."""
    seal = _read_seal(connection, table)
    count = seal.count + len(new) - len(gone)
    total = seal.total + sum(_checksum(table, row) for row in new)
    total -= sum(_checksum(table, row) for row in gone)
    _put(connection, SEALS, SEALS.row(SealRecord(table.name, count, total % _SUMS)))


def _read_seal(connection: sqlite3.Connection, table: Table) -> SealRecord:
    row = _stored(connection, SEALS, SEALS.row(SealRecord(table.name, 0, 0)))
    if row is None:
        raise StorageError(
            f"it is damaged: nothing tells which rows `{table.name}` has. {PUT_BACK}."
        )
    return SEALS.read(row)


def _compare(
    connection: sqlite3.Connection, table: Table, count: int, total: int
) -> None:
    """Refuses rows that are not those of the seal."""
    seal = _read_seal(connection, table)
    if (count, total % _SUMS) != (seal.count, seal.total):
        raise StorageError(
            f"it is damaged: `{table.name}` has {count} rows, and not just those "
            f"{seal.count} that were written. {PUT_BACK}."
        )
