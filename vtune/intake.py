"""New trials: a configuration, what `build` made of it, and its trace."""

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

from vtune.fusion.envelope import envelope_values
from vtune.fusion.trace import Trace
from vtune.hyperparameters import HyperParameters
from vtune.model import Model
from vtune.proposal import Build, Horizon, propose, realise
from vtune.search.sampler import RandomSampler, Sampler, configuration_key
from vtune.training.data import DataSet
from vtune.trial import Objective, Trainable


# Points of the space that are traced only to see which constants differ.
_PROBES = 4
_FIRST_PROBE = 2**31


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
        self._build = build
        self._sampler = sampler
        self._horizon = horizon
        self._objective = objective
        self._to_trace = to_trace
        self._data = data
        self._tried: set[Any] = set()
        self._traced_one = False

    def take(self) -> Newcomer | None:
        """The next trial; None where the space is exhausted.

        Raises:
            ValueError: if the data do not suit the model, or if the first trial that
                can be traced does not produce the objective.
        """
        proposal = propose(
            self._build,
            self._sampler,
            len(self.hyperparameters),
            self.hyperparameters,
            self._tried,
            self._horizon,
        )
        if proposal is None:
            self.exhausted = True
            return None
        self.hyperparameters.append(proposal.hyperparameters)
        self._tried.add(configuration_key(proposal.hyperparameters.values))
        trace, error = None, proposal.error
        if proposal.trainable is not None:
            trace, error = self._trace(proposal.trainable)
        return Newcomer(proposal.hyperparameters, trace, error)

    def probe(self) -> list[Trace]:
        """Traces of further points of the space, which show what may still differ."""
        sampler = RandomSampler(self._horizon.seed)
        traces = []
        for number in range(_FIRST_PROBE, _FIRST_PROBE + _PROBES):
            proposal = propose(self._build, sampler, number, (), set(), self._horizon)
            if proposal is not None and proposal.trainable is not None:
                trace, _ = self._trace(proposal.trainable)
                traces += [] if trace is None else [trace]
        return traces

    def envelope(self, numbers: Sequence[int]) -> Trace | None:
        """Traces what `build` makes of the largest values of some trials.

        Args:
            numbers: the trials.

        Returns:
            The trace, which may turn out to be no envelope of them; None if there is
            no such trial.
        """
        values = envelope_values([self.hyperparameters[n].values for n in numbers])
        if values is None:
            return None
        hyperparameters = HyperParameters(
            values,
            steps_per_epoch=self._horizon.steps_per_epoch,
            max_epochs=self._horizon.max_epochs,
        )
        proposal = realise(self._build, hyperparameters)
        if proposal.trainable is None:
            return None
        return self._trace(proposal.trainable)[0]

    def _trace(self, trainable: Trainable) -> tuple[Trace | None, Exception | None]:
        if isinstance(trainable, Model):
            for data in self._data:
                if data is not None:
                    trainable.check(data.x, data.y)
        try:
            trace = self._to_trace(trainable)
        except Exception as error:
            return None, error
        missing = self._missing_objective(trace)
        if missing is None:
            self._traced_one = True
            return trace, None
        if not self._traced_one:
            raise missing
        return None, missing

    def _missing_objective(self, trace: Trace) -> ValueError | None:
        names = (*trace.train_metrics, *(f"val_{name}" for name in trace.eval_metrics))
        if self._objective.name in names:
            return None
        return ValueError(
            f"The objective {self._objective.name!r} is not among the metrics of an "
            f"epoch: {', '.join(names)}."
        )
