"""A Flax network, an Optax optimizer, a loss and metrics as something to train."""

import functools
from collections.abc import Hashable, Iterable, Mapping, Sequence
from typing import Any

import jax
import optax
from jaxtyping import Array, Float, PRNGKeyArray, PyTree

from vtune.callbacks import Callbacks
from vtune.components.calling import Apply, Variables
from vtune.components.losses import LossFunction, check_labels, resolve_loss
from vtune.components.metrics import resolve_metrics
from vtune.components.network import abstract_outputs, make_network, note_outputs
from vtune.components.optimizer import resolve_optimizer
from vtune.components.penalty import Penalty
from vtune.components.state import Batch, Metrics, ModelState, unpack
from vtune.fitting import FitConfig, History, fit
from vtune.fusion.identity import identity
from vtune.reporting.epochs import EpochLines
from vtune.training.data import dataset, training_and_validation
from vtune.training.inference import evaluate, predict


class Model:
    """A network with its optimizer, loss and metrics: three pure functions to train it.

    Args:
        module: a Flax Linen module, or a function of `rngs` that returns an NNX module.
            It is called with one positional argument, `x`, and with those of `train`,
            `training`, `is_training`, `deterministic`, `use_running_average` that its
            `__call__` takes. Dropout keys and mutable collections are handled.
        optimizer: any Optax transformation; it may ask for `value=` and `grad=`.
        loss: a name, such as `"sparse_categorical_crossentropy"` (names take logits),
            or a function `f(outputs, y)` that gives a scalar or one value a sample.
            Where there are no labels, `y` is None.
        metrics: names, such as `"accuracy"`, functions `f(outputs, y)`, or pairs
            `(name, function)`.
        l1: adds `l1 · Σ|w|` to the loss, over all parameters named `kernel`.
        l2: adds `l2 · Σw²` to the loss, over the same.
        apply: how to call a module that takes its mode or its inputs in another way:
            `apply(module, variables, x, train, rngs)` returns the outputs, or a pair of
            the outputs and the updated collections.

    Raises:
        TypeError: if an argument is not of a kind that can be used.
        ValueError: for unknown names, line searches, and wrong penalties.

    Example:
        ```python
        import flax.linen as nn
        import optax
        import vtune as vt

        class Classifier(nn.Module):
            @nn.compact
            def __call__(self, x, train: bool = False):
                x = nn.relu(nn.Dense(64)(x))
                x = nn.Dropout(0.2, deterministic=not train)(x)
                return nn.Dense(10)(x)

        model = vt.Model(
            Classifier(),
            optimizer=optax.adam(1e-3),
            loss="sparse_categorical_crossentropy",
            metrics=["accuracy"],
        )
        ```
    """

    def __init__(
        self,
        module: Any,
        optimizer: optax.GradientTransformation,
        loss: str | LossFunction,
        metrics: Iterable[Any] | Mapping[str, Any] = (),
        *,
        l1: float | None = None,
        l2: float | None = None,
        apply: Apply | None = None,
    ):
        self.module = module
        self.optimizer = optimizer
        self._network = make_network(module, apply)
        self._optimizer = resolve_optimizer(optimizer)
        self._loss = resolve_loss(loss)
        self._metrics = resolve_metrics(metrics, self._loss)
        self._penalty = Penalty(l1, l2)
        self._apply = apply
        self._trained: tuple[ModelState, int] | None = None
        self.origin: tuple[int, int] | None = None

    @functools.cached_property
    def identity(self) -> Hashable:
        """Equal for models that differ in nothing but the optimizer."""
        parts = (self._loss, self._metrics, self._penalty, self._apply)
        return identity((Model, self.module, *parts))

    def init(self, key: PRNGKeyArray, batch: Batch) -> ModelState:
        """The state before the first step.

        Args:
            key: a typed random key, `jax.random.key(seed)`.
            batch: `(x, y)` or `(x,)`, of which the shapes and dtypes of x count.

        Returns:
            Fresh parameters and collections, and the optimizer's state for them.
        """
        return self.init_state(self.init_variables(key, batch))

    def init_variables(self, key: PRNGKeyArray, batch: Batch) -> Variables:
        """The network's part of `init`, which no optimizer changes."""
        return self._network.init(key, unpack(batch)[0])

    def init_state(self, variables: Variables) -> ModelState:
        """The optimizer's part of `init`."""
        optimizer = self._optimizer.init(variables.params)
        return ModelState(variables.params, variables.collections, optimizer)

    def train_step(
        self, state: ModelState, batch: Batch, key: PRNGKeyArray
    ) -> tuple[ModelState, Metrics]:
        """One step along the gradient of the loss.

        Args:
            state: from `init` or the step before.
            batch: `(x, y)` or `(x,)`, the batch axis first.
            key: a random key for this step alone.

        Returns:
            The next state; `loss` and the metrics, taken before the step.
        """
        x, y = unpack(batch)

        def objective(params: PyTree) -> tuple[Array, tuple[PyTree, PyTree]]:
            variables = Variables(params, state.collections)
            outputs, collections = self._network.train(variables, x, key)
            return self._total(params, outputs, y), (outputs, collections)

        (loss, (outputs, collections)), gradient = jax.value_and_grad(
            objective, has_aux=True
        )(state.params)
        updates, optimizer = self._optimizer.update(
            gradient, state.optimizer, state.params, value=loss, grad=gradient
        )
        params = optax.apply_updates(state.params, updates)
        new_state = ModelState(params, collections, optimizer)
        return new_state, self._report(loss, outputs, y)

    def eval_step(self, state: ModelState, batch: Batch) -> Metrics:
        """The loss, penalty included, and the metrics of a batch in evaluation mode."""
        x, y = unpack(batch)
        outputs = self.outputs(state, x)
        note_outputs(identity((self.module, self._apply)), x, outputs)
        return self._report(self._total(state.params, outputs, y), outputs, y)

    def outputs(self, state: ModelState, x: PyTree) -> PyTree:
        """What the network returns for `x` in evaluation mode."""
        variables = Variables(state.params, state.collections)
        return self._network.evaluate(variables, x)

    def check(self, x: PyTree, y: PyTree, state: ModelState | None = None) -> None:
        """Refuses a data set whose labels the loss cannot take; runs nothing.

        Args:
            x: inputs, NumPy arrays with n samples first.
            y: labels, likewise.
            state: the model's state, abstract, where it is known.

        Raises:
            ValueError: if kind, shape or range of the labels do not fit the loss.
        """
        if self._loss.labels is None:
            return
        known = state and Variables(state.params, state.collections)
        same = identity((self.module, self._apply))
        try:
            outputs = abstract_outputs(self._network, same, x, known)
        except Exception:  # not the labels' fault: tracing the training step tells
            return
        check_labels(self._loss, y, outputs)

    @property
    def state(self) -> ModelState:
        """The state after training.

        Raises:
            ValueError: before `fit`.
        """
        if self._trained is None:
            raise ValueError("The model has no weights yet: call `model.fit` first.")
        return self._trained[0]

    @property
    def params(self) -> PyTree:
        """The trained parameters, nested dicts of NumPy arrays."""
        return self.state.params

    def restore(self, state: ModelState, epoch: int) -> None:
        """Goes on from a state that has trained `epoch` epochs."""
        self._trained = (state, epoch)

    def fit(
        self,
        x: Any,
        y: Any = None,
        *,
        epochs: int = 1,
        batch_size: int = 32,
        validation_data: Any = None,
        validation_split: float = 0.0,
        drop_remainder: bool = True,
        callbacks: Sequence[Any] = (),
        seed: int = 0,
        verbose: int = 1,
    ) -> History:
        """Trains the model; a second call goes on from where the first one ended.

        A model that `tuner.hypermodel.build(best)` made starts from the random key of
        the trial that `best` comes from, and so repeats its epochs up to rounding.

        Args:
            x: the inputs, the batch axis first: an array, or a dict or tuple of arrays.
            y: the targets, or None.
            epochs: how many epochs to train.
            batch_size: samples in a training step.
            validation_data: `(x, y)` to evaluate on after each epoch.
            validation_split: instead of that, the fraction of `x` and `y`, taken from
                the end, to evaluate on.
            drop_remainder: whether samples that do not fill a batch are left out of an
                epoch (other ones each time), or make a smaller last batch.
            callbacks: objects with `on_epoch_end(epoch, metrics)`, where epochs count
                from 0, or `on_train_end()`.
            seed: from 0 to 2**32 - 1; decides the initial parameters and the order of
                the data, where the model comes from no trial.
            verbose: 0 for silence, 1 for a line an epoch.

        Returns:
            The metrics of each epoch.

        Raises:
            ValueError: if the data or an argument cannot be used.
            TypeError: if an argument is of the wrong kind.
            SearchError: if the device cannot train the model.
        """
        listeners = Callbacks(callbacks, where="fit")
        data = training_and_validation(x, y, validation_data, validation_split)
        for part in filter(None, data):
            self.check(part.x, part.y)
        config = FitConfig(
            epochs, batch_size, drop_remainder, *(self.origin or (seed, 0))
        )
        told = (EpochLines(epochs, verbose).epoch_end, listeners.fit_epoch_end)
        try:
            self._trained, history = fit(self, self._trained, data, config, told)
        finally:
            listeners.train_end()
        return history

    def evaluate(
        self, x: Any, y: Any = None, *, batch_size: int | None = None
    ) -> dict[str, float]:
        """The loss and the metrics of the trained model; every sample counts once.

        Args:
            x: the inputs, the batch axis first.
            y: the targets, or None.
            batch_size: samples in a batch; None takes what suits.

        Returns:
            Each metric by name.

        Raises:
            ValueError: before `fit`, or if the data cannot be used.
        """
        data = dataset(x, y)
        self.check(data.x, data.y)
        return evaluate(self.eval_step, self.identity, self.state, data, batch_size)

    def predict(self, x: Any, *, batch_size: int | None = None) -> PyTree:
        """The trained network's outputs.

        Args:
            x: the inputs, the batch axis first.
            batch_size: samples in a batch; None takes what suits.

        Returns:
            NumPy arrays with the samples first; for a classifier, logits.

        Raises:
            ValueError: before `fit`, or if the data cannot be used.
        """
        return predict(self.outputs, self.identity, self.state, dataset(x), batch_size)

    def _total(self, params: PyTree, outputs: PyTree, y: PyTree) -> Float[Array, ""]:
        return self._penalty.add(self._loss(outputs, y), params)

    def _report(self, loss: Array, outputs: PyTree, y: PyTree) -> Metrics:
        return {"loss": loss} | {m.name: m(outputs, y) for m in self._metrics}
