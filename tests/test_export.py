"""The programs of a search can be compiled for every platform, whatever runs here."""

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import numpy as np
import pytest

import vtune as vt
from experiments import depth, regularization, tutorial
from tests.training.zoo import CASES
from vtune.search.sampler import RandomSampler
from vtune.training.assignment import Settings, assign
from vtune.training.compile import Request, abstract
from vtune.training.data import dataset
from vtune.training.epoch import LaneFunctions
from vtune.training.loop import Loop, tracer, training_loop
from vtune.training.orders import orders_request
from vtune.training.plan import arrange
from vtune.training.requests import (
    end_request,
    epoch_request,
    init_request,
    keys_request,
    slice_request,
)


# What JAX calls the platforms of `Settings` when it lowers a program.
PLATFORMS = {"cpu": "cpu", "gpu": "cuda", "tpu": "tpu"}

RANDOM = np.random.default_rng(0)
IMAGES = RANDOM.random((40, 8, 8)).astype(np.float32)
LABELS = RANDOM.integers(0, 4, 40).astype(np.int32)


@dataclasses.dataclass(frozen=True)
class Space:
    """Some trials of a space, and what they are trained on."""

    models: Callable[[Loop], list[Any]]
    x: np.ndarray = dataclasses.field(default_factory=lambda: IMAGES)


def drawn(build, trials):
    """A space's first trials, as a search draws them."""

    def models(loop):
        sampler = RandomSampler(0)
        horizon = {"steps_per_epoch": loop.steps_per_epoch, "max_epochs": 10}
        return [
            build(vt.HyperParameters(**horizon, source=sampler.source(number, 0, ())))
            for number in range(trials)
        ]

    return Space(models)


def of_zoo(case):
    def models(loop):
        return [case.model(width, number) for number, width in enumerate(case.widths)]

    return Space(models, case.x)


SPACES = {
    "tutorial": drawn(tutorial.build, 3),
    "depth": drawn(depth.build, 8),
    "regularization": drawn(regularization.build, 3),
} | {name: of_zoo(case) for name, case in CASES.items()}

QUICK = ("tutorial", "CNN, Flatten, dropout")


def requests(
    space: Space, platform: str, lanes: str, sliced: bool = False
) -> list[Request]:
    """What a search on a platform compiles for the trials of a space."""
    training = dataset(space.x[:32], LABELS[:32])
    validation = dataset(space.x[32:40], LABELS[32:])
    loop = training_loop(training, validation, batch_size=8)
    trace = tracer(loop, training, validation)
    traces = dict(enumerate(map(trace, space.models(loop))))
    settings = Settings(lanes, "always", platform)
    cohorts, chosen = assign(traces, (), settings)
    data = [jax.tree.map(abstract, part.batch) for part in (training, validation)]
    first = jax.tree.map(abstract, training.rows(0, loop.train.size).batch)
    found = [keys_request()]
    for cohort in cohorts:
        members = [number for number in traces if chosen[number] == cohort.number]
        count = arrange(len(members), cohort.form, platform).lanes
        functions = LaneFunctions(cohort.widening, loop, None)
        lanes_of = functions, cohort.form, count
        found.append(orders_request(platform, count, loop.samples))
        found.append(epoch_request(*lanes_of, *data))
        if sliced:
            found.append(slice_request(*lanes_of, 2, data[0]))
            found.append(end_request(*lanes_of, *data))
        found += [init_request(cohort.widening, traces[n], first) for n in members]
    return list({request.key: request for request in found}.values())


def lower(request: Request, *platforms: str) -> tuple[str, ...]:
    """Lowers a program for platforms that need not be here; returns which."""
    function = jax.jit(request.function, donate_argnums=request.donated)
    exported = jax.export.export(function, platforms=platforms)(*request.arguments)
    return exported.platforms


def check(name: str, platform: str, lanes: str, *platforms: str) -> None:
    sliced = name == "tutorial"
    for request in requests(SPACES[name], platform, lanes, sliced):
        assert lower(request, *platforms) == platforms


@pytest.mark.parametrize("lanes", ["vmap", "map"])
@pytest.mark.parametrize("name", QUICK)
def test_a_search_can_be_compiled_for_a_tpu(name, lanes):
    check(name, "tpu", lanes, "tpu")


@pytest.mark.ci
@pytest.mark.parametrize("lanes", ["vmap", "map"])
@pytest.mark.parametrize("name", [*QUICK, "depth", "regularization"])
@pytest.mark.parametrize("platform", ["cpu", "gpu"])
def test_a_search_can_be_compiled_for_each_other_platform(name, lanes, platform):
    check(name, platform, lanes, PLATFORMS[platform])


@pytest.mark.ci
@pytest.mark.parametrize("name", SPACES)
def test_one_program_can_be_compiled_for_all_platforms(name):
    check(name, "tpu", "auto", *PLATFORMS.values())


def test_what_a_platform_does_not_have_would_be_seen():
    def function(matrix):
        return jax.lax.linalg.schur(matrix)

    request = Request((), function, (jax.ShapeDtypeStruct((3, 3), np.float32),))
    assert lower(request, "cpu") == ("cpu",)
    with pytest.raises(NotImplementedError):
        lower(request, "tpu")
