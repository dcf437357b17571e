"""What one lane does in an epoch, as a pure function of its state and constants."""

import dataclasses
import functools
from collections.abc import Hashable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int, Key

from vtune.fusion import internals
from vtune.fusion.evaluate import Bind
from vtune.fusion.evaluate_wide import evaluate_wide
from vtune.fusion.rewrites.rewrites import Rewrites
from vtune.fusion.widening import Widening
from vtune.training.keys import step_key
from vtune.training.leaves import State, plain, strong, typed
from vtune.training.loop import Batches, Loop


Sizes = Int[Array, " sizes"]
Ended = tuple[State, Float[Array, " all"], Bool[Array, ""]]


@dataclasses.dataclass(frozen=True, eq=False)
class LaneFunctions:
    """The functions of a cohort, for one lane.

    Args:
        widening: the cohort's functions inside its envelope.
        loop: the epoch.
        rewrites: which equations are replaced by equal, faster ones; None: none.
    """

    widening: Widening
    loop: Loop
    rewrites: Rewrites | None

    @functools.cached_property
    def key(self) -> Hashable:
        """Equal only if the functions are: all that a program of them depends on."""
        return (self.widening.key, self.loop, self.rewrites)

    @property
    def bind(self) -> Bind:
        """How an equation is computed."""
        return internals.bind if self.rewrites is None else self.rewrites.bind


class LaneInputs(NamedTuple):
    """What an epoch of one lane takes beside its state.

    Args:
        constants: the trial's values of the lifted constants, for each training
            function and then for each evaluation function.
        sizes: the trial's own sizes.
        key: the trial's key for its steps, as data.
        order: the order of the samples in this epoch.
        epoch: the epoch, counted from 0.
    """

    constants: Any
    sizes: Any
    key: Any
    order: Any
    epoch: Any


@dataclasses.dataclass(frozen=True, eq=False)
class LaneEpoch:
    """An epoch of one lane, but for its state.

    Args:
        functions: the cohort's functions.
        lane: what is the lane's own.
        training: the training set as one batch.
        validation: the validation set as one batch, or None.
        active: whether the trial trains, or keeps its state; None: it trains.
    """

    functions: LaneFunctions
    lane: LaneInputs
    training: Any
    validation: Any
    active: Bool[Array, ""] | None = None

    def whole(self, state: State) -> Ended:
        """Trains one epoch, then evaluates.

        Args:
            state: the leaves of the trial's state, in the envelope.

        Returns:
            The next state, the training metrics followed by the validation metrics, and
            whether the training loss and every parameter are finite.
        """
        rows, before = self._rows(), typed(state, self._avals)
        leaves, each = self._steps(before, rows.whole, rows.key)
        return self._ended(before, leaves, each, rows)

    def slice(
        self, state: State, first: Int[Array, ""], length: int
    ) -> tuple[State, Float[Array, "steps metrics"]]:
        """Takes some of the epoch's steps on whole batches.

        Args:
            state: the leaves of the trial's state, in the envelope.
            first: the number of the first step, within the epoch.
            length: how many steps.

        Returns:
            The next state, and the training metrics of each step.
        """
        rows = self._rows()
        some = [
            jax.lax.dynamic_slice_in_dim(array, first, length) for array in rows.whole
        ]
        before = typed(state, self._avals)
        leaves, each = self._steps(before, some, rows.key)
        return plain(self._kept(before, leaves), self._avals), each

    def end(self, state: State, each: Float[Array, "steps metrics"]) -> Ended:
        """Does what is left of the epoch after the steps on whole batches.

        Args:
            state: the leaves of the trial's state, in the envelope.
            each: the training metrics of these steps.

        Returns:
            As `whole`.
        """
        before = typed(state, self._avals)
        return self._ended(before, before, each, self._rows())

    @property
    def _avals(self) -> Sequence[Any]:
        return self.functions.widening.envelope.state_avals

    def _rows(self) -> "_Rows":
        loop, order = self.functions.loop, self.lane.order
        train = loop.train
        whole = order[: train.steps * train.size].reshape(train.steps, train.size)
        rest = order[train.steps * train.size :][: train.remainder]
        steps = self.lane.epoch * loop.steps_per_epoch + jnp.arange(train.count)
        key = jax.random.wrap_key_data(self.lane.key)
        return _Rows((steps[: train.steps], whole), (steps[-1], rest), key)

    def _step(
        self, part: int, leaves: list[Any], batch: Any, key: Key[Array, ""]
    ) -> tuple[list[Any], Float[Array, " metrics"]]:
        index, samples = batch
        arrays = [array[samples] for array in jax.tree.leaves(self.training)]
        outputs = evaluate_wide(
            self.functions.widening.functions.train[part],
            self.lane.constants[part],
            self.lane.sizes,
            *leaves,
            *arrays,
            step_key(key, index),
            bind=self.functions.bind,
        )
        state = strong(outputs[: len(leaves)], self._avals)
        return state, _vector(outputs[len(leaves) :])

    def _kept(self, before: list[Any], after: list[Any]) -> list[Any]:
        """The state after some steps, or before them if the trial does not train.

        Chosen in each step, what an optimizer remembers would be copied in each step: a
        parameter's update needs the next moment as it is computed, not as it is kept.
        Chosen once, the states before take memory until the end.
        """
        if self.active is None:
            return after
        return [jnp.where(self.active, new, old) for new, old in zip(after, before)]

    def _steps(
        self, leaves: list[Any], batches: Sequence[Any], key: Key[Array, ""]
    ) -> tuple[list[Any], Float[Array, "steps metrics"]]:
        return jax.lax.scan(
            lambda carry, batch: self._step(0, carry, batch, key),
            leaves,
            tuple(batches),
        )

    def _ended(
        self,
        before: list[Any],
        leaves: list[Any],
        each: Float[Array, "steps metrics"],
        rows: "_Rows",
    ) -> Ended:
        """Trains on the last, smaller batch, if there is one, and evaluates.

        What a trial that does not train would have come to is forgotten: its state is
        what it was before, and its metrics and whether they are finite mean nothing.
        """
        train, trace = self.functions.loop.train, self.functions.widening.envelope
        total = each.sum(0) * train.size
        if train.remainder:
            leaves, last = self._step(1, leaves, rows.rest, rows.key)
            total = total + last * train.remainder
        metrics = total / (train.steps * train.size + train.remainder)
        finite = _finite(leaves, trace.parameters, metrics, trace.train_metrics)
        if self.validation is not None:
            metrics = jnp.concatenate([metrics, self._evaluated(leaves)])
        return plain(self._kept(before, leaves), self._avals), metrics, finite

    def _evaluated(self, leaves: list[Any]) -> Float[Array, " metrics"]:
        widening = self.functions.widening
        functions = widening.functions.evaluate
        constants = self.lane.constants[len(widening.functions.train) :]
        batches: Batches = self.functions.loop.evaluate  # pyright: ignore[reportAssignmentType]
        arrays = jax.tree.leaves(self.validation)
        whole = batches.steps * batches.size

        def metrics(part: int, batch: Sequence[Any]) -> Float[Array, " metrics"]:
            outputs = evaluate_wide(
                functions[part],
                constants[part],
                self.lane.sizes,
                *leaves,
                *batch,
                bind=self.functions.bind,
            )
            return _vector(outputs)

        stacked = [
            array[:whole].reshape(batches.steps, batches.size, *array.shape[1:])
            for array in arrays
        ]
        _, each = jax.lax.scan(lambda _, b: (None, metrics(0, b)), None, stacked)
        total = each.sum(0) * batches.size
        if batches.remainder:
            rest = [array[whole:] for array in arrays]
            total = total + metrics(1, rest) * batches.remainder
        return total / (whole + batches.remainder)


class _Rows(NamedTuple):
    """An epoch's steps: the number and the samples of each, and their key.

    Args:
        whole: those on whole batches.
        rest: the one on a smaller batch, if there is one.
        key: what the keys of steps come from.
    """

    whole: tuple[Int[Array, " steps"], Int[Array, "steps batch"]]
    rest: tuple[Int[Array, ""], Int[Array, " remainder"]]
    key: Key[Array, ""]


def _vector(metrics: Sequence[Any]) -> Float[Array, " metrics"]:
    if not metrics:
        return jnp.zeros(0, jnp.float32)
    return jnp.stack([jnp.asarray(metric, jnp.float32) for metric in metrics])


def _finite(
    leaves: Sequence[Any],
    parameters: Sequence[int],
    metrics: Float[Array, " metrics"],
    names: Sequence[str],
) -> Bool[Array, ""]:
    groups: dict[Any, list[Any]] = {}
    for index in parameters:
        if jnp.issubdtype(leaves[index].dtype, jnp.inexact):
            leaf = leaves[index]
            groups.setdefault(leaf.dtype, []).append(leaf.ravel())
    if "loss" in names:
        loss = metrics[names.index("loss")]
        groups.setdefault(loss.dtype, []).append(loss.ravel())
    finite = jnp.bool_(True)
    for group in groups.values():
        # Each array that is reduced is several loops to compile; without the barrier
        # the compiler would reduce them one by one again.
        joined = jax.lax.optimization_barrier(jnp.concatenate(group))
        finite &= jnp.isfinite(joined).all()
    return finite
