"""Epochs in a row, between which nothing is decided: packs side by side."""

import concurrent.futures
import dataclasses
import functools
import queue
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence

from vtune.training.pack import EpochData, EpochResult, Pack, begin_epoch, end_epoch
from vtune.training.streams import Streams
from vtune.training.surroundings import Surroundings
from vtune.training.turns import Turns


# A round begins once the last but one was told: the device does not wait for whoever is
# told, and who stops it then gets little more than was asked for.
_AHEAD = 2


@dataclasses.dataclass(frozen=True, eq=False)
class Outcome:
    """What an epoch of a pack gave.

    Args:
        pack: the pack after it; as it was before if the epoch failed.
        results: the result of each trial that was trained, or what kept them from it.
    """

    pack: Pack
    results: dict[int, EpochResult] | Exception


# What one round of epochs gave, by the place of each pack; packs that failed in an
# earlier round, or were stopped, are missing.
Round = dict[int, Outcome]


@dataclasses.dataclass(frozen=True)
class Halts:
    """What ends a stretch before its time; both are asked in any thread.

    Args:
        stop: is asked before each program runs, and now and then in a long epoch with
            the part of it that is done; true leaves the rest untrained.
        enough: is asked before each program runs; true has all packs catch up with the
            furthest, and none go further.
    """

    stop: Callable[[float], bool] = lambda done: False
    enough: Callable[[], bool] = lambda: False


class Stretch:
    """Trains packs for some epochs, without a pause between one and the next.

    On a device with a queue of its own a pack's next epoch is sent off before the
    figures of the last one have come back. On a CPU, where each program has a thread of
    this process, another pack's next epoch begins as soon as a thread is free.

    `packs` are as they are after what was sent off so far.

    Args:
        packs: the packs.
        epochs: the epochs that each trial to train has trained.
        names: the names of each pack's metrics.
        data: the data sets.
        streams: how programs run side by side.
        halts: what ends it early.
    """

    def __init__(
        self,
        packs: Sequence[Pack],
        epochs: Mapping[int, int],
        names: Sequence[Sequence[str]],
        data: EpochData,
        streams: Streams,
        halts: Halts,
    ):
        self.packs = list(packs)
        self._epochs = epochs
        self._names = names
        self._data = data
        self._streams = streams
        self._halts = halts
        self._outcomes: queue.SimpleQueue[tuple[int, int, Outcome] | None]
        self._outcomes = queue.SimpleQueue()

    def run(self, rounds: int) -> Generator[tuple[Round, int], None, None]:
        """Trains each pack for some epochs.

        If one fails, the others catch up with the furthest of them, and the stretch is
        over.

        Args:
            rounds: how many epochs.

        Yields:
            The outcomes of each round once it is complete, and how many rounds follow;
            asking for the next one says that this one was told. Where the stretch was
            stopped, the last rounds are incomplete.
        """
        turns = Turns(len(self.packs), rounds, _AHEAD)
        threads = self._streams.threads
        if not self._streams.queued:
            threads = min(threads, len(self.packs))
        work = functools.partial(self._work, turns, Surroundings.here())
        with concurrent.futures.ThreadPoolExecutor(threads, "vtune-stream") as pool:
            works = [pool.submit(work) for _ in range(threads)]
            try:
                yield from self._collected(turns, threads)
            finally:
                turns.end()
        for each in works:
            each.result()

    def _collected(self, turns: Turns, threads: int) -> Iterator[tuple[Round, int]]:
        """Puts what comes out of the threads together, until the last of them ends."""
        found: list[Round] = [{} for _ in range(turns.rounds)]
        left = set(range(len(self.packs)))
        done = 0
        while threads:
            outcome = self._outcomes.get()
            if outcome is None:
                threads -= 1
            else:
                item, turn, what = outcome
                found[turn][item] = what
            while done < len(found) and left and (left <= found[done].keys()):
                # What was sent off before a failure was known counts for nothing.
                some = {item: found[done][item] for item in left}
                yield some, turns.rounds - done - 1
                turns.tell()
                left = _healthy(some, left)
                done += 1
        for number, some in enumerate(found[done:], done):
            if some := {item: some[item] for item in left if item in some}:
                yield some, turns.rounds - number - 1
                left = _healthy(some, left)

    def _work(self, turns: Turns, surroundings: Surroundings) -> None:
        """Takes turns in one thread, until there are none."""
        try:
            with surroundings.applied():
                while (turn := self._next(turns)) is not None:
                    self._train(turns, *turn)
        except BaseException:
            turns.end()
            raise
        finally:
            self._outcomes.put(None)

    def _next(self, turns: Turns) -> tuple[int, int] | None:
        if self._halts.enough():
            turns.end_round()
        return turns.take()

    def _train(self, turns: Turns, item: int, turn: int) -> None:
        """Trains a pack for an epoch."""
        before, stop = self.packs[item], self._halts.stop
        epochs = {trial: epoch + turn for trial, epoch in self._epochs.items()}
        if stop(0.0):
            turns.end()
            return
        try:
            running = begin_epoch(before, epochs, self._data, stop)
            if running is None:
                turns.end()
                return
            self.packs[item] = running.pack
            if self._streams.queued:
                turns.give_back(item)
            outcome = Outcome(running.pack, end_epoch(running, self._names[item]))
        except Exception as error:
            turns.drop(item)
            outcome = Outcome(before, error)
        self._outcomes.put((item, turn, outcome))
        if not self._streams.queued:
            turns.give_back(item)


def _healthy(outcomes: Round, items: set[int]) -> set[int]:
    failed = {i for i, o in outcomes.items() if isinstance(o.results, Exception)}
    return items - failed
