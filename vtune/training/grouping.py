"""Which widths share an envelope: what compiling costs against what padding costs."""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Literal

import numpy as np
from jaxtyping import Float, Int

from vtune.fusion.trace import Trace
from vtune.fusion.work import Factors, Terms, equations
from vtune.training.device import PROGRAM, DeviceRule, device_rule


FuseWidths = Literal["auto", "always", "never"]


def group(
    members: Sequence[tuple[Terms, float]], rule: DeviceRule, steps: float
) -> list[list[int]]:
    """Divides the widths of a family among envelopes, at the least expected cost.

    Ordered by their work, widths are cut into runs; each run shares the envelope of its
    largest sizes. A run of `n` trials is expected to take

        compiling + steps * (starting * programs + n * (work / multiplying
                                                        + entries / moving))

    seconds, with the work and the entries of the envelope and the numbers of the rule.
    The cheapest division is found by dynamic programming.

    Args:
        members: for each width its terms, and how many trials are expected to have it.
        rule: the device's numbers.
        steps: the training steps of a trial, on average.

    Returns:
        The indices of each group, in the order of their smallest.
    """
    costs = [lane_seconds(terms, rule) for terms, _ in members]
    order = sorted(range(len(members)), key=lambda index: (costs[index], index))
    counts = np.array([members[index][1] for index in order], float)
    sizes = _columns([members[index][0] for index in order])
    best = [0.0]
    start = [0]
    for end in range(1, len(order) + 1):
        # All runs that end here, the longest last: their envelopes grow by one member.
        runs = _run_costs(sizes, counts, end, rule, steps)
        totals = [best[end - length] + runs[length - 1] for length in range(1, end + 1)]
        length = int(np.argmin(totals)) + 1
        best.append(float(totals[length - 1]))
        start.append(end - length)
    groups = []
    end = len(order)
    while end:
        groups.append(sorted(order[start[end] : end]))
        end = start[end]
    return sorted(groups)


def rule_for(trace: Trace, platform: str) -> DeviceRule:
    """A device's rule, with what compiling a trial's program takes.

    Args:
        trace: the trial's functions.
        platform: `"cpu"`, `"gpu"` or `"tpu"`.
    """
    rule = device_rule(platform)
    compiling = rule.compiling * equations(trace) / PROGRAM
    return dataclasses.replace(rule, compiling=compiling)


def _multiplied(terms: Terms) -> float:
    return float(sum(np.prod(factors, dtype=float) for factors in terms.multiplied))


def lane_seconds(terms: Terms, rule: DeviceRule) -> float:
    """The seconds of a lane's step that depend on its sizes.

    Args:
        terms: its work.
        rule: the device's numbers.
    """
    kept = float(sum(np.prod(factors, dtype=float) for factors in terms.kept))
    return _multiplied(terms) / rule.multiplying + kept / rule.moving


_Columns = Mapping[str, Sequence[Int[np.ndarray, "members factors"]]]


def _columns(members: Sequence[Terms]) -> _Columns:
    """For each term the sizes of all members."""

    def table(several: Sequence[Sequence[Factors]]) -> list[np.ndarray]:
        return [np.array(column, dtype=np.int64) for column in zip(*several)]

    return {
        "multiplied": table([terms.multiplied for terms in members]),
        "kept": table([terms.kept for terms in members]),
    }


def _run_costs(
    sizes: _Columns,
    counts: Float[np.ndarray, " members"],
    end: int,
    rule: DeviceRule,
    steps: float,
) -> Float[np.ndarray, " end"]:
    """The seconds of all runs that end before `end`, the shortest first."""

    def summed(columns: Sequence[np.ndarray]) -> np.ndarray:
        total = np.zeros(end)
        for column in columns:
            largest = np.maximum.accumulate(column[:end][::-1], axis=0)
            total += largest.astype(float).prod(axis=1)
        return total

    trials = np.cumsum(counts[:end][::-1])
    lane = summed(sizes["multiplied"]) / rule.multiplying
    lane += summed(sizes["kept"]) / rule.moving
    programs = np.ceil(trials / rule.most)
    return rule.compiling + steps * (rule.starting * programs + trials * lane)
