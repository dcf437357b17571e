"""The shared vocabulary: what a trial is, what it is judged by, what can be trained."""

import dataclasses
import enum
import math
import re
from collections.abc import Mapping
from typing import Any, Literal, Protocol, runtime_checkable


Value = int | float | str | bool
Direction = Literal["min", "max"]

_SMALLER_IS_BETTER = re.compile(
    r"loss|error|perplexity|crossentropy|cross_entropy|mse|mae|rmse|mape|msle"
    r"|divergence|distance|nll|brier"
)
_LARGER_IS_BETTER = re.compile(
    r"accuracy|acc|auc|precision|recall|f1|score|reward|return|r2|iou|dice"
    r"|similarity|likelihood|top_\d+"
)


class TrialStatus(enum.Enum):
    """Where a trial stands.

    `RUNNING` trains or waits for its rung; `PRUNED` was dropped at a rung's end;
    `COMPLETED` trained its whole budget; `DIVERGED` met a non-finite loss, parameter
    or objective; `FAILED` raised an exception or did not fit the device.
    """

    RUNNING = "running"
    PRUNED = "pruned"
    COMPLETED = "completed"
    DIVERGED = "diverged"
    FAILED = "failed"


@dataclasses.dataclass(frozen=True)
class Objective:
    """The metric that ranks trials, and which way is better.

    Args:
        name: a metric's name, such as `"val_accuracy"`.
        direction: `"min"` or `"max"`; inferred from a well-known name when omitted.

    Raises:
        ValueError: if the direction is neither given nor known from the name.

    Example:
        ```python
        import vtune as vt

        assert vt.Objective("val_accuracy").direction == "max"
        vt.Objective("val_energy", direction="min")
        ```
    """

    name: str
    direction: Direction | None = None

    def __post_init__(self):
        if not isinstance(self.name, str) or not self.name:
            raise ValueError(
                f"`Objective(name=...)` takes the name of a metric, got {self.name!r}."
            )
        if self.direction is None:
            object.__setattr__(self, "direction", _direction_of(self.name))
        if self.direction not in ("min", "max"):
            raise ValueError(
                f"`Objective({self.name!r}, direction=...)` is 'min' or 'max', "
                f"got {self.direction!r}."
            )

    def loss(self, score: float | None) -> float:
        """A number that is smaller for a better score; infinite without a score."""
        if score is None or not math.isfinite(score):
            return math.inf
        return score if self.direction == "min" else -score


def _direction_of(name: str) -> Direction:
    bare = name.removeprefix("val_").lower()
    if _SMALLER_IS_BETTER.search(bare):
        return "min"
    if _LARGER_IS_BETTER.search(bare):
        return "max"
    raise ValueError(
        f"Whether {name!r} is better small or large is not known from its name. "
        f"Say it: `vt.Objective({name!r}, direction='min')` (or 'max')."
    )


@dataclasses.dataclass(frozen=True)
class Trial:
    """One candidate and its history, as it stood when the record was made.

    Args:
        number: counts from 0 in the order in which trials were started.
        values: the hyperparameters that `build` asked for, by name.
        status: where the trial stands.
        bracket: the bracket of the schedule that the trial belongs to, from 0.
        budget: the epochs that it may train in its present rung.
        epoch: the epochs that it has trained.
        metrics: for each metric its values, one an epoch.
        score: the objective at the last trained epoch; None before the first epoch
            and for a trial that failed or diverged.
        best_epoch: the epoch of the best objective so far, counted from 1.
        reason: for a trial that failed or diverged, why.
    """

    number: int
    values: Mapping[str, Value]
    status: TrialStatus = TrialStatus.RUNNING
    bracket: int = 0
    budget: int = 0
    epoch: int = 0
    metrics: Mapping[str, tuple[float, ...]] = dataclasses.field(default_factory=dict)
    score: float | None = None
    best_epoch: int | None = None
    reason: str | None = None


def rank(
    trials: "list[Trial] | tuple[Trial, ...]", objective: Objective
) -> list[Trial]:
    """Trials from best to worst.

    The score decides; among equal scores the larger budget, then the smaller number.
    Trials without a score come last.

    Args:
        trials: the trials to order.
        objective: says which way is better.

    Returns:
        A new list.
    """
    return sorted(trials, key=lambda t: (objective.loss(t.score), -t.epoch, t.number))


@runtime_checkable
class Trainable(Protocol):
    """What vtune can train: three pure functions.

    A batch is `(x, y)`, or `(x,)` where there is no `y`; each is a pytree of arrays
    with the batch axis first. A state is any pytree of arrays; its structure, shapes
    and dtypes stay the same from step to step. Leaves that lie under a key or attribute
    named `params` are its parameters: a non-finite one at an epoch's end marks the
    trial as diverged.
    """

    def init(self, key: Any, batch: tuple[Any, ...]) -> Any:
        """The state before the first step, from a random key and a batch."""
        ...

    def train_step(
        self, state: Any, batch: tuple[Any, ...], key: Any
    ) -> tuple[Any, Mapping[str, Any]]:
        """One step: the next state and scalar metrics, each a mean over the batch."""
        ...

    def eval_step(self, state: Any, batch: tuple[Any, ...]) -> Mapping[str, Any]:
        """Scalar metrics of a state, each a mean over the batch."""
        ...
