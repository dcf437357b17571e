"""Planning for the trials that start next, while the present ones are trained."""

from collections.abc import Sequence

from vtune import history
from vtune.intake import Intake
from vtune.search.schedule import Schedule, Start
from vtune.training.trainer import Trainer
from vtune.trial import Trial


class Upcoming:
    """Plans for what starts next as soon as it is traced, once after each decision.

    How many trials start does not depend on the scores that are not there yet. Should
    others start nevertheless, since some failed, they are planned for when they do: no
    result depends on what was planned ahead.

    Args:
        schedule: decides what starts.
        intake: has traced some of it.
        trainer: finds the programs.
    """

    def __init__(self, schedule: Schedule, intake: Intake, trainer: Trainer):
        self._schedule = schedule
        self._intake = intake
        self._trainer = trainer
        # How many trials start next and are yet to be planned for; None: not known.
        self._starting: int | None = 0

    def renew(self) -> None:
        """Says that something was decided, so that another decision is next."""
        self._starting = None

    def plan(self, trials: Sequence[Trial]) -> bool:
        """Plans for what starts next, unless that was done or is too early.

        It is called again and again, so the schedule is asked once.

        Args:
            trials: the records of all trials.

        Returns:
            Whether it planned.
        """
        if self._starting is None:
            self._starting = self._count(trials)
        if not self._starting:
            return False
        known = self._intake.upcoming(self._starting, self._schedule.total_trials)
        if known is None:
            return False
        self._starting = 0
        self._trainer.foresee(*known, self._intake.envelope)
        return True

    def _count(self, trials: Sequence[Trial]) -> int:
        """How many trials start at the next decision."""
        actions = self._schedule.next(
            history.foreseen(trials),
            exhausted=self._intake.exhausted,
            capacity=self._trainer.capacity,
        )
        return sum(each.trials for each in actions if isinstance(each, Start))
