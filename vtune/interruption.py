"""Ctrl-C and SIGTERM as a request to stop at the next good moment."""

import signal
import threading
from types import FrameType
from typing import Any


_USUAL = {
    signal.SIGINT: signal.default_int_handler,
    signal.SIGTERM: signal.SIG_DFL,
}


class Interruption:
    """Turns the first Ctrl-C or SIGTERM into `requested`; a second interrupts at once.

    A `KeyboardInterrupt` that reaches the end of the `with` block counts as a request
    and goes no further. Outside the main thread signals cannot be caught; there only
    the exception counts.
    """

    def __init__(self):
        self.requested = False
        self.terminated = False
        self._previous: dict[int, Any] = {}

    def __enter__(self) -> "Interruption":
        if threading.current_thread() is threading.main_thread():
            for number, usual in _USUAL.items():
                # Whoever set a handler of their own keeps it.
                if signal.getsignal(number) is usual:
                    self._previous[number] = signal.signal(number, self._request)
        return self

    def __exit__(self, kind: type | None, error: Any, traceback: Any) -> bool:
        for number, handler in self._previous.items():
            signal.signal(number, handler)
        if kind is not None and issubclass(kind, KeyboardInterrupt):
            self.requested = True
            return True
        return False

    def _request(self, number: int, frame: FrameType | None) -> None:
        del frame
        again = self.requested
        self.requested = True
        self.terminated |= number == signal.SIGTERM
        if again:
            raise KeyboardInterrupt
