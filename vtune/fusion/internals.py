"""The one place that touches JAX beyond its public API, and what it relies on.

- Names and parameters of the primitives that call or repeat a jaxpr (`called`,
  `control_flow`). An unknown one is left whole, which is right but fuses less.
- `eqn.ctx.manager`: the settings an equation was traced under (partitionable threefry,
  compute type, mesh), entered again when it is evaluated; the object is interned, so
  that identity is equality.
- `source_info.traceback.frames`, innermost first, up to the function that was traced:
  whoever called that (or called it first, since JAX remembers traces) is not in it.
- `effects.ordered_effects`, the kinds of effect that need an order.
- The name of a random key's generator, in its dtype.
"""

import contextlib
import os
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax._src import effects as jax_effects, source_info_util
from jax._src.lax.lax import optimization_barrier_p
from jax.core import ShapedArray
from jax.extend.core import ClosedJaxpr, Jaxpr, Literal


# Primitives that only call a jaxpr, and the parameter that holds it. Rules of
# differentiation (of custom_jvp, custom_vjp, remat) have done their work once a
# function is traced, since a traced function is never differentiated again.
_CALLS: Mapping[str, str] = {
    "jit": "jaxpr",
    "pjit": "jaxpr",
    "closed_call": "call_jaxpr",
    "core_closed_call": "call_jaxpr",
    "call": "call_jaxpr",
    "core_call": "call_jaxpr",
    "eval_jaxpr": "call_jaxpr",
    "custom_jvp_call": "call_jaxpr",
    "custom_vjp_call": "call_jaxpr",
    "custom_vjp_call_jaxpr": "fun_jaxpr",
    "remat": "jaxpr",
    "remat2": "jaxpr",
    "checkpoint": "jaxpr",
}

OPTIMIZATION_BARRIER = optimization_barrier_p

JAXPRS = (ClosedJaxpr, Jaxpr)

_HERE = os.path.dirname(os.path.abspath(__file__)) + os.sep
_JAX = os.path.dirname(os.path.abspath(jax.__file__)) + os.sep
_STANDARD_LIBRARY = os.path.dirname(os.path.abspath(os.__file__)) + os.sep
_INSTALLED = (f"{os.sep}site-packages{os.sep}", f"{os.sep}dist-packages{os.sep}")


def called(name: str, params: Mapping[str, Any]) -> Any | None:
    """The jaxpr that an equation only calls, or None if it does something else."""
    return params.get(_CALLS[name]) if name in _CALLS else None


def converts_nothing(params: Mapping[str, Any], aval: Any) -> bool:
    """Whether a `convert_element_type` only drops or adds a weak type."""
    return params["new_dtype"] == aval.dtype and params.get("sharding") is None


class ControlFlow(NamedTuple):
    """An equation that repeats or chooses jaxprs, in one form for all versions of JAX.

    Args:
        bodies: the jaxprs: scan's body; while's condition and body; cond's branches.
        params: what else the primitive needs to know.
    """

    bodies: tuple[Any, ...]
    params: Mapping[str, Any]


def control_flow(name: str, params: Mapping[str, Any]) -> ControlFlow | None:
    """The jaxprs and the other parameters of a scan, while or cond equation.

    Args:
        name: the primitive's name.
        params: the equation's parameters.

    Returns:
        None for any other primitive, and for a cond that chooses by platform (its
        branches may only exist on one of them, so that it has to stay as it is).
    """
    if name == "scan":
        constants, carry = _scan_counts(params)
        return ControlFlow(
            (params["jaxpr"],),
            {
                "num_consts": constants,
                "num_carry": carry,
                "length": params["length"],
                "reverse": params["reverse"],
                "unroll": params["unroll"],
            },
        )
    if name == "while":
        return ControlFlow(
            (params["cond_jaxpr"], params["body_jaxpr"]),
            {
                "cond_nconsts": params["cond_nconsts"],
                "body_nconsts": params["body_nconsts"],
            },
        )
    if name == "cond" and params.get("branches_platforms") is None:
        return ControlFlow(tuple(params["branches"]), {})
    return None


def _scan_counts(params: Mapping[str, Any]) -> tuple[int, int]:
    if "num_carry" in params:
        return params["num_consts"], params["num_carry"]
    constants, carry, _ = params["ft_in"].unpack()
    return len(constants), len(carry)


def open_jaxpr(jaxpr: Any) -> tuple[Any, Sequence[Any]]:
    """The equations of a jaxpr, closed or not, and the values of its constvars."""
    return getattr(jaxpr, "jaxpr", jaxpr), getattr(jaxpr, "consts", ())


def inner_equations(params: Mapping[str, Any]) -> Iterator[Any]:
    """All equations, at any depth, of the jaxprs that a primitive keeps to itself."""
    for value in params.values():
        for item in value if isinstance(value, tuple) else (value,):
            if isinstance(item, JAXPRS):
                for equation in open_jaxpr(item)[0].eqns:
                    yield equation
                    yield from inner_equations(equation.params)


def key_implementation(aval: Any) -> str | None:
    """The name of the generator of an array of typed random keys, else None."""
    dtype = getattr(aval, "dtype", None)
    if dtype is None or not jnp.issubdtype(dtype, jax.dtypes.prng_key):
        return None
    return dtype._impl.name


def is_literal(atom: Any) -> bool:
    """Whether an operand of a jaxpr's equation is a literal, not a variable."""
    return isinstance(atom, Literal)


def strong(aval: Any) -> Any:
    """An abstract value without its weak type.

    A weak type only says how Python's numbers promote while tracing, which is over.
    """
    return aval.update(weak_type=False) if getattr(aval, "weak_type", False) else aval


def concrete(value: Any, aval: Any) -> Any:
    """A constant of a jaxpr in its own dtype: a JAX array as it is, else a NumPy array.

    Args:
        value: a literal's or constvar's value: a number, an array, keys.
        aval: its abstract value, which knows the dtype.

    Returns:
        A NumPy array, a JAX array, or the value itself if it is no array.
    """
    if isinstance(value, jax.Array) or not isinstance(aval, ShapedArray):
        return value
    return np.asarray(value, dtype=aval.dtype)


def barred_arguments(name: str, params: Mapping[str, Any], count: int) -> list[bool]:
    """Which arguments of a call JAX lowers behind an optimization barrier.

    A differentiated `jax.checkpoint` recomputes its forward pass; without the barrier
    XLA would find the two passes equal and keep the first one's results in memory.
    """
    if not (name in ("remat", "remat2", "checkpoint") and params.get("differentiated")):
        return [False] * count
    prevent = params.get("prevent_cse", False)
    return [prevent] * count if isinstance(prevent, bool) else list(prevent)


def bind(equation: Any, inputs: Sequence[Any]) -> list[Any]:
    """Applies an equation's primitive as JAX's own interpreter does.

    Args:
        equation: an equation of a flat function.
        inputs: the operands.

    Returns:
        The results, always as a list.
    """
    primitive = equation.primitive
    params = primitive.get_bind_params(equation.params)
    with as_traced(equation):
        results = primitive.bind(*inputs, **params)
    return list(results) if primitive.multiple_results else [results]


@contextlib.contextmanager
def as_traced(equation: Any) -> Iterator[None]:
    """Enters the settings, the names and the user's line of an equation.

    Args:
        equation: an equation of a flat function.
    """
    names = source_info_util.current_name_stack()
    for source in equation.sources:
        names = names + source.name_stack
    traceback = equation.sources[-1].traceback
    with (
        source_info_util.user_context(traceback, name_stack=names),
        equation.context.manager,
    ):
        yield


def is_ordered(effect: Any) -> bool:
    """Whether an effect must happen in program order."""
    return jax_effects.ordered_effects.contains(effect)


def user_line(sources: Sequence[Any]) -> str | None:
    """The user's own line that led to an equation.

    Args:
        sources: the `source_info` of the calls around the equation, outermost first,
            then its own.

    Returns:
        Such as `"model.py:12 (Net.__call__)"`, or None if no user's frame is known.
    """
    for source in reversed(sources):
        for frame in source.traceback.frames if source.traceback else ():
            file = frame.file_name
            if file.startswith(_HERE):
                break  # what lies further out called the tracing, not the equation
            if not _is_of_a_library(file):
                return f"{file}:{frame.line_num} ({frame.function_name})"
    return None


def _is_of_a_library(file: str) -> bool:
    return file.startswith((_JAX, _STANDARD_LIBRARY)) or any(
        part in file for part in _INSTALLED
    )


def threefry_is_partitionable(equation: Any | None = None) -> bool:
    """Whether threefry hashes the number of each entry alone.

    Args:
        equation: under whose settings; without one, under those of now.
    """
    if equation is None:
        return getattr(jax.config, "jax_threefry_partitionable")
    with equation.context.manager:
        return getattr(jax.config, "jax_threefry_partitionable")
