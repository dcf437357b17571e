"""Whether trials inside an envelope are what they are alone, seen on real batches."""

import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax

from vtune.fusion.trace import Trace
from vtune.fusion.widening import Widening
from vtune.training.comparison import Comparison
from vtune.training.compile import Compiling, Program, Request, compile_all
from vtune.training.difference import Difference, wrong
from vtune.training.precision import product_rounding
from vtune.training.streams import side_by_side, streams


def compared(
    comparisons: Sequence[Comparison], report: Callable[[str], None]
) -> list[str | None]:
    """Compares trials inside their envelopes with the same trials alone.

    Args:
        comparisons: the trials.
        report: is called with a text while programs are compiled.

    Returns:
        For each what is wrong, in a sentence, or None.
    """
    wanted = [comparison.requests() for comparison in comparisons]

    def verdict(comparison: Comparison, requests: Mapping[str, Request]) -> str | None:
        programs = compiling.programs(list(requests.values()))
        return _verdict(comparison, dict(zip(requests, programs)), own)

    threads = streams(jax.default_backend()).threads
    own = max(1, threads // max(1, len(comparisons)))
    with Compiling([r for each in wanted for r in each.values()], report) as compiling:
        pairs = zip(comparisons, wanted)
        return side_by_side([functools.partial(verdict, *p) for p in pairs], threads)


def _verdict(
    comparison: Comparison, programs: Mapping[str, Program | Exception], threads: int
) -> str | None:
    try:
        worst = wrong(comparison.differences(programs, threads, always_noise=False))
    except Exception as error:
        return f"it could not be compared with the trial alone: {error}"
    return worst and (
        f"inside a wider program {worst.what} differs by {worst.error:.1e} "
        f"from the trial alone"
    )


def compare(
    widening: Widening,
    trace: Trace,
    batches: Any,
    evaluated: Any,
    *,
    seed: int,
    rounding: float | None = None,
) -> tuple[Difference, ...]:
    """Compares a trial inside its envelope with the same trial alone.

    Args:
        widening: the envelope.
        trace: the trial's functions, of a member's sizes.
        batches: a training batch for each step, stacked.
        evaluated: an evaluation batch, or None.
        seed: decides all draws.
        rounding: how much the factors of products are rounded, relative to their size;
            None: as JAX does it here.

    Returns:
        The differences, one for each leaf of the state and each metric.

    Raises:
        Exception: whatever compiling and running the programs raises.
    """
    rounding = rounding_here() if rounding is None else rounding
    comparison = Comparison(widening, trace, batches, evaluated, seed, rounding)
    requests = comparison.requests()
    programs, _ = compile_all(list(requests.values()))
    return comparison.differences(dict(zip(requests, programs)))


def rounding_here() -> float:
    """How much the factors of products are rounded here, relative to their size."""
    setting = jax.config.jax_default_matmul_precision  # pyright: ignore
    return product_rounding(jax.default_backend(), setting)
