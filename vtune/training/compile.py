"""Compiling programs, side by side, each once in a process."""

import collections
import concurrent.futures
import dataclasses
import hashlib
import os
import threading
import time
from collections.abc import Callable, Hashable, Sequence
from typing import Any

import jax

from vtune.training.fingerprint import fingerprint
from vtune.training.surroundings import Surroundings


_KEPT = 256


@dataclasses.dataclass(frozen=True, eq=False)
class Program:
    """A compiled program.

    Args:
        call: runs it.
        identity: equal only for programs that give the same bits: the SHA-256, in
            hexadecimal digits, of the program as it was lowered, of what the compiler
            was told, and of the `fingerprint`.
    """

    call: Callable[..., Any]
    identity: str

    def __call__(self, *arguments: Any) -> Any:
        """Runs the program."""
        return self.call(*arguments)


@dataclasses.dataclass(frozen=True, eq=False)
class Request:
    """A program that is to be compiled.

    Args:
        key: what the program depends on; equal keys give one program.
        function: the function.
        arguments: its arguments as shapes and dtypes.
        donated: the positions of the arguments whose memory the results may take.
        level: how much XLA optimises, from 0 to 3: a program that runs a few times
            takes longer to optimise than that saves.
    """

    key: Hashable
    function: Callable[..., Any]
    arguments: tuple[Any, ...]
    donated: tuple[int, ...] = ()
    level: int = 3


class ProgramCache:
    """Compiled programs by key, the most recently used ones, shared by a process.

    A search whose programs equal an earlier one's compiles nothing.
    """

    def __init__(self, kept: int = _KEPT):
        self._programs: collections.OrderedDict[Hashable, Program] = (
            collections.OrderedDict()
        )
        self._kept = kept
        self._lock = threading.Lock()

    def get(self, key: Hashable) -> Program | None:
        """The program of a key, or None."""
        with self._lock:
            if key in self._programs:
                self._programs.move_to_end(key)
            return self._programs.get(key)

    def put(self, key: Hashable, program: Program) -> None:
        """Keeps a program, and drops the one that was not used for longest."""
        with self._lock:
            self._programs[key] = program
            while len(self._programs) > self._kept:
                self._programs.popitem(last=False)


PROGRAMS = ProgramCache()


def compile_all(
    requests: Sequence[Request], report: Callable[[str], None] = lambda text: None
) -> tuple[list[Program | Exception], float]:
    """Compiles programs side by side in threads; those compiled before cost nothing.

    Args:
        requests: the programs.
        report: is called with a text whenever a program was compiled.

    Returns:
        For each request its program, or the exception that compiling it raised, and the
        seconds that compiling took.
    """
    surroundings = Surroundings.here()
    keys = [(request.key, surroundings) for request in requests]
    programs: dict[Hashable, Program | Exception | None]
    programs = {key: PROGRAMS.get(key) for key in keys}
    missing = {k: r for k, r in zip(keys, requests) if programs[k] is None}
    if not missing:
        return [programs[key] for key in keys], 0.0  # pyright: ignore
    started = time.perf_counter()
    report(_compiling(len(missing)))
    pool = concurrent.futures.ThreadPoolExecutor(os.cpu_count())
    try:
        futures = {
            pool.submit(_compile, surroundings, request): key
            for key, request in missing.items()
        }
        for done, future in enumerate(concurrent.futures.as_completed(futures), 1):
            key = futures[future]
            programs[key] = future.exception() or future.result()  # pyright: ignore
            if future.exception() is None:
                PROGRAMS.put(key, future.result())
            report(_compiling(len(missing) - done))
    finally:
        # After Ctrl-C what has not begun never begins.
        pool.shutdown(cancel_futures=True)
    return [programs[key] for key in keys], time.perf_counter() - started  # pyright: ignore


def _compiling(left: int) -> str:
    return f"compiling {left} program{'s' * (left != 1)}"


def _compile(surroundings: Surroundings, request: Request) -> Program:
    jitted = jax.jit(request.function, donate_argnums=request.donated)
    options: dict[str, str | bool] = {}
    if request.level != 3:
        options["xla_backend_optimization_level"] = str(request.level)
    with surroundings.applied():
        lowered = jitted.lower(*request.arguments)
        text = [lowered.as_text(), str(sorted(options.items())), *map(str, _setting())]
        digest = hashlib.sha256("\0".join(text).encode()).hexdigest()
        return Program(lowered.compile(options), digest)


def _setting() -> list[tuple[str, str]]:
    return sorted(fingerprint().items())


def abstract(array: Any) -> jax.ShapeDtypeStruct:
    """An array's shape and dtype."""
    return jax.ShapeDtypeStruct(array.shape, array.dtype)


def shapes(tree: Any) -> Hashable:
    """The structure, shapes and dtypes of a tree, to be part of a program's key."""
    leaves, structure = jax.tree.flatten(tree)
    return structure, tuple((leaf.shape, str(leaf.dtype)) for leaf in leaves)
