"""Which trials' lanes may run under `vmap`."""

import jax
import jax.numpy as jnp
import pytest
from jax.experimental import io_callback

from vtune.fusion.constants import varying
from vtune.fusion.lanes import lanes_by_map_reason
from vtune.fusion.trace import trace_trial


KEY = jax.eval_shape(jax.random.key, 0)
BATCH = (jax.ShapeDtypeStruct((6, 3), jnp.float32),)


class Trainable:
    """A training step, an evaluation or an initialization of one's own."""

    def __init__(self, train=None, evaluate=None, init=None):
        self._train, self._evaluate, self._init = train, evaluate, init

    def init(self, key, batch):
        w = jax.random.normal(key, (3,))
        return {"w": self._init(w) if self._init else w}

    def train_step(self, state, batch, key):
        x = batch[0]
        loss = (self._train(x, key) if self._train else x).sum()
        return state, {"loss": loss + state["w"].sum()}

    def eval_step(self, state, batch):
        x = batch[0] * state["w"]
        return {"loss": (self._evaluate(x) if self._evaluate else x).sum()}


def reason(trainable, slots=None):
    trace = trace_trial(trainable, KEY, [BATCH], [BATCH])
    return lanes_by_map_reason(trace, slots)


def halved(x):
    return jax.lax.while_loop(lambda x: x.sum() > 1, lambda x: x / 2, x)


def keyed(name):
    return lambda x, key: jax.random.normal(jax.random.key(3, impl=name), x.shape)


ALLOWED = {
    "nothing special": lambda x, k: x,
    "draws": lambda x, k: jax.random.normal(k, x.shape),
    "a while": lambda x, k: halved(x),
    "a cond": lambda x, k: jax.lax.cond(x.sum() > 0, jnp.sin, jnp.cos, x),
    "a loop of known length in a cond": lambda x, k: jax.lax.cond(
        x.sum() > 0,
        lambda x: jax.lax.fori_loop(0, 3, lambda i, x: x * 2, x),
        lambda x: x,
        x,
    ),
    "a cond in a while": lambda x, k: jax.lax.while_loop(
        lambda x: x.sum() > 1,
        lambda x: jax.lax.cond(x[0, 0] > 0, lambda x: x / 2, lambda x: x / 3, x),
        x,
    ),
    "sorting": lambda x, k: jnp.sort(x, axis=0),
    "a linear solve": lambda x, k: jnp.linalg.solve(x.T @ x + jnp.eye(3), x[0]),
    "a sequential callback": lambda x, k: jax.pure_callback(
        lambda x: x, jax.typeof(x), x, vmap_method="sequential"
    ),
}

REFUSED = {
    "rbg keys": (keyed("rbg"), "rbg"),
    "unsafe rbg keys": (keyed("unsafe_rbg"), "unsafe_rbg"),
    "the bit generator itself": (
        lambda x, k: jax.lax.rng_bit_generator(jnp.zeros(4, jnp.uint32), x.shape)[1],
        "rng_bit_generator",
    ),
    "a while in a cond": (
        lambda x, k: jax.lax.cond(x.sum() > 0, halved, lambda x: x, x),
        "`while`",
    ),
    "a while deep in a cond": (
        lambda x, k: jax.lax.cond(
            x.sum() > 0,
            lambda x: jax.lax.scan(lambda c, _: (halved(c), None), x, None, length=2)[
                0
            ],
            lambda x: x,
            x,
        ),
        "`while`",
    ),
    "a while of an opaque primitive in a cond": (
        lambda x, k: jax.lax.cond(
            x.sum() > 0,
            lambda x: jax.scipy.sparse.linalg.cg(lambda v: v * 2.0, x)[0],
            lambda x: x,
            x,
        ),
        "`while`",
    ),
    "an ordered callback": (
        lambda x, k: io_callback(lambda x: x, jax.typeof(x), x, ordered=True),
        "io_callback",
    ),
    "an ordered callback in a scan": (
        lambda x, k: jax.lax.scan(
            lambda c, _: (c, jax.debug.print("{c}", c=c, ordered=True)),
            x,
            None,
            length=2,
        )[0],
        "ordered",
    ),
    "a callback without a rule": (
        lambda x, k: jax.pure_callback(lambda x: x, jax.typeof(x), x),
        "pure_callback",
    ),
}


@pytest.mark.parametrize("name", ALLOWED)
def test_lanes_may_run_side_by_side(name):
    assert reason(Trainable(train=ALLOWED[name])) is None


@pytest.mark.parametrize("name", REFUSED)
def test_lanes_have_to_run_in_turn(name):
    train, word = REFUSED[name]
    answer = reason(Trainable(train=train))
    assert answer is not None and word in answer
    assert "test_lanes_by_map.py:" in answer and "\n" not in answer


@pytest.mark.parametrize("where", ["train", "evaluate", "init"])
def test_every_function_counts(where):
    def function(x, *_):
        return jax.lax.cond(x.sum() > 0, halved, lambda x: x, x)

    assert "`while`" in str(reason(Trainable(**{where: function})))


def test_a_state_of_other_keys_counts():
    class Keyed(Trainable):
        def init(self, key, batch):
            return {**super().init(key, batch), "key": jax.random.key(0, impl="rbg")}

    assert "rbg" in str(reason(Keyed()))


def test_a_constant_that_cannot_differ_between_lanes_counts():
    """A reduction by a function of one's own has one initial value for all lanes."""

    def trainable(h):
        return Trainable(
            train=lambda x, k: jax.lax.reduce(x, h, lambda a, b: a * b, (0,))
        )

    assert reason(trainable(0.5)) is None
    traces = [trace_trial(trainable(h), KEY, [BATCH], [BATCH]) for h in (0.5, 2.0)]
    slots = varying(traces)
    assert slots.train[0]
    assert "reduce" in str(lanes_by_map_reason(traces[0], slots))
