"""How long a trial may train, and who goes on, as a function of the trials so far."""

import dataclasses
import itertools
import math
from collections.abc import Iterator, Sequence
from typing import Protocol, runtime_checkable

from vtune.trial import Objective, Trial, TrialStatus, rank


@dataclasses.dataclass(frozen=True)
class Rung:
    """A step of a bracket: so many trials train until so many epochs.

    Args:
        trials: how many; None: as many as the space holds.
        epochs: how many each trial has trained at the rung's end, from its very start.
    """

    trials: int | None
    epochs: int


Bracket = tuple[Rung, ...]


@dataclasses.dataclass(frozen=True)
class Start:
    """New trials begin.

    Args:
        bracket: the bracket that they belong to.
        trials: how many.
        epochs: how many each trains in its first rung.
    """

    bracket: int
    trials: int
    epochs: int


@dataclasses.dataclass(frozen=True)
class Promote:
    """Trials go on in the next rung.

    Args:
        trials: their numbers, ascending.
        epochs: how many each has trained at the next rung's end, from its very start.
    """

    trials: tuple[int, ...]
    epochs: int


@dataclasses.dataclass(frozen=True)
class Stop:
    """Trials train no further.

    Args:
        trials: their numbers, ascending.
        status: `PRUNED`, or `COMPLETED` at the end of a last rung.
    """

    trials: tuple[int, ...]
    status: TrialStatus


Action = Start | Promote | Stop


@runtime_checkable
class Schedule(Protocol):
    """Decides how long trials train, as a pure function of the trials so far."""

    @property
    def max_epochs(self) -> int:
        """The epochs of a trial that goes through to the end."""
        ...

    @property
    def total_trials(self) -> int | None:
        """The trials of a whole search; None: as many as the space holds."""
        ...

    @property
    def plan(self) -> tuple[tuple[tuple[int | None, int], ...], ...]:
        """The rungs of each bracket as pairs (trials, epochs)."""
        ...

    def next(
        self, history: Sequence[Trial], *, exhausted: bool, capacity: int
    ) -> tuple[Action, ...]:
        """What is to be done now.

        Nothing, with no trial running, means that the search is over. All actions of
        one call are to be carried out before the next call.

        Args:
            history: the trials so far.
            exhausted: whether the space has no further configuration.
            capacity: how many trials the device trains at a time.

        Returns:
            The actions, to be carried out in this order.
        """
        ...


def mean_epochs(plan: Sequence[Sequence[tuple[int | None, int]]]) -> float:
    """The epochs that a trial is expected to train, on average.

    Args:
        plan: a schedule's `plan`.

    Returns:
        All epochs of all trials over the number of trials, if every rung is filled.
    """
    trials = epochs = 0
    for bracket in plan:
        before = 0
        for number, (count, budget) in enumerate(bracket):
            # Where nobody knows how many trials there are, one stands for all.
            count = 1 if count is None else count
            trials += count if number == 0 else 0
            epochs += count * (budget - before)
            before = budget
    return epochs / trials if trials else 0.0


def promoted_share(plan: Sequence[Sequence[tuple[int | None, int]]]) -> float:
    """The part of a rung's trials that go on to the next, at the first rung that ends.

    Args:
        plan: a schedule's `plan`.

    Returns:
        A number from 0 to 1; 0 where no trial is promoted.
    """
    for (before, _), (after, _) in (rungs[:2] for rungs in plan if len(rungs) > 1):
        if before and after:
            return after / before
    return 0.0


@dataclasses.dataclass(frozen=True)
class Brackets:
    """Brackets of rungs: at each rung's end the best trials go on, the others stop.

    A rung ends when each of its trials has trained its epochs, failed or diverged. The
    best of the healthy ones, as many as the next rung has room for, go on; equal scores
    are decided by the smaller number. Trials that failed or diverged never go on, and
    neither they nor a space with fewer configurations than planned cost a healthy trial
    its place.

    The brackets of an iteration start together, and an iteration starts as soon as
    fewer trials than the device can train are running. An iteration that is one single
    rung has nothing to compare: its trials start one by one, when there is room.

    Args:
        iterations: for each iteration its brackets. Brackets are numbered from 0
            through all iterations.
        objective: says which trial is better.

    Raises:
        ValueError: if there are no rungs, or a rung without a number of trials is not
            the only one of the last iteration.
    """

    iterations: tuple[tuple[Bracket, ...], ...]
    objective: Objective

    def __post_init__(self):
        if not self.iterations or not all(b and all(b) for b in self.iterations):
            raise ValueError(
                "`Brackets(iterations, ...)` takes iterations that have brackets that "
                f"have rungs, at least one of each, got {self.iterations!r}."
            )
        endless = [rung.trials is None for bracket in self._all for rung in bracket]
        if any(endless[:-1]) or (endless[-1] and not _is_flat(self.iterations[-1])):
            raise ValueError(
                "`Rung(trials=None, ...)` takes all that the space holds, so it is the "
                f"only rung of the last iteration; got {self.iterations!r}."
            )

    @property
    def max_epochs(self) -> int:
        """The epochs of the longest rung."""
        return max(bracket[-1].epochs for bracket in self._all)

    @property
    def total_trials(self) -> int | None:
        """The trials of all brackets; None: as many as the space holds."""
        first = [bracket[0].trials for bracket in self._all]
        return None if None in first else sum(trials or 0 for trials in first)

    @property
    def plan(self) -> tuple[tuple[tuple[int | None, int], ...], ...]:
        """The rungs of each bracket as pairs (trials, epochs)."""
        return tuple(tuple((r.trials, r.epochs) for r in rungs) for rungs in self._all)

    def next(
        self, history: Sequence[Trial], *, exhausted: bool, capacity: int
    ) -> tuple[Action, ...]:
        """What is to be done now, in every bracket."""
        groups = [[] for _ in self._all]
        for trial in history:
            groups[trial.bracket].append(trial)
        actions: list[Action] = []
        for rungs, trials in zip(self._all, groups):
            if exhausted or _missing(rungs, len(trials)) <= 0 or len(rungs) == 1:
                actions += _end_of_rung(rungs, trials, self.objective)
        running = sum(trial.status is TrialStatus.RUNNING for trial in history)
        running -= sum(len(a.trials) for a in actions if isinstance(a, Stop))
        if not exhausted:
            sizes = [len(trials) for trials in groups]
            actions += self._starts(sizes, running, capacity)
        return tuple(actions)

    @property
    def _all(self) -> tuple[Bracket, ...]:
        return tuple(itertools.chain.from_iterable(self.iterations))

    def _starts(
        self, sizes: Sequence[int], running: int, capacity: int
    ) -> Iterator[Start]:
        first = 0
        for brackets in self.iterations:
            present = sizes[first : first + len(brackets)]
            missing = [_missing(rungs, size) for rungs, size in zip(brackets, present)]
            room = max(capacity - running, 0)
            if _is_flat(brackets):
                starting = [min(missing[0], room)]
            elif room or any(present):
                starting = missing
            else:
                return
            for bracket, (rungs, trials) in enumerate(zip(brackets, starting), first):
                if trials:
                    yield Start(bracket, int(trials), rungs[0].epochs)
            if starting != missing:
                return
            running += int(sum(starting))
            first += len(brackets)


def _is_flat(brackets: Sequence[Bracket]) -> bool:
    return len(brackets) == 1 and len(brackets[0]) == 1


def _missing(rungs: Bracket, present: int) -> int | float:
    planned = rungs[0].trials
    return math.inf if planned is None else planned - present


def _end_of_rung(
    rungs: Bracket, trials: Sequence[Trial], objective: Objective
) -> list[Action]:
    running = [trial for trial in trials if trial.status is TrialStatus.RUNNING]
    trained = [trial for trial in running if trial.epoch >= trial.budget]
    if not trained:
        return []
    following = [rung for rung in rungs if rung.epochs > trained[0].budget]
    # The last rung ranks nobody, so nobody has to wait for the others.
    if not following:
        return [Stop(_numbers(trained), TrialStatus.COMPLETED)]
    if len(trained) < len(running):
        return []
    best = rank(trained, objective)
    promoted, pruned = best[: following[0].trials], best[following[0].trials :]
    actions: list[Action] = [Promote(_numbers(promoted), following[0].epochs)]
    return actions + ([Stop(_numbers(pruned), TrialStatus.PRUNED)] if pruned else [])


def _numbers(trials: Sequence[Trial]) -> tuple[int, ...]:
    return tuple(sorted(trial.number for trial in trials))
