"""Tuners that train every trial to the end."""

import os
from typing import Any

from vtune.configuration import Common, check_integer, configured, named_objective
from vtune.search.sampler import GridSampler, RandomSampler
from vtune.search.schedule import Brackets, Rung
from vtune.training.cache import CompileCache
from vtune.training.cohort import Lanes
from vtune.training.grouping import FuseWidths
from vtune.trial import Objective
from vtune.tuner import Tuner


def RandomSearch(
    hypermodel: Any,
    objective: str | Objective,
    *,
    max_trials: int = 10,
    max_epochs: int | None = None,
    seed: int | None = None,
    lanes: Lanes = "auto",
    fuse_widths: FuseWidths = "auto",
    keep_models: int = 5,
    directory: str | os.PathLike[str] | None = None,
    project_name: str | None = None,
    overwrite: bool = False,
    checkpoint_seconds: float = 300.0,
    max_checkpoint_bytes: int | None = None,
    compile_cache: CompileCache = True,
    rewrites: bool = True,
) -> Tuner:
    """A tuner that draws each trial at random and trains it to the end.

    Args:
        hypermodel: as in `vt.Hyperband`.
        objective: as in `vt.Hyperband`.
        max_trials: how many trials.
        max_epochs: the epochs of each; otherwise `search(epochs=...)` gives them.
        seed, lanes, fuse_widths, keep_models, directory, project_name, overwrite,
            checkpoint_seconds, max_checkpoint_bytes, compile_cache, rewrites: as in
            `vt.Hyperband`.

    Returns:
        The tuner.

    Raises:
        ValueError: if an argument is out of its range.
    """
    check_integer("max_trials", max_trials, 1)
    goal = named_objective(objective)
    config = configured(
        goal,
        RandomSampler,
        lambda epochs: Brackets((((Rung(max_trials, epochs),),),), goal),
        max_epochs,
        Common(
            seed,
            lanes,
            fuse_widths,
            keep_models,
            directory,
            project_name,
            overwrite,
            checkpoint_seconds,
            max_checkpoint_bytes,
            compile_cache,
            rewrites,
        ),
    )
    return Tuner(hypermodel, config)


def GridSearch(
    hypermodel: Any,
    objective: str | Objective,
    *,
    max_trials: int | None = None,
    max_epochs: int | None = None,
    seed: int | None = None,
    lanes: Lanes = "auto",
    fuse_widths: FuseWidths = "auto",
    keep_models: int = 5,
    directory: str | os.PathLike[str] | None = None,
    project_name: str | None = None,
    overwrite: bool = False,
    checkpoint_seconds: float = 300.0,
    max_checkpoint_bytes: int | None = None,
    compile_cache: CompileCache = True,
    rewrites: bool = True,
) -> Tuner:
    """A tuner that trains every combination of values.

    First values come first, and the last parameter changes fastest. A parameter without
    steps takes ten values, spread evenly over its range.

    Args:
        hypermodel: as in `vt.Hyperband`.
        objective: as in `vt.Hyperband`.
        max_trials: stop after so many combinations; None for all.
        max_epochs: the epochs of each; otherwise `search(epochs=...)` gives them.
        seed: decides initial weights and the order of the data.
        lanes, fuse_widths, keep_models, directory, project_name, overwrite,
            checkpoint_seconds, max_checkpoint_bytes, compile_cache, rewrites: as in
            `vt.Hyperband`.

    Returns:
        The tuner.

    Raises:
        ValueError: if an argument is out of its range.
    """
    if max_trials is not None:
        check_integer("max_trials", max_trials, 1)
    goal = named_objective(objective)
    config = configured(
        goal,
        lambda seed: GridSampler(),
        lambda epochs: Brackets((((Rung(max_trials, epochs),),),), goal),
        max_epochs,
        Common(
            seed,
            lanes,
            fuse_widths,
            keep_models,
            directory,
            project_name,
            overwrite,
            checkpoint_seconds,
            max_checkpoint_bytes,
            compile_cache,
            rewrites,
        ),
    )
    return Tuner(hypermodel, config)
