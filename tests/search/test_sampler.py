"""What each trial tries: the same everywhere, in any order, and all of a grid."""

import itertools
import os
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given, settings, strategies as st

from vtune.hyperparameters import HyperParameters
from vtune.search.sampler import (
    GridSampler,
    RandomSampler,
    Sampler,
    configuration_key,
    unit_draw,
)


ROOT = Path(__file__).parent.parent.parent

ASKS = {
    "rate": lambda hp: hp.Float("rate", 1e-4, 1e-1, sampling="log"),
    "units": lambda hp: hp.Int("units", 32, 512, step=32),
    "kind": lambda hp: hp.Choice("kind", ["a", "b", "c"]),
    "norm": lambda hp: hp.Boolean("norm"),
    "decay": lambda hp: hp.Float("decay", 0.0, 1.0),
    "fixed": lambda hp: hp.Fixed("fixed", 3),
}


def tried(sampler, names=tuple(ASKS), number=0, attempt=0):
    source = sampler.source(number, attempt, ())
    hp = HyperParameters(source=source)
    for name in names:
        ASKS[name](hp)
    return hp.values


# --- random


@given(st.permutations([*ASKS]), st.integers(0, 2**32 - 1), st.integers(0, 1000))
def test_the_order_of_asking_changes_nothing(names, seed, number):
    sampler = RandomSampler(seed)
    assert tried(sampler, names, number) == tried(sampler, number=number)


@given(st.sets(st.sampled_from([*ASKS])))
def test_what_else_is_asked_for_changes_nothing(names):
    few, all_of_them = tried(RandomSampler(0), names), tried(RandomSampler(0))
    assert few == {name: all_of_them[name] for name in few}


def test_trials_attempts_names_and_seeds_draw_apart():
    draws = {
        unit_draw(seed, number, attempt, name)
        for seed in range(3)
        for number in range(12)
        for attempt in range(12)
        for name in ("a", "b", "ä")
    }
    assert len(draws) == 3 * 12 * 12 * 3


def test_zero_is_a_seed():
    assert tried(RandomSampler(0)) == tried(RandomSampler(0))
    assert tried(RandomSampler(0)) != tried(RandomSampler(1))


def test_draws_are_uniform():
    draws = [unit_draw(0, number, 0, "rate") for number in range(20_000)]
    assert min(draws) >= 0 and max(draws) < 1
    counts = [0] * 20
    for draw in draws:
        counts[int(draw * 20)] += 1
    # The 99.99th percentile of χ² with 19 degrees of freedom is 50.8.
    assert sum((count - 1000) ** 2 / 1000 for count in counts) < 50.8
    products = [a * b for a, b in zip(draws, draws[1:])]
    assert sum(products) / len(products) == pytest.approx(0.25, abs=0.01)


def test_draws_are_the_same_in_every_process():
    program = (
        "from vtune.search.sampler import unit_draw\n"
        "print([unit_draw(s, n, a, x) for s in (0, 2**32 - 1) for n in (0, 7)"
        " for a in (0, 99) for x in ('rate', 'größe/β')])"
    )
    here = str(
        [
            unit_draw(seed, number, attempt, name)
            for seed in (0, 2**32 - 1)
            for number in (0, 7)
            for attempt in (0, 99)
            for name in ("rate", "größe/β")
        ]
    )
    for hash_seed in ("1", "2"):
        environment = os.environ | {
            "PYTHONHASHSEED": hash_seed,
            "PYTHONPATH": str(ROOT),
            "PYTHONUTF8": "1",
        }
        done = subprocess.run(
            [sys.executable, "-c", program],
            env=environment,
            capture_output=True,
            text=True,
            check=True,
        )
        assert done.stdout.strip() == here


def test_a_random_sampler_never_says_that_the_space_is_exhausted():
    assert RandomSampler(0).source(10**6, 10**3, ()) is not None


@pytest.mark.parametrize("sampler", [RandomSampler(0), GridSampler()])
def test_samplers_are_samplers(sampler):
    assert isinstance(sampler, Sampler)


# --- grid


def walk(build, most=10_000):
    """The trials of a grid search, by number, until the space is exhausted."""
    history = []
    while source := GridSampler().source(len(history), 0, history):
        hp = HyperParameters(source=source)
        try:
            build(hp)
        except RuntimeError:
            pass
        history.append(hp)
        assert len(history) <= most
        if len(history) == most:
            break
    return [hp.values for hp in history]


wheels = st.lists(
    st.lists(st.sampled_from([1, True, 1.0, 0.0, "x", "y"]), min_size=1, max_size=4)
    | st.tuples(st.integers(-3, 3), st.integers(0, 4), st.integers(1, 3)),
    max_size=4,
)


@settings(max_examples=50)
@given(wheels)
def test_a_grid_is_the_product_of_its_values_last_one_fastest(wheels):
    def build(hp):
        for i, wheel in enumerate(wheels):
            if isinstance(wheel, tuple):
                low, width, step = wheel
                hp.Int(f"p{i}", low, low + width, step)
            else:
                hp.Choice(f"p{i}", wheel)

    hp = HyperParameters()
    build(hp)
    names = [parameter.name for parameter in hp.parameters]
    grids = [parameter.grid() for parameter in hp.parameters]
    product = [dict(zip(names, values)) for values in itertools.product(*grids)]
    # By their text: 1, 1.0 and True are different values.
    assert repr(walk(build)) == repr(product)


def test_a_branch_counts_only_within_itself():
    def build(hp):
        for i in range(hp.Int("layers", 0, 2)):
            hp.Choice(f"units_{i}", [8, 16])
        if hp.Boolean("norm"):
            hp.Choice("kind", ["layer", "batch"])

    ends = [
        {"norm": False},
        {"norm": True, "kind": "layer"},
        {"norm": True, "kind": "batch"},
    ]
    expected = [
        {"layers": layers} | {f"units_{i}": u for i, u in enumerate(units)} | end
        for layers in range(3)
        for units in itertools.product([8, 16], repeat=layers)
        for end in ends
    ]
    assert walk(build) == expected


def test_a_build_that_raises_is_passed_by():
    def build(hp):
        if hp.Choice("a", [1, 2, 3]) == 2:
            raise RuntimeError("no twos")
        hp.Choice("b", ["x", "y"])

    assert [tuple(values.values()) for values in walk(build)] == [
        (1, "x"),
        (1, "y"),
        (2,),
        (3, "x"),
        (3, "y"),
    ]


def test_grids_that_have_one_point_or_very_many():
    assert walk(lambda hp: None) == [{}]
    assert walk(lambda hp: hp.Fixed("a", 1)) == [{"a": 1}]
    few = walk(lambda hp: (hp.Float("a", 0, 1), hp.Int("b", 0, 2**50)), most=3)
    assert few == [{"a": 0.05, "b": b} for b in range(3)]


def test_another_attempt_at_a_grid_point_is_in_vain():
    assert GridSampler().source(0, 0, ()) is not None
    assert GridSampler().source(0, 1, ()) is None


# --- configurations


def test_configurations_differ_by_type_and_bytes():
    values = [1, 1.0, True, "1", 0, 0.0, -0.0, False, "", 2**53, float(2**53)]
    assert len({configuration_key({"a": value}) for value in values}) == len(values)


def test_configurations_are_equal_in_any_order():
    key = configuration_key({"a": 1, "b": 0.5})
    assert key == configuration_key({"b": 0.5, "a": 1})
    assert key != configuration_key({"a": 0.5, "b": 1})
    assert key != configuration_key({"a": 1})
