"""The classic tutorial: how wide a hidden layer, and how fast should it learn?

Searches, trains the best network again for its best number of epochs, and evaluates it.

    python experiments/tutorial.py --dataset digits
"""

import argparse
from collections.abc import Sequence

import flax.linen as nn
import numpy as np
import optax

import vtune as vt
from experiments import datasets


CLASSES = 10
BATCH_SIZE = 32
MAX_EPOCHS = 10
FACTOR = 3


class Classifier(nn.Module):
    """An image classifier with one hidden layer."""

    units: int

    @nn.compact
    def __call__(self, images):
        x = images.reshape((images.shape[0], -1))
        x = nn.relu(nn.Dense(self.units)(x))
        return nn.Dense(CLASSES)(x)


def build(hp: vt.HyperParameters) -> vt.Model:
    """The model with the values in `hp`."""
    units = hp.Int("units", min_value=32, max_value=512, step=32)
    learning_rate = hp.Choice("learning_rate", values=[1e-2, 1e-3, 1e-4])
    return vt.Model(
        Classifier(units),
        optimizer=optax.adam(learning_rate),
        loss="sparse_categorical_crossentropy",
        metrics=["accuracy"],
    )


def main(arguments: Sequence[str] | None = None) -> None:
    """Searches, retrains the best model for its best number of epochs, evaluates it."""
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
    x_train, y_train = data.x_train, data.y_train
    held_out = (data.x_test, data.y_test)

    tuner = vt.Hyperband(
        build,
        objective="val_accuracy",
        max_epochs=epochs,
        factor=FACTOR,
        seed=flags.seed,
    )
    tuner.search(x_train, y_train, batch_size=BATCH_SIZE, validation_data=held_out)
    tuner.results_summary(num_trials=5)
    best = tuner.get_best_hyperparameters(num_trials=1)[0]
    print(
        f"The best hidden layer has {best['units']} units, and the best learning rate "
        f"of the optimizer is {best['learning_rate']:g}."
    )

    model = tuner.hypermodel.build(best)
    history = model.fit(
        x_train,
        y_train,
        epochs=epochs,
        batch_size=BATCH_SIZE,
        validation_data=held_out,
    )
    accuracies = history.history["val_accuracy"]
    best_epoch = 1 + int(np.argmax(accuracies))
    print(f"Trained again for {epochs} epochs, it was best after epoch {best_epoch}.")

    model = tuner.hypermodel.build(best)
    model.fit(x_train, y_train, epochs=best_epoch, batch_size=BATCH_SIZE)
    metrics = model.evaluate(*held_out)
    print(f"Trained for {best_epoch} epochs: {_listed(metrics)}")


def _listed(metrics: dict[str, float]) -> str:
    return ", ".join(f"{name} {value:.4f}" for name, value in metrics.items())


if __name__ == "__main__":
    main()
