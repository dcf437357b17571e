"""Which folder a study is stored in, and what may be written and removed there."""

import contextlib
import dataclasses
import json
import os
import re
import secrets
import shutil
import unicodedata
from collections.abc import Iterator
from pathlib import Path, PureWindowsPath
from typing import Literal

from vtune.storage.failure import StorageError
from vtune.storage.flush import flush_folder
from vtune.storage.json_file import read_object


FolderState = Literal["absent", "empty", "study", "foreign"]

_FORMAT = 1
_LONGEST_NAME = 200

_DEVICE = re.compile(r"(con|prn|aux|nul|conin\$|conout\$|(com|lpt)[0-9¹²³]) *(\..*)?")
_DATABASE_FILE = re.compile(r"study\.sqlite(-new)?(-wal|-shm|-journal)?")
_PROBE_FOLDER = re.compile(r"vtune-probe-[a-z0-9_]{8}")
_CHECKPOINT_FOLDER = re.compile(r"(step|model)-[A-Za-z0-9-]+(\.[A-Za-z0-9.-]+)?")
_PART = re.compile(r"vtune-study\.json\.[0-9a-f]+\.part")
# What is left where a process was killed before there was a study.
_REMAINS = re.compile(r"vtune-study\.(json\.[0-9a-f]+\.part|lease(\.[0-9a-z]+)*)")


@dataclasses.dataclass(frozen=True)
class StudyFolder:
    """Where the parts of a study lie below its absolute `path`."""

    path: Path

    @property
    def database(self) -> Path:
        """The database's file."""
        return self.path / "study.sqlite"

    @property
    def checkpoints(self) -> Path:
        """The folder of all checkpoints."""
        return self.path / "checkpoints"

    @property
    def lease(self) -> Path:
        """The file that says which process writes the study."""
        return self.path / "vtune-study.lease"

    @property
    def marker(self) -> Path:
        """The file by which a study is recognised."""
        return self.path / "vtune-study.json"


def locate(
    directory: str | os.PathLike[str] | None, project_name: str | None
) -> StudyFolder:
    """The folder of a study; nothing is created.

    Args:
        directory: the folder of all projects; the current one when omitted.
        project_name: the study's own folder there; `untitled_project` when omitted.

    Raises:
        ValueError: if one of the two cannot name a folder.
        StorageError: if a link leads out of the directory.
    """
    name = "untitled_project" if project_name is None else project_name
    if fault := _fault(name):
        raise ValueError(
            f"`project_name={name!r:.50}` {fault}. "
            "It names one folder; 'mnist' and 'mnist, wider' are good names."
        )
    folder = StudyFolder(_absolute("." if directory is None else directory) / name)
    _refuse_link_out(folder)
    return folder


def state(folder: StudyFolder) -> FolderState:
    """What is there now.

    Args:
        folder: a study's folder.

    Returns:
        `empty` also where a process was killed before there was a study.

    Raises:
        StorageError: if it cannot be read, or its marker is damaged or too new.
    """
    _refuse_link_out(folder)
    with explained(folder.path, "read"):
        try:
            names = os.listdir(folder.path)
        except FileNotFoundError:
            return "absent"
        if folder.marker.name in names:
            _check_marker(folder.marker)
            return "study"
    return "empty" if all(map(_REMAINS.fullmatch, names)) else "foreign"


def create(folder: StudyFolder) -> None:
    """Makes a study's folder and marks it; one that is marked stays as it is.

    Args:
        folder: where.

    Raises:
        StorageError: if it cannot be made, or holds files that are not a study's.
    """
    if _not_foreign(folder) == "study":
        return
    with explained(folder.path, "created"):
        folder.path.mkdir(parents=True, exist_ok=True)
        _write_whole(folder.marker, json.dumps({"format": _FORMAT}).encode())
        flush_folder(folder.path)
        flush_folder(folder.path.parent)


def tidy(folder: StudyFolder) -> None:
    """Removes what was not finished when a process was killed.

    Args:
        folder: a study's folder, which the caller may write and others may not.
    """
    # What cannot be removed harms nobody.
    with contextlib.suppress(OSError):
        _erase_entries(folder.path, _PART)


def erase(folder: StudyFolder) -> None:
    """Removes what vtune wrote for a study, and nothing else.

    Links are removed, never followed. Beside other files the marker stays, so that the
    folder can be used again. The lease goes last: whoever erases is to hold it.

    Args:
        folder: the study's folder.

    Raises:
        StorageError: if it is not a study's folder, or something cannot be removed.
    """
    if _not_foreign(folder) == "absent":
        return
    with explained(folder.path, "erased"):
        if folder.checkpoints.is_symlink():
            folder.checkpoints.unlink()
        elif folder.checkpoints.is_dir():
            _erase_entries(folder.checkpoints, _CHECKPOINT_FOLDER)
            if not os.listdir(folder.checkpoints):
                folder.checkpoints.rmdir()
        _erase_entries(folder.path, _DATABASE_FILE)
        _erase_entries(folder.path, _PROBE_FOLDER)
        others = set(os.listdir(folder.path)) - {folder.marker.name}
        if all(map(_REMAINS.fullmatch, others)):
            folder.marker.unlink(missing_ok=True)
        _erase_entries(folder.path, _REMAINS)


def leads_out(folder: Path, path: Path) -> bool:
    """Whether a path leads out of a folder once links are resolved.

    Args:
        folder: the folder that is not to be left.
        path: absolute, or relative to the folder.
    """
    inside = Path(os.path.realpath(folder))
    return not Path(os.path.realpath(folder / path)).is_relative_to(inside)


@contextlib.contextmanager
def explained(path: Path, done: str) -> Iterator[None]:
    """Turns the errors of the system in a `with` block into ones that say what to do.

    Args:
        path: what the block is about.
        done: what it does to it, such as `read`.

    Raises:
        StorageError: where the block raises an OSError.
    """
    try:
        yield
    except OSError as error:
        raise StorageError(
            f"{str(path)!r:.300} cannot be {done}: {error.strerror or error}. Free the "
            "disk, change the permissions, or choose another `directory`."
        ) from error


def _not_foreign(folder: StudyFolder) -> FolderState:
    found = state(folder)
    if found == "foreign":
        raise StorageError(
            f"The folder {str(folder.path)!r} holds files, but no study of vtune. It "
            "is left as it is. Choose another `project_name`."
        )
    return found


def _fault(name: object) -> str | None:
    if not isinstance(name, str) or not name.strip():
        return "is empty, or no text"
    if any(unicodedata.category(character) in ("Cc", "Cs") for character in name):
        return "holds a control character, or half of a character"
    if len(name.encode()) > _LONGEST_NAME:
        return f"has {len(name.encode())} bytes, more than {_LONGEST_NAME}"
    if "/" in name or "\\" in name or PureWindowsPath(name).drive:
        return "is a path with a separator or a drive; say it with `directory=`"
    if name.endswith((".", " ")):
        return "ends with a dot or a space, which Windows leaves out"
    if _DEVICE.fullmatch(name.lower()):
        return "is the name of a device on Windows"
    return None


def _absolute(directory: str | os.PathLike[str]) -> Path:
    try:
        if b"\0" in os.fsencode(directory):
            raise ValueError("it holds a NUL")
        return Path(directory).expanduser().absolute()
    except (TypeError, ValueError, RuntimeError) as error:
        raise ValueError(
            f"`directory={directory!r}` cannot name a folder: {error}. "
            "Give a path, such as 'studies' or '~/studies'."
        ) from error


def _refuse_link_out(folder: StudyFolder) -> None:
    if leads_out(folder.path.parent, folder.path):
        raise StorageError(
            f"{str(folder.path)!r} is a link that leads out of its directory, to "
            f"{os.path.realpath(folder.path)!r}. Give the place itself as `directory`."
        )


def _check_marker(path: Path) -> None:
    try:
        content = read_object(path)
        version = content.get("format")
        if type(version) is not int or (version <= _FORMAT and len(content) > 1):
            raise ValueError(f"it says {content!r:.80}")
    except ValueError as error:
        raise StorageError(f"{str(path)!r} marks no study: {error}.") from error
    if version != _FORMAT:
        raise StorageError(
            f"{str(path.parent)!r} holds a study in format {version}, and this vtune "
            f"knows {_FORMAT} only. Open it with the vtune that wrote it."
        )


def _write_whole(path: Path, content: bytes) -> None:
    part = path.with_name(f"{path.name}.{secrets.token_hex(8)}.part")
    try:
        with open(part, "xb", buffering=0) as file:
            file.write(content)
            os.fsync(file.fileno())
        os.replace(part, path)
    except FileNotFoundError:
        # Who made the study meanwhile may have tidied up.
        if not path.exists():
            raise
    finally:
        part.unlink(missing_ok=True)


def _erase_entries(path: Path, pattern: re.Pattern[str]) -> None:
    of_folders = pattern in (_PROBE_FOLDER, _CHECKPOINT_FOLDER)
    for entry in path.iterdir():
        if pattern.fullmatch(entry.name):
            if entry.is_symlink() or not (of_folders or entry.is_dir()):
                entry.unlink()
            elif of_folders and entry.is_dir():
                shutil.rmtree(entry)
