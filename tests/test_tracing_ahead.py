"""The next trials are built and traced while the device is busy with others."""

import threading

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import vtune as vt
from vtune.training import device


TRIALS = 12
AT_ONCE = 4

X = np.random.default_rng(0).standard_normal((64, 4)).astype(np.float32)
Y = (X[:, 0] > 0).astype(np.int32)


@pytest.fixture(autouse=True)
def small_device(monkeypatch):
    """A device that trains few trials at a time, so that the others have to wait."""
    rule = device.DEVICE_RULES["cpu"]
    changed = rule.__class__(**{**vars(rule), "most": AT_ONCE, "running": AT_ONCE})
    monkeypatch.setitem(device.DEVICE_RULES, "cpu", changed)


class Build:
    """Takes down who calls it; fails as it is told."""

    def __init__(self, failing=()):
        self.threads = []
        self.failing = failing

    def __call__(self, hp):
        self.threads.append(threading.current_thread())
        units = hp.Int("units", 2, 40)
        # The calls are those of trials, but where values came up twice.
        if len(self.threads) - 1 in self.failing:
            raise RuntimeError("no luck")
        net = nn.Sequential([nn.Dense(units), nn.relu, nn.Dense(2)])
        return vt.Model(net, optax.adam(1e-2), "sparse_categorical_crossentropy")


class Watch:
    """Takes down how many trials were built when the first one ended an epoch."""

    def __init__(self, build):
        self.build = build
        self.built = None

    def on_epoch_end(self, trial, epoch, metrics):
        if self.built is None:
            self.built = len(self.build.threads)


def search(build, callbacks=(), trials=TRIALS):
    tuner = vt.RandomSearch(build, "val_loss", max_trials=trials, seed=0)
    tuner.search(
        X,
        Y,
        epochs=2,
        batch_size=16,
        validation_split=0.25,
        callbacks=callbacks,
        verbose=0,
    )
    return tuner


def test_trials_are_built_before_they_are_asked_for_and_in_the_users_thread():
    build = Build()
    watch = Watch(build)
    tuner = search(build, [watch])
    probes = 4
    assert watch.built is not None and watch.built > AT_ONCE + probes
    assert set(build.threads) == {threading.current_thread()}
    assert len(tuner.trials) == TRIALS
    assert [t.number for t in tuner.trials] == list(range(TRIALS))
    # Nobody is built in vain but where values came up twice.
    assert len(build.threads) <= TRIALS + probes + 6


@pytest.mark.ci
def test_trials_are_the_same_as_without(monkeypatch):
    ahead = search(Build()).trials
    monkeypatch.setattr("vtune.intake.Intake.ahead", lambda self, planned: False)
    assert search(Build()).trials == ahead


def test_what_fails_ahead_of_time_fails_when_its_turn_comes():
    tuner = search(Build(failing=(6, 9)))
    failed = [t for t in tuner.trials if t.status is vt.TrialStatus.FAILED]
    assert failed and all("no luck" in (t.reason or "") for t in failed)
    assert all(t.number >= AT_ONCE for t in failed)
    assert len(tuner.trials) == TRIALS


def test_a_later_trial_that_the_data_do_not_suit_ends_the_search_in_its_turn():
    def build(hp):
        units = hp.Int("units", 2, 40)
        net = nn.Sequential([nn.Dense(units), nn.relu, nn.Dense(2)])
        loss = "sparse_categorical_crossentropy"
        if units > 36:
            loss = "categorical_crossentropy"
        return vt.Model(net, optax.adam(1e-2), loss)

    tuner = vt.RandomSearch(build, "val_loss", max_trials=30, seed=5)
    for _ in range(2):
        with pytest.raises(ValueError, match="categorical_crossentropy"):
            tuner.search(
                X, Y, epochs=1, batch_size=16, validation_split=0.25, verbose=0
            )
        # What came before is kept; and it is no other trial's turn.
        assert tuner.trials and all(t.values["units"] <= 36 for t in tuner.trials)
        assert tuner.get_best_hyperparameters()


def test_settings_of_a_context_manager_hold_for_all_threads():
    def build(hp):
        units = hp.Int("units", 2, 40)
        layers = [
            nn.Dense(n, dtype=jnp.float64, param_dtype=jnp.float64) for n in (units, 2)
        ]
        net = nn.Sequential([layers[0], nn.relu, layers[1]])
        return vt.Model(net, optax.adam(1e-2), "sparse_categorical_crossentropy")

    with jax.enable_x64(True):
        tuner = search(build, trials=5)
    assert all(t.status is vt.TrialStatus.COMPLETED for t in tuner.trials)
    with jax.enable_x64(True):
        model = tuner.get_best_models()[0]
        leaves = jax.tree.leaves(model.params)
    assert {leaf.dtype for leaf in leaves} == {np.dtype(np.float64)}
