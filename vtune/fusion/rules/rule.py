"""What a rule answers about one kind of equation."""

import dataclasses
import functools
from collections.abc import Callable, Hashable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from vtune.fusion import internals
from vtune.fusion.evaluate import Bind
from vtune.fusion.family import Site
from vtune.fusion.flat import Equation
from vtune.fusion.layout import Layout
from vtune.fusion.placement import axis_index, live
from vtune.fusion.rules.contents import ANY, FINITE, Contents, Known, Unknown, join
from vtune.fusion.rules.nodes import Nodes


@dataclasses.dataclass(frozen=True, slots=True, eq=False)
class Place:
    """Where the entries of an operand or a result lie, and what is known of them.

    Args:
        aval: the envelope's abstract value.
        layouts: the layout of each axis.
        contents: what its padding can hold; None where it has none.
        tame: whether its live entries are finite unless a sum or a product overflows:
            not what a logarithm, a quotient or a constant infinity can have made.
        value: the number that it is, where it is a constant scalar of all members.
    """

    aval: Any
    layouts: tuple[Layout, ...]
    contents: Contents = None
    tame: bool = False
    value: Any = None

    @property
    def padded(self) -> bool:
        """Whether some member does not fill it."""
        return any(layout.varies for layout in self.layouts)

    def varies(self, axis: int) -> bool:
        """Whether some member does not fill an axis."""
        return self.layouts[axis].varies

    @property
    def spread(self) -> Known | Unknown:
        """What padding holds that its live entries are spread over."""
        if self.value is not None:
            return Known(self.value)
        return FINITE if self.tame else ANY

    @property
    def everywhere(self) -> Known | Unknown:
        """What padding holds into which it is copied, padding and live entries."""
        whole = join(self.contents, self.spread)
        return ANY if whole is None else whole


@dataclasses.dataclass(frozen=True, slots=True, eq=False)
class Step:
    """An equation whose axes are placed.

    Args:
        equation: the envelope's.
        operands: what it reads.
        results: what it computes; their contents are not known yet.
        bind: how the equation is computed, once its operands are what it needs.
    """

    equation: Equation
    operands: tuple[Place, ...]
    results: tuple[Place, ...]
    bind: Bind = internals.bind

    @property
    def params(self) -> Any:
        """The parameters of the envelope's equation."""
        return self.equation.params


class Plan(NamedTuple):
    """What an equation needs inside the envelope.

    Args:
        masks: for each operand what stands in for its padding, None to leave it.
        contents: for each result what its padding then holds; of no meaning where it
            has none.
        tame: for each result whether it is tame (see `Place`).
        variant: what else `emit` decides by the members' sizes.
    """

    masks: tuple[Any, ...]
    contents: tuple[Contents, ...]
    tame: tuple[bool, ...]
    variant: Hashable = None


# From an equation of a family to what it says about axes; raises `Refusal`.
Relate = Callable[[Site, Nodes], None]

# From an equation that may meet padding to what it needs; raises `Refusal`.
Planner = Callable[[Step], Plan]

# The results inside the envelope, of operands that are masked already, for the lane's
# own sizes.
Emit = Callable[[Step, Sequence[Any], Any], list[Any]]


def bound(step: Step, operands: Sequence[Any], lane_sizes: Any) -> list[Any]:
    """The envelope's equation as it is."""
    del lane_sizes
    return step.bind(step.equation, operands)


@dataclasses.dataclass(frozen=True, slots=True)
class Rule:
    """All that has to be known of a kind of equation.

    Args:
        relate: which axes are one, or made of others.
        plan: which operands are masked, and what the results' padding holds. It is also
            asked where nothing is padded, for what is tame.
        emit: computes the results.
    """

    relate: Relate
    plan: Planner
    emit: Emit = bound


def masked(value: Any, place: Place, neutral: Any, lane_sizes: Any) -> Any:
    """An operand with another value in its padding.

    Args:
        value: the operand.
        place: where it lies.
        neutral: what its padding gets, a scalar or an array in the envelope's shape.
        lane_sizes: the lane's sizes.

    Returns:
        A selection, never a product, so that NaN does not stay.
    """
    neutral = jnp.asarray(neutral, place.aval.dtype)
    for axis, layout in enumerate(place.layouts):
        if layout.varies:
            index = axis_index(axis, place.aval.shape)
            value = jnp.where(live(layout, lane_sizes, index), value, neutral)
    return value


def lowest(dtype: Any) -> Any:
    """What no entry of a dtype is below: the neutral element of a maximum."""
    if jnp.issubdtype(dtype, jnp.bool_):
        return False
    if jnp.issubdtype(dtype, jnp.integer):
        return np.asarray(jnp.iinfo(dtype).min, dtype)
    return np.asarray(-jnp.inf, dtype)


def highest(dtype: Any) -> Any:
    """What no entry of a dtype is above: the neutral element of a minimum."""
    if jnp.issubdtype(dtype, jnp.bool_):
        return True
    if jnp.issubdtype(dtype, jnp.integer):
        return np.asarray(jnp.iinfo(dtype).max, dtype)
    return np.asarray(jnp.inf, dtype)


def is_whole(aval: Any) -> bool:
    """Whether an array holds integers, truth values or keys: nothing but finite."""
    return _is_whole(aval.dtype)


@functools.cache
def _is_whole(dtype: Any) -> bool:
    kinds = (jnp.integer, jnp.bool_, jax.dtypes.prng_key)
    return any(jnp.issubdtype(dtype, kind) for kind in kinds)


def unmasked(step: Step) -> tuple[None, ...]:
    """No operand of an equation is masked."""
    return (None,) * len(step.operands)


def relate_alike(site: Site, nodes: Nodes) -> None:
    """All operands and results have the same axes, but for those that are repeated.

    Args:
        site: the equation.
        nodes: the axes.

    Raises:
        Refusal: if sizes differ, and not because an operand has one entry.
    """
    result = site.outputs[0]
    for other in (*site.inputs, *site.outputs[1:]):
        if not other.axes:
            continue
        for node, whole in zip(other.axes, result.axes, strict=True):
            if set(nodes.sizes(node)) != {1} or set(nodes.sizes(whole)) == {1}:
                nodes.same(node, whole)
