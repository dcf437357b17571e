"""A lane's draws inside a wider program are its own, bit for bit."""

import functools
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings, strategies as st

from vtune.fusion import internals, randomness
from vtune.fusion.layout import (
    Concatenation,
    Layout,
    Product,
    Reversed,
    Tail,
    indexed,
    vectors,
)
from vtune.fusion.placement import embed, extract
from vtune.fusion.randomness import narrow_bits, narrow_split, require_counters
from vtune.fusion.refusal import Refusal
from vtune.fusion.trace import trace_function


LANES = 3
KEY = jax.eval_shape(jax.random.key, 0)

# Most of the time would go into making programs fast that run once.
jit = functools.partial(jax.jit, compiler_options={"xla_backend_optimization_level": 0})


def tail(*sizes: int) -> Tail:
    return Tail(None, sizes)


def fixed(size: int) -> Tail:
    return tail(*[size] * LANES)


# Of each kind of axis the three sizes, two of which divide nothing, and the envelope's.
TAIL = tail(3, 17, 24)
BLOCKS = Product((fixed(4), tail(2, 3, 6)))
HEADS = Product((tail(1, 3, 4), tail(5, 2, 6)))
RUNS = Concatenation((tail(2, 5, 7), fixed(3), tail(7, 1, 9)))
REVERSED = Reversed(tail(5, 11, 13))
FIXED = fixed(5)
AXES = {
    "tail": TAIL,
    "blocks": BLOCKS,
    "heads": HEADS,
    "runs": RUNS,
    "reversed": REVERSED,
    "fixed": FIXED,
}
SHAPES = {
    "1d": (TAIL,),
    "tail-tail": (TAIL, tail(4, 9, 16)),
    "fixed-tail": (FIXED, TAIL),
    "tail-fixed": (TAIL, FIXED),
    "blocks-runs": (BLOCKS, RUNS),
    "heads-reversed": (HEADS, REVERSED),
    "conv": (fixed(3), tail(3, 5, 8), tail(1, 7, 9)),
    "same": (TAIL, TAIL),
}


def with_places(layouts: tuple[Layout, ...]) -> tuple[tuple[Layout, ...], jax.Array]:
    """Layouts that know their places in the lanes' sizes, and those sizes."""
    table = vectors(layouts)
    places = {vector: place for place, vector in enumerate(table)}
    sizes = np.array(table or [[0] * LANES], np.int32).T
    return tuple(indexed(layout, places) for layout in layouts), jnp.array(sizes)


def bits_alone(key, shape, dtype=jnp.uint32):
    return np.asarray(jit(lambda key: jax.random.bits(key, shape, dtype))(key))


def narrow_shape(layouts: tuple[Layout, ...], lane: int) -> tuple[int, ...]:
    return tuple(layout.sizes[lane] for layout in layouts)


def lanes_of_bits(keys, bit_width, layouts):
    known, sizes = with_places(layouts)
    draw = jax.vmap(lambda key, s: narrow_bits(key, bit_width, known, s))
    return np.asarray(jit(draw)(keys, sizes))


@pytest.mark.parametrize(
    "shape, bit_width",
    [(shape, 32) for shape in SHAPES]
    + [("blocks-runs", width) for width in (8, 16, 64)],
)
def test_bits_are_those_alone(shape, bit_width):
    layouts = SHAPES[shape]
    with jax.enable_x64(bit_width == 64):
        keys = jax.random.split(jax.random.key(7), LANES)
        dtype = jnp.dtype(f"uint{bit_width}")
        wide = lanes_of_bits(keys, bit_width, layouts)
        assert wide.dtype == dtype
        for lane in range(LANES):
            alone = bits_alone(keys[lane], narrow_shape(layouts, lane), dtype)
            assert (extract(wide[lane], layouts, lane) == alone).all()
            live = embed(np.ones(alone.shape, bool), layouts, lane)
            assert not wide[lane][~live].any()


@settings(max_examples=10)
@given(
    st.lists(st.sampled_from(list(AXES.values())), max_size=3).map(tuple),
    st.integers(0, 2**32 - 1),
    st.integers(0, LANES - 1),
)
def test_any_axes(layouts, seed, lane):
    known, sizes = with_places(layouts)
    key = jax.random.key(seed)
    draw = jit(lambda key, s: narrow_bits(key, 32, known, s))
    wide = np.asarray(draw(key, sizes[lane]))
    alone = bits_alone(key, narrow_shape(layouts, lane))
    assert wide.shape == tuple(layout.wide for layout in layouts)
    assert (extract(wide, layouts, lane) == alone).all()


@pytest.mark.parametrize("shape, kind", [((2,), "blocks-runs"), ((2, 3), "1d")])
def test_each_of_several_keys_draws_an_array(shape, kind):
    layouts = SHAPES[kind]
    keys = jax.random.split(jax.random.key(1), (LANES, *shape))
    wide = lanes_of_bits(keys, 32, layouts)
    axes = tuple(map(fixed, shape)) + layouts
    for lane in range(LANES):
        draw = functools.partial(
            jax.random.bits, shape=narrow_shape(layouts, lane), dtype=jnp.uint32
        )
        for _ in shape:
            draw = jax.vmap(draw)
        alone = np.asarray(jit(draw)(keys[lane]))
        assert (extract(wide[lane], axes, lane) == alone).all()


@pytest.mark.parametrize("shape", ["1d", "blocks-runs", "heads-reversed"])
def test_split_keys_are_those_alone(shape):
    layouts = SHAPES[shape]
    known, sizes = with_places(layouts)
    keys = jax.random.split(jax.random.key(3), LANES)
    split = jit(jax.vmap(lambda key, s: narrow_split(key, known, s)))(keys, sizes)
    data = np.asarray(jax.random.key_data(split))
    for lane in range(LANES):
        alone = jax.random.split(keys[lane], narrow_shape(layouts, lane))
        alone = np.asarray(jax.random.key_data(alone))
        words = (*layouts, fixed(2))
        assert (extract(data[lane], words, lane) == alone).all()


def test_arrays_of_keys_are_split_each():
    known, sizes = with_places((TAIL,))
    keys = jax.random.split(jax.random.key(3), 4)
    split = jax.random.key_data(narrow_split(keys, known, sizes[1]))
    alone = jax.random.key_data(jax.vmap(lambda k: jax.random.split(k, 17))(keys))
    assert (split[:, :17] == alone).all()


def word(array):
    return int(jnp.ravel(array)[0])


@given(st.data(), st.lists(st.integers(1, 2**21), min_size=3, max_size=4))
def test_more_entries_than_32_bits_can_number(data, sizes):
    layouts, index, number = [], [], 0
    for place, size in enumerate(sizes):
        wide = data.draw(st.integers(size, 2**22))
        layouts.append(Tail(place, (size, wide)))
        at = data.draw(st.integers(0, size - 1))
        index.append(jnp.full((1,), at, jnp.int32))
        number = number * size + at
    upper, lower = randomness._counters(layouts, jnp.array(sizes, jnp.int32), index)
    assert word(upper) * 2**32 + word(lower) == number % 2**64


def test_the_upper_word_is_used_where_it_is_needed():
    layout = Tail(0, (2**20, 2**20 + 1))
    at = [jnp.full((1,), 2**20 - 1, jnp.int32)] * 2
    sizes = jnp.array([2**20], jnp.int32)
    upper, lower = randomness._counters([layout, layout], sizes, at)
    assert word(upper) * 2**32 + word(lower) == 2**40 - 1


# Whole distributions: the wide function with the narrow one's constants, drawing the
# narrow one's bits.


def run(flat, constants, inputs, draw):
    """The results of a function without bodies, and all bits that it drew."""
    environment = dict(zip(flat.body.inputs, inputs))
    drawn = []

    def read(atom):
        return environment[atom] if atom in environment else constants[atom.slot]

    for equation in flat.body.equations:
        assert not equation.bodies
        operands = [read(atom) for atom in equation.inputs]
        if equation.primitive.name == "random_bits":
            results = [draw(equation, *operands)]
            drawn.append(results[0])
        else:
            results = internals.bind(equation, operands)
        environment.update(zip(equation.outputs, results))
    return [read(atom) for atom in flat.body.outputs], drawn


def alone(flat, key, *inputs):
    draw = lambda equation, *operands: internals.bind(equation, operands)[0]  # noqa: E731
    return run(flat, flat.constants, [key, *inputs], draw)


def side_by_side(function, layouts, *arguments):
    """Draws of all lanes: fused in the envelope's shape, and each alone."""
    flats = []
    for n in range(LANES):
        shape = narrow_shape(layouts, n)
        drawn = functools.partial(lambda shape, k, *a: function(k, shape, *a), shape)
        flats.append(trace_function(drawn, KEY, *[a[n] for a in arguments]))
    keys = jax.random.split(jax.random.key(11), LANES)
    known, sizes = with_places(layouts)
    wide = flats[-1]
    assert [e.primitive for e in wide.body.equations] == [
        e.primitive for e in flats[0].body.equations
    ]

    def one(key, s, constants, *inputs):
        def draw(equation, key):
            shape = equation.params["shape"]
            assert shape in ((), tuple(layout.wide for layout in layouts))
            axes = known if shape else ()
            return narrow_bits(key, equation.params["bit_width"], axes, s)

        return run(wide, constants, [key, *inputs], draw)

    constants = [np.stack(c) for c in zip(*[flat.constants for flat in flats])]
    inputs = [jnp.stack(a) for a in arguments]
    fused = jit(jax.vmap(one))(keys, sizes, constants, *inputs)
    each = [
        jit(functools.partial(alone, flats[n]))(keys[n], *[a[n] for a in arguments])
        for n in range(LANES)
    ]
    return fused, each


def check(function, layouts, *arguments):
    (results, bits), each = side_by_side(function, layouts, *arguments)
    assert bits
    for lane, (own_results, own_bits) in enumerate(each):
        for wide, own in zip(bits, own_bits):
            inner = layouts if wide.ndim > 1 else ()
            assert (extract(wide[lane], inner, lane) == np.asarray(own)).all()
        for wide, own in zip(results, own_results):
            live = extract(np.asarray(wide[lane]), layouts, lane)
            assert live.dtype == own.dtype
            ulps = 8 * float(jnp.finfo(own.dtype).eps) if is_float(own) else 0
            live, own = live.astype(np.float64), np.asarray(own, np.float64)
            np.testing.assert_allclose(live, own, rtol=ulps, atol=1e-6 if ulps else 0)


def is_float(array):
    return jnp.issubdtype(array.dtype, jnp.floating)


INITIALIZERS = {
    "normal": nn.initializers.normal(),
    "uniform": nn.initializers.uniform(),
    "truncated": nn.initializers.truncated_normal(),
    "lecun_normal": nn.initializers.lecun_normal(),
    "lecun_uniform": nn.initializers.lecun_uniform(),
    "glorot_normal": nn.initializers.glorot_normal(),
    "glorot_uniform": nn.initializers.glorot_uniform(),
    "he_normal": nn.initializers.he_normal(),
    "he_uniform": nn.initializers.he_uniform(),
    "embedding": nn.initializers.variance_scaling(1.0, "fan_in", "normal", out_axis=0),
    "scaled": nn.initializers.variance_scaling(0.5, "fan_avg", "truncated_normal"),
}


@pytest.mark.parametrize(
    "name, shape",
    [(name, "blocks-runs") for name in INITIALIZERS]
    + [("lecun_normal", "tail-tail"), ("glorot_uniform", "conv")],
)
def test_initial_weights(name, shape):
    check(INITIALIZERS[name], SHAPES[shape])


@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float16])
def test_initial_weights_in_16_bits(dtype):
    init = nn.initializers.lecun_normal(dtype=dtype)
    check(init, SHAPES["blocks-runs"])


def dropout(key, shape, rate):
    keep = 1.0 - rate
    mask = jax.random.bernoulli(key, keep, shape)
    return jax.lax.select(mask, jnp.ones(shape) / keep, jnp.zeros(shape))


def flax_dropout(rate):
    module = nn.Dropout(rate, deterministic=False)
    return lambda k, shape: module.apply({}, jnp.ones(shape), rngs={"dropout": k})


DRAWS: dict[str, Any] = {
    "flax dropout": flax_dropout(0.3),
    "bernoulli": lambda k, shape: jax.random.bernoulli(k, 0.3, shape),
    "gumbel": jax.random.gumbel,
    "exponential": jax.random.exponential,
    "randint": lambda k, shape: jax.random.randint(k, shape, -5, 1000),
    "randint8": lambda k, shape: jax.random.randint(k, shape, 0, 100, jnp.uint8),
    "rademacher": jax.random.rademacher,
    "split and add": lambda k, shape: sum(
        jax.random.normal(half, shape) for half in jax.random.split(k)
    ),
    "fold in": lambda k, shape: jax.random.uniform(jax.random.fold_in(k, 5), shape),
}


@pytest.mark.parametrize("name", DRAWS)
def test_distributions(name):
    check(DRAWS[name], SHAPES["heads-reversed"])


def test_dropout_with_a_rate_of_its_own():
    rates = [jnp.float32(rate) for rate in (0.1, 0.5, 0.9)]
    check(dropout, SHAPES["blocks-runs"], rates)


def test_a_permutation_draws_its_own_bits():
    layouts = (TAIL,)
    known, sizes = with_places(layouts)
    key = jax.random.key(5)
    for lane in range(LANES):
        _, subkey = jax.random.split(key)
        bits = narrow_bits(subkey, 32, known, sizes[lane])
        size = TAIL.sizes[lane]
        order = np.argsort(np.asarray(bits)[:size], kind="stable")
        assert (order == jax.random.permutation(key, size)).all()


@pytest.mark.parametrize("generator", ["rbg", "unsafe_rbg"])
def test_other_generators_are_refused(generator):
    known, sizes = with_places((TAIL,))
    key = jax.random.key(0, impl=generator)
    with pytest.raises(Refusal, match=generator):
        narrow_bits(key, 32, known, sizes[0])
    with pytest.raises(Refusal, match=generator):
        narrow_split(key, known, sizes[0])


def test_another_way_of_counting_is_refused():
    known, sizes = with_places((TAIL,))
    with jax.threefry_partitionable(False):
        with pytest.raises(Refusal, match="jax_threefry_partitionable"):
            narrow_bits(jax.random.key(0), 32, known, sizes[0])
        flat = trace_function(lambda key: jax.random.normal(key), KEY)
    draws = [e for e in flat.body.equations if e.primitive.name == "random_bits"]
    key = draws[0].inputs[0].aval
    require_counters(key)  # now it is on, but the equation remembers that it was off
    with pytest.raises(Refusal, match="test_randomness.py") as refused:
        require_counters(key, draws[0])
    assert refused.value.primitive == "random_bits"


def test_a_key_that_all_lanes_share():
    def drawn(size):
        layouts = (Tail(0, (3, 5)), Tail(None, (4, 4)))
        return narrow_bits(jax.random.key(0), 32, layouts, size)

    sizes = jnp.asarray([[3], [5]], jnp.int32)
    wide = jax.jit(jax.vmap(drawn))(sizes)
    for lane, size in enumerate((3, 5)):
        alone = jax.random.bits(jax.random.key(0), (size, 4), jnp.uint32)
        np.testing.assert_array_equal(wide[lane][:size], alone)
