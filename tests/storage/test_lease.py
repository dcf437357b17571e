"""The lease: one process at a time, whatever the others do or leave behind."""

import contextlib
import dataclasses
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from hypothesis import given, strategies as st

from vtune.storage import lease as module, process as processes
from vtune.storage.failure import StorageError
from vtune.storage.lease import STALE_SECONDS, Holder, Lease
from vtune.storage.process import is_alive


ROOT = Path(__file__).parent.parent.parent
NO_PROCESS = 2**31 - 1
TOKEN = "0123456789abcdef"
DEAD = Holder("here", NO_PROCESS, None, TOKEN, 1_700_000_000, 1_700_000_100)
ELSEWHERE = dataclasses.replace(DEAD, host="elsewhere", pid=7)


def here() -> str:
    return "here"


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "vtune-study.lease"


@contextlib.contextmanager
def unwritable(folder: Path) -> Iterator[None]:
    """Lets this process read a folder and not write there, also if it is root's."""
    folder.chmod(0o555)
    user = os.geteuid()
    if user == 0:
        os.seteuid(65534)
    try:
        yield
    finally:
        os.seteuid(user)
        folder.chmod(0o755)


@pytest.fixture
def public() -> Iterator[Path]:
    """A folder that every user may read."""
    folder = Path(tempfile.mkdtemp())
    folder.chmod(0o755)
    yield folder
    shutil.rmtree(folder)


def leave(path: Path, holder: Holder) -> None:
    path.write_text(json.dumps(dataclasses.asdict(holder)))


def grow_old(path: Path, seconds: float = STALE_SECONDS + 1) -> None:
    then = time.time() - seconds
    os.utime(path, (then, then), follow_symlinks=False)


def content(path: Path) -> Holder:
    return Holder(**json.loads(path.read_text()))


def wait_until(condition: Callable[[], bool]) -> None:
    for _ in range(1000):
        if condition():
            return
        time.sleep(0.01)
    raise AssertionError("this took more than ten seconds")


@contextlib.contextmanager
def process(script: str, *arguments: object) -> Iterator[subprocess.Popen[str]]:
    """Another process that runs a script and is gone at the end."""
    command = [sys.executable, "-c", script, *map(str, arguments)]
    pipe = subprocess.PIPE
    with subprocess.Popen(
        command, cwd=ROOT, stdin=pipe, stdout=pipe, stderr=pipe, text=True
    ) as running:
        try:
            yield running
        finally:
            running.kill()


def output(script: str, *arguments: object) -> str:
    """What a script writes that runs to its end."""
    with process(script, *arguments) as running:
        found, errors = running.communicate(timeout=120)
        assert running.returncode == 0, errors
    return found


# ------------------------------------------------------------------- one process


def test_a_lease_tells_who_holds_it(path):
    with Lease.acquire(path, clock=lambda: 1_700_000_000.7, host=here):
        holder = content(path)
    assert (holder.host, holder.pid) == ("here", os.getpid())
    assert holder.since == holder.beat == 1_700_000_000
    assert len(holder.token) == 16
    assert not path.exists()


def test_a_second_one_is_refused_with_the_name_of_the_first(path):
    with Lease.acquire(path, clock=lambda: 1_700_000_000.0, host=here) as first:
        with pytest.raises(StorageError) as caught:
            Lease.acquire(path, host=here)
        first.check()
    text = str(caught.value)
    assert f"process {os.getpid()} on 'here'" in text
    assert "since 2023-11-14 22:13:20 UTC" in text
    assert str(path.parent) in text and "Wait until it ends" in text


def test_a_released_lease_is_free_and_no_longer_ours(path):
    first = Lease.acquire(path)
    first.release()
    with Lease.acquire(path) as second:
        with pytest.raises(StorageError, match="another process took over"):
            first.check()
        first.release()
        second.check()
    assert os.listdir(path.parent) == []


def test_a_beat_renews_the_time_of_the_file_and_what_it_says(path):
    times = iter([1_700_000_000.0, 1_700_000_009.0])
    with Lease.acquire(path, clock=lambda: next(times)) as lease:
        before = content(path)
        grow_old(path)
        lease.beat()
        assert content(path) == dataclasses.replace(before, beat=1_700_000_009)
        assert time.time() - path.stat().st_mtime < 10
        lease.check()


def test_a_thread_beats_until_the_release(path, monkeypatch):
    monkeypatch.setattr(module, "BEAT_SECONDS", 0.01)
    with Lease.acquire(path) as lease:
        grow_old(path)
        wait_until(lambda: time.time() - path.stat().st_mtime < 30)
        lease.check()
    assert "lease" not in {thread.name for thread in threading.enumerate()}


def test_a_thread_outlives_a_drive_that_does_not_answer(path, monkeypatch):
    monkeypatch.setattr(module, "BEAT_SECONDS", 0.01)
    failures = 0

    def fail(holder: Holder) -> bytes:
        nonlocal failures
        failures += 1
        raise OSError(5, "Input/output error")

    with Lease.acquire(path) as lease:
        with monkeypatch.context() as patched:
            patched.setattr(module, "_encoded", fail)
            wait_until(lambda: failures > 2)
            with pytest.raises(StorageError, match="renewed: Input/output error"):
                lease.beat()
        grow_old(path)
        wait_until(lambda: time.time() - path.stat().st_mtime < 30)
        lease.check()


def test_whoever_lost_it_writes_never_again(path, monkeypatch):
    monkeypatch.setattr(module, "BEAT_SECONDS", 0.01)
    lease = Lease.acquire(path, host=here)
    mine = path.read_bytes()
    leave(path, ELSEWHERE)
    theirs = path.read_bytes()
    for act in (lease.check, lease.beat):
        with pytest.raises(StorageError, match="another process took over"):
            act()
    wait_until(lambda: not lease._thread.is_alive())
    path.write_bytes(mine)
    with pytest.raises(StorageError, match="another process took over"):
        lease.check()
    path.write_bytes(theirs)
    lease.release()
    assert path.read_bytes() == theirs


@pytest.mark.parametrize("damage", [Path.unlink, lambda path: path.write_text("{}")])
def test_a_lease_that_was_removed_or_overwritten_is_lost(damage, path):
    with Lease.acquire(path) as lease:
        damage(path)
        with pytest.raises(StorageError, match="Nothing more is written"):
            lease.check()


def test_a_beat_that_comes_too_late_does_not_reach_the_new_lease(path, monkeypatch):
    lease = Lease.acquire(path)
    encode = module._encoded

    def take_over_meanwhile(holder: Holder) -> bytes:
        path.unlink()
        leave(path, ELSEWHERE)
        return encode(holder)

    monkeypatch.setattr(module, "_encoded", take_over_meanwhile)
    lease.beat()
    assert content(path) == ELSEWHERE
    lease.release()
    assert content(path) == ELSEWHERE


# ------------------------------------------------------------------- taking over


@pytest.mark.parametrize(
    ("holder", "age", "alive", "free"),
    [
        (DEAD, 0, False, True),
        (DEAD, 0, True, False),
        (DEAD, 3600, True, False),
        (DEAD, 59, None, False),
        (DEAD, 61, None, True),
        (ELSEWHERE, 0, False, False),
        (ELSEWHERE, 58, False, False),
        (ELSEWHERE, 61, True, True),
        (ELSEWHERE, -3600, False, False),
    ],
)
def test_when_a_lease_is_free(holder, age, alive, free, path):
    leave(path, holder)
    grow_old(path, age)

    def answer(pid: int, started: int | None) -> bool | None:
        return alive if pid == holder.pid else True

    if free:
        with Lease.acquire(path, host=here, is_alive=answer) as lease:
            lease.check()
    else:
        with pytest.raises(StorageError, match=f"process {holder.pid} on"):
            Lease.acquire(path, host=here, is_alive=answer)
        assert content(path) == holder
        path.unlink()
    assert os.listdir(path.parent) == []


def test_the_clocks_of_the_computers_do_not_matter(path):
    for clock in (0.0, 30_000_000_000.0):
        leave(path, ELSEWHERE)
        with pytest.raises(StorageError, match="in use"):
            Lease.acquire(path, host=here, clock=lambda: clock)
        grow_old(path)
        Lease.acquire(path, host=here, clock=lambda: clock).release()


def test_a_process_that_lives_is_told_from_one_that_does_not():
    started = processes._process(os.getpid())[1]
    assert not is_alive(NO_PROCESS, None)
    if started is not None:
        assert is_alive(os.getpid(), started) is True
        assert is_alive(os.getpid(), started + 1) is False
    assert is_alive(os.getpid(), None) is None
    ended = subprocess.Popen([sys.executable, "-c", ""])
    os.waitid(os.P_PID, ended.pid, os.WEXITED | os.WNOWAIT)
    assert is_alive(ended.pid, processes._process(ended.pid)[1]) is False
    ended.wait()
    assert is_alive(ended.pid, 1) is False


def test_a_process_may_have_any_name(tmp_path):
    name = tmp_path / ") Z 1 (x"
    shutil.copy(shutil.which("sleep") or "", name)
    with subprocess.Popen([name, "60"]) as running:
        try:
            wait_until(lambda: processes._process(running.pid)[0] == "S")
            started = processes._process(running.pid)[1]
            assert is_alive(running.pid, started) is True
        finally:
            running.kill()


def test_the_signal_that_asks_is_not_sent_where_it_would_interrupt(monkeypatch):
    monkeypatch.setattr(os, "kill", lambda *_: pytest.fail("this is Ctrl-C"))
    monkeypatch.setattr(os, "name", "nt")
    assert is_alive(os.getpid(), None) is None


def test_only_one_may_remove_a_stale_lease(path):
    """Whoever looked before another took over must not remove what is there now."""
    leave(path, DEAD)
    winner = []
    calls = 0

    def answer(pid: int, started: int | None) -> bool | None:
        nonlocal calls
        calls += 1
        if calls == 1:  # We look, and before we go on another process takes over.
            winner.append(Lease.acquire(path, host=here, is_alive=is_alive))
        return is_alive(pid, started)

    with pytest.raises(StorageError, match=f"process {os.getpid()}"):
        Lease.acquire(path, host=here, is_alive=answer)
    winner[0].check()
    winner[0].release()
    assert os.listdir(path.parent) == []


def test_claims_of_processes_that_were_killed_do_not_block(path):
    leave(path, DEAD)
    claim, token = path, TOKEN
    for digit in "123":
        claim, token = path.with_name(f"{claim.name}.{token}"), digit * 16
        leave(claim, dataclasses.replace(DEAD, token=token))
    Lease.acquire(path, host=here).release()
    assert os.listdir(path.parent) == []


def test_a_claim_of_a_process_that_lives_is_respected(path):
    leave(path, DEAD)
    started = processes._process(os.getpid())[1]
    alive = dataclasses.replace(DEAD, pid=os.getpid(), started=started)
    leave(path.with_name(f"{path.name}.{TOKEN}"), alive)
    with pytest.raises(StorageError, match=f"process {os.getpid()}"):
        Lease.acquire(path, host=here)
    assert content(path) == DEAD


# -------------------------------------------------------------- hostile and broken


HOSTILE = [
    b"",
    b"{",
    b"[]",
    b"\xff\xfe",
    b"[" * 4000,
    *(
        json.dumps({**dataclasses.asdict(DEAD), **change}).encode()
        for change in (
            {"token": "../../../etc/passwd"},
            {"token": "0123456789abcde/"},
            {"token": 1234567890123456},
            {"host": None},
            {"pid": "1"},
            {"pid": True},
            {"pid": -1},
            {"pid": 0},
            {"pid": 10**100},
            {"started": ""},
            {"started": False},
            {"since": 1e9},
            {"since": 10**18},
            {"since": float("nan")},
            {"beat": None},
            {"more": 1},
        )
    ),
    json.dumps({"pid": 1}).encode(),
]


@pytest.mark.parametrize("text", HOSTILE, ids=range(len(HOSTILE)))
def test_a_damaged_lease_is_stale_after_a_minute(text, path):
    path.write_bytes(text)
    grow_old(path, STALE_SECONDS - 2)
    with pytest.raises(StorageError, match="cannot be read. Try again in a minute"):
        Lease.acquire(path, host=here)
    assert path.read_bytes() == text
    grow_old(path)
    Lease.acquire(path, host=here).release()
    assert os.listdir(path.parent) == []


@given(
    st.binary(max_size=300)
    | st.fixed_dictionaries(
        {
            field.name: st.none() | st.integers() | st.text(max_size=20) | st.floats()
            for field in dataclasses.fields(Holder)
        }
    ).map(lambda found: json.dumps(found).encode())
)
def test_any_content_is_refused_or_taken_over(text):
    with tempfile.TemporaryDirectory() as place:
        path = Path(place) / "lease"
        path.write_bytes(text)
        with pytest.raises(StorageError):
            Lease.acquire(path, host=here)
        grow_old(path)
        Lease.acquire(path, host=here).release()
        assert os.listdir(place) == []


def test_a_lease_of_a_gigabyte_is_not_read(path, monkeypatch):
    path.touch()
    os.truncate(path, 2**30)
    grow_old(path)
    monkeypatch.setattr(Path, "read_bytes", lambda _: pytest.fail("it was read"))
    assert module._stale(path, "here", is_alive) == "damaged"


def test_a_lease_is_a_plain_file(path, tmp_path):
    leave(tmp_path / "other", DEAD)
    path.symlink_to(tmp_path / "other")
    with pytest.raises(StorageError, match="cannot be read"):
        Lease.acquire(path, host=here)
    grow_old(path)
    Lease.acquire(path, host=here).release()
    assert content(tmp_path / "other") == DEAD
    os.mkfifo(path)
    with pytest.raises(StorageError, match="cannot be read"):
        Lease.acquire(path, host=here)
    grow_old(path)
    Lease.acquire(path, host=here).release()
    path.mkdir()
    grow_old(path)
    with pytest.raises(StorageError, match="cannot be taken"):
        Lease.acquire(path, host=here)


def test_a_pipe_in_place_of_our_lease_is_noticed(path):
    with Lease.acquire(path) as lease:
        path.unlink()
        os.mkfifo(path)
        for act in (lease.beat, lease.check):
            with pytest.raises(StorageError):
                act()


def test_a_folder_that_is_read_only_or_missing_is_told_of(public):
    for folder in (public, public / "missing"):
        with unwritable(public), pytest.raises(StorageError, match="cannot be taken"):
            Lease.acquire(folder / "lease")


TRIES = """
import sys
from pathlib import Path
from vtune.storage.failure import StorageError
from vtune.storage.lease import Lease

try:
    Lease.acquire(Path(sys.argv[1])).release()
    sys.stdout.write("taken")
except StorageError as error:
    sys.stdout.write(str(error))
"""


def test_what_cannot_be_removed_is_free_for_the_process_that_gave_it_back(public):
    path = public / "lease"
    lease = Lease.acquire(path)
    with unwritable(public), pytest.raises(StorageError, match="cannot be released"):
        lease.release()
    assert content(path).pid == os.getpid()
    assert "in use since" in output(TRIES, path)
    with unwritable(public), pytest.raises(StorageError, match="cannot be taken"):
        Lease.acquire(path)
    with Lease.acquire(path) as again:
        with pytest.raises(StorageError, match="another process took over"):
            lease.check()
        with pytest.raises(StorageError, match=f"by process {os.getpid()}"):
            Lease.acquire(path)
        again.check()
    assert output(TRIES, path) == "taken"
    assert os.listdir(public) == []


def test_a_full_disk_leaves_no_empty_lease(path, monkeypatch):
    def fail(holder: Holder) -> bytes:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(module, "_encoded", fail)
    with pytest.raises(StorageError, match="No space left on device"):
        Lease.acquire(path)
    assert os.listdir(path.parent) == []


# --------------------------------------------------------------- several processes


CONTEST = """
import dataclasses, json, multiprocessing, os, sys, time
from pathlib import Path
from vtune.storage.failure import StorageError
from vtune.storage.lease import Holder, Lease

path, rounds, count = Path(sys.argv[1]), int(sys.argv[2]), 8
context = multiprocessing.get_context("fork")
barrier, won = context.Barrier(count), context.Array("i", rounds)

def prepare(number):
    kind, token = number % 5, f"{number:016x}"
    dead = Holder("here", 2**31 - 1, None, token, 1, 1)
    if kind == 1:
        dead = dataclasses.replace(dead, host="elsewhere")
    text = "" if kind == 2 else json.dumps(dataclasses.asdict(dead))
    if kind:
        path.write_text(text)
        os.utime(path, (time.time() - 100,) * 2)
    if kind == 3:
        claim = path.with_name(f"{path.name}.{token}")
        claim.write_text(json.dumps(dataclasses.asdict(dead)))

def compete(me):
    for number in range(rounds):
        if me == 0:
            prepare(number)
        barrier.wait(20)
        lease = None
        try:
            lease = Lease.acquire(path, host=lambda: "here")
            with won.get_lock():
                won[number] += 1
        except StorageError:
            pass
        barrier.wait(20)
        if lease is not None:
            lease.check()
            lease.release()
        barrier.wait(20)
        assert me or not os.listdir(path.parent), os.listdir(path.parent)

processes = [context.Process(target=compete, args=(me,)) for me in range(count)]
for process in processes:
    process.start()
for process in processes:
    process.join()
    assert process.exitcode == 0
sys.stdout.write(json.dumps(list(won)))
"""


@pytest.mark.parametrize(
    "rounds", [200, pytest.param(5000, marks=pytest.mark.ci)], ids=str
)
def test_of_eight_processes_at_once_exactly_one_wins(rounds, path):
    assert json.loads(output(CONTEST, path, rounds)) == [1] * rounds


KILLED = """
import dataclasses, json, os, sys
from pathlib import Path
from vtune.storage.lease import Holder, Lease

path, kills = Path(sys.argv[1]), 0
holder = Holder("here", 2**31 - 1, None, "0123456789abcdef", 1, 1)

def die_at(operation):
    left = operation
    def count(event, arguments):
        nonlocal left
        if event in ("open", "os.remove") and str(path) in str(arguments[0]):
            if left == 0:
                os._exit(9)
            left -= 1
    sys.addaudithook(count)

while True:
    path.write_text(json.dumps(dataclasses.asdict(holder)))
    child = os.fork()
    if child == 0:
        die_at(kills)
        Lease.acquire(path, host=lambda: "here").release()
        os._exit(0)
    _, status = os.waitpid(child, 0)
    with Lease.acquire(path, host=lambda: "here") as lease:
        lease.check()
    if os.waitstatus_to_exitcode(status) == 0:
        break
    kills += 1
sys.stdout.write(str(kills))
"""


def test_killed_at_any_moment_of_taking_over_another_one_takes_over_at_once(path):
    assert int(output(KILLED, path)) >= 10


HOLDS = """
import os, sys
from pathlib import Path
from vtune.storage.failure import StorageError
from vtune.storage.lease import Lease

name = sys.argv[2]
with Lease.acquire(Path(sys.argv[1]), host=lambda: name) as lease:
    sys.stdout.write("taken\\n")
    sys.stdout.flush()
    sys.stdin.readline()
    try:
        lease.check()
    except StorageError as error:
        sys.stdout.write(str(error))
"""


def test_a_process_that_was_killed_loses_its_lease_at_once(path):
    with process(HOLDS, path, "here") as other:
        assert other.stdout.readline() == "taken\n"
        with pytest.raises(StorageError, match=f"process {other.pid} on 'here'"):
            Lease.acquire(path, host=here)
        other.kill()
        os.waitid(os.P_PID, other.pid, os.WEXITED | os.WNOWAIT)
        Lease.acquire(path, host=here).release()


def test_a_process_that_was_suspended_notices_that_another_took_over(path):
    with process(HOLDS, path, "elsewhere") as other:
        assert other.stdout.readline() == "taken\n"
        other.send_signal(signal.SIGSTOP)
        with pytest.raises(StorageError, match="on 'elsewhere'"):
            Lease.acquire(path, host=here)
        grow_old(path)
        with Lease.acquire(path, host=here) as lease:
            other.send_signal(signal.SIGCONT)
            found, errors = other.communicate("go on\n", timeout=60)
            assert "another process took over" in found, errors
            lease.check()


FORKS = """
import os, sys
from pathlib import Path
from vtune.storage.failure import StorageError
from vtune.storage.lease import Lease

with Lease.acquire(Path(sys.argv[1])) as lease:
    child = os.fork()
    if child == 0:
        for act in (lease.check, lease.beat):
            try:
                act()
                os._exit(1)
            except StorageError as error:
                assert "copy" in str(error)
        lease.release()
        os._exit(0)
    assert os.waitpid(child, 0)[1] == 0
    lease.check()
    sys.stdout.write("still held")
"""


def test_a_copy_of_the_process_does_not_own_its_lease(path):
    assert output(FORKS, path) == "still held"
