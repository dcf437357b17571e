"""Losses and metrics by well-known name, and what their labels must look like."""

import dataclasses
import difflib
from collections.abc import Callable, Iterable
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, Float, PyTree


LossFunction = Callable[[Any, Any], Any]
Labels = Literal["sparse", "categorical", "binary", "values"]


def _sparse_crossentropy(logits: Array, y: Array) -> Array:
    """`-log softmax(logits)[y]`, NaN for a label that is no class.

    By comparison with all classes and not by a gather, whose gradient is a scatter:
    slow, and on a GPU not the same from run to run.
    """
    classes = logits.shape[-1]
    terms = jnp.where(one_hot(y, classes), jax.nn.log_softmax(logits), 0.0)
    return jnp.where((y >= 0) & (y < classes), -jnp.sum(terms, axis=-1), jnp.nan)


def one_hot(y: Array, classes: int) -> Array:
    """Where each class is the label: a boolean axis of `classes` at the end."""
    return y[..., None] == jnp.arange(classes, dtype=y.dtype)


def _absolute_error(outputs: Array, y: Array) -> Array:
    return jnp.abs(outputs - y)


_LOSSES: dict[str, tuple[Labels, LossFunction]] = {
    "sparse_categorical_crossentropy": ("sparse", _sparse_crossentropy),
    "categorical_crossentropy": ("categorical", optax.softmax_cross_entropy),
    "binary_crossentropy": ("binary", optax.sigmoid_binary_cross_entropy),
    "mean_squared_error": ("values", optax.squared_error),
    "mse": ("values", optax.squared_error),
    "mean_absolute_error": ("values", _absolute_error),
    "mae": ("values", _absolute_error),
    "huber": ("values", optax.huber_loss),
    "log_cosh": ("values", optax.log_cosh),
}
_LABELS_OF_FUNCTION: dict[Any, Labels] = {
    optax.softmax_cross_entropy_with_integer_labels: "sparse",
    optax.l2_loss: "values",
    **{function: labels for labels, function in _LOSSES.values()},
}
LOSS_NAMES = tuple(_LOSSES)


@dataclasses.dataclass(frozen=True)
class Loss:
    """A loss or a metric as one number a batch: the mean over all that it returns.

    Args:
        name: what it is called in messages and among the metrics.
        function: `f(outputs, y)`, which gives a scalar, or an array to be averaged.
        labels: the kind of `y` that it takes, where that is known. Outputs are then one
            array, computed on in float32 at least, and `y` is brought to its shape.
    """

    name: str
    function: LossFunction
    labels: Labels | None = None

    def __call__(self, outputs: PyTree, y: PyTree) -> Float[Array, ""]:
        """The mean over a batch.

        Args:
            outputs: what the network returned for the batch.
            y: the batch's labels.

        Returns:
            A scalar in float32 (float64 where the function gives that).

        Raises:
            ValueError: if the shapes of `outputs` and `y` do not fit.
        """
        if self.labels is not None:
            refuse_shapes(self.name, self.labels, outputs, y)
            outputs = _at_least_float32(outputs)
            y = like_outputs(self.labels, outputs, y)
        value = self.function(outputs, y)
        _refuse_value(self.name, value, outputs, y)
        value = _at_least_float32(value)
        return value if value.ndim == 0 else jnp.mean(value)


def resolve_loss(loss: Any) -> Loss:
    """The loss that a name or a function stands for.

    Args:
        loss: a well-known name (all of them take logits), or `f(outputs, y)` that gives
            a scalar or one value a sample. Optax's own losses are known like names.

    Returns:
        The loss, averaged over the batch.

    Raises:
        ValueError: for a name that is not known.
        TypeError: for anything else.
    """
    if isinstance(loss, str):
        if loss not in _LOSSES:
            raise ValueError(unknown_name("loss", loss, _LOSSES))
        labels, function = _LOSSES[loss]
        return Loss(loss, function, labels)
    if not callable(loss) or isinstance(loss, type):
        raise TypeError(
            "`Model(loss=...)` takes a name, such as 'categorical_crossentropy', or a "
            f"function `f(outputs, y)`, got {loss!r}."
        )
    name = getattr(loss, "__name__", type(loss).__name__)
    return Loss(name, loss, known_labels(loss))


def check_labels(loss: Loss, y: PyTree, outputs: PyTree) -> None:
    """Refuses labels that a loss cannot take, before anything is trained.

    Args:
        loss: of which kind the labels must be; a user's own function takes anything.
        y: the labels of a data set, NumPy arrays with n samples first.
        outputs: the network's outputs for them, abstract.

    Raises:
        ValueError: if kind, shape or range of the labels do not fit the loss; the
            message names what was met, and the loss that would fit.
    """
    if loss.labels is None:
        return
    refuse_shapes(loss.name, loss.labels, outputs, y)
    if loss.labels == "sparse":
        _refuse_range(loss.name, y, 0, outputs.shape[-1] - 1, "an integer from")
    elif loss.labels != "values":
        _refuse_range(loss.name, y, 0, 1, "a probability from")


def known_labels(function: Any) -> Labels | None:
    """The kind of labels that a function takes, if it is one of Optax's losses."""
    try:
        return _LABELS_OF_FUNCTION.get(function)
    except TypeError:  # not hashable, hence none of Optax's
        return None


def _at_least_float32(value: Any) -> Array:
    value = jnp.asarray(value)
    return value.astype(jnp.promote_types(value.dtype, jnp.float32))


def like_outputs(labels: Labels, outputs: Array, y: Any) -> Array:
    """`y` in the one shape in which it cannot be broadcast against the outputs."""
    y = jnp.asarray(y)
    if labels == "sparse":
        return y.reshape(outputs.shape[:-1]).astype(jnp.int32)
    return y.reshape(outputs.shape).astype(outputs.dtype)


def refuse_trees(name: str, outputs: PyTree, y: PyTree) -> None:
    """Refuses all but one array of outputs and one of labels, with a ValueError."""
    for what, value in (("outputs", outputs), ("labels", y)):
        if not isinstance(value, (jax.Array, np.ndarray, jax.ShapeDtypeStruct)):
            got = "none" if value is None else type(value).__name__
            raise ValueError(
                f"'{name}' takes one array of {what}, got {got}. For anything else, "
                "give a function `f(outputs, y)` in its place."
            )


def refuse_shapes(name: str, labels: Labels, outputs: PyTree, y: PyTree) -> None:
    """Refuses labels whose shape or dtype does not fit the outputs, with a ValueError.

    Args:
        name: the loss or metric.
        labels: the kind of labels that it takes.
        outputs: an array, or an abstract one.
        y: likewise.
    """
    refuse_trees(name, outputs, y)
    shapes = f"'{name}' got labels {y.shape} for outputs {outputs.shape}"
    classes = outputs.shape[-1] if outputs.ndim > 1 else 1
    if labels in ("sparse", "categorical") and classes < 2:
        raise ValueError(
            f"{shapes}: it takes one output a class, and this is one class. One output "
            "for two classes goes with the loss 'binary_crossentropy'."
        )
    if labels == "sparse":
        if y.shape == outputs.shape:
            raise ValueError(
                f"{shapes}, which look one-hot: use 'categorical_crossentropy' with "
                "them, or integers, `y.argmax(-1)`."
            )
        if jnp.issubdtype(y.dtype, jnp.floating):
            raise ValueError(
                f"'{name}' takes integer labels, got {y.dtype}. If they are whole "
                "numbers, `y.astype('int32')`; if they are measured values, use a loss "
                "such as 'mean_squared_error'."
            )
        if y.shape not in (outputs.shape[:-1], (*outputs.shape[:-1], 1)):
            raise ValueError(f"{shapes}: it takes one integer for each row of classes.")
    elif y.shape not in (outputs.shape, (*outputs.shape, 1)) and (
        (*y.shape, 1) != outputs.shape
    ):
        hint = "they must have the same shape."
        if labels == "categorical" and y.ndim < outputs.ndim:
            hint = "for integer labels use 'sparse_categorical_crossentropy'."
        if labels == "binary" and y.ndim < outputs.ndim:
            hint = (
                "it takes one output for each label; for one of several classes use "
                "'sparse_categorical_crossentropy'."
            )
        raise ValueError(f"{shapes}: {hint}")


def _refuse_range(name: str, y: Any, low: int, high: int, what: str) -> None:
    y = np.asarray(y)
    wrong = ~((y >= low) & (y <= high))
    if wrong.any():
        classes = (
            f", one of {high + 1} classes" if what.startswith("an integer") else ""
        )
        raise ValueError(
            f"'{name}' takes labels that are {what} {low} to {high}{classes}; "
            f"{int(wrong.sum())} of {y.size} are not, the first is {y[wrong][0]}."
        )


def _refuse_value(name: str, value: Any, outputs: PyTree, y: PyTree) -> None:
    """Refuses what is no number, and (n,) labels broadcast against (n, 1) outputs."""
    if not isinstance(value, (jax.Array, np.ndarray, np.generic, float, int)):
        raise TypeError(
            f"The loss or metric '{name}' must return a scalar or one value a sample, "
            f"got {type(value).__name__}."
        )
    shapes = {getattr(outputs, "shape", None), getattr(y, "shape", None)}
    n = np.shape(value)[0] if np.ndim(value) == 2 else 0
    if np.shape(value) == (n, n) and shapes == {(n,), (n, 1)} and n > 1:
        raise ValueError(
            f"'{name}' compares each output with every label: labels and outputs of "
            f"shapes {(n,)} and {(n, 1)} broadcast to {(n, n)}. Reshape one in your "
            "function, or give a loss by name."
        )


def unknown_name(kind: str, name: str, known: Iterable[str]) -> str:
    """What to say of a name that is not known: the nearest one, and all others."""
    near = difflib.get_close_matches(name, list(known), n=1, cutoff=0.7)
    guess = f" Did you mean {near[0]!r}?" if near else ""
    return f"There is no {kind} named {name!r}.{guess} Known are: {', '.join(known)}."
