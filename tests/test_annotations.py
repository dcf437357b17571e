"""The check of annotations that all other tests run under."""

import importlib
from typing import Any

import jaxtyping
import numpy as np
import pytest
from jaxtyping import Float32, PyTree

from tests.annotations import check_arrays, names_an_array


Row = Float32[np.ndarray, " columns"]


@jaxtyping.jaxtyped(typechecker=check_arrays)
def first(row: Row, others: tuple[Row], name: str) -> Row:
    return row if name else others[0][1:]


def test_arrays_of_other_shapes_and_dtypes_are_noticed():
    row = np.zeros(3, np.float32)
    assert first(row, (row,), "name") is row
    for wrong in (np.zeros(4, np.float32), np.zeros(3), np.zeros((3, 1), np.float32)):
        with pytest.raises(jaxtyping.TypeCheckError):
            first(row, (wrong,), "name")
    with pytest.raises(jaxtyping.TypeCheckError):
        first(row, (row,), "")


def test_other_arguments_are_left_to_the_function():
    row = np.zeros(3, np.float32)
    assert first(row, (row,), 1) is row  # pyright: ignore[reportArgumentType]


@pytest.mark.parametrize(
    "hint, expected",
    [
        (Row, True),
        (Row | None, True),
        (dict[str, tuple[Row, ...]], True),
        (PyTree, True),
        (int, False),
        (dict[str, Any], False),
        (None, False),
    ],
)
def test_which_annotations_name_an_array(hint, expected):
    assert names_an_array(hint) is expected


def test_vtune_is_checked():
    loaded = importlib.import_module("vtune.trial")
    assert "jaxtyp" in type(loaded.__loader__).__module__
