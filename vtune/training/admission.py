"""New trials into cohorts, after what is fused was seen to be right."""

import collections
import functools
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from vtune.fusion.trace import Trace
from vtune.training.assignment import Envelope, Settings, assign
from vtune.training.check import Verdicts
from vtune.training.cohort import Cohort
from vtune.training.share import Share, multiply_adds, shares


Do = Callable[[Callable[[], Any]], Any]


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

    def admit(
        self,
        traces: Mapping[int, Trace],
        others: Sequence[Trace] = (),
        envelope: Envelope = lambda numbers: None,
        do: Do = lambda work: work(),
    ) -> tuple[float, float]:
        """Finds a cohort for each of some new trials, and checks those that are new.

        Args:
            traces: the trials' traces, by number.
            others: traces of further points of the space, which show what may differ.
            envelope: makes an envelope of some of the trials where none of them is one.
            do: calls a function and returns its result; it is given the check.

        Returns:
            The seconds that it took beside the check, and those of the check.
        """
        started, checked = time.perf_counter(), self._verdicts.seconds
        while True:
            found, chosen = assign(
                traces,
                self.cohorts,
                self._settings,
                others=others,
                envelope=envelope,
                apart=self._verdicts.apart,
            )
            new = found[len(self.cohorts) :]
            if do(functools.partial(self._verdicts.judge, new)):
                break
        self.cohorts = found
        self.chosen |= chosen
        for number, trace in traces.items():
            self._multiplied[number] = multiply_adds(trace)
        checking = self._verdicts.seconds - checked
        return time.perf_counter() - started - checking, checking

    def shares(self, programs: Iterable[int]) -> tuple[Share, ...]:
        """Which trials share a program.

        Args:
            programs: for each compiled program the number of its cohort.
        """
        compiles = collections.Counter(programs)
        return shares(self.cohorts, self.chosen, self._multiplied, compiles)
