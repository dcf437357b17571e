"""Carrying out a layout: what it needs is compiled, trials are put into lanes."""

import dataclasses
import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

from vtune.training.cohort import Cohort
from vtune.training.compile import Compiling, Program, Request
from vtune.training.epoch import LaneFunctions
from vtune.training.overflow import Overflow, check_size, overflowed
from vtune.training.pack import Pack
from vtune.training.plan import Arrangement, Layout
from vtune.training.roster import Roster
from vtune.training.slices import assembled
from vtune.training.streams import side_by_side


# The programs of an arrangement, by what they do and the cohort or trial.
Requests = Mapping[tuple[str, int], Request]


@dataclasses.dataclass(frozen=True)
class Arranged:
    """What putting trials into lanes gave.

    Args:
        failures: for each trial that cannot be trained, what keeps it.
        overflows: the programs that the device has no memory for.
    """

    failures: Mapping[int, Exception]
    overflows: tuple[Overflow, ...]

    @property
    def is_whole(self) -> bool:
        """Whether all trials are in lanes."""
        return not self.failures and not self.overflows


class _Placed(NamedTuple):
    """What came of the trials of a cohort.

    Args:
        packs: the packs that they are in, or what keeps them from being in one.
        stateless: for each trial without a first state what keeps it from one.
    """

    packs: list[Pack] | Overflow | Exception
    stateless: Mapping[int, Exception]


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
        with Compiling([requests[name] for name in order], report) as compiling:
            placed = self._placed(layout, requests, compiling)
        failures: dict[int, Exception] = {}
        overflows: list[Overflow] = []
        packs: list[Pack] = []
        for number, (members, _) in layout.items():
            outcome, stateless = placed[number]
            if isinstance(outcome, Overflow):
                trials = tuple(sorted(members))
                overflows.append(dataclasses.replace(outcome, trials=trials))
            elif isinstance(outcome, Exception):
                failures |= dict.fromkeys(members, outcome)
            else:
                packs += outcome
                failures |= stateless
        return Arranged(failures, tuple(overflows)), packs, compiling.seconds

    def _placed(
        self, layout: Layout, requests: Requests, compiling: Compiling
    ) -> dict[int, _Placed]:
        """Puts all trials into lanes, those first whose programs are there.

        These are filled side by side, so that a state is computed for one cohort while
        others are copied, and while programs are compiled. The first states of all
        other cohorts are made before any of their programs is waited for.
        """
        parts = {number: _parts(requests, number) for number in layout}
        ready = [n for n in layout if compiling.knows(parts[n].values())]
        waiting = [n for n in layout if n not in ready]

        threads = self.roster.threads
        own = max(1, threads // max(1, len(ready)))

        def initialised(number: int, threads: int) -> dict[int, Exception]:
            members = layout[number][0]
            return self._initialise(number, members, requests, compiling, threads)

        def placed(
            number: int, stateless: Mapping[int, Exception], threads: int
        ) -> _Placed:
            members, arrangement = layout[number]
            healthy = [trial for trial in members if trial not in stateless]
            programs = compiling.programs(list(parts[number].values()))
            found = dict(zip(parts[number], programs))
            packs = self._place(number, healthy, arrangement, found, threads)
            return _Placed(packs, stateless)

        def filled(number: int) -> _Placed:
            return placed(number, initialised(number, own), own)

        works = [functools.partial(filled, number) for number in ready]
        done = dict(zip(ready, side_by_side(works, threads)))
        stateless = {number: initialised(number, threads) for number in waiting}
        return done | {n: placed(n, stateless[n], threads) for n in waiting}

    def _initialise(
        self,
        number: int,
        members: Sequence[int],
        requests: Requests,
        compiling: Compiling,
        threads: int,
    ) -> dict[int, Exception]:
        """Makes first states; for each trial that has none what keeps it from one."""
        new = [("init", trial) for trial in members if ("init", trial) in requests]
        found = compiling.programs([requests[name] for name in new])
        programs = dict(zip(new, found))
        cohort = self.cohorts[number]
        return self.roster.initialise(members, cohort, programs, self.batch, threads)

    def _place(
        self,
        number: int,
        members: Sequence[int],
        arrangement: Arrangement,
        parts: Mapping[str, Program | Exception],
        threads: int,
    ) -> list[Pack] | Overflow | Exception:
        """Puts the trials of a cohort into lanes, unless something keeps them."""
        cohort, program = self.cohorts[number], None
        try:
            functions = self.functions(number, arrangement)
            program = assembled(parts, functions, arrangement, self.platform)
            check_size(program.bytes, self.memory, arrangement.lanes)
            return self.roster.place(members, cohort, program, arrangement, threads)
        except Exception as error:
            self.roster.unload(cohort, members)
            lanes = arrangement.lanes
            return overflowed(number, lanes, members, program, error) or error


def _parts(requests: Requests, cohort: int) -> dict[str, Request]:
    """The programs of a cohort's epoch, by what they do."""
    return {
        kind: request
        for (kind, number), request in requests.items()
        if number == cohort and kind != "init"
    }
