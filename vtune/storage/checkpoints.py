"""How are the states of trials kept in a folder, and got back bit for bit?

Orbax writes few arrays much faster than many: the leaves of all states are laid out in
a few blocks of bytes. An index tells where each leaf is, with a checksum of each block.
"""

import dataclasses
import functools
import math
import re
import zlib
from collections.abc import Callable, Collection, Mapping
from concurrent.futures import Future, ThreadPoolExecutor, wait
from pathlib import Path

import jax.numpy as jnp
import numpy as np

from vtune.storage import retention
from vtune.storage.blocks import read_blocks, write_blocks
from vtune.storage.failure import StorageError
from vtune.storage.retention import Index, Leaf, explained, half_written


MOST_BYTES = 2**38  # more than any one accelerator holds

_ARRAYS = "arrays"
_ALONE = 2**20  # from this size on a leaf is a block of its own, and is not copied
_NUMBER = re.compile(r"bool|(u?int|bfloat|float|complex)\d\w*", re.ASCII)


@dataclasses.dataclass(frozen=True)
class Written:
    """A checkpoint that has become complete.

    Args:
        name: its name.
        bytes: the sizes of its files, summed up.
    """

    name: str
    bytes: int


class Checkpoints:
    """The checkpoints in a folder; one at a time is written, in the background.

    Args:
        folder: holds the checkpoints; it is made when the first one is written.
        before: is called with the name of each operation on the disk, right before it:
            "checkpoint start", "checkpoint finish", "rename" or "delete".
    """

    def __init__(
        self, folder: Path, before: Callable[[str], None] = lambda operation: None
    ):
        self._folder = folder.absolute()
        self._before = before
        self._writing: tuple[str, Future[Index]] | None = None

    @property
    def busy(self) -> bool:
        """Whether a checkpoint is still being written, so that `finish` would wait."""
        return self._writing is not None and not self._writing[1].done()

    def start(self, name: str, states: Mapping[int, tuple[np.ndarray, ...]]) -> None:
        """Begins to write a checkpoint, and returns at once.

        Args:
            name: the checkpoint's name: ASCII letters, digits and `-`.
            states: the leaves of each trial's state, by the trial's number. They must
                not change before `finish` returns.

        Raises:
            StorageError: if the name is taken or cannot be one, if the checkpoint
                before is not finished, or if the folder cannot be written.
        """
        retention.check_name(name)
        if self._writing is not None:
            raise StorageError(
                f"Call `finish()` before `start`: {self._writing[0]!r} is not finished."
            )
        path = self._folder / name
        with explained(f"Writing the checkpoint {path}"):
            if path.exists():
                raise StorageError(f"{path} is there already. Delete it first.")
            retention.remove_half_written(path, self._before)
            self._before("checkpoint start")
            half_written(path).mkdir(parents=True)
        # Orbax has a background of its own, but copies all leaves before it gets there.
        worker = ThreadPoolExecutor(1)
        background = worker.submit(_write, half_written(path), dict(states))
        worker.shutdown(wait=False)
        self._writing = name, background

    def finish(self) -> Written | None:
        """Waits for the checkpoint that was started, and makes it complete.

        Returns:
            The checkpoint, or None if none was started.

        Raises:
            StorageError: if it cannot be written; those before it stay as they are.
        """
        if self._writing is None:
            return None
        name, background = self._writing
        wait([background])
        self._writing = None
        path = self._folder / name
        # Orbax raises all kinds of errors about a disk that is full.
        with explained(f"Writing the checkpoint {path}", Exception):
            retention.complete(path, background.result(), self._before)
            return Written(name, retention.measure(path))

    def load(
        self, name: str, trials: Collection[int] | None = None
    ) -> dict[int, tuple[np.ndarray, ...]]:
        """Reads a checkpoint into the host's memory.

        Args:
            name: a complete checkpoint.
            trials: the trials to read; all that it holds when omitted.

        Returns:
            The leaves of each trial's state, by the trial's number.

        Raises:
            StorageError: if it or a trial in it is missing, or if anything is damaged.
        """
        path = self._find(name)
        # Whatever parses a damaged file may raise any error at all.
        with explained(f"Reading the checkpoint {path}", Exception):
            index = retention.read_index(path, MOST_BYTES)
            wanted = index.trials.keys() if trials is None else set(trials)
            if missing := sorted(wanted - index.trials.keys()):
                raise StorageError(f"{path} holds no state of the trials {missing}.")
            states = {number: index.trials[number] for number in sorted(wanted)}
            numbers = {x.block for s in states.values() for x in s if _size(x)}
            wanted_blocks = {number: index.blocks[number] for number in numbers}
            blocks = read_blocks(path / _ARRAYS, wanted_blocks)
            return {n: tuple(_array(x, blocks) for x in s) for n, s in states.items()}

    def names(self) -> tuple[str, ...]:
        """The names of the complete checkpoints, sorted."""
        with explained(f"Looking for checkpoints in {self._folder}"):
            return retention.names(self._folder)

    def delete(self, name: str) -> None:
        """Deletes a checkpoint; after a crash it is as before, or not there.

        Args:
            name: a checkpoint, also one that has lost its index.

        Raises:
            StorageError: if there is none, or if it cannot be deleted.
        """
        retention.check_name(name)
        is_there = (self._folder / name).is_dir()
        path = self._folder / name if is_there else self._find(name)
        with explained(f"Deleting the checkpoint {path}"):
            retention.remove(path, self._before)

    def clean(self, keep: Collection[str]) -> None:
        """Deletes all checkpoints but some, and what crashes left; nothing else.

        Args:
            keep: the names of those that stay; what is being written stays as well.

        Raises:
            StorageError: if one cannot be deleted.
        """
        stay = set(keep)
        if self._writing is not None:
            stay.add(half_written(self._folder / self._writing[0]).name)
        with explained(f"Deleting checkpoints in {self._folder}"):
            retention.clean(self._folder, stay, self._before)

    def _find(self, name: str) -> Path:
        retention.check_name(name)
        if name not in (names := self.names()):
            raise StorageError(
                f"{self._folder} has no complete checkpoint {name!r}, only {names}."
            )
        return self._folder / name


def _write(folder: Path, states: Mapping[int, tuple[np.ndarray, ...]]) -> Index:
    packing = _Packing([])
    trials = {n: tuple(map(packing.add, state)) for n, state in states.items()}
    blocks = [b[0] if len(b) == 1 else np.concatenate(b) for b in packing.blocks]
    if (total := sum(block.nbytes for block in blocks)) > MOST_BYTES:
        raise ValueError(f"its arrays have {total} bytes, {MOST_BYTES} are allowed")
    if blocks:  # Orbax refuses to write nothing
        write_blocks(folder / _ARRAYS, blocks)
    return Index(tuple((b.nbytes, zlib.crc32(b.data)) for b in blocks), trials)


@dataclasses.dataclass
class _Packing:
    blocks: list[list[np.ndarray]]
    shared: int = -1
    filled: int = _ALONE

    def add(self, array: np.ndarray) -> Leaf:
        """Puts an array into a block: a large one alone, a small one with others."""
        name = array.dtype.name
        if _dtype(name) != array.dtype:
            raise ValueError(f"{array.dtype!r} is no dtype of JAX's")
        if array.size == 0:
            return Leaf(name, array.shape, 0, 0)
        data = np.ascontiguousarray(array).reshape(-1).view(np.uint8)
        if data.nbytes >= _ALONE:
            self.blocks.append([data])
            return Leaf(name, array.shape, len(self.blocks) - 1, 0)
        if self.filled >= _ALONE:
            self.shared, self.filled = len(self.blocks), 0
            self.blocks.append([])
        offset = self.filled
        gap = np.zeros(-data.nbytes % 64, np.uint8)  # any dtype is aligned
        self.blocks[self.shared] += [data, gap]
        self.filled += data.nbytes + gap.nbytes
        return Leaf(name, array.shape, self.shared, offset)


def _array(leaf: Leaf, blocks: Mapping[int, np.ndarray]) -> np.ndarray:
    dtype, size = _dtype(leaf.dtype), _size(leaf)
    if size == 0:
        return np.empty(leaf.shape, dtype)
    data = blocks[leaf.block][leaf.offset : leaf.offset + size]
    return data.view(dtype).reshape(leaf.shape)


def _size(leaf: Leaf) -> int:
    return math.prod(leaf.shape) * _dtype(leaf.dtype).itemsize


@functools.cache
def _dtype(name: str) -> np.dtype:
    if not _NUMBER.fullmatch(name) or not hasattr(jnp, name):
        raise ValueError(f"{name!r} is no dtype of JAX's")
    return jnp.dtype(name)
