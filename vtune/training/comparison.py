"""A trial inside its envelope beside the same trial alone, on real batches."""

import dataclasses
import functools
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

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
from vtune.training.difference import (
    METRIC_TOLERANCE,
    UPDATE_TOLERANCE,
    Difference,
    wrong,
)
from vtune.training.keys import LaneKeys
from vtune.training.lanes import HostState
from vtune.training.requests import init_request, keys_request
from vtune.training.step import (
    own_requests,
    own_step_constants,
    wide_constants,
    wide_step_request,
)
from vtune.training.streams import side_by_side


# A gradient that is truly zero is a sum of products that cancel: this many roundings of
# the others beside it may be left.
_ROUNDINGS_OF_ZERO = 8.0

# Where trials start from: their initial state, and parameters of both signs, of one.
STARTS = ("initial", "random", "negative")


class _Step(NamedTuple):
    """A step of the trial alone, and how far the other is from it.

    Args:
        state, batch, key: what is given.
        after, metrics: what the trial alone makes of it.
        updates: the error of each leaf's update.
        metric_errors: the error of each metric.
        padding: 1.0 if something is left in the padding, else 0.0.
    """

    state: HostState
    batch: Any
    key: Any
    after: HostState
    metrics: Any
    updates: list[float]
    metric_errors: list[float]
    padding: float


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
            **own_requests(trace, widening.own_slots(trace), batch, evaluated),
            "wide step": wide_step_request(widening, trace, batch, evaluated),
        }
        if widening.functions.init is not None:
            requests["wide init"] = init_request(widening, trace, batch)
        return requests

    # What overflows or is not finite is a result to be compared, no error.
    @np.errstate(all="ignore")
    def differences(
        self,
        compiled: Mapping[str, Program | Exception],
        threads: int = 1,
        always_noise: bool = True,
    ) -> tuple[Difference, ...]:
        """The largest differences of all steps, by leaf and metric.

        Args:
            compiled: what was asked for by `requests`.
            threads: from how many starts it is trained at a time.
            always_noise: whether the noise is wanted where no difference is beyond its
                tolerance as well; it takes as many steps again.

        Raises:
            Exception: if there is one in place of a program, or running one raises it.
        """
        programs: dict[str, Program] = {}
        for name, program in compiled.items():
            if isinstance(program, Exception):
                raise program
            programs[name] = program
        initial = self._initial(programs)
        starts = [functools.partial(self._steps, programs, initial, s) for s in STARTS]
        steps = [step for some in side_by_side(starts, threads) for step in some]
        rows = [[*step.updates, *step.metric_errors, step.padding] for step in steps]
        errors = np.max(rows, 0)
        found = self._found(errors, np.zeros(len(errors)))
        if always_noise or wrong(found):
            works = [functools.partial(self._noise, programs, step) for step in steps]
            noise = np.array(side_by_side(works, threads))
            found = self._found(errors, np.where(np.isfinite(noise), noise, 0.0).max(0))
        return (*self._initial_differences(programs, initial), *found)

    def _found(self, errors: np.ndarray, noise: np.ndarray) -> list[Difference]:
        """The differences of a step's leaves, its metrics and the padding."""
        trace = self.trace
        metrics = [f"train {name}" for name in trace.train_metrics]
        metrics += [f"eval {name}" for name in trace.eval_metrics]
        tolerances = dict.fromkeys(trace.state_paths, UPDATE_TOLERANCE)
        tolerances |= dict.fromkeys(metrics, METRIC_TOLERANCE) | {"padding": 0.0}
        names = zip([*trace.state_paths, *metrics, "padding"], errors, noise)
        return [Difference(n, float(e), float(r), tolerances[n]) for n, e, r in names]

    def _initial_differences(
        self, programs: Mapping[str, Program], initial: HostState
    ) -> list[Difference]:
        """How far the initial state of the envelope is from the trial's own."""
        if "wide init" not in programs:
            return []
        values, sizes = self.widening.values(self.trace).init, self._sizes
        inputs = (self._keys(programs, 0).init, self._batch(0))
        wide = jax.device_get(programs["wide init"](values, sizes, *inputs))
        errors = self._leaf_errors(self._narrow(wide), initial, initial)
        return [
            Difference(f"initial {path}", error, 0.0, 1e-5)
            for path, error in zip(self.trace.state_paths, errors)
        ]

    @np.errstate(all="ignore")
    def _steps(
        self, programs: Mapping[str, Program], initial: HostState, start: str
    ) -> list[_Step]:
        """The steps from a start."""
        count = len(jax.tree.leaves(self.batches)[0])
        # The keys of the steps are those of trials that do not exist.
        keys = [self._keys(programs, 1 + number).step for number in range(count)]
        state, found = self._start(initial, start), []
        for number, key in enumerate(keys):
            found.append(self._step(programs, state, self._batch(number), key))
            state = found[-1].after
        return found

    def _step(
        self, programs: Mapping[str, Program], state: HostState, batch: Any, key: Any
    ) -> _Step:
        """The trial's own step, and the errors of the other."""
        widening, trace, evaluated = self.widening, self.trace, self.evaluated
        after, metrics = self._alone(programs, state, batch, key)
        constants = wide_constants(widening, trace, evaluated)
        before, evaluated_state = self._wide(state), self._wide(after)
        inputs = (before, evaluated_state, batch, evaluated, key)
        result = programs["wide step"](constants, self._sizes, *inputs)
        wide, found = jax.device_get(result)
        updates = self._leaf_errors(self._narrow(wide), after, state)
        errors = [relative(a, b, 1e-3) for a, b in zip(found, metrics)]
        left = self._left_in_padding(wide)
        return _Step(state, batch, key, after, metrics, updates, errors, left)

    def _alone(
        self, programs: Mapping[str, Program], state: Any, batch: Any, key: Any
    ) -> tuple[HostState, list[Any]]:
        """The state and the metrics after the trial's own step."""
        constants = own_step_constants(self.widening, self.trace, self.evaluated)
        result = programs["own step"](constants, state, batch, self.evaluated, key)
        return jax.device_get(result)

    @np.errstate(all="ignore")
    def _noise(self, programs: Mapping[str, Program], step: _Step) -> list[float]:
        """What roundings make of a step alone, of all that is compared."""
        rounded = self._noisy(step.state)
        leaves, tree = jax.tree.flatten(step.batch)
        batch = jax.tree.unflatten(tree, self._noisy(leaves))
        after, metrics = self._alone(programs, rounded, batch, step.key)
        # What was added to the parameters is no difference of their updates.
        moved = [
            one - other + start if is_float(start) else one
            for one, other, start in zip(after, rounded, step.state)
        ]
        return [
            *self._leaf_errors(moved, step.after, step.state),
            *[relative(a, b, 1e-3) for a, b in zip(metrics, step.metrics)],
            0.0,
        ]

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
