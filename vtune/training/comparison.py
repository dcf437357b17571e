"""A trial inside its envelope beside the same trial alone, on real batches."""

import dataclasses
import functools
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import numpy as np

from vtune.fusion.trace import Trace
from vtune.fusion.widening import Widening
from vtune.training.closeness import (
    differs,
    is_float,
    largest,
    noisy,
    relative,
    worst,
)
from vtune.training.compile import Program, Request, abstract
from vtune.training.keys import LaneKeys
from vtune.training.lanes import HostState
from vtune.training.requests import init_request, keys_request, own_init_request
from vtune.training.step import (
    own_constants,
    own_step_request,
    wide_constants,
    wide_step_request,
)
from vtune.training.streams import side_by_side


# An update may differ by this much of its largest entry: where a tanh is saturated, the
# rounding of 1 - t² alone makes 1e-2 of it; what a wrong mask does is of its own size.
UPDATE_TOLERANCE = 2e-2

# A metric may differ by this much of its value, a thousand roundings.
METRIC_TOLERANCE = 1e-4

# Beyond the tolerance, a difference counts only if it is this many times what rounding
# errors in data and parameters make of the trial alone.
NOISE_FACTOR = 20.0

# A gradient that is truly zero is a sum of products that cancel: this many roundings of
# the others beside it may be left.
_ROUNDINGS_OF_ZERO = 8.0

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


@dataclasses.dataclass(frozen=True, eq=False)
class Comparison:
    """A trial that is trained inside its envelope and alone, step by step.

    Both take each step from the same state, so that rounding errors don't add up; the
    states are those that the trial alone comes through, from its initial state and from
    random parameters. Nothing that matters to a trial may differ: metrics of training
    and evaluation, updates of every leaf, and zeros in the padding.

    Args:
        widening: the envelope.
        trace: the trial's functions, of a member's sizes.
        batches: a training batch for each step, stacked.
        evaluated: an evaluation batch, or None.
        seed: decides all draws.
        rounding: how much the factors of products are rounded, relative to their size.
    """

    widening: Widening
    trace: Trace
    batches: Any
    evaluated: Any
    seed: int
    rounding: float

    def requests(self) -> dict[str, Request]:
        """The programs that are compared, by what they do."""
        widening, trace = self.widening, self.trace
        batch = jax.tree.map(abstract, self._batch(0))
        evaluated = jax.tree.map(abstract, self.evaluated)
        requests = {
            "keys": keys_request(),
            "own init": own_init_request(widening, trace, batch),
            "own step": own_step_request(widening, trace, batch, evaluated),
            "wide step": wide_step_request(widening, trace, batch, evaluated),
        }
        if widening.functions.init is not None:
            requests["wide init"] = init_request(widening, trace, batch)
        return requests

    # What overflows or is not finite is a result to be compared, no error.
    @np.errstate(all="ignore")
    def differences(
        self, compiled: Mapping[str, Program | Exception], threads: int = 1
    ) -> tuple[Difference, ...]:
        """The largest differences of all steps, by leaf and metric.

        Args:
            compiled: what was asked for by `requests`.
            threads: from how many starts it is trained at a time.

        Raises:
            Exception: if there is one in place of a program, or running one raises it.
        """
        programs: dict[str, Program] = {}
        for name, program in compiled.items():
            if isinstance(program, Exception):
                raise program
            programs[name] = program
        trace = self.trace
        found = []
        initial = self._initial(programs)
        if "wide init" in programs:
            values, sizes = self.widening.values(trace).init, self._sizes
            inputs = (self._keys(programs, 0).init, self._batch(0))
            wide = jax.device_get(programs["wide init"](values, sizes, *inputs))
            errors = self._leaf_errors(self._narrow(wide), initial, initial)
            for path, error in zip(trace.state_paths, errors):
                found.append(Difference(f"initial {path}", error, 0.0, 1e-5))
        starts = [functools.partial(self._steps, programs, initial, s) for s in STARTS]
        steps = [step for some in side_by_side(starts, threads) for step in some]
        names = [f"train {name}" for name in trace.train_metrics]
        names += [f"eval {name}" for name in trace.eval_metrics]
        for part, what, tolerance in (
            ("update", trace.state_paths, UPDATE_TOLERANCE),
            ("metric", names, METRIC_TOLERANCE),
            ("padding", ["padding"], 0.0),
        ):
            errors = np.array([step[part] for step in steps])
            noise = np.array([step[f"{part} noise"] for step in steps])
            noise = np.where(np.isfinite(noise), noise, 0.0)
            for index, name in enumerate(what):
                error, rounding = errors[:, index].max(), noise[:, index].max()
                found.append(Difference(name, float(error), float(rounding), tolerance))
        return tuple(found)

    @np.errstate(all="ignore")
    def _steps(
        self, programs: Mapping[str, Program], initial: HostState, start: str
    ) -> list[dict[str, list[float]]]:
        """The errors of each step from a start."""
        count = len(jax.tree.leaves(self.batches)[0])
        # The keys of the steps are those of trials that do not exist.
        keys = [self._keys(programs, 1 + number).step for number in range(count)]
        state, found = self._start(initial, start), []
        for number, key in enumerate(keys):
            state, errors = self._step(programs, state, self._batch(number), key)
            found.append(errors)
        return found

    def _step(
        self, programs: Mapping[str, Program], state: HostState, batch: Any, key: Any
    ) -> tuple[HostState, dict[str, list[float]]]:
        """The state after the trial's own step, and the errors of the other."""
        widening, trace, evaluated = self.widening, self.trace, self.evaluated

        def alone(state: Any, batch: Any) -> Any:
            constants = own_constants(widening, trace, evaluated)
            result = programs["own step"](constants, state, batch, evaluated, key)
            return jax.device_get(result)

        after, metrics = alone(state, batch)
        rounded = self._noisy(state)
        leaves, tree = jax.tree.flatten(batch)
        rounded_leaves = self._noisy(leaves)
        noisy_after, noisy_metrics = alone(
            rounded, jax.tree.unflatten(tree, rounded_leaves)
        )
        constants = wide_constants(widening, trace, evaluated)
        before, evaluated_state = self._wide(state), self._wide(after)
        inputs = (before, evaluated_state, batch, evaluated, key)
        wide, found = jax.device_get(
            programs["wide step"](constants, self._sizes, *inputs)
        )
        # What was added to the parameters is no difference of their updates.
        moved = [
            one - other + start if is_float(start) else one
            for one, other, start in zip(noisy_after, rounded, state)
        ]
        return after, {
            "update": self._leaf_errors(self._narrow(wide), after, state),
            "update noise": self._leaf_errors(moved, after, state),
            "metric": [relative(a, b, 1e-3) for a, b in zip(found, metrics)],
            "metric noise": [
                relative(a, b, 1e-3) for a, b in zip(noisy_metrics, metrics)
            ],
            "padding": [self._left_in_padding(wide)],
            "padding noise": [0.0],
        }

    def _initial(self, programs: Mapping[str, Program]) -> HostState:
        values = self.widening.own_values(self.trace).init
        inputs = (self._keys(programs, 0).init, self._batch(0))
        return tuple(jax.device_get(programs["own init"](values, *inputs)))

    def _start(self, initial: HostState, name: str) -> HostState:
        """The initial state with other parameters."""
        leaves = list(initial)
        if name == "initial":
            return initial
        for index in self.trace.parameters:
            leaf = leaves[index]
            if is_float(leaf):
                random = np.random.default_rng((self.seed, index))
                draw = 0.3 * random.standard_normal(leaf.shape, np.float32)
                draw = -np.abs(draw) if name == "negative" else draw
                leaves[index] = draw.astype(leaf.dtype)
        return tuple(leaves)

    def _leaf_errors(
        self,
        found: Sequence[np.ndarray],
        expected: Sequence[np.ndarray],
        before: Sequence[np.ndarray],
    ) -> list[float]:
        """For each leaf the largest difference relative to the largest change.

        Where the true gradient of a leaf is zero, its change is rounding; it is seen
        against the changes of the leaves beside it.
        """
        pairs = list(zip(expected, before))
        changes = [largest(a - b) if is_float(a) else 0.0 for a, b in pairs]
        groups = [path.split("['")[0] for path in self.trace.state_paths]
        errors = []
        for group, one, other, change in zip(groups, found, expected, changes):
            if not is_float(other):
                errors.append(differs(one, other))
                continue
            beside = np.max([c for g, c in zip(groups, changes) if g == group])
            size = largest(other)
            zero = max(1e-4, _ROUNDINGS_OF_ZERO * self.rounding)
            scale = np.max([change, 1e-5 * size, zero * beside])
            errors.append(worst(one, other, scale if change > 0 else size))
        return errors

    def _left_in_padding(self, wide: Sequence[np.ndarray]) -> float:
        """1.0 if the padding of a state is not zero everywhere, else 0.0."""
        empty = self._wide(self._narrow(wide))
        pairs = zip(self.widening.state, wide, empty)
        return float(
            any(
                (leaf[other == 0] != 0).any()
                for layouts, leaf, other in pairs
                if any(layout.varies for layout in layouts)
            )
        )

    def _noisy(self, leaves: Sequence[np.ndarray]) -> tuple[np.ndarray, ...]:
        return tuple([noisy(leaf, i, self.rounding) for i, leaf in enumerate(leaves)])

    def _narrow(self, leaves: Sequence[np.ndarray]) -> list[np.ndarray]:
        return self.widening.extract(leaves, self.trace)

    def _wide(self, leaves: Sequence[np.ndarray]) -> tuple[np.ndarray, ...]:
        return tuple(self.widening.embed(leaves, self.trace))

    @property
    def _sizes(self) -> np.ndarray:
        return self.widening.lane_sizes(self.trace)

    def _keys(self, programs: Mapping[str, Program], number: int) -> LaneKeys:
        return programs["keys"](np.uint32(self.seed), np.int32(number))

    def _batch(self, number: int) -> Any:
        return jax.tree.map(lambda array: array[number], self.batches)
