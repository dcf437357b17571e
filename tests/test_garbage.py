"""Python looks for garbage seldom during a search, and as before afterwards."""

import gc

import pytest

from tests.test_study import random_search, search
from vtune.garbage import THRESHOLD


@pytest.fixture
def before():
    found = gc.get_threshold()
    yield found
    gc.set_threshold(*found)


class Watching:
    def __init__(self):
        self.seen = set()

    def on_epoch_end(self, trial, epoch, metrics):
        self.seen.add(gc.get_threshold()[0])


def test_a_search_raises_the_threshold_and_puts_it_back(before):
    gc.set_threshold(500, 7, 8)
    watching = Watching()
    search(random_search(), callbacks=[watching])
    assert min(watching.seen) > 10_000
    assert gc.get_threshold() == (500, 7, 8)


def test_a_search_that_fails_puts_it_back(before):
    class Broken:
        def on_epoch_end(self, trial, epoch, metrics):
            raise RuntimeError("my callback")

    with pytest.raises(RuntimeError, match="my callback"):
        search(random_search(), callbacks=[Broken()])
    assert gc.get_threshold() == before


@pytest.mark.parametrize("own", [0, 50_000])
def test_who_wants_it_more_seldom_or_never_is_left_alone(before, own):
    gc.set_threshold(own)
    with THRESHOLD.raised():
        assert gc.get_threshold()[0] == own
    assert gc.get_threshold()[0] == own


def test_the_last_of_several_puts_it_back(before):
    first, second = THRESHOLD.raised(), THRESHOLD.raised()
    first.__enter__()
    raised = gc.get_threshold()
    second.__enter__()
    first.__exit__(None, None, None)
    assert gc.get_threshold() == raised != before
    second.__exit__(None, None, None)
    assert gc.get_threshold() == before
