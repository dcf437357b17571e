"""Programs are compiled once, whoever asks for them, whenever and in which thread."""

import concurrent.futures
import subprocess
import sys
import threading

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, strategies as st

from vtune.training import compile
from vtune.training.ahead import Ahead
from vtune.training.compile import (
    Compiling,
    Program,
    ProgramCache,
    Request,
    compile_all,
)


NUMBER = jax.ShapeDtypeStruct((), np.float32)


class Work:
    """Requests that take down when they are begun, and wait for the test to say so."""

    def __init__(self):
        self.begun: list[int] = []
        self.most = 0
        self.go = threading.Event()
        self.news = threading.Condition()
        self._under_way = 0

    def request(self, number: int, waits: bool = False, fails: bool = False) -> Request:
        def function(x):
            with self.news:
                self.begun.append(number)
                self._under_way += 1
                self.most = max(self.most, self._under_way)
                self.news.notify_all()
            if waits:
                assert self.go.wait(60)
            with self.news:
                self._under_way -= 1
            if fails:
                raise FloatingPointError(f"number {number}")
            return x + number

        return Request(("test", self, number), function, (NUMBER,), quick=True)

    def wait_for(self, count: int) -> None:
        with self.news:
            assert self.news.wait_for(lambda: len(self.begun) >= count, 60)


@pytest.fixture
def work():
    work = Work()
    yield work
    work.go.set()


@pytest.fixture
def ahead():
    ahead = Ahead()
    yield ahead
    ahead.stop()


@pytest.fixture
def in_threads():
    with concurrent.futures.ThreadPoolExecutor(8) as pool:
        yield pool


def test_the_results_are_in_the_order_of_the_requests(work):
    numbers = [3, 1, 3, 2]
    programs, seconds = compile_all([work.request(number) for number in numbers])
    assert [float(program(np.float32(0))) for program in programs] == numbers
    assert sorted(work.begun) == [1, 2, 3]
    assert seconds > 0
    again, seconds = compile_all([work.request(number) for number in numbers])
    assert again == programs
    assert seconds == 0
    assert sorted(work.begun) == [1, 2, 3]


def test_what_is_waited_for_is_there_before_the_rest(work):
    first, second = work.request(1), work.request(2, waits=True)
    with Compiling([first, second, work.request(1)]) as compiling:
        (program,) = compiling.programs([first])
        assert float(program(np.float32(0))) == 1
        work.go.set()
        programs = compiling.programs([second, first])
    assert [float(each(np.float32(0))) for each in programs] == [2, 1]
    assert compiling.seconds > 0


def test_many_threads_that_ask_at_once_compile_once(work, in_threads):
    start = threading.Barrier(8)

    def ask(first):
        start.wait(60)
        numbers = [(first + number) % 4 for number in range(4)]
        programs, _ = compile_all([work.request(number) for number in numbers])
        return dict(zip(numbers, programs))

    found = list(in_threads.map(ask, range(8)))
    assert sorted(work.begun) == [0, 1, 2, 3]
    assert all(programs == found[0] for programs in found)
    assert [float(found[0][n](np.float32(1))) for n in range(4)] == [1, 2, 3, 4]


def test_all_who_wait_hear_of_a_failure_and_the_next_tries_again(work, in_threads):
    def ask():
        ((found,), _) = compile_all([work.request(1, waits=True, fails=True)])
        return found

    asked = [in_threads.submit(ask) for _ in range(3)]
    work.wait_for(1)
    work.go.set()
    for future in asked:
        with pytest.raises(FloatingPointError, match="number 1"):
            raise future.result()
    before = len(work.begun)
    ((found,), _) = compile_all([work.request(1)])
    assert float(found(np.float32(1))) == 2
    assert len(work.begun) == before + 1


def test_one_failure_leaves_the_others_alone(work):
    requests = [work.request(number, fails=number == 1) for number in range(3)]
    (first, failed, last), _ = compile_all(requests)
    assert isinstance(failed, FloatingPointError)
    assert float(first(np.float32(1))) == 1
    assert float(last(np.float32(1))) == 3


def test_after_an_interruption_nothing_more_is_begun(work, monkeypatch):
    monkeypatch.setattr(compile, "cores", lambda: 1)
    texts = []

    def report(text):
        texts.append(text)
        if len(texts) == 2:
            raise KeyboardInterrupt

    requests = [work.request(number) for number in range(9)]
    with pytest.raises(KeyboardInterrupt):
        compile_all(requests, report)
    assert texts == ["compiling 9 programs", "compiling 8 programs"]
    assert len(work.begun) < 9
    programs, _ = compile_all(requests)
    assert [float(program(np.float32(0))) for program in programs] == list(range(9))
    assert sorted(work.begun) == list(range(9))


def test_what_is_under_way_ahead_is_waited_for(work, ahead, in_threads):
    ahead.begin([work.request(1, waits=True)])
    work.wait_for(1)
    asked = in_threads.submit(compile_all, [work.request(1), work.request(2)])
    work.wait_for(2)
    assert not asked.done()
    work.go.set()
    programs, _ = asked.result(60)
    assert [float(program(np.float32(0))) for program in programs] == [1, 2]
    assert work.begun == [1, 2]


def test_what_has_not_begun_ahead_is_taken_over(work, ahead, monkeypatch):
    monkeypatch.setattr("vtune.training.ahead.cores", lambda: 1)
    ahead.begin([work.request(1, waits=True), work.request(2), work.request(3)])
    work.wait_for(1)
    compile_all([work.request(3)])
    assert work.begun == [1, 3]
    work.go.set()
    work.wait_for(3)
    compile_all([work.request(1), work.request(2), work.request(3)])
    assert work.begun == [1, 3, 2]


@pytest.mark.parametrize(("cores", "threads"), [(1, 1), (2, 1), (4, 3)])
def test_one_core_is_left_to_what_cannot_wait(work, ahead, monkeypatch, cores, threads):
    monkeypatch.setattr("vtune.training.ahead.cores", lambda: cores)
    requests = [work.request(number, waits=True) for number in range(threads)]
    for request in requests:  # one by one: a thread that is free is used
        ahead.begin([request])
    work.wait_for(threads)
    ahead.begin([work.request(threads + number) for number in range(6)])
    work.go.set()
    work.wait_for(threads + 6)
    assert work.most == threads
    assert sorted(work.begun) == list(range(threads + 6))


def test_what_was_asked_for_before_is_not_begun_again(work, ahead, monkeypatch):
    monkeypatch.setattr("vtune.training.ahead.cores", lambda: 1)
    ahead.begin([work.request(1, waits=True)])
    work.wait_for(1)
    for _ in range(3):
        ahead.begin([work.request(1), work.request(2, fails=True)])
    work.go.set()
    ahead.begin([work.request(3)])
    work.wait_for(3)
    assert work.begun == [1, 2, 3]


def test_a_stop_ends_what_has_not_begun_and_keeps_the_rest(work, ahead, monkeypatch):
    monkeypatch.setattr("vtune.training.ahead.cores", lambda: 1)
    ahead.begin([work.request(1, waits=True), work.request(2)])
    work.wait_for(1)
    ahead.stop()
    work.go.set()
    compile_all([work.request(1)])
    assert work.begun == [1]
    ahead.begin([work.request(2)])
    work.wait_for(2)
    compile_all([work.request(2)])
    assert work.begun == [1, 2]


def test_a_failure_ahead_is_told_by_whoever_needs_the_program(work, ahead):
    ahead.begin([work.request(1, fails=True), work.request(2)])
    work.wait_for(2)
    (failed, found), _ = compile_all([work.request(1, fails=True), work.request(2)])
    assert isinstance(failed, FloatingPointError)
    assert float(found(np.float32(0))) == 2
    assert work.begun.count(2) == 1


def test_jax_is_set_ahead_as_it_was_here(work, ahead):
    def request():
        return Request(
            ("test", work, "x64"), lambda: jnp.sin(jnp.arange(3.0)), (), quick=True
        )

    with jax.enable_x64(True):
        ahead.begin([request()])
        ((wide,), _) = compile_all([request()])
    ((narrow,), _) = compile_all([request()])
    assert wide().dtype == np.float64
    assert narrow().dtype == np.float32


# Each of these waits until the main thread has ended, and only then is compiled.
LEAVING = """
import threading, time
import jax, numpy as np
from vtune.training.ahead import Ahead
from vtune.training.compile import Request

begun = threading.Event()

def request(number):
    def function(x):
        print("begun", flush=True)
        begun.set()
        while threading.main_thread().is_alive():
            time.sleep(0.01)
        return x + number
    shape = jax.ShapeDtypeStruct((), np.float32)
    return Request(("test", number), function, (shape,), quick=True)

Ahead().begin([request(number) for number in range(40)])
begun.wait()
{end}
"""


@pytest.mark.parametrize("end", ["", "raise KeyboardInterrupt"])
def test_python_ends_without_beginning_the_rest(end):
    done = subprocess.run(
        [sys.executable, "-c", LEAVING.format(end=end)],
        capture_output=True,
        text=True,
        timeout=120,
    )
    threads = max(1, compile.cores() - 1)
    assert 1 <= done.stdout.count("begun") <= threads
    assert (done.returncode == 0) == (end == "")
    assert done.stderr.count("Traceback") == (end != "")


@given(st.lists(st.integers(0, 9)), st.integers(1, 5))
def test_the_program_that_was_not_used_for_longest_is_dropped(keys, kept):
    cache = ProgramCache(kept)
    held: list[int] = []
    for key in keys:
        made = []
        cache.compiled(key, lambda: made.append(key) or Program(lambda: key, ""))
        assert bool(made) == (key not in held)
        held = [*(other for other in held if other != key), key][-kept:]
    for key in range(10):
        program = cache.get(key)
        assert (program is not None) == (key in held)
        assert program is None or program() == key
