"""Which values a trial tries, from its number and the trials before it."""

import dataclasses
import hashlib
import struct
from collections.abc import Hashable, Mapping, Sequence
from typing import Protocol, runtime_checkable

from vtune.hyperparameters import HyperParameters, Source
from vtune.parameters import Parameter
from vtune.trial import Value


def configuration_key(values: Mapping[str, Value]) -> Hashable:
    """Equal for the same names with values of the same type and bytes, in any order.

    Args:
        values: the values of a trial by name.

    Returns:
        A key to compare and hash: 1, 1.0 and True differ, as do 0.0 and -0.0.
    """
    return frozenset((name, _value_key(value)) for name, value in values.items())


def unit_draw(seed: int, number: int, attempt: int, name: str) -> float:
    """A number that is uniform in [0, 1) and the same in every process and order.

    Args:
        seed: the seed of the search.
        number: the number of the trial.
        attempt: how many configurations of this trial were drawn before.
        name: the hyperparameter's name.

    Returns:
        The first 53 bits of the SHA-256 hash of the arguments, as a fraction.
    """
    text = f"{seed:d}/{number:d}/{attempt:d}/{name}"
    digest = hashlib.sha256(text.encode("utf-8", "surrogatepass")).digest()
    return (int.from_bytes(digest[:8]) >> 11) / 2**53


@runtime_checkable
class Sampler(Protocol):
    """Gives each trial its values."""

    def source(
        self, number: int, attempt: int, history: Sequence[HyperParameters]
    ) -> Source | None:
        """What answers `build` when it asks for the value of a hyperparameter.

        Args:
            number: the number of the trial.
            attempt: how many configurations of this trial turned out to have been tried
                before.
            history: the hyperparameters of the trials before this one, by number.

        Returns:
            The value as a function of the parameter; None where every configuration of
            the space was tried.
        """
        ...


@dataclasses.dataclass(frozen=True)
class RandomSampler:
    """Draws each value at random, whatever the other trials tried.

    Args:
        seed: the seed of the search; 0 is a seed as any other.
    """

    seed: int

    def source(
        self, number: int, attempt: int, history: Sequence[HyperParameters]
    ) -> Source | None:
        """Draws that depend on the seed, the trial, the attempt and the name only."""
        del history

        def draw(parameter: Parameter) -> Value:
            u = unit_draw(self.seed, number, attempt, parameter.name)
            return parameter.from_unit(u)

        return draw


@dataclasses.dataclass(frozen=True)
class GridSampler:
    """Every combination of values, in order: first value first, last parameter fastest.

    It counts as an odometer does whose wheels are what the previous trial asked for, in
    the order of asking: the last wheel that can still turn is turned, those before it
    stay, and what is asked for after it starts with its first value. So the parameters
    of a branch count only within it.
    """

    def source(
        self, number: int, attempt: int, history: Sequence[HyperParameters]
    ) -> Source | None:
        """The combination after the previous trial's."""
        del number
        turned = _turn(history[-1]) if history else {}
        # A further attempt would only give the same combination again.
        if turned is None or attempt > 0:
            return None

        def combine(parameter: Parameter) -> Value:
            if parameter.name in turned:
                return turned[parameter.name]
            return parameter.grid()[0]

        return combine


def _turn(previous: HyperParameters) -> dict[str, Value] | None:
    values, parameters = previous.values, previous.parameters
    for place in reversed(range(len(parameters))):
        name = parameters[place].name
        following = _following(parameters[place], values[name])
        if following is not None:
            kept = {p.name: values[p.name] for p in parameters[:place]}
            return kept | {name: following}
    return None


def _following(parameter: Parameter, value: Value) -> Value | None:
    members = iter(parameter.grid())
    for member in members:
        if _value_key(member) == _value_key(value):
            return next(members, None)
    return None


def _value_key(value: Value) -> Hashable:
    if isinstance(value, float):
        return "float", struct.pack("<d", value)
    return type(value).__name__, value
