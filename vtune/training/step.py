"""A training step and an evaluation as programs by themselves, to be looked at."""

import functools
from typing import Any

import jax
import jax.numpy as jnp

from vtune.fusion.constants import PerFunction, constant_bytes
from vtune.fusion.evaluate import evaluate
from vtune.fusion.evaluate_wide import evaluate_wide
from vtune.fusion.flat import FlatFunction
from vtune.fusion.signature import flat_signature
from vtune.fusion.trace import Trace
from vtune.fusion.widening import Widening
from vtune.training.compile import Request, abstract, shapes
from vtune.training.leaves import plain, typed
from vtune.training.requests import (
    key_data,
    own_constants,
    own_init_request,
    plain_state,
)


def own_requests(
    trace: Trace, slots: PerFunction, batch: Any, evaluated: Any
) -> dict[str, Request]:
    """What a trial does by itself, in its own shapes.

    Args:
        trace: the trial's functions.
        slots: for each function the constants that are handed in.
        batch: a training batch, as shapes and dtypes.
        evaluated: an evaluation batch likewise, or None.

    Returns:
        `"own init"`, a request for `(constants, key, batch) -> state`, and `"own
        step"`, one for `(constants, state, batch, evaluated, key) -> (state, metrics)`.
    """
    functions = _first(trace, evaluated)
    each = _first(slots, evaluated)
    step = Request(
        ("own step", *map(_key, functions, each), shapes(batch), shapes(evaluated)),
        functools.partial(_own_step, trace, each),
        (
            tuple(map(own_constants, functions, each)),
            plain_state(trace),
            batch,
            evaluated,
            key_data(),
        ),
        quick=True,
    )
    init = own_init_request(trace, batch, slots.init)
    return {"own init": init, "own step": step}


def wide_step_request(
    widening: Widening, trace: Trace, batch: Any, evaluated: Any
) -> Request:
    """A trial's step and evaluation inside the envelope.

    Args:
        widening: the functions inside the envelope.
        trace: the trial's own functions.
        batch: a training batch, as shapes and dtypes.
        evaluated: an evaluation batch likewise, or None.

    Returns:
        A request for `(constants, sizes, state, evaluated_state, batch, evaluated, key)
        -> (state, metrics)`.
    """
    state = plain_state(widening.envelope)
    values = wide_constants(widening, trace, evaluated)
    sizes = abstract(widening.lane_sizes(trace))
    return Request(
        ("wide step", widening.key, shapes(batch), shapes(evaluated)),
        functools.partial(_wide_step, widening),
        (_abstract(values), sizes, state, state, batch, evaluated, key_data()),
        quick=True,
    )


def own_step_constants(widening: Widening, trace: Trace, evaluated: Any) -> Any:
    """The constants that a trial's own step takes."""
    return _first(widening.own_values(trace), evaluated)


def wide_constants(widening: Widening, trace: Trace, evaluated: Any) -> Any:
    """The constants that a trial's step inside the envelope takes."""
    return _first(widening.values(trace), evaluated)


def _own_step(
    trace: Trace,
    slots: Any,
    constants: Any,
    state: Any,
    batch: Any,
    evaluated: Any,
    key: Any,
) -> Any:
    avals = trace.state_avals
    key = jax.random.wrap_key_data(key)
    inputs = (*typed(state, avals), *jax.tree.leaves(batch), key)
    outputs = evaluate(trace.train[0], slots[0], constants[0], *inputs)
    after, metrics = outputs[: len(avals)], outputs[len(avals) :]
    if evaluated is not None:
        inputs = (*after, *jax.tree.leaves(evaluated))
        metrics += evaluate(trace.evaluate[0], slots[1], constants[1], *inputs)
    return plain(after, avals), _numbers(metrics)


def _wide_step(
    widening: Widening,
    constants: Any,
    sizes: Any,
    state: Any,
    evaluated_state: Any,
    batch: Any,
    evaluated: Any,
    key: Any,
) -> Any:
    avals = widening.envelope.state_avals
    functions = widening.functions
    key = jax.random.wrap_key_data(key)
    inputs = (*typed(state, avals), *jax.tree.leaves(batch), key)
    outputs = evaluate_wide(functions.train[0], constants[0], sizes, *inputs)
    after, metrics = outputs[: len(avals)], outputs[len(avals) :]
    if evaluated is not None:
        inputs = (*typed(evaluated_state, avals), *jax.tree.leaves(evaluated))
        metrics += evaluate_wide(functions.evaluate[0], constants[1], sizes, *inputs)
    return plain(after, avals), _numbers(metrics)


def _numbers(metrics: Any) -> list[Any]:
    return [jnp.asarray(metric, jnp.float32) for metric in metrics]


def _first(functions: Any, evaluated: Any) -> tuple[Any, ...]:
    """The step on a whole batch, and the evaluation of the first batch if any."""
    evaluations = () if evaluated is None else functions.evaluate[:1]
    return (*functions.train[:1], *evaluations)


def _abstract(values: Any) -> Any:
    return jax.tree.map(abstract, values)


def _key(function: FlatFunction, slots: tuple[int, ...]) -> Any:
    constants = enumerate(function.constants)
    kept = tuple([constant_bytes(c) for slot, c in constants if slot not in slots])
    return flat_signature(function), slots, kept
