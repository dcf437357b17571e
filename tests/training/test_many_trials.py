"""One trial of a thousand differs from the others in one constant."""

import dataclasses

import flax.linen as nn
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import vtune as vt
from vtune.training.assignment import Settings, assign
from vtune.training.data import dataset
from vtune.training.loop import tracer, training_loop


TRIALS = 1000
WIDTHS = (4, 7, 9)
DECAY, ODD = 0.01, 0.02
DATA = dataset(np.zeros((16, 3), np.float32), np.zeros(16, np.int32))
TRACE = tracer(training_loop(DATA, DATA, batch_size=8), DATA, DATA)


@dataclasses.dataclass
class Shrinking:
    """A few equations, so that a thousand traces of them cost little."""

    decay: float
    width: int

    def init(self, key, batch):
        return {"params": jnp.zeros(self.width)}

    def train_step(self, state, batch, key):
        params = state["params"] * (1 - self.decay)
        return {"params": params}, {"loss": params.sum()}

    def eval_step(self, state, batch):
        return {"loss": state["params"].sum()}


def network(decay, width):
    class Network(nn.Module):
        @nn.compact
        def __call__(self, x, train: bool = False):
            x = nn.relu(nn.Dense(width)(x))
            return nn.Dense(2)(nn.Dropout(0.25, deterministic=not train)(x))

    optimizer = optax.adamw(1e-3, weight_decay=decay)
    return vt.Model(Network(), optimizer, "sparse_categorical_crossentropy")


def copied(original):
    """A trace that shares no function and no constant with another."""

    def function(flat):
        constants = tuple([np.array(value) for value in flat.constants])
        return dataclasses.replace(flat, constants=constants)

    return dataclasses.replace(
        original,
        init=function(original.init),
        train=tuple(map(function, original.train)),
        evaluate=tuple(map(function, original.evaluate)),
    )


def check(make, fuse_widths, odd):
    """Handed in are those constants in which the odd trial differs, and no other."""
    widths = [WIDTHS[number * 7 % 3] for number in range(TRIALS)]
    plain = {width: TRACE(make(DECAY, width)) for width in WIDTHS}
    traces = {number: copied(plain[width]) for number, width in enumerate(widths)}
    traces[odd] = copied(TRACE(make(ODD, widths[odd])))

    cohorts, chosen = assign(traces, (), Settings(fuse_widths=fuse_widths))
    assert set(chosen) == set(traces)
    assert len(cohorts) == (1 if fuse_widths == "always" else len(WIDTHS))
    slots = [cohort.widening.slots.train[0] for cohort in cohorts]
    constants = [traces[odd].train[0].constants, plain[widths[odd]].train[0].constants]
    data = [[np.asarray(value).tobytes() for value in values] for values in constants]
    differing = [slot for slot, (a, b) in enumerate(zip(*data)) if a != b]
    assert differing
    for number, lifted in enumerate(slots):
        assert lifted == (tuple(differing) if number == chosen[odd] else ())

    widening = cohorts[chosen[odd]].widening
    assert not any(widening.slots.evaluate)
    for number in (odd, odd - 3 if odd > 3 else odd + 3):
        (values,) = widening.values(traces[number]).train
        expected = constants[number != odd]
        assert values == tuple([expected[slot] for slot in differing])


@pytest.mark.parametrize(
    ("odd", "fuse_widths"),
    [(0, "always"), (617, "always"), (TRIALS - 1, "always"), (617, "never")],
)
def test_a_constant_that_differs_in_one_trial_is_lifted(odd, fuse_widths):
    check(Shrinking, fuse_widths, odd)


@pytest.mark.ci
def test_so_is_the_weight_decay_of_one_network():
    check(network, "always", 617)
