"""What users are told of the programs that trials share."""

import flax.linen as nn
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import vtune as vt


X = np.random.default_rng(0).normal(size=(96, 6)).astype(np.float32)
Y = (X[:, :3].argmax(axis=1)).astype(np.int32)


class Net(nn.Module):
    width: int
    kind: str

    @nn.compact
    def __call__(self, x, train: bool = False):
        x = nn.Dense(self.width)(x)
        if self.kind == "norm":
            x = nn.LayerNorm()(x)
        elif self.kind == "decomposition":
            x = jnp.linalg.qr(x)[0]
        return nn.Dense(3)(nn.gelu(x))


def build(hp):
    return build_kind(hp, hp.Choice("kind", ["plain", "norm", "decomposition"]))


def build_kind(hp, kind):
    model = Net(hp.Int("units", 4, 24), kind)
    rate = hp.Float("rate", 1e-3, 1e-2, sampling="log")
    optimizer = optax.adam(rate, eps=1e-3)
    return vt.Model(model, optimizer, "sparse_categorical_crossentropy", ["accuracy"])


def search(kind="norm", **settings):
    tuner = vt.RandomSearch(
        lambda hp: build_kind(hp, kind),
        objective="val_accuracy",
        max_trials=6,
        seed=1,
        **settings,
    )
    tuner.search(X, Y, validation_split=0.25, batch_size=12, epochs=2, verbose=0)
    assert not any(trial.reason for trial in tuner.trials)
    return tuner


def test_a_report_tells_what_shares_a_program_and_compares_it(capsys):
    values = [
        {"kind": "norm", "units": 5, "rate": 0.001},
        {"kind": "norm", "units": 17, "rate": 0.002},
        {"kind": "plain", "units": 5},
    ]
    report = vt.fusion_report(build, values, X, Y, steps=3)
    assert [cohort.trials for cohort in report.cohorts] == [(0, 1), (2,)]
    shared, alone = report.cohorts
    assert shared.widened and shared.padding > 0.3
    assert shared.differs == ("units", "rate")
    assert shared.reason == "the same program up to constants and widths"
    assert alone.reason == "a program of its own"
    assert report.is_right and report.max_error < 1e-3
    assert {row.trial for row in report.differences} == {0, 1}
    assert any(primitive == "reduce_sum" for primitive, _, _ in report.masks)
    printed = capsys.readouterr().out
    assert "3 trials in 2 programs, 3 steps as alone" in printed
    assert "test_sharing.py" in printed  # the lines of what is masked


def test_a_report_says_why_widths_do_not_share_a_program():
    values = [{"kind": "decomposition", "units": units} for units in (4, 5)]
    report = vt.fusion_report(build, values, X, Y, steps=1)
    assert [cohort.trials for cohort in report.cohorts] == [(0,), (1,)]
    for cohort, units in zip(report.cohorts, (5, 5)):
        assert f"takes the QR decomposition of a 32 x {units} array" in cohort.reason
    assert report.differences == () and report.max_error == 0.0


def test_a_report_refuses_values_that_do_not_build():
    with pytest.raises(ValueError, match=r"`build` fails for `values\[1\]`"):
        vt.fusion_report(build, [{"units": 4}, {"units": 400}], X, Y)
    with pytest.raises(ValueError, match="needs some values"):
        vt.fusion_report(build, [], X, Y)


def test_a_plan_tells_which_trials_share_a_program(capsys):
    tuner = search(fuse_widths="always")
    plan = tuner.plan_summary()
    (cohort,) = plan.cohorts
    assert cohort.trials == tuple(range(6))
    assert cohort.widened and cohort.padding > 0
    assert cohort.masks > 0
    assert plan.compiles == cohort.compiles == 1
    assert plan.padding == pytest.approx(cohort.padding)
    assert "6 trials in 1 cohort, 1 training program" in capsys.readouterr().out
    assert tuner.statistics.checking_seconds > 0
    assert tuner.statistics.planning_seconds > 0


@pytest.mark.ci
def test_widths_together_and_apart_are_the_same_search():
    together = search(fuse_widths="always", lanes="vmap")
    apart = search(fuse_widths="never", lanes="map")
    assert len(together.plan_summary().cohorts) == 1
    assert len(apart.plan_summary().cohorts) > 3
    for one, other in zip(together.trials, apart.trials, strict=True):
        assert one.values == other.values
        losses = one.metrics["loss"], other.metrics["loss"]
        np.testing.assert_allclose(*losses, rtol=1e-4)
    # The weights come out in each trial's own shapes.
    best, same = together.get_best_models()[0], apart.get_best_models()[0]
    assert best.predict(X).shape == same.predict(X).shape == (96, 3)
    np.testing.assert_allclose(best.predict(X), same.predict(X), atol=2e-3)


@pytest.mark.ci
def test_what_the_check_finds_wrong_is_kept_apart(monkeypatch):
    from vtune.training import check, verdicts
    from vtune.training.difference import Difference

    wrong = Difference("train loss", 0.5, 0.0, 1e-4)
    monkeypatch.setattr(verdicts, "_COMPARED", {})
    monkeypatch.setattr(check, "wrong", lambda differences: wrong)
    tuner = search(fuse_widths="always")
    cohorts = tuner.plan_summary().cohorts
    assert len(cohorts) > 3
    for cohort in cohorts:
        assert not cohort.widened
        assert "train loss differs by 5.0e-01 from the trial alone" in cohort.reason


def test_without_a_search_there_is_no_plan(capsys):
    tuner = vt.RandomSearch(build, objective="val_accuracy", max_trials=1, seed=0)
    assert tuner.plan_summary().cohorts == ()
    assert "0 trials" in capsys.readouterr().out
    with pytest.raises(ValueError, match="fuse_widths"):
        vt.RandomSearch(
            build,
            "val_accuracy",
            max_trials=1,
            fuse_widths="perhaps",  # pyright: ignore
        )
