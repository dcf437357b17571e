"""Who trains the lanes of one network: vtune, or what one writes by hand for it.

All sides do the same work: lanes with the same initial weights, learning rates and
orders of the data, which are drawn on the device, trained with Adam. In a turn a side
trains every lane for an epoch; the loss of the first one shows that they agree.
"""

import dataclasses
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Int32

import vtune as vt
from experiments.benchmarks.networks import Work
from vtune.training.keys import LaneKeys, epoch_order, lane_keys


SEED = 0
# A side whose turns took so long takes no more: where it is that slow, the best of many
# turns would tell nothing else.
LONGEST_SECONDS = 8.0

Side = Callable[[], tuple[float, float]]


@dataclasses.dataclass(frozen=True)
class Result:
    """What a side's turns gave.

    Args:
        seconds: of its best turn.
        loss: of its first epoch, the mean of all lanes.
    """

    seconds: float
    loss: float


def race(sides: Mapping[str, Side], turns: int) -> dict[str, Result]:
    """Runs all sides in turns, so that what disturbs one disturbs them all.

    Args:
        sides: the sides, by name.
        turns: how many turns each takes, but for those that take very long.

    Returns:
        What each gave.
    """
    seconds: dict[str, list[float]] = {name: [] for name in sides}
    losses: dict[str, float] = {}
    for _ in range(turns):
        for name, side in sides.items():
            if sum(seconds[name]) < LONGEST_SECONDS:
                taken, loss = side()
                seconds[name].append(taken)
                losses.setdefault(name, loss)
    return {name: Result(min(seconds[name]), losses[name]) for name in sides}


def by_vtune(work: Work, **settings: Any) -> Side:
    """A search of vtune's, whose trials are the lanes; the seconds that it trained.

    Each turn searches anew; what the first one compiled serves the others.

    Args:
        work: what is trained.
        settings: further arguments of the tuner, such as `lanes="vmap"`.
    """
    rates = work.rates.tolist()

    def build(hp: vt.HyperParameters) -> vt.Model:
        rate = hp.Choice("learning_rate", rates)
        return vt.Model(
            work.module, optax.adam(rate), loss="sparse_categorical_crossentropy"
        )

    def turn() -> tuple[float, float]:
        tuner = vt.GridSearch(
            build, "loss", max_epochs=1, seed=SEED, keep_models=0, **settings
        )
        tuner.search(work.x, work.y, batch_size=work.batch, verbose=0)
        losses = [trial.metrics["loss"][0] for trial in tuner.trials]
        return tuner.statistics.training_seconds, float(np.mean(losses))

    return turn


def first_state(module: nn.Module, key: Any, x: Any) -> Any:
    """A lane's variables and its optimizer's state, before the first step.

    Args:
        module: the network.
        key: the lane's key for its initial state, as data.
        x: some samples.
    """
    variables = module.init(jax.random.wrap_key_data(key), x)
    return variables, optax.adam(0.0).init(variables["params"])


def next_state(module: nn.Module, state: Any, rate: Any, x: Any, y: Any) -> Any:
    """A lane's state after a step, and the loss before it.

    Args:
        module: the network.
        state: the lane's state.
        rate: its learning rate.
        x: a batch of samples.
        y: their labels.
    """
    variables, optimizer_state = state

    def loss(parameters: Any) -> Any:
        logits, others = module.apply(
            {**variables, "params": parameters}, x, train=True, mutable=["batch_stats"]
        )
        losses = optax.softmax_cross_entropy_with_integer_labels(logits, y)
        return losses.mean(), others

    parameters = variables["params"]
    (value, others), gradients = jax.value_and_grad(loss, has_aux=True)(parameters)
    updates, optimizer_state = optax.adam(rate).update(gradients, optimizer_state)
    parameters = optax.apply_updates(parameters, updates)
    return ({"params": parameters, **others}, optimizer_state), value


def rows(work: Work, key: Any, epoch: Any) -> Int32[jax.Array, "steps batch"]:
    """The samples of each step of an epoch, in the order that vtune draws.

    Args:
        work: what is trained.
        key: the lane's key for the order of its data, as data.
        epoch: the epoch, counted from 0.
    """
    order = epoch_order(jax.random.wrap_key_data(key), epoch, len(work.x))
    return order[: work.steps * work.batch].reshape(work.steps, work.batch)


def keys_of(lanes: Sequence[int]) -> LaneKeys:
    """The random keys of lanes, with a lane axis: those of vtune's trials.

    Args:
        lanes: the lanes' numbers.
    """
    return jax.vmap(lane_keys, (None, 0))(jnp.uint32(SEED), jnp.asarray(lanes))


def by_vmapped_scan(work: Work) -> Side:
    """A scan over the vmapped step: all lanes in one program.

    Args:
        work: what is trained.
    """
    keys = keys_of(range(work.lanes))
    init = jax.vmap(lambda key, x: first_state(work.module, key, x), (0, None))

    def epoch(states: Any, rates: Any, keys: Any, number: Any, x: Any, y: Any) -> Any:
        def step(states: Any, batch: Any) -> tuple[Any, Any]:
            one = lambda *lane: next_state(work.module, *lane)  # noqa: E731
            return jax.vmap(one)(states, rates, x[batch], y[batch])

        order = jax.vmap(lambda key: rows(work, key, number))(keys)
        states, losses = jax.lax.scan(step, states, jnp.swapaxes(order, 0, 1))
        return states, losses.mean()

    data = jax.device_put((work.x, work.y))
    states = jax.jit(init)(keys.init, data[0][: work.batch])
    arguments = (jnp.asarray(work.rates), keys.order)
    lowered = jax.jit(epoch, donate_argnums=0).lower(states, *arguments, 0, *data)
    compiled, number = lowered.compile(), 0

    def turn() -> tuple[float, float]:
        nonlocal states, number
        started = time.perf_counter()
        states, loss = compiled(states, *arguments, number, *data)
        loss, number = float(loss), number + 1
        return time.perf_counter() - started, loss

    return turn


def by_scan(work: Work) -> Side:
    """A scan for one exact shape: a lane's epoch is one call, the lanes take turns.

    Args:
        work: what is trained.
    """

    def epoch(state: Any, rate: Any, key: Any, number: Any, x: Any, y: Any) -> Any:
        state, losses = jax.lax.scan(
            lambda state, batch: next_state(
                work.module, state, rate, x[batch], y[batch]
            ),
            state,
            rows(work, key, number),
        )
        return state, losses.mean()

    return _lane_after_lane(work, range(work.lanes), jax.jit(epoch, donate_argnums=0))


def by_python(work: Work, lanes: Sequence[int]) -> Side:
    """A jitted step that is called from Python, for some of the lanes.

    Args:
        work: what is trained.
        lanes: the lanes' numbers.
    """
    order_of = jax.jit(lambda key, number: rows(work, key, number))

    def step(
        state: Any, total: Any, rate: Any, order: Any, index: Any, x: Any, y: Any
    ) -> Any:
        batch = order[index]
        state, loss = next_state(work.module, state, rate, x[batch], y[batch])
        return state, total + loss

    jitted = jax.jit(step, donate_argnums=(0, 1))

    def epoch(state: Any, rate: Any, key: Any, number: Any, x: Any, y: Any) -> Any:
        order, total = order_of(key, number), jnp.float32(0)
        for index in range(work.steps):
            state, total = jitted(state, total, rate, order, index, x, y)
        return state, total / work.steps

    return _lane_after_lane(work, lanes, epoch)


def _lane_after_lane(
    work: Work, lanes: Sequence[int], epoch: Callable[..., tuple[Any, Any]]
) -> Side:
    """Trains a lane after the other with what trains one of them for an epoch."""
    keys = jax.device_get(keys_of(lanes))
    data = jax.device_put((work.x, work.y))
    samples = work.x[: work.batch]
    init = jax.jit(lambda key: first_state(work.module, key, samples))
    rates = [jnp.asarray(work.rates[lane]) for lane in lanes]
    # Compiles; the state that it trains is forgotten.
    float(epoch(init(keys.init[0]), rates[0], keys.order[0], 0, *data)[1])
    states, number = [init(key) for key in keys.init], 0

    def turn() -> tuple[float, float]:
        nonlocal number
        losses = []
        started = time.perf_counter()
        for lane, (rate, key) in enumerate(zip(rates, keys.order, strict=True)):
            states[lane], loss = epoch(states[lane], rate, key, number, *data)
            losses.append(float(loss))
        number += 1
        return time.perf_counter() - started, float(np.mean(losses))

    return turn
