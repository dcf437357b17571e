"""Places where a picture can be drawn over and over: a terminal, a notebook's cell."""

import io
import sys
from collections.abc import Sequence
from typing import Any, Protocol, runtime_checkable

from rich.console import Console, Group
from rich.live import Live
from rich.text import Text

from vtune.reporting.notebook import publish
from vtune.reporting.output import is_terminal


_HTML = (
    '<pre style="white-space:pre;overflow-x:auto;line-height:1.25;font-family:Menlo,'
    "'DejaVu Sans Mono',consolas,'Courier New',monospace\">{code}</pre>"
)


@runtime_checkable
class Surface(Protocol):
    """Where a picture is drawn in the place of the one before."""

    @property
    def seconds_between_pictures(self) -> float:
        """How soon after a picture the next one may be drawn."""
        ...

    @property
    def size(self) -> tuple[int, int]:
        """Cells of a line, and lines."""
        ...

    def open(self) -> None:
        """Takes the place."""
        ...

    def show(self, picture: Sequence[Text]) -> None:
        """Draws a picture instead of the last one."""
        ...

    def note(self, message: str) -> None:
        """Shows a line that stays."""
        ...

    def close(self) -> None:
        """Gives the place back; the last picture stays."""
        ...


class TerminalSurface:
    """The lower end of a terminal. What is printed meanwhile appears above it.

    Args:
        console: an interactive console.
    """

    seconds_between_pictures = 0.2

    def __init__(self, console: Console):
        self._console = console
        # Pictures are rendered when they are shown: a thread of rich's own would draw
        # the same one again and again.
        # A stream that goes to a file has to go on going there.
        self._live = Live(
            console=console,
            auto_refresh=False,
            vertical_overflow="crop",
            redirect_stdout=is_terminal(sys.stdout),
            redirect_stderr=is_terminal(sys.stderr),
        )

    @property
    def size(self) -> tuple[int, int]:
        """The size of the terminal as it is now."""
        return self._console.width, self._console.height

    def open(self) -> None:
        """Hides the cursor and lets prints pass above the picture."""
        self._live.start()

    def show(self, picture: Sequence[Text]) -> None:
        """Draws over the last picture."""
        self._live.update(Group(*picture), refresh=True)

    def note(self, message: str) -> None:
        """Prints a line above the picture."""
        self._console.print(Text(message))

    def close(self) -> None:
        """Leaves the last picture and shows the cursor again."""
        try:
            self._live.stop()
        finally:
            self._console.show_cursor(True)


class NotebookSurface:
    """One output of a notebook's cell, replaced by its display id.

    `rich.live` needs ipywidgets in a notebook, shows nothing without, and leaves
    nothing in a saved notebook; an output with a display id works everywhere and stays.

    Args:
        console: says how wide the output is.
    """

    # Every picture is a message that the front end has to take in.
    seconds_between_pictures = 1.0

    def __init__(self, console: Console):
        self._width = console.width
        self._handle: Any = None
        self._picture: Sequence[Text] = ()
        self._notes: list[Text] = []

    @property
    def size(self) -> tuple[int, int]:
        """As wide as the console; long enough for every bracket."""
        return self._width, 100

    def open(self) -> None:
        """Does nothing: the output is made with the first picture."""

    def show(self, picture: Sequence[Text]) -> None:
        """Replaces the output."""
        self._picture = picture
        self._publish()

    def note(self, message: str) -> None:
        """Adds a line below the picture."""
        self._notes.append(Text(message))
        self._publish()

    def close(self) -> None:
        """Does nothing: the last output stays in the notebook."""

    def _publish(self) -> None:
        html, plain = _exports([*self._picture, *self._notes], self._width)
        self._handle = publish(html, plain, self._handle)


def _exports(lines: Sequence[Text], width: int) -> tuple[str, str]:
    """The lines as HTML and as plain text."""
    console = Console(
        file=io.StringIO(),
        record=True,
        width=width,
        force_jupyter=False,
        force_terminal=True,
        color_system="truecolor",
    )
    console.print(Group(*lines))
    html = console.export_html(inline_styles=True, code_format=_HTML, clear=False)
    return html, console.export_text()
