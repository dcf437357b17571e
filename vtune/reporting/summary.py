"""Summaries: the results of a search and its space, as records that can be printed."""

import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from typing import TypeVar

from rich.console import Console, ConsoleOptions, RenderableType

from vtune.parameters import Parameter
from vtune.reporting import notebook, text
from vtune.reporting.output import choose_console, write_lines
from vtune.reporting.plans import FusionReport, PlanSummary
from vtune.reporting.progress import status_counts
from vtune.reporting.space import SpaceRow, space_row
from vtune.reporting.table import Page, Table
from vtune.trial import Objective, Trial, TrialStatus, Value, rank


# A plain table has the width of a page; wider ones keep the values in one column.
_PAGE = 100
_WIDEST_CELL = 40
_MOST_FAILURES = 5
_SummaryT = TypeVar(
    "_SummaryT", "ResultsSummary", "SearchSpaceSummary", PlanSummary, FusionReport
)
_FACTS = ("trial", "score", "status", "epochs", "best epoch")


@dataclasses.dataclass(frozen=True)
class ResultRow:
    """One trial in a summary.

    Args:
        number: the trial's number.
        score: the objective at its last epoch; None where there is none.
        status: where it stands.
        epoch: the epochs that it has trained.
        best_epoch: the epoch of its best objective, counted from 1.
        values: its hyperparameters.
    """

    number: int
    score: float | None
    status: TrialStatus
    epoch: int
    best_epoch: int | None
    values: Mapping[str, Value]


@dataclasses.dataclass(frozen=True)
class Failure:
    """A trial that failed or diverged.

    Args:
        number: the trial's number.
        status: which of the two.
        reason: why.
    """

    number: int
    status: TrialStatus
    reason: str


@dataclasses.dataclass(frozen=True, repr=False)
class ResultsSummary:
    """The results of a search, best trial first.

    Printed it is a table; a notebook shows it as HTML.

    Args:
        objective: the metric that ranks the trials.
        rows: the best trials.
        counts: how many trials have each status.
        failures: all trials that failed or diverged, by number.
    """

    objective: Objective
    rows: tuple[ResultRow, ...]
    counts: Mapping[TrialStatus, int]
    failures: tuple[Failure, ...]

    def __repr__(self) -> str:
        return f"<ResultsSummary: {self._title()}>"

    def __str__(self) -> str:
        return self._page(_PAGE).plain()

    def __rich_console__(
        self, console: Console, options: ConsoleOptions
    ) -> Iterator[RenderableType]:
        del console
        yield self._page(options.max_width).rich()

    def _repr_html_(self) -> str | None:
        return None if notebook.was_printed(self) else self.html()

    def html(self) -> str:
        """The summary as HTML elements; every text is escaped."""
        return self._page(None).html()

    def _page(self, width: int | None) -> Page:
        table = _result_table(self.rows, spread=True)
        # Rich puts up to three cells between two columns.
        needed = sum(table.widths()) + 3 * len(table.header)
        if width is not None and needed > width:
            table = _result_table(self.rows, spread=False)
        return Page(self._title(), table, tuple(self._failure_lines()))

    def _title(self) -> str:
        said = [f"{n} {status.value}" for status, n in self.counts.items() if n]
        total = sum(self.counts.values())
        trials = text.plural(total, "trial")
        detail = f" ({', '.join(said)})" if said else ""
        direction = "largest" if self.objective.direction == "max" else "smallest"
        name = text.shorten(self.objective.name, 60)
        return f"{trials}{detail}, {direction} {name} first"

    def _failure_lines(self) -> list[str]:
        lines = [
            f"trial {failure.number} {failure.status.value}: "
            f"{text.shorten(failure.reason, 200)}"
            for failure in self.failures[:_MOST_FAILURES]
        ]
        hidden = len(self.failures) - len(lines)
        if hidden:
            lines.append(f"... and {hidden} more failed or diverged")
        return lines


def results_summary(
    trials: Sequence[Trial], objective: Objective, num_trials: int = 10
) -> ResultsSummary:
    """The best trials of a search, and what became of the others.

    Args:
        trials: all trials.
        objective: the metric that ranks them.
        num_trials: how many of the best to list, at least 1. Trials without a score are
            listed after all others.

    Returns:
        A record that prints itself as a table.

    Raises:
        ValueError: if `num_trials` is not a whole number of at least 1.

    Example:
        ```python
        from vtune.reporting.summary import results_summary
        from vtune.trial import Objective, Trial

        trials = [Trial(0, {"units": 8}, score=0.8), Trial(1, {"units": 9}, score=0.9)]
        summary = results_summary(trials, Objective("val_accuracy"))
        assert summary.rows[0].number == 1
        print(summary)
        ```
    """
    whole = isinstance(num_trials, int) and not isinstance(num_trials, bool)
    if not whole or num_trials < 1:
        raise ValueError(
            "`results_summary(num_trials=...)` is a whole number of at least 1, "
            f"got {num_trials!r}."
        )
    best = rank(tuple(trials), objective)[:num_trials]
    rows = (
        ResultRow(t.number, t.score, t.status, t.epoch, t.best_epoch, dict(t.values))
        for t in best
    )
    failures = (
        Failure(t.number, t.status, t.reason or "no reason known")
        for t in sorted(trials, key=lambda trial: trial.number)
        if t.status in (TrialStatus.FAILED, TrialStatus.DIVERGED)
    )
    return ResultsSummary(
        objective, tuple(rows), status_counts(trials), tuple(failures)
    )


def _result_table(rows: Sequence[ResultRow], *, spread: bool) -> Table:
    names = list(dict.fromkeys(name for row in rows for name in row.values))
    columns = tuple(text.shorten(name, _WIDEST_CELL) for name in names)
    cells: list[tuple[str, ...]] = []
    for row in rows:
        values = {name: text.value(value) for name, value in row.values.items()}
        facts = (
            str(row.number),
            text.score(row.score),
            row.status.value,
            str(row.epoch),
            "-" if row.best_epoch is None else str(row.best_epoch),
        )
        if spread:
            cells.append(facts + tuple(values.get(name, "") for name in names))
        else:
            said = (f"{text.shorten(k, _WIDEST_CELL)}={v}" for k, v in values.items())
            cells.append((*facts, ", ".join(said)))
    return Table(
        header=_FACTS + (columns if spread else ("values",)),
        rows=tuple(cells),
        numeric=frozenset({0, 1, 3, 4}),
    )


@dataclasses.dataclass(frozen=True, repr=False)
class SearchSpaceSummary:
    """The hyperparameters of a search.

    Printed it is a table; a notebook shows it as HTML.

    Args:
        rows: the hyperparameters in the order in which `build` asks for them.
    """

    rows: tuple[SpaceRow, ...]

    def __repr__(self) -> str:
        return f"<SearchSpaceSummary: {self._title()}>"

    def __str__(self) -> str:
        return self._page().plain()

    def __rich__(self) -> RenderableType:
        return self._page().rich()

    def _repr_html_(self) -> str | None:
        return None if notebook.was_printed(self) else self.html()

    def html(self) -> str:
        """The summary as HTML elements; every text is escaped."""
        return self._page().html()

    def _title(self) -> str:
        return text.plural(len(self.rows), "hyperparameter")

    def _page(self) -> Page:
        rows = tuple(
            (
                text.shorten(row.name, _WIDEST_CELL),
                row.kind,
                row.values,
                row.sampling,
                text.value(row.default),
            )
            for row in self.rows
        )
        header = ("name", "kind", "values", "sampling", "default")
        return Page(self._title(), Table(header, rows))


def search_space_summary(parameters: Sequence[Parameter]) -> SearchSpaceSummary:
    """The hyperparameters that `build` asked for.

    Args:
        parameters: in the order of asking.

    Returns:
        A record that prints itself as a table.
    """
    return SearchSpaceSummary(tuple(space_row(each) for each in parameters))


def print_summary(summary: _SummaryT, console: Console | None = None) -> _SummaryT:
    """Prints a summary: in colour in a terminal, as HTML in a notebook, else as text.

    Args:
        summary: a summary, a plan or a report.
        console: where to; rich's own for standard output when omitted.

    Returns:
        The summary.
    """
    console, capable = choose_console(console)
    if console.is_jupyter:
        notebook.publish(summary.html(), str(summary))
        notebook.remember_printed(summary)
    elif capable:
        console.print(summary)
    else:
        write_lines(console, str(summary))
    return summary
