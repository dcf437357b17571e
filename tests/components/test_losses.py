"""Losses and metrics by name: values, kinds of labels, refusals."""

import functools
import warnings

import hypothesis
import hypothesis.extra.numpy as arrays
import hypothesis.strategies as st
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from vtune.components.losses import check_labels, resolve_loss
from vtune.components.metrics import resolve_metrics
from vtune.fusion.identity import identity


RNG = np.random.default_rng(0)
LOGITS = RNG.normal(size=(12, 4)).astype(np.float32)
CLASSES = RNG.integers(0, 4, size=12)
ONE_HOT = np.eye(4, dtype=np.float32)[CLASSES]
SIGMOID = 1 / (1 + np.exp(-LOGITS))
SOFTMAX = np.exp(LOGITS) / np.exp(LOGITS).sum(-1, keepdims=True)
ANSWERS = (RNG.random((12, 4)) > 0.5).astype(np.float32)
NUMBERS = RNG.normal(size=(12, 4)).astype(np.float32)
ERRORS = LOGITS - NUMBERS

BY_HAND = {
    "sparse_categorical_crossentropy": (
        CLASSES,
        -np.log(SOFTMAX[np.arange(12), CLASSES]).mean(),
    ),
    "categorical_crossentropy": (
        ONE_HOT * 0.9 + 0.025,
        -((ONE_HOT * 0.9 + 0.025) * np.log(SOFTMAX)).sum(-1).mean(),
    ),
    "binary_crossentropy": (
        ANSWERS,
        -(ANSWERS * np.log(SIGMOID) + (1 - ANSWERS) * np.log(1 - SIGMOID)).mean(),
    ),
    "mean_squared_error": (NUMBERS, (ERRORS**2).mean()),
    "mse": (NUMBERS, (ERRORS**2).mean()),
    "mean_absolute_error": (NUMBERS, np.abs(ERRORS).mean()),
    "mae": (NUMBERS, np.abs(ERRORS).mean()),
    "huber": (
        NUMBERS,
        np.where(np.abs(ERRORS) < 1, ERRORS**2 / 2, np.abs(ERRORS) - 0.5).mean(),
    ),
    "log_cosh": (NUMBERS, np.log(np.cosh(ERRORS)).mean()),
}


@pytest.mark.parametrize("name", BY_HAND)
def test_named_losses_by_hand(name):
    y, expected = BY_HAND[name]
    loss = resolve_loss(name)
    np.testing.assert_allclose(loss(LOGITS, y), expected, rtol=1e-5)
    (metric,) = resolve_metrics([name], loss)
    np.testing.assert_allclose(metric(LOGITS, y), expected, rtol=1e-5)


@pytest.mark.parametrize("name", BY_HAND)
@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float16])
def test_named_losses_are_computed_in_float32(name, dtype):
    y, _ = BY_HAND[name]
    outputs = jnp.asarray(LOGITS, dtype)
    value = resolve_loss(name)(outputs, y)
    assert value.dtype == jnp.float32
    exact = resolve_loss(name)(np.asarray(outputs, np.float32), y)
    np.testing.assert_array_equal(value, exact)


def test_the_sparse_crossentropy_is_that_of_optax_with_its_gradient():
    ours = resolve_loss("sparse_categorical_crossentropy")
    theirs = resolve_loss(optax.softmax_cross_entropy_with_integer_labels)
    value, gradient = jax.value_and_grad(ours)(LOGITS, CLASSES)
    expected, expected_gradient = jax.value_and_grad(theirs)(LOGITS, CLASSES)
    np.testing.assert_allclose(value, expected, rtol=1e-6)
    np.testing.assert_allclose(gradient, expected_gradient, atol=1e-7)
    jaxpr = str(jax.make_jaxpr(jax.grad(ours))(LOGITS, CLASSES))
    assert "scatter" not in jaxpr and "gather" not in jaxpr
    assert np.isnan(ours(LOGITS, CLASSES + 1)) and np.isnan(ours(LOGITS, CLASSES - 1))


@pytest.mark.parametrize("y", [np.int8, np.uint8, np.int32, bool])
@pytest.mark.parametrize("shape", [(12,), (12, 1)])
def test_sparse_labels_of_any_integer_type_and_both_shapes(y, shape):
    loss = resolve_loss("sparse_categorical_crossentropy")
    labels = (CLASSES % 2).astype(y).reshape(shape)
    check_labels(loss, labels, jax.ShapeDtypeStruct((12, 4), jnp.float32))
    np.testing.assert_array_equal(loss(LOGITS, labels), loss(LOGITS, CLASSES % 2))


def test_sequences_have_a_label_for_each_position():
    loss = resolve_loss("sparse_categorical_crossentropy")
    outputs, labels = LOGITS.reshape(3, 4, 4), CLASSES.reshape(3, 4)
    check_labels(loss, labels, outputs)
    np.testing.assert_allclose(loss(outputs, labels), loss(LOGITS, CLASSES), rtol=1e-6)


@hypothesis.given(
    st.sampled_from(["mse", "mae", "huber", "log_cosh", "binary_crossentropy"]),
    st.sampled_from([((7,), (7, 1)), ((7, 1), (7,)), ((7, 1), (7, 1)), ((7,), (7,))]),
    arrays.arrays(np.float32, (2, 7), elements=st.floats(0, 1, width=32)),
)
@hypothesis.settings(max_examples=30)
def test_labels_are_reshaped_and_never_broadcast(name, shapes, values):
    loss = resolve_loss(name)
    outputs, y = (v.reshape(s) for v, s in zip(values, shapes, strict=True))
    check_labels(loss, y, outputs)
    each = [loss(o, t) for o, t in zip(values[0, :, None], values[1, :, None])]
    np.testing.assert_allclose(loss(outputs, y), np.mean(each), rtol=1e-4, atol=1e-6)
    # Optax's own functions are known as well as the names.
    if name == "mse":
        np.testing.assert_array_equal(
            loss(outputs, y), resolve_loss(optax.squared_error)(outputs, y)
        )


def test_a_function_of_ones_own_is_averaged_over_all_that_it_returns():
    for function in (
        lambda outputs, y: jnp.square(outputs - y),
        lambda outputs, y: jnp.mean(jnp.square(outputs - y), axis=-1),
        lambda outputs, y: jnp.mean(jnp.square(outputs - y)),
    ):
        np.testing.assert_allclose(
            resolve_loss(function)(LOGITS, NUMBERS), (ERRORS**2).mean(), rtol=1e-5
        )
    outputs = {"a": LOGITS, "b": 2.0}
    loss = resolve_loss(lambda outputs, y: outputs["a"] * outputs["b"] * (y is None))
    np.testing.assert_allclose(loss(outputs, None), 2 * LOGITS.mean(), rtol=1e-5)
    halves = resolve_loss(lambda outputs, y: jnp.ones(5000, jnp.bfloat16) / 2)
    assert halves(outputs, None) == 0.5 and halves(outputs, None).dtype == jnp.float32


def test_a_function_that_broadcasts_labels_is_refused():
    loss = resolve_loss(lambda outputs, y: jnp.square(outputs - y))
    with pytest.raises(ValueError, match=r"broadcast to \(12, 12\)"):
        loss(LOGITS[:, :1], NUMBERS[:, 0])
    with pytest.raises(TypeError, match="must return a scalar or one value a sample"):
        resolve_loss(lambda outputs, y: (outputs, y))(LOGITS, NUMBERS)


def accuracy(name, outputs, y, loss="mse"):
    (metric,) = resolve_metrics([name], resolve_loss(loss))
    assert metric.name == name
    return float(metric(outputs, y))


def own(outputs, y):
    return jnp.mean(outputs)


SPARSE = (LOGITS.argmax(-1) == CLASSES).mean()
BINARY = ((LOGITS > 0) == (ANSWERS > 0.5)).mean()


@pytest.mark.parametrize(
    ("loss", "y", "expected"),
    [
        ("sparse_categorical_crossentropy", CLASSES, SPARSE),
        ("sparse_categorical_crossentropy", CLASSES[:, None], SPARSE),
        (optax.softmax_cross_entropy_with_integer_labels, CLASSES, SPARSE),
        (own, CLASSES, SPARSE),
        (own, CLASSES[:, None], SPARSE),
        ("categorical_crossentropy", ONE_HOT, SPARSE),
        (own, ONE_HOT, SPARSE),
        ("mse", ONE_HOT, SPARSE),
        ("binary_crossentropy", ANSWERS, BINARY),
        ("binary_crossentropy", ANSWERS.astype(bool), BINARY),
    ],
)
@pytest.mark.parametrize("name", ["accuracy", "acc"])
def test_accuracy_is_the_one_of_the_loss_or_of_the_shapes(name, loss, y, expected):
    assert accuracy(name, LOGITS, y, loss) == pytest.approx(expected)


@pytest.mark.parametrize("loss", [own, "binary_crossentropy"])
@pytest.mark.parametrize("shape", [(12,), (12, 1)])
def test_one_output_has_the_binary_accuracy(loss, shape):
    outputs, y = LOGITS[:, :1], ANSWERS[:, 0].reshape(shape)
    expected = ((LOGITS[:, 0] > 0) == (ANSWERS[:, 0] > 0.5)).mean()
    assert accuracy("accuracy", outputs, y, loss) == pytest.approx(expected)
    assert accuracy("binary_accuracy", outputs, y) == pytest.approx(expected)


def test_accuracy_of_a_regression_is_refused():
    with pytest.raises(ValueError, match="counts classes"):
        accuracy("accuracy", LOGITS[:, :1], NUMBERS[:, 0], "mse")


@pytest.mark.parametrize("top", [1, 2, 3])
def test_top_accuracies_by_hand(top):
    order = np.argsort(-LOGITS, axis=-1)[:, :top]
    expected = np.mean([c in row for c, row in zip(CLASSES, order, strict=True)])
    for y in (CLASSES, ONE_HOT, CLASSES[:, None]):
        assert accuracy(f"top_{top}_accuracy", LOGITS, y) == pytest.approx(expected)
    broken = np.where(np.arange(4) == 0, np.nan, LOGITS)
    assert accuracy("top_1_accuracy", broken, CLASSES) == 0


def test_metrics_are_named_by_their_functions_or_by_pairs():
    loss = resolve_loss("mse")

    def bias(outputs, y):
        return outputs - y

    def names(metrics):
        return [m.name for m in resolve_metrics(metrics, loss)]

    assert names([bias, "mae", ("spread", lambda o, y: o), ("rough", "mse")]) == [
        "bias",
        "mae",
        "spread",
        "rough",
    ]
    assert names({"a": bias, "b": "mae"}) == ["a", "b"]
    assert names(()) == []
    (metric,) = resolve_metrics([bias], loss)
    np.testing.assert_allclose(metric(LOGITS, NUMBERS), ERRORS.mean(), rtol=1e-5)


@pytest.mark.parametrize(
    ("metrics", "error", "message"),
    [
        ("accuracy", TypeError, r"takes a list, such as `metrics=\['accuracy'\]`"),
        (3, TypeError, "takes a list"),
        ([3], TypeError, "A metric is a name, a function"),
        (["acuracy"], ValueError, "Did you mean 'accuracy'.*binary_accuracy"),
        (["top_0_accuracy"], ValueError, "no metric named"),
        ([lambda outputs, y: y], ValueError, r"\('name', function\)"),
        ([functools.partial(own)], ValueError, r"\('name', function\)"),
        (["mse", "mse"], ValueError, "each name may be there once"),
        ([("loss", own)], ValueError, "'loss' is always there"),
        ([("val_own", own)], ValueError, "'val_' is added"),
    ],
)
def test_wrong_metrics_are_refused(metrics, error, message):
    with pytest.raises(error, match=message):
        resolve_metrics(metrics, resolve_loss("mse"))


def test_wrong_losses_are_refused():
    with pytest.raises(ValueError, match="Did you mean 'binary_crossentropy'.*mse"):
        resolve_loss("binary_cross_entropy")
    for wrong in (None, ["mse"], dict):
        with pytest.raises(TypeError, match="takes a name.*or a function"):
            resolve_loss(wrong)


@pytest.mark.parametrize("loss", [*BY_HAND, own, optax.l2_loss])
@pytest.mark.parametrize("metrics", [[], ["accuracy"], ["top_3_accuracy"], ["mae"]])
def test_equal_losses_and_metrics_have_equal_identities(loss, metrics):
    def ours():
        resolved = resolve_loss(loss)
        return identity((resolved, resolve_metrics(metrics, resolved)))

    assert ours() == ours()
    assert ours() != identity(
        (resolve_loss("mse"), resolve_metrics(["acc"], resolve_loss("mse")))
    )


OUTPUTS = jax.ShapeDtypeStruct((12, 4), jnp.float32)
ONE_OUTPUT = jax.ShapeDtypeStruct((12, 1), jnp.float32)
SPARSE_LOSS = "sparse_categorical_crossentropy"


@pytest.mark.parametrize(
    ("loss", "y", "outputs", "message"),
    [
        (SPARSE_LOSS, CLASSES + 1, OUTPUTS, "0 to 3, one of 4 classes.*first is 4"),
        (SPARSE_LOSS, CLASSES - 1, OUTPUTS, "0 to 3.*the first is -1"),
        (
            optax.softmax_cross_entropy_with_integer_labels,
            CLASSES + 9,
            OUTPUTS,
            "0 to 3",
        ),
        (SPARSE_LOSS, ONE_HOT, OUTPUTS, "one-hot.*'categorical_crossentropy'"),
        (SPARSE_LOSS, CLASSES / 2, OUTPUTS, "integer labels, got float64.*'mean_sq"),
        (SPARSE_LOSS, CLASSES * 1.0, OUTPUTS, r"`y.astype\('int32'\)`"),
        (SPARSE_LOSS, CLASSES % 2, ONE_OUTPUT, "one class.*'binary_crossentropy'"),
        (SPARSE_LOSS, CLASSES.reshape(6, 2), OUTPUTS, "one integer for each row"),
        (SPARSE_LOSS, None, OUTPUTS, "one array of labels, got none"),
        (SPARSE_LOSS, CLASSES, (OUTPUTS, OUTPUTS), "one array of outputs, got tuple"),
        ("categorical_crossentropy", CLASSES, OUTPUTS, "'sparse_categorical_cross"),
        ("categorical_crossentropy", ONE_HOT[:, :3], OUTPUTS, "the same shape"),
        (
            "categorical_crossentropy",
            ONE_HOT - 0.1,
            OUTPUTS,
            "a probability from 0 to 1",
        ),
        ("binary_crossentropy", CLASSES % 2, OUTPUTS, "'sparse_categorical_cross"),
        ("binary_crossentropy", CLASSES % 2 * 2 - 1, ONE_OUTPUT, "first is -1"),
        ("binary_crossentropy", np.full(12, np.nan), ONE_OUTPUT, "first is nan"),
        ("mse", NUMBERS[:, 0], OUTPUTS, "the same shape"),
        ("mse", NUMBERS, ONE_OUTPUT, "the same shape"),
    ],
)
def test_labels_that_do_not_fit_are_refused(loss, y, outputs, message):
    with pytest.raises(ValueError, match=message):
        check_labels(resolve_loss(loss), y, outputs)


@pytest.mark.parametrize("name", BY_HAND)
def test_labels_that_fit_are_accepted(name):
    with warnings.catch_warnings(action="error"):
        check_labels(resolve_loss(name), BY_HAND[name][0], OUTPUTS)
    check_labels(resolve_loss(own), object(), OUTPUTS)
