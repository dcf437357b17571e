import ml_dtypes
import numpy as np
import pandas as pd
import pytest
from hypothesis import given, strategies as st

from vtune.training.data import dataset, split, training_and_validation


X = np.arange(24, dtype=np.float32).reshape(8, 3)
Y = np.arange(8)


@pytest.mark.parametrize(
    ("given_dtype", "kept"),
    [
        ("float64", "float32"),
        ("float32", "float32"),
        ("float16", "float16"),
        ("int64", "int32"),
        ("uint64", "uint32"),
        ("int32", "int32"),
        ("int8", "int8"),
        ("uint8", "uint8"),
        ("bool", "bool"),
        ("complex128", "complex64"),
    ],
)
def test_dtypes(given_dtype, kept):
    assert dataset(np.ones((4, 2), given_dtype)).x.dtype == kept


def test_small_floats_stay():
    x = np.ones((4, 2), ml_dtypes.bfloat16)
    assert dataset(x).x.dtype == ml_dtypes.bfloat16
    x[2, 1] = np.inf
    with pytest.raises(ValueError, match="NaN, infinity"):
        dataset(x)


@given(st.lists(st.integers(-(2**63), 2**63 - 1), min_size=1, max_size=20))
def test_large_integers_are_kept_or_refused(values):
    array = np.array(values, np.int64)
    if all(-(2**31) <= value < 2**31 for value in values):
        assert dataset(array).x.tolist() == values
    else:
        with pytest.raises(ValueError, match="do not fit int32"):
            dataset(array)


def test_takes_pandas_lists_and_nested_inputs():
    frame = pd.DataFrame({"a": [1.0, 2.0], "b": [3.0, 4.0]})
    assert dataset(frame, pd.Series([0, 1])).y.tolist() == [0, 1]
    assert dataset([[1.0], [2.0]]).x.shape == (2, 1)
    nested = dataset({"image": X, "meta": (Y, Y)}, Y)
    assert nested.size == 8
    assert nested.batch[0]["meta"][0].dtype == np.int32
    assert nested.rows(2, 5).x["image"].tolist() == X[2:5].tolist()


@pytest.mark.parametrize(
    ("x", "y", "error", "message"),
    [
        (X, Y[:-1], ValueError, "`x` has 8, `y` has 7"),
        ({"a": X, "b": Y[:3]}, Y, ValueError, r"`x\['b'\]` has 3"),
        (X[:0], Y[:0], ValueError, "`x` is empty"),
        (3.0, None, ValueError, "`x` is a scalar"),
        (None, Y, TypeError, "got None"),
        ({}, Y, ValueError, "holds no array"),
        (np.array(["a", "b"]), None, TypeError, "<U1"),
        (np.array([object(), None]), None, TypeError, "object"),
        ([[1.0, 2.0], [3.0]], None, TypeError, "`np.asarray` refuses list"),
        (np.where(X == 5, np.nan, X), Y, ValueError, r"first at index \[1, 2\]"),
        (X, np.where(Y == 3, np.inf, Y), ValueError, r"`y` holds NaN.*\[3\]"),
        (np.full(3, 1e300), None, ValueError, "too large for float32"),
    ],
)
def test_refusals(x, y, error, message):
    with pytest.raises(error, match=message):
        dataset(x, y)


def test_split_takes_the_last_part_without_shuffling():
    first, last = split(dataset(X, Y), 0.25)
    assert first.y.tolist() == [0, 1, 2, 3, 4, 5]
    assert last.y.tolist() == [6, 7]


@pytest.mark.parametrize("fraction", [-0.1, 1.0, 1.5, 1e-20, 0.9999])
def test_split_refuses_what_leaves_nothing(fraction):
    with pytest.raises(ValueError, match="validation_split"):
        split(dataset(X[:4], Y[:4]), fraction)


@pytest.mark.parametrize(
    ("validation", "message"),
    [
        ((X,), "another structure"),
        ((X[:, :2], Y), r"have shape \(2,\).*\(3,\)"),
        ((X, Y[:2]), r"`validation_data\[1\]` has 2"),
        ((X[:0], Y[:0]), r"`validation_data\[0\]` is empty"),
    ],
)
def test_validation_data_must_be_like_the_training_data(validation, message):
    with pytest.raises(ValueError, match=message):
        training_and_validation(X, Y, validation, 0.0)


def test_validation_data_or_split_but_not_both():
    with pytest.raises(ValueError, match="not both"):
        training_and_validation(X, Y, (X, Y), 0.5)
    with pytest.raises(TypeError, match="takes a tuple"):
        training_and_validation(X, Y, X, 0.0)
    training, validation = training_and_validation(X, Y, None, 0.5)
    assert validation is not None
    assert (training.size, validation.size) == (4, 4)
