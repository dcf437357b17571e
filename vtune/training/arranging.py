"""Carrying out a layout: what it needs is compiled, trials are put into lanes."""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from vtune.training.cohort import Cohort
from vtune.training.compile import Compiling, Program, Request
from vtune.training.epoch import LaneFunctions
from vtune.training.overflow import Overflow, check_size, overflowed
from vtune.training.pack import Pack
from vtune.training.plan import Arrangement, Layout
from vtune.training.roster import Arranged, Roster
from vtune.training.slices import assembled


# The programs of an arrangement, by what they do and the cohort or trial.
Requests = Mapping[tuple[str, int], Request]


@dataclasses.dataclass(frozen=True, eq=False)
class Arranging:
    """What a layout is carried out with.

    Args:
        roster: the trials.
        cohorts: all cohorts, by number.
        functions: those of a cohort in some arrangement.
        batch: the first training batch.
        memory: the bytes that a program may need.
        platform: `"cpu"`, `"gpu"` or `"tpu"`.
    """

    roster: Roster
    cohorts: Sequence[Cohort]
    functions: Callable[[int, Arrangement], LaneFunctions]
    batch: Any
    memory: float
    platform: str

    def run(
        self, layout: Layout, requests: Requests, report: Callable[[str], None]
    ) -> tuple[Arranged, list[Pack], float]:
        """Makes first states while what trains them is compiled, then fills the lanes.

        Args:
            layout: for each cohort its trials and their arrangement.
            requests: the programs that it needs, as `needed` tells.
            report: is called with a text whenever a program was compiled.

        Returns:
            What keeps trials from being trained; the packs of the others; and the
            seconds that compiling took.
        """
        order = sorted(requests, key=lambda name: name[0] != "init")
        stateless: dict[int, Exception] = {}
        outcomes: dict[int, list[Pack] | Overflow | Exception] = {}
        with Compiling([requests[name] for name in order], report) as compiling:
            for cohorts in _turns(layout, requests, compiling):
                for number in cohorts:
                    members = layout[number][0]
                    stateless |= self._initialise(number, members, requests, compiling)
                for number in cohorts:
                    members, arrangement = layout[number]
                    healthy = [trial for trial in members if trial not in stateless]
                    parts = _parts(requests, number)
                    programs = compiling.programs(list(parts.values()))
                    found = dict(zip(parts, programs))
                    outcomes[number] = self._place(number, healthy, arrangement, found)
        failures: dict[int, Exception] = {}
        overflows: list[Overflow] = []
        packs: list[Pack] = []
        for number, (members, _) in layout.items():
            outcome = outcomes[number]
            if isinstance(outcome, Overflow):
                trials = tuple(sorted(members))
                overflows.append(dataclasses.replace(outcome, trials=trials))
            elif isinstance(outcome, Exception):
                failures |= dict.fromkeys(members, outcome)
            else:
                packs += outcome
                failures |= {n: stateless[n] for n in members if n in stateless}
        return Arranged(failures, tuple(overflows)), packs, compiling.seconds

    def _initialise(
        self,
        number: int,
        members: Sequence[int],
        requests: Requests,
        compiling: Compiling,
    ) -> dict[int, Exception]:
        """Makes first states; for each trial that has none what keeps it from one."""
        new = [("init", trial) for trial in members if ("init", trial) in requests]
        found = compiling.programs([requests[name] for name in new])
        return self.roster.initialise(
            members, self.cohorts[number], dict(zip(new, found)), self.batch
        )

    def _place(
        self,
        number: int,
        members: Sequence[int],
        arrangement: Arrangement,
        parts: Mapping[str, Program | Exception],
    ) -> list[Pack] | Overflow | Exception:
        """Puts the trials of a cohort into lanes, unless something keeps them."""
        cohort, program = self.cohorts[number], None
        try:
            functions = self.functions(number, arrangement)
            program = assembled(parts, functions, arrangement, self.platform)
            check_size(program.bytes, self.memory, arrangement.lanes)
            return self.roster.place(members, cohort, program, arrangement)
        except Exception as error:
            self.roster.unload(cohort, members)
            lanes = arrangement.lanes
            return overflowed(number, lanes, members, program, error) or error


def _turns(layout: Layout, requests: Requests, compiling: Compiling) -> list[list[int]]:
    """The cohorts in the order in which they get their lanes.

    Those whose programs are there come first, one by one, while others are compiled;
    the first states of the others are made before any of their programs is waited for.
    """
    parts = {number: _parts(requests, number).values() for number in layout}
    ready = [number for number in layout if compiling.knows(parts[number])]
    return [*([number] for number in ready), [n for n in layout if n not in ready]]


def _parts(requests: Requests, cohort: int) -> dict[str, Request]:
    """The programs of a cohort's epoch, by what they do."""
    return {
        kind: request
        for (kind, number), request in requests.items()
        if number == cohort and kind != "init"
    }
