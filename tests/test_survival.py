"""A search that is killed again and again ends as one that is left alone."""

import contextlib
import os
import random
import signal
import sqlite3
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from tests import searching


ROOT = Path(__file__).parent.parent


def start(folder, form, pause, cache):
    environment = {
        **os.environ,
        "JAX_COMPILATION_CACHE_DIR": str(cache),
        "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
        "JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES": "-1",
    }
    command = [sys.executable, "-m", "tests.searching", str(folder), form, str(pause)]
    return subprocess.Popen(
        command,
        cwd=ROOT,
        env=environment,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    )


def run_to_end(folder, form, pause, cache):
    process = start(folder, form, pause, cache)
    _, errors = process.communicate(timeout=300)
    assert process.returncode == 0, errors


def states(folder):
    """The digest of each (trial, epoch), by all processes; they have to agree."""
    found = {}
    for file in Path(folder).glob("states-*.txt"):
        for line in file.read_text(encoding="utf-8").splitlines():
            if len(line.split()) == 3 and len(line.split()[2]) == 64:
                number, epoch, digest = line.split()
                place = int(number), int(epoch)
                assert found.setdefault(place, digest) == digest, place
    return found


def epochs_trained(folder):
    """How many epochs all processes trained, those that were repeated as often."""
    files = Path(folder).glob("states-*.txt")
    return sum(len(f.read_text(encoding="utf-8").splitlines()) for f in files)


def rows(folder, what):
    """What the database says."""
    database = sqlite3.connect(Path(folder) / "study" / "study.sqlite")
    with contextlib.closing(database) as connection:
        return sorted(map(repr, connection.execute(what)))


def same(one, other):
    for first, second in zip(one.trials, other.trials, strict=True):
        assert first == second
    models = zip(one.get_best_models(2), other.get_best_models(2), strict=True)
    x, _ = searching.data()
    for first, second in models:
        np.testing.assert_array_equal(first.predict(x), second.predict(x))


def killed_until_it_ends(folder, form, kills, cache, seed):
    """Kills a search at random moments; returns how often."""
    moments = random.Random(seed)
    done = 0
    while done < kills:
        process = start(folder, form, 0.15, cache)
        # Not before the process had time to come as far as training.
        before = epochs_trained(folder)
        deadline = time.monotonic() + 120
        while process.poll() is None and epochs_trained(folder) == before:
            assert time.monotonic() < deadline
            time.sleep(0.05)
        time.sleep(moments.uniform(0, 1.0))
        process.send_signal(signal.SIGKILL)
        _, errors = process.communicate()
        if process.returncode != -signal.SIGKILL:
            assert process.returncode == 0, errors
            return done
        done += 1
    run_to_end(folder, form, 0.0, cache)
    return done


def check(tmp_path, form, kills):
    alone, killed, cache = (tmp_path / name for name in ("alone", "killed", "cache"))
    for folder in (alone, killed, cache):
        folder.mkdir()
    run_to_end(alone, form, 0.0, cache)
    done = killed_until_it_ends(killed, form, kills, cache, seed=kills)
    assert done >= min(kills, 3)
    assert states(killed) == states(alone)
    for what in (
        "SELECT * FROM trials",
        "SELECT * FROM metrics",
        "SELECT * FROM rungs",
        "SELECT trial, epoch, sequence, program FROM epoch_rows",
        "SELECT * FROM decisions",
    ):
        assert rows(killed, what) == rows(alone, what)
    # A kill repeats no more than what was trained since the last checkpoint: of ten
    # trials what they train in the time between two, and in what writing one takes.
    repeated = epochs_trained(killed) - epochs_trained(alone)
    assert 0 <= repeated <= done * 10 * 12
    same(
        searching.search(searching.tuner(alone, form)),
        searching.search(searching.tuner(killed, form)),
    )


@pytest.mark.ci
@pytest.mark.parametrize("form", ["vmap", "map"])
def test_a_search_that_is_killed_some_times_ends_as_one_left_alone(tmp_path, form):
    check(tmp_path, form, kills=5)


@pytest.mark.long
@pytest.mark.parametrize("form", ["vmap", "map"])
def test_a_search_that_is_killed_many_times_ends_as_one_left_alone(tmp_path, form):
    check(tmp_path, form, kills=50)
