"""Networks drawn at random, with widths that vary, each from one number."""

import dataclasses
from collections.abc import Callable

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax

import vtune as vt


BATCH = 8
CLASSES = 4
NARROWEST, WIDEST = 3, 13

_DRAWN = np.random.default_rng(0)
SAMPLES = {
    "vectors": _DRAWN.normal(size=(2 * BATCH, 7)).astype(np.float32),
    "images": _DRAWN.normal(size=(2 * BATCH, 8, 8, 3)).astype(np.float32),
    "sequences": _DRAWN.normal(size=(2 * BATCH, 6, 5)).astype(np.float32),
    "tokens": _DRAWN.integers(0, 11, size=(2 * BATCH, 5)).astype(np.int32),
}
LABELS = _DRAWN.integers(0, CLASSES, size=2 * BATCH).astype(np.int32)

ACTIVATIONS = (
    nn.relu,
    nn.gelu,
    nn.silu,
    nn.tanh,
    nn.sigmoid,
    nn.softplus,
    nn.elu,
    nn.leaky_relu,
    nn.hard_swish,
    nn.log_sigmoid,
    jnp.abs,
    jnp.sin,
)
INITIALIZERS = (
    nn.initializers.lecun_normal(),
    nn.initializers.he_uniform(),
    nn.initializers.glorot_normal(),
    nn.initializers.truncated_normal(0.2),
    nn.initializers.uniform(0.3),
    nn.initializers.orthogonal(),
)


def pick(random, *options):
    """One of some things, each as likely."""
    return options[random.integers(len(options))]


def activated(x, random):
    return pick(random, *ACTIVATIONS)(x)


def dense(random):
    """What makes a dense layer of a width."""
    initializer = pick(random, *INITIALIZERS)
    bias = bool(random.random() < 0.8)
    return lambda width: nn.Dense(width, kernel_init=initializer, use_bias=bias)


def normalised(x, train, random):
    norm = pick(
        random,
        lambda: nn.LayerNorm(),
        lambda: nn.LayerNorm(use_bias=False, use_fast_variance=False),
        lambda: nn.RMSNorm(),
        lambda: nn.BatchNorm(use_running_average=not train),
        lambda: nn.BatchNorm(use_running_average=not train, momentum=0.8),
        lambda: nn.GroupNorm(num_groups=1),
    )
    return norm()(x)


# ------------------------------------------------------- pieces on the last axis of any


def layer(x, width, train, random):
    x = dense(random)(width)(x)
    if random.random() < 0.4:
        x = normalised(x, train, random)
    return activated(x, random)


def two_layers(x, width, train, random):
    x = activated(dense(random)(width)(x), random)
    return activated(dense(random)(width + random.integers(3))(x), random)


def normalisation(x, width, train, random):
    return normalised(dense(random)(width)(x), train, random)


def groups(x, width, train, random):
    settings = pick(random, {"num_groups": 4}, {"num_groups": None, "group_size": 4})
    x = dense(random)(4 * width)(x)
    return activated(nn.GroupNorm(**settings)(x), random)


def dropout(x, width, train, random):
    rate = pick(random, 0.2, 0.03 * width)
    shared = pick(random, (), (-1,))
    x = dense(random)(width)(x)
    return nn.Dropout(rate, broadcast_dims=shared, deterministic=not train)(x)


class Noise(nn.Module):
    scale: float
    train: bool

    @nn.compact
    def __call__(self, x):
        if not self.train:
            return x
        return x + self.scale * jax.random.normal(self.make_rng("dropout"), x.shape)


def noise(x, width, train, random):
    return Noise(0.1 + width / 100, train)(dense(random)(width)(x))


def residual(x, width, train, random):
    y = normalised(x, train, random)
    y = activated(dense(random)(width)(y), random)
    return x + dense(random)(x.shape[-1])(y)


def connected(x, width, train, random):
    parts = [x, activated(dense(random)(width)(x), random)]
    if random.random() < 0.3:
        parts.append(dense(random)(width + 1)(x))
    order = random.permutation(len(parts))
    return jnp.concatenate([parts[place] for place in order], -1)


def stacked(x, width, train, random):
    parts = [activated(dense(random)(width)(x), random) for _ in range(3)]
    x = jnp.stack(parts, pick(random, -1, -2))
    return pick(
        random,
        lambda x: x.max(-1),
        lambda x: x.sum(-2),
        lambda x: x.reshape(*x.shape[:-2], -1),
        lambda x: (x * nn.softmax(x, -1)).mean(-2),
    )(x)


def gated(x, width, train, random):
    x = dense(random)(2 * width)(x)
    a, b = jnp.split(x, 2, -1)
    return pick(
        random,
        lambda: nn.glu(x),
        lambda: nn.silu(a) * b,
        lambda: jnp.minimum(a, b),
        lambda: jnp.hypot(a, b + 0.1),
        lambda: jnp.logaddexp(a, b),
    )()


def pieces_of(x, width, train, random):
    x = dense(random)(3 * width + 2)(x)
    a, b, c = jnp.split(x, [width, 2 * width], -1)
    return pick(
        random,
        lambda: jnp.concatenate([c, b, a], -1),
        lambda: jnp.concatenate([a * nn.sigmoid(b), c], -1),
        lambda: a + b * c.mean(-1, keepdims=True),
        lambda: jnp.concatenate([nn.tanh(a), b, c[..., :2]], -1),
        lambda: x[..., width:] + 1,
    )()


def maxout(x, width, train, random):
    x = dense(random)(3 * width)(x)
    if random.random() < 0.5:
        return x.reshape(*x.shape[:-1], 3, width).max(-2)
    return x.reshape(*x.shape[:-1], width, 3).max(-1)


def excitation(x, width, train, random):
    y = activated(dense(random)(width)(x), random)
    return x * nn.sigmoid(dense(random)(x.shape[-1])(y))


def ordered(x, width, train, random):
    x = dense(random)(width)(x)
    return pick(
        random,
        lambda: jnp.sort(x, -1),
        lambda: -jnp.sort(-x, -1),
        lambda: jnp.sort(x, -1, descending=True),
        lambda: jnp.take_along_axis(x, jnp.argsort(x[..., ::-1], -1), -1),
        lambda: x + jnp.median(x, -1, keepdims=True),
        lambda: x - jnp.quantile(x, 0.3, axis=-1, keepdims=True),
        lambda: jax.lax.top_k(x, 3)[0],
        lambda: x * jnp.argsort(jnp.argsort(x, -1), -1),
    )()


def cumulative(x, width, train, random):
    x = dense(random)(width)(x)
    # JAX unrolls the derivatives of all but the sum, as often as their length asks for.
    still = jax.lax.stop_gradient(x)
    return pick(
        random,
        lambda: jnp.cumsum(x, -1),
        lambda: jnp.cumsum(x[..., ::-1], -1)[..., ::-1],
        lambda: jax.lax.cumsum(x, x.ndim - 1, reverse=True),
        lambda: x * jax.lax.cummax(still, x.ndim - 1),
        lambda: x + jax.lax.cummin(still, x.ndim - 1, reverse=True),
        lambda: x * jnp.cumprod(1 + 0.3 * nn.tanh(still), -1),
        lambda: x - jax.lax.cumlogsumexp(still, x.ndim - 1),
    )()


def reduced(x, width, train, random):
    x = dense(random)(width)(x)
    one = pick(
        random,
        lambda: x.mean(-1, keepdims=True),
        lambda: x.max(-1, keepdims=True),
        lambda: x.min(-1, keepdims=True),
        lambda: (1 + 0.3 * nn.tanh(x)).prod(-1, keepdims=True),
        lambda: jnp.sqrt(x.var(-1, keepdims=True) + 0.01),
        lambda: jnp.sqrt((x * x).sum(-1, keepdims=True) + 0.01),
        lambda: nn.logsumexp(x, -1, keepdims=True),
        lambda: 0.1 * x.argmax(-1, keepdims=True).astype(jnp.float32),
        lambda: 0.1 * (x > 0.1).sum(-1, keepdims=True).astype(jnp.float32),
        lambda: (x > 0.5).any(-1, keepdims=True).astype(jnp.float32),
        lambda: jnp.ptp(x, -1, keepdims=True),
    )()
    return jnp.concatenate([x, one], -1)


def distributed(x, width, train, random):
    x = dense(random)(width)(x)
    return pick(
        random,
        lambda: nn.softmax(x, -1),
        lambda: nn.log_softmax(x, -1),
        lambda: x * nn.softmax(2 * x, -1),
        lambda: (x - x.mean(-1, keepdims=True)) / (x.std(-1, keepdims=True) + 0.1),
        lambda: x / (jnp.abs(x).sum(-1, keepdims=True) + 0.1),
        lambda: x / (jnp.abs(x).max(-1, keepdims=True) + 0.1),
        lambda: nn.standardize(x, epsilon=0.01),
    )()


def moved(x, width, train, random):
    x = dense(random)(width)(x)
    edge = [(0, 0)] * (x.ndim - 1)
    return pick(
        random,
        lambda: x[..., ::-1],
        lambda: x[..., 1:] * x[..., :-1],
        lambda: jnp.diff(x, axis=-1),
        lambda: x[..., :2] + x[..., -1:],
        lambda: x[..., ::2],
        lambda: jnp.roll(x, 1, -1),
        lambda: jnp.pad(x, [*edge, (1, 2)], constant_values=0.5),
        lambda: jnp.repeat(x, 2, -1),
        lambda: jnp.concatenate([x, x[..., ::-1]], -1),
        lambda: jnp.tile(x, (1,) * (x.ndim - 1) + (2,)),
        lambda: x[..., jnp.array([0, 2, 1])],
    )()


def placed(x, width, train, random):
    x = dense(random)(width)(x)
    steps = jnp.arange(width)
    return pick(
        random,
        lambda: x * jnp.sin(steps / 3),
        lambda: x + nn.Embed(width, 1)(steps)[:, 0],
        lambda: x * jnp.linspace(0.5, 1, width),
        lambda: jnp.where(steps % 2 == 0, x, -x),
        lambda: x @ jnp.tril(jnp.ones((width, width))) / width,
        lambda: x + x @ jnp.eye(width)[::-1],
    )()


def chosen(x, width, train, random):
    x = dense(random)(width)(x)
    return pick(
        random,
        lambda: jnp.where(x > 0.3, x, 0.1 * x * x),
        lambda: jnp.clip(x, -0.5, 0.7),
        lambda: jnp.where(x > x.mean(-1, keepdims=True), x, 0.0),
        lambda: x + jax.nn.one_hot(x.argmax(-1), width),
        lambda: nn.Embed(width, 4)(x.argmax(-1)) * x.mean(-1, keepdims=True),
        lambda: jax.lax.stop_gradient(x) * x,
    )()


def outer(x, width, train, random):
    a, b = dense(random)(width)(x), nn.tanh(dense(random)(3)(x))
    pairs = a[..., :, None] * b[..., None, :]
    return pick(
        random,
        lambda: pairs.reshape(*x.shape[:-1], -1),
        lambda: pairs.swapaxes(-1, -2).reshape(*x.shape[:-1], -1),
        lambda: pairs.max(-1),
        lambda: jnp.einsum("...ij,...ik->...jk", pairs, pairs).reshape(
            *x.shape[:-1], 9
        ),
        lambda: pairs[..., 0] + pairs.sum(-1),
    )()


class Tied(nn.Module):
    width: int

    @nn.compact
    def __call__(self, x):
        draw = nn.initializers.lecun_normal()
        kernel = self.param("kernel", draw, (x.shape[-1], self.width))
        scale = self.param("scale", nn.initializers.ones, (self.width,))
        return nn.tanh(x @ kernel) * scale @ kernel.T


def tied(x, width, train, random):
    return Tied(width)(x)


def shared(x, width, train, random):
    x = dense(random)(width)(x)
    again = dense(random)(width)
    return again(nn.tanh(again(x)))


def remat(x, width, train, random):
    function = pick(random, *ACTIVATIONS)
    return nn.remat(lambda module, x: function(module(x)))(dense(random)(width), x)


def weight_norm(x, width, train, random):
    return activated(nn.WeightNorm(dense(random)(width))(x), random)


# --------------------------------------------------------------------------- on vectors


def features_as_steps(x, width, train, random):
    """The features are the steps of a sequence, of varying length."""
    x = nn.tanh(dense(random)(width)(x))[..., None]
    return pick(
        random,
        lambda: nn.RNN(nn.SimpleCell(3))(x)[:, -1],
        lambda: nn.RNN(nn.GRUCell(2), reverse=True)(x).mean(1),
        lambda: nn.Conv(3, (3,))(x).max(1),
        lambda: nn.max_pool(x, (2,), strides=(2,))[..., 0],
        lambda: nn.avg_pool(x, (3,), padding="SAME")[..., 0],
        lambda: -nn.max_pool(-x, (2,))[..., 0],
    )()


def similarity(x, width, train, random):
    x = nn.tanh(dense(random)(width)(x))
    return jnp.concatenate([x, x @ x.T / len(x)], -1)


def mixture(x, width, train, random):
    experts = nn.tanh(dense(random)(3 * width)(x)).reshape(-1, 3, width)
    weights = nn.softmax(dense(random)(3)(x))
    return jnp.einsum("be,bef->bf", weights, experts)


def slots(x, width, train, random):
    x = dense(random)(4 * width)(x).reshape(-1, 4, width)
    x = nn.MultiHeadDotProductAttention(2, qkv_features=4)(x)
    return x.reshape(len(x), -1)


# ------------------------------------------------------------------------- on sequences


def attention(x, width, train, random):
    heads, size = pick(random, (2, width), (width // 2, 2), (1, width))
    rate = pick(random, 0.0, 0.2)
    x = dense(random)(pick(random, width, 6))(x)
    mask = nn.make_causal_mask(x[..., 0]) if random.random() < 0.5 else None
    return x + nn.MultiHeadDotProductAttention(
        heads, qkv_features=heads * size, dropout_rate=rate, deterministic=not train
    )(x, x, mask=mask)


def recurrent(x, width, train, random):
    cell = pick(random, nn.LSTMCell, nn.GRUCell, nn.SimpleCell, nn.OptimizedLSTMCell)
    backwards = bool(random.random() < 0.3)
    return nn.RNN(cell(width), reverse=backwards, keep_order=backwards)(x)


def convolved(x, width, train, random):
    padding = pick(random, "SAME", "CAUSAL")
    return activated(nn.Conv(width, (3,), padding=padding)(x), random)


def positions(x, width, train, random):
    x = dense(random)(width)(x)
    return x + nn.Embed(x.shape[1], width)(jnp.arange(x.shape[1]))


def mixed(x, width, train, random):
    y = activated(dense(random)(width)(x.swapaxes(1, 2)), random)
    if random.random() < 0.5:
        y = dense(random)(x.shape[1])(y)
    return y.swapaxes(1, 2)


def along_steps(x, width, train, random):
    x = dense(random)(width)(x)
    return pick(
        random,
        lambda: jnp.cumsum(x, 1),
        lambda: jnp.sort(x, 1),
        lambda: x - x.mean(1, keepdims=True),
        lambda: x * nn.softmax(x, 1),
        lambda: x[:, 1:] - x[:, :-1],
    )()


# ---------------------------------------------------------------------------- on images


def convolution(x, width, train, random):
    size = pick(random, (3, 3), (1, 1), (1, 3), (2, 2))
    strides = pick(random, 1, 1, 2)
    dilation = pick(random, 1, 1, 2) if strides == 1 else 1
    padding = pick(random, "SAME", "SAME", "CIRCULAR", ((1, 1), (0, 2)))
    x = nn.Conv(
        width, size, strides=strides, kernel_dilation=dilation, padding=padding
    )(x)
    if random.random() < 0.4:
        x = normalised(x, train, random)
    return activated(x, random)


def pooled(x, width, train, random):
    x = nn.Conv(width, (1, 1))(x)
    if min(x.shape[1:3]) < 2:
        return x
    return pick(
        random,
        lambda: nn.max_pool(x, (2, 2), strides=(2, 2)),
        lambda: nn.avg_pool(x, (2, 2), strides=(1, 2)),
        lambda: nn.max_pool(x, (3, 3), padding="SAME"),
        lambda: -nn.max_pool(-x, (2, 2)),
    )()


def separable(x, width, train, random):
    x = nn.Conv(width, (1, 1))(x)
    x = nn.Conv(width, (3, 3), feature_group_count=width)(x)
    return activated(normalised(x, train, random), random)


def grouped_convolution(x, width, train, random):
    x = nn.Conv(2 * width, (1, 1))(x)
    return activated(nn.Conv(2 * width, (3, 3), feature_group_count=2)(x), random)


def transposed(x, width, train, random):
    return nn.ConvTranspose(width, (3, 3), strides=pick(random, None, (2, 2)))(x)


def residual_images(x, width, train, random):
    y = nn.Conv(width, (3, 3))(activated(normalised(x, train, random), random))
    y = nn.Conv(x.shape[-1], (3, 3), use_bias=False)(nn.relu(y))
    return x + y


def shuffled(x, width, train, random):
    x = nn.Conv(2 * width, (1, 1))(x)
    x = x.reshape(*x.shape[:-1], 2, width).swapaxes(-1, -2)
    return x.reshape(*x.shape[:-2], 2 * width)


def squeezed(x, width, train, random):
    y = activated(dense(random)(width)(x.mean((1, 2))), random)
    return x * nn.sigmoid(dense(random)(x.shape[-1])(y))[:, None, None]


def whole_channels(x, width, train, random):
    x = nn.Conv(width, (1, 1))(x)
    return nn.Dropout(0.3, broadcast_dims=(1, 2), deterministic=not train)(x)


def resized(x, width, train, random):
    x = nn.Conv(width, (1, 1))(x)
    method = pick(random, "bilinear", "nearest")
    return jax.image.resize(x, (len(x), 5, 4, width), method)


ANYWHERE = (
    layer,
    two_layers,
    normalisation,
    groups,
    dropout,
    noise,
    residual,
    connected,
    stacked,
    gated,
    pieces_of,
    maxout,
    excitation,
    ordered,
    cumulative,
    reduced,
    distributed,
    moved,
    placed,
    chosen,
    outer,
    tied,
    shared,
    remat,
    weight_norm,
)
ON_VECTORS = (features_as_steps, similarity, mixture, slots)
ON_SEQUENCES = (attention, recurrent, convolved, positions, mixed, along_steps)
ON_IMAGES = (
    convolution,
    convolution,
    pooled,
    separable,
    grouped_convolution,
    transposed,
    residual_images,
    shuffled,
    squeezed,
    whole_channels,
    resized,
)
PIECES = {
    piece.__name__: piece for piece in ANYWHERE + ON_VECTORS + ON_SEQUENCES + ON_IMAGES
}


def flattened(x, random):
    """Vectors from whatever there is."""
    if x.ndim == 2:
        return x
    inner = tuple(range(1, x.ndim - 1))
    return pick(
        random,
        lambda: x.reshape(len(x), -1),
        lambda: x.mean(inner),
        lambda: x.max(inner),
        lambda: jnp.concatenate([x.mean(inner), x.min(inner)], -1),
        lambda: (x * nn.softmax(x.mean(-1, keepdims=True), 1)).sum(inner),
        lambda: x[:, -1].reshape(len(x), -1),
    )()


# ------------------------------------------------------------------------- the network


class Network(nn.Module):
    """Some pieces one after another, each with a width and a number for its choices."""

    pieces: tuple[tuple[str, int], ...]
    widths: tuple[int, ...]
    flattening: int

    @nn.compact
    def __call__(self, x, train: bool = False):
        if jnp.issubdtype(x.dtype, jnp.integer):
            x = nn.Embed(11, self.widths[0])(x)
        for (name, number), width in zip(self.pieces, self.widths, strict=True):
            if name == "flattened":
                x = flattened(x, np.random.default_rng(number))
            else:
                # The same choices for all widths.
                x = PIECES[name](x, width, train, np.random.default_rng(number))
        return nn.Dense(CLASSES)(flattened(x, np.random.default_rng(self.flattening)))


OPTIMIZERS: dict[str, Callable[[float], optax.GradientTransformation]] = {
    "sgd": lambda rate: optax.sgd(10 * rate),
    "momentum": lambda rate: optax.sgd(3 * rate, momentum=0.9, nesterov=True),
    "clipped adam": lambda rate: optax.chain(
        optax.clip_by_global_norm(0.5 + rate), optax.adam(rate, eps=1e-3)
    ),
    "adamw": lambda rate: optax.adamw(rate, eps=1e-3, weight_decay=0.1 + rate),
    "warm-up": lambda rate: optax.adam(
        optax.warmup_cosine_decay_schedule(0.2 * rate, rate, 2, 10), eps=1e-3
    ),
}


@dataclasses.dataclass(frozen=True)
class Drawn:
    """A family of networks.

    Args:
        number: what it was drawn from.
        kind: which of `SAMPLES` it takes.
        pieces: what it is made of.
        widths: those of each member, the widest last.
        optimizer: which of `OPTIMIZERS`.
        flattening: the number for the choice of how it ends.
    """

    number: int
    kind: str
    pieces: tuple[tuple[str, int], ...]
    widths: tuple[tuple[int, ...], ...]
    optimizer: str
    flattening: int

    def model(self, member):
        """A member; no two have the same learning rate."""
        module = Network(self.pieces, self.widths[member], self.flattening)
        optimizer = OPTIMIZERS[self.optimizer](3e-3 * (1 + member))
        return vt.Model(
            module, optimizer, "sparse_categorical_crossentropy", metrics=["accuracy"]
        )

    def __str__(self):
        names = ", ".join(name for name, _ in self.pieces)
        return (
            f"network {self.number}: {self.kind}, {names}, {self.optimizer}, "
            f"widths {self.widths}"
        )


def draw(number):
    """The family of networks of a number."""
    random = np.random.default_rng(number)
    kind = pick(random, "vectors", "vectors", "images", "sequences", "tokens")
    first = {"vectors": ON_VECTORS, "images": ON_IMAGES}.get(kind, ON_SEQUENCES)
    count = int(random.integers(2, 6))
    # Vectors from some place on.
    vectors = int(random.integers(count + 1)) if kind != "vectors" else count
    names = [_name(random, first) for _ in range(vectors)]
    if vectors < count:
        later = [_name(random, ON_VECTORS) for _ in range(count - vectors)]
        names += ["flattened", *later]
    pieces = tuple((name, int(random.integers(2**31))) for name in names)
    return Drawn(
        number,
        kind,
        pieces,
        _widths(random, len(pieces)),
        pick(random, *OPTIMIZERS),
        int(random.integers(2**31)),
    )


def _name(random, special):
    several = special if random.random() < 0.4 else ANYWHERE
    return pick(random, *several).__name__


def _widths(random, count):
    """Two or three members of different widths, and one that holds all of them."""
    members = int(random.integers(2, 4))
    table = random.integers(NARROWEST, WIDEST, size=(members, count))
    # Some pieces have one width.
    alike = random.random(count) < 0.2
    alike[random.integers(count)] = False
    table = np.where(alike, table[0], table)
    largest = table.max(0) + np.where(alike, 0, random.integers(0, 4, size=count))
    if (table == largest).all(1).any():
        largest += ~alike
    return tuple(tuple(map(int, row)) for row in (*table, largest))
