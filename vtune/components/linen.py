"""Flax Linen modules as networks."""

import dataclasses
from collections.abc import Mapping
from typing import Any

import jax
from flax import errors, linen as nn, traverse_util
from jaxtyping import PRNGKeyArray, PyTree

from vtune.components.calling import Apply, Variables, mode_arguments


@dataclasses.dataclass(frozen=True)
class LinenNetwork:
    """A Linen module; every collection that its init makes is mutable in training.

    Args:
        module: the module.
        apply: how to call it, where it is not by `module.apply(variables, x)`.
        modes: the arguments of its `__call__` that say which mode it is.
    """

    module: nn.Module
    apply: Apply | None
    modes: tuple[str, ...]

    def init(self, key: PRNGKeyArray, x: PyTree) -> Variables:
        """The variables before the first step, made in evaluation mode."""
        rngs = {"params": key}
        if self.apply is not None:
            variables = _init_by_apply(self.module, self.apply, x, rngs)
        elif self.modes:
            variables = self.module.init(rngs, x, **mode_arguments(self.modes, False))
        else:
            with nn.intercept_methods(_refuse_unswitched):
                variables = self.module.init(rngs, x)
        collections = dict(variables)
        params = collections.pop("params", {})
        collections.pop("intermediates", None)
        return Variables(params, collections)

    def train(
        self, variables: Variables, x: PyTree, key: PRNGKeyArray
    ) -> tuple[PyTree, PyTree]:
        """Outputs in training mode, and the collections after the step."""
        # Flax falls back to `params` for every stream that is not given; the same key
        # under a second name would give the same draws.
        outputs, updates = self._call(variables, x, True, {"params": key})
        before = variables.collections
        after = {name: updates.get(name, value) for name, value in before.items()}
        for name, value in before.items():
            if jax.tree.structure(value) != jax.tree.structure(after[name]):
                raise ValueError(
                    f"The collection '{name}' of `{type(self.module).__name__}` is not "
                    "of the same structure after a step. If it is written by "
                    "`self.sow`, which appends, sow into 'intermediates' (which are "
                    "dropped), or keep the last value alone: `self.sow(..., "
                    "init_fn=lambda: 0.0, reduce_fn=lambda old, new: new)`."
                )
        return outputs, after

    def evaluate(self, variables: Variables, x: PyTree) -> PyTree:
        """Outputs in evaluation mode, in which there is no random key."""
        try:
            return self._call(variables, x, False, None)[0]
        except errors.InvalidRngError as error:
            raise ValueError(
                f"`{type(self.module).__name__}` draws random numbers in evaluation "
                "mode, which has no key. Pass the mode on to the layer that draws (for "
                "example `nn.Dropout(rate, deterministic=not train)`), or give it a "
                "fixed key by `Model(..., apply=...)`."
            ) from error

    def _call(
        self, variables: Variables, x: PyTree, train: bool, rngs: Any
    ) -> tuple[PyTree, Mapping[str, PyTree]]:
        known = variables.collections
        every = {"params": variables.params, **known}
        if self.apply is not None:
            return _result(self.apply(self.module, every, x, train, rngs), known)
        modes = mode_arguments(self.modes, train)
        if train and known:
            return self.module.apply(every, x, rngs=rngs, mutable=list(known), **modes)
        return self.module.apply(every, x, rngs=rngs, **modes), {}


def _result(result: Any, known: Any) -> tuple[PyTree, Mapping[str, PyTree]]:
    if isinstance(result, tuple) and len(result) == 2:
        outputs, updates = result
        if isinstance(updates, Mapping) and (
            not updates or not {*known, "intermediates"}.isdisjoint(updates)
        ):
            return outputs, updates
    return result, {}


def _init_by_apply(module: nn.Module, apply: Apply, x: PyTree, rngs: Any) -> Any:
    """Initialises a module with the arguments with which `apply` calls it."""
    params_rngs = rngs
    made: dict[tuple[str, ...], Any] = {}

    def recording(module: nn.Module) -> nn.Module:
        def record(variables, *args, rngs=None, mutable=False, **kwargs):
            del variables
            outputs, new = module.init_with_output(
                {**(rngs or {}), **params_rngs}, *args, mutable=True, **kwargs
            )
            made.update(traverse_util.flatten_dict(new, keep_empty_nodes=True))
            return outputs if mutable is False else (outputs, new)

        copy = module.clone()
        # Past Flax's own `__setattr__`: the copy is called by `apply` alone.
        object.__setattr__(copy, "apply", record)
        object.__setattr__(copy, "clone", lambda **c: recording(module.clone(**c)))
        return copy

    apply(recording(module), {}, x, False, rngs)
    if not made:
        raise ValueError(
            "`Model(apply=...)` never called `module.apply(variables, ...)`, neither "
            "on the module that it was given nor on a clone of it."
        )
    return traverse_util.unflatten_dict(made)


def _refuse_unswitched(call: Any, args: Any, kwargs: Any, context: Any) -> Any:
    """Refuses layers with two modes, below a module that is not told its mode."""
    layer = context.module
    if isinstance(layer, (nn.Dropout, nn.BatchNorm)) or (
        isinstance(layer, nn.MultiHeadDotProductAttention) and layer.dropout_rate > 0
    ):
        raise ValueError(
            f"The module holds `{type(layer).__name__}` ({'/'.join(layer.path)}), "
            "which differs between training and evaluation, but its `__call__` takes "
            "no mode. Add an argument `train: bool` and pass it on, or say how to call "
            "it: `Model(..., apply=lambda module, variables, x, train, rngs: ...)`."
        )
    return call(*args, **kwargs)
