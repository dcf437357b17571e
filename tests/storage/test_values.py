"""Values come back from their text exactly, and no other text is read."""

import json
import math
import struct

import pytest
from hypothesis import example, given, strategies as st

from vtune.parameters import Choice, Fixed, FloatRange, IntRange
from vtune.storage.failure import StorageError
from vtune.storage.values import (
    DEEPEST_NESTING,
    LONGEST_TEXT,
    decode,
    decode_parameters,
    encode,
    encode_parameters,
)


CHARACTERS = st.characters(exclude_categories=()) | st.sampled_from("\ud83d\ude00\0'\"")
TEXTS = st.text(CHARACTERS)
NAMES = TEXTS | st.sampled_from(["$float", "$int", "$str", "$object", ""])
INTEGERS = st.integers() | st.integers(-(2**300), 2**300)
ANY_BITS = st.integers(0, 2**64 - 1).map(
    lambda n: struct.unpack("<d", n.to_bytes(8))[0]
)
FLOATS = st.floats() | ANY_BITS
VALUES = INTEGERS | FLOATS | TEXTS | st.booleans()
DOCUMENTS = st.recursive(
    st.none() | VALUES,
    lambda inner: (
        st.lists(inner, max_size=4) | st.dictionaries(NAMES, inner, max_size=4)
    ),
    max_leaves=12,
)


def exactly(value):
    """A value with its types, order and bits, in a form that `==` tells apart."""
    if isinstance(value, dict):
        return [(name, exactly(member)) for name, member in value.items()]
    if isinstance(value, list):
        return "list", [exactly(member) for member in value]
    if isinstance(value, float):
        return "float", struct.pack(">d", value)
    return type(value), value


@given(DOCUMENTS)
@example(1.0)
@example(-0.0)
@example(math.nan)
@example(struct.unpack(">d", (0xFFF8 << 48).to_bytes(8))[0])
@example(struct.unpack(">d", (0x7FF0_0000_0000_0001).to_bytes(8))[0])
@example(5e-324)
@example(-math.inf)
@example(True)
@example(2**63)
@example(-(2**63))
@example(10**5000)
@example("\ud83d\ude00")
@example("\U0001f600")
@example("\ud800")
@example("a\0b\n'\"<b>")
@example({"$float": "nan"})
@example({"$object": []})
@example({"\ud83d\ude00": 1, "\U0001f600": 2})
def test_what_is_written_comes_back(value):
    text = encode(value)
    assert exactly(decode(text)) == exactly(value)
    assert text.isascii() and text.isprintable()


@given(DOCUMENTS, DOCUMENTS)
@example(0.0, -0.0)
@example(1, 1.0)
@example(1, True)
@example(math.nan, struct.unpack(">d", (0xFFF8 << 48).to_bytes(8))[0])
@example({"a": 1, "b": 2}, {"b": 2, "a": 1})
def test_texts_are_equal_where_values_are(one, other):
    assert (encode(one) == encode(other)) == (exactly(one) == exactly(other))


def test_a_person_can_read_the_text():
    text = encode({"units": 32, "rate": 0.001, "norm": True, "kind": "it's"})
    assert text == ('{"units": 32, "rate": 0.001, "norm": true, "kind": "it\'s"}')


NOT_WRITTEN = {
    "nothing": "",
    "no JSON": "{'a': 1}",
    "code": "__import__('os').abort()",
    "a longer decimal": "0.50",
    "more digits than count": "0.1000000000000000055",
    "a large decimal": "1e999",
    "a bare NaN": "NaN",
    "infinity": "[Infinity]",
    "another NaN for the usual one": '{"$float": "nan 0x7ff8000000000000"}',
    "a number for a NaN": '{"$float": "nan 0x3ff0000000000000"}',
    "too many bits": '{"$float": "nan 0x17ff8000000000000"}',
    "negative bits": '{"$float": "nan -0x1"}',
    "a tagged decimal": '{"$float": "0.5"}',
    "a float in hexadecimals": '{"$float": "0x1.0p+0"}',
    "another name for infinity": '{"$float": "infinity"}',
    "a decimal beside it": '{"$float": "nan", "decimal": 1.5}',
    "a number in a float's tag": '{"$float": 1.5}',
    "a small tagged int": '{"$int": "0x10"}',
    "an int with more in it": '{"$int": "0x400000000000000000", "a": 1}',
    "no hexadecimals": '{"$int": "eight"}',
    "many digits": "1" * 5000,
    "an untagged large int": str(2**70),
    "text without surrogates": '{"$str": "61"}',
    "a bare surrogate": '"\\ud800"',
    "half a byte": '{"$str": "eda08"}',
    "no UTF-8": '{"$str": "ff"}',
    "no pairs": '{"$object": [1, 2]}',
    "names that need no tag": '{"$object": [["a", 1]]}',
    "an int for a name": '{"$object": [[1, 1]]}',
    "a list for a name": '{"$object": [[[], 1]]}',
    "a name given twice": '{"a": 1, "a": 2}',
    "a tagged name given twice": '{"$object": [["$int", 1], ["$int", 2]]}',
    "a tag behind a name": '{"a": 1, "$int": "0x400000000000000000"}',
    "spaces": '{"a":1}',
    "more behind it": "1 2",
    "not ASCII": '"é"',
    "deep": "[" * (DEEPEST_NESTING + 2) + "]" * (DEEPEST_NESTING + 2),
    "very deep": "[" * 1_000_000,
    "deep in mappings": '{"a":' * 100_000,
    "deep in tags": '{"$object": ' * 500 + "[]" + "}" * 500,
    "too long": " " * (LONGEST_TEXT + 1),
}


@pytest.mark.parametrize("text", NOT_WRITTEN.values(), ids=NOT_WRITTEN.keys())
def test_no_other_text_is_read(text):
    with pytest.raises(StorageError, match="cannot be read") as caught:
        decode(text)
    assert len(str(caught.value)) < 500


@given(st.text() | st.recursive(st.floats() | st.text(), st.lists).map(json.dumps))
def test_any_text_is_read_or_refused(text):
    try:
        value = decode(text)
    except StorageError:
        return
    assert encode(value) == text


class Count(int):
    """An int that says more than its value."""


NOT_STORED = {
    "bytes": b"a",
    "a tuple": (1, 2),
    "a set": {1},
    "an int of another class": Count(3),
    "a complex number": 1j,
    "an int for a name": {1: 2},
    "inside": {"a": [{"b": object}]},
}


@pytest.mark.parametrize("value", NOT_STORED.values(), ids=NOT_STORED.keys())
def test_no_other_value_is_written(value):
    with pytest.raises(StorageError, match="of type"):
        encode(value)


def test_what_is_too_deep_or_too_long_is_not_written():
    deep = []
    for _ in range(DEEPEST_NESTING):
        deep = [deep]
    assert decode(encode(deep)) == deep
    with pytest.raises(StorageError, match="nested more than 50 deep"):
        encode([deep])
    circle = []
    circle.append(circle)
    with pytest.raises(StorageError, match="nested more than 50 deep"):
        encode(circle)
    with pytest.raises(StorageError, match="begins with '\"aaaa"):
        encode("a" * LONGEST_TEXT)


SAMPLINGS = st.sampled_from(["linear", "log", "reverse_log"])
PARAMETERS = (
    st.builds(
        IntRange, TEXTS, INTEGERS, INTEGERS, st.none() | INTEGERS, SAMPLINGS, INTEGERS
    )
    | st.builds(
        FloatRange, TEXTS, FLOATS, FLOATS, st.none() | FLOATS, SAMPLINGS, FLOATS
    )
    | st.builds(Choice, TEXTS, st.lists(VALUES).map(tuple), VALUES)
    | st.builds(Fixed, TEXTS, VALUES)
)


@given(st.lists(PARAMETERS, max_size=4).map(tuple))
def test_parameters_come_back(parameters):
    back = decode_parameters(encode_parameters(parameters))
    assert repr(back) == repr(parameters)
    assert list(map(type, back)) == list(map(type, parameters))


NO_PARAMETERS = {
    "no list": {},
    "a number": 3,
    "null": None,
    "no mappings": [1],
    "text": ["kind"],
    "no kind": [{"name": "a", "value": 1}],
    "an unknown kind": [{"kind": "Path", "name": "a", "value": 1}],
    "a list for a kind": [{"kind": [], "name": "a", "value": 1}],
    "a missing field": [{"kind": "Fixed", "name": "a"}],
    "a field too many": [{"kind": "Fixed", "name": "a", "value": 1, "other": 1}],
    "another order": [{"kind": "Fixed", "value": 1, "name": "a"}],
    "an int for a name": [{"kind": "Fixed", "name": 1, "value": 1}],
    "a list for a value": [{"kind": "Fixed", "name": "a", "value": []}],
    "null for a value": [{"kind": "Fixed", "name": "a", "value": None}],
    "text for values": [
        {"kind": "Choice", "name": "a", "values": "ab", "default": "a"}
    ],
    "a bool for a limit": [
        {"kind": "IntRange", "name": "a", "min_value": False, "max_value": 2}
        | {"step": 1, "sampling": "linear", "default": 0}
    ],
    "an int among floats": [
        {"kind": "FloatRange", "name": "a", "min_value": 1, "max_value": 2.0}
        | {"step": None, "sampling": "linear", "default": 1.0}
    ],
    "an unknown sampling": [
        {"kind": "IntRange", "name": "a", "min_value": 1, "max_value": 2}
        | {"step": 1, "sampling": "sin", "default": 1}
    ],
}


@pytest.mark.parametrize("described", NO_PARAMETERS.values(), ids=NO_PARAMETERS.keys())
def test_no_other_parameters_are_read(described):
    with pytest.raises(StorageError):
        decode_parameters(encode(described))


def test_a_parameter_of_another_type_is_not_written():
    with pytest.raises(StorageError, match="FloatRange"):
        encode_parameters([FloatRange("rate", 0, 1.0, None, "linear", 0.0)])
    with pytest.raises(StorageError, match="IntRange, FloatRange, Choice, Fixed"):
        encode_parameters([Count(3)])
