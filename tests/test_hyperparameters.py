"""The space: what each kind of hyperparameter can be, and what `build` gets."""

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import assume, example, given, strategies as st

from vtune.hyperparameters import HyperParameters


Ask = Callable[[HyperParameters], Any]

units = st.floats(0, 1, exclude_max=True)
samplings = st.sampled_from(["linear", "log", "reverse_log"])


def at(u: float, ask: Ask):
    """What `ask` gets where every draw is `u`."""
    return ask(HyperParameters(source=lambda parameter: parameter.from_unit(u)))


def parameter_of(ask: Ask) -> Any:
    hp = HyperParameters()
    ask(hp)
    return hp.parameters[0]


def grid(ask: Ask) -> list:
    return [*parameter_of(ask).grid()]


def shown(values) -> str:
    """Text that tells 1 from 1.0 and from True, and np.float64 from float."""
    return repr(values)


def project(u, low, high, sampling):
    if sampling == "linear":
        return low + u * (high - low)
    if sampling == "log":
        return low * math.pow(high / low, u)
    return high + low - low * math.pow(high / low, 1 - u)


# --- the values of a range


@given(units, st.floats(1e-6, 1e3), st.floats(1, 1e4), samplings)
def test_a_float_follows_the_formula_of_its_sampling(u, low, ratio, sampling):
    high = low * ratio
    value = at(u, lambda hp: hp.Float("a", low, high, sampling=sampling))
    assert type(value) is float and low <= value <= high
    assert value == pytest.approx(project(u, low, high, sampling), rel=1e-9)


@given(units, st.integers(1, 50), st.integers(0, 500), samplings)
def test_an_int_rounds_down_up_to_one_above_its_maximum(u, low, width, sampling):
    high = low + width
    value = at(u, lambda hp: hp.Int("a", low, high, sampling=sampling))
    assert type(value) is int and low <= value <= high
    exact = project(u, low, high + 1, sampling)
    assume(abs(exact - round(exact)) > 1e-9)
    assert value == math.floor(exact)


@given(units, st.integers(-(2**60), 2**60), st.integers(0, 2**60))
@example(1 - 2**-53, 0, 2**60)
def test_large_ints_stay_inside(u, low, width):
    value = at(u, lambda hp: hp.Int("a", low, low + width))
    assert low <= value <= low + width


@given(
    units,
    st.floats(-1e3, 1e3),
    st.floats(0, 1e3),
    st.floats(1e-2, 1e3),
)
@example(0.999, 0.0, 0.3, 0.1)
@example(0.999, 0.0, 1.0, 0.1)
@example(0.999, 0.0, 1.0, 1 / 11)
@example(0.0, 5.0, 0.0, 1.0)
def test_a_stepped_float_is_on_its_grid(u, low, width, step):
    high = low + width
    value = at(u, lambda hp: hp.Float("a", low, high, step=step))
    assert low <= value <= high
    k = round((value - low) / step)
    assert value in (low + k * step, high)
    assert value == pytest.approx(low + k * step, abs=2e-8 * step)


@st.composite
def stepped(draw):
    """A range with a step, of either type and any sampling."""
    sampling = draw(samplings)
    if draw(st.booleans()):
        low, width = draw(st.integers(1, 40)), draw(st.integers(0, 400))
        step = draw(st.integers(1 if sampling == "linear" else 2, 40))
        return lambda hp: hp.Int("a", low, low + width, step, sampling)
    start, ratio = draw(st.floats(1e-5, 10)), draw(st.floats(1, 1e4))
    above = 1e-2 * start * ratio if sampling == "linear" else 1.1
    factor = draw(st.floats(above, above * 10))
    return lambda hp: hp.Float("a", start, start * ratio, factor, sampling)


@given(stepped())
def test_steps_are_equally_likely_and_ascend(ask):
    values = grid(ask)
    draws = [at((i + 0.5) / len(values), ask) for i in range(len(values))]
    assert shown(draws) == shown(values)
    assert values == sorted(set(values))
    parameter = parameter_of(ask)
    assert parameter.min_value <= values[0] and values[-1] <= parameter.max_value
    if parameter.sampling == "reverse_log":
        assert values[-1] == parameter.max_value
    else:
        assert values[0] == parameter.min_value


@given(stepped(), units)
def test_every_draw_can_be_given_back(ask, u):
    value = at(u, ask)
    assert shown(ask(HyperParameters({"a": value}))) == shown(value)


@given(stepped())
def test_log_steps_are_mirrored_by_reverse_log(ask):
    parameter = parameter_of(ask)
    low, high, step = parameter.min_value, parameter.max_value, parameter.step
    assume(parameter.sampling != "linear")
    kind = "Int" if isinstance(low, int) else "Float"
    log, mirrored = (
        grid(lambda hp, s=s: getattr(hp, kind)("a", low, high, step, s))
        for s in ("log", "reverse_log")
    )
    expected = sorted({high + low - value for value in log})
    assert mirrored == pytest.approx(expected, rel=1e-9, abs=1e-9 * high)


@pytest.mark.parametrize(
    ("ask", "values"),
    [
        (lambda hp: hp.Int("a", 6, 12), [6, 7, 8, 9, 10, 11, 12]),
        (lambda hp: hp.Int("a", 6, 13, step=3), [6, 9, 12]),
        (lambda hp: hp.Int("a", 2, 32, step=2, sampling="log"), [2, 4, 8, 16, 32]),
        (lambda hp: hp.Int("a", 2, 31, step=2, sampling="log"), [2, 4, 8, 16]),
        (lambda hp: hp.Int("a", 1, 2**40 - 1, 2**20, "log"), [1, 2**20]),
        (
            lambda hp: hp.Int("a", 2, 32, step=2, sampling="reverse_log"),
            [2, 18, 26, 30, 32],
        ),
        (lambda hp: hp.Int("a", 5, 5), [5]),
        (lambda hp: hp.Int("a", -3, 3, step=3), [-3, 0, 3]),
        (lambda hp: hp.Float("a", 0, 1, step=0.25), [0.0, 0.25, 0.5, 0.75, 1.0]),
        (lambda hp: hp.Float("a", 0.0, 0.3, step=0.1), [0.0, 0.1, 0.2, 0.3]),
        (lambda hp: hp.Float("a", 0.0, 0.25, step=0.1), [0.0, 0.1, 0.2]),
        (
            lambda hp: hp.Float("a", 0.001, 10, step=10, sampling="log"),
            [0.001, 0.01, 0.1, 1.0, 10.0],
        ),
        (lambda hp: hp.Float("a", 1e-4, 1e-2, 10, "log"), [0.0001, 0.001, 0.01]),
        (lambda hp: hp.Float("a", 2.0, 2.0), [2.0]),
        (lambda hp: hp.Float("a", 2.0, 2.0, sampling="log"), [2.0]),
        (lambda hp: hp.Choice("a", ["x", "y"], default="y"), ["x", "y"]),
        (
            lambda hp: hp.Choice("a", [True, 1, 1.0, 0.0, -0.0]),
            [True, 1, 1.0, 0.0, -0.0],
        ),
        (lambda hp: hp.Choice("a", [3, 1, 3]), [3, 1]),
        (lambda hp: hp.Boolean("a"), [False, True]),
        (lambda hp: hp.Boolean("a", default=True), [False, True]),
        (lambda hp: hp.Fixed("a", 7), [7]),
    ],
)
def test_grids(ask, values):
    assert shown(grid(ask)) == shown(values)


@pytest.mark.parametrize("sampling", ["linear", "log", "reverse_log"])
def test_the_grid_of_a_continuum_has_ten_values(sampling):
    values = grid(lambda hp: hp.Float("a", 1.0, 3.0, sampling=sampling))
    centres = [project(0.05 + 0.1 * i, 1.0, 3.0, sampling) for i in range(10)]
    assert values == pytest.approx(centres, rel=1e-12)
    whole = grid(lambda hp: hp.Int("a", 1, 1000, sampling="log"))
    assert whole == [int(project(0.05 + 0.1 * i, 1, 1001, "log")) for i in range(10)]
    assert grid(lambda hp: hp.Int("a", 1, 2, sampling="log")) == [1, 2]


def test_the_grid_of_many_ints_takes_no_memory():
    values = parameter_of(lambda hp: hp.Int("seed", 0, 2**40)).grid()
    assert values[0] == 0 and values[-1] == 2**40 and len(values) == 2**40 + 1


def test_none_means_linear_and_case_does_not_matter():
    def ask(sampling):
        return parameter_of(lambda hp: hp.Float("a", 1, 9, sampling=sampling))

    assert ask(None) == ask("linear") and ask("LOG") == ask("log")


# --- values and types


@pytest.mark.parametrize(
    ("ask", "value"),
    [
        (lambda hp: hp.Int("a", 3, 9), 3),
        (lambda hp: hp.Int("a", 3, 9, default=7), 7),
        (lambda hp: hp.Int("a", 32, 512, step=32, default=100), 100),
        (lambda hp: hp.Int("a", np.int64(3), 9.0), 3),
        (lambda hp: hp.Float("a", 0, 1), 0.0),
        (lambda hp: hp.Float("a", 0, 1, default=1), 1.0),
        (lambda hp: hp.Float("a", np.float32(0.5), np.int8(2)), 0.5),
        (lambda hp: hp.Choice("a", ["x", "y"]), "x"),
        (lambda hp: hp.Choice("a", ["x", "y"], default="y"), "y"),
        (lambda hp: hp.Choice("a", [True, False]), True),
        (lambda hp: hp.Choice("a", [1, True, 1.0], default=True), True),
        (lambda hp: hp.Choice("a", [1, True, 1.0], default=1.0), 1.0),
        (lambda hp: hp.Choice("a", np.array([32, 64])), 32),
        (lambda hp: hp.Choice("a", [np.float32(0.5)]), 0.5),
        (lambda hp: hp.Choice("a", [np.bool_(True), False]), True),
        (lambda hp: hp.Choice("a", (np.str_("x"),)), "x"),
        (lambda hp: hp.Choice("a", [1.0, float("inf")]), 1.0),
        (lambda hp: hp.Choice("a", range(4, 8)), 4),
        (lambda hp: hp.Boolean("a"), False),
        (lambda hp: hp.Boolean("a", default=True), True),
        (lambda hp: hp.Fixed("a", "x"), "x"),
        (lambda hp: hp.Fixed("a", np.int64(3)), 3),
    ],
)
def test_defaults_are_plain_python_values(ask, value):
    hp = HyperParameters()
    got = ask(hp)
    assert type(got) is type(value) and got == value
    assert shown(hp.values) == shown({"a": value})


@pytest.mark.parametrize(
    ("given_value", "ask", "value"),
    [
        (64, lambda hp: hp.Int("a", 32, 512, step=32), 64),
        (64.0, lambda hp: hp.Int("a", 32, 512, step=32), 64),
        (np.int64(64), lambda hp: hp.Int("a", 32, 512, step=32), 64),
        (100, lambda hp: hp.Int("a", 32, 512, step=32, default=100), 100),
        (8, lambda hp: hp.Int("a", 2, 32, 2, "log"), 8),
        (1, lambda hp: hp.Float("a", 0, 2), 1.0),
        (0.3, lambda hp: hp.Float("a", 0, 1, step=0.1), 3 * 0.1),
        (0.0, lambda hp: hp.Float("a", -0.3, 0.3, step=0.1), -0.3 + 3 * 0.1),
        (1e-3, lambda hp: hp.Float("a", 1e-5, 1, 10, "log"), 1e-5 * 10.0**2),
        (True, lambda hp: hp.Boolean("a"), True),
        (np.bool_(True), lambda hp: hp.Boolean("a"), True),
        (True, lambda hp: hp.Choice("a", [1, True]), True),
        (1, lambda hp: hp.Choice("a", [1.0, True, 1]), 1),
        (64.0, lambda hp: hp.Choice("a", [32, 64]), 64),
        ("y", lambda hp: hp.Choice("a", ["x", "y"]), "y"),
        (7, lambda hp: hp.Fixed("a", 7), 7),
    ],
)
def test_a_given_value_is_the_one_that_it_equals(given_value, ask, value):
    hp = HyperParameters({"a": given_value})
    assert shown(ask(hp)) == shown(value)
    assert shown(hp.values) == shown({"a": value})


@pytest.mark.parametrize(
    ("given_value", "ask"),
    [
        (33, lambda hp: hp.Int("a", 32, 512, step=32)),
        (0, lambda hp: hp.Int("a", 32, 512, step=32)),
        (1024, lambda hp: hp.Int("a", 32, 512, step=32)),
        (64.5, lambda hp: hp.Int("a", 32, 512)),
        (True, lambda hp: hp.Int("a", 0, 5)),
        ("64", lambda hp: hp.Int("a", 32, 512)),
        (6, lambda hp: hp.Int("a", 2, 32, 2, "log")),
        (1.5, lambda hp: hp.Float("a", 0, 1)),
        (0.35, lambda hp: hp.Float("a", 0, 1, step=0.1)),
        (True, lambda hp: hp.Float("a", 0, 1)),
        (float("inf"), lambda hp: hp.Float("a", 0, 1)),
        ("z", lambda hp: hp.Choice("a", ["x", "y"])),
        (1, lambda hp: hp.Choice("a", [True, False])),
        (True, lambda hp: hp.Choice("a", [1, 2])),
        (1, lambda hp: hp.Boolean("a")),
        (8, lambda hp: hp.Fixed("a", 7)),
    ],
)
def test_a_given_value_out_of_range_is_an_error(given_value, ask):
    call = str(parameter_of(ask))
    with pytest.raises(ValueError) as error:
        ask(HyperParameters({"a": given_value}))
    assert call in str(error.value) and repr(given_value) in str(error.value)


@pytest.mark.parametrize("value", [None, (1, 2), [3], float("nan"), b"x", np.zeros(2)])
@pytest.mark.parametrize(
    "ask",
    [
        lambda value: HyperParameters({"a": value}),
        lambda value: HyperParameters().Choice("a", ["x", value]),
        lambda value: HyperParameters().Fixed("a", value),
    ],
)
def test_values_of_other_types_are_errors_that_say_what_to_do(ask, value):
    with pytest.raises(ValueError, match="int, float, str and bool.*look them up"):
        ask(value)


# --- wrong arguments


@pytest.mark.parametrize(
    ("ask", "message"),
    [
        (
            lambda hp: hp.Int("a", 5, 3),
            "`min_value` is at most `max_value`, got 5 and 3",
        ),
        (lambda hp: hp.Float("a", 0.5, 0.3), "at most `max_value`, got 0.5 and 0.3"),
        (lambda hp: hp.Int("a", 1.5, 3), "`min_value` is a whole number, got 1.5"),
        (lambda hp: hp.Int("a", 1, 3.5), "`max_value` is a whole number, got 3.5"),
        (lambda hp: hp.Int("a", 1, 3, step=0.5), "`step` is a whole number, got 0.5"),
        (lambda hp: hp.Int("a", True, 3), "`min_value` is a whole number, got True"),
        (lambda hp: hp.Float("a", 0, math.inf), "`max_value` is a number, got inf"),
        (lambda hp: hp.Float("a", math.nan, 1), "`min_value` is a number, got nan"),
        (lambda hp: hp.Int("a", 1, 3, step=0), "`step` is above 0, got 0"),
        (lambda hp: hp.Float("a", 1, 3, step=-0.1), "`step` is above 0, got -0.1"),
        (lambda hp: hp.Int("a", 1, 8, 1, "log"), "'log'.*`step` is above 1, got 1"),
        (
            lambda hp: hp.Float("a", 1, 8, 0.5, "reverse_log"),
            "`step` is above 1, got 0.5",
        ),
        (lambda hp: hp.Int("a", 0, 8, sampling="log"), "`min_value` is above 0, got 0"),
        (
            lambda hp: hp.Float("a", 0, 1, sampling="log"),
            "`min_value` is above 0, got 0",
        ),
        (lambda hp: hp.Float("a", -1, 1, sampling="reverse_log"), "above 0, got -1"),
        (
            lambda hp: hp.Float("a", 0, 1, sampling="logarithmic"),
            "'log'.*'logarithmic'",
        ),
        (lambda hp: hp.Float("a", -1e308, 1e308), "too wide"),
        (lambda hp: hp.Float("a", 1e-300, 1e300, sampling="log"), "too wide"),
        (lambda hp: hp.Int("a", 1, 5, default=99), "between 1 and 5, got 99"),
        (lambda hp: hp.Float("a", 0, 1, default=-0.1), "between 0.0 and 1.0, got -0.1"),
        (lambda hp: hp.Choice("a", []), "at least one value"),
        (lambda hp: hp.Choice("a", "relu"), "list of values, got 'relu'"),
        (lambda hp: hp.Choice("a", {1, 2}), "list of values"),
        (lambda hp: hp.Choice("a", [1, 2], default=3), r"one of \[1, 2\], got 3"),
        (lambda hp: hp.Choice("a", [True, False], default=1), "got 1"),
        (lambda hp: hp.Int("", 1, 5), "name is empty"),
        (lambda hp: hp.Choice("", [1]), "name is empty"),
    ],
)
def test_wrong_arguments_are_errors_at_the_call(ask, message):
    hp = HyperParameters({"a": 2}, source=lambda parameter: parameter.default)
    with pytest.raises(ValueError, match=rf"`hp\.(Int|Float|Choice)\(.*{message}"):
        ask(hp)
    assert not hp.parameters


@pytest.mark.parametrize(
    "ask",
    [
        lambda hp: hp.Int(3, 1, 5),
        lambda hp: hp.Fixed(None, 1),
        lambda hp: hp.Boolean(1.5),
    ],
)
def test_a_name_is_a_str(ask):
    with pytest.raises(TypeError):
        ask(HyperParameters())


# --- the names


def test_the_same_name_and_arguments_are_the_same_hyperparameter():
    draws = iter([0.1, 0.9])
    hp = HyperParameters(source=lambda parameter: parameter.from_unit(next(draws)))
    first = hp.Float("a", 0, 1)
    assert hp.Float("a", 0.0, 1.0, sampling=None, default=0) == first == 0.1
    assert len(hp.parameters) == 1 and hp.values == {"a": first}


@pytest.mark.parametrize(
    ("first", "second"),
    [
        (lambda hp: hp.Int("a", 1, 5), lambda hp: hp.Int("a", 1, 6)),
        (lambda hp: hp.Int("a", 1, 5), lambda hp: hp.Int("a", 1, 5, default=2)),
        (lambda hp: hp.Int("a", 1, 5), lambda hp: hp.Float("a", 1, 5)),
        (lambda hp: hp.Float("a", 1, 5), lambda hp: hp.Float("a", 1, 5, 0.5)),
        (
            lambda hp: hp.Float("a", 1, 5),
            lambda hp: hp.Float("a", 1, 5, sampling="log"),
        ),
        (lambda hp: hp.Choice("a", [1, 0]), lambda hp: hp.Choice("a", [True, False])),
        (lambda hp: hp.Choice("a", [1, 2]), lambda hp: hp.Choice("a", [2, 1])),
        (lambda hp: hp.Boolean("a"), lambda hp: hp.Boolean("a", default=True)),
        (lambda hp: hp.Fixed("a", 1), lambda hp: hp.Fixed("a", 1.0)),
    ],
)
def test_the_same_name_with_other_arguments_is_an_error_that_shows_both(first, second):
    hp = HyperParameters()
    first(hp)
    with pytest.raises(ValueError) as error:
        second(hp)
    assert f"`{parameter_of(first)}`" in str(error.value)
    assert f"`{parameter_of(second)}`" in str(error.value)
    assert str(parameter_of(first)) != str(parameter_of(second))


@pytest.mark.parametrize(
    "call",
    [
        "hp.Int('a', 1, 5)",
        "hp.Int('a', 32, 512, step=32, default=64)",
        "hp.Int('a', 2, 32, step=2, sampling='log')",
        "hp.Float('a', 0.0001, 0.01, sampling='reverse_log', default=0.001)",
        "hp.Float('a', 0.0, 0.5, step=0.25)",
        "hp.Choice('a', ['x', 1, True], default=1)",
        "hp.Boolean('a')",
        "hp.Boolean('a', default=True)",
        "hp.Fixed('a', 0.5)",
    ],
)
def test_a_parameter_shows_itself_as_the_call_that_asks_for_it(call):
    assert str(parameter_of(lambda hp: eval(call, {"hp": hp}))) == call


def test_values_are_those_asked_for_then_those_given():
    hp = HyperParameters({"unused": 1, "b": 2})
    hp.Float("c", 0, 1)
    hp.Int("b", 0, 5)
    assert [*hp.values.items()] == [("c", 0.0), ("b", 2), ("unused", 1)]
    assert hp["c"] == hp.get("c") == 0.0 and hp["unused"] == 1
    assert "b" in hp and "unused" in hp and "units" not in hp
    for missing in (hp.get, hp.__getitem__):
        with pytest.raises(KeyError, match="units.*'c', 'b', 'unused'"):
            missing("units")
    hp.values["c"] = 7.0
    assert hp["c"] == 0.0


def test_a_branch_not_taken_leaves_no_values():
    def build(hp):
        if hp.Choice("kind", ["mlp", "cnn"]) == "cnn":
            hp.Int("filters", 8, 64)
        for i in range(hp.Int("layers", 0, 3)):
            hp.Int(f"units_{i}", 8, 64)

    hp = HyperParameters()
    build(hp)
    assert hp.values == {"kind": "mlp", "layers": 0}
    hp = HyperParameters({"kind": "cnn", "layers": 2})
    build(hp)
    assert [*hp.values] == ["kind", "filters", "layers", "units_0", "units_1"]


def test_a_source_answers_only_what_was_not_given():
    asked = []

    def source(parameter):
        asked.append(parameter.name)
        return parameter.from_unit(0.5)

    hp = HyperParameters({"a": 1}, source=source)
    assert (hp.Int("a", 0, 9), hp.Int("b", 0, 9), hp.Int("b", 0, 9)) == (1, 5, 5)
    assert asked == ["b"]


# --- the horizon


def test_the_horizon_is_what_was_given():
    hp = HyperParameters(steps_per_epoch=100, max_epochs=7)
    assert (hp.steps_per_epoch, hp.max_epochs, hp.total_steps) == (100, 7, 700)


@pytest.mark.parametrize("known", [{}, {"steps_per_epoch": 5}, {"max_epochs": 5}])
def test_an_unknown_horizon_is_an_error_that_says_how_to_give_it(known):
    hp = HyperParameters(**known)
    give = r"vt\.HyperParameters\(steps_per_epoch=\.\.\., max_epochs=\.\.\.\)"
    for name in {"steps_per_epoch", "max_epochs", "total_steps"} - {*known}:
        with pytest.raises(ValueError, match=give):
            getattr(hp, name)


@pytest.mark.parametrize("length", [0, -1])
@pytest.mark.parametrize("name", ["steps_per_epoch", "max_epochs"])
def test_a_length_is_at_least_one(name, length):
    with pytest.raises(ValueError, match=f"`{name}` .* from 1, got {length}"):
        HyperParameters(**{name: length})
    with pytest.raises(ValueError, match=f"`{name}` .* from 1, got {length}"):
        HyperParameters().copy(**{name: length})


def test_a_copy_has_the_same_values_and_another_horizon():
    hp = HyperParameters(
        {"a": 3},
        steps_per_epoch=100,
        max_epochs=10,
        source=lambda parameter: parameter.from_unit(0.9),
        origin=(0, 7),
    )
    drawn = hp.Int("a", 0, 9), hp.Float("b", 0, 1)
    longer = hp.copy(max_epochs=25)
    assert longer.values == hp.values and longer.origin == (0, 7)
    assert (longer.total_steps, hp.total_steps) == (2500, 1000)
    assert hp.copy(steps_per_epoch=3).total_steps == 30
    assert (longer.Int("a", 0, 9), longer.Float("b", 0, 1)) == drawn
    # What the trial never asked for is no longer drawn.
    assert longer.Float("c", 0, 1) == 0.0 and "c" not in hp


@pytest.mark.parametrize(
    "text",
    [
        "HyperParameters({})",
        "HyperParameters({'a': 1, 'b': 'x'}, steps_per_epoch=5)",
        "HyperParameters({'a': 0.5}, steps_per_epoch=5, max_epochs=2, origin=(0, 3))",
    ],
)
def test_the_text_of_hyperparameters_is_the_call_that_makes_them(text):
    assert repr(eval(text, {"HyperParameters": HyperParameters})) == text
