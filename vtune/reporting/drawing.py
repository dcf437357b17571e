"""Curves, bars and columns of text in Unicode blocks."""

import math
from collections.abc import Sequence

from rich.text import Text


_HEIGHTS = "▁▂▃▄▅▆▇█"


def sparkline(values: Sequence[float], width: int) -> str:
    """A curve of at most `width` characters; a gap where a value is not finite.

    Args:
        values: the curve. If there are more than `width`, each character shows the last
            value of its part.
        width: characters, at least 1.

    Returns:
        One character for each value or part, the lowest `▁` and the highest `█`.
    """
    size = min(len(values), width)
    shown = [values[(i + 1) * len(values) // size - 1] for i in range(size)]
    finite = [value for value in shown if math.isfinite(value)]
    if not finite:
        return " " * size
    low, high = min(finite), max(finite)
    return "".join(_block(value, low, high) for value in shown)


def _block(value: float, low: float, high: float) -> str:
    if not math.isfinite(value):
        return " "
    if low == high:
        return _HEIGHTS[3]
    # Halved first: the distance of two finite numbers may be infinite.
    height = (value / 2 - low / 2) / (high / 2 - low / 2)
    return _HEIGHTS[round(height * (len(_HEIGHTS) - 1))]


def bar(fraction: float, width: int, style: str, *, failed: float = 0.0) -> Text:
    """A thin bar: done, failed, still to do.

    Args:
        fraction: the part that is done, from 0 to 1.
        width: characters.
        style: the colour of the done part.
        failed: the part at its end that is lost, from 0 to 1.

    Returns:
        Text of exactly `width` characters.
    """
    halves = round(2 * width * min(max(fraction, 0.0), 1.0))
    # A bar is full only when everything is done, and begun with the first epoch.
    if 0 < fraction < 1:
        halves = min(max(halves, 1), 2 * width - 1)
    lost = min(math.ceil(width * failed), width)
    halves = min(halves, 2 * (width - lost))
    line = "━" * (halves // 2) + "╸" * (halves % 2)
    left = "─" * (width - lost - len(line))
    return Text.assemble((line, style), (left, "bright_black"), ("╍" * lost, "red"))


def pack(pieces: Sequence[Text], width: int, gap: Text) -> list[Text]:
    """Pieces side by side on as few lines as hold them, none of them broken.

    Args:
        pieces: texts of at most `width` cells each.
        width: cells of a line.
        gap: what stands between two pieces of a line.

    Returns:
        The lines.
    """
    lines: list[Text] = []
    for piece in pieces:
        if lines and lines[-1].cell_len + gap.cell_len + piece.cell_len <= width:
            lines[-1].append_text(gap).append_text(piece)
        else:
            lines.append(Text.assemble(piece))
    return lines


def ends(left: Text, right: Text, width: int) -> list[Text]:
    """One text at each end of a line, or one under the other where both do not fit."""
    free = width - left.cell_len - right.cell_len
    if not right:
        return [left]
    if free < 2:
        return [left, right]
    return [Text.assemble(left, " " * free, right)]
