"""A study's directory in the hands of its one writer."""

from collections.abc import Collection, Mapping

import numpy as np

from vtune.storage.checkpoints import Checkpoints
from vtune.storage.database import Database
from vtune.storage.failure import StorageError
from vtune.storage.folder import StudyFolder, create, erase, leads_out, tidy
from vtune.storage.lease import Lease
from vtune.storage.records import Batch, CheckpointRecord, Contents, StudyRecord
from vtune.storage.snapshot import LocalCopy, supports_locking


States = Mapping[int, tuple[np.ndarray, ...]]


class Store:
    """A study's directory, open for writing.

    Args:
        folder: the directory.
        lease: held for as long as the store is open.
        database: the study's database.
        copy: where the database lies if the directory's own disk cannot lock; what is
            committed is published with every checkpoint.
        is_new: whether nothing was in the directory before.
    """

    def __init__(
        self,
        folder: StudyFolder,
        lease: Lease,
        database: Database,
        copy: LocalCopy | None,
        is_new: bool,
    ):
        self.folder = folder
        self.is_new = is_new
        self._lease = lease
        self._database = database
        self._copy = copy
        self._checkpoints = Checkpoints(folder.checkpoints)

    @classmethod
    def open(cls, folder: StudyFolder, study: StudyRecord, overwrite: bool) -> "Store":
        """Opens a study's directory, or begins one.

        Args:
            folder: the directory.
            study: what a new study is started with.
            overwrite: whether a study that is there is erased.

        Raises:
            StorageError: if the directory is another's, or another process writes
                there, or it cannot be written.
        """
        create(folder)
        lease = Lease.acquire(folder.lease)
        try:
            if overwrite:
                # Erasing a study takes the lease with it.
                erase(folder)
                lease.release()
                create(folder)
                lease = Lease.acquire(folder.lease)
            refuse_links(folder)
            tidy(folder)
            is_new = not folder.database.exists()
            database, copy = _database(folder, study, is_new)
            return cls(folder, lease, database, copy, is_new)
        except BaseException:
            lease.release()
            raise

    @property
    def contents(self) -> Contents:
        """All that was written down."""
        return self._database.contents()

    def commit(self, batch: Batch) -> None:
        """Writes records, all or nothing.

        Args:
            batch: the records.

        Raises:
            StorageError: if they cannot be written, or another process took over.
        """
        self._lease.check()
        self._database.commit(batch)

    def rewind(self, sequence: int) -> None:
        """Takes back the decisions after a record; what was trained stays.

        Args:
            sequence: the record.
        """
        self._lease.check()
        self._database.rewind(sequence)

    def forget(self, sequence: int) -> None:
        """Takes back all that was written down after a record.

        Args:
            sequence: the record.
        """
        self._lease.check()
        self._database.forget(sequence)

    def extend(self, study: StudyRecord) -> None:
        """Changes what the study was started with.

        Args:
            study: what it goes on with.
        """
        self._lease.check()
        self._database.extend(study)

    def start_checkpoint(self, name: str, states: States) -> None:
        """Begins to write a checkpoint.

        Args:
            name: its folder.
            states: the leaves of each trial's state; not to be changed any more.
        """
        self._lease.check()
        if (self.folder.checkpoints / name).is_dir():
            self._checkpoints.delete(name)
        self._checkpoints.start(name, states)

    def checkpoint_bytes(self, *, wait: bool) -> int | None:
        """What the checkpoint takes that was begun; None while it is being written.

        Args:
            wait: whether to wait until it is complete.

        Raises:
            StorageError: if it cannot be written.
        """
        if self._checkpoints.busy and not wait:
            return None
        written = self._checkpoints.finish()
        return None if written is None else written.bytes

    def drop(self, names: Collection[str], kept: Collection[str]) -> None:
        """Removes checkpoints.

        Args:
            names: those that are removed; what was left half-written is, too.
            kept: those that stay.
        """
        self._lease.check()
        self._database.drop_checkpoints(names)
        # Not before the published file names none of them any more.
        self._publish()
        self._checkpoints.clean(kept)

    def newest(self, contents: Contents) -> tuple[CheckpointRecord, States] | None:
        """The last checkpoint that can be read, with the states that it holds.

        Args:
            contents: all that was written down.
        """
        for record in sorted(contents.checkpoints, key=lambda r: -r.sequence):
            try:
                return record, self._checkpoints.load(record.name)
            except StorageError:
                continue
        return None

    def close(self) -> None:
        """Closes the database, and lets others write.

        Raises:
            StorageError: if it cannot be published; what was published before is safe.
        """
        try:
            self._publish()
        finally:
            (self._copy or self._database).close()
            self._lease.release()

    def _publish(self) -> None:
        if self._copy is not None:
            self._lease.check()
            self._copy.publish()


def refuse_links(folder: StudyFolder) -> None:
    """Refuses a study whose parts lie elsewhere.

    Args:
        folder: the study's directory.

    Raises:
        StorageError: if its database or its checkpoints are a link that leads out.
    """
    for part in (folder.database, folder.checkpoints):
        if leads_out(folder.path, part):
            raise StorageError(
                f"{part} is a link that leads out of the study's directory. Put what "
                "it leads to in its place."
            )


def _database(
    folder: StudyFolder, study: StudyRecord, is_new: bool
) -> tuple[Database, LocalCopy | None]:
    path = folder.database
    if not supports_locking(folder.path):
        copy = LocalCopy.create(path, study) if is_new else LocalCopy.open(path)
        return copy.database, copy
    if is_new:
        return Database.create(path, study), None
    return Database.open(path, writable=True), None
