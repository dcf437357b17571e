import pytest

from vtune.fusion.refusal import Refusal
from vtune.fusion.rules.nodes import Definition, Nodes


def added(nodes, *sizes):
    return [nodes.add(s if isinstance(s, tuple) else (s, s, s)) for s in sizes]


CHANNELS = (3, 4, 8)


def test_what_is_declared_one_is_one_through_others():
    nodes = Nodes()
    a, b, c, d = added(nodes, CHANNELS, CHANNELS, CHANNELS, CHANNELS)
    nodes.same(a, b)
    nodes.same(c, b)
    assert nodes.find(a) == nodes.find(c) != nodes.find(d)
    assert nodes.varies(a) and not nodes.varies(nodes.add((2, 2, 2)))


def test_axes_of_different_sizes_are_not_one():
    nodes = Nodes()
    a, b = added(nodes, (3, 8), (4, 8))
    with pytest.raises(Refusal, match="would have to be one"):
        nodes.same(a, b)


def test_a_flatten_makes_a_product():
    nodes = Nodes()
    batch, height, width, channels = added(nodes, 32, 7, 7, CHANNELS)
    rows, flat = added(nodes, 32, (147, 196, 392))
    nodes.reshape([batch, height, width, channels], [rows, flat])
    assert nodes.find(rows) == nodes.find(batch)
    assert nodes.definitions.get(flat) == (
        Definition("product", (height, width, channels)),
    )


def test_groups_are_a_product_of_the_channels_also_backwards():
    nodes = Nodes()
    one, channels, groups, size = added(nodes, 1, (6, 8, 16), 2, CHANNELS)
    nodes.reshape([one, channels], [groups, one, size])
    assert nodes.definitions.get(channels) == (Definition("product", (groups, size)),)


def test_a_factor_of_some_members_only_is_no_factor():
    nodes = Nodes()
    # 4 x 6 and 6 x 4 come apart for no member, 4 x 4 into 4 x 4 for one of them.
    a, b = added(nodes, (4, 4), (6, 4))
    c, d = added(nodes, (6, 4), (4, 4))
    nodes.reshape([a, b], [c, d])
    assert len({nodes.find(n) for n in (a, b, c, d)}) == 4
    (whole,) = set(range(5)) - {a, b, c, d}
    assert nodes.sizes(whole) == (24, 16)
    assert nodes.definitions.get(whole) == (
        Definition("product", (a, b)),
        Definition("product", (c, d)),
    )


def test_definitions_follow_the_axes_that_become_one():
    nodes = Nodes()
    whole, other, part, same_part = added(nodes, (6, 8), (6, 8), (3, 4), (3, 4))
    nodes.define(whole, Definition("concatenation", (part, part)))
    nodes.define(other, Definition("concatenation", (same_part, same_part)))
    nodes.same(whole, other)
    assert len(nodes.definitions[nodes.find(whole)]) == 2
    nodes.same(part, same_part)
    assert len(nodes.definitions[nodes.find(other)]) == 1


@pytest.mark.parametrize("before, after", [((0,), (0,)), ((4,), (5,))])
def test_what_cannot_be_a_reshape_is_refused(before, after):
    nodes = Nodes()
    with pytest.raises(Refusal):
        nodes.reshape(added(nodes, *before), added(nodes, *after))
