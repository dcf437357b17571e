"""What tuners and studies are made with, checked."""

import dataclasses
import os
import secrets
from collections.abc import Callable
from typing import Any

from vtune.search.sampler import Sampler
from vtune.search.schedule import Schedule
from vtune.storage.folder import StudyFolder, locate
from vtune.training.cache import CompileCache
from vtune.training.cohort import Lanes
from vtune.training.grouping import FuseWidths
from vtune.trial import Objective


@dataclasses.dataclass(frozen=True)
class TunerConfig:
    """What a tuner was made with.

    Args:
        objective: the metric that ranks trials.
        sampler: which values trials get, for a seed.
        schedule: the schedule for a number of epochs.
        max_epochs: the epochs of a trial with the full budget; None: `search` says.
        seed: from 0 to 2**32 - 1; drawn where the user gave none.
        seed_given: whether the user gave it.
        common: the arguments that all tuners have.
    """

    objective: Objective
    sampler: Callable[[int], Sampler]
    schedule: Callable[[int], Schedule]
    max_epochs: int | None
    seed: int
    seed_given: bool
    common: "Common"

    @property
    def folder(self) -> StudyFolder | None:
        """Where the study is kept; None where the user named no place."""
        common = self.common
        if common.directory is None and common.project_name is None:
            return None
        return locate(common.directory, common.project_name)


@dataclasses.dataclass(frozen=True)
class StudyConfig:
    """Everything that decides what a study does, beside `build` and the data.

    Args:
        objective: the metric that ranks trials.
        schedule: how long each trial trains, and which go on.
        sampler: which values trials get.
        seed: from 0 to 2**32 - 1.
        lanes: how the trials of a cohort run: `"vmap"`, `"map"` or `"auto"`.
        fuse_widths: whether trials of different widths share a program.
        keep_models: how many of the best trials' weights are kept.
        rewrites: whether equations are replaced by equal, faster ones.
    """

    objective: Objective
    schedule: Schedule
    sampler: Sampler
    seed: int
    lanes: Lanes = "auto"
    fuse_widths: FuseWidths = "auto"
    keep_models: int = 5
    rewrites: bool = True


@dataclasses.dataclass(frozen=True)
class Common:
    """The arguments that all tuners have, as `vt.Hyperband` explains them."""

    seed: int | None
    lanes: Lanes
    fuse_widths: FuseWidths
    keep_models: int
    directory: str | os.PathLike[str] | None
    project_name: str | None
    overwrite: bool
    checkpoint_seconds: float
    max_checkpoint_bytes: int | None
    compile_cache: CompileCache
    rewrites: bool


def configured(
    objective: Objective,
    sampler: Callable[[int], Sampler],
    schedule: Callable[[int], Schedule],
    max_epochs: int | None,
    common: Common,
) -> TunerConfig:
    """Checks the arguments that all tuners have.

    Args:
        objective: the metric that ranks trials.
        sampler: the sampler for a seed.
        schedule: the schedule for a number of epochs.
        max_epochs: the epochs of a trial with the full budget, or None.
        common: the other arguments.

    Returns:
        The settings.

    Raises:
        ValueError: if an argument is out of its range.
    """
    if max_epochs is not None:
        check_integer("max_epochs", max_epochs, 1)
    check_integer("keep_models", common.keep_models, 0)
    if common.lanes not in ("auto", "vmap", "map"):
        raise ValueError(f"`lanes` is 'auto', 'vmap' or 'map', got {common.lanes!r}.")
    if common.fuse_widths not in ("auto", "always", "never"):
        raise ValueError(
            f"`fuse_widths` is 'auto', 'always' or 'never', got {common.fuse_widths!r}."
        )
    if not isinstance(common.rewrites, bool):
        raise ValueError(f"`rewrites` is True or False, got {common.rewrites!r}.")
    seed = secrets.randbelow(2**32) if common.seed is None else common.seed
    check_integer("seed", seed, 0)
    if seed >= 2**32:
        raise ValueError(f"`seed` is at most 2**32 - 1, got {seed}.")
    if not common.checkpoint_seconds >= 0:
        raise ValueError(
            f"`checkpoint_seconds` is at least 0, got {common.checkpoint_seconds!r}."
        )
    if common.max_checkpoint_bytes is not None:
        check_integer("max_checkpoint_bytes", common.max_checkpoint_bytes, 1)
    if not isinstance(common.compile_cache, bool | str | os.PathLike):
        raise ValueError(
            f"`compile_cache` is True, False or a path, got {common.compile_cache!r}."
        )
    given = common.seed is not None
    config = TunerConfig(objective, sampler, schedule, max_epochs, seed, given, common)
    _ = config.folder  # a name that cannot be is refused at once
    return config


def named_objective(objective: Any) -> Objective:
    """The metric that a user gave, by its name or as an objective.

    Args:
        objective: a name or an `Objective`.

    Raises:
        TypeError: if it is neither.
        ValueError: if its direction is not known.
    """
    if isinstance(objective, Objective):
        return objective
    if not isinstance(objective, str):
        raise TypeError(
            "`objective` is the name of a metric or a `vt.Objective`, got "
            f"{type(objective).__name__}."
        )
    return Objective(objective)


def check_integer(name: str, value: Any, least: int) -> None:
    """Refuses what is no integer of at least some size.

    Args:
        name: the argument's name.
        value: what was given.
        least: the smallest that is allowed.

    Raises:
        ValueError: if it is refused.
    """
    if not isinstance(value, int) or isinstance(value, bool) or value < least:
        raise ValueError(f"`{name}` is an integer of at least {least}, got {value!r}.")
