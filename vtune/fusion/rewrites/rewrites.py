"""Which form is an equation computed in? By a shipped rule, and never by a clock."""

import dataclasses
import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal

import jax
import jax.numpy as jnp

from vtune.fusion import internals
from vtune.fusion.flat import Equation
from vtune.fusion.rewrites.convolution import Convolution, convolution
from vtune.fusion.rewrites.forms import Form, convolved, forms
from vtune.fusion.rewrites.pooling import (
    can_be_drawn,
    drawn_from_windows,
    pooled_maximum,
    pooled_minimum,
    pooled_sum,
    slides,
    spread_to_extreme,
)


# So few channels leave XLA's kernels for convolutions idle.
_FEW = 4

# From so many entries on, slices side by side outgrow a CPU's caches, and take more
# memory than the network.
_MANY = 3_000_000

_POOLING: Mapping[str, Callable[..., jax.Array]] = {
    "reduce_window_max": pooled_maximum,
    "reduce_window_min": pooled_minimum,
    "reduce_window_sum": pooled_sum,
    "select_and_scatter_add": spread_to_extreme,
}


@dataclasses.dataclass(frozen=True)
class Rewrites:
    """Equal, faster equations in the place of traced ones.

    Which form an equation gets changes the last bits of its results. So it depends on
    the platform, on how lanes run and on the equation, and belongs to a program's key.

    Args:
        platform: `"cpu"`, `"gpu"` or `"tpu"`; an unknown one is treated as a GPU.
        lanes: how lanes run: side by side (`"vmap"`) or one after another (`"map"`).
    """

    platform: str
    lanes: Literal["vmap", "map"]

    def bind(self, equation: Equation, operands: Sequence[Any]) -> list[Any]:
        """Computes an equation in the form that is fastest here.

        Args:
            equation: an equation without bodies.
            operands: what it reads.

        Returns:
            Its results: those of the equation as it is, up to rounding.
        """
        rewritten = self._rewritten(equation)
        if rewritten is None:
            return internals.bind(equation, operands)
        with internals.as_traced(equation):
            return [rewritten(*map(jnp.asarray, operands))]

    def form(self, found: Convolution) -> Form | None:
        """The form of a convolution.

        Args:
            found: what it computes.

        Returns:
            The form, or None if the equation stays as it is.
        """
        if self.platform == "cpu":
            return _on_cpu(found, self.lanes == "vmap")
        if self.lanes == "map" and self.platform == "tpu":
            return None
        return _side_by_side(found)

    def _rewritten(self, equation: Equation) -> Callable[..., jax.Array] | None:
        name, params = equation.primitive.name, equation.params
        avals = [atom.aval for atom in equation.inputs]
        if not all(map(_has_entries, (*avals, *[o.aval for o in equation.outputs]))):
            return None
        if name in _POOLING:
            if not slides(params, avals[-1].shape):
                return None
            return functools.partial(self._pooling(name, params, avals[-1]), params)
        if name == "conv_general_dilated" and _is_floating(avals):
            found = convolution(params, avals[0].shape, avals[1].shape)
            form = self.form(found)
            if form is not None:
                return lambda *operands: convolved(form, params, *operands)
        return None

    def _pooling(
        self, name: str, params: Any, operand: Any
    ) -> Callable[..., jax.Array]:
        gradient = name == "select_and_scatter_add" and self.platform == "cpu"
        if gradient and can_be_drawn(params, operand.shape):
            return drawn_from_windows
        return _POOLING[name]


def _has_entries(aval: Any) -> bool:
    return 0 not in aval.shape


def _is_floating(avals: Sequence[Any]) -> bool:
    return all(jnp.issubdtype(aval.dtype, jnp.floating) for aval in avals)


def _on_cpu(found: Convolution, side_by_side: bool) -> Form:
    """The fastest form on two cores of an AMD EPYC that share their caches with others.

    `experiments/benchmarks/rewrites.py` measures them all. Alone, slices are up to a
    third faster for some other sizes; beside a second program they are slower, since
    they move more through memory. It does not show that a kernel's gradient has the
    slices of the convolution for nothing: on an Intel Xeon both together were, by
    planes, 1.1 to 1.5 times as fast as in the next best form for 1 and 3 channels, and
    0.9 to 1.1 times for 4.
    """
    if found.is_depthwise:
        return "unrolled"
    if any(slide.hole > 1 for slide in found.slides) and "scattered" in forms(found):
        return "scattered"
    if found.groups == 1 and found.patches <= _MANY and _has_few_channels(found):
        return "patches" if side_by_side or _is_strided(found) else "planes"
    if found.groups == 1 and _gains_by_slices(found):
        return "patches" if found.patches <= _MANY else "products"
    # JAX makes a convolution in groups of one over lanes with a kernel each.
    return "products" if side_by_side else "canonical"


def _has_few_channels(found: Convolution) -> bool:
    """Whether it is a convolution of few channels, or the gradient of its kernel.

    The gradient takes the slices that are there already for the convolution.
    """
    channels = found.samples if found.has_few_places else found.channels
    return min(found.window, found.places) > 1 and channels <= _FEW


def _is_strided(found: Convolution) -> bool:
    slides = found.slides
    return any((s.spread if found.has_few_places else s.stride) > 1 for s in slides)


def _gains_by_slices(found: Convolution) -> bool:
    if found.places == 1:
        return True
    if found.has_few_places:
        return _is_strided(found)
    return found.window == 1 and found.channels > _FEW


def _side_by_side(found: Convolution) -> Form:
    """Shifted slices: five times the steps of one H100 with 128 lanes."""
    if found.is_depthwise:
        return "weighed"
    return "patches" if found.patches <= _MANY else "products"
