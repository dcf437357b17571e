"""Turns of several things side by side: whose is next, and how many there will be."""

import threading


class Turns:
    """Gives turns to items, each of which has the same number of them, to any thread.

    An item's turns follow each other, and it begins one only when all items have begun
    the one before. So a round begins before the one before it has ended, wherever an
    item is free, and no item is far ahead of another.

    Args:
        items: how many items there are.
        rounds: how many turns each has.
        ahead: how many rounds may have begun that nobody was told of.
    """

    def __init__(self, items: int, rounds: int, ahead: int):
        self._changed = threading.Condition()  # its lock can be taken again
        self._rounds = rounds
        self._open = ahead
        self._left = list(range(items))
        self._free = set(self._left)
        self._round = 0
        self._waiting = list(self._left)
        self._begun = 0

    @property
    def rounds(self) -> int:
        """How many turns an item has that is not dropped, as far as is known."""
        return self._rounds

    def take(self) -> tuple[int, int] | None:
        """Waits for a turn.

        Returns:
            The item and its turn, counted from 0; None if there will be none.
        """
        with self._changed:
            while self._waiting and self._round < self._rounds:
                item = next((i for i in self._waiting if i in self._free), None)
                if item is None or self._round >= self._open:
                    self._changed.wait()
                    continue
                turn = self._round
                self._begun = turn + 1
                self._free.remove(item)
                self._waiting.remove(item)
                self._advance()
                return item, turn
            return None

    def tell(self) -> None:
        """Says that somebody was told of a further round."""
        with self._changed:
            self._open += 1
            self._changed.notify_all()

    def give_back(self, item: int) -> None:
        """Says that an item can have its next turn.

        Args:
            item: which.
        """
        with self._changed:
            self._free.add(item)
            self._changed.notify_all()

    def drop(self, item: int) -> None:
        """Says that an item has no further turn, and that no further round begins.

        Args:
            item: which.
        """
        with self._changed:
            for items in (self._left, self._waiting):
                if item in items:
                    items.remove(item)
            self.end_round()
            self._advance()

    def end_round(self) -> None:
        """Lets all items catch up with the furthest, at least to one turn each."""
        with self._changed:
            self._rounds = min(self._rounds, max(1, self._begun))
            self._changed.notify_all()

    def end(self) -> None:
        """Has no turn begin any more."""
        with self._changed:
            self._rounds = min(self._rounds, self._begun)
            self._left, self._waiting = [], []
            self._changed.notify_all()

    def _advance(self) -> None:
        """Has the next round begin once all items have begun the last one."""
        if not self._waiting:
            self._round += 1
            self._waiting = list(self._left)
            self._changed.notify_all()
