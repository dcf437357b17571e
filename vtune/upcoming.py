"""Planning for the trials that start next, while the present ones are trained."""

from collections.abc import Sequence

from vtune import history
from vtune.intake import Intake
from vtune.search.schedule import Schedule, Start
from vtune.training.trainer import Trainer
from vtune.trial import Trial


class Upcoming:
    """Plans for what starts next as soon as it is traced, once after each start.

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
        self._is_open = False

    def renew(self) -> None:
        """Says that trials have started, so that others are next."""
        self._is_open = True

    def plan(self, trials: Sequence[Trial]) -> bool:
        """Plans for what starts next, unless that was done or is too early.

        Args:
            trials: the records of all trials.

        Returns:
            Whether it planned.
        """
        if not self._is_open:
            return False
        actions = self._schedule.next(
            history.foreseen(trials),
            exhausted=self._intake.exhausted,
            capacity=self._trainer.capacity,
        )
        starting = sum(each.trials for each in actions if isinstance(each, Start))
        known = self._intake.upcoming(starting, self._schedule.total_trials)
        if not starting or known is None:
            return False
        self._is_open = False
        self._trainer.foresee(*known, self._intake.envelope)
        return True
