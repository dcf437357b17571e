"""Long epochs cut into slices, so that progress is seen and Ctrl-C is answered."""

import dataclasses
import hashlib
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import numpy as np
from jaxtyping import Bool, Int

from vtune.fusion.work import terms
from vtune.training.compile import Program, Request
from vtune.training.device import device_rule
from vtune.training.epoch import LaneFunctions, LaneInputs
from vtune.training.grouping import lane_seconds
from vtune.training.keys import LaneKeys
from vtune.training.orders import Orders, orders_request
from vtune.training.plan import Arrangement
from vtune.training.requests import end_request, epoch_request, slice_request


# Seconds that a program may be expected to run before it is cut, and those of a slice.
_LONG = 4.0
_SLICE = 2.0


class LaneArguments(NamedTuple):
    """What an epoch takes that has a lane axis.

    Args:
        state: the leaves of the states.
        constants: the values of the lifted constants.
        sizes: the trials' own sizes.
        keys: their keys.
        epochs: the epochs that each has trained.
        active: which of them train.
    """

    state: Any
    constants: Any
    sizes: Any
    keys: LaneKeys
    epochs: Int[np.ndarray, " lanes"]
    active: Bool[np.ndarray, " lanes"]

    def inputs(self, orders: Orders) -> LaneInputs:
        """What the epoch's programs take beside the state.

        Args:
            orders: draws the order of the data.
        """
        order = orders.draw(self.keys.order, self.epochs, self.active)
        own = (self.constants, self.sizes)
        return LaneInputs(*own, self.keys.step, order, self.epochs)


@dataclasses.dataclass(frozen=True, eq=False)
class Whole:
    """An epoch in one program.

    Args:
        orders: draws the order of the data.
        epoch: the program that trains and evaluates.
    """

    orders: Orders
    epoch: Program

    @property
    def identity(self) -> str:
        """Equal only for programs that give the same bits."""
        return self.epoch.identity

    @property
    def bytes(self) -> int:
        """The memory that it needs, with arguments and results."""
        return self.epoch.bytes

    def run(self, lane: LaneArguments, data: Any, stop: Callable[[float], bool]) -> Any:
        """Runs an epoch; it cannot be stopped.

        Args:
            lane, data, stop: as for `Sliced.run`.

        Returns:
            The next state, metrics, and whether they are finite.
        """
        return self.epoch(lane.state, lane.inputs(self.orders), lane.active, *data)


@dataclasses.dataclass(frozen=True, eq=False)
class Sliced:
    """An epoch in several programs.

    Args:
        orders: draws the order of the data.
        slices: the programs that take the steps, in their order.
        lengths: how many steps each takes.
        end: the program that does the rest of the epoch.
    """

    orders: Orders
    slices: tuple[Program, ...]
    lengths: tuple[int, ...]
    end: Program

    @property
    def identity(self) -> str:
        """Equal only for programs that give the same bits."""
        programs = (*self.slices, self.end)
        text = " ".join(program.identity for program in programs)
        return hashlib.sha256(text.encode()).hexdigest()

    @property
    def bytes(self) -> int:
        """The memory that it needs, with arguments and results."""
        return max(program.bytes for program in (*self.slices, self.end))

    def run(self, lane: LaneArguments, data: Any, stop: Callable[[float], bool]) -> Any:
        """Runs an epoch.

        Args:
            lane: the arguments that have a lane axis.
            data: the others: the training set and the validation set.
            stop: is asked after each slice, with the part of the steps that are taken.

        Returns:
            What an epoch's program returns; None if it was stopped. The state that was
            handed in is there still.
        """
        state, others = lane.state, (lane.inputs(self.orders), lane.active)
        each: list[Any] = []
        first = 0
        for program, length in zip(self.slices, self.lengths):
            start = np.int32(first)
            state, found = program(state, *others, start, data.training)
            each.append(found)
            first += length
            # The device has the next slice before the last one is waited for.
            if len(each) > 1:
                each[-2] = jax.device_get(each[-2])
                if stop((first - length) / sum(self.lengths)):
                    return None
        figures = np.concatenate(jax.device_get(each), axis=1)
        return self.end(state, *others, figures, *data)


Epoch = Whole | Sliced


def slice_lengths(steps: int, seconds: float) -> tuple[int, ...]:
    """How an epoch is cut.

    Slices are of equal length where a divisor is near; none has a single step, which
    the compiler would make another program of.

    Args:
        steps: the steps of the epoch.
        seconds: what a step is expected to take.

    Returns:
        The steps of each slice; nothing if the epoch is short and stays whole.
    """
    if steps * seconds <= _LONG or steps < 4:
        return ()
    most = max(2, min(int(_SLICE / seconds), steps // 2))
    divisors = [n for n in range(most, max(1, most // 2), -1) if steps % n == 0]
    if divisors:
        return (divisors[0],) * (steps // divisors[0])
    count, rest = divmod(steps, most)
    if rest == 1:
        return (most,) * (count - 1) + (most + 1,)
    return (most,) * count + (rest,)


def epoch_requests(
    functions: LaneFunctions, arrangement: Arrangement, platform: str, data: Any
) -> dict[str, Request]:
    """The programs of an epoch, by what they do.

    Args:
        functions: the cohort's functions.
        arrangement: the form and number of its lanes.
        platform: `"cpu"`, `"gpu"` or `"tpu"`.
        data: the training set and the validation set or None, as shapes and dtypes.

    Returns:
        One for `"orders"`, and one for `"epoch"` or those for `"slice"`, `"last"` where
        the last slice has another length, and `"end"`.
    """
    form, lanes = arrangement.form, arrangement.lanes
    lengths = _lengths(functions, arrangement, platform)
    samples = functions.loop.samples
    found = {"orders": orders_request(platform, lanes, samples)}
    if not lengths:
        return {**found, "epoch": epoch_request(functions, form, lanes, *data)}
    training, _ = data
    found["slice"] = slice_request(functions, form, lanes, lengths[0], training)
    if lengths[-1] != lengths[0]:
        last = slice_request(functions, form, lanes, lengths[-1], training)
        found["last"] = last
    return {**found, "end": end_request(functions, form, lanes, *data)}


def assembled(
    programs: Mapping[str, Program | Exception],
    functions: LaneFunctions,
    arrangement: Arrangement,
    platform: str,
) -> Epoch:
    """The programs of an epoch as one.

    Args:
        programs: for each of `epoch_requests` its program.
        functions, arrangement, platform: as for `epoch_requests`.

    Raises:
        Exception: what kept one of them from being compiled.
    """
    found: dict[str, Program] = {}
    for name, program in programs.items():
        if isinstance(program, Exception):
            raise program
        found[name] = program
    orders = Orders(found["orders"], platform, functions.loop.samples)
    if "epoch" in found:
        return Whole(orders, found["epoch"])
    lengths = _lengths(functions, arrangement, platform)
    last = found.get("last", found["slice"])
    slices = (*[found["slice"]] * (len(lengths) - 1), last)
    return Sliced(orders, slices, lengths, found["end"])


def _lengths(
    functions: LaneFunctions, arrangement: Arrangement, platform: str
) -> tuple[int, ...]:
    rule = device_rule(platform)
    lane = lane_seconds(terms(functions.widening.envelope), rule)
    seconds = rule.starting + arrangement.lanes * lane
    return slice_lengths(functions.loop.train.steps, seconds)
