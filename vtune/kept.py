"""The models of the best trials, which are kept."""

from collections.abc import Iterable, Sequence

from vtune.ledger import Ledger
from vtune.training.lanes import HostState
from vtune.training.trainer import Trainer
from vtune.trial import Objective, Trial, rank


class Kept:
    """The states of the best of those trials that have left their lanes.

    Args:
        trainer: has the states of those that are in lanes.
        ledger: has the records of all trials.
        objective: says which are the best.
        count: how many are kept.
    """

    def __init__(
        self, trainer: Trainer, ledger: Ledger, objective: Objective, count: int
    ):
        self.models: dict[int, HostState] = {}
        self._trainer = trainer
        self._ledger = ledger
        self._objective = objective
        self._count = count

    def keep(self, trials: Sequence[Trial]) -> None:
        """Takes the states of those among some trials that belong to the best.

        Args:
            trials: trials in lanes, which may leave them.
        """
        records = self._ledger.trials
        known = {t.number: t for t in trials} | {n: records[n] for n in self.models}
        best = rank([*known.values()], self._objective)[: self._count]
        wanted = [t.number for t in best if t.number not in self.models]
        found = self._trainer.states(wanted) | self.models
        self.models = {t.number: found[t.number] for t in best if t.number in found}

    def forget(self, numbers: Iterable[int]) -> None:
        """Forgets the states of trials that train on: they will have other ones.

        Args:
            numbers: the trials.
        """
        gone = {*numbers}
        self.models = {n: state for n, state in self.models.items() if n not in gone}
