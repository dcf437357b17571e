"""Which trial holds all the others, and what such a trial might be."""

import jax
import jax.numpy as jnp
import pytest
from hypothesis import given, strategies as st

from vtune.fusion.envelope import envelope_values, find_envelope, undominated
from vtune.fusion.sizes import dominates, structure
from vtune.fusion.trace import Trace, trace_trial


KEY = jax.eval_shape(jax.random.key, 0)
BATCH = (jax.ShapeDtypeStruct((4, 3), jnp.float32),)


class TwoLayers:
    """The least that has two widths."""

    def __init__(self, first, second, deeper=False):
        self.shapes = [(3, first), (first, second)] + [(second, 2)] * deeper

    def init(self, key, batch):
        return {"params": [jax.random.normal(key, shape) for shape in self.shapes]}

    def eval_step(self, state, batch):
        (x,) = batch
        for weights in state["params"]:
            x = jnp.tanh(x @ weights)
        return {"loss": x.var()}

    def train_step(self, state, batch, key):
        step = jax.grad(lambda state: self.eval_step(state, batch)["loss"])(state)
        return jax.tree.map(jnp.subtract, state, step), self.eval_step(state, batch)


KNOWN: dict[tuple[int, int], Trace] = {}


def trace(first, second):
    if (first, second) not in KNOWN:
        trainable = TwoLayers(first, second)
        KNOWN[first, second] = trace_trial(trainable, KEY, [BATCH], [BATCH])
    return KNOWN[first, second]


WIDTHS = st.lists(
    st.tuples(st.sampled_from([2, 5, 17]), st.sampled_from([3, 8, 9])),
    min_size=1,
    max_size=5,
)


def covers(one, other):
    return one[0] >= other[0] and one[1] >= other[1]


@given(WIDTHS)
def test_the_envelope_dominates_all(widths):
    traces = [trace(*pair) for pair in widths]
    holders = [n for n, w in enumerate(widths) if all(covers(w, v) for v in widths)]
    assert find_envelope(traces) == (holders[0] if holders else None)
    if holders:
        assert all(dominates(traces[holders[0]], other) for other in traces)


@given(WIDTHS)
def test_the_others_are_dominated(widths):
    found = undominated([trace(*pair) for pair in widths])
    maximal = {w for w in widths if not any(v != w and covers(v, w) for v in widths)}
    assert found == tuple(sorted(widths.index(pair) for pair in maximal))


@given(WIDTHS)
def test_the_largest_values_give_an_envelope(widths):
    members = [{"first": first, "second": second} for first, second in widths]
    values = envelope_values(members)
    assert values is not None
    envelope = trace(values["first"], values["second"])
    traces = [trace(*pair) for pair in widths]
    assert find_envelope([*traces, envelope]) is not None
    for other in traces:
        assert structure(envelope) == structure(other)
        assert dominates(envelope, other)


def test_no_trace_has_no_envelope():
    assert find_envelope([]) is None
    assert undominated([]) == ()


@pytest.mark.parametrize("function", [find_envelope, undominated])
def test_traces_of_other_structures_are_an_error(function):
    deeper = trace_trial(TwoLayers(2, 3, deeper=True), KEY, [BATCH], [BATCH])
    with pytest.raises(ValueError, match="one structure"):
        function([trace(2, 3), deeper])


@pytest.mark.parametrize(
    "members, expected",
    [
        ([{"units": 32, "rate": 0.1}], {"units": 32, "rate": 0.1}),
        (
            [{"units": 32, "rate": 0.1}, {"units": 8, "rate": 0.5}],
            {"units": 32, "rate": 0.5},
        ),
        (
            [{"a": 1, "kind": "relu"}, {"b": 2, "kind": "relu"}],
            {"a": 1, "kind": "relu", "b": 2},
        ),
        ([{"kind": "relu"}, {"kind": "tanh"}], None),
        ([{"bias": True}, {"bias": True}], {"bias": True}),
        ([{"bias": True}, {"bias": False}], None),
        ([{"bias": True}, {"bias": 1}], None),
        ([{"units": 8}, {"units": "8"}], None),
        ([], None),
    ],
)
def test_values_of_an_envelope(members, expected):
    before = [dict(member) for member in members]
    values = envelope_values(members)
    assert values == expected
    assert values is None or [*values] == [*expected]
    assert members == before
