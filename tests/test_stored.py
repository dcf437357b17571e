"""A stored study tells a person what it is, and shows its results."""

import re

import jax.numpy as jnp
import numpy as np
import pytest

import vtune as vt
from tests.searching import StopAt


X = np.random.default_rng(0).standard_normal((32, 2)).astype(np.float32)


class Mean:
    """Goes towards the mean of its data."""

    def __init__(self, rate):
        self.rate = rate

    def init(self, key, batch):
        return {"params": jnp.zeros(2)}

    def train_step(self, state, batch, key):
        off = state["params"] - batch[0].mean(axis=0)
        return {"params": state["params"] - self.rate * off}, {"loss": (off**2).mean()}

    def eval_step(self, state, batch):
        return {"loss": ((state["params"] - batch[0].mean(axis=0)) ** 2).mean()}


def build(hp):
    return Mean(hp.Choice("rate", [0.1, 0.2, 0.3]))


def tuner(directory, kind=vt.RandomSearch, **more):
    options = {"directory": directory, "project_name": "means", "max_epochs": 2}
    return kind(build, "val_loss", **{"seed": 0, **options, **more})


def searched(directory, callbacks=(), **more):
    found = tuner(directory, **more)
    found.search(X, validation_split=0.25, batch_size=8, callbacks=callbacks, verbose=0)
    return found


def test_a_study_says_where_it_is_and_how_far(tmp_path):
    found = searched(tmp_path, max_trials=2)
    best = min(found.trials, key=lambda trial: trial.score)
    assert re.fullmatch(
        rf"<StoredStudy 'means' in '{tmp_path}': 2 of 2 trials done, "
        rf"best val_loss [0-9.e-]+ \(trial {best.number}\)>",
        repr(vt.load_study(tmp_path / "means")),
    )


def test_a_study_that_was_interrupted_is_not_done(tmp_path):
    searched(tmp_path, callbacks=[StopAt(1)], max_trials=3)
    study = vt.load_study(tmp_path / "means")
    assert "0 of 3 trials done, best val_loss" in repr(study)


def test_of_a_space_that_ends_all_trials_are_done(tmp_path):
    searched(tmp_path / "few", max_trials=50)
    assert "3 of 3 trials done" in repr(vt.load_study(tmp_path / "few" / "means"))
    searched(tmp_path / "grid", kind=vt.GridSearch)
    assert "3 of 3 trials done" in repr(vt.load_study(tmp_path / "grid" / "means"))


def test_how_many_trials_a_large_grid_has_is_not_known(tmp_path):
    found = vt.GridSearch(
        lambda hp: Mean(hp.Int("percent", 1, 1000) / 1000),
        "val_loss",
        max_epochs=1,
        directory=tmp_path,
        project_name="means",
    )
    found.search(
        X, validation_split=0.25, batch_size=8, callbacks=[StopAt(1)], verbose=0
    )
    study = vt.load_study(tmp_path / "means")
    assert 0 < len(study.trials) < 1000 and study.planned is None
    assert "': 0 trials done, best" in repr(study)


def test_the_results_are_those_of_the_tuner(tmp_path, capsys):
    found = searched(tmp_path, max_trials=3)
    told = found.results_summary(num_trials=2)
    printed = capsys.readouterr().out
    assert len(told.rows) == 2 and "3 trials (3 completed)" in printed
    study = vt.load_study(tmp_path / "means")
    assert study.results_summary(num_trials=2) == told
    assert capsys.readouterr().out == printed
    assert study.results_summary() == found.results_summary()


def test_a_tuner_shows_before_its_search_what_is_stored(tmp_path, capsys):
    assert tuner(tmp_path, max_trials=2).results_summary().rows == ()
    assert list(tmp_path.iterdir()) == []
    capsys.readouterr()
    told = searched(tmp_path, max_trials=2).results_summary()
    printed = capsys.readouterr().out
    assert tuner(tmp_path, max_trials=2).results_summary() == told
    assert capsys.readouterr().out == printed
    assert tuner(tmp_path, max_trials=2, overwrite=True).results_summary().rows == ()
    assert tuner(None, max_trials=2, project_name=None).results_summary().rows == ()
    (tmp_path / "means" / "study.sqlite").write_bytes(b"")
    with pytest.raises(vt.StorageError, match="is empty"):
        tuner(tmp_path, max_trials=2).results_summary()


def test_a_complete_study_that_was_only_read_has_no_plan(tmp_path):
    assert len(searched(tmp_path, max_trials=2).plan_summary().cohorts) == 1
    plan = searched(tmp_path, max_trials=2).plan_summary()
    told = "Nothing was planned: the study was complete, and was only read."
    assert (str(plan), repr(plan)) == (told, f"<PlanSummary: {told}>")
    assert told in plan.html()
    assert "0 trials" in str(tuner(tmp_path, max_trials=2).plan_summary())
