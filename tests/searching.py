"""A search that is stored, in a process of its own that can be killed.

    python -m tests.searching FOLDER FORM PAUSE

It writes down, beside the study, the SHA-256 of each trial's state after each epoch.
"""

import hashlib
import os
import sys
import time
from pathlib import Path

import flax.linen as nn
import numpy as np
import optax

import vtune as vt
from vtune.training.trainer import Trainer


RUNGS = [[(6, 4), (4, 10), (2, 24)], [(4, 10), (2, 24)]]
WIDTHS = [17, 40, 96]
SAMPLES = 192


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


def tuner(folder, form, **more):
    return vt.Hyperband(
        build,
        objective="val_loss",
        brackets=RUNGS,
        seed=7,
        lanes=form,
        fuse_widths="always",
        keep_models=2,
        directory=str(folder),
        project_name="study",
        checkpoint_seconds=0.2,
        **more,
    )


def search(tuner, **more):
    x, y = data()
    tuner.search(x, y, validation_split=0.25, batch_size=16, verbose=0, **more)
    return tuner


def watch(file, pause):
    """Has every epoch write down what the states of its trials are."""
    train = Trainer.train

    def watched(self, trials, stop=lambda: False):
        results = train(self, trials, stop)
        states = self.states(sorted(results))
        with open(file, "a", encoding="utf-8") as lines:
            for number, leaves in sorted(states.items()):
                digest = hashlib.sha256(b"".join(leaf.tobytes() for leaf in leaves))
                epoch = self._members[number].epoch
                lines.write(f"{number} {epoch} {digest.hexdigest()}\n")
        time.sleep(pause)
        return results

    Trainer.train = watched


def main(folder, form, pause):
    folder = Path(folder)
    watch(folder / f"states-{os.getpid()}.txt", float(pause))
    search(tuner(folder, form))


if __name__ == "__main__":
    main(*sys.argv[1:])
