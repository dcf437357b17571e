"""Values are the same by type and bytes."""

import dataclasses
import enum
import functools
import math
import struct
from typing import Any, NamedTuple

import flax.core
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn
from hypothesis import given, strategies as st

from vtune.fusion.identity import Reference, identity


@dataclasses.dataclass(frozen=True)
class Settings:
    rate: float
    name: str = "a"


class Pair(NamedTuple):
    first: Any
    second: Any


class Colour(enum.IntEnum):
    RED = 1


class Dense(nn.Module):
    units: int
    activation: Any = nn.relu
    rates: Any = 0.5
    inner: Any = None

    @nn.compact
    def __call__(self, x):
        return self.activation(nn.Dense(self.units)(x))


class Derived(nn.Module):
    units: int

    def __post_init__(self):
        object.__setattr__(self, "doubled", [self.units * 2])
        super().__post_init__()

    @nn.compact
    def __call__(self, x):
        return x


def function(*args, **kwargs):
    return args, kwargs


def closure(value):
    return lambda: value


VALUES: list[Any] = [
    None,
    0,
    1,
    True,
    False,
    1.0,
    0.0,
    -0.0,
    math.nan,
    math.inf,
    1j,
    complex(0.0, -0.0),
    "1",
    b"1",
    (),
    (1,),
    (True,),
    (1.0,),
    (float, b"\0" * 8),
    [],
    [1],
    {},
    {"a": 1},
    {"a": 1.0},
    {"a": 1, "b": 2},
    {"b": 2, "a": 1},
    flax.core.FrozenDict({"a": 1}),
    {1},
    frozenset({1}),
    slice(1, 2),
    range(2),
    Colour.RED,
    np.float32(1),
    np.float64(1),
    np.asarray(1.0),
    np.zeros(2, np.float32),
    -np.zeros(2, np.float32),
    np.zeros((2, 1), np.float32),
    np.zeros(2, np.int32),
    np.zeros(1000, np.int32),
    np.ones(1000, np.int32),
    jnp.zeros(2),
    jnp.zeros(2, jnp.bfloat16),
    jax.random.key(0),
    jax.random.key(1),
    jax.random.key(0, impl="rbg"),
    np.dtype("float32"),
    np.float32,
    jnp.float32,
    Settings(0.0),
    Settings(-0.0),
    Settings(0.0, "b"),
    Pair(0.0, 1),
    Pair(0, 1),
    Dense(3),
    Dense(4),
    Dense(3, nn.tanh),
    Dense(3, rates=(0.5,)),
    Dense(3, rates=[0.5, 1]),
    Dense(3, inner=Dense(3)),
    Dense(3, inner=Dense(4)),
    Dense(3, inner=nn.Dense(3)),
    nn.Dense(3),
    nn.Dense(3, kernel_init=nn.initializers.normal(0.1)),
    nn.Dense(3, kernel_init=nn.initializers.normal(0.2)),
    nn.Dense(3, dtype=jnp.bfloat16),
    Dense(3, name="x"),
    Derived(1),
    Derived(2),
    function,
    functools.partial(function),
    functools.partial(function, 1),
    functools.partial(function, 1.0),
    functools.partial(function, a=1),
    closure(1),
    closure(1),
    jax.jit(function),
    object(),
]


def test_different_values_have_different_identities():
    identities = [identity(value) for value in VALUES]
    assert len(set(identities)) == len(VALUES)


@pytest.mark.parametrize(
    "make",
    [
        lambda: math.nan,
        lambda: (1, [2.0, {"a": {3}}], "x"),
        lambda: np.arange(1000.0),
        lambda: jnp.arange(5),
        lambda: jax.random.key(5),
        lambda: Settings(math.nan),
        lambda: Pair([1], {"a": None}),
        lambda: Dense(3, nn.tanh, (0.5, {"a": 1}), Dense(2)),
        lambda: Derived(4),
        lambda: nn.Dense(3, kernel_init=nn.initializers.normal(0.1)),
        lambda: nn.Sequential([nn.Dense(3), nn.relu, nn.LayerNorm()]),
        lambda: functools.partial(function, 1, b=2.0),
        lambda: jax.sharding.SingleDeviceSharding(jax.devices()[0]),
        lambda: jax.tree.structure({"a": (1, None), "b": [2]}),
    ],
)
def test_a_value_made_twice_is_the_same(make):
    assert identity(make()) == identity(make())
    assert hash(identity(make())) == hash(identity(make()))


@given(st.floats(width=64), st.floats(width=64))
def test_floats_are_the_same_by_their_bits(a, b):
    assert (identity(a) == identity(b)) == (struct.pack("d", a) == struct.pack("d", b))


@given(
    st.recursive(
        st.none()
        | st.booleans()
        | st.integers(0, 2)
        | st.sampled_from([0.0, -0.0, 1.0]),
        lambda inner: (
            st.lists(inner, max_size=2)
            | st.tuples(inner)
            | st.dictionaries(st.sampled_from("ab"), inner, max_size=2)
        ),
        max_leaves=4,
    ),
    st.data(),
)
def test_equal_identity_is_equal_text(a, data):
    """For plain data, `repr` tells apart what types and bytes do."""
    b = data.draw(st.sampled_from([a, [a], (a,), {"a": a}]))
    assert (identity(a) == identity(b)) == (repr(a) == repr(b))


def test_objects_that_hold_themselves():
    knot: list[Any] = [1]
    knot.append(knot)
    assert identity(knot) == identity(knot)


def test_a_bound_module_is_known_by_what_it_is():
    free = identity(Dense(3, name="inner"))

    class Outer(nn.Module):
        @nn.compact
        def __call__(self, x):
            made_inside = Dense(3, name="inner")
            assert made_inside.parent is self
            assert identity(made_inside) == free
            return made_inside(x)

    Outer().init(jax.random.key(0), jnp.ones((1, 2)))


def test_a_method_is_the_same_on_the_same_object():
    class Counter:
        def count(self):
            return 1

    one, other = Counter(), Counter()
    assert identity(one.count) == identity(one.count)
    assert identity(one.count) != identity(other.count)


def test_a_reference_keeps_its_object_alive():
    """A dead object's address may be given to another one."""
    identities = {identity(closure(i)) for i in range(100)}
    assert len(identities) == 100
    assert all(isinstance(one, Reference) for one in identities)


def test_the_bytes_of_an_array_count_at_any_size():
    for size in (1, 31, 32, 33, 10_000):
        a, b = np.zeros(size), np.zeros(size)
        assert identity(a) == identity(b)
        b[-1] = -0.0
        assert identity(a) != identity(b)
