"""What a user hands to a tuner: `build`, as a function or as a class."""

from collections.abc import Callable
from typing import Any

from vtune.hyperparameters import HyperParameters
from vtune.model import Model


class HyperModel:
    """A space of models: `build(hp)` makes the one with the values in `hp`.

    Write a subclass with a `build` of its own where the model needs settings beside its
    hyperparameters; otherwise a plain function will do.

    Example:
        ```python
        import flax.linen as nn
        import optax
        import vtune as vt

        class Classifier(vt.HyperModel):
            def __init__(self, classes):
                self.classes = classes

            def build(self, hp):
                rate = hp.Float("learning_rate", 1e-4, 1e-2, sampling="log")
                return vt.Model(
                    nn.Dense(self.classes),
                    optimizer=optax.adam(rate),
                    loss="sparse_categorical_crossentropy",
                )

        tuner = vt.RandomSearch(Classifier(10), "val_loss", max_trials=4, max_epochs=2)
        ```
    """

    def build(self, hp: HyperParameters) -> Any:
        """The model with the values in `hp`.

        Args:
            hp: gives each hyperparameter's value when it is asked for.

        Returns:
            A `vt.Model`, or any other `Trainable`.

        Raises:
            TypeError: if a subclass does not define it.
        """
        raise TypeError(
            f"`{type(self).__name__}` does not define `build(self, hp)`, which returns "
            "the model with the values in `hp`."
        )


def build_function(hypermodel: Any) -> Callable[[HyperParameters], Any]:
    """The function that builds a model, from whatever a tuner accepts.

    Args:
        hypermodel: a function of `hp`, or an object with a method `build`.

    Returns:
        A function of `hp`.

    Raises:
        TypeError: if it is neither.
    """
    if isinstance(hypermodel, type):
        raise TypeError(
            f"Give an instance: `{hypermodel.__name__}(...)`, not the class itself."
        )
    build = getattr(hypermodel, "build", hypermodel)
    if not callable(build):
        raise TypeError(
            "A tuner takes a function `build(hp)` or an object with a method "
            f"`build(hp)`, got {type(hypermodel).__name__}."
        )
    return build


class BoundHyperModel:
    """What `tuner.hypermodel` is: builds models that know which trial they come from.

    Args:
        function: the user's `build`.
    """

    def __init__(self, function: Callable[[HyperParameters], Any]):
        self._function = function

    def build(self, hp: HyperParameters) -> Any:
        """The model with the values in `hp`.

        Args:
            hp: for example one of `tuner.get_best_hyperparameters()`; then `model.fit`
                starts from its trial's random key.

        Returns:
            What the user's `build` returns.
        """
        model = self._function(hp)
        if isinstance(model, Model) and hp.origin is not None:
            model.origin = hp.origin
        return model
