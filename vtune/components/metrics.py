"""Metrics by well-known name."""

import dataclasses
import functools
import re
from collections.abc import Iterable, Mapping
from typing import Any

import jax.numpy as jnp
from jaxtyping import Array, Float, PyTree

from vtune.components.losses import (
    LOSS_NAMES,
    Labels,
    Loss,
    LossFunction,
    known_labels,
    like_outputs,
    one_hot,
    refuse_shapes,
    refuse_trees,
    resolve_loss,
    unknown_name,
)


_ACCURACIES: dict[str, Labels | None] = {
    "accuracy": None,
    "acc": None,
    "sparse_categorical_accuracy": "sparse",
    "categorical_accuracy": "categorical",
    "binary_accuracy": "binary",
}
_TOP = re.compile(r"top_([1-9]\d*)_accuracy")


def resolve_metrics(
    metrics: Iterable[Any] | Mapping[str, Any], loss: Loss
) -> tuple[Loss, ...]:
    """The metrics that names and functions stand for.

    Args:
        metrics: names, functions `f(outputs, y)`, and pairs `(name, function)`, or a
            mapping from names to functions. The values of batches are averaged, so only
            what is a mean over samples can be a metric.
        loss: tells which accuracy `"accuracy"` is.

    Returns:
        One `Loss` for each, with the name under which it is reported.

    Raises:
        ValueError: for an unknown, repeated or reserved name, or one that is missing.
        TypeError: for anything else.
    """
    if isinstance(metrics, str) or not isinstance(metrics, Iterable):
        raise TypeError(
            "`Model(metrics=...)` takes a list, such as `metrics=['accuracy']`, "
            f"got {metrics!r}."
        )
    given = metrics.items() if isinstance(metrics, Mapping) else metrics
    resolved = tuple(_resolve_metric(metric, loss) for metric in given)
    names = [metric.name for metric in resolved]
    for name in names:
        if name == "loss" or name.startswith("val_") or names.count(name) > 1:
            raise ValueError(
                f"`Model(metrics=...)` has a metric named {name!r}: each name may be "
                "there once, 'loss' is always there, and 'val_' is added in validation."
            )
    return resolved


def _resolve_metric(metric: Any, loss: Loss) -> Loss:
    if isinstance(metric, tuple) and len(metric) == 2 and isinstance(metric[0], str):
        name, metric = metric
        if isinstance(metric, str):
            return dataclasses.replace(_named_metric(metric, loss), name=name)
    elif isinstance(metric, str):
        return _named_metric(metric, loss)
    else:
        name = getattr(metric, "__name__", "<lambda>")
    if not callable(metric) or isinstance(metric, type):
        raise TypeError(
            "A metric is a name, a function `f(outputs, y)` or a pair "
            f"`(name, function)`, got {metric!r}."
        )
    if name == "<lambda>":
        raise ValueError(
            f"The metric {metric!r} has no name to be reported under. Give it one: "
            "`metrics=[('name', function)]`."
        )
    return Loss(name, metric, known_labels(metric))


def _named_metric(name: str, loss: Loss) -> Loss:
    if name in LOSS_NAMES:
        return dataclasses.replace(resolve_loss(name), name=name)
    if top := _TOP.fullmatch(name):
        return Loss(name, functools.partial(_top_accuracy, name, int(top[1])))
    if name not in _ACCURACIES:
        known = [*_ACCURACIES, "top_5_accuracy", *LOSS_NAMES]
        raise ValueError(
            unknown_name("metric", name, known)
            + " Anything else that is a mean over samples can be given as a function."
        )
    labels = _ACCURACIES[name]
    if labels is None and loss.labels != "values":
        labels = loss.labels
    if labels is not None:
        return Loss(name, _ACCURACY_FUNCTIONS[labels], labels)
    regression = loss.labels == "values"
    return Loss(name, functools.partial(_accuracy_by_shape, name, regression))


def _sparse_accuracy(outputs: Array, y: Array) -> Array:
    return jnp.argmax(outputs, axis=-1) == y


def _categorical_accuracy(outputs: Array, y: Array) -> Array:
    return jnp.argmax(outputs, axis=-1) == jnp.argmax(y, axis=-1)


def _binary_accuracy(outputs: Array, y: Array) -> Array:
    # Outputs are logits: a probability of one half is a logit of zero.
    return (outputs > 0) == (y > 0.5)


_ACCURACY_FUNCTIONS: dict[Labels, LossFunction] = {
    "sparse": _sparse_accuracy,
    "categorical": _categorical_accuracy,
    "binary": _binary_accuracy,
}


def _accuracy_by_shape(
    name: str, regression: bool, outputs: PyTree, y: PyTree
) -> Float[Array, ""]:
    """The accuracy where the loss does not tell the kind of labels: the shapes do."""
    labels = _labels_by_shape(name, outputs, y)
    if labels == "binary" and regression:
        raise ValueError(
            f"`metrics=['{name}']` counts classes, and the loss is one for numbers. "
            "Use 'mae' or 'mse', or the loss 'binary_crossentropy'."
        )
    return Loss(name, _ACCURACY_FUNCTIONS[labels], labels)(outputs, y)


def _top_accuracy(name: str, top: int, outputs: PyTree, y: PyTree) -> Array:
    labels = _labels_by_shape(name, outputs, y)
    refuse_shapes(name, labels, outputs, y)
    y = like_outputs(labels, outputs, y)
    classes = y if labels == "sparse" else jnp.argmax(y, axis=-1)
    is_class = one_hot(classes, outputs.shape[-1])
    chosen = jnp.sum(jnp.where(is_class, outputs, 0.0), axis=-1, keepdims=True)
    # Written with `not <=`, a NaN counts as larger, hence as a wrong answer.
    return jnp.sum(~(outputs <= chosen), axis=-1) < top


def _labels_by_shape(name: str, outputs: PyTree, y: PyTree) -> Labels:
    refuse_trees(name, outputs, y)
    if outputs.ndim > 1 and outputs.shape[-1] > 1:
        return "categorical" if y.shape == outputs.shape else "sparse"
    return "binary"
