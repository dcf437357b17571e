"""Which trials of real searches share a program."""

import dataclasses

import flax.linen as nn
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import vtune as vt
from experiments import depth, tutorial
from vtune.fusion.envelope import envelope_values
from vtune.fusion.sizes import dominates
from vtune.search.sampler import RandomSampler
from vtune.training.assignment import Settings, assign
from vtune.training.data import dataset
from vtune.training.loop import tracer, training_loop
from vtune.training.outlook import Outlook


ALWAYS = Settings(fuse_widths="always")
NEVER = Settings(fuse_widths="never")


class Space:
    """Trials of a `build`, traced for some data."""

    def __init__(self, build, x, classes=10):
        y = np.arange(len(x), dtype=np.int32) % classes
        data = dataset(x, y)
        self.build = build
        self.loop = training_loop(data, data, batch_size=32)
        self.tracer = tracer(self.loop, data, data)
        self.values = {}

    def parameters(self, **given):
        steps = self.loop.steps_per_epoch
        return vt.HyperParameters(steps_per_epoch=steps, max_epochs=10, **given)

    def draw(self, number):
        hp = self.parameters(source=RandomSampler(0).source(number, 0, ()))
        trace = self.tracer(self.build(hp))
        self.values[number] = hp.values
        return trace

    def given(self, number, **values):
        self.values[number] = values
        return self.tracer(self.build(self.parameters(values=values)))

    def envelope(self, numbers):
        values = envelope_values([self.values[number] for number in numbers])
        if values is None:
            return None
        return self.tracer(self.build(self.parameters(values=values)))

    def assign(self, traces, settings=ALWAYS, cohorts=(), **more):
        return assign(traces, cohorts, settings, envelope=self.envelope, **more)


IMAGES = np.zeros((64, 8, 8), np.float32)


def hidden(hp):
    """A network with a hidden layer."""
    net = nn.Sequential(
        [
            lambda x: x.reshape(len(x), -1),
            nn.Dense(hp.Int("units", 2, 200)),
            nn.relu,
            nn.Dense(10),
        ]
    )
    return vt.Model(net, optax.sgd(0.1), "sparse_categorical_crossentropy")


def test_trials_to_come_widen_the_envelope_and_get_no_cohort():
    space = Space(hidden, IMAGES)
    traces = {n: space.given(n, units=units) for n, units in enumerate([4, 9, 30])}
    starting = {0: traces.pop(0)}
    cohorts, chosen = space.assign(starting, outlook=Outlook(traces))
    assert len(cohorts) == 1 and chosen == {0: 0}
    later, chosen = space.assign(traces, cohorts=cohorts)
    assert len(later) == 1 and chosen == {1: 0, 2: 0}
    # A cohort that none but later trials would have is not begun.
    exact, chosen = space.assign(starting, NEVER, outlook=Outlook(traces))
    assert len(exact) == 1 and chosen == {0: 0}


def test_a_larger_trial_that_may_come_is_reckoned_with_where_it_costs_little():
    space = Space(hidden, IMAGES)
    widths = [8, 12, 16, 20]
    traces = {n: space.given(n, units=units) for n, units in enumerate(widths)}
    largest = space.given(9, units=24)

    def cohorts(weight):
        outlook = Outlook(weight=weight, largest=lambda numbers: (largest, 1))
        return space.assign(traces, Settings(steps=100.0), outlook=outlook)[0]

    (alone,), (expecting,) = cohorts(1.0), cohorts(20.0)
    assert not dominates(alone.widening.envelope, largest)
    assert dominates(expecting.widening.envelope, largest)


def test_a_trial_joins_the_cohort_with_the_least_work():
    space = Space(hidden, IMAGES)
    wide = {n: space.given(n, units=units) for n, units in enumerate([100, 90, 20])}
    cohorts, _ = space.assign(wide)
    narrow = {3: space.given(3, units=40), 4: space.given(4, units=20)}
    apart, _ = assign(narrow, (), ALWAYS, envelope=space.envelope)
    both = (*cohorts, dataclasses.replace(apart[0], number=1))
    # Known to both, and then known to none and within both.
    _, chosen = space.assign({5: space.given(5, units=20)}, cohorts=both)
    assert chosen == {5: 1}
    _, chosen = space.assign({6: space.given(6, units=33)}, cohorts=both)
    assert chosen == {6: 1}
    _, chosen = space.assign({7: space.given(7, units=77)}, cohorts=both)
    assert chosen == {7: 0}


@pytest.mark.ci
def test_the_tutorial_is_one_cohort():
    space = Space(tutorial.build, IMAGES)
    traces = {number: space.draw(number) for number in range(22)}
    cohorts, chosen = space.assign(traces)
    assert len(cohorts) == 1 and set(chosen.values()) == {0}
    exact, _ = space.assign(traces, NEVER)
    assert len(exact) > 5


@pytest.mark.ci
@pytest.mark.parametrize(("activations", "most"), [(1, 4), (4, 13)])
def test_the_depth_space_has_few_cohorts(activations, most, monkeypatch):
    chosen = dict(list(depth.ACTIVATIONS.items())[:activations])
    monkeypatch.setattr(depth, "ACTIVATIONS", chosen)
    space = Space(depth.build, IMAGES)
    traces = {number: space.draw(number) for number in range(100)}
    cohorts, _ = space.assign(traces)
    assert len(cohorts) <= most
    assert all(cohort.apart is None for cohort in cohorts)


class Net(nn.Module):
    widths: tuple

    @nn.compact
    def __call__(self, x):
        for width in self.widths:
            x = nn.relu(nn.Dense(width)(x))
        return nn.Dense(10)(x)


def build(hp):
    widths = tuple(hp.Int(f"units_{i}", 2, 512) for i in range(2))
    return vt.Model(
        Net(widths),
        optax.sgd(hp.Float("rate", 0.01, 1.0)),
        "sparse_categorical_crossentropy",
    )


VECTORS = np.zeros((64, 6), np.float32)


def test_an_envelope_is_built_where_no_trial_is_one():
    space = Space(build, VECTORS)
    traces = {
        0: space.given(0, units_0=3, units_1=9, rate=0.1),
        1: space.given(1, units_0=9, units_1=3, rate=0.2),
    }
    cohorts, chosen = space.assign(traces)
    assert len(cohorts) == 1 and chosen == {0: 0, 1: 0}
    envelope = cohorts[0].widening.envelope
    assert (9, 9) in [aval.shape for aval in envelope.state_avals]
    # It is nobody's own trace, and no trial is told that it has its sizes.
    assert cohorts[0].widening.member(envelope) is None
    apart, _ = assign(traces, (), ALWAYS)
    assert len(apart) == 2


def test_a_later_width_joins_the_program_that_holds_it():
    space = Space(build, VECTORS)
    first = {
        0: space.given(0, units_0=3, units_1=5, rate=0.1),
        1: space.given(1, units_0=9, units_1=9, rate=0.2),
    }
    cohorts, _ = space.assign(first)
    later = {2: space.given(2, units_0=4, units_1=7, rate=0.3)}
    after, chosen = space.assign(later, cohorts=cohorts)
    assert chosen == {2: 0} and len(after) == 1
    assert after[0].widening.key == cohorts[0].widening.key
    assert after[0].widening.accepts(later[2])
    assert all(map(after[0].widening.accepts, first.values()))
    wider = {3: space.given(3, units_0=17, units_1=7, rate=0.3)}
    last, chosen = space.assign(wider, cohorts=after)
    assert chosen == {3: 1} and last[0] is after[0]


def test_widths_of_much_different_work_are_kept_apart_where_training_is_long():
    space = Space(build, VECTORS)
    widths = [(4, 4), (5, 5), (500, 500), (512, 512)]
    traces = {
        number: space.given(number, units_0=a, units_1=b, rate=0.1)
        for number, (a, b) in enumerate(widths)
    }
    _, chosen = space.assign(traces, Settings(steps=1e6))
    assert chosen[0] != chosen[3]
    _, chosen = space.assign(traces, Settings(steps=1.0))
    assert len(set(chosen.values())) == 1


def test_what_cannot_be_fused_says_why():
    class Decomposed(nn.Module):
        width: int

        @nn.compact
        def __call__(self, x):
            q, _ = jnp.linalg.qr(nn.Dense(self.width)(x))
            return nn.Dense(10)(q)

    def decomposed(hp):
        return vt.Model(
            Decomposed(hp.Int("units", 2, 6)),
            optax.sgd(0.1),
            "sparse_categorical_crossentropy",
        )

    space = Space(decomposed, VECTORS)
    traces = {n: space.given(n, units=n + 2) for n in range(3)}
    cohorts, chosen = space.assign(traces)
    assert len(cohorts) == 3
    for cohort in cohorts:
        assert cohort.apart is not None
        assert "takes the QR decomposition of a 32 x 4 array" in cohort.apart
        assert "test_assignment.py" in cohort.apart
