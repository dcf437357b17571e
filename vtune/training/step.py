"""A training step and an evaluation as programs by themselves, to be looked at."""

import functools
from typing import Any

import jax
import jax.numpy as jnp

from vtune.fusion.constants import constant_bytes
from vtune.fusion.evaluate import evaluate
from vtune.fusion.evaluate_wide import evaluate_wide
from vtune.fusion.flat import FlatFunction
from vtune.fusion.signature import flat_signature
from vtune.fusion.trace import Trace
from vtune.fusion.widening import Widening
from vtune.training.compile import Request, abstract, shapes
from vtune.training.leaves import plain, typed
from vtune.training.requests import key_data, own_init_request, plain_state


def own_requests(trace: Trace, batch: Any, evaluated: Any) -> dict[str, Request]:
    """What a trial does by itself: no other trial decides any of it.

    Args:
        trace: the trial's functions.
        batch: a training batch, as shapes and dtypes.
        evaluated: an evaluation batch likewise, or None.

    Returns:
        `"own init"`, a request for `((), key, batch) -> state`, and `"own step"`, one
        for `(state, batch, evaluated, key) -> (state, metrics)`.
    """
    functions = (trace.train[0], *trace.evaluate[: _parts(evaluated) - 1])
    step = Request(
        ("own step", *map(_key, functions), shapes(batch), shapes(evaluated)),
        functools.partial(_own_step, trace),
        (plain_state(trace), batch, evaluated, key_data()),
        quick=True,
    )
    return {"own init": own_init_request(trace, batch), "own step": step}


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


def wide_constants(widening: Widening, trace: Trace, evaluated: Any) -> Any:
    """The constants that a trial's step inside the envelope takes."""
    values = widening.values(trace)
    return (*values.train[:1], *values.evaluate[: _parts(evaluated) - 1])


def _own_step(trace: Trace, state: Any, batch: Any, evaluated: Any, key: Any) -> Any:
    avals = trace.state_avals
    key = jax.random.wrap_key_data(key)
    inputs = (*typed(state, avals), *jax.tree.leaves(batch), key)
    outputs = evaluate(trace.train[0], (), (), *inputs)
    after, metrics = outputs[: len(avals)], outputs[len(avals) :]
    if evaluated is not None:
        inputs = (*after, *jax.tree.leaves(evaluated))
        metrics += evaluate(trace.evaluate[0], (), (), *inputs)
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


def _parts(evaluated: Any) -> int:
    return 1 if evaluated is None else 2


def _abstract(values: Any) -> Any:
    return jax.tree.map(abstract, values)


def _key(function: FlatFunction) -> Any:
    return flat_signature(function), tuple(map(constant_bytes, function.constants))
