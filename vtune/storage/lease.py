"""Which one process may write a study.

To take over a stale lease is to look at it and to remove it, and what is removed may no
longer be what was looked at: another process may have taken over in between. So the
right to remove a lease is a lease itself, a *claim*, named after the token of the one
to be removed. Who holds it looks again, then removes. No token is used twice: who comes
late finds another one, and leaves it alone.
"""

import contextlib
import dataclasses
import json
import os
import re
import secrets
import socket
import threading
import time
from collections.abc import Callable
from pathlib import Path

from vtune.storage.failure import StorageError
from vtune.storage.folder import explained
from vtune.storage.json_file import read_object
from vtune.storage.process import IsAlive, is_alive, started_at


BEAT_SECONDS = 10.0
STALE_SECONDS = 60.0

_YEAR_3000 = 32_503_680_000

# The tokens of what this process gave back, but could not remove.
_given_back: set[str] = set()


@dataclasses.dataclass(frozen=True)
class Holder:
    """Who holds a lease, as its file tells.

    Args:
        host: the computer's name.
        pid: the process.
        started: when the process started, in the computer's ticks; None if unknown.
        token: drawn for this lease alone.
        since: when it was taken, in seconds since 1970.
        beat: when its holder last showed that it lives.
    """

    host: str
    pid: int
    started: int | None
    token: str
    since: int
    beat: int


class Lease:
    """The right to write a study, until it is released or another process takes over.

    Args:
        path: the lease's file, as this process made it.
        holder: what the file says.
        clock: the time of day, in seconds since 1970.
    """

    def __init__(self, path: Path, holder: Holder, clock: Callable[[], float]):
        self._path = path
        self._holder = holder
        self._clock = clock
        self._lost = False
        self._lock = threading.Lock()
        self._released = threading.Event()
        self._thread = threading.Thread(target=self._live, name="lease", daemon=True)
        self._thread.start()

    @classmethod
    def acquire(
        cls,
        path: Path,
        *,
        clock: Callable[[], float] = time.time,
        host: Callable[[], str] = socket.gethostname,
        is_alive: IsAlive = is_alive,
    ) -> "Lease":
        """Takes the lease, and beats until it is released.

        Args:
            path: the lease's file, in the study's folder.
            clock: the time of day, in seconds since 1970.
            host: the name of this computer.
            is_alive: whether a process of this computer runs, as `is_alive` tells.

        Raises:
            StorageError: if another process holds it, or the folder is not writable.
        """
        pid, now, token = os.getpid(), int(clock()), secrets.token_hex(8)
        holder = Holder(host(), pid, started_at(pid), token, now, now)
        with explained(path, "taken"):
            _take(path, holder, is_alive)
        return cls(path, holder, clock)

    def check(self) -> None:
        """Makes sure that the lease is still ours; to be called before every write.

        Raises:
            StorageError: if it is not, or that cannot be told.
        """
        self._refuse_copies()
        with self._lock, explained(self._path, "read"):
            self._refuse_if_lost()

    def beat(self) -> None:
        """Shows that this process lives, as a thread does every ten seconds.

        Raises:
            StorageError: if the lease is not ours, or cannot be written.
        """
        self._refuse_copies()
        with self._lock, explained(self._path, "renewed"):
            # What is open when the lease is found to be ours is our own file: to write
            # there harms nobody, whoever takes over meanwhile.
            with open(self._path, "r+b") as file:
                self._refuse_if_lost()
                now = int(self._clock())
                file.write(_encoded(dataclasses.replace(self._holder, beat=now)))
                file.truncate()

    def release(self) -> None:
        """Gives the lease back, if it is ours.

        Raises:
            StorageError: if its file cannot be removed. This process may take the lease
                again all the same, others when it has ended.
        """
        if os.getpid() == self._holder.pid:
            self._released.set()
            self._thread.join(BEAT_SECONDS)
            with explained(self._path, "released"):
                _drop(self._path, self._holder.token)

    def __enter__(self) -> "Lease":
        return self

    def __exit__(self, *error: object) -> None:
        self.release()

    def _live(self) -> None:
        while not self._lost and not self._released.wait(BEAT_SECONDS):
            # `check` tells whoever wants to write, and a drive may come back.
            with contextlib.suppress(StorageError):
                self.beat()

    def _refuse_copies(self) -> None:
        if os.getpid() != self._holder.pid:
            raise StorageError(
                f"The study in {str(self._path.parent)!r} is written by process "
                f"{self._holder.pid}; this one is a copy of it and may not write."
            )

    def _refuse_if_lost(self) -> None:
        self._lost = self._lost or _token(self._path) != self._holder.token
        if self._lost:
            raise StorageError(
                f"The study in {str(self._path.parent)!r} is no longer this process's: "
                "another process took over, or the lease was removed. Nothing more is "
                "written here. Start again when no other process writes the study."
            )


def _take(path: Path, holder: Holder, is_alive: IsAlive) -> None:
    while not _made(path, holder):
        stale = _stale(path, holder.host, is_alive)
        if stale is None:
            continue
        claim = path.with_name(f"{path.name}.{stale}")
        _take(claim, holder, is_alive)
        try:
            if _stale(path, holder.host, is_alive) == stale:
                path.unlink(missing_ok=True)
        finally:
            _drop(claim, holder.token)


def _made(path: Path, holder: Holder) -> bool:
    try:
        file = open(path, "xb")
    except FileExistsError:
        return False
    try:
        with file:
            file.write(_encoded(holder))
    except OSError:
        path.unlink(missing_ok=True)
        raise
    return True


def _drop(path: Path, token: str) -> None:
    _given_back.add(token)
    if _token(path) == token:
        path.unlink(missing_ok=True)
    _given_back.discard(token)


def _token(path: Path) -> str | None:
    try:
        found = _read(path)
    except FileNotFoundError:
        return None
    return found.token if found else None


def _stale(path: Path, host: str, is_alive: IsAlive) -> str | None:
    # Its token or, for one that cannot be read, `damaged`; None where it is gone.
    try:
        found = _read(path)
        if found and found.token in _given_back:
            return found.token
        here = found is not None and found.host == host
        alive = is_alive(found.pid, found.started) if found and here else None
        if alive is None:
            alive = _age(path) <= STALE_SECONDS
    except FileNotFoundError:
        return None
    if alive:
        raise StorageError(_refusal(path, found))
    return found.token if found else "damaged"


def _age(path: Path) -> float:
    # Both times are of the clock that stamps the files. Those of two computers differ,
    # and what another one wrote into the file tells nothing here.
    sample = path.with_name(f"{path.name}.{secrets.token_hex(8)}")
    try:
        sample.touch(exist_ok=False)
        return sample.stat().st_mtime - os.lstat(path).st_mtime
    finally:
        sample.unlink(missing_ok=True)


def _read(path: Path) -> Holder | None:
    try:
        holder = Holder(**read_object(path))
    except (TypeError, ValueError):
        return None
    kinds = [type(value) for value in dataclasses.astuple(holder)]
    right = (
        kinds in ([str, int, kind, str, int, int] for kind in (int, type(None)))
        and re.fullmatch("[0-9a-f]{16}", holder.token)
        and 0 < holder.pid < 2**31
        and 0 <= holder.since < _YEAR_3000
    )
    return holder if right else None


def _encoded(holder: Holder) -> bytes:
    return json.dumps(dataclasses.asdict(holder)).encode()


def _refusal(path: Path, found: Holder | None) -> str:
    place = f"The study in {str(path.parent)!r}"
    if found is None:
        return (
            f"{place} may be in use: its lease {path.name!r} is less than a minute old "
            "and cannot be read. Try again in a minute."
        )
    since = time.strftime("%Y-%m-%d %H:%M:%S UTC", time.gmtime(found.since))
    return (
        f"{place} is in use since {since}, by process {found.pid} on {found.host!r}. "
        "Wait until it ends, or end it. On a computer that is gone it loses the study "
        "a minute after its last sign of life."
    )
