"""Who is told what happens in a study."""

import dataclasses
import time
from collections.abc import Callable, Sequence
from typing import Any

from vtune.reporting.progress import Progress, Tick
from vtune.trial import Objective, Trial


@dataclasses.dataclass(frozen=True)
class Observer:
    """What a study tells the world while it runs.

    Args:
        update: is called with the progress after every epoch and change of phase.
        epoch_end: is called with each trial, its epoch counted from 0, its metrics.
        trial_end: is called with each trial that ends.
    """

    update: Callable[[Progress], None] = lambda progress: None
    epoch_end: Callable[[Trial, int, Any], None] = lambda trial, epoch, metrics: None
    trial_end: Callable[[Trial], None] = lambda trial: None


class Announcer:
    """Tells an observer of a study's progress.

    Args:
        objective: the metric that ranks trials.
        brackets: the rungs of each bracket as pairs (trials, epochs).
        steps_per_epoch: the training steps of an epoch.
    """

    def __init__(
        self,
        objective: Objective,
        brackets: tuple[tuple[tuple[int | None, int], ...], ...],
        steps_per_epoch: int,
    ):
        self.observer = Observer()
        self._objective = objective
        self._brackets = brackets
        self._steps_per_epoch = steps_per_epoch
        self._started = time.perf_counter()
        self._ticks: list[Tick] = []

    def begin(self, observer: Observer) -> None:
        """Tells another observer from now on, and counts the seconds from now.

        Args:
            observer: is told what happens.
        """
        self.observer = observer
        self._started = time.perf_counter()

    def tick(self, epochs: int, seconds: float) -> None:
        """Takes down that some trials were trained for an epoch.

        Args:
            epochs: how many trials.
            seconds: how long it took.
        """
        self._ticks.append(Tick(epochs, seconds))

    def show(
        self,
        trials: Sequence[Trial],
        running: tuple[int, int],
        phase: str,
        finished: bool = False,
    ) -> None:
        """Tells how things stand.

        Args:
            trials: all trials.
            running: the lanes and the programs that run.
            phase: what is being done.
            finished: whether the search is over.
        """
        lanes, programs = running
        self.observer.update(
            Progress(
                objective=self._objective,
                trials=tuple(trials),
                brackets=self._brackets,
                steps_per_epoch=self._steps_per_epoch,
                seconds=time.perf_counter() - self._started,
                ticks=tuple(self._ticks),
                lanes=lanes,
                programs=programs,
                phase=phase,
                finished=finished,
            )
        )
