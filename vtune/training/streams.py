"""Programs that run side by side, each in a thread of its own."""

import concurrent.futures
import dataclasses
from collections.abc import Callable, Sequence
from typing import TypeVar

from vtune.training.fingerprint import cores
from vtune.training.surroundings import Surroundings


Result = TypeVar("Result")

# Programs that are on their way to a device with a queue of its own: enough that it
# never waits for the host, few enough that Ctrl-C is answered soon.
_QUEUED = 3


@dataclasses.dataclass(frozen=True)
class Streams:
    """How programs run side by side.

    Args:
        threads: how many threads send programs off and wait for them.
        queued: whether the device has a queue of its own, in which a program waits for
            the one whose results it takes.
    """

    threads: int
    queued: bool


def streams(platform: str) -> Streams:
    """How programs run side by side.

    JAX runs what one thread sends to a CPU one after another, and most operations of a
    small network keep one core busy only.

    Args:
        platform: `"cpu"`, `"gpu"` or `"tpu"`.

    Returns:
        On a CPU a thread for each core that this process may use.
    """
    if platform == "cpu":
        return Streams(cores(), queued=False)
    return Streams(_QUEUED, queued=True)


def side_by_side(works: Sequence[Callable[[], Result]], threads: int) -> list[Result]:
    """Does several things in threads, in the order given, as JAX is set here.

    Args:
        works: what is to be done.
        threads: how many are done at a time.

    Returns:
        What each of `works` returns.

    Raises:
        BaseException: the first that one of `works` raises.
    """
    if len(works) == 1:
        return [works[0]()]
    surroundings = Surroundings.here()

    def surrounded(work: Callable[[], Result]) -> Result:
        with surroundings.applied():
            return work()

    with concurrent.futures.ThreadPoolExecutor(threads, "vtune-stream") as pool:
        return list(pool.map(surrounded, works))
