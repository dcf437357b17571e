"""A trial's functions in flat form, traced without running or compiling them."""

import dataclasses
import math
from collections.abc import Callable, Hashable, Mapping, MutableMapping, Sequence
from typing import Any, Protocol, runtime_checkable

import jax
import jax.numpy as jnp

from vtune.fusion.composition import compose
from vtune.fusion.flat import FlatFunction
from vtune.fusion.flattening import flatten
from vtune.trial import Trainable


@runtime_checkable
class SplitTrainable(Protocol):
    """A `Trainable` that says which of its parts other trials may share.

    `init(key, batch)` equals `init_state(init_variables(key, batch))`. Two trials with
    equal `identity` have the same `init_variables` and, over states of the same
    structure, the same `eval_step`; what may differ between them is the optimizer.
    """

    @property
    def identity(self) -> Hashable:
        """Equal only if variables and evaluation are the same functions."""
        ...

    def init_variables(self, key: Any, batch: tuple[Any, ...]) -> Any:
        """The module's variables."""
        ...

    def init_state(self, variables: Any) -> Any:
        """The state before the first step: the variables and the optimizer's state."""
        ...


@dataclasses.dataclass(frozen=True, eq=False)
class Trace:
    """A trial's functions in flat form.

    Args:
        init: from the leaves of a key and of a batch to the leaves of the state.
        train: for each size of training batch, from the leaves of the state, of a batch
            and of a key to those of the next state, then the metrics by sorted name.
        evaluate: for each size of validation batch, from the leaves of the state and of
            a batch to the metrics by sorted name.
        state_tree: the structure of this trial's state. Static fields belong to it, and
            may differ between trials of one program.
        state_avals: shape and dtype of each leaf of the state.
        state_paths: where each leaf lies, such as `"['params']['bias']"`.
        train_metrics: the sorted names of the training metrics.
        eval_metrics: the sorted names of the evaluation metrics.
        parameters: indices of the leaves that lie under a key or attribute `params`.
    """

    init: FlatFunction
    train: tuple[FlatFunction, ...]
    evaluate: tuple[FlatFunction, ...]
    state_tree: Any
    state_avals: tuple[jax.ShapeDtypeStruct, ...]
    state_paths: tuple[str, ...]
    train_metrics: tuple[str, ...]
    eval_metrics: tuple[str, ...]
    parameters: tuple[int, ...]

    @property
    def metric_names(self) -> tuple[str, ...]:
        """The metrics of an epoch: those of training, then those of validation."""
        return (*self.train_metrics, *(f"val_{name}" for name in self.eval_metrics))

    @property
    def state(self) -> Any:
        """The state as the trial's functions know it, abstract."""
        return jax.tree.unflatten(self.state_tree, self.state_avals)

    @property
    def state_bytes(self) -> int:
        """The memory that a state takes."""
        return sum(math.prod(a.shape) * a.dtype.itemsize for a in self.state_avals)

    @property
    def functions(self) -> tuple[FlatFunction, ...]:
        """All functions: `init`, those of `train`, those of `evaluate`."""
        return (self.init, *self.train, *self.evaluate)


def trace_function(function: Callable[..., Any], *abstract_args: Any) -> FlatFunction:
    """Traces a function without running or compiling it.

    Args:
        function: a function of pytrees of arrays.
        *abstract_args: pytrees of `jax.ShapeDtypeStruct` (or arrays, of which only
            shape and dtype matter).

    Returns:
        Its flat form.
    """
    return _traced(function, *abstract_args)[0]


def trace_trial(
    trainable: Trainable,
    key: Any,
    train_batches: Sequence[Any],
    eval_batches: Sequence[Any],
    cache: MutableMapping[Hashable, Any] | None = None,
) -> Trace:
    """Traces the functions of a trial.

    Args:
        trainable: the trial's model.
        key: the abstract value of a random key.
        train_batches: an abstract batch for each size that training meets; the first
            is the one that `init` sees.
        eval_batches: an abstract batch for each size that evaluation meets.
        cache: where traces that trials may share are kept. A `SplitTrainable` of an
            identity that was traced before shares `evaluate` and the variables' part of
            `init`.

    Returns:
        The trace.

    Raises:
        ValueError: if `train_step` changes the structure, a shape or a dtype of the
            state, or if metrics are not a mapping of names to real scalars.
    """
    if not train_batches:
        raise ValueError("`trace_trial` needs at least one abstract training batch.")
    cache = {} if cache is None else cache
    init, state = _trace_init(trainable, key, train_batches[0], cache)
    paths, leaves, tree = _flat_state(state)
    train = [_trace_train(trainable, state, batch, key) for batch in train_batches]
    evaluate = [_trace_evaluate(trainable, state, b, cache) for b in eval_batches]
    return Trace(
        init=init,
        train=tuple(flat for flat, _ in train),
        evaluate=tuple(flat for flat, _ in evaluate),
        state_tree=tree,
        state_avals=tuple(leaves),
        state_paths=tuple(map(jax.tree_util.keystr, paths)),
        train_metrics=train[0][1],
        eval_metrics=evaluate[0][1] if evaluate else (),
        parameters=tuple(i for i, path in enumerate(paths) if _is_parameter(path)),
    )


def _traced(function: Callable[..., Any], *abstract_args: Any) -> tuple[Any, Any]:
    # JAX remembers traces by the function's `==`, which a bound method of a user's
    # class may answer too generously; a new function is equal to no other.
    def fresh(*args: Any) -> Any:
        return function(*args)

    jaxpr, result = jax.make_jaxpr(fresh, return_shape=True)(*abstract_args)
    result = jax.tree.map(_strong, result)
    in_tree, out_tree = jax.tree.structure(abstract_args), jax.tree.structure(result)
    return flatten(jaxpr, in_tree, out_tree), result


def _strong(aval: Any) -> jax.ShapeDtypeStruct:
    return jax.ShapeDtypeStruct(aval.shape, aval.dtype)


def _trace_init(
    trainable: Trainable, key: Any, batch: Any, cache: MutableMapping[Hashable, Any]
) -> tuple[FlatFunction, Any]:
    if not isinstance(trainable, SplitTrainable):
        return _traced(trainable.init, key, batch)
    place = ("variables", trainable.identity, _avals(key), _avals(batch))
    if place not in cache:
        cache[place] = _traced(trainable.init_variables, key, batch)
    first, variables = cache[place]
    second, state = _traced(trainable.init_state, variables)
    return compose(first, second), state


def _trace_train(
    trainable: Trainable, state: Any, batch: Any, key: Any
) -> tuple[FlatFunction, tuple[str, ...]]:
    def train(state: Any, batch: Any, key: Any) -> tuple[Any, dict[str, Any]]:
        result = trainable.train_step(state, batch, key)
        if not isinstance(result, tuple) or len(result) != 2:
            raise ValueError(
                "`train_step` returns the next state and the metrics, "
                f"got {type(result).__name__}."
            )
        return result[0], _checked_metrics("train_step", result[1])

    flat, (next_state, metrics) = _traced(train, state, batch, key)
    _check_same_state(state, next_state)
    return flat, tuple(metrics)


def _trace_evaluate(
    trainable: Trainable, state: Any, batch: Any, cache: MutableMapping[Hashable, Any]
) -> tuple[FlatFunction, tuple[str, ...]]:
    def evaluate(state: Any, batch: Any) -> dict[str, Any]:
        return _checked_metrics("eval_step", trainable.eval_step(state, batch))

    def traced() -> tuple[FlatFunction, tuple[str, ...]]:
        flat, metrics = _traced(evaluate, state, batch)
        return flat, tuple(metrics)

    if not isinstance(trainable, SplitTrainable):
        return traced()
    place = ("evaluate", trainable.identity, _avals(state), _avals(batch))
    if place not in cache:
        cache[place] = traced()
    return cache[place]


def _avals(tree: Any) -> Hashable:
    leaves, structure = jax.tree.flatten(tree)
    return (structure, tuple((leaf.shape, leaf.dtype) for leaf in leaves))


def _checked_metrics(method: str, metrics: Any) -> dict[str, Any]:
    if not isinstance(metrics, Mapping):
        raise ValueError(
            f"`{method}` returns metrics as a mapping of names to scalars, "
            f"got {type(metrics).__name__}."
        )
    for name, value in metrics.items():
        if not isinstance(name, str):
            raise ValueError(f"`{method}` names its metrics by strings, got {name!r}.")
        if not _is_real(value):
            kind = getattr(value, "dtype", type(value).__name__)
            raise ValueError(
                f"`{method}` returned {kind} as metric {name!r}; a metric is a real "
                f"number, such as the mean of `x.astype(jnp.float32)`."
            )
        if jnp.shape(value) != ():
            raise ValueError(
                f"`{method}` returned metric {name!r} with shape {jnp.shape(value)}; a "
                f"metric is one number a batch: return its mean."
            )
    return {name: metrics[name] for name in sorted(metrics)}


def _is_real(value: Any) -> bool:
    if isinstance(value, (bool, int, float)):
        return not isinstance(value, bool)
    dtype = getattr(value, "dtype", None)
    return dtype is not None and (
        jnp.issubdtype(dtype, jnp.floating) or jnp.issubdtype(dtype, jnp.integer)
    )


def _flat_state(state: Any) -> tuple[list[Any], list[Any], Any]:
    pairs, tree = jax.tree_util.tree_flatten_with_path(state)
    return [path for path, _ in pairs], [leaf for _, leaf in pairs], tree


def _is_parameter(path: Sequence[Any]) -> bool:
    names = (getattr(e, "key", getattr(e, "name", None)) for e in path)
    return any(isinstance(name, str) and name == "params" for name in names)


def _check_same_state(before: Any, after: Any) -> None:
    paths, leaves, tree = _flat_state(before)
    new_paths, new_leaves, new_tree = _flat_state(after)
    if tree != new_tree:
        raise ValueError(_structure_message(paths, new_paths, tree, new_tree))
    for path, old, new in zip(paths, leaves, new_leaves):
        if (old.shape, old.dtype) != (new.shape, new.dtype):
            raise ValueError(
                f"`train_step` changes the state's leaf {jax.tree_util.keystr(path)} "
                f"from {old.dtype}{list(old.shape)} to {new.dtype}{list(new.shape)}; "
                f"a state keeps its shapes and dtypes from step to step."
            )


def _structure_message(
    paths: Sequence[Any], new_paths: Sequence[Any], tree: Any, new_tree: Any
) -> str:
    old = [jax.tree_util.keystr(path) for path in paths]
    new = [jax.tree_util.keystr(path) for path in new_paths]
    lost = [path for path in old if path not in new]
    added = [path for path in new if path not in old]
    message = "`train_step` changes the structure of the state"
    if lost:
        message += f"; missing afterwards: {', '.join(lost)}"
    if added:
        message += f"; new: {', '.join(added)}"
    if not lost and not added:
        message += f" from {tree} to {new_tree}"
    return message + ". A state keeps its structure from step to step."
