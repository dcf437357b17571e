"""Compiling programs, side by side, each once in a process."""

import collections
import concurrent.futures
import contextlib
import dataclasses
import hashlib
import threading
import time
from collections.abc import Callable, Hashable, Mapping, Sequence
from typing import Any

import jax

from vtune.training.fingerprint import cores, fingerprint
from vtune.training.surroundings import Surroundings


_KEPT = 256

# What has XLA compile in little time: the first of these that it knows. Level 0 is for
# the older way of making a CPU's loops alone, which is twice as quick there; by the
# other way, it makes NaN of the gradient of `x - x.max()`.
_QUICK: tuple[Mapping[str, str | bool], ...] = (
    {"xla_backend_optimization_level": "0", "xla_cpu_use_fusion_emitters": False},
    {"xla_backend_optimization_level": "1"},
)


@dataclasses.dataclass(frozen=True, eq=False)
class Program:
    """A compiled program.

    Args:
        call: runs it.
        identity: equal only for programs that give the same bits: the SHA-256, in
            hexadecimal digits, of the program as it was lowered, of what the compiler
            was told, and of the `fingerprint`.
        bytes: the memory that it needs, with its arguments and results.
    """

    call: Callable[..., Any]
    identity: str
    bytes: int = 0

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
        quick: whether it is to be compiled in little time, rather than to run in
            little: a program that runs a few times.
    """

    key: Hashable
    function: Callable[..., Any]
    arguments: tuple[Any, ...]
    donated: tuple[int, ...] = ()
    quick: bool = False


class ProgramCache:
    """Compiled programs by key, the most recently used ones, shared by a process.

    A search whose programs equal an earlier one's compiles nothing, and what several
    threads ask for at a time is compiled by the first of them.

    Args:
        kept: how many programs are kept.
    """

    def __init__(self, kept: int = _KEPT):
        self._programs: collections.OrderedDict[
            Hashable, concurrent.futures.Future[Program]
        ] = collections.OrderedDict()
        self._kept = kept
        self._lock = threading.Lock()

    def get(self, key: Hashable) -> Program | None:
        """The program of a key, or None where it is yet to be compiled."""
        with self._lock:
            program = self._programs.get(key)
            if program is None or not program.done():
                return None
            self._programs.move_to_end(key)
            return program.result()

    def compiled(self, key: Hashable, compile: Callable[[], Program]) -> Program:
        """The program of a key, compiled here unless that is done or under way.

        Args:
            key: what the program depends on.
            compile: compiles it.

        Returns:
            The program; the one that was not used for longest is dropped for it.

        Raises:
            Exception: whatever compiling it raises, here or in the thread that came
                first; it is tried again when it is asked for again.
        """
        with self._lock:
            program = self._programs.get(key)
            is_first = program is None
            if program is None:
                program = self._programs[key] = concurrent.futures.Future()
            self._programs.move_to_end(key)
            while len(self._programs) > self._kept:
                self._programs.popitem(last=False)
        if is_first:
            self._compile(key, compile, program)
        return program.result()

    def _compile(
        self,
        key: Hashable,
        compile: Callable[[], Program],
        program: concurrent.futures.Future[Program],
    ) -> None:
        try:
            program.set_result(compile())
        except BaseException as error:
            with self._lock:
                if self._programs.get(key) is program:
                    del self._programs[key]
            program.set_exception(error)


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
    pool = concurrent.futures.ThreadPoolExecutor(cores(), "vtune-compile")
    try:
        futures = {
            pool.submit(_compiled, surroundings, request): key
            for key, request in missing.items()
        }
        for done, future in enumerate(concurrent.futures.as_completed(futures), 1):
            error = future.exception()
            programs[futures[future]] = error or future.result()  # pyright: ignore
            report(_compiling(len(missing) - done))
    finally:
        # After Ctrl-C what has not begun never begins.
        pool.shutdown(cancel_futures=True)
    return [programs[key] for key in keys], time.perf_counter() - started  # pyright: ignore


class Ahead:
    """Compiles programs before they are needed, on the cores that are to spare.

    `compile_all` waits for what is under way here, and takes over what has not begun.
    """

    def __init__(self):
        self._asked: set[Hashable] = set()
        self._waiting: collections.deque[tuple[Surroundings, Request]]
        self._waiting = collections.deque()
        self._threads = 0
        self._lock = threading.Lock()

    def begin(self, requests: Sequence[Request]) -> None:
        """Begins to compile programs, and returns at once.

        Args:
            requests: the programs, those first that are needed first. What was asked
                for before is left out; what fails is left to `compile_all`.
        """
        surroundings = Surroundings.here()
        with self._lock:
            for request in requests:
                if (request.key, surroundings) not in self._asked:
                    self._asked.add((request.key, surroundings))
                    self._waiting.append((surroundings, request))
            spare = max(1, cores() - 1) - self._threads
            started = min(len(self._waiting), spare)
            self._threads += started
        for _ in range(started):
            threading.Thread(target=self._work, name="vtune-ahead").start()

    def stop(self) -> None:
        """What has not begun never begins; what is under way is not waited for."""
        with self._lock:
            self._asked.clear()
            self._waiting.clear()

    def _work(self) -> None:
        while (first := self._next()) is not None:
            with contextlib.suppress(Exception):
                _compiled(*first)

    def _next(self) -> tuple[Surroundings, Request] | None:
        with self._lock:
            # Python waits for its threads when it ends: then nothing more is begun.
            if self._waiting and threading.main_thread().is_alive():
                return self._waiting.popleft()
            self._threads -= 1
            return None


def _compiling(left: int) -> str:
    return f"compiling {left} program{'s' * (left != 1)}"


def _compiled(surroundings: Surroundings, request: Request) -> Program:
    key = request.key, surroundings
    return PROGRAMS.compiled(key, lambda: _compile(surroundings, request))


def _compile(surroundings: Surroundings, request: Request) -> Program:
    jitted = jax.jit(request.function, donate_argnums=request.donated)
    with surroundings.applied():
        lowered = jitted.lower(*request.arguments)
        options, compiled = _by_xla(lowered, request.quick)
        text = [lowered.as_text(), str(sorted(options.items())), *map(str, _setting())]
        digest = hashlib.sha256("\0".join(text).encode()).hexdigest()
        return Program(compiled, digest, _bytes(compiled))


def _by_xla(
    lowered: jax.stages.Lowered, quick: bool
) -> tuple[Mapping[str, str | bool], jax.stages.Compiled]:
    """A compiled program, and what the compiler was told."""
    if not quick:
        return {}, lowered.compile()
    first, last = _QUICK
    if jax.default_backend() == "cpu":
        # A release of XLA that has one way only does not know the option.
        with contextlib.suppress(Exception):
            return first, lowered.compile(dict(first))
    return last, lowered.compile(dict(last))


def _bytes(compiled: jax.stages.Compiled) -> int:
    found: Any = compiled.memory_analysis()
    if found is None:
        return 0
    names = ("argument", "output", "temp", "generated_code")
    sizes = [getattr(found, f"{name}_size_in_bytes") for name in names]
    return sum(sizes) - found.alias_size_in_bytes


def _setting() -> list[tuple[str, str]]:
    return sorted(fingerprint().items())


def abstract(array: Any) -> jax.ShapeDtypeStruct:
    """An array's shape and dtype."""
    return jax.ShapeDtypeStruct(array.shape, array.dtype)


def shapes(tree: Any) -> Hashable:
    """The structure, shapes and dtypes of a tree, to be part of a program's key."""
    leaves, structure = jax.tree.flatten(tree)
    return structure, tuple((leaf.shape, str(leaf.dtype)) for leaf in leaves)
