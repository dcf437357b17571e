"""The rungs against the paper's algorithm, read line by line in exact fractions."""

import math
from fractions import Fraction
from typing import Any

import pytest
from hypothesis import example, given, strategies as st

from vtune.search.hyperband import (
    explicit_brackets,
    hyperband_brackets,
    successive_halving,
)
from vtune.search.schedule import Brackets, Rung
from vtune.trial import Objective


def pairs(brackets) -> Any:
    return [[(rung.trials, rung.epochs) for rung in bracket] for bracket in brackets]


def algorithm_1(R, eta):
    """Lines 1 to 9 of Algorithm 1 of Li et al. (2018), with whole epochs."""
    s_max = 0
    while Fraction(R) / Fraction(eta) ** (s_max + 1) >= 1:
        s_max += 1
    B = (s_max + 1) * R
    for s in range(s_max, -1, -1):
        n = math.ceil(Fraction(B, R) * Fraction(eta**s, s + 1))
        r = Fraction(R) * Fraction(eta) ** -s
        yield [
            (
                math.floor(n * Fraction(eta) ** -i),
                math.floor(r * eta**i + Fraction(1, 2)),
            )
            for i in range(s + 1)
        ]


budgets = st.integers(1, 20_000)
factors = st.integers(2, 9)


@given(budgets, factors)
@example(243, 3)
@example(81, 3)
@example(2**20, 2)
@example(1, 2)
def test_brackets_are_those_of_algorithm_1(max_epochs, factor):
    assert pairs(hyperband_brackets(max_epochs, factor)) == [
        *algorithm_1(max_epochs, factor)
    ]


def test_the_table_for_81_and_3():
    assert pairs(hyperband_brackets(81, 3)) == [
        [(81, 1), (27, 3), (9, 9), (3, 27), (1, 81)],
        [(34, 3), (11, 9), (3, 27), (1, 81)],
        [(15, 9), (5, 27), (1, 81)],
        [(8, 27), (2, 81)],
        [(5, 81)],
    ]


def test_a_whole_power_has_all_its_brackets():
    # A floating-point logarithm of 243 to the base 3 is a little below 5.
    assert [len(bracket) for bracket in hyperband_brackets(243, 3)] == [
        6,
        5,
        4,
        3,
        2,
        1,
    ]


def test_10_and_3_make_17_trials_and_74_epochs():
    brackets = hyperband_brackets(10, 3)
    schedule = Brackets((brackets,), Objective("loss"))
    trained = 0
    for bracket in pairs(brackets):
        before = 0
        for trials, epochs in bracket:
            trained += trials * (epochs - before)
            before = epochs
    assert (schedule.total_trials, trained, schedule.max_epochs) == (17, 74, 10)


def test_the_weaker_half_goes_by_default():
    assert hyperband_brackets(16) == hyperband_brackets(16, 2)
    assert pairs(hyperband_brackets(4)) == [
        [(4, 1), (2, 2), (1, 4)],
        [(3, 2), (1, 4)],
        [(3, 4)],
    ]


@given(st.data())
def test_no_rung_is_shorter_than_min_epochs(data):
    max_epochs, factor = data.draw(st.integers(1, 300)), data.draw(factors)
    min_epochs = data.draw(st.integers(1, max_epochs))
    brackets = pairs(hyperband_brackets(max_epochs, factor, min_epochs))
    literal = [*algorithm_1(max_epochs, factor)]
    assert len(brackets) == len(literal)
    for bracket, rungs in zip(brackets, literal):
        clamped = [(trials, max(epochs, min_epochs)) for trials, epochs in rungs]
        # As many trials reach each budget as in the algorithm's own rungs.
        assert dict((e, n) for n, e in bracket) == {
            epochs: max(n for n, e in clamped if e == epochs) for _, epochs in clamped
        }
        assert [e for _, e in bracket] == sorted({e for _, e in clamped})


@given(st.integers(1, 5000), budgets, factors, st.data())
def test_successive_halving_is_one_bracket(trials, max_epochs, factor, data):
    min_epochs = data.draw(st.integers(1, max_epochs))
    bracket = pairs([successive_halving(trials, max_epochs, factor, min_epochs)])[0]
    sizes, epochs = [n for n, _ in bracket], [e for _, e in bracket]
    rest = len(bracket) - 1
    assert sizes == [trials // factor**i for i in range(rest + 1)] and sizes[-1] >= 1
    assert epochs == [
        math.floor(Fraction(max_epochs, factor ** (rest - i)) + Fraction(1, 2))
        for i in range(rest + 1)
    ]
    assert epochs[0] >= min_epochs and epochs[-1] == max_epochs
    one_more = factor ** (rest + 1)
    assert trials < one_more or max_epochs < min_epochs * one_more


def test_hyperbands_first_bracket_is_successive_halving():
    assert successive_halving(81, 81, 3) == hyperband_brackets(81, 3)[0]


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        ((0, 2), "max_epochs"),
        ((-3, 2), "max_epochs"),
        ((True, 2), "max_epochs"),
        ((10, 1), "factor"),
        ((10, 0), "factor"),
        ((10, 3, 0), "min_epochs"),
        ((10, 3, 11), "min_epochs"),
    ],
)
def test_arguments_out_of_range_are_errors(arguments, named):
    with pytest.raises(ValueError, match=f"`{named}`.*got"):
        hyperband_brackets(*arguments)
    with pytest.raises(ValueError, match=f"`{named}`.*got"):
        successive_halving(4, *arguments)


@pytest.mark.parametrize("factor", [2.5, 3.0, "3", None])
def test_a_factor_is_an_integer(factor):
    with pytest.raises((TypeError, ValueError)):
        hyperband_brackets(10, factor)


def test_successive_halving_needs_a_trial():
    with pytest.raises(ValueError, match="number of trials .* from 1, got 0"):
        successive_halving(0, 10)


def test_explicit_brackets_are_taken_as_they_are():
    given = [[(12, 2), (4, 4), (2, 10)], [(6, 4), (2, 10)], [(4, 10)]]
    assert pairs(explicit_brackets(given)) == given
    assert explicit_brackets([[[3, 5]]]) == ((Rung(3, 5),),)
    assert pairs(explicit_brackets([[(3, 1), (3, 2)]])) == [[(3, 1), (3, 2)]]


@pytest.mark.parametrize(
    ("brackets", "message"),
    [
        ([], "list of brackets"),
        ([[]], "list of brackets"),
        ([(12, 2), (4, 4)], "list of brackets"),
        ([[12, 2]], "list of brackets"),
        ([[(12, 2, 3)]], "list of brackets"),
        ([[(0, 2)]], "number of trials is a whole number from 1, got 0"),
        ([[(4, 0)]], "number of epochs is a whole number from 1, got 0"),
        ([[(4.0, 2)]], "number of trials .* got 4.0"),
        ([[(4, "2")]], "number of epochs .* got '2'"),
        ([[(4, 2), (2, 2)]], r"epochs rise.*\[\(4, 2\), \(2, 2\)\]"),
        ([[(4, 4), (2, 2)]], "epochs rise"),
        ([[(4, 2), (5, 4)]], "trials do not"),
    ],
)
def test_explicit_brackets_that_make_no_sense_are_errors(brackets, message):
    with pytest.raises(ValueError, match=message):
        explicit_brackets(brackets)


def test_the_mean_epochs_of_a_trial():
    from vtune.search.schedule import mean_epochs

    assert mean_epochs([[(9, 1), (3, 3), (1, 9)]]) == (9 + 3 * 2 + 6) / 9
    assert mean_epochs([[(None, 7)]]) == 7
    assert mean_epochs([[(2, 1)], [(2, 4)]]) == 2.5
