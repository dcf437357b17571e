"""Equations that are replaced by faster ones leave what a search finds as it is."""

import flax.linen as nn
import numpy as np
import optax
import pytest

import vtune as vt


RANDOM = np.random.default_rng(0)
X = RANDOM.standard_normal((48, 8, 8, 2)).astype(np.float32)
Y = RANDOM.integers(0, 3, 48).astype(np.int32)


class Plain(nn.Module):
    width: int

    @nn.compact
    def __call__(self, x, train: bool = False):
        x = nn.relu(nn.Conv(self.width, (3, 3))(x))
        x = nn.max_pool(x, (2, 2), (2, 2))
        x = nn.relu(nn.Conv(self.width, (3, 3), padding="VALID")(x))
        return nn.Dense(3)(nn.avg_pool(x, (2, 2)).reshape(len(x), -1))


class Separable(nn.Module):
    width: int

    @nn.compact
    def __call__(self, x, train: bool = False):
        x = nn.Conv(self.width, (1, 1))(x)
        x = nn.Conv(self.width, (3, 3), feature_group_count=self.width, strides=2)(x)
        x = nn.BatchNorm(use_running_average=not train)(x)
        return nn.Dense(3)(nn.relu(x).mean((1, 2)))


class OneDimensional(nn.Module):
    width: int

    @nn.compact
    def __call__(self, x, train: bool = False):
        x = x.reshape(len(x), 64, 2)
        x = nn.relu(nn.Conv(self.width, (5,), strides=2)(x))
        x = nn.max_pool(x, (4,), (4,))
        return nn.Dense(3)(x.reshape(len(x), -1))


def search(network, form, widths, **more):
    def build(hp):
        return vt.Model(
            network(hp.Choice("width", widths)),
            optax.sgd(hp.Choice("rate", [0.1, 0.03]), momentum=0.9),
            "sparse_categorical_crossentropy",
        )

    tuner = vt.GridSearch(
        build,
        "val_loss",
        max_epochs=2,
        seed=0,
        lanes=form,
        fuse_widths="always",
        **more,
    )
    tuner.search(X, Y, validation_split=0.25, batch_size=12, verbose=0)
    return tuner


@pytest.mark.ci
@pytest.mark.parametrize("form", ["vmap", "map"])
@pytest.mark.parametrize("network", [Plain, Separable, OneDimensional])
def test_a_search_finds_the_same_with_and_without(network, form):
    rewritten = search(network, form, [3, 4])
    traced = search(network, form, [3, 4], rewrites=False)
    for one, other in zip(rewritten.trials, traced.trials, strict=True):
        assert one.values == other.values
        for name, values in one.metrics.items():
            np.testing.assert_allclose(values, other.metrics[name], rtol=1e-4)


@pytest.mark.parametrize("form", ["vmap", "map"])
@pytest.mark.parametrize("rewrites", [True, False])
@pytest.mark.ci
def test_a_trial_has_its_own_numbers_in_an_envelope(form, rewrites):
    wide = search(Plain, form, [3, 4], rewrites=rewrites)
    alone = search(Plain, form, [3], rewrites=rewrites)
    for trial in alone.trials:
        (same,) = [other for other in wide.trials if other.values == trial.values]
        for name, values in trial.metrics.items():
            np.testing.assert_allclose(values, same.metrics[name], rtol=1e-4)


def test_the_switch_is_on_or_off():
    with pytest.raises(ValueError, match="`rewrites` is True or False, got 'no'"):
        vt.GridSearch(lambda hp: None, "val_loss", max_epochs=1, rewrites="no")
