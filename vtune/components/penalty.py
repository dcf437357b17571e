"""The penalty on large weights that is part of the loss."""

import dataclasses
import functools
import math
import numbers
import operator
from collections.abc import Iterable
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PyTree


@dataclasses.dataclass(frozen=True)
class Penalty:
    """`l1 · Σ|w| + l2 · Σw²` over all parameters named `kernel`, as in Keras.

    Args:
        l1: the factor of the first term. Once given, it stays in the program, also at
            0.0; None leaves the term out.
        l2: the factor of the second term, likewise.

    Raises:
        ValueError: for a factor that is not a number of at least 0.
    """

    l1: float | None = None
    l2: float | None = None

    def __post_init__(self):
        for name in ("l1", "l2"):
            object.__setattr__(self, name, _factor(name, getattr(self, name)))

    def add(self, loss: Float[Array, ""], params: PyTree) -> Float[Array, ""]:
        """The loss with the penalty of some parameters.

        Args:
            loss: a scalar.
            params: the parameters, a pytree with named leaves.

        Returns:
            Their sum; the penalty is computed in float32 at least.

        Raises:
            ValueError: if there is a penalty and no parameter named `kernel`.
        """
        if self.l1 is None and self.l2 is None:
            return loss
        kernels = _kernels(params)
        if self.l1 is not None:
            loss += self.l1 * _sum(jnp.sum(jnp.abs(kernel)) for kernel in kernels)
        if self.l2 is not None:
            loss += self.l2 * _sum(jnp.sum(jnp.square(kernel)) for kernel in kernels)
        return loss


def _factor(name: str, value: Any) -> float | None:
    if value is None:
        return None
    if isinstance(value, numbers.Real) and not isinstance(value, bool):
        factor = float(value)
        if math.isfinite(factor) and factor >= 0:
            return factor
    raise ValueError(
        f"`Model({name}=...)` takes a number of at least 0, or None for no penalty, "
        f"got {value!r}."
    )


def _kernels(params: PyTree) -> list[Array]:
    named = {
        jax.tree_util.keystr(path, simple=True, separator="/"): leaf
        for path, leaf in jax.tree_util.tree_leaves_with_path(params)
    }
    kernels = [
        leaf.astype(jnp.promote_types(leaf.dtype, jnp.float32))
        for path, leaf in named.items()
        # Flax boxes the arrays of partitioned parameters: `kernel/value`.
        if f"/{path}".removesuffix("/value").endswith("/kernel")
    ]
    if not kernels:
        raise ValueError(
            "`Model(l1=..., l2=...)` penalises the parameters named `kernel`, and this "
            f"network has none among {', '.join(named) or 'none at all'}. Write the "
            "penalty into a loss of your own, or use an optimizer with weight decay."
        )
    return kernels


def _sum(terms: Iterable[Array]) -> Array:
    return functools.reduce(operator.add, terms)
