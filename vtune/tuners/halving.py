"""Tuners that start many trials and let the better part of them go on."""

import os
from collections.abc import Sequence
from typing import Any

from vtune.configuration import Common, check_integer, configured, named_objective
from vtune.search.hyperband import (
    explicit_brackets,
    hyperband_brackets,
    successive_halving,
)
from vtune.search.sampler import RandomSampler
from vtune.search.schedule import Brackets
from vtune.training.cache import CompileCache
from vtune.training.cohort import Lanes
from vtune.training.grouping import FuseWidths
from vtune.trial import Objective
from vtune.tuner import Tuner


def Hyperband(
    hypermodel: Any,
    objective: str | Objective,
    *,
    max_epochs: int | None = None,
    factor: int = 2,
    min_epochs: int = 1,
    hyperband_iterations: int = 1,
    brackets: Sequence[Sequence[tuple[int, int]]] | None = None,
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
    """A tuner that starts many trials, and lets only the better part of them go on.

    Algorithm 1 of Li et al., Hyperband: A Novel Bandit-Based Approach to Hyperparameter
    Optimization, JMLR 18 (2018). Its brackets run at the same time. A trial that goes
    on keeps its parameters and its optimizer's state.

    Args:
        hypermodel: a function `build(hp)` that returns a `vt.Model` or another
            `Trainable`; or an object with such a method.
        objective: the metric that ranks trials; its direction is known from the name
            for the usual ones, otherwise give a `vt.Objective`.
        max_epochs: the epochs of a trial with the full budget (R); 100 by default.
        factor: one in `factor` trials goes on at the end of a rung (η), from 2.
        min_epochs: the epochs of the shortest rung.
        hyperband_iterations: how many times all brackets are run, each time with new
            configurations.
        brackets: explicit rungs in place of the algorithm's, as pairs (trials, epochs),
            such as `[[(12, 2), (4, 4), (2, 10)], [(6, 4), (2, 10)], [(4, 10)]]`.
        seed: from 0 to 2**32 - 1; None draws one.
        lanes: how trials that share a program run: `"vmap"` side by side, `"map"` one
            after another, `"auto"` by what suits the device.
        fuse_widths: whether trials that differ in widths share a program: `"always"`
            all that can, `"never"`, `"auto"` where compiling would cost more than
            padding does.
        keep_models: how many of the best trials' weights are kept.
        directory: where studies are kept. If it or `project_name` is given, all that
            happens is stored, and the same search goes on where it was stopped.
        project_name: the study's own folder in `directory`.
        overwrite: whether a study that is stored there is erased first.
        checkpoint_seconds: how long training may go without a checkpoint; one is
            written at the ends of rungs as well.
        max_checkpoint_bytes: what checkpoints may take on the disk; weights of the best
            trials are left out where there is no room for them, the worst first.
        compile_cache: where compiled programs are kept, so that another process need
            not compile them: True, in the user's cache folder, or where JAX was told
            to keep them; a path; or False, as JAX is set.
        rewrites: whether convolutions and pooling, gradients included, are computed in
            the form that is fastest on the device; it changes last bits.

    Returns:
        The tuner.

    Raises:
        ValueError: if an argument is out of its range.

    Example:
        ```python
        import flax.linen as nn
        import numpy as np
        import optax
        import vtune as vt

        def build(hp):
            rate = hp.Float("learning_rate", 1e-3, 1e-1, sampling="log")
            return vt.Model(nn.Dense(3), optax.adam(rate), loss="mse")

        x, y = np.random.rand(64, 4), np.random.rand(64, 3)
        tuner = vt.Hyperband(build, "val_loss", max_epochs=4, seed=0)
        tuner.search(x, y, validation_split=0.25, batch_size=16, verbose=0)
        best = tuner.get_best_hyperparameters()[0]
        ```
    """
    check_integer("hyperband_iterations", hyperband_iterations, 1)
    if brackets is None:
        max_epochs = 100 if max_epochs is None else max_epochs
        planned = hyperband_brackets(max_epochs, factor, min_epochs)
    else:
        planned = explicit_brackets(brackets)
        longest = max(rungs[-1].epochs for rungs in planned)
        if max_epochs not in (None, longest):
            raise ValueError(
                f"`max_epochs={max_epochs}`, but the longest of `brackets` ends at "
                f"epoch {longest}. Leave `max_epochs` out."
            )
        max_epochs = longest
    goal = named_objective(objective)
    schedule = Brackets((planned,) * hyperband_iterations, goal)
    config = configured(
        goal,
        RandomSampler,
        lambda epochs: schedule,
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


def SuccessiveHalving(
    hypermodel: Any,
    objective: str | Objective,
    *,
    max_trials: int,
    max_epochs: int,
    factor: int = 2,
    min_epochs: int = 1,
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
    """A tuner with a single bracket: all trials start with the smallest budget.

    Args:
        hypermodel: as in `vt.Hyperband`.
        objective: as in `vt.Hyperband`.
        max_trials: the trials of the first rung.
        max_epochs: the epochs of a trial with the full budget.
        factor: one in `factor` trials goes on at the end of a rung, from 2.
        min_epochs: the epochs of the shortest rung.
        seed, lanes, fuse_widths, keep_models, directory, project_name, overwrite,
            checkpoint_seconds, max_checkpoint_bytes, compile_cache, rewrites: as in
            `vt.Hyperband`.

    Returns:
        The tuner.

    Raises:
        ValueError: if an argument is out of its range.
    """
    goal = named_objective(objective)
    bracket = successive_halving(max_trials, max_epochs, factor, min_epochs)
    schedule = Brackets(((bracket,),), goal)
    config = configured(
        goal,
        RandomSampler,
        lambda epochs: schedule,
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
