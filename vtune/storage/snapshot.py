"""How is a study stored where a database cannot be written, as on a mounted drive?"""

import contextlib
import hashlib
import os
import re
import shutil
import socket
import sqlite3
import tempfile
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType
from typing import Self

from vtune.storage.database import Database
from vtune.storage.failure import StorageError
from vtune.storage.files import (
    Before,
    check_file,
    connect,
    explained,
    nothing,
    put_in_place,
)
from vtune.storage.process import is_alive, started_at
from vtune.storage.records import StudyRecord


_PROBE = "vtune-probe-"


def supports_locking(folder: Path) -> bool:
    """Tries whether a database can be written in a folder.

    Args:
        folder: the folder.

    Returns:
        Whether WAL mode and locks work there.

    Raises:
        StorageError: if no file can be written there at all.
    """
    for left in folder.glob(f"{_PROBE}*"):
        shutil.rmtree(left, ignore_errors=True)  # a process was killed meanwhile
    with explained(folder, "used"):
        probe = Path(tempfile.mkdtemp(prefix=_PROBE, dir=folder))
    try:
        return _locks(probe / "probe.sqlite")
    except sqlite3.Error:
        return False
    finally:
        shutil.rmtree(probe, ignore_errors=True)


@contextlib.contextmanager
def _new_folder(published: Path) -> Iterator[Path]:
    """A new folder on the local disk, which is removed if what follows fails."""
    local, pid = Path(tempfile.gettempdir()), os.getpid()
    place = f"{socket.gethostname()}:{os.path.realpath(published)}"
    study = f"vtune-{hashlib.sha256(os.fsencode(place)).hexdigest()[:16]}"
    with explained(local, "used"):
        _remove_leftovers(local, study)
        prefix = f"{study}-{pid}-{started_at(pid) or 0}-"
        folder = Path(tempfile.mkdtemp(prefix=prefix, dir=local))
    try:
        yield folder
    except BaseException:
        shutil.rmtree(folder, ignore_errors=True)
        raise


def _remove_leftovers(local: Path, study: str) -> None:
    """Removes the copies of a study that processes left when they were killed."""
    for folder in local.glob(f"{study}-*"):
        named = re.fullmatch(
            r"([0-9]{1,9})-([0-9]+)-\w{8}", folder.name[len(study) + 1 :]
        )
        if named and is_alive(int(named[1]), int(named[2]) or None) is False:
            with contextlib.suppress(OSError):
                # Others may make folders of any name where all users' files lie.
                if folder.lstat().st_uid == os.geteuid():
                    shutil.rmtree(folder)


def _locks(path: Path) -> bool:
    with (
        contextlib.closing(connect(path, "mode=rwc")) as writer,
        contextlib.closing(connect(path, "mode=rwc")) as other,
    ):
        if writer.execute("PRAGMA journal_mode = WAL").fetchone()[0] != "wal":
            return False
        writer.execute("CREATE TABLE probe (number INTEGER)")
        writer.execute("BEGIN IMMEDIATE")
        writer.execute("INSERT INTO probe VALUES (1)")
        reads_beside = other.execute("SELECT count(*) FROM probe").fetchone() == (0,)
        other.execute("PRAGMA busy_timeout = 0")
        try:
            other.execute("BEGIN IMMEDIATE")
        except sqlite3.OperationalError as error:
            return reads_beside and error.sqlite_errorcode == sqlite3.SQLITE_BUSY
        return False


class LocalCopy:
    """A study's database that is written on the local disk and published now and then.

    What was committed and not published is lost when the process ends. The local copy
    lies in the user's temporary folder, and `close` removes it; should the process be
    killed, the next one that opens the study does.

    Args:
        published: the study's own file, which `publish` replaces as a whole.
        folder: of the local copy.
        database: the local copy, open for writing.
        before: is told each operation on the disk before it.
    """

    def __init__(
        self, published: Path, folder: Path, database: Database, before: Before
    ):
        self.database = database
        self._published = published
        self._folder = folder
        self._before = before

    @classmethod
    def create(
        cls, published: Path, study: StudyRecord, *, before: Before = nothing
    ) -> "LocalCopy":
        """Begins a database and publishes it.

        Args:
            published: the study's own file, which does not exist yet.
            study: what the study is started with.
            before: is told each operation on the disk before it.

        Returns:
            The copy.

        Raises:
            StorageError: if the file exists, or a folder cannot be written.
        """
        with explained(published, "created"):
            if published.exists():
                raise StorageError("it is there already. Open it instead.")
        with _new_folder(published) as folder:
            database = Database.create(folder / published.name, study, before=before)
            copy = cls(published, folder, database, before)
            try:
                copy.publish()
            except BaseException:
                copy.close()
                raise
            return copy

    @classmethod
    def open(cls, published: Path, *, before: Before = nothing) -> "LocalCopy":
        """Copies a published database to the local disk and opens the copy.

        To read only, open the published file itself.

        Args:
            published: the study's own file.
            before: is told each operation on the disk before it.

        Returns:
            The copy.

        Raises:
            StorageError: if the file is no study's database, or damaged, or if it was
                written where it lies and has a log of what was committed last.
        """
        check_file(published)
        log = published.with_name(f"{published.name}-wal")
        if log.exists() and log.stat().st_size:
            raise StorageError(
                f"{published} was written by a system on which its disk can lock, and "
                f"{log.name} holds what was committed last. Go on there, or copy the "
                "study to a local disk."
            )
        with _new_folder(published) as folder:
            with explained(published, "copied"):
                before("copy")
                shutil.copyfile(published, folder / published.name)
            database = Database.open(
                folder / published.name, writable=True, before=before
            )
            return cls(published, folder, database, before)

    def publish(self) -> None:
        """Replaces the study's own file by all that was committed.

        Raises:
            StorageError: if it cannot be written; it is then as it was.
        """
        snapshot = self._folder / "snapshot.sqlite"
        beside = self._published.with_name(f"{self._published.name}-new")
        with explained(self._published, "published"):
            self._before("snapshot")
            self.database.back_up(snapshot)
            try:
                # SQLite needs locks even in a file that nobody else knows; so it makes
                # the snapshot on the local disk, and only bytes are written here.
                self._before("copy")
                shutil.copyfile(snapshot, beside)
                put_in_place(beside, self._published, self._before)
            except BaseException:
                with contextlib.suppress(OSError):
                    beside.unlink(missing_ok=True)
                raise

    def close(self) -> None:
        """Closes and removes the local copy; what was not published is lost."""
        self.database.close()
        shutil.rmtree(self._folder, ignore_errors=True)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()
