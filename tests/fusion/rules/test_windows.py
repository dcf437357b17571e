import functools

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

from tests.fusion.narrow_in_wide import check_function, widening_of
from vtune.fusion.refusal import Refusal
from vtune.fusion.rules.contents import ANY


# Each compiles several programs.
pytestmark = pytest.mark.ci


WIDTHS = (3, 5, 8)

REDUCTIONS = {
    "sum": (lax.add, 0.0),
    "max": (lax.max, -jnp.inf),
    "min": (lax.min, jnp.inf),
}
every_reduction = pytest.mark.parametrize("kind", REDUCTIONS)


def numbers(shape, seed=0, dtype=np.float32):
    generator = np.random.default_rng((seed, *shape))
    return generator.normal(size=shape).astype(dtype)


def masked(widening):
    return sorted(primitive for primitive, *_ in widening.masks)


def window(kind, **params):
    """A reduction over windows of a one-dimensional array with channels."""
    function, init = REDUCTIONS[kind]
    settings = {
        "window_dimensions": (1, 3, 1),
        "window_strides": (1, 1, 1),
        "padding": "SAME",
        **params,
    }

    def reduce(array):
        return lax.reduce_window(
            array, np.asarray(init, array.dtype), function, **settings
        )

    return reduce


def over(axis, **params):
    """Windows of three along one of three axes."""

    def at(value, other):
        return tuple(value if i == axis else other for i in range(3))

    settings = {"size": 3, "stride": 1, "border": (1, 1), **params}
    found = {
        "window_dimensions": at(settings["size"], 1),
        "window_strides": at(settings["stride"], 1),
        "padding": at(settings["border"], (0, 0)),
    }
    if "holes" in settings:
        found["base_dilation"] = at(settings["holes"], 1)
    if "spread" in settings:
        found["window_dilation"] = at(settings["spread"], 1)
    return found


def both_ways(function):
    """A function of one array and its gradient, for a given cotangent."""

    def values(array, cotangent):
        result, pull = jax.vjp(function, array)
        return result, pull(cotangent)

    return values


def check_both_ways(function, *arrays, **options):
    arguments = [
        (a, numbers(jax.eval_shape(function, a).shape, 1, a.dtype)) for a in arrays
    ]
    return check_function(both_ways(function), *arguments, **options)


@every_reduction
@pytest.mark.parametrize("sign", [1, -1])
def test_channels_vary_under_windows_over_other_axes(kind, sign):
    arrays = [sign * np.abs(numbers((2, 7, n))) for n in WIDTHS]
    assert masked(check_both_ways(window(kind), *arrays)) == []


@every_reduction
def test_windows_over_other_axes_need_no_mask_whatever_padding_holds(kind):
    def function(array):
        return window(kind)(jnp.log(array))

    arrays = [(numbers((2, 7, n)) ** 2,) for n in WIDTHS]
    check_function(function, *arrays)
    assert masked(widening_of(function, *arrays, state=ANY)) == []


@pytest.mark.parametrize(
    "params",
    [
        {},
        pytest.param({"border": (2, 0)}, marks=pytest.mark.ci),
        pytest.param({"border": (0, 0)}, marks=pytest.mark.ci),
        {"border": (-1, 1), "size": 2},
        {"spread": 2, "border": (2, 2)},
    ],
    ids=lambda params: "-".join(params) or "plain",
)
@pytest.mark.parametrize("kind, sign", [("sum", 1), ("max", -1), ("min", 1)])
def test_windows_over_an_axis_that_varies(kind, sign, params):
    # Of these signs, a zero would be the greatest or the least.
    arrays = [sign * (1 + np.abs(numbers((2, 4, n)))) for n in (4, 6, 9)]
    reduce = window(kind, **over(2, **params))
    if kind != "sum" and ("spread" in params or min(params.get("border", (0,))) < 0):
        # JAX has no gradient of these.
        check_function(reduce, *[(array,) for array in arrays], exact=True)
    else:
        check_both_ways(reduce, *arrays)


@every_reduction
def test_strides_over_an_axis_that_varies(kind):
    arrays = [numbers((2, n, 4)) for n in (5, 7, 11)]
    reduce = window(kind, **over(1, stride=2))
    check_function(reduce, *[(array,) for array in arrays])
    check_both_ways(reduce, *arrays)


@every_reduction
def test_holes_over_an_axis_that_varies(kind):
    arrays = [(numbers((2, n, 4)),) for n in (5, 6, 9)]
    check_function(window(kind, **over(1, holes=2)), *arrays)


@every_reduction
def test_infinities_and_nan_stay_where_they_are(kind):
    arrays = []
    for n in (5, 6, 9):
        array = numbers((3, n, 4))
        array[0, 1], array[1, n - 1], array[2] = np.nan, np.inf, -np.inf
        arrays.append((array,))
    check_function(window(kind, **over(1)), *arrays, exact=kind != "sum")


def test_a_sum_of_padding_of_a_known_number_is_finite():
    def function(array, kernel):
        pooled = window("sum")(jnp.cos(array))
        return jnp.einsum("bsc,cd->bsd", pooled, kernel)

    arguments = [(numbers((2, 7, n)), numbers((n, 4))) for n in WIDTHS]
    assert masked(check_function(function, *arguments)) == []


@pytest.mark.parametrize("kind", ["max", "min"])
def test_a_window_of_nothing_but_border_is_infinite(kind):
    def function(array, kernel):
        # Its first and last windows hold no entry.
        pooled = window(kind, padding=[(0, 0), (3, 3), (0, 0)])(array)
        return jnp.einsum("bsc,cd->bsd", pooled, kernel)

    arguments = [(numbers((2, 7, n)), np.abs(numbers((n, 4)))) for n in WIDTHS]
    assert masked(check_function(function, *arguments)) == ["dot_general"]


@pytest.mark.parametrize("dtype", [np.int32, jnp.bfloat16])
@every_reduction
def test_other_numbers(kind, dtype):
    arrays = [(8 * numbers((2, 4, n))).astype(dtype) for n in (4, 6, 9)]
    function, init = REDUCTIONS[kind]
    if dtype == np.int32 and kind != "sum":
        limits = np.iinfo(dtype)
        init = limits.min if kind == "max" else limits.max

    def reduce(array):
        settings = over(2)
        return lax.reduce_window(array, np.asarray(init, dtype), function, **settings)

    check_function(reduce, *[(array,) for array in arrays], tolerance=1e-2)


@every_reduction
def test_an_axis_of_several_runs(kind):
    def function(first, second, cotangent):
        def pooled(first, second):
            joined = jnp.tanh(jnp.concatenate([first, second], 2))
            return window(kind, **over(2))(joined) * joined

        result, pull = jax.vjp(pooled, first, second)
        return result, pull(cotangent)

    arguments = [
        (
            numbers((2, 3, n)),
            numbers((2, 3, m), 1),
            numbers((2, 3, n + m), 2),
        )
        for n, m in ((2, 5), (4, 4), (6, 7))
    ]
    check_function(function, *arguments)


@every_reduction
def test_an_axis_read_backwards(kind):
    def function(array):
        return window(kind, **over(2, size=2, border=(1, 0)))(jnp.flip(array, 2))

    check_both_ways(function, *[numbers((2, 3, n)) for n in (4, 6, 9)])


@pytest.mark.parametrize("axis", [1, 2])
@pytest.mark.parametrize("kind", ["max", "min"])
def test_tangents_and_second_derivatives(kind, axis):
    reduce = window(kind, **over(axis))

    def function(array, tangent):
        def gradient(x):
            return jax.vjp(lambda y: reduce(y) ** 2, x)[1](jnp.cos(tangent))[0]

        return jax.jvp(reduce, (array,), (tangent,)), jax.jvp(
            gradient, (array,), (tangent,)
        )

    arrays = [(numbers((2, 7, n)), numbers((2, 7, n), 1)) for n in (4, 6, 9)]
    check_function(function, *arrays)


def product(array, init=1.0, **params):
    return lax.reduce_window(array, init, lambda a, b: a * b * 1.0, **params)


def test_a_function_of_the_users_own():
    arrays = [(numbers((2, 7, n)),) for n in WIDTHS]
    check_function(functools.partial(product, **over(1)), *arrays)
    with pytest.raises(Refusal, match="function of the user's own"):
        widening_of(functools.partial(product, **over(2)), *arrays)


def loss_and_gradient(pool):
    def loss(image):
        return jnp.sum(jnp.tanh(pool(image)) ** 2)

    return lambda image: (loss(image), jax.grad(loss)(image))


@pytest.mark.parametrize("axis", [1, 3])
@pytest.mark.parametrize(
    "pool",
    [
        lambda x: nn.avg_pool(x, (2, 2), (2, 2)),
        lambda x: nn.avg_pool(x, (3, 3), padding="SAME", count_include_pad=False),
        lambda x: nn.max_pool(x, (2, 2), (2, 2)),
        lambda x: nn.max_pool(x, (3, 2), padding="SAME"),
        lambda x: nn.pool(x, jnp.inf, lax.min, (3, 3), (2, 2), ((1, 1), (1, 1))),
    ],
)
def test_pools_of_flax(pool, axis):
    images = [
        (numbers([n if i == axis else size for i, size in enumerate((2, 7, 5, 4))]),)
        for n in (5, 7, 11)
    ]
    check_function(loss_and_gradient(pool), *images)


def test_local_response_normalization():
    def normalized(image):
        squares = nn.avg_pool((image**2)[..., None], (1, 5), padding="SAME")[..., 0]
        return image / (1 + squares) ** 0.75

    images = [(numbers((2, 3, n)),) for n in (4, 6, 9)]
    check_function(loss_and_gradient(normalized), *images, tolerance=1e-5)
