"""What does a small file hold that anyone may have written?"""

import json
import os
import stat
from pathlib import Path
from typing import Any


_LONGEST_FILE = 4096


def read_object(path: Path) -> dict[str, Any]:
    """The JSON object in a small file that anyone may have written.

    Args:
        path: the file.

    Raises:
        OSError: if there is no file, or it cannot be read.
        ValueError: if it is not a small plain file that holds an object.
    """
    # A link could lead anywhere, and a pipe would never answer.
    status = os.lstat(path)
    if not stat.S_ISREG(status.st_mode) or status.st_size > _LONGEST_FILE:
        raise ValueError("it is not a small plain file")
    try:
        found = json.loads(path.read_bytes())
    except RecursionError as error:
        raise ValueError("it is nested too deeply") from error
    if not isinstance(found, dict):
        raise ValueError("it holds no JSON object")
    return found
