"""Ctrl-C as a request to stop at the next good moment."""

import signal
import threading
from types import FrameType
from typing import Any


class Interruption:
    """Turns the first Ctrl-C into `requested`; a second one interrupts at once.

    A `KeyboardInterrupt` that reaches the end of the `with` block counts as a request
    and goes no further. Outside the main thread signals cannot be caught; there only
    the exception counts.
    """

    def __init__(self):
        self.requested = False
        self._previous: Any = None

    def __enter__(self) -> "Interruption":
        if threading.current_thread() is threading.main_thread():
            self._previous = signal.getsignal(signal.SIGINT)
            # Whoever set a handler of their own keeps it.
            if self._previous is signal.default_int_handler:
                signal.signal(signal.SIGINT, self._request)
        return self

    def __exit__(self, kind: type | None, error: Any, traceback: Any) -> bool:
        if self._previous is signal.default_int_handler:
            signal.signal(signal.SIGINT, self._previous)
        if kind is not None and issubclass(kind, KeyboardInterrupt):
            self.requested = True
            return True
        return False

    def _request(self, number: int, frame: FrameType | None) -> None:
        del number, frame
        if self.requested:
            raise KeyboardInterrupt
        self.requested = True
