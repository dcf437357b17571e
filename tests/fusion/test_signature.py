"""The signature: all of a program but the values of its constants."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax.training.train_state import TrainState
from hypothesis import given, strategies as st

from vtune.fusion.signature import Signature, flat_signature, signature
from vtune.fusion.trace import trace_function, trace_trial


X = jnp.linspace(-1.0, 2.0, 12).reshape(4, 3)
KEY = jax.eval_shape(jax.random.key, 0)
BATCH = (jax.ShapeDtypeStruct((4, 3), jnp.float32),)


class Linear:
    """The least that can be trained."""

    def __init__(self, rate=0.1, metrics=("loss",), units=2):
        self.rate, self.metrics, self.units = rate, metrics, units

    def init(self, key, batch):
        shape = (batch[0].shape[1], self.units)
        return {"params": jax.random.normal(key, shape), "count": 0}

    def loss(self, params, batch):
        return (batch[0] @ params).var()

    def train_step(self, state, batch, key):
        loss, gradient = jax.value_and_grad(self.loss)(state["params"], batch)
        params = state["params"] - self.rate * gradient
        state = {"params": params, "count": state["count"] + 1}
        return state, dict.fromkeys(self.metrics, loss)

    def eval_step(self, state, batch):
        return {"loss": self.loss(state["params"], batch)}


class WithTrainState:
    """A state whose static fields are functions that differ from trial to trial."""

    def __init__(self, rate):
        self.rate = rate

    def init(self, key, batch):
        params = {"w": jax.random.normal(key, (3, 2))}
        tx = optax.adam(self.rate)
        return TrainState.create(apply_fn=lambda p, x: x @ p["w"], params=params, tx=tx)

    def train_step(self, state, batch, key):
        def loss(params):
            return state.apply_fn(params, batch[0]).var()

        value, gradients = jax.value_and_grad(loss)(state.params)
        return state.apply_gradients(grads=gradients), {"loss": value}

    def eval_step(self, state, batch):
        return {"loss": state.apply_fn(state.params, batch[0]).var()}


def of(trainable: Any, *batches: Any) -> Signature:
    batches = batches or (BATCH,)
    return signature(trace_trial(trainable, KEY, batches, batches[:1]))


def test_constants_do_not_enter():
    assert of(Linear(0.1)) == of(Linear(0.2))
    assert hash(of(Linear(0.1))) == hash(of(Linear(0.2)))


@pytest.mark.parametrize(
    "other",
    [
        Linear(metrics=("cost",)),
        Linear(metrics=("loss", "same")),
        Linear(units=3),
    ],
)
def test_names_and_shapes_enter(other):
    assert of(Linear()) != of(other)


def test_batches_enter():
    small = (jax.ShapeDtypeStruct((2, 3), jnp.float32),)
    half = (jax.ShapeDtypeStruct((4, 3), jnp.bfloat16),)
    kinds = {of(Linear(), BATCH), of(Linear(), small), of(Linear(), half)}
    assert len({*kinds, of(Linear(), BATCH, small)}) == 4


def test_what_functions_share_or_not_is_no_matter_of_their_order():
    trace = trace_trial(Linear(), KEY, [BATCH], [BATCH])
    parts = [flat_signature(flat) for flat in trace.functions]
    assert len(set(parts)) == len(parts) == 3


def test_static_fields_of_a_state_do_not_keep_trials_apart():
    traces = [trace_trial(WithTrainState(r), KEY, [BATCH], [BATCH]) for r in (0.1, 0.2)]
    assert traces[0].state_tree != traces[1].state_tree
    assert signature(traces[0]) == signature(traces[1])


def test_the_names_of_a_states_leaves_enter():
    """Two leaves that changed places would be one program over another state."""

    class Renamed(Linear):
        def init(self, key, batch):
            state = super().init(key, batch)
            return {"weights": state["params"], "count": state["count"]}

        def train_step(self, state, batch, key):
            state = {"params": state["weights"], "count": state["count"]}
            state, metrics = super().train_step(state, batch, key)
            return {"weights": state["params"], "count": state["count"]}, metrics

        def eval_step(self, state, batch):
            return super().eval_step({"params": state["weights"]}, batch)

    assert of(Linear()) != of(Renamed())


def test_a_signature_compares_exactly():
    assert Signature((1, 2)) == Signature((1, 2))
    assert Signature((1, 2)) != Signature((1, 3))
    assert Signature((1, 2)) != (1, 2)
    # -1 and -2 have the same hash in CPython
    assert hash(Signature(-1)) == hash(Signature(-2)) and Signature(-1) != Signature(-2)


@given(st.integers(0, 5), st.integers(0, 5), st.booleans(), st.booleans())
def test_wiring_enters(i, j, first, second):
    """Which of several equal-looking values an equation reads decides."""

    def function(read, swap):
        def run(x):
            values = [x]
            for _ in range(5):
                values.append(jnp.sin(values[-1]))
            a, b = values[-1], values[read]
            return b - a if swap else a - b

        return flat_signature(trace_function(run, X))

    same = (i, first) == (j, second) or (i == j == 5)
    assert (function(i, first) == function(j, second)) == same


def test_a_constant_that_is_read_twice_is_not_two_constants():
    table = np.arange(3.0, dtype=np.float32)
    once = flat_signature(trace_function(lambda x: (x + table) * table, X))
    twice = flat_signature(trace_function(lambda x: (x + table) * table.copy(), X))
    assert once != twice


def test_dead_differences_do_not_split():
    def function(dead):
        def run(x):
            dead(x)
            return x * 0.5

        return flat_signature(trace_function(run, X))

    assert function(jnp.sin) == function(lambda x: jnp.cos(x * 3.0) @ x.T)


def test_weak_types_do_not_split():
    def strong(x):
        return x * jax.lax.fori_loop(0, 3, lambda i, c: c * 2, jnp.float32(1.0))

    def weak(x):
        return x * jax.lax.fori_loop(0, 3, lambda i, c: c * 2, 1.0)

    pair = [flat_signature(trace_function(f, X)) for f in (strong, weak)]
    assert pair[0] == pair[1]
