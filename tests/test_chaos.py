"""Delays, orders and clocks change nothing that a search finds."""

import contextlib
import hashlib
import random
import sqlite3
import time

import pytest

from tests import searching
from vtune.training import compile, plan, trainer, worker
from vtune.training.trainer import Trainer


def found(folder, monkeypatch):
    """What a search finds: states, programs, metrics, decisions."""
    states = {}
    train = Trainer.train

    def watched(self, trials, stop=lambda: False):
        results = train(self, trials, stop)
        for number, leaves in self.states(sorted(results)).items():
            content = b"".join(leaf.tobytes() for leaf in leaves)
            epoch = self._members[number].epoch
            states[number, epoch] = hashlib.sha256(content).hexdigest()
        return results

    monkeypatch.setattr(Trainer, "train", watched)
    searching.search(searching.tuner(folder, "vmap"))
    database = sqlite3.connect(folder / "study" / "study.sqlite")
    with contextlib.closing(database) as connection:
        epochs = connection.execute("SELECT trial, epoch, program FROM epoch_rows")
        metrics = connection.execute("SELECT * FROM metrics")
        decisions = connection.execute("SELECT * FROM decisions")
        rows = [sorted(map(repr, cursor)) for cursor in (epochs, metrics, decisions)]
    return states, *rows


def disturb(monkeypatch, seed):
    """Delays whatever takes time, and turns round what has no order of its own."""
    moments = random.Random(seed)
    compile_one, dispatch = compile._compile, trainer.dispatch

    def slowly(*arguments):
        time.sleep(moments.uniform(0, 0.2))
        return compile_one(*arguments)

    def late(*arguments):
        time.sleep(moments.uniform(0, 0.02))
        return dispatch(*arguments)

    arrange = Trainer.arrange

    def shuffled(self, trials):
        failures = arrange(self, trials)
        moments.shuffle(self._packs)
        return failures

    clock = iter(range(10**9))
    monkeypatch.setattr(compile, "_compile", slowly)
    monkeypatch.setattr(compile, "PROGRAMS", compile.ProgramCache())
    monkeypatch.setattr(trainer, "dispatch", late)
    monkeypatch.setattr(Trainer, "arrange", shuffled)
    monkeypatch.setattr(worker, "_SHORT", moments.uniform(0, 0.05))
    monkeypatch.setattr(
        "vtune.journal.time.monotonic", lambda: next(clock) * moments.uniform(0, 9)
    )


@pytest.mark.ci
@pytest.mark.parametrize("seed", range(3))
def test_a_disturbed_search_finds_the_same(tmp_path, monkeypatch, seed):
    with monkeypatch.context() as quiet:
        first = found(tmp_path / "quiet", quiet)
    disturb(monkeypatch, seed)
    assert found(tmp_path / "disturbed", monkeypatch) == first


@pytest.mark.ci
def test_a_plan_that_reads_the_clock_would_be_seen(tmp_path, monkeypatch):
    with monkeypatch.context() as quiet:
        states, programs, *_ = found(tmp_path / "quiet", quiet)
    clock = iter(range(1000))
    arrange = plan.arrange

    def impatient(trials, form, platform, before=None):
        right = arrange(trials, form, platform, before)
        lanes = (16, 24)[next(clock) % 2]
        return plan.Arrangement(max(lanes, right.lanes), right.groups)

    monkeypatch.setattr(plan, "arrange", impatient)
    others, other_programs, *_ = found(tmp_path / "impatient", monkeypatch)
    assert programs != other_programs
    assert states != others
