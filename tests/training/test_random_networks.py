"""Networks drawn at random train inside an envelope as they train alone.

Each comes from a number, so that what failed can be repeated. All of them:

    pytest -m long tests/training/test_random_networks.py -s
"""

import functools

import pytest

from tests.training.random_networks import BATCH, LABELS, SAMPLES, draw
from vtune.fusion.refusal import Refusal
from vtune.fusion.sizes import growing_sizes, training_structure
from vtune.fusion.widen import widen
from vtune.training.check import compare
from vtune.training.data import dataset
from vtune.training.loop import tracer, training_loop


STEPS = 2
MOST_REFUSED = 0.05


@functools.cache
def trace_of(kind):
    data = dataset(SAMPLES[kind], LABELS)
    return tracer(training_loop(data, None, batch_size=BATCH), data, None)


def widened(network):
    """The narrowest member's trace, and the widening of all; None for other structures.

    Raises:
        Refusal: where the members cannot share a program.
    """
    trace = trace_of(network.kind)
    traces = [trace(network.model(member)) for member in range(len(network.widths))]
    if len(set(map(training_structure, traces))) > 1:
        raise Refusal("members of other widths have other equations")
    narrowest = min(traces, key=lambda trace: sum(growing_sizes(trace)))
    return narrowest, widen(traces, traces[-1])


def wrong(network, narrowest, widening):
    """What differs from the narrowest member alone."""
    arrays = [SAMPLES[network.kind], LABELS]
    batches = [a.reshape(STEPS, BATCH, *a.shape[1:]) for a in arrays]
    differences = compare(widening, narrowest, batches, None, seed=network.number)
    return [difference for difference in differences if difference.is_wrong]


def check(numbers):
    """Compares the networks of some numbers; prints why some are refused."""
    refused, failed = [], []
    for number in numbers:
        network = draw(number)
        try:
            narrowest, widening = widened(network)
        except Refusal as refusal:
            refused.append(number)
            print(f"refused: {network}: {refusal}", flush=True)
            continue
        assert widening.varies, network
        for difference in wrong(network, narrowest, widening):
            failed.append(network)
            print(f"wrong: {network}: {difference}", flush=True)
    print(f"{len(numbers)} networks, {len(refused)} refused: {refused}")
    assert not failed
    return refused


@pytest.mark.ci
def test_networks_of_two_kinds_train_as_alone():
    assert not check([24, 30])


@pytest.mark.ci
def test_some_networks_train_as_alone():
    assert len(check(range(100, 125))) <= 25 * 2 * MOST_REFUSED


@pytest.mark.long
def test_many_networks_train_as_alone():
    assert len(check(range(300))) <= 300 * MOST_REFUSED


def test_a_number_gives_the_same_network_again():
    assert draw(17) == draw(17) != draw(18)
    kinds = {draw(number).kind for number in range(40)}
    assert kinds == set(SAMPLES)
