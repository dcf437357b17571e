"""A trial as its trainer knows it."""

import dataclasses
from typing import Any, NamedTuple

import jax
import numpy as np
from jaxtyping import Int

from vtune.fusion.trace import Trace
from vtune.fusion.widening import Widening
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
        state: its state, in its own shapes, while it is in no lane; None before the
            first step and while it is in one.
    """

    trace: Trace
    cohort: int
    keys: LaneKeys
    epoch: int = 0
    state: HostState | None = None

    def initialised(
        self, widening: Widening, program: Program | Exception, batch: Any
    ) -> "Member":
        """The trial with the state before its first step.

        Args:
            widening: its cohort's functions.
            program: what makes the state, or what kept it from being compiled.
            batch: the first training batch.

        Raises:
            Exception: whatever making the state raises.
        """
        if isinstance(program, Exception):
            raise program
        constants = widening.values(self.trace).init
        if widening.functions.init is None:
            state = jax.device_get(list(program(constants, self.keys.init, batch)))
        else:
            sizes = widening.lane_sizes(self.trace)
            wide = program(constants, sizes, self.keys.init, batch)
            state = widening.extract(jax.device_get(list(wide)), self.trace)
        return dataclasses.replace(self, state=tuple(state))

    def in_lane(self, widening: Widening) -> "Lane":
        """What a lane holds.

        Args:
            widening: its cohort's functions.
        """
        state = self.state
        if state is not None:
            state = tuple(widening.embed(state, self.trace))
        values = widening.values(self.trace)
        sizes = widening.lane_sizes(self.trace)
        return Lane(state, values.train + values.evaluate, sizes, self.keys)


class Lane(NamedTuple):
    """What a lane holds, in the shapes of the envelope.

    Args:
        state: the leaves of the state.
        constants: the values of the lifted constants.
        sizes: the trial's own sizes.
        keys: its keys.
    """

    state: HostState | None
    constants: Any
    sizes: Int[np.ndarray, " sizes"]
    keys: LaneKeys
