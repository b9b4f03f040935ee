"""Data parallelism: a model that is trained on several devices, each of which takes a part of every batch.

TensorFlow: `tf.distribute.MirroredStrategy`. JAX: `keras.distribution.DataParallel`. Both want the variables to be made
for them, so a copy of the model is trained, and its weights are copied back.

The global batch is the one of a single device, and its loss is the mean over its images, whichever device has them. The
last batch of an epoch, if it does not divide by the number of devices, is computed as a whole on each of them. So the
losses are those of a single device but for rounding. Dropout on TensorFlow draws other masks.
"""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import keras
import numpy as np

from tlkit.devices import several_devices
from tlkit.models.adversarial import Adversarial
from tlkit.models.blocks import _inner_layers


@dataclass(frozen=True)
class Spread:
    """A model to be compiled and fitted in place of another one.

    model: a copy of it, on several devices, or itself.
    feed: gives a dataset of batches the form that `model` is fitted on.
    scope: in which it is compiled, and its optimizer is made.
    callbacks: those that its `fit` needs before any callback that looks at the weights of the other model.
    """

    model: keras.Model
    feed: Callable[[keras.utils.PyDataset], keras.utils.PyDataset]
    scope: Callable[[], contextlib.AbstractContextManager[Any]] = contextlib.nullcontext
    callbacks: tuple[keras.callbacks.Callback, ...] = ()

    @property
    def several(self) -> bool:
        """Whether it is a copy on several devices."""
        return bool(self.callbacks)


@contextlib.contextmanager
def spread(model: keras.Model, devices: tuple[str, ...]) -> Iterator[Spread]:
    """Copy a model to several devices, and copy its weights back when the block ends, also by an error.

    Args:
        model: a functional model, with `trainable` set, not compiled. BatchNormalization that trains takes the
            statistics of the whole batch: it is `synchronized` in the copy.
        devices: of `tlkit.devices.several_devices`; (): the model itself is given.
    """
    if not devices:
        yield Spread(model, lambda batches: batches)
        return
    scope, kind, feed = BACKENDS[keras.backend.backend()](devices)
    with scope():
        copy = _copy(model, kind)
    originals, copies = _states(model), _states(copy)
    _assign(originals, copies)
    try:
        yield Spread(copy, feed, scope, (_CopyBack(originals, copies),))
    finally:
        _assign(copies, originals)


def several_for(model: keras.Model, batch_size: int) -> tuple[tuple[str, ...], str]:
    """Return the devices to train a model on, and why it is trained on one, (), if several were asked for."""
    devices = several_devices()
    if not devices:
        return (), ""
    fixed = [layer.name for layer in model.layers if hasattr(layer, "inference_mode")]
    if fixed:
        return (), f"the variables of the SavedModel '{fixed[0]}' cannot be copied"
    if batch_size % len(devices):
        return (), f"batches of {batch_size} cannot be split evenly over {len(devices)} devices"
    return devices, ""


def _copy(model: keras.Model, kind: Callable[[type], type]) -> keras.Model:
    """Copy a model's layers, with other weights. kind: makes the copy's class."""
    clone = keras.models.clone_model(keras.Model(model.input, model.output, name=model.name))
    for layer, original in zip(clone.layers, _layers_like(model, clone), strict=True):
        for inner, its_original in zip(_inner_layers(layer), _inner_layers(original), strict=True):
            inner.trainable = its_original.trainable
            trains = isinstance(inner, keras.layers.BatchNormalization) and inner.trainable
            if trains and keras.backend.backend() == "tensorflow":
                inner.synchronized = True
    if isinstance(model, Adversarial):
        return kind(Adversarial)(clone, model.alpha, model.epsilon)
    return kind(keras.Model)(inputs=clone.input, outputs=clone.output, name=model.name)


def _layers_like(model: keras.Model, clone: keras.Model) -> list[keras.layers.Layer]:
    named = {layer.name: layer for layer in model.layers if not isinstance(layer, keras.layers.InputLayer)}
    return [named.get(layer.name, layer) for layer in clone.layers]


def _states(model: keras.Model) -> list[Any]:
    """The variables of a model that is not compiled: weights, and the states of random layers."""
    return list({id(one): one for one in (*model.weights, *model.non_trainable_variables)}.values())


def _assign(values: list[Any], variables: list[Any]) -> None:
    for value, variable in zip(values, variables, strict=True):
        variable.assign(keras.ops.convert_to_numpy(value))


class _CopyBack(keras.callbacks.Callback):
    """Copies the weights to the model that was spread, at the beginning and after each epoch, for other callbacks."""

    def __init__(self, originals: list[Any], copies: list[Any]) -> None:
        super().__init__()
        self._originals, self._copies = originals, copies

    def on_train_begin(self, logs: Any = None) -> None:
        _assign(self._copies, self._originals)

    def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
        _assign(self._copies, self._originals)


# -- TensorFlow -------------------------------------------------------------------------------------------


def _by_tensorflow(devices: tuple[str, ...]) -> tuple[Any, Any, Any]:
    return _strategy(devices).scope, _mirrored, functools.partial(_Divisible, len(devices))


@functools.cache
def _strategy(devices: tuple[str, ...]) -> Any:
    import tensorflow as tf

    return tf.distribute.MirroredStrategy([one.upper() for one in devices])


class _Divisible(keras.utils.PyDataset):
    """Batches of (inputs, targets, weights) that TensorFlow splits into equal parts.

    One that does not divide by the number of devices is given to each of them as a whole. Its copies but the first have
    negative weights: they count in the gradient, which is a mean over the devices, and not in the scores.
    """

    def __init__(self, devices: int, batches: keras.utils.PyDataset) -> None:
        super().__init__(workers=1)
        self._devices, self._batches = devices, batches

    @property
    def num_batches(self) -> int:
        return int(self._batches.num_batches)

    def __getitem__(self, number: int) -> Any:
        inputs, targets, weights = keras.utils.unpack_x_y_sample_weight(self._batches[number])
        weights = np.ones(len(targets), "float32") if weights is None else weights
        if len(targets) % self._devices == 0:
            return inputs, targets, weights
        again = np.concatenate([weights] + [-weights] * (self._devices - 1))
        inputs, targets = keras.tree.map_structure(lambda one: np.concatenate([one] * self._devices), (inputs, targets))
        return inputs, targets, again


@functools.cache
def _mirrored(kind: type) -> type:
    """Return a class of model that is fitted on the batches of `_Divisible`."""
    import tensorflow as tf

    class Mirrored(kind):
        """Its steps are Keras' own, but for the images that are not counted in the scores."""

        def train_step(self, data: Any) -> Any:
            with tf.GradientTape() as tape:
                loss, scores = self._step(data, training=True)
                loss = self.optimizer.scale_loss(loss)
            variables = self.trainable_weights
            self.optimizer.apply_gradients(zip(tape.gradient(loss, variables), variables, strict=True))
            return scores()

        def test_step(self, data: Any) -> Any:
            return self._step(data, training=False)[1]()

        def _step(self, data: Any, *, training: bool) -> tuple[Any, Callable[[], Any]]:
            """Return this device's part of the loss, and what updates the metrics and returns them."""
            inputs, targets, weights = keras.utils.unpack_x_y_sample_weight(data)
            weights = tf.ones(tf.shape(targets)[:1]) if weights is None else weights
            counted = weights > 0
            predicted = self(inputs, training=training)
            loss = self.compute_loss(inputs, targets, predicted, tf.abs(weights), training=training)
            devices = self.distribute_strategy.num_replicas_in_sync  # by which Keras has divided the loss
            self._loss_tracker.update_state(loss * devices, sample_weight=tf.reduce_sum(tf.cast(counted, "float32")))
            kept = [tf.boolean_mask(one, counted) for one in (targets, predicted, weights)]
            return loss, lambda: self.compute_metrics(inputs, *kept)

    return Mirrored


# -- JAX --------------------------------------------------------------------------------------------------


def _by_jax(devices: tuple[str, ...]) -> tuple[Any, Any, Any]:
    distribution = keras.distribution.DataParallel(devices=list(devices), auto_shard_dataset=False)
    return distribution.scope, lambda kind: kind, functools.partial(_Placed, distribution)


class _Placed(keras.utils.PyDataset):
    """Batches that are split over the devices of a distribution.

    Keras would split each batch of an epoch as the first one. One that does not divide by the number of devices is
    computed as a whole on each of them.
    """

    def __init__(self, distribution: Any, batches: keras.utils.PyDataset) -> None:
        super().__init__(workers=1)
        self._distribution, self._batches = distribution, batches

    @property
    def num_batches(self) -> int:
        return int(self._batches.num_batches)

    def __getitem__(self, number: int) -> Any:
        return keras.tree.map_structure(self._place, self._batches[number])

    def _place(self, array: Any) -> Any:
        import jax

        mesh = self._distribution.device_mesh
        axes = [None] * array.ndim
        if len(array) % mesh.devices.size == 0:
            axes[0] = self._distribution.batch_dim_name
        layout = keras.distribution.TensorLayout(axes, mesh).backend_layout
        if self._distribution.num_processes == 1:
            return jax.device_put(array, layout)
        return jax.make_array_from_callback(array.shape, layout, lambda index: array[index])  # of the whole batch


# Keras' backend -> from the devices: the scope in which variables are made, the class of a copy, and what feeds it
BACKENDS: dict[str, Callable[[tuple[str, ...]], tuple[Any, Any, Any]]] = {
    "tensorflow": _by_tensorflow,
    "jax": _by_jax,
}
