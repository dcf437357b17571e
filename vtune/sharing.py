"""Which trials share a program: of a search, and of values that a user gives."""

from collections.abc import Mapping, Sequence
from typing import Any

import jax
import numpy as np

from vtune.fusion.envelope import envelope_values
from vtune.fusion.trace import Trace
from vtune.hypermodel import build_function
from vtune.hyperparameters import HyperParameters
from vtune.proposal import Build, realise
from vtune.reporting.plans import CohortRow, ErrorRow, FusionReport, differing
from vtune.reporting.summary import print_summary
from vtune.training.assignment import Settings, assign
from vtune.training.check import compare
from vtune.training.data import DataSet, dataset
from vtune.training.loop import Loop, tracer, training_loop
from vtune.training.share import Share, multiply_adds, shares
from vtune.trial import Value


def cohort_rows(
    found: Sequence[Share], values: Mapping[int, Mapping[str, Value]]
) -> tuple[CohortRow, ...]:
    """Cohorts as a person reads about them.

    Args:
        found: the cohorts.
        values: the hyperparameters of each trial.

    Returns:
        A row for each cohort.
    """
    rows = []
    for share in found:
        cohort = share.cohort
        rows.append(
            CohortRow(
                share.trials,
                differing([values[trial] for trial in share.trials]),
                cohort.widening.varies,
                _reason(share),
                share.padding,
                len(cohort.widening.masks),
                f"{cohort.form}: {cohort.reason}",
                share.compiles,
            )
        )
    return tuple(rows)


def _reason(share: Share) -> str:
    if share.cohort.apart is not None:
        return f"other widths have other programs: {share.cohort.apart}"
    if share.cohort.widening.varies:
        return "the same program up to constants and widths"
    if len(share.trials) > 1:
        return "the same program up to constants"
    return "a program of its own"


def fusion_report(
    build: Any,
    values: Sequence[Mapping[str, Value]],
    x: Any,
    y: Any = None,
    steps: int = 20,
    *,
    batch_size: int = 32,
    seed: int = 0,
) -> FusionReport:
    """Tells which sets of hyperparameters share a program, and compares them with it.

    Every trial that shares a program is trained inside it and alone, each step from the
    same state: from the trial's initial state and from random parameters of both signs
    and of one. Prints the report and returns it.

    Args:
        build: a function `build(hp)`, or an object with such a method.
        values: for each trial the values of its hyperparameters; others get their
            defaults.
        x: the samples, as for `search`.
        y: their labels.
        steps: how many steps are compared from each state.
        batch_size: samples in a batch; not more than there are.
        seed: decides all draws.

    Returns:
        The report: `cohorts` with their `trials` and `reason`, all `differences`,
        `padding`, `masks` and `max_error`.

    Raises:
        ValueError: if `build` fails for some of the values, or the data don't suit it.

    Example:
        ```python
        import flax.linen as nn
        import numpy as np
        import optax
        import vtune as vt

        def build(hp):
            net = nn.Sequential([nn.Dense(hp.Int("units", 4, 8)), nn.relu, nn.Dense(2)])
            return vt.Model(net, optax.sgd(0.1), "sparse_categorical_crossentropy")

        x, y = np.ones((64, 3), np.float32), np.zeros(64, np.int32)
        report = vt.fusion_report(build, [{"units": 5}, {"units": 8}], x, y, steps=2)
        assert len(report.cohorts) == 1 and report.max_error < 1e-3
        ```
    """
    if not values:
        raise ValueError("`fusion_report(build, values, ...)` needs some values.")
    data = dataset(x, y)
    loop = training_loop(data, data, batch_size=min(batch_size, data.size))
    report = _Reporting(build_function(build), data, loop)
    return print_summary(report.made(values, steps, seed))


class _Reporting:
    """The trials of one report."""

    def __init__(self, build: Build, data: DataSet, loop: Loop):
        self._build = build
        self._data = data
        self._loop = loop
        self._to_trace = tracer(loop, data, data)

    def made(
        self, values: Sequence[Mapping[str, Value]], steps: int, seed: int
    ) -> FusionReport:
        known: dict[int, dict[str, Value]] = {}
        traces: dict[int, Trace] = {}
        for number, given in enumerate(values):
            hyperparameters = self._hyperparameters(given)
            traces[number] = self._trace(hyperparameters, number)
            known[number] = dict(hyperparameters.values)
        settings = Settings(fuse_widths="always", platform=jax.default_backend())

        def envelope(numbers: Sequence[int]) -> Trace | None:
            largest = envelope_values([known[number] for number in numbers])
            if largest is None:
                return None
            built = realise(self._build, self._hyperparameters(largest))
            if built.trainable is None:
                return None
            return self._to_trace(built.trainable)

        cohorts, chosen = assign(traces, (), settings, envelope=envelope)
        work = {number: multiply_adds(trace) for number, trace in traces.items()}
        found = shares(cohorts, chosen, work, dict.fromkeys(range(len(cohorts)), 1))
        differences: list[ErrorRow] = []
        for share in found:
            for number in share.trials if len(share.trials) > 1 else ():
                widening = share.cohort.widening
                compared = compare(
                    widening, traces[number], *self._batches(steps), seed=seed
                )
                differences += [
                    ErrorRow(number, d.what, d.error, d.noise, d.is_wrong)
                    for d in compared
                ]
        masks = tuple(mask for cohort in cohorts for mask in cohort.widening.masks)
        return FusionReport(cohort_rows(found, known), tuple(differences), masks, steps)

    def _hyperparameters(self, values: Mapping[str, Value]) -> HyperParameters:
        steps = self._loop.steps_per_epoch
        return HyperParameters(values, steps_per_epoch=steps, max_epochs=1)

    def _trace(self, hyperparameters: HyperParameters, number: int) -> Trace:
        built = realise(self._build, hyperparameters)
        if built.trainable is None:
            raise ValueError(
                f"`build` fails for `values[{number}]`: {built.error!r}"
            ) from built.error
        return self._to_trace(built.trainable)

    def _batches(self, steps: int) -> tuple[list[Any], list[Any]]:
        """Batches in the order of the data, from the start again at its end."""
        size = self._loop.train.size
        rows = np.arange(steps * size) % (self._data.size // size * size)
        leaves = [np.asarray(leaf) for leaf in jax.tree.leaves(self._data.batch)]
        batches = [leaf[rows].reshape(steps, size, *leaf.shape[1:]) for leaf in leaves]
        assert self._loop.evaluate is not None
        whole = self._data.rows(0, self._loop.evaluate.sizes[0]).batch
        return batches, jax.tree.leaves(whole)
