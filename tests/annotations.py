"""Checks the shapes and dtypes in the annotations of vtune while the tests run."""

import typing
from collections.abc import Callable
from typing import Any

import beartype


def check_arrays(function: Callable[..., Any]) -> Callable[..., Any]:
    """Checks the arguments and results of a function that are annotated as arrays.

    All others pass: what a wrong one leads to is the function's own affair, and has to
    be an error that its caller understands.
    """
    hints = function.__annotations__
    arrays = {name: hint for name, hint in hints.items() if names_an_array(hint)}
    function.__annotations__ = arrays
    return beartype.beartype(function) if arrays else function


def names_an_array(hint: Any) -> bool:
    """Whether an annotation is one of jaxtyping's, or holds one."""
    if getattr(hint, "__module__", None) == "jaxtyping":
        return True
    return any(names_an_array(part) for part in typing.get_args(hint))
