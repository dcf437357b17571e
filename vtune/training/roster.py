"""Which trial is in which lane, and where its state is."""

import contextlib
import dataclasses
import threading
from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import Any

from vtune.fusion.trace import Trace
from vtune.training.cohort import Cohort
from vtune.training.compile import Program
from vtune.training.lanes import HostState
from vtune.training.member import Member, initialised
from vtune.training.overflow import Overflow, overflowed
from vtune.training.pack import (
    EpochData,
    EpochResult,
    Pack,
    own_states,
    packed,
    still_fits,
)
from vtune.training.plan import Arrangement
from vtune.training.slices import Epoch
from vtune.training.streams import Streams
from vtune.training.stretch import Halts, Round, Stretch


@dataclasses.dataclass(frozen=True)
class Trained:
    """What an epoch gave.

    Args:
        results: the result of each trial that was trained, or is lost.
        overflows: the programs that the device has no memory for.
        following: how many epochs the trials of the other programs are trained after
            this one, unless they are stopped.
    """

    results: Mapping[int, EpochResult]
    overflows: tuple[Overflow, ...]
    following: int

    @property
    def is_whole(self) -> bool:
        """Whether all trials are in their lanes still."""
        failed = any(result.failure for result in self.results.values())
        return not failed and not self.overflows


class Roster:
    """The trials that were admitted, in lanes or waiting for one.

    A trial's state is in its lane; until it was trained there, it is in the host's
    memory as well, so that it is not lost with a program that fails at once.

    Args:
        streams: how programs run side by side.
    """

    def __init__(self, streams: Streams):
        self._streams = streams
        self._members: dict[int, Member] = {}
        self._packs: list[Pack] = []
        self._lock = threading.Lock()

    @property
    def threads(self) -> int:
        """How many programs run side by side."""
        return self._streams.threads

    @property
    def running(self) -> tuple[int, int]:
        """The lanes of all programs, and the number of programs."""
        programs = {id(pack.program) for pack in self._packs}
        return sum(pack.lanes for pack in self._packs), len(programs)

    def __getitem__(self, trial: int) -> Member:
        """What is known of a trial.

        Args:
            trial: its number.
        """
        return self._members[trial]

    def enter(self, number: int, member: Member) -> None:
        """Takes a trial in, or what is known of it from now on.

        Args:
            number: the trial.
            member: what is known of it.
        """
        self._members[number] = member

    def new(self, trials: Sequence[int]) -> dict[int, Trace]:
        """The functions of those among some trials that have no state yet.

        Args:
            trials: which.
        """
        placed = {trial for pack in self._packs for trial in pack.trials}
        return {
            trial: self._members[trial].trace
            for trial in trials
            if trial not in placed and self._members[trial].state is None
        }

    def initialise(
        self,
        members: Sequence[int],
        cohort: Cohort,
        programs: Mapping[tuple[str, int], Program | Exception],
        batch: Any,
        threads: int,
    ) -> dict[int, Exception]:
        """Makes the first states of trials that have none.

        Args:
            members: trials of a cohort.
            cohort: the cohort.
            programs: for `("init", number)` what makes a trial's state.
            batch: the first training batch.
            threads: how many states are made at a time.

        Returns:
            For each trial that has no state what keeps it from one.
        """
        new = {trial: self._members[trial] for trial in self.new(members)}
        made, failures = initialised(new, cohort.widening, programs, batch, threads)
        self._members |= made
        return failures

    def place(
        self,
        members: Sequence[int],
        cohort: Cohort,
        program: Epoch,
        arrangement: Arrangement,
        threads: int,
    ) -> list[Pack]:
        """Puts the trials of a cohort into lanes, unless they can stay where they are.

        Args:
            members: the trials, with a state each.
            cohort: the cohort.
            program: its compiled epoch.
            arrangement: how many lanes and packs.
            threads: how many packs are filled at a time.

        Returns:
            The packs; `keep` takes them over.
        """
        old = [pack for pack in self._packs if pack.cohort == cohort.number]
        if still_fits(old, members, arrangement):
            return [pack for pack in old if not set(members).isdisjoint(pack.trials)]
        self.unload(cohort, members)
        waiting = {number: self._members[number] for number in members}
        return packed(cohort, program, arrangement, waiting, threads)

    def unload(self, cohort: Cohort, trials: Collection[int]) -> None:
        """Takes the trials of a cohort out of their lanes.

        Args:
            cohort: the cohort.
            trials: those of its trials that have not ended.
        """
        for pack in [p for p in self._packs if p.cohort == cohort.number]:
            self._unload(pack, cohort, [n for n in pack.trials if n in trials])

    def keep(self, packs: Sequence[Pack], trials: Sequence[int]) -> None:
        """Has some packs and no others; forgets all trials but some.

        Args:
            packs: the packs.
            trials: the trials, in these packs or waiting.
        """
        self._packs = list(packs)
        self._members = {trial: self._members[trial] for trial in trials}

    def states(
        self, trials: Sequence[int], cohorts: Sequence[Cohort]
    ) -> dict[int, HostState]:
        """The leaves of the states of trials, in a lane or waiting for one.

        Args:
            trials: the trials; those without a state are left out.
            cohorts: all cohorts, by number.
        """
        placed = own_states(self._packs, trials, self._members, cohorts)
        known = {n: self._members[n].state for n in trials if n in self._members}
        return {n: state for n, state in known.items() if state is not None} | placed

    def train(
        self,
        trials: Sequence[int],
        epochs: int,
        data: EpochData,
        cohorts: Sequence[Cohort],
        halts: Halts,
    ) -> Iterator[Trained]:
        """Trains trials for some epochs; the others in their programs stay frozen.

        Args:
            trials: the trials.
            epochs: how many epochs.
            data: the data sets.
            cohorts: all cohorts, by number.
            halts: what ends it early.

        Yields:
            What each epoch gave.
        """
        trained = {trial: self._members[trial].epoch for trial in trials}
        packs = [p for p in self._packs if not trained.keys().isdisjoint(p.trials)]
        # What takes longest begins first, so that all threads end at about one time.
        packs.sort(key=lambda pack: -pack.entries)
        if not packs:
            return
        names = [cohorts[p.cohort].widening.envelope.metric_names for p in packs]
        stretch = Stretch(packs, trained, names, data, self._streams, halts)
        try:
            with contextlib.closing(stretch.run(epochs)) as rounds:
                for outcomes, following in rounds:
                    yield self._take_over(packs, outcomes, following, trained, cohorts)
        finally:
            # Where nobody asks any more what came of them, they are trained still.
            for before, after in zip(packs, stretch.packs):
                if before in self._packs:
                    self._packs[self._packs.index(before)] = after

    def _take_over(
        self,
        packs: list[Pack],
        outcomes: Round,
        following: int,
        trials: Collection[int],
        cohorts: Sequence[Cohort],
    ) -> Trained:
        """Has the packs as they are after an epoch."""
        results: dict[int, EpochResult] = {}
        overflows: dict[int, Overflow] = {}
        for place, outcome in sorted(outcomes.items()):
            found = outcome.results
            self._packs[self._packs.index(packs[place])] = outcome.pack
            packs[place] = outcome.pack
            if isinstance(found, Exception):
                cohort = cohorts[outcome.pack.cohort]
                lost, overflow = self._failed(outcome.pack, cohort, found)
                failing = lost | (set() if overflow else set(trials))
                for trial in failing.intersection(outcome.pack.trials):
                    results[trial] = EpochResult({}, False, found)
                if overflow is not None:
                    known = overflows.get(cohort.number)
                    overflows[cohort.number] = overflow.joined(known)
                continue
            results |= found
            for trial in found:
                self._members[trial] = self._members[trial].trained()
        return Trained(results, tuple(overflows.values()), following)

    def _failed(
        self, pack: Pack, cohort: Cohort, error: Exception
    ) -> tuple[set[int], Overflow | None]:
        """Takes out the trials of a pack that cannot run; tells which are lost."""
        if pack.is_lost:
            self._remove(pack)
        else:
            self._unload(pack, cohort, pack.trials)
        known = [trial for trial in pack.trials if trial in self._members]
        lost = {trial for trial in known if self._members[trial].state is None}
        left = [trial for trial in known if trial not in lost]
        return lost, overflowed(pack.cohort, pack.lanes, left, pack.program, error)

    def _unload(self, pack: Pack, cohort: Cohort, trials: Sequence[int]) -> None:
        # Trials that have ended may be in lanes still.
        known = [trial for trial in trials if trial in self._members]
        found = own_states([pack], known, self._members, {pack.cohort: cohort})
        for trial, state in found.items():
            self._members[trial] = dataclasses.replace(
                self._members[trial], state=state
            )
        self._remove(pack)

    def _remove(self, pack: Pack) -> None:
        # Other threads go through the list, and take other packs out of it.
        with self._lock:
            self._packs = [other for other in self._packs if other is not pack]
