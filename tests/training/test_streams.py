"""Several programs run at a time, as JAX is set where they were sent off."""

import threading

import jax
import pytest

from vtune.training.fingerprint import cores
from vtune.training.streams import Streams, side_by_side, streams


def test_as_many_are_done_at_a_time_as_was_asked_for():
    both = threading.Barrier(2, timeout=30)
    assert side_by_side([both.wait, both.wait], 2) in ([0, 1], [1, 0])


def test_results_come_in_the_order_of_the_works():
    assert side_by_side([lambda n=n: n for n in range(20)], 3) == list(range(20))


def test_threads_have_the_settings_of_the_thread_that_asks():
    with jax.enable_x64(True):
        done = side_by_side([lambda: jax.config.jax_enable_x64] * 2, 2)
    assert done == [True, True]


def test_what_one_raises_is_raised():
    def fails():
        raise OSError("no")

    with pytest.raises(OSError, match="no"):
        side_by_side([fails, lambda: None], 2)


def test_a_cpu_runs_a_program_on_each_core():
    assert streams("cpu") == Streams(cores(), queued=False)
    assert streams("gpu").queued and streams("tpu").queued
