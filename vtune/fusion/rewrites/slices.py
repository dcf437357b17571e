"""How is a convolution computed from shifted slices?

One entry of the kernel meets, in all places where the kernel lies, a slice of what is
convolved; in the gradient of a kernel, which has few places and many entries, one place
meets such a slice with the whole kernel. Axes have names here: arrays stay in their own
order of axes, which costs no copies.
"""

import functools
import itertools
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp

from vtune.fusion.arrays import summing
from vtune.fusion.rewrites.convolution import Convolution
from vtune.fusion.rewrites.named import (
    Named,
    at,
    merged,
    product,
    split,
    unrolled,
    weighed,
)
from vtune.fusion.rewrites.sliding import bordered, entries


# - "patches": one matrix product with all slices side by side;
# - "planes": the same with all slices behind one another;
# - "products": the sum of a matrix product for each slice;
# - "scattered": one matrix product with the whole kernel, whose parts are shifted and
#   added;
# - "weighed": the sum of slices times numbers, without matrix products;
# - "unrolled": the same with long sums written out.
SliceForm = Literal["patches", "planes", "products", "scattered", "weighed", "unrolled"]

_GROUP, _SAMPLE, _CHANNEL, _FEATURE = "group", "sample", "channel", "feature"

# The product of two arrays over all names that both have but some.
_Multiply = Callable[[Named, Named, Sequence[str]], Named]


def sliced(
    form: SliceForm,
    params: Mapping[str, Any],
    found: Convolution,
    left: jax.Array,
    right: jax.Array,
) -> jax.Array:
    """A convolution from shifted slices.

    Args:
        form: the form.
        params: the parameters of an equation `conv_general_dilated`.
        found: what it computes.
        left: its first operand.
        right: its second operand, the kernel.

    Returns:
        What the equation computes, up to rounding.
    """
    numbers = params["dimension_numbers"]
    dtype = params["preferred_element_type"] or left.dtype
    multiply = _multiplication(form, params["precision"], summing(dtype))
    spatial = range(len(found.slides))
    windows, places = list(map(_window, spatial)), list(map(_place, spatial))
    kernel = _named(right, numbers.rhs_spec, [_FEATURE, _CHANNEL, *windows])
    kernel = _kernel_in_groups(found, kernel)
    if form == "scattered":
        whole = _named(left, numbers.lhs_spec, [_SAMPLE, _CHANNEL, *places])
        result = _scattered(found, multiply(whole, kernel, ()))
    else:
        spec = numbers.lhs_spec
        if form == "planes":
            left, spec = _in_front(left, spec, spec[0 if found.has_few_places else 1])
        cuts = _cuts(found, left, spec)
        if form in ("patches", "planes"):
            cuts = [_Cut({}, _patches(found, cuts))]
        result = _summed(found, cuts, kernel, multiply)
    names = [[_SAMPLE], [_GROUP, _FEATURE], *([place] for place in places)]
    order = sorted(zip(numbers.out_spec, names, strict=True))
    return merged(result, [each for _, each in order]).astype(dtype)


class _Cut(NamedTuple):
    """A slice of what is convolved.

    Args:
        position: which entry of the kernel or which place it belongs to.
        slice: the slice, in its own order of axes.
    """

    position: Mapping[str, int]
    slice: Named


def _window(axis: int) -> str:
    return f"window {axis}"


def _place(axis: int) -> str:
    return f"place {axis}"


def _looped(found: Convolution) -> list[str]:
    """The axes over which slices are taken: the shorter ones."""
    over = enumerate(found.over_places)
    return [_place(axis) if places else _window(axis) for axis, places in over]


def _named(array: jax.Array, spec: Sequence[int], names: Sequence[str]) -> Named:
    """An array whose axes have names, given in the order of an equation's axes."""
    order = sorted(zip(spec, names, strict=True))
    return Named(array, tuple([name for _, name in order]))


def _in_front(
    array: jax.Array, spec: Sequence[int], axis: int
) -> tuple[jax.Array, tuple[int, ...]]:
    """An array with an axis in front of the others, and where all of them are now."""
    order = [axis, *(other for other in range(array.ndim) if other != axis)]
    return jax.lax.transpose(array, order), tuple([order.index(each) for each in spec])


def _multiplication(form: SliceForm, precision: Any, dtype: Any) -> _Multiply:
    if form == "weighed":
        return functools.partial(weighed, dtype=dtype)
    if form == "unrolled":
        return functools.partial(unrolled, dtype=dtype)
    return functools.partial(product, precision=precision, preferred_element_type=dtype)


def _kernel_in_groups(found: Convolution, kernel: Named) -> Named:
    if found.groups == 1:
        return kernel
    if found.is_depthwise and found.grouped == _CHANNEL:
        kernel = at(kernel, _CHANNEL, 0)
    return split(kernel, _FEATURE, _GROUP, found.groups)


def _cuts(found: Convolution, left: jax.Array, spec: Sequence[int]) -> list[_Cut]:
    """All shifted slices."""
    axes = spec[2:]
    slides = dict(zip(axes, found.slides, strict=True))
    left = bordered(left, slides, 0)
    names = [_SAMPLE, _CHANNEL]
    for number, (axis, over) in enumerate(zip(axes, found.over_places, strict=True)):
        names.append(_window(number) if over else _place(number))
        if over:
            slides[axis] = slides[axis].turned
    counts = [range(slides[axis].window) for axis in axes]
    return [
        _Cut(
            dict(zip(_looped(found), numbers, strict=True)),
            _named(entries(left, slides, dict(zip(axes, numbers))), spec, names),
        )
        for numbers in itertools.product(*counts)
    ]


def _patches(found: Convolution, cuts: Sequence[_Cut]) -> Named:
    """All slices side by side, along the axis summed over or kept with them."""
    arrays, names = [cut.slice.array for cut in cuts], cuts[0].slice.names
    beside = _SAMPLE if found.has_few_places else _CHANNEL
    axis = names.index(beside)
    counts = [min(slide.window, slide.places) for slide in found.slides]
    shape = arrays[0].shape
    array = jnp.stack(arrays, axis).reshape((*shape[:axis], *counts, *shape[axis:]))
    return Named(array, (*names[:axis], *_looped(found), *names[axis:]))


def _summed(
    found: Convolution, cuts: Sequence[_Cut], kernel: Named, multiply: _Multiply
) -> Named:
    """The sum over the kernel's entries, all places side by side."""
    sums: dict[tuple[int, ...], Named] = {}
    looped = [name for name in _looped(found) if name not in kernel.names]
    for position, piece in cuts:
        if found.groups > 1:
            piece = split(piece, found.grouped, _GROUP, found.groups)
        part = multiply(piece, _fixed(kernel, position), (_GROUP,))
        place = tuple([position[name] for name in looped if name in position])
        if place in sums:
            part = Named(sums[place].array + part.array, part.names)
        sums[place] = part
    parts = list(sums.values())
    if set(looped) <= set(parts[0].names):
        return parts[0]
    slides = zip(found.slides, found.over_places, strict=True)
    counts = [slide.places for slide, over in slides if over]
    array = jnp.stack([part.array for part in parts])
    array = array.reshape((*counts, *parts[0].array.shape))
    return Named(array, (*looped, *parts[0].names))


def _fixed(value: Named, position: Mapping[str, int]) -> Named:
    """What is left where some axes have one entry."""
    for name, number in position.items():
        if name in value.names:
            value = at(value, name, number)
    return value


def _scattered(found: Convolution, every: Named) -> Named:
    """The sum of what each entry of the kernel gives, each shifted to its place."""
    parts = []
    counts = [range(slide.window) for slide in found.slides]
    for numbers in itertools.product(*counts):
        position = {_window(axis): number for axis, number in enumerate(numbers)}
        part = _fixed(every, position)
        borders = [(0, 0, 0)] * part.array.ndim
        for axis, (slide, number) in enumerate(zip(found.slides, numbers)):
            low = slide.low - number * slide.spread
            high = slide.places - low - slide.holed
            borders[part.names.index(_place(axis))] = (low, high, slide.hole - 1)
        zero = jnp.zeros((), part.array.dtype)
        parts.append(Named(jax.lax.pad(part.array, zero, borders), part.names))
    total = functools.reduce(jnp.add, [part.array for part in parts])
    return Named(total, parts[0].names)
