"""How much a trial may differ from itself alone."""

import dataclasses
from collections.abc import Sequence

import numpy as np


# An update may differ by this much of its largest entry: where a tanh is saturated, the
# rounding of 1 - t² alone makes 1e-2 of it; what a wrong mask does is of its own size.
UPDATE_TOLERANCE = 2e-2

# A metric may differ by this much of its value, a thousand roundings.
METRIC_TOLERANCE = 1e-4

# Beyond the tolerance, a difference counts only if it is this many times what rounding
# errors in data and parameters make of the trial alone.
NOISE_FACTOR = 20.0


@dataclasses.dataclass(frozen=True)
class Difference:
    """How far a trial inside the envelope is from the trial alone.

    Args:
        what: a leaf of the state, a metric, or `padding`.
        error: the largest difference, relative to the largest entry of the update or to
            the metric; infinite where one of the two is finite only.
        noise: the same for the trial alone with rounding errors in data and parameters;
            0.0 where it was not asked for.
        tolerance: what is allowed without looking at the noise.
    """

    what: str
    error: float
    noise: float
    tolerance: float

    @property
    def is_wrong(self) -> bool:
        """Whether it is more than rounding."""
        return not self.error <= max(self.tolerance, NOISE_FACTOR * self.noise)


def wrong(differences: Sequence[Difference]) -> Difference | None:
    """The largest difference that is more than rounding, or None."""
    found = [difference for difference in differences if difference.is_wrong]
    return max(found, key=lambda d: np.nan_to_num(d.error, nan=np.inf), default=None)
