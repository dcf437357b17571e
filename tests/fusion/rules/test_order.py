import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

from tests.fusion.narrow_in_wide import check_function, widening_of
from vtune.fusion.layout import Tail
from vtune.fusion.refusal import Refusal
from vtune.fusion.rules.contents import ANY, FINITE, ZERO


# Each compiles several programs.
pytestmark = pytest.mark.ci


SIZES = (3, 5, 17)

# Of an array of two axes, the second of which varies: what makes its entries lie at the
# front, behind padding (of the smallest), in several runs, and in blocks.
ARRANGEMENTS = {
    "front": lambda x: x,
    "end": lambda x: lax.concatenate(
        [lax.slice_in_dim(x, *ends, axis=1) for ends in ((3, x.shape[1]), (0, 3))], 1
    ),
    "runs": lambda x: jnp.concatenate([x, x[:, :2], -x], axis=1),
    "blocks": lambda x: jnp.concatenate([x[:, None], -x[:, None]], 1).reshape(4, -1),
}


def numbers(*shape, seed=0):
    return np.random.default_rng((seed, *shape)).normal(size=shape).astype(np.float32)


def hard(size):
    """Rows of NaN of both signs, infinities, ties, negative numbers, and only those."""
    x = -np.abs(numbers(4, size)) - 1
    x[0, ::2] = [np.inf, -np.inf, np.nan][size % 3]
    x[1, 1:] = -np.inf
    x[2] = -np.inf
    x[3, :2] = -np.float32(np.nan), np.nan
    return x


def hard_members(arrangement, function):
    """A function of arranged arrays, and the arrays."""

    def rearranged(x):
        return function(ARRANGEMENTS[arrangement](x))

    # Of two members one is at the end as a whole.
    sizes = SIZES[::2] if arrangement == "end" else SIZES
    return rearranged, *[(hard(n),) for n in sizes]


@pytest.mark.parametrize("arrangement", ARRANGEMENTS)
def test_sorted_entries_are_those_of_the_own_axis(arrangement):
    def function(x):
        numbered = lax.broadcasted_iota(jnp.uint32, x.shape, 1)
        return (
            jnp.sort(x, axis=1),
            jnp.argsort(x, axis=1, descending=True),
            # Of equal entries an unstable sort says nothing, so these all differ.
            jnp.argsort(numbered * 7919 % 101, axis=1, stable=False),
            lax.sort((jnp.floor(x), numbered % 2, numbered), 1, num_keys=2),
        )

    check_function(*hard_members(arrangement, function), exact=True)


def test_integers_and_truth_values_are_sorted():
    def function(x, b):
        numbered = jnp.arange(len(x))
        _, places = lax.sort((x, numbered), num_keys=1, is_stable=False)
        first = (jnp.sort(x), jnp.argsort(x), jnp.sort(b), jnp.argsort(b))
        # All of the lane's own, in whatever order equal ones have.
        return first, jnp.sort(places)

    def member(size):
        x = np.arange(size, dtype=np.int32) % 3
        x[::2] = np.iinfo(np.int32).max
        return x, x > 1

    check_function(function, *map(member, (3, 50, 96)), exact=True)


def test_complex_numbers_are_sorted():
    arguments = [(numbers(n) + 1j * numbers(n, seed=1),) for n in SIZES]
    arguments = [(np.append(x, np.array([np.nan], x.dtype)),) for (x,) in arguments]
    check_function(jnp.sort, *arguments, exact=True)


def test_sorted_entries_meet_unsorted_ones():
    def function(x):
        blocks = ARRANGEMENTS["blocks"](x)
        ordered = jnp.sort(blocks, axis=1)
        _, carried = lax.sort((-blocks, blocks), 1, num_keys=1)
        return (
            ordered - blocks,
            ordered[:, :2],
            carried - blocks,
            (carried**2).sum(axis=1),
        )

    check_function(function, *[(numbers(4, n),) for n in SIZES])


def test_sorted_entries_are_at_the_front():
    def function(x):
        return jnp.sort(ARRANGEMENTS["blocks"](x), axis=1)

    widening = widening_of(function, *[(numbers(4, n),) for n in SIZES])
    (train,) = widening.functions.train
    assert isinstance(train.body.results[-1].layouts[1], Tail)


@pytest.mark.parametrize("state", [ZERO, ANY])
def test_contents_are_permuted_and_keys_are_masked(state):
    def function(x):
        other = jnp.zeros_like(x)
        return jnp.sort(x, axis=0), *lax.sort((x, other), 1, num_keys=1)

    arguments = [(numbers(4, n),) for n in SIZES]
    widening = widening_of(function, *arguments, state=state)
    results = widening.functions.train[0].body.results[1:]
    assert [place.contents for place in results[:2]] == [state, ANY]
    assert results[2].contents in (ZERO, FINITE) or results[2].contents.is_zero
    assert [name for name, *_ in widening.masks] == ["sort"]


@pytest.mark.parametrize("arrangement", ["front", "end", "blocks"])
def test_the_largest_and_their_places(arrangement):
    def function(x):
        return (
            lax.top_k(x, 3)[0],
            lax.top_k(jnp.abs(x), 3),
            lax.top_k(jnp.where(jnp.isnan(x), 0, x), 3),
            lax.top_k(jnp.floor(jnp.nan_to_num(x)).astype(jnp.int32), 2),
            (jnp.argmax(x, axis=1), jnp.argmin(x, axis=1)),
            jnp.argmax(jnp.where(x < -2, -jnp.inf, -1), axis=1),
            jnp.argmin(x > -2, axis=1),
            jnp.argmax(x, axis=0),
        )

    check_function(*hard_members(arrangement, function), exact=True)


def test_a_negative_nan_comes_after_the_least_number_but_not_after_padding():
    x = np.full((1, 17), -np.float32(np.nan))
    x[0, 1] = 1
    arguments = [(x[:, :n],) for n in SIZES]

    def function(x):
        values, places = lax.top_k(x, 3)
        return values, places < x.shape[1]

    check_function(function, *arguments, exact=True)


@pytest.mark.parametrize(
    "arrangement, reverse",
    [("front", False), ("front", True), ("end", False), ("blocks", True)],
)
def test_cumulative_functions_pass_padding_by(arrangement, reverse):
    functions = [lax.cumsum, lax.cumprod, lax.cummax, lax.cummin, lax.cumlogsumexp]

    def function(x):
        x = ARRANGEMENTS[arrangement](x)
        return [f(x, 1, reverse=reverse) for f in functions]

    arguments = [(numbers(4, n) - 2,) for n in SIZES]
    widening = check_function(function, *arguments, tolerance=1e-5)
    masked = {name for name, *_ in widening.masks}
    assert masked >= {"cumprod", "cummax", "cummin", "cumlogsumexp"}


def test_cumulative_functions_of_nan_infinity_and_integers():
    def function(x):
        whole = (jnp.nan_to_num(x, posinf=3, neginf=-3) * 3).astype(jnp.int32)
        return (
            lax.cummax(x, 1),
            lax.cummin(x, 1, reverse=True),
            lax.cumlogsumexp(x, 1),
            lax.cummax(whole, 1, reverse=True),
            lax.cummin(whole, 1),
            lax.cumsum(whole, 1, reverse=True),
        )

    check_function(function, *[(hard(n),) for n in SIZES])


def test_along_another_axis_nothing_is_masked():
    def function(x):
        return lax.cumsum(x, 0), lax.cumprod(x, 0), lax.cummax(x, 0), jnp.sort(x, 0)

    widening = check_function(function, *[(numbers(4, n),) for n in SIZES])
    assert not widening.masks
    _, *results = widening.functions.train[0].body.results
    assert all(place.contents is ZERO and place.tame for place in results)


def test_a_sum_of_zero_padding_is_not_masked():
    arguments = [(numbers(4, n),) for n in SIZES]
    assert not widening_of(lambda x: lax.cumsum(x, 1), *arguments).masks


@pytest.mark.parametrize("arrangement", ["front", "blocks"])
def test_gradients_go_where_the_entries_came_from(arrangement):
    def loss(x, c):
        x = ARRANGEMENTS[arrangement](x)
        values, places = lax.top_k(x, 3)
        weights = 1 + lax.cumsum(jnp.ones_like(x), 1)
        return (
            (jnp.sort(x, axis=1) * weights).sum()
            + (values**2).sum()
            + (jnp.take_along_axis(x, places, axis=1) * c).sum()
            + (jnp.cumsum(x, axis=1) ** 2).sum()
            + (x[jnp.arange(4), jnp.argmin(x, axis=1)] ** 2).sum()
        )

    arguments = [(numbers(4, n), numbers(4, 3)) for n in SIZES]
    check_function(jax.value_and_grad(loss), *arguments)


def test_quantiles_of_a_padded_axis():
    def loss(x, q):
        return (jnp.median(x, axis=1) ** 2 + jnp.quantile(x, q, axis=1)).sum()

    arguments = [(numbers(4, n), np.float32(0.3)) for n in SIZES]
    check_function(jax.value_and_grad(loss), *arguments)
    check_function(jnp.median, *[(hard(n)[3],) for n in SIZES], exact=True)


def test_the_nearest_of_several_codes():
    def loss(codes, x):
        distances = ((x[:, None] - codes[None]) ** 2).sum(-1)
        nearest = jnp.argmin(distances, axis=1)
        chosen = codes[nearest]
        used = jnp.zeros(len(codes)).at[nearest].add(1.0)
        return ((x - chosen) ** 2).mean() + (used**2).sum() * codes.sum() * 1e-2

    arguments = [(numbers(n, m), numbers(9, m)) for n, m in zip(SIZES, (2, 4, 6))]
    check_function(jax.value_and_grad(loss, (0, 1)), *arguments)


def test_a_permutation_of_a_varying_number():
    def function(key, x):
        return jax.random.permutation(key, x), jax.random.permutation(key, len(x))

    arguments = [(jax.random.key(n), numbers(n)) for n in SIZES]
    check_function(function, *arguments, exact=True)


def test_a_varying_number_of_the_largest():
    def function(x):
        values, places = lax.top_k(x, x.shape[1] // 2)
        return values, places, values.sum(axis=1)

    check_function(function, *[(numbers(4, n),) for n in SIZES])


def test_an_approximation_of_the_largest_is_refused():
    arguments = [(numbers(4, n),) for n in SIZES]
    with pytest.raises(Refusal, match="approx_top_k"):
        widening_of(lambda x: lax.approx_max_k(x, 2), *arguments)
