"""One small interface over Flax Linen and Flax NNX: init, train, evaluate."""

import functools
import threading
from collections.abc import Hashable
from typing import Any, Protocol, runtime_checkable

import jax
from flax import linen as nn, nnx
from jaxtyping import PRNGKeyArray, PyTree

from vtune.components.calling import Variables, mode_names
from vtune.components.linen import LinenNetwork
from vtune.components.nnx import NnxNetwork, takes_rngs_by_name


@runtime_checkable
class Network(Protocol):
    """A network as three pure functions; `x` is a pytree with the batch axis first."""

    def init(self, key: PRNGKeyArray, x: PyTree) -> Variables:
        """The variables before the first step."""
        ...

    def train(
        self, variables: Variables, x: PyTree, key: PRNGKeyArray
    ) -> tuple[PyTree, PyTree]:
        """Outputs in training mode, and the collections after the step."""
        ...

    def evaluate(self, variables: Variables, x: PyTree) -> PyTree:
        """Outputs in evaluation mode, which changes nothing."""
        ...


def make_network(module: Any, apply: Any = None) -> Network:
    """A Linen module, or a function of `rngs` that returns an NNX module, as a network.

    The mode reaches the module by those of the arguments `train`, `training`,
    `is_training`, `deterministic` and `use_running_average` that its `__call__` has;
    `x` is its one positional argument. All else is for `apply`.

    Args:
        module: one of the two; it is never run outside of a trace.
        apply: `apply(module, variables, x, train, rngs)` returns the outputs, or a pair
            of the outputs and a mapping with the updated collections. A pair counts as
            the latter if its second item is a mapping that is empty or has the name of
            one of the module's collections (or `intermediates`). For Linen it calls
            `module.apply(variables, ..., rngs=rngs)`, also as
            `module.clone(...).apply(...)`, and this call serves to initialise too;
            `rngs` is None in evaluation. For NNX `module` holds its variables already,
            `variables` is None, `rngs` is an `nnx.Rngs`, and the result is the outputs.

    Returns:
        The network.

    Raises:
        TypeError: for what is neither of the two.
        ValueError: for a `__call__` that needs `apply`.
    """
    if apply is not None and not callable(apply):
        raise TypeError(
            "`Model(apply=...)` takes a function of (module, variables, x, train, "
            f"rngs), got {apply!r}."
        )
    if isinstance(module, nn.Module):
        modes = () if apply else mode_names(type(module))
        return LinenNetwork(module, apply, modes)
    if isinstance(module, nnx.Module):
        name = type(module).__name__
        raise TypeError(
            f"`Model(module=...)` got an NNX `{name}` that is built already. Give a "
            f"function of `rngs`, so that each trial draws its own initial values: "
            f"`lambda rngs: {name}(..., rngs=rngs)`."
        )
    if isinstance(module, type) and issubclass(module, nn.Module):
        raise TypeError(
            f"`Model(module=...)` got the Linen class `{module.__name__}`. Give an "
            f"instance: `{module.__name__}(...)`."
        )
    if not callable(module):
        raise TypeError(
            "`Model(module=...)` takes a Flax Linen module, or a function of `rngs` "
            f"that returns an NNX module, got {module!r}."
        )
    return NnxNetwork(module, apply, takes_rngs_by_name(module))


def abstract_outputs(
    network: Network, identity: Hashable, x: PyTree, variables: Variables | None = None
) -> PyTree:
    """Shapes and dtypes of a network's outputs, found once for equal networks.

    Args:
        network: the network.
        identity: equal for networks that do the same.
        x: inputs with n samples first, arrays or abstract.
        variables: the network's variables, abstract, where they are known.

    Returns:
        The outputs for all of them, abstract.
    """
    samples = len(jax.tree.leaves(x)[0])
    few = min(samples, _FEW)
    x = _with_samples(x, samples, few)
    key = identity, _shapes(x)
    if (outputs := _OUTPUTS.get(key)) is None:
        outputs = jax.eval_shape(functools.partial(_outputs, network), variables, x)
        _remember(key, outputs)
    return _with_samples(outputs, few, samples)


def note_outputs(identity: Hashable, x: PyTree, outputs: PyTree) -> None:
    """Has `abstract_outputs` know what a network was seen to return in evaluation.

    Args:
        identity: equal for networks that do the same.
        x: inputs with n samples first.
        outputs: what the network returned for them.
    """
    x, outputs = jax.eval_shape(lambda: (x, outputs))
    samples, *_ = jax.tree.leaves(x)[0].shape or (None,)
    key = identity, _shapes(_with_samples(x, samples, _FEW))
    _remember(key, _with_samples(outputs, samples, _FEW))


# Samples for which outputs are looked at: data sets of any size have them in common.
_FEW = 32

# For networks and inputs what they return, that which was found last behind.
_OUTPUTS: dict[Hashable, PyTree] = {}
_MOST = 64
_LOCK = threading.Lock()


def _remember(key: Hashable, outputs: PyTree) -> None:
    with _LOCK:
        _OUTPUTS[key] = outputs
        while len(_OUTPUTS) > _MOST:
            del _OUTPUTS[next(iter(_OUTPUTS))]


def _outputs(network: Network, variables: Variables | None, x: PyTree) -> PyTree:
    if variables is None:
        variables = network.init(jax.random.key(0), x)
    return network.evaluate(variables, x)


def _shapes(x: PyTree) -> Hashable:
    leaves, structure = jax.tree.flatten(x)
    return structure, tuple([(leaf.shape, leaf.dtype) for leaf in leaves])


def _with_samples(tree: PyTree, samples: int | None, other: int) -> PyTree:
    """Arrays, abstract, with another number of samples where they have so many."""

    def changed(leaf: Any) -> jax.ShapeDtypeStruct:
        has_samples = leaf.shape[:1] == (samples,)
        shape = (other, *leaf.shape[1:]) if has_samples else leaf.shape
        return jax.ShapeDtypeStruct(shape, jax.dtypes.canonicalize_dtype(leaf.dtype))

    return jax.tree.map(changed, tree)
