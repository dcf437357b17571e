import numpy as np
import pytest
from hypothesis import given, strategies as st

from vtune.training.data import dataset
from vtune.training.loop import Batches, evaluation_batches, training_loop


@given(st.integers(1, 5000), st.one_of(st.none(), st.integers(1, 6000)))
def test_evaluation_covers_every_sample_once(size, batch_size):
    batches = evaluation_batches(size, batch_size)
    assert batches.steps >= 1
    assert batches.steps * batches.size + batches.remainder == size
    assert 0 <= batches.remainder < batches.size


@pytest.mark.parametrize(
    ("size", "expected"),
    [
        (10_000, Batches(1000, 10, 0)),
        (450, Batches(450, 1, 0)),
        (7, Batches(7, 1, 0)),
        (2 * 1031, Batches(512, 4, 14)),
    ],
)
def test_evaluation_prefers_a_divisor(size, expected):
    assert evaluation_batches(size) == expected


@given(st.integers(1, 300), st.integers(1, 300), st.booleans())
def test_training_batches(samples, batch_size, drop):
    data = dataset(np.zeros((samples, 1)))
    if batch_size > samples:
        with pytest.raises(ValueError, match="larger than"):
            training_loop(data, None, batch_size=batch_size)
        return
    loop = training_loop(data, data, batch_size=batch_size, drop_remainder=drop)
    whole, rest = divmod(samples, batch_size)
    assert loop.train == Batches(batch_size, whole, 0 if drop else rest)
    assert loop.steps_per_epoch == whole + (rest > 0 and not drop)
    assert loop.train.sizes == (batch_size, rest)[: 1 + (rest > 0 and not drop)]


@pytest.mark.parametrize("batch_size", [0, -1, 2.0, True, "32", None])
def test_wrong_batch_sizes(batch_size):
    with pytest.raises(ValueError, match="batch_size"):
        training_loop(dataset(np.zeros((8, 1))), None, batch_size=batch_size)
