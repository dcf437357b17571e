"""How Python's interpreter is set while searches run."""

import contextlib
import gc
import sys
import threading
from collections.abc import Iterator


# Objects made since the last look for garbage. Python's own threshold is 700 or 2,000,
# and a trace is thousands of objects that stay: going through all of them again and
# again took 4 % of a search of a hundred small networks, in which no other Python code
# went on.
_SELDOM = 20_000

# Seconds for which a thread may keep the others from running Python. By Python's own,
# the thread that keeps the device busy waits for so long after each copy of an array
# while the next trials are traced: a fifth of the time in which a search of 600 small
# networks neither compiled nor trained.
_PYTHONS_OWN = 0.005
_SOON = 0.0005


class Interpreter:
    """The settings of Python's interpreter, changed while somebody wants them changed.

    They are the whole process's: the last one that ends puts them back.
    """

    def __init__(self):
        self._lock = threading.Lock()
        self._wanted = 0
        self._before = gc.get_threshold(), sys.getswitchinterval()

    @contextlib.contextmanager
    def searching(self) -> Iterator[None]:
        """Has Python look for garbage more seldom, and threads take turns more often.

        What somebody has set to be never or seldom, or set at all, stays as it is.
        """
        with self._lock:
            self._wanted += 1
            if self._wanted == 1:
                self._change()
        try:
            yield
        finally:
            with self._lock:
                self._wanted -= 1
                if not self._wanted:
                    threshold, interval = self._before
                    gc.set_threshold(*threshold)
                    # Python cuts it to microseconds: what was left alone stays so.
                    if sys.getswitchinterval() != interval:
                        sys.setswitchinterval(interval)

    def _change(self) -> None:
        threshold, interval = self._before = gc.get_threshold(), sys.getswitchinterval()
        if 0 < threshold[0] < _SELDOM:
            gc.set_threshold(_SELDOM, *threshold[1:])
        if interval == _PYTHONS_OWN:
            sys.setswitchinterval(_SOON)


INTERPRETER = Interpreter()
