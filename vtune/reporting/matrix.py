"""Brackets and rungs as a matrix: a row for each bracket, a column for each budget."""

from collections.abc import Sequence

from rich.text import Text

from vtune.reporting import text
from vtune.reporting.drawing import bar
from vtune.reporting.rungs import RungState


_NARROWEST_CELL = 8
_WIDEST_CELL = 34
_GAP = 2

States = Sequence[RungState]


def bracket_lines(brackets: Sequence[States], width: int, rows: int) -> list[Text]:
    """The matrix as lines: for each bracket its rungs under the epochs they end at.

    A cell holds the number of trials and a bar of the epochs that they have trained.
    Where there is no room for all brackets those at work are shown, and where there is
    none for all budgets those around the present one.

    Args:
        brackets: for each bracket the states of its rungs.
        width: cells of a line.
        rows: lines for brackets, at least 1.

    Returns:
        A line of budgets, a line a bracket, and a line on those left out; nothing
        without brackets.
    """
    if not any(brackets):
        return []
    shown = _rows(brackets, rows)
    label_width = _label_width(len(brackets), width)
    available = max(1, (width - label_width + _GAP) // (_NARROWEST_CELL + _GAP))
    budgets = _columns([brackets[row] for row in shown], available)
    cell = min(_WIDEST_CELL, (width - label_width + _GAP) // len(budgets) - _GAP)
    digits = _digits([brackets[row] for row in shown])
    lines = [_head(budgets, label_width, cell)]
    for row in shown:
        line = _label(row, len(brackets), label_width)
        for column, epochs in enumerate(budgets):
            here = [state for state in brackets[row] if state.epochs == epochs]
            drawn = _cell(here[-1], cell, digits[epochs]) if here else Text(" " * cell)
            line.append(" " * _GAP if column else "").append_text(drawn)
        line.rstrip()
        lines.append(line)
    if len(shown) < len(brackets):
        lines.append(_left_out(brackets, shown))
    return lines


def _begun(states: States) -> bool:
    return any(state.entered for state in states)


def _over(states: States) -> bool:
    """Whether each rung has ended, or can't be reached any more."""
    return _begun(states) and all(
        state.ended or not (state.entered or state.unentered) for state in states
    )


def _rows(brackets: Sequence[States], rows: int) -> list[int]:
    def priority(row: int) -> tuple[int, int]:
        states = brackets[row]
        if _over(states):
            return 2, -row
        return (0 if _begun(states) else 1), row

    return sorted(sorted(range(len(brackets)), key=priority)[:rows])


def _columns(brackets: Sequence[States], available: int) -> list[int]:
    budgets = sorted({state.epochs for states in brackets for state in states})
    if len(budgets) <= available:
        return budgets
    at_work = [s.epochs for states in brackets for s in states if s.running]
    first = budgets.index(min(at_work)) if at_work else len(budgets)
    first = min(first, len(budgets) - available)
    return budgets[first : first + available]


def _label_width(brackets: int, width: int) -> int:
    if brackets == 1:
        return 8 if width >= 70 else 0
    digits = len(str(brackets))
    return (9 if width >= 70 else 1) + digits + 1


def _label(row: int, brackets: int, width: int) -> Text:
    if brackets == 1:
        return Text(" " * width)
    name = f"bracket {row + 1}" if width > 8 else f"{row + 1}"
    return Text.assemble((name.ljust(width), "dim"))


def _head(budgets: Sequence[int], label_width: int, cell: int) -> Text:
    names = [text.count(epochs) for epochs in budgets]
    if label_width >= 8:
        start = "epochs".ljust(label_width)
    else:
        start = " " * label_width
        names[0] = text.plural(budgets[0], "epoch")
    return Text(
        (start + (" " * _GAP).join(name.ljust(cell) for name in names)).rstrip(),
        style="dim",
    )


def _trials(state: RungState) -> int:
    return state.entered + state.unentered


def _digits(brackets: Sequence[States]) -> dict[int, int]:
    """The width of the widest number of trials under each budget."""
    digits: dict[int, int] = {}
    for states in brackets:
        for state in states:
            here = len(text.count(_trials(state)))
            digits[state.epochs] = max(here, digits.get(state.epochs, 0))
    return digits


def _cell(state: RungState, width: int, digits: int) -> Text:
    trials = _trials(state)
    at_work = bool(state.running or state.waiting)
    style = "cyan" if at_work else "green" if state.ended else "bright_black"
    label = text.count(trials).ljust(digits)
    said = Text.assemble((label, "bold" if at_work else "dim"))
    length = width - said.cell_len - 1
    if state.fraction is None or length < 1:
        return said.append(" " * (width - said.cell_len))
    failed = state.failed / trials if trials else 0.0
    drawn = bar(state.fraction, length, style, failed=failed)
    return said.append(" ").append_text(drawn)


def _left_out(brackets: Sequence[States], shown: Sequence[int]) -> Text:
    hidden = [states for row, states in enumerate(brackets) if row not in shown]
    over = sum(_over(states) for states in hidden)
    waiting = sum(not _begun(states) for states in hidden)
    parts = [
        f"{amount} {word}"
        for amount, word in (
            (over, "ended"),
            (len(hidden) - over - waiting, "at work"),
            (waiting, "waiting"),
        )
        if amount
    ]
    more = text.plural(len(hidden), "more bracket")
    return Text(f"… {more}: {', '.join(parts)}", style="dim")
