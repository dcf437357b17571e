"""What is a constant and what is structure, construct by construct."""

import dataclasses
import functools
import math
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import linen as nn
from jax.experimental import io_callback

from vtune.fusion.constants import Lifting, varying
from vtune.fusion.evaluate import evaluate
from vtune.fusion.signature import signature
from vtune.fusion.trace import Trace, trace_function


X = jnp.linspace(-2.0, 3.0, 12, dtype=jnp.float32).reshape(4, 3) + 0.1
BITS = jnp.arange(12, dtype=jnp.int32).reshape(4, 3)
KEY = jax.random.key(7)


class Case(NamedTuple):
    name: str
    make: Callable[[Any], Callable[..., Any]]
    values: list[Any]
    inputs: tuple[Any, ...] = (X,)
    ulps: int = 8


def _trace(function: Callable[..., Any], inputs: tuple[Any, ...]) -> Trace:
    return Trace(
        init=trace_function(function, *inputs),
        train=(),
        evaluate=(),
        state_tree=None,
        state_avals=(),
        state_paths=(),
        train_metrics=(),
        eval_metrics=(),
        parameters=(),
    )


def _compiled(function: Callable[..., Any]) -> Callable[..., Any]:
    """Compiled in a hurry, since it runs once."""
    return jax.jit(function, compiler_options={"xla_backend_optimization_level": 0})


def _raw(array: Any) -> np.ndarray:
    if jnp.issubdtype(array.dtype, jax.dtypes.prng_key):
        array = jax.random.key_data(array)
    return np.asarray(array)


def _assert_same(alone: Any, lane: Any, ulps: int) -> None:
    assert alone.dtype == lane.dtype and alone.shape == lane.shape
    alone, lane = _raw(alone), _raw(lane)
    if not jnp.issubdtype(alone.dtype, jnp.inexact):
        np.testing.assert_array_equal(lane, alone)
        return
    rounding = ulps * float(jnp.finfo(alone.dtype).eps)
    wide = np.complex128 if np.iscomplexobj(alone) else np.float64
    alone, lane = alone.astype(wide), lane.astype(wide)
    scale = np.max(np.abs(alone), initial=0.0, where=np.isfinite(alone))
    np.testing.assert_allclose(lane, alone, rtol=rounding, atol=rounding * scale)
    zero = (alone == 0) & (lane == 0)
    np.testing.assert_array_equal(
        np.signbit(lane.real[zero]), np.signbit(alone.real[zero])
    )


def _check_lanes(case: Case, functions: list[Any], traces: list[Trace]) -> None:
    """The reference's equations with each trial's constants are each trial alone."""
    lifting = Lifting(traces[0], varying(traces))
    assert all(lifting.accepts(trace) for trace in traces)
    rows = [lifting.values(trace).init for trace in traces]
    lifted = [jnp.stack(list(column)) for column in zip(*rows)]
    leaves = jax.tree.leaves(case.inputs)

    def lane(constants: list[Any]) -> list[Any]:
        return evaluate(traces[0].init, lifting.slots.init, constants, *leaves)

    results = _compiled(jax.vmap(lane, axis_size=len(traces)))(lifted)
    for i, function in enumerate(functions):
        alone = jax.tree.leaves(_compiled(function)(*case.inputs))
        for a, b in zip(alone, results, strict=True):
            _assert_same(a, b[i], case.ulps)


def _scan(h, x, **options):
    table = jnp.asarray([1.0, h, 2.0], jnp.float32)

    def step(carry, t):
        return carry * table.sum() * 0.1 + h, carry + t * h

    return jax.lax.scan(step, x, jnp.arange(3.0), **options)


def _nested_scan(h, x):
    def outer(carry, _):
        inner = jax.lax.scan(lambda c, t: (c * h + t, c), carry, jnp.arange(2.0))
        return inner[0], inner[1].sum()

    return jax.lax.scan(outer, x, None, length=3)


def _custom_jvp(h, x):
    @jax.custom_jvp
    def function(x):
        return x * h

    function.defjvp(lambda primals, tangents: (primals[0] * h, tangents[0] * (h + 1)))
    return jax.value_and_grad(lambda x: function(x).sum())(x)


def _custom_vjp(h, x):
    """The constant lives in the backward rule alone."""

    @jax.custom_vjp
    def function(x):
        return jnp.sin(x)

    function.defvjp(lambda x: (jnp.sin(x), x), lambda x, g: (g * h,))
    return jax.value_and_grad(lambda x: function(x).sum())(x)


def _remat(h, x, **options):
    block = jax.checkpoint(lambda x: jnp.sin(x * h) * jnp.cos(x), **options)
    return jax.value_and_grad(lambda x: block(block(x)).sum())(x)


def _remat_in_scan(h, x):
    block = jax.checkpoint(lambda c, t: (jnp.sin(c * h), t), prevent_cse=False)
    return jax.grad(lambda x: jax.lax.scan(block, x, jnp.arange(3.0))[0].sum())(x)


def _while(h, limit, x):
    return jax.lax.while_loop(
        lambda c: c[0] < limit, lambda c: (c[0] + 1, c[1] * h + 0.5), (0, x)
    )


def _trip_count_in_body(h, x):
    def step(carry, t):
        return _while(1.5, h, carry)[1], t

    return jax.lax.scan(step, x, jnp.arange(2.0))


def _lifted_predicate(h, x):
    """The untaken branch is NaN or infinite; that must not leak, also in gradients."""

    def function(x):
        safe = jax.lax.cond(x.sum() > h, lambda x: x * 2, lambda x: jnp.log(x - 50), x)
        return jnp.where(jnp.isnan(safe), 0, safe).sum()

    return jax.value_and_grad(function)(x)


@jax.jit
def _inner(x, h):
    return jax.nn.relu(x) * h + jax.nn.silu(x * h)


def _jit_in_jit(h, x):
    @jax.jit
    def function(x):
        return _inner(x, h) + _inner(x, 0.5) * jax.jit(lambda x: x - h)(x)

    return function(x) + function(x * 2)


def _dropout(rate, x, key):
    layer = nn.Dropout(rate, deterministic=False)
    return layer.apply({}, x, rngs={"dropout": key})


def _optimizer(optimizer: Any, x: Any) -> Any:
    state = optimizer.init(x)
    for _ in range(3):
        updates, state = optimizer.update(jnp.sin(x), state, x)
        x = optax.apply_updates(x, updates)
    return x, jax.tree.leaves(state)


def _callback_of(function, x):
    shape = jax.ShapeDtypeStruct(x.shape, x.dtype)
    return jax.pure_callback(function, shape, x, vmap_method="sequential")


def _double(x):
    return np.asarray(x) * 2


def _ignore(*_):
    return None


@dataclasses.dataclass
class Recorder:
    """A callback that may change with every call."""

    calls: int

    def __call__(self, x):
        self.calls += 1


def _debug_callback(function, h, x):
    jax.debug.callback(function, x * h)
    return x * h


def _io_callback(h, x):
    io_callback(_ignore, None, x * h)
    return x * h


def _smoothed(h, x):
    labels = optax.smooth_labels(jax.nn.one_hot(jnp.arange(4) % 3, 3), h)
    return optax.softmax_cross_entropy(x, labels).mean()


def _module(module, x, key):
    return module.apply(module.init(key, x), x)


def _dead(h, x):
    jnp.sin(x * h).sum()
    jax.jit(lambda x: (x, x * h))(x)
    return x + 1


def _switch(h, x):
    branches = [lambda x: x, lambda x: x * 2, lambda x: jnp.sin(x)]
    return jax.lax.switch(h, branches, x)


def _argument_of_scan(h, x):
    return jax.lax.scan(lambda c, t: (c * 0.5 + t, c), h, jnp.exp(x).sum(1))


def _weak_carry(h, x):
    return jax.lax.fori_loop(0, 4, lambda i, c: c * h + x.sum() * 0.1, 0.0)


BF16, F16 = X.astype(jnp.bfloat16), X.astype(jnp.float16)
FLOATS = [0.1, 0.3, -2.5]

LIFTED = [
    Case("float32", lambda h: lambda x: x * h, FLOATS),
    Case("bfloat16", lambda h: lambda x: x * h, FLOATS, (BF16,)),
    Case("float16", lambda h: lambda x: x + h, FLOATS, (F16,)),
    Case("complex", lambda h: lambda x: x * h, [0.5j, 1 + 2j, 3.0 + 0j]),
    Case(
        "integers above 2**24",
        lambda h: lambda b: b ^ h,
        [16777216, 16777217, 2147483647, -2147483648],
        (BITS,),
    ),
    Case(
        "uint32",
        lambda h: lambda b: b.astype(jnp.uint32) + np.uint32(h),
        [4294967295, 0, 2147483648],
        (BITS,),
    ),
    Case("int8", lambda h: lambda b: b.astype(jnp.int8) * h, [3, -128, 127], (BITS,)),
    Case("uint8", lambda h: lambda b: b.astype(jnp.uint8) + h, [3, 255], (BITS,)),
    Case("bool", lambda h: lambda x: jnp.logical_xor(x > 0, h), [True, False]),
    Case("integer array times float", lambda h: lambda b: b * h, FLOATS, (BITS,)),
    Case("negative zero", lambda h: lambda x: 1 / (x * h), [0.0, -0.0]),
    Case("negative zero is read", lambda h: lambda x: jnp.copysign(x, h), [0.0, -0.0]),
    Case("NaN", lambda h: lambda x: x + h, [math.nan, 1.0, math.inf]),
    Case("infinity", lambda h: lambda x: jnp.clip(x, -h, h), [math.inf, 1.0, 0.0]),
    Case(
        "array closure", lambda h: lambda x, t=jnp.array([1.0, h, 3.0]): x * t, FLOATS
    ),
    Case(
        "NumPy array closure",
        lambda h: lambda x: x @ np.full((3, 2), h, np.float32),
        FLOATS,
    ),
    Case(
        "integer table",
        lambda h: lambda b: jnp.array([5, h, 7])[b % 3],
        [16777217, 16777219],
        (BITS,),
    ),
    Case("literal output", lambda h: lambda x: (x, h), FLOATS),
    Case("integer output", lambda h: lambda x: (x, jnp.int32(h)), [1, 16777217]),
    Case("array output", lambda h: lambda x: (x, jnp.array([1.0, h])), FLOATS),
    Case(
        "inject_hyperparams in the state",
        lambda h: (
            lambda x: jax.tree.leaves(
                optax.inject_hyperparams(optax.sgd)(learning_rate=h).init(x)
            )
        ),
        FLOATS,
    ),
    Case(
        "closed-over key",
        lambda h: lambda x, k=jax.random.key(h): jax.random.bits(k, x.shape) + 0 * BITS,
        [0, 16777217],
    ),
    Case(
        "closed-over keys",
        lambda h: (
            lambda x, k=jax.random.split(jax.random.key(h), 4): jax.vmap(
                jax.random.normal
            )(k)
        ),
        [0, 3],
    ),
    Case("key output", lambda h: lambda x, k=jax.random.key(h): (x, k), [0, 5]),
    Case(
        "literal seed",
        lambda h: lambda x: jax.random.bits(jax.random.key(h), x.shape),
        [16777217, 16777219],
    ),
    Case(
        "old-style seed",
        lambda h: lambda x: jax.random.bits(jax.random.PRNGKey(h), x.shape),
        [0, 16777217],
    ),
    Case(
        "fold_in",
        lambda h: lambda k: jax.random.normal(jax.random.fold_in(k, h), (5,)),
        [16777217, 16777219],
        (KEY,),
    ),
    Case("scan", lambda h: functools.partial(_scan, h), FLOATS),
    Case("nested scan", lambda h: functools.partial(_nested_scan, h), FLOATS),
    Case(
        "scan under grad",
        lambda h: jax.grad(lambda x: _scan(h, x)[0].sum()),
        FLOATS,
    ),
    Case("literal carry", lambda h: functools.partial(_argument_of_scan, h), FLOATS),
    Case("weak carry", lambda h: functools.partial(_weak_carry, h), FLOATS),
    Case("while body", lambda h: functools.partial(_while, h, 4), FLOATS),
    Case("while trip count", lambda h: functools.partial(_while, 0.5, h), [3, 5, 0]),
    Case(
        "trip count inside scan",
        lambda h: functools.partial(_trip_count_in_body, h),
        [3, 5, 0],
    ),
    Case(
        "cond branches",
        lambda h: (
            lambda x: jax.lax.cond(
                x.sum() > 0, lambda x: x * h, lambda x: x * jnp.array([1.0, h, 2.0]), x
            )
        ),
        FLOATS,
    ),
    Case(
        "cond predicate",
        lambda h: functools.partial(_lifted_predicate, h),
        [-100.0, 0.0, 100.0],
    ),
    Case("switch index", lambda h: functools.partial(_switch, h), [0, 1, 2, 7, -1]),
    Case("checkpoint", lambda h: functools.partial(_remat, h), FLOATS),
    Case(
        "checkpoint with a policy",
        lambda h: functools.partial(
            _remat, h, policy=jax.checkpoint_policies.dots_saveable
        ),
        FLOATS,
    ),
    Case("checkpoint in scan", lambda h: functools.partial(_remat_in_scan, h), FLOATS),
    Case("custom_jvp", lambda h: functools.partial(_custom_jvp, h), FLOATS),
    Case("custom_vjp, backward", lambda h: functools.partial(_custom_vjp, h), FLOATS),
    Case("nested jit", lambda h: functools.partial(_jit_in_jit, h), FLOATS),
    Case("power", lambda h: lambda x: jnp.abs(x) ** h, [0.0, 0.5, 1.0, 2.0, -1.0]),
    Case(
        "gradient of a power",
        lambda h: jax.grad(lambda x: (jnp.abs(x) ** h).sum()),
        [0.5, 1.0, 2.0, 3.0, -1.0],
    ),
    Case("where", lambda h: lambda x: jnp.where(x > h, x, h), FLOATS),
    Case("leaky_relu", lambda h: lambda x: jax.nn.leaky_relu(x, h), [0.0, 0.1, 1.0]),
    Case("padding value", lambda h: lambda x: jnp.pad(x, 1, constant_values=h), FLOATS),
    Case(
        "dynamic index",
        lambda h: lambda x: jax.lax.dynamic_index_in_dim(x, h, keepdims=False),
        [0, 2, 3],
    ),
    Case("array index", lambda h: lambda x: x[jnp.array([0, h])], [1, 2, 3]),
    Case("quantile", lambda h: lambda x: jnp.quantile(x, h), [0.1, 0.5, 1.0]),
    Case("linspace", lambda h: lambda x: x + jnp.linspace(0.0, h, 3), FLOATS),
    Case("decimals", lambda h: lambda x: jnp.round(x, h), [1, 2, 3]),
    Case("dropout", lambda h: functools.partial(_dropout, h), [0.1, 0.5], (X, KEY)),
    Case("label smoothing", lambda h: functools.partial(_smoothed, h), [0.0, 0.1]),
    Case(
        "normal scale in init",
        lambda h: functools.partial(
            _module, nn.Dense(5, kernel_init=nn.initializers.normal(h))
        ),
        [0.1, 0.02],
        (X, KEY),
    ),
    Case(
        "momentum of BatchNorm",
        lambda h: (
            lambda x, k: nn.BatchNorm(
                use_running_average=False, momentum=h
            ).init_with_output(k, x)[0]
        ),
        [0.9, 0.99],
        (X, KEY),
    ),
    Case(
        "warm-up schedule",
        lambda h: functools.partial(
            _optimizer,
            optax.adamw(
                optax.warmup_cosine_decay_schedule(0.0, h, int(10 / h), 1000),
                weight_decay=h,
            ),
        ),
        [0.5, 0.1, 1.0],
        ulps=64,  # of bias corrections, 1 - b2**t, that nearly cancel
    ),
    Case(
        "exponential decay and b1",
        lambda h: functools.partial(
            _optimizer, optax.adam(optax.exponential_decay(0.1, 7, h), b1=h - 0.5)
        ),
        [0.9, 0.5],
        ulps=64,
    ),
    Case(
        "momentum",
        lambda h: functools.partial(_optimizer, optax.sgd(0.1, momentum=h)),
        [0.9, 0.0],
    ),
    Case(
        "clipping",
        lambda h: functools.partial(
            _optimizer, optax.chain(optax.clip_by_global_norm(h), optax.sgd(h))
        ),
        [0.5, 10.0],
    ),
    Case(
        "piecewise schedule",
        lambda h: functools.partial(
            _optimizer, optax.sgd(optax.piecewise_constant_schedule(0.1, {1: h, 2: h}))
        ),
        [0.5, 0.1],
    ),
    Case(
        "pure_callback of one function",
        lambda h: lambda x: _callback_of(_double, x * h),
        FLOATS,
    ),
    Case(
        "debug.callback of one function",
        lambda h: functools.partial(_debug_callback, _ignore, h),
        FLOATS,
    ),
    Case(
        "io_callback of one function",
        lambda h: functools.partial(_io_callback, h),
        FLOATS,
    ),
    Case("nobody reads it", lambda h: functools.partial(_dead, h), FLOATS),
    Case(
        "equal reductions by a function of one's own",
        lambda h: lambda x: jax.lax.reduce(x * h, 0.0, lambda a, b: a + 2 * b, (0,)),
        FLOATS,
    ),
    Case(
        "equal linear solves",
        lambda h: lambda x: jax.scipy.sparse.linalg.cg(lambda v: v * 2.0, x * h)[0],
        FLOATS,
    ),
]


@pytest.mark.parametrize("case", LIFTED, ids=lambda case: case.name)
def test_a_constant_is_lifted(case: Case):
    functions = [case.make(value) for value in case.values]
    traces = [_trace(function, case.inputs) for function in functions]
    assert len({signature(trace) for trace in traces}) == 1
    _check_lanes(case, functions, traces)


def _conv(x, **options):
    image = jnp.ones((1, 9, 9, 1)) * x.sum()
    options = {"window_strides": (1, 1), "padding": "SAME", **options}
    kernel = jnp.ones((3, 3, 1, 2))
    return jax.lax.conv_general_dilated(
        image, kernel, dimension_numbers=("NHWC", "HWIO", "NHWC"), **options
    )


def _pool(window, x):
    return nn.max_pool(x[None, :, :, None], (window, window), (1, 1), padding="SAME")


def _linear_solve(h, x):
    return jax.lax.custom_linear_solve(
        lambda v: v * h, x, lambda _, b: b / h, symmetric=True
    )


def _partitionable(h, key):
    with jax.threefry_partitionable(h):
        return jax.random.bits(key, (3, 4))


def _scaled_by(h):
    return lambda x: np.asarray(x) * np.float32(h)


APART = [
    Case("integer power", lambda h: lambda x: x**h, [1, 2, 3, 4]),
    Case("power of int and float", lambda h: lambda x: x**h, [2, 2.5]),
    Case(
        "direction of cumsum",
        lambda h: lambda x: jax.lax.cumsum(x, 0, h),
        [True, False],
    ),
    Case("dimension of cumsum", lambda h: lambda x: jnp.cumsum(x, h), [0, 1]),
    Case("dimension of sort", lambda h: lambda x: jnp.sort(x, h), [0, 1]),
    Case(
        "stability of sort",
        lambda h: lambda x: jax.lax.sort(x, is_stable=h),
        [0 > 1, 1 > 0],
    ),
    Case(
        "axes of a reduction",
        lambda h: lambda x: (x * x[:3].T[:, :1].sum()).sum(h),
        [0, 1],
    ),
    Case("axis of argmax", lambda h: lambda x: jnp.argmax(x[:3], h), [0, 1]),
    Case("rounding", lambda h: lambda x: jnp.round(x, h), [0, 1]),
    Case(
        "rounding method",
        lambda h: lambda x: jax.lax.round(x, jax.lax.RoundingMethod(h)),
        [0, 1],
    ),
    Case(
        "reduced precision",
        lambda h: lambda x: jax.lax.reduce_precision(x, 8, h),
        [4, 5],
    ),
    Case(
        "dimension of iota",
        lambda h: lambda x: x[:3] + jax.lax.broadcasted_iota(jnp.float32, (3, 3), h),
        [0, 1],
    ),
    Case(
        "dimensions of a broadcast",
        lambda h: lambda x: jax.lax.broadcast_in_dim(x[0], (3, 3), (h,)),
        [0, 1],
    ),
    Case(
        "permutation",
        lambda h: lambda x: jnp.transpose(x[None, :3], h),
        [(0, 1, 2), (0, 2, 1)],
    ),
    Case("roll", lambda h: lambda x: jnp.roll(x, h, 0), [1, 2]),
    Case("static index", lambda h: lambda x: x[h], [0, 1, 2]),
    Case("static slice", lambda h: lambda x: x[h : h + 2], [0, 1]),
    Case(
        "stride", lambda h: lambda x: jax.lax.slice(x, (0, 0), (3, 3), (h, 1)), [2, 3]
    ),
    Case("top_k", lambda h: lambda x: jax.lax.top_k(x, h), [1, 2]),
    Case(
        "stride of a convolution",
        lambda h: functools.partial(_conv, window_strides=(h, 1)),
        [1, 2],
    ),
    Case("dilation", lambda h: functools.partial(_conv, rhs_dilation=(h, h)), [1, 2]),
    Case(
        "padding",
        lambda h: functools.partial(_conv, padding=((h, 2 - h), (1, 1))),
        [0, 1, 2],
    ),
    Case("window of a pool", lambda h: functools.partial(_pool, h), [2, 3]),
    Case(
        "mode of a gather",
        lambda h: lambda x: x.at[jnp.array([3, 1])].get(mode=h),
        ["clip", "fill", "promise_in_bounds"],
    ),
    Case(
        "fill value",
        lambda h: lambda x: x.at[jnp.array([7, 1])].get(mode="fill", fill_value=h),
        [0.0, -0.0, math.nan],
    ),
    Case(
        "dtype", lambda h: lambda x: x.astype(h), [jnp.float16, jnp.bfloat16, jnp.int32]
    ),
    Case(
        "precision",
        lambda h: lambda x: jnp.dot(x, x.T, precision=h),
        ["default", "highest"],
    ),
    Case(
        "accumulation",
        lambda h: (
            lambda x: jnp.dot(
                x.astype(jnp.bfloat16),
                x.T.astype(jnp.bfloat16),
                preferred_element_type=h,
            )
        ),
        [jnp.float32, jnp.bfloat16],
    ),
    Case(
        "static trip count",
        lambda h: lambda x: jax.lax.fori_loop(0, h, lambda i, c: c * 0.5, x),
        [2, 3],
    ),
    Case(
        "direction of a scan",
        lambda h: functools.partial(_scan, 0.5, reverse=h),
        [True, False],
    ),
    Case("unrolling", lambda h: functools.partial(_scan, 0.5, unroll=h), [1, 3]),
    Case(
        "operation in a while body",
        lambda h: (
            lambda x: jax.lax.while_loop(lambda c: c.sum() < 5, lambda c: h(c) + 1, x)
        ),
        [jnp.sin, jnp.cos],
    ),
    Case(
        "operation in a cond branch",
        lambda h: lambda x: jax.lax.cond(x.sum() > 0, h, jnp.exp, x),
        [jnp.sin, jnp.cos],
    ),
    Case(
        "order of operands",
        lambda h: lambda x: x - x[::-1] if h else x[::-1] - x,
        [True, False],
    ),
    Case(
        "which value is read",
        lambda h: lambda x, y: x * (x if h else y),
        [True, False],
        (X, X + 1),
    ),
    Case("shape of a constant", lambda h: lambda x: x + jnp.ones(h), [(3,), (1,)]),
    Case(
        "size of a constant that is summed",
        lambda h: lambda x, t=np.ones(h, np.float32): x + jnp.sum(t),
        [3, 4],
    ),
    Case(
        "dtype of a constant",
        lambda h: lambda x: (x, np.asarray(2, h)),
        [np.int32, np.float32, np.int8],
    ),
    Case(
        "generator of a key",
        lambda h: lambda x: jax.random.bits(jax.random.key(3, impl=h), x.shape),
        ["threefry2x32", "rbg"],
    ),
    Case(
        "partitionable draws",
        lambda h: functools.partial(_partitionable, h),
        [True, False],
        (KEY,),
    ),
    Case(
        "pure_callbacks of two closures",
        lambda h: functools.partial(_callback_of, _scaled_by(h)),
        [2.0, 3.0],
    ),
    Case(
        "debug.callbacks of two closures",
        lambda h: functools.partial(_debug_callback, lambda x: _ignore(h), 2.0),
        [2.0, 3.0],
    ),
    Case(
        "callbacks into two lists",
        lambda h: functools.partial(
            _debug_callback, functools.partial(_ignore, h), 2.0
        ),
        [[], []],
    ),
    Case(
        "callbacks of two equal objects",
        lambda h: functools.partial(_debug_callback, h, 2.0),
        [Recorder(1), Recorder(1)],
    ),
    Case(
        "debug.print of two texts",
        lambda h: lambda x: jax.debug.print(h + "{x}", x=x),
        ["", " "],
    ),
    Case(
        "linear solve inside", lambda h: functools.partial(_linear_solve, h), [2.0, 4.0]
    ),
    Case(
        "conjugate gradients inside",
        lambda h: lambda x: jax.scipy.sparse.linalg.cg(lambda v: v * h, x)[0],
        [2.0, 4.0],
    ),
    Case(
        "reduction by a function of one's own",
        lambda h: lambda x: jax.lax.reduce(x, 0.0, lambda a, b: a + h * b, (0,)),
        [2.0, 3.0],
    ),
    Case(
        "dropout or none",
        lambda h: functools.partial(_dropout, h),
        [0.0, 0.5, 1.0],
        (X, KEY),
    ),
    Case(
        "momentum or none",
        lambda h: functools.partial(_optimizer, optax.sgd(0.1, momentum=h)),
        [None, 0.9],
    ),
    Case(
        "Nesterov",
        lambda h: functools.partial(
            _optimizer, optax.sgd(0.1, momentum=0.9, nesterov=h)
        ),
        [True, False],
    ),
    Case(
        "weight decay or none",
        lambda h: functools.partial(_optimizer, optax.adamw(0.1, weight_decay=h)),
        [0.0, 0.1],
    ),
    Case("gelu", lambda h: lambda x: jax.nn.gelu(x, approximate=h), [True, False]),
]


@pytest.mark.parametrize("case", APART, ids=lambda case: case.name)
def test_a_difference_of_structure_keeps_trials_apart(case: Case):
    functions = [case.make(value) for value in case.values]
    traces = [_trace(function, case.inputs) for function in functions]
    assert len({signature(trace) for trace in traces}) == len(case.values)
    for function, trace in zip(functions, traces):
        _check_lanes(case, [function], [trace])


@pytest.mark.parametrize("case", LIFTED + APART, ids=lambda case: case.name)
def test_the_same_function_twice_is_one_program_without_varying_constants(case: Case):
    function = case.make(case.values[0])
    traces = [_trace(function, case.inputs) for _ in range(2)]
    assert len({signature(trace) for trace in traces}) == 1
    assert varying(traces) == ((), (), ())
