"""A program with trials in its lanes: sent off for an epoch, and read back."""

import dataclasses
import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np

from vtune.training.cohort import Cohort
from vtune.training.lanes import HostState, extract, stack
from vtune.training.member import Member
from vtune.training.plan import Arrangement
from vtune.training.slices import Epoch, LaneArguments
from vtune.training.streams import side_by_side


@dataclasses.dataclass(frozen=True, eq=False)
class Pack:
    """A program with trials in its lanes.

    Args:
        cohort: the cohort's number.
        program: the compiled epoch.
        lanes: the lanes of the program.
        trials: the trials in the first lanes; the other lanes idle.
        state: the leaves of the states, with a lane axis.
        constants: the values of the lifted constants, with a lane axis.
        sizes: the trials' own sizes, with a lane axis.
        keys: the trials' keys, with a lane axis.
    """

    cohort: int
    program: Epoch
    lanes: int
    trials: tuple[int, ...]
    state: Any
    constants: Any
    sizes: Any
    keys: Any

    @property
    def is_lost(self) -> bool:
        """Whether the states are gone with a program that failed."""
        return any(leaf.is_deleted() for leaf in self.state)

    @property
    def entries(self) -> int:
        """The entries of all states: what a step of it takes grows with them."""
        return sum(leaf.size for leaf in self.state)


def packed(
    cohort: Cohort,
    program: Epoch,
    arrangement: Arrangement,
    members: Mapping[int, Member],
    threads: int,
) -> list[Pack]:
    """Puts trials into the lanes of as many packs as the arrangement says.

    Args:
        cohort: the cohort.
        program: its compiled epoch.
        arrangement: how many lanes and packs.
        members: the trials, by number, with a state each.
        threads: how many packs are filled at a time.

    Returns:
        The packs, on the device.
    """
    size = -(-len(members) // arrangement.groups)
    widening, lanes = cohort.widening, arrangement.lanes

    def filled(trials: tuple[int, ...]) -> Pack:
        several = [members[trial] for trial in trials]
        states = [member.state or () for member in several]
        state = widening.embed_lanes(states, [m.trace for m in several], lanes)
        others = stack([member.in_lane(widening) for member in several], lanes)
        placed = jax.device_put((tuple(state), *others))
        return Pack(cohort.number, program, lanes, trials, *placed)

    groups = [
        tuple(members)[start : start + size] for start in range(0, len(members), size)
    ]
    return side_by_side([functools.partial(filled, g) for g in groups], threads)


class EpochData(NamedTuple):
    """What every lane of every program reads."""

    training: Any
    validation: Any


@dataclasses.dataclass(frozen=True)
class EpochResult:
    """What a trial's epoch gave.

    Args:
        metrics: training metrics by name, validation metrics by name with `val_`.
        finite: whether the training loss and every parameter are finite.
        failure: what kept the epoch from being trained, or None.
        program: the identity of the program that trained it.
    """

    metrics: Mapping[str, float]
    finite: bool = True
    failure: Exception | None = None
    program: str = ""


@dataclasses.dataclass(frozen=True, eq=False)
class Running:
    """A pack that is on its way through an epoch.

    Args:
        pack: the pack after the epoch, as soon as the device has done it.
        epochs: the epochs that each trial in training had trained before.
        figures: the metrics of each lane, and whether they are finite.
    """

    pack: Pack
    epochs: Mapping[int, int]
    figures: Any


def begin_epoch(
    pack: Pack,
    epochs: Mapping[int, int],
    data: EpochData,
    stop: Callable[[float], bool] = lambda done: False,
) -> Running | None:
    """Sends a pack off for an epoch.

    Args:
        pack: the pack; its state's memory is given away.
        epochs: the epochs that each trial to train has trained; the others in the pack
            stay frozen.
        data: the data sets.
        stop: is asked now and then in a long epoch, with the part of it that is done;
            true has it not trained at all.

    Returns:
        What is on its way; None if it was stopped, and the pack is as it was.

    Raises:
        Exception: what keeps it from being trained; its state may be lost.
    """
    spare = [0] * (pack.lanes - len(pack.trials))
    trained = [epochs.get(trial, 0) for trial in pack.trials]
    active = [trial in epochs for trial in pack.trials]
    lane = LaneArguments(
        pack.state,
        pack.constants,
        pack.sizes,
        pack.keys,
        np.array(trained + spare, np.int32),
        np.array(active + spare, np.bool_),
    )
    outcome = pack.program.run(lane, data, stop)
    if outcome is None:
        return None
    state, *figures = outcome
    return Running(dataclasses.replace(pack, state=state), epochs, figures)


def end_epoch(running: Running, names: Sequence[str]) -> dict[int, EpochResult]:
    """Waits for the figures of an epoch.

    Args:
        running: what is on its way.
        names: the names of the metrics.

    Returns:
        The result of each trained trial.

    Raises:
        Exception: what kept it from being trained; its state is lost.
    """
    metrics, finite = jax.device_get(running.figures)
    return {
        trial: EpochResult(
            dict(zip(names, map(float, metrics[lane]))),
            bool(finite[lane]),
            program=running.pack.program.identity,
        )
        for lane, trial in enumerate(running.pack.trials)
        if trial in running.epochs
    }


def still_fits(
    packs: Sequence[Pack], members: Sequence[int], arrangement: Arrangement
) -> bool:
    """Whether trials can stay in the lanes where they are.

    Args:
        packs: the packs of their cohort.
        members: the trials.
        arrangement: how they are to be laid out.

    Returns:
        True if each has a lane in a program of the right size, and no program runs that
        a tighter layout would save.
    """
    alive = [pack for pack in packs if not set(members).isdisjoint(pack.trials)]
    return (
        {trial for pack in alive for trial in pack.trials}.issuperset(members)
        and all(pack.lanes == arrangement.lanes for pack in alive)
        and len(alive) <= arrangement.groups
    )


def own_states(
    packs: Sequence[Pack],
    trials: Sequence[int],
    members: Mapping[int, Member],
    cohorts: Sequence[Cohort] | Mapping[int, Cohort],
) -> dict[int, HostState]:
    """The states of trials in their lanes, copied to the host.

    Args:
        packs: the packs.
        trials: the trials; those in none of the packs are left out.
        members: what is known of each trial.
        cohorts: their cohorts, by number.

    Returns:
        Each trial's leaves in its own shapes, random keys as their data.
    """
    found: dict[int, HostState] = {}
    for pack in packs:
        widening = cohorts[pack.cohort].widening
        lanes = [lane for lane, trial in enumerate(pack.trials) if trial in trials]
        states = extract(pack.state, lanes) if lanes else []
        for lane, leaves in zip(lanes, states):
            trial = pack.trials[lane]
            found[trial] = tuple(widening.extract(leaves, members[trial].trace))
    return found
