"""Compiled programs outlive a process, in a folder of their own, and change nothing."""

import itertools
import json
import os
import subprocess
import sys
import tempfile
import threading
from pathlib import Path

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from hypothesis import given, settings, strategies as st

import vtune as vt
from vtune.training.cache import programs_kept, trim
from vtune.training.trainer import Trainer


RANDOM = np.random.default_rng(0)
X = RANDOM.normal(size=(64, 5)).astype(np.float32)
Y = RANDOM.integers(0, 3, size=64).astype(np.int32)
LOSS = "sparse_categorical_crossentropy"

SETTINGS = (
    "jax_compilation_cache_dir",
    "jax_persistent_cache_min_compile_time_secs",
    "jax_persistent_cache_min_entry_size_bytes",
)


def jax_settings():
    return [getattr(jax.config, name) for name in SETTINGS]


def kept(folder):
    """The names of the programs in a folder."""
    return sorted(path.name for path in folder.rglob("*-cache"))


@pytest.fixture
def enabled():
    """JAX as it is outside of tests."""
    before = jax.config.jax_enable_compilation_cache
    jax.config.update("jax_enable_compilation_cache", True)
    yield
    jax.config.update("jax_enable_compilation_cache", before)


def compile_new():
    """Compiles a program that nobody compiled before."""
    number = float(next(NUMBERS))
    jax.jit(lambda x: x * number)(jnp.zeros(3)).block_until_ready()


NUMBERS = itertools.count(1001)


def search(folder, form, **more):
    tuner = vt.RandomSearch(
        lambda hp: vt.Model(
            nn.Dense(hp.Choice("units", [3, 4])), optax.adam(0.1), LOSS
        ),
        "val_loss",
        max_trials=2,
        max_epochs=2,
        seed=0,
        lanes=form,
        fuse_widths="never",
        directory=str(folder),
        **more,
    )
    tuner.search(X, Y, validation_split=0.25, batch_size=16, verbose=0)
    return tuner


def main(folder, form):
    """Searches, and tells what was compiled and found."""
    events, programs, train = [], set(), Trainer.train

    def watched(self, *arguments):
        for trained in train(self, *arguments):
            programs.update(result.program for result in trained.results.values())
            yield trained

    Trainer.train = watched
    jax.monitoring.register_event_listener(
        lambda event, **details: events.append(event)
    )
    trials = search(folder, form).trials
    found = {
        "metrics": [
            {name: list(map(float.hex, values)) for name, values in t.metrics.items()}
            for t in trials
        ],
        "programs": sorted(programs),
        "hits": events.count("/jax/compilation_cache/cache_hits"),
        "misses": events.count("/jax/compilation_cache/cache_misses"),
        "after": jax.config.jax_compilation_cache_dir,
    }
    print(json.dumps(found))


def in_a_process(folder, form, **environment):
    known = {k: v for k, v in os.environ.items() if not k.startswith("JAX_")}
    done = subprocess.run(
        [sys.executable, "-W", "error", "-m", __name__, str(folder), form],
        env=known | environment,
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


@pytest.mark.parametrize("form", ["map", pytest.param("vmap", marks=pytest.mark.ci)])
def test_another_process_compiles_nothing_and_finds_the_same_bits(tmp_path, form):
    home = {"HOME": str(tmp_path), "XDG_CACHE_HOME": str(tmp_path / "cache")}
    home |= {"LOCALAPPDATA": str(tmp_path)}
    first = in_a_process(tmp_path / "first", form, **home)
    assert first["misses"] > 0
    assert first["hits"] == 0
    assert first["after"] is None
    programs = kept(tmp_path)
    assert len([name for name in programs if "jit_program" in name]) >= 1
    assert programs == kept(tmp_path / "cache" / "vtune") or sys.platform != "linux"
    second = in_a_process(tmp_path / "second", form, **home)
    assert second["misses"] == 0
    assert second["hits"] >= first["misses"]
    assert second["metrics"] == first["metrics"]
    assert kept(tmp_path) == programs
    # The study's own folder is read by others: nothing in it is ever executed.
    assert kept(tmp_path / "first") == []
    assert second["programs"] == first["programs"]


@pytest.mark.usefixtures("enabled")
def test_a_search_keeps_its_programs_where_it_is_told(tmp_path):
    before = jax_settings()
    search(tmp_path / "study", "map", compile_cache=tmp_path)
    assert any("jit_program" in name for name in kept(tmp_path))
    assert jax_settings() == before
    compile_new()
    there = kept(tmp_path)
    with programs_kept(False):
        compile_new()
    assert kept(tmp_path) == there


@pytest.mark.usefixtures("enabled")
def test_one_folder_after_another(tmp_path):
    for name in "aba":
        with programs_kept(tmp_path / name):
            compile_new()
    assert len([name for name in kept(tmp_path / "a") if "lambda" in name]) == 2
    assert len([name for name in kept(tmp_path / "b") if "lambda" in name]) == 1


@pytest.mark.usefixtures("enabled")
def test_nobody_else_can_write_there(tmp_path):
    with programs_kept(tmp_path / "cache"):
        folder = Path(jax.config.jax_compilation_cache_dir)
    assert os.name == "nt" or folder.stat().st_mode & 0o777 == 0o700


@pytest.mark.usefixtures("enabled")
def test_after_an_exception_jax_is_as_it_was(tmp_path):
    before = jax_settings()
    with pytest.raises(KeyboardInterrupt), programs_kept(tmp_path):
        assert jax_settings() != before
        raise KeyboardInterrupt
    assert jax_settings() == before


@pytest.mark.usefixtures("enabled")
def test_a_folder_that_jax_was_given_is_left_alone(tmp_path):
    jax.config.update(SETTINGS[0], str(tmp_path / "own"))
    try:
        before = jax_settings()
        with programs_kept(True):
            assert jax_settings() == before
        with programs_kept(tmp_path / "named"):
            compile_new()
        assert jax_settings() == before
        assert kept(tmp_path / "named")
    finally:
        jax.config.update(SETTINGS[0], None)


def test_where_jax_keeps_nothing_nothing_is_kept(tmp_path):
    before = jax_settings()
    with programs_kept(tmp_path / "cache"):
        assert jax_settings() == before
        compile_new()
    assert not (tmp_path / "cache").exists()


@pytest.mark.usefixtures("enabled")
def test_of_several_searches_at_a_time_the_last_leaves_jax_as_it_was(tmp_path):
    before = jax_settings()
    inside, leave, failures = threading.Barrier(4), threading.Event(), []

    def keep(number):
        try:
            with programs_kept(tmp_path / str(number)):
                inside.wait(60)
                assert leave.wait(60) if number else True
                compile_new()
        except Exception as error:
            failures.append(error)

    threads = [threading.Thread(target=keep, args=(number,)) for number in range(3)]
    for thread in threads:
        thread.start()
    inside.wait(60)
    threads[0].join(60)
    changed = jax_settings()
    leave.set()
    for thread in threads:
        thread.join(60)
    assert not failures
    assert changed != before
    assert jax_settings() == before
    assert sum("lambda" in name for name in kept(tmp_path)) == 3


@pytest.mark.usefixtures("enabled")
@pytest.mark.filterwarnings("default")
def test_where_nothing_can_be_written_one_warning_tells(tmp_path):
    (tmp_path / "file").touch()
    before = jax_settings()
    with pytest.warns(UserWarning) as warned:
        with programs_kept(tmp_path / "file"):
            assert jax_settings() == before
            compile_new()
    ((text,),) = [warning.message.args for warning in warned]
    assert str(tmp_path / "file") in text
    assert "`compile_cache`" in text


@pytest.mark.parametrize("wrong", [None, 3, b"folder"])
def test_what_is_no_folder_is_refused_at_once(wrong):
    with pytest.raises(ValueError, match="`compile_cache` is True, False or a path"):
        vt.RandomSearch(lambda hp: None, "val_loss", compile_cache=wrong)


FILES = st.lists(
    st.tuples(st.integers(0, 9), st.integers(0, 50), st.integers(0, 50)), max_size=12
)


@settings(max_examples=50)
@given(FILES, st.integers(0, 300))
def test_what_was_not_used_for_longest_is_removed(files, most):
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        sizes, used = {}, {}
        for number, (size, read, written) in enumerate(files):
            path = folder / str(number % 3) / str(number)
            path.parent.mkdir(exist_ok=True)
            path.write_bytes(bytes(10 * size))
            os.utime(path, (1000 + read, 1000 + written))
            sizes[path], used[path] = 10 * size, max(read, written)
        trim(folder, most)
        left = {path for path in sizes if path.exists()}
        gone = sizes.keys() - left
        assert sum(sizes[path] for path in left) <= most
        assert all(
            used[path] <= min((used[p] for p in left), default=99) for path in gone
        )
        # No more than was needed: with the last that went, it would be too much.
        last = max(gone, key=lambda path: (used[path], sizes[path], path), default=None)
        assert last is None or sum(sizes[p] for p in {*left, last}) > most


def test_a_folder_that_is_not_there_holds_nothing(tmp_path):
    trim(tmp_path / "nowhere", 0)


if __name__ == "__main__":
    main(*sys.argv[1:])
