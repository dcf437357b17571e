"""How many programs are compiled, counted by JAX itself."""

import dataclasses

import flax.linen as nn
import jax
import numpy as np
import optax
import pytest

import vtune as vt
from vtune.training.device import DEVICE_RULES


# The epoch of all lanes, as JAX names its program.
EPOCH = "jit(program)"

X = np.random.default_rng(0).normal(size=(96, 6)).astype(np.float32)
Y = (X[:, :3].argmax(axis=1)).astype(np.int32)


class Net(nn.Module):
    dropout: float
    width: int = 12

    @nn.compact
    def __call__(self, x, train: bool = False):
        x = nn.relu(nn.Dense(self.width)(x))
        x = nn.Dropout(self.dropout, deterministic=not train)(x)
        return nn.Dense(3)(x)


def build(hp, width=12):
    rate = hp.Float("rate", 1e-4, 1e-1, sampling="log")
    warmup = hp.Int("warmup", 1, 10)
    schedule = optax.warmup_cosine_decay_schedule(0.0, rate, warmup, hp.total_steps)
    optimizer = optax.adamw(schedule, weight_decay=hp.Float("decay", 1e-4, 1e-1))
    return vt.Model(
        Net(hp.Float("dropout", 0.1, 0.5), width),
        optimizer,
        "sparse_categorical_crossentropy",
        ["accuracy"],
    )


@pytest.fixture
def compiles():
    """The names of the programs that the backend compiled."""
    seen = []

    def listen(event, duration, **details):
        if event == "/jax/core/compile/backend_compile_duration":
            seen.append(details.get("fun_name"))

    jax.monitoring.register_event_duration_secs_listener(listen)
    yield seen
    jax.monitoring.unregister_event_duration_listener(listen)


def search(tuner):
    tuner.search(X, Y, validation_split=0.25, batch_size=12, verbose=0)
    assert not any(trial.reason for trial in tuner.trials)
    return tuner


def test_nothing_is_compiled_that_is_not_needed(compiles):
    def run(width):
        search(
            vt.RandomSearch(
                lambda hp: build(hp, width),
                "val_loss",
                max_trials=3,
                max_epochs=2,
                seed=0,
            )
        )

    run(14)
    # What planning asks about operations is known by now, and how keys are made.
    compiles.clear()
    run(15)
    assert sorted(compiles) == [EPOCH, "jit(wide_init)"]


@pytest.mark.ci
@pytest.mark.parametrize("lanes", ["vmap", "map"])
def test_64_trials_of_one_shape_are_one_program(lanes, compiles):
    def run(seed):
        return search(
            vt.RandomSearch(
                build, "val_loss", max_trials=64, max_epochs=2, seed=seed, lanes=lanes
            )
        )

    first = run(0)
    assert len({trial.values["rate"] for trial in first.trials}) == 64
    assert first.statistics.training_programs == 1
    assert compiles.count(EPOCH) == 1
    # 64 other constants in the same process: nothing is left to compile.
    compiles.clear()
    second = run(1)
    assert second.statistics.training_programs == 1
    assert second.statistics.compiling_seconds == 0.0
    assert compiles == []


@pytest.mark.ci
@pytest.mark.parametrize(("compiling", "programs"), [(0.0, 2), (2.0, 1)])
def test_rungs_need_one_program_for_each_number_of_lanes(
    compiles, monkeypatch, compiling, programs
):
    rule = dataclasses.replace(DEVICE_RULES["cpu"], compiling=compiling)
    monkeypatch.setitem(DEVICE_RULES, "cpu", rule)
    tuner = search(
        vt.Hyperband(
            # No other test compiled it.
            lambda hp: build(hp, width=90 + programs),
            "val_loss",
            brackets=[[(32, 1), (16, 2), (4, 4)]],
            seed=0,
            lanes="vmap",
        )
    )
    reached = [sum(t.epoch >= epochs for t in tuner.trials) for epochs in (1, 2, 4)]
    assert reached == [32, 16, 4]
    # 32 and 16 trials run 16 at a time, the last 4 by themselves, where compiling costs
    # less than idle lanes.
    assert tuner.statistics.training_programs == programs
    assert compiles.count(EPOCH) == programs
