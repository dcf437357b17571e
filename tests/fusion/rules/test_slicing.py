import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

from tests.fusion.narrow_in_wide import check_function
from vtune.fusion.layout import Concatenation, Tail, normal
from vtune.fusion.refusal import Refusal
from vtune.fusion.rules.nodes import Nodes
from vtune.fusion.rules.slicing import _fit, _Move, _relate


# Each compiles several programs.
pytestmark = pytest.mark.ci


GENERATOR = np.random.default_rng(0)
WIDTHS = (3, 5, 8)


def normals(*shape):
    return GENERATOR.normal(size=shape).astype(np.float32)


def rows(*widths):
    return [(normals(4, width),) for width in widths]


def with_gradient(function):
    """A function's results, and the gradient of a sum over them of no symmetry."""

    def loss(*arguments):
        leaves = jax.tree.leaves(function(*arguments))
        weights = [jnp.cos(jnp.arange(leaf.size, dtype=jnp.float32)) for leaf in leaves]
        terms = [(a**2 * w.reshape(a.shape)).sum() for a, w in zip(leaves, weights)]
        return sum(terms)

    def both(*arguments):
        numbers = tuple(range(len(arguments)))
        return function(*arguments), jax.grad(loss, numbers)(*arguments)

    return both


def masked(widening):
    return [(name, neutral) for name, _, neutral in widening.masks]


# Slices.

PARTS = {
    "at the ends": lambda x: (x[:, :1], x[:, 1:], x[:, -1:], x[:, -2:], x[:, :-2]),
    "all but the ends": lambda x: x[:, 1:-1],
    "one entry": lambda x: (x[:, 0], x[:, 1], x[:, -1]),
    "differences": lambda x: jnp.diff(x, axis=1),
    "every other": lambda x: (x[:, ::2], x[:, 1::2], lax.slice(x, (0, 0), (3, 3))),
    "roll": lambda x: (jnp.roll(x, 1, 1), jnp.roll(x, -2, 1)),
    "roll and add": lambda x: x + 2 * jnp.roll(x, 1, 1),
    "roll back and add": lambda x: x + 2 * jnp.roll(x, -1, 1),
    "backwards": lambda x: (x[:, ::-1], x[::-1, ::-1] + 2 * x),
    "next to last": lambda x: x[:, -2],
}


@pytest.mark.parametrize("function", PARTS.values(), ids=PARTS)
def test_parts_of_an_axis(function):
    check_function(with_gradient(function), *rows(*WIDTHS))


def test_parts_are_found_in_rows_and_columns_at_once():
    def function(x):
        shifted = jnp.pad(x, ((1, 0), (0, 1)))[:-1, 1:]
        rolled = jnp.roll(x, (1, 2), (0, 1))
        return x[1:, :-1], x[-1:, -1:], shifted + x, x[::-1, ::-1] + x, rolled * x

    shapes = ((3, 4), (5, 3), (7, 8))
    check_function(with_gradient(function), *[(normals(*shape),) for shape in shapes])


def test_halves_are_pieces_without_a_gather():
    def gated(x, weights):
        x = x @ weights
        half = x.shape[1] // 2
        return x[:, :half] * jax.nn.sigmoid(x[:, half:])

    members = [(normals(4, 3), normals(3, 2 * half)) for half in (2, 3, 5)]
    widening = check_function(with_gradient(gated), *members)
    places = [p for p in widening.functions.train[0].body.equations]
    assert {"slice", "pad"} <= {p.equation.primitive.name for p in places}
    pieces = widening.state[1][1]
    assert [n for n in pieces.sizes] == [4, 6, 10] and not isinstance(pieces, Tail)
    assert all(
        p.step.results[0].contents is not None and not p.masks[0]
        for p in places
        if p.equation.primitive.name == "slice"
    )


def test_thirds_are_pieces_and_can_be_rolled():
    def thirds(x):
        n = x.shape[1] // 3
        query, key, value = x[:, :n], x[:, n : 2 * n], x[:, 2 * n :]
        return query * key + value, jnp.concatenate([-key, query], 1)

    check_function(with_gradient(thirds), *rows(3, 6, 12))


def test_parts_of_a_flattened_axis():
    def function(x):
        x = x.reshape(4, -1)
        stepped = lax.pad(x, np.float32(0.5), ((0, 0, 0), (1, -1, 1)))
        return x[:, -2:], x[:, ::2], stepped, x[:, 1:] - x[:, :-1]

    def without_gradient(x):
        x = x.reshape(4, -1)
        shifted = lax.pad(x, np.float32(0), ((0, 0, 0), (-1, 1, 0)))
        return x[:, ::-1] + x, jnp.roll(x, 2, 1), shifted * x

    members = [(normals(4, *shape),) for shape in ((2, 3), (3, 2), (4, 5))]
    check_function(with_gradient(function), *members)
    check_function(without_gradient, *members)


def test_parts_of_what_was_put_together():
    def put_together(x, y):
        return jnp.concatenate([x, y, x, jnp.ones((4, 2), x.dtype)], 1)

    def parts(x, y):
        both = put_together(x, y)
        first, second = x.shape[1], x.shape[1] + y.shape[1]
        return both[:, first:second] * y, both[:, second:-2] * x

    def mixed(x, y):
        both = put_together(x, y)
        backwards = both[:, ::-1] + both
        return both[:, -3:], jnp.diff(both, axis=1), backwards

    members = [(normals(4, n), normals(4, m)) for n, m in ((3, 2), (2, 5), (6, 7))]
    check_function(parts, *members)
    check_function(with_gradient(mixed), *members)


def test_gradients_of_some_of_what_was_put_together():
    def function(x, fixed, y):
        return jnp.concatenate([x, fixed, y, fixed], 1)

    def gradient(x, fixed, y):
        def loss(x, y):
            return (jnp.sin(function(x, fixed, y)) ** 2).sum()

        return jax.grad(loss, (0, 1))(x, y)

    members = [(normals(4, n), normals(4, 2), normals(4, n + 1)) for n in WIDTHS]
    check_function(gradient, *members)


def test_the_first_and_last_entries_of_a_fixed_axis():
    def function(x, y):
        count = x.shape[1]
        return y[:, :count] * x, y[:, -count:] + x

    members = [(normals(4, width), normals(4, 9)) for width in WIDTHS]
    check_function(with_gradient(function), *members)


def test_a_part_can_be_empty_in_some_members():
    check_function(lambda x: (x[:, 3:], x[:, :-3], x[:, 1:-2]), *rows(*WIDTHS))


@pytest.mark.parametrize("kind", [np.int32, bool])
def test_parts_of_other_dtypes(kind):
    def function(x):
        padded = jnp.pad(x, ((0, 0), (1, 2)), constant_values=kind(1))
        return x[:, -1:], padded, x[:, ::-1] | x, jnp.roll(x, 1, 1)

    members = [(GENERATOR.integers(0, 2, (4, n)).astype(kind),) for n in WIDTHS]
    check_function(function, *members, exact=True)


def test_live_infinities_and_nans_stay_where_they_are():
    members = rows(*WIDTHS)
    for (x,) in members:
        x[0, -1], x[1, 0], x[2, 1] = np.nan, np.inf, -np.inf

    def function(x):
        shifted = jnp.pad(x[:, 1:], ((0, 0), (0, 1)))
        return x[:, -1:], x[:, ::-1], jnp.roll(x, 1, 1), shifted

    check_function(function, *members, exact=True)


# Pads.

BORDERS = {
    "both sides": lambda x: jnp.pad(x, ((0, 0), (1, 2))),
    "infinite": lambda x: jnp.maximum(
        jnp.pad(x, ((0, 0), (0, 2)), constant_values=-jnp.inf), -1
    ),
    "negative": lambda x: lax.pad(x, np.float32(1.5), ((0, 0, 0), (-1, 3, 0))),
    "shift": lambda x: lax.pad(x, np.float32(2), ((0, 0, 0), (-1, 1, 0))) + x,
    "interior": lambda x: lax.pad(x, np.float32(1.5), ((0, 0, 1), (2, 4, 2))),
    "computed": lambda x: lax.pad(x, x[0, 0], ((0, 0, 0), (2, 3, 0))),
    "causal": lambda x: x + 3 * jnp.pad(x, ((0, 0), (1, 0)))[:, :-1],
    "anticausal": lambda x: x + 3 * jnp.pad(x, ((0, 0), (0, 1)))[:, 1:],
    "edge": lambda x: jnp.pad(x, ((1, 1), (1, 2)), mode="edge"),
    "wrap": lambda x: jnp.pad(x, ((0, 0), (2, 2)), mode="wrap"),
}


@pytest.mark.parametrize("function", BORDERS.values(), ids=BORDERS)
def test_borders(function):
    check_function(with_gradient(function), *rows(*WIDTHS))


@pytest.mark.parametrize("multiple, widths", [(4, (3, 5, 9)), (8, WIDTHS)])
def test_borders_up_to_a_multiple(multiple, widths):
    def function(x):
        missing = -x.shape[1] % multiple
        return lax.pad(x, np.float32(2), ((0, 0, 0), (0, missing, 0)))

    check_function(with_gradient(function), *rows(*widths))


def test_only_padding_that_becomes_a_border_is_masked():
    def pad(low, high, x):
        return lax.pad(x, np.float32(0), ((0, 0, 0), (low, high, 0)))

    assert not masked(check_function(lambda x: pad(2, 0, x), *rows(3, 8)))
    behind = check_function(lambda x: x + pad(0, 1, x[:, 1:]), *rows(3, 8))
    assert masked(behind) == [("pad", "0.0")]


def test_a_border_between_pieces_needs_no_mask():
    def function(x, y):
        whole = jnp.concatenate([x, y], 1)
        return whole * jnp.pad(x, ((0, 0), (0, y.shape[1])))

    members = [(normals(4, n), normals(4, m)) for n, m in ((3, 2), (2, 5), (6, 7))]
    assert not masked(check_function(with_gradient(function), *members))


# Axes.


def related(before, after, lows, stepped=False):
    nodes = Nodes()
    source, target = nodes.add(before), nodes.add(after)
    _relate(nodes, source, target, lows, stepped)
    return nodes, source, target


def test_pieces_are_cut_and_other_parts_are_not():
    nodes, whole, part = related((4, 6, 10), (2, 3, 5), (-2, -3, -5))
    assert nodes.cuts == {whole: [((2, 3, 5), part)]}
    nodes, part, whole = related((2, 3, 5), (4, 6, 10), (2, 3, 5))
    assert nodes.cuts == {whole: [((2, 3, 5), part)]}
    for after, low in (((3, 5, 9), -1), ((3, 5, 9), 0), ((2, 2, 2), 0)):
        nodes, *_ = related((4, 6, 10), after, (low,) * 3)
        assert not nodes.cuts and not nodes.definitions


def test_a_whole_axis_stays_one():
    nodes, source, target = related(WIDTHS, WIDTHS, (0, 0, 0))
    assert nodes.find(source) == nodes.find(target)


@pytest.mark.parametrize(
    "before, after, starts, stepped",
    [
        ((9, 9, 9), (2, 2, 2), (3, 5, 7), False),
        ((9, 9, 9), (3, 5, 6), (2, 2, 2), False),
        ((3, 5, 8), (2, 2, 4), (0, 1, 0), True),
        ((3, 5, 8), (2, 4, 7), (0, 1, 1), False),
    ],
)
def test_parts_that_begin_differently_are_refused(before, after, starts, stepped):
    with pytest.raises(Refusal):
        related(before, after, tuple(-s for s in starts), stepped)


# What the envelope's equation does by itself.


def test_the_envelope_s_equation_does_not_fit_by_accident():
    # With one entry each, the last entries of the members lie in the first place.
    pieces = Concatenation((Tail(0, (1, 1, 4)), Tail(1, (0, 0, 4))))
    last = _Move(normal(pieces), Tail(None, (1, 1, 1)), 0, 1, 1, False)
    assert _fit(last).plain
    ends = _Move(Tail(0, (1, 3, 8)), Tail(None, (1, 1, 1)), -7, 1, 1, False)
    assert not _fit(ends).plain
    one = Tail(0, (8, 8, 8))
    assert _fit(_Move(one, one, 0, 1, 1, False)).plain
