"""The epochs of one model's training, a line each."""

import time
from collections.abc import Mapping

from rich.console import Console

from vtune.reporting.output import choose_console, write_lines
from vtune.reporting.text import duration, score


class EpochLines:
    """Writes a line when an epoch ends.

    Args:
        epochs: how many there will be.
        verbose: 0 for silence.
        console: a console; None for standard output.

    Raises:
        ValueError: for another `verbose` than 0, 1 and 2.
    """

    def __init__(self, epochs: int, verbose: int, console: Console | None = None):
        if verbose not in (0, 1, 2):
            raise ValueError(f"`verbose` is 0, 1 or 2, got {verbose!r}.")
        self._epochs = epochs
        self._console = None if verbose == 0 else choose_console(console)[0]
        self._started = time.perf_counter()

    def epoch_end(self, epoch: int, metrics: Mapping[str, float]) -> None:
        """Writes the line of an epoch.

        Args:
            epoch: which one, counted from 0.
            metrics: its metrics by name.
        """
        if self._console is not None:
            seconds = time.perf_counter() - self._started
            line = epoch_line(epoch, self._epochs, metrics)
            write_lines(self._console, f"[{duration(seconds)}] {line}")


def epoch_line(epoch: int, epochs: int, metrics: Mapping[str, float]) -> str:
    """The metrics of an epoch in a line: `epoch  3/10  loss 0.4210  val_loss 0.4523`.

    Args:
        epoch: which one, counted from 0.
        epochs: how many there will be.
        metrics: its metrics by name.

    Returns:
        The line; epochs in it count from 1.
    """
    values = "".join(f"  {name} {score(value)}" for name, value in metrics.items())
    return f"epoch {epoch + 1:>{len(str(epochs))}}/{epochs}{values}"
