"""How deep should a network be, and how wide is each of its layers?

Each layer has its own number of units; all have one activation. How many
hyperparameters there are depends on one of them, the depth.

    python experiments/depth.py --dataset digits
"""

import argparse
from collections.abc import Callable, Sequence
from typing import Any

import flax.linen as nn
import optax

import vtune as vt
from experiments import datasets


CLASSES = 10
BATCH_SIZE = 32
MAX_EPOCHS = 10
FACTOR = 3
MAX_LAYERS = 3
WIDTHS = [32, 64, 128, 256, 512]
ACTIVATIONS: dict[str, Callable[..., Any]] = {
    "relu": nn.relu,
    "gelu": nn.gelu,
    "silu": nn.silu,
    "tanh": nn.tanh,
}


class Classifier(nn.Module):
    """An image classifier with a hidden layer for each width."""

    widths: tuple[int, ...]
    activation: str

    @nn.compact
    def __call__(self, images):
        x = images.reshape((images.shape[0], -1))
        for width in self.widths:
            x = ACTIVATIONS[self.activation](nn.Dense(width)(x))
        return nn.Dense(CLASSES)(x)


def build(hp: vt.HyperParameters) -> vt.Model:
    """The model with the values in `hp`."""
    layers = hp.Int("layers", 0, MAX_LAYERS)
    widths = tuple(hp.Choice(f"units_{i}", WIDTHS) for i in range(layers))
    # Without a hidden layer there is no activation to choose.
    activation = hp.Choice("activation", list(ACTIVATIONS)) if layers else "relu"
    learning_rate = hp.Float("learning_rate", 1e-4, 1e-2, sampling="log")
    return vt.Model(
        Classifier(widths, activation),
        optimizer=optax.adam(learning_rate),
        loss="sparse_categorical_crossentropy",
        metrics=["accuracy"],
    )


def main(arguments: Sequence[str] | None = None) -> None:
    """Searches, and shows the best networks and what they cost to find."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    datasets.add_flags(parser)
    parser.add_argument("--epochs", type=int, default=MAX_EPOCHS)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--smoke", action="store_true", help="a few seconds, to try it")
    flags = parser.parse_args(arguments)
    epochs, limit = (3, 256) if flags.smoke else (flags.epochs, None)

    data = datasets.load(flags.dataset, flags.data, limit, flags.download)
    print(f"Data: {data}.")
    tuner = vt.Hyperband(
        build,
        objective="val_accuracy",
        max_epochs=epochs,
        factor=FACTOR,
        seed=flags.seed,
    )
    tuner.search(
        data.x_train,
        data.y_train,
        batch_size=BATCH_SIZE,
        validation_data=(data.x_test, data.y_test),
    )
    tuner.results_summary(num_trials=10)
    statistics = tuner.statistics
    print(
        f"{len(tuner.trials)} networks were trained by "
        f"{statistics.training_programs} programs: {statistics.tracing_seconds:.1f} s "
        f"of tracing, {statistics.compiling_seconds:.1f} s of compiling, "
        f"{statistics.training_seconds:.1f} s of training."
    )


if __name__ == "__main__":
    main()
