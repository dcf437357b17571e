"""One trial of a thousand differs from the others in one constant."""

import dataclasses

import flax.linen as nn
import numpy as np
import optax
import pytest

import vtune as vt
from vtune.training.assignment import Settings, assign
from vtune.training.data import dataset
from vtune.training.loop import tracer, training_loop


TRIALS = 1000
WIDTHS = (4, 7, 9)
DATA = dataset(np.zeros((16, 3), np.float32), np.zeros(16, np.int32))
TRACE = tracer(training_loop(DATA, DATA, batch_size=8), DATA, DATA)


def trace(decay, width, dropout=0.25):
    class Network(nn.Module):
        @nn.compact
        def __call__(self, x, train: bool = False):
            x = nn.relu(nn.Dense(width)(x))
            x = nn.Dropout(dropout, deterministic=not train)(x)
            return nn.Dense(2)(x)

    optimizer = optax.adamw(1e-3, weight_decay=decay)
    return TRACE(vt.Model(Network(), optimizer, "sparse_categorical_crossentropy"))


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


@pytest.mark.parametrize("odd", [0, 617, TRIALS - 1])
@pytest.mark.parametrize("fuse_widths", ["always", "never"])
def test_a_constant_that_differs_in_one_trial_is_lifted(odd, fuse_widths):
    widths = [WIDTHS[number * 7 % 3] for number in range(TRIALS)]
    plain = {width: trace(0.01, width) for width in WIDTHS}
    traces = {number: copied(plain[width]) for number, width in enumerate(widths)}
    settings = Settings(fuse_widths=fuse_widths)
    without, _ = assign(traces, (), settings)
    assert all(not any(c.widening.slots.train[0]) for c in without)

    traces[odd] = copied(trace(0.02, widths[odd]))
    cohorts, chosen = assign(traces, (), settings)
    assert len(cohorts) == (1 if fuse_widths == "always" else len(WIDTHS))
    assert set(chosen) == set(traces)
    found = cohorts[chosen[odd]].widening
    others = [c for c in cohorts if c.widening is not found]
    assert all(not any(cohort.widening.slots.train[0]) for cohort in others)
    assert found.slots.train[0]
    assert not found.slots.init and not found.slots.evaluate[0]
    for number in (odd, *[n for n in range(TRIALS) if chosen[n] == chosen[odd]][:3]):
        (values,) = found.values(traces[number]).train
        decay = 0.02 if number == odd else 0.01
        assert all(np.isclose(abs(value), decay) for value in values)
