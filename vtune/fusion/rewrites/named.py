"""Products of arrays whose axes have names."""

import functools
import itertools
import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp


# The most terms that are written out; more take long to compile.
_TERMS = 64


class Named(NamedTuple):
    """An array whose axes have names.

    Args:
        array: the array.
        names: the name of each axis.
    """

    array: jax.Array
    names: tuple[str, ...]


def split(value: Named, name: str, outer: str, count: int) -> Named:
    """Divides an axis into groups.

    Args:
        value: the array.
        name: the axis, which keeps its name for the entries of one group.
        outer: the name of the axis of groups.
        count: the number of groups.

    Returns:
        The array with the axis of groups in front of the axis that was divided; in its
        place where groups have one entry.
    """
    axis, shape = value.names.index(name), value.array.shape
    if shape[axis] == count:
        return Named(
            value.array, (*value.names[:axis], outer, *value.names[axis + 1 :])
        )
    shape = (*shape[:axis], count, shape[axis] // count, *shape[axis + 1 :])
    names = (*value.names[:axis], outer, *value.names[axis:])
    return Named(value.array.reshape(shape), names)


def ordered(value: Named, names: Sequence[str]) -> Named:
    """Brings axes into an order.

    Args:
        value: the array.
        names: all its names.

    Returns:
        The same array, transposed.
    """
    axes = [value.names.index(name) for name in names]
    return Named(jax.lax.transpose(value.array, axes), tuple(names))


def merged(value: Named, groups: Sequence[Sequence[str]]) -> jax.Array:
    """Brings axes into an order, and makes one of those that belong together.

    Args:
        value: the array.
        groups: for each axis of the result the names of its own, of which those that
            the array lacks stand for single entries.

    Returns:
        The array.
    """
    size = dict(zip(value.names, value.array.shape))
    own = [[name for name in group if name in size] for group in groups]
    array = ordered(value, list(itertools.chain(*own))).array
    return array.reshape([math.prod(size[name] for name in group) for group in own])


def product(
    first: Named, second: Named, shared: Sequence[str], **settings: Any
) -> Named:
    """The matrix product over all names that both have.

    Args:
        first: an array.
        second: another.
        shared: the names along which both run side by side.
        **settings: `precision` and `preferred_element_type` of `dot_general`.

    Returns:
        The shared axes, then the others of `first`, then those of `second`.
    """
    summed = _summed(first, second, shared)
    shared = [name for name in shared if name in first.names]
    rest = [
        [name for name in value.names if name not in (*summed, *shared)]
        for value in (first, second)
    ]
    left, in_left = _matrix(first, shared, summed, rest[0])
    right, in_right = _matrix(second, shared, summed, rest[1])
    beside = tuple(range(len(shared)))
    array = jax.lax.dot_general(
        left, right, (((in_left,), (in_right,)), (beside, beside)), **settings
    )
    sizes = dict(zip(first.names, first.array.shape))
    sizes |= dict(zip(second.names, second.array.shape))
    names = (*shared, *rest[0], *rest[1])
    return Named(array.reshape([sizes[name] for name in names]), names)


def _matrix(
    value: Named, shared: Sequence[str], summed: Sequence[str], rest: Sequence[str]
) -> tuple[jax.Array, int]:
    """A matrix for each shared entry, and along which axis it is summed over.

    XLA copies the operands of a product with more axes, even where they could stay
    where they are.
    """
    beside = [[name] for name in shared]
    if value.names == (*shared, *summed, *rest):
        return merged(value, [*beside, summed, rest]), len(shared)
    return merged(value, [*beside, rest, summed]), len(shared) + 1


def weighed(first: Named, second: Named, shared: Sequence[str], dtype: Any) -> Named:
    """What `product` computes, but entry by entry.

    It is for a sum that is short for each of many shared entries.

    Args:
        first: an array.
        second: another.
        shared: the names along which both run side by side.
        dtype: in which it is computed.

    Returns:
        The axes of `first` that are not summed over, then those of `second` alone.
    """
    summed = _summed(first, second, shared)
    every = _products(first, second, dtype)
    axes = [every.names.index(name) for name in summed]
    names = tuple([name for name in every.names if name not in summed])
    return Named(jnp.sum(every.array, axes) if axes else every.array, names)


def unrolled(first: Named, second: Named, shared: Sequence[str], dtype: Any) -> Named:
    """What `weighed` computes, with a long sum written out.

    XLA's CPU compiler makes one loop of written out terms, in the order of memory, but
    jumps through memory to sum up products. What is left of the sum is a matrix product
    with ones, so that these terms keep a loop of their own.

    Args:
        first: an array.
        second: another.
        shared: the names along which both run side by side.
        dtype: in which it is computed.

    Returns:
        The same.
    """
    sizes = dict(zip(first.names, first.array.shape))
    summed = _summed(first, second, shared)
    # The last axis is the shortest way through memory: it stays a loop.
    long = [name for name in summed if sizes[name] <= _TERMS][-2:]
    if not long:
        return weighed(first, second, shared, dtype)
    parts = [
        _products(at(first, long[0], n), at(second, long[0], n), dtype)
        for n in range(sizes[long[0]])
    ]
    total = functools.reduce(jnp.add, [part.array for part in parts])
    every = Named(total, parts[0].names)
    rest = tuple([name for name in summed if name != long[0]])
    if not rest:
        return every
    ones = Named(jnp.ones([sizes[name] for name in rest], dtype), rest)
    return product(ones, every, (), precision=jax.lax.Precision.HIGHEST)


def _summed(first: Named, second: Named, shared: Sequence[str]) -> list[str]:
    common = [name for name in first.names if name in second.names]
    return [name for name in common if name not in shared]


def _products(first: Named, second: Named, dtype: Any) -> Named:
    """The products of entries, in the order of axes that the first array has."""
    names = [*first.names, *(n for n in second.names if n not in first.names)]
    sizes = dict(zip(second.names, second.array.shape))
    sizes |= dict(zip(first.names, first.array.shape))
    shape = [sizes[name] for name in names]

    def spread(value: Named) -> jax.Array:
        own = [name for name in names if name in value.names]
        array = ordered(value, own).array.astype(dtype)
        return jax.lax.broadcast_in_dim(array, shape, [names.index(n) for n in own])

    return Named(spread(first) * spread(second), tuple(names))


def at(value: Named, name: str, number: int) -> Named:
    """The array where the entry of one axis is fixed, without that axis."""
    axis = value.names.index(name)
    array = jax.lax.index_in_dim(value.array, number, axis, keepdims=False)
    return Named(array, (*value.names[:axis], *value.names[axis + 1 :]))
