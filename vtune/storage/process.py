"""Does a process of this computer still run?"""

import os
from collections.abc import Callable
from pathlib import Path


IsAlive = Callable[[int, int | None], bool | None]


def is_alive(pid: int, started: int | None) -> bool | None:
    """Whether a process of this computer still runs.

    Args:
        pid: the process.
        started: when it started, in the computer's ticks; None if unknown.

    Returns:
        None where this cannot be told: by now the pid may be another process's.
    """
    if os.name != "posix":
        return None  # On Windows, signal 0 is Ctrl-C.
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        pass  # It runs, for another user.
    status, found = _process(pid)
    if status in ("Z", "X"):
        return False
    return None if started is None or found is None else found == started


def started_at(pid: int) -> int | None:
    """When a process started, in the computer's ticks.

    Args:
        pid: the process.

    Returns:
        None where the system does not tell.
    """
    return _process(pid)[1]


def _process(pid: int) -> tuple[str, int | None]:
    try:
        text = Path(f"/proc/{pid}/stat").read_text(errors="replace")
    except OSError:
        return "", None
    # The name comes in parentheses before all else, and may hold spaces and more.
    fields = text.rpartition(")")[2].split()
    return fields[0], int(fields[19])
