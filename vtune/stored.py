"""A study in its directory, read without the code that made it."""

import contextlib
import dataclasses
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from vtune.past import recalled
from vtune.reporting import text
from vtune.reporting.summary import ResultsSummary, print_summary, results_summary
from vtune.storage.checkpoints import Checkpoints
from vtune.storage.database import Database
from vtune.storage.failure import StorageError
from vtune.storage.folder import StudyFolder, state
from vtune.storage.records import ANOTHER_MACHINE, OUT_OF_MEMORY, Contents
from vtune.storage.store import refuse_links
from vtune.trial import Objective, Trial, TrialStatus, rank


@dataclasses.dataclass(frozen=True, repr=False)
class StoredStudy:
    """What is stored of a study.

    Args:
        path: its directory.
        objective: the metric that ranks trials.
        trials: a record of every trial, by number.
        planned: how many trials the whole search has; None where that is not known yet.
        settings: what the study was started with, by name.
        fingerprint: the versions, the device and the cores that it ran on.
        events: what happened at a time of day: seconds since 1970, and a text.
        contents: all records, as they are stored.
    """

    path: Path
    objective: Objective
    trials: tuple[Trial, ...]
    planned: int | None
    settings: Mapping[str, Any]
    fingerprint: Mapping[str, str]
    events: tuple[tuple[float, str], ...]
    contents: Contents

    def __repr__(self) -> str:
        done = sum(trial.status is not TrialStatus.RUNNING for trial in self.trials)
        of_all = "" if self.planned is None else f" of {self.planned}"
        place = f"{self.path.name!r} in {str(self.path.parent)!r}"
        name = text.shorten(self.objective.name, 60)
        best = "".join(
            f", best {name} {text.score(trial.score)} (trial {trial.number})"
            for trial in self.best_trials()
        )
        return f"<StoredStudy {place}: {done}{of_all} trials done{best}>"

    @property
    def marks(self) -> tuple[str, ...]:
        """What the results depend on that the seed does not tell.

        A device that had no memory for a program, and another machine that the study
        went on with. Where there is nothing, the same seed gives the same bits again.
        """
        return tuple(
            event.text
            for event in self.contents.events
            if event.kind == OUT_OF_MEMORY or ANOTHER_MACHINE in event.text
        )

    def results_summary(self, num_trials: int = 10) -> ResultsSummary:
        """Prints the best trials, and returns them.

        Args:
            num_trials: how many.

        Returns:
            The summary that was printed.
        """
        return print_summary(results_summary(self.trials, self.objective, num_trials))

    def best_trials(self, num_trials: int = 1) -> list[Trial]:
        """The best trials, from best to worst.

        Args:
            num_trials: how many; fewer are returned where fewer have a score.
        """
        scored = [trial for trial in self.trials if trial.score is not None]
        return rank(scored, self.objective)[:num_trials]

    def best_weights(self, num_models: int = 1) -> list[dict[str, np.ndarray]]:
        """The states of the best trials that are stored, from best to worst.

        Args:
            num_models: how many; fewer are returned where fewer are stored.

        Returns:
            For each trial its arrays, by the place that they have in the state, such as
            `.params['Dense_0']['kernel']`; random keys as their data.

        Raises:
            StorageError: if a checkpoint cannot be read.
        """
        newest = self.contents.checkpoints[-1:]
        for checkpoint in newest:
            folder = StudyFolder(self.path).checkpoints
            ranked = self.best_trials(len(self.trials))
            wanted = [t.number for t in ranked if t.number in checkpoint.models]
            states = Checkpoints(folder).load(checkpoint.name, wanted[:num_models])
            with _consistent(self.path):
                return [
                    dict(zip(self._leaves(number), states[number], strict=True))
                    for number in wanted[:num_models]
                ]
        return []

    def _leaves(self, number: int) -> list[str]:
        for decision in self.contents.decisions:
            if decision.kind == "start" and number in decision.trials:
                kind = decision.content["kinds"][decision.trials.index(number)]
                return decision.content["leaves"][kind]
        raise LookupError(f"nothing says what the arrays of trial {number} are")


@contextlib.contextmanager
def _consistent(path: Path) -> Iterator[None]:
    """Turns what comes of records that contradict each other into a StorageError."""
    try:
        yield
    except (LookupError, TypeError, ValueError) as error:
        raise StorageError(
            f"The records of the study in {path} contradict each other, so that it "
            f"cannot be read ({type(error).__name__}: {error}). Put a copy of it in "
            "its place."
        ) from error


def load_study(path: str | os.PathLike[str]) -> StoredStudy:
    """Reads a stored study, also while a search writes it.

    Nothing that is read is executed, and the code that made the study is not needed.

    Args:
        path: the study's directory: `directory` and `project_name` of the tuner.

    Returns:
        The study as it is now.

    Raises:
        StorageError: if there is none, or it cannot be read.

    Example:
        ```python
        import tempfile

        import flax.linen as nn
        import numpy as np
        import optax
        import vtune as vt

        def build(hp):
            rate = hp.Float("learning_rate", 1e-3, 1e-1, sampling="log")
            return vt.Model(nn.Dense(3), optax.adam(rate), loss="mse")

        x, y = np.random.rand(64, 4), np.random.rand(64, 3)
        with tempfile.TemporaryDirectory() as directory:
            tuner = vt.RandomSearch(
                build, "loss", max_trials=2, directory=directory, project_name="rates"
            )
            tuner.search(x, y, epochs=1, verbose=0)
            study = vt.load_study(f"{directory}/rates")
            assert study.trials == tuner.trials
            assert ".params['kernel']" in study.best_weights()[0]
        ```
    """
    folder = StudyFolder(Path(path).expanduser().absolute())
    study = find_study(folder)
    if study is None:
        raise StorageError(f"There is no study in {folder.path}.")
    return study


def find_study(folder: StudyFolder) -> StoredStudy | None:
    """Reads the study in a folder, if there is one.

    Args:
        folder: the folder, which need not exist.

    Returns:
        The study as it is now, or None.

    Raises:
        StorageError: if there is one that cannot be read.
    """
    if state(folder) != "study" or not folder.database.exists():
        return None
    refuse_links(folder)
    with Database.open(folder.database, writable=False) as database:
        contents = database.contents()
    with _consistent(folder.path):
        objective = Objective(*contents.study.settings["objective"])
        trials = tuple(recalled(contents, objective))
        planned = _planned(contents)
    return StoredStudy(
        folder.path,
        objective,
        trials,
        planned,
        contents.study.settings,
        contents.study.fingerprint,
        tuple((event.time, event.text) for event in contents.events),
        contents,
    )


def _planned(contents: Contents) -> int | None:
    starts = [d.content for d in contents.decisions if d.kind == "start"]
    if any(start["exhausted"] for start in starts):
        return len(contents.trials)
    first_rungs = [bracket[0][0] for bracket in contents.study.settings["rungs"]]
    return None if None in first_rungs else sum(first_rungs)
