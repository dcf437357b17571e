"""Outputs of a notebook's cell."""

from typing import Any


# The last summary that was printed, and the cell that printed it.
_printed: tuple[object, int] | None = None


def publish(html: str, plain: str, handle: Any = None) -> Any:
    """Shows an output below the running cell, or puts it in an earlier one's place.

    Args:
        html: what a notebook shows.
        plain: what is shown where HTML can't be.
        handle: what an earlier call returned, to replace its output.

    Returns:
        A handle to replace this output.
    """
    from IPython.display import display

    bundle = {"text/html": html, "text/plain": plain}
    if handle is None:
        return display(bundle, raw=True, display_id=True)
    handle.update(bundle, raw=True)
    return handle


def remember_printed(value: object) -> None:
    """Remembers that the running cell shows a value already."""
    global _printed
    _printed = (value, _running_cell())


def was_printed(value: object) -> bool:
    """Whether the running cell shows a value already.

    A cell shows the value of its last line by itself: what was printed and then
    returned would appear twice.
    """
    return (
        _printed is not None and _printed[0] is value and _printed[1] == _running_cell()
    )


def _running_cell() -> int:
    from IPython.core.getipython import get_ipython

    shell = get_ipython()
    return 0 if shell is None else shell.execution_count
