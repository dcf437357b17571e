"""Trials to cohorts, cohorts to lanes: pure functions, no clock, no device."""

import dataclasses
from collections.abc import Hashable, Mapping, Sequence
from typing import Literal

from vtune.fusion.constants import Lifting, varying
from vtune.fusion.lanes import lanes_by_map_reason
from vtune.fusion.signature import signature
from vtune.fusion.trace import Trace
from vtune.fusion.work import work


Lanes = Literal["auto", "vmap", "map"]
Form = Literal["vmap", "map"]

LADDER = (2, 4, 6, 8, 12, 16, 24, 32, 48, 64, 96, 128, 192, 256)


@dataclasses.dataclass(frozen=True)
class DeviceRule:
    """What is known beforehand of a kind of device.

    Args:
        most: the most lanes of one `vmap`ped program; more gain nothing.
        small: the multiply-adds of a training step up to which `vmap` over lanes is
            faster than one lane after another; None where it always is.
    """

    most: int
    small: int | None


# Measured with `experiments/benchmarks/lanes.py`. A CPU gains by vmap only while a step
# is so small that the cost of starting its operations dominates.
DEVICE_RULES: Mapping[str, DeviceRule] = {
    "cpu": DeviceRule(most=16, small=8_000_000),
    "gpu": DeviceRule(most=128, small=None),
    "tpu": DeviceRule(most=128, small=None),
}

# Lanes that run one after another gain nothing from being many: few keep the answer to
# Ctrl-C short and one dispatch an epoch worth its cost.
MAP_LANES = 4


@dataclasses.dataclass(frozen=True, eq=False)
class Cohort:
    """Trials that run one program.

    Args:
        number: counts from 0.
        signature: what the trials have in common.
        lifting: the flat functions, and the constants that differ among the trials.
        form: how lanes run: side by side (`vmap`) or one after another (`map`).
        reason: why, in a sentence.
    """

    number: int
    signature: Hashable
    lifting: Lifting
    form: Form
    reason: str


@dataclasses.dataclass(frozen=True)
class Arrangement:
    """How the trials of a cohort are laid out.

    Args:
        lanes: the lanes of the program.
        groups: how many times the program runs each epoch.
    """

    lanes: int
    groups: int


def device_rule(platform: str) -> DeviceRule:
    """The rule for a platform; an unknown one is treated as a GPU."""
    return DEVICE_RULES.get(platform, DEVICE_RULES["gpu"])


def assign(
    traces: Mapping[int, Trace],
    cohorts: Sequence[Cohort],
    *,
    lanes: Lanes,
    platform: str,
    others: Sequence[Trace] = (),
) -> tuple[tuple[Cohort, ...], dict[int, int]]:
    """Finds a cohort for each trial.

    Trials of one signature share a cohort whose lifted constants are those that differ
    among them and among `others`. A trial that has another value at a place that an
    existing cohort did not lift starts a new cohort, never changes an old one.

    Args:
        traces: the new trials' traces, by trial number.
        cohorts: the cohorts so far.
        lanes: the form of the lanes; `"auto"` follows the platform's rule.
        platform: `"cpu"`, `"gpu"` or `"tpu"`.
        others: traces of further points of the space; they show which constants may
            still differ, but get no cohort.

    Returns:
        All cohorts, old and new, and each new trial's cohort number.
    """
    kinds: dict[Hashable, list[int]] = {}
    for number in sorted(traces):
        kinds.setdefault(signature(traces[number]), []).append(number)
    spare: dict[Hashable, list[Trace]] = {}
    for trace in others:
        spare.setdefault(signature(trace), []).append(trace)
    cohorts = list(cohorts)
    chosen: dict[int, int] = {}
    for kind, numbers in kinds.items():
        siblings = [cohort for cohort in cohorts if cohort.signature == kind]
        homeless = []
        for number in numbers:
            fits = (c for c in siblings if c.lifting.accepts(traces[number]))
            cohort = next(fits, None)
            if cohort is None:
                homeless.append(number)
            else:
                chosen[number] = cohort.number
        if homeless:
            known = [traces[number] for number in homeless]
            known += [cohort.lifting.reference for cohort in siblings]
            known += spare.get(kind, [])
            lifting = Lifting(known[0], varying(known))
            form, reason = lane_form(lifting, lanes, platform)
            cohort = Cohort(len(cohorts), kind, lifting, form, reason)
            cohorts.append(cohort)
            chosen.update(dict.fromkeys(homeless, cohort.number))
    return tuple(cohorts), chosen


def lane_form(lifting: Lifting, lanes: Lanes, platform: str) -> tuple[Form, str]:
    """Whether the lanes of a program run side by side or one after another, and why.

    Args:
        lifting: the cohort's functions.
        lanes: what the user asked for.
        platform: `"cpu"`, `"gpu"` or `"tpu"`.

    Returns:
        The form, and the reason in a sentence.
    """
    form, reason = _wanted_form(lifting, lanes, platform)
    if form == "vmap":
        hindrance = lanes_by_map_reason(lifting.reference, lifting.slots)
        if hindrance is not None:
            return "map", hindrance
    return form, reason


def _wanted_form(lifting: Lifting, lanes: Lanes, platform: str) -> tuple[Form, str]:
    if lanes != "auto":
        return lanes, f'`lanes="{lanes}"` was asked for'
    small = device_rule(platform).small
    if small is None:
        return "vmap", f"lanes side by side fill a {platform}"
    products, convolutions = work(lifting.reference.train[0])
    if convolutions:
        return "map", "convolutions with a kernel for each lane are slow on a CPU"
    if products > small:
        return "map", f"a step of {products:,} multiply-adds fills a CPU by itself"
    return "vmap", f"a step of {products:,} multiply-adds leaves a CPU idle"


def arrange(
    trials: int, form: Form, platform: str, before: int | None = None
) -> Arrangement:
    """How many lanes a program has, and how many times it runs an epoch.

    Args:
        trials: the trials of the cohort that train or wait frozen in a lane.
        form: the form of the lanes.
        platform: `"cpu"`, `"gpu"` or `"tpu"`.
        before: the lanes of the program that the cohort runs so far, if any.

    Returns:
        The arrangement: as few groups as the platform's rule allows, and the smallest
        number of lanes from a fixed ladder that holds them. Lanes that run one after
        another keep the program that they have as long as it is large enough: there an
        idle lane costs nothing, and the number of lanes changes no bit.
    """
    most = MAP_LANES if form == "map" else device_rule(platform).most
    groups = -(-trials // most)
    needed = -(-trials // groups)
    ladder = (1, *LADDER) if form == "map" else LADDER
    lanes = next(size for size in ladder if size >= needed)
    if form == "map" and before is not None:
        lanes = max(lanes, before)
    return Arrangement(lanes, groups)


Layout = Mapping[int, tuple[list[int], Arrangement]]


def lay_out(
    cohort_of: Mapping[int, int],
    cohorts: Sequence[Cohort],
    *,
    platform: str,
    before: Mapping[int, int],
) -> Layout:
    """The trials of each cohort, and how they are arranged.

    Args:
        cohort_of: the cohort of each trial that holds a lane.
        cohorts: all cohorts, by number.
        platform: `"cpu"`, `"gpu"` or `"tpu"`.
        before: the lanes of the program that a cohort runs so far, where it does.

    Returns:
        For each cohort that has some of the trials, those and their arrangement.
    """
    members: dict[int, list[int]] = {}
    for trial in sorted(cohort_of):
        members.setdefault(cohort_of[trial], []).append(trial)
    return {
        number: (
            group,
            arrange(len(group), cohorts[number].form, platform, before.get(number)),
        )
        for number, group in sorted(members.items())
    }
