"""The rungs of Hyperband, of successive halving, and those that a user gives."""

import itertools
from collections.abc import Sequence
from typing import Any

from vtune.search.schedule import Bracket, Rung


_FORM = (
    "`brackets` is a list of brackets, each a list of rungs, each a pair (trials, "
    "epochs), such as [[(9, 1), (3, 3), (1, 9)], [(3, 9)]]; got {!r}."
)


def hyperband_brackets(
    max_epochs: int, factor: int = 2, min_epochs: int = 1
) -> tuple[Bracket, ...]:
    """The brackets of Hyperband, the one with the most trials first.

    Algorithm 1 of Li et al., Hyperband: A Novel Bandit-Based Approach to Hyperparameter
    Optimization, JMLR 18 (2018), with R = `max_epochs` and η = `factor`:

        sₘₐₓ = ⌊log_η R⌋,  and for s = sₘₐₓ, ..., 0 and i = 0, ..., s:
        n  = ⌈(sₘₐₓ + 1) / (s + 1) ηˢ⌉
        nᵢ = ⌊n η⁻ⁱ⌋
        rᵢ = R ηⁱ⁻ˢ

    in integers, so that a logarithm is never rounded. Epochs are whole: rᵢ is rounded
    to the nearest, halves up, and is at least `min_epochs`. Rungs of one bracket that
    then have the same epochs are one rung.

    Args:
        max_epochs: the epochs of the last rung of each bracket.
        factor: one in `factor` trials goes on at a rung's end.
        min_epochs: the epochs of the shortest rung.

    Returns:
        The brackets.

    Raises:
        ValueError: if an argument is not a whole number in its range.

    Example:
        ```python
        from vtune.search.hyperband import hyperband_brackets

        first, *_, last = hyperband_brackets(81, 3)
        assert [rung.trials for rung in first] == [81, 27, 9, 3, 1]
        assert [(rung.trials, rung.epochs) for rung in last] == [(5, 81)]
        ```
    """
    _check(max_epochs, factor, min_epochs)
    largest = _whole_logarithm(max_epochs, factor)
    brackets = []
    for halvings in range(largest, -1, -1):
        trials = -(-(largest + 1) * factor**halvings // (halvings + 1))
        brackets.append(_bracket(trials, halvings, max_epochs, factor, min_epochs))
    return tuple(brackets)


def successive_halving(
    trials: int, max_epochs: int, factor: int = 2, min_epochs: int = 1
) -> Bracket:
    """One bracket of Hyperband, with a number of trials of the user's own.

    It has as many rungs as leave a trial in the last and `min_epochs` in the first.

    Args:
        trials: the trials of the first rung.
        max_epochs: the epochs of the last rung.
        factor: one in `factor` trials goes on at a rung's end.
        min_epochs: the least epochs of the first rung.

    Returns:
        The bracket.

    Raises:
        ValueError: if an argument is not a whole number in its range.
    """
    _check(max_epochs, factor, min_epochs)
    _check_whole("the number of trials", trials, 1)
    halvings = _whole_logarithm(min(trials, max_epochs // min_epochs), factor)
    return _bracket(trials, halvings, max_epochs, factor, min_epochs)


def explicit_brackets(
    brackets: Sequence[Any],
) -> tuple[Bracket, ...]:
    """Brackets from a user's own rungs.

    Args:
        brackets: for each bracket its rungs as pairs (trials, epochs), such as
            `[[(12, 2), (4, 4), (2, 10)], [(6, 4), (2, 10)], [(4, 10)]]`.

    Returns:
        The brackets.

    Raises:
        ValueError: if there are none, a rung is no pair of whole numbers from 1, or
            within a bracket the epochs do not rise or the trials do.
    """
    if not _is_list(brackets) or not brackets:
        raise ValueError(_FORM.format(brackets))
    for rungs in brackets:
        if not _is_list(rungs) or not rungs:
            raise ValueError(_FORM.format(brackets))
        if not all(_is_list(rung) and len(rung) == 2 for rung in rungs):
            raise ValueError(_FORM.format(brackets))
    return tuple(_explicit_bracket(rungs) for rungs in brackets)


def _explicit_bracket(pairs: Sequence[Any]) -> Bracket:
    for trials, epochs in pairs:
        _check_whole(f"in the bracket {pairs!r}, the number of trials", trials, 1)
        _check_whole(f"in the bracket {pairs!r}, the number of epochs", epochs, 1)
    for (trials, epochs), (next_trials, next_epochs) in itertools.pairwise(pairs):
        if next_epochs <= epochs or next_trials > trials:
            raise ValueError(
                "From rung to rung the epochs rise, counted from a trial's very start, "
                f"and the trials do not; got {pairs!r}."
            )
    return tuple(Rung(trials, epochs) for trials, epochs in pairs)


def _bracket(
    trials: int, halvings: int, max_epochs: int, factor: int, min_epochs: int
) -> Bracket:
    rungs: dict[int, Rung] = {}
    for i in range(halvings + 1):
        # ⌊r + 1/2⌋ with r = R ηⁱ / ηˢ, in integers.
        numerator, denominator = max_epochs * factor**i, factor**halvings
        nearest = (2 * numerator + denominator) // (2 * denominator)
        epochs = max(min_epochs, nearest)
        # Of rungs with the same epochs, the later ones would only choose among trials
        # that the first one has already ranked.
        rungs.setdefault(epochs, Rung(trials // factor**i, epochs))
    return tuple(rungs.values())


def _whole_logarithm(number: int, factor: int) -> int:
    exponent = 0
    while factor ** (exponent + 1) <= number:
        exponent += 1
    return exponent


def _check(max_epochs: int, factor: int, min_epochs: int):
    _check_whole("`max_epochs`", max_epochs, 1)
    _check_whole("`factor`", factor, 2)
    _check_whole("`min_epochs`", min_epochs, 1)
    if min_epochs > max_epochs:
        raise ValueError(
            f"`min_epochs` is at most `max_epochs`, got {min_epochs} and {max_epochs}."
        )


def _check_whole(noun: str, value: Any, least: int):
    if not isinstance(value, int) or isinstance(value, bool) or value < least:
        raise ValueError(f"{noun} is a whole number from {least}, got {value!r}.")


def _is_list(value: Any) -> bool:
    return isinstance(value, list | tuple)
