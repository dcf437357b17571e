"""A search that is killed again and again ends as one that is left alone."""

import contextlib
import dataclasses
import hashlib
import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import get_args

import pytest

import vtune as vt
from tests.searching import WIDTHS, Life, Place


ROOT = Path(__file__).parent.parent
PLACES = get_args(Place)
LONGEST = 300  # seconds: something is wrong with a process that takes longer


@dataclasses.dataclass(frozen=True)
class Lived:
    """What a process did until it ended.

    Args:
        place: where it killed itself; None: it did not.
        diary: what it wrote down.
        covered: the last record that a committed checkpoint holds the outcome of.
        killed: whether it was killed at all.
    """

    place: Place | None
    diary: list[dict]
    covered: int
    killed: bool

    def told(self, what):
        return [line for line in self.diary if line["what"] == what]

    @property
    def trained(self):
        """The (trial, epoch) that it trained, and the digest of each state."""
        return {
            (int(number), epoch): digest
            for line in self.told("trained")
            for number, (epoch, digest) in line["states"].items()
        }


def start(life, cache):
    environment = {
        **os.environ,
        "JAX_COMPILATION_CACHE_DIR": str(cache),
        "JAX_ENABLE_COMPILATION_CACHE": "true",
        "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
        "JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES": "-1",
    }
    more = dataclasses.asdict(life)
    given = [str(more.pop(name)) for name in ("folder", "form", "pause")]
    return subprocess.Popen(
        [sys.executable, "-m", "tests.searching", *given, json.dumps(more)],
        cwd=ROOT,
        env=environment,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    )


def diary(life, process):
    """What a process wrote down so far; a line that it died in is left out."""
    file = Path(life.folder) / f"states-{process.pid}.jsonl"
    text = file.read_text(encoding="utf-8") if file.exists() else ""
    return [json.loads(line) for line in text.splitlines(True) if line.endswith("\n")]


def study(folder):
    return vt.load_study(Path(folder) / "study")


def covered(folder):
    """The last record that a committed checkpoint holds the outcome of."""
    if not (Path(folder) / "study" / "study.sqlite").exists():
        return 0
    return max((c.sequence for c in study(folder).contents.checkpoints), default=0)


def kill(life, process, moments):
    """Kills a process from outside, before or after it commits a checkpoint."""

    def over():
        committed = [
            line for line in diary(life, process) if line["what"] == "committed"
        ]
        return process.poll() is not None or len(committed) >= life.checkpoints

    deadline = time.monotonic() + LONGEST
    while not over():
        assert time.monotonic() < deadline
        time.sleep(0.05)
    time.sleep(moments.uniform(0, 1 if life.checkpoints else 6))
    process.send_signal(signal.SIGKILL)


def live(life, cache, moments=None):
    """Runs a process to its end; with `moments`, it is killed from outside."""
    process = start(life, cache)
    if moments is not None:
        kill(life, process, moments)
    _, errors = process.communicate(timeout=LONGEST)
    killed = process.returncode == -signal.SIGKILL
    assert killed or process.returncode == 0, errors
    found = diary(life, process)
    lived = Lived(
        life.end if killed else None, found, covered(life.folder), killed=killed
    )
    if lived.place is not None:
        assert found[-1] == {**found[-1], "what": "killed", "place": lived.place}
        assert_died_there(Path(life.folder) / "study", lived)
    return lived


def assert_died_there(folder, lived):
    """What is left on the disk tells as well where a process died."""
    known = {record.name for record in vt.load_study(folder).contents.checkpoints}
    left = [
        path
        for path in (folder / "checkpoints").iterdir()
        if path.name not in known and path.is_dir()
    ]
    stored = {(r.trial, r.epoch) for r in vt.load_study(folder).contents.epochs}
    match lived.place:
        case "after a commit" | "in an epoch":
            assert lived.trained.keys() <= stored
        case "as a checkpoint begins":
            assert [list(path.iterdir()) for path in left] == [[]]
        case "in a checkpoint":
            assert [path.suffix for path in left] == [".partial-checkpoint"]
            assert [path.name for path in left[0].iterdir()] == ["arrays"]
        case "before a checkpoint is committed":
            assert [path.suffix for path in left] == [""]


def killed_until_it_ends(life, kills, cache):
    """Kills a search again and again, then lets it end; returns all its lives."""
    moments = random.Random(kills)
    lives: list[Lived] = []
    for number in range(kills):
        # Each place once, then half of the kills come from outside.
        directed = number < len(PLACES) or number % 2 == 0
        end = PLACES[number % len(PLACES)] if directed else None
        this = dataclasses.replace(
            life,
            end=end,
            checkpoints=(1, 0, 2, 2)[number % 4],
            count=moments.randint(1, 3) if end in PLACES[:2] else 1,
            seed=moments.randrange(2**32),
        )
        lives.append(live(this, cache, None if directed else moments))
        assert lives[-1].killed, f"it came to its end after {number} kills"
    return [*lives, live(dataclasses.replace(life, pause=0.0), cache)]


# ------------------------------------------------------------------ what has to hold


def found(folder):
    """All that a search ended with, to the last bit."""
    stored = study(folder)
    weights = stored.best_weights(2)
    assert len(weights) == 2
    return {
        "trials": list(map(repr, stored.trials)),
        "begun": list(map(repr, stored.contents.trials)),
        "epochs": list(map(repr, stored.contents.epochs)),
        "decisions": list(map(repr, stored.contents.decisions)),
        "weights": [
            {n: hashlib.sha256(w.tobytes()).hexdigest() for n, w in model.items()}
            for model in weights
        ],
    }


def assert_same_states(lives, alone):
    """Whoever trained a trial for an epoch, its state is that of the search alone."""
    for lived in lives:
        assert lived.trained.items() <= alone.trained.items()
    assert set().union(*(lived.trained for lived in lives)) == set(alone.trained)


def assert_all_make_progress(lives):
    """Each life begins at the last checkpoint, and goes on from there if it can."""
    before = [0, *(lived.covered for lived in lives)]
    for first, lived in zip(before, lives):
        sequences = [line["sequence"] for line in lived.told("committed")]
        assert lived.covered >= max(sequences, default=first)
        assert sequences == sorted(set(sequences))
        assert min(sequences, default=first + 1) > first
    kills = [lived for lived in lives if lived.killed]
    committed = [last > first for first, last in zip(before, before[1:])]
    assert sum(committed[: len(kills)]) >= len(kills) / 2


def assert_little_is_repeated(lives, order):
    """A kill repeats what was trained since the last checkpoint, and nothing else.

    Args:
        lives: the search, life by life.
        order: the place of each (trial, epoch) among all records.
    """
    trained: set[tuple[int, int]] = set()
    bound, first = 0, 0
    for lived in lives:
        since = {place for place in trained if order[place] > first}
        bound += len(since)
        assert trained.intersection(lived.trained) <= since
        if lived.trained:
            last = max(order[place] for place in lived.trained)
            assert set(lived.trained) == {p for p in order if first < order[p] <= last}
        trained.update(lived.trained)
        first = lived.covered
    assert trained == set(order)
    in_all = sum(len(line["states"]) for x in lives for line in x.told("trained"))
    assert 0 < in_all - len(order) <= bound


def assert_checkpoints_are_on_time(lived, interval):
    """No epoch begins after the interval unless a checkpoint begins or is written.

    Of those that had begun the last two may be yet to be written down.
    """
    since, late, writing = None, 0, False
    for line in lived.diary:
        match line["what"]:
            case "trained":
                since = line["began"] if since is None else since
                late += not writing and line["time"] >= since + interval
                assert late <= 3, line
            case "begun":
                since, late, writing = line["time"], 0, True
            case "committed":
                writing = False


def assert_wide(lived, folder):
    """Networks of 17 units were trained in 96, beside others in 8 lanes or more."""
    lanes = {
        int(number): lanes
        for line in lived.told("trained")
        for number, lanes in line["lanes"].items()
        if lanes >= 8
    }
    widths = {study(folder).trials[number].values["width"] for number in lanes}
    assert {min(WIDTHS), max(WIDTHS)} <= widths
    first = {r.program for r in study(folder).contents.epochs if r.epoch == 1}
    assert len(first) == 1


def check(tmp_path, life, kills):
    alone, killed, cache = (tmp_path / name for name in ("alone", "killed", "cache"))
    for folder in (alone, killed, cache):
        folder.mkdir()
    undisturbed = live(dataclasses.replace(life, folder=str(alone), pause=0.0), cache)
    assert not undisturbed.killed
    lives = killed_until_it_ends(
        dataclasses.replace(life, folder=str(killed)), kills, cache
    )
    assert {lived.place for lived in lives if lived.killed} == {*PLACES, None}
    assert sum(lived.killed for lived in lives) == kills
    assert found(killed) == found(alone)
    assert_same_states(lives, undisturbed)
    assert_all_make_progress(lives)
    order = {(r.trial, r.epoch): r.sequence for r in study(alone).contents.epochs}
    assert_little_is_repeated(lives, order)
    for lived in lives:
        assert_checkpoints_are_on_time(lived, life.interval)
    if life.form == "vmap":
        assert_wide(undisturbed, alone)


# ------------------------------------------------------------------ what would be seen


ORDER = {(trial, epoch): 2 * epoch + trial for epoch in range(1, 5) for trial in (0, 1)}


def step(epoch, began=0.0, digest="same"):
    states = {str(trial): (epoch, digest) for trial in (0, 1)}
    return {"what": "trained", "began": began, "time": began + 1, "states": states}


def line(what, sequence, moment=0.0):
    return {"what": what, "time": moment, "sequence": sequence}


def lives_of(*lives):
    """Two trials in several lives: each with its diary, and what was covered then."""
    last = len(lives) - 1
    return [
        Lived(None, diary, covered, killed=number < last)
        for number, (diary, covered) in enumerate(lives)
    ]


FIRST = [step(1), line("begun", 3), line("committed", 3), step(2)], 3


def test_what_a_search_should_do_passes():
    lives = lives_of(FIRST, ([step(2), step(3), step(4), line("committed", 9)], 9))
    assert_all_make_progress(lives)
    assert_little_is_repeated(lives, ORDER)


@pytest.mark.parametrize("second", [[1, 2, 3, 4], [3, 4], [2, 4], [2, 3]])
def test_a_life_that_begins_or_ends_elsewhere_would_be_seen(second):
    lives = lives_of(FIRST, (list(map(step, second)), 9))
    with pytest.raises(AssertionError):
        assert_little_is_repeated(lives, ORDER)


@pytest.mark.parametrize(
    "second",
    [
        ([step(2)], 2),
        ([step(2), line("committed", 5)], 3),
        ([step(1), line("committed", 3)], 3),
    ],
)
def test_a_life_without_progress_would_be_seen(second):
    with pytest.raises(AssertionError):
        assert_all_make_progress(lives_of(FIRST, second, ([], 9)))


def test_kills_before_any_checkpoint_would_be_seen():
    with pytest.raises(AssertionError):
        assert_all_make_progress(lives_of(([], 0), ([], 0), FIRST, ([], 9)))


def test_a_checkpoint_that_comes_late_would_be_seen():
    begun, committed = line("begun", 5, 3.0), line("committed", 5, 3.5)
    for diary, is_on_time in (
        ([step(1), step(2, 1.0), begun, step(3, 3.0)], True),
        ([step(1), step(2, 1.0), begun, step(3, 8.0), step(4, 9.0)], True),
        ([step(n, float(n)) for n in range(1, 6)], False),
        ([step(1), begun, step(3, 8.0), committed, *map(step, range(4, 9))], True),
        (
            [step(1), begun, committed, *(step(n, 5.0 + n) for n in range(2, 6))],
            False,
        ),
    ):
        (lived,) = lives_of((diary, 9))
        with contextlib.nullcontext() if is_on_time else pytest.raises(AssertionError):
            assert_checkpoints_are_on_time(lived, 2.0)


def test_another_state_would_be_seen():
    (alone,) = lives_of(([step(1), step(2)], 5))
    assert_same_states(lives_of(([step(1)], 0), ([step(1), step(2)], 5)), alone)
    for second in ([step(1), step(2, digest="another")], [step(1)]):
        with pytest.raises(AssertionError):
            assert_same_states(lives_of(([step(1)], 0), (second, 5)), alone)


# ------------------------------------------------------------------ the searches


# However fast the machine is, a life comes no further than from one checkpoint to the
# next: so many epochs, with the pause after each, are enough for all the kills.
SHORT = {"scale": 3, "interval": 0.5, "pause": 0.15}
LONG = {"scale": 25, "interval": 2.0, "pause": 0.15}


@pytest.mark.ci
@pytest.mark.parametrize("form", ["vmap", "map"])
def test_a_search_that_is_killed_some_times_ends_as_one_left_alone(tmp_path, form):
    check(tmp_path, Life(str(tmp_path), form, **SHORT), kills=6)


@pytest.mark.long
@pytest.mark.parametrize("form", ["vmap", "map"])
def test_a_search_that_is_killed_many_times_ends_as_one_left_alone(tmp_path, form):
    check(tmp_path, Life(str(tmp_path), form, **LONG), kills=50)
