import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

from tests.fusion.narrow_in_wide import check_function, widening_of
from vtune.fusion.refusal import Refusal
from vtune.fusion.rules.contents import ANY, FINITE, ZERO


# Each compiles several programs.
pytestmark = pytest.mark.ci


# Pairs of sizes of each member.
SIZES = ((3, 4), (5, 6), (8, 17))


def numbers(*shape, seed=0):
    return np.random.default_rng((seed, *shape)).normal(size=shape).astype(np.float32)


def indices(size, *shape, beyond=2, dtype=np.int32):
    """Indices of an axis, some of them negative or out of range."""
    generator = np.random.default_rng((size, *shape))
    return generator.integers(-size - beyond, size + beyond, shape).astype(dtype)


def inside(size, *shape):
    return np.random.default_rng((size, *shape)).integers(0, size, shape, np.int32)


def rows(x):
    """Entries that lie in blocks: a product of two axes that vary."""
    return x.reshape(-1, x.shape[-1])


@pytest.mark.parametrize("mode", ["fill", "clip", "promise_in_bounds"])
def test_indices_count_the_entries_of_the_own_axis(mode):
    def function(x, i):
        if mode == "promise_in_bounds":
            i = jnp.clip(i, 0, len(x) - 1)
        blocks = rows(x[:, None] + x[..., None])
        return (
            x.at[i].get(mode=mode),
            x.at[:, i % x.shape[1]].get(mode=mode),
            blocks.at[i].get(mode=mode),
            blocks[::-1].at[i].get(mode=mode),
            jnp.take(x, i, axis=0, mode="wrap"),
        )

    arguments = [(numbers(n, m), indices(n, 7)) for n, m in SIZES]
    widening = check_function(function, *arguments, exact=True)
    assert not widening.masks


@pytest.mark.parametrize("mode", ["fill", "clip"])
@pytest.mark.parametrize("dtype", [np.uint32, np.int8])
def test_indices_of_any_dtype_stay_in_range(mode, dtype):
    def function(x, i, u):
        reference = x.at[i]
        return (
            reference.get(mode=mode, wrap_negative_indices=False),
            reference.set(u, mode=mode, wrap_negative_indices=False),
        )

    def member(size):
        i = np.array([1, size, np.iinfo(dtype).max], dtype)
        # What is clipped goes to one place, so that it has to be the same.
        return numbers(size, 2), i, np.array([[1], [2], [2]], np.float32)

    check_function(function, *map(member, (3, 5, 100)), exact=True)


def test_what_is_filled_in_does_not_reach_padding():
    arguments = [(numbers(4, n), indices(4, 6)) for n, _ in SIZES]

    def function(x, i):
        # A sum over padding, not masked as long as that is known to be zero.
        total = x.at[i].get(mode="fill", fill_value=1.0).sum(axis=1)
        return total, jnp.take(x, i, axis=0)

    (train,) = widening_of(function, *arguments).functions.train
    assert train.body.results[-1].contents is ZERO
    assert not train.body.results[-1].tame
    assert not check_function(function, *arguments).masks


@pytest.mark.parametrize("read, contents", [(jnp.sin, FINITE), (jnp.log, ANY)])
def test_rows_of_indices_that_are_padding_take_anything(read, contents):
    arguments = [(numbers(4, 2) ** 2, inside(4, n)) for n, _ in SIZES]

    def function(x, i):
        return read(x)[i]

    (train,) = widening_of(function, *arguments).functions.train
    assert train.body.results[-1].contents is contents
    check_function(function, *arguments)


@pytest.mark.parametrize("state", [ZERO, ANY])
def test_contents_of_windows_are_those_of_the_array(state):
    arguments = [(numbers(n, m), np.int32(1)) for n, m in SIZES]

    def function(x, i):
        update = jnp.take(x, i[None], axis=0)
        return (
            lax.dynamic_index_in_dim(x, i, keepdims=False),
            update,
            lax.dynamic_update_index_in_dim(x, update[0], i, 0),
            x.at[i].set(update[0]),
            x.at[i].add(update[0]),
            x.at[i].multiply(update[0]),
            x.at[i].max(update[0]),
        )

    (train,) = widening_of(function, *arguments, state=state).functions.train
    assert {place.contents for place in train.body.results[2:]} == {state}


def test_padding_that_updates_reach_holds_what_theirs_does():
    def function(x):
        zero, update = jnp.zeros_like(x), jnp.log(x[1])
        results = (
            lax.dynamic_update_index_in_dim(zero, update, 0, 0),
            zero.at[0].set(update),
            zero.at[0].add(update),
            zero.at[0].multiply(update),
            zero.at[0].min(update),
            x.at[0].apply(jnp.log),
        )
        return results, [result[0].sum() for result in results]

    arguments = [(numbers(n, m) ** 2,) for n, m in SIZES]
    widening = check_function(function, *arguments)
    (train,) = widening.functions.train
    assert {place.contents for place in train.body.results[1:7]} == {ANY}


def test_several_axes_are_addressed_at_once():
    def function(x, i, j):
        return x[i, j], x[:, i % 2, j], x.at[i, j].add(2.0), x[i[:, None], :, j[:2]]

    check_function(
        function,
        *[
            (numbers(n, m, 3), inside(n, 6) % m, inside(m, 6) % 3)
            for n, m in ((3, 3), (5, 6), (8, 17))
        ],
        exact=True,
    )


def test_along_an_axis_and_back():
    def function(x, i, c):
        taken, pull = jax.vjp(lambda x: jnp.take_along_axis(x, i, axis=1), x)
        return taken, pull(c)

    check_function(
        function,
        *[(numbers(n, m), inside(m, n, 2), numbers(n, 2)) for n, m in SIZES],
    )


def test_labels_of_a_varying_number_of_classes():
    def loss(x, labels):
        shifted = x - x.max(axis=1, keepdims=True)
        total = jnp.log(jnp.exp(shifted).sum(axis=1))
        chosen = jnp.take_along_axis(shifted, labels[:, None], axis=1)[:, 0]
        return (total - chosen).mean()

    check_function(
        jax.value_and_grad(loss), *[(numbers(6, n), inside(n, 6)) for n, _ in SIZES]
    )


def test_an_embedding_of_varying_vocabulary_and_width():
    def function(table, head, tokens):
        module = nn.Embed(*table.shape)

        def loss(table, head):
            found = module.apply({"params": {"embedding": table}}, tokens)
            return (jnp.tanh(found @ head) ** 2).sum()

        return jax.value_and_grad(loss, (0, 1))(table, head)

    check_function(
        function,
        *[(numbers(n, m), numbers(m, 3), inside(n, 4, 5)) for n, m in SIZES],
    )


@pytest.mark.parametrize("kind", ["set", "add"])
def test_updates_reach_the_own_entries_only(kind):
    def update(array, index, values, mode=None):
        return getattr(array.at[index], kind)(values, mode=mode)

    def function(x, i, j, u, v):
        return (
            update(x, i, u),
            update(x[:-1], i[:-1], u[:-1], "clip"),
            update(x[:4, :3], (slice(None), j), 2 * v),
            update(rows(x[:, None] + x[..., None]), i, u),
        )

    check_function(function, *map(permuted, SIZES), exact=kind == "set")


def permuted(sizes):
    """An array, indices that are all different, and what goes there."""
    n, m = sizes
    generator = np.random.default_rng(n)
    i = generator.permutation(n).astype(np.int32)
    i[i == 1] = n + 1
    j = generator.permutation(5).astype(np.int32)[:3]
    return numbers(n + 1, m), i, j, numbers(n, m), numbers(4, 3)


def test_updates_of_any_kind_reach_the_own_entries_only():
    def function(x, i, j, u, v):
        reference = x.at[i]
        return (
            reference.subtract(u),
            reference.multiply(u),
            reference.min(u),
            reference.max(u),
            reference.apply(jnp.cos),
        )

    check_function(function, *map(permuted, SIZES))


def test_repeated_updates_add_up():
    def function(x, i, u):
        return (
            x.at[:, i].add(u),
            jax.ops.segment_sum(u.T, i, 7),
            jax.ops.segment_max(u.T, i, 7),
            jnp.bincount(i, length=5),
        )

    check_function(
        function, *[(numbers(3, n), inside(n, m), numbers(3, m)) for n, m in SIZES]
    )


def test_every_second_entry_and_the_last_are_set():
    def function(x):
        return (
            x.at[::2].set(1.0),
            x.at[:, -1].add(1.0),
            x.at[1:3].set(2.0),
            x.at[:].add(x),
        )

    check_function(function, *[(numbers(n, m),) for n, m in SIZES])


def test_dynamic_windows_are_clamped_by_the_own_size():
    def function(x, u, i):
        return (
            lax.dynamic_index_in_dim(x, i, 0),
            lax.dynamic_slice_in_dim(x, i, 3, 0),
            lax.dynamic_index_in_dim(x, i.astype(jnp.uint32), 0),
            lax.dynamic_slice_in_dim(x, i, 2, 1),
            lax.dynamic_update_slice_in_dim(x, u, i, 0),
            lax.dynamic_index_in_dim(rows(x[:, None] + x[..., None]), i, 0),
        )

    check_function(
        function,
        *[
            (numbers(n, m), numbers(2, m), np.int32(place))
            for (n, m), place in zip([(3, 4), *SIZES], (9, -7, 2, 9))
        ],
        exact=True,
    )


def test_dynamic_windows_of_a_batch():
    def function(x, u, i):
        read = jax.vmap(lambda x, i: lax.dynamic_slice_in_dim(x, i, 2, 0))
        write = jax.vmap(lambda x, u, i: lax.dynamic_update_index_in_dim(x, u, i, 0))
        return read(x, i), write(x, u, i), jax.vmap(lambda x, i: x[i])(x, i)

    check_function(
        function,
        *[(numbers(n, m), numbers(n), inside(m + 3, n)) for n, m in SIZES],
        exact=True,
    )


def test_dynamic_windows_have_gradients():
    def loss(x, i):
        taken = lax.dynamic_slice_in_dim(x, i, 2, 0)
        return (lax.dynamic_update_slice_in_dim(x, 3 * taken, i - 1, 0) ** 2).sum()

    arguments = [(numbers(n, m), np.int32(9)) for n, m in SIZES]
    check_function(jax.value_and_grad(loss), *arguments)


def test_keys_are_taken_and_drawn_from():
    def function(seeds, i):
        return jax.vmap(jax.random.bits)(jax.vmap(jax.random.key)(seeds)[i])

    arguments = [(np.arange(n, dtype=np.int32), inside(n, 4)) for n, _ in SIZES]
    check_function(function, *arguments, exact=True)


@pytest.mark.parametrize(
    "function, reason",
    [
        (
            lambda x, i: lax.dynamic_slice_in_dim(x, i, len(x) // 2, 0),
            "another size in other trials",
        ),
        (
            lambda x, i: lax.dynamic_update_slice_in_dim(x, x[1:], i, 0),
            "another size in other trials",
        ),
        (
            lambda x, i: lax.dynamic_slice_in_dim(rows(x[:, None] + x), i, 2, 0),
            "2 neighbours",
        ),
    ],
)
def test_windows_that_have_no_place_are_refused(function, reason):
    arguments = [(numbers(n, n), np.int32(1)) for n, _ in SIZES]
    with pytest.raises(Refusal, match=reason) as caught:
        widening_of(function, *arguments)
    assert "dynamic_" in str(caught.value) and __file__ in str(caught.value)
