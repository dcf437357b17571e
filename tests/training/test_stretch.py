"""Epochs in a row are those one by one, however programs run side by side."""

import functools
import hashlib
import threading
import time

import pytest

from tests.training.test_neutrality import WATCHED, trainer
from vtune.training import stretch, trainer as trainers
from vtune.training.streams import Streams
from vtune.training.stretch import Halts


ORDER = [0, 1, 2, WATCHED]
KINDS = {
    "one core": Streams(1, queued=False),
    "two cores": Streams(2, queued=False),
    "an accelerator": Streams(3, queued=True),
}
kinds = pytest.mark.parametrize(
    "kind", [pytest.param("one core", marks=pytest.mark.ci), *list(KINDS)[1:]]
)


def made(monkeypatch, kind, form="map"):
    """A trainer with its trials in lanes; by `map`, in a program for each core."""
    monkeypatch.setattr(trainers, "streams", lambda platform: KINDS[kind])
    found = trainer("MLP", form, {})
    assert found.arrange(ORDER).is_whole
    return found


def states(trainer):
    return {
        number: hashlib.sha256(b"".join(leaf.tobytes() for leaf in leaves)).digest()
        for number, leaves in trainer.states(ORDER).items()
    }


@functools.cache
def one_by_one():
    """States and results after each of some epochs, one call for each."""
    with pytest.MonkeyPatch.context() as monkeypatch:
        alone = made(monkeypatch, "one core")
    found = []
    for _ in range(8):
        (each,) = alone.train(ORDER)
        found.append((states(alone), each.results))
    return found


def results(epochs):
    return [found for _, found in one_by_one()[:epochs]]


def state_after(epochs):
    return one_by_one()[epochs - 1][0]


@kinds
def test_epochs_in_a_row_are_those_one_by_one(kind, monkeypatch):
    together = made(monkeypatch, kind)
    assert len(together._roster._packs) > 1
    rounds = list(together.train(ORDER, 3))
    assert [each.results for each in rounds] == results(3)
    assert [each.following for each in rounds] == [2, 1, 0]
    assert states(together) == state_after(3)


@kinds
def test_enough_ends_them_after_the_same_number_of_epochs(kind, monkeypatch):
    together = made(monkeypatch, kind)
    asked = iter([False] * 3)
    halts = Halts(enough=lambda: next(asked, True))
    rounds = list(together.train(ORDER, 10, halts))
    assert 1 <= len(rounds) < 10
    assert all(each.results.keys() == set(ORDER) for each in rounds)
    assert [each.results for each in rounds] == results(len(rounds))
    assert states(together) == state_after(len(rounds))


@kinds
def test_what_was_stopped_goes_on_with_the_same_numbers(kind, monkeypatch):
    together = made(monkeypatch, kind)
    asked = iter([False] * 3)
    stopped = list(together.train(ORDER, 4, Halts(lambda done: next(asked, True))))
    epochs = {trial: sum(trial in each.results for each in stopped) for trial in ORDER}
    assert 0 < sum(epochs.values()) < 4 * len(ORDER)
    for trial, trained in epochs.items():
        assert len(list(together.train([trial], 4 - trained))) == 4 - trained
    assert states(together) == state_after(4)


@kinds
@pytest.mark.parametrize("during", ["begin_epoch", "end_epoch"])
def test_what_fails_costs_the_others_no_epoch(kind, during, monkeypatch):
    together = made(monkeypatch, kind)
    usual, calls = getattr(stretch, during), []

    def failing(what, *more):
        pack = what if during == "begin_epoch" else what.pack
        if WATCHED in pack.trials:
            calls.append(pack)
            if len(calls) == 2:
                raise RuntimeError("no")
        return usual(what, *more)

    monkeypatch.setattr(stretch, during, failing)
    rounds = list(together.train(ORDER, 5))
    monkeypatch.setattr(stretch, during, usual)
    assert 2 <= len(rounds) < 5 and rounds[-1].following == 0
    failed = {
        trial
        for trial, result in rounds[1].results.items()
        if result.failure is not None
    }
    assert WATCHED in failed and failed != set(ORDER)
    for number, each in enumerate(rounds):
        assert each.is_whole is (number != 1)
        gone = failed if number > 1 else set()
        assert each.results.keys() == set(ORDER) - gone
    known = results(len(rounds))
    for trial in set(ORDER) - failed:
        assert [r.results[trial] for r in rounds] == [r[trial] for r in known]
        assert states(together)[trial] == state_after(len(rounds))[trial]


def test_an_accelerator_has_an_epoch_before_the_last_one_is_read(monkeypatch):
    together = made(monkeypatch, "an accelerator", "vmap")
    assert len(together._roster._packs) == 1
    events = []
    begin, end = stretch.begin_epoch, stretch.end_epoch

    def begun(pack, epochs, *more):
        events.append(("begun", epochs[WATCHED]))
        return begin(pack, epochs, *more)

    def ended(running, names):
        time.sleep(0.2)
        events.append(("read", running.epochs[WATCHED]))
        return end(running, names)

    monkeypatch.setattr(stretch, "begin_epoch", begun)
    monkeypatch.setattr(stretch, "end_epoch", ended)
    assert len(list(together.train(ORDER, 3))) == 3
    assert events.index(("begun", 1)) < events.index(("read", 0))
    # But no more than one: whoever is told may want to stop.
    assert events.index(("begun", 2)) > events.index(("read", 0))


def test_who_asks_no_more_leaves_whole_epochs_behind(monkeypatch):
    together = made(monkeypatch, "two cores")
    rounds = together.train(ORDER, 50)
    next(rounds)
    rounds.close()
    assert states(together)[WATCHED] in [found[WATCHED] for found, _ in one_by_one()]


def test_what_was_sent_off_after_a_failure_counts_for_nothing(monkeypatch):
    together = made(monkeypatch, "an accelerator")
    begin, end, begun = stretch.begin_epoch, stretch.end_epoch, threading.Event()

    def watched(pack, epochs, *more):
        running = begin(pack, epochs, *more)
        if WATCHED in pack.trials and epochs[WATCHED] == 1:
            begun.set()
        return running

    def failing(running, names):
        if WATCHED in running.pack.trials and running.epochs[WATCHED] == 0:
            assert begun.wait(30)
            raise RuntimeError("no")
        return end(running, names)

    monkeypatch.setattr(stretch, "begin_epoch", watched)
    monkeypatch.setattr(stretch, "end_epoch", failing)
    first, *later = together.train(ORDER, 5)
    assert first.results[WATCHED].failure is not None
    assert later and all(WATCHED not in each.results for each in later)
