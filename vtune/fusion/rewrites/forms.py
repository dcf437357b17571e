"""In which forms can a convolution be computed?"""

from collections.abc import Mapping
from typing import Any, Literal, get_args

import jax
import jax.numpy as jnp
import numpy as np

from vtune.fusion.rewrites.convolution import Convolution, convolution
from vtune.fusion.rewrites.slices import SliceForm, sliced
from vtune.fusion.rewrites.sliding import bordered


# - "canonical": as a convolution with samples first and channels last, which XLA's CPU
#   compiler needs for its fast kernels and inside a loop does not bring about itself;
# - the others are made of shifted slices.
Form = Literal["canonical"] | SliceForm


def forms(found: Convolution) -> tuple[Form, ...]:
    """The forms that there are for a convolution.

    Args:
        found: the convolution.

    Returns:
        Those that can be computed, and are of use for any sizes.
    """
    several = found.groups > 1
    strided = any(slide.stride > 1 for slide in found.slides)
    left_out: set[Form] = set()
    if several or strided or found.has_few_places:
        left_out.add("scattered")
    if not several:
        left_out |= {"weighed", "unrolled"}
    every: tuple[Form, ...] = ("canonical", *get_args(SliceForm))
    return tuple([form for form in every if form not in left_out])


def convolved(
    form: Form, params: Mapping[str, Any], left: jax.Array, right: jax.Array
) -> jax.Array:
    """A convolution in one of its forms.

    Args:
        form: one of `forms`.
        params: the parameters of an equation `conv_general_dilated`.
        left: its first operand.
        right: its second operand, the kernel.

    Returns:
        What the equation computes, up to rounding.
    """
    found = convolution(params, left.shape, right.shape)
    if form == "canonical":
        return _canonical(params, found, left, right)
    return sliced(form, params, found, left, right)


def _canonical(
    params: Mapping[str, Any], found: Convolution, left: jax.Array, right: jax.Array
) -> jax.Array:
    numbers, last = params["dimension_numbers"], left.ndim - 1
    spatial = tuple(range(1, last))
    samples, channels, *rest = numbers.lhs_spec
    left = jax.lax.transpose(left, (samples, *rest, channels))
    features, channels, *rest = numbers.rhs_spec
    right = jax.lax.transpose(right, (*rest, channels, features))
    groups = params["batch_group_count"]
    if groups > 1:
        left = _grouped_by_channel(left, groups)
    padding: Any = params["padding"]
    holes = params["lhs_dilation"]
    if min(map(min, padding)) < 0:
        # Some of XLA's CPU kernels then read beyond the array (jaxlib 0.10.2).
        left = bordered(left, dict(enumerate(found.slides, 1)), 0)
        padding, holes = [(0, 0)] * len(spatial), [1] * len(spatial)
    result = jax.lax.conv_general_dilated(
        left,
        right,
        params["window_strides"],
        padding,
        holes,
        params["rhs_dilation"],
        jax.lax.ConvDimensionNumbers(
            (0, last, *spatial), (last, last - 1, *range(last - 1)), (0, last, *spatial)
        ),
        feature_group_count=max(groups, params["feature_group_count"]),
        precision=params["precision"],
        preferred_element_type=params["preferred_element_type"],
    )
    samples, features, *rest = numbers.out_spec
    order = np.argsort([samples, *rest, features])
    return jax.lax.transpose(result, tuple(map(int, order)))


def _grouped_by_channel(array: jax.Array, groups: int) -> jax.Array:
    """Groups of the samples, in front, as groups of the channels, behind."""
    parts = array.reshape((groups, -1, *array.shape[1:]))
    parts = jnp.moveaxis(parts, 0, -2)
    return parts.reshape((*parts.shape[:-2], -1))
