"""The check as a backstop: it catches broken rules without their own tests."""

import flax.linen as nn
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import vtune as vt
from tests.fusion.test_mutations import BATCH, MUTATIONS, WIDTHS, of_functions
from vtune.fusion.refusal import Refusal
from vtune.fusion.widen import widen
from vtune.training.check import compare, wrong
from vtune.training.data import dataset
from vtune.training.loop import tracer, training_loop


# Mutations that the check cannot see in these networks, and why.
MISSED = {
    "concatenated anywhere": "the slices of the gradient place the pieces all the same",
}

IN_NETWORKS = [name for name, mutation in MUTATIONS.items() if mutation.network]
STEPS = 2


class Net(nn.Module):
    """A network that looks at its units through a function."""

    width: int
    name_of: str

    @nn.compact
    def __call__(self, x):
        units = nn.Dense(self.width)(x)
        seen = MUTATIONS[self.name_of].function(units)
        if seen.ndim and seen.shape[0] == x.shape[0]:
            seen = seen.reshape(x.shape[0], -1)
        else:
            seen = jnp.broadcast_to(seen.sum(), (x.shape[0], 1))
        return nn.Dense(3)(jnp.concatenate([nn.tanh(units), seen], -1))


def compared(name):
    generator = np.random.default_rng(0)
    x = generator.normal(size=(STEPS * BATCH, 4)).astype(np.float32)
    y = generator.integers(0, 3, STEPS * BATCH).astype(np.int32)
    data = dataset(x, y)
    trace = tracer(training_loop(data, None, batch_size=BATCH), data, None)
    traces = [
        trace(
            vt.Model(
                Net(width, name), optax.sgd(0.1), "sparse_categorical_crossentropy"
            )
        )
        for width in WIDTHS
    ]
    narrowest = min(traces, key=lambda trace: trace.state_avals[0].shape)
    batches = [x.reshape(STEPS, BATCH, 4), y.reshape(STEPS, BATCH)]
    return wrong(compare(widen(traces, traces[-1]), narrowest, batches, None, seed=1))


@pytest.mark.ci
@pytest.mark.parametrize("name", IN_NETWORKS)
def test_the_check_alone_sees_what_is_wrong(name, monkeypatch):
    of_functions(monkeypatch)
    MUTATIONS[name].apply(monkeypatch)
    try:
        caught = compared(name) is not None
    except (Refusal, ValueError, TypeError):
        caught = True  # it does not even run
    assert caught != (name in MISSED)


def test_nine_of_ten_are_caught():
    assert len(IN_NETWORKS) >= 20
    assert set(MISSED) <= set(IN_NETWORKS)
    assert len(MISSED) <= len(IN_NETWORKS) / 10
