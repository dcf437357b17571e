"""New trials: a configuration, what `build` made of it, and its trace."""

import collections
import dataclasses
import itertools
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from vtune.foresight import Foresight, foresight
from vtune.fusion.trace import Trace
from vtune.hyperparameters import HyperParameters
from vtune.model import Model
from vtune.points import Points
from vtune.proposal import Build, Horizon, propose
from vtune.search.sampler import Sampler, configuration_key
from vtune.training.data import DataSet
from vtune.training.outlook import Outlook
from vtune.trial import Objective, Trainable


# Trials that are traced before they are asked for: more than start together on a large
# device, and few enough to be kept in memory.
_MOST_AHEAD = 256

# So many that cannot be built, and none that can, are no accident.
_HOPELESS = 3


@dataclasses.dataclass(frozen=True, eq=False)
class Newcomer:
    """A trial before its first epoch.

    Args:
        hyperparameters: what `build` asked for and got.
        trace: its functions; None if it failed.
        error: what went wrong in `build` or while tracing, or None.
    """

    hyperparameters: HyperParameters
    trace: Trace | None
    error: Exception | None


class Intake:
    """Draws, builds and traces new trials.

    Args:
        build: the user's function.
        sampler: which values trials get.
        horizon: what `build` may read of the search.
        objective: the metric that every trial has to produce.
        to_trace: traces a trainable.
        data: the training set, and the validation set or None.
    """

    def __init__(
        self,
        build: Build,
        sampler: Sampler,
        horizon: Horizon,
        objective: Objective,
        to_trace: Callable[[Trainable], Trace],
        data: tuple[DataSet, DataSet | None],
    ):
        self.hyperparameters: list[HyperParameters] = []
        self.exhausted = False
        self.seconds = 0.0
        self._build = build
        self._points = Points(build, horizon, self._trace)
        self._sampler = sampler
        self._horizon = horizon
        self._objective = objective
        self._to_trace = to_trace
        self._data = data
        self._drawn: list[HyperParameters] = []
        self._tried: set[Any] = set()
        self._ahead: collections.deque[Newcomer | Exception | None]
        self._ahead = collections.deque()
        self._probes: list[Trace] | None = None
        self._traced_one = False

    def take(self) -> Newcomer | None:
        """The next trial; None where the space is exhausted.

        Raises:
            ValueError: if the data do not suit the model, or if the first trial that
                can be traced does not produce the objective.
        """
        if not self._ahead:
            self._draw()
        newcomer = self._ahead[0]
        if isinstance(newcomer, Exception):
            raise newcomer
        if newcomer is None:
            self.exhausted = True
            return None
        self._ahead.popleft()
        self.hyperparameters.append(newcomer.hyperparameters)
        return newcomer

    def ahead(self, planned: int | None) -> bool:
        """Draws, builds and traces a trial before it is asked for.

        Trials are the same whenever they are drawn: a sampler knows the values of the
        trials before, and no results.

        Args:
            planned: the trials of the whole search; None: as many as the space holds.

        Returns:
            False if there is none to draw now.
        """
        enough = planned is not None and len(self._drawn) >= planned
        if self._has_ended or enough or len(self._ahead) >= _MOST_AHEAD:
            return False
        self._draw()
        return True

    @property
    def _has_ended(self) -> bool:
        """Whether nothing can be drawn after what is ahead."""
        return bool(self._ahead) and not isinstance(self._ahead[-1], Newcomer)

    def _draw(self) -> None:
        """Adds the next trial to those ahead, or what keeps it from being one."""
        started = time.perf_counter()
        try:
            newcomer = self._next()
        except Exception as error:
            newcomer = error
        if isinstance(newcomer, Newcomer):
            self._drawn.append(newcomer.hyperparameters)
            self._tried.add(configuration_key(newcomer.hyperparameters.values))
        self._ahead.append(newcomer)
        self.seconds += time.perf_counter() - started

    def _next(self) -> Newcomer | None:
        proposal = propose(
            self._build,
            self._sampler,
            len(self._drawn),
            self._drawn,
            self._tried,
            self._horizon,
        )
        if proposal is None:
            return None
        trace, error = None, proposal.error
        if proposal.trainable is not None:
            trace, error = self._trace(proposal.trainable)
        return Newcomer(proposal.hyperparameters, trace, error)

    def foresee(self, total: int | None, go_on: Callable[[], bool]) -> Foresight:
        """Traces as many of the trials to come as are to be known beforehand.

        Args:
            total: the trials of the whole study; None: as many as the space holds.
            go_on: is asked before each; false ends it.

        Returns:
            What is known then.
        """
        sight = foresight(len(self.hyperparameters), total, self.exhausted)
        while len(self._ahead) < sight.coming and not self._has_ended and go_on():
            self._draw()
        known = sum(isinstance(newcomer, Newcomer) for newcomer in self._ahead)
        return dataclasses.replace(sight, coming=min(sight.coming, known))

    def look(self, total: int | None, go_on: Callable[[], bool]) -> Iterator[Trace]:
        """Traces those that come first before any of them is asked for.

        Args:
            total, go_on: as for `foresee`.

        Yields:
            The functions of those that can be trained.
        """
        sight = foresight(len(self.hyperparameters), total, self.exhausted)
        for place in range(sight.coming):
            if len(self._ahead) == place:
                # Nobody waits for all of them to hear that none can be built.
                is_hopeless = place >= _HOPELESS and not self._traced_one
                if self._has_ended or not go_on() or is_hopeless:
                    return
                self._draw()
            newcomer = self._ahead[place]
            if isinstance(newcomer, Newcomer) and newcomer.trace is not None:
                yield newcomer.trace

    def outlook(self, sight: Foresight, starting: int = 0) -> Outlook:
        """The traces of what is yet to start.

        Args:
            sight: what of it is known.
            starting: how many trials start before those.

        Returns:
            Of the trials to come those that can be trained, and further points of the
            space.
        """
        while len(self._ahead) < starting + sight.coming and not self._has_ended:
            self._draw()
        coming = self._traces(starting, starting + sight.coming)
        others = self._probe() if sight.probed else []
        return Outlook(coming, others, sight.weight, self._largest)

    def upcoming(
        self, starting: int, total: int | None
    ) -> tuple[dict[int, Trace], Outlook] | None:
        """What is there to plan with when the next trials start.

        Args:
            starting: how many start.
            total: the trials of the whole study; None: as many as the space holds.

        Returns:
            The traces of those that can be trained, by number, and the outlook beyond
            them; None while not all of it is drawn.
        """
        begun = len(self.hyperparameters) + starting
        sight = foresight(begun, total, self.exhausted)
        known = sum(isinstance(newcomer, Newcomer) for newcomer in self._ahead)
        if known < starting + sight.coming:
            return None
        return self._traces(0, starting), self.outlook(sight, starting)

    def _traces(self, first: int, end: int) -> dict[int, Trace]:
        """The traces of some of those ahead, by their trials' numbers."""
        several = enumerate(self._ahead, len(self.hyperparameters))
        return {
            number: newcomer.trace
            for number, newcomer in itertools.islice(several, first, end)
            if isinstance(newcomer, Newcomer) and newcomer.trace is not None
        }

    def envelope(self, numbers: Sequence[int]) -> Trace | None:
        """Traces what `build` makes of the largest values of some trials.

        Args:
            numbers: the trials.

        Returns:
            As `Points.envelope`.
        """
        return self._points.envelope([self._drawn[number] for number in numbers])

    def _largest(self, numbers: Sequence[int]) -> tuple[Trace, int] | None:
        return self._points.largest([self._drawn[number] for number in numbers])

    def _probe(self) -> list[Trace]:
        """Traces of further points of the space, which show what may still differ."""
        if self._probes is None:
            started = time.perf_counter()
            self._probes = self._points.probed()
            self.seconds += time.perf_counter() - started
        return self._probes

    def _trace(self, trainable: Trainable) -> tuple[Trace | None, Exception | None]:
        try:
            trace = self._to_trace(trainable)
        except Exception as error:
            self._check(trainable, None)
            return None, error
        self._check(trainable, trace.state)
        missing = self._missing_objective(trace)
        if missing is None:
            self._traced_one = True
        elif not self._traced_one:
            raise missing
        return (trace, None) if missing is None else (None, missing)

    def _check(self, trainable: Trainable, state: Any) -> None:
        for data in self._data:
            if isinstance(trainable, Model) and data is not None:
                trainable.check(data.x, data.y, state)

    def _missing_objective(self, trace: Trace) -> ValueError | None:
        names = trace.metric_names
        if self._objective.name in names:
            return None
        return ValueError(
            f"The objective {self._objective.name!r} is not among the metrics of an "
            f"epoch: {', '.join(names)}."
        )
