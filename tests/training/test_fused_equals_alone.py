"""Trials that train together give what each gives alone.

*Alone* is a plain jitted loop over `model.train_step`, written here; only the
documented random keys are shared with the package.
"""

import functools

import flax.linen as nn
import jax
import numpy as np
import optax
import pytest
from flax import nnx

import vtune as vt


TRIALS = 8
BATCH = 32
SEED = 3


@pytest.fixture(scope="module")
def data():
    from sklearn.datasets import load_digits

    digits = load_digits()
    x = (digits.data / 16).astype(np.float32)
    y = digits.target.astype(np.int32)
    return (x[:256], y[:256]), (x[256:420], y[256:420])


# ---------------------------------------------------------------------------- networks


class LinenMLP(nn.Module):
    dropout: float = 0.0

    @nn.compact
    def __call__(self, x, train: bool = False):
        x = nn.relu(nn.Dense(24)(x))
        x = nn.Dropout(self.dropout, deterministic=not train)(x)
        return nn.Dense(10)(x)


class NnxMLP(nnx.Module):
    def __init__(self, dropout: float, *, rngs: nnx.Rngs):
        self.hidden = nnx.Linear(64, 24, rngs=rngs)
        self.dropout = nnx.Dropout(dropout, rngs=rngs)
        self.out = nnx.Linear(24, 10, rngs=rngs)

    def __call__(self, x):
        return self.out(self.dropout(nnx.relu(self.hidden(x))))


class LinenBatchNorm(nn.Module):
    dropout: float = 0.0

    @nn.compact
    def __call__(self, x, train: bool = False):
        x = nn.Conv(6, (3, 3))(x.reshape(-1, 8, 8, 1))
        x = nn.relu(nn.BatchNorm(use_running_average=not train)(x))
        x = nn.avg_pool(x, (2, 2), (2, 2)).reshape(x.shape[0], -1)
        x = nn.Dropout(self.dropout, deterministic=not train)(x)
        return nn.Dense(10)(x)


class NnxBatchNorm(nnx.Module):
    def __init__(self, dropout: float, *, rngs: nnx.Rngs):
        self.hidden = nnx.Linear(64, 24, rngs=rngs)
        self.norm = nnx.BatchNorm(24, rngs=rngs)
        self.dropout = nnx.Dropout(dropout, rngs=rngs)
        self.out = nnx.Linear(24, 10, rngs=rngs)

    def __call__(self, x):
        return self.out(self.dropout(nnx.relu(self.norm(self.hidden(x)))))


class LinenLSTM(nn.Module):
    dropout: float = 0.0

    @nn.compact
    def __call__(self, x, train: bool = False):
        x = nn.RNN(nn.OptimizedLSTMCell(12))(x.reshape(-1, 8, 8))[:, -1]
        x = nn.Dropout(self.dropout, deterministic=not train)(x)
        return nn.Dense(10)(x)


class NnxLSTM(nnx.Module):
    def __init__(self, dropout: float, *, rngs: nnx.Rngs):
        self.cell = nnx.RNN(nnx.LSTMCell(8, 12, rngs=rngs))
        self.dropout = nnx.Dropout(dropout, rngs=rngs)
        self.out = nnx.Linear(12, 10, rngs=rngs)

    def __call__(self, x):
        return self.out(self.dropout(self.cell(x.reshape(-1, 8, 8))[:, -1]))


class LinenTransformer(nn.Module):
    dropout: float = 0.0

    @nn.compact
    def __call__(self, x, train: bool = False):
        x = nn.Dense(16)(x.reshape(-1, 8, 8))
        h = nn.LayerNorm()(x)
        x = x + nn.MultiHeadDotProductAttention(
            num_heads=2, dropout_rate=self.dropout, deterministic=not train
        )(h, h)
        x = x + nn.Dense(16)(nn.gelu(nn.Dense(24)(nn.LayerNorm()(x))))
        return nn.Dense(10)(nn.LayerNorm()(x).mean(1))


class NnxTransformer(nnx.Module):
    def __init__(self, dropout: float, *, rngs: nnx.Rngs):
        self.embed = nnx.Linear(8, 16, rngs=rngs)
        self.norm = nnx.LayerNorm(16, rngs=rngs)
        self.attention = nnx.MultiHeadAttention(
            2, 16, dropout_rate=dropout, decode=False, rngs=rngs
        )
        self.up = nnx.Linear(16, 24, rngs=rngs)
        self.down = nnx.Linear(24, 16, rngs=rngs)
        self.out = nnx.Linear(16, 10, rngs=rngs)

    def __call__(self, x):
        x = self.embed(x.reshape(-1, 8, 8))
        x = x + self.attention(self.norm(x))
        x = x + self.down(nnx.gelu(self.up(x)))
        return self.out(x.mean(1))


LINEN = {
    "mlp": LinenMLP,
    "batchnorm": LinenBatchNorm,
    "lstm": LinenLSTM,
    "transformer": LinenTransformer,
}
NNX = {
    "mlp": NnxMLP,
    "batchnorm": NnxBatchNorm,
    "lstm": NnxLSTM,
    "transformer": NnxTransformer,
}


def module(kind: str, flavour: str, dropout: float):
    if flavour == "linen":
        return LINEN[kind](dropout)
    return lambda rngs: NNX[kind](dropout, rngs=rngs)


# ------------------------------------------------------------------------------- spaces


def adam_warmup(hp, kind, flavour):
    rate = hp.Float("rate", 1e-3, 1e-2, sampling="log")
    warmup = hp.Int("warmup", 2, 6)
    schedule = optax.warmup_cosine_decay_schedule(0.0, rate, warmup, hp.total_steps)
    return module(kind, flavour, 0.0), optax.adam(schedule, eps=1e-3), {}


def adamw(hp, kind, flavour):
    decay = hp.Float("decay", 1e-4, 1e-1, sampling="log")
    optimizer = optax.adamw(5e-3, eps=1e-3, weight_decay=decay)
    return module(kind, flavour, 0.0), optimizer, {}


def momentum(hp, kind, flavour):
    rate = hp.Float("rate", 1e-3, 1e-1, sampling="log")
    optimizer = optax.sgd(rate, momentum=hp.Float("momentum", 0.5, 0.95))
    return module(kind, flavour, 0.0), optimizer, {}


def dropout(hp, kind, flavour):
    optimizer = optax.adam(hp.Float("rate", 1e-3, 1e-2), eps=1e-3)
    return module(kind, flavour, hp.Float("dropout", 0.1, 0.6)), optimizer, {}


def smoothing(hp, kind, flavour):
    alpha = hp.Float("smoothing", 0.01, 0.3)

    def loss(outputs, y):
        labels = optax.smooth_labels(jax.nn.one_hot(y, 10), alpha)
        return optax.softmax_cross_entropy(outputs, labels)

    return module(kind, flavour, 0.0), optax.adam(5e-3, eps=1e-3), {"loss": loss}


def clipping(hp, kind, flavour):
    clip = optax.clip_by_global_norm(hp.Float("clip", 0.05, 1.0, sampling="log"))
    return module(kind, flavour, 0.0), optax.chain(clip, optax.sgd(0.1)), {}


def penalty(hp, kind, flavour):
    l2 = hp.Float("l2", 1e-5, 1e-2, sampling="log")
    return module(kind, flavour, 0.0), optax.sgd(0.1), {"l2": l2}


SPACES = [adam_warmup, adamw, momentum, dropout, smoothing, clipping, penalty]
CASES = [
    (space, kind, flavour, lanes)
    for kind in ("mlp", "batchnorm", "lstm", "transformer")
    for space in SPACES
    for flavour in ("linen", "nnx")
    for lanes in ("vmap", "map")
]
QUICK = {
    (adamw, "mlp", "nnx", "vmap"),
    (clipping, "mlp", "linen", "map"),
}
# Each space and network is there with each library and each form of lanes; the other
# half of the combinations is for `-m long`.
PAIRS = {("linen", "vmap"), ("nnx", "map")}


def marks(case):
    if case in QUICK:
        return ()
    return pytest.mark.ci if case[2:] in PAIRS else pytest.mark.long


PARAMETERS = [
    pytest.param(
        *case, id=f"{case[0].__name__}-{'-'.join(case[1:])}", marks=marks(case)
    )
    for case in CASES
]


# -------------------------------------------------------------------------------- alone


# Compiles three times as fast, and computes the same up to rounding.
jitted = functools.partial(
    jax.jit, compiler_options={"xla_backend_optimization_level": 0}
)


def alone(model, number, training, validation):
    (x, y), (x_val, y_val) = training, validation
    lane = jax.random.fold_in(jax.random.key(SEED), number)
    init, order, step = jax.random.split(lane, 3)
    state = model.init(init, (x[:BATCH], y[:BATCH]))
    rows = jax.random.permutation(jax.random.fold_in(order, 0), len(x))
    train_step = jitted(model.train_step)
    history = []
    for index in range(len(x) // BATCH):
        batch = rows[index * BATCH : (index + 1) * BATCH]
        key = jax.random.fold_in(step, index)
        state, metrics = train_step(state, (x[batch], y[batch]), key)
        history.append(metrics)
    results = {
        name: float(np.mean([metrics[name] for metrics in history]))
        for name in history[0]
    }
    for name, value in jitted(model.eval_step)(state, (x_val, y_val)).items():
        results[f"val_{name}"] = float(value)
    return state, results


def negligible(plain, state, training):
    """Leaves of `params` whose gradient is below 1e-6 of the global norm.

    Args:
        plain: the model with `optax.sgd(1.0)`, whose steps are its gradients.
        state: the state of the model with its own optimizer.
        training: x and y.
    """
    x, y = training
    before = plain.init(jax.random.key(0), (x[:BATCH], y[:BATCH]))
    before = before.replace(params=state.params, collections=state.collections)
    after, _ = jitted(plain.train_step)(before, (x, y), jax.random.key(1))
    gradients = [
        np.linalg.norm(np.asarray(a - b).ravel())
        for a, b in zip(jax.tree.leaves(before.params), jax.tree.leaves(after.params))
    ]
    total = np.linalg.norm(gradients)
    return [gradient < 1e-6 * total for gradient in gradients]


@pytest.mark.parametrize(("space", "kind", "flavour", "lanes"), PARAMETERS)
def test_an_epoch_fused_equals_an_epoch_alone(space, kind, flavour, lanes, data):
    training, validation = data

    def build(hp, plain=False):
        network, optimizer, options = space(hp, kind, flavour)
        settings = {"loss": "sparse_categorical_crossentropy", **options}
        optimizer = optax.sgd(1.0) if plain else optimizer
        return vt.Model(network, optimizer, metrics=["accuracy"], **settings)

    tuner = vt.RandomSearch(
        build,
        "val_loss",
        max_trials=TRIALS,
        max_epochs=1,
        seed=SEED,
        lanes=lanes,
        keep_models=TRIALS,
    )
    tuner.search(*training, validation_data=validation, batch_size=BATCH, verbose=0)
    assert [trial.status for trial in tuner.trials] == [
        vt.TrialStatus.COMPLETED
    ] * TRIALS
    assert tuner.statistics.training_programs == 1

    models = {model.origin[1]: model for model in tuner.get_best_models(TRIALS)}
    best = {hp.origin[1]: hp for hp in tuner.get_best_hyperparameters(TRIALS)}
    assert set(models) == set(best) == set(range(TRIALS))
    differing = set()
    for number, trial in enumerate(tuner.trials):
        model = tuner.hypermodel.build(best[number])
        state, metrics = alone(model, number, training, validation)
        fused = {name: values[-1] for name, values in trial.metrics.items()}
        assert fused.keys() == metrics.keys()
        for name, value in metrics.items():
            samples = len(validation[0] if name.startswith("val_") else training[0])
            tolerance = 1.01 / samples if "accuracy" in name else 1e-4 * abs(value)
            assert abs(fused[name] - value) <= tolerance, name
        skipped = [False] * len(jax.tree.leaves(state.params))
        if space not in (momentum, clipping, penalty):
            skipped = negligible(build(best[number], plain=True), state, training)
        leaves = jax.tree.leaves(state.params)
        ours = jax.tree.leaves(models[number].params)
        for a, b, skip in zip(leaves, ours, skipped, strict=True):
            distance = np.linalg.norm(np.ravel(a) - np.ravel(b))
            bound = 1e-4 * (np.linalg.norm(np.ravel(a)) + 1e-3 * np.sqrt(np.size(a)))
            assert skip or distance <= bound
        differing.add((metrics["loss"], metrics["val_loss"]))
    # The constants do differ: no trial got another one's.
    assert len(differing) == TRIALS
