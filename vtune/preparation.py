"""From a tuner's settings and data to a study that can be run."""

import dataclasses

from vtune.configuration import StudyConfig, TunerConfig
from vtune.journal import Journal
from vtune.persistence import opened, study_record
from vtune.proposal import Build
from vtune.storage.folder import StudyFolder
from vtune.study import Study
from vtune.training.data import DataSet
from vtune.training.loop import Loop, training_loop


@dataclasses.dataclass(frozen=True, eq=False)
class Prepared:
    """A study before it is run.

    Args:
        study: the study.
        notes: what the user should know, a line each.
        is_complete: whether it was stored, and there is nothing left to do.
    """

    study: Study
    notes: tuple[str, ...]
    is_complete: bool = False


def prepare(
    build: Build,
    config: TunerConfig,
    data: tuple[DataSet, DataSet | None],
    max_epochs: int,
    batch_size: int,
    drop_remainder: bool,
    *,
    overwrite: bool,
) -> Prepared:
    """Makes a tuner's study, or takes up the one in its directory.

    Args:
        build: the user's function.
        config: the tuner's settings.
        data: what is trained on, and what is evaluated or None.
        max_epochs: the epochs of a trial with the full budget.
        batch_size: samples in a training step.
        drop_remainder: whether samples that do not fill a batch are left out.
        overwrite: whether a study in the directory is erased first.

    Returns:
        The study.

    Raises:
        ValueError: if the data lack what the objective needs, or the batch size does
            not suit them.
        StorageError: if the directory cannot be used, or the study there was started
            with something else.
    """
    training, validation = data
    if validation is None and config.objective.name.startswith("val_"):
        raise ValueError(
            f"The objective {config.objective.name!r} needs validation data: give "
            "`validation_data=(x_val, y_val)` or `validation_split=0.2`."
        )
    loop = training_loop(
        training, validation, batch_size=batch_size, drop_remainder=drop_remainder
    )
    settings = StudyConfig(
        config.objective,
        config.schedule(max_epochs),
        config.sampler(config.seed),
        config.seed,
        config.common.lanes,
        config.common.fuse_widths,
        config.common.keep_models,
        config.common.rewrites,
    )
    if config.folder is not None:
        return _stored(build, config, config.folder, settings, loop, data, overwrite)
    study = Study(settings, build, loop, data, Journal())
    return Prepared(study, _seed_notes(config))


def _stored(
    build: Build,
    config: TunerConfig,
    folder: StudyFolder,
    settings: StudyConfig,
    loop: Loop,
    data: tuple[DataSet, DataSet | None],
    overwrite: bool,
) -> Prepared:
    record = study_record(settings, loop, *data)
    found = opened(folder, record, overwrite=overwrite, any_seed=not config.seed_given)
    try:
        notes = found.notes
        if found.seed is None:
            notes += _seed_notes(config)
        else:
            sampler = config.sampler(found.seed)
            settings = dataclasses.replace(settings, seed=found.seed, sampler=sampler)
        journal = Journal(
            found.store,
            found.sequence,
            found.checkpoints,
            found.halved,
            config.common.checkpoint_seconds,
            config.common.max_checkpoint_bytes,
        )
        journal.event("opened", "; ".join(notes))
        study = Study(settings, build, loop, data, journal)
        complete = found.past is not None and study.take_up(found.past)
        return Prepared(study, notes, complete)
    except BaseException:
        found.store.close()
        raise


def _seed_notes(config: TunerConfig) -> tuple[str, ...]:
    if config.seed_given:
        return ()
    return (f"seed {config.seed}: give `seed={config.seed}` to repeat this search",)
