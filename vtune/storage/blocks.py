"""How does Orbax write blocks of bytes to a folder, and read them again?"""

import contextlib
import functools
import gc
import json
import logging
import zlib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import jax
import numpy as np


if TYPE_CHECKING:
    import orbax.checkpoint as ocp

# Orbax tells of its errors there, and asyncio of those that Orbax left.
_LOGGERS = ("absl", "asyncio")


def write_blocks(folder: Path, blocks: Sequence[np.ndarray]) -> None:
    """Writes blocks into a new folder; each is known by its place in the order.

    Args:
        folder: where; it does not exist yet.
        blocks: arrays of bytes, at least one.

    Raises:
        Exception: of any kind, if the disk fails.
    """
    folder.mkdir()
    with _without_orbax():
        try:
            return _save(folder, blocks)
        except Exception as error:
            failure = error.with_traceback(None)
            failure.__cause__ = failure.__context__ = None
        # A task that nobody waited for tells of its error when it is freed.
        gc.collect()
    raise failure


def read_blocks(
    folder: Path, wanted: Mapping[int, tuple[int, int]]
) -> dict[int, np.ndarray]:
    """Reads blocks, and checks that each is as it was written.

    Args:
        folder: where `write_blocks` wrote them.
        wanted: the size and the CRC-32 of each block that is read, by its number.

    Returns:
        The blocks, by number.

    Raises:
        Exception: of any kind, if something is damaged or missing.
    """
    if not wanted:
        return {}
    import orbax.checkpoint as ocp

    keys, as_numpy = list(map(str, wanted)), ocp.RestoreArgs(restore_type=np.ndarray)
    restored = ocp.args.PyTreeRestore(
        dict.fromkeys(keys, 0), dict.fromkeys(keys, as_numpy), partial_restore=True
    )
    path: Any = folder  # Orbax asks for a type of its own, and takes this
    for number, (size, _) in wanted.items():
        _check_files(path / str(number), size)
    with contextlib.closing(_orbax()) as orbax:
        arrays = orbax.restore(path, args=restored)
    for number, (_, checksum) in wanted.items():
        if zlib.crc32(arrays[str(number)].data) != checksum:
            raise ValueError(f"block {number} is not as it was written")
    return {number: arrays[str(number)] for number in wanted}


def _check_files(block: Path, size: int) -> None:
    expected = {"shape": [size], "chunks": [size], "dtype": "|u1", "compressor": None}
    found = json.loads((block / ".zarray").read_bytes())
    if not expected.items() <= found.items() or (block / "0").stat().st_size != size:
        raise ValueError(f"{block} does not hold {size} plain bytes")


def _save(folder: Path, blocks: Sequence[np.ndarray]) -> None:
    import orbax.checkpoint as ocp  # takes a third of a second

    path: Any = folder  # Orbax asks for a type of its own, and takes this
    tree = {str(number): block for number, block in enumerate(blocks)}
    with contextlib.closing(_orbax()) as orbax:
        orbax.save(path, args=ocp.args.PyTreeSave(tree))


@contextlib.contextmanager
def _without_orbax() -> Iterator[None]:
    """Keeps from the log what Orbax tells of errors that are raised as well."""
    others = functools.partial(_is_of_others)  # one for each thread that saves
    loggers = [logging.getLogger(name) for name in _LOGGERS]
    for logger in loggers:
        logger.addFilter(others)
    try:
        yield
    finally:
        for logger in loggers:
            logger.removeFilter(others)


def _is_of_others(record: logging.LogRecord) -> bool:
    is_error = record.levelno >= logging.ERROR
    return not (is_error and "orbax" in record.pathname + record.getMessage())


def _orbax() -> "ocp.PyTreeCheckpointHandler":
    import orbax.checkpoint as ocp

    # One plain file for each block is written as fast as the disk can; the database
    # that Orbax prefers is made for thousands of arrays, and several times slower.
    return ocp.PyTreeCheckpointHandler(
        use_ocdbt=False,
        use_compression=False,
        type_handler_registry=ocp.type_handlers.create_type_handler_registry(
            (np.ndarray, ocp.type_handlers.NumpyHandler(deepcopy_host_arrays=False)),
            (jax.Array, ocp.type_handlers.ArrayHandler()),  # Orbax warns without it
        ),
    )
