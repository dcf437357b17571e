"""Points of the space that are traced to plan with, and are no trials."""

import contextlib
import math
from collections.abc import Callable, Mapping, Sequence

from vtune.fusion.envelope import envelope_values
from vtune.fusion.trace import Trace
from vtune.hyperparameters import HyperParameters
from vtune.parameters import Choice, Parameter
from vtune.proposal import Build, Horizon, propose, realise
from vtune.search.sampler import RandomSampler
from vtune.trial import Trainable, Value


# Points that are traced only to see which constants differ.
_PROBES = 4
_FIRST_PROBE = 2**31


class Points:
    """Builds and traces points of the space.

    Args:
        build: the user's function.
        horizon: what `build` may read of the search.
        trace: traces a trainable, or says what keeps it from being one; a ValueError
            that it raises is nobody's concern here.
    """

    def __init__(
        self,
        build: Build,
        horizon: Horizon,
        trace: Callable[[Trainable], tuple[Trace | None, Exception | None]],
    ):
        self._build = build
        self._horizon = horizon
        self._trace = trace

    def probed(self) -> list[Trace]:
        """Traces a few points at random, always the same."""
        sampler = RandomSampler(self._horizon.seed)
        traces = []
        for number in range(_FIRST_PROBE, _FIRST_PROBE + _PROBES):
            proposal = propose(self._build, sampler, number, (), set(), self._horizon)
            trainable = None if proposal is None else proposal.trainable
            trace = self._traced(trainable)
            traces += [] if trace is None else [trace]
        return traces

    def envelope(self, members: Sequence[HyperParameters]) -> Trace | None:
        """Traces what `build` makes of the largest values of some points.

        Args:
            members: the points.

        Returns:
            The trace, which may turn out to be no envelope of them; None if there is
            no such point.
        """
        values = envelope_values([member.values for member in members])
        return None if values is None else self._trace_of(values)

    def largest(self, members: Sequence[HyperParameters]) -> tuple[Trace, int] | None:
        """Traces the largest point that may come of those that differ as some do.

        Args:
            members: the points.

        Returns:
            The trace, which has in place of each whole number in which the points
            differ the largest of its range, and in how many it is larger than in all
            of them; None if there is no larger one.
        """
        values = envelope_values([member.values for member in members])
        if values is None:
            return None
        raised = {}
        for parameter in members[0].parameters:
            found = {member.values.get(parameter.name) for member in members}
            numbers = [value for value in found if type(value) is int]
            if len(numbers) == len(found) > 1:
                limit = _largest(parameter)
                raised |= {parameter.name: limit} if limit > max(numbers) else {}
        trace = self._trace_of(values | raised) if raised else None
        return None if trace is None else (trace, len(raised))

    def _trace_of(self, values: Mapping[str, Value]) -> Trace | None:
        hyperparameters = HyperParameters(
            values,
            steps_per_epoch=self._horizon.steps_per_epoch,
            max_epochs=self._horizon.max_epochs,
        )
        return self._traced(realise(self._build, hyperparameters).trainable)

    def _traced(self, trainable: Trainable | None) -> Trace | None:
        if trainable is not None:
            with contextlib.suppress(ValueError):
                return self._trace(trainable)[0]
        return None


def _largest(parameter: Parameter) -> int:
    """The largest whole number that a hyperparameter takes."""
    last = parameter.from_unit(math.nextafter(1, 0))
    values = parameter.values if isinstance(parameter, Choice) else [last]
    return max(value for value in values if type(value) is int)
