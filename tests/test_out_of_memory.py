"""A program that the device has no memory for runs with fewer lanes, for good."""

import contextlib
import sqlite3

import jax
import pytest

import vtune as vt
from tests import searching
from vtune.journal import Journal
from vtune.training import arranging, device, plan, trainer
from vtune.training.compile import Program
from vtune.training.epoch import LaneInputs


SAYS = "RESOURCE_EXHAUSTED: Out of memory while trying to allocate 123 bytes."


class Device:
    """A device whose memory holds some lanes, from some call of an epoch on."""

    def __init__(self, lanes, calls=0, lost=False):
        self.lanes = lanes
        self.calls = calls
        self.lost = lost
        self.refused = 0

    def install(self, monkeypatch):
        run = Program.__call__

        def call(program, *arguments):
            lanes = _lanes(arguments)
            if lanes is None:
                return run(program, *arguments)
            self.calls -= 1
            if self.calls < 0 and lanes > self.lanes:
                self.refused += 1
                if self.lost:
                    for leaf in arguments[0]:
                        leaf.delete()
                raise jax.errors.JaxRuntimeError(SAYS)
            return run(program, *arguments)

        monkeypatch.setattr(Program, "__call__", call)


def _lanes(arguments):
    """The lanes of an epoch's program; None for another program's arguments."""
    inputs = [each for each in arguments if isinstance(each, LaneInputs)]
    return len(inputs[0].epoch) if inputs else None


def decisions(folder):
    database = sqlite3.connect(folder / "study" / "study.sqlite")
    with contextlib.closing(database) as connection:
        rows = connection.execute("SELECT kind, content FROM decisions")
        return [content for kind, content in rows if kind == "halve"]


def outcome(tuner):
    return [(trial.status, trial.metrics) for trial in tuner.trials]


def same_as_stored(folder, form):
    """Reads the study again in the way of another process, which trains nothing."""
    return searching.search(searching.tuner(folder, form))


@pytest.mark.parametrize("lost", [False, pytest.param(True, marks=pytest.mark.ci)])
def test_a_program_that_does_not_fit_runs_with_half_its_lanes(
    tmp_path, monkeypatch, lost
):
    full = Device(lanes=2, lost=lost)
    full.install(monkeypatch)
    tuner = searching.search(searching.tuner(tmp_path, "vmap"))
    assert full.refused
    assert {trial.status.value for trial in tuner.trials} == {"completed", "pruned"}
    found = decisions(tmp_path)
    assert found and all('"planned": false' in content for content in found)
    stored = vt.load_study(tmp_path / "study")
    assert any("at most 2 lanes" in text for text in stored.marks)
    assert outcome(same_as_stored(tmp_path, "vmap")) == outcome(tuner)


@pytest.mark.ci
def test_the_trials_go_on_with_the_numbers_that_they_have_in_such_a_program(
    tmp_path, monkeypatch
):
    """Decided before anything was trained, it is as if there had never been more."""
    with monkeypatch.context() as patched:
        Device(lanes=2).install(patched)
        halved = searching.search(searching.tuner(tmp_path / "halved", "vmap"))
    monkeypatch.setattr(
        plan, "device_rule", lambda platform: device.DeviceRule(2, 64, 1, 1, 1, 1, 1)
    )
    narrow = searching.search(searching.tuner(tmp_path / "narrow", "vmap"))
    assert outcome(halved) == outcome(narrow)


def test_memory_that_runs_out_later_takes_lanes_away_from_then_on(
    tmp_path, monkeypatch
):
    device = Device(lanes=2, calls=3)
    device.install(monkeypatch)
    tuner = searching.search(searching.tuner(tmp_path, "vmap"))
    assert device.refused
    assert all(trial.status.value in ("completed", "pruned") for trial in tuner.trials)
    assert outcome(same_as_stored(tmp_path, "vmap")) == outcome(tuner)


def test_a_state_that_is_lost_with_the_call_ends_its_trial_and_no_other(
    tmp_path, monkeypatch
):
    device = Device(lanes=2, calls=3, lost=True)
    device.install(monkeypatch)
    with pytest.raises(vt.SearchError, match="too large for the device"):
        searching.search(searching.tuner(tmp_path, "vmap"))
    assert device.refused == 1


class Killed(BaseException):
    """The process ends here."""


@pytest.mark.ci
@pytest.mark.parametrize("after", [5, 6, 9])
@pytest.mark.parametrize("late", [False, True])
def test_a_study_that_is_ended_goes_on_with_few_lanes(
    tmp_path, monkeypatch, after, late
):
    """The second process has memory enough, and takes the lanes away nevertheless."""
    train = trainer.Trainer.train

    def search(folder, ended):
        left = iter(range(ended))

        def watched(self, *arguments):
            for trained in train(self, *arguments):
                if next(left, None) is None:
                    raise Killed
                yield trained

        with monkeypatch.context() as patched:
            Device(lanes=2, calls=3).install(patched)
            patched.setattr(trainer.Trainer, "train", watched)
            patched.setattr(Journal, "is_due", lambda self, rung_ended: late)
            tuner = searching.tuner(folder, "vmap")
            with contextlib.suppress(Killed):
                searching.search(tuner)
        return tuner

    alone = search(tmp_path / "alone", 10**6)
    search(tmp_path / "ended", after)
    resumed = searching.search(searching.tuner(tmp_path / "ended", "vmap"))
    assert outcome(resumed) == outcome(alone)
    if decisions(tmp_path / "ended"):
        assert decisions(tmp_path / "ended") == decisions(tmp_path / "alone")


@pytest.mark.ci
def test_a_program_that_is_known_to_be_too_large_is_not_tried(tmp_path, monkeypatch):
    sizes = []
    check = arranging.check_size

    def watched(needed, most, lanes):
        sizes.append((needed, lanes))
        check(needed, most, lanes)

    monkeypatch.setattr(arranging, "check_size", watched)
    searching.search(searching.tuner(tmp_path / "all", "vmap"))
    most = max(lanes for _, lanes in sizes)
    large = min(size for size, lanes in sizes if lanes == most)
    monkeypatch.setattr(trainer, "memory_limit", lambda: (large - 1) / 0.8)
    tuner = searching.search(searching.tuner(tmp_path / "some", "vmap"))
    found = decisions(tmp_path / "some")
    assert found and all('"planned": true' in content for content in found)
    assert all(trial.status.value in ("completed", "pruned") for trial in tuner.trials)
    # Whoever searches again on such a device finds the same.
    assert not vt.load_study(tmp_path / "some" / "study").marks


def test_a_single_lane_that_is_too_large_is_a_failed_trial(monkeypatch):
    Device(lanes=0).install(monkeypatch)
    tuner = vt.RandomSearch(
        searching.build, objective="val_loss", max_trials=2, max_epochs=1, seed=0
    )
    searching.search(tuner)
    for trial in tuner.trials:
        assert trial.status.value == "failed"
        assert trial.reason.startswith("too large for the device: RESOURCE_EXHAUSTED")
