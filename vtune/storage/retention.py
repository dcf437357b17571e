"""What is kept in a folder of checkpoints: which ones, how complete, with which index?

A checkpoint is a folder with an index. Until it is complete, and again while it is
deleted, its name has an ending; a rename leads from one to the other, so a crash at any
moment leaves the one or the other.
"""

import contextlib
import dataclasses
import json
import os
import re
import shutil
import stat
import zlib
from collections.abc import Callable, Collection, Iterator, Mapping
from pathlib import Path
from typing import Any

from vtune.storage.failure import StorageError
from vtune.storage.flush import flush_file, flush_folder


MOST_INDEX_BYTES = 2**28

_INDEX = "index.jsonl"
_FORMAT = 1
_NAME = re.compile(r"[A-Za-z0-9-]{1,100}")
_ENDING = ".partial-checkpoint"
_ADVICE = (
    "If the disk is full or cannot be written, change that and start again: what was "
    "complete before still is. If the checkpoint is damaged, put back a copy or delete "
    "it."
)


@dataclasses.dataclass(frozen=True)
class Leaf:
    """Where the bytes of an array are; one without bytes has a place all the same.

    Args:
        dtype: the name of its dtype.
        shape: its shape.
        block: the number of the block that holds its bytes.
        offset: where in the block they begin.
    """

    dtype: str
    shape: tuple[int, ...]
    block: int
    offset: int


@dataclasses.dataclass(frozen=True)
class Index:
    """What a checkpoint holds.

    Args:
        blocks: the size and the CRC-32 of each block of bytes.
        trials: the leaves of each trial's state, by the trial's number.
    """

    blocks: tuple[tuple[int, int], ...]
    trials: Mapping[int, tuple[Leaf, ...]]


def check_name(name: str) -> None:
    """Refuses what cannot be a checkpoint's name.

    Args:
        name: the name.

    Raises:
        StorageError: if it is not ASCII letters, digits and `-`, or too long.
    """
    if not isinstance(name, str) or not _NAME.fullmatch(name):
        raise StorageError(
            "A checkpoint's name is 1 to 100 ASCII letters, digits and '-', "
            f"got {name!r}."
        )


def half_written(path: Path) -> Path:
    """Where a checkpoint is while it is not complete.

    Args:
        path: where it is when it is complete.

    Returns:
        A folder beside it.
    """
    return path.with_name(path.name + _ENDING)


def complete(path: Path, index: Index, before: Callable[[str], None]) -> None:
    """Makes a half-written checkpoint complete, also for the case of a loss of power.

    Args:
        path: its folder from now on.
        index: what it holds.
        before: is told the name of each operation on the disk.
    """
    folder = half_written(path)
    before("checkpoint finish")
    (folder / _INDEX).write_bytes(_encode(index))
    flush_file(folder / _INDEX)
    flush_folder(folder)
    before("rename")
    folder.rename(path)
    flush_folder(path.parent)


def names(folder: Path) -> tuple[str, ...]:
    """The names of the complete checkpoints in a folder, sorted.

    Args:
        folder: holds checkpoints, and perhaps other things; it need not exist.

    Returns:
        The names.
    """
    return tuple(
        name
        for name in _folders(folder)
        if _NAME.fullmatch(name) and (folder / name / _INDEX).exists()
    )


def remove(path: Path, before: Callable[[str], None]) -> None:
    """Deletes a complete checkpoint.

    Args:
        path: its folder.
        before: is told the name of each operation on the disk.
    """
    remove_half_written(path, before)
    before("rename")
    path.rename(half_written(path))
    remove_half_written(path, before)


def remove_half_written(path: Path, before: Callable[[str], None]) -> None:
    """Deletes what there is of a checkpoint that is not complete, if anything.

    Args:
        path: its folder if it were complete.
        before: is told the name of each operation on the disk.
    """
    if half_written(path).exists():
        before("delete")
        shutil.rmtree(half_written(path))


def clean(folder: Path, keep: Collection[str], before: Callable[[str], None]) -> None:
    """Deletes all checkpoints but some, complete or not, and nothing else.

    Args:
        folder: holds checkpoints, and perhaps other things; it need not exist.
        keep: the names of the folders that stay.
        before: is told the name of each operation on the disk.
    """
    complete_ones = names(folder)
    for entry in _folders(folder):
        name = entry.removesuffix(_ENDING)
        if entry in keep or not _NAME.fullmatch(name):
            continue
        if entry != name:
            remove_half_written(folder / name, before)
        elif name in complete_ones:
            remove(folder / name, before)


def measure(path: Path) -> int:
    """The bytes of all files in a checkpoint.

    Args:
        path: its folder.

    Returns:
        The sum of their sizes.

    Raises:
        ValueError: if it holds anything but files and folders: what a link leads to
            may lie outside of it, and reading from a pipe may take forever.
    """
    total = 0
    for place, folders, files in os.walk(path, onerror=_fail):
        for entry in (Path(place, name) for name in (*folders, *files)):
            found = entry.lstat()
            if stat.S_ISREG(found.st_mode):
                total += found.st_size
            elif not stat.S_ISDIR(found.st_mode):
                raise ValueError(f"{entry} is a link or a device, not a plain file")
    return total


def read_index(path: Path, most: int) -> Index:
    """The index of a checkpoint.

    Args:
        path: its folder.
        most: the bytes that its blocks may have.

    Returns:
        What it holds.

    Raises:
        ValueError: if a byte of the index is another than was written, if it is too
            large or of another format, or if the blocks are larger than the files.
    """
    held = measure(path)
    if (size := (path / _INDEX).stat().st_size) > MOST_INDEX_BYTES:
        raise ValueError(f"its index has {size} bytes, {MOST_INDEX_BYTES} are allowed")
    text = (path / _INDEX).read_bytes()
    line, _, _ = text.partition(b"\n")
    if text != _sealed(line):
        raise ValueError("its index is not as it was written")
    content = json.loads(line)
    if content["format"] != _FORMAT:
        raise ValueError(f"its format is {content['format']!r}, known is {_FORMAT}")
    if content.keys() != {"format", "blocks", "trials"}:
        raise ValueError(f"its index has the entries {sorted(content)}")
    blocks = tuple((_whole(size), _whole(check)) for size, check in content["blocks"])
    total = sum(size for size, _ in blocks)
    if total > min(held, most):
        raise ValueError(f"it tells of {total} bytes, has {held} and may have {most}")
    trials = {
        _whole(number): tuple(_leaf(*leaf) for leaf in leaves)
        for number, leaves in content["trials"]
    }
    if len(trials) != len(content["trials"]):
        raise ValueError("its index has a trial twice")
    return Index(blocks, trials)


@contextlib.contextmanager
def explained(attempt: str, errors: type[Exception] = OSError) -> Iterator[None]:
    """Turns an error into one that says what was tried and what to do.

    Args:
        attempt: such as "Deleting the checkpoint 'a'".
        errors: what is turned; a `StorageError` says it all and stays as it is.

    Raises:
        StorageError: for each of the errors within it.
    """
    try:
        yield
    except StorageError:
        raise
    except errors as error:
        reason = f"{type(error).__name__}: {error}"
        raise StorageError(f"{attempt} failed: {reason}. {_ADVICE}") from error


def _folders(folder: Path) -> list[str]:
    if not folder.exists():
        return []
    with os.scandir(folder) as entries:
        return sorted(e.name for e in entries if e.is_dir(follow_symlinks=False))


def _fail(error: OSError) -> None:
    raise error


def _encode(index: Index) -> bytes:
    content = {
        "format": _FORMAT,
        "blocks": index.blocks,
        "trials": [
            (_whole(number), [(x.dtype, x.shape, x.block, x.offset) for x in leaves])
            for number, leaves in index.trials.items()
        ],
    }
    return _sealed(json.dumps(content, separators=(",", ":")).encode())


def _sealed(line: bytes) -> bytes:
    return b"%b\n%d\n" % (line, zlib.crc32(line))


def _leaf(dtype: Any, shape: Any, block: Any, offset: Any) -> Leaf:
    if not isinstance(dtype, str) or not isinstance(shape, list):
        raise ValueError(f"its index has an array of {dtype!r} and {shape!r}")
    return Leaf(dtype, tuple(map(_whole, shape)), _whole(block), _whole(offset))


def _whole(value: Any) -> int:
    if type(value) is not int or value < 0:
        raise ValueError(f"its index has {value!r} in place of a whole number")
    return value
