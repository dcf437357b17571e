"""Where are compiled programs kept, so that the next process need not compile them?"""

import contextlib
import functools
import hashlib
import os
import tempfile
import threading
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jax
import platformdirs
from jax.experimental.compilation_cache import compilation_cache

from vtune.training.fingerprint import instructions


CompileCache = bool | str | os.PathLike[str]

_FOLDER = "jax_compilation_cache_dir"

# By itself, JAX keeps no program that took less than a second. It can limit the bytes
# as well, but then each new entry has it read all others, and one that was left without
# its time of use keeps it from writing (https://github.com/jax-ml/jax/issues/39880).
_SETTINGS = {
    "jax_persistent_cache_min_compile_time_secs": 0.0,
    "jax_persistent_cache_min_entry_size_bytes": -1,
}

_MOST_BYTES = 2 * 10**9


@contextlib.contextmanager
def programs_kept(where: CompileCache) -> Iterator[None]:
    """Has JAX keep all programs that are compiled meanwhile, and look there for others.

    JAX has one such folder in a process: of several at a time the first decides, and
    the last to end leaves JAX as it was. Other kinds of processors have programs of
    their own. Up to 2 GB are kept; what was not used for longest is removed.

    Args:
        where: the folder; True takes the user's cache folder, unless JAX was given a
            folder already; False leaves JAX as it is.
    """
    borrowed = where is not False and _LENT.borrow(where)
    try:
        yield
    finally:
        if borrowed:
            _LENT.give_back()


class _Lent:
    """JAX's settings while somebody has them changed, and what they were before."""

    def __init__(self):
        self._lock = threading.Lock()
        self._borrowers = 0
        self._before: dict[str, Any] = {}
        self._folder = Path()

    def borrow(self, where: CompileCache) -> bool:
        """Sets JAX's folder, unless it is set; False if it is not to be given back."""
        with self._lock:
            if self._borrowers == 0:
                folder = _usable(where)
                if folder is None:
                    return False
                self._folder = folder
                settings = _SETTINGS | {_FOLDER: str(folder)}
                self._before = {name: getattr(jax.config, name) for name in settings}
                _set(settings)
            self._borrowers += 1
            return True

    def give_back(self) -> None:
        """Sets JAX to what it was, if nobody else has its settings."""
        with self._lock:
            self._borrowers -= 1
            if self._borrowers == 0:
                _set(self._before)
                trim(self._folder.parent, _MOST_BYTES)


_LENT = _Lent()


def _set(settings: dict[str, Any]) -> None:
    for name, value in settings.items():
        jax.config.update(name, value)
    # JAX holds on to the first folder that it has used.
    compilation_cache.reset_cache()


def _usable(where: CompileCache) -> Path | None:
    """The folder to set; None where JAX is to be left as it is."""
    if not jax.config.jax_enable_compilation_cache:  # pyright: ignore
        return None
    if isinstance(where, bool):
        if getattr(jax.config, _FOLDER) is not None:
            return None
        where = platformdirs.user_cache_path("vtune", appauthor=False)
    # What lies in here is vtune's own, so that it may be removed.
    folder = Path(where) / "compiled-programs" / _processor()
    try:
        folder = folder.expanduser().absolute()
        # Who can write there can have any program run.
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        tempfile.TemporaryFile(dir=folder).close()
    except (OSError, RuntimeError) as error:
        warnings.warn(
            f"Compiled programs cannot be kept in {folder}: {error}. They will be "
            "compiled anew in every process. Give the tuner another folder as "
            "`compile_cache`, or False to do without."
        )
        return None
    return folder


@functools.cache
def _processor() -> str:
    """A name that processors with other instructions do not have."""
    return hashlib.sha256(instructions().encode()).hexdigest()[:16]


def trim(folder: Path, most: int) -> None:
    """Removes the files that were not used for longest until the others are few enough.

    Args:
        folder: all in here may be removed.
        most: the bytes that may stay.
    """
    files: list[tuple[float, int, Path]] = []
    for path in folder.rglob("*"):
        # Another process may be at the same.
        with contextlib.suppress(OSError):
            status = path.stat()
            if path.is_file():
                used = max(status.st_atime, status.st_mtime)
                files.append((used, status.st_size, path))
    excess = sum(size for _, size, _ in files) - most
    for _, size, path in sorted(files):
        if excess <= 0:
            return
        with contextlib.suppress(OSError):
            path.unlink()
            excess -= size
