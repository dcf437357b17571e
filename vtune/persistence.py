"""A tuner's study in its directory: begun there, or gone on with."""

import dataclasses
import hashlib
from collections.abc import Mapping
from typing import Any

import jax
import numpy as np

from vtune.configuration import StudyConfig
from vtune.past import Past
from vtune.search.schedule import Schedule
from vtune.storage.failure import StorageError
from vtune.storage.folder import StudyFolder
from vtune.storage.records import (
    ANOTHER_MACHINE,
    CheckpointRecord,
    Contents,
    DecisionRecord,
    StudyRecord,
)
from vtune.storage.store import Store
from vtune.training.data import DataSet
from vtune.training.fingerprint import fingerprint
from vtune.training.loop import Loop


# So many rows of the data enter the hash by which a study knows its data again.
_ROWS = 1000

# What may differ when a study goes on: it changes no trial.
_FREE = {"keep_models"}


@dataclasses.dataclass(frozen=True)
class Opened:
    """A study's directory, and what was in it.

    Args:
        store: the directory.
        contents: all that was written down before; None for a new study.
        past: what was written down until the last checkpoint, if there is one.
        notes: what the user should know, a line each.
    """

    store: Store
    contents: Contents | None
    past: Past | None
    notes: tuple[str, ...]

    @property
    def seed(self) -> int | None:
        """The seed of the study that was there."""
        if self.contents is None:
            return None
        return int(self.contents.study.settings["seed"])

    @property
    def sequence(self) -> int:
        """The last record that is not done again."""
        return 0 if self.past is None else self.past.checkpoint.sequence

    @property
    def checkpoints(self) -> tuple[CheckpointRecord, ...]:
        """The last one that can be read, and those before it."""
        found = () if self.contents is None else self.contents.checkpoints
        return tuple(record for record in found if record.sequence <= self.sequence)

    @property
    def halved(self) -> tuple[DecisionRecord, ...]:
        """What was decided for want of memory, and is yet to be decided again.

        Another machine has another memory.
        """
        if self.contents is None or self.contents.study.fingerprint != fingerprint():
            return ()
        later = (d for d in self.contents.decisions if d.sequence > self.sequence)
        return tuple(decision for decision in later if decision.kind == "halve")


def study_record(
    config: StudyConfig, loop: Loop, training: DataSet, validation: DataSet | None
) -> StudyRecord:
    """What a study is started with.

    Args:
        config: the settings.
        loop: the epoch.
        training: what is trained on.
        validation: what is evaluated, or None.
    """
    settings = {
        "objective": [config.objective.name, config.objective.direction],
        "sampler": type(config.sampler).__name__,
        "rungs": _rungs(config.schedule),
        "steps_per_epoch": loop.steps_per_epoch,
        "max_epochs": config.schedule.max_epochs,
        "seed": config.seed,
        "lanes": config.lanes,
        "fuse_widths": config.fuse_widths,
        "keep_models": config.keep_models,
        "rewrites": config.rewrites,
        "batch_size": loop.train.size,
        "drop_remainder": loop.train.remainder == 0,
    }
    data = {"training": _data(training)}
    if validation is not None:
        data["validation"] = _data(validation)
    return StudyRecord(settings, fingerprint(), data)


def opened(
    folder: StudyFolder, record: StudyRecord, *, overwrite: bool, any_seed: bool
) -> Opened:
    """Opens the directory of a study that is about to be searched.

    Args:
        folder: the directory.
        record: what the study would be started with now.
        overwrite: whether a study that is there is erased first.
        any_seed: whether the study that is there may have another seed, and keeps it.

    Raises:
        StorageError: if the directory cannot be used, or the study that is there was
            started with something else.
    """
    store = Store.open(folder, record, overwrite)
    try:
        if store.is_new:
            return Opened(store, None, None, (f"stored in {folder.path}",))
        contents = store.contents
        if any_seed:
            seed = contents.study.settings.get("seed")
            settings = {**record.settings, "seed": seed}
            record = dataclasses.replace(record, settings=settings)
        _compare(folder, contents.study, record)
        notes = _moved(contents.study.fingerprint, record.fingerprint)
        newest = store.newest(contents)
        past = None if newest is None else Past(contents, *newest)
        sequence = 0 if past is None else past.checkpoint.sequence
        if notes:
            store.forget(sequence)
        else:
            store.rewind(sequence)
        store.extend(record)
        done = f"{len(contents.trials)} trials, {len(contents.epochs)} epochs"
        notes = (f"going on with {folder.path}: {done}", *notes)
        notes += _without_damaged(store, contents, sequence)
        return Opened(store, contents, past, notes)
    except BaseException:
        store.close()
        raise


def _without_damaged(
    store: Store, contents: Contents, sequence: int
) -> tuple[str, ...]:
    """Removes all checkpoints but the last that can be read, and those before it."""
    readable = [c.name for c in contents.checkpoints if c.sequence <= sequence]
    damaged = [c.name for c in contents.checkpoints if c.sequence > sequence]
    # A process that was killed may have left others, which nobody knows.
    store.drop(damaged, readable)
    if not damaged:
        return ()
    return (f"cannot be read, and is trained again: {', '.join(damaged)}",)


def _compare(folder: StudyFolder, stored: StudyRecord, now: StudyRecord) -> None:
    differences = [
        f"`{name}` was {stored.settings.get(name)!r} and is {value!r}"
        for name, value in now.settings.items()
        if name not in _FREE | {"rungs"} and stored.settings.get(name) != value
    ]
    if not _continues(stored.settings.get("rungs"), now.settings["rungs"]):
        differences.append("the rungs are others, or fewer")
    differences += [
        f"the {name} data are others"
        for name in sorted(stored.data.keys() | now.data.keys())
        if stored.data.get(name) != now.data.get(name)
    ]
    if differences:
        raise StorageError(
            f"The study in {folder.path} was started in another way: "
            f"{'; '.join(differences)}. Search as before to go on with it, or begin "
            "anew with `overwrite=True` or another `project_name`."
        )


def _continues(stored: Any, now: Any) -> bool:
    """Whether rungs are those of before, and perhaps more of them."""
    if not isinstance(stored, list) or len(now) < len(stored):
        return False
    return all(
        before == after or (last and _has_more(before, after))
        for before, after, last in zip(
            stored, now, [n == len(stored) - 1 for n in range(len(stored))]
        )
    )


def _has_more(before: Any, after: Any) -> bool:
    """Whether a bracket of a single rung has the same rung with more trials."""
    if len(before) != 1 or len(after) != 1 or before[0][1] != after[0][1]:
        return False
    trials = after[0][0]
    return trials is None or (before[0][0] is not None and before[0][0] <= trials)


def _moved(stored: Mapping[str, str], now: Mapping[str, str]) -> tuple[str, ...]:
    changes = [
        f"{name} was {stored.get(name)!r} and is {now.get(name)!r}"
        for name in sorted(stored.keys() | now.keys())
        if stored.get(name) != now.get(name)
    ]
    if not changes:
        return ()
    return (
        f"{ANOTHER_MACHINE}: {'; '.join(changes)}; results may differ in the "
        "last bits from those of an uninterrupted search",
    )


def _rungs(schedule: Schedule) -> list[Any]:
    return [[list(rung) for rung in bracket] for bracket in schedule.plan]


def _data(data: DataSet) -> dict[str, Any]:
    rows = np.unique(np.linspace(0, data.size - 1, _ROWS).astype(np.int64))
    digest = hashlib.sha256()
    leaves = [np.asarray(leaf) for leaf in jax.tree.leaves(data.batch)]
    for leaf in leaves:
        digest.update(np.ascontiguousarray(leaf[rows]).tobytes())
    return {
        "shapes": [list(leaf.shape) for leaf in leaves],
        "dtypes": [str(leaf.dtype) for leaf in leaves],
        "rows": digest.hexdigest(),
    }
