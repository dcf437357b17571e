import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests.fusion.narrow_in_wide import check_function, widening_of
from tests.fusion.rules.test_slicing import normals, rows, with_gradient
from vtune.fusion.layout import Tail
from vtune.fusion.refusal import Refusal
from vtune.fusion.rules.contents import ANY, FINITE, Known


WIDTHS = (3, 5, 8)

ARRANGEMENTS = {
    "transpose": lambda x: (x.T, jnp.swapaxes(x[:, None], 1, 2) * 2),
    "expand and squeeze": lambda x: jnp.expand_dims(x, (0, 2)).squeeze((0, 2)) + x,
    "flatten": lambda x: (x.ravel(), jnp.stack([x, x**2], 2).reshape(-1)),
    "repeat": lambda x: jnp.repeat(x, 2, 1),
    "tile": lambda x: (jnp.tile(x, (2, 3)), jnp.tile(x, (1, 2)), jnp.tile(x, (3, 1))),
    "stack": lambda x: (jnp.stack([x, x**2]), jnp.stack([x, x**2], -1)),
    "unstack": lambda x: jnp.unstack(x),
    "broadcast": lambda x: jnp.broadcast_to(x[:, None], (4, 3, x.shape[1])) + 1,
    "outer": lambda x: x[:, :, None] - x[:, None, :],
    "concatenate": lambda x: jnp.concatenate([x, jnp.sin(x), jnp.ones((4, 2))], 1),
    "concatenate behind": lambda x: jnp.concatenate([jnp.ones((4, 2)), x], 1) ** 2,
    "concatenate rows": lambda x: jnp.concatenate([x, x**2], 0),
    "split": lambda x: jnp.split(x, [1, x.shape[1] - 1], 1),
}


@pytest.mark.parametrize("function", ARRANGEMENTS.values(), ids=ARRANGEMENTS)
def test_arrangements(function):
    check_function(with_gradient(function), *rows(*WIDTHS))


def test_equal_parts_of_a_split_are_pieces():
    def function(x, weights):
        first, second, third = jnp.split(x @ weights, 3, 1)
        return first * jax.nn.sigmoid(second) + third

    members = [(normals(4, 5), normals(5, 3 * n)) for n in WIDTHS]
    widening = check_function(with_gradient(function), *members)
    assert not isinstance(widening.state[1][1], Tail)


@pytest.mark.parametrize("sizes", [((2, 3), (2, 5), (2, 8)), ((1, 4), (3, 2), (4, 5))])
def test_heads(sizes):
    def split(count, x):
        return jnp.swapaxes(x.reshape(4, count, -1), 1, 2), x + 1

    # The number of heads is the size of an array, so that one function does for all.
    def function(x, heads):
        return split(heads.shape[0], x)

    members = [(normals(4, h * d), normals(h)) for h, d in sizes]
    if len({h for h, _ in sizes}) == 1:
        check_function(lambda x, _: split(2, x), *members)
    else:
        check_function(function, *members)


def test_a_flattened_image_and_its_weights():
    def function(x, weights):
        return x.reshape(4, -1) @ weights

    members = [(normals(4, 2, 2, n), normals(4 * n, 3)) for n in WIDTHS]
    check_function(with_gradient(function), *members)
    turned = [(normals(4, n, 2, 2), normals(4 * n, 3)) for n in WIDTHS]
    check_function(with_gradient(function), *turned)


def test_a_varying_number_of_repetitions():
    def function(x, count):
        return jnp.tile(x, (1, count.shape[0])), jnp.repeat(x, count.shape[0], 1)

    members = [(normals(4, n), normals(m)) for n, m in ((3, 2), (5, 4), (8, 4))]
    check_function(function, *members, exact=True)


def test_nested_pieces_as_in_a_dense_net():
    def function(x, first, second):
        x = jnp.concatenate([x, jnp.tanh(x @ first)], 1)
        x = jnp.concatenate([x, jnp.tanh(x @ second), jnp.ones((4, 2))], 1)
        return x

    members = [
        (normals(4, 3), normals(3, growth), normals(3 + growth, growth))
        for growth in WIDTHS
    ]
    check_function(with_gradient(function), *members)


def test_live_entries_are_spread_over_padding_as_what_they_are():
    def function(number, x):
        square = jnp.broadcast_to(number[:, None], (4, x.shape[1]))
        fixed = jnp.broadcast_to(jnp.float32(2), x.shape)
        return square, jnp.broadcast_to(jnp.log(number)[:, None], x.shape), fixed

    members = [(np.abs(normals(4)), normals(4, width)) for width in WIDTHS]
    check_function(function, *members, exact=True)
    results = widening_of(function, *members).functions.train[0].body.results[2:]
    contents = [result.contents for result in results]
    assert contents == [FINITE, ANY, Known(np.float32(2))]


def test_padding_keeps_what_it_holds():
    def function(x):
        ones = jnp.concatenate([x * 0 + 1, jnp.cos(x)], 1)
        return x.T, x.reshape(-1), jnp.stack([x, x]), jnp.split(x, [1], 1)[1], ones

    widening = widening_of(function, *rows(*WIDTHS))
    results = widening.functions.train[0].body.results[1:]
    assert all(result.contents is not ANY for result in results)
    assert not widening.masks


def test_a_reshape_that_mixes_axes_is_refused():
    def function(x):
        return x.reshape(2, -1) + 1

    with pytest.raises(Refusal, match="made of others in two ways"):
        check_function(function, *[(normals(3, 2 * n),) for n in (1, 2)])
