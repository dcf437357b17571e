"""Brackets as a pure function of history, against a study that is played through."""

import dataclasses
import itertools
import random

import pytest
from hypothesis import given, settings, strategies as st

from vtune.history import epochs_left, foreseen, training
from vtune.search.hyperband import explicit_brackets, hyperband_brackets
from vtune.search.schedule import (
    Brackets,
    Promote,
    Rung,
    Schedule,
    Start,
    Stop,
)
from vtune.trial import Objective, Trial, TrialStatus


RUNNING, PRUNED = TrialStatus.RUNNING, TrialStatus.PRUNED
COMPLETED = TrialStatus.COMPLETED
ENDS_BADLY = (TrialStatus.FAILED, TrialStatus.DIVERGED)


@dataclasses.dataclass
class World:
    """What a study meets: scores, bad ends, the size of the space, the device."""

    seed: int
    space: int
    capacity: int
    bad: float

    def score(self, number, epoch):
        # Few different scores, so that there are ties; some are not even finite.
        draw = random.Random(f"{self.seed}/{number}/{epoch}").randrange(6)
        return float("nan") if draw == 5 else float(draw)

    def end(self, number):
        """The epoch in which a trial ends badly (0: at its start) and how, or None."""
        chance = random.Random(f"{self.seed}/{number}")
        if chance.random() >= self.bad:
            return None
        return chance.randrange(9), chance.choice(ENDS_BADLY)


def starts(actions):
    return [action for action in actions if isinstance(action, Start)]


class Play:
    """A study that carries out what a schedule says, in an order of its own."""

    def __init__(self, schedule, world):
        self.schedule, self.world = schedule, world
        self.trials: list[Trial] = []
        self.exhausted = False
        self.calls: list[tuple[int, tuple]] = []
        self.most_running = 0

    def replace(self, number, **changes):
        self.trials[number] = dataclasses.replace(self.trials[number], **changes)

    def running(self):
        return [trial for trial in self.trials if trial.status is RUNNING]

    def run(self):
        pace = random.Random(self.world.seed)
        for _ in range(10_000):
            trials = tuple(self.trials)
            question = dict(exhausted=self.exhausted, capacity=self.world.capacity)
            actions = self.schedule.next(trials, **question)
            assert self.schedule.next(trials, **question) == actions
            self.calls.append((len(self.running()), actions))
            for action in actions:
                self.carry_out(action)
            self.most_running = max(self.most_running, len(self.running()))
            waiting = [t for t in self.running() if t.epoch < t.budget]
            if not actions and not waiting:
                assert not self.running()
                return self
            for trial in waiting:
                if pace.random() < 0.7:
                    self.train(trial)
        raise AssertionError("The study does not end.")

    def run_together(self):
        """As `run`, all trials in step; what starts is foreseen each time before."""
        known = None
        for _ in range(10_000):
            question = dict(exhausted=self.exhausted, capacity=self.world.capacity)
            actions = self.schedule.next(tuple(self.trials), **question)
            assert known is None or starts(actions) == known
            for action in actions:
                self.carry_out(action)
            question["exhausted"] = self.exhausted
            known = starts(self.schedule.next(foreseen(self.trials), **question))
            waiting = training(self.trials)
            if not actions and not waiting:
                return
            for _ in range(epochs_left(self.trials)):
                for number in waiting:
                    self.train(self.trials[number])
        raise AssertionError("The study does not end.")

    def carry_out(self, action):
        if isinstance(action, Start):
            for _ in range(action.trials):
                self.start(action)
            return
        assert list(action.trials) == sorted(action.trials)
        for number in action.trials:
            trial = self.trials[number]
            assert trial.status is RUNNING and trial.epoch == trial.budget
            if isinstance(action, Promote):
                assert action.epochs > trial.budget
                self.replace(number, budget=action.epochs)
            else:
                self.replace(number, status=action.status)

    def start(self, action):
        number = len(self.trials)
        if number >= self.world.space:
            self.exhausted = True
            return
        trial = Trial(number, {}, bracket=action.bracket, budget=action.epochs)
        self.trials.append(trial)
        if (end := self.world.end(number)) and end[0] == 0:
            self.replace(number, status=end[1])

    def train(self, trial):
        number, epoch = trial.number, trial.epoch + 1
        end = self.world.end(number)
        if end and end[0] == epoch:
            self.replace(number, epoch=epoch, status=end[1], score=None)
        else:
            self.replace(number, epoch=epoch, score=self.world.score(number, epoch))


def expected(schedule, world):
    """Each trial's bracket, status and epochs, bracket by bracket and rung by rung."""
    number = itertools.count()
    for bracket, rungs in enumerate(itertools.chain(*schedule.iterations)):
        planned = world.space if rungs[0].trials is None else rungs[0].trials
        alive = [n for n in itertools.islice(number, planned) if n < world.space]
        for rung, following in itertools.zip_longest(rungs, rungs[1:]):
            healthy = []
            for trial in alive:
                end = world.end(trial)
                if end and end[0] <= rung.epochs:
                    yield trial, bracket, end[1], end[0]
                else:
                    healthy.append(trial)
            scores = {n: world.score(n, rung.epochs) for n in healthy}
            healthy.sort(key=lambda n: (schedule.objective.loss(scores[n]), n))
            room = following.trials if following else 0
            alive, dropped = healthy[:room], healthy[room:]
            status = PRUNED if following else COMPLETED
            yield from ((trial, bracket, status, rung.epochs) for trial in dropped)


@st.composite
def rungs(draw):
    count = draw(st.integers(1, 4))
    sizes = draw(st.lists(st.integers(1, 12), min_size=count, max_size=count))
    gaps = draw(st.lists(st.integers(1, 3), min_size=count, max_size=count))
    return [*zip(sorted(sizes, reverse=True), itertools.accumulate(gaps))]


iterations = st.lists(st.lists(rungs(), min_size=1, max_size=3), min_size=1, max_size=3)
objectives = st.sampled_from(["loss", "accuracy"]).map(Objective)


def schedule_of(iterations, objective):
    return Brackets(tuple(map(explicit_brackets, iterations)), objective)


worlds = st.builds(
    World,
    seed=st.integers(0, 10**6),
    space=st.integers(0, 60) | st.just(10**6),
    capacity=st.integers(1, 30),
    bad=st.sampled_from([0.0, 0.2, 0.6, 1.0]),
)


@settings(max_examples=200)
@given(iterations, objectives, worlds)
def test_a_study_ends_as_the_brackets_read_one_by_one(iterations, objective, world):
    schedule = schedule_of(iterations, objective)
    play = Play(schedule, world).run()
    assert [(t.number, t.bracket, t.status, t.epoch) for t in play.trials] == sorted(
        expected(schedule, world)
    )


@settings(max_examples=50)
@given(st.integers(1, 30), st.integers(2, 4), st.integers(1, 2), worlds)
def test_hyperband_ends_so_too(max_epochs, factor, iterations, world):
    brackets = hyperband_brackets(max_epochs, factor)
    schedule = Brackets((brackets,) * iterations, Objective("loss"))
    play = Play(schedule, world).run()
    assert [(t.number, t.bracket, t.status, t.epoch) for t in play.trials] == sorted(
        expected(schedule, world)
    )


@settings(max_examples=100)
@given(iterations, objectives, worlds)
def test_what_starts_is_known_before_the_scores_are(iterations, objective, world):
    world = dataclasses.replace(world, bad=0.0)
    Play(schedule_of(iterations, objective), world).run_together()


@settings(max_examples=50)
@given(st.integers(1, 40) | st.none(), st.integers(1, 4), worlds)
def test_flat_brackets_never_run_more_than_the_device_trains(trials, epochs, world):
    world = dataclasses.replace(world, space=min(world.space, 50))
    schedule = Brackets((((Rung(trials, epochs),),),), Objective("loss"))
    play = Play(schedule, world).run()
    started = world.space if trials is None else min(trials, world.space)
    assert len(play.trials) == started
    assert play.most_running <= world.capacity
    assert [(t.number, t.bracket, t.status, t.epoch) for t in play.trials] == sorted(
        expected(schedule, world)
    )


@settings(max_examples=50)
@given(iterations, objectives, worlds)
def test_an_iteration_starts_at_once_and_when_there_is_room(
    iterations, objective, world
):
    schedule = schedule_of(iterations, objective)
    play = Play(schedule, dataclasses.replace(world, space=10**6)).run()
    first = 0
    for brackets in schedule.iterations:
        numbers = range(first, first + len(brackets))
        first += len(brackets)
        starts = [
            (running, [a.bracket for a in actions if isinstance(a, Start)], actions)
            for running, actions in play.calls
            if any(isinstance(a, Start) and a.bracket in numbers for a in actions)
        ]
        running, begun, actions = starts[0]
        stopped = sum(len(a.trials) for a in actions if isinstance(a, Stop))
        assert running - stopped < world.capacity
        if sum(map(len, brackets)) > 1:
            assert len(starts) == 1 and set(numbers) <= set(begun)


HALVING = Brackets(
    (explicit_brackets([[(4, 1), (2, 3), (1, 9)]]),), Objective("accuracy")
)


def history(*scores, epoch=1, budget=1):
    return tuple(
        Trial(number, {}, epoch=epoch, budget=budget, score=score)
        for number, score in enumerate(scores)
    )


def following(schedule, trials, exhausted=False, capacity=8):
    return schedule.next(trials, exhausted=exhausted, capacity=capacity)


def test_a_bracket_from_its_start_to_its_end():
    assert following(HALVING, ()) == (Start(0, 4, 1),)
    trials = history(0.5, 0.9, 0.7, 0.8)
    assert following(HALVING, trials) == (Promote((1, 3), 3), Stop((0, 2), PRUNED))
    pruned = [dataclasses.replace(trials[n], status=PRUNED) for n in (0, 2)]
    going_on = [
        dataclasses.replace(trials[n], budget=3, epoch=3, score=score)
        for n, score in ((1, 0.5), (3, 0.6))
    ]
    trials = (pruned[0], going_on[0], pruned[1], going_on[1])
    assert following(HALVING, trials) == (Promote((3,), 9), Stop((1,), PRUNED))
    stopped = dataclasses.replace(going_on[0], status=PRUNED)
    last = dataclasses.replace(going_on[1], budget=9, epoch=9)
    trials = (pruned[0], stopped, pruned[1], last)
    assert following(HALVING, trials) == (Stop((3,), COMPLETED),)
    done = dataclasses.replace(last, status=COMPLETED)
    assert following(HALVING, (pruned[0], stopped, pruned[1], done)) == ()


def test_a_rung_waits_for_its_slowest_trial():
    trials = history(0.5, 0.9, 0.7, 0.8)
    slow = dataclasses.replace(trials[0], epoch=0, score=None)
    assert following(HALVING, (slow, *trials[1:])) == ()


def test_ties_go_to_the_smaller_number():
    trials = history(0.5, 0.5, 0.5, 0.5)
    assert following(HALVING, trials)[0] == Promote((0, 1), 3)


@pytest.mark.parametrize("status", ENDS_BADLY)
def test_failed_trials_take_no_place(status):
    trials = history(0.5, 0.9, 0.7, 0.8)
    bad = [dataclasses.replace(t, status=status, score=None) for t in trials[1:3]]
    assert following(HALVING, (trials[0], *bad, trials[3])) == (Promote((0, 3), 3),)
    assert (
        following(
            HALVING,
            (
                *bad,
                *(
                    dataclasses.replace(t, status=status)
                    for t in (trials[0], trials[3])
                ),
            ),
        )
        == ()
    )


def test_a_space_smaller_than_the_first_rung_gets_its_promotions():
    trials = history(0.5, 0.9, 0.7)
    assert following(HALVING, trials) == (Start(0, 1, 1),)
    assert following(HALVING, trials, exhausted=True) == (
        Promote((1, 2), 3),
        Stop((0,), PRUNED),
    )
    assert following(HALVING, trials[:1], exhausted=True) == (Promote((0,), 3),)


def test_all_brackets_of_an_iteration_start_together():
    brackets = hyperband_brackets(10, 3)
    schedule = Brackets((brackets, brackets), Objective("loss"))
    starts = (Start(0, 9, 1), Start(1, 5, 3), Start(2, 3, 10))
    assert following(schedule, (), capacity=1) == starts
    again = (Start(3, 9, 1), Start(4, 5, 3), Start(5, 3, 10))
    assert following(schedule, (), capacity=18) == starts + again
    assert following(schedule, (), capacity=17) == starts
    assert following(schedule, (), exhausted=True) == ()


def test_what_a_schedule_says_of_itself():
    schedule = Brackets((hyperband_brackets(10, 3),) * 2, Objective("loss"))
    assert isinstance(schedule, Schedule)
    assert schedule.total_trials == 34 and schedule.max_epochs == 10
    assert schedule.plan[:3] == schedule.plan[3:]
    assert schedule.plan[0] == ((9, 1), (3, 3), (1, 10))
    endless = Brackets((((Rung(None, 7),),),), Objective("loss"))
    assert (endless.total_trials, endless.max_epochs) == (None, 7)
    assert endless.plan == (((None, 7),),)


@pytest.mark.parametrize(
    "iterations",
    [
        (),
        ((),),
        (((),),),
        (((Rung(None, 1), Rung(1, 2)),),),
        (((Rung(None, 1),), (Rung(2, 2),)),),
        (((Rung(None, 1),),), ((Rung(2, 2),),)),
    ],
)
def test_brackets_that_make_no_sense_are_errors(iterations):
    with pytest.raises(ValueError, match="got"):
        Brackets(iterations, Objective("loss"))
