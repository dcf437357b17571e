"""A title, a small table of texts and a few lines: plain, for a terminal, as HTML."""

import dataclasses
import html

from rich import box
from rich.cells import cell_len
from rich.console import Group
from rich.table import Table as RichTable
from rich.text import Text

from vtune.reporting.text import clean


@dataclasses.dataclass(frozen=True)
class Table:
    """Texts in rows and columns.

    Args:
        header: the name of each column.
        rows: for each row one text a column.
        numeric: the columns, from 0, that are aligned to the right.
    """

    header: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    numeric: frozenset[int] = frozenset()

    def widths(self) -> tuple[int, ...]:
        """The cells that the widest text of each column takes."""
        columns = zip(self.header, *self.rows, strict=True)
        return tuple(max(cell_len(clean(cell)) for cell in texts) for texts in columns)


@dataclasses.dataclass(frozen=True)
class Page:
    """What a summary shows.

    Args:
        title: the first line.
        table: left out when it has no rows.
        lines: what stands below it.
    """

    title: str
    table: Table
    lines: tuple[str, ...] = ()

    def plain(self) -> str:
        """The page as lines of text."""
        table = _plain_table(self.table) if self.table.rows else []
        return "\n".join(clean(line) for line in (self.title, *table, *self.lines))

    def rich(self) -> Group:
        """The page for a terminal; no text in it is read as markup."""
        table = [_rich_table(self.table)] if self.table.rows else []
        lines = [Text(clean(line), style="dim") for line in self.lines]
        return Group(Text(clean(self.title), style="bold"), *table, *lines)

    def html(self) -> str:
        """The page as HTML elements; every text is escaped."""
        table = _html_table(self.table) if self.table.rows else ""
        title, *lines = (
            f"<div>{html.escape(clean(line))}</div>"
            for line in (self.title, *self.lines)
        )
        return f"{title}{table}{''.join(lines)}"


def _plain_table(table: Table) -> list[str]:
    widths = table.widths()
    rule = tuple("-" * width for width in widths)
    lines: list[str] = []
    for row in (table.header, rule, *table.rows):
        cells = [
            _aligned(clean(cell), widths[column], column in table.numeric)
            for column, cell in enumerate(row)
        ]
        lines.append("  ".join(cells).rstrip())
    return lines


def _aligned(cell: str, width: int, right: bool) -> str:
    padding = " " * (width - cell_len(cell))
    return padding + cell if right else cell + padding


def _rich_table(table: Table) -> RichTable:
    drawn = RichTable(box=box.SIMPLE_HEAD, pad_edge=False, header_style="dim")
    for column, name in enumerate(table.header):
        justify = "right" if column in table.numeric else "left"
        drawn.add_column(Text(clean(name)), justify=justify, overflow="fold")
    for row in table.rows:
        drawn.add_row(*(Text(clean(cell)) for cell in row))
    return drawn


def _html_table(table: Table) -> str:
    head, *body = (
        "".join(
            _html_cell(tag, cell, column in table.numeric)
            for column, cell in enumerate(row)
        )
        for tag, row in (("th", table.header), *(("td", row) for row in table.rows))
    )
    rows = "".join(f"<tr>{row}</tr>" for row in body)
    return f"<table><thead><tr>{head}</tr></thead><tbody>{rows}</tbody></table>"


def _html_cell(tag: str, text: str, right: bool) -> str:
    side = "right" if right else "left"
    return f'<{tag} style="text-align:{side}">{html.escape(clean(text))}</{tag}>'
