"""What starts next is planned for while others train, and nothing depends on it."""

import dataclasses

import flax.linen as nn
import numpy as np
import optax
import pytest

import vtune as vt
from vtune.intake import Intake
from vtune.proposal import Horizon
from vtune.search.sampler import RandomSampler
from vtune.search.schedule import Brackets, Rung
from vtune.training import admission
from vtune.training.data import dataset
from vtune.training.loop import tracer, training_loop
from vtune.training.trainer import Trainer
from vtune.trial import Objective, Trial
from vtune.upcoming import Upcoming


TRIALS = 10
RANDOM = np.random.default_rng(0)
X = RANDOM.standard_normal((64, 4)).astype(np.float32)
Y = (X[:, 0] > 0).astype(np.int32)
DATA = dataset(X, Y)
LOOP = training_loop(DATA, None, batch_size=16)
OBJECTIVE = Objective("loss")


def build(hp):
    net = nn.Sequential([nn.Dense(hp.Int("units", 2, 60)), nn.relu, nn.Dense(2)])
    return vt.Model(net, optax.adam(1e-2), "sparse_categorical_crossentropy")


def new_intake():
    horizon = Horizon(LOOP.steps_per_epoch, 1, 0)
    to_trace = tracer(LOOP, DATA, None)
    return Intake(build, RandomSampler(0), horizon, OBJECTIVE, to_trace, (DATA, None))


class Scene:
    """Three trials that are trained, and others that wait for their turn."""

    def __init__(self):
        self.intake = new_intake()
        self.trainer = Trainer(LOOP, DATA, None, seed=0)
        self.trials = []
        self.admit(3)
        schedule = Brackets((((Rung(TRIALS, 1),),),), OBJECTIVE)
        self.upcoming = Upcoming(schedule, self.intake, self.trainer)
        self.upcoming.renew()

    def admit(self, count):
        taken = [self.intake.take() for _ in range(count)]
        traces = {}
        for newcomer in taken:
            assert newcomer is not None and newcomer.trace is not None
            traces[len(self.trials)] = newcomer.trace
            self.trials.append(Trial(len(self.trials), {}, budget=1))
        sight = self.intake.foresee(TRIALS, lambda: True)
        outlook = self.intake.outlook(sight)
        self.trainer.admit(traces, outlook, self.intake.envelope)

    def end_epoch(self):
        self.trials = [dataclasses.replace(t, epoch=1, score=0.5) for t in self.trials]


@pytest.fixture
def assigned(monkeypatch):
    """The trials of each assignment."""
    asked, assign = [], admission.assign

    def watched(traces, *args, **options):
        asked.append(sorted(traces))
        return assign(traces, *args, **options)

    monkeypatch.setattr(admission, "assign", watched)
    return asked


def test_what_was_planned_ahead_is_not_planned_again(assigned):
    scene = Scene()
    assert assigned == [[0, 1, 2]]
    assert scene.upcoming.plan(scene.trials)
    assert assigned[1:] == [list(range(3, TRIALS))]
    assert not scene.upcoming.plan(scene.trials)
    scene.end_epoch()
    scene.admit(TRIALS - 3)
    assert len(assigned) == 2
    alone = Scene()
    alone.admit(TRIALS - 3)
    found = [[share.trials for share in s.trainer.shares] for s in (scene, alone)]
    assert found[0] == found[1]


def test_what_turns_out_otherwise_is_planned_for_when_it_starts(assigned):
    scene = Scene()
    assert scene.upcoming.plan(scene.trials)
    scene.admit(2)
    assert assigned[2:] == [[3, 4]]


class Asked(Brackets):
    """Counts how often it is asked."""

    asked = 0

    def next(self, history, *, exhausted, capacity):
        Asked.asked += 1
        return super().next(history, exhausted=exhausted, capacity=capacity)


@pytest.mark.parametrize("trials", [3, TRIALS])
def test_the_schedule_is_asked_once_after_each_decision(trials):
    scene = Scene()
    schedule = Asked((((Rung(trials, 1),),),), OBJECTIVE)
    upcoming = Upcoming(schedule, scene.intake, scene.trainer)
    for _ in range(2):
        upcoming.renew()
        before = Asked.asked
        planned = [upcoming.plan(scene.trials) for _ in range(4)]
        assert Asked.asked == before + 1
        assert planned == [trials == TRIALS, False, False, False]


def test_what_is_not_traced_yet_is_not_planned_for():
    intake = new_intake()
    for _ in range(2):
        intake.take()
    assert intake.upcoming(2, 5) is None
    while intake.ahead(5):
        pass
    known = intake.upcoming(2, 5)
    assert known is not None
    traces, outlook = known
    assert list(traces) == [2, 3] and list(outlook.coming) == [4]
    assert intake.upcoming(4, 5) is None
