"""A study: the one loop over proposals, epochs and decisions."""

import dataclasses
import time
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import jax

from vtune import history
from vtune.configuration import StudyConfig
from vtune.failure import SearchError, describe
from vtune.fusion.trace import Trace
from vtune.hyperparameters import HyperParameters
from vtune.intake import Intake
from vtune.interruption import Interruption
from vtune.observer import Observer
from vtune.proposal import Build, Horizon
from vtune.reporting.progress import Progress, Tick
from vtune.search.schedule import Promote, Start, Stop, mean_epochs
from vtune.training.data import DataSet
from vtune.training.device import device_rule
from vtune.training.loop import Loop, tracer
from vtune.training.share import Share
from vtune.training.statistics import Statistics
from vtune.training.trainer import Trainer
from vtune.training.worker import Worker
from vtune.trial import Trial, TrialStatus, rank


Result = TypeVar("Result")

# Three in a row are no accident: whatever is wrong, it is wrong for most trials.
FAILURES_IN_A_ROW = 3


class Study:
    """Runs trials until the schedule has nothing left to do.

    Args:
        config: the settings.
        build: the user's function.
        loop: the epoch.
        training: what is trained on.
        validation: what is evaluated at the end of each epoch, or None.
    """

    def __init__(
        self,
        config: StudyConfig,
        build: Build,
        loop: Loop,
        training: DataSet,
        validation: DataSet | None,
    ):
        self.config = config
        self.trials: list[Trial] = []
        self.models: dict[int, Any] = {}
        self.interrupted = False
        self._steps_per_epoch = loop.steps_per_epoch
        self._intake = Intake(
            build,
            config.sampler,
            Horizon(loop.steps_per_epoch, config.schedule.max_epochs, config.seed),
            config.objective,
            tracer(loop, training, validation),
            (training, validation),
        )
        self._trainer = Trainer(
            loop,
            training,
            validation,
            seed=config.seed,
            lanes=config.lanes,
            fuse_widths=config.fuse_widths,
            steps=mean_epochs(config.schedule.plan) * loop.steps_per_epoch,
            report=self._report,
        )
        self._observer = Observer()
        self._interruption = Interruption()
        self._worker: Worker
        self._arranged = True
        self._started = time.perf_counter()
        self._phase = ""
        self._ticks: list[Tick] = []

    @property
    def hyperparameters(self) -> list[HyperParameters]:
        """What each trial's `build` asked for and got, by trial number."""
        return self._intake.hyperparameters

    @property
    def statistics(self) -> Statistics:
        """Where the time went so far."""
        return self._trainer.statistics.plus(tracing_seconds=self._intake.seconds)

    @property
    def shares(self) -> tuple[Share, ...]:
        """Which trials share a program."""
        return self._trainer.shares

    def run(self, observer: Observer) -> None:
        """Runs the study to its end, or until Ctrl-C.

        Args:
            observer: is told what happens.

        Raises:
            SearchError: if the trials with three consecutive numbers failed.
            ValueError: if the data do not suit the model, before anything is trained.
        """
        self._observer = observer
        self._started = time.perf_counter()
        self._worker = Worker()
        try:
            with Interruption() as self._interruption:
                while not self._interruption.requested and self._step():
                    self._show("training")
            self.interrupted = self._interruption.requested
        finally:
            self._worker.close()
            self._keep_models([t for t in self.trials if t.score is not None])
            self._show("", finished=True)

    def _step(self) -> bool:
        """Decides, then trains an epoch; False when there is nothing left to do."""
        actions = self.config.schedule.next(
            self.trials,
            exhausted=self._intake.exhausted,
            capacity=device_rule(jax.default_backend()).most,
        )
        starts = [action for action in actions if isinstance(action, Start)]
        for action in actions:
            if isinstance(action, Promote):
                self._promote(action)
            elif isinstance(action, Stop):
                self._stop(action)
        if starts:
            self._start(starts)
        if actions or not self._arranged:
            self._arrange()
        numbers = history.training(self.trials)
        if numbers:
            self._train(numbers)
        return bool(actions or numbers)

    # ------------------------------------------------------------------ decisions

    def _promote(self, action: Promote) -> None:
        for number in action.trials:
            self._replace(number, budget=action.epochs)

    def _stop(self, action: Stop) -> None:
        self._keep_models([self.trials[number] for number in action.trials])
        for number in action.trials:
            self._replace(number, status=action.status)
            self._observer.trial_end(self.trials[number])

    def _start(self, starts: Sequence[Start]) -> None:
        """Takes new trials in, and admits those that can be trained."""
        planned = sum(start.trials for start in starts)
        traces: dict[int, Trace] = {}
        places = [start for start in starts for _ in range(start.trials)]
        for done, start in enumerate(places):
            self._show(f"tracing {done + 1} of {planned}")
            newcomer = None if self._interruption.requested else self._intake.take()
            if newcomer is None:
                break
            number = len(self.trials)
            values = dict(newcomer.hyperparameters.values)
            trial = Trial(number, values, bracket=start.bracket, budget=start.epochs)
            self.trials.append(trial)
            if newcomer.trace is not None:
                traces[number] = newcomer.trace
            elif newcomer.error is not None:
                self._fail(number, newcomer.error)
        total = self.config.schedule.total_trials
        all_started = self._intake.exhausted or len(self.trials) == total
        others = [] if all_started or not traces else self._intake.probe()
        self._trainer.admit(traces, others, self._intake.envelope, self._beside)

    # ------------------------------------------------------------------ training

    def _arrange(self) -> None:
        self._arranged = False
        while not self._arranged:
            trials = history.in_lanes(self.trials)
            failures = self._beside(lambda: self._trainer.arrange(trials))
            for number, error in failures.items():
                self._fail(number, error)
            self._arranged = not failures

    def _train(self, numbers: Sequence[int]) -> None:
        started = time.perf_counter()
        stop = lambda: self._interruption.requested  # noqa: E731
        results = self._beside(lambda: self._trainer.train(numbers, stop))
        self._ticks.append(Tick(len(results), time.perf_counter() - started))
        trained = {n: result for n, result in results.items() if not result.failure}
        # All is written down before anyone is told, and may interrupt.
        for number, result in trained.items():
            self.trials[number] = history.after_epoch(
                self.trials[number],
                result.metrics,
                result.finite,
                self.config.objective,
            )
        for number in sorted(results):
            failure = results[number].failure
            if failure is not None:
                self._fail(number, failure)
                continue
            trial = self.trials[number]
            metrics = dict(results[number].metrics)
            self._observer.epoch_end(trial, trial.epoch - 1, metrics)
            if trial.status is TrialStatus.DIVERGED:
                self._observer.trial_end(trial)

    def _keep_models(self, trials: Sequence[Trial]) -> None:
        """Takes the states of those among some trials that belong to the best."""
        known = [self.trials[number] for number in self.models]
        fresh = [trial for trial in trials if trial.number not in self.models]
        best = rank([*known, *fresh], self.config.objective)[: self.config.keep_models]
        wanted = [t.number for t in best if t.number not in self.models]
        self.models.update(self._trainer.states(wanted))
        kept = {trial.number for trial in best}
        self.models = {n: state for n, state in self.models.items() if n in kept}

    # ------------------------------------------------------------------ records

    def _replace(self, number: int, **changes: Any) -> None:
        self.trials[number] = dataclasses.replace(self.trials[number], **changes)

    def _fail(self, number: int, error: Exception) -> None:
        self.trials[number] = history.failed(self.trials[number], describe(error))
        self._observer.trial_end(self.trials[number])
        run = history.consecutive_failures(self.trials, FAILURES_IN_A_ROW)
        if run:
            listed = "\n".join(f"  trial {t.number}: {t.reason}" for t in run)
            raise SearchError(
                f"Trials {run[0].number} to {run[-1].number} failed, so that most of "
                f"the others would too:\n{listed}"
            ) from error

    # ------------------------------------------------------------------ side by side

    def _beside(self, work: Callable[[], Result]) -> Result:
        """Does something in the worker's thread; the next trials are traced here."""
        return self._worker.do(work, self._meanwhile)

    def _meanwhile(self) -> bool:
        """Shows what the worker reported, and traces a trial that is yet to start."""
        phase, self._phase = self._phase, ""
        if phase:
            self._show(phase)
        return self._intake.ahead(self.config.schedule.total_trials)

    def _report(self, phase: str) -> None:
        """Takes down what takes long; Ctrl-C ends it here."""
        if self._interruption.requested:
            raise KeyboardInterrupt
        self._phase = phase

    def _show(self, phase: str, finished: bool = False) -> None:
        self._observer.update(
            Progress(
                objective=self.config.objective,
                trials=tuple(self.trials),
                brackets=self.config.schedule.plan,
                steps_per_epoch=self._steps_per_epoch,
                seconds=time.perf_counter() - self._started,
                ticks=tuple(self._ticks),
                lanes=self._trainer.lanes,
                programs=self._trainer.programs,
                phase=phase,
                finished=finished,
            )
        )
