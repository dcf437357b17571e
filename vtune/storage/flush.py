"""How does what was written outlast a loss of power?"""

import contextlib
import os
from pathlib import Path


def flush_file(path: Path) -> None:
    """Has the disk keep a file's bytes.

    Args:
        path: the file.

    Raises:
        OSError: if they cannot be written.
    """
    # Windows flushes only what may be written.
    with path.open("rb+") as file:
        os.fsync(file.fileno())


def flush_folder(path: Path) -> None:
    """Has the disk keep a folder's names, where the system can.

    Args:
        path: the folder.
    """
    # Windows opens no folder, and some drives, mounted ones among them, flush none.
    with contextlib.suppress(OSError):
        descriptor = os.open(path, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
