"""Who is told what happens in a study."""

import dataclasses
from collections.abc import Callable
from typing import Any

from vtune.reporting.progress import Progress
from vtune.trial import Trial


@dataclasses.dataclass(frozen=True)
class Observer:
    """What a study tells the world while it runs.

    Args:
        update: is called with the progress after every epoch and change of phase.
        epoch_end: is called with each trial, its epoch counted from 0, its metrics.
        trial_end: is called with each trial that ends.
    """

    update: Callable[[Progress], None] = lambda progress: None
    epoch_end: Callable[[Trial, int, Any], None] = lambda trial, epoch, metrics: None
    trial_end: Callable[[Trial], None] = lambda trial: None
