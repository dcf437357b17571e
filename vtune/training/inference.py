"""One trained model on a data set: its metrics, its outputs."""

from collections.abc import Callable, Hashable
from typing import Any

import jax
import numpy as np

from vtune.training.compile import Request, abstract, compile_all, shapes
from vtune.training.data import DataSet
from vtune.training.loop import Batches, evaluation_batches


def evaluate(
    eval_step: Callable[[Any, Any], Any],
    identity: Hashable,
    state: Any,
    data: DataSet,
    batch_size: int | None = None,
) -> dict[str, float]:
    """The metrics of a state over a data set: exact means over all samples.

    Args:
        eval_step: the metrics of a state on a batch.
        identity: what the function depends on.
        state: the state.
        data: the data set.
        batch_size: samples in a batch; None takes what suits the device.

    Returns:
        Each metric by name.
    """
    batches = evaluation_batches(data.size, batch_size)
    step = _compiled(eval_step, ("evaluate", identity), state, data.batch, batches)
    totals: dict[str, float] = {}
    for rows in _batches(data, batches):
        for name, value in jax.device_get(step[rows.size](state, rows.batch)).items():
            totals[name] = totals.get(name, 0.0) + float(value) * rows.size
    return {name: total / data.size for name, total in totals.items()}


def predict(
    outputs: Callable[[Any, Any], Any],
    identity: Hashable,
    state: Any,
    data: DataSet,
    batch_size: int | None = None,
) -> Any:
    """The outputs of a network for a data set.

    Args:
        outputs: the outputs of a state for a batch of inputs.
        identity: what the function depends on.
        state: the state.
        data: the data set, without targets.
        batch_size: samples in a batch; None takes what suits the device.

    Returns:
        The outputs as NumPy arrays, the samples first, in the order of the data.
    """
    batches = evaluation_batches(data.size, batch_size)
    step = _compiled(outputs, ("predict", identity), state, data.x, batches)
    parts = [step[rows.size](state, rows.x) for rows in _batches(data, batches)]
    return jax.tree.map(
        lambda *leaves: np.concatenate([np.asarray(leaf) for leaf in leaves]), *parts
    )


def _compiled(
    function: Callable[..., Any],
    key: tuple[Any, ...],
    state: Any,
    data: Any,
    batches: Batches,
) -> dict[int, Callable[..., Any]]:
    """The function's program for each batch size."""
    requests = []
    for size in batches.sizes:
        first = jax.tree.map(lambda array: abstract(array[:size]), data)
        arguments = (jax.tree.map(abstract, state), first)
        requests.append(Request((*key, shapes(arguments)), function, arguments))
    programs, _ = compile_all(requests)
    for program in programs:
        if isinstance(program, Exception):
            raise program
    return dict(zip(batches.sizes, programs))  # pyright: ignore[reportReturnType]


def _batches(data: DataSet, batches: Batches) -> list[DataSet]:
    starts = range(0, data.size, batches.size)
    return [data.rows(s, min(s + batches.size, data.size)) for s in starts]
