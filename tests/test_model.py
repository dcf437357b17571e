"""A model's three pure functions, on the networks and optimizers that people use."""

import functools
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx

from vtune.components.losses import resolve_loss
from vtune.components.optimizer import resolve_optimizer
from vtune.components.penalty import Penalty
from vtune.fusion.trace import SplitTrainable
from vtune.model import Model, ModelState
from vtune.trial import Trainable


KEY = jax.random.key(3)
RNG = np.random.default_rng(1)
IMAGES = RNG.normal(size=(16, 6, 6, 2)).astype(np.float32)
TOKENS = RNG.integers(0, 20, size=(16, 6))
LABELS = np.arange(16) % 3
SPARSE = "sparse_categorical_crossentropy"


class MLP(nn.Module):
    width: int = 16
    rate: float = 0.25
    dtype: type = jnp.float32

    @nn.compact
    def __call__(self, x, train: bool = False):
        x = x.reshape((x.shape[0], -1))
        x = nn.relu(nn.Dense(self.width, param_dtype=self.dtype, dtype=self.dtype)(x))
        self.sow("intermediates", "hidden", x)
        x = nn.Dropout(self.rate, deterministic=not train)(x)
        return nn.Dense(3, param_dtype=self.dtype, dtype=self.dtype)(x)


class CNN(nn.Module):
    @nn.compact
    def __call__(self, x, training: bool):
        x = nn.Conv(4, (3, 3))(x)
        x = nn.relu(nn.BatchNorm(use_running_average=not training)(x))
        x = nn.max_pool(x, (2, 2), strides=(2, 2))
        return nn.Dense(3)(x.reshape((x.shape[0], -1)))


class LSTM(nn.Module):
    @nn.compact
    def __call__(self, x):
        x = nn.Embed(20, 8)(x)
        return nn.Dense(3)(jnp.asarray(nn.RNN(nn.OptimizedLSTMCell(8))(x))[:, -1])


class Transformer(nn.Module):
    """A block with tied weights: the embedding reads out as well."""

    @nn.compact
    def __call__(self, x, deterministic: bool):
        embed = nn.Embed(20, 8)
        x = embed(x)
        attention = nn.MultiHeadDotProductAttention(2, dropout_rate=0.1)
        x = x + attention(nn.LayerNorm()(x), deterministic=deterministic)
        x = x + nn.Dense(8)(nn.gelu(nn.Dense(16)(nn.LayerNorm()(x))))
        return nn.Dense(3)(embed.attend(x.mean(1)))


class NnxMLP(nnx.Module):
    def __init__(self, width, *, rngs: nnx.Rngs, dtype=jnp.float32):
        keywords = dict(param_dtype=dtype, dtype=dtype, rngs=rngs)
        self.layers = nnx.List(
            [nnx.Linear(72, width, **keywords), nnx.Linear(width, 3, **keywords)]
        )
        self.dropout = nnx.Dropout(0.25, rngs=rngs)

    def __call__(self, x):
        first, last = self.layers
        return last(self.dropout(nnx.relu(first(x.reshape((x.shape[0], -1))))))


class NnxCNN(nnx.Module):
    def __init__(self, rngs: nnx.Rngs):
        self.conv = nnx.Conv(2, 4, (3, 3), rngs=rngs)
        self.norm = nnx.BatchNorm(4, rngs=rngs)
        self.head = nnx.Linear(36, 3, rngs=rngs)
        self.calls = nnx.Variable(jnp.zeros((), jnp.int32))

    def __call__(self, x):
        self.calls[...] += 1
        x = nnx.max_pool(nnx.relu(self.norm(self.conv(x))), (2, 2), strides=(2, 2))
        return self.head(x.reshape((x.shape[0], -1)))


class NnxLSTM(nnx.Module):
    def __init__(self, rngs: nnx.Rngs):
        self.embed = nnx.Embed(20, 8, rngs=rngs)
        self.rnn = nnx.RNN(nnx.OptimizedLSTMCell(8, 8, rngs=rngs), rngs=rngs)
        self.head = nnx.Linear(8, 3, rngs=rngs)

    def __call__(self, x):
        return self.head(jnp.asarray(self.rnn(self.embed(x)))[:, -1])


class NnxTransformer(nnx.Module):
    def __init__(self, rngs: nnx.Rngs):
        self.embed = nnx.Embed(20, 8, rngs=rngs)
        self.norm = nnx.LayerNorm(8, rngs=rngs)
        self.attention = nnx.MultiHeadAttention(
            2, 8, dropout_rate=0.1, decode=False, rngs=rngs
        )
        self.head = nnx.Linear(20, 3, rngs=rngs)

    def __call__(self, x):
        x = self.embed(x)
        x = x + self.attention(self.norm(x))
        return self.head(self.embed.attend(x.mean(1)))


NETWORKS = {
    "mlp": (MLP(), IMAGES),
    "bfloat16": (MLP(dtype=jnp.bfloat16), IMAGES),
    "cnn": (CNN(), IMAGES),
    "lstm": (LSTM(), TOKENS),
    "transformer": (Transformer(), TOKENS),
    "nnx mlp": (functools.partial(NnxMLP, 16), IMAGES),
    "nnx bfloat16": (functools.partial(NnxMLP, 16, dtype=jnp.bfloat16), IMAGES),
    "nnx cnn": (NnxCNN, IMAGES),
    "nnx lstm": (lambda rngs: NnxLSTM(rngs=rngs), TOKENS),
    "nnx transformer": (NnxTransformer, TOKENS),
}
ALWAYS = {"mlp", "cnn", "lstm", "nnx bfloat16", "nnx transformer"}


def make(module, optimizer=None, loss: Any = SPARSE, **keywords):
    keywords.setdefault("metrics", ["accuracy"])
    return Model(module, optimizer or optax.adam(1e-2), loss, **keywords)


def train(model, batch, steps):
    """A plain loop over the steps: the last state, and the metrics of each step."""

    @jax.jit
    def loop(batch):
        def step(state, number):
            return model.train_step(state, batch, jax.random.fold_in(KEY, number))

        return jax.lax.scan(step, model.init(KEY, batch), jnp.arange(steps))

    return loop(batch)


@pytest.mark.parametrize(
    ("module", "x"),
    [
        pytest.param(*case, marks=() if name in ALWAYS else pytest.mark.ci, id=name)
        for name, case in NETWORKS.items()
    ],
)
def test_networks_learn_and_their_state_keeps_its_form(module, x):
    model, batch = make(module), (x, LABELS)
    assert isinstance(model, Trainable) and isinstance(model, SplitTrainable)
    model.check(*batch)
    state, trained = train(model, batch, 60)
    evaluated = jax.jit(model.eval_step)(state, batch)
    for metrics in (trained, evaluated):
        assert set(metrics) == {"loss", "accuracy"}
        assert {m.dtype.name for m in metrics.values()} == {"float32"}
    assert evaluated["loss"].shape == evaluated["accuracy"].shape == ()
    assert trained["loss"][0] == pytest.approx(np.log(3), abs=1.5)
    assert evaluated["loss"] < 0.8 * trained["loss"][0]
    names = {jax.tree_util.keystr(p) for p, _ in jax.tree.leaves_with_path(state)}
    assert not any("rngs" in name or "intermediates" in name for name in names)


def test_a_step_is_what_one_would_write_by_hand():
    optimizer = optax.adamw(1e-2, weight_decay=0.1)
    model, module, batch = make(MLP(), optimizer, l2=0.01), MLP(), (IMAGES, LABELS)
    state, metrics = train(model, batch, 3)

    params = module.init({"params": KEY}, IMAGES)["params"]
    optimizer_state = optimizer.init(params)

    def objective(params, key):
        keys = {"dropout": key}
        logits: Any = module.apply({"params": params}, IMAGES, True, rngs=keys)
        kernels = [params[name]["kernel"] for name in ("Dense_0", "Dense_1")]
        loss = optax.softmax_cross_entropy_with_integer_labels(logits, LABELS).mean()
        return loss + 0.01 * sum((k**2).sum() for k in kernels), logits

    @jax.jit
    def step(params, optimizer_state, key):
        (loss, logits), gradient = jax.value_and_grad(objective, has_aux=True)(
            params, key
        )
        updates, optimizer_state = optimizer.update(gradient, optimizer_state, params)
        accuracy = (logits.argmax(-1) == LABELS).mean()
        return optax.apply_updates(params, updates), optimizer_state, loss, accuracy

    loss: Any = None
    accuracy: Any = None
    for number in range(3):
        key = jax.random.fold_in(KEY, number)
        params, optimizer_state, loss, accuracy = step(params, optimizer_state, key)
    for ours, theirs in zip(
        jax.tree.leaves(state.params), jax.tree.leaves(params), strict=True
    ):
        np.testing.assert_allclose(ours, theirs, rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose(metrics["loss"][-1], loss, rtol=1e-5)
    np.testing.assert_allclose(metrics["accuracy"][-1], accuracy)


def test_collections_are_those_of_the_training_steps():
    model, batch = make(NnxCNN), (IMAGES, LABELS)
    state, _ = train(model, batch, 4)
    assert state.collections["calls"] == 4
    assert np.any(state.collections["norm"]["mean"] != 0)
    outputs = jax.jit(model.outputs)(state, IMAGES)
    loss = resolve_loss("sparse_categorical_crossentropy")(outputs, LABELS)
    evaluated = jax.jit(model.eval_step)(state, batch)
    np.testing.assert_allclose(evaluated["loss"], loss, rtol=1e-5)
    # Evaluation mode: an image's outputs do not depend on the others of its batch.
    np.testing.assert_allclose(
        outputs[:2], model.outputs(state, IMAGES[:2]), rtol=1e-3, atol=1e-5
    )


def test_init_is_the_module_s_part_and_then_the_optimizer_s():
    model, batch = make(MLP(), optax.adam(0.1)), (IMAGES, LABELS)
    whole = model.init(KEY, batch)
    variables = model.init_variables(KEY, batch)
    parts = model.init_state(variables)
    assert isinstance(whole, ModelState)
    assert jax.tree.structure(whole) == jax.tree.structure(parts)
    for one, other in zip(jax.tree.leaves(whole), jax.tree.leaves(parts), strict=True):
        np.testing.assert_array_equal(one, other)
    np.testing.assert_array_equal(
        variables.params["Dense_1"]["kernel"],
        MLP().init(KEY, IMAGES)["params"]["Dense_1"]["kernel"],
    )


def test_a_batch_without_labels_and_one_of_trees():
    class Autoencoder(nn.Module):
        @nn.compact
        def __call__(self, x):
            return {"input": x["a"], "output": nn.Dense(2)(x["a"] + x["b"])}

    def reconstruction(outputs, y):
        assert y is None
        return jnp.mean(jnp.square(outputs["input"] - outputs["output"]), axis=-1)

    model = make(Autoencoder(), loss=reconstruction, metrics=[reconstruction])
    batch = ({"a": IMAGES, "b": IMAGES * 2},)
    state, metrics = train(model, batch, 100)
    assert metrics["loss"][-1] < 0.5 * metrics["loss"][0]
    np.testing.assert_array_equal(metrics["loss"], metrics["reconstruction"])
    assert model.outputs(state, batch[0])["output"].shape == IMAGES.shape
    with pytest.raises(ValueError, match=r"A batch is `\(x, y\)` or `\(x,\)`"):
        model.eval_step(state, (IMAGES, LABELS, LABELS))


@pytest.mark.parametrize("module", [MLP(rate=0.0), functools.partial(NnxMLP, 16)])
def test_the_penalty_by_hand(module):
    batch = (IMAGES, LABELS)
    plain = make(module, optax.sgd(0.0))
    state = jax.jit(plain.init)(KEY, batch)
    kernels = [np.asarray(p) for p in jax.tree.leaves(state.params) if p.ndim == 2]
    assert len(kernels) == 2
    l1 = sum(np.abs(kernel).sum() for kernel in kernels)
    l2 = sum((kernel**2).sum() for kernel in kernels)

    def losses(**factors):
        model = make(module, optax.sgd(0.0), **factors)

        @jax.jit
        def both(state):
            _, trained = model.train_step(state, batch, KEY)
            return jnp.stack([trained["loss"], model.eval_step(state, batch)["loss"]])

        return both(state)

    base = losses()
    np.testing.assert_allclose(losses(l1=0.1), base + 0.1 * l1, rtol=1e-5)
    np.testing.assert_allclose(losses(l2=0.3), base + 0.3 * l2, rtol=1e-5)
    together = losses(l1=0.1, l2=0.3)
    np.testing.assert_allclose(together, base + 0.1 * l1 + 0.3 * l2, rtol=1e-5)
    np.testing.assert_array_equal(losses(l1=0.0, l2=0.0), base)


def test_a_penalty_stays_in_the_program_once_given():
    def primitives(**factors):
        model = make(MLP(), **factors)
        batch = (IMAGES, LABELS)
        state = jax.eval_shape(model.init, KEY, batch)
        jaxpr = jax.make_jaxpr(model.train_step)(state, batch, KEY).jaxpr
        return [equation.primitive.name for equation in jaxpr.eqns]

    assert primitives(l2=0.0) == primitives(l2=0.1)
    assert len(primitives()) < len(primitives(l2=0.0)) < len(primitives(l1=0, l2=0.1))


@pytest.mark.parametrize("wrong", [-1.0, float("nan"), float("inf"), True, "0.1"])
def test_wrong_penalties_are_refused(wrong):
    with pytest.raises(ValueError, match=r"`Model\(l2=...\)` takes a number of at lea"):
        Penalty(**{"l2": wrong})


def test_a_penalty_on_nothing_is_refused_and_half_precision_is_summed_in_float32():
    with pytest.raises(ValueError, match="named `kernel`.*none among a/bias, weights"):
        Penalty(l1=0.1).add(
            jnp.zeros(()), {"a": {"bias": jnp.ones(2)}, "weights": jnp.ones(2)}
        )
    boxed = nn.Partitioned(jnp.full((4097,), 1, jnp.bfloat16), names=(None,))
    penalised = Penalty(l2=1.0).add(jnp.zeros(()), {"kernel": boxed})
    assert penalised == 4097 and penalised.dtype == jnp.float32


OPTIMIZERS = {
    "momentum": optax.sgd(optax.cosine_decay_schedule(0.1, 40), momentum=0.9),
    "clipping": optax.chain(optax.clip_by_global_norm(1.0), optax.rmsprop(1e-2)),
    "plateau": optax.chain(
        optax.adam(1e-2), optax.contrib.reduce_on_plateau(patience=2, cooldown=1)
    ),
    "prodigy": optax.contrib.prodigy(),
    "schedule-free": optax.contrib.schedule_free_adamw(1e-2),
    "polyak": optax.polyak_sgd(0.1),
    "injected": optax.inject_hyperparams(optax.adam)(1e-2),
    "every two": optax.MultiSteps(optax.adam(1e-2), 2).gradient_transformation(),
    "lbfgs": optax.lbfgs(0.05, linesearch=None),
}


@pytest.mark.parametrize("optimizer", OPTIMIZERS.values(), ids=OPTIMIZERS.keys())
def test_optimizers_of_many_kinds_train(optimizer):
    class Linear(nn.Module):
        @nn.compact
        def __call__(self, x):
            return nn.Dense(3)(x.reshape((x.shape[0], -1)))

    _, metrics = train(make(Linear(), optimizer), (IMAGES, LABELS), 30)
    assert metrics["loss"][-1] < 0.97 * metrics["loss"][0]


def test_the_optimizer_gets_the_loss_and_the_gradient():
    def update(updates, state, params=None, **extra):
        del state, params
        value, grad = extra.pop("value"), extra.pop("grad")
        assert not extra
        return jax.tree.map(jnp.zeros_like, updates), (value, optax.tree.norm(grad))

    optimizer = optax.GradientTransformationExtraArgs(
        lambda params: (jnp.zeros(()), jnp.zeros(())), update
    )
    model, batch = make(MLP(), optimizer, l2=0.1), (IMAGES, LABELS)
    state, metrics = train(model, batch, 1)
    value, norm = state.optimizer
    assert value == metrics["loss"][0] and norm > 0


@pytest.mark.parametrize(
    "optimizer",
    [
        optax.lbfgs(),
        optax.chain(optax.sgd(1.0), optax.scale_by_backtracking_linesearch(10)),
        optax.chain(optax.identity(), optax.chain(optax.scale_by_zoom_linesearch(9))),
        optax.masked(optax.lbfgs(), True),
        optax.partition({"a": optax.lbfgs(), "b": optax.sgd(1.0)}, "a"),
        optax.MultiSteps(optax.lbfgs(), 2).gradient_transformation(),
        optax.apply_if_finite(optax.named_chain(("search", optax.lbfgs())), 3),
    ],
)
def test_line_searches_are_refused_with_the_reason(optimizer):
    with pytest.raises(ValueError, match=r"line search.*`optax.lbfgs\(1e-2, linesea"):
        make(MLP(), optimizer)


class Adam:
    """Looks like an optimizer of Keras."""


@pytest.mark.parametrize(
    ("optimizer", "message"),
    [
        ("adam", r"got 'adam'\. Write `optax\.adam\(1e-3\)`"),
        ("SGD", r"Write `optax\.sgd\("),
        ("fancy", r"Optax's optimizers are functions"),
        (Adam(), r"Write `optax\.adam\(1e-3\)`"),
        (optax.adamw, r"the function `adamw` itself\. Call it: `optax\.adamw\(1e-3\)`"),
        (optax.chain, r"Call it: `chain\(\.\.\.\)`"),
        (optax.MultiSteps(optax.sgd(1.0), 2), r"Add `\.gradient_transformation\(\)`"),
        (None, r"such as `optax\.adam\(1e-3\)`, got None"),
    ],
)
def test_what_is_no_optimizer_is_refused_with_what_to_write(optimizer, message):
    with pytest.raises(TypeError, match=message):
        resolve_optimizer(optimizer)


def test_equal_models_have_equal_identities_but_for_the_optimizer():
    def loss(outputs, y):
        return jnp.mean(outputs) * jnp.mean(y)

    def call(module, variables, x, train, rngs):
        return module.apply(variables, x, train, rngs=rngs)

    def identities(**changes):
        settings: dict[str, Any] = dict(
            module=MLP(16, 0.5),
            optimizer=optax.adam(1e-3),
            loss="sparse_categorical_crossentropy",
            metrics=["accuracy", "top_2_accuracy", ("own", loss)],
        )
        return Model(**(settings | changes)).identity

    same = identities()
    hash(same)
    assert same == identities() == identities(optimizer=optax.sgd(0.1))
    partial = functools.partial(NnxMLP, 16)
    assert identities(module=partial) == identities(
        module=functools.partial(NnxMLP, 16)
    )
    others = [
        identities(module=MLP(16, 0.25)),
        identities(module=MLP(17, 0.5)),
        identities(module=partial),
        identities(loss="mse"),
        identities(loss=loss),
        identities(metrics=["accuracy"]),
        identities(metrics=["accuracy", "top_3_accuracy", ("own", loss)]),
        identities(l1=0.0),
        identities(l1=0.1),
        identities(l2=0.0),
        identities(apply=call),
    ]
    assert len({same, *others}) == 1 + len(others)


@pytest.mark.parametrize("module", [MLP(), functools.partial(NnxMLP, 16)])
def test_labels_are_checked_without_running_the_network(module):
    model = make(module)
    x = np.broadcast_to(np.float64(0), (10**9, 6, 6, 2))  # 576 GB, were it run
    with pytest.raises(ValueError, match="the first is 3"):
        model.check(IMAGES.astype(np.float64), LABELS + 1)
    with pytest.raises(ValueError, match="one-hot"):
        model.check(IMAGES, np.eye(3)[LABELS])
    with pytest.raises(ValueError, match="one integer for each row"):
        model.check(x, LABELS)
    model.check(IMAGES, LABELS)
    make(module, loss=lambda outputs, y: outputs, metrics=[]).check(IMAGES, None)
