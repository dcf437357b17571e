"""Which trials run in one program: a pure function of their traces and the settings."""

import dataclasses
from collections.abc import Callable, Hashable, Mapping, Sequence

from vtune.fusion.envelope import find_envelope, undominated
from vtune.fusion.refusal import Refusal
from vtune.fusion.signature import signature
from vtune.fusion.sizes import dominates, trace_sizes, training_structure
from vtune.fusion.trace import Trace
from vtune.fusion.widen import widen
from vtune.fusion.widening import Widening
from vtune.fusion.work import terms
from vtune.training.cohort import Cohort, Lanes, extended, lane_form
from vtune.training.device import device_rule
from vtune.training.grouping import FuseWidths, group


# Traces a trial with the largest values of some others, by their numbers; None if there
# is no such trial.
Envelope = Callable[[Sequence[int]], Trace | None]


@dataclasses.dataclass(frozen=True)
class Settings:
    """What decides which trials share a program, beside the trials.

    Args:
        lanes: the form of the lanes; `"auto"` follows the platform's rule.
        fuse_widths: whether trials of different widths share a program.
        platform: `"cpu"`, `"gpu"` or `"tpu"`.
        steps: the training steps that a trial is expected to take.
    """

    lanes: Lanes = "auto"
    fuse_widths: FuseWidths = "auto"
    platform: str = "cpu"
    steps: float = 1000.0


def assign(
    traces: Mapping[int, Trace],
    cohorts: Sequence[Cohort],
    settings: Settings,
    *,
    others: Sequence[Trace] = (),
    envelope: Envelope = lambda numbers: None,
    apart: Mapping[Hashable, str] | None = None,
) -> tuple[tuple[Cohort, ...], dict[int, int]]:
    """Finds a cohort for each trial.

    Trials that are the same up to constants and sizes may share a cohort, whose lifted
    constants are those that differ among them and among `others`. A trial that does not
    fit into the program of an existing cohort starts a new one, never changes an old
    one's.

    Args:
        traces: the new trials' traces, by trial number.
        cohorts: the cohorts so far.
        settings: what else decides.
        others: traces of further points of the space; they show what may still differ,
            but get no cohort.
        envelope: makes an envelope where no trial is one.
        apart: structures of which trials of different widths are not to share a
            program, with the reason.

    Returns:
        All cohorts, old and new, and each new trial's cohort number.
    """
    assigning = _Assigning(cohorts, settings, envelope, apart or {})
    kinds: dict[Hashable, list[int]] = {}
    for number in sorted(traces):
        kinds.setdefault(assigning.kind(traces[number]), []).append(number)
    spare: dict[Hashable, list[Trace]] = {}
    for trace in others:
        spare.setdefault(assigning.kind(trace), []).append(trace)
    for kind, numbers in kinds.items():
        known = {number: traces[number] for number in numbers}
        assigning.add(kind, known, spare.get(kind, []))
    return tuple(assigning.cohorts), assigning.chosen


class _Assigning:
    """Cohorts while trials are added to them."""

    def __init__(
        self,
        cohorts: Sequence[Cohort],
        settings: Settings,
        envelope: Envelope,
        apart: Mapping[Hashable, str],
    ):
        self.cohorts = list(cohorts)
        self.chosen: dict[int, int] = {}
        self._settings = settings
        self._envelope = envelope
        self._apart = apart

    def kind(self, trace: Trace) -> Hashable:
        """What trials have to have in common to be considered for one program."""
        kind = training_structure(trace)
        if self._settings.fuse_widths == "never" or kind in self._apart:
            return signature(trace)
        return kind

    def add(
        self, kind: Hashable, traces: Mapping[int, Trace], spare: Sequence[Trace]
    ) -> None:
        """Finds cohorts for trials of one kind."""
        homeless = self._housed(kind, traces)
        if homeless and self._extend(kind, homeless):
            homeless = self._housed(kind, homeless)
        if not homeless:
            return
        siblings = [c for c in self.cohorts if c.structure == kind]
        known = [trace for sibling in siblings for trace in sibling.traces]
        for numbers in self._groups(homeless):
            self._found(kind, {n: homeless[n] for n in numbers}, [*known, *spare])

    def _housed(self, kind: Hashable, traces: Mapping[int, Trace]) -> dict[int, Trace]:
        """Chooses cohorts that accept trials; returns the trials without one."""
        siblings = [c for c in self.cohorts if c.structure == kind]
        homeless = {}
        for number, trace in traces.items():
            fits = (c for c in siblings if c.widening.accepts(trace))
            cohort = next(fits, None)
            if cohort is None:
                homeless[number] = trace
            else:
                self.chosen[number] = cohort.number
        return homeless

    def _extend(self, kind: Hashable, traces: Mapping[int, Trace]) -> bool:
        """Makes widths known to cohorts whose programs hold them as they are."""
        changed = False
        for cohort in self.cohorts:
            wide = cohort.widening.envelope
            if cohort.structure != kind or not cohort.widening.varies:
                continue
            fitting = [t for t in traces.values() if dominates(wide, t)]
            if fitting:
                try:
                    widening = widen([*cohort.traces, *fitting], wide)
                except Refusal:
                    continue
                new = extended(cohort, fitting, widening)
                self.cohorts[cohort.number] = new
                changed |= new is not cohort
        return changed

    def _groups(self, traces: Mapping[int, Trace]) -> list[list[int]]:
        """Trials by the envelope that they are to share."""
        widths: dict[Hashable, list[int]] = {}
        for number, trace in traces.items():
            widths.setdefault(trace_sizes(trace), []).append(number)
        if self._settings.fuse_widths != "auto" or len(widths) == 1:
            return [list(traces)]
        members = [(terms(traces[w[0]]), len(w)) for w in widths.values()]
        rule = device_rule(self._settings.platform)
        several = list(widths.values())
        return [
            sorted(number for index in indices for number in several[index])
            for indices in group(members, rule, self._settings.steps)
        ]

    def _found(
        self, kind: Hashable, traces: Mapping[int, Trace], known: Sequence[Trace]
    ) -> None:
        """Starts a cohort for trials, or several where they cannot share an envelope.

        Args:
            kind: what they have in common.
            traces: the trials.
            known: further traces of the kind, to see what may differ.
        """
        wide = self._envelope_of(traces)
        if wide is None:
            largest, rest = _covered(traces)
            self._found(kind, largest, known)
            self._found(kind, rest, known)
            return
        smaller = [trace for trace in known if dominates(wide, trace)]
        try:
            known = [*traces.values(), *smaller]
            self._append(kind, traces, known, widen(known, wide), None)
        except Refusal as refusal:
            self._keep_apart(kind, traces, known, str(refusal))

    def _envelope_of(self, traces: Mapping[int, Trace]) -> Trace | None:
        several = list(traces.values())
        index = find_envelope(several)
        if index is not None:
            return several[index]
        numbers = list(traces)
        largest = [numbers[index] for index in undominated(several)]
        wide = self._envelope(largest)
        if wide is None or training_structure(wide) != training_structure(several[0]):
            return None
        return wide if all(dominates(wide, trace) for trace in several) else None

    def _keep_apart(
        self,
        kind: Hashable,
        traces: Mapping[int, Trace],
        known: Sequence[Trace],
        reason: str,
    ) -> None:
        shapes: dict[Hashable, dict[int, Trace]] = {}
        for number, trace in traces.items():
            shapes.setdefault(signature(trace), {})[number] = trace
        for shape, group_ in shapes.items():
            alike = [trace for trace in known if signature(trace) == shape]
            several = [*group_.values(), *alike]
            self._append(kind, group_, several, widen(several, several[0]), reason)

    def _append(
        self,
        kind: Hashable,
        traces: Mapping[int, Trace],
        known: Sequence[Trace],
        widening: Widening,
        apart: str | None,
    ) -> None:
        form, reason = lane_form(
            widening, self._settings.lanes, self._settings.platform
        )
        first = next(iter(traces.values()))
        apart = self._apart.get(training_structure(first), apart)
        number = len(self.cohorts)
        self.cohorts.append(
            Cohort(number, kind, tuple(known), widening, form, reason, apart)
        )
        self.chosen.update(dict.fromkeys(traces, number))


def _covered(
    traces: Mapping[int, Trace],
) -> tuple[dict[int, Trace], dict[int, Trace]]:
    """Trials that fit into one of them, and the others.

    The one that is taken is that into which most fit.
    """
    numbers = list(traces)
    candidates = undominated(list(traces.values()))

    def inside(index: int) -> dict[int, Trace]:
        wide = traces[numbers[index]]
        return {n: trace for n, trace in traces.items() if dominates(wide, trace)}

    largest = max(map(inside, candidates), key=len)
    return largest, {n: t for n, t in traces.items() if n not in largest}
