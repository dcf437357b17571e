"""What is read off a record of progress."""

import math

import pytest
from hypothesis import given, strategies as st

from vtune.reporting.progress import (
    Progress,
    Tick,
    best_trial,
    epochs_done,
    epochs_left,
    learning_curve,
    rung_states,
    status_counts,
    steps_done,
    throughput,
    tick_cost,
    ticks_left,
    time_left,
    training_seconds,
)
from vtune.trial import Objective, Trial, TrialStatus


ACCURACY = Objective("val_accuracy")


def test_an_empty_search():
    progress = Progress(ACCURACY)
    assert best_trial(progress) is None
    assert learning_curve(progress) == ()
    assert rung_states(progress) == ()
    assert throughput(progress) is None
    assert time_left(progress) is None
    assert steps_done(progress) == epochs_done(progress) == 0
    assert sum(status_counts(()).values()) == 0


@pytest.mark.parametrize("direction, best", [("max", 2), ("min", 1)])
def test_the_best_trial_has_a_finite_score(direction, best):
    objective = Objective("thing", direction)
    scores = [math.nan, 0.1, 0.9, None, math.inf, -math.inf]
    trials = [
        Trial(n, {}, score=score, metrics={"thing": (0.5, n / 10)})
        for n, score in enumerate(scores)
    ]
    progress = Progress(objective, trials=trials)
    assert best_trial(progress) is trials[best]
    assert learning_curve(progress) == (0.5, best / 10)


def test_no_trial_is_best_when_all_failed():
    trials = [Trial(n, {}, status=TrialStatus.FAILED) for n in range(3)]
    progress = Progress(ACCURACY, trials=[*trials, Trial(3, {}, score=math.nan)])
    assert best_trial(progress) is None


def test_the_plan_of_the_paper_is_counted_exactly_to_its_end(search):
    """At each tick what is left is what the rest of the search then takes."""
    running = search()
    expected = []
    while True:
        progress = running.progress()
        expected.append((epochs_left(progress), ticks_left(progress)))
        if not running.tick():
            break
    epochs = [tick.trials for tick in running.ticks]
    after = [(sum(epochs[i:]), len(epochs) - i) for i in range(len(epochs) + 1)]
    assert expected == after
    assert epochs_done(progress) == sum(epochs) == expected[0][0]
    assert steps_done(progress) == 100 * sum(epochs)


def test_the_time_left_is_the_time_it_then_takes(search):
    running = search()
    left = []
    while running.tick():
        left.append(time_left(running.progress()))
    seconds = [tick.seconds for tick in running.ticks]
    total = training_seconds(running.progress())
    assert total == pytest.approx(sum(seconds))
    # Ticks of one size do not tell what a trial costs from what a tick costs.
    sizes = [
        len({t.trials for t in running.ticks[: i + 1]}) for i in range(len(seconds))
    ]
    checked = [i for i, size in enumerate(sizes) if size > 1]
    assert len(checked) > 70
    for i in checked:
        assert left[i] == pytest.approx(sum(seconds[i + 1 :]), abs=1e-6)
    assert time_left(running.progress(finished=True)) is None


def test_every_trial_is_somewhere_in_its_rung(search):
    running = search(fails={3: 0, 40: 0, 100: 2, 110: 4})
    while running.tick():
        progress = running.progress()
        for states in rung_states(progress):
            for state in states:
                assert state.entered == (
                    state.running
                    + state.waiting
                    + state.passed
                    + state.pruned
                    + state.failed
                )
                assert state.fraction is not None and 0 <= state.fraction <= 1
                assert state.planned is not None
                assert state.entered + state.unentered <= state.planned
        here = [state for states in rung_states(progress) for state in states]
        assert sum(state.epochs_done for state in here) == epochs_done(progress)
        counts = status_counts(progress.trials)
        assert sum(s.failed for s in here) == counts[TrialStatus.DIVERGED]
        assert sum(s.pruned for s in here) == counts[TrialStatus.PRUNED]
        running_now = sum(s.running + s.waiting for s in here)
        assert running_now == counts[TrialStatus.RUNNING]
    assert all(state.ended for states in rung_states(progress) for state in states)
    assert epochs_left(progress) == ticks_left(progress) == 0


def test_a_rung_in_its_middle(search):
    running = search([[(4, 2), (2, 6)]], fails={0: 1})
    running.tick()
    first, second = rung_states(running.progress())[0]
    assert (first.running, first.waiting, first.ended) == (4, 0, False)
    assert (first.fraction, first.epochs_left) == (0.5, 4)
    assert (second.share, second.unentered, second.depth) == (4, 2, 4)
    running.tick()
    first, second = rung_states(running.progress())[0]
    assert (first.failed, first.pruned, first.passed) == (1, 1, 2)
    assert first.ended and first.fraction == 1.0
    assert (second.running, second.epochs_left, second.fraction) == (2, 8, 0.0)


def test_fewer_healthy_trials_than_places_shrink_the_next_rung(search):
    running = search([[(4, 1), (3, 2)]], fails={0: 0, 1: 0})
    running.tick()
    _, second = rung_states(running.progress())[0]
    assert (second.planned, second.entered, second.unentered) == (3, 2, 0)
    assert epochs_left(running.progress()) == 2


def test_a_rung_of_failures_only_ends_the_bracket(search):
    running = search([[(2, 1), (1, 3)]], fails={0: 0, 1: 0})
    running.tick()
    progress = running.progress()
    first, second = rung_states(progress)[0]
    assert first.ended and first.failed == 2
    assert second.unentered == 0
    assert epochs_left(progress) == 0


def test_a_trial_that_failed_before_it_had_a_budget_counts_in_the_first_rung():
    failed = Trial(0, {}, status=TrialStatus.FAILED)
    progress = Progress(ACCURACY, trials=[failed], brackets=[[(2, 1), (1, 3)]])
    assert rung_states(progress)[0][0].failed == 1


def test_trials_that_start_one_by_one():
    trials = [
        Trial(0, {}, budget=5, epoch=5, status=TrialStatus.COMPLETED),
        Trial(1, {}, budget=5, epoch=2),
        Trial(2, {}, budget=5, epoch=2),
    ]
    ticks = [Tick(2, 1.0)] * 7
    progress = Progress(ACCURACY, trials=trials, brackets=[[(6, 5)]], ticks=ticks)
    (state,) = rung_states(progress)[0]
    assert not state.ended and state.unentered == 3
    assert epochs_left(progress) == 3 + 3 + 3 * 5
    # Two at a time: three more epochs now, then 15 trial-epochs.
    assert ticks_left(progress) == 3 + 8


def test_a_plan_without_an_end():
    trials = [Trial(0, {}, budget=5, epoch=2)]
    progress = Progress(
        ACCURACY, trials=trials, brackets=[[(None, 5)]], ticks=[Tick(1, 1.0)]
    )
    assert epochs_left(progress) is None
    assert ticks_left(progress) is None
    assert time_left(progress) is None
    assert rung_states(progress)[0][0].fraction is None
    ended = Trial(0, {}, budget=5, epoch=5, status=TrialStatus.COMPLETED)
    progress = Progress(ACCURACY, trials=[ended], brackets=[[(None, 5)]], finished=True)
    assert rung_states(progress)[0][0].ended
    assert epochs_left(progress) == 0


def test_throughput_is_of_the_present_and_at_the_end_of_all():
    ticks = [Tick(10, 10.0)] * 10 + [Tick(20, 10.0)] * 10
    progress = Progress(ACCURACY, steps_per_epoch=5, ticks=ticks)
    assert throughput(progress) == pytest.approx(10.0)
    finished = Progress(ACCURACY, steps_per_epoch=5, ticks=ticks, finished=True)
    assert throughput(finished) == pytest.approx(7.5)


@given(
    st.floats(0.0, 10.0),
    st.floats(0.0, 1.0),
    st.lists(st.integers(1, 500), min_size=2, max_size=50).filter(
        lambda sizes: len(set(sizes)) > 1
    ),
)
def test_the_cost_of_a_tick_is_found(a, b, sizes):
    found = tick_cost([Tick(n, a + b * n) for n in sizes])
    for n in sizes:
        assert found[0] + found[1] * n == pytest.approx(a + b * n, rel=1e-6, abs=1e-6)


@given(
    st.lists(
        st.builds(Tick, trials=st.integers(0, 500), seconds=st.floats(0.0, 1e4)),
        min_size=1,
    )
)
def test_the_cost_of_a_tick_is_never_negative(ticks):
    a, b = tick_cost(ticks)
    assert 0 <= a < math.inf and 0 <= b < math.inf


def test_a_single_slow_tick_does_not_spoil_the_estimate():
    ticks = [Tick(8, 1.0)] * 9 + [Tick(8, 500.0)]
    assert tick_cost(ticks) == (0.0, pytest.approx(1 / 8))
