"""Which trials run in one program: a pure function of their traces and the settings."""

import dataclasses
from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence, Set

from vtune.fusion.envelope import find_envelope, undominated
from vtune.fusion.refusal import Refusal
from vtune.fusion.signature import signature
from vtune.fusion.sizes import dominates, trace_sizes, training_structure
from vtune.fusion.trace import Trace
from vtune.fusion.widen import widen
from vtune.fusion.widening import Widening
from vtune.fusion.work import terms
from vtune.training.cohort import Cohort, Lanes, extended, lane_form, may_extend
from vtune.training.device import DeviceRule
from vtune.training.grouping import FuseWidths, group, lane_seconds, rule_for
from vtune.training.outlook import NOTHING_KNOWN, Envelope, Outlook, expected


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
    outlook: Outlook = NOTHING_KNOWN,
    envelope: Envelope = lambda numbers: None,
    apart: Mapping[Hashable, str] | None = None,
    begun: Callable[[Cohort], None] = lambda cohort: None,
) -> tuple[tuple[Cohort, ...], dict[int, int]]:
    """Finds a cohort for each trial.

    Trials that are the same up to constants and sizes may share a cohort, whose lifted
    constants are those that differ among them and among those to come, which get none.
    A trial joins the existing cohort with the least work into whose program it fits;
    where there is none it starts a new one, and never changes an old one's.

    Args:
        traces: the new trials' traces, by trial number.
        cohorts: the cohorts so far.
        settings: what else decides.
        outlook: what is known of later trials.
        envelope: makes an envelope where no trial is one.
        apart: structures of which trials of different widths are not to share a
            program, with the reason.
        begun: is called with each new cohort, while others are yet to be found.

    Returns:
        All cohorts, old and new, and each new trial's cohort number.
    """
    assigning = _Assigning(
        traces.keys(), cohorts, settings, envelope, apart or {}, begun
    )
    coming = assigning.by_kind(outlook.coming)
    others = assigning.by_kind(dict(enumerate(outlook.others)))
    for kind, starting in assigning.by_kind(traces).items():
        spare = tuple(others.get(kind, {}).values())
        known = coming.get(kind, {})
        later = dataclasses.replace(outlook, coming=known, others=spare)
        assigning.add(kind, starting, later)
    return tuple(assigning.cohorts), assigning.chosen


class _Assigning:
    """Cohorts while trials are added to them."""

    def __init__(
        self,
        starting: Set[int],
        cohorts: Sequence[Cohort],
        settings: Settings,
        envelope: Envelope,
        apart: Mapping[Hashable, str],
        begun: Callable[[Cohort], None],
    ):
        self.cohorts = list(cohorts)
        self.chosen: dict[int, int] = {}
        self._starting = starting
        self._settings = settings
        self._envelope = envelope
        self._apart = apart
        self._begun = begun

    def by_kind(self, traces: Mapping[int, Trace]) -> dict[Hashable, dict[int, Trace]]:
        """Trials by what those that are considered for one program have in common."""
        kinds: dict[Hashable, dict[int, Trace]] = {}
        for number in sorted(traces):
            kind = self._kind(traces[number])
            kinds.setdefault(kind, {})[number] = traces[number]
        return kinds

    def _kind(self, trace: Trace) -> Hashable:
        kind = training_structure(trace)
        if self._settings.fuse_widths == "never" or kind in self._apart:
            return signature(trace)
        return kind

    def add(self, kind: Hashable, traces: Mapping[int, Trace], later: Outlook) -> None:
        """Finds cohorts for trials of one kind."""
        homeless = self._homeless(kind, traces)
        if homeless and self._extend(kind, homeless):
            homeless = self._homeless(kind, homeless)
        if not homeless:
            return
        siblings = self._siblings(kind)
        known = [trace for sibling in siblings for trace in sibling.traces]
        known += [*later.coming.values(), *later.others]
        unseen = self._homeless(kind, later.coming)
        for sibling in siblings:
            unseen = {n: t for n, t in unseen.items() if not may_extend(sibling, t)}
        several = {**homeless, **unseen}
        weights = dict.fromkeys(several, later.weight)
        largest, many = expected(several, later)
        several |= largest
        weights |= dict.fromkeys(largest, many)
        rule = rule_for(next(iter(several.values())), self._settings.platform)
        for numbers in self._groups(several, weights, rule):
            self._found(kind, {n: several[n] for n in numbers}, known)

    def _homeless(
        self, kind: Hashable, traces: Mapping[int, Trace]
    ) -> dict[int, Trace]:
        """Chooses cohorts that accept trials; returns the trials without one."""
        siblings = self._siblings(kind)
        homeless = {}
        for number, trace in traces.items():
            fits = (c for c in siblings if c.widening.accepts(trace))
            cohort = next(fits, None)
            if cohort is None:
                homeless[number] = trace
            else:
                self._choose([number], cohort.number)
        return homeless

    def _siblings(self, kind: Hashable) -> list[Cohort]:
        """The cohorts of a kind, those with the least work first."""
        siblings = [cohort for cohort in self.cohorts if cohort.structure == kind]
        return sorted(siblings, key=lambda cohort: (cohort.seconds, cohort.number))

    def _choose(self, numbers: Iterable[int], cohort: int) -> None:
        """Puts trials into a cohort; those to come are not put anywhere yet."""
        self.chosen.update({n: cohort for n in numbers if n in self._starting})

    def _extend(self, kind: Hashable, traces: Mapping[int, Trace]) -> bool:
        """Makes widths known to cohorts whose programs hold them as they are."""
        left = [*traces.values()]
        for cohort in self._siblings(kind):
            fitting = [trace for trace in left if may_extend(cohort, trace)]
            if fitting:
                wide = cohort.widening.envelope
                try:
                    widening = widen([*cohort.traces, *fitting], wide)
                except Refusal:
                    continue
                new = extended(cohort, fitting, widening)
                if new is not cohort:
                    self.cohorts[cohort.number] = new
                    left = [trace for trace in left if trace not in fitting]
        return len(left) < len(traces)

    def _groups(
        self,
        traces: Mapping[int, Trace],
        weights: Mapping[int, float],
        rule: DeviceRule,
    ) -> list[list[int]]:
        """Trials by the envelope that they are to share."""
        widths: dict[Hashable, list[int]] = {}
        for number, trace in traces.items():
            widths.setdefault(trace_sizes(trace), []).append(number)
        if self._settings.fuse_widths != "auto" or len(widths) == 1:
            return [list(traces)]
        members = [
            (terms(traces[w[0]]), sum(weights[n] for n in w)) for w in widths.values()
        ]
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
            traces: the trials; a cohort for none but later ones is not started yet.
            known: further traces of the kind, to see what may differ.
        """
        if self._starting.isdisjoint(traces):
            return
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
            if self._starting.isdisjoint(group_):
                continue
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
        rule = rule_for(widening.envelope, self._settings.platform)
        self.cohorts.append(
            Cohort(
                number,
                kind,
                tuple(known),
                widening,
                form,
                reason,
                lane_seconds(terms(widening.envelope), rule),
                rule.compiling,
                apart,
            )
        )
        self._begun(self.cohorts[number])
        self._choose(traces, number)


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
