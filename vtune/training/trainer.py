"""The device side of a search: which trial is in which lane, epoch after epoch."""

import dataclasses
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

import jax
import numpy as np

from vtune.fusion.rewrites.rewrites import Rewrites
from vtune.fusion.trace import Trace
from vtune.training.admission import Admission, Do
from vtune.training.ahead import Ahead
from vtune.training.arranging import Arranged, Arranging
from vtune.training.assignment import Settings
from vtune.training.cohort import Cohort, Lanes
from vtune.training.compile import compile_all
from vtune.training.data import DataSet
from vtune.training.device import capacity, device_rule, memory_limit
from vtune.training.epoch import LaneFunctions
from vtune.training.grouping import FuseWidths
from vtune.training.lanes import HostState
from vtune.training.loop import Loop
from vtune.training.member import Member
from vtune.training.needs import needed
from vtune.training.orders import known_orders
from vtune.training.outlook import NOTHING_KNOWN, Envelope, Outlook
from vtune.training.overflow import planned_bytes
from vtune.training.pack import EpochData
from vtune.training.plan import Arrangement, Layout, lay_out, shrunk
from vtune.training.requests import keys_request
from vtune.training.roster import Roster, Trained
from vtune.training.share import Share
from vtune.training.statistics import Statistics
from vtune.training.streams import streams
from vtune.training.stretch import Halts
from vtune.training.verdicts import Verdicts


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
        promoted: the part of the trials that go on at a rung's end.
        rewrites: whether equations are replaced by equal, faster ones.
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
        promoted: float = 0.0,
        rewrites: bool = True,
        report: Callable[[str], None] = lambda text: None,
    ):
        self._loop = loop
        self._first_batch = training.rows(0, loop.train.size).batch
        self._data = EpochData(
            *jax.device_put((training.batch, validation and validation.batch))
        )
        self._seed = np.uint32(seed)
        self._platform = jax.default_backend()
        self._steps = steps
        self._promoted = promoted
        self._rewrites = rewrites
        self._ahead = Ahead()
        # The same for all trials, so compiled while the first of them are traced.
        self._ahead.begin([keys_request(), *known_orders(self._platform, loop.samples)])
        self._report = report
        self._admission = Admission(
            Settings(lanes, fuse_widths, self._platform, steps),
            Verdicts(loop, training, validation, seed, report, self._ahead),
        )
        self._roster = Roster(streams(self._platform))
        self._compiled: dict[int, set[int]] = {}
        self._most: dict[int, int] = {}
        self._state_bytes = 0
        self._memory = planned_bytes(memory_limit())
        self._programs: dict[Any, int] = {}
        self.statistics = Statistics()

    @property
    def capacity(self) -> int:
        """How many trials are worth training at a time."""
        return capacity(device_rule(self._platform), self._memory, self._state_bytes)

    def expect(self, traces: Iterable[Trace]) -> None:
        """Reckons with the sizes of trials, and begins what can be done for them.

        Args:
            traces: the functions of trials that are to start, in their order.
        """
        for trace in traces:
            self._state_bytes = max(self._state_bytes, trace.state_bytes)
            self._admission.look(trace)

    @property
    def cohorts(self) -> tuple[Cohort, ...]:
        """All cohorts, by number."""
        return self._admission.cohorts

    @property
    def running(self) -> tuple[int, int]:
        """The lanes of all programs at present, and the number of programs."""
        return self._roster.running

    @property
    def shares(self) -> tuple[Share, ...]:
        """Which trials share a program."""
        return self._admission.shares(self._programs.values())

    def foresee(
        self, traces: Mapping[int, Trace], outlook: Outlook, envelope: Envelope
    ) -> None:
        """Plans for trials that may be the next to be admitted; nothing is decided.

        It may be called while others are trained.

        Args:
            traces, outlook, envelope: as for `admit`.
        """
        self._admission.foresee(traces, outlook, envelope)

    def admit(
        self,
        traces: Mapping[int, Trace],
        outlook: Outlook = NOTHING_KNOWN,
        envelope: Envelope = lambda numbers: None,
        do: Do = lambda work: work(),
        settled: Mapping[int, str] | None = None,
    ) -> Mapping[int, str]:
        """Assigns new trials to cohorts.

        Args:
            traces, outlook, envelope, do, settled: as for `Admission.admit`.

        Returns:
            For each structure of which trials of different widths turned out not to
            share a program one of the trials, and why.
        """
        found = self._admission.admit(traces, outlook, envelope, do, settled)
        self.statistics = self.statistics.plus(
            planning_seconds=found.planning_seconds,
            checking_seconds=found.checking_seconds,
        )
        (program,), _ = compile_all([keys_request()])
        if isinstance(program, Exception):
            raise program
        for number, trace in traces.items():
            keys = jax.device_get(program(self._seed, np.int32(number)))
            member = Member(trace, self._admission.chosen[number], keys)
            self._roster.enter(number, member)
        sizes = [t.state_bytes for t in (*traces.values(), *outlook.coming.values())]
        self._state_bytes = max([self._state_bytes, *sizes])
        return found.apart

    def restore(self, number: int, state: HostState, epoch: int) -> None:
        """Gives an admitted trial a state to go on from.

        Args:
            number: the trial.
            state: the leaves of its state, random keys as their data.
            epoch: the epochs that it has trained.
        """
        member = dataclasses.replace(self._roster[number], state=state, epoch=epoch)
        self._roster.enter(number, member)

    def lay_out(self, trials: Sequence[int]) -> Layout:
        """Decides which programs train some trials, given what was decided before.

        Args:
            trials: every trial that trains on, or waits frozen in its lane.

        Returns:
            For each cohort its trials, the lanes of its program, and how often it runs.
        """
        layout = self._laid_out({trial: self._roster[trial].cohort for trial in trials})
        for cohort, (_, arrangement) in layout.items():
            self._compiled.setdefault(cohort, set()).add(arrangement.lanes)
        return layout

    def limit(self, cohort: int, lanes: int) -> None:
        """Has the programs of a cohort run few lanes from now on.

        Args: the cohort's number, and the most lanes that they have.
        """
        self._most[cohort] = lanes

    def arrange(self, trials: Sequence[int]) -> Arranged:
        """Puts trials into lanes: compiles what is missing, moves states where needed.

        Args:
            trials: every trial that trains on, or waits frozen in its lane. All others
                are forgotten.

        Returns:
            What keeps trials from being trained. Those of a program that is too large
            are in no lane; with their cohort limited, they can be arranged again.
        """
        layout = self.lay_out(trials)
        requests = needed(
            layout,
            self._functions,
            self._roster.new(trials),
            (self._first_batch, *self._data),
            self._platform,
        )
        for (kind, number), request in requests.items():
            if kind not in ("init", "orders"):
                self._programs.setdefault(request.key, number)
        self.statistics = dataclasses.replace(
            self.statistics, training_programs=len(self._programs)
        )
        arranging = Arranging(
            self._roster,
            self.cohorts,
            self._functions,
            self._first_batch,
            self._memory,
            self._platform,
        )
        arranged, packs, seconds = arranging.run(layout, requests, self._report)
        self.statistics = self.statistics.plus(compiling_seconds=seconds)
        self._roster.keep(packs, trials)
        self._compile_ahead(layout)
        return arranged

    def train(
        self, trials: Sequence[int], epochs: int = 1, halts: Halts = Halts()
    ) -> Iterator[Trained]:
        """Trains some of the arranged trials; the others stay frozen.

        A program's next epoch may begin before what another one gave is read. Nothing
        else is to be asked of the trainer until the last epoch's results are there.

        Args:
            trials: the trials to train.
            epochs: for how many epochs.
            halts: what ends it early.

        Yields:
            For each epoch the result of each trial that was trained, or that is lost.
        """
        started = time.perf_counter()
        yield from self._roster.train(trials, epochs, self._data, self.cohorts, halts)
        seconds = time.perf_counter() - started
        self.statistics = self.statistics.plus(training_seconds=seconds)

    def states(self, trials: Sequence[int]) -> dict[int, HostState]:
        """The leaves of the states of trials, in a lane or yet to be put into one."""
        return self._roster.states(trials, self.cohorts)

    def close(self) -> None:
        """Compiles nothing ahead any more."""
        self._ahead.stop()

    def _laid_out(self, cohort_of: Mapping[int, int]) -> Layout:
        return lay_out(
            cohort_of,
            self.cohorts,
            platform=self._platform,
            steps=self._steps,
            compiled=self._compiled,
            most=self._most,
        )

    def _functions(self, cohort: int, arrangement: Arrangement) -> LaneFunctions:
        forms = Rewrites(self._platform, arrangement.form) if self._rewrites else None
        return LaneFunctions(self.cohorts[cohort].widening, self._loop, forms)

    def _compile_ahead(self, layout: Layout) -> None:
        """Begins to compile what later rungs will need, the next one's first."""
        # The cores that would compile are those that train.
        if self._platform == "cpu":
            return
        for smaller in shrunk(layout, self._promoted):
            numbers = {t: c for c, trials in smaller.items() for t in trials}
            data = (self._first_batch, *self._data)
            later = self._laid_out(numbers)
            requests = needed(later, self._functions, {}, data, self._platform)
            self._ahead.begin(list(requests.values()))
