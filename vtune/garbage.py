"""How often Python looks for garbage while searches run."""

import contextlib
import gc
import threading
from collections.abc import Iterator


# Objects made since the last look. Python's own threshold is 700 or 2,000, and a trace
# is thousands of objects that stay: going through all of them again and again took 4 %
# of a search of a hundred small networks, in which no other Python code went on.
_SELDOM = 20_000


class Threshold:
    """Python's threshold, raised for as long as somebody wants it raised.

    It is the whole process's: the last one that ends puts it back.
    """

    def __init__(self):
        self._lock = threading.Lock()
        self._wanted = 0
        self._before = gc.get_threshold()

    @contextlib.contextmanager
    def raised(self) -> Iterator[None]:
        """Has Python look for garbage more seldom, if it looks at all."""
        with self._lock:
            self._wanted += 1
            if self._wanted == 1:
                self._before = gc.get_threshold()
                if 0 < self._before[0] < _SELDOM:
                    gc.set_threshold(_SELDOM, *self._before[1:])
        try:
            yield
        finally:
            with self._lock:
                self._wanted -= 1
                if not self._wanted:
                    gc.set_threshold(*self._before)


THRESHOLD = Threshold()
