"""A search that is stored, in a process of its own that is killed, or kills itself.

    python -m tests.searching FOLDER FORM PAUSE [MORE]

These are the fields of a `Life`, MORE the others as JSON. Beside the study the process
keeps a diary, a line of JSON for each thing that happens: the SHA-256 of each trial's
state after each epoch, checkpoints that begin and that are committed, and where the
process kills itself.
"""

import dataclasses
import hashlib
import json
import os
import random
import signal
import sys
import threading
import time
from pathlib import Path
from typing import Any, Literal

import flax.linen as nn
import jax
import numpy as np
import optax

import vtune as vt
from vtune.journal import Journal
from vtune.ledger import Ledger
from vtune.storage.store import Store
from vtune.training import stretch
from vtune.training.compile import Program
from vtune.training.pack import own_states
from vtune.training.roster import Roster


RUNGS = [[(6, 4), (4, 16), (2, 24)], [(4, 16), (2, 24)]]
WIDTHS = [17, 40, 96]
SAMPLES = 2400  # an epoch takes long enough to be killed in

Place = Literal[
    "after a commit",
    "in an epoch",
    "as a checkpoint begins",
    "in a checkpoint",
    "before a checkpoint is committed",
]


@dataclasses.dataclass(frozen=True)
class Life:
    """What a process does.

    Args:
        folder: holds the study and the diaries.
        form: the form of the lanes.
        pause: the seconds that a thread sleeps after each epoch of a program.
        scale: how many times as long as `RUNGS` the rungs are.
        interval: the seconds between checkpoints.
        end: where it kills itself; None: nowhere.
        checkpoints: so many it commits before it kills itself.
        count: at which occasion after that it kills itself, from 1.
        seed: of the moment within an epoch.
    """

    folder: str
    form: str
    pause: float = 0.0
    scale: int = 1
    interval: float = 0.2
    end: Place | None = None
    checkpoints: int = 0
    count: int = 1
    seed: int = 0


class StopAt:
    """Presses Ctrl-C at the end of some epoch of a search."""

    def __init__(self, count):
        self.left = count

    def on_epoch_end(self, trial, epoch, metrics):
        self.left -= 1
        if self.left == 0:
            signal.raise_signal(signal.SIGINT)


class Network(nn.Module):
    """Two layers and dropout."""

    width: int

    @nn.compact
    def __call__(self, x, train: bool = False):
        x = nn.tanh(nn.Dense(self.width)(x))
        x = nn.Dropout(0.1, deterministic=not train)(x)
        return nn.Dense(3)(x)


def build(hp):
    rate = hp.Float("rate", 1e-3, 1e-1, sampling="log")
    return vt.Model(
        Network(hp.Choice("width", WIDTHS)),
        optax.adam(rate),
        "sparse_categorical_crossentropy",
        metrics=["accuracy"],
    )


def data():
    random = np.random.default_rng(0)
    x = random.standard_normal((SAMPLES, 12)).astype(np.float32)
    return x, np.argmax(x[:, :3] + 0.3 * x[:, 3:6], -1).astype(np.int32)


def tuner(folder, form, scale=1, interval=0.2):
    return vt.Hyperband(
        build,
        objective="val_loss",
        brackets=[[(n, scale * epochs) for n, epochs in rungs] for rungs in RUNGS],
        seed=7,
        lanes=form,
        fuse_widths="always",
        keep_models=2,
        directory=str(folder),
        project_name="study",
        checkpoint_seconds=interval,
    )


def search(tuner):
    x, y = data()
    tuner.search(x, y, validation_split=0.25, batch_size=16, verbose=0)
    return tuner


def watch(put, tell):
    """Has what is trained told, once it is written down.

    Args:
        put: sets an attribute of an object, as `setattr` does.
        tell: is called with the time at which training began, or went on after the last
            call, and by trial the epochs that it has trained, the SHA-256 of its state,
            and the lanes of its program.
    """
    train, end_epoch, record = Roster.train, stretch.end_epoch, Ledger.record
    known: dict[str, Any] = {}
    states = {}

    def began(self, trials, epochs, data, cohorts, halts):
        known.update(roster=self, cohorts=cohorts, began=time.monotonic())
        return train(self, trials, epochs, data, cohorts, halts)

    def ended(running, names):
        results = end_epoch(running, names)
        members, pack = known["roster"]._members, running.pack
        own = own_states([pack], list(results), members, known["cohorts"])
        for number, leaves in own.items():
            content = b"".join(leaf.tobytes() for leaf in leaves)
            epoch = running.epochs[number] + 1
            digest = hashlib.sha256(content).hexdigest()
            states[number, epoch] = epoch, digest, pack.lanes
        return results

    def recorded(self, results):
        taken = record(self, results)
        healthy = sorted(number for number in taken if not taken[number].failure)
        tell(
            known["began"],
            {number: states[number, self.trials[number].epoch] for number in healthy},
        )
        known["began"] = time.monotonic()
        return taken

    put(Roster, "train", began)
    put(stretch, "end_epoch", ended)
    put(Ledger, "record", recorded)


class Diary:
    """Writes down what happens, each line at once."""

    def __init__(self, file: Path):
        self._file = file

    def write(self, what: str, **content) -> None:
        line = {"what": what, "time": time.monotonic(), **content}
        with open(self._file, "ab", buffering=0) as file:
            file.write(json.dumps(line).encode() + b"\n")


class End:
    """Kills this process where and when its life is to end."""

    def __init__(self, life: Life, diary: Diary):
        self._life = life
        self._diary = diary
        self._checkpoints = 0
        self._occasions = 0

    def committed(self) -> None:
        """A checkpoint was committed."""
        self._checkpoints += 1

    def reached(self, place: Place) -> None:
        """The process is somewhere."""
        if place == self._life.end and self._checkpoints >= self._life.checkpoints:
            self._occasions += 1
            if self._occasions == self._life.count:
                self._diary.write("killed", place=place)
                os.kill(os.getpid(), signal.SIGKILL)


def watch_training(life: Life, diary: Diary, end: End) -> None:
    """Writes down what is trained; may end within an epoch, while a program runs."""
    moments = random.Random(life.seed)
    call, begin_epoch = Program.__call__, stretch.begin_epoch
    running: list[Program] = []
    lasted = [0.0]

    def called(self, *arguments):
        running.append(self)
        try:
            return jax.block_until_ready(call(self, *arguments))
        finally:
            running.remove(self)

    def strike():
        if running:
            end.reached("in an epoch")

    def timed(*arguments):
        began = time.monotonic()
        timer = threading.Timer(moments.uniform(0, 0.9) * lasted[-1], strike)
        timer.start()
        done = begin_epoch(*arguments)
        timer.cancel()
        lasted.append(time.monotonic() - began)
        time.sleep(life.pause)
        return done

    def tell(began, found):
        states = {
            number: (epoch, digest) for number, (epoch, digest, _) in found.items()
        }
        lanes = {number: lanes for number, (_, _, lanes) in found.items()}
        diary.write("trained", began=began, states=states, lanes=lanes)

    Program.__call__ = called
    stretch.begin_epoch = timed
    watch(setattr, tell)


def watch_storage(diary: Diary, end: End) -> None:
    """Writes down which checkpoints there are; may end around commits and in them."""
    commit, checkpoint = Store.commit, Journal.checkpoint

    def committed(self, batch):
        if batch.checkpoints:
            end.reached("before a checkpoint is committed")
        commit(self, batch)
        for record in batch.checkpoints:
            diary.write("committed", sequence=record.sequence)
            end.committed()
        if batch.epochs:
            end.reached("after a commit")

    def begun(self, lanes, models):
        checkpoint(self, lanes, models)
        if self._started is not None:
            diary.write("begun", sequence=self._started.sequence)

    places: dict[str, Place] = {
        "os.mkdir": "as a checkpoint begins",
        "open": "in a checkpoint",
    }

    def hear(event, arguments):
        if event in places and ".partial-checkpoint/" in str(arguments[0]):
            end.reached(places[event])

    Store.commit = committed
    Journal.checkpoint = begun
    sys.addaudithook(hear)


def main(folder: str, form: str, pause: str, more: str = "{}") -> None:
    life = Life(folder, form, float(pause), **json.loads(more))
    diary = Diary(Path(folder) / f"states-{os.getpid()}.jsonl")
    end = End(life, diary)
    watch_training(life, diary, end)
    watch_storage(diary, end)
    search(tuner(life.folder, life.form, life.scale, life.interval))


if __name__ == "__main__":
    main(*sys.argv[1:])
