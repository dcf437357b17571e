"""What a comparison with the trial alone looks at, and what it makes of NaN."""

import flax.linen as nn
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import vtune as vt
from tests.training.zoo import LABELS, VECTORS, WIDTHS
from vtune.fusion.widen import widen
from vtune.training import comparison
from vtune.training.check import compare, compared
from vtune.training.closeness import largest
from vtune.training.data import dataset
from vtune.training.loop import tracer, training_loop


class SpoiltLayer(nn.Module):
    """The first layer's gradient is zero times infinity; the others' are numbers."""

    width: int

    @nn.compact
    def __call__(self, x):
        x = nn.Dense(self.width)(x)
        x = x + jnp.sqrt(0.0 * x)
        x = nn.gelu(nn.Dense(2 * self.width)(x))
        return nn.Dense(4)(nn.gelu(nn.Dense(64)(x)))


def spoilt(widths):
    data = dataset(VECTORS, LABELS)
    trace = tracer(training_loop(data, None, batch_size=64), data, None)
    loss = "sparse_categorical_crossentropy"
    return [trace(vt.Model(SpoiltLayer(n), optax.sgd(0.1), loss)) for n in widths]


def test_a_layer_without_a_gradient_is_no_difference_of_the_others():
    traces = spoilt(WIDTHS)
    batches = [VECTORS[None], LABELS[None]]
    differences = compare(widen(traces, traces[-1]), traces[0], batches, None, seed=1)
    errors = {each.what: each.error for each in differences}
    assert not any(each.is_wrong for each in differences)
    # Both are spoilt alike, and what is compared is rounded otherwise.
    assert errors[".params['Dense_0']['kernel']"] == 0.0
    assert 0.0 < errors[".params['Dense_2']['kernel']"] < 1e-3


@pytest.mark.parametrize("tolerance", [comparison.UPDATE_TOLERANCE, 0.0])
def test_the_noise_is_looked_at_where_it_decides(monkeypatch, tolerance):
    steps, noise = [], comparison.Comparison._noise

    def watched(self, programs, step):
        steps.append(step)
        return noise(self, programs, step)

    monkeypatch.setattr(comparison.Comparison, "_noise", watched)
    monkeypatch.setattr(comparison, "UPDATE_TOLERANCE", tolerance)
    traces = spoilt(WIDTHS)
    batches = [VECTORS[None], LABELS[None]]
    asked = comparison.Comparison(
        widen(traces, traces[-1]), traces[0], batches, None, seed=1, rounding=1e-7
    )
    assert compared([asked], lambda text: None) == [None]
    assert bool(steps) == (tolerance == 0.0)


def test_the_largest_value_is_a_number():
    assert largest(np.array([-2.0, np.nan, 1.0, np.inf])) == 2.0
    assert largest(np.array([np.nan])) == largest(np.array([])) == 0.0
