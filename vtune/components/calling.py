"""How a Flax module is called: its variables, its mode, its one argument."""

import inspect
from collections.abc import Callable
from typing import Any

from flax import struct
from jaxtyping import PyTree


Apply = Callable[[Any, Any, Any, bool, Any], Any]

# The arguments of `__call__` that say which mode it is, and their value in training.
_MODES = {
    "train": True,
    "training": True,
    "is_training": True,
    "deterministic": False,
    "use_running_average": False,
}


@struct.dataclass
class Variables:
    """What a network is made of, apart from its code.

    Args:
        params: the parameters, nested dicts of arrays.
        collections: everything else that it keeps from step to step, such as the
            running statistics of BatchNorm: for Linen by collection, for NNX by
            attribute.
    """

    params: PyTree
    collections: PyTree


def mode_arguments(modes: tuple[str, ...], train: bool) -> dict[str, Any]:
    """The arguments of `__call__` that say the mode, with their values."""
    return {name: _MODES[name] == train for name in modes}


def mode_names(module: type, also: tuple[str, ...] = ()) -> tuple[str, ...]:
    """The names of the arguments of `__call__` that say the mode.

    Args:
        module: a class of modules.
        also: arguments that are given beside them.

    Returns:
        The names, some of `train`, `training`, `is_training`, `deterministic` and
        `use_running_average`.

    Raises:
        ValueError: if there is no `__call__`, or if it takes what nobody would give.
    """
    name = module.__name__
    if not any("__call__" in vars(ancestor) for ancestor in module.__mro__):
        raise ValueError(
            f"`{name}` has no `__call__`. Write one, or say how to call the module: "
            "`Model(..., apply=lambda module, variables, x, train, rngs: ...)`."
        )
    _, *parameters = inspect.signature(module.__call__).parameters.values()
    given = {*_MODES, *also, *[p.name for p in parameters[:1]]}
    for parameter in parameters:
        required = parameter.default is parameter.empty
        variadic = parameter.kind in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD)
        if required and not variadic and parameter.name not in given:
            raise ValueError(
                f"`{name}.__call__` also takes `{parameter.name}`, but is called with "
                "one `x`, which may be a tuple or a dict. Say how to call it: "
                "`Model(..., apply=lambda module, variables, x, train, rngs: ...)`."
            )
    return tuple(p.name for p in parameters[1:] if p.name in _MODES)
