"""What a search sets in Python's interpreter, and that it is as before afterwards."""

import gc
import sys

import pytest

from tests.test_study import random_search, search
from vtune.interpreter import INTERPRETER


@pytest.fixture
def before():
    found = gc.get_threshold(), sys.getswitchinterval()
    yield found
    gc.set_threshold(*found[0])
    sys.setswitchinterval(found[1])


def settings():
    return gc.get_threshold(), sys.getswitchinterval()


class Watching:
    def __init__(self):
        self.seen = []

    def on_epoch_end(self, trial, epoch, metrics):
        self.seen.append(settings())


def test_a_search_changes_the_settings_and_puts_them_back(before):
    gc.set_threshold(500, 7, 8)
    sys.setswitchinterval(0.005)
    watching = Watching()
    search(random_search(), callbacks=[watching])
    assert watching.seen
    for (threshold, *others), interval in watching.seen:
        assert threshold > 10_000 and others == [7, 8]
        assert interval < 0.001
    assert settings() == ((500, 7, 8), 0.005)


def test_a_search_that_fails_puts_them_back(before):
    class Broken:
        def on_epoch_end(self, trial, epoch, metrics):
            raise RuntimeError("my callback")

    with pytest.raises(RuntimeError, match="my callback"):
        search(random_search(), callbacks=[Broken()])
    assert settings() == before


@pytest.mark.parametrize("own", [0, 50_000])
def test_who_wants_it_more_seldom_or_never_is_left_alone(before, own):
    gc.set_threshold(own)
    with INTERPRETER.searching():
        assert gc.get_threshold()[0] == own
    assert gc.get_threshold()[0] == own


@pytest.mark.parametrize("own", [0.0001, 0.02])
def test_who_has_set_how_often_threads_take_turns_is_left_alone(before, own):
    sys.setswitchinterval(own)
    set_ = sys.getswitchinterval()  # to the microsecond
    with INTERPRETER.searching():
        assert sys.getswitchinterval() == set_
    assert sys.getswitchinterval() == set_


def test_the_last_of_several_puts_them_back(before):
    first, second = INTERPRETER.searching(), INTERPRETER.searching()
    first.__enter__()
    changed = settings()
    second.__enter__()
    first.__exit__(None, None, None)
    assert settings() == changed != before
    second.__exit__(None, None, None)
    assert settings() == before
