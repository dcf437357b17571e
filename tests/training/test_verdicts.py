"""What the check needs is known, and compiled, before all trials are planned."""

import threading

import flax.linen as nn
import numpy as np
import optax
import pytest

import vtune as vt
from vtune.fusion.sizes import trace_sizes, training_structure
from vtune.training import compile, verdicts as judging
from vtune.training.ahead import Ahead
from vtune.training.assignment import Settings, assign
from vtune.training.compile import ProgramCache
from vtune.training.data import dataset
from vtune.training.loop import tracer, training_loop
from vtune.training.verdicts import Verdicts


GENERATOR = np.random.default_rng(0)
X = GENERATOR.normal(size=(32, 3)).astype(np.float32)
Y = GENERATOR.integers(0, 2, 32).astype(np.int32)
DATA = dataset(X, Y)
LOOP = training_loop(DATA, DATA, batch_size=8)


class Network(nn.Module):
    width: int
    depth: int

    @nn.compact
    def __call__(self, x):
        for _ in range(self.depth):
            x = nn.relu(nn.Dense(self.width)(x))
        return nn.Dense(2)(x)


def trace(width, depth=1):
    network = Network(width, depth)
    model = vt.Model(network, optax.adam(1e-3), "sparse_categorical_crossentropy")
    return tracer(LOOP, DATA, DATA)(model)


class Recorded(Ahead):
    """Takes down what it is asked for, and compiles nothing."""

    def __init__(self):
        super().__init__()
        self.kinds = []

    def begin(self, requests):
        self.kinds.append([request.key[0] for request in requests])


@pytest.fixture
def compared(monkeypatch):
    """The trials that are compared, instead of comparing them."""
    found = []

    def instead(comparisons, report):
        found.extend(comparison.trace for comparison in comparisons)
        return [None] * len(comparisons)

    monkeypatch.setattr(judging, "compared", instead)
    monkeypatch.setattr(judging, "_COMPARED", {})
    return found


def judged(verdicts, traces, is_begun=True):
    verdicts.expect(traces)
    numbered = dict(enumerate(traces))
    begun = verdicts.begin if is_begun else lambda cohort: None
    settings = Settings(fuse_widths="always")
    cohorts, _ = assign(numbered, (), settings, begun=begun)
    assert verdicts.judge(cohorts)


# Cohorts that were planned while others trained are judged without being begun.
@pytest.mark.parametrize("is_begun", [True, False])
def test_of_each_structure_the_narrowest_of_the_first_four_is_compared(
    compared, is_begun
):
    widths = [(5, 1), (9, 2), (4, 1), (8, 2), (7, 1), (6, 2), (8, 1), (2, 1), (3, 2)]
    traces = [trace(*each) for each in widths]
    judged(Verdicts(LOOP, DATA, DATA, 0, ahead=Recorded()), traces, is_begun)
    expected = [trace_sizes(trace(*each)) for each in [(4, 1), (3, 2)]]
    assert [trace_sizes(each) for each in compared] == expected


def test_what_a_trial_does_alone_is_compiled_as_soon_as_it_is_chosen(compared):
    ahead = Recorded()
    verdicts = Verdicts(LOOP, DATA, DATA, 0, ahead=ahead)
    traces = [trace(width) for width in (5, 4, 7, 6, 3)]
    for each in traces[:3]:
        verdicts.look(each)
    assert not ahead.kinds
    for each in traces[3:]:
        verdicts.look(each)
    assert ahead.kinds == [["init", "own step"]]
    judged(verdicts, traces)
    assert len(ahead.kinds) == 2 and "wide step" in ahead.kinds[1]
    assert trace_sizes(compared[0]) == trace_sizes(trace(4))


def test_trials_of_one_width_are_not_compared(compared):
    ahead = Recorded()
    verdicts = Verdicts(LOOP, DATA, DATA, 0, ahead=ahead)
    traces = [trace(4) for _ in range(6)]
    for each in traces:
        verdicts.look(each)
    judged(verdicts, traces)
    assert not ahead.kinds and not compared


def test_a_structure_is_asked_about_once(compared):
    ahead = Recorded()
    verdicts = Verdicts(LOOP, DATA, DATA, 0, ahead=ahead)
    judged(verdicts, [trace(4), trace(5)])
    judged(verdicts, [trace(6), trace(7)])
    assert len(ahead.kinds) == len(compared) == 1


def test_where_the_chosen_one_runs_elsewhere_another_is_compared(compared):
    verdicts = Verdicts(LOOP, DATA, DATA, 0, ahead=Recorded())
    verdicts.expect([trace(2)])
    several = {0: trace(5), 1: trace(4)}
    cohorts, _ = assign(several, (), Settings(), begun=verdicts.begin)
    verdicts.judge(cohorts)
    assert [training_structure(each) for each in compared] == [
        training_structure(several[1])
    ]
    assert trace_sizes(compared[0]) == trace_sizes(several[1])


def test_a_search_compiles_for_the_check_while_it_traces(monkeypatch):
    monkeypatch.setattr(compile, "PROGRAMS", ProgramCache())
    monkeypatch.setattr(judging, "_COMPARED", {})
    threads = {}
    compile_one = compile._compile

    def watched(surroundings, request):
        name = threading.current_thread().name
        threads.setdefault(request.key[0], []).append(name)
        return compile_one(surroundings, request)

    monkeypatch.setattr(compile, "_compile", watched)

    def build(hp):
        network = Network(hp.Int("width", 2, 40), 1)
        model = vt.Model(network, optax.adam(1e-3), "sparse_categorical_crossentropy")
        return model

    tuner = vt.RandomSearch(build, objective="loss", max_trials=12, max_epochs=1)
    tuner.search(X, Y, batch_size=8, verbose=0)
    assert threads["own step"] == ["vtune-ahead"]
    assert len(threads["wide step"]) == 1
    assert all(trial.score is not None for trial in tuner.trials)
