"""Fewer lanes where the device has no memory for more: decided once, kept for good."""

from collections.abc import Callable, Mapping, Sequence
from typing import Literal

from vtune.journal import Journal
from vtune.storage.records import OUT_OF_MEMORY
from vtune.training.overflow import Overflow
from vtune.training.trainer import Trainer


During = Literal["arranging", "training"]


class Shrinking:
    """Takes lanes away from programs that are too large, and writes it down.

    What a device has memory for may be otherwise in a later process. A study that goes
    on therefore takes away again what was taken, at the same place in its records.

    Args:
        trainer: runs the programs.
        journal: where it is written down, before anything is tried with fewer lanes.
        report: is called with a text for the person who waits.
    """

    def __init__(
        self, trainer: Trainer, journal: Journal, report: Callable[[str], None]
    ):
        self._trainer = trainer
        self._journal = journal
        self._report = report

    def again(self, during: During) -> set[int]:
        """Decides again what was decided at this place in an earlier process.

        Args:
            during: what is about to be done.

        Returns:
            The trials that were in the lanes of these programs; they were not trained.
        """
        trials: set[int] = set()
        while found := self._journal.foreseen.get(self._journal.sequence + 1):
            if found.content["during"] != during:
                break
            self._decide(found.trials, found.content)
            trials |= set(found.trials)
        return trials

    def decide(self, overflows: Sequence[Overflow], during: During) -> None:
        """Takes lanes away from programs that turned out to be too large.

        Args:
            overflows: these programs.
            during: what was being done.

        Raises:
            StorageError: if it cannot be written down.
        """
        if not overflows:
            return
        # An earlier process may have gone on otherwise from here.
        self._journal.deviate()
        for overflow in overflows:
            content = {
                "during": during,
                "cohort": overflow.cohort,
                "lanes": overflow.lanes,
                "program": overflow.program,
                "reason": overflow.reason,
                "planned": overflow.planned,
            }
            self._decide(overflow.trials, content)
            text = f"{overflow.reason}: at most {overflow.lanes} lanes from now on"
            if not overflow.planned:
                self._journal.event(OUT_OF_MEMORY, text)
            self._report(f"out of memory, {overflow.lanes} lanes from now on")
        self._journal.commit()

    def _decide(self, trials: tuple[int, ...], content: Mapping[str, object]) -> None:
        self._journal.decide("halve", trials, **content)
        shrink(self._trainer, content)


def shrink(trainer: Trainer, content: Mapping[str, object]) -> None:
    """Has a trainer do what a decision of kind `halve` says.

    Args:
        trainer: runs the programs.
        content: what was decided.
    """
    cohort, lanes = content["cohort"], content["lanes"]
    assert isinstance(cohort, int) and isinstance(lanes, int)
    trainer.limit(cohort, lanes)
