"""What one lane does in an epoch, as a pure function of its state and constants."""

import dataclasses
import functools
from collections.abc import Hashable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int, Key, UInt32

from vtune.fusion.evaluate import evaluate
from vtune.fusion.evaluate_wide import evaluate_wide
from vtune.fusion.flat import FlatFunction
from vtune.fusion.widening import Widening
from vtune.training.keys import LaneKeys, epoch_order, step_key
from vtune.training.loop import Batches, Loop


State = tuple[Array, ...]
Constants = tuple[tuple[Array, ...], ...]
Sizes = Int[Array, " sizes"]


@dataclasses.dataclass(frozen=True, eq=False)
class LaneFunctions:
    """The functions of a cohort, for one lane.

    Args:
        widening: the cohort's functions inside its envelope.
        loop: the epoch.
    """

    widening: Widening
    loop: Loop

    @functools.cached_property
    def key(self) -> Hashable:
        """Equal only if the functions are: all that a program of them depends on."""
        return (self.widening.key, self.loop)

    def epoch(
        self,
        state: State,
        constants: Constants,
        sizes: Sizes,
        keys: LaneKeys,
        epoch: Int[Array, ""],
        training: Any,
        validation: Any,
    ) -> tuple[State, Float[Array, " metrics"], Bool[Array, ""]]:
        """Trains one epoch, then evaluates.

        Args:
            state: the leaves of the trial's state, in the envelope.
            constants: the trial's values of the lifted constants, for each training
                function and then for each evaluation function.
            sizes: the trial's own sizes.
            keys: the trial's keys.
            epoch: the epoch, counted from 0.
            training: the training set as one batch.
            validation: the validation set as one batch, or None.

        Returns:
            The next state, the training metrics followed by the validation metrics, and
            whether the training loss and every parameter are finite.
        """
        trace = self.widening.envelope
        parts = len(trace.train)
        rows = self._rows(keys, epoch)
        leaves, metrics = self._train(
            typed(state, trace.state_avals), constants[:parts], sizes, rows, training
        )
        finite = _finite(leaves, trace.parameters, metrics, trace.train_metrics)
        if validation is not None:
            evaluated = self._evaluate(leaves, constants[parts:], sizes, validation)
            metrics = jnp.concatenate([metrics, evaluated])
        return plain(leaves, trace.state_avals), metrics, finite

    def _rows(self, keys: LaneKeys, epoch: Int[Array, ""]) -> "_Rows":
        train = self.loop.train
        order = epoch_order(
            jax.random.wrap_key_data(keys.order), epoch, self.loop.samples
        )
        whole = order[: train.steps * train.size].reshape(train.steps, train.size)
        rest = order[train.steps * train.size :][: train.remainder]
        steps = epoch * self.loop.steps_per_epoch + jnp.arange(train.count)
        return _Rows(whole, rest, steps, jax.random.wrap_key_data(keys.step))

    def _train(
        self,
        leaves: list[Any],
        constants: Constants,
        sizes: Sizes,
        rows: "_Rows",
        training: Any,
    ) -> tuple[list[Any], Float[Array, " metrics"]]:
        avals = self.widening.envelope.state_avals
        functions = self.widening.functions.train

        def step(part: int, leaves: list[Any], index: Any, samples: Any) -> Any:
            batch = [array[samples] for array in jax.tree.leaves(training)]
            key = step_key(rows.key, index)
            outputs = evaluate_wide(
                functions[part], constants[part], sizes, *leaves, *batch, key
            )
            state = _strong(outputs[: len(leaves)], avals)
            return state, _vector(outputs[len(leaves) :])

        train = self.loop.train
        leaves, each = jax.lax.scan(
            lambda carry, xs: step(0, carry, *xs),
            leaves,
            (rows.steps[: train.steps], rows.whole),
        )
        total = each.sum(0) * train.size
        if train.remainder:
            leaves, last = step(1, leaves, rows.steps[-1], rows.rest)
            total = total + last * train.remainder
        return leaves, total / (train.steps * train.size + train.remainder)

    def _evaluate(
        self, leaves: list[Any], constants: Constants, sizes: Sizes, validation: Any
    ) -> Float[Array, " metrics"]:
        functions = self.widening.functions.evaluate
        batches: Batches = self.loop.evaluate  # pyright: ignore[reportAssignmentType]
        arrays = jax.tree.leaves(validation)
        whole = batches.steps * batches.size

        def metrics(part: int, batch: Sequence[Any]) -> Float[Array, " metrics"]:
            return _vector(
                evaluate_wide(functions[part], constants[part], sizes, *leaves, *batch)
            )

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


def wide_init(
    widening: Widening,
    constants: tuple[Array, ...],
    sizes: Sizes,
    key: UInt32[Array, " data"],
    batch: Any,
) -> State:
    """A trial's state before its first step, in the envelope.

    Args:
        widening: the cohort's functions, with an initialization.
        constants: the trial's values of the lifted constants of `init`.
        sizes: the trial's own sizes.
        key: the trial's key for its initial state, as data.
        batch: the first training batch, in the order of the data.

    Returns:
        The leaves of the state; random keys as their data.
    """
    inputs = (jax.random.wrap_key_data(key), *jax.tree.leaves(batch))
    leaves = evaluate_wide(widening.functions.init, constants, sizes, *inputs)
    return plain(leaves, widening.envelope.state_avals)


def own_init(
    function: FlatFunction,
    slots: tuple[int, ...],
    avals: Sequence[Any],
    constants: tuple[Array, ...],
    key: UInt32[Array, " data"],
    batch: Any,
) -> State:
    """A trial's state before its first step, by its own initialization.

    Args:
        function: the initialization.
        slots: which of its constants are handed in.
        avals: what the leaves of the state are.
        constants: the values of those constants.
        key: the trial's key for its initial state, as data.
        batch: the first training batch, in the order of the data.

    Returns:
        The leaves of the state; random keys as their data.
    """
    inputs = (jax.random.wrap_key_data(key), *jax.tree.leaves(batch))
    return plain(evaluate(function, slots, constants, *inputs), avals)


class _Rows(NamedTuple):
    """The samples of every step of an epoch, the steps' numbers, and their key."""

    whole: Int[Array, "steps batch"]
    rest: Int[Array, " remainder"]
    steps: Int[Array, " count"]
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
    finite = jnp.bool_(True)
    if "loss" in names:
        finite = jnp.isfinite(metrics[names.index("loss")])
    for index in parameters:
        if jnp.issubdtype(leaves[index].dtype, jnp.inexact):
            finite = finite & jnp.isfinite(leaves[index]).all()
    return finite


def _is_key(aval: Any) -> bool:
    return jnp.issubdtype(aval.dtype, jax.dtypes.prng_key)


def _strong(leaves: Sequence[Any], avals: Sequence[Any]) -> list[Any]:
    """The leaves in the state's own dtypes, so that a loop can carry them."""
    return [
        leaf if _is_key(aval) else jax.lax.convert_element_type(leaf, aval.dtype)
        for leaf, aval in zip(leaves, avals)
    ]


def plain(leaves: Sequence[Any], avals: Sequence[Any]) -> State:
    """The leaves as arrays of numbers: keys become their data."""
    return tuple(
        jax.random.key_data(leaf)
        if _is_key(aval)
        else jax.lax.convert_element_type(leaf, aval.dtype)
        for leaf, aval in zip(leaves, avals)
    )


def typed(leaves: Sequence[Any], avals: Sequence[Any]) -> list[Any]:
    """The inverse of `plain`."""
    return [
        jax.random.wrap_key_data(leaf, impl=_implementation(aval))
        if _is_key(aval)
        else leaf
        for leaf, aval in zip(leaves, avals)
    ]


def _implementation(aval: Any) -> Any:
    found = []
    jax.eval_shape(lambda key: found.append(jax.random.key_impl(key)), aval)
    return found[0]
