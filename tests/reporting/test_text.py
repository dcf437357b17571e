"""Numbers and texts as a person would write them."""

import math

import pytest
from hypothesis import given, strategies as st
from rich.cells import cell_len

from vtune.reporting import text


@pytest.mark.parametrize(
    "given, shown",
    [
        (0.00031, "0.00031"),
        (1e-5, "0.00001"),
        (3.1e-8, "3.1e-8"),
        (0.001, "0.001"),
        (0.1 + 0.2, "0.3"),
        (0.891234, "0.8912"),
        (0.99999999, "1"),
        (1200.0, "1200"),
        (12345.6, "12346"),
        (2.5e7, "2.5e7"),
        (0.0, "0"),
        (-0.25, "-0.25"),
        (math.nan, "nan"),
        (-math.inf, "-inf"),
    ],
)
def test_number(given, shown):
    assert text.number(given) == shown


@given(st.floats(-1e300, 1e300))
def test_number_keeps_four_digits(value):
    shown = text.number(value)
    assert math.isclose(float(shown), value, rel_tol=6e-4, abs_tol=1e-320)
    assert len(shown) <= 14


@pytest.mark.parametrize(
    "given, shown",
    [
        (0.891, "0.8910"),
        (1.5, "1.5000"),
        (12.34, "12.340"),
        (123.456, "123.46"),
        (5432.1, "5432.1"),
        (54321.0, "54321"),
        (0.00031, "0.00031"),
        (0.0, "0.0000"),
        (-0.5, "-0.5000"),
        (None, "-"),
        (math.nan, "nan"),
        (math.inf, "inf"),
    ],
)
def test_score(given, shown):
    assert text.score(given) == shown


@pytest.mark.parametrize(
    "given, shown",
    [
        (0, "0"),
        (3, "3"),
        (3.24, "3.2"),
        (9.96, "10"),
        (987.4, "987"),
        (1234, "1,234"),
        (9999.7, "10.0k"),
        (12_345, "12.3k"),
        (184_000, "184k"),
        (999_499, "999k"),
        (999_999, "1.00M"),
        (1_234_567, "1.23M"),
        (2.5e15, "2500T"),
    ],
)
def test_count(given, shown):
    assert text.count(given) == shown


@pytest.mark.parametrize(
    "given, shown",
    [
        (0.2, "0:00"),
        (9, "0:09"),
        (59.6, "1:00"),
        (754, "12:34"),
        (3723, "1:02:03"),
        (200_000, "2 d 7 h"),
        (-1, "0:00"),
        (None, "?"),
        (math.inf, "?"),
    ],
)
def test_duration(given, shown):
    assert text.duration(given) == shown


@pytest.mark.parametrize(
    "given, shown",
    [
        (512, "512"),
        (123456789, "123456789"),
        (True, "True"),
        (0.25, "0.25"),
        ("relu", "relu"),
        ("", "''"),
        ("[bold]x[/]", "[bold]x[/]"),
        ("a\nb\tc\r", "a\\nb\\tc\\r"),
        ("\x1b[2J", "\\x1b[2J"),
        ("a\u202eb\u200dc\u00a0d", "abc d"),
        ("\ud800", "\\ud800"),
        ("x" * 50, "x" * 39 + "…"),
    ],
)
def test_value(given, shown):
    assert text.value(given) == shown


hostile = st.text(st.characters() | st.sampled_from("\n\r\x1b[]字🚀\u0301\u202e"))


@given(hostile, st.integers(1, 40))
def test_shortened_text_is_one_harmless_line(value, width):
    shown = text.shorten(value, width)
    assert shown.isprintable()
    assert cell_len(shown) <= width
    shown.encode("utf-8")


@given(st.text(st.characters(categories=["L", "N"]), max_size=10))
def test_short_text_stays_as_it_is(value):
    assert text.shorten(value, 2 * len(value) + 1) == value


def test_a_very_long_text_is_shortened_at_once():
    assert text.shorten("\u0301" * 10**7, 8).count("\u0301") <= 4 * 8
