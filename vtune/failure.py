"""What went wrong in a user's code, told so that the user finds the line."""

import sysconfig
import traceback
from pathlib import Path


_PACKAGE = Path(__file__).parent
_LIBRARIES = tuple(
    Path(sysconfig.get_path(name)) for name in ("stdlib", "purelib", "platlib")
)


class SearchError(RuntimeError):
    """A search cannot go on.

    What it found so far stays readable on the tuner. The exception that stopped it is
    its `__cause__`.
    """


def describe(error: BaseException) -> str:
    """An exception as the reason of a trial's failure.

    Args:
        error: the exception that the user's code raised, or caused to be raised.

    Returns:
        Its type and message, and the deepest line of the user's own code on its way.
    """
    text = str(error).strip()
    if "RESOURCE_EXHAUSTED" in text or "Out of memory" in text:
        return f"too large for the device: {text.splitlines()[0]}"
    text = f"{type(error).__name__}: {text}"
    line = user_line(error)
    return f"{text} ({line})" if line else text


def user_line(error: BaseException) -> str | None:
    """The deepest line of the user's own code in a traceback, or None.

    Args:
        error: an exception that was raised.

    Returns:
        Text such as `train.py:12 in build: depth = hp.Int("layers", 3, 0)`.
    """
    frames = traceback.extract_tb(error.__traceback__)
    own = [frame for frame in frames if _is_users(frame.filename)]
    if not own:
        return None
    frame = own[-1]
    source = f": {frame.line}" if frame.line else ""
    return f"{Path(frame.filename).name}:{frame.lineno} in {frame.name}{source}"


def _is_users(filename: str) -> bool:
    path = Path(filename)
    if path.is_relative_to(_PACKAGE) or "site-packages" in path.parts:
        return False
    return not any(path.is_relative_to(library) for library in _LIBRARIES)
