"""The epochs between two decisions: trained in one thread, taken down in another."""

import collections
import contextlib
import threading
import time
from collections.abc import Callable, Sequence

from vtune import history
from vtune.ledger import Ledger
from vtune.observer import Announcer
from vtune.shrinking import Shrinking
from vtune.storage.failure import StorageError
from vtune.training.roster import Trained
from vtune.training.stretch import Halts
from vtune.training.trainer import Trainer
from vtune.training.worker import Worker


# Seconds, in which whoever waits looks whether it is to stop.
_PAUSE = 0.05


class Epochs:
    """Trains the trials of a study until something is to be decided.

    The device goes on with the next epoch while this one's results are written down and
    told. That costs nothing that a search finds: no trial's epochs depend on another's,
    and what a trial is trained for after it diverged is forgotten.

    Args:
        trainer: trains.
        ledger: takes the results down.
        shrinking: takes lanes away from programs that turn out to be too large.
        announcer: is told how long it takes.
        stop: is asked in any thread; true leaves what has not begun untrained.
        is_due: is asked in any thread; true ends it once all trials are trained for the
            same number of epochs.
        report: is called in any thread with how far a long epoch is.
    """

    def __init__(
        self,
        trainer: Trainer,
        ledger: Ledger,
        shrinking: Shrinking,
        announcer: Announcer,
        stop: Callable[[], bool],
        is_due: Callable[[], bool],
        report: Callable[[str], None],
    ):
        self._trainer = trainer
        self._ledger = ledger
        self._shrinking = shrinking
        self._announcer = announcer
        self._stop = stop
        self._halts = Halts(self._stop_within, is_due)
        self._report = report
        self._whole = True
        self._told = threading.Event()
        self._came: collections.deque[tuple[Trained, float]] = collections.deque()

    def run(self, worker: Worker, meanwhile: Callable[[], bool]) -> bool:
        """Trains all trials that have epochs of their budget left.

        Args:
            worker: its thread trains.
            meanwhile: is called here beside it, and calls `take_down`.

        Returns:
            Whether all are in their lanes still.

        Raises:
            SearchError, StorageError: as `Ledger.train`; what was trained by then is
                written down where that is possible.
        """
        self._whole = True
        if self._shrinking.is_expected:
            self._run_again(worker, meanwhile)
        else:
            numbers = history.training(self._ledger.trials)
            left = history.epochs_left(self._ledger.trials)
            self._stretch(numbers, left, worker, meanwhile)
        return self._whole

    def take_down(self) -> bool:
        """Takes down what came out of the worker's thread since the last call.

        Returns:
            Whether there was anything.
        """
        if not self._came:
            return False
        while self._came:
            trained, seconds = self._came[0]
            running = trained.results.keys() & history.training(self._ledger.trials)
            self._announcer.tick(len(running), seconds)
            if trained.overflows:
                self._shrinking.decide(
                    trained.overflows, "training", 1 + trained.following
                )
            self._came.popleft()
            self._whole &= trained.is_whole
            self._ledger.train(trained.results)
        self._told.set()
        return True

    def _run_again(self, worker: Worker, meanwhile: Callable[[], bool]) -> None:
        """Trains as an earlier process did that ran out of memory somewhere."""
        held: dict[int, int] = {}
        while True:
            held |= self._shrinking.again("training")
            self._whole &= not held
            numbers = history.training(self._ledger.trials)
            self._stretch([n for n in numbers if n not in held], 1, worker, meanwhile)
            held = {number: left - 1 for number, left in held.items() if left > 1}
            if not held or self._stop():
                return

    def _stop_within(self, done: float) -> bool:
        # What is reported may end a search, but other programs are under way.
        with contextlib.suppress(KeyboardInterrupt):
            if done:
                self._report(f"training, {done:.0%} of an epoch")
        return self._stop()

    def _stretch(
        self,
        numbers: Sequence[int],
        epochs: int,
        worker: Worker,
        meanwhile: Callable[[], bool],
    ) -> None:
        def train() -> None:
            began = time.perf_counter()
            for trained in self._trainer.train(numbers, epochs, self._halts):
                now = time.perf_counter()
                self._told.clear()
                self._came.append((trained, now - began))
                worker.wake()
                began = now
                # The device has something to do meanwhile, and is to be little ahead.
                while not self._told.wait(_PAUSE) and not self._stop():
                    pass

        try:
            worker.do(train, meanwhile)
            self.take_down()
        except BaseException:
            # The states are those of these epochs, whether or not anyone is told.
            while self._came:
                with contextlib.suppress(StorageError):
                    self._ledger.record(self._came.popleft()[0].results)
            raise
