"""A lane's bits depend on its program, and on nothing that happens beside it."""

import dataclasses
import hashlib
import json
import os
import subprocess
import sys
from pathlib import Path

import flax.linen as nn
import jax
import numpy as np
import optax
import pytest

import vtune as vt
from vtune.training import compile
from vtune.training.data import dataset
from vtune.training.loop import tracer, training_loop
from vtune.training.trainer import Trainer


ROOT = Path(__file__).parent.parent.parent
TRIALS = 12
LANES = 4  # as many as there are trials in a program at a time
WATCHED = 3


class MLP(nn.Module):
    width: int

    @nn.compact
    def __call__(self, x, train: bool = False):
        x = nn.tanh(nn.Dense(self.width)(x.reshape(len(x), -1)))
        x = nn.Dropout(0.2, deterministic=not train)(x)
        return nn.Dense(3)(x)


class CNN(nn.Module):
    width: int

    @nn.compact
    def __call__(self, x, train: bool = False):
        x = nn.Conv(self.width, (3, 3))(x[..., None])
        x = nn.max_pool(nn.relu(x), (2, 2), (2, 2))
        x = nn.BatchNorm(use_running_average=not train)(x)
        return nn.Dense(3)(x.reshape(len(x), -1))


class Attention(nn.Module):
    width: int

    @nn.compact
    def __call__(self, x, train: bool = False):
        x = nn.Dense(2 * self.width)(x)
        x = x + nn.MultiHeadDotProductAttention(2)(nn.LayerNorm()(x))
        return nn.Dense(3)(x.mean(1))


NETWORKS = {"MLP": MLP, "CNN": CNN, "attention": Attention}
WIDTHS = {"MLP": (17, 96), "CNN": (3, 6), "attention": (4, 8)}
RANDOM = np.random.default_rng(0)
DATA = dataset(
    RANDOM.standard_normal((64, 6, 6)).astype(np.float32),
    RANDOM.integers(0, 3, 64).astype(np.int32),
)
LOOP = training_loop(DATA, DATA, batch_size=16)


def trainer(name, form, rates):
    """Knows all trials; of two widths in turn, with a rate each."""
    trace = tracer(LOOP, DATA, DATA)
    network, widths = NETWORKS[name], WIDTHS[name]
    traces = {
        number: trace(
            vt.Model(
                network(widths[number % 2]),
                optax.adam(rates.get(number, 1e-2 + 1e-3 * number)),
                "sparse_categorical_crossentropy",
            )
        )
        for number in range(TRIALS)
    }
    made = Trainer(LOOP, DATA, DATA, seed=5, lanes=form, fuse_widths="always")
    made.admit(traces)
    assert len(made.cohorts) == 1
    return made


def digest(trainer):
    leaves = trainer.states([WATCHED])[WATCHED]
    return hashlib.sha256(b"".join(leaf.tobytes() for leaf in leaves)).hexdigest()


def trained(name, form, beside, rates=None, pauses=False):
    """What a trial's state is after each of three epochs, and by which program."""
    made = trainer(name, form, rates or {})
    order = sorted([*beside, WATCHED])
    assert made.arrange(order).is_whole
    found = []
    for epoch in range(3):
        (result,) = (each.results[WATCHED] for each in made.train(order))
        found.append((digest(made), dict(result.metrics), result.program))
        if pauses:
            # What a checkpoint does: to the host, into another trainer, and on.
            states = made.states(order)
            made = trainer(name, form, rates or {})
            for number, state in states.items():
                made.restore(number, state, epoch + 1)
            assert made.arrange(order).is_whole
    return found


kinds = pytest.mark.parametrize(
    "name",
    ["MLP", *[pytest.param(n, marks=pytest.mark.ci) for n in ("CNN", "attention")]],
)
forms = pytest.mark.parametrize("form", ["vmap", "map"])


@kinds
@pytest.mark.parametrize("form", ["vmap", pytest.param("map", marks=pytest.mark.ci)])
def test_position_and_neighbours_change_no_bit(name, form):
    first = trained(name, form, [0, 1, 2])
    assert first == trained(name, form, [4, 5, 6])
    assert first == trained(name, form, [2, 8, 11])


@kinds
@forms
def test_neighbours_that_diverge_change_no_bit(name, form):
    first = trained(name, form, [0, 1, 2])
    wild = {0: float("nan"), 1: float("inf"), 2: 1e30}
    assert first == trained(name, form, [0, 1, 2], wild)


@pytest.mark.ci
@pytest.mark.parametrize("name", NETWORKS)
@forms
def test_a_round_trip_through_the_host_changes_no_bit(name, form):
    beside = [0, 1, 2]
    assert trained(name, form, beside) == trained(name, form, beside, pauses=True)


@pytest.mark.ci
@pytest.mark.parametrize("name", NETWORKS)
@forms
def test_donation_changes_no_bit(name, form, monkeypatch):
    first = trained(name, form, [0, 1, 2])
    compile_one = compile._compile

    def keeping(surroundings, request):
        kept = dataclasses.replace(request, donated=())
        return compile_one(surroundings, kept)

    monkeypatch.setattr(compile, "_compile", keeping)
    monkeypatch.setattr(compile, "PROGRAMS", compile.ProgramCache())
    second = trained(name, form, [0, 1, 2])
    assert [found[:2] for found in first] == [found[:2] for found in second]
    assert {program for *_, program in first}.isdisjoint({p for *_, p in second})


def tell(name, form):
    """Prints what is trained here, and how much of it came from JAX's cache."""
    events = []
    jax.monitoring.register_event_listener(lambda event, **_: events.append(event))
    found = trained(name, form, [0, 1, 2])
    hits = events.count("/jax/compilation_cache/cache_hits")
    misses = events.count("/jax/compilation_cache/cache_misses")
    print(json.dumps([found, hits, misses]))


def trained_elsewhere(name, form, cache):
    """What another process trains, its hits and its misses in JAX's cache."""
    environment = {
        **os.environ,
        "JAX_COMPILATION_CACHE_DIR": str(cache),
        "JAX_ENABLE_COMPILATION_CACHE": "true",
        "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
        "JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES": "-1",
    }
    call = f"test_neutrality.tell({name!r}, {form!r})"
    done = subprocess.run(
        [sys.executable, "-c", f"from tests.training import test_neutrality; {call}"],
        cwd=ROOT,
        env=environment,
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


@pytest.mark.ci
@pytest.mark.parametrize("name", NETWORKS)
@forms
def test_another_process_and_a_cached_program_change_no_bit(name, form, tmp_path):
    here = json.loads(json.dumps(trained(name, form, [0, 1, 2])))
    cold, hits, misses = trained_elsewhere(name, form, tmp_path)
    assert hits == 0 < misses
    warm, hits, misses = trained_elsewhere(name, form, tmp_path)
    assert misses == 0 < hits
    assert here == cold == warm


@pytest.mark.ci
def test_another_number_of_lanes_is_another_program():
    four = trained("MLP", "vmap", [0, 1, 2])
    more = trained("MLP", "vmap", [0, 1, 2, 4, 5, 6, 7, 8])
    assert {program for *_, program in four}.isdisjoint({p for *_, p in more})
