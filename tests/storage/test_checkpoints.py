"""Checkpoints: bit for bit, whole or not at all, and nothing from a damaged one."""

import errno
import gc
import json
import logging
import os
import pickle
import random
import resource
import shutil
import signal
import subprocess
import sys
import threading
import time
import zlib
from pathlib import Path

import hypothesis.strategies as st
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings

from vtune.storage import blocks, checkpoints as module, retention
from vtune.storage.checkpoints import Checkpoints, Written
from vtune.storage.failure import StorageError


DTYPES = tuple(
    jnp.dtype(name)
    for name in (
        "bool int2 int4 int8 int16 int32 int64 uint2 uint4 uint8 uint16 uint32 uint64 "
        "float16 float32 float64 bfloat16 float4_e2m1fn float8_e3m4 float8_e4m3 "
        "float8_e4m3b11fnuz float8_e4m3fn float8_e4m3fnuz float8_e5m2 float8_e5m2fnuz "
        "float8_e8m0fnu complex64 complex128"
    ).split()
)
STATES = {
    0: (np.arange(6, dtype=np.float32).reshape(2, 3), np.array(True)),
    7: (np.zeros((0, 4), jnp.bfloat16), np.array(-0.0), np.arange(5, dtype=np.uint32)),
}
LARGE = {
    number: (np.full(2**18, number, np.float32), np.array([number], np.int32))
    for number in range(3)
}


def same(one: dict, other: dict) -> bool:
    """Whether two mappings hold the same bits under the same numbers."""
    return one.keys() == other.keys() and all(
        [(a.dtype, a.shape, a.tobytes()) for a in one[number]]
        == [(a.dtype, a.shape, a.tobytes()) for a in other[number]]
        for number in one
    )


def write(folder: Path, name: str = "a", states: dict = STATES) -> Written:
    checkpoints = Checkpoints(folder)
    checkpoints.start(name, states)
    finished = checkpoints.finish()
    assert finished is not None
    return finished


def files(folder: Path) -> list[Path]:
    return sorted(path for path in folder.rglob("*") if path.is_file())


def reseal(folder: Path, content: object) -> None:
    """Replaces an index by another one that has a valid checksum."""
    line = json.dumps(content).encode()
    (folder / "index.jsonl").write_bytes(b"%b\n%d\n" % (line, zlib.crc32(line)))


def content(folder: Path) -> dict:
    return json.loads((folder / "index.jsonl").read_bytes().splitlines()[0])


# ---------------------------------------------------------------------- bit for bit


@st.composite
def arrays(draw: st.DrawFn) -> np.ndarray:
    """Any bits in any shape and dtype, also as a view that is not contiguous."""
    dtype = draw(st.sampled_from(DTYPES))
    shape = tuple(draw(st.lists(st.integers(0, 4), max_size=3)))
    size = int(np.prod(shape)) * dtype.itemsize
    data = np.frombuffer(draw(st.binary(min_size=size, max_size=size)), np.uint8)
    array = data.view(dtype).reshape(shape)
    return array.T if draw(st.booleans()) else array


states_of_trials = st.dictionaries(
    st.integers(0, 10**6), st.lists(arrays(), max_size=4).map(tuple), max_size=4
)


@settings(max_examples=30)
@given(states_of_trials)
def test_any_states_come_back_bit_for_bit(tmp_path_factory, states):
    folder = tmp_path_factory.mktemp("any")
    write(folder, states=states)
    assert same(Checkpoints(folder).load("a"), states)


def test_every_dtype_keeps_all_its_bits(tmp_path):
    data = np.random.default_rng(0).integers(0, 256, 4096, np.uint8)
    states = {number: (data.view(dtype),) for number, dtype in enumerate(DTYPES)}
    write(tmp_path, states=states)
    assert same(Checkpoints(tmp_path).load("a"), states)


def test_nan_payloads_and_negative_zeros_are_kept(tmp_path):
    bits = np.array([0x7FC00001, 0xFFC12345, 0x7F800001, 0x80000000], np.uint32)
    write(tmp_path, states={0: (bits.view(np.float32),)})
    (found,) = Checkpoints(tmp_path).load("a")[0]
    assert found.view(np.uint32).tolist() == bits.tolist()


def test_large_and_small_leaves_are_kept_beside_each_other(tmp_path):
    written = write(tmp_path, states=LARGE)
    assert same(Checkpoints(tmp_path).load("a"), LARGE)
    assert written == Written("a", sum(f.stat().st_size for f in files(tmp_path / "a")))
    assert 3 * 2**20 < written.bytes < 3 * 2**20 + 10_000


def test_what_comes_back_can_be_changed_without_changing_another_leaf(tmp_path):
    write(tmp_path)
    found = Checkpoints(tmp_path).load("a")
    found[0][0][:] = 9
    found[0] = STATES[0]
    assert same(found, STATES)


def test_many_small_leaves_take_few_files(tmp_path):
    states = {
        n: tuple(np.full(3, n, np.float32) for _ in range(13)) for n in range(500)
    }
    write(tmp_path, states=states)
    assert len(files(tmp_path)) < 10
    assert same(Checkpoints(tmp_path).load("a"), states)


@pytest.mark.parametrize("dtype", [">f4", "O", "U3", "M8[s]", "V4", "f4,i4"])
def test_what_jax_does_not_know_is_refused(tmp_path, dtype):
    checkpoints = Checkpoints(tmp_path)
    checkpoints.start("a", {0: (np.zeros(2, dtype),)})
    with pytest.raises(StorageError, match="a failed: .* is no dtype of JAX's"):
        checkpoints.finish()
    assert checkpoints.names() == ()


@pytest.mark.parametrize("number", [-1, np.int64(1), "1"])
def test_what_is_no_number_of_a_trial_is_refused(tmp_path, number):
    with pytest.raises(StorageError, match="in place of a whole number"):
        write(tmp_path, states={number: ()})
    assert Checkpoints(tmp_path).names() == ()


# ------------------------------------------------------------------------- some of it


def test_some_trials_are_read_without_the_others(tmp_path):
    write(tmp_path, states=LARGE)
    checkpoints = Checkpoints(tmp_path)
    assert same(checkpoints.load("a", [2, 0]), {n: LARGE[n] for n in (0, 2)})
    assert checkpoints.load("a", ()) == {}
    block = next(
        path for path in files(tmp_path) if path.read_bytes() == LARGE[1][0].tobytes()
    )
    block.write_bytes(bytes(2**20))
    assert same(checkpoints.load("a", {0, 2}), {n: LARGE[n] for n in (0, 2)})
    with pytest.raises(StorageError, match="not as it was written"):
        checkpoints.load("a", [1])
    with pytest.raises(StorageError, match=r"no state of the trials \[3, 5\]"):
        checkpoints.load("a", [5, 0, 3])


# ------------------------------------------------------------------ in the background


def test_start_returns_while_the_disk_is_at_work(tmp_path, monkeypatch):
    release, wrote = threading.Event(), module._write

    def slow(*arguments):
        assert release.wait(30)
        return wrote(*arguments)

    monkeypatch.setattr(module, "_write", slow)
    checkpoints = Checkpoints(tmp_path)
    assert not checkpoints.busy
    checkpoints.start("a", STATES)
    assert checkpoints.busy and checkpoints.names() == ()
    with pytest.raises(StorageError, match="'a' is not finished"):
        checkpoints.start("b", STATES)
    checkpoints.clean(())  # leaves alone what is being written
    release.set()
    assert checkpoints.finish().name == "a"
    assert not checkpoints.busy and checkpoints.finish() is None
    assert same(checkpoints.load("a"), STATES)


def test_a_relative_folder_stays_the_same_one(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    checkpoints = Checkpoints(Path("deep/er"))
    assert checkpoints.names() == ()
    checkpoints.start("a", STATES)
    monkeypatch.chdir("/")
    checkpoints.finish()
    assert same(Checkpoints(tmp_path / "deep/er").load("a"), STATES)


@pytest.mark.parametrize(
    "name", ["", ".", "..", "a/b", "/a", "a b", "a.b", "ä", "a\n", "a" * 101, 3, None]
)
def test_other_names_are_refused(tmp_path, name):
    checkpoints = Checkpoints(tmp_path)
    for action in (lambda: checkpoints.start(name, {}), lambda: checkpoints.load(name)):
        with pytest.raises(StorageError, match="ASCII letters, digits and '-'"):
            action()
    with pytest.raises(StorageError, match="ASCII letters, digits and '-'"):
        checkpoints.delete(name)


def test_a_name_is_given_once(tmp_path):
    write(tmp_path)
    with pytest.raises(StorageError, match="is there already"):
        write(tmp_path, states={})
    assert same(Checkpoints(tmp_path).load("a"), STATES)


# ------------------------------------------------------------------ deleting, cleaning


def test_what_is_not_kept_goes_and_what_is_not_ours_stays(tmp_path):
    for name in ("a", "b", "model-000012-000030"):
        write(tmp_path, name)
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "note").write_text("mine")
    for name in (
        "c.partial-checkpoint",
        "a_b.partial-checkpoint",
        "notes",
        "d.partial",
    ):
        (tmp_path / name).mkdir()
        (tmp_path / name / "note").write_text("anything")
    (tmp_path / "file").write_text("mine")
    (tmp_path / "link").symlink_to(outside)
    (tmp_path / "link.partial-checkpoint").symlink_to(outside)
    checkpoints = Checkpoints(tmp_path)
    assert checkpoints.names() == ("a", "b", "model-000012-000030")
    checkpoints.clean(["b"])
    assert checkpoints.names() == ("b",)
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "a_b.partial-checkpoint",
        "b",
        "d.partial",
        "file",
        "link",
        "link.partial-checkpoint",
        "notes",
        "outside",
    ]
    assert (outside / "note").read_text() == "mine"
    checkpoints.delete("b")
    assert checkpoints.names() == ()
    with pytest.raises(StorageError, match="no complete checkpoint 'b'"):
        checkpoints.delete("b")
    with pytest.raises(StorageError, match="no complete checkpoint 'notes'"):
        checkpoints.load("notes")


def test_what_is_deleted_in_part_does_not_look_complete(tmp_path, monkeypatch):
    def fail(path):
        raise OSError(f"{path} is busy")

    write(tmp_path)
    checkpoints = Checkpoints(tmp_path)
    monkeypatch.setattr(shutil, "rmtree", fail)
    with pytest.raises(StorageError, match="Deleting the checkpoint .*is busy"):
        checkpoints.delete("a")
    assert checkpoints.names() == ()
    monkeypatch.undo()
    checkpoints.clean(())
    assert list(tmp_path.iterdir()) == []


# -------------------------------------------------------------------- faults and kills


class Kill(BaseException):
    """Ends the process, as far as the code can tell."""


def work(folder: Path, before) -> list[str]:
    """A study's use of checkpoints; tells which ones it knows to be complete."""
    known: list[str] = []
    checkpoints = Checkpoints(folder, before)
    for name in ("a", "b", "c"):
        checkpoints.start(name, STATES)
        known.append(checkpoints.finish().name)
        known[:] = known[-2:]
        checkpoints.clean(known)
    checkpoints.delete("b")
    return known


def test_operations_are_told_in_their_order(tmp_path):
    told: list[str] = []
    work(tmp_path, told.append)
    written = ["checkpoint start", "checkpoint finish", "rename"]
    removed = ["rename", "delete"]
    assert told == [*written, *written, *written, *removed, *removed]


# What is complete when the operation fails that has the place in the list.
COMPLETE = (*[()] * 3, *["a"] * 3, *["ab"] * 3, "abc", "bc", "bc", "c")


@pytest.mark.parametrize("error", [OSError(errno.ENOSPC, "No space left"), Kill()])
@pytest.mark.parametrize("failing", range(13))
def test_a_fault_at_any_operation_leaves_whole_checkpoints_only(
    tmp_path, failing, error
):
    told: list[str] = []

    def before(operation: str) -> None:
        if len(told) == failing:
            raise error
        told.append(operation)

    with pytest.raises(StorageError if isinstance(error, OSError) else Kill) as caught:
        work(tmp_path, before)
    assert isinstance(error, Kill) or "No space left" in str(caught.value)
    checkpoints = Checkpoints(tmp_path)
    assert checkpoints.names() == tuple(COMPLETE[failing])
    for name in checkpoints.names():
        assert same(checkpoints.load(name), STATES)
    checkpoints.clean(checkpoints.names())
    assert tuple(sorted(os.listdir(tmp_path))) == checkpoints.names()


def test_after_a_fault_the_same_name_can_be_written(tmp_path):
    faults = ["checkpoint start", "checkpoint finish", "rename"]

    def before(operation: str) -> None:
        if faults and operation == faults[0]:
            raise OSError(faults.pop(0))

    checkpoints = Checkpoints(tmp_path, before)
    for _ in range(3):
        with pytest.raises(StorageError, match="Writing the checkpoint .*/a failed"):
            checkpoints.start("a", STATES)
            checkpoints.finish()
    checkpoints.start("a", STATES)
    checkpoints.finish()
    assert same(checkpoints.load("a"), STATES)


def test_a_folder_that_cannot_be_written_is_an_error(tmp_path):
    (tmp_path / "file").write_text("")
    checkpoints = Checkpoints(tmp_path / "file" / "checkpoints")
    with pytest.raises(StorageError, match="Writing the checkpoint .*NotADirectory"):
        checkpoints.start("a", STATES)
    assert not checkpoints.busy and checkpoints.finish() is None


def run(script: str, *arguments: object, **environment: str) -> subprocess.Popen[str]:
    """Another process."""
    return subprocess.Popen(
        [sys.executable, "-W", "error", "-c", script, *map(str, arguments)],
        env={**os.environ, "JAX_PLATFORMS": "cpu", **environment},
        cwd=Path(__file__).parents[2],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


WRITE_ON_AND_ON = """
import sys
from pathlib import Path
import numpy as np
from vtune.storage.checkpoints import Checkpoints

checkpoints = Checkpoints(Path(sys.argv[1]))
for number in range(10**9):
    name = f"c-{number}"
    state = tuple(np.full(2**19 + leaf, number, np.int32) for leaf in range(8))
    checkpoints.start(name, {0: state, 1: (np.array(number),)})
    checkpoints.finish()
    checkpoints.clean([name, f"c-{number - 1}"])
    print(number, flush=True)
"""


def kill_and_look(folder: Path, seconds: float) -> None:
    """Kills a process that writes, and reads what it left."""
    with run(WRITE_ON_AND_ON, folder) as process:
        last = [int(process.stdout.readline()) for _ in range(2)][-1]
        time.sleep(seconds)
        process.kill()
        last = max([last, *map(int, process.stdout.read().split())])
        assert process.wait() == -signal.SIGKILL
    checkpoints = Checkpoints(folder)
    assert f"c-{last}" in checkpoints.names()
    for name in checkpoints.names():
        number = int(name.removeprefix("c-"))
        found = checkpoints.load(name)
        assert len(found[0]) == 8 and found[1][0] == number
        assert all((leaf == number).all() for leaf in found[0])
    checkpoints.clean(checkpoints.names())
    assert tuple(sorted(os.listdir(folder))) == checkpoints.names()


def test_killed_at_any_moment_it_leaves_whole_checkpoints_only(tmp_path):
    kill_and_look(tmp_path, random.uniform(0, 0.2))


@pytest.mark.ci
@pytest.mark.parametrize("tick", range(30))
def test_killed_at_thirty_moments_it_leaves_whole_checkpoints_only(tmp_path, tick):
    kill_and_look(tmp_path, tick / 150)


FILL_THE_DISK = """
import resource, sys
from pathlib import Path
import numpy as np
from vtune.storage.checkpoints import Checkpoints
from vtune.storage.failure import StorageError

checkpoints = Checkpoints(Path(sys.argv[1]))
resource.setrlimit(resource.RLIMIT_FSIZE, (2**21, 2**21))
checkpoints.start("large", {0: (np.ones(2**20, np.float32),)})
try:
    checkpoints.finish()
except StorageError as error:
    print(error)
print(checkpoints.names())
"""


def test_when_a_file_cannot_grow_the_checkpoint_before_stays(tmp_path):
    write(tmp_path)
    with run(FILL_THE_DISK, tmp_path) as process:
        output, errors = process.communicate()
    assert process.returncode == 0, errors
    assert output.startswith(f"Writing the checkpoint {tmp_path}/large failed: ")
    assert "File too large" in output and "If the disk is full" in output
    assert output.splitlines()[-1] == "('a',)"
    assert errors == "", "Orbax's own account of it"


@pytest.fixture
def cut_off():
    """No file of this process may be larger than a block of bytes."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (2**18, before[1]))
    yield
    resource.setrlimit(resource.RLIMIT_FSIZE, before)


def test_the_log_is_as_before_when_a_checkpoint_fails(tmp_path, cut_off, caplog):
    loggers = [logging.getLogger(name) for name in ("absl", "asyncio")]
    filters = [list(logger.filters) for logger in loggers]
    with pytest.raises(StorageError, match="File too large"):
        write(tmp_path, states={0: LARGE[0][:1]})
    gc.collect()
    assert [record.name for record in caplog.records] == []
    assert [list(logger.filters) for logger in loggers] == filters
    with blocks._without_orbax():
        for logger in loggers:
            logger.error("mine")
    assert [record.getMessage() for record in caplog.records] == ["mine", "mine"]


# -------------------------------------------------------------- elsewhere, and strictly


READ_ELSEWHERE = """
import sys
from pathlib import Path
from vtune.storage.checkpoints import Checkpoints

assert not any(name.startswith("orbax") for name in sys.modules)
found = Checkpoints(Path(sys.argv[1])).load("a")
import jax

assert jax.device_count() == 3
for number, state in found.items():
    for leaf in state:
        print(number, type(leaf).__name__, leaf.dtype, leaf.shape, leaf.tobytes().hex())
"""


def test_another_process_with_other_devices_reads_the_same(tmp_path):
    write(tmp_path)
    flags = "--xla_force_host_platform_device_count=3"
    with run(READ_ELSEWHERE, tmp_path, XLA_FLAGS=flags) as process:
        output, errors = process.communicate()
    assert errors == ""
    assert output.splitlines() == [
        f"{number} ndarray {leaf.dtype} {leaf.shape} {leaf.tobytes().hex()}".rstrip()
        + (" " if not leaf.nbytes else "")
        for number, state in STATES.items()
        for leaf in state
    ]


def test_reading_changes_nothing(tmp_path):
    write(tmp_path)
    before = [(path, path.stat()) for path in sorted(tmp_path.rglob("*"))]
    Checkpoints(tmp_path).load("a")
    after = [(path, path.stat()) for path in sorted(tmp_path.rglob("*"))]
    assert [(p, s.st_mtime_ns, s.st_size) for p, s in before] == [
        (p, s.st_mtime_ns, s.st_size) for p, s in after
    ]


class Trap:
    """Makes a file when it is unpickled."""

    def __init__(self, path: Path):
        self.path = path

    def __reduce__(self):
        return Path.touch, (self.path,)


def test_a_pickle_is_neither_written_nor_read(tmp_path):
    folder, sprung = tmp_path / "checkpoints", tmp_path / "sprung"
    write(folder, states=LARGE)
    for path in files(folder):
        with pytest.raises(Exception):
            pickle.loads(path.read_bytes())
    trap = pickle.dumps(Trap(sprung))
    for path in [*files(folder), folder / "a" / "new.pkl"]:
        kept = path.read_bytes() if path.exists() else b""
        path.write_bytes(trap)
        try:
            assert same(Checkpoints(folder).load("a"), LARGE)
        except StorageError as error:
            assert "Reading the checkpoint" in str(error)
        assert not sprung.exists()
        path.write_bytes(kept)
    pickle.loads(trap)
    assert sprung.exists()


def damaged(folder: Path, path: Path, data: bytes | None, states: dict = STATES):
    """Reading fails, or gives what was written, when a file holds other data."""
    kept = path.read_bytes()
    path.unlink() if data is None else path.write_bytes(data)
    try:
        assert same(Checkpoints(folder).load("a"), states)
    except StorageError as error:
        assert "a failed: " in str(error) or "no complete checkpoint" in str(error)
    finally:
        path.write_bytes(kept)


@pytest.fixture(scope="module")
def written(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("damaged")
    write(folder)
    return folder


@pytest.mark.parametrize("states", [STATES, LARGE], ids=["small", "large"])
def test_a_missing_or_short_file_never_gives_other_states(tmp_path, states):
    write(tmp_path, states=states)
    for path in files(tmp_path):
        kept = path.read_bytes()
        for data in (None, b"", kept[: len(kept) // 2], kept[:-1], kept + b"0"):
            damaged(tmp_path, path, data, states)
    assert same(Checkpoints(tmp_path).load("a"), states)


def flip(written: Path, where: float, value: int) -> None:
    paths = files(written)
    place = int(where * sum(path.stat().st_size for path in paths))
    for path in paths:
        data = bytearray(path.read_bytes())
        if place < len(data):
            data[place] ^= value
            return damaged(written, path, bytes(data))
        place -= len(data)


places = st.floats(0, 1, exclude_max=True)


@settings(max_examples=60)
@given(places, st.integers(1, 255))
def test_another_byte_never_gives_other_states(written, where, value):
    flip(written, where, value)


@pytest.mark.ci
@settings(max_examples=3000)
@given(places, st.integers(1, 255))
def test_another_byte_anywhere_never_gives_other_states(written, where, value):
    flip(written, where, value)


def test_bytes_of_an_array_are_checked(written):
    (block,) = (written / "a" / "arrays").glob("*/0")
    kept = block.read_bytes()
    block.write_bytes(bytes([kept[0] ^ 1]) + kept[1:])
    with pytest.raises(StorageError, match="block 0 is not as it was written"):
        Checkpoints(written).load("a")
    block.write_bytes(kept)


@pytest.mark.parametrize("target", ["outside", "inside", "pipe"])
def test_links_and_devices_are_refused(tmp_path, target):
    write(tmp_path / "checkpoints")
    folder = tmp_path / "checkpoints" / "a"
    (block,) = (folder / "arrays").glob("*/0")
    place = folder / "same" if target == "inside" else tmp_path / "same"
    block.rename(place)
    if target == "pipe":
        os.mkfifo(block)
    else:
        block.symlink_to(place)
    with pytest.raises(StorageError, match="is a link or a device, not a plain file"):
        Checkpoints(tmp_path / "checkpoints").load("a")


def test_a_link_to_a_checkpoint_is_none(tmp_path):
    write(tmp_path / "elsewhere")
    (tmp_path / "checkpoints").mkdir()
    (tmp_path / "checkpoints" / "a").symlink_to(tmp_path / "elsewhere" / "a")
    checkpoints = Checkpoints(tmp_path / "checkpoints")
    assert checkpoints.names() == ()
    with pytest.raises(StorageError, match="no complete checkpoint 'a'"):
        checkpoints.load("a")


def test_an_index_with_another_shape_is_noticed(written):
    index = written / "a" / "index.jsonl"
    kept = index.read_bytes()
    index.write_bytes(kept.replace(b"[2,3]", b"[3,2]"))
    with pytest.raises(StorageError, match="its index is not as it was written"):
        Checkpoints(written).load("a")
    index.write_bytes(kept)


LEAF = ["float32", [2, 3], 0, 0]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"format": 2}, "format is 2, known is 1"),
        ({"more": 0}, "entries .*more"),
        ({"blocks": [[10**6, 0]]}, "1000000 bytes"),
        ({"blocks": [[-1, 0]]}, "-1 in place of a whole number"),
        ({"blocks": [[1.0, 0]]}, "1.0 in place of a whole number"),
        ({"blocks": [[True, 0]]}, "True in place of a whole number"),
        ({"blocks": []}, "Reading the checkpoint"),
        ({"blocks": [[60, 0]]}, "does not hold 60 plain bytes"),
        ({"trials": [[0, [LEAF]], [0, [LEAF]]]}, "a trial twice"),
        ({"trials": [["0", [LEAF]]]}, "'0' in place of a whole number"),
        ({"trials": [[0, [["object", [2], 0, 0]]]]}, "'object' is no dtype"),
        ({"trials": [[0, [["ndarray", [2], 0, 0]]]]}, "'ndarray' is no dtype"),
        ({"trials": [[0, [[None, [2], 0, 0]]]]}, "an array of None"),
        ({"trials": [[0, [["float32", "23", 0, 0]]]]}, "an array of"),
        ({"trials": [[0, [["float32", [10**6], 0, 0]]]]}, "Reading the checkpoint"),
        ({"trials": [[0, [["float32", [1], 0, 10**6]]]]}, "Reading the checkpoint"),
        ({"trials": [[0, [["float32", [1], 1, 0]]]]}, "Reading the checkpoint"),
        ({"trials": [[0, [["int8", [0, 10**30], 0, 0]]]]}, "Reading the checkpoint"),
        ({"trials": [[0, [["int8", [1] * 99, 0, 0]]]]}, "Reading the checkpoint"),
        ({"trials": [[0, [["float32", [-1], 0, 0]]]]}, "-1 in place of a whole"),
    ],
)
def test_an_index_is_read_strictly(tmp_path, change, message):
    write(tmp_path)
    folder = tmp_path / "a"
    assert content(folder)["trials"][0][1][0] == LEAF
    reseal(folder, content(folder))
    assert same(Checkpoints(tmp_path).load("a"), STATES)
    reseal(folder, {**content(folder), **change})
    with pytest.raises(StorageError, match=message):
        Checkpoints(tmp_path).load("a")


@pytest.mark.parametrize(
    "line", [b"[" * 10**5, b"{}", b"[]", b"\xff", b"9" * 5000, b""]
)
def test_an_index_that_is_none_is_an_error(tmp_path, line):
    write(tmp_path)
    text = b"%b\n%d\n" % (line, zlib.crc32(line))
    (tmp_path / "a" / "index.jsonl").write_bytes(text)
    with pytest.raises(StorageError, match="Reading the checkpoint .*/a failed"):
        Checkpoints(tmp_path).load("a")


def test_nothing_larger_than_the_limits_is_written_or_read(tmp_path, monkeypatch):
    write(tmp_path)
    monkeypatch.setattr(module, "MOST_BYTES", 10)
    with pytest.raises(StorageError, match="may have 10"):
        Checkpoints(tmp_path).load("a")
    with pytest.raises(StorageError, match="10 are allowed"):
        write(tmp_path, "b")
    monkeypatch.setattr(retention, "MOST_INDEX_BYTES", 20)
    with pytest.raises(StorageError, match="20 are allowed"):
        Checkpoints(tmp_path).load("a")
