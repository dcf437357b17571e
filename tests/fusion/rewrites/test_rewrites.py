import dataclasses

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

from tests.fusion.narrow_in_wide import check_function
from tests.fusion.rewrites.both_ways import both_ways, small_numbers
from vtune.fusion import internals
from vtune.fusion.evaluate import evaluate
from vtune.fusion.flat import walk
from vtune.fusion.rewrites.convolution import Convolution, convolution
from vtune.fusion.rewrites.forms import convolved, forms
from vtune.fusion.rewrites.rewrites import Rewrites
from vtune.fusion.rewrites.sliding import Slide
from vtune.fusion.trace import trace_function


CONVOLUTION = "conv_general_dilated"
KINDS = (
    CONVOLUTION,
    "reduce_window_max",
    "reduce_window_sum",
    "select_and_scatter_add",
)
SIDE_BY_SIDE = Rewrites("gpu", "vmap")
EVERYWHERE = [
    Rewrites(platform, lanes)
    for platform in ("cpu", "gpu", "tpu")
    for lanes in ("vmap", "map")
]
KERNEL = small_numbers((3, 3, 2, 2), 1)


def layer(x):
    """A convolution and a pooling that keep the shape of an image."""
    x = lax.conv_general_dilated(
        x, KERNEL, (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC")
    )
    x = nn.max_pool(jnp.sin(x), (2, 2), (2, 2))
    return jnp.repeat(jnp.repeat(x, 2, 1), 2, 2)


def scanned(x):
    return lax.scan(lambda x, _: (layer(x), None), x, None, length=3)[0]


def repeated(x):
    return lax.fori_loop(0, jnp.int32(x.shape[0]), lambda _, x: layer(x), x)


def chosen(x):
    return lax.cond(x.sum() > 0, layer, lambda x: layer(2 * x), x)


def checkpointed(x):
    return jax.grad(lambda x: jax.checkpoint(layer)(x).sum())(x)


def primitives(function, *arguments):
    """The names of all equations, at every depth."""
    body = trace_function(function, *arguments).body
    return [equation.primitive.name for equation in walk(body)]


@pytest.mark.parametrize("function", [layer, scanned, repeated, chosen, checkpointed])
def test_bodies_are_rewritten_at_every_depth(function):
    x = small_numbers((2, 4, 6, 2), 0)
    flat = trace_function(function, x)

    def run(x):
        return evaluate(flat, (), (), x, bind=SIDE_BY_SIDE.bind)[0]

    assert set(primitives(function, x)) & set(KINDS)
    assert not set(primitives(run, x)) & set(KINDS)
    np.testing.assert_allclose(jax.jit(run)(x), function(x), atol=1e-5)


@pytest.mark.parametrize("rewrites", EVERYWHERE, ids=str)
def test_results_are_the_same_everywhere(rewrites):
    x = small_numbers((2, 4, 6, 2), 0)
    function = both_ways(layer)
    flat = trace_function(function, x, x)
    results = evaluate(flat, (), (), x, x, bind=rewrites.bind)
    for found, expected in zip(results, jax.tree.leaves(function(x, x)), strict=True):
        np.testing.assert_allclose(found, expected, atol=1e-5)


def test_what_is_no_float_or_empty_stays_as_it_is():
    def function(whole, empty):
        numbers = ("NHWC", "HWIO", "NHWC")
        kernel = KERNEL.astype(np.int32)
        return (
            lax.conv_general_dilated(
                whole, kernel, (1, 1), "SAME", dimension_numbers=numbers
            ),
            lax.conv_general_dilated(
                empty, KERNEL, (1, 1), "VALID", dimension_numbers=numbers
            ),
            nn.max_pool(empty, (3, 3)),
        )

    arguments = (np.ones((1, 4, 4, 2), np.int32), np.ones((1, 2, 2, 2), np.float32))
    flat = trace_function(function, *arguments)

    def run(*inputs):
        return evaluate(flat, (), (), *inputs, bind=SIDE_BY_SIDE.bind)

    expected = primitives(function, *arguments)
    found = primitives(run, *arguments)
    for kind in KINDS:
        assert found.count(kind) == expected.count(kind)
    for one, other in zip(run(*arguments), function(*arguments), strict=True):
        np.testing.assert_array_equal(one, other)


WIDE = Convolution((Slide(32, 3, low=1, high=1),) * 2, 1, "channel", 32, 16, 32)
NARROW = dataclasses.replace(WIDE, channels=3)
NARROW_STRIDED = dataclasses.replace(NARROW, slides=(Slide(32, 3, stride=2),) * 2)
STRIDED_BACKWARD = dataclasses.replace(WIDE, slides=(Slide(16, 3, hole=2),) * 2)
DEPTHWISE = dataclasses.replace(WIDE, groups=16, channels=1, features=1)


def test_the_rule_is_a_function_of_platform_lanes_and_sizes():
    assert Rewrites("cpu", "map").form(NARROW) == "planes"
    assert Rewrites("cpu", "map").form(NARROW_STRIDED) == "patches"
    assert Rewrites("cpu", "vmap").form(NARROW) == "patches"
    assert Rewrites("cpu", "map").form(WIDE) == "canonical"
    assert Rewrites("cpu", "vmap").form(WIDE) == "products"
    assert Rewrites("cpu", "map").form(DEPTHWISE) == "unrolled"
    assert Rewrites("cpu", "map").form(STRIDED_BACKWARD) == "scattered"
    assert Rewrites("gpu", "vmap").form(DEPTHWISE) == "weighed"
    assert Rewrites("gpu", "vmap").form(NARROW) == "patches"
    assert Rewrites("tpu", "map").form(WIDE) is None


@pytest.mark.parametrize("rewrites", EVERYWHERE, ids=str)
@pytest.mark.parametrize("found", [WIDE, NARROW, STRIDED_BACKWARD, DEPTHWISE])
def test_a_form_that_is_chosen_is_there(rewrites, found):
    assert rewrites.form(found) in {None, *forms(found)}


def test_rewrites_are_part_of_keys():
    assert len(set(EVERYWHERE)) == len(EVERYWHERE)
    assert hash(Rewrites("cpu", "map")) == hash(Rewrites("cpu", "map"))


# In an envelope nothing may carry padding into live entries, whatever it holds.


def in_form(form):
    """Computes convolutions in one form, where they have it."""

    def bind(equation, operands):
        if equation.primitive.name == CONVOLUTION:
            found = convolution(equation.params, *map(jnp.shape, operands))
            if form in forms(found):
                return [convolved(form, equation.params, *operands)]
        return internals.bind(equation, operands)

    return bind


def numbers(shape, seed=0):
    generator = np.random.default_rng((seed, *shape))
    return generator.normal(size=shape).astype(np.float32)


def members(function, shapes):
    """For each member arrays, and a cotangent of the result behind them."""
    for number, each in enumerate(shapes):
        arrays = [numbers(shape, number) for shape in each]
        result = jax.eval_shape(function, *arrays)
        yield (*arrays, numbers(result.shape, 9))


def convolve(**settings):
    settings = {"window_strides": (1, 1), "padding": "SAME", **settings}

    def function(left, right):
        grouped = left.shape[-1] // right.shape[-2]
        return lax.conv_general_dilated(
            left,
            right,
            dimension_numbers=("NHWC", "HWIO", "NHWC"),
            feature_group_count=grouped,
            **settings,
        )

    return function


CHANNELS = [((2, 5, 4, n), (3, 3, n, n + 1)) for n in (2, 3, 5)]
IN_ENVELOPES = {
    "channels": (convolve(), CHANNELS),
    "strided": (convolve(window_strides=(2, 2)), CHANNELS),
    "depthwise": (convolve(), [((2, 5, 4, n), (3, 3, 1, n)) for n in (2, 3, 5)]),
    "images": (
        convolve(padding=((1, 1), (1, 1))),
        [((2, n, 4, 2), (3, 3, 2, 3)) for n in (3, 4, 6)],
    ),
}


@pytest.mark.parametrize(
    "name, form",
    [
        ("channels", "patches"),
        ("strided", "scattered"),
        ("depthwise", "unrolled"),
        *[
            pytest.param(name, form, marks=pytest.mark.ci)
            for name, form in [
                ("channels", "canonical"),
                ("channels", "planes"),
                ("channels", "products"),
                ("channels", "scattered"),
                ("strided", "canonical"),
                ("strided", "patches"),
                ("strided", "planes"),
                ("strided", "products"),
                ("depthwise", "canonical"),
                ("depthwise", "products"),
                ("depthwise", "weighed"),
                ("images", "canonical"),
                ("images", "patches"),
                ("images", "planes"),
                ("images", "products"),
                ("images", "scattered"),
            ]
        ],
    ],
)
def test_convolutions_in_an_envelope_are_those_alone(name, form):
    function, shapes = IN_ENVELOPES[name]
    check_function(
        both_ways(function),
        *members(function, shapes),
        tolerance=5e-6,
        bind=in_form(form),
    )


def maximum(array):
    return nn.max_pool(array, (2, 2), (2, 2))


def average(array):
    return nn.avg_pool(array, (2, 2), (2, 2), "SAME")


@pytest.mark.parametrize(
    "function, axis, rewrites",
    [
        (maximum, 3, SIDE_BY_SIDE),
        (maximum, 3, Rewrites("cpu", "map")),
        pytest.param(average, 3, SIDE_BY_SIDE, marks=pytest.mark.ci),
        pytest.param(maximum, 1, SIDE_BY_SIDE, marks=pytest.mark.ci),
        pytest.param(maximum, 1, Rewrites("cpu", "map"), marks=pytest.mark.ci),
        pytest.param(average, 1, SIDE_BY_SIDE, marks=pytest.mark.ci),
    ],
    ids=lambda value: getattr(value, "__name__", str(value)),
)
def test_pooling_in_an_envelope_is_that_alone(function, axis, rewrites):
    shapes = []
    for n in (4, 5, 8):
        shape = [2, 4, 6, 16]
        shape[axis] = 2 * n if axis == 3 else n
        shapes.append([tuple(shape)])
    check_function(both_ways(function), *members(function, shapes), bind=rewrites.bind)
