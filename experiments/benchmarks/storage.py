"""What does it cost that a study lasts?

Many small trials are searched with a directory and without one; then the stored study
is opened again in a fresh process. Memory is that of the process that searches, after a
fifth of the trials and after all.

    python experiments/benchmarks/storage.py --trials 5000
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np

import vtune as vt
from vtune.storage.store import Store


SAMPLES = 256
FEATURES = 8
EPOCHS = 2
BATCH_SIZE = 32


class Line:
    """A line through the data, fitted by gradient descent."""

    def __init__(self, rate: float):
        self.rate = rate

    def init(self, key: Any, batch: Any) -> Any:
        return {"params": jnp.zeros(FEATURES)}

    def train_step(self, state: Any, batch: Any, key: Any) -> Any:
        x, y = batch
        errors = x @ state["params"] - y
        gradient = x.T @ errors / len(errors)
        return {"params": state["params"] - self.rate * gradient}, {
            "loss": (errors**2).mean()
        }

    def eval_step(self, state: Any, batch: Any) -> Any:
        x, y = batch
        return {"loss": ((x @ state["params"] - y) ** 2).mean()}


def build(hp: vt.HyperParameters) -> Line:
    """A line with the learning rate in `hp`."""
    return Line(hp.Float("rate", 1e-4, 0.1, sampling="log"))


def resident() -> int:
    """The bytes of memory that this process holds; 0 where the system does not tell."""
    try:
        pages = Path("/proc/self/statm").read_text(encoding="ascii").split()[1]
    except OSError:
        return 0
    return int(pages) * os.sysconf("SC_PAGE_SIZE")


class Watch:
    """Takes down the memory held when so many trials have ended."""

    def __init__(self, moments: Sequence[int]):
        self.moments = moments
        self.ended = 0
        self.bytes: dict[int, int] = {}

    def on_trial_end(self, trial: vt.Trial) -> None:
        self.ended += 1
        if self.ended in self.moments:
            self.bytes[self.ended] = resident()


def search(trials: int, directory: str | None, callbacks: Sequence[Any] = ()) -> float:
    """The seconds that a search takes."""
    random = np.random.default_rng(0)
    x = random.standard_normal((SAMPLES, FEATURES)).astype(np.float32)
    y = (x @ random.standard_normal(FEATURES)).astype(np.float32)
    tuner = vt.RandomSearch(
        build,
        "val_loss",
        max_trials=trials,
        max_epochs=EPOCHS,
        seed=0,
        directory=directory,
    )
    started = time.perf_counter()
    tuner.search(
        x,
        y,
        batch_size=BATCH_SIZE,
        validation_split=0.25,
        callbacks=callbacks,
        verbose=0,
    )
    seconds = time.perf_counter() - started
    tuner.results_summary()
    return seconds


def measured(trials: int, directory: str) -> dict[str, Any]:
    """Searches without and with a directory, and what of it was writing."""
    search(10, None)
    kept_nowhere = search(trials, None)
    writing = 0.0
    commit = Store.commit

    def timed(self: Store, batch: Any) -> None:
        nonlocal writing
        started = time.perf_counter()
        commit(self, batch)
        writing += time.perf_counter() - started

    Store.commit = timed
    watch = Watch((trials // 5, trials))
    stored = search(trials, directory, [watch])
    Store.commit = commit
    first, last = (watch.bytes.get(moment, 0) for moment in watch.moments)
    return {
        "trials": trials,
        "seconds_without": kept_nowhere,
        "seconds_stored": stored,
        "committing_seconds": writing,
        "bytes_after_a_fifth": first,
        "bytes_after_all": last,
    }


def opened(trials: int, directory: str) -> float:
    """The seconds until a finished study is open and summarised, imports excluded."""
    command = [sys.executable, __file__, "--trials", str(trials), "--open", directory]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
    return float(done.stdout.splitlines()[-1])


def main(arguments: Sequence[str] | None = None) -> None:
    """Prints a table and one line of JSON."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--trials", type=int, default=1000)
    parser.add_argument("--open", help="only open the study in this directory")
    parser.add_argument("--smoke", action="store_true", help="a few seconds, to try it")
    flags = parser.parse_args(arguments)
    if flags.smoke:
        flags.trials = 20
    if flags.open:
        print(search(flags.trials, flags.open))
        return
    with tempfile.TemporaryDirectory() as directory:
        found = measured(flags.trials, directory)
        found["opening_seconds"] = opened(flags.trials, directory)
        files = [file for file in Path(directory).rglob("*") if file.is_file()]
        found["bytes_on_disk"] = sum(file.stat().st_size for file in files)
    for name, value in found.items():
        print(f"{name:20} {value:>16,.4g}")
    print(json.dumps(found))


if __name__ == "__main__":
    main()
