"""Networks of different widths in one program, each compared with itself alone."""

from pathlib import Path

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import vtune as vt
from tests.training.zoo import CASES, IMAGES, LABELS, VECTORS, WIDTHS
from vtune.fusion.envelope import find_envelope
from vtune.fusion.evaluate import evaluate
from vtune.fusion.evaluate_wide import evaluate_wide
from vtune.fusion.sizes import training_structure
from vtune.fusion.widen import widen
from vtune.training.check import compare
from vtune.training.data import dataset
from vtune.training.difference import wrong
from vtune.training.loop import tracer, training_loop


STEPS = 20
# All of them take minutes.
ALWAYS = {"GroupNorm, groups of 4"}


def cases(names, always=ALWAYS):
    return [
        pytest.param(name, marks=() if name in always else pytest.mark.ci, id=name)
        for name in names
    ]


def traced(case):
    data = dataset(case.x, LABELS)
    loop = training_loop(data, data, batch_size=16)
    trace = tracer(loop, data, data)
    return [trace(case.model(width, n)) for n, width in enumerate(case.widths)]


def widened(traces):
    assert len({training_structure(trace) for trace in traces}) == 1
    wide = find_envelope(traces)
    assert wide is not None
    return widen(traces, traces[wide])


@pytest.mark.parametrize("name", cases(CASES, ALWAYS | set(list(CASES)[::4])))
def test_widths_share_a_program(name):
    traces = traced(CASES[name])
    widening = widened(traces)
    assert widening.varies
    assert all(map(widening.accepts, traces))


@pytest.mark.parametrize("name", cases(CASES))
def test_a_trial_in_a_wider_program_is_the_trial_alone(name):
    case = CASES[name]
    traces = traced(case)
    rows = np.arange(STEPS * 16) % 64
    shape = (STEPS, 16)
    batches = [
        np.asarray(array)[rows].reshape(*shape, *array.shape[1:])
        for array in (case.x, LABELS)
    ]
    narrowest, *_ = traces
    differences = compare(widened(traces), narrowest, batches, [case.x, LABELS], seed=3)
    assert wrong(differences) is None
    # Also the draws: initial weights, and with them each layer's own numbers.
    drawn = [d for d in differences if d.what.startswith("initial")]
    assert all(d.error < 1e-6 for d in drawn)
    losses = [d for d in differences if d.what in ("train loss", "eval loss")]
    assert len(losses) == 2 and all(d.error < 1e-4 for d in losses)


def documented():
    """The table of the README."""
    lines = ["| network | widths | masks in a step | initial weights |"]
    lines.append("|---|---|---|---|")
    for name, case in CASES.items():
        widening = widened(traced(case))
        drawn = "in the program" if widening.functions.init else "each by itself"
        widths = ", ".join(map(str, case.widths))
        lines.append(f"| {name} | {widths} | {len(widening.masks)} | {drawn} |")
    return "\n".join(lines)


@pytest.mark.ci
def test_the_table_of_the_readme_is_what_is_tested():
    readme = (Path(__file__).parents[2] / "README.md").read_text(encoding="utf-8")
    _, _, after = readme.partition("<!-- networks -->\n")
    table, _, _ = after.partition("\n<!-- end of networks -->")
    assert table == documented()


def test_a_plain_network_needs_no_mask():
    assert widened(traced(CASES["MLP, ReLU"])).masks == ()


INITIALIZERS = {
    "constant": nn.initializers.constant(0.3),
    "glorot normal": nn.initializers.glorot_normal(),
    "glorot uniform": nn.initializers.glorot_uniform(),
    "he normal": nn.initializers.he_normal(),
    "he uniform": nn.initializers.he_uniform(),
    "lecun normal": nn.initializers.lecun_normal(),
    "lecun uniform": nn.initializers.lecun_uniform(),
    "normal": nn.initializers.normal(),
    "ones": nn.initializers.ones,
    "truncated normal": nn.initializers.truncated_normal(),
    "uniform": nn.initializers.uniform(),
    "variance scaling": nn.initializers.variance_scaling(0.5, "fan_out", "normal"),
    "zeros": nn.initializers.zeros,
}


class Drawn(nn.Module):
    """Weights at the front (of a layer), in blocks (after Flatten), in runs."""

    initializer: nn.initializers.Initializer
    width: int

    @nn.compact
    def __call__(self, x):
        dense = lambda n: nn.Dense(n, kernel_init=self.initializer)  # noqa: E731
        x = nn.Conv(self.width, (3, 3), kernel_init=self.initializer)(x)
        x = nn.relu(dense(self.width)(x.reshape((x.shape[0], -1))))
        return dense(4)(jnp.concatenate([x, nn.relu(dense(self.width + 3)(x))], -1))


def initial_states(name):
    """For each width the initial state alone and inside the envelope."""
    initializer = INITIALIZERS[name]
    model = lambda width: vt.Model(  # noqa: E731
        Drawn(initializer, width), optax.sgd(0.1), "sparse_categorical_crossentropy"
    )
    data = dataset(IMAGES[:, :4, :4], LABELS)
    loop = training_loop(data, None, batch_size=16)
    traces = [tracer(loop, data, None)(model(width)) for width in WIDTHS]
    widening = widened(traces)
    key, batch = jax.random.key(3), data.rows(0, 16).batch
    for trace in traces:
        alone = jax.jit(lambda: evaluate(trace.init, (), (), key, *batch))()
        init = widening.functions.init
        values = widening.values(trace).init
        sizes = jnp.asarray(widening.lane_sizes(trace))
        wide = jax.jit(lambda: evaluate_wide(init, values, sizes, key, *batch))()
        yield alone, widening.extract(jax.device_get(wide), trace)


@pytest.mark.parametrize(
    "name",
    [pytest.param(name, marks=pytest.mark.ci, id=name) for name in INITIALIZERS],
)
def test_initial_weights_are_those_of_the_trial_alone(name):
    for alone, wide in initial_states(name):
        for expected, found in zip(alone, wide, strict=True):
            # The scale is another constant for each width, which rounds otherwise.
            np.testing.assert_allclose(found, expected, rtol=3e-7, atol=0)


def test_an_initialization_by_decomposition_is_run_alone():
    model = lambda width: vt.Model(  # noqa: E731
        nn.Sequential(
            [nn.Dense(width, kernel_init=nn.initializers.orthogonal()), nn.Dense(4)]
        ),
        optax.sgd(0.1),
        "sparse_categorical_crossentropy",
    )
    data = dataset(VECTORS, LABELS)
    loop = training_loop(data, None, batch_size=16)
    traces = [tracer(loop, data, None)(model(width)) for width in WIDTHS]
    widening = widened(traces)
    assert widening.functions.init is None
    assert len(widening.inits) == len(WIDTHS)
