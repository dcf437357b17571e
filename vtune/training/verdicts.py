"""What the check said of each structure, and which trial it looks at."""

import dataclasses
import time
from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from typing import Any

import jax
import numpy as np

from vtune.fusion.arrays import array_identity
from vtune.fusion.constants import varying
from vtune.fusion.sizes import (
    flat_structure,
    growing_sizes,
    trace_sizes,
    training_structure,
)
from vtune.fusion.trace import Trace
from vtune.training.ahead import Ahead
from vtune.training.check import compared, rounding_here
from vtune.training.cohort import Cohort
from vtune.training.comparison import Comparison
from vtune.training.compile import abstract
from vtune.training.data import DataSet
from vtune.training.loop import Loop
from vtune.training.step import own_requests


# Steps of the check from each of its states: enough for what a step leaves in the state
# to matter to the next one.
_STEPS = 3

# The trial that is compared is the narrowest of so many: it is known before all are.
_FIRST = 4

# What was found by the same check of the same program on the same data.
_COMPARED: dict[Hashable, str | None] = {}


class Verdicts:
    """What the check said of each structure; it is asked once for each.

    Args:
        loop: the epoch.
        training: what is trained on.
        validation: what is evaluated, or None.
        seed: the study's seed.
        report: is called with a text while programs are compiled.
        ahead: compiles programs before they are waited for.
    """

    def __init__(
        self,
        loop: Loop,
        training: DataSet,
        validation: DataSet | None,
        seed: int,
        report: Callable[[str], None] = lambda text: None,
        ahead: Ahead | None = None,
    ):
        self._batches = _batches(loop, training, validation)
        self._seed = seed
        self._report = report
        self._ahead = ahead or Ahead()
        self.apart: dict[Hashable, str] = {}
        self.seconds = 0.0
        self._known: set[Hashable] = set()
        self._begun: dict[Hashable, tuple[Hashable, Comparison]] = {}
        self._seen: dict[Hashable, list[Trace]] = {}
        self._chosen: dict[Hashable, Trace] = {}

    def look(self, trace: Trace) -> None:
        """Begins to compile what the check needs of trials alone, before it is asked.

        More constants may turn out to differ among trials; then it was in vain.

        Args:
            trace: the functions of a trial; they come in the order of their numbers.
        """
        several = self._seen.setdefault(training_structure(trace), [])
        if len(several) == _FIRST:
            return
        several.append(trace)
        if len(several) < _FIRST or len(set(map(trace_sizes, several))) == 1:
            return
        chosen = _narrowest(several)
        if len({flat_structure(each.init) for each in several}) > 1:
            several = [dataclasses.replace(t, init=chosen.init) for t in several]
        requests = own_requests(chosen, varying(several), *_abstract(self._batches))
        self._ahead.begin(list(requests.values()))

    def expect(self, traces: Iterable[Trace]) -> None:
        """Chooses which trials are to be compared, one of each structure.

        Args:
            traces: the functions of all trials that are planned for, in the order of
                their numbers.
        """
        first: dict[Hashable, list[Trace]] = {}
        for trace in traces:
            several = first.setdefault(training_structure(trace), [])
            if len(several) < _FIRST:
                several.append(trace)
        self._chosen = {key: _narrowest(several) for key, several in first.items()}

    def begin(self, cohort: Cohort) -> None:
        """Begins to compile what the check of a cohort needs; others are yet planned.

        Args:
            cohort: a new cohort; it is left out if its structure was asked about, or if
                the trial that is to be compared is of another one.
        """
        new = self._compare_with(cohort)
        if new is not None and new[0] not in _COMPARED:
            self._ahead.begin(list(new[1].requests().values()))

    def judge(self, cohorts: Sequence[Cohort]) -> bool:
        """Whether the trials of some cohorts may run in their envelopes.

        Args:
            cohorts: new cohorts; which of them were begun changes nothing.

        Returns:
            False if a trial would not be what it is alone; why is then in `apart`.
        """
        started = time.perf_counter()
        asked: dict[Hashable, tuple[Hashable, Comparison]] = {}
        concerned = [cohort for cohort in cohorts if cohort.widening.varies]
        for cohort in concerned:
            self._compare_with(cohort)
        for cohort in concerned:
            structure = training_structure(cohort.widening.envelope)
            if structure not in self._known and structure not in asked:
                begun = self._begun.get(structure)
                asked[structure] = begun or self._comparison(
                    cohort, _narrowest(cohort.traces)
                )
        self._known |= asked.keys()
        self._begun.clear()
        missing = {key: c for key, c in asked.values() if key not in _COMPARED}
        _COMPARED.update(zip(missing, compared(list(missing.values()), self._report)))
        for structure, (key, _) in asked.items():
            if (found := _COMPARED[key]) is not None:
                self.apart[structure] = found
        self.seconds += time.perf_counter() - started
        return not any(
            training_structure(cohort.widening.envelope) in self.apart
            for cohort in concerned
        )

    def settle(
        self, structures: Iterable[Hashable], apart: Mapping[Hashable, str]
    ) -> None:
        """Takes over what was found before, and asks no more.

        Args:
            structures: the structures of trials that were judged.
            apart: those among them that were found wrong, and why.
        """
        self._known.update(structures)
        self.apart.update(apart)

    def _compare_with(self, cohort: Cohort) -> tuple[Hashable, Comparison] | None:
        """The comparison of a structure's chosen trial, if it is this cohort's to do.

        Returns:
            None if another cohort's was found before, or the trial is of another one.
        """
        structure = training_structure(cohort.widening.envelope)
        chosen = self._chosen.get(structure)
        asked = structure in self._known or structure in self._begun
        if not cohort.widening.varies or asked or chosen is None:
            return None
        if not cohort.widening.accepts(chosen):
            return None
        self._begun[structure] = self._comparison(cohort, chosen)
        return self._begun[structure]

    def _comparison(self, cohort: Cohort, trace: Trace) -> tuple[Hashable, Comparison]:
        batches, evaluated = self._batches
        rounding = rounding_here()
        data = tuple(map(array_identity, jax.tree.leaves(self._batches)))
        return (
            (cohort.widening.key, trace_sizes(trace), data, self._seed, rounding),
            Comparison(
                cohort.widening, trace, batches, evaluated, self._seed, rounding
            ),
        )


def _narrowest(traces: Iterable[Trace]) -> Trace:
    """The trial with the most padding, which is the cheapest as well."""
    return min(traces, key=lambda trace: sum(growing_sizes(trace)))


def _abstract(batches: Any) -> tuple[Any, Any]:
    """A training batch and an evaluation batch or None, as shapes and dtypes."""
    train, evaluated = batches
    first = jax.tree.map(lambda array: array[0], train)
    return jax.tree.map(abstract, (first, evaluated))


def _batches(loop: Loop, training: DataSet, validation: DataSet | None) -> Any:
    """The first training batches, stacked, and the first evaluation batch or None."""
    size = loop.train.size
    steps = min(_STEPS, loop.train.steps)

    def stacked(array: Any) -> np.ndarray:
        return np.asarray(array).reshape(steps, size, *array.shape[1:])

    batches = jax.tree.map(stacked, training.rows(0, steps * size).batch)
    if validation is None or loop.evaluate is None:
        return batches, None
    return batches, validation.rows(0, loop.evaluate.sizes[0]).batch
