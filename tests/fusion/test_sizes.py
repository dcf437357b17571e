"""The structure of a program without its sizes, and the sizes."""

import functools
import itertools
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx
from hypothesis import given, settings, strategies as st
from jax import lax

from vtune.fusion.signature import flat_signature, signature
from vtune.fusion.sizes import (
    dominates,
    flat_structure,
    growing_sizes,
    sizes_of,
    structure,
    training_structure,
)
from vtune.fusion.trace import Trace, trace_function, trace_trial
from vtune.model import Model


KEY = jax.eval_shape(jax.random.key, 0)
LABELS = jax.ShapeDtypeStruct((4,), jnp.int32)
SPARSE = "sparse_categorical_crossentropy"


def array(*shape: int, dtype: Any = jnp.float32) -> jax.ShapeDtypeStruct:
    return jax.ShapeDtypeStruct(shape, dtype)


IMAGES, TOKENS = array(4, 6, 6, 2), array(4, 5, dtype=jnp.int32)


# Single functions.


def both(function, one, other, *arguments):
    """A function of a number, traced for two numbers, over arguments of its own."""
    return [
        trace_function(functools.partial(function, n), *(a(n) for a in arguments))
        for n in (one, other)
    ]


def matrix(n):
    return array(n, 3)


def fixed_matrix(_):
    return array(4, 4)


def image(_):
    return array(2, 8, 8, 3)


def convolve(x, kernel, strides=(1, 1), padding: Any = "SAME", **keywords):
    numbers = ("NHWC", "HWIO", "NHWC")
    return lax.conv_general_dilated(
        x, kernel, strides, padding, dimension_numbers=numbers, **keywords
    )


def pool(window, x):
    return lax.reduce_window(
        x, -jnp.inf, lax.max, (1, window, window, 1), (1, 1, 1, 1), "SAME"
    )


SIZES = {
    "dimension": (lambda n, x: jnp.tanh(x), matrix),
    "reshape": (lambda n, x: x.reshape(-1), matrix),
    "broadcast": (lambda n, x: jnp.broadcast_to(x, (7, n, 3)), matrix),
    "iota": (lambda n: jnp.arange(n) * 2,),
    "bits": (lambda n, k: jax.random.bits(k, (n, 2)), lambda _: KEY),
    "split keys": (lambda n, k: jax.random.split(k, n), lambda _: KEY),
    "slice": (lambda n, x: x[:, : n // 2], lambda n: array(3, n)),
    "slice of the end": (lambda n, x: x[:, n // 2 :], lambda n: array(3, n)),
    "pad": (lambda n, x: jnp.pad(x, ((0, 16 - n), (n, 0))), matrix),
    "crop": (lambda n, x: lax.pad(x, 0.0, ((-1, n, 0), (0, -2, 0))), matrix),
    "dynamic slice": (
        lambda n, x, i: lax.dynamic_slice(x, (i, i), (n - 1, 2)),
        matrix,
        lambda _: array(dtype=jnp.int32),
    ),
    "gather": (lambda n, x, i: x[i], matrix, lambda _: array(5, dtype=jnp.int32)),
    "gather rows": (
        lambda n, x, i: jnp.take(x, i, axis=1),
        matrix,
        lambda _: array(5, dtype=jnp.int32),
    ),
    "split": (lambda n, x: jnp.split(x, [n // 2], axis=0), matrix),
    "tile": (lambda n, x: jnp.tile(x, (n, 2)), fixed_matrix),
    "groups": (
        lambda n, x, k: convolve(x, k, feature_group_count=n),
        lambda n: array(2, 8, 8, n),
        lambda n: array(3, 3, 1, n),
    ),
    "groups of batches": (
        lambda n, x, k: convolve(x, k, batch_group_count=n),
        lambda n: array(2 * n, 8, 8, 3),
        lambda n: array(3, 3, 3, 2 * n),
    ),
    "length": (
        lambda n, x: lax.scan(lambda c, y: (c + y.sum(), c * y), 0.0, x),
        matrix,
    ),
    "repetitions": (
        lambda n, x: lax.fori_loop(0, n, lambda i, c: c * 0.5, x),
        fixed_matrix,
    ),
    "sizes in a body": (
        lambda n, x: lax.scan(lambda c, y: (c, jnp.tile(y, n)), 0.0, x),
        fixed_matrix,
    ),
    "sizes in branches": (
        lambda n, x: lax.cond(x[0, 0] > 0, lambda y: y.sum(0), lambda y: y[n - 1], x),
        matrix,
    ),
    "array constant": (lambda n, x: x + np.arange(3.0 * n).reshape(n, 3), matrix),
    "transposed": (lambda n, x: x.T @ x, matrix),
}


@pytest.mark.parametrize("case", SIZES)
def test_sizes_do_not_enter_the_structure(case):
    function, *arguments = SIZES[case]
    one, other = both(function, 4, 6, *arguments)
    assert flat_structure(one) == flat_structure(other)
    assert hash(flat_structure(one)) == hash(flat_structure(other))
    assert sizes_of(one) != sizes_of(other)
    assert len(sizes_of(one)) == len(sizes_of(other))
    assert flat_signature(one) != flat_signature(other)


def double(x):
    return x * 2


def triple(x):
    return x * 3


def solve(steps, b):
    return lax.custom_linear_solve(
        lambda x: 2.0 * x, b, lambda matvec, y: y / steps, symmetric=True
    )


def countdown(function, x):
    return lax.while_loop(lambda c: c.sum() > 1.0, lambda c: function(c) * 0.5, x)


# Everything here has equal shapes for both values.
MEANINGS: dict[str, tuple[Any, ...]] = {
    "exponent": (lambda h, x: x**h, 2, 3, fixed_matrix),
    "direction of a sum": (
        lambda h, x: lax.cumsum(x, 0, reverse=h),
        False,
        True,
        fixed_matrix,
    ),
    "axis of a sum": (lambda h, x: x.sum(h), 0, 1, fixed_matrix),
    "axis of a running sum": (lambda h, x: lax.cumsum(x, h), 0, 1, fixed_matrix),
    "axis of the largest": (lambda h, x: x.argmax(h), 0, 1, fixed_matrix),
    "axis of a sort": (lambda h, x: lax.sort(x, h), 0, 1, fixed_matrix),
    "axis of an iota": (
        lambda h: lax.broadcasted_iota(jnp.int32, (4, 4), h),
        0,
        1,
    ),
    "axis of a broadcast": (
        lambda h, x: lax.broadcast_in_dim(x, (4, 4), (h,)),
        0,
        1,
        lambda _: array(4),
    ),
    "axis of a concatenation": (
        lambda h, x: lax.concatenate([x, x], h)[:4, :4],
        0,
        1,
        fixed_matrix,
    ),
    "axis of a reversal": (lambda h, x: lax.rev(x, (h,)), 0, 1, fixed_matrix),
    "order of axes": (
        lambda h, x: jnp.transpose(x, h),
        (0, 1, 2),
        (1, 0, 2),
        lambda _: array(4, 4, 2),
    ),
    "contracted axis": (
        lambda h, x: lax.dot_general(x, x, (((h,), (0,)), ((), ()))),
        0,
        1,
        fixed_matrix,
    ),
    "dilation": (
        lambda h, x: convolve(
            x,
            np.ones((3, 3, 3, 1), np.float32),
            rhs_dilation=(h, h),
            padding=[(h, h)] * 2,
        ),
        1,
        2,
        image,
    ),
    "side of padding": (
        lambda h, x: convolve(
            x, np.ones((2, 2, 3, 1), np.float32), padding=[(h, 1 - h)] * 2
        ),
        0,
        1,
        image,
    ),
    "stride": (
        lambda h, x: convolve(
            x, np.ones((1, 1, 3, 1), np.float32), (h, h), padding=[(0, 8 * h - 8)] * 2
        ),
        1,
        2,
        image,
    ),
    "window": (pool, 2, 3, image),
    "precision of a number": (
        lambda h, x: lax.reduce_precision(x, 8, h),
        7,
        10,
        fixed_matrix,
    ),
    "rounding": (
        lambda h, x: lax.round(x, h),
        lax.RoundingMethod.AWAY_FROM_ZERO,
        lax.RoundingMethod.TO_NEAREST_EVEN,
        fixed_matrix,
    ),
    "precision of a product": (
        lambda h, x: lax.dot(x, x, precision=h),
        "default",
        "highest",
        fixed_matrix,
    ),
    "dtype": (lambda h, x: x.astype(h), jnp.float16, jnp.bfloat16, fixed_matrix),
    "how many of the largest": (
        lambda h, x: lax.top_k(x, h)[0].sum(),
        2,
        3,
        fixed_matrix,
    ),
    "gather mode": (
        lambda h, x: x.at[jnp.array([1, 9])].get(mode=h),
        "fill",
        "clip",
        fixed_matrix,
    ),
    "scatter mode": (
        lambda h, x: x.at[jnp.array([1, 9])].set(0.0, mode=h),
        "drop",
        "clip",
        fixed_matrix,
    ),
    "stride of a slice": (
        lambda h, x: lax.slice(x, (0,), (2 * h - 1,), (h,)),
        2,
        3,
        lambda _: array(8),
    ),
    "gaps of padding": (
        lambda h, x: lax.pad(x, 0.0, ((0, 0, h), (0, 3 * (2 - h), 0))),
        1,
        2,
        fixed_matrix,
    ),
    "direction of a scan": (
        lambda h, x: lax.scan(lambda c, y: (c * 0.5 + y, c), x[0], x, reverse=h),
        False,
        True,
        fixed_matrix,
    ),
    "function in a scan": (
        lambda h, x: lax.scan(lambda c, y: (h(c) + y, c), x[0], x),
        jnp.sin,
        jnp.cos,
        fixed_matrix,
    ),
    "function in a while": (countdown, jnp.sin, jnp.cos, fixed_matrix),
    "exponent in a while": (
        lambda h, x: countdown(lambda c: c**h, x),
        2,
        3,
        fixed_matrix,
    ),
    "branches": (
        lambda h, x: lax.cond(x[0, 0] > 0, jnp.sin, h, x),
        jnp.cos,
        jnp.tanh,
        fixed_matrix,
    ),
    "generic reduction": (
        lambda h, x: lax.reduce(x, 0.0, lambda a, b: a * h + b, (0,)),
        1.0,
        2.0,
        fixed_matrix,
    ),
    "linear solve": (solve, 2.0, 4.0, fixed_matrix),
    "callback": (
        lambda h, x: jax.pure_callback(h, array(4, 4), x),
        double,
        triple,
        fixed_matrix,
    ),
    "wiring": (
        lambda h, x: x - x.T if h else x.T - x,
        True,
        False,
        fixed_matrix,
    ),
    "comparison": (
        lambda h, x: h(x, 0.5),
        jnp.less,
        jnp.less_equal,
        fixed_matrix,
    ),
    "generator": (
        lambda h: jax.random.bits(jax.random.key(0, impl=h), (4,)),
        "threefry2x32",
        "rbg",
    ),
    "number of axes": (
        lambda h, x: x.reshape(h).sum(),
        (16,),
        (2, 8),
        fixed_matrix,
    ),
    "triangle": (lambda h, x: jnp.tril(x) if h else jnp.triu(x), 0, 1, fixed_matrix),
}


@pytest.mark.parametrize("case", MEANINGS)
def test_what_changes_the_meaning_enters_the_structure(case):
    function, one, other, *arguments = MEANINGS[case]
    first, second = both(function, one, other, *arguments)
    assert first.in_avals == second.in_avals
    assert flat_structure(first) != flat_structure(second)


@pytest.mark.parametrize("case", MEANINGS)
def test_a_structure_is_equal_to_itself_in_another_trace(case):
    function, one, _, *arguments = MEANINGS[case]
    first, second = both(function, one, one, *arguments)
    assert flat_structure(first) == flat_structure(second)
    assert sizes_of(first) == sizes_of(second)


# The law: structure and sizes together are the signature.

BLOCKS = [
    lambda h, x: jnp.tanh(x @ np.ones((x.shape[1], h), np.float32)),
    lambda h, x: jnp.concatenate([x, x[:, :1]], axis=1),
    lambda h, x: jnp.tile(x, (1, h)),
    lambda h, x: x[:, : max(1, x.shape[1] // h)],
    lambda h, x: x[:, ::h],
    lambda h, x: jnp.pad(x, ((0, 0), (h, 1))),
    lambda h, x: lax.cumsum(x, h % 2),
    lambda h, x: x**h,
    lambda h, x: x * (0.5 * h),
    lambda h, x: x.reshape(x.shape[0], -1, 1).sum(2),
    lambda h, x: lax.scan(lambda c, y: (c * h + y, c), x[0], x)[1],
    lambda h, x: lax.fori_loop(0, h, lambda i, c: c + 1.0, x),
    lambda h, x: x + jnp.arange(x.shape[1]),
]

PROGRAMS = st.lists(
    st.tuples(st.integers(0, len(BLOCKS) - 1), st.integers(1, 3)), max_size=3
)


def traced(program, rows):
    def function(x):
        for block, h in program:
            x = BLOCKS[block](h, x)
        return x

    return trace_function(function, array(rows, 3))


@st.composite
def pairs(draw):
    """Two programs that are often one but for their numbers."""
    first = draw(PROGRAMS)
    numbers = st.integers(1, 3)
    second = [(block, draw(numbers | st.just(h))) for block, h in first]
    other = draw(PROGRAMS | st.just(second) | st.just(second))
    return first, other, draw(st.integers(3, 4)), draw(st.integers(3, 4))


@settings(max_examples=60)
@given(pairs())
def test_structure_and_sizes_are_the_signature(pair):
    first, second, rows, others = pair
    one, other = traced(first, rows), traced(second, others)
    parts = flat_structure(one) == flat_structure(other)
    parts = parts and sizes_of(one) == sizes_of(other)
    assert parts == (flat_signature(one) == flat_signature(other))
    if flat_structure(one) == flat_structure(other):
        assert len(sizes_of(one)) == len(sizes_of(other))


# Whole networks.


class MLP(nn.Module):
    widths: tuple[int, ...] = (8,)
    activation: Any = nn.relu
    rate: float = 0.25
    norm: Any = None
    bias: bool = True

    @nn.compact
    def __call__(self, x, train: bool = False):
        x = x.reshape((x.shape[0], -1))
        for width in self.widths:
            x = nn.Dense(width, use_bias=self.bias)(x)
            x = self.activation(x if self.norm is None else self.norm()(x))
            x = nn.Dropout(self.rate, deterministic=not train)(x)
        return nn.Dense(3)(x)


class CNN(nn.Module):
    channels: int = 4
    kernel: int = 3
    strides: int = 1
    padding: Any = "SAME"
    window: int = 2
    dilation: int = 1

    @nn.compact
    def __call__(self, x, train: bool = False):
        x = nn.Conv(
            self.channels,
            (self.kernel, self.kernel),
            self.strides,
            self.padding,
            kernel_dilation=self.dilation,
        )(x)
        x = nn.relu(nn.BatchNorm(use_running_average=not train)(x))
        x = nn.max_pool(x, (self.window, self.window), (2, 2), "SAME")
        x = nn.Conv(x.shape[-1], (3, 3), feature_group_count=x.shape[-1])(x)
        return nn.Dense(3)(x.reshape((x.shape[0], -1)))


class Recurrent(nn.Module):
    width: int = 8
    cell: Any = nn.OptimizedLSTMCell
    reverse: bool = False

    @nn.compact
    def __call__(self, x):
        x = nn.Embed(20, self.width)(x)
        rnn = nn.RNN(self.cell(2 * self.width), reverse=self.reverse)
        return nn.Dense(3)(jnp.asarray(rnn(x))[:, -1])


class Transformer(nn.Module):
    width: int = 8
    heads: int = 2
    hidden: int = 16
    norm: Any = nn.LayerNorm
    axis: int = 1

    @nn.compact
    def __call__(self, x, deterministic: bool):
        embed = nn.Embed(20, self.width)
        x = embed(x)
        attention = nn.MultiHeadDotProductAttention(self.heads, dropout_rate=0.1)
        x = x + attention(self.norm()(x), deterministic=deterministic)
        inner = nn.gelu(nn.Dense(self.hidden)(self.norm()(x)))
        x = x + nn.Dense(self.width)(inner)
        return nn.Dense(3)(embed.attend(x).mean(self.axis))


class NnxMLP(nnx.Module):
    def __init__(self, width, rngs: nnx.Rngs):
        self.first = nnx.Linear(72, width, rngs=rngs)
        self.norm = nnx.BatchNorm(width, rngs=rngs)
        self.dropout = nnx.Dropout(0.25, rngs=rngs)
        self.last = nnx.Linear(width, 3, rngs=rngs)

    def __call__(self, x):
        x = nnx.relu(self.norm(self.first(x.reshape((x.shape[0], -1)))))
        return self.last(self.dropout(x))


def trace(module, x, optimizer=None, loss: Any = SPARSE, **keywords) -> Trace:
    model = Model(module, optimizer or optax.adam(1e-2), loss, ["accuracy"], **keywords)
    return trace_trial(model, KEY, [(x, LABELS)], [(x, LABELS)])


FAMILIES = {
    "mlp": [(MLP((w, v), rate=r), IMAGES) for w, v, r in [(8, 5, 0.1), (17, 9, 0.5)]],
    "layer norm": [(MLP((w,), norm=nn.LayerNorm), IMAGES) for w in (8, 17, 96)],
    "cnn": [(CNN(c), IMAGES) for c in (4, 7, 16)],
    "lstm": [(Recurrent(w), TOKENS) for w in (5, 8)],
    "gru": [(Recurrent(w, nn.GRUCell), TOKENS) for w in (5, 8)],
    "transformer": [
        (Transformer(w, h, d), TOKENS) for w, h, d in [(8, 2, 16), (12, 3, 20)]
    ],
    "nnx": [(functools.partial(NnxMLP, w), IMAGES) for w in (8, 17)],
}


@pytest.mark.parametrize("family", FAMILIES)
def test_an_architecture_has_one_structure(family):
    first, *others = [trace(module, x) for module, x in FAMILIES[family]]
    for other in others:
        assert training_structure(first) == training_structure(other)
        # Recurrent layers start from a QR decomposition.
        assert (structure(first) == structure(other)) == (family not in ("lstm", "gru"))
        assert signature(first) != signature(other)
        assert growing_sizes(first) != growing_sizes(other)
        assert dominates(other, first) and not dominates(first, other)
        assert dominates(first, first)


def test_neither_of_two_crossing_widths_dominates():
    one, other = (trace(MLP(widths), IMAGES) for widths in [(4, 16), (16, 4)])
    assert structure(one) == structure(other)
    assert not dominates(one, other) and not dominates(other, one)


def test_initialization_is_part_of_the_structure_but_not_of_that_of_training():
    class Net(nn.Module):
        start: Any

        @nn.compact
        def __call__(self, x):
            return nn.Dense(3, kernel_init=self.start)(x.reshape((x.shape[0], -1)))

    one, other = (
        trace(Net(init), IMAGES)
        for init in (nn.initializers.lecun_normal(), nn.initializers.zeros)
    )
    assert structure(one) != structure(other)
    assert training_structure(one) == training_structure(other)


def test_only_traces_of_one_structure_dominate():
    with pytest.raises(ValueError, match="one structure"):
        dominates(trace(MLP((4, 4)), IMAGES), trace(MLP((4,)), IMAGES))


def test_bounds_that_shrink_do_not_matter_to_dominance():
    class Padded:
        """A state of a width that a border fills up to 16."""

        def __init__(self, width):
            self.width = width

        def init(self, key, batch):
            return {"params": jnp.ones(self.width)}

        def train_step(self, state, batch, key):
            full = jnp.pad(state["params"], (0, 16 - self.width))
            return state, {"loss": (full * full).sum()}

        def eval_step(self, state, batch):
            return {"loss": state["params"].sum()}

    narrow, wide = (
        trace_trial(Padded(width), KEY, [(IMAGES,)], [(IMAGES,)]) for width in (4, 8)
    )
    assert structure(narrow) == structure(wide)
    assert dominates(wide, narrow) and not dominates(narrow, wide)


def square(x):
    return x**2


def cube(x):
    return x**3


VARIANTS: dict[str, list[tuple[Any, ...]]] = {
    "mlp": [
        (MLP(), IMAGES),
        (MLP((8, 8)), IMAGES),
        (MLP(()), IMAGES),
        (MLP(activation=nn.tanh), IMAGES),
        (MLP(activation=nn.gelu), IMAGES),
        (MLP(activation=square), IMAGES),
        (MLP(activation=cube), IMAGES),
        (MLP(activation=nn.softmax), IMAGES),
        (MLP(activation=functools.partial(nn.softmax, axis=0)), IMAGES),
        (MLP(rate=0.0), IMAGES),
        (MLP(bias=False), IMAGES),
        (MLP(norm=nn.LayerNorm), IMAGES),
        (MLP(norm=nn.RMSNorm), IMAGES),
        (MLP(), IMAGES, optax.sgd(1e-2)),
        (MLP(), IMAGES, optax.sgd(1e-2, momentum=0.9)),
        (MLP(), IMAGES, optax.sgd(1e-2, momentum=0.9, nesterov=True)),
        (MLP(), IMAGES, optax.adamw(1e-2)),
        (MLP(), IMAGES, optax.adam(optax.cosine_decay_schedule(1e-2, 10))),
        (MLP(), IMAGES, optax.chain(optax.clip_by_global_norm(1.0), optax.adam(1e-2))),
    ],
    "cnn": [
        (CNN(), IMAGES),
        (CNN(kernel=5), IMAGES),
        (CNN(kernel=2), IMAGES),
        (CNN(strides=2), IMAGES),
        (CNN(padding="VALID"), IMAGES),
        (CNN(window=3), IMAGES),
        (CNN(dilation=2), IMAGES),
    ],
    "recurrent": [
        (Recurrent(), TOKENS),
        (Recurrent(cell=nn.LSTMCell), TOKENS),
        (Recurrent(cell=nn.GRUCell), TOKENS),
        (Recurrent(reverse=True), TOKENS),
    ],
    "transformer": [
        (Transformer(), TOKENS),
        (Transformer(norm=nn.RMSNorm), TOKENS),
        (Transformer(axis=2), TOKENS),
    ],
}


@pytest.mark.parametrize("kind", VARIANTS)
def test_other_architectures_have_other_structures(kind):
    structures = [training_structure(trace(*variant)) for variant in VARIANTS[kind]]
    for one, other in itertools.combinations(range(len(structures)), 2):
        assert structures[one] != structures[other], (one, other)


def test_constants_are_no_part_of_the_structure():
    rates = [trace(MLP(rate=r), IMAGES, optax.adam(s)) for r, s in [(0.1, 1), (0.5, 2)]]
    assert structure(rates[0]) == structure(rates[1])
    assert growing_sizes(rates[0]) == growing_sizes(rates[1])


def test_the_batch_and_the_data_are_part_of_the_sizes():
    other = trace(MLP(), array(4, 6, 6, 3))
    assert structure(trace(MLP(), IMAGES)) == structure(other)
    assert structure(trace(MLP(), array(4, 6, 6))) != structure(other)
