"""What may be given as an optimizer, and what is said about the rest."""

import functools
import inspect
from collections.abc import Iterator
from typing import Any

import optax


_OPTAX_CALLS = {
    name: f"optax.{name}(1e-3)"
    for name in (
        "adabelief adadelta adafactor adagrad adam adamax adamw amsgrad lamb lars lion "
        "nadam nadamw novograd radam rmsprop yogi"
    ).split()
} | {"sgd": "optax.sgd(1e-2, momentum=0.9)", "muon": "optax.contrib.muon(1e-3)"}


def resolve_optimizer(optimizer: Any) -> optax.GradientTransformationExtraArgs:
    """The optimizer as a transformation that takes `value=` and `grad=`.

    Args:
        optimizer: any `optax.GradientTransformation`.

    Returns:
        One whose `update` also takes the loss and the gradient, and may use them.

    Raises:
        TypeError: for anything else; the message names the Optax call to write.
        ValueError: for an optimizer that searches along a line.
    """
    if not isinstance(optimizer, optax.GradientTransformation):
        raise TypeError(
            "`Model(optimizer=...)` takes an Optax transformation, such as "
            f"`optax.adam(1e-3)`, got {_description(optimizer)}"
        )
    if any(map(_wants_value_function, _functions(optimizer.update))):
        raise ValueError(
            "`Model(optimizer=...)` got one with a line search, which calls the loss "
            "again at points of its own choice (`value_fn=`); a training step knows it "
            "at one point only. Give a learning rate or a schedule in its place, for "
            "example `optax.lbfgs(1e-2, linesearch=None)`."
        )
    return optax.with_extra_args_support(optimizer)


def _description(optimizer: Any) -> str:
    is_name = isinstance(optimizer, str)
    name = (optimizer if is_name else type(optimizer).__name__).lower()
    if call := _OPTAX_CALLS.get(name):
        return f"{optimizer!r}. Write `{call}`."
    if is_name:
        return f"{optimizer!r}. Optax's optimizers are functions: `optax.<name>(...)`."
    if isinstance(optimizer, optax.MultiSteps):
        return "an `optax.MultiSteps`. Add `.gradient_transformation()` to it."
    if callable(optimizer):
        name = getattr(optimizer, "__name__", repr(optimizer))
        call = _OPTAX_CALLS.get(name, f"{name}(...)")
        return f"the function `{name}` itself. Call it: `{call}`."
    return f"{optimizer!r}."


def _wants_value_function(function: Any) -> bool:
    try:
        parameter = inspect.signature(function).parameters.get("value_fn")
    except (TypeError, ValueError):  # a built-in without a signature
        return False
    return parameter is not None and parameter.default is parameter.empty


def _functions(root: Any) -> Iterator[Any]:
    """The functions that a function may call: those in its closure, at any depth."""
    pending, seen = [root], set()
    while pending:
        value = pending.pop()
        if id(value) in seen:
            continue
        seen.add(id(value))
        if isinstance(value, (tuple, list)):
            pending.extend(value)
        elif isinstance(value, dict):
            pending.extend(value.values())
        elif isinstance(value, functools.partial):
            pending.append(value.func)
        elif inspect.ismethod(value):
            pending.extend((value.__func__, value.__self__))
        elif isinstance(value, optax.MultiSteps):
            pending.extend(vars(value).values())
        elif inspect.isfunction(value):
            yield value
            pending.extend(_cells(value))


def _cells(function: Any) -> Iterator[Any]:
    for cell in function.__closure__ or ():
        try:
            yield cell.cell_contents
        except ValueError:  # a cell that is not filled yet
            continue
