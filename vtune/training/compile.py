"""Compiling programs, side by side, each once in a process."""

import collections
import concurrent.futures
import contextlib
import dataclasses
import hashlib
import threading
import time
from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
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


class Compiling:
    """Compiles programs side by side in threads; those compiled before cost nothing.

    It is a context, at whose end what has not begun never begins.

    Args:
        requests: the programs, those first that are needed first.
        report: is called with a text whenever a program was compiled that is waited
            for.
    """

    def __init__(
        self,
        requests: Sequence[Request],
        report: Callable[[str], None] = lambda text: None,
    ):
        self._surroundings = Surroundings.here()
        self._report = report
        self._lock = threading.Lock()
        self._known: dict[Hashable, Program | Exception] = {}
        self._futures: dict[Hashable, concurrent.futures.Future[Program]] = {}
        self._pool = concurrent.futures.ThreadPoolExecutor(cores(), "vtune-compile")
        self._began = self._ended = time.perf_counter()
        missing: dict[Hashable, Request] = {}
        for request in requests:
            if (program := PROGRAMS.get((request.key, self._surroundings))) is not None:
                self._known[request.key] = program
            else:
                missing[request.key] = request
        if missing:
            report(_compiling(len(missing)))
        for key, request in missing.items():
            future = self._pool.submit(compiled, self._surroundings, request)
            future.add_done_callback(self._is_done)
            self._futures[key] = future

    def __enter__(self) -> "Compiling":
        return self

    def __exit__(self, *error: object) -> None:
        self._pool.shutdown(cancel_futures=True)

    @property
    def seconds(self) -> float:
        """The seconds until the last program was compiled, of those that are."""
        return self._ended - self._began

    def knows(self, requests: Iterable[Request]) -> bool:
        """Whether all of some programs need not be waited for.

        Args:
            requests: which.
        """
        return all(request.key in self._known for request in requests)

    def programs(self, requests: Sequence[Request]) -> list[Program | Exception]:
        """Waits for some of the programs, in any thread.

        Args:
            requests: which.

        Returns:
            For each its program, or the exception that compiling it raised.
        """
        keys = dict.fromkeys(request.key for request in requests)
        waiting = {self._futures[k]: k for k in keys if k not in self._known}
        for future in concurrent.futures.as_completed(waiting):
            error = future.exception()
            found: Any = error or future.result()
            with self._lock:
                self._known[waiting[future]] = found
                left = self._futures.keys() - self._known.keys()
            self._report(_compiling(len(left)))
        return [self._known[request.key] for request in requests]

    def _is_done(self, future: concurrent.futures.Future[Program]) -> None:
        self._ended = time.perf_counter()


def compile_all(
    requests: Sequence[Request], report: Callable[[str], None] = lambda text: None
) -> tuple[list[Program | Exception], float]:
    """Compiles programs side by side in threads, and waits for all.

    Args:
        requests, report: as for `Compiling`.

    Returns:
        For each request its program, or the exception that compiling it raised, and the
        seconds that compiling took.
    """
    with Compiling(requests, report) as compiling:
        programs = compiling.programs(requests)
    return programs, compiling.seconds


def compiled(surroundings: Surroundings, request: Request) -> Program:
    """A program, compiled in this thread unless that is done or under way.

    Args:
        surroundings: how JAX is set for it.
        request: the program.

    Raises:
        Exception: whatever compiling it raises.
    """
    key = request.key, surroundings
    return PROGRAMS.compiled(key, lambda: _compile(surroundings, request))


def _compiling(left: int) -> str:
    return f"compiling {left} program{'s' * (left != 1)}"


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
