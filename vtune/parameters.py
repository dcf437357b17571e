"""The kinds of hyperparameter: the values that each can take, and how one is drawn.

A range draws from u in [0, 1). Without a step, its value is

    linear:       min + u (max − min)
    log:          min (max / min)ᵘ
    reverse_log:  max + min − min (max / min)¹⁻ᵘ

where a range of whole numbers puts max + 1 for max and rounds down. With a step, its
values, all with the same probability, are those up to max among

    linear:       min + k step
    log:          min stepᵏ
    reverse_log:  max + min − min stepᵏ               for k = 0, 1, ...
"""

import dataclasses
import math
from collections.abc import Iterable, Sequence, Set
from typing import Any

import numpy as np

from vtune.trial import Value


# Rounding must not cost the last step: from 0 to 0.3 by 0.1 it is 2.9999999999999996.
_SLACK = 1e-8


@dataclasses.dataclass(frozen=True)
class IntRange:
    """Whole numbers from `min_value` to `max_value`, both included.

    Args:
        name: the hyperparameter's name.
        min_value: the smallest value.
        max_value: the largest value.
        step: the distance between neighbours, or the ratio where `sampling` is not
            linear; None: any whole number, and `sampling` is not linear.
        sampling: `"linear"`, `"log"` or `"reverse_log"`.
        default: the value outside a search.
    """

    name: str
    min_value: int
    max_value: int
    step: int | None
    sampling: str
    default: int

    def from_unit(self, u: float) -> int:
        """The value at `u` in [0, 1)."""
        return _draw(self, u)

    def grid(self) -> Sequence[int]:
        """What a grid search tries, ascending; without a step at most ten values."""
        if self.step is not None and self.sampling == "linear":
            return range(self.min_value, self.max_value + 1, self.step)
        return _grid(self)

    def match(self, value: Any) -> int | None:
        """The value of this range that equals `value`; None if there is none."""
        number = whole_number(value)
        if number is None or number == self.default:
            return number
        if not self.min_value <= number <= self.max_value:
            return None
        return number if self.step is None or number in self.grid() else None

    def __str__(self) -> str:
        return _range_call("Int", self)


@dataclasses.dataclass(frozen=True)
class FloatRange:
    """Real numbers from `min_value` to `max_value`, both included.

    Args: as for `IntRange`; without a step, any number.
    """

    name: str
    min_value: float
    max_value: float
    step: float | None
    sampling: str
    default: float

    def from_unit(self, u: float) -> float:
        """The value at `u` in [0, 1)."""
        return _draw(self, u)

    def grid(self) -> Sequence[float]:
        """What a grid search tries, ascending; without a step at most ten values."""
        return _grid(self)

    def match(self, value: Any) -> float | None:
        """The value that equals `value`, up to rounding if it is a step; or None."""
        number = real_number(value)
        if number is None or number == self.default:
            return number
        if not self.min_value <= number <= self.max_value:
            return None
        if self.step is None:
            return number
        nearest = min(self.grid(), key=lambda term: abs(term - number))
        slack = _SLACK * self.step if self.sampling == "linear" else 0.0
        close = math.isclose(number, nearest, rel_tol=1e-12, abs_tol=slack)
        return nearest if close else None

    def __str__(self) -> str:
        return _range_call("Float", self)


@dataclasses.dataclass(frozen=True)
class Choice:
    """One of a list of values; `hp.Boolean` is the choice of False and True.

    Args:
        name: the hyperparameter's name.
        values: what to choose from.
        default: the value outside a search.
    """

    name: str
    values: tuple[Value, ...]
    default: Value

    def from_unit(self, u: float) -> Value:
        """The value at `u` in [0, 1)."""
        return self.values[_index(u, len(self.values))]

    def grid(self) -> Sequence[Value]:
        """What a grid search tries, in the order given."""
        return self.values

    def match(self, value: Any) -> Value | None:
        """The value of this choice that equals `value`; None if there is none."""
        return _member(self.values, value)

    def __str__(self) -> str:
        usual = repr(self.default) == repr(self.values[0])
        default = "" if usual else f", default={self.default!r}"
        if repr(self.values) == "(False, True)":
            return f"hp.Boolean({self.name!r}{default})"
        return f"hp.Choice({self.name!r}, {list(self.values)!r}{default})"


@dataclasses.dataclass(frozen=True)
class Fixed:
    """One value, recorded with the others.

    Args:
        name: the hyperparameter's name.
        value: its only value.
    """

    name: str
    value: Value

    @property
    def default(self) -> Value:
        """The value."""
        return self.value

    def from_unit(self, u: float) -> Value:
        """The value, wherever `u` is."""
        del u
        return self.value

    def grid(self) -> Sequence[Value]:
        """The value, alone."""
        return (self.value,)

    def match(self, value: Any) -> Value | None:
        """The value if it equals `value`; None otherwise."""
        return _member(self.grid(), value)

    def __str__(self) -> str:
        return f"hp.Fixed({self.name!r}, {self.value!r})"


Parameter = IntRange | FloatRange | Choice | Fixed


def choice(call: str, name: str, values: Any, default: Any) -> Choice:
    """A choice from what a user gave; a ValueError that shows `call` if it is none."""
    if isinstance(values, str | bytes | Set) or not isinstance(values, Iterable):
        raise ValueError(f"{call} takes a list of values, got {values!r}.")
    # By their text, since 1, 1.0 and True are equal; what is given twice counts once.
    distinct = {repr(v): v for v in (scalar(call, value) for value in values)}
    members = tuple(distinct.values())
    if not members:
        raise ValueError(f"{call} takes at least one value, got none.")
    chosen = members[0] if default is None else _member(members, default)
    if chosen is None:
        raise ValueError(f"{call}: `default` is one of {[*members]}, got {default!r}.")
    return Choice(name, members, chosen)


def scalar(call: str, value: Any) -> Value:
    """`value` as Python's int, float, str or bool; a ValueError if it is none."""
    value = plain(value)
    if type(value) not in (int, float, str, bool) or value != value:
        raise ValueError(
            f"{call} takes values of type int, float, str and bool, got {value!r}. "
            "Name other things, such as 'none', and look them up in `build`."
        )
    return value


def plain(value: Any) -> Any:
    """The Python scalar in a NumPy or JAX scalar; anything else as it is."""
    return np.asarray(value).item() if getattr(value, "shape", None) == () else value


def real_number(value: Any) -> float | None:
    """`value` as a float, if it is a number and not a bool; None otherwise."""
    value = plain(value)
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    return float(value) if is_number else None


def whole_number(value: Any) -> int | None:
    """`value` as an int, if it is a whole number and not a bool; None otherwise."""
    number = real_number(value)
    is_whole = number is not None and number.is_integer()
    return int(plain(value)) if is_whole else None


def _member(values: Sequence[Value], value: Any) -> Value | None:
    # The very value first: among 1, 1.0 and True, each stands for itself. A whole
    # number may come back from a table as a float, but never as a bool.
    exact, number = repr(plain(value)), real_number(value)
    same = [member for member in values if repr(member) == exact]
    equal = [m for m in values if number is not None and real_number(m) == number]
    return next(iter(same + equal), None)


def _index(u: float, count: int) -> int:
    return min(int(u * count), count - 1)


def _draw(parameter: Any, u: float) -> Any:
    if parameter.step is not None:
        return _term(parameter, _index(u, _last_index(parameter) + 1))
    whole = isinstance(parameter, IntRange)
    low, high = parameter.min_value, parameter.max_value + whole
    if parameter.sampling == "linear":
        value = low + u * (high - low)
    elif parameter.sampling == "log":
        value = low * (high / low) ** u
    else:
        value = high + low - low * (high / low) ** (1 - u)
    return min(max(int(value) if whole else value, low), parameter.max_value)


def _last_index(parameter: Any) -> int:
    low, high, step = parameter.min_value, parameter.max_value, parameter.step
    whole = isinstance(parameter, IntRange)
    if parameter.sampling == "linear":
        steps = (high - low) // step if whole else (high - low) / step + _SLACK
        return math.floor(steps)
    index = math.floor(math.log(high / low) / math.log(step) + _SLACK)
    return index - 1 if whole and low * step**index > high else index


def _term(parameter: Any, index: int) -> Any:
    # Ascending: the terms of `reverse_log` are counted from the other end.
    low, high, step = parameter.min_value, parameter.max_value, parameter.step
    if parameter.sampling == "linear":
        value = low + index * step
    elif parameter.sampling == "log":
        value = low * step**index
    else:
        mirrored = low * step ** (_last_index(parameter) - index)
        value = low if mirrored >= high else high - (mirrored - low)
    return min(max(value, low), high)


def _grid(parameter: IntRange | FloatRange) -> tuple:
    if parameter.step is not None:
        last = _last_index(parameter)
        values = (_term(parameter, index) for index in range(last + 1))
    else:
        values = (parameter.from_unit(0.05 + 0.1 * index) for index in range(10))
    # Rounding makes equals of neighbours where the range is many decades wide.
    return tuple(dict.fromkeys(values))


def _range_call(kind: str, parameter: IntRange | FloatRange) -> str:
    low, high, step = parameter.min_value, parameter.max_value, parameter.step
    given = "" if step is None or kind == "Int" and step == 1 else f", step={step!r}"
    if parameter.sampling != "linear":
        given += f", sampling={parameter.sampling!r}"
    if parameter.default != low:
        given += f", default={parameter.default!r}"
    return f"hp.{kind}({parameter.name!r}, {low!r}, {high!r}{given})"
