"""Whatever the disk or the process does, a search ends as if it had been left alone."""

import contextlib
import errno
import functools
import json
import os
import random
import re
import resource
import shutil
import socket
import sqlite3
import struct
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

import jax
import numpy as np
import pytest
from hypothesis import assume, example, given, settings, strategies as st

import vtune as vt
from tests.storage.sealing import seal
from vtune.storage import database, files, snapshot, store
from vtune.storage.checkpoints import Checkpoints
from vtune.storage.database import Database
from vtune.storage.folder import locate
from vtune.storage.snapshot import LocalCopy
from vtune.trial import TrialStatus


ROOT = Path(__file__).parent.parent
RUNGS = [[(4, 1), (2, 2), (1, 4)], [(2, 2), (1, 4)]]
X = np.random.default_rng(0).normal(size=(32, 3)).astype(np.float32)
# Each row alone is larger than the database.
WIDE = np.random.default_rng(0).normal(size=(32, 100_000)).astype(np.float32)


# Small files that stay if a process dies while it takes the lease.
SCRAPS = re.compile(r"vtune-study\.lease\.[0-9a-f.]+")


class Mean:
    """Comes near the mean of its data, unless its steps are too large."""

    def __init__(self, rate):
        self.rate = rate

    def init(self, key, batch):
        return {"params": jax.random.normal(key, batch[0].shape[1:])}

    def train_step(self, state, batch, key):
        off = state["params"] - batch[0].mean(axis=0)
        step = self.rate * (off + jax.random.normal(key, ()))
        return {"params": state["params"] - step}, {"loss": (off**2).mean()}

    def eval_step(self, state, batch):
        off = state["params"] - batch[0].mean(axis=0)
        return {"loss": (off**2).mean()}


def build(hp):
    return Mean(hp.Float("rate", 0.1, 0.9))


def tuner(directory, build=build, **more):
    return vt.Hyperband(
        build,
        objective="val_loss",
        brackets=RUNGS,
        seed=3,
        lanes="vmap",
        keep_models=2,
        directory=str(directory),
        project_name="study",
        checkpoint_seconds=0,
        **more,
    )


def search(tuner, x=X, **more):
    tuner.search(x, validation_split=0.25, batch_size=8, verbose=0, **more)
    return tuner


class Reports:
    """Keeps what a search tells of its epochs."""

    def __init__(self):
        self.told = []

    def on_epoch_end(self, trial, epoch, metrics):
        self.told.append(repr((trial.number, epoch + 1, trial.values, metrics)))


def epochs(study):
    """The epochs that are stored, each as it is told of."""
    values = {record.number: dict(record.values) for record in study.contents.trials}
    return {
        repr((record.trial, record.epoch, values[record.trial], dict(record.metrics)))
        for record in study.contents.epochs
    }


def outcome(tuner, directory):
    """All that a search ended with, to the last bit."""
    study = vt.load_study(directory / "study")
    assert repr(study.trials) == repr(tuner.trials)
    contents = study.contents
    return {
        "trials": list(map(repr, tuner.trials)),
        "models": [model["params"].tobytes() for model in tuner.get_best_models(2)],
        "weights": [
            {name: leaf.tobytes() for name, leaf in weights.items()}
            for weights in study.best_weights(2)
        ],
        "begun": list(map(repr, contents.trials)),
        "epochs": list(map(repr, contents.epochs)),
        "decisions": list(map(repr, contents.decisions)),
    }


@pytest.fixture(scope="module")
def alone(tmp_path_factory):
    """What a search ends with that is left alone, where, and what it told."""
    directory, reports = tmp_path_factory.mktemp("alone"), Reports()
    ended = outcome(search(tuner(directory), callbacks=[reports]), directory)
    assert len(ended["models"]) == len(ended["weights"]) == 2
    assert epochs(vt.load_study(directory / "study")) == set(reports.told)
    return {"directory": directory, "ended": ended, "told": reports.told}


def assert_ends_like(alone, directory):
    """Searches in a directory that no fault befalls any more."""
    reports, study = Reports(), directory / "study"
    found = search(tuner(directory), callbacks=[reports])
    left = {"checkpoints", "study.sqlite", "vtune-study.json"}
    assert {f.name for f in study.iterdir() if not SCRAPS.fullmatch(f.name)} == left
    names = {record.name for record in vt.load_study(study).contents.checkpoints}
    assert {file.name for file in (study / "checkpoints").iterdir()} == names
    ended = outcome(found, directory)
    assert ended == alone["ended"]
    assert set(reports.told) <= set(alone["told"])
    again = Reports()
    assert outcome(search(tuner(directory), callbacks=[again]), directory) == ended
    assert again.told == []


def assert_good_state(alone, directory, told=()):
    """What is stored was trained, all that was told is stored, and all can be read."""
    study = directory / "study"
    if (study / "study.sqlite").exists():
        found = vt.load_study(study)
        assert set(told) <= epochs(found) <= set(alone["told"])
        found.best_weights(2)
        return len(found.contents.epochs)
    assert not told
    return 0


# ------------------------------------------------------------------ each operation


WRITING = {"os.mkdir", "os.rename", "os.remove", "os.rmdir"}
watching = []


class Watch:
    """Tells a function of each operation on the disk, but not of its own."""

    def __init__(self, before):
        self._before = before
        self._lock = threading.RLock()
        self._telling = False

    def __call__(self, operation):
        with self._lock:
            if not self._telling:
                self._telling = True
                try:
                    self._before(operation)
                finally:
                    self._telling = False


def hear(event, arguments):
    """Passes on what Python tells of the operations that it does."""
    if watching:
        writes = event == "open" and arguments[2] & (os.O_WRONLY | os.O_RDWR)
        if writes or event in WRITING:
            watching[-1](event)


# Python lets nobody stop listening.
listen = functools.cache(functools.partial(sys.addaudithook, hear))


@contextlib.contextmanager
def watched(before):
    """Has a function told of each operation on the disk right before it."""
    listen()
    watch = Watch(before)
    with pytest.MonkeyPatch.context() as patch:
        for kind in (Database, LocalCopy):
            for name in ("create", "open"):
                told = functools.partial(getattr(kind, name), before=watch)
                patch.setattr(kind, name, staticmethod(told))
        patch.setattr(
            store, "Checkpoints", functools.partial(Checkpoints, before=watch)
        )
        # A step waits for the checkpoint before it: all runs do the same operations.
        patch.setattr(Checkpoints, "busy", False)
        watching.append(watch)
        try:
            yield
        finally:
            watching.pop()


def failing(fails):
    """Has operations fail for lack of room, by a function of their name and number."""
    told = []

    def before(operation):
        told.append(operation)
        if fails(operation, len(told) - 1):
            raise OSError(errno.ENOSPC, "No space left on device")

    return before


@functools.cache
def dead():
    """The id of a process that ended."""
    with subprocess.Popen([sys.executable, "-c", ""]) as process:
        pass
    return process.pid


def left_by_the_dead(directory):
    """Changes what a living process wrote into what one left that is dead."""
    for lease in directory.glob("**/vtune-study.lease*"):
        if text := lease.read_text(encoding="utf-8"):
            lease.write_text(json.dumps({**json.loads(text), "pid": dead()}))


def deaths(directory, into):
    """Searches; returns what is left if the process dies at each operation."""
    places = []

    def copy(operation):
        place = into / f"{len(places):04d}"
        shutil.copytree(directory, place)
        places.append(place)

    with watched(copy):
        search(tuner(directory))
    left_by_the_dead(into)
    return places


@pytest.fixture(scope="module")
def remains(tmp_path_factory):
    """What is left if the process dies at each operation of a search."""
    search(tuner(tmp_path_factory.mktemp("warm")))  # imports are no operations
    made, into = tmp_path_factory.mktemp("whole"), tmp_path_factory.mktemp("remains")
    return deaths(made, into)


@pytest.fixture(scope="module")
def operations(tmp_path_factory):
    """The operations of a search, by name and in their order."""
    told = []
    search(tuner(tmp_path_factory.mktemp("warm")))
    with watched(told.append):
        search(tuner(tmp_path_factory.mktemp("told")))
    return told


def go_on(alone, remains, k, tmp_path):
    shutil.copytree(remains[k], tmp_path / str(k))
    assert_ends_like(alone, tmp_path / str(k))


def fail_once(alone, operations, k, tmp_path):
    directory, reports = tmp_path / str(k), Reports()
    found = tuner(directory)
    with contextlib.suppress(vt.StorageError):
        with watched(failing(lambda operation, number: number == k)):
            search(found, callbacks=[reports])
    assert set(reports.told) <= set(alone["told"])
    assert_good_state(alone, directory, reports.told)
    assert_ends_like(alone, directory)


@pytest.mark.ci
def test_what_is_committed_stays_and_can_be_read_whenever_the_process_dies(
    alone, remains
):
    assert len(remains) > 100
    counts = [assert_good_state(alone, directory) for directory in remains]
    assert counts == sorted(counts)
    assert (counts[0], counts[-1]) == (0, len(alone["told"]))


@pytest.mark.parametrize("part", [0.05, 0.3, 0.6, 0.9])
def test_a_search_goes_on_from_a_death(alone, remains, tmp_path, part):
    go_on(alone, remains, int(part * len(remains)), tmp_path)


@pytest.mark.parametrize("part", [0.02, 0.25, 0.5, 0.85])
def test_an_operation_may_fail(alone, operations, tmp_path, part):
    fail_once(alone, operations, int(part * len(operations)), tmp_path)


@pytest.mark.ci
def test_a_search_goes_on_from_many_deaths(alone, remains, tmp_path):
    for k in random.Random(0).sample(range(len(remains)), 20):
        go_on(alone, remains, k, tmp_path)


@pytest.mark.ci
def test_many_operations_may_fail(alone, operations, tmp_path):
    for k in random.Random(1).sample(range(len(operations)), 20):
        fail_once(alone, operations, k, tmp_path)


@pytest.mark.long
def test_a_search_goes_on_from_every_death(alone, remains, tmp_path):
    for k in range(len(remains)):
        go_on(alone, remains, k, tmp_path)


@pytest.mark.long
def test_every_operation_may_fail(alone, operations, tmp_path):
    for k in range(len(operations)):
        fail_once(alone, operations, k, tmp_path)


def child(call, *arguments):
    """Another process that calls a function of this module."""
    given = ", ".join(map(repr, map(str, arguments)))
    program = f"from tests import test_faults; test_faults.{call}({given})"
    return subprocess.Popen(
        [sys.executable, "-c", program],
        cwd=ROOT,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def die(directory, k):
    """Searches, and ends the process at an operation."""

    def exits(operation, number):
        return number == int(k) and os._exit(9)

    with watched(failing(exits)):
        search(tuner(directory))


def check_exit(alone, directory, k):
    with child("die", directory, k) as process:
        _, errors = process.communicate(timeout=120)
    assert process.returncode == 9, errors
    assert assert_good_state(alone, directory) > 0
    assert_ends_like(alone, directory)


@pytest.mark.ci
def test_a_search_goes_on_from_the_end_of_its_process(alone, operations, tmp_path):
    check_exit(alone, tmp_path, int(0.55 * len(operations)))


@pytest.mark.ci
@pytest.mark.parametrize("part", [0.4, 0.7, 0.95])
def test_a_search_goes_on_from_other_ends(alone, operations, tmp_path, part):
    check_exit(alone, tmp_path, int(part * len(operations)))


# ------------------------------------------------------------------ a full disk


FULL = {
    "at once": {"create", "os.mkdir", "open"},
    "at a commit": {"commit"},
    "in a transaction": {"statement"},
    "before a checkpoint": {"checkpoint start"},
    "after a checkpoint": {"checkpoint finish"},
    "at its rename": {"rename"},
}


@pytest.mark.parametrize("names", FULL.values(), ids=FULL.keys())
@pytest.mark.parametrize(
    "begun",
    [
        pytest.param(False, id="new"),
        pytest.param(True, marks=pytest.mark.ci, id="going on"),
    ],
)
def test_a_disk_may_be_full(alone, remains, tmp_path, names, begun):
    if begun:
        shutil.copytree(remains[len(remains) // 2], tmp_path / "begun")
    directory, reports = tmp_path / "begun", Reports()
    found = tuner(directory)
    with watched(failing(lambda operation, number: operation in names)):
        with pytest.raises(vt.StorageError, match="[Nn]o space left") as caught:
            search(found, callbacks=[reports])
    assert str(directory / "study") in str(caught.value)
    assert any(word in str(caught.value).lower() for word in ("go on", "free", "again"))
    trained = {(told.number, told.epoch) for told in found.trials}
    assert trained <= {(n, e) for n in range(6) for e in range(5)}
    assert set(reports.told) <= set(alone["told"])
    assert_good_state(alone, directory, reports.told)
    assert_ends_like(alone, directory)


@contextlib.contextmanager
def no_file_beyond(size):
    """Lets the system refuse every write beyond a size."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


@pytest.mark.parametrize(
    "x, size, refused",
    [
        (X, 60_000, "study.sqlite"),
        pytest.param(WIDE, 1_000_000, "the checkpoint", marks=pytest.mark.ci),
    ],
    ids=["the log", "an array"],
)
# TensorStore calls back when Orbax has closed its event loop.
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_the_system_may_refuse_to_write(tmp_path, x, size, refused):
    whole = outcome(search(tuner(tmp_path / "whole"), x), tmp_path / "whole")
    directory = tmp_path / "cut"
    with no_file_beyond(size), pytest.raises(vt.StorageError, match=refused) as caught:
        search(tuner(directory), x)
    assert str(directory / "study") in str(caught.value)
    vt.load_study(directory / "study").best_weights(2)
    assert outcome(search(tuner(directory), x), directory) == whole


# ------------------------------------------------------------------ what is damaged


def cut_to_half(content):
    return content[: len(content) // 2]


def flip(content):
    where = random.Random(5).sample(range(100, len(content)), 200)
    changed = bytearray(content)
    for place in where:
        changed[place] ^= 0xFF
    return bytes(changed)


DAMAGES = {
    "flipped": flip,
    "cut": cut_to_half,
    "empty": lambda content: b"",
    "other": lambda content: b"a" * len(content),
    "first byte": lambda content: b"\0" + content[1:],
}


@pytest.fixture
def complete(alone, tmp_path):
    """The directory of a complete search."""
    return shutil.copytree(alone["directory"], tmp_path / "complete")


@pytest.fixture
def begun(remains, tmp_path):
    """The directory of a search that died with two checkpoints."""
    directory = next(
        place
        for place in remains[len(remains) // 2 :]
        if len(list((place / "study" / "checkpoints").glob("step-" + "?" * 9))) == 2
        and len(vt.load_study(place / "study").contents.checkpoints) == 2
    )
    return shutil.copytree(directory, tmp_path / "begun")


@pytest.mark.parametrize("damage", DAMAGES.values(), ids=DAMAGES.keys())
def test_a_damaged_database_is_refused_and_left_as_it_is(alone, complete, damage):
    file = complete / "study" / "study.sqlite"
    whole = file.read_bytes()
    file.write_bytes(damage(whole))
    for use in (lambda: search(tuner(complete)), lambda: vt.load_study(file.parent)):
        with pytest.raises(vt.StorageError) as caught:
            use()
        assert str(file) in str(caught.value)
        assert any(word in str(caught.value) for word in ("directory", "copy"))
        assert file.read_bytes() == damage(whole)
    file.write_bytes(whole)
    assert_ends_like(alone, complete)
    file.write_bytes(damage(whole))
    again = outcome(search(tuner(complete, overwrite=True)), complete)
    assert again == alone["ended"]


ADVICE = ("Put a copy of it", "Upgrade vtune", "look for the study's directory")


def assert_every_bit_counts(study, bits, choose):
    """Turns bits in a database: what is read is as before, or refused with advice."""
    file = study / "study.sqlite"
    whole, before = file.read_bytes(), repr(vt.load_study(study).contents)
    refused = 0
    for _ in range(bits):
        place, bit = choose.randrange(len(whole)), choose.randrange(8)
        changed = bytearray(whole)
        changed[place] ^= 1 << bit
        for writable in (False, True):
            file.write_bytes(changed)
            try:
                with Database.open(file, writable=writable) as opened:
                    assert repr(opened.contents()) == before, (place, bit)
            except vt.StorageError as error:
                refused += 1
                assert str(file) in str(error)
                assert any(advice in str(error) for advice in ADVICE), error
            for beside in study.glob("study.sqlite-*"):
                beside.unlink()
    assert refused > bits / 4


def test_no_bit_that_turns_in_the_database_goes_unnoticed(complete):
    assert_every_bit_counts(complete / "study", 100, random.Random(2))


@pytest.mark.ci
def test_no_bit_of_many_that_turn_goes_unnoticed(complete):
    assert_every_bit_counts(complete / "study", 600, random.Random(3))


def newest(directory):
    record = vt.load_study(directory / "study").contents.checkpoints[-1]
    return directory / "study" / "checkpoints" / record.name


def blocks(checkpoint):
    return max(checkpoint.rglob("*"), key=lambda f: f.is_file() and f.stat().st_size)


HARMS = {
    "turned bits": lambda place: rewrite(blocks(place), flip_all),
    "cut": lambda place: rewrite(blocks(place), cut_to_half),
    "cut index": lambda place: rewrite(place / "index.jsonl", cut_to_half),
    "no index": lambda place: (place / "index.jsonl").unlink(),
    "nothing": lambda place: shutil.rmtree(place),
}


def rewrite(file, change):
    file.write_bytes(change(file.read_bytes()))


def flip_all(content):
    return bytes(byte ^ 0xFF for byte in content)


@pytest.mark.parametrize("harm", HARMS.values(), ids=HARMS.keys())
@pytest.mark.parametrize("which", ["complete", "begun"])
def test_the_checkpoint_before_takes_the_place_of_a_damaged_one(
    alone, request, which, harm
):
    directory = request.getfixturevalue(which)
    harm(newest(directory))
    assert_ends_like(alone, directory)


@pytest.mark.parametrize("which", ["complete", "begun"])
def test_without_any_checkpoint_all_is_trained_again(alone, request, which):
    directory = request.getfixturevalue(which)
    reports = Reports()
    for checkpoint in (directory / "study" / "checkpoints").iterdir():
        rewrite(blocks(checkpoint), flip_all)
    search(tuner(directory), callbacks=[reports])
    assert reports.told == alone["told"]
    assert_ends_like(alone, directory)


def test_the_folder_of_the_checkpoints_may_be_missing(alone, complete):
    reports = Reports()
    shutil.rmtree(complete / "study" / "checkpoints")
    search(tuner(complete), callbacks=[reports])
    assert reports.told == alone["told"]
    assert_ends_like(alone, complete)


def test_what_is_trained_again_has_to_be_what_it_was(complete):
    shutil.rmtree(complete / "study" / "checkpoints")
    file = complete / "study" / "study.sqlite"
    with contextlib.closing(sqlite3.connect(file)) as connection:
        connection.execute(
            "UPDATE epoch_rows SET metrics = replace(metrics, '0.', '1.') "
            "WHERE trial = 3 AND epoch = 2"
        )
        connection.commit()
    seal(file)
    with pytest.raises(vt.StorageError, match="epoch 2 of trial 3: .* was 1"):
        search(tuner(complete))


# ------------------------------------------------------------------ who may not write


@pytest.fixture
def read_only(alone):
    """A copy of a search in a directory that nobody here may write."""
    directory = Path(tempfile.mkdtemp())
    shutil.copytree(alone["directory"] / "study", directory / "study")
    for path in (directory, *directory.rglob("*")):
        path.chmod(0o555)
    user = os.geteuid()
    if user == 0:
        os.seteuid(65534)
    try:
        yield directory
    finally:
        os.seteuid(user)
        for path in (directory, *directory.rglob("*")):
            path.chmod(0o755)
        shutil.rmtree(directory)


def test_a_directory_may_be_read_only(alone, read_only):
    assert not os.access(read_only, os.W_OK, effective_ids=True)
    with pytest.raises(vt.StorageError, match="change the permissions") as caught:
        search(tuner(read_only))
    assert str(read_only / "study") in str(caught.value)
    with pytest.raises(vt.StorageError, match="change the permissions"):
        search(tuner(read_only / "new"))
    study = vt.load_study(read_only / "study")
    assert list(map(repr, study.trials)) == alone["ended"]["trials"]
    assert len(study.best_weights(2)) == 2


# ------------------------------------------------------------------ callbacks


class Raises(Reports):
    """Raises an error when it is told of an epoch, by the count of all."""

    def __init__(self, at):
        super().__init__()
        self.at = at

    def on_epoch_end(self, trial, epoch, metrics):
        super().on_epoch_end(trial, epoch, metrics)
        if len(self.told) == self.at:
            raise ZeroDivisionError("mine")


@pytest.mark.parametrize("at", [1, 5, 9, 14])
def test_a_callback_may_fail(alone, tmp_path, at):
    reports = Raises(at)
    with pytest.raises(ZeroDivisionError, match="mine"):
        search(tuner(tmp_path), callbacks=[reports])
    assert reports.told == alone["told"][:at]
    assert assert_good_state(alone, tmp_path, reports.told) >= at
    assert_ends_like(alone, tmp_path)


def test_callbacks_may_fail_again_and_again(alone, tmp_path):
    found, last = tuner(tmp_path), 0
    for at in (3, 2, 4):
        with pytest.raises(ZeroDivisionError, match="mine"):
            search(found, callbacks=[Raises(at)])
        stored = assert_good_state(alone, tmp_path)
        assert stored >= last
        last = stored
    assert outcome(search(found), tmp_path) == alone["ended"]
    assert_ends_like(alone, tmp_path)


# ------------------------------------------------------------------ other processes


class Waits(Reports):
    """Waits for a word at the first epoch, and a moment at each one after it."""

    def on_epoch_end(self, trial, epoch, metrics):
        super().on_epoch_end(trial, epoch, metrics)
        if len(self.told) == 1:
            print("searching", flush=True)
            sys.stdin.readline()
        time.sleep(0.05)


def wait(directory):
    """Searches slowly, once it is told to go on."""
    search(tuner(directory), callbacks=[Waits()])


@pytest.mark.ci
def test_a_study_has_one_writer_and_any_number_of_readers(alone, tmp_path):
    with child("wait", tmp_path) as process:
        assert process.stdout.readline() == "searching\n", process.stderr.read()
        for overwrite in (False, True):
            with pytest.raises(vt.StorageError, match="is in use since") as caught:
                search(tuner(tmp_path, overwrite=overwrite))
            assert f"process {process.pid} on {socket.gethostname()!r}" in str(
                caught.value
            )
        process.stdin.write("\n")
        process.stdin.flush()
        seen = [assert_good_state(alone, tmp_path)]
        while process.poll() is None:
            seen.append(assert_trials_read(alone, tmp_path))
        assert process.returncode == 0, process.stderr.read()
    assert seen == sorted(seen) and len(set(seen)) > 3
    assert_ends_like(alone, tmp_path)


def assert_trials_read(alone, directory):
    study = vt.load_study(directory / "study")
    assert epochs(study) <= set(alone["told"])
    assert sum(trial.epoch for trial in study.trials) == len(study.contents.epochs)
    return len(study.contents.epochs)


# ------------------------------------------------------------------ what others made


def elsewhere(path):
    """Moves a part of a study out of its folder, and puts a link in its place."""
    other = path.parents[2] / f"other-{path.name}"
    path.rename(other)
    path.symlink_to(other)
    return other


def tree(folder):
    return {
        path.relative_to(folder): path.is_file() and path.read_bytes()
        for path in folder.rglob("*")
    }


@pytest.mark.parametrize("name", ["study.sqlite", "checkpoints"])
def test_a_link_out_of_the_study_is_not_followed(begun, name):
    other = elsewhere(begun / "study" / name)
    before = tree(other) if other.is_dir() else other.read_bytes()
    with pytest.raises(vt.StorageError, match=f"{name}.* is a link that leads out"):
        search(tuner(begun))
    with pytest.raises(vt.StorageError, match=f"{name}.* is a link that leads out"):
        vt.load_study(begun / "study").best_weights()
    assert before == (tree(other) if other.is_dir() else other.read_bytes())


def test_a_study_that_is_a_link_out_of_its_directory_is_refused(complete):
    elsewhere(complete / "study")
    for use in (
        lambda: search(tuner(complete)),
        lambda: vt.load_study(complete / "study"),
    ):
        with pytest.raises(vt.StorageError, match="is a link that leads out"):
            use()


def test_a_marker_of_any_size_is_refused(alone, complete):
    marker = complete / "study" / "vtune-study.json"
    whole = marker.read_bytes()
    with marker.open("wb") as file:
        file.truncate(2**30)
    for use in (
        lambda: search(tuner(complete)),
        lambda: vt.load_study(complete / "study"),
    ):
        with pytest.raises(vt.StorageError, match="marks no study: it is not a small"):
            use()
    marker.write_bytes(whole)
    assert_ends_like(alone, complete)


@pytest.mark.parametrize("path", ["missing", "file", "."])
def test_what_is_no_study_is_not_loaded(tmp_path, path):
    (tmp_path / "file").write_text("mine")
    with pytest.raises(vt.StorageError):
        vt.load_study(f"{tmp_path}/{path}")


FORGED = {
    "no objective": "UPDATE study SET settings = '{}'",
    "objective": "UPDATE study SET settings = '{\"objective\": [1, 2]}'",
    "no trial": "DELETE FROM trial_rows WHERE number = 0",
    "all trials": "DELETE FROM trial_rows",
    "trial": "UPDATE trial_rows SET number = 77 WHERE number = 2",
    "order": "UPDATE trial_rows SET sequence = 10000 WHERE number = 2",
    "epochs": "UPDATE epoch_rows SET epoch = epoch + 7",
    "no metric": "UPDATE epoch_rows SET metrics = '{}'",
    "decided": "UPDATE decisions SET trials = '[-9, 99]'",
    "content": "UPDATE decisions SET content = '{}'",
    "status": "UPDATE decisions SET content = replace(content, 'pruned', 'eaten')",
    "leaves": "UPDATE decisions SET content = replace(content, 'leaves', 'eaves')",
    "no leaf": "UPDATE decisions SET content = replace(content, 'params', 'para')",
    "models": 'UPDATE checkpoints SET models = \'{"99": "step-0"}\'',
    "name": "UPDATE checkpoints SET name = '../../' || name",
}


@pytest.mark.parametrize("statement", FORGED.values(), ids=FORGED.keys())
def test_a_database_that_contradicts_itself_is_no_other_error(complete, statement):
    file = complete / "study" / "study.sqlite"
    with contextlib.closing(sqlite3.connect(file)) as connection:
        connection.execute(statement)
        connection.commit()
    with pytest.raises(vt.StorageError, match="damaged"):
        vt.load_study(complete / "study")
    seal(file)
    with contextlib.suppress(vt.StorageError):
        vt.load_study(complete / "study").best_weights(2)


NASTY = [
    "'quoted' \"twice\"",
    "two\nlines\r\n\t",
    "[bold red]markup[/]",
    "<script>alert(1)</script>",
    "👩‍🔬 \u202e right to left",
    "%s {0} $HOME `true` \\",
    "'; DROP TABLE study; --",
    '{"$float": "nan"}',
    "é\x00\x1b[31m",
    "\ud800",
]
texts = st.sampled_from(NASTY) | st.text(min_size=1, max_size=8)
values = (
    texts
    | st.integers(-(2**70), 2**70)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.booleans()
)


@pytest.mark.ci
@settings(max_examples=8)
@given(project=texts, name=texts, value=values)
@example(project=NASTY[0], name=NASTY[1], value=NASTY[2])
@example(project=NASTY[3], name=NASTY[9], value=NASTY[9])
@example(project=NASTY[4], name=NASTY[8], value=-0.0)
def test_any_names_and_values_are_stored(project, name, value):
    with tempfile.TemporaryDirectory() as directory:
        try:
            study = locate(directory, project).path
        except ValueError:
            assume(False)
            raise
        found = named(directory, project, name, value)
        search(found, epochs=1)
        loaded = vt.load_study(study)
        assert repr(loaded.trials) == repr(found.trials)
        assert repr(loaded.trials[0].values) == repr({name: value, "rate": 0.5})
        assert [p.name for p in loaded.contents.trials[0].parameters] == [name, "rate"]
        again = named(directory, project, name, value)
        search(again, epochs=1)
        summary = again.results_summary()
        assert repr(summary.rows[0].values) == repr(loaded.trials[0].values)
        assert "<script>" not in summary.html()


def named(directory, project, name, value):
    def build(hp):
        hp.Fixed(name, value)
        return Mean(hp.Fixed("rate", 0.5))

    return vt.RandomSearch(
        build,
        "val_loss",
        max_trials=1,
        seed=0,
        directory=directory,
        project_name=project,
    )


# ------------------------------------------------------------------ odd numbers


class Odd(Mean):
    """Tells of numbers that text and SQL know badly, and diverges at large steps."""

    def eval_step(self, state, batch):
        error = super().eval_step(state, batch)["loss"]
        zero = 0 * error
        return {"loss": error, "nan": zero / zero, "inf": 1 / zero, "zero": -1 * zero}


def build_odd(hp):
    return Odd(hp.Float("rate", 1e-2, 1e12, sampling="log"))


def bits(trials):
    return [
        (trial.number, trial.status, trial.reason, name, struct.pack(">d", value))
        for trial in trials
        for name, values in trial.metrics.items()
        for value in values
    ]


@pytest.mark.ci
def test_numbers_that_are_none_are_kept_and_gone_on_with(tmp_path):
    whole = tmp_path / "whole"
    found = search(tuner(whole, build_odd))
    assert TrialStatus.DIVERGED in {trial.status for trial in found.trials}
    assert any(trial.score is not None for trial in found.trials)
    told = [value for trial in found.trials for value in trial.metrics["val_nan"]]
    assert told and all(np.isnan(told))
    assert {trial.metrics["val_inf"][0] for trial in found.trials} >= {np.inf}
    assert bits(vt.load_study(whole / "study").trials) == bits(found.trials)
    for at in (3, 11):
        directory = tmp_path / str(at)
        with pytest.raises(ZeroDivisionError):
            search(tuner(directory, build_odd), callbacks=[Raises(at)])
        ended = search(tuner(directory, build_odd))
        assert bits(ended.trials) == bits(found.trials)
        assert outcome(ended, directory) == outcome(found, whole)


# ------------------------------------------------------------------ without locks


@contextlib.contextmanager
def without_locks(drive):
    """Lets all locks fail in a directory, as the file system of a drive would."""
    connect = files.connect

    def refusing(path, query):
        if drive in path.parents and "immutable" not in query:
            raise sqlite3.OperationalError("disk I/O error")
        return connect(path, query)

    with pytest.MonkeyPatch.context() as patch:
        for module in (files, snapshot, database):
            patch.setattr(module, "connect", refusing)
        yield


@pytest.fixture
def drive(tmp_path, monkeypatch):
    """A directory whose locks fail."""
    (tmp_path / "local").mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "local"))
    (tmp_path / "drive").mkdir()
    with without_locks(tmp_path / "drive"):
        yield tmp_path / "drive"
    assert list((tmp_path / "local").iterdir()) == []


def drive_deaths(alone, drive, choose):
    places = deaths(drive / "whole", drive / "remains")
    assert outcome(tuner_of(drive / "whole"), drive / "whole") == alone["ended"]
    counts = [assert_good_state(alone, place) for place in places[::-8]]
    assert counts == sorted(counts)[::-1] and counts[0] == len(alone["told"])
    for k in choose(len(places)):
        assert_ends_like(alone, places[k])


def tuner_of(directory):
    return search(tuner(directory))


@pytest.mark.ci
def test_a_search_without_locks_goes_on_from_a_death(alone, drive):
    (drive / "whole").mkdir()
    drive_deaths(alone, drive, lambda count: [count // 3, count // 2, count - 4])


@pytest.mark.long
def test_a_search_without_locks_goes_on_from_every_death(alone, drive):
    (drive / "whole").mkdir()
    drive_deaths(alone, drive, range)


def die_without_locks(directory, local, k):
    """Searches where locks fail, and ends the process at an operation."""
    tempfile.tempdir = local
    with without_locks(Path(directory)):
        die(directory, k)


@pytest.mark.ci
def test_what_a_process_left_on_the_local_disk_is_removed(alone, drive):
    local = Path(tempfile.gettempdir())
    with child("die_without_locks", drive, local, 60) as process:
        _, errors = process.communicate(timeout=120)
    assert process.returncode == 9, errors
    assert len(list(local.glob("vtune-*"))) == 1
    assert_ends_like(alone, drive)


def test_a_drive_may_be_full(alone, drive):
    with watched(failing(lambda operation, number: operation == "snapshot")):
        with pytest.raises(vt.StorageError, match="cannot be published: the disk is"):
            search(tuner(drive))
    assert_ends_like(alone, drive)


def test_what_was_written_with_locks_is_not_overlooked_without_them(alone, begun):
    study = begun / "study"
    assert (study / "study.sqlite-wal").stat().st_size > 0
    before = tree(study)
    with without_locks(begun):
        with pytest.raises(vt.StorageError, match="study.sqlite-wal"):
            search(tuner(begun))
    assert {k: v for k, v in tree(study).items() if "lease" not in str(k)} == {
        k: v for k, v in before.items() if "lease" not in str(k)
    }
    assert_ends_like(alone, begun)
