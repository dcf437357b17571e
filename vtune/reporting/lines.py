"""Progress as plain lines, for files, pipes and logs."""

from collections.abc import Callable
from types import TracebackType

from rich.console import Console

from vtune.reporting import text
from vtune.reporting.output import write_lines
from vtune.reporting.progress import (
    Progress,
    best_trial,
    epochs_done,
    epochs_left,
    rung_states,
    status_counts,
    throughput,
    time_left,
)


# A line every few seconds at first, then ever fewer: some 50 while the time doubles.
_SECONDS_BETWEEN_LINES = 5.0
_PART_BETWEEN_LINES = 0.02


class PlainDisplay:
    """Plain lines: one at the start, one for each rung that ends, one now and then.

    No line holds a control code, and lines are written at once, so that a log shows how
    far a search is.

    Args:
        console: only its file is used.
    """

    def __init__(self, console: Console):
        self._console = console
        self._progress: Progress | None = None
        self._noted: set[str] = set()
        self._ended: set[tuple[int, int]] = set()
        self._next_line = 0.0
        self._closed = False

    def update(self, progress: Progress) -> None:
        """Writes what has become worth a line."""
        first = self._progress is None
        self._progress = progress
        for message in progress.notes:
            if message not in self._noted:
                self._noted.add(message)
                self.note(message)
        self._write(lambda: self._news(progress, first))

    def note(self, message: str) -> None:
        """Writes a line."""
        self._write(lambda: [text.clean(message)])

    def close(self) -> None:
        """Writes the last line."""
        progress, closed = self._progress, self._closed
        self._closed = True
        if progress is not None and not closed:
            self._write(lambda: [end_line(progress)])

    def __enter__(self) -> "PlainDisplay":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        del kind, error, traceback
        self.close()

    def _news(self, progress: Progress, first: bool) -> list[str]:
        lines = [start_line(progress)] if first else []
        ended = {
            (bracket, rung)
            for bracket, states in enumerate(rung_states(progress))
            for rung, state in enumerate(states)
            if state.ended
        }
        lines += [rung_line(progress, *at) for at in sorted(ended - self._ended)]
        self._ended |= ended
        if not lines and progress.seconds >= self._next_line and not progress.finished:
            lines = [present_line(progress)]
        if lines:
            pause = max(_SECONDS_BETWEEN_LINES, _PART_BETWEEN_LINES * progress.seconds)
            self._next_line = progress.seconds + pause
        return lines

    def _write(self, make: Callable[[], list[str]]) -> None:
        try:
            lines = make()
        except Exception as error:
            reason = text.shorten(f"{type(error).__name__}: {error}", 120)
            lines = [f"No line on the progress: {reason}"]
        for line in lines:
            write_lines(self._console, line)


def start_line(progress: Progress) -> str:
    """What is going to be searched."""
    objective = progress.objective
    verb = "maximises" if objective.direction == "max" else "minimises"
    line = f"vtune {verb} {text.shorten(objective.name, 60)}"
    rungs = [rung for rungs in progress.brackets for rung in rungs]
    if rungs:
        first = [rungs[0][0] for rungs in progress.brackets if rungs]
        known = [trials for trials in first if trials is not None]
        trials = text.plural(sum(known), "trial") if known == first else "trials"
        longest = text.plural(max(epochs for _, epochs in rungs), "epoch")
        brackets = text.plural(len(progress.brackets), "bracket")
        line += f": {trials} in {brackets}, of up to {longest}"
    return line


def rung_line(progress: Progress, bracket: int, rung: int) -> str:
    """What a rung's end has brought."""
    state = rung_states(progress)[bracket][rung]
    epochs = text.plural(state.epochs, "epoch")
    line = (
        f"{_clock(progress)} bracket {bracket + 1}, {epochs}: "
        f"{state.passed} of {text.plural(state.entered, 'trial')} "
    )
    last = rung + 1 == len(progress.brackets[bracket])
    line += "completed" if last else "go on"
    if state.failed:
        line += f", {state.failed} failed or diverged"
    return f"{line}; {_best(progress)}"


def present_line(progress: Progress) -> str:
    """How far the search is."""
    done, left = epochs_done(progress), epochs_left(progress)
    line = f"{_clock(progress)} {text.count(done)}"
    if left is not None:
        line += f" of {text.count(done + left)}"
    parts = [f"{line} trial-epochs", _best(progress)]
    rate, remaining = throughput(progress), time_left(progress)
    if rate is not None:
        parts.append(f"{text.count(rate)} trial-steps/s")
    if remaining is not None:
        parts.append(f"about {text.duration(remaining)} left")
    if progress.phase:
        parts.append(text.shorten(progress.phase, 60))
    return ", ".join(parts)


def end_line(progress: Progress) -> str:
    """How the search has ended."""
    counts = status_counts(progress.trials)
    said = [f"{counts[status]} {status.value}" for status in counts if counts[status]]
    epochs = text.plural(epochs_done(progress), "trial-epoch")
    trials = text.plural(len(progress.trials), "trial")
    detail = f" ({', '.join(said)})" if said else ""
    return f"{_clock(progress)} {trials}{detail}, {epochs}; {_best(progress)}"


def _clock(progress: Progress) -> str:
    return f"[{text.duration(progress.seconds)}]"


def _best(progress: Progress) -> str:
    best = best_trial(progress)
    if best is None:
        return "no score yet"
    name = text.shorten(progress.objective.name, 40)
    return f"best {name} {text.score(best.score)} (trial {best.number})"
