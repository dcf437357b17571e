"""Linen and NNX modules behind one interface: mode, keys, collections, refusals."""

import functools
from typing import Any, cast

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn, nnx

from vtune.components.calling import Variables
from vtune.components.network import abstract_outputs, make_network, note_outputs


KEY = jax.random.key(7)
X = np.random.default_rng(0).normal(size=(16, 5)).astype(np.float32)


def run(network, x: Any = X, key=KEY, steps=1):
    """Initialises, trains for some steps, evaluates: all in one trace."""

    def program(key, x):
        variables = network.init(key, x)
        outputs = None
        for step in range(steps):
            outputs, collections = network.train(
                variables, x, jax.random.fold_in(key, step)
            )
            variables = Variables(variables.params, collections)
        return variables, outputs, network.evaluate(variables, x)

    return jax.jit(program)(key, x)


def leaves_equal(a, b):
    return jax.tree.structure(a) == jax.tree.structure(b) and all(
        np.array_equal(one, other)
        for one, other in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True)
    )


class Probe(nn.Module):
    """Says which mode it was told."""

    @nn.compact
    def __call__(self, x, train=None, training=None, is_training=None):
        self.param("bias", nn.initializers.zeros, (1,))
        return jnp.asarray([train, training, is_training])


class ReversedProbe(nn.Module):
    @nn.compact
    def __call__(self, x, *, deterministic, use_running_average):
        return jnp.asarray([deterministic, use_running_average])


class NnxProbe(nnx.Module):
    def __init__(self, rngs):
        self.bias = nnx.Param(rngs.params.normal((1,)))

    def __call__(self, x, train, deterministic=None):
        return jnp.asarray([train, not deterministic])


@pytest.mark.parametrize(
    ("module", "in_training"),
    [(Probe(), True), (ReversedProbe(), False), (NnxProbe, True)],
)
def test_every_argument_that_says_the_mode_is_given(module, in_training):
    _, trained, evaluated = run(make_network(module))
    assert np.all(trained == in_training)
    assert np.all(evaluated != in_training)


class LinenNet(nn.Module):
    rate: float = 0.5

    @nn.compact
    def __call__(self, x, train: bool = False):
        x = nn.Dense(32)(x)
        x = nn.BatchNorm(use_running_average=not train, momentum=0.5)(x)
        first = nn.Dropout(self.rate, deterministic=not train)(jnp.ones_like(x))
        second = nn.Dropout(self.rate, deterministic=not train)(jnp.ones_like(x))
        calls = self.variable("counts", "calls", jnp.zeros, (), jnp.int32)
        self.sow("intermediates", "hidden", x)
        if train:
            calls.value += 1
        return x, first, second


class NnxNet(nnx.Module):
    def __init__(self, rate, *, rngs: nnx.Rngs):
        self.dense = nnx.Linear(5, 32, rngs=rngs)
        self.norm = nnx.BatchNorm(32, momentum=0.5, rngs=rngs)
        self.dropouts = nnx.List([nnx.Dropout(rate, rngs=rngs) for _ in range(2)])
        self.calls = nnx.Variable(jnp.zeros((), jnp.int32))
        self.rngs = rngs
        self.training = False

    def train(self, **attributes):
        nnx.Module.train(self, training=True, **attributes)

    def eval(self, **attributes):
        nnx.Module.eval(self, training=False, **attributes)

    def __call__(self, x):
        x = self.norm(self.dense(x))
        first, second = (dropout(jnp.ones_like(x)) for dropout in self.dropouts)
        if self.training:
            self.calls[...] += 1
        return x, first, second


NETS = {
    "linen": LinenNet(),
    "lambda": lambda rngs: NnxNet(0.5, rngs=rngs),
    "positional": lambda r: NnxNet(0.5, rngs=r),
    "partial": functools.partial(NnxNet, 0.5),
}
every_net = pytest.mark.parametrize("module", NETS.values(), ids=NETS.keys())


@every_net
def test_the_collections_change_in_training_only_and_are_kept(module):
    network = make_network(module)
    variables, (x, first, second), (evaluated, *ones) = run(network, steps=3)
    assert len(jax.tree.leaves(variables.params)) == 4
    assert sorted(np.shape(c) for c in jax.tree.leaves(variables.collections)) == [
        (),
        (32,),
        (32,),
    ]
    assert 3 in [int(c) for c in jax.tree.leaves(variables.collections) if c.ndim == 0]
    # The momentum of 0.5 leaves one eighth of the initial statistics after 3 steps.
    (kernel,) = [p for p in jax.tree.leaves(variables.params) if p.ndim == 2]
    hidden = X @ kernel
    mean, var = hidden.mean(0) * 7 / 8, hidden.var(0) * 7 / 8 + 1 / 8
    np.testing.assert_allclose(x.mean(0), 0, atol=1e-5)
    np.testing.assert_allclose(
        evaluated, (hidden - mean) / np.sqrt(var + 1e-5), rtol=1e-3, atol=1e-4
    )
    assert np.all(np.asarray(ones) == 1)
    assert set(np.unique(first)) == set(np.unique(second)) == {0.0, 2.0}


@every_net
def test_keys_decide_the_draws_and_layers_draw_apart(module):
    network = make_network(module)

    @jax.jit
    def draws(init_key, step_key):
        variables = network.init(init_key, X)
        (_, first, second), _ = network.train(variables, X, step_key)
        return variables.params, first, second

    params, first, second = draws(jax.random.key(0), jax.random.key(1))
    assert leaves_equal(
        draws(jax.random.key(0), jax.random.key(1)), (params, first, second)
    )
    assert 0.3 < np.mean(np.asarray(first) == second) < 0.7
    other_params, same, _ = draws(jax.random.key(2), jax.random.key(1))
    assert leaves_equal(first, same) and not leaves_equal(params, other_params)
    assert not leaves_equal(first, draws(jax.random.key(0), jax.random.key(2))[1])


@pytest.fixture
def compiled():
    """The programs that are compiled, operations that run eagerly among them."""
    events = []

    def listen(event, duration_secs, **kwargs):
        if event.endswith("backend_compile_duration"):
            events.append((event, kwargs))

    jax.monitoring.register_event_duration_secs_listener(listen)
    yield events
    jax.monitoring.unregister_event_duration_listener(listen)


@every_net
def test_nothing_is_run_while_it_is_traced(module, compiled):
    jax.clear_caches()  # what was run before would not be compiled again
    key = jax.ShapeDtypeStruct((), KEY.dtype)
    x = jax.ShapeDtypeStruct((16, 5), jnp.float32)
    network = make_network(module)
    variables = jax.eval_shape(network.init, key, x)
    outputs, _ = jax.eval_shape(network.train, variables, x, key)
    jax.eval_shape(network.evaluate, variables, x)
    jax.eval_shape(make_network(module).evaluate, variables, x)
    assert {leaf.shape for leaf in jax.tree.leaves(outputs)} == {(16, 32)}
    assert not compiled
    assert jnp.ones((16, 5)).sum() == 80
    assert compiled


class Heads(nnx.Module):
    """Streams of every kind: shared, split over an axis, and drawn in evaluation."""

    def __init__(self, rngs: nnx.Rngs):
        self.weight = nnx.Param(jnp.ones(()))
        self.shared = rngs
        self.split = rngs.noise.split(3)

    def __call__(self, x, *, rngs: nnx.Rngs):
        noise = jax.vmap(lambda key: jax.random.normal(key, (4,)))(self.split.key[...])
        own = [self.shared.noise.normal((1, 4)), self.shared.noise.normal((1, 4))]
        return jnp.concatenate([noise, *own, rngs.normal((1, 4))])


def test_all_streams_of_an_nnx_module_draw_apart():
    network = make_network(lambda rngs: Heads(nnx.Rngs(rngs(), noise=rngs())))
    variables, trained, evaluated = run(network)
    assert variables.collections == {}
    for drawn in (trained, evaluated):
        assert len(np.unique(drawn)) == drawn.size == 24
    _, other, same = run(network, key=jax.random.key(3))
    assert np.array_equal(evaluated, same) and not np.array_equal(trained, other)


class View(nnx.Module):
    """Takes its mode as `nnx.view` gives it, and counts in a NumPy-held collection."""

    def __init__(self, rngs: nnx.Rngs):
        self.scale = nnx.Param(jnp.ones((2,)))
        self.quiet = None

    def set_view(self, deterministic: bool | None = None):
        self.quiet = deterministic

    def __call__(self, x):
        self.sow(nnx.Intermediate, "seen", x)
        return x * (0.0 if self.quiet else self.scale.sum())


@pytest.mark.filterwarnings("ignore:Using 'Module.sow:DeprecationWarning")
def test_views_are_set_and_what_is_sown_is_dropped():
    variables, trained, evaluated = run(make_network(View))
    np.testing.assert_array_equal(trained, 2 * X)
    assert np.all(evaluated == 0)
    assert variables.collections == {}


def test_an_eager_step_leaves_the_arrays_that_it_was_given_alone():
    network = make_network(NETS["partial"])
    variables = jax.tree.map(np.array, run(network)[0])
    before = jax.tree.map(np.copy, variables)
    network.train(variables, X, KEY)
    assert leaves_equal(variables, before)


class Tied(nnx.Module):
    def __init__(self, rngs: nnx.Rngs):
        self.encoder = nnx.Linear(5, 5, use_bias=False, rngs=rngs)
        self.decoder = self.encoder

    def __call__(self, x):
        return self.decoder(self.encoder(x))


class LinenTied(nn.Module):
    @nn.compact
    def __call__(self, x):
        layer = nn.Dense(5, use_bias=False)
        return layer(layer(x))


@pytest.mark.parametrize("module", [Tied, LinenTied()])
def test_tied_weights_are_one_parameter(module):
    variables, trained, _ = run(make_network(module))
    (kernel,) = jax.tree.leaves(variables.params)
    np.testing.assert_allclose(trained, X @ kernel @ kernel, rtol=1e-4, atol=1e-5)


class Field(nn.Module):
    """Holds its mode in a field."""

    train: bool = False

    @nn.compact
    def __call__(self, x):
        x = nn.BatchNorm(use_running_average=not self.train)(nn.Dense(3)(x))
        return nn.Dropout(0.5, deterministic=not self.train)(x)


def call_field(module, variables, x, train, rngs):
    module = module.clone(train=train)
    mutable = ["batch_stats", "intermediates"] if train else False
    return module.apply(variables, x, rngs=rngs, mutable=mutable)


class Pair(nn.Module):
    """Takes two inputs and a mode of its own; returns a pair."""

    @nn.compact
    def __call__(self, a, b, mode):
        self.variable("memory", "last", jnp.zeros, a.shape[1:]).value = a.mean(0)
        return nn.Dense(2)(a) * (1.0 if mode == "train" else 0.0), {"b": b}


def call_pair(module, variables, x, train, rngs):
    a, b = x["a"], x["b"]
    mode = "train" if train else "eval"
    return module.apply(variables, a, b, mode, rngs=rngs, mutable=["memory"])


def test_apply_says_how_a_linen_module_is_called_and_initialised():
    variables, trained, evaluated = run(make_network(Field(), call_field))
    assert list(variables.collections) == ["batch_stats"]
    (mean,) = [
        m
        for path, m in jax.tree.leaves_with_path(variables.collections)
        if path[-1].key == "mean"
    ]
    assert np.any(np.asarray(mean) != 0)
    assert np.any(np.asarray(trained) == 0) and np.all(np.asarray(evaluated) != 0)

    network = make_network(Pair(), call_pair)
    variables, (trained, rest), (evaluated, _) = run(network, {"a": X, "b": X + 1})
    assert set(variables.params) == {"Dense_0"}
    np.testing.assert_allclose(
        variables.collections["memory"]["last"], X.mean(0), rtol=1e-5, atol=1e-6
    )
    np.testing.assert_array_equal(rest["b"], X + 1)
    assert np.all(trained != 0) and np.all(evaluated == 0)


def test_apply_of_an_nnx_module_gets_the_module_with_its_variables():
    def call(module, variables, x, train, rngs):
        assert variables is None
        return module.dense(x["only"]) * train + rngs.normal((16, 32))

    _, trained, evaluated = run(make_network(NETS["partial"], call), {"only": X})
    assert not np.allclose(trained, evaluated, atol=0.1)


def test_a_pair_of_outputs_is_not_taken_for_updates():
    def call(module, variables, x, train, rngs):
        return module.apply(variables, x, rngs=rngs), {"auxiliary": x}

    _, (_, rest), _ = run(make_network(LinenTied(), call))
    np.testing.assert_array_equal(rest["auxiliary"], X)


class Inner(nn.Module):
    layer: str

    @nn.compact
    def __call__(self, x):
        if self.layer == "attention":
            return nn.MultiHeadDotProductAttention(1, dropout_rate=0.1)(x[None])
        if self.layer == "norm":
            return nn.BatchNorm(use_running_average=False)(x)
        return nn.Dropout(0.5, deterministic=False)(x)


class Outer(nn.Module):
    layer: str

    @nn.compact
    def __call__(self, x):
        return nn.remat(Inner)(self.layer)(nn.Dense(4)(x))


@pytest.mark.parametrize("layer", ["attention", "norm", "dropout"])
def test_a_layer_with_two_modes_below_a_module_without_is_refused(layer):
    network = make_network(Outer(layer))
    with pytest.raises(ValueError, match=r"Inner_0/.*takes no mode.*apply=lambda"):
        jax.eval_shape(network.init, KEY, X)


class Deaf(nn.Module):
    @nn.compact
    def __call__(self, x, train: bool):
        return nn.Dropout(0.5, deterministic=False)(nn.Dense(4)(x))


def test_a_draw_in_evaluation_without_a_key_is_explained():
    network = make_network(Deaf())
    variables = network.init(KEY, X)
    with pytest.raises(ValueError, match="in evaluation mode, which has no key"):
        network.evaluate(variables, X)


class Sown(nn.Module):
    keeps_last: bool

    @nn.compact
    def __call__(self, x):
        keywords = {"init_fn": lambda: 0.0, "reduce_fn": lambda old, new: new}
        self.sow("losses", "own", x.sum(), **(keywords if self.keeps_last else {}))
        return nn.Dense(2)(x)


def test_a_collection_that_grows_is_explained():
    variables, *_ = run(make_network(Sown(True)), steps=2)
    np.testing.assert_allclose(variables.collections["losses"]["own"], X.sum(), 1e-4)
    with pytest.raises(ValueError, match="'losses' of `Sown`.*`self.sow`, which app"):
        run(make_network(Sown(False)))


class Silent(nn.Module):
    def encode(self, x):
        return x


class TwoInputs(nn.Module):
    @nn.compact
    def __call__(self, x, mask, train: bool):
        return x * mask


def build_linen(rngs):
    return LinenTied()


def mistakes():
    built = nnx.Linear(2, 3, rngs=nnx.Rngs(0))
    yield built, None, TypeError, r"built already.*lambda rngs: Linear\("
    yield LinenTied, None, TypeError, r"Linen class.*`LinenTied\(\.\.\.\)`"
    yield "resnet", None, TypeError, "Flax Linen module, or a function of `rngs`"
    yield (lambda: built), None, TypeError, "function of `rngs` alone"
    yield (lambda a, b: built), None, TypeError, "function of `rngs` alone"
    yield Silent(), None, ValueError, "no `__call__`.*apply="
    yield TwoInputs(), None, ValueError, "also takes `mask`.*apply="
    yield LinenTied(), "train", TypeError, r"Model\(apply=...\)` takes a function"


@pytest.mark.parametrize(("module", "apply", "error", "message"), list(mistakes()))
def test_what_is_no_network_is_refused_at_once(module, apply, error, message):
    with pytest.raises(error, match=message):
        make_network(module, apply)


def test_what_shows_in_the_first_trace_only_is_refused_there():
    with pytest.raises(TypeError, match="returns no NNX module but LinenTied"):
        make_network(build_linen).init(KEY, X)
    network = make_network(LinenTied(), lambda module, variables, x, train, rngs: x)
    with pytest.raises(ValueError, match="never called `module.apply"):
        network.init(KEY, X)


def test_abstract_outputs_are_found_once_for_equal_networks():
    calls = []

    class Counted(nn.Module):
        @nn.compact
        def __call__(self, x):
            calls.append(x.shape)
            return nn.Dense(3)(x)

    for _ in range(3):
        outputs = abstract_outputs(make_network(Counted()), "counted", X.astype("f8"))
        assert outputs.shape == (16, 3) and outputs.dtype == jnp.float32
    assert calls == [(16, 5)] * 2


def test_outputs_that_were_seen_need_no_trace():
    class Refused:
        def evaluate(self, variables, x):
            raise AssertionError("it was seen already")

    inputs = {"x": np.zeros((7, 5), np.float32)}
    seen = {"logits": np.zeros((7, 3), np.float32), "scale": 1.0}
    note_outputs("seen", inputs, seen)
    many = {"x": np.zeros((1000, 5), np.float32)}
    outputs = abstract_outputs(cast(Any, Refused()), "seen", many)
    assert outputs["logits"].shape == (1000, 3)
    assert outputs["scale"].shape == ()
