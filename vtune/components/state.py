"""What a model is trained on, and what a step of training changes."""

from typing import Any

from flax import struct
from jaxtyping import Array, Float, PyTree


Batch = tuple[Any, ...]
Metrics = dict[str, Float[Array, ""]]


@struct.dataclass
class ModelState:
    """All that a step of training changes.

    Args:
        params: the network's parameters, nested dicts of arrays.
        collections: what else the network keeps, such as running statistics.
        optimizer: the optimizer's state.
    """

    params: PyTree
    collections: PyTree
    optimizer: PyTree


def unpack(batch: Batch) -> tuple[PyTree, PyTree]:
    """The inputs and the targets of a batch; the targets are None where it has none.

    Args:
        batch: `(x, y)` or `(x,)`.

    Raises:
        ValueError: if it is neither.
    """
    if not isinstance(batch, tuple) or len(batch) not in (1, 2):
        raise ValueError(f"A batch is `(x, y)` or `(x,)`, got {type(batch).__name__}.")
    return batch[0], batch[1] if len(batch) == 2 else None
