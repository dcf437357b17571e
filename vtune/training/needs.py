"""Which programs an arrangement of trials needs."""

from collections.abc import Mapping, Sequence
from typing import Any

import jax

from vtune.fusion.trace import Trace
from vtune.training.cohort import Cohort
from vtune.training.compile import Request, abstract
from vtune.training.epoch import LaneFunctions
from vtune.training.loop import Loop
from vtune.training.plan import Layout
from vtune.training.requests import epoch_request, init_request


def needed(
    layout: Layout,
    cohorts: Sequence[Cohort],
    loop: Loop,
    new: Mapping[int, Trace],
    data: tuple[Any, Any, Any],
) -> dict[tuple[str, int], Request]:
    """The programs that train and initialise some trials.

    Args:
        layout: the trials of each cohort and how they are arranged.
        cohorts: all cohorts, by number.
        loop: the epoch.
        new: the traces of the trials that have no state yet.
        data: the first batch, the training set and the validation set or None.

    Returns:
        A request for `("epoch", cohort)` and for `("init", trial)` of each new trial;
        many trials have equal ones.
    """
    first, training, validation = jax.tree.map(abstract, data)
    requests: dict[tuple[str, int], Request] = {}
    for cohort, (members, arrangement) in layout.items():
        widening = cohorts[cohort].widening
        requests["epoch", cohort] = epoch_request(
            LaneFunctions(widening, loop),
            arrangement.form,
            arrangement.lanes,
            training,
            validation,
        )
        for trial in members:
            if trial in new:
                request = init_request(widening, new[trial], first)
                requests["init", trial] = request
    return requests
