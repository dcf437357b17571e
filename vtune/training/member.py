"""A trial as its trainer knows it."""

import dataclasses
import functools
from collections.abc import Mapping
from typing import Any, NamedTuple

import jax
import numpy as np
from jaxtyping import Int

from vtune.fusion.trace import Trace
from vtune.fusion.widening import Widening
from vtune.training.compile import Program
from vtune.training.keys import LaneKeys
from vtune.training.lanes import HostState
from vtune.training.streams import side_by_side


@dataclasses.dataclass(frozen=True, eq=False)
class Member:
    """A trial that was admitted.

    Args:
        trace: its functions.
        cohort: the number of its cohort.
        keys: its random keys, as data.
        epoch: the epochs that it has trained.
        state: its state, in its own shapes, while it is in no lane, and until it was
            trained in one; None before the first step and from then on.
    """

    trace: Trace
    cohort: int
    keys: LaneKeys
    epoch: int = 0
    state: HostState | None = None

    def trained(self) -> "Member":
        """The trial after one more epoch, its state in its lane alone."""
        return dataclasses.replace(self, epoch=self.epoch + 1, state=None)

    def in_lane(self, widening: Widening) -> "Lane":
        """What a lane holds beside the state.

        Args:
            widening: its cohort's functions.
        """
        values = widening.values(self.trace)
        sizes = widening.lane_sizes(self.trace)
        return Lane(values.train + values.evaluate, sizes, self.keys)


def initialised(
    members: Mapping[int, Member],
    widening: Widening,
    programs: Mapping[tuple[str, int], Program | Exception],
    batch: Any,
    threads: int,
) -> tuple[dict[int, Member], dict[int, Exception]]:
    """Trials with the state before their first step.

    Args:
        members: trials of one cohort, by number.
        widening: the cohort's functions.
        programs: for `("init", number)` what makes a trial's state, or what kept it
            from being compiled.
        batch: the first training batch.
        threads: how many states are made at a time.

    Returns:
        The trials, and for each that has no state what keeps it from having one.
    """

    def made(number: int) -> Member | Exception:
        member, program = members[number], programs["init", number]
        try:
            if isinstance(program, Exception):
                raise program
            state = _first_state(member, widening, program, batch)
            return dataclasses.replace(member, state=state)
        except Exception as error:
            return error

    works = [functools.partial(made, number) for number in members]
    found = dict(zip(members, side_by_side(works, threads)))
    return (
        {n: each for n, each in found.items() if isinstance(each, Member)},
        {n: each for n, each in found.items() if isinstance(each, Exception)},
    )


def _first_state(
    member: Member, widening: Widening, program: Program, batch: Any
) -> HostState:
    constants = widening.values(member.trace).init
    if widening.functions.init is None:
        return tuple(jax.device_get(list(program(constants, member.keys.init, batch))))
    sizes = widening.lane_sizes(member.trace)
    wide = jax.device_get(list(program(constants, sizes, member.keys.init, batch)))
    return tuple(widening.extract(wide, member.trace))


class Lane(NamedTuple):
    """What a lane holds beside the state, in the shapes of the envelope.

    Args:
        constants: the values of the lifted constants.
        sizes: the trial's own sizes.
        keys: its keys.
    """

    constants: Any
    sizes: Int[np.ndarray, " sizes"]
    keys: LaneKeys
