"""A study's database holds whole batches, exactly, whatever happens to it."""

import contextlib
import dataclasses
import errno
import resource
import shutil
import signal
import sqlite3
import struct
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest
from hypothesis import given, settings, strategies as st

from vtune.parameters import Choice, Fixed, FloatRange, IntRange
from vtune.storage import files
from vtune.storage.database import Database
from vtune.storage.failure import StorageError
from vtune.storage.records import (
    Batch,
    CheckpointRecord,
    Contents,
    DecisionRecord,
    EpochRecord,
    EventRecord,
    StudyRecord,
    TrialRecord,
)


ROOT = Path(__file__).parent.parent.parent
STUDY = StudyRecord(
    {"objective": ["val_loss", "min"], "seed": 2**32 - 1, "rungs": [[[9, 1], [3, 3]]]},
    {"jax": "0.10.0", "platform": "cpu"},
    {"training": {"shapes": [[64, 8]], "mean": 0.1}},
)
NEGATIVE_NAN = struct.unpack(">d", (0xFFF8 << 48).to_bytes(8))[0]


def trial(number, sequence=None, **changes):
    record = TrialRecord(
        number if sequence is None else sequence,
        number,
        {"units": 2**70, "rate": 0.1, "norm": True, "kind": "a\0'\ud800"},
        (
            IntRange("units", 1, 2**70, 1, "linear", 1),
            FloatRange("rate", 0.1, 1.0, None, "log", 0.1),
            Choice("norm", (False, True), False),
            Fixed("kind", "a\0'\ud800"),
        ),
        0,
        1,
        "d" * 64,
    )
    return dataclasses.replace(record, **changes)


def epoch(sequence, number, count, finite=True, **metrics):
    metrics = metrics or {"loss": 0.1 * count, "val_loss": 1.0 / (count + number)}
    return EpochRecord(sequence, number, count, metrics, finite, "p" * 16)


def decision(sequence, kind, *trials, **content):
    return DecisionRecord(sequence, kind, trials, content)


BATCHES = (
    Batch(
        trials=tuple(trial(number) for number in range(4)),
        events=(EventRecord(12.5, "started", 'as "it\'s"\0 \ud800'),),
    ),
    Batch(
        epochs=(
            *(epoch(10 + number, number, 1) for number in range(3)),
            epoch(13, 3, 1, False, loss=float("nan"), val_loss=float("inf")),
        )
    ),
    Batch(
        decisions=(
            decision(14, "promote", 0, 2, epochs=3),
            decision(15, "stop", 1, status="pruned"),
        ),
        epochs=(epoch(16, 0, 2), epoch(17, 2, 2)),
        checkpoints=(CheckpointRecord("step-17", 17, 2**40, {1: "step-17"}),),
    ),
    Batch(
        epochs=(epoch(18, 0, 3, loss=-0.0, val_loss=NEGATIVE_NAN),),
        events=(EventRecord(1.0, "interrupted", ""),),
    ),
)


def together(batches, study=STUDY):
    """What a database holds after some batches, as it reads it."""

    def joined(name):
        return tuple(record for batch in batches for record in getattr(batch, name))

    return Contents(
        study,
        joined("trials"),
        joined("epochs"),
        joined("decisions"),
        tuple(sorted(joined("events"), key=lambda event: event.time)),
        joined("checkpoints"),
    )


def exactly(value):
    """A form of records that `==` tells apart where types or bits differ."""
    if dataclasses.is_dataclass(value):
        fields = [field.name for field in dataclasses.fields(value)]
        return type(value), [exactly(getattr(value, name)) for name in fields]
    if isinstance(value, (tuple, list)):
        return type(value), [exactly(member) for member in value]
    if isinstance(value, dict):
        return [(name, exactly(member)) for name, member in value.items()]
    if isinstance(value, float):
        return "float", struct.pack(">d", value)
    return type(value), value


@pytest.fixture
def path(tmp_path):
    return tmp_path / "study.sqlite"


@pytest.fixture
def whole(path):
    """A database with all batches, closed."""
    with Database.create(path, STUDY) as database:
        for batch in BATCHES:
            database.commit(batch)
    return path


def contents(path, writable=False):
    with Database.open(path, writable=writable) as database:
        return database.contents()


@contextlib.contextmanager
def raw(path):
    """A connection to the file that does whatever it is told."""
    with contextlib.closing(sqlite3.connect(path, isolation_level=None)) as connection:
        yield connection


# -------------------------------------------------------------------- what is held


@pytest.mark.parametrize("writable", [False, True])
def test_what_is_written_is_read(whole, writable):
    assert exactly(contents(whole, writable)) == exactly(together(BATCHES))
    assert {file.name for file in whole.parent.iterdir()} <= {
        whole.name,
        f"{whole.name}-wal",
        f"{whole.name}-shm",
    }


def test_records_come_in_the_order_of_their_sequence(path):
    with Database.create(path, STUDY) as database:
        database.commit(Batch(trials=(trial(1, 9), trial(0, 8))))
        database.commit(Batch(epochs=(epoch(12, 0, 1), epoch(11, 0, 2))))
        database.commit(Batch(decisions=(decision(20, "fail", 1),)))
        database.commit(Batch(decisions=(decision(19, "fail", 0),)))
        held = database.contents()
    assert [record.sequence for record in held.trials] == [8, 9]
    assert [record.sequence for record in held.epochs] == [11, 12]
    assert [record.sequence for record in held.decisions] == [19, 20]


FLOATS = st.floats() | st.sampled_from([-0.0, NEGATIVE_NAN])
VALUES = st.integers() | FLOATS | st.text() | st.booleans()
METRICS = st.dictionaries(st.text(), FLOATS, max_size=3)


@given(st.dictionaries(st.text(), VALUES, max_size=3), st.lists(METRICS, max_size=3))
@settings(max_examples=25)
def test_any_values_and_metrics_are_held(values, history):
    batch = Batch(
        trials=(trial(0, values=values),),
        epochs=tuple(
            EpochRecord(count + 1, 0, count, metrics, True, "")
            for count, metrics in enumerate(history)
        ),
    )
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "study.sqlite"
        with Database.create(path, STUDY) as database:
            database.commit(batch)
            database.commit(batch)
        assert exactly(contents(path)) == exactly(together([batch]))


def test_a_path_may_have_any_characters(tmp_path):
    folder = tmp_path / "a?mode=memory&b#c%41 é'\";😀"
    folder.mkdir()
    Database.create(folder / "s?#%.sqlite", STUDY).close()
    assert contents(folder / "s?#%.sqlite").study == STUDY
    assert "s?#%.sqlite" in [file.name for file in folder.iterdir()]


# -------------------------------------------------------------------- written again


def test_what_is_written_again_takes_the_new_sequence(whole):
    again = dataclasses.replace(BATCHES[3].epochs[0], sequence=40)
    with Database.open(whole, writable=True) as database:
        database.commit(Batch(trials=(trial(2, 30),), epochs=(again,)))
        held = database.contents()
    assert held.trials[-1] == trial(2, 30) and len(held.trials) == 4
    assert held.epochs[-1].sequence == 40
    assert len(held.epochs) == len(together(BATCHES).epochs)


FIRST = BATCHES[1].epochs[0]
LAST = BATCHES[3].epochs[0]
DIFFERENT = {
    "an ulp": (
        dataclasses.replace(FIRST, metrics={"loss": 0.1, "val_loss": 1.0 + 2**-52}),
        "epoch 1 of trial 0: val_loss was 1.0 and is 1.0000000000000002",
    ),
    "a sign": (
        dataclasses.replace(LAST, metrics=LAST.metrics | {"loss": 0.0}),
        "epoch 3 of trial 0: loss was -0.0 and is 0.0",
    ),
    "the bits of a NaN": (
        dataclasses.replace(LAST, metrics=LAST.metrics | {"val_loss": float("nan")}),
        'val_loss was {"$float": "nan 0xfff8000000000000"} and is {"$float": "nan"}',
    ),
    "a metric less": (
        dataclasses.replace(FIRST, metrics={"loss": 0.1}),
        "val_loss is missing",
    ),
    "a metric more": (
        dataclasses.replace(FIRST, metrics={**FIRST.metrics, "accuracy": 1.0}),
        "accuracy is new",
    ),
    "another order": (
        dataclasses.replace(FIRST, metrics=dict(reversed(FIRST.metrics.items()))),
        "metrics were ['loss', 'val_loss'] and are ['val_loss', 'loss']",
    ),
    "not finite": (
        dataclasses.replace(FIRST, finite=False),
        "finite was True and is False",
    ),
    "another program": (
        dataclasses.replace(FIRST, program="q"),
        "program was 'pppppppppppppppp' and is 'q'",
    ),
    "a bool": (
        trial(1, values=trial(1).values | {"norm": 1}),
        "trial 1: norm was True and is 1",
    ),
    "another bracket": (trial(3, bracket=2), "trial 3: bracket was 0 and is 2"),
    "another parameter": (
        trial(0, parameters=(Fixed("a", 1),)),
        "and is (Fixed(name='a', value=1),)",
    ),
}


@pytest.mark.parametrize("record, told", DIFFERENT.values(), ids=DIFFERENT.keys())
def test_what_is_written_again_has_to_be_the_same(whole, record, told):
    is_trial = isinstance(record, TrialRecord)
    batch = Batch(
        trials=(trial(9), record) if is_trial else (trial(9),),
        epochs=() if is_trial else (epoch(30, 1, 2), record),
    )
    with Database.open(whole, writable=True) as database:
        with pytest.raises(StorageError) as caught:
            database.commit(batch)
        assert told in str(caught.value) and str(whole) in str(caught.value)
        assert "start anew in another directory" in str(caught.value)
        assert exactly(database.contents()) == exactly(together(BATCHES))
        database.commit(Batch(trials=(trial(9),)))
        assert len(database.contents().trials) == 5


REFUSED = {
    "a decision in its place": Batch(
        decisions=(decision(14, "promote", 0, 2, epochs=4),)
    ),
    "an unknown trial": Batch(epochs=(epoch(50, 12, 1),)),
    "an int among metrics": Batch(epochs=(epoch(50, 0, 9, loss=1),)),
    "a tuple in a decision": Batch(decisions=(decision(50, "fail", a=(1,)),)),
    "an unknown kind": Batch(decisions=(decision(50, "guess"),)),
    "a large sequence": Batch(decisions=(decision(2**63, "fail"),)),
    "a very large sequence": Batch(decisions=(decision(10**5000, "fail"),)),
    "no sequence": Batch(trials=(trial(50, sequence=True),)),
    "a time that is none": Batch(events=(EventRecord(float("nan"), "a", "b"),)),
    "a program in Greek": Batch(epochs=(dataclasses.replace(FIRST, program="π"),)),
}


@pytest.mark.parametrize("batch", REFUSED.values(), ids=REFUSED.keys())
def test_a_batch_that_cannot_be_read_again_is_refused_whole(whole, batch):
    with Database.open(whole, writable=True) as database:
        with pytest.raises(StorageError):
            database.commit(
                dataclasses.replace(batch, trials=(trial(7), *batch.trials))
            )
        assert exactly(database.contents()) == exactly(together(BATCHES))


# -------------------------------------------------------------------- taken back


def test_rewinding_takes_back_decisions_only(whole):
    with Database.open(whole, writable=True) as database:
        database.rewind(14)
        held = database.contents()
    assert [record.sequence for record in held.decisions] == [14]
    assert exactly(dataclasses.replace(held, decisions=())) == exactly(
        dataclasses.replace(together(BATCHES), decisions=())
    )


def test_forgetting_takes_back_all_records(whole):
    with Database.open(whole, writable=True) as database:
        database.forget(14)
        held = database.contents()
        assert [record.sequence for record in held.trials] == [0, 1, 2, 3]
        assert [record.sequence for record in held.epochs] == [10, 11, 12, 13]
        assert [record.sequence for record in held.decisions] == [14]
        database.forget(1)
        assert [record.number for record in database.contents().trials] == [0, 1]


def test_settings_are_replaced(whole):
    expected = dataclasses.replace(STUDY, settings={"seed": 3, "rate": 0.5})
    wrong = dataclasses.replace(STUDY, settings={"rungs": (1, 2)})
    with Database.open(whole, writable=True) as database:
        database.extend(expected)
        assert database.study == database.contents().study == expected
        with pytest.raises(StorageError):
            database.extend(wrong)
        assert database.study == expected
    assert contents(whole).study == expected


def test_checkpoints_are_dropped_and_replaced(whole):
    with Database.open(whole, writable=True) as database:
        again = CheckpointRecord("step-17", 18, 5, {2: "model-2"})
        other = CheckpointRecord("step-20", 20, 6, {})
        database.commit(Batch(checkpoints=(again, other)))
        assert database.contents().checkpoints == (again, other)
        database.drop_checkpoints(["step-17", "unknown"])
        assert database.contents().checkpoints == (other,)


# -------------------------------------------------------------------- what goes wrong


class Faults:
    """Lets the operation with a number fail, once."""

    def __init__(self, fails_at, error):
        self.fails_at = fails_at
        self.error = error
        self.operations = []

    def __call__(self, operation):
        self.operations.append(operation)
        if len(self.operations) - 1 == self.fails_at:
            raise self.error


ERRORS = {
    "full": (OSError(errno.ENOSPC, "No space left on device"), "the disk is full"),
    "SQLite": (sqlite3.OperationalError("disk I/O error"), "disk I/O error"),
    "Ctrl-C": (KeyboardInterrupt(), None),
}


def history(path, before):
    """Writes all batches, each again where it failed; which failed, and how."""
    failures = []

    def persist(step):
        try:
            return step()
        except (StorageError, KeyboardInterrupt) as error:
            failures.append(error)
            return step()

    def create():
        if path.exists():
            return Database.open(path, writable=True, before=before)
        return Database.create(path, STUDY, before=before)

    with persist(create) as database:
        for count, batch in enumerate(BATCHES):
            with contextlib.closing(Database.open(path, writable=False)) as reader:
                assert exactly(reader.contents()) == exactly(together(BATCHES[:count]))
            persist(lambda batch=batch: database.commit(batch))
    return failures


@pytest.mark.parametrize("error, told", ERRORS.values(), ids=ERRORS.keys())
def test_each_operation_may_fail(tmp_path, error, told):
    faultless = Faults(None, error)
    assert history(tmp_path / "faultless.sqlite", faultless) == []
    assert {"create", "replace", "open", "statement", "commit"} <= set(
        faultless.operations
    )
    for k in range(len(faultless.operations)):
        path = tmp_path / f"{k}.sqlite"
        failures = history(path, Faults(k, error))
        assert len(failures) == 1
        assert told is None or told in str(failures[0])
        assert exactly(contents(path)) == exactly(together(BATCHES))


def test_the_roll_back_may_fail_too(path):
    failing = {"commit", "rollback"}

    def before(operation):
        if operation in failing:
            raise OSError(errno.EIO, "Input/output error")

    with Database.create(path, STUDY, before=before) as database:
        with pytest.raises(StorageError):
            database.commit(BATCHES[0])
        failing.clear()
        database.commit(BATCHES[0])
        assert exactly(database.contents()) == exactly(together(BATCHES[:1]))


KILLED = """
import os, pathlib, signal, sys
sys.path.insert(0, {root!r})
from tests.storage.test_database import BATCHES, STUDY, Database

def history(path, fails_at):
    count = 0
    def before(operation):
        nonlocal count
        count += 1
        if count - 1 == fails_at:
            os.kill(os.getpid(), signal.SIGKILL)
    database = Database.create(path, STUDY, before=before)
    for number, batch in enumerate(BATCHES):
        database.commit(batch)
        path.with_suffix(".committed").write_text(str(number + 1))
    os._exit(0)

for k in range(100):
    child = os.fork()
    if not child:
        history(pathlib.Path({folder!r}) / f"{{k}}.sqlite", k)
    if os.waitpid(child, 0)[1] == 0:
        break
"""


def test_a_process_may_be_killed_before_each_operation(tmp_path):
    program = KILLED.format(root=str(ROOT), folder=str(tmp_path))
    subprocess.run(
        [sys.executable, "-W", "ignore", "-c", program], check=True, timeout=120
    )
    starts = sorted({file.name.split(".")[0] for file in tmp_path.iterdir()}, key=int)
    assert len(starts) > 15
    seen = set()
    for k in starts:
        path = tmp_path / f"{k}.sqlite"
        committed = path.with_suffix(".committed")
        count = int(committed.read_text()) if committed.exists() else 0
        if path.exists():
            held = contents(path, writable=True)
            assert exactly(held) == exactly(together(BATCHES[:count]))
        else:
            assert count == 0
            Database.create(path, STUDY).close()
            assert contents(path) == together([])
        assert not path.with_name(f"{path.name}-new").exists()
        seen.add(count)
    assert seen == {0, 1, 2, 3, 4}


@contextlib.contextmanager
def file_size_limit(size):
    """Lets every write beyond a size fail, as on a full disk."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    previous = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        signal.signal(signal.SIGXFSZ, previous)


MANY = Batch(trials=tuple(trial(number) for number in range(10, 500)))


def test_a_disk_without_room_costs_nothing_that_was_committed(whole):
    with Database.open(whole, writable=True) as database:
        with file_size_limit(60_000):
            with pytest.raises(StorageError, match="committed before is safe"):
                database.commit(MANY)
            assert exactly(database.contents()) == exactly(together(BATCHES))
        database.commit(MANY)
        assert len(database.contents().trials) == 4 + len(MANY.trials)


def test_another_process_may_hold_the_lock(whole, monkeypatch):
    monkeypatch.setattr(files, "BUSY_SECONDS", 0.05)
    with raw(whole) as other, Database.open(whole, writable=True) as database:
        other.execute("BEGIN IMMEDIATE")
        with pytest.raises(StorageError, match="another process holds it locked"):
            database.commit(MANY)
        other.execute("ROLLBACK")
        database.commit(MANY)


def test_a_closed_database_says_so(whole):
    database = Database.open(whole, writable=True)
    database.close()
    database.close()
    with pytest.raises(StorageError, match="closed"):
        database.commit(MANY)


def test_one_who_reads_does_not_write(whole):
    with Database.open(whole, writable=False) as database:
        with pytest.raises(StorageError, match="may not be written"):
            database.commit(MANY)


def test_readers_and_the_writer_do_not_wait_for_each_other(whole):
    with Database.open(whole, writable=True) as writer:
        with raw(whole) as reader:
            reader.execute("BEGIN")
            before = reader.execute("SELECT count(*) FROM trial_rows").fetchone()
            writer.commit(MANY)
            after = reader.execute("SELECT count(*) FROM trial_rows").fetchone()
            assert before == after == (4,)
        assert len(contents(whole).trials) == 4 + len(MANY.trials)


READ = """
import os, sys
sys.path.insert(0, sys.argv[2])
import pathlib
from vtune.storage.database import Database
from vtune.storage.failure import StorageError
if os.geteuid() == 0:
    os.setgid(65534), os.setuid(65534)
path = pathlib.Path(sys.argv[1])
try:
    (path.parent / "file").touch()
    sys.exit("the folder can be written")
except OSError:
    pass
try:
    with Database.open(path, writable=False) as database:
        print(len(database.contents().epochs))
    Database.open(path, writable=True)
except StorageError as error:
    print(error)
"""


@pytest.fixture
def locked_folder():
    """A folder that can be made read-only, also for the superuser's children."""
    folder = Path(tempfile.mkdtemp())
    folder.chmod(0o755)
    yield folder
    folder.chmod(0o755)
    shutil.rmtree(folder)


def read_in(path):
    path.parent.chmod(0o555)
    command = [sys.executable, "-c", READ, str(path), str(ROOT)]
    result = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert result.returncode == 0, result.stderr
    return result.stdout


def test_a_read_only_folder_is_read(whole, locked_folder):
    path = locked_folder / "study.sqlite"
    shutil.copy(whole, path)
    path.chmod(0o444)
    told = read_in(path)
    assert told.startswith(f"{len(together(BATCHES).epochs)}\n")
    assert "cannot be opened" in told
    assert [file.name for file in locked_folder.iterdir()] == [path.name]


def test_a_read_only_folder_is_not_read_without_what_is_in_the_log(locked_folder):
    path = locked_folder / "study.sqlite"
    with Database.create(path, STUDY) as database:
        database.commit(BATCHES[0])
        database.commit(BATCHES[1])
        for file in locked_folder.iterdir():
            shutil.copy(file, locked_folder / f"copy-{file.name}")
    (locked_folder / "copy-study.sqlite-shm").unlink()
    told = read_in(locked_folder / "copy-study.sqlite")
    assert "copy the study to a directory that may be written" in told
