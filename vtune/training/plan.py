"""The lanes of the programs: pure functions, no clock, no device."""

import dataclasses
import math
from collections.abc import Iterator, Mapping, Sequence, Set

from vtune.training.cohort import Cohort, Form
from vtune.training.device import device_rule


LADDER = (2, 4, 6, 8, 12, 16, 24, 32, 48, 64, 96, 128, 192, 256)


@dataclasses.dataclass(frozen=True)
class Arrangement:
    """How the trials of a cohort are laid out.

    Args:
        form: lanes side by side (`vmap`) or one after another (`map`).
        lanes: the lanes of the program.
        groups: how many times the program runs each epoch.
    """

    form: Form
    lanes: int
    groups: int


def arrange(
    trials: int,
    form: Form,
    platform: str,
    *,
    compiled: Set[int] = frozenset(),
    seconds: float = 0.0,
    compiling: float = 0.0,
    most: int | None = None,
) -> Arrangement:
    """How many lanes a program has, and how many times it runs an epoch.

    Lanes that run one after another gain nothing from being in one program: each has
    its own run of a program of one lane, so that there is a single one to compile, no
    lane idles, and the runs can be divided among cores.

    Lanes side by side are as few as hold the trials, from a fixed ladder, in as few
    runs as the platform's rule allows. A program that is compiled already is taken
    instead where its idle lanes cost less than compiling another one.

    Args:
        trials: the trials of the cohort that train or wait frozen in a lane.
        form: the form of the lanes.
        platform: `"cpu"`, `"gpu"` or `"tpu"`.
        compiled: the lanes of the programs that the cohort has run so far.
        seconds: what an idle lane costs in the time that a trial trains.
        compiling: the seconds that compiling another program takes.
        most: the lanes that the device has memory for, where it has not for all.

    Returns:
        The arrangement.
    """
    if form == "map" or most == 1:
        return Arrangement("map", 1, trials)
    rule = device_rule(platform).most
    most = rule if most is None else min(rule, most)
    groups = -(-trials // most)
    needed = -(-trials // groups)
    lanes = next(size for size in LADDER if size >= needed)
    for before in sorted(compiled):
        idle = groups * (before - lanes)
        if lanes <= before <= most and idle * seconds <= compiling:
            return Arrangement("vmap", before, -(-trials // before))
    return Arrangement("vmap", lanes, groups)


Layout = Mapping[int, tuple[list[int], Arrangement]]


def lay_out(
    cohort_of: Mapping[int, int],
    cohorts: Sequence[Cohort],
    *,
    platform: str,
    steps: float,
    compiled: Mapping[int, Set[int]],
    most: Mapping[int, int],
) -> Layout:
    """The trials of each cohort, and how they are arranged.

    Args:
        cohort_of: the cohort of each trial that holds a lane.
        cohorts: all cohorts, by number.
        platform: `"cpu"`, `"gpu"` or `"tpu"`.
        steps: the training steps that a trial is expected to take.
        compiled: the lanes of the programs that a cohort has run so far.
        most: the lanes of a cohort that the device has memory for, where it has not
            for all.

    Returns:
        For each cohort that has some of the trials, those and their arrangement.
    """
    members: dict[int, list[int]] = {}
    for trial in sorted(cohort_of):
        members.setdefault(cohort_of[trial], []).append(trial)
    return {
        number: (
            group,
            arrange(
                len(group),
                cohorts[number].form,
                platform,
                compiled=compiled.get(number, frozenset()),
                seconds=steps * cohorts[number].seconds,
                compiling=cohorts[number].compiling,
                most=most.get(number),
            ),
        )
        for number, group in sorted(members.items())
    }


def shrunk(layout: Layout, promoted: float) -> Iterator[dict[int, list[int]]]:
    """How many trials the cohorts may have after each of the next rungs' ends.

    Which trials go on is not known, and does not matter: the programs are the same.

    Args:
        layout: the trials at present.
        promoted: the part of them that goes on at a rung's end.

    Yields:
        For each cohort some of its trials, as many as its part of those that go on,
        rounded up; fewer and fewer.
    """
    left = {cohort: list(trials) for cohort, (trials, _) in layout.items()}
    while promoted > 0:
        before, left = (
            left,
            {
                cohort: trials[: math.ceil(len(trials) * promoted)]
                for cohort, trials in left.items()
            },
        )
        if left == before:
            break
        yield left
