"""How are the rows of a table written and read?"""

import sqlite3
from collections.abc import Sequence
from typing import Any

from vtune.storage.failure import StorageError
from vtune.storage.records import StudyRecord
from vtune.storage.rows import STUDY, Table


# A study of 100,000 trials stays far below both.
MOST_ROWS = 10_000_000
MOST_CHARACTERS = 2**30

Row = Sequence[Any]


def insert(connection: sqlite3.Connection, table: Table, rows: Sequence[Row]) -> None:
    """Writes rows that `table.row` made.

    Args:
        connection: to the database, in a transaction.
        table: the table.
        rows: the rows.

    Raises:
        StorageError: if a row has the key of another one that is there and, beside its
            sequence, says something else.
    """
    # Where a row contradicts the one that is there, the statement changes nothing.
    written = connection.executemany(_insertion(table), rows).rowcount
    if written < len(rows):
        texts = [table.difference(_stored(connection, table, row), row) for row in rows]
        differences = list(filter(None, texts))
        raise StorageError(
            f"what is written again says something else ({len(differences)} times). "
            f"{differences[0]}. So what the study depends on has changed since it was "
            "started: go back to it, or start anew in another directory."
        )


def read_study(connection: sqlite3.Connection) -> StudyRecord:
    """Reads what a study was started with.

    Args:
        connection: to the database.

    Returns:
        The record.

    Raises:
        StorageError: if there is none, or more than one.
    """
    studies = read(connection, STUDY)
    if len(studies) != 1:
        raise StorageError(f"it holds {len(studies)} studies in place of one.")
    return studies[0]


def read(connection: sqlite3.Connection, table: Table) -> tuple[Any, ...]:
    """Reads all records of a table.

    Args:
        connection: to the database.
        table: the table.

    Returns:
        The records, in the table's order.

    Raises:
        StorageError: if there are more than vtune writes, or something else.
    """
    count = connection.execute(f"SELECT count(*) FROM {table.name}").fetchone()[0]
    if count > MOST_ROWS:
        raise StorageError(
            f"`{table.name}` has {count:,} rows; vtune reads up to {MOST_ROWS:,}."
        )
    records, characters = [], 0
    for row in connection.execute(
        f"SELECT {_names(table)} FROM {table.name} ORDER BY {table.order}"
    ):
        characters += sum(len(value) for value in row if isinstance(value, str))
        if characters > MOST_CHARACTERS:
            raise StorageError(
                f"`{table.name}` holds more than {MOST_CHARACTERS:,} characters, the "
                "most that vtune reads."
            )
        records.append(table.read(row))
    return tuple(records)


def _stored(connection: sqlite3.Connection, table: Table, row: Row) -> Row:
    where = " AND ".join(f"{name} = ?" for name in table.key)
    return connection.execute(
        f"SELECT {_names(table)} FROM {table.name} WHERE {where}",
        [row[table.columns.index(name)] for name in table.key],
    ).fetchone()


def _insertion(table: Table) -> str:
    marks = ", ".join("?" * len(table.columns))
    insertion = f"INSERT INTO {table.name} ({_names(table)}) VALUES ({marks})"
    if not table.key:
        return insertion
    return f"{insertion} ON CONFLICT ({', '.join(table.key)}) {_update(table)}"


def _update(table: Table) -> str:
    others = [name for name in table.columns if name not in table.key]
    if table.replaced:
        changes = ", ".join(f'"{name}" = excluded."{name}"' for name in others)
        return f"DO UPDATE SET {changes}"
    same = [f'"{n}" = excluded."{n}"' for n in others if n != "sequence"]
    return f"DO UPDATE SET sequence = excluded.sequence WHERE {' AND '.join(same)}"


def _names(table: Table) -> str:
    return ", ".join(f'"{name}"' for name in table.columns)
