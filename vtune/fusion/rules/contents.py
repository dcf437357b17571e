"""What the padding of an array can hold."""

import dataclasses
import enum
from typing import Any

import numpy as np


@dataclasses.dataclass(frozen=True, slots=True, eq=False)
class Known:
    """Every padding entry is this one finite number; equal by dtype and bytes.

    Args:
        value: a scalar in the array's own dtype, finite.

    Raises:
        ValueError: if the value is no scalar, or not finite.
    """

    value: Any

    def __post_init__(self):
        if np.shape(self.value) != ():
            raise ValueError(f"`Known` takes a scalar, got {np.shape(self.value)}.")
        if not is_finite(self.value):
            raise ValueError(f"`Known` takes a finite number, got {self.value}.")

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Known) and self._bits == other._bits

    def __hash__(self) -> int:
        return hash(self._bits)

    @property
    def is_zero(self) -> bool:
        """Whether it is zero, of either sign."""
        return not np.asarray(self.value).any()

    @property
    def _bits(self) -> tuple[Any, bytes]:
        array = np.asarray(self.value)
        return array.dtype, array.tobytes()


class Unknown(enum.Enum):
    """Padding of no known value."""

    ZERO = "zero, of either sign"
    FINITE = "finite"
    ANY = "any"


ZERO, FINITE, ANY = Unknown.ZERO, Unknown.FINITE, Unknown.ANY

# None: the array has no padding.
Contents = Known | Unknown | None


def join(first: Contents, second: Contents) -> Contents:
    """What holds of padding that is one or the other.

    It only rises (from None over `Known`, `ZERO` and `FINITE` to `ANY`), so that
    repeating it over the carries of a loop comes to an end.

    Args:
        first: what the one can hold.
        second: what the other can hold.

    Returns:
        The least that both are.
    """
    if first is None or first == second:
        return second
    if second is None:
        return first
    if is_zero(first) and is_zero(second):
        return ZERO
    return ANY if ANY in (first, second) else FINITE


def is_zero(contents: Contents) -> bool:
    """Whether padding is proved to be zero, of either sign.

    Args:
        contents: what it can hold.

    Returns:
        False also where there is none.
    """
    return contents is ZERO or (isinstance(contents, Known) and contents.is_zero)


def is_finite(value: Any) -> bool:
    """Whether a value is one that cannot turn zero into NaN by a product.

    Args:
        value: a scalar or array of numbers or truth values, of any dtype.

    Returns:
        True if no entry is NaN or infinite.
    """
    array = np.asarray(value)
    if array.dtype == bool or np.issubdtype(array.dtype, np.integer):
        return True
    # NumPy knows no `isfinite` of some of the small floating-point dtypes.
    wide = np.complex128 if np.issubdtype(array.dtype, np.complexfloating) else float
    return bool(np.isfinite(array.astype(wide)).all())
