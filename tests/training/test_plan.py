import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from hypothesis import given, strategies as st

import vtune as vt
from vtune.training.assignment import Settings, assign
from vtune.training.data import dataset
from vtune.training.device import DEVICE_RULES, device_rule
from vtune.training.loop import tracer, training_loop
from vtune.training.outlook import Outlook
from vtune.training.plan import LADDER, arrange


MAP = Settings(lanes="map", fuse_widths="never")
DATA = dataset(np.zeros((64, 8), np.float32), np.zeros(64, np.int32))
LOOP = training_loop(DATA, None, batch_size=32)


def trace(rate, units=4, module=None):
    model = vt.Model(
        module or nn.Dense(units), optax.sgd(rate), "sparse_categorical_crossentropy"
    )
    return tracer(LOOP, DATA, None)(model)


def form_of(trace, lanes="auto", platform="cpu"):
    cohorts, _ = assign({0: trace}, (), Settings(lanes=lanes, platform=platform))
    return cohorts[0].form


@given(
    st.integers(1, 3000),
    st.sampled_from(["vmap", "map"]),
    st.sampled_from(["cpu", "gpu", "tpu", "something new"]),
    st.sets(st.sampled_from(LADDER)),
)
def test_an_arrangement_holds_all_trials_without_waste(
    trials, form, platform, compiled
):
    plan = arrange(trials, form, platform, compiled=compiled, seconds=1.0)
    assert plan.groups * plan.lanes >= trials
    assert (plan.groups - 1) * plan.lanes < trials
    if form == "vmap":
        assert plan.lanes in LADDER
        assert plan.lanes <= device_rule(platform).most
        # A third of the lanes idles at the most, once there are more than two.
        assert trials / (plan.groups * plan.lanes) > 0.5 or trials == 1
        assert plan == arrange(trials, form, platform)
    else:
        assert plan.lanes == 1


@given(
    st.integers(1, 200),
    st.sets(st.sampled_from(LADDER), min_size=1),
    st.floats(0, 10),
)
def test_a_compiled_program_is_taken_where_its_idle_lanes_cost_less(
    trials, compiled, seconds
):
    new = arrange(trials, "vmap", "cpu")
    plan = arrange(
        trials, "vmap", "cpu", compiled=compiled, seconds=seconds, compiling=2.0
    )
    idle = plan.groups * plan.lanes - new.groups * new.lanes
    assert plan == new or plan.lanes in compiled
    assert plan.groups * plan.lanes >= trials and plan.groups <= new.groups
    assert idle * seconds <= 2.0
    if seconds == 0 and any(new.lanes <= size <= 16 for size in compiled):
        assert plan.lanes in compiled


def test_the_ladder_reaches_what_the_rules_allow():
    assert all(rule.most in LADDER for rule in DEVICE_RULES.values())
    assert min(LADDER) == 2  # a single lane under vmap would be another program


def test_trials_that_differ_in_constants_share_a_cohort():
    traces = {number: trace(0.1 + number) for number in range(5)}
    cohorts, chosen = assign(traces, (), MAP)
    assert len(cohorts) == 1
    assert set(chosen.values()) == {0}
    # The rate multiplies the gradient of the kernel and that of the bias.
    assert [len(slots) for slots in cohorts[0].widening.slots.train] == [2]


def test_another_shape_is_another_cohort():
    traces = {0: trace(0.1), 1: trace(0.1, units=5), 2: trace(0.2)}
    cohorts, chosen = assign(traces, (), MAP)
    assert chosen == {0: 0, 1: 1, 2: 0}
    assert len(cohorts) == 2


def test_a_later_trial_joins_where_its_constants_were_lifted():
    first, _ = assign({0: trace(0.1), 1: trace(0.2)}, (), MAP)
    later, chosen = assign({2: trace(0.7)}, first, MAP)
    assert chosen == {2: 0}
    assert later == first


def test_a_later_trial_with_another_value_elsewhere_gets_a_program_of_its_own():
    first, _ = assign({0: trace(0.1)}, (), MAP)
    later, chosen = assign({1: trace(0.2)}, first, MAP)
    assert chosen == {1: 1}
    assert later[0] is first[0]
    # The new one knows of the old one's value, and takes whatever comes next.
    last, chosen = assign({2: trace(0.3)}, later, MAP)
    assert chosen == {2: 1}
    assert len(last) == 2


def test_further_points_of_the_space_show_what_may_differ():
    outlook = Outlook(others=[trace(0.2)])
    cohorts, _ = assign({0: trace(0.1)}, (), MAP, outlook=outlook)
    _, chosen = assign({1: trace(0.3)}, cohorts, MAP)
    assert chosen == {1: 0}


def test_the_order_of_trials_changes_nothing():
    traces = {number: trace(0.1 + number % 3, 4 + number % 2) for number in range(6)}
    backwards = dict(reversed(traces.items()))
    _, chosen = assign(traces, (), MAP)
    assert assign(backwards, (), MAP)[1] == chosen


class Wide(nn.Module):
    @nn.compact
    def __call__(self, x):
        return nn.Dense(4)(nn.relu(nn.Dense(200_000 // 8)(x)))


class Convolution(nn.Module):
    @nn.compact
    def __call__(self, x):
        x = nn.Conv(2, (3,))(x[:, :, None])
        return nn.Dense(4)(x.reshape(x.shape[0], -1))


class Branches(nn.Module):
    @nn.compact
    def __call__(self, x):
        def loop(x):
            return jax.lax.while_loop(lambda c: c.sum() < 1, lambda c: c + 1, x)

        return nn.Dense(4)(
            jax.lax.cond(x.sum() > 0, loop, lambda x: x, jax.lax.stop_gradient(x))
        )


@pytest.mark.parametrize(
    ("module", "lanes", "platform", "form"),
    [
        (None, "auto", "cpu", "vmap"),
        (None, "map", "cpu", "map"),
        (None, "map", "gpu", "map"),
        (Wide(), "auto", "cpu", "map"),
        (Wide(), "vmap", "cpu", "vmap"),
        (Wide(), "auto", "gpu", "vmap"),
        (Convolution(), "auto", "cpu", "map"),
        (Convolution(), "auto", "tpu", "vmap"),
        # A lane that does not take the branch might never end.
        (Branches(), "vmap", "gpu", "map"),
    ],
)
def test_the_form_of_the_lanes(module, lanes, platform, form):
    assert form_of(trace(0.1, module=module), lanes, platform) == form


def test_other_random_generators_run_one_lane_after_another():
    class Noisy(nn.Module):
        @nn.compact
        def __call__(self, x, train: bool = False):
            if train:
                key = jax.random.key(0, impl="rbg")
                x = x + jax.random.normal(key, x.shape)
            return nn.Dense(4)(x)

    assert form_of(trace(0.1, module=Noisy()), "vmap", "gpu") == "map"


def test_work_counts_what_a_step_multiplies():
    from vtune.fusion.work import work

    products, convolutions = work(trace(0.1, units=4).train[0])
    # Forward and the gradient to the kernel: 32 x 8 x 4 each.
    assert products == 2 * 32 * 8 * 4
    assert convolutions == 0

    class Recurrent(nn.Module):
        @nn.compact
        def __call__(self, x):
            return nn.Dense(4)(nn.RNN(nn.SimpleCell(5))(x[:, :, None])[:, -1])

    # Eight steps, each of at least the recurrent product 32 x 5 x 5.
    recurrent = work(trace(0.1, module=Recurrent()).train[0])
    assert recurrent.products > 3 * 8 * 32 * 5 * 5
    assert jnp.isfinite(recurrent.products)
