"""Data sets as arrays: what is accepted, what is refused, how they are split."""

import dataclasses
from typing import Any

import jax
import numpy as np


@dataclasses.dataclass(frozen=True, eq=False)
class DataSet:
    """A data set in the host's memory, ready for the device.

    Args:
        x: a pytree of arrays, the batch axis first.
        y: likewise, or None where there are no targets.
        size: the number of samples.
    """

    x: Any
    y: Any
    size: int

    @property
    def batch(self) -> tuple[Any, ...]:
        """The whole data set as one batch: `(x, y)`, or `(x,)` without targets."""
        return (self.x,) if self.y is None else (self.x, self.y)

    def rows(self, start: int, stop: int) -> "DataSet":
        """The samples from `start` to `stop`, without a copy."""
        x, y = jax.tree.map(lambda array: array[start:stop], (self.x, self.y))
        return DataSet(x, y, stop - start)


def dataset(x: Any, y: Any = None, *, names: tuple[str, str] = ("x", "y")) -> DataSet:
    """Turns what a user passes into a data set, or says why it cannot.

    Takes whatever `np.asarray` takes (NumPy, JAX, pandas, torch on the CPU), and dicts
    and tuples of such. 64-bit floats become 32-bit; 64-bit integers become 32-bit where
    every value fits; everything else keeps its dtype.

    Args:
        x: the inputs, the batch axis first.
        y: the targets, the batch axis first, or None.
        names: how `x` and `y` are called in messages.

    Returns:
        The data set.

    Raises:
        ValueError: if an array is empty, has no batch axis, holds NaN or infinity, or
            if the lengths differ.
        TypeError: if something is not an array of numbers.
    """
    converted = {}
    for name, tree in zip(names, (x, y)):
        converted[name] = None if tree is None else _convert(tree, name)
    if converted[names[0]] is None:
        raise TypeError(f"`{names[0]}` takes an array, got None.")
    sizes = {
        name + jax.tree_util.keystr(path): len(array)
        for name, tree in converted.items()
        for path, array in jax.tree_util.tree_leaves_with_path(tree)
    }
    if len(set(sizes.values())) > 1:
        listed = ", ".join(f"`{name}` has {size}" for name, size in sizes.items())
        raise ValueError(f"All arrays need the same number of samples: {listed}.")
    size = next(iter(sizes.values()))
    return DataSet(converted[names[0]], converted[names[1]], size)


def split(data: DataSet, fraction: float) -> tuple[DataSet, DataSet]:
    """Splits off the last part of a data set, before any shuffling, as Keras does.

    Args:
        data: the data set.
        fraction: the part that is split off, between 0 and 1.

    Returns:
        The first part and the last part.

    Raises:
        ValueError: if the fraction leaves nothing on either side.
    """
    if not 0.0 < fraction < 1.0:
        raise ValueError(
            f"`validation_split` is between 0 and 1 (the part of the samples, from the "
            f"end, that validates), got {fraction!r}."
        )
    at = int(data.size * (1.0 - fraction))
    if at == 0 or at == data.size:
        raise ValueError(
            f"`validation_split={fraction}` of {data.size} samples leaves no sample to "
            f"{'train' if at == 0 else 'validate'} on."
        )
    return data.rows(0, at), data.rows(at, data.size)


def training_and_validation(
    x: Any, y: Any, validation_data: Any, validation_split: float
) -> tuple[DataSet, DataSet | None]:
    """The two data sets of a search or of a `fit`, from their arguments.

    Args:
        x: the inputs.
        y: the targets, or None.
        validation_data: `(x, y)`, or `(x,)` without targets, or None.
        validation_split: the fraction of `x` and `y` to validate on, 0 for none.

    Returns:
        The training set, and the validation set or None.

    Raises:
        ValueError: if both `validation_data` and `validation_split` are given, or if
            the data cannot be used.
        TypeError: if something is not an array of numbers.
    """
    if validation_data is not None and validation_split:
        raise ValueError("Give `validation_data` or `validation_split`, not both.")
    training = dataset(x, y)
    if validation_split:
        return split(training, validation_split)
    if validation_data is None:
        return training, None
    if not isinstance(validation_data, (tuple, list)) or len(validation_data) > 2:
        raise TypeError(
            "`validation_data` takes a tuple `(x_val, y_val)`, got "
            f"{type(validation_data).__name__}."
        )
    validation = dataset(
        *validation_data, names=("validation_data[0]", "validation_data[1]")
    )
    _same_kind(training, validation)
    return training, validation


def _same_kind(training: DataSet, validation: DataSet) -> None:
    if jax.tree.structure(training.batch) != jax.tree.structure(validation.batch):
        raise ValueError(
            "`validation_data` has another structure than `(x, y)`: "
            f"{jax.tree.structure(validation.batch)} against "
            f"{jax.tree.structure(training.batch)}."
        )
    ours = jax.tree_util.tree_leaves_with_path(training.batch)
    for (path, ours_array), theirs in zip(ours, jax.tree.leaves(validation.batch)):
        if ours_array.shape[1:] != theirs.shape[1:]:
            raise ValueError(
                f"The samples of `validation_data{jax.tree_util.keystr(path)}` have "
                f"shape {theirs.shape[1:]}, those of the training data "
                f"{ours_array.shape[1:]}."
            )


def _is_array(value: Any) -> bool:
    return not isinstance(value, (dict, tuple))


def _convert(tree: Any, name: str) -> Any:
    def convert(path: Any, value: Any) -> np.ndarray:
        return _array(value, name + jax.tree_util.keystr(path))

    converted = jax.tree_util.tree_map_with_path(convert, tree, is_leaf=_is_array)
    if not jax.tree.leaves(converted):
        raise ValueError(f"`{name}` holds no array.")
    return converted


def _array(value: Any, name: str) -> np.ndarray:
    try:
        array = np.asarray(value)
    except Exception as error:
        raise TypeError(
            f"`{name}` takes an array, but `np.asarray` refuses "
            f"{type(value).__name__}: {error}"
        ) from error
    if array.dtype.kind in "OSUVMm" and array.dtype.name not in _SMALL_FLOATS:
        raise TypeError(
            f"`{name}` holds {array.dtype} (given as {type(value).__name__}); it takes "
            "an array of numbers."
        )
    if array.ndim == 0:
        raise ValueError(f"`{name}` is a scalar; its first axis must be the samples.")
    if array.size == 0:
        raise ValueError(f"`{name}` is empty: its shape is {array.shape}.")
    array = _narrow(array, name)
    floating = array.dtype.kind in "fcV"
    if floating and not np.isfinite(array).all():
        bad = np.argwhere(~np.isfinite(array))[0].tolist()
        raise ValueError(
            f"`{name}` holds NaN, infinity or a number too large for {array.dtype}, "
            f"first at index {bad}. Clean the data before training on it."
        )
    return array


_SMALL_FLOATS = ("bfloat16", "float8_e4m3fn", "float8_e5m2")


def _narrow(array: np.ndarray, name: str) -> np.ndarray:
    """64-bit values as 32-bit ones: the device computes in 32 bits."""
    if array.dtype == np.float64:
        with np.errstate(over="ignore"):
            return array.astype(np.float32)
    if array.dtype == np.complex128:
        return array.astype(np.complex64)
    if array.dtype not in (np.dtype(np.int64), np.dtype(np.uint64)):
        return array
    narrow = np.dtype(np.int32 if array.dtype == np.int64 else np.uint32)
    low, high = array.min(), array.max()
    bounds = np.iinfo(narrow)
    if low < bounds.min or high > bounds.max:
        raise ValueError(
            f"`{name}` holds {array.dtype} values from {low} to {high}, which do not "
            f"fit {narrow}. Map them to smaller numbers."
        )
    return array.astype(narrow)
