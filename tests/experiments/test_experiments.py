"""Each experiment runs from the command line, on a few images, without a network."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from experiments.benchmarks.tutorial import rungs


EXPERIMENTS = Path(__file__).parents[2] / "experiments"


def run(script, *flags, folder):
    return subprocess.run(
        [sys.executable, str(EXPERIMENTS / script), *flags],
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=300,
    )


@pytest.mark.parametrize(
    "script, last_words",
    [
        ("tutorial.py", "Trained for"),
        pytest.param("depth.py", "of training", marks=pytest.mark.ci),
        pytest.param("regularization.py", "accuracy", marks=pytest.mark.ci),
    ],
)
def test_an_experiment_runs(script, last_words, tmp_path):
    done = run(script, "--smoke", "--dataset", "digits", folder=tmp_path)
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    assert lines[0].startswith("Data: digits: 256 images to train on, 256 held out")
    assert last_words in lines[-1]
    # Nothing is left behind where a user happens to stand.
    assert not list(tmp_path.iterdir())


def test_an_experiment_says_which_folder_it_misses(tmp_path):
    done = run("tutorial.py", "--smoke", "--data", "nowhere", folder=tmp_path)
    assert done.returncode != 0
    assert "'nowhere' does not hold fashion-mnist" in done.stderr


@pytest.mark.ci
def test_the_benchmark_of_lanes_compares_both_sides(tmp_path):
    done = run("benchmarks/lanes.py", "--smoke", folder=tmp_path)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout.splitlines()[-1])
    (row,) = found["rows"]
    assert row["lanes"] == 2
    assert row["ratio"] == row["vtune"] / row["by_hand"] == found["smallest_ratio"] > 0


@pytest.mark.ci
def test_the_benchmark_of_storage_opens_what_it_stored(tmp_path):
    done = run("benchmarks/storage.py", "--smoke", folder=tmp_path)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout.splitlines()[-1])
    assert found["trials"] == 20
    assert 0 < found["committing_seconds"] < found["seconds_stored"]
    assert found["bytes_on_disk"] > 0 and found["opening_seconds"] > 0


@pytest.mark.ci
def test_the_benchmark_of_the_tutorial_says_where_the_time_goes(tmp_path):
    flags = ("--smoke", "--dataset", "digits", "--tuner", "vtune")
    done = run("benchmarks/tutorial.py", *flags, folder=tmp_path)
    assert done.returncode == 0, done.stderr
    cold = json.loads(done.stdout.splitlines()[-1])
    warm = cold["again"]
    for found in (cold, warm):
        # Its rungs are those of KerasTuner: 3 trials to epoch 1 and 1 of them to 3, and
        # 2 trials to 3.
        assert (found["configurations"], found["epochs"]) == (5, 11)
        parts = ("tracing_seconds", "compiling_seconds", "training_seconds")
        assert 0 < sum(found[part] for part in parts) < found["search_seconds"]
    assert warm["best"] == cold["best"]
    assert warm["compiling_seconds"] < cold["compiling_seconds"]


def test_the_rungs_are_those_that_kerastuner_runs():
    assert rungs(10, 3) == [[(12, 2), (4, 4), (2, 10)], [(6, 4), (2, 10)], [(4, 10)]]
    assert rungs(100, 3)[0] == [(98, 2), (33, 4), (11, 12), (4, 34), (2, 100)]
