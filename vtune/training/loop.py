"""The shape of an epoch: which batches it trains and evaluates on."""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from vtune.fusion.trace import Trace, trace_trial
from vtune.training.data import DataSet
from vtune.trial import Trainable


_EVALUATION_BATCHES = (64, 1024)


@dataclasses.dataclass(frozen=True)
class Batches:
    """How a data set is cut: `steps` batches of `size`, then one of `remainder`.

    Args:
        size: samples in a whole batch.
        steps: whole batches.
        remainder: samples in the last, smaller batch; 0 for none.
    """

    size: int
    steps: int
    remainder: int

    @property
    def sizes(self) -> tuple[int, ...]:
        """The different batch sizes: the whole one, and the remainder's if any."""
        whole = (self.size,) if self.steps else ()
        return whole + ((self.remainder,) if self.remainder else ())

    @property
    def count(self) -> int:
        """The number of batches."""
        return self.steps + (self.remainder > 0)


@dataclasses.dataclass(frozen=True)
class Loop:
    """One epoch: the training batches, and the evaluation batches if any."""

    samples: int
    train: Batches
    evaluate: Batches | None

    @property
    def steps_per_epoch(self) -> int:
        """The number of calls of `train_step` in one epoch."""
        return self.train.count


def training_loop(
    training: DataSet,
    validation: DataSet | None,
    *,
    batch_size: int,
    drop_remainder: bool = True,
) -> Loop:
    """The epoch of a data set.

    Args:
        training: what is trained on.
        validation: what is evaluated at the end of an epoch, or None.
        batch_size: samples in a training batch.
        drop_remainder: whether the samples that do not fill a batch are left out of the
            epoch; each epoch has an order of its own, so that other samples are left
            out each time. Otherwise the epoch ends with a smaller batch.

    Returns:
        The loop.

    Raises:
        ValueError: if `batch_size` is not an integer from 1 to the number of samples.
    """
    _check_batch_size(batch_size, training.size)
    steps, remainder = divmod(training.size, batch_size)
    train = Batches(batch_size, steps, 0 if drop_remainder else remainder)
    evaluate = None if validation is None else evaluation_batches(validation.size)
    return Loop(training.size, train, evaluate)


def evaluation_batches(size: int, batch_size: int | None = None) -> Batches:
    """How `size` samples are evaluated: exactly, each sample once.

    Without a batch size, the largest divisor of `size` up to 1024 that is at least 64
    is taken, so that there is no remainder to trace and compile; where there is none,
    512.
    """
    if batch_size is None:
        low, high = _EVALUATION_BATCHES
        divisors = (d for d in range(min(size, high), low - 1, -1) if size % d == 0)
        batch_size = next(divisors, min(size, 512))
    batch_size = min(batch_size, size)
    steps, remainder = divmod(size, batch_size)
    return Batches(batch_size, steps, remainder)


def tracer(
    loop: Loop, training: DataSet, validation: DataSet | None
) -> Callable[[Trainable], Trace]:
    """A function that traces trials for an epoch, and shares what trials share.

    Args:
        loop: the epoch.
        training: what is trained on.
        validation: what is evaluated, or None.

    Returns:
        A function from a trainable to its trace.
    """
    evaluated = ()
    if validation is not None and loop.evaluate is not None:
        evaluated = _abstract_batches(validation, loop.evaluate)
    return functools.partial(
        trace_trial,
        key=jax.eval_shape(lambda: jax.random.key(0)),
        train_batches=_abstract_batches(training, loop.train),
        eval_batches=evaluated,
        cache={},
    )


def _abstract_batches(data: DataSet, batches: Batches) -> tuple[Any, ...]:
    def abstract(size: int) -> Any:
        return jax.tree.map(
            lambda array: jax.ShapeDtypeStruct(
                (size, *array.shape[1:]), jnp.result_type(array)
            ),
            data.batch,
        )

    return tuple(abstract(size) for size in batches.sizes)


def _check_batch_size(batch_size: Any, samples: int) -> None:
    if not isinstance(batch_size, int) or isinstance(batch_size, bool):
        raise ValueError(f"`batch_size` is an integer, got {batch_size!r}.")
    if batch_size < 1:
        raise ValueError(f"`batch_size` is at least 1, got {batch_size}.")
    if batch_size > samples:
        raise ValueError(
            f"`batch_size={batch_size}` is larger than the {samples} training samples."
        )
