"""The programs of a search: the one caller of `vmap` and `map` on lanes."""

import dataclasses
import functools
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from vtune.fusion.constants import constant_bytes
from vtune.fusion.flat import FlatFunction
from vtune.fusion.signature import flat_signature
from vtune.fusion.trace import Trace
from vtune.fusion.widening import Widening
from vtune.training.compile import Request, abstract, shapes
from vtune.training.epoch import LaneEpoch, LaneFunctions, LaneInputs
from vtune.training.initial import own_init, wide_init
from vtune.training.keys import lane_keys
from vtune.training.plan import Form
from vtune.training.surroundings import Surroundings


def keys_request() -> Request:
    """The program that makes a trial's keys: `(seed, number) -> keys`."""
    return Request(("keys",), lane_keys, (_SEED, _NUMBER), quick=True)


def init_request(widening: Widening, trace: Trace, batch: Any) -> Request:
    """The program that makes a trial's initial state.

    Args:
        widening: the cohort's functions.
        trace: the trial's own functions.
        batch: the first training batch, as shapes and dtypes.

    Returns:
        A request for `(constants, sizes, key, batch) -> state` in the envelope, or for
        `(constants, key, batch) -> state` if the trial's own initialization is run.
    """
    if widening.functions.init is None:
        return own_init_request(trace, batch, widening.own_slots(trace).init)
    constants = jax.tree.map(abstract, widening.values(trace).init)
    return Request(
        ("init", widening.key, shapes(batch)),
        functools.partial(wide_init, widening),
        (constants, _sizes(widening), key_data(), batch),
        quick=True,
    )


def own_init_request(trace: Trace, batch: Any, slots: tuple[int, ...]) -> Request:
    """The program that makes a trial's initial state in its own shapes.

    Args:
        trace: the trial's own functions.
        batch: the first training batch, as shapes and dtypes.
        slots: which of its constants are handed in.

    Returns:
        A request for `(constants, key, batch) -> state`.
    """
    constants = own_constants(trace.init, slots)
    kept = [c for slot, c in enumerate(trace.init.constants) if slot not in slots]
    return Request(
        ("init", flat_signature(trace.init), slots, tuple(map(constant_bytes, kept)))
        + (shapes(batch),),
        functools.partial(own_init, trace.init, slots, trace.state_avals),
        (constants, key_data(), batch),
        quick=True,
    )


def own_constants(
    function: FlatFunction, slots: Sequence[int]
) -> tuple[jax.ShapeDtypeStruct, ...]:
    """Those constants of a function that are handed in, as shapes and dtypes.

    Args:
        function: a trial's own function.
        slots: which of its constants.
    """
    return tuple([abstract(function.constants[slot]) for slot in slots])


def epoch_request(
    functions: LaneFunctions, form: Form, lanes: int, training: Any, validation: Any
) -> Request:
    """The program that trains and evaluates all lanes for an epoch.

    Args:
        functions: the cohort's functions.
        form: lanes side by side (`vmap`) or one after another (`map`).
        lanes: the number of lanes.
        training: the training set as one batch, as shapes and dtypes.
        validation: the validation set likewise, or None.

    Returns:
        A request for `(state, inputs, active, training, validation) -> (state, metrics,
        finite)`, where all but the last two arguments have a lane axis, and a lane that
        is not active keeps its state. The inputs are the `LaneInputs`, whose orders are
        what `Orders` draws.
    """

    def whole(active, state, lane, training, validation):
        return LaneEpoch(functions, lane, training, validation, active).whole(state)

    request = _over_lanes(functions, form, lanes, whole, (training, validation))
    return dataclasses.replace(request, key=("epoch", request.key), donated=(0,))


def slice_request(
    functions: LaneFunctions, form: Form, lanes: int, length: int, training: Any
) -> Request:
    """The program that takes some steps of an epoch in all lanes.

    Args:
        functions, form, lanes, training: as for `epoch_request`.
        length: how many steps.

    Returns:
        A request for `(state, inputs, active, first, training) -> (state, metrics of
        each step)`; `first` is the number of the first step.
    """

    def some(active, state, lane, first, training):
        epoch = LaneEpoch(functions, lane, training, None, active)
        return epoch.slice(state, first, length)

    request = _over_lanes(functions, form, lanes, some, (_NUMBER, training))
    return dataclasses.replace(request, key=("slice", length, request.key))


def end_request(
    functions: LaneFunctions, form: Form, lanes: int, training: Any, validation: Any
) -> Request:
    """The program that does what is left of an epoch after all slices.

    Args:
        functions, form, lanes, training, validation: as for `epoch_request`.

    Returns:
        A request for `(state, inputs, active, each, training, validation) -> (state,
        metrics, finite)`; `each` is what all slices returned.
    """

    def end(active, state, lane, each, training, validation):
        epoch = LaneEpoch(functions, lane, training, validation, active)
        return epoch.end(state, each)

    metrics = len(functions.widening.envelope.train_metrics)
    each = jax.ShapeDtypeStruct((functions.loop.train.steps, metrics), np.float32)
    request = _over_lanes(functions, form, lanes, end, (training, validation), (each,))
    return dataclasses.replace(request, key=("end", request.key))


def _over_lanes(
    functions: LaneFunctions,
    form: Form,
    lanes: int,
    function: Callable[..., Any],
    common: tuple[Any, ...],
    own: tuple[Any, ...] = (),
) -> Request:
    """A program that runs a lane's function for all lanes.

    The function takes whether the lane is active (None: it is), its state and inputs,
    then `own`, which has a lane axis as well, and `common`, which has not.
    """
    order = jax.ShapeDtypeStruct((functions.loop.samples,), np.int32)
    constants, sizes = _constants(functions.widening), _sizes(functions.widening)
    lane = (
        plain_state(functions.widening.envelope),
        LaneInputs(constants, sizes, key_data(), order, _NUMBER),
        jax.ShapeDtypeStruct((), jnp.bool_),
        *own,
    )
    arguments = jax.tree.map(
        lambda aval: jax.ShapeDtypeStruct((lanes, *aval.shape), aval.dtype), lane
    )

    def program(*arguments):
        shared = arguments[len(lane) :]

        def run(mine):
            state, inputs, active, *rest = mine
            more = (inputs, *rest, *shared)
            if form == "vmap":
                return function(active, state, *more)
            # One lane after another: an idle lane costs no time.
            step = lambda state: function(None, state, *more)  # noqa: E731
            return jax.lax.cond(active, step, functools.partial(_idle, step), state)

        mine = arguments[: len(lane)]
        return jax.vmap(run)(mine) if form == "vmap" else jax.lax.map(run, mine)

    key = (functions.key, form, lanes, *map(shapes, (*own, *common)))
    return Request(key, program, (*arguments, *common))


def _idle(step: Callable[[Any], Any], state: Any) -> Any:
    """What a lane gives that takes no step: its state, and nothing of use."""
    _, *rest = jax.eval_shape(step, state)
    return state, *[jnp.zeros(aval.shape, aval.dtype) for aval in rest]


def _constants(widening: Widening) -> Any:
    """The lifted constants of training and evaluation as shapes and dtypes."""
    functions = (*widening.functions.train, *widening.functions.evaluate)
    return tuple(
        tuple([abstract(function.flat.constants[slot]) for slot in function.slots])
        for function in functions
    )


def _sizes(widening: Widening) -> jax.ShapeDtypeStruct:
    return jax.ShapeDtypeStruct(widening.sizes.shape[1:], np.int32)


def plain_state(trace: Trace) -> tuple[jax.ShapeDtypeStruct, ...]:
    """A trial's state as shapes and dtypes of arrays of numbers."""

    def plain(aval: Any) -> jax.ShapeDtypeStruct:
        if jnp.issubdtype(aval.dtype, jax.dtypes.prng_key):
            return jax.eval_shape(jax.random.key_data, aval)
        return jax.ShapeDtypeStruct(aval.shape, aval.dtype)

    return tuple(plain(aval) for aval in trace.state_avals)


_SEED = jax.ShapeDtypeStruct((), np.uint32)
_NUMBER = jax.ShapeDtypeStruct((), np.int32)


def key_data() -> jax.ShapeDtypeStruct:
    """A random key as its data, as JAX is set here."""
    return _key_data(Surroundings.here())


@functools.lru_cache
def _key_data(surroundings: Surroundings) -> jax.ShapeDtypeStruct:
    with surroundings.applied():
        return jax.eval_shape(lambda: jax.random.key_data(jax.random.key(0)))
