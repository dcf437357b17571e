"""How far a study looks ahead, and that what it sees then is what comes."""

import flax.linen as nn
import numpy as np
import optax
import pytest
from hypothesis import given, strategies as st

import vtune as vt
from vtune.foresight import Foresight, foresight
from vtune.intake import Intake
from vtune.proposal import Horizon
from vtune.search.sampler import RandomSampler
from vtune.training.data import dataset
from vtune.training.loop import tracer, training_loop
from vtune.trial import Objective


DATA = dataset(np.zeros((64, 8), np.float32), np.zeros(64, np.int32))
LOOP = training_loop(DATA, None, batch_size=32)


def mlp(*widths, rate=0.1):
    layers = [layer for width in widths for layer in (nn.Dense(width), nn.relu)]
    net = nn.Sequential([*layers, nn.Dense(2)])
    return vt.Model(net, optax.sgd(rate), "sparse_categorical_crossentropy")


def intake(build, seed=0):
    return Intake(
        build,
        RandomSampler(seed),
        Horizon(2, 1, seed),
        Objective("loss", "min"),
        tracer(LOOP, DATA, None),
        (DATA, None),
    )


def ranges(hp):
    depth = hp.Int("depth", 1, 2)
    return mlp(*[hp.Int(f"units_{i}", 2, 64) for i in range(depth)])


@given(st.integers(1, 2000), st.one_of(st.none(), st.integers(1, 2000)))
def test_no_more_is_looked_at_than_will_come(begun, total):
    total = total if total is None else max(begun, total)
    sight = foresight(begun, total, exhausted=False)
    assert sight.coming >= 0
    if total is not None:
        assert begun + sight.coming <= total
        # The known ones stand for all, unless all are known.
        known = begun + sight.coming
        assert sight.weight * known == pytest.approx(total)
        assert sight.probed == (known < total and begun < total)
    else:
        assert sight.weight == 1.0


@given(st.integers(1, 500), st.one_of(st.none(), st.integers(1, 500)))
def test_where_nothing_can_come_nothing_is_looked_at(begun, total):
    sight = foresight(begun, total, exhausted=True)
    assert (sight.coming, sight.probed) == (0, False)


def test_what_is_seen_ahead_is_what_comes():
    source = intake(ranges)
    first = [source.take() for _ in range(3)]
    sight = source.foresee(10, lambda: True)
    outlook = source.outlook(sight)
    assert sight.coming == 7 and not sight.probed
    assert sorted(outlook.coming) == list(range(3, 10))
    later = [source.take() for _ in range(7)]
    assert all(newcomer is not None for newcomer in [*first, *later])
    traces = [newcomer.trace for newcomer in later if newcomer is not None]
    assert [outlook.coming[number] for number in range(3, 10)] == traces


def test_ctrl_c_ends_the_look_ahead_and_the_record_says_how_far_it_came():
    source = intake(ranges)
    source.take()
    left = [True, True, False]
    sight = source.foresee(100, lambda: left.pop(0))
    assert sight.coming == 2
    assert sorted(source.outlook(sight).coming) == [1, 2]


def test_a_study_that_goes_on_sees_the_same_again():
    source, again = intake(ranges), intake(ranges)
    for one in (source, again):
        one.take()
    sight = source.foresee(None, lambda: len(source._ahead) < 5)
    seen, repeated = source.outlook(sight), again.outlook(sight)
    assert [t.state_avals for t in seen.coming.values()] == [
        t.state_avals for t in repeated.coming.values()
    ]


def test_the_end_of_the_space_ends_the_look_ahead():
    source = intake(lambda hp: mlp(hp.Choice("units", [2, 3, 4])))
    source.take()
    sight = source.foresee(None, lambda: True)
    assert sight.coming == 2 and len(source.outlook(sight).coming) == 2


def test_the_largest_trial_to_come_has_the_largest_values_of_what_varies():
    source = intake(ranges)
    known = [source.take() for _ in range(8)]
    one = [
        n for n, new in enumerate(known) if new and new.hyperparameters["depth"] == 1
    ]
    outlook = source.outlook(Foresight(exhausted=False, probed=True, weight=100.0))
    found = outlook.largest(one)
    assert found is not None
    trace, larger = found
    # The depth is the same for all of them, and stays.
    assert larger == 1
    assert (8, 64) in [aval.shape for aval in trace.state_avals]
    assert (64, 64) not in [aval.shape for aval in trace.state_avals]


@pytest.mark.parametrize(
    "build",
    [
        lambda hp: mlp(8, rate=hp.Float("rate", 0.1, 0.9)),  # no whole number
        lambda hp: mlp(hp.Choice("units", [64, 3])),  # the largest is known
        lambda hp: mlp(8 if hp.Boolean("small") else 9),
        lambda hp: mlp(hp.Fixed("units", 5), rate=hp.Float("rate", 0.1, 0.9)),
    ],
)
def test_without_a_larger_trial_there_is_none(build):
    source = intake(build)
    numbers = [n for n in range(6) if source.take() is not None]
    outlook = source.outlook(Foresight(exhausted=False, probed=True, weight=100.0))
    assert len(numbers) > 1 and outlook.largest(numbers) is None
