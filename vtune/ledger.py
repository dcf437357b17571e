"""The trials of a running study: each change is made, written down and told."""

from collections.abc import Mapping
from typing import Any

from vtune import history
from vtune.failure import SearchError, describe
from vtune.intake import Newcomer
from vtune.journal import Journal
from vtune.observer import Announcer
from vtune.resumption import digest_of
from vtune.search.schedule import Promote, Start, Stop
from vtune.storage.failure import StorageError
from vtune.training.pack import EpochResult
from vtune.trial import Objective, Trial, TrialStatus


# Three in a row are no accident: whatever is wrong, it is wrong for most trials.
FAILURES_IN_A_ROW = 3


class Ledger:
    """The records of a study's trials.

    Args:
        objective: the metric that ranks trials.
        journal: where changes are written down.
        announcer: tells them.
    """

    def __init__(self, objective: Objective, journal: Journal, announcer: Announcer):
        self.trials: list[Trial] = []
        self._objective = objective
        self._journal = journal
        self._announcer = announcer
        self._programs: Mapping[int, str] = {}

    def resume(self, trials: list[Trial], programs: Mapping[int, str]) -> None:
        """Takes over the records of a study that goes on.

        Args:
            trials: the records.
            programs: the identity of the program that each trial in a lane was trained
                by last, and has to be trained by until something is decided.
        """
        self.trials = trials
        self._programs = programs

    def begin(self, newcomer: Newcomer, start: Start) -> Trial:
        """Opens a trial's record.

        Args:
            newcomer: the trial.
            start: why it begins.

        Raises:
            SearchError: if it failed, and the trials before it did.
        """
        self._programs = {}
        values = dict(newcomer.hyperparameters.values)
        number = len(self.trials)
        trial = Trial(number, values, bracket=start.bracket, budget=start.epochs)
        self.trials.append(trial)
        digest = digest_of(newcomer) if self._journal.kept else ""
        self._journal.trial(trial, newcomer.hyperparameters, digest)
        if newcomer.error is not None:
            self.fail(number, newcomer.error, "building")
        return trial

    def promote(self, action: Promote) -> None:
        """Lets trials go on in the next rung.

        Args:
            action: which, and until when.
        """
        self._programs = {}
        for number in action.trials:
            self.trials[number] = history.promoted(self.trials[number], action.epochs)
        self._journal.decide("promote", action.trials, epochs=action.epochs)

    def stop(self, action: Stop) -> None:
        """Ends trials.

        Args:
            action: which, and why.
        """
        self._programs = {}
        self._journal.decide("stop", action.trials, status=action.status.value)
        for number in action.trials:
            self.trials[number] = history.stopped(self.trials[number], action.status)
            self._announcer.observer.trial_end(self.trials[number])

    def train(self, results: Mapping[int, EpochResult]) -> None:
        """Takes down and tells what an epoch gave.

        Args:
            results: the result of each trial that was trained.

        Raises:
            SearchError: if trials with consecutive numbers failed.
            StorageError: if a trial that went on was trained by another program, or if
                it cannot be written down.
        """
        # All is written down before anyone is told, and may interrupt.
        for number, result in sorted(self.record(results).items()):
            if result.failure is None:
                self._tell(number, result.metrics)
            elif self.trials[number].status is TrialStatus.RUNNING:
                self.fail(number, result.failure, "training")

    def record(self, results: Mapping[int, EpochResult]) -> dict[int, EpochResult]:
        """Takes down what an epoch gave, and tells nobody.

        Args:
            results: as for `train`.

        Returns:
            Those of the trials that were running still.

        Raises:
            StorageError: as for `train`.
        """
        running = {
            number: result
            for number, result in results.items()
            if self.trials[number].status is TrialStatus.RUNNING
        }
        self._compare(running)
        for number in sorted(running):
            result = running[number]
            if result.failure is None:
                self.trials[number] = history.after_epoch(
                    self.trials[number], result.metrics, result.finite, self._objective
                )
                self._journal.epoch(self.trials[number], result)
        self._journal.commit()
        return running

    def fail(self, number: int, error: Exception, during: str) -> None:
        """Ends a trial that cannot be trained.

        Args:
            number: the trial.
            error: what keeps it.
            during: `building`, `arranging` or `training`.

        Raises:
            SearchError: if trials with consecutive numbers failed.
        """
        reason = describe(error)
        self.trials[number] = history.failed(self.trials[number], reason)
        self._journal.decide("fail", (number,), during=during, reason=reason)
        self._announcer.observer.trial_end(self.trials[number])
        run = history.consecutive_failures(self.trials, FAILURES_IN_A_ROW)
        if run:
            listed = "\n".join(f"  trial {t.number}: {t.reason}" for t in run)
            raise SearchError(
                f"Trials {run[0].number} to {run[-1].number} failed, so that most of "
                f"the others would too:\n{listed}"
            ) from error

    def _compare(self, results: Mapping[int, EpochResult]) -> None:
        for number, before in self._programs.items():
            result = results.get(number)
            if result is not None and result.failure is None:
                if result.program != before:
                    raise StorageError(
                        f"Trial {number} goes on in another program: it was trained by "
                        f"{before[:16]}..., and now by {result.program[:16]}.... So "
                        "what a program depends on has changed since the study was "
                        "started: go back to it, or begin anew with `overwrite=True`."
                    )
        self._programs = {}

    def _tell(self, number: int, metrics: Mapping[str, Any]) -> None:
        trial = self.trials[number]
        self._announcer.observer.epoch_end(trial, trial.epoch - 1, dict(metrics))
        if trial.status is TrialStatus.DIVERGED:
            self._announcer.observer.trial_end(trial)
