"""The picture of a search's progress, as lines of styled text."""

from collections.abc import Sequence

from rich.text import Text

from vtune.reporting import text
from vtune.reporting.drawing import bar, ends, pack, sparkline
from vtune.reporting.matrix import bracket_lines
from vtune.reporting.progress import (
    Progress,
    best_trial,
    epochs_done,
    epochs_left,
    learning_curve,
    rung_states,
    status_counts,
    throughput,
    time_left,
)
from vtune.trial import TrialStatus


_WIDEST = 110
_STATUS_STYLES = {
    TrialStatus.RUNNING: "cyan",
    TrialStatus.PRUNED: "",
    TrialStatus.COMPLETED: "green",
    TrialStatus.DIVERGED: "yellow",
    TrialStatus.FAILED: "red",
}


def draw(progress: Progress, *, width: int, height: int) -> list[Text]:
    """The picture of one moment.

    Nothing in it is read as markup, and names and values of any content and length are
    cleaned and shortened.

    Args:
        progress: the moment.
        width: cells of a line.
        height: lines of the screen; brackets are left out to stay within it.

    Returns:
        Lines of at most `width` cells.
    """
    width = max(24, min(width, _WIDEST))
    inner = width - 2
    above = [*_header(progress, inner), Text(), *_best(progress, inner)]
    below = _totals(progress, inner)
    room = height - len(above) - len(below) - 5
    brackets = bracket_lines(rung_states(progress), inner, max(room, 1))
    if brackets:
        brackets = [Text(), *brackets]
    lines = [*above, *brackets, Text(), *below]
    return [_within(Text(" ").append_text(line), width) for line in lines]


def _within(line: Text, width: int) -> Text:
    line.truncate(width, overflow="ellipsis")
    line.no_wrap = True
    return line


def _header(progress: Progress, width: int) -> list[Text]:
    objective = progress.objective
    left = Text.assemble(
        ("vtune", "bold"),
        ("  maximises " if objective.direction == "max" else "  minimises ", "dim"),
        text.shorten(objective.name, max(8, width - 20)),
    )
    pieces = [text.shorten(progress.phase, width // 2)] if progress.phase else []
    if progress.lanes and not progress.finished:
        pieces.append(text.plural(progress.lanes, "lane"))
    if progress.programs and not progress.finished:
        pieces.append(text.plural(progress.programs, "program"))
    return ends(left, Text(" · ".join(pieces), style="dim"), width)


def _best(progress: Progress, width: int) -> list[Text]:
    best = best_trial(progress)
    if best is None:
        return [Text("no score yet", style="dim")]
    facts = f"trial {best.number} after {text.plural(best.epoch, 'epoch')}"
    if best.best_epoch not in (None, best.epoch):
        facts += f", peak at {best.best_epoch}"
    left = Text.assemble(
        ("best ", "dim"), (text.score(best.score), "bold green"), (f"  {facts}", "dim")
    )
    curve = learning_curve(progress)
    room = min(32, width - left.cell_len - 2)
    drawn = sparkline(curve, room) if len(curve) > 1 and room >= 4 else ""
    values = [
        Text.assemble(
            (text.shorten(name, width // 3), "dim"), " ", text.value(value, width // 2)
        )
        for name, value in best.values.items()
    ]
    lines = pack(values, width, Text("   "))
    if len(lines) > 4:
        hidden = Text(f"… {len(best.values)} hyperparameters in all", style="dim")
        lines = [*lines[:3], hidden]
    return [*ends(left, Text(drawn, style="green"), width), *lines]


def _totals(progress: Progress, width: int) -> list[Text]:
    done, left = epochs_done(progress), epochs_left(progress)
    lines: list[Text] = []
    if left is not None and done + left and not progress.finished:
        fraction = done / (done + left)
        said = (
            f"{int(100 * fraction)} %  {text.count(done)} of {text.count(done + left)}"
        )
        label = Text(f"  {said} trial-epochs", style="dim")
        length = max(4, width - label.cell_len)
        lines.append(bar(fraction, length, "cyan").append_text(label))
    gap = Text(" · ", style="dim")
    return [
        *lines,
        *pack(_pace(progress, done, left), width, gap),
        *pack(_counts(progress), width, gap),
    ]


def _pace(progress: Progress, done: int, left: int | None) -> Sequence[Text]:
    pieces: list[Text] = []
    if left is None or progress.finished:
        pieces.append(Text(text.plural(done, "trial-epoch")))
    rate = throughput(progress)
    if rate is not None:
        pieces.append(Text(f"{text.count(rate)} trial-steps/s"))
    pieces.append(Text(f"{text.duration(progress.seconds)} elapsed"))
    remaining = time_left(progress)
    if remaining is not None:
        pieces.append(Text(f"about {text.duration(remaining)} left"))
    return pieces


def _counts(progress: Progress) -> Sequence[Text]:
    counts = status_counts(progress.trials)
    pieces = [
        Text(f"{text.count(counts[status])} {status.value}", style=style)
        for status, style in _STATUS_STYLES.items()
        if counts[status]
    ]
    return pieces or [Text("no trials yet", style="dim")]
