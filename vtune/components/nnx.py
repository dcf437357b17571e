"""Flax NNX modules as networks."""

import dataclasses
import functools
import inspect
from collections.abc import Callable, Iterator
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import PRNGKeyArray, PyTree

from vtune.components.calling import Apply, Variables, mode_arguments, mode_names


_RandomState = tuple[tuple[Any, ...], tuple[int, ...], bool]  # path, shape, is a key


@dataclasses.dataclass(frozen=True)
class _Graph:
    """What does not change of an NNX module, found without running anything."""

    definition: Any
    streams: tuple[_RandomState, ...]
    collections: frozenset[tuple[Any, ...]]
    modes: tuple[str, ...]
    takes_rngs: bool


@dataclasses.dataclass(frozen=True)
class NnxNetwork:
    """An NNX module; all its variables but parameters and random streams are kept.

    Random streams are no state: each step gives them new keys, made of its own key.

    Args:
        build: a function of `rngs` that returns the module.
        apply: how to call it, where it is not by `module(x)`.
        by_name: whether the function is called as `build(rngs=rngs)`.
    """

    build: Callable[..., Any]
    apply: Apply | None
    by_name: bool

    def init(self, key: PRNGKeyArray, x: PyTree) -> Variables:
        """The variables before the first step; NNX needs no inputs to make them."""
        del x
        graph, variables = self._create(key)
        # The same for every key: whoever traces `init` first has no need of another.
        self.__dict__.setdefault("graph", graph)
        return variables

    def train(
        self, variables: Variables, x: PyTree, key: PRNGKeyArray
    ) -> tuple[PyTree, PyTree]:
        """Outputs in training mode, and the collections after the step."""
        module, outputs = self._call(variables, x, True, key)
        if not self.graph.collections:
            return outputs, {}
        flat = dict(nnx.to_flat_state(nnx.state(module)))
        kept = {path: _value(flat[path]) for path in self.graph.collections}
        return outputs, nnx.traversals.unflatten_mapping(kept)

    def evaluate(self, variables: Variables, x: PyTree) -> PyTree:
        """Outputs in evaluation mode; a layer that draws there too has a fixed key."""
        draws = self.graph.streams or self.graph.takes_rngs
        key = jax.random.key(0) if draws else None
        return self._call(variables, x, False, key)[1]

    @functools.cached_property
    def graph(self) -> _Graph:
        """The module without its variables."""
        graphs = []
        jax.eval_shape(lambda: graphs.append(self._create(jax.random.key(0))[0]))
        return graphs[0]

    def _create(self, key: PRNGKeyArray) -> tuple[_Graph, Variables]:
        module = self._build(nnx.Rngs(key))
        definition, params, streams, collections = nnx.split(
            module, nnx.Param, nnx.RngState, ...
        )
        graph = _Graph(
            definition,
            tuple(
                (path, jnp.shape(_value(state)), isinstance(state, nnx.RngKey))
                for path, state in nnx.to_flat_state(streams)
            ),
            frozenset(path for path, _ in nnx.to_flat_state(collections)),
            () if self.apply else mode_names(type(module), also=("rngs",)),
            bool(self.apply)
            or "rngs" in inspect.signature(type(module).__call__).parameters,
        )
        return graph, Variables(
            nnx.to_pure_dict(params, _value), nnx.to_pure_dict(collections, _value)
        )

    def _build(self, rngs: nnx.Rngs) -> nnx.Module:
        module = self.build(rngs=rngs) if self.by_name else self.build(rngs)
        if not isinstance(module, nnx.Module):
            raise TypeError(
                "`Model(module=...)` got a function that returns no NNX module but "
                f"{type(module).__name__}; a Linen module is given itself."
            )
        return module

    def _call(
        self, variables: Variables, x: PyTree, train: bool, key: Any
    ) -> tuple[nnx.Module, PyTree]:
        graph = self.graph
        streams = dict(_reseeded(graph.streams, key))
        module = nnx.merge(
            graph.definition,
            nnx.State(variables.params),
            nnx.State(nnx.traversals.unflatten_mapping(streams)),
            # In-place updates of a NumPy array would reach the caller's own.
            nnx.State(jax.tree.map(jnp.asarray, variables.collections)),
        )
        module = _in_mode(module, train)
        arguments = mode_arguments(graph.modes, train)
        if graph.takes_rngs:
            last = jax.random.fold_in(key, len(graph.streams))
            arguments["rngs"] = nnx.Rngs(last)
        if self.apply is not None:
            return module, self.apply(module, None, x, train, arguments["rngs"])
        return module, module(x, **arguments)


def _value(variable: Any) -> Any:
    is_variable = isinstance(variable, nnx.Variable)
    return variable.get_raw_value() if is_variable else variable


def _in_mode(module: nnx.Module, train: bool) -> nnx.Module:
    set_mode = module.train if train else module.eval
    set_mode()
    # Without `only`, `nnx.view` takes a draw from every `Rngs` that it meets.
    return nnx.view(
        module,
        only=nnx.Module,
        raise_if_not_found=False,
        deterministic=not train,
        use_running_average=not train,
    )


def _reseeded(
    streams: tuple[_RandomState, ...], key: Any
) -> Iterator[tuple[tuple[Any, ...], Any]]:
    """New keys for all random streams, each its own, and their counts back at zero."""
    for number, (path, shape, is_key) in enumerate(streams):
        if not is_key:
            yield path, jnp.zeros(shape, jnp.uint32)
        else:
            stream = jax.random.fold_in(key, number)
            yield path, jax.random.split(stream, shape) if shape else stream


def takes_rngs_by_name(build: Callable[..., Any]) -> bool:
    """Whether a function of `rngs` takes them by that name.

    Args:
        build: a function that returns an NNX module, or the module's class.

    Returns:
        False if it takes them as its first argument, under another name.

    Raises:
        TypeError: if it takes none, or others too.
    """
    try:
        signature = inspect.signature(build)
    except (TypeError, ValueError):  # a built-in without a signature
        return True
    for arguments, keywords in (((), {"rngs": None}), ((None,), {})):
        try:
            signature.bind(*arguments, **keywords)
        except TypeError:
            continue
        return bool(keywords)
    raise TypeError(
        "`Model(module=...)` takes a function of `rngs` alone, such as "
        f"`lambda rngs: Net(64, rngs=rngs)`, got one of {signature}."
    )
