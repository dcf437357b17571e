"""The order of the data in each lane's epoch, drawn by a program for all networks."""

import dataclasses

import jax
import numpy as np
from jaxtyping import Array, Bool, Int, Int32, UInt32

from vtune.training.compile import Program, Request
from vtune.training.keys import epoch_order, order_bits
from vtune.training.requests import key_data


# XLA's sort on a CPU takes forty times as long as NumPy's.
_SORTED_BY_HOST = frozenset({"cpu"})


def orders_request(platform: str, lanes: int, samples: int) -> Request:
    """The program that draws the orders, or on a CPU what one is sorted by.

    It is the same for all networks, so that none of their programs has it in itself.

    Args:
        platform: `"cpu"`, `"gpu"` or `"tpu"`.
        lanes: the number of lanes.
        samples: the number of training samples.

    Returns:
        A request for `(keys, epochs) -> orders`, each with a lane axis; on a CPU for
        `(key, epoch) -> bits` of a single lane.
    """
    by_host = platform in _SORTED_BY_HOST

    def drawn(keys: UInt32[Array, "*lanes data"], epochs: Int[Array, "*lanes"]):
        keys = jax.random.wrap_key_data(keys)
        if by_host:
            return order_bits(keys, epochs, samples)
        order = lambda key, epoch: epoch_order(key, epoch, samples)  # noqa: E731
        return jax.vmap(order)(keys, epochs)

    axis = () if by_host else (lanes,)
    key = key_data()
    arguments = (
        jax.ShapeDtypeStruct((*axis, *key.shape), key.dtype),
        jax.ShapeDtypeStruct(axis, np.int32),
    )
    return Request(("orders", axis, samples), drawn, arguments, quick=by_host)


def known_orders(platform: str, samples: int) -> list[Request]:
    """What is known of these programs before there are any lanes.

    Args:
        platform: `"cpu"`, `"gpu"` or `"tpu"`.
        samples: the number of training samples.

    Returns:
        The program, where it is the same for all numbers of lanes.
    """
    by_host = platform in _SORTED_BY_HOST
    return [orders_request(platform, 1, samples)] if by_host else []


@dataclasses.dataclass(frozen=True, eq=False)
class Orders:
    """Draws the order of the data in each lane's epoch.

    Args:
        program: that of `orders_request`.
        platform: `"cpu"`, `"gpu"` or `"tpu"`.
        samples: the number of training samples.
    """

    program: Program
    platform: str
    samples: int

    def draw(
        self,
        keys: UInt32[Array, "lanes data"],
        epochs: Int32[np.ndarray, " lanes"],
        active: Bool[np.ndarray, " lanes"],
    ) -> Int32[Array, "lanes samples"] | Int32[np.ndarray, "lanes samples"]:
        """The orders.

        Args:
            keys: each lane's key for its data order, as data.
            epochs: the epochs that each has trained.
            active: which of them train; the others need no order.

        Returns:
            For each lane that trains each sample's index once.
        """
        if self.platform not in _SORTED_BY_HOST:
            return self.program(keys, epochs)
        own = np.asarray(keys)
        orders = np.zeros((len(epochs), self.samples), np.int32)
        for lane in np.flatnonzero(active):
            bits = self.program(own[lane], epochs[lane])
            orders[lane] = sorted_by(np.asarray(bits))
        return orders


def sorted_by(
    bits: UInt32[np.ndarray, "rounds samples"],
) -> Int32[np.ndarray, " samples"]:
    """The order that a stable sort by some numbers gives, then by others, and so on.

    Args:
        bits: the numbers of each sample in each round.
    """
    order = np.arange(bits.shape[1], dtype=np.int32)
    places = np.arange(bits.shape[1], dtype=np.uint64)
    for numbers in bits:
        # All differ in their lower half: any way to sort them is stable.
        pairs = numbers.astype(np.uint64) << np.uint64(32) | places
        pairs.sort()
        order = order[(pairs & np.uint64(2**32 - 1)).astype(np.int32)]
    return order
