"""What JAX is set to in one thread, to be the same in another."""

import contextlib
import dataclasses
from collections.abc import Iterator
from typing import Any

import jax


# What decides a program's equations, dtypes and device. Each name is that of a context
# manager, which JAX applies to the thread that enters it, and of no other.
_SETTINGS = (
    "default_device",
    "default_matmul_precision",
    "default_prng_impl",
    "enable_x64",
    "numpy_dtype_promotion",
    "threefry_partitionable",
)


@dataclasses.dataclass(frozen=True)
class Surroundings:
    """What JAX is set to in a thread.

    Args:
        values: the value of each setting; they can be hashed, and belong to what a
            program depends on beside its function and arguments.
    """

    values: tuple[Any, ...]

    @classmethod
    def here(cls) -> "Surroundings":
        """Those of the thread that asks."""
        return cls(tuple(getattr(jax.config, f"jax_{name}") for name in _SETTINGS))

    @contextlib.contextmanager
    def applied(self) -> Iterator[None]:
        """Has them in the thread that enters, whatever they were in it."""
        with contextlib.ExitStack() as stack:
            for name, value in zip(_SETTINGS, self.values):
                stack.enter_context(getattr(jax, name)(value))
            yield
