"""The space of a search, defined by running `build(hp)`."""

import math
from collections.abc import Callable, Iterable, Mapping
from operator import attrgetter
from typing import Any, SupportsFloat, TypeVar, cast

from vtune.parameters import (
    Fixed,
    FloatRange,
    IntRange,
    Parameter,
    choice,
    real_number,
    scalar,
    whole_number,
)
from vtune.trial import Value


T = TypeVar("T")
Source = Callable[[Parameter], Value]


class HyperParameters:
    """The hyperparameters of one network: a plain Python value for each name.

    A hyperparameter comes into being when `build` asks for it: a space may branch and
    loop in plain Python. Its value is the one given, else what the search tries, else
    its default. Wrong arguments, a given value out of range, and a name that means two
    things are errors where `build` asks.

    Args:
        values: values by name.
        steps_per_epoch: the training steps of an epoch, for `build` to read.
        max_epochs: the epochs of a full training, for `build` to read.
        source: what a search tries: answers a parameter with its value.
        origin: the seed of the search and the number of the trial that `values` are of.

    Raises:
        ValueError: if a value is not an int, float, str or bool, or a length is not a
            whole number from 1.

    Example:
        ```python
        import vtune as vt

        def build(hp):
            depth = hp.Int("layers", 1, 3)
            rates = [hp.Float(f"rate_{i}", 0.0, 0.5) for i in range(depth)]
            return rates, hp.Choice("activation", ["relu", "tanh"])

        assert build(vt.HyperParameters()) == ([0.0], "relu")
        hp = vt.HyperParameters({"layers": 2, "rate_1": 0.25})
        assert build(hp) == ([0.0, 0.25], "relu")
        assert list(hp.values) == ["layers", "rate_0", "rate_1", "activation"]
        ```
    """

    def __init__(
        self,
        values: Mapping[str, Any] | None = None,
        *,
        steps_per_epoch: int | None = None,
        max_epochs: int | None = None,
        source: Source | None = None,
        origin: tuple[int, int] | None = None,
    ):
        self.origin = origin
        self._source = attrgetter("default") if source is None else source
        self._given = {
            name: scalar(f"`HyperParameters({{{name!r}: ...}})`", value)
            for name, value in (values or {}).items()
        }
        self._steps_per_epoch = _length("steps_per_epoch", steps_per_epoch)
        self._max_epochs = _length("max_epochs", max_epochs)
        self._parameters: dict[str, Parameter] = {}
        self._asked: dict[str, Value] = {}

    def Int(
        self,
        name: str,
        min_value: SupportsFloat,
        max_value: SupportsFloat,
        step: SupportsFloat | None = None,
        sampling: str | None = "linear",
        default: SupportsFloat | None = None,
    ) -> int:
        """A whole number from `min_value` to `max_value`, both included.

        Args:
            name: the name, unique in the space.
            min_value: the smallest value.
            max_value: the largest value.
            step: the distance between neighbouring values; with `log` and `reverse_log`
                the ratio between them (2 to 32 with step 2: 2, 4, 8, 16, 32).
            sampling: `"linear"`, `"log"` (small values denser) or `"reverse_log"`
                (large values denser).
            default: the value outside a search; `min_value` when omitted.

        Returns:
            The value.

        Raises:
            ValueError: if the arguments make no range, or the name is already another
                hyperparameter's.
        """
        limits = (min_value, max_value, step, default)
        parameter = IntRange(*_range("Int", name, limits, sampling))
        return cast(int, self._ask(parameter))

    def Float(
        self,
        name: str,
        min_value: SupportsFloat,
        max_value: SupportsFloat,
        step: SupportsFloat | None = None,
        sampling: str | None = "linear",
        default: SupportsFloat | None = None,
    ) -> float:
        """A real number from `min_value` to `max_value`, both included.

        Args: as for `Int`; without a step, any number of the range.

        Returns:
            The value.
        """
        limits = (min_value, max_value, step, default)
        parameter = FloatRange(*_range("Float", name, limits, sampling))
        return cast(float, self._ask(parameter))

    def Choice(self, name: str, values: Iterable[T], default: T | None = None) -> T:
        """One of `values`.

        Args:
            name: the name, unique in the space.
            values: ints, floats, strs and bools, which keep their type.
            default: the value outside a search; the first when omitted.

        Returns:
            The value.
        """
        return cast(T, self._ask(choice(_call("Choice", name), name, values, default)))

    def Boolean(self, name: str, default: bool = False) -> bool:
        """False or True; `default` is the value outside a search."""
        call = _call("Boolean", name)
        return cast(bool, self._ask(choice(call, name, (False, True), default)))

    def Fixed(self, name: str, value: T) -> T:
        """One int, float, str or bool, recorded with the other values."""
        return cast(T, self._ask(Fixed(name, scalar(_call("Fixed", name), value))))

    @property
    def values(self) -> dict[str, Value]:
        """The values asked for, in this order, then those only given."""
        return self._asked | self._given

    @property
    def parameters(self) -> tuple[Parameter, ...]:
        """What was asked for, in this order."""
        return tuple(self._parameters.values())

    @property
    def steps_per_epoch(self) -> int:
        """The training steps of an epoch."""
        return _known("steps_per_epoch", self._steps_per_epoch)

    @property
    def max_epochs(self) -> int:
        """The epochs of a full training, also for a trial that is stopped earlier."""
        return _known("max_epochs", self._max_epochs)

    @property
    def total_steps(self) -> int:
        """The training steps of a full training."""
        return self.max_epochs * self.steps_per_epoch

    def get(self, name: str) -> Value:
        """The value of a hyperparameter asked for or given; also `hp[name]`."""
        return self[name]

    def copy(
        self, *, max_epochs: int | None = None, steps_per_epoch: int | None = None
    ) -> "HyperParameters":
        """The same values, for another length of training where one is given.

        Example:
            ```python
            import vtune as vt

            best = vt.HyperParameters({"units": 64}, steps_per_epoch=100, max_epochs=10)
            assert best.copy(max_epochs=25).total_steps == 2500
            ```
        """
        steps = self._steps_per_epoch if steps_per_epoch is None else steps_per_epoch
        epochs = self._max_epochs if max_epochs is None else max_epochs
        return HyperParameters(
            self.values, steps_per_epoch=steps, max_epochs=epochs, origin=self.origin
        )

    def __getitem__(self, name: str) -> Value:
        values = self.values
        if name not in values:
            raise KeyError(f"`hp[{name!r}]` is not known; known are {[*values]}.")
        return values[name]

    def __contains__(self, name: object) -> bool:
        return name in self.values

    def __repr__(self) -> str:
        lengths = (self._steps_per_epoch, self._max_epochs, self.origin)
        given = zip(("steps_per_epoch", "max_epochs", "origin"), lengths)
        text = "".join(f", {key}={value}" for key, value in given if value is not None)
        return f"HyperParameters({self.values!r}{text})"

    def _ask(self, parameter: Parameter) -> Value:
        known = self._parameters.get(parameter.name, parameter)
        # By their text, since a choice of 1 and a choice of True are equal.
        if repr(known) != repr(parameter):
            raise ValueError(
                f"`{parameter}` has the name of `{known}`, which was asked for before. "
                "Different hyperparameters take different names."
            )
        if parameter.name not in self._asked:
            self._asked[parameter.name] = self._answer(parameter)
            self._parameters[parameter.name] = parameter
        return self._asked[parameter.name]

    def _answer(self, parameter: Parameter) -> Value:
        if parameter.name not in self._given:
            return self._source(parameter)
        given = self._given[parameter.name]
        value = parameter.match(given)
        if value is None:
            raise ValueError(f"`{parameter}` was given {given!r}, which it cannot be.")
        del self._given[parameter.name]
        return value


def _range(kind: str, name: str, limits: tuple, sampling: str | None) -> tuple:
    call = _call(kind, name)
    read = whole_number if kind == "Int" else real_number
    noun = "whole number" if kind == "Int" else "number"
    numbers = []
    for argument, limit in zip(("min_value", "max_value", "step", "default"), limits):
        number = read(limit)
        missing = limit is None and argument in ("step", "default")
        if not missing and (number is None or not math.isfinite(number)):
            raise ValueError(f"{call}: `{argument}` is a {noun}, got {limit!r}.")
        numbers.append(number)
    low, high, step, default = numbers
    sampling = "linear" if sampling is None else str(sampling).lower()
    step = 1 if kind == "Int" and step is None and sampling == "linear" else step
    default = low if default is None else default
    if wrong := _wrong(low, high, step, sampling, default):
        raise ValueError(f"{call}: {wrong}.")
    return name, low, high, step, sampling, default


def _wrong(low: Any, high: Any, step: Any, sampling: str, default: Any) -> str | None:
    least = 0 if sampling == "linear" else 1
    if sampling not in ("linear", "log", "reverse_log"):
        return f"`sampling` is 'linear', 'log' or 'reverse_log', got {sampling!r}"
    if low > high:
        return f"`min_value` is at most `max_value`, got {low} and {high}"
    if sampling != "linear" and low <= 0:
        return f"with `{sampling=}`, `min_value` is above 0, got {low}"
    if step is not None and step <= least:
        return f"with `{sampling=}`, `step` is above {least}, got {step}"
    if not low <= default <= high:
        return f"`default` lies between {low} and {high}, got {default}"
    if not math.isfinite(high - low if sampling == "linear" else high / low):
        return f"{low} to {high} is too wide for floating-point numbers"
    return None


def _call(kind: str, name: Any) -> str:
    call = f"`hp.{kind}({name!r}, ...)`"
    if not isinstance(name, str):
        raise TypeError(f"{call}: a name is a str, got {type(name).__name__}.")
    if not name:
        raise ValueError(f"{call}: the name is empty.")
    return call


def _length(argument: str, value: Any) -> int | None:
    length = whole_number(value)
    if value is not None and (length is None or length < 1):
        raise ValueError(f"`{argument}` is a whole number from 1, got {value!r}.")
    return length


def _known(name: str, length: int | None) -> int:
    if length is None:
        raise ValueError(
            f"`hp.{name}` is not known outside a search. Give the training's length: "
            "`vt.HyperParameters(steps_per_epoch=..., max_epochs=...)`."
        )
    return length
