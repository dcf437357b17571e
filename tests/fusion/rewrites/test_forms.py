import dataclasses
import functools

import hypothesis
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, strategies as st
from jax import lax

from tests.fusion.rewrites.both_ways import both_ways, compared, small_numbers
from vtune.fusion import internals
from vtune.fusion.rewrites.convolution import convolution
from vtune.fusion.rewrites.forms import convolved, forms


NAME = "conv_general_dilated"
IMAGES = ("NHWC", "HWIO", "NHWC")


def every_form(equation, operands):
    if equation.primitive.name != NAME:
        return {}
    found = convolution(equation.params, *map(jnp.shape, operands))
    return {form: convolved(form, equation.params, *operands) for form in forms(found)}


def with_explicit_border(equation, operands):
    """A convolution without padding, of what is padded before.

    Some of XLA's kernels read beyond the array where padding is negative.
    """
    if equation.primitive.name != NAME:
        return internals.bind(equation, operands)
    params, (left, right) = equation.params, operands
    borders = [(0, 0, 0)] * left.ndim
    spatial = params["dimension_numbers"].lhs_spec[2:]
    for axis, border, hole in zip(spatial, params["padding"], params["lhs_dilation"]):
        borders[axis] = (*border, hole - 1)
    plain = {
        "padding": ((0, 0),) * len(spatial),
        "lhs_dilation": (1,) * len(spatial),
    }
    equation = dataclasses.replace(equation, params={**params, **plain})
    return internals.bind(
        equation, [lax.pad(left, np.zeros((), left.dtype), borders), right]
    )


@dataclasses.dataclass(frozen=True)
class Case:
    """A convolution with all its settings."""

    numbers: lax.ConvDimensionNumbers
    left: tuple[int, ...]
    right: tuple[int, ...]
    strides: tuple[int, ...]
    padding: tuple[tuple[int, int], ...]
    holes: tuple[int, ...]
    spread: tuple[int, ...]
    channel_groups: int
    sample_groups: int

    def __call__(self, left, right):
        return lax.conv_general_dilated(
            left,
            right,
            self.strides,
            self.padding,
            self.holes,
            self.spread,
            self.numbers,
            self.channel_groups,
            self.sample_groups,
        )


@st.composite
def cases(draw):
    axes = draw(st.integers(1, 3))
    one, two = st.integers(1, 2), st.integers(1, 3)

    def each(numbers):
        return draw(st.tuples(*[numbers] * axes))

    numbers = lax.ConvDimensionNumbers(
        *[tuple(draw(st.permutations(range(axes + 2)))) for _ in range(3)]
    )
    groups = draw(st.sampled_from([(1, 1), (1, 1), (3, 1), (1, 3)]))
    samples, channels, features = draw(st.tuples(one, two, two))

    def shape(spec, first, second, sizes):
        found = dict(zip(spec, (first, second, *sizes), strict=True))
        return tuple([found[axis] for axis in range(axes + 2)])

    return Case(
        numbers,
        shape(
            numbers.lhs_spec,
            samples * groups[1],
            channels * groups[0],
            each(st.integers(1, 6)),
        ),
        shape(
            numbers.rhs_spec, features * max(groups), channels, each(st.integers(1, 4))
        ),
        each(two),
        each(st.tuples(*[st.integers(-1, 3)] * 2)),
        each(two),
        each(one),
        *groups,
    )


def is_valid(case):
    """Whether there is such a convolution, and anything in its result."""
    try:
        result = jax.eval_shape(case, np.ones(case.left), np.ones(case.right))
    except (TypeError, ValueError):
        return False
    return 0 not in result.shape


def check(case):
    arrays = [small_numbers(case.left, 0), small_numbers(case.right, 1)]
    cotangent = small_numbers(jax.eval_shape(case, *arrays).shape, 2)
    try:
        jax.eval_shape(both_ways(case), *arrays, cotangent)
    except Exception:  # JAX has no gradient of some: of those there is one equation
        function, arguments = case, arrays
    else:
        function, arguments = both_ways(case), [*arrays, cotangent]
    found = list(compared(every_form, function, *arguments, bind=with_explicit_border))
    assert sum("canonical" in name for name, *_ in found) == (
        1 if function is case else 3
    )
    for name, expected, result in found:
        np.testing.assert_array_equal(result, expected, err_msg=name)


@hypothesis.settings(max_examples=8)
@given(cases().filter(is_valid))
def test_every_form_is_the_convolution_and_its_gradients(case):
    check(case)


def test_padding_may_be_negative_on_one_side():
    case = Case(
        lax.ConvDimensionNumbers((0, 3, 1, 2), (3, 2, 0, 1), (0, 3, 1, 2)),
        (2, 6, 6, 3),
        (3, 3, 3, 4),
        (1, 1),
        ((-1, 1), (0, 0)),
        *[(1, 1)] * 2,
        *(1, 1),
    )
    check(case)


@pytest.mark.ci
@hypothesis.settings(max_examples=80)
@given(cases().filter(is_valid))
def test_every_form_is_the_convolution_and_its_gradients_often(case):
    check(case)


# What networks are made of, as they write it.
USUAL = {
    "3 by 3": ((2, 7, 6, 3), (3, 3, 3, 4), {}),
    "strided": ((2, 7, 6, 3), (3, 3, 3, 4), {"window_strides": (2, 2)}),
    "strided 1 by 1": ((2, 7, 6, 3), (1, 1, 3, 4), {"window_strides": (2, 2)}),
    "dilated": ((2, 9, 8, 3), (3, 3, 3, 4), {"rhs_dilation": (2, 2)}),
    "valid": ((2, 7, 6, 3), (3, 2, 3, 4), {"padding": "VALID"}),
    "whole": ((2, 4, 3, 3), (4, 3, 3, 4), {"padding": "VALID"}),
    "depthwise": ((2, 7, 6, 3), (3, 3, 1, 3), {"feature_group_count": 3}),
    "two kernels a channel": ((2, 7, 6, 3), (3, 3, 1, 6), {"feature_group_count": 3}),
    "grouped": ((2, 7, 6, 4), (3, 3, 2, 6), {"feature_group_count": 2}),
    "strided depthwise": (
        (2, 7, 6, 3),
        (3, 3, 1, 3),
        {"feature_group_count": 3, "window_strides": (2, 2)},
    ),
    "transposed": (
        (2, 4, 3, 3),
        (3, 3, 3, 4),
        {"lhs_dilation": (2, 2), "padding": [(2, 1), (2, 1)]},
    ),
}


def usual(name):
    left, right, settings = USUAL[name]
    settings = {"window_strides": (1, 1), "padding": "SAME", **settings}
    function = functools.partial(
        lax.conv_general_dilated, dimension_numbers=IMAGES, **settings
    )
    return function, left, right


OFTEN = {"two kernels a channel", "strided depthwise", "strided 1 by 1", "valid"}


@pytest.mark.parametrize(
    "name",
    [pytest.param(n, marks=pytest.mark.ci if n in OFTEN else (), id=n) for n in USUAL],
)
def test_usual_convolutions_have_every_form(name):
    function, left, right = usual(name)
    arrays = [small_numbers(left, 0), small_numbers(right, 1)]
    cotangent = small_numbers(jax.eval_shape(function, *arrays).shape, 2)
    found = list(compared(every_form, both_ways(function), *arrays, cotangent))
    grouped = "feature_group_count" in USUAL[name][2]
    assert len(found) >= (3 * 5 if grouped else 3 * 3)
    for form, expected, result in found:
        np.testing.assert_array_equal(result, expected, err_msg=form)


@pytest.mark.parametrize("name", ["3 by 3", "depthwise", "grouped", "transposed"])
def test_lanes_side_by_side_are_each_lane(name):
    function, left, right = usual(name)
    lanes = [small_numbers((3, *shape), 5) for shape in (left, right)]
    (equation,) = jax.make_jaxpr(function)(*[array[0] for array in lanes]).eqns
    expected = np.stack([function(*each) for each in zip(*lanes)])
    for form in forms(convolution(equation.params, left, right)):
        one = functools.partial(convolved, form, equation.params)
        np.testing.assert_array_equal(jax.jit(jax.vmap(one))(*lanes), expected)


@pytest.mark.parametrize("name", ["3 by 3", "depthwise", "whole"])
@pytest.mark.parametrize("preferred", [None, jnp.float32])
def test_short_floats_are_added_up_as_long_ones(name, preferred):
    function, left, right = usual(name)
    # In bfloat16, 256 + 1 is 256.
    arrays = [np.full(shape, 16.0, jnp.bfloat16) for shape in (left, right)]
    arrays[0].flat[1::2] = 1.0
    function = functools.partial(function, preferred_element_type=preferred)
    for form, expected, result in compared(every_form, function, *arrays):
        np.testing.assert_array_equal(result, expected, err_msg=form)


def test_precision_stays_what_it_was():
    function, left, right = usual("3 by 3")
    arrays = [small_numbers(shape, 0) for shape in (left, right)]
    with jax.default_matmul_precision("highest"):
        (equation,) = jax.make_jaxpr(function)(*arrays).eqns
    for form in forms(convolution(equation.params, left, right)):
        one = functools.partial(convolved, form, equation.params)
        kinds = ("dot_general", NAME)
        products = [
            inner.params["precision"]
            for inner in jax.make_jaxpr(one)(*arrays).eqns
            if inner.primitive.name in kinds
        ]
        assert products
        for precision in products:
            assert precision == (lax.Precision.HIGHEST, lax.Precision.HIGHEST)
