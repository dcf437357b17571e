"""A long epoch is cut into slices, which change no bit, and can be stopped."""

import hypothesis
import hypothesis.strategies as st
import numpy as np
import pytest

from tests import searching
from tests.training.test_neutrality import WATCHED, digest, trained, trainer
from vtune.observer import Announcer
from vtune.training import slices
from vtune.training.slices import slice_lengths
from vtune.training.stretch import Halts


@hypothesis.given(st.integers(1, 10_000), st.floats(1e-6, 10.0))
def test_slices_make_up_the_epoch(steps, seconds):
    lengths = slice_lengths(steps, seconds)
    if not lengths:
        assert steps * seconds <= 4.0 or steps < 4
        return
    assert sum(lengths) == steps
    assert min(lengths) >= 2
    assert len(lengths) >= 2
    # No more than two programs, the second for the last slice.
    assert len(set(lengths[:-1])) == 1
    assert max(lengths) * seconds <= 2.0 + seconds or max(lengths) <= 3


def test_epochs_of_equal_slices_need_one_program_for_them():
    assert slice_lengths(1875, 0.01) == (125,) * 15
    assert slice_lengths(1877, 0.01) == (200,) * 9 + (77,)


@pytest.mark.ci
@pytest.mark.parametrize("form", ["vmap", "map"])
@pytest.mark.parametrize("name", ["MLP", "CNN", "attention"])
def test_slices_change_no_bit(name, form, monkeypatch):
    whole = trained(name, form, [0, 1])
    monkeypatch.setattr(slices, "slice_lengths", lambda steps, seconds: (2, 2))
    cut = trained(name, form, [0, 1])
    assert [state for state, _, _ in cut] == [state for state, _, _ in whole]
    for (_, metrics, program), (_, expected, other) in zip(cut, whole):
        assert metrics.keys() == expected.keys()
        for key, value in metrics.items():
            np.testing.assert_allclose(value, expected[key], rtol=1e-6)
        assert program != other


@pytest.mark.parametrize("form", ["vmap", "map"])
def test_an_epoch_that_is_stopped_is_as_if_it_had_not_begun(form, monkeypatch):
    monkeypatch.setattr(slices, "slice_lengths", lambda steps, seconds: (2, 2))
    made = trainer("MLP", form, {})
    order = [0, 1, WATCHED]
    assert made.arrange(order).is_whole
    assert len(list(made.train(order))) == 1
    before = digest(made)
    asked = iter([False, True])
    halts = Halts(lambda done: next(asked, True))
    assert not list(made.train(order, halts=halts))
    assert digest(made) == before
    (again,) = (found.results[WATCHED] for found in made.train(order))
    expected = trained("MLP", form, [0, 1])[1]
    assert (digest(made), dict(again.metrics), again.program) == expected


@pytest.mark.ci
def test_a_search_shows_how_far_a_long_epoch_is(tmp_path, monkeypatch):
    monkeypatch.setattr(
        slices, "slice_lengths", lambda steps, seconds: (steps // 4,) * 4
    )
    phases = []
    show = Announcer.show

    def watched(self, trials, running, phase, finished=False):
        phases.append(phase)
        show(self, trials, running, phase, finished)

    monkeypatch.setattr(Announcer, "show", watched)
    tuner = searching.search(searching.tuner(tmp_path, "vmap"))
    assert all(trial.score is not None for trial in tuner.trials)
    assert "training, 25% of an epoch" in phases
