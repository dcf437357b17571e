"""Tracing a trial: what it yields, what it shares, what it refuses."""

import dataclasses
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from vtune.fusion.evaluate import evaluate
from vtune.fusion.signature import signature
from vtune.fusion.trace import SplitTrainable, trace_function, trace_trial


KEY = jax.eval_shape(jax.random.key, 0)


def batch(size):
    x = {"a": jax.ShapeDtypeStruct((size, 3), jnp.float32)}
    return (x, jax.ShapeDtypeStruct((size,), jnp.int32))


class Given:
    """A trainable made of functions."""

    def __init__(self, init=None, train_step=None, eval_step=None):
        self._init = init or (lambda key, batch: {"w": jnp.zeros(3)})
        self._train = train_step or (lambda state, batch, key: (state, {"loss": 0.0}))
        self._eval = eval_step or (lambda state, batch: {"loss": 0.0})

    def init(self, key, batch):
        return self._init(key, batch)

    def train_step(self, state, batch, key):
        return self._train(state, batch, key)

    def eval_step(self, state, batch):
        return self._eval(state, batch)


def trace(trainable, cache=None):
    return trace_trial(trainable, KEY, [batch(4), batch(2)], [batch(5)], cache)


def trace_of_training(train_step, state=None):
    state = {"w": jnp.zeros(3), "n": 0} if state is None else state
    return trace(Given(init=lambda key, batch: state, train_step=train_step))


class State(NamedTuple):
    params: Any
    others: Any


def test_what_goes_in_and_comes_out():
    def init(key, batch):
        return State(
            {"w": jax.random.normal(key, (3,)), "b": jnp.bfloat16(0)}, (None, 1)
        )

    def train_step(state, batch, key):
        x, y = batch
        noise = jax.random.normal(key, ())
        params = {"w": state.params["w"] + x["a"].sum(0), "b": state.params["b"] + 1}
        metrics = {"z": y.sum(), "loss": noise, "accuracy": 0.5}
        return State(params, (None, state.others[1] + 1)), metrics

    def eval_step(state, batch):
        return {"b": state.params["w"].sum(), "a": batch[1].max()}

    result = trace(Given(init, train_step, eval_step))
    assert [(a.shape, a.dtype) for a in result.state_avals] == [
        ((), jnp.bfloat16),
        ((3,), jnp.float32),
        ((), jnp.int32),
    ]
    assert result.state_paths == (".params['b']", ".params['w']", ".others[1]")
    assert result.parameters == (0, 1)
    assert result.train_metrics == ("accuracy", "loss", "z")
    assert result.eval_metrics == ("a", "b")
    assert len(result.train) == 2 and len(result.evaluate) == 1

    key, x, y = jax.random.key(1), np.ones((4, 3), np.float32), np.arange(4)
    leaves = evaluate(result.init, (), (), key, x, y)
    outputs = evaluate(result.train[0], (), (), *leaves, x, y, key)
    state, metrics = train_step(init(key, None), ({"a": x}, y), key)
    expected = [
        *jax.tree.leaves(state),
        *(metrics[k] for k in ("accuracy", "loss", "z")),
    ]
    for a, b in zip(outputs, expected, strict=True):
        np.testing.assert_allclose(
            np.asarray(a, np.float32), np.asarray(b, np.float32), rtol=1e-6
        )
    state = jax.tree.unflatten(result.state_tree, outputs[:3])
    assert isinstance(state, State) and state.others == (None, 2)
    metrics = evaluate(result.evaluate[0], (), (), *outputs[:3], np.ones((5, 3)), y[:1])
    assert [m.shape for m in metrics] == [(), ()]


def test_init_sees_the_first_training_batch():
    seen = []

    def init(key, batch):
        seen.append(batch[1].shape)
        return {"w": jnp.zeros(3)}

    trace(Given(init=init))
    assert seen == [(4,)]


def test_parameters_lie_under_a_key_or_attribute_of_that_name():
    def init(key, batch):
        zero = jnp.zeros(())
        return {
            "params": [zero, zero],
            "optimizer": State(zero, zero),
            "paramstore": zero,
        }

    result = trace(Given(init=init))
    chosen = [result.state_paths[i] for i in result.parameters]
    assert chosen == ["['optimizer'].params", "['params'][0]", "['params'][1]"]


def test_nothing_is_compiled_or_run():
    compiled = []

    def listen(event: str, duration_secs: float, **_: str | int) -> None:
        if "backend_compile" in event:
            compiled.append(duration_secs)

    def train_step(state, batch, key):
        w = state["w"]
        for _ in range(3):
            w = jnp.sin(w @ jnp.ones((3, 3))) + jax.random.normal(key, (3,))
        return {"w": w}, {"loss": w.sum()}

    jax.monitoring.register_event_duration_secs_listener(listen)
    try:
        trace(Given(train_step=train_step))
        assert not compiled
        jax.jit(lambda x: x * 123.25)(1.0)
        assert compiled  # the listener does hear
    finally:
        jax.monitoring.unregister_event_duration_listener(listen)


def test_a_weak_type_is_no_change_of_dtype():
    def train_step(state, batch, key):
        return {"w": state["w"], "n": 1, "f": 0.5}, {"loss": 1}

    result = trace_of_training(train_step, {"w": jnp.zeros(3), "n": 0, "f": 0.0})
    assert [a.dtype for a in result.state_avals] == [
        jnp.float32,
        jnp.int32,
        jnp.float32,
    ]
    assert [a.dtype for a in result.train[0].out_avals[:3]] == [
        a.dtype for a in result.state_avals
    ]


@pytest.mark.parametrize(
    ("train_step", "message"),
    [
        (
            lambda s, b, k: ({**s, "w": s["w"].astype(jnp.bfloat16)}, {}),
            r"\['w'\] from float32\[3\] to bfloat16\[3\]",
        ),
        (
            lambda s, b, k: ({**s, "w": s["w"][:2]}, {}),
            r"\['w'\] from float32\[3\] to float32\[2\]",
        ),
        (
            lambda s, b, k: ({**s, "n": s["n"] * 0.5}, {}),
            r"\['n'\] from int32\[\] to float32\[\]",
        ),
        (
            lambda s, b, k: ({"w": s["w"], "m": 0}, {}),
            r"structure.*missing afterwards: \['n'\]; new: \['m'\]",
        ),
        (lambda s, b, k: ((s["n"], s["w"]), {}), r"structure"),
        (
            lambda s, b, k: s["w"],
            r"`train_step` returns the next state and the metrics",
        ),
        (lambda s, b, k: (s, 1.0), r"mapping of names to scalars, got float"),
        (lambda s, b, k: (s, {1: 1.0}), r"names its metrics by strings, got 1"),
        (lambda s, b, k: (s, {"loss": s["w"]}), r"'loss' with shape \(3,\)"),
        (lambda s, b, k: (s, {"loss": jnp.ones((1,))}), r"'loss' with shape \(1,\)"),
        (
            lambda s, b, k: (s, {"loss": jnp.complex64(1)}),
            r"complex64 as metric 'loss'",
        ),
        (lambda s, b, k: (s, {"good": s["n"] > 0}), r"bool as metric 'good'"),
        (lambda s, b, k: (s, {"key": k}), r"key<fry> as metric 'key'"),
        (lambda s, b, k: (s, {"text": "x"}), r"str as metric 'text'"),
        (lambda s, b, k: (s, {"none": None}), r"NoneType as metric 'none'"),
    ],
)
def test_a_wrong_train_step_is_refused(train_step, message):
    with pytest.raises(ValueError, match=message):
        trace_of_training(train_step)


def test_a_changed_static_field_of_the_state_is_refused():
    @jax.tree_util.register_dataclass
    @dataclasses.dataclass
    class Static:
        w: Any
        kind: str = dataclasses.field(default="a", metadata={"static": True})

    with pytest.raises(ValueError, match="structure"):
        trace_of_training(lambda s, b, k: (Static(s.w, "b"), {}), Static(jnp.zeros(3)))


def test_wrong_evaluation_metrics_are_refused():
    with pytest.raises(ValueError, match=r"`eval_step`.*'loss' with shape \(5,\)"):
        trace(Given(eval_step=lambda s, b: {"loss": b[0]["a"].sum(1)}))


def test_metrics_may_be_numbers_and_any_mapping():
    import flax.core

    metrics = flax.core.FrozenDict({"b": 1, "a": np.float32(2.5), "c": 0.5})
    result = trace_of_training(lambda s, b, k: (s, metrics))
    assert result.train_metrics == ("a", "b", "c")


def test_an_exception_of_the_user_comes_through():
    def train_step(state, batch, key):
        raise KeyError("mine")

    with pytest.raises(KeyError, match="mine"):
        trace_of_training(train_step)


def test_a_training_batch_is_needed():
    with pytest.raises(ValueError, match="at least one abstract training batch"):
        trace_trial(Given(), KEY, [], [])


def test_a_trainable_with_a_loose_equality_is_not_taken_for_another():
    """JAX remembers traces by `==`, for which 0.0 and -0.0 are one."""

    @dataclasses.dataclass(frozen=True)
    class Loose:
        scale: float

        def init(self, key, batch):
            return {"w": jnp.zeros(3) + self.scale}

        def train_step(self, state, batch, key):
            return {"w": state["w"] * self.scale}, {"loss": 1 / jnp.sin(self.scale)}

        def eval_step(self, state, batch):
            return {"loss": state["w"].sum() * self.scale}

    first, second = trace(Loose(0.0)), trace(Loose(-0.0))
    assert signature(first) == signature(second)
    for a, b in zip(first.functions, second.functions):
        signs = [{np.signbit(c).item() for c in f.constants if c == 0} for f in (a, b)]
        assert signs[0] != signs[1]


class Split:
    """Counts how often its parts are traced."""

    def __init__(self, identity, optimizer, counts):
        self.identity, self.optimizer, self.counts = identity, optimizer, counts

    def init_variables(self, key, batch):
        self.counts["variables"] += 1
        return {"params": jax.random.normal(key, (3,)) * 0.5}

    def init_state(self, variables):
        self.counts["state"] += 1
        return {**variables, "optimizer": self.optimizer.init(variables["params"])}

    def init(self, key, batch):
        return self.init_state(self.init_variables(key, batch))

    def train_step(self, state, batch, key):
        loss, gradient = jax.value_and_grad(lambda p: (batch[0]["a"] @ p).var())(
            state["params"]
        )
        updates, optimizer = self.optimizer.update(gradient, state["optimizer"])
        params = optax.apply_updates(state["params"], updates)
        return {"params": params, "optimizer": optimizer}, {"loss": loss}

    def eval_step(self, state, batch):
        self.counts["eval"] += 1
        return {"loss": (batch[0]["a"] @ state["params"]).var()}


def test_equal_identities_share_what_may_be_shared():
    counts = {"variables": 0, "state": 0, "eval": 0}
    cache = {}
    first = trace(Split("a", optax.adam(0.1), counts), cache)
    second = trace(Split("a", optax.adam(0.2), counts), cache)
    assert counts == {"variables": 1, "state": 2, "eval": 1}
    assert signature(first) == signature(second)
    assert first.evaluate[0] is second.evaluate[0]

    trace(Split("b", optax.adam(0.1), counts), cache)
    assert counts == {"variables": 2, "state": 3, "eval": 2}
    # Another optimizer has another state, which is an input of the evaluation.
    trace(Split("a", optax.sgd(0.1, momentum=0.9), counts), cache)
    assert counts == {"variables": 2, "state": 4, "eval": 3}
    # Other batches are other functions.
    trace_trial(Split("a", optax.adam(0.1), counts), KEY, [batch(8)], [batch(9)], cache)
    assert counts == {"variables": 3, "state": 5, "eval": 4}


def test_a_split_init_is_the_whole_init():
    trainable = Split("a", optax.adam(0.1), {"variables": 0, "state": 0, "eval": 0})
    assert isinstance(trainable, SplitTrainable) and not isinstance(
        Given(), SplitTrainable
    )
    result = trace(trainable)
    key = jax.random.key(3)
    arrays = [np.ones((4, 3), np.float32), np.zeros(4, np.int32)]
    leaves = evaluate(result.init, (), (), key, *arrays)
    for a, b in zip(leaves, jax.tree.leaves(trainable.init(key, None)), strict=True):
        np.testing.assert_array_equal(a, b)
    assert result.init.in_tree == jax.tree.structure((KEY, batch(4)))


def test_tracing_a_function_keeps_its_trees():
    flat = trace_function(
        lambda a, b: {"x": a["k"] + b, "y": None}, {"k": jnp.ones(2)}, 1.0
    )
    assert flat.in_tree == jax.tree.structure(({"k": 0}, 0))
    assert flat.out_tree == jax.tree.structure({"x": 0, "y": None})
    assert flat.in_avals[0].shape == (2,) and flat.out_avals[0].dtype == jnp.float32
