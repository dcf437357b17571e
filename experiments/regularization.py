"""Which penalties, momentum and decay of the learning rate serve one network best?

All of these are numbers in one program, so that every trial trains as a lane of it.

    python experiments/regularization.py --dataset digits
"""

import argparse
from collections.abc import Sequence

import flax.linen as nn
import optax

import vtune as vt
from experiments import datasets


CLASSES = 10
UNITS = 128
BATCH_SIZE = 32
MAX_EPOCHS = 10
FACTOR = 3


class Classifier(nn.Module):
    """An image classifier with one hidden layer."""

    @nn.compact
    def __call__(self, images):
        x = images.reshape((images.shape[0], -1))
        x = nn.relu(nn.Dense(UNITS)(x))
        return nn.Dense(CLASSES)(x)


def build(hp: vt.HyperParameters) -> vt.Model:
    """The model with the values in `hp`."""
    learning_rate = hp.Float("learning_rate", 1e-2, 1.0, sampling="log")
    # The learning rate falls by this factor from the first step to the last one.
    decay = hp.Float("decay", 1e-2, 1.0, sampling="log")
    schedule = optax.exponential_decay(learning_rate, hp.total_steps, decay)
    momentum = hp.Float("momentum", 0.0, 0.95)
    return vt.Model(
        Classifier(),
        optimizer=optax.sgd(schedule, momentum=momentum),
        loss="sparse_categorical_crossentropy",
        metrics=["accuracy"],
        l1=hp.Float("l1", 1e-7, 1e-3, sampling="log"),
        l2=hp.Float("l2", 1e-7, 1e-3, sampling="log"),
    )


def main(arguments: Sequence[str] | None = None) -> None:
    """Searches, and compares the best model with the plain one."""
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
    model = tuner.get_best_models(num_models=1)[0]
    metrics = model.evaluate(data.x_test, data.y_test)
    print(
        f"{len(tuner.trials)} trials were trained by "
        f"{tuner.statistics.training_programs} programs; the best has "
        f"accuracy {metrics['accuracy']:.4f}, loss {metrics['loss']:.4f}."
    )


if __name__ == "__main__":
    main()
