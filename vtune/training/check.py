"""Trials inside an envelope against the same trials alone, on real batches."""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from vtune.fusion.evaluate import evaluate
from vtune.fusion.evaluate_wide import evaluate_wide
from vtune.fusion.layout import Layout
from vtune.fusion.placement import live_entries, positions
from vtune.fusion.trace import Trace
from vtune.fusion.widening import Widening
from vtune.training.closeness import differs, noisy, relative, worst
from vtune.training.epoch import plain, typed


# An update may differ by this much of its largest entry, a metric by this much of its
# value: a few hundred roundings in single precision, far below what a wrong mask does.
UPDATE_TOLERANCE = 2e-3
METRIC_TOLERANCE = 1e-4

# Beyond the tolerance, a difference counts only if it is this many times what rounding
# errors in data and parameters make of the trial alone.
NOISE_FACTOR = 20.0

# Where trials start from: their initial state, and parameters of both signs, of one.
STARTS = ("initial", "random", "negative")


@dataclasses.dataclass(frozen=True)
class Difference:
    """How far a trial inside the envelope is from the trial alone.

    Args:
        what: a leaf of the state, a metric, or `padding`.
        error: the largest difference, relative to the largest entry of the update or to
            the metric; infinite where one of the two is finite only.
        noise: the same for the trial alone with rounding errors in data and parameters.
        tolerance: what is allowed without looking at the noise.
    """

    what: str
    error: float
    noise: float
    tolerance: float

    @property
    def is_wrong(self) -> bool:
        """Whether it is more than rounding."""
        return not self.error <= max(self.tolerance, NOISE_FACTOR * self.noise)


def compare(
    widening: Widening,
    trace: Trace,
    batches: Any,
    evaluated: Any,
    *,
    seed: int,
) -> tuple[Difference, ...]:
    """Trains a trial inside its envelope and alone, and compares every step.

    Both take each step from the same state, so that rounding errors don't add up; the
    states are those that the trial alone comes through, from its initial state and from
    random parameters. Nothing that matters to a trial may differ: metrics of training
    and evaluation, updates of every leaf, and zeros in the padding.

    Args:
        widening: the envelope.
        trace: the trial's functions, of a member's sizes.
        batches: the leaves of a training batch for each step, stacked.
        evaluated: the leaves of an evaluation batch, or None.
        seed: decides all draws.

    Returns:
        The differences, one for each leaf of the state and each metric.
    """
    comparison = _Comparison(widening, trace)
    arguments = (
        [jnp.asarray(a) for a in batches],
        None if evaluated is None else [jnp.asarray(a) for a in evaluated],
        widening.values(trace),
        jnp.asarray(widening.lane_sizes(trace)),
        jax.random.key_data(jax.random.key(seed)),
    )
    program = jax.jit(comparison.run).lower(*arguments)
    compiled = program.compile({"xla_backend_optimization_level": "1"})
    return comparison.differences(jax.device_get(compiled(*arguments)))


def wrong(differences: Sequence[Difference]) -> Difference | None:
    """The largest difference that is more than rounding, or None."""
    found = [difference for difference in differences if difference.is_wrong]
    return max(found, key=lambda d: np.nan_to_num(d.error, nan=np.inf), default=None)


class _Comparison:
    """One trial's functions, alone and inside the envelope."""

    def __init__(self, widening: Widening, trace: Trace):
        self._widening = widening
        self._trace = trace
        member = widening.member(trace)
        assert member is not None
        self._row = member
        self._count = len(trace.state_avals)

    def run(
        self, batches: Any, evaluated: Any, values: Any, sizes: Any, key: Any
    ) -> Mapping[str, Any]:
        key = jax.random.wrap_key_data(key)
        first = [array[0] for array in batches]
        initial = evaluate(self._trace.init, (), (), key, *first)
        result: dict[str, Any] = {}
        init = self._widening.functions.init
        if init is not None:
            drawn = evaluate_wide(init, values.init, sizes, key, *first)
            result["init"] = self._leaf_errors(self._narrow(drawn), initial, initial)
        avals = self._trace.state_avals
        starts = [plain(self._start(initial, name, key), avals) for name in STARTS]

        def step(state: Any, xs: Any) -> Any:
            number, batch = xs
            lane = (values, sizes, jax.random.fold_in(key, number))
            after, errors = self._step(state, batch, evaluated, lane)
            return after, errors

        def train(start: Any) -> Any:
            numbers = jnp.arange(len(batches[0]))
            return jax.lax.scan(step, start, (numbers, list(batches)))[1]

        # One after another, so that each function is compiled once.
        stacked = [jnp.stack(leaves) for leaves in zip(*starts)]
        errors = jax.lax.map(train, tuple(stacked))
        result["steps"] = jax.tree.map(lambda a: a.reshape(-1), errors)
        return result

    def _start(self, initial: Sequence[Any], name: str, key: Any) -> list[Any]:
        """The initial state with other parameters."""
        leaves = list(initial)
        if name == "initial":
            return leaves
        for index in self._trace.parameters:
            leaf = leaves[index]
            if jnp.issubdtype(leaf.dtype, jnp.floating):
                draw = jax.random.normal(jax.random.fold_in(key, index), leaf.shape)
                draw = -jnp.abs(draw) if name == "negative" else draw
                leaves[index] = (0.3 * draw).astype(leaf.dtype)
        return leaves

    def _step(
        self, state: Any, batch: Any, evaluated: Any, lane: Any
    ) -> tuple[Any, Any]:
        values, sizes, key = lane
        count, trace, functions = self._count, self._trace, self._widening.functions
        avals = trace.state_avals

        def alone(given: Any) -> Any:
            state, batch = given
            outputs = evaluate(
                trace.train[0], (), (), *typed(state, avals), *batch, key
            )
            after, metrics = outputs[:count], outputs[count:]
            if evaluated is not None:
                metrics += evaluate(trace.evaluate[0], (), (), *after, *evaluated)
            return plain(after, avals), [jnp.asarray(m, jnp.float32) for m in metrics]

        rounded = [noisy(leaf, index) for index, leaf in enumerate(state)]
        rounded_batch = [noisy(array, index) for index, array in enumerate(batch)]
        pair = jax.tree.map(
            lambda *a: jnp.stack(a), (list(state), batch), (rounded, rounded_batch)
        )
        afters, both = jax.lax.map(alone, pair)
        after, noisy_after = ([leaf[i] for leaf in afters] for i in range(2))
        metrics, noisy_metrics = ([metric[i] for metric in both] for i in range(2))
        before = self._wide(typed(state, avals))
        outputs = evaluate_wide(
            functions.train[0], values.train[0], sizes, *before, *batch, key
        )
        wide, found = outputs[:count], outputs[count:]
        if evaluated is not None:
            found += evaluate_wide(
                functions.evaluate[0],
                values.evaluate[0],
                sizes,
                *self._wide(typed(after, avals)),
                *evaluated,
            )
        narrow = plain(self._narrow(wide), avals)
        # What was added to the parameters is no difference of their updates.
        moved = [
            one - other + start if jnp.issubdtype(start.dtype, jnp.floating) else one
            for one, other, start in zip(noisy_after, rounded, state)
        ]
        errors = {
            "update": self._leaf_errors(narrow, after, state),
            "update noise": self._leaf_errors(moved, after, state),
            "metric": [relative(a, b, 1e-3) for a, b in zip(found, metrics)],
            "metric noise": [
                relative(a, b, 1e-3) for a, b in zip(noisy_metrics, metrics)
            ],
            "padding": self._left_in_padding(wide),
        }
        return tuple(after), errors

    def _leaf_errors(
        self, found: Sequence[Any], expected: Sequence[Any], before: Sequence[Any]
    ) -> list[Any]:
        """For each leaf the largest difference relative to the largest change.

        Where the true gradient of a leaf is zero, its change is rounding; it is seen
        against the changes of the leaves beside it.
        """
        changes = [
            jnp.abs(other - start).max(initial=0.0)
            if jnp.issubdtype(other.dtype, jnp.floating)
            else jnp.float32(0)
            for other, start in zip(expected, before)
        ]
        groups = [path.split("['")[0] for path in self._trace.state_paths]
        errors = []
        for group, one, other, change in zip(groups, found, expected, changes):
            if not jnp.issubdtype(other.dtype, jnp.floating):
                errors.append(differs(one, other))
                continue
            beside = jnp.stack(
                [c.astype(jnp.float32) for g, c in zip(groups, changes) if g == group]
            ).max()
            size = jnp.abs(other).max(initial=0.0)
            scale = jnp.maximum(jnp.maximum(change, 1e-5 * size), 1e-4 * beside)
            errors.append(worst(one, other, jnp.where(change > 0, scale, size)))
        return errors

    def _left_in_padding(self, wide: Sequence[Any]) -> Any:
        """1.0 if the padding of a state is not zero everywhere, else 0.0."""
        left = [
            (
                jnp.where(
                    live_entries(layouts, self._row), jnp.zeros((), leaf.dtype), leaf
                )
                != 0
            ).any()
            for leaf, layouts in zip(wide, self._widening.state)
            if _varies(layouts)
        ]
        return jnp.float32(jnp.stack(left).any() if left else 0)

    def _narrow(self, leaves: Sequence[Any]) -> list[Any]:
        found = []
        for leaf, layouts in zip(leaves, self._widening.state):
            for axis, layout in enumerate(layouts):
                if layout.varies:
                    places = positions(layout, self._row)
                    leaf = jnp.take(leaf, places, axis=axis, mode="clip")
            found.append(leaf)
        return found

    def _wide(self, leaves: Sequence[Any]) -> list[Any]:
        found = []
        for leaf, layouts in zip(leaves, self._widening.state):
            for axis, layout in enumerate(layouts):
                if layout.varies:
                    inverse = np.zeros(layout.wide, np.int32)
                    inverse[positions(layout, self._row)] = np.arange(leaf.shape[axis])
                    leaf = jnp.take(leaf, inverse, axis=axis, mode="clip")
            if _varies(layouts):
                zero = jnp.zeros((), leaf.dtype)
                leaf = jnp.where(live_entries(layouts, self._row), leaf, zero)
            found.append(leaf)
        return found

    def differences(self, result: Mapping[str, Any]) -> tuple[Difference, ...]:
        """The largest differences of all steps, by leaf and metric."""
        paths = self._trace.state_paths
        steps = result["steps"]
        found = []
        if "init" in result:
            for path, error in zip(paths, result["init"]):
                found.append(Difference(f"initial {path}", float(error), 0.0, 1e-5))
        for path, error, noise in zip(paths, steps["update"], steps["update noise"]):
            found.append(_of(path, error, noise, UPDATE_TOLERANCE))
        names = [f"train {name}" for name in self._trace.train_metrics]
        names += [f"eval {name}" for name in self._trace.eval_metrics]
        for name, error, noise in zip(names, steps["metric"], steps["metric noise"]):
            found.append(_of(name, error, noise, METRIC_TOLERANCE))
        found.append(_of("padding", steps["padding"], np.zeros(1), 0.0))
        return tuple(found)


def _of(what: str, error: Any, noise: Any, tolerance: float) -> Difference:
    finite = np.where(np.isfinite(noise), noise, 0.0)
    return Difference(what, float(np.max(error)), float(np.max(finite)), tolerance)


def _varies(layouts: Sequence[Layout]) -> bool:
    return any(layout.varies for layout in layouts)
