"""Where the output goes, and what may be shown there."""

import contextlib
import sys
from typing import Any

import rich
from rich.console import Console

from vtune.reporting.text import clean


def is_terminal(stream: Any) -> bool:
    """Whether what is written to a stream appears in a terminal."""
    with contextlib.suppress(Exception):
        return bool(stream.isatty())
    return False


def choose_console(console: Console | None) -> tuple[Console, bool]:
    """The console to use, and whether it shows colours and Unicode.

    Rich's own console calls a file a terminal where `FORCE_COLOR` is set, as automatic
    runs do; a console that is handed over is believed.

    Args:
        console: a console; None for rich's own, on standard output.

    Returns:
        The console, and whether it is a notebook or a capable terminal.
    """
    believed = console is not None or is_terminal(sys.stdout)
    console = console or rich.get_console()
    unicode = console.encoding.lower().startswith("utf")
    terminal = console.is_terminal and not console.is_dumb_terminal
    return console, console.is_jupyter or (terminal and believed and unicode)


def write_lines(console: Console, lines: str) -> None:
    """Writes lines of plain text at once, with what the encoding lacks replaced.

    A reader that has gone away, or a closed file, is no reason to stop.

    Args:
        console: only its file is used.
        lines: one or more lines; anything in them that could steer a terminal is shown
            as its escape.
    """
    with contextlib.suppress(OSError, ValueError, LookupError):
        file = console.file
        encoding = getattr(file, "encoding", None) or "utf-8"
        lines = "".join(f"{clean(line)}\n" for line in lines.split("\n"))
        file.write(lines.encode(encoding, "replace").decode(encoding))
        file.flush()
