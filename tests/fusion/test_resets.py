"""What a step keeps has zeros in its padding from where it is computed."""

import flax.linen as nn
import numpy as np
import optax
import pytest

import vtune as vt
from vtune.fusion.rules.contents import is_zero
from vtune.fusion.widen import widen
from vtune.training.data import dataset
from vtune.training.loop import tracer, training_loop


RANDOM = np.random.default_rng(0)
DATA = dataset(
    RANDOM.normal(size=(16, 4)).astype(np.float32),
    RANDOM.normal(size=16).astype(np.float32),
)
LOOP = training_loop(DATA, None, batch_size=8)


class Network(nn.Module):
    width: int

    @nn.compact
    def __call__(self, x):
        x = nn.tanh(nn.Dense(self.width)(x))
        return nn.Dense(1)(nn.sigmoid(nn.Dense(self.width)(x)))[..., 0]


def widened(optimizer):
    trace = tracer(LOOP, DATA, None)
    traces = [
        trace(vt.Model(Network(width), optimizer=optimizer, loss="mse"))
        for width in (3, 5, 8)
    ]
    return widen(traces, traces[-1])


def kept(widening):
    """The padded leaves of a step: before it and after it."""
    body = widening.functions.train[0].body
    leaves = zip(body.inputs, body.outputs, widening.state)
    return [
        (before, after)
        for before, after, layouts in leaves
        if any(layout.varies for layout in layouts)
    ]


@pytest.mark.parametrize(
    "optimizer",
    [optax.sgd(0.1, momentum=0.9), optax.adam(0.1), optax.adamw(0.1), optax.lion(0.1)],
)
def test_zeros_come_from_the_value_before_as_soon_as_a_leaf_is_computed(optimizer):
    widening = widened(optimizer)
    (function,) = widening.functions.train
    results = {}
    for planned in function.body.equations:
        places = zip(planned.equation.outputs, planned.step.results, strict=True)
        for number, (variable, place) in enumerate(places):
            zeros = planned.resets[number] if planned.resets else None
            results[variable] = place, zeros
    leaves = kept(widening)
    assert leaves
    assert not any(function.resets)
    found = [(before, *results[after]) for before, after in leaves]
    assert all(is_zero(place.contents) for _, place, _ in found)
    assert {zeros for _, _, zeros in found if zeros is not None}
    assert all(zeros in (None, before) for before, _, zeros in found)


def test_what_is_computed_from_moments_reads_those_that_are_kept():
    widening = widened(optax.adam(0.1))
    (function,) = widening.functions.train
    reset = {
        variable
        for planned in function.body.equations
        for variable, zeros in zip(planned.equation.outputs, planned.resets)
        if zeros is not None
    }
    moments = [
        after
        for (_, after), path in zip(kept(widening), _paths(widening), strict=True)
        if ".mu" in path or ".nu" in path
    ]
    read = {atom for planned in function.body.equations for atom in planned.atoms}
    assert len(moments) == 10
    assert set(moments) & reset
    assert set(moments) <= read


def _paths(widening):
    pairs = zip(widening.envelope.state_paths, widening.state)
    return [path for path, layouts in pairs if any(each.varies for each in layouts)]
