"""When two values are the same: by type and bytes, never by a loose `==`.

Python's equality is too generous to decide that two programs are one (`0.0 == -0.0`,
`1 == True == 1.0`), and elsewhere too strict (`nan != nan`).
"""

import dataclasses
import enum
import functools
import types
from collections.abc import Callable, Hashable, Iterable, Mapping
from typing import Any, NamedTuple

import flax.core
import jax
import numpy as np
from jax.core import Tracer

from vtune.fusion import internals
from vtune.fusion.arrays import array_identity, is_array


# What Flax hangs on a Linen module beside its fields, new in each object.
_LINEN_BOOKKEEPING = frozenset({"_id", "_state", "_parent_ref", "scope"})

# Functions that JAX keeps beside the jaxpr they were traced to.
_REDUNDANT = frozenset({("reduce", "computation")})


class Reference:
    """Equal only to a reference to the very same object, which it keeps alive.

    Args:
        target: the object.
    """

    __slots__ = ("target",)

    def __init__(self, target: Any):
        self.target = target

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Reference) and self.target is other.target

    def __hash__(self) -> int:
        return hash(id(self.target))

    def __repr__(self) -> str:
        return f"Reference({self.target!r})"


def identity(value: Any) -> Hashable:
    """A hashable stand-in that is equal only where the values are the same.

    Numbers and arrays are the same by dtype, shape and bytes (`0.0` is not `-0.0`, NaN
    is NaN, `1` is not `True`); containers, dataclasses (Flax Linen modules among them)
    and partials part by part. Functions and objects of unknown classes are the same
    only if they are the same object.

    Args:
        value: anything.

    Returns:
        A value that compares and hashes exactly and keeps alive what it refers to.

    Example:
        ```python
        from vtune.fusion.identity import identity

        assert identity((1, 0.0)) != identity((True, -0.0))
        assert identity(float("nan")) == identity(float("nan"))
        ```
    """
    return _identity(value, _Walk((), trusts=True))


def params_identity(primitive: Any, params: Mapping[str, Any]) -> Hashable:
    """The identity of all parameters of an equation.

    Jaxprs among them are compared equation by equation with their constants. What
    belongs to the user and could be changed (a list given to a callback, an object that
    is one) is the same only if it is the same object: a callback may write into it.

    Args:
        primitive: the equation's primitive.
        params: its parameters by name.

    Returns:
        A value that is equal only if every parameter is the same.
    """
    if not params:
        return ()
    return _params(primitive, params, _Walk((), trusts=False))


class _Walk(NamedTuple):
    """What lies around the value that is looked at.

    Args:
        active: the ids of the objects whose parts are being looked at, against cycles.
        trusts: whether objects that could be changed count as their present parts.
    """

    active: tuple[int, ...]
    trusts: bool

    def into(self, value: Any) -> "_Walk":
        return self._replace(active=(*self.active, id(value)))


_Rule = Callable[[Any, _Walk], Hashable]


def _identity(value: Any, walk: _Walk) -> Hashable:
    rule = _RULES.get(type(value))
    return rule(value, walk) if rule is not None else _of_other(value, walk)


def _identities(values: Iterable[Any], walk: _Walk) -> tuple[Hashable, ...]:
    return tuple([_identity(value, walk) for value in values])


# Every stand-in that is not the value itself is a tuple that starts with a class, so
# that two values of different classes never share one.


def _itself(value: Any, walk: _Walk) -> Hashable:
    del walk
    return value


def _tagged(value: Any, walk: _Walk) -> Hashable:
    del walk
    return (type(value), value)


def _reference(value: Any, walk: _Walk) -> Hashable:
    del walk
    return Reference(value)


def _float(value: float, walk: _Walk) -> Hashable:
    del walk
    return (type(value), np.float64(value).tobytes())


def _complex(value: complex, walk: _Walk) -> Hashable:
    del walk
    return (type(value), np.complex128(value).tobytes())


def _dtype(value: np.dtype, walk: _Walk) -> Hashable:
    del walk
    return (np.dtype, value)


def _tuple(value: tuple, walk: _Walk) -> Hashable:
    return (type(value), *[_identity(item, walk) for item in value])


def _enum(value: enum.Enum, walk: _Walk) -> Hashable:
    del walk
    return (type(value), value.name)


def _array(value: Any, walk: _Walk) -> Hashable:
    changeable = isinstance(value, np.ndarray)
    if isinstance(value, Tracer) or (changeable and not walk.trusts):
        return Reference(value)
    if changeable and value.dtype.hasobject:
        return Reference(value)
    return (type(value), array_identity(value))


def _container(value: Any, walk: _Walk) -> Hashable:
    if not walk.trusts or id(value) in walk.active:
        return Reference(value)
    inner = walk.into(value)
    if isinstance(value, Mapping):
        return _items(value, inner)
    parts = _identities(value, inner)
    return (type(value), frozenset(parts) if isinstance(value, set) else parts)


def _frozenset(value: frozenset, walk: _Walk) -> Hashable:
    return (frozenset, frozenset(_identities(value, walk)))


def _items(value: Mapping, walk: _Walk) -> Hashable:
    keys = _identities(value.keys(), walk)
    return (type(value), keys, _identities(value.values(), walk))


def _slice(value: slice, walk: _Walk) -> Hashable:
    return (slice, *_identities((value.start, value.stop, value.step), walk))


def _method(value: types.MethodType, walk: _Walk) -> Hashable:
    del walk
    return (types.MethodType, Reference(value.__func__), Reference(value.__self__))


def _partial(value: functools.partial, walk: _Walk) -> Hashable:
    arguments = _identities((value.func, *value.args), walk)
    return (type(value), arguments, _items(value.keywords, walk))


def _function(value: types.FunctionType, walk: _Walk) -> Hashable:
    """A function is itself, but JAX makes some of its own anew for every trace.

    `jax.debug.callback` wraps the user's function in such a closure. A closure of
    JAX's own is its code and what it closes over.
    """
    cells = value.__closure__
    made_by_jax = cells and _is_of_jax(value.__globals__.get("__name__"))
    if not made_by_jax or id(value) in walk.active:
        return Reference(value)
    inner = walk.into(value)
    try:
        contents = [cell.cell_contents for cell in cells or ()]
    except ValueError:  # a cell that is not filled yet
        return Reference(value)
    parts = [
        _items(content, inner) if type(content) is dict else _identity(content, inner)
        for content in contents
    ]
    parts.append(_identity(value.__defaults__, inner))
    parts.append(_items(value.__kwdefaults__ or {}, inner))
    return (types.FunctionType, Reference(value.__code__), *parts)


def _treedef(value: Any, walk: _Walk) -> Hashable:
    node = value.node_data()
    children = tuple([_treedef(child, walk) for child in value.children()])
    if node is None:
        return (type(value), value.num_leaves)
    auxiliary = tuple(node[1]) if type(node[1]) is list else node[1]
    return (type(value), Reference(node[0]), _identity(auxiliary, walk), children)


def _of_other(value: Any, walk: _Walk) -> Hashable:
    rule = _rule_of(type(value))
    if _is_of_jax(type(value).__module__) or isinstance(value, np.dtype):
        _RULES[type(value)] = rule  # these classes live as long as the process
    return rule(value, walk)


def _rule_of(kind: type) -> _Rule:
    for base, rule in _BASES:
        if issubclass(kind, base):
            return rule
    if dataclasses.is_dataclass(kind):
        return _dataclass
    if _is_of_jax(kind.__module__) and kind.__eq__ is not object.__eq__:
        return _jax_value
    return _reference


def _jax_value(value: Any, walk: _Walk) -> Hashable:
    """Shardings, layouts, meshes: JAX's own caches of programs rely on their `==`."""
    del walk
    try:
        hash(value)
    except TypeError:
        return Reference(value)
    return (type(value), value)


def _dataclass(value: Any, walk: _Walk) -> Hashable:
    kind = type(value)
    changeable = not walk.trusts and not _is_of_jax(kind.__module__)
    if changeable or id(value) in walk.active:
        return Reference(value)
    names = [field.name for field in dataclasses.fields(value)]
    extra = [name for name in getattr(value, "__dict__", ()) if name not in names]
    if "_parent_ref" in extra:  # a Linen module: where it was made is not what it is
        names.remove("parent")
        extra = [name for name in extra if name not in _LINEN_BOOKKEEPING]
    inner = walk.into(value)
    parts = []
    for name in (*names, *extra):
        if not hasattr(value, name):
            return Reference(value)
        parts.append((name, _identity(getattr(value, name), inner)))
    return (kind, *parts)


def _is_of_jax(module: str | None) -> bool:
    return module is not None and module.partition(".")[0] in ("jax", "jaxlib")


def _params(primitive: Any, params: Mapping[str, Any], walk: _Walk) -> Hashable:
    return tuple(
        [
            (name, _identity(value, walk))
            for name, value in params.items()
            if (primitive.name, name) not in _REDUNDANT
        ]
    )


def _jaxpr(value: Any, walk: _Walk) -> Hashable:
    jaxpr, constants = internals.open_jaxpr(value)
    numbers: dict[Any, int] = {}

    def define(variable: Any) -> Hashable:
        numbers[variable] = len(numbers)
        return internals.strong(variable.aval)

    def read(atom: Any) -> Hashable:
        if internals.is_literal(atom):
            return _constant(atom.val, atom.aval)
        return numbers[atom]

    inputs = tuple(define(v) for v in (*jaxpr.constvars, *jaxpr.invars))
    equations = []
    for equation in jaxpr.eqns:
        operands = tuple(read(atom) for atom in equation.invars)
        params = _params(equation.primitive, equation.params, walk)
        results = tuple(define(v) for v in equation.outvars)
        equations.append((equation.primitive, params, operands, results, equation.ctx))
    outputs = tuple(read(atom) for atom in jaxpr.outvars)
    pairs = zip(jaxpr.constvars, constants)
    values = tuple(_constant(constant, v.aval) for v, constant in pairs)
    return (type(value), inputs, tuple(equations), outputs, values)


def _constant(value: Any, aval: Any) -> Hashable:
    concrete = internals.concrete(value, aval)
    return array_identity(concrete) if is_array(concrete) else Reference(concrete)


_BASES: tuple[tuple[Any, _Rule], ...] = (
    (type, _reference),
    (enum.Enum, _enum),
    (tuple, _tuple),
    (np.dtype, _dtype),
    ((np.ndarray, np.generic, jax.Array), _array),
    (internals.JAXPRS, _jaxpr),
    ((int, float, complex, str, bytes), _reference),
)

_RULES: dict[type, _Rule] = {
    type(None): _itself,
    type(...): _itself,
    int: _itself,
    str: _itself,
    bytes: _itself,
    bool: _tagged,
    range: _tagged,
    float: _float,
    complex: _complex,
    tuple: _tuple,
    list: _container,
    dict: _container,
    types.MappingProxyType: _container,
    flax.core.FrozenDict: _container,
    set: _container,
    frozenset: _frozenset,
    slice: _slice,
    functools.partial: _partial,
    jax.tree_util.Partial: _partial,
    jax.tree_util.PyTreeDef: _treedef,
    types.MethodType: _method,
    types.FunctionType: _function,
}
