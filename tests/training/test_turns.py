"""Turns: in order, side by side, none far ahead, and all the same number."""

import random
import threading
import time

import hypothesis
import hypothesis.strategies as st

from vtune.training.turns import Turns


def played(turns, seed, events=()):
    """Plays on one thread: gives back in any order; returns the turns in theirs.

    Args:
        turns: the turns.
        seed: of the order.
        events: for the number of turns taken what is done then.
    """
    moments = random.Random(seed)
    taken, held = [], []
    events = dict(events)
    while True:
        if event := events.pop(len(taken), None):
            event()
        # A turn is there now, or one has to be given back before it is.
        ready = [i for i in turns._waiting if i in turns._free]
        if turns._round < turns.rounds and ready:
            turn = turns.take()
            assert turn is not None
            taken.append(turn)
            held.append(turn[0])
        elif held:
            turns.give_back(held.pop(moments.randrange(len(held))))
        else:
            assert turns.take() is None
            return taken


@hypothesis.given(st.integers(1, 5), st.integers(1, 6), st.integers())
def test_each_item_has_all_its_turns_in_their_order(items, rounds, seed):
    taken = played(Turns(items, rounds, rounds), seed)
    for item in range(items):
        assert [turn for i, turn in taken if i == item] == list(range(rounds))
    # All have begun a round before any begins the next.
    assert [turn for _, turn in taken] == sorted(turn for _, turn in taken)


@hypothesis.given(
    st.integers(1, 5), st.integers(1, 6), st.integers(), st.integers(0, 20)
)
def test_a_round_that_is_ended_is_the_last_for_all(items, rounds, seed, after):
    turns = Turns(items, rounds, rounds)
    taken = played(turns, seed, {after: turns.end_round})
    counts = [sum(i == item for i, _ in taken) for item in range(items)]
    assert len(set(counts)) == 1 and counts[0] == turns.rounds
    if after < items * rounds:
        assert counts[0] == max(1, -(-after // items))


@hypothesis.given(
    st.integers(1, 5), st.integers(1, 6), st.integers(), st.integers(1, 20)
)
def test_what_is_dropped_ends_the_round_for_the_others(items, rounds, seed, after):
    turns = Turns(items, rounds, rounds)
    dropped = []

    def drop():
        dropped.append(taken_by[-1])
        turns.drop(taken_by[-1])

    taken_by = []
    take = turns.take

    def watched():
        turn = take()
        if turn is not None:
            taken_by.append(turn[0])
        return turn

    turns.take = watched
    taken = played(turns, seed, {after: drop})
    last = max(turn for _, turn in taken)
    assert turns.rounds == last + 1
    for item in set(range(items)) - set(dropped):
        assert [turn for i, turn in taken if i == item] == list(range(last + 1))


@hypothesis.given(
    st.integers(1, 5), st.integers(1, 6), st.integers(), st.integers(0, 20)
)
def test_nothing_begins_after_the_end(items, rounds, seed, after):
    turns = Turns(items, rounds, rounds)
    taken = played(turns, seed, {after: turns.end})
    assert len(taken) == min(after, items * rounds)


def test_threads_share_the_turns_and_all_end():
    turns = Turns(3, 50, 50)
    taken, active, most = [], [], []

    def work():
        while (turn := turns.take()) is not None:
            active.append(turn[0])
            assert active.count(turn[0]) == 1
            most.append(len(active))
            time.sleep(0.0005)
            active.remove(turn[0])
            taken.append(turn)
            turns.give_back(turn[0])

    threads = [threading.Thread(target=work) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
        assert not thread.is_alive()
    assert sorted(taken) == [(i, turn) for i in range(3) for turn in range(50)]
    assert max(most) == 2


def test_a_round_begins_once_the_last_but_one_was_told():
    turns = Turns(2, 5, 2)
    ended = []

    def work():
        while (turn := turns.take()) is not None:
            ended.append(turn[1])
            turns.give_back(turn[0])

    thread = threading.Thread(target=work)
    thread.start()
    for told in range(5):
        time.sleep(0.05)
        assert ended == [n for n in range(min(told + 2, 5)) for _ in range(2)]
        turns.tell()
    thread.join(30)
    assert not thread.is_alive()
