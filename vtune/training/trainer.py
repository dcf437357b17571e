"""The device side of a search: which trial is in which lane, epoch after epoch."""

import dataclasses
import functools
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import numpy as np

from vtune.fusion.trace import Trace
from vtune.training.admission import Admission, Do
from vtune.training.assignment import Envelope, Settings
from vtune.training.check import Verdicts
from vtune.training.cohort import Cohort, Lanes
from vtune.training.compile import Program, Request, compile_all
from vtune.training.data import DataSet
from vtune.training.grouping import FuseWidths
from vtune.training.lanes import HostState
from vtune.training.loop import Loop
from vtune.training.member import Member, initialised
from vtune.training.needs import needed
from vtune.training.pack import (
    EpochData,
    EpochResult,
    Pack,
    collect,
    dispatch,
    own_states,
    packed,
    still_fits,
)
from vtune.training.plan import Arrangement, Layout, lay_out
from vtune.training.requests import keys_request
from vtune.training.share import Share
from vtune.training.statistics import Statistics
from vtune.training.streams import side_by_side, streams


class Trainer:
    """Trains trials on one data set, those of a cohort as lanes of one program.

    A trial is admitted with its trace, put into a lane by `arrange`, and trained epoch
    by epoch. Whatever can change a trial's numbers is a pure function of what it is
    told: the traces, the settings, and the trials that each call of `arrange` names.

    Args:
        loop: the epoch.
        training: what is trained on.
        validation: what is evaluated at the end of an epoch, or None.
        seed: the study's seed.
        lanes: `"vmap"`, `"map"` or `"auto"`.
        fuse_widths: which widths share a program: `"always"`, `"never"` or `"auto"`.
        steps: the training steps that a trial is expected to take.
        report: is called with a text while something takes long.
    """

    def __init__(
        self,
        loop: Loop,
        training: DataSet,
        validation: DataSet | None,
        *,
        seed: int,
        lanes: Lanes = "auto",
        fuse_widths: FuseWidths = "auto",
        steps: float = 1000.0,
        report: Callable[[str], None] = lambda text: None,
    ):
        self._loop = loop
        self._first_batch = training.rows(0, loop.train.size).batch
        self._data = EpochData(
            *jax.device_put((training.batch, validation and validation.batch))
        )
        self._seed = np.uint32(seed)
        self._platform = jax.default_backend()
        self._report = report
        self._admission = Admission(
            Settings(lanes, fuse_widths, self._platform, steps),
            Verdicts(loop, training, validation, seed, report),
        )
        self._members: dict[int, Member] = {}
        self._packs: list[Pack] = []
        self._lanes: dict[int, int] = {}
        self._programs: dict[Any, int] = {}
        self.statistics = Statistics()

    @property
    def cohorts(self) -> tuple[Cohort, ...]:
        """All cohorts, by number."""
        return self._admission.cohorts

    @property
    def running(self) -> tuple[int, int]:
        """The lanes of all programs at present, and the number of programs."""
        programs = {id(pack.program) for pack in self._packs}
        return sum(pack.lanes for pack in self._packs), len(programs)

    @property
    def shares(self) -> tuple[Share, ...]:
        """Which trials share a program."""
        return self._admission.shares(self._programs.values())

    def admit(
        self,
        traces: Mapping[int, Trace],
        others: Sequence[Trace] = (),
        envelope: Envelope = lambda numbers: None,
        do: Do = lambda work: work(),
        settled: Mapping[int, str] | None = None,
    ) -> Mapping[int, str]:
        """Assigns new trials to cohorts.

        Args:
            traces, others, envelope, do, settled: as for `Admission.admit`.

        Returns:
            For each structure of which trials of different widths turned out not to
            share a program one of the trials, and why.
        """
        found = self._admission.admit(traces, others, envelope, do, settled)
        self.statistics = self.statistics.plus(
            planning_seconds=found.planning_seconds,
            checking_seconds=found.checking_seconds,
        )
        (program,) = self._compile([keys_request()])
        if isinstance(program, Exception):
            raise program
        for number, trace in traces.items():
            keys = jax.device_get(program(self._seed, np.int32(number)))
            self._members[number] = Member(trace, self._admission.chosen[number], keys)
        return found.apart

    def restore(self, number: int, state: HostState, epoch: int) -> None:
        """Gives an admitted trial a state to go on from.

        Args:
            number: the trial.
            state: the leaves of its state, random keys as their data.
            epoch: the epochs that it has trained.
        """
        member = self._members[number]
        self._members[number] = dataclasses.replace(member, state=state, epoch=epoch)

    def lay_out(self, trials: Sequence[int]) -> Layout:
        """Decides which programs train some trials; `arrange` does it.

        What is decided depends on what was decided before.

        Args:
            trials: every trial that trains on, or waits frozen in its lane.

        Returns:
            For each cohort its trials, the lanes of its program, and how often it runs.
        """
        layout = lay_out(
            {trial: self._members[trial].cohort for trial in trials},
            self.cohorts,
            platform=self._platform,
            before=self._lanes,
        )
        self._lanes = {cohort: a.lanes for cohort, (_, a) in layout.items()}
        return layout

    def arrange(self, trials: Sequence[int]) -> dict[int, Exception]:
        """Puts trials into lanes: compiles what is missing, moves states where needed.

        Args:
            trials: every trial that trains on, or waits frozen in its lane. All others
                are forgotten.

        Returns:
            For each trial that cannot be trained, what keeps it.
        """
        layout = self.lay_out(trials)
        requests = needed(
            layout,
            self.cohorts,
            self._loop,
            {t: self._members[t].trace for t in trials if self._is_new(t)},
            (self._first_batch, *self._data),
        )
        programs = dict(zip(requests, self._compile(list(requests.values()))))
        for (kind, number), request in requests.items():
            if kind == "epoch":
                self._programs.setdefault(request.key, number)
        self.statistics = dataclasses.replace(
            self.statistics, training_programs=len(self._programs)
        )
        failures: dict[int, Exception] = {}
        packs: list[Pack] = []
        for cohort, (members, arrangement) in layout.items():
            failures |= self._initialise(cohort, members, programs)
            healthy = [trial for trial in members if trial not in failures]
            program = programs["epoch", cohort]
            packs += self._pack(cohort, healthy, arrangement, program)
        self._packs = packs
        self._members = {
            trial: dataclasses.replace(self._members[trial], state=None)
            for trial in trials
        }
        return failures

    def train(
        self, trials: Sequence[int], stop: Callable[[], bool] = lambda: False
    ) -> dict[int, EpochResult]:
        """Trains some of the arranged trials for one epoch; the others stay frozen.

        Args:
            trials: the trials to train.
            stop: is asked before each program runs; true leaves the rest untrained.

        Returns:
            The result of each trial that was trained.
        """
        started = time.perf_counter()
        epochs = {trial: self._members[trial].epoch for trial in trials}

        def turn(pack: Pack) -> tuple[Pack, dict[int, EpochResult]]:
            if stop():
                return pack, {}
            after, outcome = dispatch(pack, epochs, self._data)
            names = self.cohorts[pack.cohort].widening.envelope.metric_names
            return after, collect(pack, outcome, frozenset(epochs), names)

        turns = [
            pack for pack in self._packs if not epochs.keys().isdisjoint(pack.trials)
        ]
        # What takes longest begins first, so that all threads end at about one time.
        turns.sort(key=lambda pack: -pack.entries)
        done = side_by_side(
            [functools.partial(turn, pack) for pack in turns], streams(self._platform)
        )
        after = {id(pack): new for pack, (new, _) in zip(turns, done)}
        self._packs = [after.get(id(pack), pack) for pack in self._packs]
        results = {trial: r for _, found in done for trial, r in found.items()}
        for trial, result in results.items():
            epoch = epochs[trial] + (result.failure is None)
            member = self._members[trial]
            self._members[trial] = dataclasses.replace(member, epoch=epoch)
        seconds = time.perf_counter() - started
        self.statistics = self.statistics.plus(training_seconds=seconds)
        return results

    def states(self, trials: Sequence[int]) -> dict[int, HostState]:
        """The leaves of the states of trials, in a lane or yet to be put into one."""
        placed = own_states(self._packs, trials, self._members, self.cohorts)
        known = {n: self._members[n].state for n in trials if n in self._members}
        return {n: state for n, state in known.items() if state is not None} | placed

    def _is_new(self, trial: int) -> bool:
        placed = any(trial in pack.trials for pack in self._packs)
        return not placed and self._members[trial].state is None

    def _initialise(
        self,
        cohort: int,
        members: Sequence[int],
        programs: Mapping[tuple[str, int], Program | Exception],
    ) -> dict[int, Exception]:
        """Makes the first states of new trials; returns what keeps trials from it."""
        epoch = programs["epoch", cohort]
        if isinstance(epoch, Exception):
            return dict.fromkeys(members, epoch)
        new = {trial: self._members[trial] for trial in filter(self._is_new, members)}
        widening = self.cohorts[cohort].widening
        made, failures = initialised(new, widening, programs, self._first_batch)
        self._members |= made
        return failures

    def _pack(
        self,
        cohort: int,
        members: Sequence[int],
        arrangement: Arrangement,
        program: Any,
    ) -> list[Pack]:
        old = [pack for pack in self._packs if pack.cohort == cohort]
        if still_fits(old, members, arrangement):
            return [pack for pack in old if not set(members).isdisjoint(pack.trials)]
        states = own_states(old, members, self._members, self.cohorts)
        for trial, state in states.items():
            member = self._members[trial]
            self._members[trial] = dataclasses.replace(member, state=state)
        widening = self.cohorts[cohort].widening
        entries = {trial: self._members[trial].in_lane(widening) for trial in members}
        return packed(cohort, program, arrangement, entries)

    def _compile(self, requests: Sequence[Request]) -> list[Program | Exception]:
        programs, seconds = compile_all(requests, self._report)
        self.statistics = self.statistics.plus(compiling_seconds=seconds)
        return programs
