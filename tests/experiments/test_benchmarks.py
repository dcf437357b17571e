"""Each benchmark measures what it says, and its opponents do the same work."""

import importlib.util
import json
import subprocess
import sys
from pathlib import Path

import flax.linen as nn
import jax
import numpy as np
import pytest
from hypothesis import given, strategies as st

from experiments.benchmarks.limit import (
    BYTES,
    PASSES,
    PIXELS,
    step_bytes,
    step_operations,
)
from experiments.benchmarks.networks import CNN, MLP, Network
from experiments.benchmarks.searches import covered, parts
from experiments.benchmarks.sides import (
    LONGEST_SECONDS,
    by_python,
    by_scan,
    by_vmapped_scan,
    by_vtune,
    first_state,
    next_state,
    race,
)
from vtune.training.statistics import Statistics


BENCHMARKS = Path(__file__).parents[2] / "experiments" / "benchmarks"

needs_kerastuner = pytest.mark.skipif(
    importlib.util.find_spec("keras_tuner") is None, reason="needs KerasTuner"
)


def run(script, *flags, folder):
    done = subprocess.run(
        [sys.executable, str(BENCHMARKS / script), "--smoke", *flags],
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1]), done.stdout


class Normalised(nn.Module):
    """A network with state beside its parameters."""

    @nn.compact
    def __call__(self, x, train: bool = False):
        x = nn.BatchNorm(use_running_average=not train)(nn.Dense(8)(x))
        return nn.Dense(10)(x)


@pytest.mark.parametrize(
    "network",
    [
        pytest.param(Network(MLP(8), (12,), 4), marks=pytest.mark.ci),
        pytest.param(Network(Normalised(), (12,), 4), marks=pytest.mark.ci),
        pytest.param(Network(CNN((2, 3), 8), (8, 8, 1), 4), marks=pytest.mark.ci),
    ],
    ids=["MLP", "BatchNorm", "CNN"],
)
def test_all_sides_train_the_same(network):
    work = network.work(lanes=3, batch=16)
    sides = {
        "vtune": by_vtune(work),
        "vmapped scan": by_vmapped_scan(work),
        "scan": by_scan(work),
        "from Python": by_python(work, range(3)),
    }
    results = race(sides, turns=1)
    assert all(result.seconds > 0 for result in results.values())
    # Another order of the data, or other initial weights, would be far from that.
    losses = [result.loss for result in results.values()]
    np.testing.assert_allclose(losses, losses[0], rtol=1e-4)
    # The next turn goes on where the first one ended.
    assert sides["scan"]()[1] < losses[0]


def test_a_side_that_is_very_slow_takes_one_turn():
    counts = {"slow": 0, "fast": 0}

    def side(name, seconds):
        def turn():
            counts[name] += 1
            return seconds / counts[name], float(counts[name])

        return turn

    sides = {"slow": side("slow", 2 * LONGEST_SECONDS), "fast": side("fast", 1.0)}
    results = race(sides, turns=5)
    assert counts == {"slow": 1, "fast": 5}
    assert results["fast"].seconds == 0.2 and results["fast"].loss == 1.0


@given(st.lists(st.tuples(st.integers(0, 30), st.integers(0, 30)).map(sorted)))
def test_time_is_covered_once(spans):
    seconds = {second for begin, end in spans for second in range(begin, end)}
    assert covered(map(tuple, spans)) == len(seconds)


def test_waiting_is_what_nothing_else_took():
    statistics = Statistics(3, 5.0, 1.0, 2.0, 3.0, 4.0)
    found = parts(statistics, 12.5)
    assert found["waiting_seconds"] == 2.5
    assert found["training_programs"] == 3 and found["tracing_seconds"] == 5.0
    # What went on side by side adds up to more than the search took.
    assert parts(statistics, 9.0)["waiting_seconds"] == 0.0


@pytest.mark.parametrize("units", [16, 512])
def test_bytes_and_operations_are_those_of_the_step(units):
    batch = 32
    module = MLP(units)
    x = np.zeros((batch, PIXELS), np.float32)
    y = np.zeros(batch, np.int32)
    key = jax.random.key_data(jax.random.key(0))
    state = jax.eval_shape(lambda key: first_state(module, key, x), key)
    parameters = sum(leaf.size for leaf in jax.tree.leaves(state[0]))
    assert step_bytes(units) == PASSES * BYTES * parameters

    step = jax.jit(lambda *arguments: next_state(module, *arguments))
    analysis = step.lower(state, np.float32(1e-3), x, y).cost_analysis()
    # Beside the products, every parameter takes a few operations of Adam.
    others = analysis["flops"] - step_operations(units, batch)
    assert 0 < others < 40 * parameters


@pytest.mark.ci
def test_the_benchmark_of_peers_compares_all(tmp_path):
    found, text = run("peers.py", folder=tmp_path)
    has_torch = importlib.util.find_spec("torch") is not None
    assert ("torch is not installed" in text) != has_torch
    assert [row["network"] for row in found["rows"]] == found["networks"]
    for row in found["rows"]:
        assert len(row["rates"]) == 5 + has_torch
        assert all(rate > 0 for rate in row["rates"].values())
        rates, losses = row["rates"], row["losses"]
        assert row["vtune_by"]["scan"] == rates["vtune"] / rates["scan"]
        losses.pop("torch.func", None)
        np.testing.assert_allclose(list(losses.values()), losses["vtune"], rtol=1e-3)


@pytest.mark.ci
def test_the_benchmark_of_exact_shapes_trains_the_same_trials(tmp_path):
    found, _ = run("exact.py", "--dataset", "digits", folder=tmp_path)
    assert [row["space"] for row in found["rows"]] == ["tutorial", "depth"]
    for row in found["rows"]:
        assert row["ratio"] == row["by_hand"] / row["vtune"] > 0
        assert row["shapes"] <= row["trials"] < row["epochs"]
        # Another order of the data, or other initial weights, would be far from that.
        for ours, theirs in row["losses"].values():
            assert ours == pytest.approx(theirs, rel=1e-4)


@pytest.mark.ci
def test_the_benchmark_of_convolutions_compares_both_sides(tmp_path):
    flags = ("--trials", "0", "--networks", "separable", "1-D")
    found, _ = run("cnn.py", *flags, folder=tmp_path)
    assert [row["network"] for row in found["rows"]] == ["separable", "1-D"]
    for row in found["rows"]:
        each, losses = row["milliseconds"], row["losses"]
        assert row["ratio"] == each["vmapped scan"] / each["vtune"] > 0
        assert losses["vtune"] == pytest.approx(losses["vmapped scan"], rel=1e-3)


@pytest.mark.ci
@needs_kerastuner
def test_the_benchmark_of_convolutions_searches_with_both_tuners(tmp_path):
    flags = ("--dataset", "digits", "--networks")
    found, text = run("cnn.py", *flags, folder=tmp_path)
    assert not found["rows"]
    for tuner in ("vtune", "kerastuner"):
        assert found["search"][tuner]["trials"] == 2
        assert f"{tuner:12} 2 trials in" in text


@pytest.mark.ci
def test_the_benchmark_of_the_limit_tells_how_near_it_is(tmp_path):
    found, _ = run("limit.py", folder=tmp_path)
    assert found["limit"] == min(found["limit_by_bytes"], found["limit_by_operations"])
    assert found["bytes_per_second"] == pytest.approx(
        found["limit_by_bytes"] * step_bytes(found["units"])
    )
    (row,) = found["rows"]
    assert row["ratio"] == row["rate"] / found["limit"] > 0


@pytest.mark.ci
def test_the_benchmark_of_a_thousand_trials_says_where_the_time_goes(tmp_path):
    flags = ("--dataset", "digits", "--keras-trials", "0")
    found, _ = run("thousand.py", *flags, folder=tmp_path)
    assert [row["trials"] for row in found["rows"]] == found["trials"] == [3, 6]
    for row in found["rows"]:
        assert 0 < row["training_seconds"] + row["compiling_seconds"] < row["seconds"]
        assert 0 < row["waiting_seconds"] < row["seconds"]
        assert 0 < row["idle_share"] < 1
        assert row["bytes_before"] <= row["bytes_peak"]


@pytest.mark.ci
@needs_kerastuner
def test_the_benchmark_of_a_thousand_trials_compares_the_time_of_a_trial(tmp_path):
    flags = ("--dataset", "digits", "--trials", "3")
    found, _ = run("thousand.py", *flags, folder=tmp_path)
    ours, theirs = found["rows"][-1], found["kerastuner"]
    assert theirs["trials"] == 2
    assert found["kerastuner_by_vtune"] == pytest.approx(
        theirs["seconds"] / theirs["trials"] / (ours["seconds"] / ours["trials"])
    )
