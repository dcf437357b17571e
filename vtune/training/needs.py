"""Which programs an arrangement of trials needs."""

from collections.abc import Callable, Mapping
from typing import Any

import jax

from vtune.fusion.trace import Trace
from vtune.training.compile import Request, abstract
from vtune.training.epoch import LaneFunctions
from vtune.training.plan import Arrangement, Layout
from vtune.training.requests import init_request
from vtune.training.slices import epoch_requests


def needed(
    layout: Layout,
    functions: Callable[[int, Arrangement], LaneFunctions],
    new: Mapping[int, Trace],
    data: tuple[Any, Any, Any],
    platform: str,
) -> dict[tuple[str, int], Request]:
    """The programs that train and initialise some trials.

    Args:
        layout: the trials of each cohort and how they are arranged.
        functions: those of a cohort in such an arrangement.
        new: the traces of the trials that have no state yet.
        data: the first batch, the training set and the validation set or None.
        platform: `"cpu"`, `"gpu"` or `"tpu"`.

    Returns:
        For each cohort those of `epoch_requests`, as `("epoch", cohort)`, and one for
        `("init", trial)` of each new trial; many trials have equal ones.
    """
    first, training, validation = jax.tree.map(abstract, data)
    requests: dict[tuple[str, int], Request] = {}
    for cohort, (members, arrangement) in layout.items():
        own = functions(cohort, arrangement)
        found = epoch_requests(own, arrangement, platform, (training, validation))
        requests |= {(kind, cohort): request for kind, request in found.items()}
        for trial in members:
            if trial in new:
                request = init_request(own.widening, new[trial], first)
                requests["init", trial] = request
    return requests
