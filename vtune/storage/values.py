"""How is a value written as text, so that it comes back exactly?

The text is JSON in ASCII. What JSON or its readers would damage carries a tag:

    NaN         {"$float": "nan"}, with its bits where it is not the usual one
    infinity    {"$float": "inf"}
    2**70       {"$int": "0x400000000000000000"}, for what needs more than 64 bits
    "\\ud800"    {"$str": "eda080"}, for text that is not Unicode
    {"$int": 1} {"$object": [["$int", 1]]}, for names that would be taken for tags

All other floats are decimals, the shortest that give the same bits again. Each value
has one text, and any other text is refused: equal texts are equal values.
"""

import dataclasses
import json
import math
import struct
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from vtune.parameters import Choice, Fixed, FloatRange, IntRange, Parameter
from vtune.storage.failure import StorageError


# No value of a study comes near; a text that does was not written by vtune.
LONGEST_TEXT = 16 * 2**20
DEEPEST_NESTING = 50

_JSON = json.JSONEncoder(allow_nan=False)
_USUAL_NAN = 0x7FF8 << 48


def encode(value: Any) -> str:
    """A value as text.

    Args:
        value: None, an int, float, str or bool, or lists, and mappings with str as
            keys, of such values.

    Returns:
        The text; it has no control characters, and ASCII only.

    Raises:
        StorageError: if the value, or what it holds, is of another type.
    """
    text = _JSON.encode(_tagged(value, 0))
    if len(text) > LONGEST_TEXT:
        raise StorageError(
            f"A value takes {len(text):,} characters as text; {LONGEST_TEXT:,} is the "
            f"most that a study stores in one place. It begins with {text[:60]!r}."
        )
    return text


def decode(text: str) -> Any:
    """The value that `encode` wrote.

    Args:
        text: what `encode` returned.

    Returns:
        The value, with mappings as dicts.

    Raises:
        StorageError: if `encode` cannot have written this text.
    """
    if len(text) > LONGEST_TEXT:
        raise _refused(text, f"it is longer than {LONGEST_TEXT:,} characters")
    try:
        value = _untagged(json.loads(text), 0)
    except RecursionError:
        raise _refused(text, "it is nested too deeply") from None
    except (ValueError, OverflowError) as error:
        raise _refused(text, str(error)) from None
    if encode(value) != text:
        raise _refused(text, "this value is written in another way")
    return value


def encode_parameters(parameters: Sequence[Parameter]) -> str:
    """Hyperparameters' kinds as text.

    Args:
        parameters: what `build` asked for.

    Returns:
        The text.

    Raises:
        StorageError: if a parameter is of a kind or holds a value that is not stored.
    """
    return encode([_described(parameter) for parameter in parameters])


def decode_parameters(text: str) -> tuple[Parameter, ...]:
    """The hyperparameters that `encode_parameters` wrote.

    Args:
        text: what `encode_parameters` returned.

    Returns:
        The parameters, each with the same repr as before.

    Raises:
        StorageError: if `encode_parameters` cannot have written this text.
    """
    described = decode(text)
    try:
        parameters = tuple(_parameter(**fields) for fields in described)
        if encode_parameters(parameters) == text:
            return parameters
    except TypeError:
        pass
    raise _refused(text, "it is no list of hyperparameters")


def _refused(text: str, reason: str) -> StorageError:
    return StorageError(
        f"A stored value cannot be read: {reason}. It is {text[:60]!r}. Put back a "
        "copy of the study, or start anew in another directory."
    )


# -------------------------------------------------------------------- to plain JSON


def _tagged(value: Any, depth: int) -> Any:
    if depth > DEEPEST_NESTING:
        raise StorageError(
            f"A value is nested more than {DEEPEST_NESTING} deep; a study stores none."
        )
    if value is None or type(value) is bool:
        return value
    if type(value) is str:
        return _tagged_text(value)
    if type(value) is int:
        return value if -(2**63) <= value < 2**63 else {"$int": hex(value)}
    if type(value) is float:
        return _tagged_float(value)
    if type(value) is list:
        return [_tagged(member, depth + 1) for member in value]
    if isinstance(value, Mapping):
        return _tagged_mapping(value, depth)
    raise StorageError(
        f"A study stores int, float, str, bool, None, and lists and mappings of them; "
        f"got {value!r} of type {type(value).__name__}. Convert it first."
    )


def _tagged_text(value: str) -> str | dict[str, str]:
    if value.isascii() or not _has_surrogates(value):
        return value
    return {"$str": value.encode("utf-8", "surrogatepass").hex()}


def _has_surrogates(text: str) -> bool:
    return any("\ud800" <= character <= "\udfff" for character in text)


def _tagged_float(value: float) -> float | dict[str, str]:
    if math.isfinite(value):
        return value
    bits = int.from_bytes(struct.pack(">d", value))
    if value != value and bits != _USUAL_NAN:
        return {"$float": f"nan {bits:#x}"}
    return {"$float": repr(value)}


def _tagged_mapping(value: Mapping[Any, Any], depth: int) -> dict[str, Any]:
    for name in value:
        if type(name) is not str:
            raise StorageError(f"A stored mapping has names of type str; got {name!r}.")
    if any(name in _READERS or _has_surrogates(name) for name in value):
        pairs = [[name, member] for name, member in value.items()]
        return {"$object": _tagged(pairs, depth)}
    return {name: _tagged(member, depth + 1) for name, member in value.items()}


# -------------------------------------------------------------------- and back


def _untagged(node: Any, depth: int) -> Any:
    if depth > DEEPEST_NESTING:
        raise ValueError("it is nested too deeply")
    if type(node) is list:
        return [_untagged(member, depth + 1) for member in node]
    if type(node) is not dict:
        return node
    tag = next(iter(node), "")
    if tag in _READERS:
        return _READERS[tag](node[tag], depth)
    return {name: _untagged(member, depth + 1) for name, member in node.items()}


def _untagged_float(text: Any, depth: int) -> float:
    kind, _, bits = _checked_text(text).partition(" ")
    if not bits:
        return float(kind)
    return struct.unpack(">d", int(bits, 16).to_bytes(8))[0]


def _untagged_int(text: Any, depth: int) -> int:
    return int(_checked_text(text), 16)


def _untagged_text(text: Any, depth: int) -> str:
    return bytes.fromhex(_checked_text(text)).decode("utf-8", "surrogatepass")


def _untagged_mapping(pairs: Any, depth: int) -> dict[str, Any]:
    pairs = _untagged(pairs, depth)
    if type(pairs) is not list or not all(
        type(pair) is list and len(pair) == 2 and type(pair[0]) is str for pair in pairs
    ):
        raise ValueError("an object's names and values do not come in pairs")
    return dict(pairs)


def _checked_text(text: Any) -> str:
    if type(text) is not str:
        raise ValueError(f"a tag is followed by {str(text)[:60]}, which is no text")
    return text


_READERS: dict[str, Callable[[Any, int], Any]] = {
    "$float": _untagged_float,
    "$int": _untagged_int,
    "$str": _untagged_text,
    "$object": _untagged_mapping,
}


# -------------------------------------------------------------------- parameters

_KINDS: dict[str, type[Parameter]] = {
    kind.__name__: kind for kind in (IntRange, FloatRange, Choice, Fixed)
}


def _described(parameter: Parameter) -> dict[str, Any]:
    kind = type(parameter).__name__
    if _KINDS.get(kind) is not type(parameter) or not _is_typed(parameter):
        raise StorageError(
            f"A study stores hyperparameters of the kinds {', '.join(_KINDS)}, with "
            f"values of the types that they name; got {parameter!r}."
        )
    fields = dataclasses.asdict(parameter)
    if isinstance(parameter, Choice):
        fields["values"] = list(parameter.values)
    return {"kind": kind} | fields


def _parameter(kind: str, **fields: Any) -> Parameter:
    if kind == Choice.__name__ and type(fields.get("values")) is list:
        fields["values"] = tuple(fields["values"])
    if kind not in _KINDS:
        raise TypeError(kind)
    return _KINDS[kind](**fields)


def _is_typed(parameter: Parameter) -> bool:
    if type(parameter.name) is not str:
        return False
    if isinstance(parameter, Choice):
        members = (*parameter.values, parameter.default)
        return type(parameter.values) is tuple and all(map(_is_value, members))
    if isinstance(parameter, Fixed):
        return _is_value(parameter.value)
    number = int if isinstance(parameter, IntRange) else float
    numbers = (parameter.min_value, parameter.max_value, parameter.default)
    return (
        all(type(value) is number for value in numbers)
        and (parameter.step is None or type(parameter.step) is number)
        and parameter.sampling in ("linear", "log", "reverse_log")
    )


def _is_value(value: Any) -> bool:
    return type(value) in (int, float, str, bool)
