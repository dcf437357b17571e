"""Delays, orders and clocks change nothing that a search finds."""

import dataclasses
import functools
import random
import time

import pytest

import vtune as vt
from tests import searching
from vtune import preparation
from vtune.journal import Journal
from vtune.training import compile, plan, worker
from vtune.training.compile import Program
from vtune.training.trainer import Trainer


def found(folder, monkeypatch):
    """What a search finds, to the last bit; and when it wrote checkpoints."""
    states = {}

    def tell(began, digests):
        states.update({(n, epoch): state for n, (epoch, state, _) in digests.items()})

    searching.watch(monkeypatch.setattr, tell)
    checkpoints = []
    begin = Journal.checkpoint

    def begun(self, *states):
        begin(self, *states)
        checkpoints.append(self.sequence)

    monkeypatch.setattr(Journal, "checkpoint", begun)
    searching.search(searching.tuner(folder, "vmap"))
    contents = vt.load_study(folder / "study").contents
    programs = {(r.trial, r.epoch): r.program for r in contents.epochs}
    rows = list(map(repr, [*contents.epochs, *contents.decisions]))
    return (states, programs, rows), checkpoints


def disturb(monkeypatch, seed):
    """Delays whatever takes time, and turns round what has no order of its own."""
    moments = random.Random(seed)
    compile_one, call, arrange = compile._compile, Program.__call__, Trainer.arrange

    def slowly(*arguments):
        time.sleep(moments.uniform(0, 0.2))
        return compile_one(*arguments)

    def late(self, *arguments):
        time.sleep(moments.uniform(0, 0.02))
        return call(self, *arguments)

    def shuffled(self, trials):
        arranged = arrange(self, trials)
        moments.shuffle(self._roster._packs)
        return arranged

    clock = iter(range(10**9))
    hurried = functools.partial(
        Journal, clock=lambda: next(clock) * moments.uniform(0, 0.2)
    )
    monkeypatch.setattr(compile, "_compile", slowly)
    monkeypatch.setattr(compile, "PROGRAMS", compile.ProgramCache())
    monkeypatch.setattr(Program, "__call__", late)
    monkeypatch.setattr(Trainer, "arrange", shuffled)
    monkeypatch.setattr(worker, "_SHORT", moments.uniform(0, 0.05))
    monkeypatch.setattr(preparation, "Journal", hurried)


@pytest.mark.ci
@pytest.mark.parametrize("seed", range(3))
def test_a_disturbed_search_finds_the_same(tmp_path, monkeypatch, seed):
    with monkeypatch.context() as quiet:
        first, checkpoints = found(tmp_path / "quiet", quiet)
    disturb(monkeypatch, seed)
    second, others = found(tmp_path / "disturbed", monkeypatch)
    assert second == first
    assert others != checkpoints  # the clock was another


@pytest.mark.ci
def test_a_plan_that_reads_the_clock_would_be_seen(tmp_path, monkeypatch):
    with monkeypatch.context() as quiet:
        (_, programs, _), _ = found(tmp_path / "quiet", quiet)
    clock = iter(range(1000))
    arrange = plan.arrange

    def impatient(*arguments, **more):
        right = arrange(*arguments, **more)
        lanes = (16, 24)[next(clock) % 2]
        return dataclasses.replace(right, lanes=max(lanes, right.lanes))

    monkeypatch.setattr(plan, "arrange", impatient)
    (_, others, _), _ = found(tmp_path / "impatient", monkeypatch)
    # Whether another number of lanes changes a bit is the compiler's affair; which
    # program ran is recorded in any case.
    assert programs != others
