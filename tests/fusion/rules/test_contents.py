import itertools

import jax.numpy as jnp
import numpy as np
import pytest

from vtune.fusion.rules.contents import ANY, FINITE, ZERO, Known, is_finite, join


EVERY = [None, Known(np.float32(0)), Known(np.float32(-0.0)), ZERO, FINITE, ANY]


@pytest.mark.parametrize(
    "value", [np.float32("nan"), jnp.bfloat16(np.inf), 1j * np.inf]
)
def test_what_is_not_finite_is_never_known(value):
    assert not is_finite(value)
    with pytest.raises(ValueError, match="finite"):
        Known(value)


def test_known_values_are_equal_by_dtype_and_bits():
    assert Known(np.float32(0)) == Known(np.float32(0))
    assert Known(np.float32(0)) != Known(np.float32(-0.0))
    assert Known(np.float32(0)) != Known(np.int32(0))
    assert Known(np.float32(-0.0)).is_zero
    assert not Known(np.float32(1e-45)).is_zero


def test_join_is_a_least_upper_bound():
    for a, b, c in itertools.product(EVERY, repeat=3):
        assert join(a, b) == join(b, a)
        assert join(a, join(b, c)) == join(join(a, b), c)
        assert join(a, a) == a
    assert join(EVERY[1], EVERY[2]) is ZERO
    assert join(ZERO, Known(np.float32(1))) is FINITE
    assert join(FINITE, ANY) is ANY
    assert join(None, FINITE) is FINITE


def test_rising_ends_after_four_steps():
    for values in itertools.permutations(EVERY):
        current, rises = None, 0
        for value in values:
            risen = join(current, value)
            rises += risen != current
            current = risen
        assert current is ANY and rises <= 4
