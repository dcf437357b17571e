"""Layouts against lists of what is live, entry by entry."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import assume, given, settings, strategies as st

from vtune.fusion.layout import (
    Concatenation,
    Layout,
    Product,
    Reversed,
    Tail,
    indexed,
    normal,
    vectors,
)
from vtune.fusion.placement import (
    embed,
    embed_lanes,
    extract,
    live,
    live_box,
    narrow_index,
    narrow_size,
    positions,
    same,
    to_wide_index,
)


MEMBERS = 3


def tail(*sizes: int) -> Tail:
    return Tail(None, sizes)


def fixed(size: int) -> Tail:
    return tail(*[size] * MEMBERS)


def alive(layout: Layout, member: int) -> list[bool]:
    """What is live in the wide axis, from the definitions alone."""
    if isinstance(layout, Tail):
        return [i < layout.sizes[member] for i in range(layout.sizes[-1])]
    if isinstance(layout, Reversed):
        return alive(layout.part, member)[::-1]
    parts = [alive(part, member) for part in layout.parts]
    if isinstance(layout, Product):
        return [all(entry) for entry in itertools.product(*parts)]
    return [entry for part in parts for entry in part]


def lane(layout: Layout, member: int) -> tuple[Layout, jax.Array]:
    """A layout that knows its places in a lane's sizes, and a member's sizes."""
    table = vectors([layout])
    sizes = [vector[member] for vector in table]
    places = {vector: place for place, vector in enumerate(table)}
    return indexed(layout, places), jnp.array([*sizes, 0], jnp.int32)


@st.composite
def tails(draw, least: int = 0) -> Tail:
    wide = draw(st.integers(least, 4))
    others = st.one_of(st.just(wide), st.integers(least, wide))
    return tail(*[draw(others) for _ in range(MEMBERS - 1)], wide)


def several(layouts: st.SearchStrategy) -> st.SearchStrategy:
    parts = st.lists(layouts, min_size=1, max_size=3).map(tuple)
    return st.one_of(
        parts.map(Product), parts.map(Concatenation), layouts.map(Reversed)
    )


def layouts_of(leaves: st.SearchStrategy) -> st.SearchStrategy:
    layouts = st.recursive(leaves, several, max_leaves=6)
    return layouts.filter(lambda layout: layout.wide <= 300)


LAYOUTS = layouts_of(tails())
MEMBER = st.integers(0, MEMBERS - 1)


@given(LAYOUTS)
def test_sizes_are_counts_of_live_entries(layout: Layout):
    counts = [sum(alive(layout, member)) for member in range(MEMBERS)]
    assert list(layout.sizes) == counts
    assert layout.wide == len(alive(layout, 0)) == counts[-1]
    assert layout.varies == (min(counts) < counts[-1])


@given(LAYOUTS, MEMBER)
def test_positions_are_those_of_the_live_entries(layout: Layout, member: int):
    assert (
        positions(layout, member).tolist()
        == np.nonzero(alive(layout, member))[0].tolist()
    )


@given(LAYOUTS, MEMBER)
def test_a_lane_computes_what_its_sizes_say(layout: Layout, member: int):
    layout, sizes = lane(layout, member)
    index = jnp.arange(layout.wide, dtype=jnp.int32)
    where = positions(layout, member)
    assert int(narrow_size(layout, sizes)) == len(where)
    assert live(layout, sizes, index).tolist() == alive(layout, member)
    numbers = narrow_index(layout, sizes, index)
    assert numbers.dtype == jnp.int32 and numbers.shape == index.shape
    assert numbers[where].tolist() == list(range(len(where)))
    back = to_wide_index(layout, sizes, jnp.arange(len(where), dtype=jnp.int32))
    assert back.tolist() == where.tolist()


@settings(max_examples=15)
@given(LAYOUTS)
def test_lanes_differ_in_their_sizes_only(layout: Layout):
    assume(layout.varies)
    wide, _ = lane(layout, 0)
    sizes = jnp.stack([lane(layout, member)[1] for member in range(MEMBERS)])
    index = jnp.arange(layout.wide, dtype=jnp.int32).reshape(1, -1)

    @jax.jit
    @jax.vmap
    def computed(sizes):
        return live(wide, sizes, index), narrow_index(wide, sizes, index)

    alives, numbers = computed(sizes)
    for member in range(MEMBERS):
        where = positions(layout, member)
        assert alives[member, 0].tolist() == alive(layout, member)
        assert numbers[member, 0][where].tolist() == list(range(len(where)))


def test_arithmetic_leaves_no_table_in_the_program():
    layout = Product((fixed(49), Concatenation((tail(3, 4, 8), tail(2, 7, 7)))))
    layout, sizes = lane(layout, 0)
    index = jnp.arange(layout.wide, dtype=jnp.int32)
    jaxpr = jax.make_jaxpr(lambda s, i: narrow_index(layout, s, i))(sizes, index)
    assert all(np.size(constant) == 1 for constant in jaxpr.consts)


@given(st.lists(LAYOUTS.filter(lambda x: x.wide <= 8), max_size=3), MEMBER, st.data())
def test_embedding(layouts: list[Layout], member: int, data):
    shape = [layout.sizes[member] for layout in layouts]
    array = np.arange(1, np.prod(shape) + 1).reshape(shape).astype(np.float32)
    wide = embed(array, layouts, member, fill=-1)
    box = np.ones(wide.shape, bool)
    for axis, layout in enumerate(layouts):
        along = [1] * len(layouts)
        along[axis] = -1
        box &= np.array(alive(layout, member), bool).reshape(along)
    assert wide.dtype == array.dtype
    assert wide[box].tolist() == array.ravel().tolist()
    assert (wide[~box] == -1).all()
    narrow = extract(wide, layouts, member)
    assert narrow.shape == array.shape and (narrow == array).all()


@given(
    st.lists(LAYOUTS.filter(lambda x: x.wide <= 8), max_size=3),
    st.lists(MEMBER, min_size=1, max_size=3),
    st.integers(0, 2),
)
def test_embedding_as_lanes(layouts: list[Layout], members: list[int], idle: int):
    shapes = [[layout.sizes[member] for layout in layouts] for member in members]
    arrays = [
        (np.arange(np.prod(shape)) + 100 * n + 1).reshape(shape).astype(np.float32)
        for n, shape in enumerate(shapes)
    ]
    found = embed_lanes(arrays, layouts, members, len(members) + idle)
    alone = [embed(a, layouts, member) for a, member in zip(arrays, members)]
    expected = np.stack([*alone, *[alone[0]] * idle])
    assert found.dtype == expected.dtype and (found == expected).all()


@given(st.lists(LAYOUTS.filter(lambda x: x.wide <= 8), max_size=3), MEMBER)
def test_live_box(layouts: list[Layout], member: int):
    table = vectors(layouts)
    places = {vector: place for place, vector in enumerate(table)}
    known = [indexed(layout, places) for layout in layouts]
    sizes = jnp.array([*[vector[member] for vector in table], 0], jnp.int32)
    shape = tuple(layout.wide for layout in layouts)
    box = live_box(known, sizes, shape)
    expected = embed(
        np.ones([layout.sizes[member] for layout in layouts], bool), layouts, member
    )
    if not any(layout.varies for layout in layouts):
        assert box is None and expected.all()
        return
    assert box is not None
    for axis, layout in enumerate(layouts):
        assert layout.varies or box.shape[axis] == 1
    assert (np.broadcast_to(box, shape) == expected).all()


@given(LAYOUTS)
def test_the_normal_form_is_the_same_layout(layout: Layout):
    form = normal(layout)
    assert form.sizes == layout.sizes
    for member in range(MEMBERS):
        assert positions(form, member).tolist() == positions(layout, member).tolist()
    assert same(form, layout)
    assert normal(form) == form


@given(LAYOUTS, LAYOUTS)
def test_same_is_equality_of_what_is_live(first: Layout, second: Layout):
    equal = all(alive(first, m) == alive(second, m) for m in range(MEMBERS))
    assert same(first, second) == equal
    assert equal or normal(first) != normal(second)


A, B, C = tail(3, 5, 7), tail(4, 2, 9), tail(1, 2, 2)


@pytest.mark.parametrize(
    "one, other",
    [
        (fixed(6), Product((fixed(2), fixed(3)))),
        (fixed(6), Concatenation((fixed(2), Reversed(fixed(4))))),
        (Product((A, fixed(4))), tail(12, 20, 28)),
        (Product((Reversed(A), fixed(4))), Reversed(tail(12, 20, 28))),
        (Product((fixed(1), A, fixed(1))), A),
        (Product((fixed(2), A)), Concatenation((A, A))),
        (Product((fixed(6), A)), Product((fixed(2), Product((fixed(3), A))))),
        (Product((Product((A, B)), C)), Product((A, Product((B, C))))),
        (Product((A, fixed(3), B)), Product((tail(9, 15, 21), B))),
        (Concatenation((fixed(3), A)), tail(6, 8, 10)),
        (
            Concatenation((fixed(3), Concatenation((A, B)))),
            Concatenation((tail(6, 8, 10), B)),
        ),
        (Concatenation((Reversed(A), fixed(2))), Reversed(tail(5, 7, 9))),
        (Reversed(Reversed(A)), A),
        (Reversed(Concatenation((A, B))), Concatenation((Reversed(B), Reversed(A)))),
        (Reversed(Product((A, B))), Product((Reversed(A), Reversed(B)))),
        (
            Concatenation((A, B, A, B)),
            Product((fixed(2), Concatenation((A, B)))),
        ),
        (
            Concatenation((fixed(1), A, fixed(3), A, fixed(2))),
            Product((fixed(2), Concatenation((fixed(1), A, fixed(2))))),
        ),
        (
            Concatenation((Product((fixed(2), A)), A, B)),
            Concatenation((Product((fixed(3), A)), B)),
        ),
        (
            Concatenation((A, Product((B, A)))),
            Product((tail(5, 3, 10), A)),
        ),
        (
            Product((Concatenation((A, B)), fixed(2))),
            Concatenation((tail(6, 10, 14), tail(8, 4, 18))),
        ),
    ],
)  # fmt: skip
def test_readings_of_one_axis_have_one_form(one: Layout, other: Layout):
    assert normal(one) == normal(other)
    assert hash(normal(one)) == hash(normal(other))


@st.composite
def rewritten(draw, layout: Layout) -> Layout:
    """The same layout, written in another way."""
    if isinstance(layout, Reversed):
        layout = Reversed(draw(rewritten(layout.part)))
    elif not isinstance(layout, Tail):
        parts = [draw(rewritten(part)) for part in layout.parts]
        layout = type(layout)(tuple(parts))
        cut = draw(st.integers(0, len(parts)))
        if 0 < cut < len(parts) and draw(st.booleans()):
            halves = (
                type(layout)(layout.parts[:cut]),
                type(layout)(layout.parts[cut:]),
            )
            layout = type(layout)(halves)
        first = layout.parts[0]
        if isinstance(layout, Product) and not first.varies and first.wide:
            rest = Product((fixed(1), *layout.parts[1:]))
            if draw(st.booleans()):
                layout = Concatenation((rest,) * first.wide)
    elif not layout.varies and layout.wide:
        cut = draw(st.integers(0, layout.wide))
        layout = Concatenation((fixed(cut), fixed(layout.wide - cut)))
    return draw(
        st.sampled_from(
            [
                layout,
                Reversed(Reversed(layout)),
                Product((fixed(1), layout)),
                Concatenation((layout, fixed(0))),
            ]
        )
    )


@settings(max_examples=200)
@given(st.data(), layouts_of(tails(least=1)))
def test_another_way_of_writing_has_the_same_form(data, layout: Layout):
    assert normal(data.draw(rewritten(layout))) == normal(layout)


@pytest.mark.parametrize(
    "one, other",
    [
        (A, Reversed(A)),
        (Product((A, fixed(4))), Product((fixed(4), A))),
        (Product((A, B)), Product((B, A))),
        (Concatenation((A, B)), Concatenation((B, A))),
        (Concatenation((A, fixed(3))), Concatenation((fixed(3), A))),
        (A, tail(3, 4, 7)),
    ],
)
def test_other_layouts_have_other_forms(one: Layout, other: Layout):
    assert normal(one) != normal(other)
    assert not same(one, other)


def test_what_happens_to_fit_is_the_same():
    rows, columns = tail(1, 1, 3), tail(2, 3, 4)
    assert same(Product((rows, columns)), tail(2, 3, 12))


def test_blocks_stay_blocks():
    assert normal(Product((fixed(49), A))) == Product((fixed(49), A))
    assert normal(Product((A, B))) == Product((A, B))


def test_a_lane_needs_to_know_where_its_sizes_stand():
    with pytest.raises(ValueError, match="indexed"):
        narrow_size(A, jnp.array([3], jnp.int32))


@pytest.mark.parametrize("sizes", [(3, 2), (-1, 2)])
def test_members_fit_into_the_envelope(sizes: tuple[int, ...]):
    with pytest.raises(ValueError, match="envelope"):
        Tail(None, sizes)


def test_arrays_have_the_shape_of_their_layouts():
    with pytest.raises(ValueError, match=r"\(3,\), got \(4,\)"):
        embed(np.zeros(4), [A], 0)
    with pytest.raises(ValueError, match=r"\(7,\), got \(4,\)"):
        extract(np.zeros(4), [A], 0)


def test_a_large_flatten_is_quick():
    channels = [tail(*[8 * n for n in range(1, 17)]) for _ in range(2)]
    blocks = Product((Tail(None, (3136,) * 16), Concatenation(tuple(channels))))
    assert normal(normal(blocks)) == normal(blocks)
    assert same(blocks, Product((Tail(None, (3136,) * 16), normal(blocks.parts[1]))))
