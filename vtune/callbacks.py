"""Callbacks: what a user's object may be told, in `fit` and in `search`."""

from collections.abc import Mapping, Sequence
from typing import Any

from vtune.trial import Trial


_METHODS = ("on_epoch_end", "on_trial_end", "on_train_end")


class Callbacks:
    """Several callbacks as one; methods that an object lacks are skipped.

    Args:
        callbacks: the user's objects.
        where: `"fit"` or `"search"`, for messages.

    Raises:
        TypeError: if an object has none of the methods, so that it would never be told.
    """

    def __init__(self, callbacks: Sequence[Any], *, where: str):
        if not isinstance(callbacks, Sequence):
            raise TypeError(f"`{where}(callbacks=...)` takes a list of callbacks.")
        for callback in callbacks:
            if not any(callable(getattr(callback, name, None)) for name in _METHODS):
                raise TypeError(
                    f"`{where}(callbacks=...)` got a {type(callback).__name__}, which "
                    f"has none of the methods {', '.join(_METHODS)}."
                )
        self._callbacks = tuple(callbacks)

    def fit_epoch_end(self, epoch: int, metrics: Mapping[str, float]) -> None:
        """An epoch of `fit` ended; epochs count from 0."""
        self._call("on_epoch_end", epoch, dict(metrics))

    def epoch_end(self, trial: Trial, epoch: int, metrics: Mapping[str, float]) -> None:
        """An epoch of a trial ended; epochs count from 0."""
        self._call("on_epoch_end", trial, epoch, dict(metrics))

    def trial_end(self, trial: Trial) -> None:
        """A trial ended, in whatever way."""
        self._call("on_trial_end", trial)

    def train_end(self) -> None:
        """The search, or the fit, ended."""
        self._call("on_train_end")

    def _call(self, name: str, *arguments: Any) -> None:
        for callback in self._callbacks:
            method = getattr(callback, name, None)
            if method is not None:
                method(*arguments)
