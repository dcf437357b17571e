"""One model trained by itself: `fit`, `evaluate`, `predict`."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx

import vtune as vt


X = np.random.default_rng(1).normal(size=(150, 6)).astype(np.float32)
Y = (X[:, :3].argmax(axis=1)).astype(np.int32)


class Net(nn.Module):
    rate: float = 0.2

    @nn.compact
    def __call__(self, x, train: bool = False):
        x = nn.relu(nn.Dense(10)(x))
        x = nn.BatchNorm(use_running_average=not train)(x)
        x = nn.Dropout(self.rate, deterministic=not train)(x)
        return nn.Dense(3)(x)


def model(**options):
    settings = {"loss": "sparse_categorical_crossentropy", "metrics": ["accuracy"]}
    return vt.Model(Net(), optax.adam(1e-2), **(settings | options))


def test_fit_evaluate_predict():
    trained = model()
    history = trained.fit(
        X, Y, epochs=8, batch_size=16, validation_split=0.2, verbose=0
    )
    assert history.epoch == list(range(8))
    assert {len(values) for values in history.history.values()} == {8}
    assert history.history["loss"][-1] < 0.6 * history.history["loss"][0]
    metrics = trained.evaluate(X[120:], Y[120:])
    assert metrics["loss"] == pytest.approx(history.history["val_loss"][-1], rel=1e-5)
    assert metrics["accuracy"] == pytest.approx(history.history["val_accuracy"][-1])
    logits = trained.predict(X[120:])
    assert isinstance(logits, np.ndarray) and logits.shape == (30, 3)
    assert np.mean(logits.argmax(axis=1) == Y[120:]) == pytest.approx(
        metrics["accuracy"]
    )
    assert trained.params["Dense_0"]["kernel"].shape == (6, 10)


@pytest.mark.parametrize("batch_size", [None, 1, 7, 30, 64])
def test_evaluation_and_prediction_do_not_depend_on_the_batch_size(batch_size):
    trained = model()
    trained.fit(X, Y, batch_size=32, verbose=0)
    whole = trained.evaluate(X[:30], Y[:30], batch_size=30)
    parts = trained.evaluate(X[:30], Y[:30], batch_size=batch_size)
    assert parts == pytest.approx(whole, rel=1e-5)
    np.testing.assert_allclose(
        trained.predict(X[:30], batch_size=batch_size),
        trained.predict(X[:30], batch_size=30),
        rtol=1e-4,
        atol=1e-5,
    )


def test_a_second_fit_goes_on_where_the_first_ended():
    twice, once = model(), model()
    first = twice.fit(X, Y, epochs=2, batch_size=25, verbose=0)
    second = twice.fit(X, Y, epochs=3, batch_size=25, verbose=0)
    whole = once.fit(X, Y, epochs=5, batch_size=25, verbose=0)
    assert second.epoch == [0, 1, 2]
    for name, values in whole.history.items():
        assert first.history[name] + second.history[name] == values
    for a, b in zip(jax.tree.leaves(twice.state), jax.tree.leaves(once.state)):
        np.testing.assert_array_equal(a, b)


def test_the_seed_decides_and_nothing_else():
    def fit(seed):
        trained = model()
        history = trained.fit(X, Y, epochs=2, batch_size=32, seed=seed, verbose=0)
        return history.history, trained.predict(X)

    (first, outputs), (again, same_outputs), (other, _) = fit(0), fit(0), fit(1)
    assert first == again != other
    np.testing.assert_array_equal(outputs, same_outputs)


@pytest.mark.ci
@pytest.mark.parametrize("lanes", ["vmap", "map"])
def test_a_model_of_a_trial_repeats_its_epochs(lanes):
    def build(hp):
        rate = hp.Float("rate", 1e-3, 1e-1, sampling="log")
        schedule = optax.cosine_decay_schedule(rate, hp.total_steps)
        return vt.Model(
            Net(hp.Float("dropout", 0.1, 0.5)),
            optax.adam(schedule, eps=1e-3),
            "sparse_categorical_crossentropy",
        )

    tuner = vt.RandomSearch(
        build, "val_loss", max_trials=4, max_epochs=3, seed=7, lanes=lanes
    )
    tuner.search(X, Y, validation_split=0.2, batch_size=16, verbose=0)
    best = tuner.get_best_hyperparameters()[0]
    trial = tuner.trials[best.origin[1]]
    again = tuner.hypermodel.build(best)
    history = again.fit(X, Y, epochs=3, validation_split=0.2, batch_size=16, verbose=0)
    for name, values in history.history.items():
        assert values == pytest.approx(trial.metrics[name], rel=1e-4)
    # And in another process, from what can be written down.
    copied = vt.HyperParameters(dict(best.values), steps_per_epoch=7, max_epochs=3)
    assert jax.tree.structure(build(copied).optimizer) is not None
    longer = build(best.copy(max_epochs=25))
    assert longer.fit(X, Y, epochs=1, batch_size=16, verbose=0).epoch == [0]


def test_the_remainder_is_left_out_or_a_smaller_batch():
    counted = []

    class Counting:
        def on_epoch_end(self, epoch, metrics):
            counted.append(metrics["loss"])

    def squares(outputs, y):
        return (outputs[:, 0] * 0 + y) ** 0  # every sample weighs 1

    trained = vt.Model(nn.Dense(1), optax.sgd(0.0), squares)
    for drop in (True, False):
        trained.fit(
            X,
            Y,
            batch_size=64,
            drop_remainder=drop,
            callbacks=[Counting()],
            verbose=0,
        )
    assert counted == [1.0, 1.0]


@pytest.mark.parametrize(("drop", "steps"), [(True, 2), (False, 3)])
def test_the_number_of_steps_of_an_epoch(drop, steps):
    trained = model()
    trained.fit(X, Y, batch_size=64, drop_remainder=drop, verbose=0)
    count = trained.state.optimizer[0].count
    assert count == steps


def test_each_epoch_sees_each_sample_once_in_an_order_of_its_own():
    class Records(nn.Module):
        """Remembers the batches that it was trained on."""

        @nn.compact
        def __call__(self, x, train: bool = False):
            seen = self.variable("seen", "rows", lambda: jnp.zeros((5, 30), jnp.int32))
            step = self.variable("seen", "step", lambda: jnp.int32(0))
            if train:
                row = x[:, 0].astype(jnp.int32)
                seen.value = seen.value.at[step.value].set(row)
                step.value = (step.value + 1) % 5
            return nn.Dense(1)(x * 0)

    numbers = np.arange(150, dtype=np.float32)[:, None]
    trained = vt.Model(Records(), optax.sgd(0.1), "mse")
    orders = []
    for _ in range(2):
        trained.fit(numbers, numbers, batch_size=30, verbose=0)
        orders.append(trained.state.collections["seen"]["rows"].ravel())
    assert sorted(orders[0]) == sorted(orders[1]) == list(range(150))
    assert list(orders[0]) != list(orders[1]) != list(range(150))


def test_nested_inputs_and_no_targets():
    class Autoencoder(nn.Module):
        @nn.compact
        def __call__(self, x):
            return nn.Dense(6)(nn.Dense(2)(x["data"])) - x["data"]

    def size(outputs, y):
        assert y is None
        return (outputs**2).mean(-1)

    trained = vt.Model(Autoencoder(), optax.adam(1e-2), size)
    history = trained.fit({"data": X}, epochs=6, batch_size=15, verbose=0)
    assert history.history["loss"][-1] < 0.9 * history.history["loss"][0]
    assert trained.predict({"data": X[:5]}).shape == (5, 6)


def test_an_nnx_network():
    class Network(nnx.Module):
        def __init__(self, *, rngs):
            self.hidden = nnx.Linear(6, 12, rngs=rngs)
            self.norm = nnx.BatchNorm(12, rngs=rngs)
            self.dropout = nnx.Dropout(0.3, rngs=rngs)
            self.out = nnx.Linear(12, 3, rngs=rngs)

        def __call__(self, x):
            return self.out(self.dropout(nnx.relu(self.norm(self.hidden(x)))))

    trained = vt.Model(
        lambda rngs: Network(rngs=rngs), optax.adam(1e-2), model()._loss.name
    )
    history = trained.fit(X, Y, epochs=5, batch_size=16, verbose=0)
    assert history.history["loss"][-1] < history.history["loss"][0]
    assert trained.predict(X[:4]).shape == (4, 3)


def test_a_line_for_each_epoch(capsys):
    model().fit(X, Y, epochs=2, batch_size=64, verbose=1)
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 2
    assert "epoch 2/2  accuracy 0." in lines[1] and "loss " in lines[1]


def test_callbacks_of_fit():
    class Recorder:
        def __init__(self):
            self.epochs, self.over = [], 0

        def on_epoch_end(self, epoch, metrics):
            self.epochs.append((epoch, sorted(metrics)))

        def on_train_end(self):
            self.over += 1

    recorder = Recorder()
    model().fit(X, Y, epochs=2, batch_size=64, callbacks=[recorder], verbose=0)
    assert recorder.epochs == [(0, ["accuracy", "loss"]), (1, ["accuracy", "loss"])]
    assert recorder.over == 1


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"epochs": 0}, "epochs"),
        ({"epochs": 1.5}, "epochs"),
        ({"seed": -1}, "seed"),
        ({"seed": 2**32}, "seed"),
        ({"batch_size": 151}, "larger than"),
        ({"verbose": 7}, "verbose"),
        ({"y": Y + 1}, "classes"),
        ({"validation_data": (X, Y + 1)}, "classes"),
        ({"validation_data": (X, Y), "validation_split": 0.5}, "not both"),
    ],
)
def test_refusals(options, message):
    with pytest.raises(ValueError, match=message):
        model().fit(**({"x": X, "y": Y, "verbose": 0} | options))


def test_nothing_can_be_predicted_before_fit():
    with pytest.raises(ValueError, match="call `model.fit` first"):
        model().predict(X)
    with pytest.raises(ValueError, match="call `model.fit` first"):
        model().evaluate(X, Y)
