"""Where a window lies along an axis over which it slides."""

import dataclasses
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp


@dataclasses.dataclass(frozen=True)
class Slide:
    """How a window slides along one axis.

    Args:
        size: the entries of the axis.
        window: the entries of the window.
        stride: how far apart neighbouring places are.
        low: what is added before the first entry; negative takes away.
        high: what is added behind the last entry.
        hole: the distance of two entries of the axis, once holes are put between them.
        spread: the distance of two entries of the window.
    """

    size: int
    window: int
    stride: int = 1
    low: int = 0
    high: int = 0
    hole: int = 1
    spread: int = 1

    @property
    def places(self) -> int:
        """In how many places the window lies."""
        room = self.low + self.holed + self.high - (self.window - 1) * self.spread - 1
        return max(0, room // self.stride + 1)

    @property
    def border(self) -> tuple[int, int, int]:
        """The padding with which the last window ends where the axis does."""
        return self.low, self.reach - self.holed - self.low, self.hole - 1

    @property
    def reach(self) -> int:
        """How far all windows reach, from the first entry of the first one."""
        return (self.places - 1) * self.stride + (self.window - 1) * self.spread + 1

    @property
    def turned(self) -> "Slide":
        """With places and entries of the window in each other's place.

        It is for an axis that has its borders already.
        """
        return Slide(self.reach, self.places, self.spread, spread=self.stride)

    @property
    def is_tiling(self) -> bool:
        """Whether every entry lies in one window at most, and no border in any."""
        return (self.stride, self.hole, self.spread) == (self.window, 1, 1) and (
            self.border[0] == 0 >= self.border[1]
        )

    @property
    def is_trivial(self) -> bool:
        """Whether each window is an entry of the axis."""
        return self.window == self.stride == 1 and self.border == (0, 0, 0)

    @property
    def holed(self) -> int:
        """The entries of the axis with its holes, without borders."""
        return (self.size - 1) * self.hole + 1


def bordered(array: jax.Array, slides: Mapping[int, Slide], fill: Any) -> jax.Array:
    """An array with its borders and holes.

    Args:
        array: the array.
        slides: by axis how a window slides along it.
        fill: what borders and holes hold.

    Returns:
        The array out of which `entries` cuts.
    """
    borders = [(0, 0, 0)] * array.ndim
    for axis, slide in slides.items():
        borders[axis] = slide.border
    if not any(map(any, borders)):
        return array
    return jax.lax.pad(array, jnp.asarray(fill, array.dtype), borders)


def entries(
    array: jax.Array, slides: Mapping[int, Slide], position: Mapping[int, int]
) -> jax.Array:
    """What one entry of the window meets in all its places.

    Args:
        array: from `bordered`.
        slides: by axis how the window slides along it.
        position: by axis which entry of the window is meant.

    Returns:
        Along each axis an entry for each place.
    """
    starts, ends, steps = [0] * array.ndim, list(array.shape), [1] * array.ndim
    for axis, slide in slides.items():
        starts[axis] = position[axis] * slide.spread
        ends[axis] = starts[axis] + (slide.places - 1) * slide.stride + 1
        steps[axis] = slide.stride
    return jax.lax.slice(array, starts, ends, steps)
