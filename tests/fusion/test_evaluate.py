"""Lifted evaluation: each lane is its trial alone."""

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import linen as nn, nnx
from hypothesis import given, settings, strategies as st

from vtune.fusion.constants import Lifting, varying
from vtune.fusion.evaluate import equation_of, evaluate
from vtune.fusion.flat import Constant, FlatFunction, walk
from vtune.fusion.signature import flat_signature, signature
from vtune.fusion.trace import trace_function, trace_trial


X = jnp.linspace(-1.0, 2.0, 4)
KEY = jax.eval_shape(jax.random.key, 0)


# Random programs: trees of constructs around `number()`, which hands out the constants.

Program = Callable[[Any, Callable[[], float]], Any]


def _affine(x, number):
    return jnp.sin(x) * number() + number()


def _table(x, number):
    return x * jnp.asarray([number(), 0.5, 1.0, 2.0], jnp.float32)


def _draw(x, number):
    return x + jax.random.normal(jax.random.key(int(1e4 * number())), x.shape)


def _after(first: Program, second: Program) -> Program:
    return lambda x, number: second(first(x, number), number)


def _jitted(inner: Program) -> Program:
    return lambda x, number: jax.jit(lambda x: inner(x, number))(x)


def _checkpointed(inner: Program) -> Program:
    def run(x, number):
        return jax.grad(lambda x: jax.checkpoint(lambda x: inner(x, number))(x).sum())(
            x
        )

    return run


def _scanned(inner: Program) -> Program:
    def run(x, number):
        steps = jnp.arange(2.0)
        step = jax.jit(lambda c, t: (inner(c, number) * 0.5 + t, c.sum()))
        carry, sums = jax.lax.scan(step, x, steps)
        return carry + sums[0]

    return run


def _chosen(first: Program, second: Program) -> Program:
    def run(x, number):
        return jax.lax.cond(
            x.sum() > number(),
            lambda x: first(x, number),
            lambda x: second(x, number),
            x,
        )

    return run


def _looped(inner: Program) -> Program:
    def run(x, number):
        limit = int(abs(4 * number()))
        return jax.lax.while_loop(
            lambda c: c[0] < limit, lambda c: (c[0] + 1, inner(c[1], number)), (0, x)
        )[1]

    return run


leaves = st.sampled_from([_affine, _table, _draw])
differentiable = st.recursive(
    leaves,
    lambda p: (
        st.builds(_after, p, p)
        | st.builds(_jitted, p)
        | st.builds(_scanned, p)
        | st.builds(_chosen, p, p)
        | st.builds(_checkpointed, p)
    ),
    max_leaves=4,
)
programs = differentiable | st.builds(_looped, differentiable)


def _with_numbers(program: Program, seed: int) -> Callable[[Any], Any]:
    def function(x):
        draws = np.random.default_rng(seed)
        return program(x, lambda: float(draws.uniform(-1, 1)))

    return function


@settings(max_examples=12)
@given(programs, st.integers(0, 1000))
def test_lanes_of_any_program_are_the_programs_alone(program, seed):
    functions = [_with_numbers(program, seed + i) for i in range(3)]
    flats = [trace_function(function, X) for function in functions]
    assert len({flat_signature(flat) for flat in flats}) == 1
    slots = tuple(
        i for i, c in enumerate(flats[0].constants) if not _is_shared(flats, i)
    )
    lifted = [jnp.stack([flat.constants[i] for flat in flats]) for i in slots]
    lanes = jax.vmap(lambda x, lifted: evaluate(flats[0], slots, lifted, x)[0])
    together = _compiled(lanes)(jnp.stack([X] * 3), lifted)
    for i, function in enumerate(functions):
        alone = _compiled(function)(X)
        np.testing.assert_allclose(together[i], alone, rtol=1e-4, atol=1e-5)


def _is_shared(flats: list[FlatFunction], slot: int) -> bool:
    values = {np.asarray(flat.constants[slot]).tobytes() for flat in flats}
    return len(values) == 1


# Whole networks.


@dataclasses.dataclass
class Linen:
    """A Linen module with mutable collections and dropout, and an Optax optimizer."""

    module: nn.Module
    optimizer: optax.GradientTransformation
    smoothing: float = 0.0

    def init(self, key, batch):
        variables = dict(self.module.init({"params": key}, batch[0]))
        params = variables.pop("params")
        return {"params": params, "rest": variables, "opt": self.optimizer.init(params)}

    def loss(self, params, rest, batch, key):
        outputs, updated = self.module.apply(
            {"params": params, **rest},
            batch[0],
            train=True,
            rngs={"dropout": key},
            mutable=list(rest),
        )
        labels = optax.smooth_labels(jax.nn.one_hot(batch[1], 3), self.smoothing)
        return optax.softmax_cross_entropy(outputs, labels).mean(), dict(updated)

    def train_step(self, state, batch, key):
        params = state["params"]
        (loss, rest), gradient = jax.value_and_grad(self.loss, has_aux=True)(
            params, state["rest"], batch, key
        )
        updates, opt = self.optimizer.update(gradient, state["opt"], params)
        params = optax.apply_updates(params, updates)
        return {"params": params, "rest": rest, "opt": opt}, {"loss": loss}

    def eval_step(self, state, batch):
        variables = {"params": state["params"], **state["rest"]}
        outputs: Any = self.module.apply(variables, batch[0])
        return {"accuracy": (outputs.argmax(-1) == batch[1]).mean()}


class MLP(nn.Module):
    rate: float = 0.0
    momentum: float = 0.9

    @nn.compact
    def __call__(self, x, train=False):
        x = nn.Dense(6)(x.reshape(x.shape[0], -1))
        x = nn.BatchNorm(use_running_average=not train, momentum=self.momentum)(x)
        x = nn.Dropout(self.rate, deterministic=not train)(nn.gelu(x))
        return nn.Dense(3)(x)


class Recurrent(nn.Module):
    rate: float = 0.0

    @nn.compact
    def __call__(self, x, train=False):
        outputs: Any = nn.RNN(nn.LSTMCell(4))(x)
        return nn.Dense(3)(nn.leaky_relu(outputs[:, -1] * self.rate, self.rate))


class Block(nn.Module):
    rate: float = 0.0

    @nn.compact
    def __call__(self, x, train=False):
        y = nn.LayerNorm()(x)
        y = nn.MultiHeadDotProductAttention(2, dropout_rate=self.rate)(
            y, deterministic=not train
        )
        x = x + nn.Dropout(self.rate, deterministic=not train)(y)
        return x + nn.Dense(4)(nn.gelu(nn.Dense(8)(nn.LayerNorm()(x))))


class Transformer(nn.Module):
    rate: float = 0.0

    @nn.compact
    def __call__(self, x, train=False):
        block = nn.remat(Block, static_argnums=(2,))
        x = block(self.rate)(x, train)
        return nn.Dense(3)(x.mean(1))


class Network(nnx.Module):
    def __init__(self, rate, rngs):
        self.first = nnx.Linear(20, 6, rngs=rngs)
        self.norm = nnx.BatchNorm(6, momentum=rate, rngs=rngs)
        self.dropout = nnx.Dropout(rate, rngs=rngs)
        self.second = nnx.Linear(6, 3, rngs=rngs)

    def __call__(self, x):
        x = self.norm(self.first(x.reshape(x.shape[0], -1)))
        return self.second(self.dropout(nnx.relu(x)))


@dataclasses.dataclass
class WithNNX:
    """An NNX module split into graph and state within each function."""

    rate: float
    optimizer: optax.GradientTransformation

    def split(self, key):
        module = Network(self.rate, nnx.Rngs(key))
        return nnx.split(module, nnx.Param, ...)

    def init(self, key, batch):
        _, params, rest = self.split(key)
        params, rest = nnx.to_pure_dict(params), nnx.to_pure_dict(rest)
        return {"params": params, "rest": rest, "opt": self.optimizer.init(params)}

    def module(self, params, rest, train):
        graph, params_like, rest_like = nnx.eval_shape(
            lambda: self.split(jax.random.key(0))
        )
        nnx.replace_by_pure_dict(params_like, params)
        nnx.replace_by_pure_dict(rest_like, rest)
        module = nnx.merge(graph, params_like, rest_like)
        module.train() if train else module.eval()
        return module

    def train_step(self, state, batch, key):
        def loss(params):
            module = self.module(params, state["rest"], True)
            nnx.reseed(module, default=key)
            outputs = module(batch[0])
            value = optax.softmax_cross_entropy_with_integer_labels(outputs, batch[1])
            rest: Any = nnx.split(module, nnx.Param, ...)[2]
            return value.mean(), nnx.to_pure_dict(rest)

        params = state["params"]
        (value, rest), gradient = jax.value_and_grad(loss, has_aux=True)(params)
        updates, opt = self.optimizer.update(gradient, state["opt"], params)
        params = optax.apply_updates(params, updates)
        return {"params": params, "rest": rest, "opt": opt}, {"loss": value}

    def eval_step(self, state, batch):
        outputs = self.module(state["params"], state["rest"], False)(batch[0])
        return {"accuracy": (outputs.argmax(-1) == batch[1]).mean()}


def adamw(h):
    schedule = optax.warmup_cosine_decay_schedule(0.0, 0.1 * h, int(10 * h) + 1, 100)
    return optax.adamw(schedule, b1=1 - h / 5, weight_decay=0.01 * h, eps=1e-3)


def sgd(h):
    return optax.chain(
        optax.clip_by_global_norm(h),
        optax.add_decayed_weights(0.1 * h),
        optax.sgd(optax.exponential_decay(h, 5, h), momentum=h),
    )


NETWORKS: dict[str, Callable[[float], Any]] = {
    "mlp with adamw": lambda h: Linen(MLP(h, 1 - h / 10), adamw(h), h / 2),
    "mlp with sgd": lambda h: Linen(MLP(h), sgd(h)),
    "lstm": lambda h: Linen(Recurrent(h), adamw(h), h),
    "transformer with remat": lambda h: Linen(Transformer(h), adamw(h)),
    "nnx": lambda h: WithNNX(h, adamw(h)),
}


# Each run of the tests takes these; the others take longer.
ALWAYS = {"mlp with sgd"}


@pytest.mark.parametrize(
    "name",
    [pytest.param(n, marks=[pytest.mark.ci] * (n not in ALWAYS)) for n in NETWORKS],
)
def test_eight_trials_of_a_network_are_one_program(name):
    values = np.linspace(0.1, 0.9, 8).tolist()
    trainables = [NETWORKS[name](value) for value in values]
    x, y = jax.random.normal(jax.random.key(0), (6, 5, 4)), jnp.arange(6) % 3
    abstract = jax.tree.map(lambda a: jax.ShapeDtypeStruct(a.shape, a.dtype), (x, y))
    traces = [trace_trial(t, KEY, [abstract], [abstract]) for t in trainables]
    assert len({signature(trace) for trace in traces}) == 1
    lifting = Lifting(traces[0], varying(traces))
    assert lifting.slots.train[0]
    rows = [lifting.values(trace) for trace in traces]
    constants = jax.tree.map(lambda *column: jnp.stack(column), *rows)

    def lane(constants, key):
        first, slots = lifting.reference, lifting.slots
        state = evaluate(first.init, slots.init, constants.init, key, x, y)
        outputs = evaluate(
            first.train[0], slots.train[0], constants.train[0], *state, x, y, key
        )
        state = outputs[: len(state)]
        metrics = evaluate(
            first.evaluate[0], slots.evaluate[0], constants.evaluate[0], *state, x, y
        )
        return [*outputs, *metrics]

    keys = jax.random.split(jax.random.key(1), len(values))
    together = _compiled(jax.vmap(lane))(constants, keys)
    for i in (0, 7):
        alone = _alone(trainables[i], keys[i], (x, y))
        for a, b in zip(alone, together, strict=True):
            _assert_near(a, b[i])


def _compiled(function):
    """Compiled in a hurry, since it runs once."""
    return jax.jit(function, compiler_options={"xla_backend_optimization_level": 0})


def _alone(trainable, key, batch):
    def run(key):
        state = trainable.init(key, batch)
        state, metrics = trainable.train_step(state, batch, key)
        return state, metrics, trainable.eval_step(state, batch)

    return jax.tree.leaves(_compiled(run)(key))


def _assert_near(alone, lane):
    assert alone.dtype == lane.dtype
    if jnp.issubdtype(alone.dtype, jnp.floating):
        np.testing.assert_allclose(lane, alone, rtol=2e-5, atol=2e-6)
    elif jnp.issubdtype(alone.dtype, jax.dtypes.prng_key):
        assert (alone == lane).all()
    else:
        np.testing.assert_array_equal(lane, alone)


def test_wrong_numbers_of_arguments_are_refused():
    flat = trace_function(lambda x: x * 0.5, X)
    with pytest.raises(ValueError, match="1 inputs and 2 lifted"):
        evaluate(flat, (0,), [1.0, 2.0], X)
    with pytest.raises(ValueError, match="2 inputs and 1 lifted"):
        evaluate(flat, (0,), [1.0], X, X)


def test_weak_inputs_and_lifted_values_do_not_change_dtypes():
    def function(x):
        return jax.lax.scan(lambda c, _: (c * 0.5 + x, c), 1.0, None, length=3)

    x = jnp.bfloat16(2)
    flat = trace_function(function, x)
    slots = tuple(range(len(flat.constants)))
    outputs = jax.jit(lambda x, *c: evaluate(flat, slots, c, x))(2.0, *flat.constants)
    expected = jax.jit(function)(x)
    for a, b in zip(outputs, jax.tree.leaves(expected), strict=True):
        assert a.dtype == b.dtype and not a.weak_type
        np.testing.assert_array_equal(a, b)


def test_every_constant_can_be_lifted_at_once():
    def function(x):
        x = jax.nn.gelu(x * 0.5) + jnp.arange(4.0)
        x = jax.lax.fori_loop(0, 3, lambda i, c: c * 0.9 + i, x)
        x = jax.lax.cond(x.sum() > 1, lambda x: x * 2, lambda x: x - 1, x)
        return jax.random.normal(jax.random.key(4), (4,)) + x ** jnp.float32(1.5), 7

    flat = trace_function(function, jnp.abs(X))
    slots = tuple(range(len(flat.constants)))
    outputs = jax.jit(lambda *c: evaluate(flat, slots, c, jnp.abs(X)))(*flat.constants)
    for a, b in zip(outputs, jax.jit(function)(jnp.abs(X)), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-5)


def test_gradients_pass_through_lifted_constants():
    flat = trace_function(lambda x: (jax.nn.relu(x) * 0.5).sum(), X)
    (slot,) = [
        a.slot
        for e in walk(flat.body)
        for a in e.inputs
        if isinstance(a, Constant) and flat.constants[a.slot] == 0.5
    ]
    slope = jax.grad(lambda h: evaluate(flat, (slot,), [h], X)[0])(jnp.float32(3.0))
    np.testing.assert_allclose(slope, jax.nn.relu(X).sum(), rtol=1e-6)


def test_an_error_names_the_equation_and_the_users_line():
    def function(x):
        return jax.pure_callback(lambda x: x, jax.typeof(x), jnp.sin(x))

    flat = trace_function(function, X)
    with pytest.raises(NotImplementedError) as caught:
        jax.vmap(lambda x: evaluate(flat, (), (), x))(jnp.stack([X, X]))
    place = equation_of(caught.value)
    assert place is not None
    assert "`pure_callback`" in place and "test_evaluate.py:" in place
    assert equation_of(ValueError("another")) is None
