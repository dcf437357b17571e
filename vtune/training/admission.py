"""New trials into cohorts, after what is fused was seen to be right."""

import collections
import time
from collections.abc import Hashable, Iterable, Mapping, Sequence
from typing import Any

import jax
import numpy as np

from vtune.fusion.arrays import array_identity
from vtune.fusion.sizes import growing_sizes, trace_sizes, training_structure
from vtune.fusion.trace import Trace
from vtune.training.assignment import Envelope, Settings, assign
from vtune.training.check import Difference, compare, wrong
from vtune.training.cohort import Cohort
from vtune.training.data import DataSet
from vtune.training.loop import Loop
from vtune.training.share import Share, multiply_adds, shares


# Steps of the check from each of its states: enough for what a step leaves in the state
# to matter to the next one.
_STEPS = 3

# What was found by the same check of the same program on the same data.
_COMPARED: dict[Hashable, Difference | None] = {}


class Verdicts:
    """What the check said of each structure; it is asked once for each.

    Args:
        loop: the epoch.
        training: what is trained on.
        validation: what is evaluated, or None.
        seed: the study's seed.
    """

    def __init__(
        self, loop: Loop, training: DataSet, validation: DataSet | None, seed: int
    ):
        self._arguments = _batches(loop, training, validation)
        self._seed = seed
        self.apart: dict[Hashable, str] = {}
        self.seconds = 0.0
        self._known: set[Hashable] = set()

    def judge(self, cohort: Cohort) -> bool:
        """Whether a cohort's trials may run in its envelope.

        Args:
            cohort: a new cohort.

        Returns:
            False if a trial would not be what it is alone; why is then in `apart`.
        """
        structure = training_structure(cohort.widening.envelope)
        if not cohort.widening.varies:
            return True
        if structure in self._known:
            return structure not in self.apart
        self._known.add(structure)
        started = time.perf_counter()
        found = self._compared(cohort)
        self.seconds += time.perf_counter() - started
        if found is not None:
            self.apart[structure] = (
                f"inside a wider program {found.what} differs by {found.error:.1e} "
                f"from the trial alone"
            )
        return found is None

    def _compared(self, cohort: Cohort) -> Difference | None:
        batches, evaluated = self._arguments
        # The narrowest has the most padding, and is the cheapest.
        narrow = min(cohort.traces, key=lambda trace: sum(growing_sizes(trace)))
        arrays = [*batches, *(evaluated or ())]
        data = tuple(map(array_identity, arrays))
        key = (cohort.widening.key, trace_sizes(narrow), data, self._seed)
        if key not in _COMPARED:
            differences = compare(
                cohort.widening, narrow, batches, evaluated, seed=self._seed
            )
            _COMPARED[key] = wrong(differences)
        return _COMPARED[key]


class Admission:
    """Which cohort each trial belongs to.

    Args:
        settings: what decides which trials share a program.
        verdicts: what the check says.
    """

    def __init__(self, settings: Settings, verdicts: Verdicts):
        self.cohorts: tuple[Cohort, ...] = ()
        self.chosen: dict[int, int] = {}
        self._settings = settings
        self._verdicts = verdicts
        self._multiplied: dict[int, float] = {}

    def admit(
        self,
        traces: Mapping[int, Trace],
        others: Sequence[Trace] = (),
        envelope: Envelope = lambda numbers: None,
    ) -> tuple[float, float]:
        """Finds a cohort for each of some new trials, and checks those that are new.

        Args:
            traces: the trials' traces, by number.
            others: traces of further points of the space, which show what may differ.
            envelope: makes an envelope of some of the trials where none of them is one.

        Returns:
            The seconds that it took beside the check, and those of the check.
        """
        started, checked = time.perf_counter(), self._verdicts.seconds
        while True:
            found, chosen = assign(
                traces,
                self.cohorts,
                self._settings,
                others=others,
                envelope=envelope,
                apart=self._verdicts.apart,
            )
            if all(map(self._verdicts.judge, found[len(self.cohorts) :])):
                break
        self.cohorts = found
        self.chosen |= chosen
        for number, trace in traces.items():
            self._multiplied[number] = multiply_adds(trace)
        checking = self._verdicts.seconds - checked
        return time.perf_counter() - started - checking, checking

    def shares(self, programs: Iterable[int]) -> tuple[Share, ...]:
        """Which trials share a program.

        Args:
            programs: for each compiled program the number of its cohort.
        """
        compiles = collections.Counter(programs)
        return shares(self.cohorts, self.chosen, self._multiplied, compiles)


def _batches(
    loop: Loop, training: DataSet, validation: DataSet | None
) -> tuple[list[Any], list[Any] | None]:
    """The first training batches, stacked, and the first evaluation batch."""
    size = loop.train.size
    steps = min(_STEPS, loop.train.steps)
    batches = [
        np.asarray(array).reshape(steps, size, *array.shape[1:])
        for array in jax.tree.leaves(training.rows(0, steps * size).batch)
    ]
    if validation is None or loop.evaluate is None:
        return batches, None
    whole = validation.rows(0, loop.evaluate.sizes[0]).batch
    return batches, jax.tree.leaves(whole)
