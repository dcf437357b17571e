"""Views say what a person asks, old databases are upgraded, and all others refused."""

import contextlib
import dataclasses
import math
import sqlite3
import tempfile
from pathlib import Path

import pytest
from hypothesis import given, settings, strategies as st

from tests.storage.sealing import seal
from vtune.storage import files, schema, tables
from vtune.storage.database import Database
from vtune.storage.failure import StorageError
from vtune.storage.records import (
    Batch,
    DecisionRecord,
    EpochRecord,
    EventRecord,
    StudyRecord,
    TrialRecord,
)


STUDY = StudyRecord({"objective": ["score", "max"], "seed": 1}, {"jax": "0.10.0"}, {})
NAN, INFINITY = float("nan"), float("inf")
SCORES = {0: (0.1, 0.5, 0.75), 1: (0.2,), 2: (0.3, NAN), 3: (INFINITY,)}
BATCH = Batch(
    trials=tuple(
        TrialRecord(number, number, {"rate": 0.1 * number, "norm": True}, (), 0, 1, "")
        for number in range(5)
    ),
    epochs=tuple(
        EpochRecord(10 + number, number, count, {"score": score}, number != 3, "p")
        for number, scores in SCORES.items()
        for count, score in enumerate(scores, 1)
    ),
    decisions=(
        DecisionRecord(20, "promote", (0, 2), {"epochs": 2}),
        DecisionRecord(21, "stop", (1,), {"status": "pruned"}),
        DecisionRecord(22, "promote", (0,), {"epochs": 4}),
        DecisionRecord(23, "fail", (4,), {"reason": "it's broken"}),
    ),
    events=(EventRecord(1.5, "started", "now"),),
)


@pytest.fixture
def path(tmp_path):
    path = tmp_path / "study.sqlite"
    with Database.create(path, STUDY) as database:
        database.commit(BATCH)
    return path


def run(path, *statements):
    """The rows of the last of some statements, by SQLite alone."""
    with contextlib.closing(sqlite3.connect(path, isolation_level=None)) as connection:
        return [connection.execute(text).fetchall() for text in statements][-1]


def contents(path, writable=False):
    with Database.open(path, writable=writable) as database:
        return database.contents()


# -------------------------------------------------------------------- views


def test_metrics_are_plain_numbers(path):
    rows = run(path, "SELECT * FROM metrics ORDER BY trial, epoch")
    assert rows == [
        (0, 1, "score", 0.1),
        (0, 2, "score", 0.5),
        (0, 3, "score", 0.75),
        (1, 1, "score", 0.2),
        (2, 1, "score", 0.3),
        (2, 2, "score", None),
        (3, 1, "score", math.inf),
    ]
    assert run(path, "SELECT DISTINCT typeof(value) FROM metrics WHERE value > 0") == [
        ("real",)
    ]


def test_trials_tell_where_they_stand(path):
    rows = run(path, "SELECT number, budget, epochs, status FROM trials")
    assert rows == [
        (0, 4, 3, "running"),
        (1, 1, 1, "pruned"),
        (2, 2, 2, "running"),
        (3, 1, 1, "diverged"),
        (4, 1, 0, "failed"),
    ]
    rates = run(path, "SELECT json_extract(\"values\", '$.rate') FROM trials")
    assert rates == [(0.1 * number,) for number in range(5)]


def test_rungs_tell_the_best_of_those_who_finished(path):
    assert run(path, "SELECT * FROM rungs ORDER BY epochs") == [
        (0, 1, 5, 3, 0.3),
        (0, 2, 2, 1, 0.5),
        (0, 4, 1, 0, None),
    ]
    with Database.open(path, writable=True) as database:
        smaller = {"objective": ["score", "min"]}
        database.extend(dataclasses.replace(database.study, settings=smaller))
        assert run(path, "SELECT best FROM rungs WHERE epochs = 1") == [(0.1,)]
        database.extend(dataclasses.replace(database.study, settings={}))
    assert run(path, "SELECT trials, best FROM rungs WHERE epochs = 1") == [(5, None)]


# -------------------------------------------------------------------- versions


def add_a_column(connection):
    connection.execute("ALTER TABLE events ADD COLUMN host TEXT")


def add_a_table(connection):
    connection.execute("CREATE TABLE hosts (name TEXT)")
    connection.execute("INSERT INTO hosts VALUES ('here')")


def fail(connection):
    connection.execute("DROP TABLE events")
    connection.execute("SELECT * FROM nowhere")


def test_an_old_database_is_upgraded_by_one_who_writes(path, monkeypatch):
    before = contents(path)
    monkeypatch.setattr(schema, "MIGRATIONS", (add_a_column, add_a_table))
    with pytest.raises(StorageError, match="has version 1.* reads version 3"):
        Database.open(path, writable=False)
    assert run(path, "PRAGMA user_version") == [(1,)]
    assert repr(contents(path, writable=True)) == repr(before)
    assert run(path, "PRAGMA user_version") == [(3,)]
    assert run(path, "SELECT host FROM events") == [(None,)]
    assert run(path, "SELECT * FROM hosts") == [("here",)]
    assert repr(contents(path)) == repr(before)


def test_a_new_database_has_the_newest_version(tmp_path, monkeypatch):
    monkeypatch.setattr(schema, "MIGRATIONS", (add_a_column, add_a_table))
    Database.create(tmp_path / "study.sqlite", STUDY).close()
    assert run(tmp_path / "study.sqlite", "PRAGMA user_version") == [(3,)]


def test_an_upgrade_that_fails_changes_nothing(path, monkeypatch):
    before = contents(path)
    with monkeypatch.context() as patched:
        patched.setattr(schema, "MIGRATIONS", (add_a_column, fail))
        with pytest.raises(StorageError, match="nowhere"):
            Database.open(path, writable=True)
    assert repr(contents(path, writable=True)) == repr(before)


# -------------------------------------------------------------------- other files


def test_what_is_no_database_is_refused(tmp_path, path):
    whole = path.read_bytes()
    foreign = tmp_path / "foreign.sqlite"
    run(foreign, "CREATE TABLE a (b)")
    unchanged = foreign.read_bytes()
    (tmp_path / "empty").touch()
    (tmp_path / "text").write_text("SQLite format 4, or so; " * 10)
    (tmp_path / "short").write_bytes(whole[:50])
    (tmp_path / "start").write_bytes(whole[:5])
    (tmp_path / "loop").symlink_to(tmp_path / "loop")
    for name, told in {
        "missing": "does not exist",
        "": "is no file",
        "empty": "is empty",
        "text": "is no SQLite database",
        "short": "is cut off",
        "start": "is cut off",
        "loop": "cannot be read",
        "nul\0": "cannot be read",
        "foreign.sqlite": "is the SQLite database of another application",
    }.items():
        for writable in (False, True):
            with pytest.raises(StorageError, match=told):
                Database.open(tmp_path / name, writable=writable)
    assert foreign.read_bytes() == unchanged
    assert not (tmp_path / "missing").exists()


def test_a_database_is_not_created_over_a_file(path):
    before = path.read_bytes()
    with pytest.raises(StorageError, match="is there already"):
        Database.create(path, STUDY)
    assert path.read_bytes() == before
    with pytest.raises(StorageError, match="cannot be created"):
        Database.create(path / "study.sqlite", STUDY)


CHANGED = {
    "a newer version": ("PRAGMA user_version = 2", "newer vtune .* Upgrade vtune"),
    "no version": ("PRAGMA user_version = 0", "version is 0"),
    "no table": ("DROP TABLE checkpoints", "no table `checkpoints`"),
    "a column more": ("ALTER TABLE events ADD COLUMN a", "no table `events`"),
    "a trigger": (
        "CREATE TRIGGER a AFTER INSERT ON events BEGIN DELETE FROM events; END",
        "a trigger, 'a'",
    ),
    "no study": ("DELETE FROM study", "holds 0 studies"),
    "two studies": ("INSERT INTO study SELECT * FROM study", "holds 2 studies"),
    "no seals": ("DELETE FROM seals", "nothing tells which rows"),
    "bytes for text": ("UPDATE study SET data = x'00'", "holds \"b'"),
    "no JSON": ("UPDATE study SET data = '{'", "cannot be read"),
    "a number for a mapping": ("UPDATE study SET settings = '1'", "a mapping"),
    "text that is no UTF-8": (
        "UPDATE study SET data = CAST(x'ff' AS TEXT)",
        "UTF-8",
    ),
    "a real for a flag": ("UPDATE epoch_rows SET finite = 0.5", "is no int"),
    "another flag": ("UPDATE epoch_rows SET finite = 2", "0 or 1"),
    "text among metrics": (
        'UPDATE epoch_rows SET metrics = \'{"score": "a"}\'',
        "metrics",
    ),
    "a large int among metrics": (
        f'UPDATE epoch_rows SET metrics = \'{{"a": {{"$int": "0x{"f" * 9000}"}}}}\'',
        "metrics",
    ),
    "a list among values": (
        'UPDATE trial_rows SET "values" = \'{"rate": []}\'',
        "values",
    ),
    "an unknown parameter": (
        'UPDATE trial_rows SET parameters = \'[{"kind": "os"}]\'',
        "no list of hyperparameters",
    ),
    "an unknown decision": ("UPDATE decisions SET kind = 'a'", "kind of decision"),
    "texts for trials": ("UPDATE decisions SET trials = '[\"1\"]'", "numbers"),
    "a time without end": ("UPDATE events SET time = 9e999", "a time"),
    "models by name": (
        "INSERT INTO checkpoints VALUES ('a', 1, 1, '{\"-1\": \"a\"}', 0)",
        "models",
    ),
    "models by long numbers": (
        f"INSERT INTO checkpoints VALUES ('a', 1, 1, '{{\"{'9' * 5000}\": \"a\"}}', 0)",
        "models",
    ),
    "a long text": (
        "UPDATE study SET data = CAST(zeroblob(70000000) AS TEXT)",
        "more in one place than vtune writes",
    ),
}


@pytest.mark.parametrize("writable", [False, True])
@pytest.mark.parametrize("statement, told", CHANGED.values(), ids=CHANGED.keys())
def test_what_vtune_did_not_write_is_refused(path, statement, told, writable):
    run(path, statement)
    if statement.startswith(("DELETE", "INSERT", "UPDATE")):
        with pytest.raises(StorageError, match="damaged|more in one place") as caught:
            contents(path, writable)
        assert str(path) in str(caught.value)
        seal(path)
    with pytest.raises(StorageError, match=told) as caught:
        contents(path, writable)
    assert str(path) in str(caught.value)


HIDDEN = {
    "a view": "CREATE VIEW checkpoints AS SELECT 'a' AS name, 1 AS sequence, "
    "1 AS bytes, '{}' AS models, 0 AS checksum",
    "a virtual table": "CREATE VIRTUAL TABLE checkpoints "
    "USING fts5 (name, sequence, bytes, models, checksum)",
    "a hidden column": "CREATE TABLE checkpoints (name TEXT NOT NULL PRIMARY KEY, "
    "sequence INTEGER NOT NULL, bytes INTEGER NOT NULL, models TEXT NOT NULL, "
    "checksum INTEGER NOT NULL, more TEXT AS (hex(zeroblob(1000000000))))",
}


@pytest.mark.parametrize("statement", HIDDEN.values(), ids=HIDDEN.keys())
def test_what_stands_in_a_table_s_place_is_refused(path, statement):
    run(path, "DROP TABLE checkpoints", statement)
    with pytest.raises(StorageError, match="no table `checkpoints`"):
        contents(path)


def test_more_than_a_study_holds_is_not_read(path, monkeypatch):
    with monkeypatch.context() as patched:
        patched.setattr(tables, "MOST_ROWS", 4)
        with pytest.raises(StorageError, match="`trial_rows` has 5 rows"):
            contents(path)
    monkeypatch.setattr(tables, "MOST_CHARACTERS", 100)
    with pytest.raises(StorageError, match="more than 100 characters"):
        contents(path)


def test_the_user_may_add_a_view_and_an_index(path):
    before = contents(path)
    run(path, "CREATE VIEW best AS SELECT 1", "CREATE INDEX i ON epoch_rows (program)")
    assert repr(contents(path, writable=True)) == repr(before)


def test_no_code_is_loaded_into_a_connection(path):
    with contextlib.closing(files.connect(path, "mode=ro")) as connection:
        with pytest.raises(sqlite3.OperationalError, match="not authorized"):
            connection.execute("SELECT load_extension('x')")
        assert connection.execute("PRAGMA trusted_schema").fetchone() == (0,)
        assert connection.execute("PRAGMA cell_size_check").fetchone() == (1,)
        assert connection.execute("PRAGMA foreign_keys").fetchone() == (1,)


@pytest.fixture(scope="module")
def written():
    """The bytes of a database."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "study.sqlite"
        with Database.create(path, STUDY) as database:
            database.commit(BATCH)
        return path.read_bytes()


def read_or_refused(data):
    """What is read of a file with these bytes; None if it is refused."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "study.sqlite"
        path.write_bytes(data)
        outcomes = []
        for writable in (False, True):
            try:
                outcomes.append(repr(contents(path, writable)))
            except StorageError as error:
                assert str(path) in str(error)
        return outcomes


@given(st.data())
@settings(max_examples=150)
def test_a_damaged_file_is_read_or_refused(written, data):
    damaged = bytearray(written)
    for _ in range(data.draw(st.integers(1, 8))):
        damaged[data.draw(st.integers(0, len(damaged) - 1))] = data.draw(
            st.integers(0, 255)
        )
    read_or_refused(bytes(damaged))


@given(st.integers(min_value=0))
@settings(max_examples=50)
def test_a_file_that_is_cut_off_is_read_whole_or_refused(written, length):
    whole = read_or_refused(written)
    assert len(whole) == 2
    assert set(read_or_refused(written[: length % len(written)])) <= set(whole)
    assert read_or_refused(written[: len(written) // 2]) == []
