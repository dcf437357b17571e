"""A thread in which the device is kept busy, beside the user's own."""

import concurrent.futures
import threading
from collections.abc import Callable
from typing import TypeVar

from vtune.training.surroundings import Surroundings


Result = TypeVar("Result")

# Seconds: work that is done sooner is waited for, and how often one looks around.
_SHORT = 0.005
_PAUSE = 0.05


class Worker:
    """Does one thing at a time in a thread of its own, as JAX is set here.

    What the user wrote is never called there: what belongs to a thread, such as Flax's
    contexts, is the user's in the user's own.

    `is_abandoned` says that what is being done is not wanted any more, since something
    failed beside it.
    """

    def __init__(self):
        self.is_abandoned = False
        self._news = threading.Event()
        self._surroundings = Surroundings.here()
        self._pool = concurrent.futures.ThreadPoolExecutor(1, "vtune")

    def do(self, work: Callable[[], Result], meanwhile: Callable[[], bool]) -> Result:
        """Does something there, and something else here until it is done.

        Args:
            work: what is done in the thread.
            meanwhile: is called here again and again; False says that there is nothing
                to do at present.

        Returns:
            What `work` returns.

        Raises:
            BaseException: whatever `work` raises; and whatever `meanwhile` raises, once
                the work is done.
        """
        self.is_abandoned = False
        future = self._pool.submit(self._surrounded, work)
        future.add_done_callback(lambda done: self._news.set())
        pause = _SHORT
        try:
            while True:
                self._news.wait(pause)
                self._news.clear()
                if future.done():
                    break
                pause = 0.0 if meanwhile() else _PAUSE
        except BaseException:
            self.is_abandoned = True
            raise
        finally:
            concurrent.futures.wait([future])
        return future.result()

    def wake(self) -> None:
        """Has `meanwhile` called soon: there is news for it."""
        self._news.set()

    def close(self) -> None:
        """Ends the thread."""
        self._pool.shutdown()

    def _surrounded(self, work: Callable[[], Result]) -> Result:
        with self._surroundings.applied():
            return work()
