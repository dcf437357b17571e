"""The states of trials in the host's memory, and as lanes of a program."""

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from vtune.fusion.trace import Trace
from vtune.training.leaves import plain, typed


HostState = tuple[np.ndarray, ...]


def stack(trees: Sequence[Any], lanes: int) -> Any:
    """Trees of arrays as one tree with a lane axis in front.

    Lanes without a tree of their own get a copy of the first: a program has a fixed
    number of lanes, and what is in an idle one changes nothing in the others.

    Args:
        trees: at least one tree, all of one structure, at most `lanes`.
        lanes: the size of the lane axis.

    Returns:
        The tree; leaves have shape `(lanes, ...)`.
    """
    filled = list(trees) + [trees[0]] * (lanes - len(trees))
    return jax.tree.map(lambda *leaves: _stack(leaves), *filled)


def _stack(leaves: Sequence[Any]) -> Any:
    if jnp.issubdtype(leaves[0].dtype, jax.dtypes.prng_key):
        return jnp.stack(leaves)
    return np.stack([np.asarray(leaf) for leaf in leaves])


def extract(state: Sequence[Any], lanes: Sequence[int]) -> list[HostState]:
    """The states in some lanes, copied to the host.

    Args:
        state: leaves with a lane axis.
        lanes: which lanes.

    Returns:
        For each of these lanes its leaves, without the lane axis.
    """
    host = jax.device_get(list(state))
    # A copy: on a CPU the arrays above are views of memory that the next epoch reuses.
    return [tuple(np.array(leaf[lane]) for leaf in host) for lane in lanes]


def to_tree(leaves: HostState, trace: Trace) -> Any:
    """A trial's state as `train_step` knows it, on the host.

    Args:
        leaves: the leaves, random keys as their data.
        trace: the trial's functions.

    Returns:
        The state.
    """
    return jax.tree.unflatten(trace.state_tree, typed(leaves, trace.state_avals))


def to_leaves(state: Any, trace: Trace) -> HostState:
    """The inverse of `to_tree`.

    Args:
        state: a state as `train_step` knows it.
        trace: the trial's functions.

    Returns:
        The leaves, random keys as their data.

    Raises:
        ValueError: if the state has another structure than the trial's.
    """
    leaves, structure = jax.tree.flatten(state)
    if structure != trace.state_tree:
        raise ValueError(
            f"The state has the structure {structure}, the model needs "
            f"{trace.state_tree}."
        )
    return tuple(np.asarray(leaf) for leaf in plain(leaves, trace.state_avals))
