"""A study: the one loop over proposals, epochs and decisions."""

import signal
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

from vtune import history
from vtune.configuration import StudyConfig
from vtune.epochs import Epochs
from vtune.fusion.trace import Trace
from vtune.hyperparameters import HyperParameters
from vtune.intake import Intake
from vtune.interpreter import INTERPRETER
from vtune.interruption import Interruption
from vtune.journal import Journal
from vtune.kept import Kept
from vtune.ledger import Ledger
from vtune.observer import Announcer, Observer
from vtune.past import Past
from vtune.proposal import Build, Horizon
from vtune.resumption import Resumption
from vtune.search.schedule import (
    Action,
    Promote,
    Start,
    Stop,
    mean_epochs,
    promoted_share,
)
from vtune.shrinking import Shrinking
from vtune.training.data import DataSet
from vtune.training.lanes import to_tree
from vtune.training.loop import Loop, tracer
from vtune.training.share import Share
from vtune.training.statistics import Statistics
from vtune.training.trainer import Trainer
from vtune.training.worker import Worker
from vtune.trial import Trainable, Trial
from vtune.upcoming import Upcoming


Result = TypeVar("Result")


class Study:
    """Runs trials until the schedule has nothing left to do.

    Args:
        config: the settings.
        build: the user's function.
        loop: the epoch.
        data: what is trained on, and what is evaluated after each epoch, or None.
        journal: what happens is written down there.
    """

    def __init__(
        self,
        config: StudyConfig,
        build: Build,
        loop: Loop,
        data: tuple[DataSet, DataSet | None],
        journal: Journal,
    ):
        self.config, self._total = config, config.schedule.total_trials
        self.interrupted, self._arranged, self._phase = False, True, ""
        self._journal = journal
        self._to_trace = tracer(loop, *data)
        self._intake = Intake(
            build,
            config.sampler,
            Horizon(loop.steps_per_epoch, config.schedule.max_epochs, config.seed),
            config.objective,
            self._to_trace,
            data,
        )
        self._trainer = Trainer(
            loop,
            *data,
            seed=config.seed,
            lanes=config.lanes,
            fuse_widths=config.fuse_widths,
            rewrites=config.rewrites,
            steps=mean_epochs(config.schedule.plan) * loop.steps_per_epoch,
            promoted=promoted_share(config.schedule.plan),
            report=self._report,
        )
        objective, steps = config.objective, loop.steps_per_epoch
        self._announcer = Announcer(objective, config.schedule.plan, steps)
        self._ledger = Ledger(objective, journal, self._announcer)
        self.kept = Kept(self._trainer, self._ledger, objective, config.keep_models)
        self._shrinking = Shrinking(self._trainer, journal, self._show)
        self._epochs = Epochs(
            self._trainer,
            self._ledger,
            self._shrinking,
            self._announcer,
            self._stop,
            lambda: journal.is_due(rung_ended=False),
            self._report,
        )
        self._upcoming = Upcoming(config.schedule, self._intake, self._trainer)
        self._past: Past | None = None
        self._interruption = Interruption()
        self._worker: Worker

    @property
    def trials(self) -> list[Trial]:
        """The record of every trial so far, by number."""
        return self._ledger.trials

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

    def state(self, number: int, trainable: Trainable) -> Any:
        """The state of a kept trial as `train_step` knows it.

        Args:
            number: the trial.
            trainable: what `build` makes of its values.
        """
        return to_tree(self.kept.models[number], self._to_trace(trainable))

    def take_up(self, past: Past) -> bool:
        """Goes on where a checkpoint was written: `run` does.

        Args:
            past: what was written down of the study.

        Returns:
            Whether it is complete, so that there is nothing to run.
        """
        self._past = past
        objective, most = self.config.objective, self._trainer.capacity
        if complete := past.is_complete(self.config.schedule, objective, most):
            self._ledger.trials = past.trials(objective)
            self._intake.hyperparameters = past.hyperparameters(self.config.seed)
            self.kept.models = dict(past.models)
            self._journal.close()
        return complete

    def _resume(self, past: Past) -> None:
        """Builds and traces again what was; trains nothing."""
        done = Resumption(self._intake, self._trainer, self.config.objective)
        for trial in done.run(past):
            self._show(f"tracing {trial.number + 1} of {past.begun} again")
        self._ledger.resume(done.trials, past.programs)
        for number in history.in_lanes(self.trials):
            epoch = self.trials[number].epoch
            self._trainer.restore(number, past.states[number], epoch)
        self.kept.models = dict(past.models)
        self._arranged = False

    def run(self, observer: Observer) -> None:
        """Runs the study to its end, or until Ctrl-C or SIGTERM.

        Args:
            observer: is told what happens.

        Raises:
            SearchError: if the trials with three consecutive numbers failed.
            StorageError: if it cannot be written down, or is not what it was.
            ValueError: if the data do not suit the model, before anything is trained.
            SystemExit: after SIGTERM, once all is written down.
        """
        self._announcer.begin(observer)
        self._worker = Worker()
        # Those that go on have other weights when they end.
        self.kept.forget(history.in_lanes(self.trials))
        try:
            with INTERPRETER.searching(), Interruption() as self._interruption:
                if self._past is not None:
                    self._resume(self._past)
                    self._past = None
                while not self._stop() and self._step():
                    self._show("training")
                self._save()
            self.interrupted = self._stop()
            how = "interrupted" if self.interrupted else "finished"
            self._journal.event(how, f"{how} with {len(self.trials)} trials")
        finally:
            self._trainer.close()
            self._worker.close()
            try:
                self._journal.close()
            finally:
                self.kept.keep([t for t in self.trials if t.score is not None])
                self._show("", finished=True)
        if self._interruption.terminated:
            raise SystemExit(128 + signal.SIGTERM)

    def _step(self) -> bool:
        """Decides, and trains; False when there is nothing left to do."""
        schedule, exhausted = self.config.schedule, self._intake.exhausted
        most = self._capacity()
        actions = schedule.next(self.trials, exhausted=exhausted, capacity=most)
        self._decide(actions)
        self._upcoming.renew()
        if actions or not self._arranged:
            self._arrange()
        training = bool(history.training(self.trials))
        if training:
            self._arranged = self._epochs.run(self._worker, self._meanwhile)
        self._journal.commit()
        ended = any(not isinstance(action, Start) for action in actions)
        if self._journal.is_due(rung_ended=ended):
            self._save()
        return bool(actions) or training

    def _capacity(self) -> int:
        """How many trials are worth training at a time."""
        if not self.trials:
            self._trainer.expect(self._intake.look(self._total, self._may_trace))
        return self._trainer.capacity

    def _save(self) -> None:
        """Begins to write a checkpoint."""
        if self._journal.kept:
            lanes = self._trainer.states(history.in_lanes(self.trials))
            self._journal.checkpoint(lanes, self.kept.models)

    def _decide(self, actions: Sequence[Action]) -> None:
        """Carries out what the schedule wants."""
        for action in actions:
            if isinstance(action, Promote):
                self._ledger.promote(action)
            elif isinstance(action, Stop):
                self.kept.keep([self.trials[number] for number in action.trials])
                self._ledger.stop(action)
        if starts := [action for action in actions if isinstance(action, Start)]:
            self._start(starts)

    def _start(self, starts: Sequence[Start]) -> None:
        """Takes new trials in, and admits those that can be trained."""
        intake = self._intake
        traces: dict[int, Trace] = {}
        places = [start for start in starts for _ in range(start.trials)]
        for done, start in enumerate(places):
            self._show(f"tracing {done + 1} of {len(places)}")
            newcomer = None if self._interruption.requested else intake.take()
            if newcomer is None:
                break
            trial = self._ledger.begin(newcomer, start)
            if newcomer.trace is not None:
                traces[trial.number] = newcomer.trace
        sight = intake.foresee(self._total, self._may_trace)
        known = (traces, intake.outlook(sight), intake.envelope)
        apart = self._trainer.admit(*known, self._beside)
        for number, reason in apart.items():
            self._journal.decide("apart", (number,), reason=reason)
        self._journal.start(traces, sight)

    def _arrange(self) -> None:
        self._arranged = False
        while not self._arranged:
            self._shrinking.again("arranging")
            trials = history.in_lanes(self.trials)
            arranged = self._beside(lambda: self._trainer.arrange(trials))
            self._shrinking.decide(arranged.overflows, "arranging")
            for number, error in arranged.failures.items():
                self._ledger.fail(number, error, "arranging")
            self._arranged = arranged.is_whole

    def _beside(self, work: Callable[[], Result]) -> Result:
        """Does something in the worker's thread; the next trials are traced here."""
        return self._worker.do(work, self._meanwhile)

    def _meanwhile(self) -> bool:
        """Shows what the worker did, and prepares for trials that are yet to start."""
        came, phase, self._phase = self._epochs.take_down(), self._phase, ""
        if came or phase:
            self._show(phase or "training")
        return self._upcoming.plan(self.trials) or self._intake.ahead(self._total)

    def _may_trace(self) -> bool:
        self._show("tracing trials to come")
        return not self._stop()

    def _stop(self) -> bool:
        return self._interruption.requested or self._worker.is_abandoned

    def _report(self, phase: str) -> None:
        """Takes down what takes long; Ctrl-C ends it here."""
        if self._stop():
            raise KeyboardInterrupt
        self._phase = phase

    def _show(self, phase: str, finished: bool = False) -> None:
        self._announcer.show(self.trials, self._trainer.running, phase, finished)
