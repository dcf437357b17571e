"""Searches as a display sees them, without any training."""

import dataclasses
import math
from collections.abc import Callable, Sequence

import pytest

from vtune.reporting.progress import Progress, Tick
from vtune.trial import Objective, Trial, TrialStatus


Plan = Sequence[Sequence[tuple[int, int]]]

PAPER = [
    [(81, 1), (27, 3), (9, 9), (3, 27), (1, 81)],
    [(34, 3), (11, 9), (3, 27), (1, 81)],
    [(15, 9), (5, 27), (1, 81)],
    [(8, 27), (2, 81)],
    [(5, 81)],
]


@dataclasses.dataclass
class Search:
    """All brackets side by side; a trial's score is its number, so later ones win."""

    plan: Plan
    seconds: Callable[[int], float]
    fails: dict[int, int] = dataclasses.field(default_factory=dict)
    trials: list[Trial] = dataclasses.field(default_factory=list)
    ticks: list[Tick] = dataclasses.field(default_factory=list)

    def __post_init__(self):
        for bracket, rungs in enumerate(self.plan):
            for _ in range(rungs[0][0]):
                values = {"units": 32, "learning_rate": 0.00031}
                self.trials.append(
                    Trial(len(self.trials), values, bracket=bracket, budget=rungs[0][1])
                )

    def tick(self) -> bool:
        """Trains one epoch and decides; False when nothing is left to train."""
        running = [t for t in self.trials if self._trains(t)]
        for trial in running:
            self._train(trial)
        if running:
            self.ticks.append(Tick(len(running), self.seconds(len(running))))
        for bracket in range(len(self.plan)):
            self._decide(bracket)
        return bool(running)

    def progress(self, **changes) -> Progress:
        values = {
            "objective": Objective("val_accuracy"),
            "trials": tuple(self.trials),
            "brackets": self.plan,
            "steps_per_epoch": 100,
            "seconds": math.fsum(tick.seconds for tick in self.ticks),
            "ticks": tuple(self.ticks),
            "lanes": 64,
            "programs": 3,
            "phase": "training",
        }
        return Progress(**(values | changes))

    def _trains(self, trial: Trial) -> bool:
        return trial.status is TrialStatus.RUNNING and trial.epoch < trial.budget

    def _train(self, trial: Trial) -> None:
        number, epoch = trial.number, trial.epoch + 1
        if self.fails.get(number) == trial.epoch:
            failed = dataclasses.replace(
                trial, status=TrialStatus.DIVERGED, score=None, reason="loss is nan"
            )
            self.trials[number] = failed
            return
        curve = tuple(number / 1000 - 1 / e for e in range(1, epoch + 1))
        self.trials[number] = dataclasses.replace(
            trial,
            epoch=epoch,
            best_epoch=epoch,
            score=curve[-1],
            metrics={"val_accuracy": curve},
        )

    def _decide(self, bracket: int) -> None:
        rungs = self.plan[bracket]
        for (_, epochs), following in zip(rungs, [*rungs[1:], None], strict=True):
            here = [
                trial
                for trial in self.trials
                if (trial.bracket, trial.budget) == (bracket, epochs)
                and trial.status is TrialStatus.RUNNING
            ]
            if not here or any(trial.epoch < epochs for trial in here):
                continue
            here.sort(key=lambda trial: -trial.number)
            for place, trial in enumerate(here):
                if following is None:
                    changes = {"status": TrialStatus.COMPLETED}
                elif place < following[0]:
                    changes = {"budget": following[1]}
                else:
                    changes = {"status": TrialStatus.PRUNED}
                self.trials[trial.number] = dataclasses.replace(trial, **changes)
            return


@pytest.fixture
def search() -> Callable[..., Search]:
    """Makes a search: by default the paper's, a tick costing 0.5 + 0.02 · trials."""

    def make(plan: Plan = PAPER, seconds=lambda trials: 0.5 + 0.02 * trials, **more):
        return Search(plan, seconds, **more)

    return make
