"""Programs that the device has no memory for, and what is done about them."""

import dataclasses
from collections.abc import Sequence

import jax

from vtune.training.plan import LADDER
from vtune.training.slices import Epoch


# The part of the device's memory that is planned with: JAX's allocator loses some of it
# between what is in use.
_PLANNED = 0.8


@dataclasses.dataclass(frozen=True)
class Overflow:
    """A program does not fit into the device's memory; one with fewer lanes may.

    Args:
        cohort: the number of its cohort.
        lanes: the most lanes that the cohort's programs have from now on.
        trials: the trials in its lanes, ascending.
        program: its identity; empty if it could not even be compiled.
        reason: what the device said, or what was planned.
        planned: whether it was not even tried.
    """

    cohort: int
    lanes: int
    trials: tuple[int, ...]
    program: str
    reason: str
    planned: bool = False

    def joined(self, other: "Overflow | None") -> "Overflow":
        """The same for the trials of another program of the cohort as well.

        Args:
            other: what is known of that, or None.
        """
        more = () if other is None else other.trials
        return dataclasses.replace(self, trials=tuple(sorted({*self.trials, *more})))


class TooLarge(RuntimeError):
    """A program needs more memory than is planned with."""


def check_size(needed: int, most: float, lanes: int) -> None:
    """Refuses a program that is known to be too large, unless it has a single lane.

    Args:
        needed: the bytes that it needs.
        most: the bytes that a program may need.
        lanes: its lanes.

    Raises:
        TooLarge: if it is refused.
    """
    if needed > most and lanes > 1:
        raise TooLarge(
            f"it needs {needed / 2**30:.1f} GiB, and {most / 2**30:.1f} GiB of the "
            "device are planned with"
        )


def overflowed(
    cohort: int,
    lanes: int,
    trials: Sequence[int],
    program: Epoch | None,
    error: Exception,
) -> Overflow | None:
    """What is done about a program that failed, if it was too large.

    Args:
        cohort: the number of its cohort.
        lanes: its lanes.
        trials: the trials in them.
        program: the program; None if it could not be compiled.
        error: how it failed.

    Returns:
        Half the lanes, or fewer; None where the memory was not what it lacked, or a
        single lane is too large.
    """
    half = max((n for n in (1, *LADDER) if n <= lanes // 2), default=None)
    planned = isinstance(error, TooLarge)
    if half is None or not (planned or is_out_of_memory(error)):
        return None
    identity = "" if program is None else program.identity
    reason = str(error).partition("\n")[0]
    return Overflow(cohort, half, tuple(sorted(trials)), identity, reason, planned)


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an exception says that the device has no memory left."""
    return isinstance(error, jax.errors.JaxRuntimeError | MemoryError) and (
        "RESOURCE_EXHAUSTED" in str(error) or "out of memory" in str(error).lower()
    )


def planned_bytes(limit: int | None) -> float:
    """How much memory a program may need.

    Args:
        limit: the bytes that the device has, as far as is known.
    """
    return float("inf") if limit is None else _PLANNED * limit
