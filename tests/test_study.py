"""Searches from outside: what is trained, what is recorded, what is refused."""

import math
import os
import signal
import subprocess
import sys

import flax.linen as nn
import jax
import numpy as np
import optax
import pytest

import vtune as vt
from vtune.trial import TrialStatus


X = np.random.default_rng(0).normal(size=(160, 8)).astype(np.float32)
Y = (X[:, :4].argmax(axis=1)).astype(np.int32)
TRAINING, VALIDATION = (X[:120], Y[:120]), (X[120:], Y[120:])


def model(rate, **options):
    settings = {"loss": "sparse_categorical_crossentropy", "metrics": ["accuracy"]}
    return vt.Model(nn.Dense(4), optax.sgd(rate), **(settings | options))


def build(hp):
    return model(hp.Float("rate", 1e-3, 1.0, sampling="log"))


def search(tuner, **options):
    settings = {"validation_data": VALIDATION, "batch_size": 16, "verbose": 0}
    tuner.search(*TRAINING, **(settings | options))
    return tuner


def random_search(build=build, objective="val_loss", **options):
    settings = {"max_trials": 4, "max_epochs": 2, "seed": 0}
    return vt.RandomSearch(build, objective, **(settings | options))


# ------------------------------------------------------------------------------ records


def test_the_record_of_a_trial():
    tuner = search(random_search(objective="val_accuracy"))
    assert [trial.number for trial in tuner.trials] == [0, 1, 2, 3]
    for trial in tuner.trials:
        assert trial.status is TrialStatus.COMPLETED
        assert trial.epoch == trial.budget == 2
        assert set(trial.metrics) == {"loss", "accuracy", "val_loss", "val_accuracy"}
        assert all(len(values) == 2 for values in trial.metrics.values())
        accuracies = trial.metrics["val_accuracy"]
        assert trial.score == accuracies[-1]
        assert trial.best_epoch == 1 + int(np.argmax(accuracies))
        assert list(trial.values) == ["rate"]
        assert trial.reason is None
    with pytest.raises(AttributeError):
        tuner.trials[0].score = 1.0


def test_hyperband_trains_each_trial_to_the_rung_that_it_reached():
    tuner = search(vt.Hyperband(build, "val_loss", max_epochs=4, factor=2, seed=1))
    expected = {(b, e): n for b, e, n in [(0, 1, 4), (0, 2, 2), (0, 4, 1)]}
    expected |= {(1, 2): 3, (1, 4): 1, (2, 4): 3}
    reached = {
        (bracket, epochs): sum(
            trial.bracket == bracket and trial.epoch >= epochs for trial in tuner.trials
        )
        for bracket, epochs in expected
    }
    assert reached == expected
    for trial in tuner.trials:
        full = trial.epoch == 4
        assert trial.status is (TrialStatus.COMPLETED if full else TrialStatus.PRUNED)
    # Survivors are the best of their rung.
    rung = [trial for trial in tuner.trials if trial.bracket == 0]
    by_first_epoch = sorted(rung, key=lambda trial: trial.metrics["val_loss"][0])
    promoted = {trial.number for trial in rung if trial.epoch > 1}
    assert {trial.number for trial in by_first_epoch[:2]} == promoted


def test_a_promoted_trial_goes_on_as_if_nothing_had_happened():
    def adam(hp):
        rate = hp.Float("rate", 1e-3, 1e-1, sampling="log")
        return vt.Model(
            nn.Dense(4), optax.adam(rate), loss="sparse_categorical_crossentropy"
        )

    halving = search(
        vt.SuccessiveHalving(adam, "val_loss", max_trials=8, max_epochs=4, seed=5)
    )
    straight = search(random_search(adam, max_trials=8, max_epochs=4, seed=5))
    for pruned, whole in zip(halving.trials, straight.trials, strict=True):
        assert pruned.values == whole.values
        for name, values in pruned.metrics.items():
            # Another number of lanes rounds differently.
            assert values == pytest.approx(
                whole.metrics[name][: pruned.epoch], rel=1e-5
            )


@pytest.mark.skipif(jax.default_backend() != "cpu", reason="the rule of a CPU")
def test_all_trials_that_have_room_begin_at_once():
    begun = []

    class Counting:
        def on_epoch_end(self, trial, epoch, metrics):
            begun.append(len(tuner.trials))

    tuner = random_search(max_trials=40)
    search(tuner, callbacks=[Counting()])
    assert set(begun) == {40}


def test_grid_search_takes_every_combination_in_order():
    def grid(hp):
        momentum = hp.Choice("momentum", [0.0, 0.9])
        rate = hp.Choice("rate", [0.1, 0.2, 0.3])
        return vt.Model(
            nn.Dense(4),
            optax.sgd(rate, momentum=momentum),
            loss="sparse_categorical_crossentropy",
        )

    tuner = search(vt.GridSearch(grid, "val_loss", max_epochs=1, seed=0))
    combinations = [(t.values["momentum"], t.values["rate"]) for t in tuner.trials]
    assert combinations == [(m, r) for m in (0.0, 0.9) for r in (0.1, 0.2, 0.3)]
    limited = search(vt.GridSearch(grid, "val_loss", max_trials=4, seed=0), epochs=1)
    assert len(limited.trials) == 4


def test_a_space_smaller_than_the_first_rung_still_gets_its_promotions():
    def small(hp):
        return model(hp.Choice("rate", [0.01, 0.1, 0.5]))

    tuner = search(vt.Hyperband(small, "val_loss", max_epochs=9, factor=3, seed=0))
    assert len(tuner.trials) == 3
    assert max(trial.epoch for trial in tuner.trials) == 9


def test_best_models_have_the_weights_that_the_score_was_measured_on():
    tuner = search(vt.Hyperband(build, "val_loss", max_epochs=4, factor=2, seed=3))
    models = tuner.get_best_models(5)
    best = tuner.get_best_hyperparameters(5)
    assert len(models) == 5
    for trained, hp in zip(models, best, strict=True):
        trial = tuner.trials[hp.origin[1]]
        assert hp.values == trial.values
        metrics = trained.evaluate(*VALIDATION)
        assert metrics["loss"] == pytest.approx(trial.score, rel=1e-5)
        assert trained.predict(VALIDATION[0]).shape == (40, 4)
    with pytest.raises(ValueError, match="keep_models=6"):
        tuner.get_best_models(6)


def test_a_build_that_asks_for_nothing_is_one_trial():
    tuner = search(random_search(lambda hp: model(0.1)))
    assert len(tuner.trials) == 1


def test_a_second_search_on_a_complete_study_says_so(capsys):
    tuner = search(random_search())
    before = tuner.trials
    search(tuner, verbose=1)
    assert tuner.trials == before
    assert "complete already: 4 trials" in capsys.readouterr().out


def test_an_own_trainable():
    class Mean:
        """Learns the mean of x by plain gradient descent."""

        def __init__(self, rate):
            self.rate = rate

        def init(self, key, batch):
            return {"params": jax.random.normal(key, batch[0].shape[1:])}

        def train_step(self, state, batch, key):
            gradient = state["params"] - batch[0].mean(axis=0)
            loss = (gradient**2).sum()
            return {"params": state["params"] - self.rate * gradient}, {"loss": loss}

        def eval_step(self, state, batch):
            return {"error": ((state["params"] - batch[0].mean(axis=0)) ** 2).sum()}

    def own(hp):
        return Mean(hp.Float("rate", 0.1, 0.9))

    tuner = random_search(own, "val_error", max_epochs=3)
    tuner.search(X, validation_split=0.25, batch_size=16, verbose=0)
    assert all(t.status is TrialStatus.COMPLETED for t in tuner.trials)
    (state,) = tuner.get_best_models(1)
    assert np.linalg.norm(state["params"] - X[:120].mean(axis=0)) < 0.5
    assert tuner.statistics.training_programs == 1


# ----------------------------------------------------------------------------- failures


def test_an_exception_in_build_is_a_recorded_result():
    def sometimes(hp):
        rate = hp.Float("rate", 0.1, 1.0)
        if hp.Choice("bad", [True, False]):
            raise RuntimeError("no such thing")
        return model(rate)

    tuner = search(vt.GridSearch(sometimes, "val_loss", max_epochs=1, seed=0))
    failed = [trial for trial in tuner.trials if trial.values["bad"]]
    assert len(failed) == len(tuner.trials) // 2 == 10
    for trial in failed:
        assert trial.status is TrialStatus.FAILED
        assert trial.score is None
        assert "RuntimeError: no such thing (test_study.py:" in trial.reason
        assert 'in sometimes: raise RuntimeError("no such thing")' in trial.reason
    assert tuner.get_best_hyperparameters()[0].values["bad"] is False


def test_an_exception_while_tracing_names_the_users_line():
    class Broken(nn.Module):
        width: int

        @nn.compact
        def __call__(self, x):
            return x.reshape(x.shape[0], self.width, -1).sum(-1)  # 8 columns

    def broken(hp):
        width = hp.Choice("width", [4, 3])
        return vt.Model(
            Broken(width), optax.sgd(0.1), "sparse_categorical_crossentropy"
        )

    tuner = search(vt.GridSearch(broken, "val_loss", max_epochs=1, seed=0))
    healthy, failed = tuner.trials
    assert healthy.status is TrialStatus.COMPLETED
    assert failed.status is TrialStatus.FAILED
    assert "test_study.py" in failed.reason and "in __call__" in failed.reason


def test_three_failures_in_a_row_end_the_search():
    def fails_later(hp):
        number = hp.Int("number", 0, 9)
        if number >= 2:
            raise KeyError("gone")
        return model(0.1 * (1 + number))

    tuner = vt.GridSearch(fails_later, "val_loss", max_epochs=1, seed=0)
    with pytest.raises(vt.SearchError, match="Trials 2 to 4 failed") as caught:
        search(tuner)
    assert "KeyError: 'gone'" in str(caught.value)
    assert isinstance(caught.value.__cause__, KeyError)
    assert [t.status for t in tuner.trials[2:]] == [TrialStatus.FAILED] * 3


def test_whoever_can_build_nothing_hears_so_soon():
    asked = []

    def never(hp):
        asked.append(hp.Float("rate", 0.0, 1.0))
        raise KeyError("gone")

    with pytest.raises(vt.SearchError, match="Trials 0 to 2 failed"):
        search(random_search(never, max_trials=1000))
    assert len(asked) == 3


def test_two_failures_in_a_row_do_not():
    def fails_twice(hp):
        number = hp.Int("number", 0, 5)
        if number % 3:
            raise KeyError("gone")
        return model(0.1 * (1 + number))

    tuner = search(vt.GridSearch(fails_twice, "val_loss", max_epochs=1, seed=0))
    assert len(tuner.trials) == 6


@pytest.mark.parametrize("returned", [None, 3, nn.Dense(4)])
def test_build_has_to_return_something_trainable(returned):
    def wrong(hp):
        hp.Float("x", 0.0, 1.0)
        return returned

    with pytest.raises(vt.SearchError, match="`build` returned"):
        search(random_search(wrong))


@pytest.mark.parametrize("lanes", ["vmap", "map"])
def test_a_diverged_lane_changes_nothing_in_its_neighbours(lanes):
    def space(rates):
        return lambda hp: model(hp.Choice("rate", rates))

    def run(rates):
        tuner = vt.GridSearch(
            space(rates), "val_loss", max_epochs=4, seed=0, lanes=lanes, keep_models=4
        )
        return search(tuner)

    ill = run([0.1, math.inf, 0.3, 0.4])
    well = run([0.1, 0.2, 0.3, 0.4])
    sick = ill.trials[1]
    assert sick.status is TrialStatus.DIVERGED
    assert sick.epoch == 1
    assert "not finite after epoch 1" in sick.reason
    assert sick.score is None
    assert ill.statistics.training_programs == 1
    for number in (0, 2, 3):
        assert ill.trials[number].metrics == well.trials[number].metrics
    assert len(ill.get_best_models(4)) == 3


def test_a_trial_that_diverges_late_stays_frozen_and_keeps_its_history():
    class Explodes:
        def init(self, key, batch):
            return {"params": jax.numpy.ones(())}

        def __init__(self, factor):
            self.factor = factor

        def train_step(self, state, batch, key):
            return {"params": state["params"] * self.factor}, {"loss": state["params"]}

        def eval_step(self, state, batch):
            return {"error": state["params"]}

    def own(hp):
        return Explodes(hp.Choice("factor", [1.0, 1e5]))

    tuner = vt.GridSearch(own, "val_error", max_epochs=5, seed=0)
    tuner.search(X[:48], validation_split=1 / 3, batch_size=16, verbose=0)
    healthy, exploded = tuner.trials
    assert healthy.epoch == 5
    assert exploded.status is TrialStatus.DIVERGED
    # Two steps an epoch: 1e10, 1e20, 1e30, then infinity.
    assert exploded.epoch == 4
    assert len(exploded.metrics["val_error"]) == 4


# ------------------------------------------------------------------------- interruption


class Interrupts:
    def __init__(self, how):
        self.how = how
        self.ended = False

    def on_epoch_end(self, trial, epoch, metrics):
        if epoch == 2:
            self.how()

    def on_train_end(self):
        self.ended = True


def press():
    os.kill(os.getpid(), signal.SIGINT)


def raise_it():
    raise KeyboardInterrupt


@pytest.mark.parametrize("how", [press, raise_it])
def test_ctrl_c_ends_a_search_cleanly(how):
    callback = Interrupts(how)
    tuner = search(random_search(max_epochs=50), callbacks=[callback])
    assert callback.ended
    assert all(t.status is TrialStatus.RUNNING for t in tuner.trials)
    # The device had begun the two epochs that follow.
    assert 3 <= max(t.epoch for t in tuner.trials) <= 5
    best = tuner.get_best_hyperparameters()[0]
    (trained,) = tuner.get_best_models()
    score = tuner.trials[best.origin[1]].score
    assert trained.evaluate(*VALIDATION)["loss"] == pytest.approx(score, rel=1e-5)
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
    # A second search goes on where the first was interrupted.
    search(tuner)
    assert all(t.epoch == 50 for t in tuner.trials)


def test_an_exception_in_a_callback_ends_the_search_and_loses_nothing():
    class Broken:
        def on_trial_end(self, trial):
            raise RuntimeError("my callback")

    tuner = random_search()
    with pytest.raises(RuntimeError, match="my callback"):
        search(tuner, callbacks=[Broken()])
    assert all(trial.epoch == 2 for trial in tuner.trials)
    assert len(tuner.get_best_models()) == 1


def test_callbacks_are_told_everything():
    class Recorder:
        def __init__(self):
            self.epochs, self.ends, self.over = [], [], 0

        def on_epoch_end(self, trial, epoch, metrics):
            assert metrics["val_loss"] == trial.metrics["val_loss"][epoch]
            self.epochs.append((trial.number, epoch))

        def on_trial_end(self, trial):
            self.ends.append((trial.number, trial.status))

        def on_train_end(self):
            self.over += 1

    recorder = Recorder()
    search(random_search(), callbacks=[recorder])
    assert sorted(recorder.epochs) == [(n, e) for n in range(4) for e in range(2)]
    assert sorted(n for n, _ in recorder.ends) == [0, 1, 2, 3]
    assert {status for _, status in recorder.ends} == {TrialStatus.COMPLETED}
    assert recorder.over == 1


# ----------------------------------------------------------------------------- refusals


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"x": X[:120, :0]}, ValueError, "empty"),
        ({"y": Y[:100]}, ValueError, "`y` has 100"),
        ({"y": Y[:120] + 5}, ValueError, "classes"),
        ({"y": Y[:120] - 3}, ValueError, "classes"),
        (
            {"y": np.eye(4)[Y[:120]], "validation_data": (X[120:], np.eye(4)[Y[120:]])},
            ValueError,
            "categorical_crossentropy",
        ),
        ({"y": Y[:120] + 0.5}, ValueError, "integer"),
        ({"x": np.full((120, 8), np.nan)}, ValueError, "NaN"),
        ({"x": np.full((120, 8), "a")}, TypeError, "numbers"),
        ({"validation_data": None}, ValueError, "needs validation data"),
        ({"validation_data": (X[120:, :3], Y[120:])}, ValueError, "samples of"),
        ({"validation_data": (X[120:], Y[120:] + 9)}, ValueError, "classes"),
        ({"batch_size": 121}, ValueError, "larger than the 120"),
        ({"batch_size": 0}, ValueError, "at least 1"),
        ({"epochs": 3}, ValueError, "max_epochs=2"),
        ({"callbacks": [object()]}, TypeError, "none of the methods"),
        ({"callbacks": [print]}, TypeError, "none of the methods"),
    ],
)
def test_bad_input_is_refused_before_anything_is_trained(options, error, message):
    tuner = random_search()
    arguments = {
        "x": TRAINING[0],
        "y": TRAINING[1],
        "validation_data": VALIDATION,
        "batch_size": 16,
        "verbose": 0,
    }
    with pytest.raises(error, match=message):
        tuner.search(**(arguments | options))
    assert not any(trial.epoch for trial in tuner.trials)
    # And the tuner is as good as new.
    tuner.search(**arguments)
    assert all(trial.epoch == 2 for trial in tuner.trials)


def test_an_objective_that_is_never_produced():
    with pytest.raises(ValueError, match="'val_auc' is not among.*val_accuracy"):
        search(random_search(objective="val_auc"))


def test_training_metrics_can_be_the_objective():
    tuner = search(random_search(objective="loss"), validation_data=None)
    assert set(tuner.trials[0].metrics) == {"loss", "accuracy"}


def test_a_batch_size_hyperparameter_is_refused():
    def sized(hp):
        hp.Choice("batch_size", [16, 32])
        return model(0.1)

    with pytest.raises(ValueError, match="'batch_size'"):
        search(random_search(sized))


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: random_search(objective="val_energy"), "direction"),
        (lambda: random_search(max_trials=0), "max_trials"),
        (lambda: random_search(max_epochs=0), "max_epochs"),
        (lambda: random_search(seed=-1), "seed"),
        (lambda: random_search(seed=2**32), "seed"),
        (lambda: random_search(lanes="many"), "lanes"),
        (lambda: random_search(keep_models=-1), "keep_models"),
        (lambda: vt.Hyperband(build, "val_loss", max_epochs=9, factor=1), "factor"),
        (
            lambda: vt.Hyperband(build, "val_loss", max_epochs=9, min_epochs=10),
            "min_epo",
        ),
        (lambda: vt.Hyperband(build, "val_loss", hyperband_iterations=0), "iterations"),
        (
            lambda: vt.Hyperband(build, "val_loss", max_epochs=9, brackets=[[(2, 4)]]),
            "ends at epoch 4",
        ),
        (lambda: search(vt.RandomSearch(build, "val_loss")), "How long is a trial"),
    ],
)
def test_wrong_settings(make, message):
    with pytest.raises(ValueError, match=message):
        make()


@pytest.mark.parametrize("wrong", [None, 3, vt.HyperModel, "build"])
def test_a_hypermodel_is_a_function_or_has_a_build(wrong):
    with pytest.raises(TypeError):
        random_search(wrong)


def test_a_hypermodel_class():
    class Mine(vt.HyperModel):
        def __init__(self, rates):
            self.rates = rates

        def build(self, hp):
            return model(hp.Choice("rate", self.rates))

    tuner = search(random_search(Mine([0.1, 0.2]), max_trials=5))
    assert {trial.values["rate"] for trial in tuner.trials} == {0.1, 0.2}
    rebuilt = tuner.hypermodel.build(tuner.get_best_hyperparameters()[0])
    assert isinstance(rebuilt, vt.Model)


# ------------------------------------------------------------------------ repeatability

SCRIPT = """
import sys
sys.path.insert(0, {folder!r})
import hashlib, json
import test_study
tuner = test_study.repeatable(sys.argv[1], int(sys.argv[2]))
print("digest", test_study.digest(tuner))
"""


def repeatable(lanes, seed):
    def dropout(hp):
        class Net(nn.Module):
            @nn.compact
            def __call__(self, x, train: bool = False):
                x = nn.relu(nn.Dense(17)(x))
                x = nn.Dropout(hp.Float("drop", 0.1, 0.5), deterministic=not train)(x)
                return nn.Dense(4)(x)

        rate = hp.Float("rate", 1e-3, 1e-1, sampling="log")
        return vt.Model(Net(), optax.adam(rate), "sparse_categorical_crossentropy")

    tuner = vt.Hyperband(
        dropout, "val_loss", max_epochs=4, factor=2, seed=seed, lanes=lanes
    )
    return search(tuner)


def digest(tuner):
    import hashlib

    rows = [
        (trial.number, sorted(trial.values.items()), sorted(trial.metrics.items()))
        for trial in tuner.trials
    ]
    text = repr(rows) + repr(
        [np.asarray(leaf).tobytes() for leaf in jax.tree.leaves(best_state(tuner))]
    )
    return hashlib.sha256(text.encode()).hexdigest()


def best_state(tuner):
    return tuner.get_best_models()[0].params


@pytest.mark.ci
@pytest.mark.parametrize("lanes", ["vmap", "map"])
def test_the_same_seed_gives_the_same_bits_in_another_process_too(lanes, tmp_path):
    first = digest(repeatable(lanes, 0))
    assert digest(repeatable(lanes, 0)) == first
    assert digest(repeatable(lanes, 1)) != first
    script = SCRIPT.format(folder=os.path.dirname(__file__))
    result = subprocess.run(
        [sys.executable, "-c", script, lanes, "0"],
        capture_output=True,
        text=True,
        check=True,
    )
    assert result.stdout.split()[-1] == first


def test_without_a_seed_one_is_drawn_shown_and_can_be_given_again(capsys):
    tuner = search(random_search(seed=None), verbose=1)
    assert f"seed {tuner.seed}" in capsys.readouterr().out
    again = search(random_search(seed=tuner.seed))
    assert again.trials == tuner.trials
