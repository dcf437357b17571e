"""Which constants differ, and how they are handed in."""

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pytest
from hypothesis import given, strategies as st
from hypothesis.extra import numpy as hnp

from vtune.fusion.constants import Lifting, PerFunction, constant_bytes, varying
from vtune.fusion.trace import trace_trial


KEY = jax.eval_shape(jax.random.key, 0)
BATCH = (jax.ShapeDtypeStruct((4, 3), jnp.float32),)
REST = (jax.ShapeDtypeStruct((2, 3), jnp.float32),)


class Trainable:
    """Constants in all three functions, of several kinds."""

    def __init__(self, scale=1.0, rate=0.1, offset=3, seed=0, table=(1.0, 2.0, 3.0)):
        self.scale, self.rate, self.offset = scale, rate, offset
        self.key, self.table = jax.random.key(seed), jnp.asarray(table)

    def init(self, key, batch):
        return {"params": jax.random.normal(key, (3,)) * self.scale}

    def train_step(self, state, batch, key):
        params = state["params"] * self.rate + jax.random.normal(self.key, (3,))
        return {"params": params}, {"loss": params.sum() + self.offset}

    def eval_step(self, state, batch):
        return {"loss": (state["params"] * self.table).sum()}


def trace(**settings):
    return trace_trial(Trainable(**settings), KEY, [BATCH, REST], [BATCH, REST])


numbers = hnp.arrays(
    st.sampled_from([np.float32, np.float64, np.int32, np.uint8, np.bool_]),
    hnp.array_shapes(min_dims=0, max_dims=2, max_side=2),
)


@given(numbers, numbers)
def test_constants_are_the_same_by_shape_dtype_and_bytes(a, b):
    same = (a.shape, a.dtype, a.tobytes()) == (b.shape, b.dtype, b.tobytes())
    assert (constant_bytes(a) == constant_bytes(b)) == same
    assert constant_bytes(a) == constant_bytes(a.copy())


def test_special_constants():
    def differ(a, b):
        return constant_bytes(a) != constant_bytes(b)

    zero = np.float32(0.0).reshape(())
    assert differ(zero, -zero)
    nan = np.asarray(np.nan, np.float32)
    assert not differ(nan, nan.copy())
    assert differ(np.asarray(1, np.float32), np.asarray(1, ml_dtypes.bfloat16))
    assert differ(jax.random.key(0), jax.random.key(1))
    assert differ(jax.random.key(0), jax.random.key_data(jax.random.key(0)))
    assert not differ(jax.random.key(3), jax.random.key(3))
    assert not differ(jnp.arange(3), np.arange(3, dtype=np.int32))
    big = np.zeros(100_000)
    other = big.copy()
    other[-1] = 1e-300
    assert differ(big, other) and not differ(big, big.copy())


def test_nothing_varies_among_equal_trials():
    slots = varying([trace(), trace(), trace()])
    assert slots == PerFunction((), ((), ()), ((), ()))


@pytest.mark.parametrize(
    ("settings", "where"),
    [
        ({"scale": 2.0}, (1, 0, 0)),
        ({"rate": 0.2}, (0, 1, 0)),
        ({"rate": 0.2, "offset": 4}, (0, 2, 0)),
        ({"seed": 1}, (0, 1, 0)),
        ({"table": (1.0, 2.0, -3.0)}, (0, 0, 1)),
    ],
)
def test_what_varies_is_found_in_each_function(settings, where):
    slots = varying([trace(), trace(**settings)])
    assert len(slots.init) == where[0]
    assert [len(s) for s in slots.train] == [where[1]] * 2
    assert [len(s) for s in slots.evaluate] == [where[2]] * 2


def test_values_keep_their_dtypes():
    traces = [
        trace(),
        trace(rate=0.2, offset=2**24, seed=1, table=(0.0, -0.0, 5.0)),
    ]
    lifting = Lifting(traces[0], varying(traces))
    values = lifting.values(traces[1])
    assert jax.tree.structure(values) == jax.tree.structure(lifting.values(traces[0]))
    numbers = [v for v in values.train[0] if v.dtype == np.float32]
    (key,) = [v for v in values.train[0] if v.dtype != np.float32]
    assert {v.item() for v in numbers} == {float(np.float32(0.2)), 2.0**24}
    assert key == jax.random.key(1)
    (table,) = values.evaluate[0]
    assert np.signbit(table[1]) and table.dtype == np.float32
    stacked = jax.tree.map(lambda *leaves: jnp.stack(leaves), values, values)
    assert stacked.init == () and stacked.evaluate[1][0].shape == (2, 3)


def test_a_program_accepts_what_differs_at_lifted_slots_only():
    lifting = Lifting(trace(), varying([trace(), trace(rate=0.2)]))
    assert lifting.accepts(trace(rate=0.3))
    for settings in ({"scale": 2.0}, {"offset": 4}, {"seed": 1}, {"table": (0.0,) * 3}):
        assert not lifting.accepts(trace(**settings))
        assert not lifting.accepts(trace(rate=0.3, **settings))
    assert not Lifting(trace(rate=0.0), varying([trace()])).accepts(trace(rate=-0.0))


def test_a_program_does_not_accept_other_functions():
    lifting = Lifting(trace(), varying([trace(), trace(rate=0.2)]))
    assert not lifting.accepts(trace_trial(Trainable(), KEY, [BATCH], [BATCH]))


def test_misuse_is_refused():
    with pytest.raises(ValueError, match="at least one trace"):
        varying([])
    with pytest.raises(ValueError, match="one signature"):
        varying([trace(), trace_trial(Trainable(), KEY, [BATCH], [])])


@given(st.lists(st.sampled_from([0.1, 0.2, -0.0, 0.0]), min_size=1, max_size=4))
def test_lifting_what_varies_accepts_all(rates):
    traces = [TRACES[str(rate)] for rate in rates]
    slots = varying(traces)
    lifting = Lifting(traces[0], slots)
    assert all(lifting.accepts(one) for one in traces)
    assert (len(slots.train[0]) > 0) == (len(set(map(str, rates))) > 1)
    for rate, one in zip(rates, traces):
        if slots.train[0]:
            assert (
                lifting.values(one).train[0][0].tobytes() == np.float32(rate).tobytes()
            )


TRACES = {str(rate): trace(rate=rate) for rate in (0.1, 0.2, -0.0, 0.0)}
