import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

from tests.fusion.narrow_in_wide import check_function, widening_of
from vtune.fusion.placement import positions
from vtune.fusion.refusal import Refusal
from vtune.fusion.rules.contents import ANY, FINITE


# Each compiles several programs.
pytestmark = pytest.mark.ci


# From inputs to outputs of a layer, of each member.
WIDTHS = ((3, 5), (5, 9), (8, 12))


def numbers(shape, seed=0, dtype=np.float32):
    generator = np.random.default_rng((seed, *shape))
    return generator.normal(size=shape).astype(dtype)


def both_ways(convolve):
    """A convolution and both of its gradients, for a given cotangent."""

    def function(image, kernel, cotangent):
        result, pull = jax.vjp(convolve, image, kernel)
        return result, pull(cotangent)

    return function


def check_both_ways(convolve, *pairs, **options):
    """Checks a convolution of pairs of an image and a kernel."""
    arguments = []
    for image, kernel in pairs:
        result = jax.eval_shape(convolve, image, kernel)
        arguments.append((image, kernel, numbers(result.shape, 2, result.dtype)))
    return check_function(both_ways(convolve), *arguments, **options)


def masked(widening):
    return sorted(primitive for primitive, *_ in widening.masks)


def convolution(**params):
    params = {"window_strides": (1, 1), "padding": "SAME", **params}
    params.setdefault("dimension_numbers", ("NHWC", "HWIO", "NHWC"))
    return lambda image, kernel: lax.conv_general_dilated(image, kernel, **params)


@pytest.mark.parametrize(
    "params",
    [
        {},
        pytest.param({"window_strides": (2, 1)}, marks=pytest.mark.ci),
        pytest.param(
            {"padding": "VALID", "rhs_dilation": (1, 2)}, marks=pytest.mark.ci
        ),
        {"padding": [(2, 1), (0, -1)]},
        {"padding": [(2, 2), (1, 2)], "lhs_dilation": (2, 3)},
    ],
    ids=lambda params: "-".join(params) or "plain",
)
def test_channels_on_both_sides_vary(params):
    pairs = [(numbers((2, 7, 6, i)), numbers((3, 2, i, o))) for i, o in WIDTHS]
    assert masked(check_both_ways(convolution(**params), *pairs)) == []


@pytest.mark.parametrize(
    "specs",
    [
        pytest.param(("NCHW", "OIHW", "NCHW"), marks=pytest.mark.ci),
        pytest.param(("NHWC", "OIHW", "NCHW"), marks=pytest.mark.ci),
        ("HWNC", "IHWO", "CHWN"),
    ],
)
def test_the_order_of_axes_is_free(specs):
    sizes = [dict(N=2, H=6, W=5, C=i, h=2, w=3, I=i, O=o) for i, o in WIDTHS]
    pairs = [
        (
            numbers([s[axis] for axis in specs[0]]),
            numbers([s[axis.lower() if axis in "HW" else axis] for axis in specs[1]]),
        )
        for s in sizes
    ]
    check_both_ways(convolution(dimension_numbers=specs), *pairs)


def test_one_spatial_axis():
    pairs = [(numbers((2, 9, i)), numbers((3, i, o))) for i, o in WIDTHS]
    convolve = convolution(window_strides=(2,), dimension_numbers=("NWC", "WIO", "NWC"))
    check_both_ways(convolve, *pairs)


@pytest.mark.parametrize("side", [0, 1])
def test_channels_on_one_side_vary(side):
    pairs = [
        (numbers((2, 5, 5, i)), numbers((3, 3, i, o)))
        for i, o in ((n, 4) if side == 0 else (4, n) for n in (3, 17, 96))
    ]
    check_both_ways(convolution(), *pairs, tolerance=1e-5)


def test_the_batch_varies():
    pairs = [(numbers((n, 5, 5, 2)), numbers((3, 3, 2, 4))) for n in (3, 5, 8)]
    check_both_ways(convolution(), *pairs)


@pytest.mark.parametrize(
    "groups, inner, outer",
    [
        pytest.param((2, 4, 6), (1, 1, 1), (1, 1, 1), marks=pytest.mark.ci),
        ((2, 4, 6), (1, 1, 1), (3, 3, 3)),
        pytest.param((3, 4, 6), (1, 1, 1), (2, 3, 5), marks=pytest.mark.ci),
        ((2, 4, 6), (3, 3, 3), (2, 2, 2)),
        ((2, 4, 6), (2, 3, 5), (1, 3, 4)),
        ((4, 4, 4), (2, 3, 5), (1, 3, 4)),
        pytest.param((4, 4, 4), (2, 3, 5), (3, 3, 3), marks=pytest.mark.ci),
        pytest.param((4, 4, 4), (3, 3, 3), (1, 2, 5), marks=pytest.mark.ci),
    ],
)
def test_groups_their_number_or_their_channels_vary(groups, inner, outer):
    sizes = list(zip(groups, inner, outer))
    pairs = [
        (numbers((2, 6, 5, g * i)), numbers((3, 2, i, g * o))) for g, i, o in sizes
    ]

    def convolve(image, kernel):
        count = image.shape[3] // kernel.shape[2]
        return convolution(feature_group_count=count)(image, kernel)

    widening = check_both_ways(convolve, *pairs)
    for member, (g, i, o) in enumerate(sizes):
        lies = positions(widening.state[1][3], member)
        block = np.arange(g)[:, None] * outer[-1] + np.arange(o)
        np.testing.assert_array_equal(lies, block.ravel())


def test_padding_groups_of_channels_are_never_masked_forward():
    arguments = [(numbers((2, 5, 5, n)), numbers((3, 3, 1, n))) for n in (3, 5, 8)]

    def depthwise(image, kernel):
        groups = image.shape[3]
        return convolution(feature_group_count=groups)(jnp.exp(image), kernel)

    assert masked(check_function(depthwise, *arguments)) == []
    assert masked(widening_of(depthwise, *arguments, state=ANY)) == []


@pytest.mark.parametrize("groups, inner, outer", [((2, 4, 6), 3, 2), ((3, 3, 3), 2, 4)])
def test_groups_of_the_batch(groups, inner, outer):
    widths = [(n, n + 1, n + 2) for n in (1, 2, 4)]
    pairs = [
        (numbers((g * inner, 6, 5, i)), numbers((3, 2, i, g * outer)))
        for g, (i, *_) in zip(groups, widths)
    ]

    def convolve(image, kernel):
        count = image.shape[0] // inner
        return convolution(batch_group_count=count)(image, kernel)

    check_both_ways(convolve, *pairs)


def test_kernels_of_batch_groups_are_finite_where_they_are_padding():
    # Zeros could meet them: see the convolution that groups are turned to.
    def convolve(image, kernel):
        return convolution(batch_group_count=3)(image, kernel)

    arguments = [(numbers((6, 5, 5, 2)), numbers((3, 3, 2, 3 * n))) for n in (1, 2, 4)]
    assert masked(widening_of(convolve, *arguments, state=ANY)) == [
        "conv_general_dilated"
    ]
    assert masked(widening_of(convolve, *arguments, state=FINITE)) == []


@pytest.mark.parametrize("size", [1, 3])
@pytest.mark.parametrize("channels", [(2, 2, 2), (2, 4, 5)])
def test_a_spatial_axis_varies(size, channels):
    pairs = [
        (numbers((2, n, 4, c)), numbers((size, 2, c, c + 1)))
        for n, c in zip((4, 5, 9), channels)
    ]
    check_both_ways(convolution(), *pairs)


def test_a_spatial_axis_varies_under_strides():
    # The border behind the kernel's gradient depends on the size, but for odd ones.
    pairs = [(numbers((2, n, 3, 2)), numbers((3, 1, 2, 4))) for n in (5, 7, 11)]
    convolve = convolution(window_strides=(2, 1), padding=[(1, 1), (0, 0)])
    check_both_ways(convolve, *pairs)


def test_a_window_that_varies_meets_what_could_be_infinite():
    def gradient(image, cotangent):
        _, pull = jax.vjp(
            lambda kernel: convolution()(jnp.log(image), kernel),
            jnp.zeros((3, 3, 2, 4)),
        )
        return pull(cotangent)

    arguments = [(numbers((2, n, 4, 2)) ** 2, numbers((2, n, 4, 4))) for n in (4, 7)]
    with pytest.raises(Refusal, match="might be infinite"):
        widening_of(gradient, *arguments)


def test_a_spatial_axis_of_several_runs():
    def function(first, second, kernel, cotangent):
        def convolve(first, second, kernel):
            joined = jnp.concatenate([first, second], 1)
            image = jnp.tanh(joined)
            return convolution()(image, kernel) * image

        result, pull = jax.vjp(convolve, first, second, kernel)
        return result, pull(cotangent)

    arguments = [
        (
            numbers((2, n, 4, 2)),
            numbers((2, m, 4, 2), 1),
            numbers((3, 3, 2, 2)),
            numbers((2, n + m, 4, 2), 2),
        )
        for n, m in ((2, 5), (4, 4), (6, 7))
    ]
    check_function(function, *arguments)


@pytest.mark.parametrize(
    "image, kernel, expected",
    [
        (lambda x: x, lambda x: x, 0),
        (jnp.cos, lambda x: x, 0),
        (jnp.exp, lambda x: x, 0),
        (jnp.log, lambda x: x, 1),
        (lambda x: x, jnp.log, 1),
        (jnp.cos, jnp.cos, 1),
        (jnp.cos, jnp.log, 1),
        (jnp.log, jnp.cos, 1),
        (jnp.log, jnp.log, 2),
    ],
)
def test_as_little_is_masked_as_is_right(image, kernel, expected):
    def function(x, w):
        return convolution()(image(x), kernel(w))

    arguments = [
        (numbers((2, 4, 5, i)) ** 2, numbers((3, 3, i, o)) ** 2) for i, o in WIDTHS
    ]
    found = len(masked(check_function(function, *arguments, tolerance=1e-5)))
    # If one of two operands is zero, it is enough that the other one is finite.
    assert found == expected


def test_infinities_stay_where_they_are():
    arguments = []
    for i, o in WIDTHS:
        image, kernel = numbers((3, 5, 5, i)), numbers((1, 1, i, o))
        image[0, 2, 2, 1], image[1, 1, 1, 0] = np.inf, np.nan
        arguments.append((image, kernel))
    check_function(convolution(), *arguments)


@pytest.mark.filterwarnings("ignore:overflow encountered in cast")
@pytest.mark.parametrize("dtype", [np.int32, np.float16, jnp.bfloat16])
def test_other_numbers(dtype):
    arguments = [
        (
            (4 * numbers((2, 5, 5, i))).astype(dtype),
            (4 * numbers((3, 3, i, o))).astype(dtype),
        )
        for i, o in WIDTHS
    ]
    check_function(convolution(), *arguments, tolerance=2e-2)


@pytest.mark.filterwarnings("ignore:overflow encountered in cast")
def test_sums_are_of_another_dtype():
    arguments = [
        (numbers((2, 5, 5, i), 0, np.float16), numbers((3, 3, i, o), 0, np.float16))
        for i, o in WIDTHS
    ]
    check_function(convolution(preferred_element_type=jnp.float32), *arguments)


def test_the_padding_of_a_result_is_zero_where_it_is_proved():
    def twice(image, first, second):
        return convolution()(convolution()(image, first), second)

    arguments = [
        (numbers((2, 5, 5, 3)), numbers((3, 3, 3, n)), numbers((3, 3, n, 4)))
        for n in (3, 5, 8)
    ]
    assert masked(check_function(twice, *arguments, tolerance=1e-5)) == []


@pytest.mark.parametrize("axis", [0, 1])
def test_the_padding_of_a_result_is_not_zero_where_live_entries_reach_it(axis):
    def function(image, kernel):
        image = jnp.cos(image) if axis == 0 else image
        return convolution()(image, kernel).sum(axis)

    arguments = [
        (numbers((n, 5, 5, 3) if axis == 0 else (3, n, 5, 3)), numbers((3, 3, 3, 4)))
        for n in (3, 5, 8)
    ]
    assert masked(check_function(function, *arguments)) == ["reduce_sum"]


def loss_and_gradients(module):
    def loss(parameters, image):
        return jnp.sum(jnp.tanh(module(image).apply(parameters, image)) ** 2)

    return lambda parameters, image: (
        loss(parameters, image),
        jax.grad(loss, (0, 1))(parameters, image),
    )


def some_parameters(module, image, seed):
    shapes = jax.eval_shape(module.init, jax.random.key(0), image)
    return jax.tree.map(lambda aval: numbers(aval.shape, seed) / 2, shapes)


def check_layer(module, *images, **options):
    """Checks a layer, of its own width for each image."""
    arguments = []
    for number, image in enumerate(images):
        arguments.append((some_parameters(module(image), image, number), image))
    options.setdefault("tolerance", 1e-5)
    return check_function(loss_and_gradients(module), *arguments, **options)


@pytest.mark.parametrize(
    "layer",
    [
        lambda n: nn.Conv(2 * n, (3, 3)),
        pytest.param(
            lambda n: nn.Conv(2 * n, (3, 3), strides=2, use_bias=False),
            marks=pytest.mark.ci,
        ),
        lambda n: nn.Conv(2 * n, (3, 3), kernel_dilation=2, padding="VALID"),
        lambda n: nn.Conv(3 * n, (3, 3), feature_group_count=n),
        lambda n: nn.ConvTranspose(2 * n, (3, 3), strides=(2, 2)),
        pytest.param(
            lambda n: nn.ConvTranspose(4, (2, 2), kernel_dilation=(2, 2)),
            marks=pytest.mark.ci,
        ),
    ],
)
def test_layers_of_flax(layer):
    images = [numbers((2, 7, 6, n)) for n in (3, 5, 8)]
    check_layer(lambda image: layer(image.shape[3]), *images)


def test_a_transposed_kernel():
    # Its axes of channels are exchanged.
    images = [numbers((2, 5, 4, n)) for n in (3, 5, 8)]
    check_layer(
        lambda image: nn.ConvTranspose(
            2 * image.shape[3], (3, 3), strides=(2, 2), transpose_kernel=True
        ),
        *images,
    )


def test_one_spatial_axis_of_flax():
    images = [numbers((2, 9, n)) for n in (3, 5, 8)]
    check_layer(lambda image: nn.Conv(image.shape[2] + 1, (3,)), *images)


def test_a_convolution_over_channels():
    class Attention(nn.Module):
        @nn.compact
        def __call__(self, image):
            weights = image.sum((1, 2))[..., None]
            weights = nn.Conv(1, (3,), use_bias=False)(weights)[..., 0]
            return image * nn.sigmoid(weights)[:, None, None]

    images = [numbers((2, 3, 3, n)) for n in (4, 5, 8)]
    check_layer(lambda image: Attention(), *images)


def test_a_block_of_depthwise_convolutions():
    class Block(nn.Module):
        width: int

        @nn.compact
        def __call__(self, x):
            skip = nn.avg_pool(x, (2, 2), (2, 2))
            x = nn.relu(nn.Conv(self.width + 1, (3, 3))(x))
            groups = x.shape[3]
            x = nn.Conv(groups, (3, 3), strides=2, feature_group_count=groups)(x)
            x = nn.gelu(nn.Conv(self.width, (1, 1))(x))
            x = jnp.concatenate([nn.max_pool(x, (3, 3), padding="SAME"), skip], 3)
            groups = x.shape[3]
            x = nn.Conv(groups, (3, 3), feature_group_count=groups)(x)
            return nn.Dense(3)(x.reshape(x.shape[0], -1))

    image = numbers((2, 8, 8, 3))

    def loss(parameters, image):
        width = parameters["params"]["Conv_2"]["kernel"].shape[3]
        return jnp.sum(jnp.tanh(Block(width).apply(parameters, image)) ** 2)

    arguments = [(some_parameters(Block(n), image, n), image) for n in (3, 5, 8)]
    check_function(jax.value_and_grad(loss), *arguments, tolerance=1e-4)
