"""The order of the data is a permutation that JAX would draw, however it is sorted."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings, strategies as st

from vtune.training.compile import compile_all
from vtune.training.keys import epoch_order
from vtune.training.orders import Orders, orders_request, sorted_by


SAMPLES = [1, 2, 97, 1625, 1626, 6000]


def drawn(platform: str, samples: int, epochs: list[int], active: list[bool]):
    """The orders that a platform's program draws, run here."""
    request = orders_request(platform, len(epochs), samples)
    ((program,), _) = compile_all([request])
    assert not isinstance(program, Exception)
    keys = jax.random.key_data(jax.random.split(jax.random.key(7), len(epochs)))
    numbers = np.array(epochs, np.int32)
    return Orders(program, platform, samples).draw(keys, numbers, np.array(active))


@pytest.mark.parametrize("platform", ["cpu", "gpu"])
@pytest.mark.parametrize("samples", SAMPLES)
def test_an_order_is_the_permutation_of_jax(platform, samples):
    epochs = [0, 3]
    found = drawn(platform, samples, epochs, [True, True])
    for lane, key in enumerate(jax.random.split(jax.random.key(7), 2)):
        key = jax.random.fold_in(key, epochs[lane])
        wanted = jax.random.permutation(key, samples)
        np.testing.assert_array_equal(found[lane], wanted)


def test_lanes_that_do_not_train_cost_no_order():
    found = np.asarray(drawn("cpu", 50, [1, 1, 1], [False, True, False]))
    assert not found[[0, 2]].any()
    assert sorted(found[1]) == list(range(50))


def test_the_order_has_the_dtype_of_the_program_even_with_x64():
    with jax.enable_x64(True):
        assert epoch_order(jax.random.key(0), jnp.int32(0), 9).dtype == jnp.int32
        assert np.asarray(drawn("cpu", 9, [0], [True])).dtype == np.int32


@settings(deadline=None)
@given(
    st.lists(
        st.lists(st.integers(0, 2**32 - 1), min_size=5, max_size=5),
        min_size=1,
        max_size=3,
    )
)
def test_equal_numbers_keep_their_order(rounds):
    bits = np.array(rounds, np.uint32)
    bits[:, 1] = bits[:, 3]
    order = np.arange(5)
    for numbers in bits:
        order = order[np.argsort(numbers, kind="stable")]
    np.testing.assert_array_equal(sorted_by(bits), order)
