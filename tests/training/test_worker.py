"""Work in a thread beside the user's own."""

import threading
import time

import jax
import pytest

from vtune.training.surroundings import Surroundings
from vtune.training.worker import Worker


@pytest.fixture
def worker():
    worker = Worker()
    yield worker
    worker.close()


def test_work_is_done_in_another_thread_and_its_result_comes_back(worker):
    thread = worker.do(threading.current_thread, lambda: False)
    assert thread is not threading.current_thread()
    assert worker.do(threading.current_thread, lambda: False) is thread


def test_meanwhile_is_called_here_until_the_work_is_done(worker):
    enough, threads = threading.Event(), []

    def meanwhile():
        threads.append(threading.current_thread())
        if len(threads) == 3:
            enough.set()
        return len(threads) < 3

    assert worker.do(lambda: enough.wait(60), meanwhile)
    assert len(threads) >= 3
    assert set(threads) == {threading.current_thread()}


def test_work_that_is_done_at_once_is_waited_for(worker):
    def meanwhile():
        raise AssertionError("there was no time for this")

    assert worker.do(lambda: 7, meanwhile) == 7


@pytest.mark.parametrize("kind", [ValueError, KeyboardInterrupt, TimeoutError])
def test_what_work_raises_is_raised_here(worker, kind):
    def work():
        raise kind("reason")

    with pytest.raises(kind, match="reason"):
        worker.do(work, lambda: False)


def test_news_are_heard_at_once_however_long_the_pause_is(worker, monkeypatch):
    monkeypatch.setattr("vtune.training.worker._PAUSE", 60.0)
    heard = threading.Event()

    def work():
        for _ in range(3):
            heard.clear()
            worker.wake()
            assert heard.wait(30)

    def meanwhile():
        heard.set()
        return False

    worker.do(work, meanwhile)


def test_work_can_see_that_it_is_not_wanted_any_more(worker):
    def work():
        deadline = time.monotonic() + 30
        while not worker.is_abandoned:
            assert time.monotonic() < deadline

    def meanwhile():
        raise ValueError("reason")

    with pytest.raises(ValueError, match="reason"):
        worker.do(work, meanwhile)
    assert worker.do(lambda: not worker.is_abandoned, lambda: False)


def test_what_meanwhile_raises_waits_for_the_work(worker):
    done = []

    def work():
        time.sleep(0.2)
        done.append(True)

    def meanwhile():
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        worker.do(work, meanwhile)
    assert done


SETTINGS = [
    (jax.enable_x64, True),
    (jax.default_matmul_precision, "float32"),
    (jax.default_prng_impl, "rbg"),
    (jax.numpy_dtype_promotion, "strict"),
    (jax.threefry_partitionable, False),
    (jax.default_device, jax.devices()[0]),
]


@pytest.mark.parametrize(("setting", "value"), SETTINGS)
def test_jax_is_set_there_as_it_was_here(setting, value):
    outside = Surroundings.here()
    with setting(value):
        worker, inside = Worker(), Surroundings.here()
    assert inside != outside
    try:
        assert worker.do(Surroundings.here, lambda: False) == inside
    finally:
        worker.close()
    assert Surroundings.here() == outside


def test_settings_differ_by_their_hash_as_well():
    assert len({Surroundings.here(), Surroundings.here()}) == 1
