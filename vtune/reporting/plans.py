"""Which trials share a program, as records that can be printed."""

import dataclasses
import math
from collections.abc import Iterator, Mapping, Sequence

from rich.console import Console, ConsoleOptions, RenderableType

from vtune.reporting import notebook, text
from vtune.reporting.table import Page, Table
from vtune.trial import Value


_PAGE = 100
_MOST_TRIALS = 12


@dataclasses.dataclass(frozen=True)
class CohortRow:
    """Trials that share a program.

    Args:
        trials: their numbers.
        differs: the hyperparameters in which they differ.
        widened: whether their widths differ, too, so that most have padding.
        reason: why they share a program, or why trials of other widths do not.
        padding: how much more the envelope multiplies than the trials alone; 0.25 is a
            quarter more.
        masks: how many operands of a training step are masked.
        lanes: `"vmap"` or `"map"`, and why.
        compiles: the programs that were compiled for them.
    """

    trials: tuple[int, ...]
    differs: tuple[str, ...]
    widened: bool
    reason: str
    padding: float
    masks: int
    lanes: str
    compiles: int


@dataclasses.dataclass(frozen=True, repr=False)
class PlanSummary:
    """Which trials of a search share a program, and why others do not.

    Printed it is a table; a notebook shows it as HTML.

    Args:
        cohorts: the cohorts, in the order in which they came up.
        note: why there is none, in place of a title.
    """

    cohorts: tuple[CohortRow, ...]
    note: str = ""

    @property
    def compiles(self) -> int:
        """The training programs of all cohorts."""
        return sum(cohort.compiles for cohort in self.cohorts)

    @property
    def padding(self) -> float:
        """How much more the envelopes multiply than the trials alone, on average."""
        trials = sum(len(cohort.trials) for cohort in self.cohorts)
        padded = sum(len(cohort.trials) * cohort.padding for cohort in self.cohorts)
        return padded / trials if trials else 0.0

    def __repr__(self) -> str:
        return f"<PlanSummary: {self._title()}>"

    def __str__(self) -> str:
        return self._page().plain()

    def __rich_console__(
        self, console: Console, options: ConsoleOptions
    ) -> Iterator[RenderableType]:
        del console, options
        yield self._page().rich()

    def _repr_html_(self) -> str | None:
        return None if notebook.was_printed(self) else self.html()

    def html(self) -> str:
        """The summary as HTML elements; every text is escaped."""
        return self._page().html()

    def _title(self) -> str:
        if self.note:
            return self.note
        trials = sum(len(cohort.trials) for cohort in self.cohorts)
        cohorts = text.plural(len(self.cohorts), "cohort")
        programs = text.plural(self.compiles, "training program")
        return f"{text.plural(trials, 'trial')} in {cohorts}, {programs}"

    def _page(self) -> Page:
        rows = tuple(map(_cells, self.cohorts))
        header = ("trials", "differ in", "padding", "masks", "lanes", "programs")
        lines = dict.fromkeys(
            f"{_trials(cohort.trials)}: {cohort.reason}" for cohort in self.cohorts
        )
        return Page(self._title(), Table(header, rows), tuple(lines))


def _cells(cohort: CohortRow) -> tuple[str, ...]:
    return (
        _trials(cohort.trials),
        text.shorten(", ".join(cohort.differs) or "nothing", 40),
        f"+{100 * cohort.padding:.0f} %" if cohort.widened else "none",
        str(cohort.masks),
        cohort.lanes.split(":")[0],
        str(cohort.compiles),
    )


def _trials(numbers: Sequence[int]) -> str:
    """Trials by number, those in a row as one."""
    parts: list[list[int]] = []
    for number in sorted(numbers):
        if parts and number == parts[-1][-1] + 1:
            parts[-1].append(number)
        else:
            parts.append([number])
    names = [f"{p[0]}-{p[-1]}" if len(p) > 2 else ", ".join(map(str, p)) for p in parts]
    shown = ", ".join(names[:_MOST_TRIALS])
    return shown + (", ..." if len(names) > _MOST_TRIALS else "")


def differing(values: Sequence[Mapping[str, Value]]) -> tuple[str, ...]:
    """The hyperparameters that not all trials have in common.

    Args:
        values: the hyperparameters of each trial.
    """
    names = dict.fromkeys(name for each in values for name in each)
    return tuple(n for n in names if len({repr(each.get(n)) for each in values}) > 1)


@dataclasses.dataclass(frozen=True)
class ErrorRow:
    """How far a trial inside a shared program is from the trial alone.

    Args:
        trial: its number.
        what: a leaf of the state, a metric, or the padding.
        error: the largest relative difference of a step.
        noise: the same for rounding errors in data and parameters.
        is_wrong: whether the difference is more than rounding.
    """

    trial: int
    what: str
    error: float
    noise: float
    is_wrong: bool


@dataclasses.dataclass(frozen=True, repr=False)
class FusionReport:
    """Which sets of values share a program, and whether each trains as it does alone.

    Printed it is a table; a notebook shows it as HTML.

    Args:
        cohorts: which share a program.
        differences: for each trial that shares one all that was compared.
        masks: what is masked in a training step: primitive, line, neutral element.
        steps: the steps that were compared, from each of three states.
    """

    cohorts: tuple[CohortRow, ...]
    differences: tuple[ErrorRow, ...]
    masks: tuple[tuple[str, str | None, str], ...]
    steps: int

    @property
    def padding(self) -> float:
        """How much more the envelopes multiply than the trials alone."""
        return PlanSummary(self.cohorts).padding

    @property
    def max_error(self) -> float:
        """The largest difference of an update or a metric that is no rounding noise."""
        errors = [
            row.error for row in self.differences if row.is_wrong or _is_plain(row)
        ]
        return max(errors, default=0.0)

    @property
    def is_right(self) -> bool:
        """Whether no trial differs by more than rounding from the same alone."""
        return not any(row.is_wrong for row in self.differences)

    def __repr__(self) -> str:
        return f"<FusionReport: {self._title()}>"

    def __str__(self) -> str:
        return self._page().plain()

    def __rich_console__(
        self, console: Console, options: ConsoleOptions
    ) -> Iterator[RenderableType]:
        del console, options
        yield self._page().rich()

    def _repr_html_(self) -> str | None:
        return None if notebook.was_printed(self) else self.html()

    def html(self) -> str:
        """The report as HTML elements; every text is escaped."""
        return self._page().html()

    def _title(self) -> str:
        trials = sum(len(cohort.trials) for cohort in self.cohorts)
        verdict = "as alone" if self.is_right else "NOT as alone"
        compared = f", {self.steps} steps {verdict}" if self.differences else ""
        return (
            f"{text.plural(trials, 'trial')} in "
            f"{text.plural(len(self.cohorts), 'program')}{compared}"
        )

    def _page(self) -> Page:
        header = ("trials", "differ in", "padding", "masks", "largest error", "noise")
        rows = []
        for cohort in self.cohorts:
            own = [row for row in self.differences if row.trial in cohort.trials]
            worst = max(own, key=_badness, default=None)
            error, noise = ("-", "-") if worst is None else _errors(worst)
            rows.append((*_cells(cohort)[:4], error, noise))
        lines = [f"{_trials(c.trials)}: {c.reason}" for c in self.cohorts]
        lines += [
            f"trial {row.trial} differs in {row.what} by {row.error:.1e} (rounding "
            f"makes {row.noise:.1e})"
            for row in self.differences
            if row.is_wrong
        ]
        lines += [
            f"masked by {neutral}: {primitive}, {line or 'of no known line'}"
            for primitive, line, neutral in dict.fromkeys(self.masks)
        ]
        return Page(self._title(), Table(header, tuple(rows)), tuple(lines))


def _is_plain(row: ErrorRow) -> bool:
    """Whether rounding does not decide the difference."""
    return row.noise < 1e-3


def _badness(row: ErrorRow) -> tuple[bool, bool, float]:
    return (
        row.is_wrong,
        _is_plain(row),
        math.inf if row.error != row.error else row.error,
    )


def _errors(row: ErrorRow) -> tuple[str, str]:
    return f"{row.error:.1e} ({text.shorten(row.what, 30)})", f"{row.noise:.1e}"
