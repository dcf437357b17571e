"""Where a database cannot be written, whole snapshots of one are published."""

import contextlib
import errno
import os
import re
import sqlite3
import subprocess
import sys
from pathlib import Path

import pytest

from tests.storage.test_database import BATCHES, STUDY, contents, exactly, together
from vtune.storage import files, snapshot
from vtune.storage.database import Database
from vtune.storage.failure import StorageError
from vtune.storage.snapshot import LocalCopy, supports_locking


@pytest.fixture
def local(tmp_path, monkeypatch):
    """The local disk's temporary folder."""
    folder = tmp_path / "local"
    folder.mkdir()
    monkeypatch.setattr(snapshot.tempfile, "tempdir", str(folder))
    return folder


@pytest.fixture
def drive(tmp_path):
    """The folder of a study on a mounted drive."""
    folder = tmp_path / "drive"
    folder.mkdir()
    return folder


@pytest.fixture
def refuses_locks(drive, monkeypatch):
    """Lets all locks fail in the drive's folder, as its file system would."""
    connect = files.connect

    def refusing(path, query):
        if drive in path.parents and "immutable" not in query:
            raise sqlite3.OperationalError("disk I/O error")
        return connect(path, query)

    monkeypatch.setattr(files, "connect", refusing)
    monkeypatch.setattr(snapshot, "connect", refusing)


def names(folder):
    return sorted(file.name for file in folder.iterdir())


# -------------------------------------------------------------------- the probe


def test_a_local_disk_supports_locking(drive):
    assert supports_locking(drive)
    assert names(drive) == []


def test_a_drive_that_refuses_locks_is_found_out(drive, refuses_locks):
    assert not supports_locking(drive)
    assert names(drive) == []


class Patched(sqlite3.Connection):
    """A connection whose statements with some text are replaced."""

    replaced = ("", "")

    def execute(self, statement, *values):
        old, new = self.replaced
        return super().execute(new if statement == old else statement, *values)


REPLACED = {
    "no WAL mode": ("PRAGMA journal_mode = WAL", "PRAGMA journal_mode"),
    "locks without effect": ("BEGIN IMMEDIATE", "BEGIN"),
    "readers that wait": ("BEGIN IMMEDIATE", "PRAGMA nothing"),
}


@pytest.mark.parametrize("replaced", REPLACED.values(), ids=REPLACED.keys())
def test_what_is_no_real_lock_is_found_out(drive, monkeypatch, replaced):
    class Replacing(Patched):
        pass

    Replacing.replaced = replaced

    def connect(path, query):
        uri = f"{path.as_uri()}?{query}"
        return sqlite3.connect(uri, uri=True, isolation_level=None, factory=Replacing)

    monkeypatch.setattr(snapshot, "connect", connect)
    assert not supports_locking(drive)
    assert names(drive) == []


def test_a_folder_without_files_is_no_answer(drive):
    with pytest.raises(StorageError, match="cannot be used"):
        supports_locking(drive / "missing")


HOLD = """
import sqlite3, sys
connection = sqlite3.connect(sys.argv[1], isolation_level=None)
connection.execute("BEGIN IMMEDIATE")
print("held", flush=True)
sys.stdin.read()
connection.close()
"""


def test_the_lock_of_another_process_is_seen(drive, monkeypatch):
    monkeypatch.setattr(files, "BUSY_SECONDS", 0.05)
    path = drive / "study.sqlite"
    with Database.create(path, STUDY) as database:
        with subprocess.Popen(
            [sys.executable, "-c", HOLD, str(path)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        ) as holder:
            assert holder.stdout.readline() == "held\n"
            with Database.open(path, writable=False) as reader:
                assert reader.contents().trials == ()
            with pytest.raises(StorageError, match="another process"):
                Database.open(path, writable=True).commit(BATCHES[0])
            holder.stdin.close()
            holder.wait(10)
        database.commit(BATCHES[0])


# -------------------------------------------------------------------- the local copy


def test_a_study_goes_on_from_what_was_published(drive, local, refuses_locks):
    path = drive / "study.sqlite"
    with LocalCopy.create(path, STUDY) as copy:
        assert contents(path) == together([])
        copy.database.commit(BATCHES[0])
        copy.publish()
        copy.database.commit(BATCHES[1])
    assert exactly(contents(path)) == exactly(together(BATCHES[:1]))
    with LocalCopy.open(path) as copy:
        for batch in BATCHES[1:]:
            copy.database.commit(batch)
            copy.publish()
            copy.publish()
    assert exactly(contents(path)) == exactly(together(BATCHES))
    assert names(drive) == ["study.sqlite"]
    assert names(local) == []


def test_a_database_cannot_be_written_there_directly(drive, local, refuses_locks):
    path = drive / "study.sqlite"
    LocalCopy.create(path, STUDY).close()
    with pytest.raises(StorageError, match="disk I/O error"):
        Database.open(path, writable=True)


def test_what_is_there_is_not_begun_again(drive, local):
    path = drive / "study.sqlite"
    LocalCopy.create(path, STUDY).close()
    with pytest.raises(StorageError, match="is there already"):
        LocalCopy.create(path, STUDY)
    path.write_bytes(path.read_bytes()[:5000])
    with pytest.raises(StorageError, match="damaged"):
        LocalCopy.open(path)
    with pytest.raises(StorageError, match="does not exist"):
        LocalCopy.open(drive / "other.sqlite")
    assert names(local) == []


class Faults:
    """Lets the operation with a number fail, once."""

    def __init__(self, fails_at=None):
        self.fails_at = fails_at
        self.operations = []

    def __call__(self, operation):
        self.operations.append(operation)
        if len(self.operations) - 1 == self.fails_at:
            raise OSError(errno.ENOSPC, "No space left on device")


def history(path, before):
    """Commits and publishes two batches; how many steps had to be repeated."""
    failures = 0

    def persist(step):
        nonlocal failures
        try:
            return step()
        except StorageError as error:
            failures += 1
            assert "the disk is full" in str(error)
            return step()

    def begin():
        if path.exists():
            return LocalCopy.open(path, before=before)
        return LocalCopy.create(path, STUDY, before=before)

    with persist(begin) as copy:
        for count, batch in enumerate(BATCHES[:2]):
            assert exactly(contents(path)) == exactly(together(BATCHES[:count]))
            persist(lambda batch=batch: copy.database.commit(batch))
            assert exactly(contents(path)) == exactly(together(BATCHES[:count]))
            persist(copy.publish)
    return failures


def test_each_operation_may_fail(drive, local):
    faultless = Faults()
    assert history(drive / "faultless.sqlite", faultless) == 0
    own = {"snapshot", "backup", "copy", "flush", "replace"}
    assert own <= set(faultless.operations)
    for k in [k for k, name in enumerate(faultless.operations) if name in own]:
        path = drive / f"{k}.sqlite"
        assert history(path, Faults(k)) == 1
        assert exactly(contents(path)) == exactly(together(BATCHES[:2]))
        assert not list(drive.glob("*-new*"))
    assert names(local) == []


def test_what_was_published_stays_open_for_its_readers(drive, local):
    path = drive / "study.sqlite"
    with LocalCopy.create(path, STUDY) as copy, contextlib.ExitStack() as stack:
        reader = stack.enter_context(Database.open(path, writable=False))
        copy.database.commit(BATCHES[0])
        copy.publish()
        assert reader.contents() == together([])
        assert exactly(contents(path)) == exactly(together(BATCHES[:1]))
        assert names(drive) == ["study.sqlite"]


# -------------------------------------------------------------------- what is left


ROOT = Path(__file__).parent.parent.parent
OPENS = """
import sys, tempfile
from pathlib import Path
from tests.storage.test_snapshot import BATCHES, LocalCopy

tempfile.tempdir = sys.argv[2]
copy = LocalCopy.open(Path(sys.argv[1]))
copy.database.commit(BATCHES[0])
print("opened", flush=True)
sys.stdin.read()
"""


@contextlib.contextmanager
def opened_elsewhere(path, local):
    """Another process that has a local copy of a study and is killed in the end."""
    with subprocess.Popen(
        [sys.executable, "-c", OPENS, str(path), str(local)],
        cwd=ROOT,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        try:
            assert process.stdout.readline() == "opened\n"
            yield process
        finally:
            process.kill()


def test_the_copies_of_killed_processes_are_removed_by_the_next_one(drive, local):
    path, other = drive / "study.sqlite", drive / "other" / "study.sqlite"
    other.parent.mkdir()
    for each in (path, other):
        LocalCopy.create(each, STUDY).close()
    with opened_elsewhere(path, local):
        pass
    (left,) = names(local)
    with opened_elsewhere(other, local):
        LocalCopy.open(other).close()
        assert len(names(local)) == 2, "the copy of a living process is in use"
        LocalCopy.open(path).close()
        (others,) = names(local)
    assert others != left
    LocalCopy.open(path).close()
    assert names(local) == [others], "the copy of another study"
    LocalCopy.open(other).close()
    assert names(local) == []


def test_nothing_else_is_taken_for_a_copy_that_was_left(drive, local, monkeypatch):
    path = drive / "study.sqlite"
    with LocalCopy.create(path, STUDY):
        (own,) = names(local)
    dead = re.sub(r"-\d+-\d+-", "-999999999-1-", own)
    others = [f"my {dead}", f"{dead}-mine", re.sub("-[0-9a-f]{16}-", "-", dead)]
    others.append(re.sub("-999999999-1-", f"-{2**70}-1-", dead))
    for name in others:
        (local / name).mkdir()
    (local / "outside").mkdir()
    (local / "outside" / "mine").touch()
    (local / dead).symlink_to(local / "outside")
    LocalCopy.open(path).close()
    assert names(local) == sorted([*others, "outside", dead])
    assert names(local / "outside") == ["mine"]
    (local / dead).unlink()
    (local / dead).mkdir()
    with monkeypatch.context() as patched:
        patched.setattr(os, "geteuid", lambda: os.getuid() + 1)
        LocalCopy.open(path).close()
    assert dead in names(local), "the folder of another user"
    LocalCopy.open(path).close()
    assert names(local) == sorted([*others, "outside"])
