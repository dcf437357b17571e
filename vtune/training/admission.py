"""New trials into cohorts, after what is fused was seen to be right."""

import collections
import dataclasses
import functools
import time
from collections.abc import Callable, Hashable, Iterable, Mapping
from typing import Any

from vtune.fusion.sizes import training_structure
from vtune.fusion.trace import Trace
from vtune.training.assignment import Settings, assign
from vtune.training.cohort import Cohort
from vtune.training.outlook import NOTHING_KNOWN, Envelope, Outlook
from vtune.training.share import Share, multiply_adds, shares
from vtune.training.verdicts import Verdicts


Do = Callable[[Callable[[], Any]], Any]

# All cohorts, and the number of each new trial's.
Assignment = tuple[tuple[Cohort, ...], dict[int, int]]

# What an assignment is a pure function of, beside the settings.
_Question = tuple[Any, ...]


@dataclasses.dataclass(frozen=True)
class Admitted:
    """How new trials were admitted.

    Args:
        planning_seconds: what it took beside the check.
        checking_seconds: what the check took.
        apart: for each structure that the check found wrong one of the new trials that
            have it, and why its widths are kept apart.
    """

    planning_seconds: float
    checking_seconds: float
    apart: Mapping[int, str]


class Admission:
    """Which cohort each trial belongs to.

    Args:
        settings: what decides which trials share a program.
        verdicts: what the check says.
    """

    def __init__(self, settings: Settings, verdicts: Verdicts):
        self.cohorts: tuple[Cohort, ...] = ()
        self.chosen: dict[int, int] = {}
        self._settings = settings
        self._verdicts = verdicts
        self._multiplied: dict[int, float] = {}
        self._foreseen: tuple[_Question, Assignment] | None = None
        self._foreseen_seconds = 0.0

    def look(self, trace: Trace) -> None:
        """Begins what can be done for a trial before any is admitted.

        Args:
            trace: the trial's functions; they come in the order of their numbers.
        """
        if self._settings.fuse_widths != "never":
            self._verdicts.look(trace)

    def foresee(
        self, traces: Mapping[int, Trace], outlook: Outlook, envelope: Envelope
    ) -> None:
        """Finds cohorts for trials that may be the next to be admitted.

        If they are, with the same outlook, `admit` has nothing left to plan.

        Args:
            traces, outlook, envelope: as for `admit`.
        """
        started = time.perf_counter()
        found = self._assigned(traces, outlook, envelope)
        self._foreseen = self._question(traces, outlook), found
        self._foreseen_seconds += time.perf_counter() - started

    def admit(
        self,
        traces: Mapping[int, Trace],
        outlook: Outlook = NOTHING_KNOWN,
        envelope: Envelope = lambda numbers: None,
        do: Do = lambda work: work(),
        settled: Mapping[int, str] | None = None,
    ) -> Admitted:
        """Finds a cohort for each of some new trials, and checks those that are new.

        Args:
            traces: the trials' traces, by number.
            outlook: what is known of later trials.
            envelope: makes an envelope of some of the trials where none of them is one.
            do: calls a function and returns its result; it is given the check.
            settled: what the check said of these trials before, as `Admitted.apart`;
                None: it is asked.

        Returns:
            What was found.
        """
        started, checked = time.perf_counter(), self._verdicts.seconds
        known = set(self._verdicts.apart)
        structures: dict[int, Hashable]
        structures = {n: training_structure(trace) for n, trace in traces.items()}
        if settled is not None:
            self._verdicts.settle(
                structures.values(), {structures[n]: why for n, why in settled.items()}
            )
        planned = {**outlook.coming, **traces}
        self._verdicts.expect([planned[number] for number in sorted(planned)])
        while True:
            begun = self._verdicts.begin
            found, chosen = self._assigned(traces, outlook, envelope, begun)
            new = found[len(self.cohorts) :]
            if do(functools.partial(self._verdicts.judge, new)):
                break
        self.cohorts = found
        self.chosen |= chosen
        for number, trace in traces.items():
            self._multiplied[number] = multiply_adds(trace)
        checking = self._verdicts.seconds - checked
        seconds = time.perf_counter() - started + self._foreseen_seconds
        self._foreseen, self._foreseen_seconds = None, 0.0
        new = {k: why for k, why in self._verdicts.apart.items() if k not in known}
        first = {structures[number]: number for number in sorted(traces, reverse=True)}
        apart = {first[key]: why for key, why in new.items()}
        return Admitted(seconds - checking, checking, apart)

    def _assigned(
        self,
        traces: Mapping[int, Trace],
        outlook: Outlook,
        envelope: Envelope,
        begun: Callable[[Cohort], None] = lambda cohort: None,
    ) -> Assignment:
        if self._foreseen is not None:
            question, answer = self._foreseen
            if question == self._question(traces, outlook):
                return answer
        return assign(
            traces,
            self.cohorts,
            self._settings,
            outlook=outlook,
            envelope=envelope,
            apart=self._verdicts.apart,
            begun=begun,
        )

    def _question(self, traces: Mapping[int, Trace], outlook: Outlook) -> _Question:
        """All that decides how trials are assigned."""
        return (
            dict(traces),
            self.cohorts,
            dict(outlook.coming),
            tuple(outlook.others),
            outlook.weight,
            dict(self._verdicts.apart),
        )

    def shares(self, programs: Iterable[int]) -> tuple[Share, ...]:
        """Which trials share a program.

        Args:
            programs: for each compiled program the number of its cohort.
        """
        compiles = collections.Counter(programs)
        return shares(self.cohorts, self.chosen, self._multiplied, compiles)
