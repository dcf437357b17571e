"""A tuner: the familiar facade over a study."""

from collections.abc import Sequence
from typing import Any

from vtune.callbacks import Callbacks
from vtune.configuration import TunerConfig
from vtune.hypermodel import BoundHyperModel, build_function
from vtune.hyperparameters import HyperParameters
from vtune.model import Model
from vtune.observer import Observer
from vtune.parameters import Parameter
from vtune.preparation import prepare
from vtune.proposal import realise
from vtune.reporting.display import open_display
from vtune.reporting.plans import PlanSummary
from vtune.reporting.summary import (
    ResultsSummary,
    SearchSpaceSummary,
    print_summary,
    results_summary,
    search_space_summary,
)
from vtune.search.sampler import RandomSampler
from vtune.sharing import cohort_rows
from vtune.stored import find_study
from vtune.study import Study
from vtune.training.cache import programs_kept
from vtune.training.data import training_and_validation
from vtune.training.statistics import Statistics
from vtune.trial import Trial, rank


# What `search_space_summary` assumes before a search has told it.
_ASSUMED_STEPS = 100
_EXPLORED = 20
_ONLY_READ = "Nothing was planned: the study was complete, and was only read."


class Tuner:
    """Searches the hyperparameters of a model, many candidates at a time.

    Made by `vt.Hyperband`, `vt.SuccessiveHalving`, `vt.RandomSearch` and
    `vt.GridSearch`.

    Args:
        hypermodel: a function `build(hp)`, or an object with such a method.
        config: the settings.
    """

    def __init__(self, hypermodel: Any, config: TunerConfig):
        self._build = build_function(hypermodel)
        self._config = config
        self._study: Study | None = None
        self._finished = False
        self.hypermodel = BoundHyperModel(self._build)

    @property
    def trials(self) -> tuple[Trial, ...]:
        """A frozen record of every trial so far, by number."""
        return () if self._study is None else tuple(self._study.trials)

    @property
    def statistics(self) -> Statistics:
        """Where the search's time went."""
        return Statistics() if self._study is None else self._study.statistics

    @property
    def seed(self) -> int:
        """The seed; give it to another tuner to repeat this search."""
        return self._config.seed if self._study is None else self._study.config.seed

    def search(
        self,
        x: Any,
        y: Any = None,
        *,
        validation_data: Any = None,
        validation_split: float = 0.0,
        batch_size: int = 32,
        drop_remainder: bool = True,
        epochs: int | None = None,
        callbacks: Sequence[Any] = (),
        verbose: int = 1,
    ) -> None:
        """Trains trials until the schedule has nothing left to do.

        Ctrl-C ends a search cleanly: what was found stays. A search that is complete
        returns at once.

        Args:
            x: the inputs, the batch axis first: an array, or a dict or tuple of arrays.
            y: the targets, or None.
            validation_data: `(x, y)` to validate on after each epoch.
            validation_split: instead of that, the fraction of `x` and `y`, taken from
                the end, to validate on.
            batch_size: samples in a training step.
            drop_remainder: whether samples that do not fill a batch are left out of an
                epoch (other ones each time), or make a smaller last batch.
            epochs: the epochs of a trial, where the tuner was not given `max_epochs`.
            callbacks: objects with any of `on_epoch_end(trial, epoch, metrics)`, where
                epochs count from 0, `on_trial_end(trial)` and `on_train_end()`.
            verbose: 0 for silence, 1 for a live display.

        Raises:
            ValueError: if the data, the objective or an argument cannot be used;
                nothing was trained then.
            TypeError: if an argument is of the wrong kind.
            SearchError: if three trials in a row failed.
        """
        listeners = Callbacks(callbacks, where="search")
        data = training_and_validation(x, y, validation_data, validation_split)
        notes: tuple[str, ...] = ()
        # A study in a directory is always gone on with from there.
        if not self._finished and (self._study is None or self._config.folder):
            prepared = prepare(
                self._build,
                self._config,
                data,
                self._epochs(epochs),
                batch_size,
                drop_remainder,
                overwrite=self._config.common.overwrite and self._study is None,
            )
            self._study, self._finished = prepared.study, prepared.is_complete
            notes = prepared.notes
        study = self._study
        assert study is not None
        common = self._config.common
        with programs_kept(common.compile_cache), open_display(verbose) as display:
            for note in notes:
                display.note(note)
            if self._finished:
                display.note(f"complete already: {len(self.trials)} trials")
                return
            observer = Observer(
                display.update, listeners.epoch_end, listeners.trial_end
            )
            try:
                study.run(observer)
            except ValueError:
                # Nothing was trained: another `search` starts afresh.
                if not any(trial.epoch for trial in self.trials):
                    self._study = None
                raise
            finally:
                listeners.train_end()
            self._finished = not study.interrupted

    def get_best_hyperparameters(self, num_trials: int = 1) -> list[HyperParameters]:
        """The hyperparameters of the best trials.

        Args:
            num_trials: how many; fewer are returned where fewer have a score.

        Returns:
            From best to worst; each can be given to `tuner.hypermodel.build`.
        """
        study = self._study
        if study is None:
            return []
        return [
            study.hyperparameters[trial.number].copy()
            for trial in self._best(num_trials)
        ]

    def get_best_models(self, num_models: int = 1) -> list[Any]:
        """The best trials' models, with the weights that their scores were measured on.

        Args:
            num_models: how many, at most the tuner's `keep_models`.

        Returns:
            From best to worst, ready for `evaluate` and `predict`. Where `build`
            returns something else than a `vt.Model`, the trained states.

        Raises:
            ValueError: if more are asked for than were kept.
        """
        if num_models > self._config.common.keep_models:
            raise ValueError(
                f"`get_best_models({num_models})`, but only the best "
                f"{self._config.common.keep_models} were kept. Make the tuner with "
                f"`keep_models={num_models}`."
            )
        study = self._study
        if study is None:
            return []
        best = [t for t in self._best(num_models) if t.number in study.kept.models]
        return [self._model(study, trial.number) for trial in best]

    def results_summary(self, num_trials: int = 10) -> ResultsSummary:
        """Prints the best trials, and returns them.

        Before a search they are those of the study that it would go on with.

        Args:
            num_trials: how many.

        Returns:
            The summary that was printed.

        Raises:
            StorageError: if the stored study cannot be read.
        """
        folder = None if self._config.common.overwrite else self._config.folder
        if self._study is None and folder is not None:
            stored = find_study(folder)
            if stored is not None:
                return stored.results_summary(num_trials)
        return print_summary(
            results_summary(self.trials, self._config.objective, num_trials)
        )

    def plan_summary(self) -> PlanSummary:
        """Prints which trials share a program and why others do not, and returns it.

        Returns:
            The summary that was printed: cohorts with their trials, what these differ
            in, the multiplications that padding adds, and the programs compiled. Before
            a search there are none, and of a complete study that was only read.
        """
        found = () if self._study is None else self._study.shares
        values = {trial.number: trial.values for trial in self.trials}
        only_read = not found and any(trial.epoch for trial in self.trials)
        note = _ONLY_READ if only_read else ""
        return print_summary(PlanSummary(cohort_rows(found, values), note))

    def search_space_summary(self) -> SearchSpaceSummary:
        """Prints the hyperparameters that `build` asks for, and returns them.

        Before a search `build` is run with some points of the space; a hyperparameter
        that it asks for more rarely may be missing then.

        Returns:
            The summary that was printed.
        """
        found: dict[str, Parameter] = {}
        for hyperparameters in self._points():
            for parameter in hyperparameters.parameters:
                found.setdefault(parameter.name, parameter)
        return print_summary(search_space_summary(tuple(found.values())))

    def _points(self) -> list[HyperParameters]:
        if self._study is not None and self._study.hyperparameters:
            known = self._study.hyperparameters
            # Those of a stored study know no more than values.
            recalled = [point.copy() for point in known if not point.parameters]
            for point in recalled:
                realise(self._build, point)
            return [point for point in known if point.parameters] + recalled
        steps, epochs = _ASSUMED_STEPS, self._config.max_epochs or 1
        points = [HyperParameters(steps_per_epoch=steps, max_epochs=epochs)]
        self._build(points[0])
        sampler = RandomSampler(self.seed)
        for number in range(_EXPLORED):
            point = HyperParameters(
                steps_per_epoch=steps,
                max_epochs=epochs,
                source=sampler.source(number, 0, ()),
            )
            if realise(self._build, point).error is None:
                points.append(point)
        return points

    def _best(self, count: int) -> list[Trial]:
        scored = [trial for trial in self.trials if trial.score is not None]
        return rank(scored, self._config.objective)[:count]

    def _model(self, study: Study, number: int) -> Any:
        hyperparameters = study.hyperparameters[number].copy()
        model = self.hypermodel.build(hyperparameters)
        state = study.state(number, model)
        if not isinstance(model, Model):
            return state
        model.restore(state, self.trials[number].epoch)
        return model

    def _epochs(self, epochs: int | None) -> int:
        given = self._config.max_epochs
        if epochs is not None and (isinstance(epochs, bool) or epochs < 1):
            raise ValueError(f"`epochs` is an integer of at least 1, got {epochs!r}.")
        if given is None and epochs is None:
            raise ValueError(
                "How long is a trial? Give the tuner `max_epochs=...`, or `search` "
                "`epochs=...`."
            )
        if given is not None and epochs not in (None, given):
            raise ValueError(
                f"`search(epochs={epochs})`, but the tuner was made with "
                f"`max_epochs={given}`, which plans the rungs. Leave `epochs` out."
            )
        return given if given is not None else int(epochs or 0)
