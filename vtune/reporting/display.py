"""Displays: who shows a search's progress, where, and how often."""

import dataclasses
import importlib.util
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from types import TracebackType
from typing import Protocol, runtime_checkable

from rich.console import Console

from vtune.reporting.lines import PlainDisplay
from vtune.reporting.output import choose_console
from vtune.reporting.panel import draw
from vtune.reporting.progress import Progress
from vtune.reporting.surfaces import NotebookSurface, Surface, TerminalSurface
from vtune.reporting.text import clean, shorten


@runtime_checkable
class Display(Protocol):
    """Shows records of progress to a person.

    It is opened and closed as a context manager, and nothing that it meets while it
    shows something is an error for the search.
    """

    def update(self, progress: Progress) -> None:
        """Shows this record from now on; returns at once."""
        ...

    def note(self, message: str) -> None:
        """Shows a line that stays, such as a warning."""
        ...

    def close(self) -> None:
        """Shows the last record once more and leaves the screen in order."""
        ...

    def __enter__(self) -> "Display":
        """Begins to show."""
        ...

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Closes, also after an exception."""
        ...


class SilentDisplay:
    """Shows nothing."""

    def update(self, progress: Progress) -> None:
        """Does nothing."""
        del progress

    def note(self, message: str) -> None:
        """Does nothing."""
        del message

    def close(self) -> None:
        """Does nothing."""

    def __enter__(self) -> "SilentDisplay":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        del kind, error, traceback


class LiveDisplay:
    """A picture that is drawn over and over in its place, by a thread of its own.

    The search only leaves its newest record here; how often it is drawn, and that the
    clock goes on between two records, is the thread's business.

    Args:
        surface: where the picture is.
    """

    def __init__(self, surface: Surface):
        self._surface = surface
        self._lock = threading.RLock()
        self._closing = threading.Event()
        self._thread = threading.Thread(
            target=self._draw_repeatedly, name="vtune-display", daemon=True
        )
        self._progress: Progress | None = None
        self._received = 0.0
        self._drawn = 0.0
        self._noted: set[str] = set()
        self._broken = False

    def update(self, progress: Progress) -> None:
        """Leaves a record for the thread to draw; shows its new notes at once."""
        self._progress, self._received = progress, time.monotonic()
        for message in progress.notes:
            if message not in self._noted:
                self._noted.add(message)
                self.note(message)

    def note(self, message: str) -> None:
        """Shows a line above the picture, or below it in a notebook."""
        self._attempt(lambda: self._surface.note(clean(message)))

    def close(self) -> None:
        """Draws the last record and gives the screen back."""
        if self._closing.is_set():
            return
        self._closing.set()
        try:
            if self._thread.is_alive():
                self._thread.join(timeout=2.0)
            self._attempt(self._draw)
        finally:
            with self._lock, suppress(Exception):
                self._surface.close()

    def __enter__(self) -> "LiveDisplay":
        self._attempt(self._surface.open)
        self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        del kind, error, traceback
        self.close()

    def _draw_repeatedly(self) -> None:
        while not self._closing.wait(self._surface.seconds_between_pictures):
            now = time.monotonic()
            if self._received > self._drawn or now - self._drawn >= 1.0:
                self._attempt(self._draw)

    def _draw(self) -> None:
        progress, now = self._progress, time.monotonic()
        self._drawn = now
        if progress is None:
            return
        if not progress.finished:
            seconds = progress.seconds + now - self._received
            progress = dataclasses.replace(progress, seconds=seconds)
        width, height = self._surface.size
        self._surface.show(draw(progress, width=width, height=height))

    def _attempt(self, action: Callable[[], None]) -> None:
        """Does something on the surface; after a first error, nothing any more."""
        with self._lock:
            if self._broken:
                return
            try:
                action()
            except Exception as error:
                self._broken = True
                with suppress(Exception):
                    self._surface.close()
                with suppress(Exception):
                    reason = shorten(f"{type(error).__name__}: {error}", 120)
                    print(f"The display stopped, the search goes on. {reason}")


def open_display(verbose: int = 1, console: Console | None = None) -> Display:
    """The display that suits the place where the output goes.

    Args:
        verbose: 0 shows nothing; 1 shows a live picture in a terminal or notebook and
            plain lines elsewhere; 2 shows plain lines everywhere.
        console: where to show it; rich's own console for standard output when omitted.

    Returns:
        A display, to be used as `with open_display(verbose) as display:`.

    Raises:
        ValueError: if `verbose` is none of these.
    """
    if verbose not in (0, 1, 2):
        raise ValueError(
            "`verbose` is 0 (silent), 1 (a live display, or plain lines where there is "
            f"no terminal) or 2 (plain lines), got {verbose!r}."
        )
    if verbose == 0:
        return SilentDisplay()
    console, capable = choose_console(console)
    if verbose == 2 or not capable:
        return PlainDisplay(console)
    if not console.is_jupyter:
        return LiveDisplay(TerminalSurface(console))
    if importlib.util.find_spec("IPython"):
        return LiveDisplay(NotebookSurface(console))
    return PlainDisplay(console)
