"""Programs for later rungs are compiled while the device trains."""

import dataclasses
import threading

import hypothesis
import hypothesis.strategies as st
import jax
import pytest

from tests import searching
from vtune.search.schedule import promoted_share
from vtune.training import compile
from vtune.training.device import DEVICE_RULES
from vtune.training.plan import Arrangement, shrunk


def layout(counts):
    return {
        cohort: (list(range(count)), Arrangement("vmap", 2, 1))
        for cohort, count in enumerate(counts)
    }


@hypothesis.given(
    st.lists(st.integers(1, 200), min_size=1, max_size=4), st.floats(0.01, 0.99)
)
def test_fewer_and_fewer_trials_are_foreseen(counts, promoted):
    before = {cohort: list(range(count)) for cohort, count in enumerate(counts)}
    for later in shrunk(layout(counts), promoted):
        assert later.keys() == before.keys()
        for cohort, trials in later.items():
            assert trials == before[cohort][: len(trials)]
            assert len(trials) >= promoted * len(before[cohort])
        assert later != before
        before = later


def test_nothing_is_foreseen_where_nothing_is_promoted():
    assert not list(shrunk(layout([5]), 0.0))
    assert not list(shrunk(layout([5]), 1.0))


def test_the_share_that_goes_on_is_that_of_the_first_rung_that_ends():
    assert promoted_share([[(5, 1)], [(12, 2), (4, 4), (2, 10)]]) == 4 / 12
    assert promoted_share([[(5, 1)]]) == 0.0
    assert promoted_share([[(None, 1)]]) == 0.0


@pytest.mark.ci
def test_on_an_accelerator_the_programs_of_later_rungs_are_compiled_ahead(
    tmp_path, monkeypatch
):
    threads = {}
    compile_one = compile._compile

    def watched(surroundings, request):
        if request.key[0] == "epoch":
            lanes = request.arguments[1].epoch.shape[0]
            threads[lanes] = threading.current_thread().name
        return compile_one(surroundings, request)

    monkeypatch.setattr(compile, "_compile", watched)
    monkeypatch.setattr(compile, "PROGRAMS", compile.ProgramCache())
    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
    rule = dataclasses.replace(DEVICE_RULES["gpu"], compiling=0.0)
    monkeypatch.setitem(DEVICE_RULES, "gpu", rule)
    tuner = searching.search(searching.tuner(tmp_path, "vmap"))
    assert all(trial.score is not None for trial in tuner.trials)
    first, *later = sorted(threads, reverse=True)
    assert threads[first].startswith("vtune-compile")
    assert later and any(threads[n].startswith("vtune-ahead") for n in later)
