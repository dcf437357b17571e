"""Programs that are compiled before they are needed."""

import collections
import contextlib
import threading
from collections.abc import Hashable, Sequence

from vtune.training.compile import Request, compiled
from vtune.training.fingerprint import cores
from vtune.training.surroundings import Surroundings


class Ahead:
    """Compiles programs before they are needed, on the cores that are to spare.

    `compile_all` waits for what is under way here, and takes over what has not begun.
    """

    def __init__(self):
        self._asked: set[Hashable] = set()
        self._waiting: collections.deque[tuple[Surroundings, Request]]
        self._waiting = collections.deque()
        self._threads = 0
        self._lock = threading.Lock()

    def begin(self, requests: Sequence[Request]) -> None:
        """Begins to compile programs, and returns at once.

        Args:
            requests: the programs, those first that are needed first. What was asked
                for before is left out; what fails is left to `compile_all`.
        """
        surroundings = Surroundings.here()
        with self._lock:
            for request in requests:
                if (request.key, surroundings) not in self._asked:
                    self._asked.add((request.key, surroundings))
                    self._waiting.append((surroundings, request))
            spare = max(1, cores() - 1) - self._threads
            started = min(len(self._waiting), spare)
            self._threads += started
        for _ in range(started):
            threading.Thread(target=self._work, name="vtune-ahead").start()

    def stop(self) -> None:
        """What has not begun never begins; what is under way is not waited for."""
        with self._lock:
            self._asked.clear()
            self._waiting.clear()

    def _work(self) -> None:
        while (first := self._next()) is not None:
            with contextlib.suppress(Exception):
                compiled(*first)

    def _next(self) -> tuple[Surroundings, Request] | None:
        with self._lock:
            # Python waits for its threads when it ends: then nothing more is begun.
            if self._waiting and threading.main_thread().is_alive():
                return self._waiting.popleft()
            self._threads -= 1
            return None
