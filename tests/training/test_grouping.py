"""Which widths share an envelope, as laws of the costs."""

import dataclasses
import math

import numpy as np
from hypothesis import given, strategies as st

from vtune.fusion.work import Terms
from vtune.training.device import DEVICE_RULES, DeviceRule, capacity
from vtune.training.grouping import group


RULES = st.sampled_from(sorted(DEVICE_RULES)).map(DEVICE_RULES.__getitem__)
STEPS = st.sampled_from([1.0, 100.0, 1e4, 1e6])
NUMBERS = st.integers(1, 600)


def multilayer(first, second, batch=32):
    """The terms of a network with two hidden layers."""
    layers = ((784, first), (first, second), (second, 10))
    products = tuple((batch, b, a) for a, b in layers) * 2
    return Terms(products, layers)


MEMBERS = st.lists(
    st.tuples(st.builds(multilayer, NUMBERS, NUMBERS), st.integers(1, 40)),
    min_size=1,
    max_size=12,
    unique_by=lambda member: member[0],
)


def cost(members, groups, rule, steps):
    """The seconds that a division is expected to take, as `group` documents them."""
    total = 0.0
    for indices in groups:
        terms = [members[index][0] for index in indices]
        trials = sum(members[index][1] for index in indices)
        lane = volume([t.multiplied for t in terms]) / rule.multiplying
        lane += volume([t.kept for t in terms]) / rule.moving
        programs = math.ceil(trials / rule.most)
        total += rule.compiling
        total += steps * (rule.starting * programs + trials * lane)
    return total


def volume(members):
    """What an envelope of several members computes: of every size the largest."""
    return sum(
        math.prod(map(max, zip(*factors))) for factors in zip(*members, strict=True)
    )


def contents(members, groups):
    return {frozenset(members[index] for index in indices) for indices in groups}


@given(RULES, st.floats(0, 1e12), st.integers(0, 10**12), st.integers(0, 10**12))
def test_so_many_trials_train_at_a_time_as_have_room(rule, memory, state, larger):
    several = capacity(rule, memory, state)
    assert rule.most <= several <= rule.running
    if several > rule.most:
        assert several * state <= memory
    if 0 < state <= larger:
        assert capacity(rule, memory, larger) <= several


@given(MEMBERS, RULES, STEPS)
def test_every_width_is_in_exactly_one_group(members, rule, steps):
    groups = group(members, rule, steps)
    assert sorted(index for indices in groups for index in indices) == list(
        range(len(members))
    )
    assert all(groups) and groups == sorted(map(sorted, groups))


@given(MEMBERS, RULES)
def test_where_programs_cost_nothing_every_width_has_its_own(members, rule):
    free = dataclasses.replace(rule, compiling=0.0, starting=0.0)
    assert group(members, free, 100.0) == [[i] for i in range(len(members))]


@given(MEMBERS, RULES, STEPS)
def test_where_compiling_costs_too_much_all_share_one(members, rule, steps):
    slow = dataclasses.replace(rule, compiling=1e15)
    assert group(members, slow, steps) == [list(range(len(members)))]


@given(MEMBERS, RULES, STEPS)
def test_a_division_is_no_dearer_than_the_plain_ones(members, rule, steps):
    found = cost(members, group(members, rule, steps), rule, steps)
    everything = [list(range(len(members)))]
    singletons = [[index] for index in range(len(members))]
    for plain in (everything, singletons):
        assert found <= cost(members, plain, rule, steps) * (1 + 1e-9)


@given(st.lists(st.tuples(NUMBERS, st.integers(1, 40)), min_size=1, max_size=7), RULES)
def test_of_widths_in_a_row_the_division_is_the_best(widths, rule):
    # With one width each, runs of the order by work are the only sensible groups.
    rule = dataclasses.replace(rule, compiling=0.05)
    members = [
        (multilayer(width, width), count) for width, count in dict(widths).items()
    ]
    found = cost(members, group(members, rule, 1000.0), rule, 1000.0)
    order = sorted(range(len(members)), key=lambda i: members[i][0].kept)
    for cuts in range(2 ** (len(members) - 1)):
        ends = [k + 1 for k in range(len(members) - 1) if cuts >> k & 1]
        starts = [0, *ends]
        runs = [order[a:b] for a, b in zip(starts, [*ends, len(members)])]
        assert found <= cost(members, runs, rule, 1000.0) * (1 + 1e-9)


@given(MEMBERS, RULES, STEPS, st.randoms(use_true_random=False))
def test_the_order_of_the_widths_does_not_matter(members, rule, steps, random):
    mixed = list(members)
    random.shuffle(mixed)
    found = contents(members, group(members, rule, steps))
    again = contents(mixed, group(mixed, rule, steps))
    if found != again:
        # Of two divisions that cost the same, either is right.
        one = cost(members, group(members, rule, steps), rule, steps)
        other = cost(mixed, group(mixed, rule, steps), rule, steps)
        np.testing.assert_allclose(one, other, rtol=1e-9)


@given(MEMBERS, STEPS)
def test_more_expensive_compiling_never_makes_more_programs(members, steps):
    rule = DEVICE_RULES["cpu"]
    counts = [
        len(group(members, dataclasses.replace(rule, compiling=seconds), steps))
        for seconds in (0.01, 1.0, 100.0)
    ]
    assert counts == sorted(counts, reverse=True)


def test_a_graphics_processor_shares_what_a_processor_keeps_apart():
    widths = (32, 64, 128, 256, 512)
    members = [(multilayer(a, b), 4) for a in widths for b in widths]
    rules = [DEVICE_RULES[kind] for kind in ("cpu", "gpu")]
    processor, graphics = (len(group(members, rule, 3000.0)) for rule in rules)
    assert 1 == graphics < processor < len(members)


def test_nothing_is_divided_without_widths():
    rule = DeviceRule(16, 64, None, 1.0, 1e-4, 1e10, 1e9)
    assert group([], rule, 100.0) == []
