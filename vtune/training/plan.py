"""The lanes of the programs: pure functions, no clock, no device."""

import dataclasses
import math
from collections.abc import Iterator, Mapping, Sequence

from vtune.training.cohort import Cohort, Form
from vtune.training.device import device_rule


LADDER = (2, 4, 6, 8, 12, 16, 24, 32, 48, 64, 96, 128, 192, 256)


# Lanes that run one after another gain nothing from being many: few keep the answer to
# Ctrl-C short and one dispatch an epoch worth its cost.
MAP_LANES = 4


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
    before: int | None = None,
    most: int | None = None,
) -> Arrangement:
    """How many lanes a program has, and how many times it runs an epoch.

    Args:
        trials: the trials of the cohort that train or wait frozen in a lane.
        form: the form of the lanes.
        platform: `"cpu"`, `"gpu"` or `"tpu"`.
        before: the lanes of the program that the cohort runs so far, if any.
        most: the lanes that the device has memory for, where it has not for all.

    Returns:
        The arrangement: as few groups as the platform's rule allows, and the smallest
        number of lanes from a fixed ladder that holds them. Lanes that run one after
        another keep the program that they have as long as it is large enough: there an
        idle lane costs nothing, and the number of lanes changes no bit.
    """
    if most == 1:
        form = "map"
    rule = MAP_LANES if form == "map" else device_rule(platform).most
    most = rule if most is None else min(rule, most)
    groups = -(-trials // most)
    needed = -(-trials // groups)
    ladder = (1, *LADDER) if form == "map" else LADDER
    lanes = next(size for size in ladder if size >= needed)
    if form == "map" and before is not None:
        lanes = max(lanes, min(before, most))
    return Arrangement(form, lanes, groups)


Layout = Mapping[int, tuple[list[int], Arrangement]]


def lay_out(
    cohort_of: Mapping[int, int],
    cohorts: Sequence[Cohort],
    *,
    platform: str,
    before: Mapping[int, int],
    most: Mapping[int, int],
) -> Layout:
    """The trials of each cohort, and how they are arranged.

    Args:
        cohort_of: the cohort of each trial that holds a lane.
        cohorts: all cohorts, by number.
        platform: `"cpu"`, `"gpu"` or `"tpu"`.
        before: the lanes of the program that a cohort runs so far, where it does.
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
                before.get(number),
                most.get(number),
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
