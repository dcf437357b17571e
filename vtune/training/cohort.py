"""Trials that run one program: which they are, and how their lanes run."""

import dataclasses
from collections.abc import Hashable, Sequence
from typing import Literal

from vtune.fusion.lanes import lanes_by_map_reason
from vtune.fusion.sizes import dominates
from vtune.fusion.trace import Trace
from vtune.fusion.widening import Widening
from vtune.fusion.work import work
from vtune.training.device import device_rule


Lanes = Literal["auto", "vmap", "map"]
Form = Literal["vmap", "map"]


@dataclasses.dataclass(frozen=True, eq=False)
class Cohort:
    """Trials that run one program.

    Args:
        number: counts from 0.
        structure: what the trials have in common: all but constants and sizes, or all
            but constants where widths are kept apart.
        traces: the functions of all that the program was made for.
        widening: the functions inside the envelope, and the constants that differ.
        form: how lanes run: side by side (`vmap`) or one after another (`map`).
        reason: why, in a sentence.
        seconds: what a lane's step is expected to take, beside what it takes to start.
        compiling: the seconds that compiling one of its programs is expected to take.
        apart: why trials of other widths do not share the program, or None.
    """

    number: int
    structure: Hashable
    traces: tuple[Trace, ...]
    widening: Widening
    form: Form
    reason: str
    seconds: float = 0.0
    compiling: float = 0.0
    apart: str | None = None


def lane_form(widening: Widening, lanes: Lanes, platform: str) -> tuple[Form, str]:
    """Whether the lanes of a program run side by side or one after another, and why.

    Args:
        widening: the cohort's functions.
        lanes: what the user asked for.
        platform: `"cpu"`, `"gpu"` or `"tpu"`.

    Returns:
        The form, and the reason in a sentence.
    """
    form, reason = _wanted_form(widening, lanes, platform)
    if form == "vmap":
        hindrance = lanes_by_map_reason(widening.envelope, widening.slots)
        if hindrance is not None:
            return "map", hindrance
    return form, reason


def _wanted_form(widening: Widening, lanes: Lanes, platform: str) -> tuple[Form, str]:
    if lanes != "auto":
        return lanes, f'`lanes="{lanes}"` was asked for'
    small = device_rule(platform).small
    if small is None:
        return "vmap", f"lanes side by side fill a {platform}"
    products, convolutions = work(widening.envelope.train[0])
    if convolutions:
        return "map", "convolutions with a kernel for each lane are slow on a CPU"
    if products > small:
        return "map", f"a step of {products:,} multiply-adds fills a CPU by itself"
    return "vmap", f"a step of {products:,} multiply-adds leaves a CPU idle"


def may_extend(cohort: Cohort, trace: Trace) -> bool:
    """Whether a trial's sizes may become known to a cohort of its structure.

    Args:
        cohort: the cohort.
        trace: the trial's functions.
    """
    widening = cohort.widening
    return widening.varies and dominates(widening.envelope, trace)


def extended(cohort: Cohort, traces: Sequence[Trace], widening: Widening) -> Cohort:
    """A cohort that knows of more trials, if its program stays what it is.

    Args:
        cohort: the cohort.
        traces: the functions of the further trials.
        widening: the widening of all of them.

    Returns:
        The cohort itself if the program would be another one.
    """
    if widening.key != cohort.widening.key:
        return cohort
    known = (*cohort.traces, *traces)
    return dataclasses.replace(cohort, traces=known, widening=widening)
