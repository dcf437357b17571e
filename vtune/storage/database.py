"""What has a study written down, and how is more written, all or nothing?"""

import contextlib
import sqlite3
from collections.abc import Collection, Iterator
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from vtune.storage.failure import StorageError
from vtune.storage.files import (
    Before,
    check_file,
    connect,
    connect_to_read,
    connect_to_write,
    explained,
    nothing,
    put_in_place,
)
from vtune.storage.records import Batch, Contents, StudyRecord
from vtune.storage.rows import (
    CHECKPOINTS,
    DECISIONS,
    EPOCHS,
    EVENTS,
    STUDY,
    TRIALS,
    Table,
)
from vtune.storage.schema import check_schema, create_schema, upgrade
from vtune.storage.tables import begin, delete, insert, read, read_study


class Database:
    """A study's database; `Database.create` and `Database.open` make one.

    Each method that writes does so as one transaction. Where it raises, nothing of it
    is written, what was written before is safe, and it may be called again.

    Args:
        path: the file.
        connection: to this file.
        study: what the study was started with, as the file tells.
        before: is told each operation on the disk before it.
    """

    def __init__(
        self,
        path: Path,
        connection: sqlite3.Connection,
        study: StudyRecord,
        before: Before,
    ):
        self._path = path
        self._connection = connection
        self._study = study
        self._before = before

    @classmethod
    def create(
        cls, path: Path, study: StudyRecord, *, before: Before = nothing
    ) -> "Database":
        """Begins a database; a process that is killed meanwhile leaves none.

        Args:
            path: the file, which does not exist yet.
            study: what the study is started with.
            before: is told each operation on the disk before it.

        Returns:
            The database, open for writing.

        Raises:
            StorageError: if the file exists or cannot be written.
        """
        beside = path.with_name(f"{path.name}-new")
        with explained(path, "created"):
            if path.exists():
                raise StorageError("it is there already. Open it instead.")
            before("create")
            for left in (beside, beside.with_name(f"{beside.name}-journal")):
                left.unlink(missing_ok=True)
            with contextlib.closing(connect(beside, "mode=rwc")) as connection:
                connection.execute("BEGIN")
                create_schema(connection)
                begin(connection, study)
                connection.execute("COMMIT")
            put_in_place(beside, path, before)
        return cls.open(path, writable=True, before=before)

    @classmethod
    def open(
        cls, path: Path, *, writable: bool, before: Before = nothing
    ) -> "Database":
        """Opens a database; an old one is upgraded if it is opened for writing.

        Args:
            path: the file.
            writable: whether records are to be written. To read is possible while
                another process writes, and in a folder that cannot be written.
            before: is told each operation on the disk before it.

        Returns:
            The database.

        Raises:
            StorageError: if the file is no study's database, or damaged, or of a
                version that is not known, or may not be opened.
        """
        check_file(path)
        with explained(path, "opened"):
            before("open")
            connect_to = connect_to_write if writable else connect_to_read
            connection = connect_to(path)
            try:
                upgrade(connection, writable, before)
                connection.execute("BEGIN")
                check_schema(connection)
                study = read_study(connection)
                connection.execute("COMMIT")
                return cls(path, connection, study, before)
            except BaseException:
                connection.close()
                raise

    @property
    def study(self) -> StudyRecord:
        """What the study was started with."""
        return self._study

    def commit(self, batch: Batch) -> None:
        """Writes records down.

        A trial or an epoch that is written again has to be the same bit by bit, but for
        its sequence, which becomes the new one. A checkpoint that is written again
        replaces the one of its name.

        Args:
            batch: the records.

        Raises:
            StorageError: if they cannot be written, or contradict what is there.
        """
        rows = {
            TRIALS: [TRIALS.row(record) for record in batch.trials],
            EPOCHS: [EPOCHS.row(record) for record in batch.epochs],
            DECISIONS: [DECISIONS.row(record) for record in batch.decisions],
            EVENTS: [EVENTS.row(record) for record in batch.events],
            CHECKPOINTS: [CHECKPOINTS.row(record) for record in batch.checkpoints],
        }
        with self._transaction("written"):
            for table in filter(rows.get, rows):
                self._before("statement")
                insert(self._connection, table, rows[table])

    def rewind(self, sequence: int) -> None:
        """Takes back the decisions after a record; trials and epochs stay.

        What was decided for want of memory stays as well: the device would not ask for
        it again at the same place.

        Args:
            sequence: the record.

        Raises:
            StorageError: if it cannot be written.
        """
        with self._transaction("rewound"):
            self._delete(DECISIONS, "sequence > ? AND kind <> 'halve'", sequence)

    def forget(self, sequence: int) -> None:
        """Takes back the decisions, epochs and trials after a record.

        Args:
            sequence: the record.

        Raises:
            StorageError: if it cannot be written.
        """
        with self._transaction("rewound"):
            for table in (DECISIONS, EPOCHS, TRIALS):
                self._delete(table, "sequence > ?", sequence)

    def extend(self, study: StudyRecord) -> None:
        """Replaces what the study was started with.

        Args:
            study: what it goes on with.

        Raises:
            StorageError: if it cannot be written.
        """
        row = STUDY.row(study)
        with self._transaction("extended"):
            self._delete(STUDY, "TRUE")
            insert(self._connection, STUDY, [row])
        self._study = study

    def drop_checkpoints(self, names: Collection[str]) -> None:
        """Forgets checkpoints; those that are not known are passed over.

        Args:
            names: their names.

        Raises:
            StorageError: if it cannot be written.
        """
        with self._transaction("written"):
            for name in names:
                self._delete(CHECKPOINTS, "name = ?", name)

    def contents(self) -> Contents:
        """Reads all that was written down, as it was at one moment.

        Returns:
            The records.

        Raises:
            StorageError: if the database is damaged, or was written by something else.
        """
        with self._transaction("read", "BEGIN"):
            tables = (TRIALS, EPOCHS, DECISIONS, EVENTS, CHECKPOINTS)
            return Contents(
                read_study(self._connection),
                *(read(self._connection, table) for table in tables),
            )

    def back_up(self, path: Path) -> None:
        """Writes all that was committed into another file, for one who only reads.

        Args:
            path: the file; one that is there is replaced.

        Raises:
            StorageError: if it cannot be written.
        """
        with explained(path, "written"):
            path.unlink(missing_ok=True)
            with contextlib.closing(connect(path, "mode=rwc")) as target:
                self._before("backup")
                self._connection.backup(target)
                # WAL mode needs files beside, which a reader may not be able to make.
                target.execute("PRAGMA journal_mode = DELETE")

    def close(self) -> None:
        """Closes the file; nothing is lost if it is never called."""
        self._connection.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    @contextlib.contextmanager
    def _transaction(
        self, doing: str, begin: str = "BEGIN IMMEDIATE"
    ) -> Iterator[None]:
        with explained(self._path, doing):
            self._roll_back()
            try:
                self._before("statement")
                self._connection.execute(begin)
                yield
                self._before("commit")
                self._connection.execute("COMMIT")
            except BaseException:
                self._roll_back()
                raise

    def _roll_back(self) -> None:
        # Should it fail, the next transaction tries again before it begins.
        with contextlib.suppress(sqlite3.Error, OSError):
            if self._connection.in_transaction:
                self._before("rollback")
                self._connection.execute("ROLLBACK")

    def _delete(self, table: Table, condition: str, *values: Any) -> None:
        self._before("statement")
        delete(self._connection, table, condition, values)
