"""What does a convolution compute, whatever the order of its axes?"""

import dataclasses
import math
from collections.abc import Mapping, Sequence
from typing import Any, Literal

from vtune.fusion.rewrites.sliding import Slide


@dataclasses.dataclass(frozen=True)
class Convolution:
    """A convolution without the order of its axes.

    Args:
        slides: how the kernel slides along each spatial axis.
        groups: the number of groups.
        grouped: which axis of the first operand has the groups.
        samples: the samples of one group.
        channels: the channels of one group.
        features: the features of one group.
    """

    slides: tuple[Slide, ...]
    groups: int
    grouped: Literal["channel", "sample"]
    samples: int
    channels: int
    features: int

    @property
    def window(self) -> int:
        """The entries of the kernel of one channel and feature."""
        return math.prod([slide.window for slide in self.slides])

    @property
    def places(self) -> int:
        """In how many places the kernel lies."""
        return math.prod([slide.places for slide in self.slides])

    @property
    def over_places(self) -> tuple[bool, ...]:
        """Along which axes there are fewer places than entries of the kernel.

        So it is in the gradient of a kernel, which is a convolution with something as
        large as the image.
        """
        return tuple([slide.places < slide.window for slide in self.slides])

    @property
    def has_few_places(self) -> bool:
        """Whether there are fewer places than entries along any axis."""
        return any(self.over_places)

    @property
    def patches(self) -> int:
        """The entries of all shifted slices."""
        entries = self.groups * self.samples * self.channels
        return entries * self.window * self.places

    @property
    def is_depthwise(self) -> bool:
        """Whether every channel has kernels of its own, or these are the gradient."""
        part = self.channels if self.grouped == "channel" else self.samples
        return self.groups > 1 and part == 1


def convolution(
    params: Mapping[str, Any], left: Sequence[int], right: Sequence[int]
) -> Convolution:
    """What an equation `conv_general_dilated` computes.

    Args:
        params: its parameters.
        left: the shape of its first operand.
        right: the shape of its second operand, the kernel.

    Returns:
        The convolution.
    """
    numbers = params["dimension_numbers"]
    by_sample = params["batch_group_count"] > 1
    groups = max(params["batch_group_count"], params["feature_group_count"])
    slides = zip(
        [left[axis] for axis in numbers.lhs_spec[2:]],
        [right[axis] for axis in numbers.rhs_spec[2:]],
        params["window_strides"],
        *zip(*params["padding"]),
        params["lhs_dilation"],
        params["rhs_dilation"],
        strict=True,
    )
    return Convolution(
        tuple([Slide(*slide) for slide in slides]),
        groups,
        "sample" if by_sample else "channel",
        left[numbers.lhs_spec[0]] // (groups if by_sample else 1),
        right[numbers.rhs_spec[1]],
        right[numbers.rhs_spec[0]] // groups,
    )
