"""The networks whose training steps are timed, and what each is trained on."""

import dataclasses
from typing import Any

import flax.linen as nn
import numpy as np
from jaxtyping import Float32, Int32


CLASSES = 10
LEARNING_RATES = (1e-4, 1e-2)


class MLP(nn.Module):
    """One hidden layer."""

    units: int

    @nn.compact
    def __call__(self, x, train: bool = False):
        return nn.Dense(CLASSES)(nn.relu(nn.Dense(self.units)(x)))


class CNN(nn.Module):
    """Two convolutions, each followed by pooling, and a hidden layer."""

    channels: tuple[int, ...] = (16, 32)
    units: int = 128

    @nn.compact
    def __call__(self, x, train: bool = False):
        for channels in self.channels:
            x = nn.relu(nn.Conv(channels, (3, 3))(x))
            x = nn.max_pool(x, (2, 2), strides=(2, 2))
        return nn.Dense(CLASSES)(nn.relu(nn.Dense(self.units)(x.reshape(len(x), -1))))


class Residual(nn.Module):
    """Three stages of two blocks with batch normalisation."""

    stages: tuple[int, ...] = (16, 32, 64)

    @nn.compact
    def __call__(self, x, train: bool = False):
        def normalised(x: Any) -> Any:
            return nn.BatchNorm(use_running_average=not train)(x)

        for stage, channels in enumerate(self.stages):
            for block in range(2):
                strides = (2, 2) if stage and not block else (1, 1)
                y = nn.Conv(channels, (3, 3), strides, use_bias=False)(x)
                y = nn.relu(normalised(y))
                y = normalised(nn.Conv(channels, (3, 3), use_bias=False)(y))
                if x.shape != y.shape:
                    x = normalised(nn.Conv(channels, (1, 1), strides)(x))
                x = nn.relu(x + y)
        return nn.Dense(CLASSES)(x.mean((1, 2)))


class Separable(nn.Module):
    """Convolutions of each channel by itself, then over the channels."""

    blocks: tuple[int, ...] = (32, 64, 128)

    @nn.compact
    def __call__(self, x, train: bool = False):
        x = nn.relu(nn.Conv(self.blocks[0], (3, 3))(x))
        for channels in self.blocks:
            before = x.shape[-1]
            x = nn.Conv(before, (3, 3), feature_group_count=before)(x)
            x = nn.relu(nn.Conv(channels, (1, 1))(x))
            x = nn.max_pool(x, (2, 2), strides=(2, 2))
        return nn.Dense(CLASSES)(x.mean((1, 2)))


class OneDimensional(nn.Module):
    """Convolutions over a sequence."""

    channels: tuple[int, ...] = (16, 32)

    @nn.compact
    def __call__(self, x, train: bool = False):
        for channels in self.channels:
            x = nn.relu(nn.Conv(channels, (5,))(x))
            x = nn.max_pool(x, (2,), strides=(2,))
        return nn.Dense(CLASSES)(x.mean(1))


@dataclasses.dataclass(frozen=True, eq=False)
class Work:
    """What each side trains.

    Args:
        module: the network; it is called with `train=True`.
        x: the samples.
        y: their labels.
        batch: samples in a step.
        lanes: how many candidates, which differ in their learning rates.
    """

    module: nn.Module
    x: Float32[np.ndarray, "samples ..."]
    y: Int32[np.ndarray, " samples"]
    batch: int
    lanes: int

    @property
    def steps(self) -> int:
        """The training steps of a lane in an epoch."""
        return len(self.x) // self.batch

    @property
    def rates(self) -> Float32[np.ndarray, " lanes"]:
        """The learning rate of each lane."""
        return np.geomspace(*LEARNING_RATES, self.lanes, dtype=np.float32)


@dataclasses.dataclass(frozen=True)
class Network:
    """A network and the samples that it takes.

    Args:
        module: the network.
        shape: the shape of a sample.
        steps: of an epoch, unless something else is asked for.
    """

    module: nn.Module
    shape: tuple[int, ...]
    steps: int

    def work(self, lanes: int, batch: int, steps: int | None = None) -> Work:
        """Work on random samples: what they show costs no time.

        Args:
            lanes: how many candidates.
            batch: samples in a step.
            steps: the training steps of an epoch.

        Returns:
            The work; the same for the same arguments.
        """
        samples = (steps or self.steps) * batch
        generator = np.random.default_rng(0)
        x = generator.random((samples, *self.shape), dtype=np.float32)
        y = generator.integers(0, CLASSES, samples, dtype=np.int32)
        return Work(self.module, x, y, batch, lanes)
