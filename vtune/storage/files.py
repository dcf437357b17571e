"""How is a database's file checked, opened, and put in its place?"""

import contextlib
import errno
import os
import sqlite3
import stat
from collections.abc import Callable, Iterator
from pathlib import Path

from vtune.storage.failure import PUT_BACK, StorageError
from vtune.storage.flush import flush_file, flush_folder
from vtune.storage.schema import APPLICATION_ID
from vtune.storage.values import LONGEST_TEXT


Before = Callable[[str], None]

# A person's query may take this long without costing a study its commit.
BUSY_SECONDS = 10.0

_MAGIC = b"SQLite format 3\0"
_HEADER_BYTES = 100
_APPLICATION_ID_BYTES = slice(68, 72)
# SQLite limits a row as a whole; none has more texts than this.
_TEXTS_OF_A_ROW = 4

_SAFE = "what was committed before is safe"
_REASONS = {
    sqlite3.SQLITE_FULL: f"the disk is full; {_SAFE}. Make room and go on",
    sqlite3.SQLITE_IOERR: f"the disk reports an error; {_SAFE}",
    sqlite3.SQLITE_READONLY: "it may not be written. Change its permissions, or copy "
    "the study to a directory that may be",
    sqlite3.SQLITE_CANTOPEN: "it, or the files beside it, may not be opened. Change "
    "their permissions, or copy the study to a directory that may be written",
    sqlite3.SQLITE_PERM: "it may not be opened. Change its permissions",
    sqlite3.SQLITE_BUSY: f"another process holds it locked for more than "
    f"{BUSY_SECONDS:.0f} s; {_SAFE}. End that process and go on",
    sqlite3.SQLITE_CORRUPT: f"it is damaged. {PUT_BACK}",
    sqlite3.SQLITE_NOTADB: f"it is damaged. {PUT_BACK}",
    sqlite3.SQLITE_TOOBIG: f"it holds more in one place than vtune writes. {PUT_BACK}",
    sqlite3.SQLITE_CONSTRAINT: f"the records contradict what is there; {_SAFE}",
}


def nothing(operation: str) -> None:
    """Does nothing before an operation on the disk.

    Args:
        operation: what is about to be done.
    """
    del operation


@contextlib.contextmanager
def explained(path: Path, doing: str) -> Iterator[None]:
    """Turns every error into a StorageError that names the file and what failed.

    Args:
        path: the file or folder.
        doing: what is being done, such as `opened`.

    Raises:
        StorageError: in place of any such error.
    """
    try:
        yield
    except sqlite3.Error as error:
        code = getattr(error, "sqlite_errorcode", sqlite3.SQLITE_ERROR) & 0xFF
        if str(error).startswith("Could not decode"):
            code = sqlite3.SQLITE_CORRUPT
        reason = _REASONS.get(code, f"SQLite refuses it. {PUT_BACK}")
        raise StorageError(
            f"{path} cannot be {doing}: {reason} (SQLite: {error})."
        ) from error
    except StorageError as error:
        raise StorageError(f"{path} cannot be {doing}: {error}") from error.__cause__
    except UnicodeDecodeError as error:
        reason = f"{_REASONS[sqlite3.SQLITE_CORRUPT]} ({error})"
        raise StorageError(f"{path} cannot be {doing}: {reason}.") from error
    except (OSError, UnicodeError, OverflowError) as error:
        full = getattr(error, "errno", None) in (errno.ENOSPC, errno.EDQUOT)
        reason = f"{_REASONS[sqlite3.SQLITE_FULL]} ({error})" if full else str(error)
        raise StorageError(f"{path} cannot be {doing}: {reason}.") from error


def check_file(path: Path) -> None:
    """Refuses what is no study's database, without opening it as a database.

    Args:
        path: the file.

    Raises:
        StorageError: if it is missing, no file, empty, no database, or another's.
    """
    try:
        if not stat.S_ISREG(path.stat().st_mode):
            raise _refused(path, "is no file")
        with path.open("rb") as file:
            header = file.read(_HEADER_BYTES)
    except FileNotFoundError:
        raise _refused(path, "does not exist") from None
    except (OSError, ValueError) as error:
        raise _refused(path, f"cannot be read: {error}") from None
    if not header:
        raise _refused(path, "is empty")
    if not header.startswith(_MAGIC[: len(header)]):
        raise _refused(path, "is no SQLite database")
    if len(header) < _HEADER_BYTES:
        raise _refused(path, "is cut off in its first bytes")
    if int.from_bytes(header[_APPLICATION_ID_BYTES]) != APPLICATION_ID:
        raise _refused(path, "is the SQLite database of another application")


def _refused(path: Path, what: str) -> StorageError:
    return StorageError(
        f"{path} {what}. It should be the database of a vtune study; look for the "
        "study's directory, or start a study in a new one."
    )


def connect(path: Path, query: str) -> sqlite3.Connection:
    """Opens a database's file, trusting nothing in it.

    Args:
        path: the file.
        query: SQLite's parameters, such as `mode=ro`.

    Returns:
        The connection; it begins and ends no transaction by itself.
    """
    connection = sqlite3.connect(
        f"{path.absolute().as_uri()}?{query}",
        uri=True,
        timeout=BUSY_SECONDS,
        isolation_level=None,
    )
    connection.setlimit(sqlite3.SQLITE_LIMIT_LENGTH, _TEXTS_OF_A_ROW * LONGEST_TEXT)
    for setting in ("trusted_schema = OFF", "cell_size_check = ON"):
        connection.execute(f"PRAGMA {setting}")
    connection.execute("PRAGMA foreign_keys = ON")
    return connection


def connect_to_write(path: Path) -> sqlite3.Connection:
    """Opens a database for the one who writes it.

    Args:
        path: the file.

    Returns:
        The connection, in WAL mode, so that readers do not hold it up.

    Raises:
        StorageError: if the file is damaged, or its file system knows no WAL mode.
    """
    connection = connect(path, "mode=rw")
    try:
        found = connection.execute("PRAGMA quick_check(1)").fetchone()[0]
        if found != "ok":
            found = found.replace("\n", " ")
            raise StorageError(f"it is damaged. {PUT_BACK} (SQLite: {found}).")
        mode = connection.execute("PRAGMA journal_mode = WAL").fetchone()[0]
        if mode != "wal":
            raise StorageError(
                "its file system lacks the locks that a database needs. Choose a "
                "`directory` on a local disk."
            )
        connection.execute("PRAGMA synchronous = NORMAL")
        return connection
    except BaseException:
        connection.close()
        raise


def connect_to_read(path: Path) -> sqlite3.Connection:
    """Opens a database for one who only reads, while another may write.

    Args:
        path: the file.

    Returns:
        The connection.
    """
    try:
        return _readable(path, "mode=ro")
    except sqlite3.OperationalError:
        # Readers need files beside the database, which a read-only folder does not
        # take. Without a -wal file nobody writes, and the database is whole without it.
        if path.with_name(f"{path.name}-wal").exists():
            raise
        return _readable(path, "mode=ro&immutable=1")


def _readable(path: Path, query: str) -> sqlite3.Connection:
    connection = connect(path, query)
    try:
        connection.execute("SELECT count(*) FROM sqlite_master").fetchone()
        return connection
    except BaseException:
        connection.close()
        raise


def put_in_place(beside: Path, path: Path, before: Before) -> None:
    """Gives a whole file its name, durably and in one step.

    Args:
        beside: the file, in the same folder.
        path: its name from now on; a file of this name is replaced.
        before: is told each operation on the disk before it.
    """
    before("flush")
    flush_file(beside)
    before("replace")
    os.replace(beside, path)
    flush_folder(path.parent)
