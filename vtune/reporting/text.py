"""Numbers, durations and foreign text the way a person would write them."""

import math

from rich.cells import cell_len

from vtune.trial import Value


def clean(text: str) -> str:
    """Text on one line, without anything that could steer a terminal.

    Line breaks and control characters are shown as their escapes, invisible formatting
    characters are dropped.

    Args:
        text: any string.

    Returns:
        Printable characters only.
    """
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() else _visible(c) for c in text)


def _visible(character: str) -> str:
    if character.isspace() and ord(character) >= 0xA0:
        return " "
    if ord(character) < 0xA0 or 0xD800 <= ord(character) < 0xE000:
        return character.encode("unicode_escape").decode("ascii")
    # Zero-width joiners and direction overrides have no width of their own and move
    # what stands beside them.
    return ""


def shorten(text: str, width: int) -> str:
    """Cleaned text of at most `width` terminal cells, with an ellipsis where cut.

    Args:
        text: any string, of any length.
        width: cells, at least 1.

    Returns:
        The text, or its beginning and `…`.
    """
    # Combining marks take no cells, so the number of characters is bounded as well.
    head = clean(text[: 4 * width])
    if len(text) <= 4 * width and cell_len(head) <= width:
        return head
    kept, cells = 0, 0
    for character in head:
        cells += cell_len(character)
        if cells > width - 1:
            break
        kept += 1
    return head[:kept] + "…"


def number(value: int | float) -> str:
    """A number with four significant digits: `0.00031`, `0.25`, `1200`, `3.1e-8`."""
    if not math.isfinite(value):
        return str(value)
    if value == 0 or 1e-5 <= abs(value) < 1e7:
        digits = 3 - math.floor(math.log10(abs(value))) if value else 0
        text = f"{value:.{max(digits, 0)}f}"
        return text.rstrip("0").rstrip(".") if "." in text else text
    mantissa, exponent = f"{value:.3e}".split("e")
    return f"{mantissa.rstrip('0').rstrip('.')}e{int(exponent)}"


def score(value: int | float | None) -> str:
    """A score, with as many decimals as its neighbours in a column: `0.8910`, `12.340`.

    Args:
        value: the score, or None where there is none.

    Returns:
        Five significant digits for numbers from 1 to 10,000, four decimals below;
        `-` without a score.
    """
    if value is None:
        return "-"
    size = abs(value)
    if not math.isfinite(value) or size >= 1e4 or 0 < size < 1e-3:
        return number(value)
    return f"{value:.{4 - sum(size >= bound for bound in (10, 100, 1000))}f}"


def value(value: Value, width: int = 40) -> str:
    """A hyperparameter's value: whole numbers in full, floats as by `number`.

    Args:
        value: the value; text in it is cleaned.
        width: what is longer is shortened to this many cells.

    Returns:
        The text; `''` for an empty string.
    """
    if isinstance(value, float):
        return number(value)
    return shorten(str(value), width) or "''"


def count(amount: int | float) -> str:
    """A quantity at a glance: `3.2`, `987`, `9,876`, `12.3k`, `1.23M`."""
    if not math.isfinite(amount):
        return str(amount)
    if amount < 9.95:
        return f"{amount:.1f}".removesuffix(".0")
    if amount < 9_999.5:
        return f"{amount:,.0f}"
    for suffix in "kMGT":
        amount /= 1000
        if amount < 999.5 or suffix == "T":
            break
    return f"{amount:.{2 - (amount >= 9.995) - (amount >= 99.95)}f}{suffix}"


def duration(seconds: int | float | None) -> str:
    """A time as `0:09`, `12:34`, `1:02:03` or `2 d 3 h`; `?` where it is not known."""
    if seconds is None or not math.isfinite(seconds):
        return "?"
    whole = max(0, round(seconds))
    minutes, hours = whole // 60, whole // 3600
    if hours >= 48:
        return f"{hours // 24} d {hours % 24} h"
    if hours:
        return f"{hours}:{minutes % 60:02d}:{whole % 60:02d}"
    return f"{minutes}:{whole % 60:02d}"


def plural(amount: int, noun: str) -> str:
    """`1 trial`, `2 trials`, `12.3k trials`."""
    return f"{count(amount)} {noun}{'' if amount == 1 else 's'}"
