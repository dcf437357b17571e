"""Networks whose widths vary, as users write them."""

import dataclasses
from collections.abc import Callable

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx

import vtune as vt


RANDOM = np.random.default_rng(0)
VECTORS = RANDOM.normal(size=(64, 10)).astype(np.float32)
IMAGES = RANDOM.normal(size=(64, 8, 8, 3)).astype(np.float32)
SEQUENCES = RANDOM.normal(size=(64, 6, 5)).astype(np.float32)
TOKENS = RANDOM.integers(0, 11, size=(64, 7)).astype(np.int32)
LABELS = RANDOM.integers(0, 4, size=64).astype(np.int32)

# Widths that divide nothing are among them.
WIDTHS = (5, 17, 24)
EVEN = (8, 12, 24)


class Network(nn.Module):
    """A Linen network from a function of its width."""

    layers: Callable
    width: int

    @nn.compact
    def __call__(self, x, train: bool = False):
        return nn.Dense(4)(self.layers(x, self.width, train))


@dataclasses.dataclass(frozen=True)
class Case:
    """A family of networks: what it is made of, for which widths and data."""

    layers: Callable
    x: np.ndarray = dataclasses.field(default_factory=lambda: VECTORS)
    widths: tuple = WIDTHS
    module: Callable | None = None

    def model(self, width, number=0, optimizer=None):
        module = self.module(width) if self.module else Network(self.layers, width)
        # A large epsilon: where a true gradient is zero, Adam amplifies rounding.
        optimizer = optimizer or optax.adamw(3e-3 * (1 + number), eps=1e-3)
        return vt.Model(
            module, optimizer, "sparse_categorical_crossentropy", metrics=["accuracy"]
        )


def mlp(activation):
    def layers(x, width, train):
        x = activation(nn.Dense(width)(x))
        return activation(nn.Dense(width + 2)(x))

    return layers


def normalised(norm):
    def layers(x, width, train):
        x = nn.Dense(width)(x)
        x = norm(width, train)(x)
        x = nn.relu(x)
        return nn.gelu(norm(width, train)(nn.Dense(width)(x)))

    return layers


def dropout(x, width, train):
    x = nn.relu(nn.Dense(width)(x))
    return nn.Dropout(0.1 + width / 100, deterministic=not train)(x)


def cnn(x, width, train):
    x = nn.relu(nn.Conv(width, (3, 3))(x))
    x = nn.max_pool(x, (2, 2), strides=(2, 2))
    x = nn.relu(nn.Conv(width + 3, (3, 3), strides=(2, 2))(x))
    x = nn.Dropout(0.01 * width, deterministic=not train)(x)
    return nn.relu(nn.Dense(width)(x.reshape((x.shape[0], -1))))


def cnn_average(x, width, train):
    x = nn.relu(nn.Conv(width, (3, 3), padding="VALID")(x))
    x = nn.avg_pool(x, (2, 2), strides=(2, 2))
    return nn.gelu(nn.Conv(width, (1, 1))(x)).mean((1, 2))


def cnn_grouped(x, width, train):
    x = nn.relu(nn.GroupNorm(num_groups=4)(nn.Conv(width, (3, 3))(x)))
    x = nn.relu(nn.GroupNorm(num_groups=None, group_size=4)(nn.Conv(width, (3, 3))(x)))
    return x.max((1, 2))


def separable(x, width, train):
    x = nn.Conv(width, (1, 1))(x)
    x = nn.Conv(width, (3, 3), feature_group_count=width)(x)
    x = nn.BatchNorm(use_running_average=not train)(x)
    x = nn.relu(nn.Conv(width + 1, (1, 1))(x))
    return x.mean((1, 2))


def residual(x, width, train):
    x = nn.Conv(width, (3, 3))(x)
    for features, strides in ((width, 1), (2 * width, 2)):
        y = nn.Conv(features, (3, 3), strides=strides, use_bias=False)(x)
        y = nn.relu(nn.BatchNorm(use_running_average=not train)(y))
        y = nn.Conv(features, (3, 3), use_bias=False)(y)
        y = nn.BatchNorm(use_running_average=not train)(y)
        if strides > 1:
            x = nn.Conv(features, (1, 1), strides=strides)(x)
        x = nn.relu(x + y)
    return x.mean((1, 2))


def transposed(x, width, train):
    x = nn.relu(nn.ConvTranspose(width, (3, 3), strides=(2, 2))(x))
    return nn.Conv(width, (3, 3), strides=(4, 4))(x).reshape((x.shape[0], -1))


def recurrent(cell):
    def layers(x, width, train):
        return nn.RNN(cell(width))(x)[:, -1]

    return layers


def transformer(x, size, train):
    model, heads, hidden, *head = size
    features = heads * head[0] if head else model
    x = nn.Dense(model)(x)
    x = x + nn.Embed(x.shape[1], model)(jnp.arange(x.shape[1]))
    mask = nn.make_causal_mask(jnp.ones(x.shape[:2]))
    for _ in range(1):
        y = nn.LayerNorm()(x)
        y = nn.MultiHeadDotProductAttention(
            heads, qkv_features=features, dropout_rate=0.1, deterministic=not train
        )(y, y, mask=mask)
        x = x + y
        y = nn.Dense(model)(nn.gelu(nn.Dense(hidden)(nn.LayerNorm()(x))))
        x = x + nn.Dropout(0.05, deterministic=not train)(y)
    return nn.LayerNorm()(x).mean(1)


def embedding(x, width, train):
    return nn.Dense(width)(nn.Embed(11, width)(x).mean(1))


class Tied(nn.Module):
    width: int

    @nn.compact
    def __call__(self, x, train: bool = False):
        embed = nn.Embed(11, self.width)
        return nn.Dense(4)(
            embed.attend(nn.tanh(nn.Dense(self.width)(embed(x)))).mean(1)
        )


def dense_connections(x, width, train):
    for _ in range(3):
        x = jnp.concatenate([x, nn.relu(nn.Dense(width)(x))], -1)
    return x


def gated(x, width, train):
    x = nn.glu(nn.Dense(2 * width)(x))
    a, b = jnp.split(nn.Dense(2 * width)(x), 2, axis=-1)
    return nn.silu(a) * b


def maximum(x, width, train):
    x = nn.Dense(width)(x)
    return jnp.concatenate([x.max(-1, keepdims=True), nn.softmax(x)], -1)


def deviation(x, width, train):
    x = nn.Dense(width)(x)
    return (x - x.mean(-1, keepdims=True)) / (x.std(-1, keepdims=True) + 1e-3)


def sorted_units(x, width, train):
    x = nn.Dense(width)(x)
    return jnp.concatenate([jnp.sort(x, -1), jnp.median(x, -1, keepdims=True)], -1)


def best_units(x, width, train):
    x = nn.Dense(width)(x)
    return (
        jax.lax.top_k(x, 3)[0] + x.argmax(-1, keepdims=True) + jnp.cumsum(x, -1)[:, :3]
    )


def remat(x, width, train):
    return nn.remat(lambda m, x: nn.relu(m(x)))(nn.Dense(width), x)


class ExampleMLP(nnx.Module):
    def __init__(self, width, rngs):
        self.first = nnx.Linear(10, width, rngs=rngs)
        self.norm = nnx.BatchNorm(width, rngs=rngs)
        self.dropout = nnx.Dropout(0.2, rngs=rngs)
        self.last = nnx.Linear(width, 4, rngs=rngs)

    def __call__(self, x):
        return self.last(self.dropout(nnx.relu(self.norm(self.first(x)))))


class ExampleCNN(nnx.Module):
    def __init__(self, width, rngs):
        self.conv = nnx.Conv(3, width, (3, 3), rngs=rngs)
        self.norm = nnx.GroupNorm(width, num_groups=1, rngs=rngs)
        self.last = nnx.Linear(64 * width, 4, rngs=rngs)

    def __call__(self, x):
        x = nnx.gelu(self.norm(self.conv(x)))
        return self.last(x.reshape((x.shape[0], -1)))


def _batch_norm(width, train):
    return nn.BatchNorm(use_running_average=not train)


CASES = {
    "MLP, ReLU": Case(mlp(nn.relu)),
    "MLP, GELU": Case(mlp(nn.gelu)),
    "MLP, SiLU": Case(mlp(nn.silu)),
    "MLP, sigmoid": Case(mlp(nn.sigmoid)),
    "MLP, tanh": Case(mlp(nn.tanh)),
    "MLP, leaky ReLU": Case(mlp(nn.leaky_relu)),
    "MLP, softplus": Case(mlp(nn.softplus)),
    "LayerNorm": Case(normalised(lambda width, train: nn.LayerNorm())),
    "RMSNorm": Case(normalised(lambda width, train: nn.RMSNorm())),
    "BatchNorm": Case(normalised(_batch_norm)),
    "GroupNorm, 4 groups": Case(
        normalised(lambda width, train: nn.GroupNorm(num_groups=4)), widths=EVEN
    ),
    "GroupNorm, groups of 4": Case(
        normalised(lambda width, train: nn.GroupNorm(num_groups=None, group_size=4)),
        widths=EVEN,
    ),
    "dropout, varying rate": Case(dropout),
    "CNN, Flatten, dropout": Case(cnn, IMAGES),
    "CNN, average pooling": Case(cnn_average, IMAGES),
    "CNN, GroupNorm": Case(cnn_grouped, IMAGES, EVEN),
    "CNN, depthwise separable": Case(separable, IMAGES),
    "CNN, residual with projection": Case(residual, IMAGES),
    "CNN, transposed": Case(transposed, IMAGES),
    "LSTM": Case(recurrent(nn.LSTMCell), SEQUENCES),
    "GRU": Case(recurrent(nn.GRUCell), SEQUENCES),
    "Transformer, model width": Case(
        transformer, SEQUENCES, ((8, 2, 12), (12, 2, 12), (16, 2, 12))
    ),
    "Transformer, MLP width": Case(
        transformer, SEQUENCES, ((8, 2, 5), (8, 2, 17), (8, 2, 24))
    ),
    "Transformer, heads": Case(
        transformer, SEQUENCES, ((16, 2, 9, 4), (16, 3, 9, 4), (16, 5, 9, 6))
    ),
    "Transformer, all": Case(
        transformer, SEQUENCES, ((8, 2, 5), (12, 4, 17), (20, 5, 20))
    ),
    "embedding": Case(embedding, TOKENS),
    "tied embedding": Case(embedding, TOKENS, module=Tied),
    "dense connections": Case(dense_connections),
    "gated units": Case(gated),
    "maximum and softmax": Case(maximum),
    "standard deviation": Case(deviation),
    "sort and median": Case(sorted_units),
    "top-k, argmax, cumulative sum": Case(best_units),
    "NNX MLP": Case(mlp(nn.relu), module=lambda w: lambda rngs: ExampleMLP(w, rngs)),
    "NNX CNN": Case(cnn, IMAGES, module=lambda w: lambda rngs: ExampleCNN(w, rngs)),
}
