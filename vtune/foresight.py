"""How far ahead of the trials that start a study looks, to plan for those to come."""

import dataclasses


# Trials that are known before the first programs are planned: enough to see the widths
# that most trials of a structure will have, and traced within seconds.
_KNOWN = 128


@dataclasses.dataclass(frozen=True)
class Foresight:
    """What is known of later trials when some are admitted.

    Args:
        exhausted: whether the space has no further configuration.
        coming: how many of the next trials are traced already.
        probed: whether further points of the space are looked at.
        weight: how many trials of the study each known one stands for.
    """

    exhausted: bool
    coming: int = 0
    probed: bool = False
    weight: float = 1.0


def foresight(begun: int, total: int | None, exhausted: bool) -> Foresight:
    """Decides how far ahead to look.

    Args:
        begun: the trials so far, with those that start.
        total: the trials of the whole study; None: as many as the space holds.
        exhausted: whether the space has no further configuration.

    Returns:
        Nothing to look at where no further trial will start.
    """
    if exhausted or begun == total:
        return Foresight(exhausted)
    known = max(begun, _KNOWN if total is None else min(_KNOWN, total))
    weight = 1.0 if total is None else max(1.0, total / known)
    return Foresight(exhausted, known - begun, known != total, weight)
