"""Rows are read as they were written, all of them and no others, or not at all."""

import contextlib
import sqlite3
import tempfile
from pathlib import Path

import pytest
from hypothesis import given, settings, strategies as st

from tests.storage.sealing import seal
from tests.storage.test_database import BATCHES, STUDY, contents, exactly, together
from vtune.storage.database import Database
from vtune.storage.failure import StorageError


TABLES = {
    "study": 1,
    "trial_rows": 4,
    "epoch_rows": 7,
    "decisions": 2,
    "events": 2,
    "checkpoints": 1,
    "seals": 6,
}


@pytest.fixture
def path(tmp_path):
    """A database with all batches, closed."""
    path = tmp_path / "study.sqlite"
    with Database.create(path, STUDY) as database:
        for batch in BATCHES:
            database.commit(batch)
    return path


def rows(path):
    """All rows of all tables, by SQLite alone."""
    with contextlib.closing(sqlite3.connect(path)) as connection:
        return {
            name: connection.execute(f"SELECT * FROM {name} ORDER BY 1, 2").fetchall()
            for name in TABLES
        }


def change(path, *statements):
    """Does what a statement says, at once."""
    with contextlib.closing(sqlite3.connect(path, isolation_level=None)) as connection:
        connection.execute("PRAGMA foreign_keys = OFF")
        return [connection.execute(*statement).rowcount for statement in statements]


STEPS = {
    **{f"batch {n}": lambda d, b=batch: d.commit(b) for n, batch in enumerate(BATCHES)},
    "rewind": lambda database: database.rewind(14),
    "forget": lambda database: database.forget(12),
    "extend": lambda database: database.extend(database.study),
    "drop": lambda database: database.drop_checkpoints(["step-17", "unknown"]),
}


@given(st.lists(st.sampled_from([*STEPS])))
@settings(max_examples=40)
def test_checksums_and_seals_are_always_those_that_are_described(names):
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "study.sqlite"
        with Database.create(path, STUDY) as database:
            for name in names:
                # A trial that is missing is refused, and so is a decision twice.
                with contextlib.suppress(StorageError):
                    STEPS[name](database)
        written = rows(path)
        seal(path)
        assert rows(path) == written
        assert exactly(contents(path)) == exactly(contents(path, writable=True))


def test_what_is_sealed_again_is_read_as_before(path):
    seal(path)
    assert exactly(contents(path)) == exactly(together(BATCHES))
    assert {name: len(found) for name, found in rows(path).items()} == TABLES


def places(path):
    """Each value in the database: its table, its column and a condition of its row."""
    with contextlib.closing(sqlite3.connect(path)) as connection:
        for table in TABLES:
            found = connection.execute(f"SELECT * FROM {table}")
            columns = [column[0] for column in found.description]
            same = " AND ".join(f'"{column}" IS ?' for column in columns)
            for row in found.fetchall():
                yield from ((table, column, same, row) for column in columns)


def test_every_value_of_every_row_is_guarded(path):
    whole = path.read_bytes()
    for table, column, same, row in list(places(path)):
        text = f'UPDATE {table} SET "{column}" = \'1\' || "{column}" WHERE {same}'
        assert change(path, [text, row]) == [1], text
        with pytest.raises(StorageError, match=r"damaged.*Put a copy of it"):
            contents(path)
        path.write_bytes(whole)


MIXED = {
    "a trial less": "DELETE FROM trial_rows WHERE number = 3",
    "the last epoch less": "DELETE FROM epoch_rows WHERE trial = 0 AND epoch = 3",
    "an event less": "DELETE FROM events WHERE time < 2",
    "a checkpoint less": "DELETE FROM checkpoints",
    "a decision twice": "INSERT INTO decisions SELECT 99, kind, trials, content, "
    "checksum FROM decisions WHERE sequence = 14",
    "an event twice": "INSERT INTO events SELECT * FROM events WHERE time < 2",
    "another one in its place": "UPDATE epoch_rows SET metrics = (SELECT metrics "
    "FROM epoch_rows WHERE trial = 0 AND epoch = 3), checksum = (SELECT checksum "
    "FROM epoch_rows WHERE trial = 0 AND epoch = 3) WHERE trial = 2 AND epoch = 2",
    "an old sequence": "UPDATE epoch_rows SET sequence = 1 WHERE trial = 2",
    "the seal of another table": "UPDATE seals SET (count, total, checksum) = (SELECT "
    "count, total, checksum FROM seals WHERE name = 'events') WHERE name = 'decisions'",
}


@pytest.mark.parametrize("statement", MIXED.values(), ids=MIXED.keys())
@pytest.mark.parametrize("writable", [False, True])
def test_rows_that_are_missing_or_mixed_up_are_noticed(path, statement, writable):
    assert change(path, [statement])[0] > 0
    with pytest.raises(StorageError, match=r"damaged.*Put a copy of it") as caught:
        contents(path, writable)
    assert str(path) in str(caught.value)


def test_nothing_is_written_beside_what_is_damaged(path):
    with Database.open(path, writable=True) as database:
        change(path, ["UPDATE epoch_rows SET program = 'q' WHERE trial = 0"])
        before = rows(path)
        for step in ("batch 1", "forget"):
            with pytest.raises(StorageError, match="damaged: a row of `epoch_rows`"):
                STEPS[step](database)
        assert rows(path) == before
