"""Training one model: a cohort of one, on the same path as a search."""

import dataclasses
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from vtune.failure import SearchError
from vtune.training.data import DataSet
from vtune.training.lanes import to_leaves, to_tree
from vtune.training.loop import tracer, training_loop
from vtune.training.trainer import Trainer
from vtune.trial import Trainable


@dataclasses.dataclass(frozen=True)
class History:
    """What `fit` returns.

    Args:
        epoch: the epochs, counted from 0.
        history: each metric's values by name, one an epoch.

    Example:
        ```python
        import vtune as vt

        history = vt.History([0, 1, 2], {"val_accuracy": [0.81, 0.86, 0.85]})
        values = history.history["val_accuracy"]
        assert 1 + values.index(max(values)) == 2  # the epochs to retrain with
        ```
    """

    epoch: list[int]
    history: dict[str, list[float]]


@dataclasses.dataclass(frozen=True)
class FitConfig:
    """The settings of a `fit`.

    Args:
        epochs: how many.
        batch_size: samples in a training step.
        drop_remainder: whether samples that do not fill a batch are left out.
        seed: the seed of the study that the model's key comes from.
        number: the number of the trial there.

    Raises:
        ValueError: if `epochs` or `seed` is out of range.
    """

    epochs: int
    batch_size: int
    drop_remainder: bool
    seed: int
    number: int

    def __post_init__(self):
        for name, least, most in (("epochs", 1, math.inf), ("seed", 0, 2**32 - 1)):
            value = getattr(self, name)
            whole = isinstance(value, int) and not isinstance(value, bool)
            if not whole or not least <= value <= most:
                raise ValueError(
                    f"`fit({name}=...)` is an integer from {least}, got {value!r}."
                )


def fit(
    model: Trainable,
    start: tuple[Any, int] | None,
    data: tuple[DataSet, DataSet | None],
    config: FitConfig,
    listeners: Sequence[Callable[[int, Mapping[str, float]], None]],
) -> tuple[tuple[Any, int], History]:
    """Trains a model.

    Args:
        model: the model.
        start: a state and the epochs that it has trained, or None to begin anew.
        data: the training set, and the validation set or None.
        config: how.
        listeners: are called after each epoch, counted from 0, with its metrics.

    Returns:
        The trained state with the epochs that it has trained, and the history.

    Raises:
        SearchError: if the device cannot train the model.
    """
    training, validation = data
    loop = training_loop(
        training,
        validation,
        batch_size=config.batch_size,
        drop_remainder=config.drop_remainder,
    )
    trainer = Trainer(loop, training, validation, seed=config.seed, lanes="map")
    number = config.number
    trace = tracer(loop, training, validation)(model)
    trainer.admit({number: trace})
    trained = 0
    if start is not None:
        state, trained = start
        trainer.restore(number, to_leaves(state, trace), trained)
    _raise(trainer.arrange([number]).failures.get(number))
    history = History([], {})
    for epoch, found in enumerate(trainer.train([number], config.epochs)):
        result = found.results[number]
        _raise(result.failure)
        history.epoch.append(epoch)
        for name, value in result.metrics.items():
            history.history.setdefault(name, []).append(value)
        for listener in listeners:
            listener(epoch, result.metrics)
    state = to_tree(trainer.states([number])[number], trace)
    return (state, trained + config.epochs), history


def _raise(failure: Exception | None) -> None:
    if failure is not None:
        raise SearchError(f"The model cannot be trained: {failure}") from failure
