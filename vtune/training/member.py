"""A trial as its trainer knows it."""

import dataclasses
from typing import Any

import jax

from vtune.fusion.constants import Lifting
from vtune.fusion.trace import Trace
from vtune.training.compile import Program
from vtune.training.keys import LaneKeys
from vtune.training.lanes import HostState


@dataclasses.dataclass(frozen=True, eq=False)
class Member:
    """A trial that was admitted.

    Args:
        trace: its functions.
        cohort: the number of its cohort.
        keys: its random keys, as data.
        epoch: the epochs that it has trained.
        state: its state while it is in no lane; None before the first step and while
            it is in one.
    """

    trace: Trace
    cohort: int
    keys: LaneKeys
    epoch: int = 0
    state: HostState | None = None

    def initialised(
        self, lifting: Lifting, program: Program | Exception, batch: Any
    ) -> "Member":
        """The trial with the state before its first step.

        Args:
            lifting: its cohort's functions.
            program: its cohort's initialisation, or what kept it from being compiled.
            batch: the first training batch.

        Raises:
            Exception: whatever making the state raises.
        """
        if isinstance(program, Exception):
            raise program
        constants = lifting.values(self.trace).init
        state = program(constants, self.keys.init, batch)
        return dataclasses.replace(self, state=tuple(jax.device_get(list(state))))

    def in_lane(self, lifting: Lifting) -> tuple[HostState | None, Any, LaneKeys]:
        """What a lane holds: the state, the lifted constants' values, the keys."""
        values = lifting.values(self.trace)
        return self.state, values.train + values.evaluate, self.keys
