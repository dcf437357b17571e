"""The device side of a search: which trial is in which lane, epoch after epoch."""

import dataclasses
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import numpy as np

from vtune.fusion.trace import Trace
from vtune.training.compile import (
    Program,
    Request,
    abstract,
    compile_all,
    epoch_request,
    init_request,
    keys_request,
)
from vtune.training.data import DataSet
from vtune.training.epoch import LaneFunctions
from vtune.training.keys import LaneKeys
from vtune.training.lanes import HostState, extract, to_leaves, to_tree
from vtune.training.loop import Loop
from vtune.training.pack import (
    EpochData,
    EpochResult,
    Outcome,
    Pack,
    collect,
    dispatch,
    packed,
    still_fits,
)
from vtune.training.plan import Arrangement, Cohort, Lanes, arrange, assign


# Epochs that are on their way to the device at a time: enough that it never waits for
# the host, few enough that Ctrl-C is answered soon.
_AHEAD = 3


@dataclasses.dataclass(frozen=True)
class TrainerStatistics:
    """Where a trainer's time went.

    Args:
        training_programs: the different programs that trained an epoch.
        compiling_seconds: the time in which something was compiled.
        training_seconds: the time in which epochs were on the device.
    """

    training_programs: int = 0
    compiling_seconds: float = 0.0
    training_seconds: float = 0.0


class Trainer:
    """Trains trials on one data set, those of a cohort as lanes of one program.

    A trial is admitted with its trace, put into a lane by `arrange`, and trained epoch
    by epoch. Whatever can change a trial's numbers is a pure function of what it is
    told: the traces, the settings, and the trials that each call of `arrange` names.

    Args:
        loop: the epoch.
        training: what is trained on.
        validation: what is evaluated at the end of an epoch, or None.
        seed: the study's seed.
        lanes: `"vmap"`, `"map"` or `"auto"`.
        report: is called with a text while something takes long.
    """

    def __init__(
        self,
        loop: Loop,
        training: DataSet,
        validation: DataSet | None,
        *,
        seed: int,
        lanes: Lanes = "auto",
        report: Callable[[str], None] = lambda text: None,
    ):
        self._loop = loop
        self._first_batch = training.rows(0, loop.train.size).batch
        self._training = jax.device_put(training.batch)
        self._validation = (
            None if validation is None else jax.device_put(validation.batch)
        )
        self._seed = np.uint32(seed)
        self._lanes: Lanes = lanes
        self._platform = jax.default_backend()
        self._report = report
        self._lane_functions: dict[int, LaneFunctions] = {}
        self._traces: dict[int, Trace] = {}
        self._cohort_of: dict[int, int] = {}
        self._epochs: dict[int, int] = {}
        self._states: dict[int, HostState] = {}
        self._keys: dict[int, LaneKeys] = {}
        self._packs: list[Pack] = []
        self._programs: set[Any] = set()
        self.cohorts: tuple[Cohort, ...] = ()
        self.statistics = TrainerStatistics()

    @property
    def lanes(self) -> int:
        """The lanes of all programs that run at present."""
        return sum(pack.lanes for pack in self._packs)

    @property
    def programs(self) -> int:
        """The programs that run at present."""
        return len({id(pack.program) for pack in self._packs})

    def admit(self, traces: Mapping[int, Trace], others: Sequence[Trace] = ()) -> None:
        """Assigns new trials to cohorts.

        Args:
            traces: the trials' traces, by number.
            others: traces of further points of the space, which show what may differ.
        """
        self.cohorts, chosen = assign(
            traces,
            self.cohorts,
            lanes=self._lanes,
            platform=self._platform,
            others=others,
        )
        self._traces.update(traces)
        self._cohort_of.update(chosen)
        self._epochs.update(dict.fromkeys(traces, 0))
        (keys,), seconds = compile_all([keys_request()])
        if isinstance(keys, Exception):
            raise keys
        for number in traces:
            self._keys[number] = jax.device_get(keys(self._seed, np.int32(number)))
        self._note_compiling(seconds)

    def restore(self, number: int, state: Any, epoch: int) -> None:
        """Gives an admitted trial a state to go on from.

        Args:
            number: the trial.
            state: its state.
            epoch: the epochs that it has trained.
        """
        self._states[number] = to_leaves(state, self._traces[number])
        self._epochs[number] = epoch

    def arrange(self, trials: Sequence[int]) -> dict[int, Exception]:
        """Puts trials into lanes: compiles what is missing, moves states where needed.

        Args:
            trials: every trial that trains on, or waits frozen in its lane. All others
                lose their state.

        Returns:
            For each trial that cannot be trained, what keeps it.
        """
        layout = self._layout(trials)
        requests = self._requests(layout)
        programs, seconds = compile_all(
            list(requests.values()), lambda left: self._report(f"compiling {left}")
        )
        compiled = dict(zip(requests, programs))
        self._note_compiling(seconds)
        self._programs |= {
            request.key for (kind, _), request in requests.items() if kind == "epoch"
        }
        failures = self._initialise(layout, compiled)
        packs = []
        for number, (members, arrangement) in layout.items():
            program = compiled[("epoch", number)]
            if isinstance(program, Exception):
                failures.update(dict.fromkeys(members, program))
                continue
            members = [trial for trial in members if trial not in failures]
            if members:
                packs += self._pack(number, members, arrangement, program)
        self._packs = packs
        self._states = {}
        self._traces = {trial: self._traces[trial] for trial in trials}
        self._keys = {trial: self._keys[trial] for trial in trials}
        return failures

    def train(
        self, trials: Sequence[int], stop: Callable[[], bool] = lambda: False
    ) -> dict[int, EpochResult]:
        """Trains some of the arranged trials for one epoch; the others stay frozen.

        Args:
            trials: the trials to train.
            stop: is asked before each program runs; true leaves the rest untrained.

        Returns:
            The result of each trial that was trained.
        """
        started = time.perf_counter()
        wanted = frozenset(trials)
        data = EpochData(self._training, self._validation)
        results: dict[int, EpochResult] = {}
        pending: list[tuple[Pack, Outcome]] = []
        for index, pack in enumerate(self._packs):
            if wanted.isdisjoint(pack.trials):
                continue
            if stop():
                break
            self._packs[index], outcome = dispatch(pack, wanted, self._epochs, data)
            pending.append((pack, outcome))
            if len(pending) > _AHEAD:
                results.update(self._collect(*pending.pop(0), wanted))
        for pack, outcome in pending:
            results.update(self._collect(pack, outcome, wanted))
        seconds = self.statistics.training_seconds + time.perf_counter() - started
        self.statistics = dataclasses.replace(
            self.statistics,
            training_programs=len(self._programs),
            training_seconds=seconds,
        )
        return results

    def states(self, trials: Sequence[int]) -> dict[int, Any]:
        """The states of arranged trials, copied to the host.

        Args:
            trials: the trials.

        Returns:
            Each trial's state.
        """
        leaves = self._leaves(trials)
        return {t: to_tree(leaves[t], self._traces[t]) for t in leaves}

    def _leaves(self, trials: Sequence[int]) -> dict[int, HostState]:
        found: dict[int, HostState] = {}
        for pack in self._packs:
            lanes = [i for i, trial in enumerate(pack.trials) if trial in trials]
            if lanes:
                numbers = [pack.trials[lane] for lane in lanes]
                found.update(zip(numbers, extract(pack.state, lanes)))
        return found

    def _layout(
        self, trials: Sequence[int]
    ) -> dict[int, tuple[list[int], Arrangement]]:
        """The trials of each cohort, and how they are laid out."""
        members: dict[int, list[int]] = {}
        for trial in sorted(trials):
            members.setdefault(self._cohort_of[trial], []).append(trial)
        before = {pack.cohort: pack.lanes for pack in self._packs}
        layout = {}
        for number, group in sorted(members.items()):
            form = self.cohorts[number].form
            plan = arrange(len(group), form, self._platform, before.get(number))
            layout[number] = (group, plan)
        return layout

    def _functions(self, cohort: int) -> LaneFunctions:
        if cohort not in self._lane_functions:
            lifting = self.cohorts[cohort].lifting
            self._lane_functions[cohort] = LaneFunctions(lifting, self._loop)
        return self._lane_functions[cohort]

    def _requests(
        self, layout: Mapping[int, tuple[list[int], Arrangement]]
    ) -> dict[tuple[str, int], Request]:
        training, validation, first = jax.tree.map(
            abstract,
            (self._training, self._validation, self._first_batch),
        )
        requests = {}
        for number, (members, arrangement) in layout.items():
            functions, form = self._functions(number), self.cohorts[number].form
            requests["epoch", number] = epoch_request(
                functions, form, arrangement.lanes, training, validation
            )
            if any(self._is_new(trial) for trial in members):
                requests["init", number] = init_request(functions, first)
        return requests

    def _is_new(self, trial: int) -> bool:
        placed = any(trial in pack.trials for pack in self._packs)
        return not placed and trial not in self._states

    def _initialise(
        self,
        layout: Mapping[int, tuple[list[int], Arrangement]],
        programs: Mapping[tuple[str, int], Program | Exception],
    ) -> dict[int, Exception]:
        """Makes the first states of new trials; returns what failed."""
        failures: dict[int, Exception] = {}
        for number, (members, _) in layout.items():
            lifting = self.cohorts[number].lifting
            for trial in filter(self._is_new, members):
                program = programs["init", number]
                try:
                    if isinstance(program, Exception):
                        raise program
                    constants = lifting.values(self._traces[trial]).init
                    key = self._keys[trial].init
                    state = program(constants, key, self._first_batch)
                    self._states[trial] = tuple(jax.device_get(list(state)))
                except Exception as error:
                    failures[trial] = error
        return failures

    def _pack(
        self,
        cohort: int,
        members: Sequence[int],
        arrangement: Arrangement,
        program: Program,
    ) -> list[Pack]:
        old = [pack for pack in self._packs if pack.cohort == cohort]
        if still_fits(old, members, arrangement):
            return [pack for pack in old if not set(members).isdisjoint(pack.trials)]
        self._states.update(self._leaves(members))
        lifting = self.cohorts[cohort].lifting
        entries = {}
        for trial in members:
            values = lifting.values(self._traces[trial])
            constants = values.train + values.evaluate
            entries[trial] = (self._states[trial], constants, self._keys[trial])
        return packed(cohort, program, arrangement, entries)

    def _collect(
        self, pack: Pack, outcome: Outcome, wanted: frozenset[int]
    ) -> dict[int, EpochResult]:
        reference = self.cohorts[pack.cohort].lifting.reference
        names = reference.train_metrics
        if self._validation is not None:
            names += tuple(f"val_{name}" for name in reference.eval_metrics)
        results = collect(pack, outcome, wanted, names)
        for trial, result in results.items():
            self._epochs[trial] += result.failure is None
        return results

    def _note_compiling(self, seconds: float) -> None:
        self.statistics = dataclasses.replace(
            self.statistics,
            compiling_seconds=self.statistics.compiling_seconds + seconds,
        )
