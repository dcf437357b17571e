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

    @property
    def is_expected(self) -> bool:
        """Whether an earlier process took lanes away somewhere after this place."""
        return any(place > self._journal.sequence for place in self._journal.foreseen)

    def again(self, during: During) -> dict[int, int]:
        """Decides again what was decided at this place in an earlier process.

        Args:
            during: what is about to be done.

        Returns:
            For each trial that was in the lanes of these programs how many epochs of
            the others it was not trained for.
        """
        held: dict[int, int] = {}
        while found := self._journal.foreseen.get(self._journal.sequence + 1):
            if found.content["during"] != during:
                break
            self._decide(found.trials, found.content)
            held |= {trial: found.content["epochs"] for trial in found.trials}
        return held

    def decide(
        self, overflows: Sequence[Overflow], during: During, epochs: int = 0
    ) -> None:
        """Takes lanes away from programs that turned out to be too large.

        Args:
            overflows: these programs.
            during: what was being done.
            epochs: how many epochs the other trials are trained without those in the
                lanes of these programs, before anything else is decided.

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
                "epochs": epochs,
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
