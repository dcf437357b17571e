"""A study goes on where it was, or says why it does not."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import jax.numpy as jnp
import numpy as np
import pytest

import vtune as vt
from tests import searching
from tests.searching import StopAt
from vtune.training import fingerprint, trainer
from vtune.training.pack import end_epoch


ROOT = Path(__file__).parent.parent
X = np.random.default_rng(0).standard_normal((64, 3)).astype(np.float32)
Y = (X @ np.array([1.0, -2.0, 0.5])).astype(np.float32)


class Line:
    """A line through the data, fitted by gradient descent."""

    def __init__(self, rate, width=3):
        self.rate = rate
        self.width = width

    def init(self, key, batch):
        return {"params": jnp.zeros(self.width)}

    def train_step(self, state, batch, key):
        errors = batch[0][:, : self.width] @ state["params"] - batch[1]
        gradient = batch[0][:, : self.width].T @ errors / len(errors)
        loss = (errors**2).mean()
        return {"params": state["params"] - self.rate * gradient}, {"loss": loss}

    def eval_step(self, state, batch):
        errors = batch[0][:, : self.width] @ state["params"] - batch[1]
        return {"loss": (errors**2).mean()}


def build(hp):
    return Line(hp.Float("rate", 1e-3, 0.5, sampling="log"))


def random_search(folder, trials=4, *, of=build, **more):
    return vt.RandomSearch(
        of,
        "val_loss",
        max_trials=trials,
        directory=folder,
        project_name="lines",
        **{"max_epochs": 6, "seed": 3, **more},
    )


def search(tuner, x=X, y=Y, **more):
    more = {"validation_split": 0.25, "batch_size": 16, "verbose": 0, **more}
    tuner.search(x, y, **more)
    return tuner


def same(one, other):
    assert one.trials == other.trials
    assert len(one.trials) > 0
    best, also = one.get_best_models()[0], other.get_best_models()[0]
    np.testing.assert_array_equal(best["params"], also["params"])


def test_a_complete_study_is_not_trained_again(tmp_path, capsys):
    first = search(random_search(tmp_path))
    called = []

    def watched(hp):
        called.append(hp)
        return build(hp)

    again = search(random_search(tmp_path, of=watched), verbose=1)
    assert "complete already: 4 trials" in capsys.readouterr().out
    assert not called
    same(first, again)
    # Also by its hyperparameters, which `build` has yet to ask for.
    assert (
        again.get_best_hyperparameters()[0].values
        == first.trials[
            again.trials.index(min(again.trials, key=lambda t: t.score))
        ].values
    )
    assert len(again.search_space_summary().rows) == 1


def test_an_interrupted_study_goes_on_where_it_was(tmp_path, capsys):
    alone = search(random_search(tmp_path / "alone"))
    stopped = search(random_search(tmp_path / "stopped"), callbacks=[StopAt(5)])
    trained = sum(trial.epoch for trial in stopped.trials)
    assert 0 < trained < 24
    again = search(random_search(tmp_path / "stopped"), verbose=1)
    assert f"going on with {tmp_path / 'stopped' / 'lines'}" in capsys.readouterr().out
    same(alone, again)
    kinds = [event.kind for event in events(tmp_path / "stopped")]
    assert kinds == ["opened", "interrupted", "opened", "finished"]


def events(folder):
    return vt.load_study(folder / "lines").contents.events


def test_the_same_tuner_goes_on_after_an_interruption(tmp_path):
    alone = search(random_search(tmp_path / "alone"))
    tuner = search(random_search(tmp_path / "stopped"), callbacks=[StopAt(5)])
    same(alone, search(tuner))


def test_more_trials_extend_a_study(tmp_path):
    alone = search(random_search(tmp_path / "alone", 7))
    search(random_search(tmp_path / "more"))
    same(alone, search(random_search(tmp_path / "more", 7)))


def test_more_iterations_extend_a_study(tmp_path):
    def hyperband(folder, iterations):
        return vt.Hyperband(
            build,
            "val_loss",
            brackets=[[(4, 1), (2, 3)]],
            hyperband_iterations=iterations,
            directory=folder,
            seed=1,
        )

    alone = search(hyperband(tmp_path / "alone", 2))
    search(hyperband(tmp_path / "more", 1))
    more = search(hyperband(tmp_path / "more", 2))
    assert len(more.trials) == len(alone.trials) == 8
    for one, other in zip(more.trials, alone.trials, strict=True):
        assert one.values == other.values and one.metrics == other.metrics


def test_a_grid_that_was_interrupted_goes_on(tmp_path):
    def grid(folder):
        return vt.GridSearch(
            lambda hp: Line(hp.Choice("rate", [0.01, 0.1, 0.2, 0.3, 0.4])),
            "val_loss",
            max_epochs=2,
            directory=folder,
            seed=0,
        )

    alone = search(grid(tmp_path / "alone"))
    search(grid(tmp_path / "stopped"), callbacks=[StopAt(3)])
    again = search(grid(tmp_path / "stopped"))
    assert len(again.trials) == 5
    same(alone, again)
    same(alone, search(grid(tmp_path / "stopped")))


def test_a_study_without_a_seed_keeps_the_one_that_was_drawn(tmp_path):
    first = search(random_search(tmp_path, seed=None), callbacks=[StopAt(5)])
    again = search(random_search(tmp_path, seed=None))
    assert again.seed == first.seed
    same(again, search(random_search(tmp_path / "alone", seed=first.seed)))


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"seed": 4}, "`seed` was 3 and is 4"),
        ({"lanes": "map"}, "`lanes` was 'auto' and is 'map'"),
        ({"trials": 2}, "the rungs are others, or fewer"),
    ],
)
def test_other_settings_are_refused(tmp_path, changed, said):
    before = search(random_search(tmp_path))
    with pytest.raises(vt.StorageError, match=said) as refusal:
        search(random_search(tmp_path, **changed))
    assert "`overwrite=True` or another `project_name`" in str(refusal.value)
    same(before, search(random_search(tmp_path)))


def test_other_data_are_refused(tmp_path):
    search(random_search(tmp_path))
    with pytest.raises(vt.StorageError, match="the training data are others"):
        search(random_search(tmp_path), x=X + 1)
    with pytest.raises(vt.StorageError, match="`batch_size` was 16 and is 8"):
        search(random_search(tmp_path), batch_size=8)


def wider(hp):
    return Line(hp.Float("rate", 1e-3, 0.5, sampling="log"), width=2)


def elsewhere(hp):
    return Line(hp.Float("rate", 1e-2, 0.5, sampling="log"))


@pytest.mark.parametrize(
    ("of", "said"),
    [
        (wider, "trial 0 is not what it was .* is another network now"),
        (elsewhere, "trial 0 is not what it was .* its values are"),
    ],
)
def test_another_build_is_refused(tmp_path, of, said):
    search(random_search(tmp_path), callbacks=[StopAt(5)])
    with pytest.raises(vt.StorageError, match=said):
        search(random_search(tmp_path, of=of))
    same(search(random_search(tmp_path)), search(random_search(tmp_path / "alone")))


def test_overwriting_begins_anew(tmp_path):
    search(random_search(tmp_path, seed=4))
    (tmp_path / "lines" / "notes.txt").write_text("mine")
    anew = search(random_search(tmp_path, overwrite=True))
    same(anew, search(random_search(tmp_path / "alone")))
    assert (tmp_path / "lines" / "notes.txt").read_text() == "mine"
    # Once only: the same tuner then goes on with its own.
    search(anew)
    assert len(vt.load_study(tmp_path / "lines").trials) == 4


def test_a_folder_of_something_else_is_left_alone(tmp_path):
    (tmp_path / "lines").mkdir()
    (tmp_path / "lines" / "thesis.tex").write_text("mine")
    for overwrite in (False, True):
        with pytest.raises(vt.StorageError, match="no study of vtune"):
            search(random_search(tmp_path, overwrite=overwrite))
    assert [p.name for p in (tmp_path / "lines").iterdir()] == ["thesis.tex"]


def test_another_machine_is_named_and_the_study_goes_on(tmp_path, monkeypatch, capsys):
    search(random_search(tmp_path), callbacks=[StopAt(5)])
    moved = {**fingerprint.fingerprint(), "cores": "96"}
    monkeypatch.setattr("vtune.persistence.fingerprint", lambda: moved)
    again = search(random_search(tmp_path), verbose=1)
    told = " ".join(capsys.readouterr().out.split())
    assert "cores was '2' and is '96'" in told or "and is '96'" in told
    assert len(again.trials) == 4
    assert all(trial.epoch == 6 for trial in again.trials)
    stored = vt.load_study(tmp_path / "lines")
    assert stored.fingerprint["cores"] == "96"
    assert any("another machine" in text for _, text in stored.events)


def test_bits_that_do_not_come_again_end_the_search(tmp_path, monkeypatch):
    """Eight lanes that became sixteen would be such a case."""
    search(random_search(tmp_path), callbacks=[StopAt(5)])
    contents = vt.load_study(tmp_path / "lines").contents
    assert contents.epochs
    # As if there had been no checkpoint: all is trained again.
    for checkpoint in (tmp_path / "lines" / "checkpoints").iterdir():
        for file in sorted(checkpoint.rglob("*"), reverse=True):
            file.rmdir() if file.is_dir() else file.unlink()
        checkpoint.rmdir()

    def other(*arguments):
        results = end_epoch(*arguments)
        for result in results.values():
            result.metrics["loss"] += 1e-6
        return results

    monkeypatch.setattr("vtune.training.stretch.end_epoch", other)
    with pytest.raises(vt.StorageError, match="epoch 1 of trial 0: loss was"):
        search(random_search(tmp_path))


@pytest.mark.parametrize("lanes", [(16,), (6, 16)])
def test_another_number_of_lanes_ends_the_search(tmp_path, monkeypatch, lanes):
    """Side by side, the number of lanes changes bits; so it is no free choice."""
    search(random_search(tmp_path, lanes="vmap"), callbacks=[StopAt(5)])
    monkeypatch.setattr("vtune.training.plan.LADDER", lanes)
    with pytest.raises(vt.StorageError, match="goes on in another program"):
        search(random_search(tmp_path, lanes="vmap"))
    monkeypatch.undo()
    again = search(random_search(tmp_path, lanes="vmap"))
    same(again, search(random_search(tmp_path / "alone", lanes="vmap")))


@pytest.mark.parametrize("name", ["../other", "a/b", "", " ", "a\0b", "x" * 10_000])
def test_names_that_leave_the_directory_are_refused_at_once(tmp_path, name):
    with pytest.raises(ValueError, match="project_name"):
        vt.RandomSearch(build, "val_loss", directory=tmp_path, project_name=name)
    assert not list(tmp_path.iterdir())


def test_checkpoints_take_no_more_than_they_may(tmp_path):
    def bytes_of(folder):
        files = (tmp_path / folder / "lines" / "checkpoints").rglob("*")
        return sum(file.stat().st_size for file in files if file.is_file())

    many = search(random_search(tmp_path / "many", 8, keep_models=8))
    few = search(
        random_search(tmp_path / "few", 8, keep_models=8, max_checkpoint_bytes=100)
    )
    assert bytes_of("few") < bytes_of("many")
    stored = vt.load_study(tmp_path / "few" / "lines")
    # Three parameters of four bytes each, in half of the room: the best four.
    assert len(stored.best_weights(8)) == 4
    assert stored.best_trials(4) == vt.load_study(
        tmp_path / "many" / "lines"
    ).best_trials(4)
    assert set(stored.contents.checkpoints[-1].models) == {
        trial.number for trial in stored.best_trials(4)
    }
    assert many.trials == few.trials


@pytest.mark.parametrize(
    "wrong", [{"max_checkpoint_bytes": 0}, {"checkpoint_seconds": -1.0}]
)
def test_limits_out_of_range_are_refused(tmp_path, wrong):
    with pytest.raises(ValueError, match=next(iter(wrong))):
        random_search(tmp_path, **wrong)


def test_a_study_can_be_read_without_its_code(tmp_path):
    tuner = search(random_search(tmp_path))
    study = vt.load_study(tmp_path / "lines")
    assert study.trials == tuner.trials
    best = study.best_trials(2)
    assert [t.number for t in best] == [
        t.number for t in sorted(tuner.trials, key=lambda t: t.score)[:2]
    ]
    weights = study.best_weights(2)
    models = tuner.get_best_models(2)
    for arrays, model in zip(weights, models, strict=True):
        np.testing.assert_array_equal(arrays["['params']"], model["params"])


def test_what_is_no_study_cannot_be_read(tmp_path):
    for path in (tmp_path, tmp_path / "nowhere"):
        with pytest.raises(vt.StorageError, match="no study"):
            vt.load_study(path)


@pytest.mark.skipif(sys.platform == "win32", reason="there is no SIGTERM")
def test_sigterm_stops_cleanly(tmp_path):
    command = [sys.executable, "-m", "tests.searching", str(tmp_path), "map", "0.3"]
    process = subprocess.Popen(command, cwd=ROOT, stderr=subprocess.PIPE, text=True)
    deadline = time.monotonic() + 120
    while not list(tmp_path.glob("states-*")):
        assert time.monotonic() < deadline and process.poll() is None
        time.sleep(0.05)
    sent = time.monotonic()
    os.kill(process.pid, signal.SIGTERM)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 128 + signal.SIGTERM, errors
    assert time.monotonic() - sent < 30
    study = vt.load_study(tmp_path / "study")
    assert study.events[-1][1].startswith("interrupted")
    last = max(record.sequence for record in study.contents.epochs)
    assert study.contents.checkpoints[-1].sequence >= last
    tuner = searching.search(searching.tuner(tmp_path, "map"))
    assert all(t.status is not vt.TrialStatus.RUNNING for t in tuner.trials)


def test_what_was_seen_coming_is_seen_coming_again(tmp_path, monkeypatch):
    # The one large state comes late; so few trials have room beside it.
    monkeypatch.setattr(trainer, "capacity", lambda *known: 240 // max(4, known[-1]))

    def rarely_large(hp):
        rate = hp.Float("rate", 1e-3, 0.5, sampling="log")
        return Line(rate, 3 if rate > 0.45 else 1)

    def one(folder):
        return random_search(folder, 50, of=rarely_large, max_epochs=2, seed=15)

    alone = search(one(tmp_path / "alone"))
    sizes = [3 if trial.values["rate"] > 0.45 else 1 for trial in alone.trials]
    assert 3 in sizes and 3 not in sizes[:40]
    search(one(tmp_path / "stopped"), callbacks=[StopAt(1)])
    same(alone, search(one(tmp_path / "stopped")))
    assert starts(tmp_path / "alone") == starts(tmp_path / "stopped") == [20, 20, 10]


def starts(folder):
    decisions = vt.load_study(folder / "lines").contents.decisions
    return [len(each.trials) for each in decisions if each.kind == "start"]
