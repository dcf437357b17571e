"""From a sampler and `build` to a trial that can be trained, or the reason why not."""

import dataclasses
from collections.abc import Callable, Sequence, Set
from typing import Any

from vtune.hyperparameters import HyperParameters
from vtune.search.sampler import Sampler, configuration_key
from vtune.trial import Trainable


Build = Callable[[HyperParameters], Any]

ATTEMPTS = 100


@dataclasses.dataclass(frozen=True, eq=False)
class Proposal:
    """A configuration and what `build` made of it.

    Args:
        hyperparameters: what `build` asked for and got.
        trainable: what it returned; None if it failed.
        error: the exception that it raised, or None.
    """

    hyperparameters: HyperParameters
    trainable: Trainable | None = None
    error: Exception | None = None


@dataclasses.dataclass(frozen=True)
class Horizon:
    """What `build` may read of the search that it runs in.

    Args:
        steps_per_epoch: the calls of `train_step` in one epoch.
        max_epochs: the epochs of a trial with the full budget.
        seed: the study's seed.
    """

    steps_per_epoch: int
    max_epochs: int
    seed: int


def propose(
    build: Build,
    sampler: Sampler,
    number: int,
    history: Sequence[HyperParameters],
    tried: Set[Any],
    horizon: Horizon,
) -> Proposal | None:
    """Draws a configuration that was not tried yet, and builds it.

    Args:
        build: the user's function.
        sampler: gives the values.
        number: the trial's number.
        history: the earlier trials' hyperparameters, by number.
        tried: the `configuration_key` of each of them.
        horizon: what `build` may read.

    Returns:
        The proposal; None where the space is exhausted, which 100 draws in vain show.

    Raises:
        ValueError: if `build` asks for a hyperparameter named `batch_size`, which is an
            argument of `search`.
    """
    for attempt in range(ATTEMPTS):
        source = sampler.source(number, attempt, history)
        if source is None:
            return None
        hyperparameters = HyperParameters(
            steps_per_epoch=horizon.steps_per_epoch,
            max_epochs=horizon.max_epochs,
            source=source,
            origin=(horizon.seed, number),
        )
        proposal = realise(build, hyperparameters)
        if configuration_key(hyperparameters.values) not in tried:
            return proposal
    return None


def realise(build: Build, hyperparameters: HyperParameters) -> Proposal:
    """Runs `build` and checks what it returns; an exception becomes part of the result.

    Args:
        build: the user's function.
        hyperparameters: what it reads its values from.

    Returns:
        The proposal.

    Raises:
        ValueError: if `build` asks for a hyperparameter named `batch_size`.
    """
    try:
        trainable = build(hyperparameters)
    except Exception as error:
        return Proposal(hyperparameters, error=error)
    if "batch_size" in hyperparameters:
        raise ValueError(
            "`build` asks for a hyperparameter named 'batch_size', but the batch size "
            "is an argument of `search` and the same for all trials. Remove it from "
            "`build`, or run one search for each batch size."
        )
    if trainable is None:
        error = TypeError("`build` returned None; end it with `return vt.Model(...)`.")
    elif not isinstance(trainable, Trainable):
        error = TypeError(
            f"`build` returned a {type(trainable).__name__}; it returns a `vt.Model`, "
            "or any object with the methods `init`, `train_step` and `eval_step`."
        )
    else:
        return Proposal(hyperparameters, trainable)
    return Proposal(hyperparameters, error=error)
