"""Training on adversarial images by the fast gradient sign (Goodfellow, Shlens and Szegedy 2015, arXiv:1412.6572).

Keras has no gradient of its own with respect to inputs, so this needs the backend's: TensorFlow's or JAX's.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import keras

from tlkit.errors import SpecError

HIGHEST = 255.0  # of a pixel


class Adversarial(keras.Model):
    """A classifier whose training loss is alpha * J(x) + (1 - alpha) * J(x + epsilon * sign(dJ/dx)).

    It shares all layers with the classifier, so training it trains that. The attacked images are made anew in each
    step from the weights and the batch of the step, stay within 0 to 255, and count as constants in the gradient. In
    evaluation the loss is J(x). BatchNormalization that trains and dropout see both kinds of images; the pass that
    finds the gradient changes no state. In float16 a gradient that underflows leaves its pixel as it is.

    Args:
        model: takes raw RGB, 0-255, and returns probabilities.
        alpha: share of the loss on the images as they are, 0 to below 1.
        epsilon: change of each value, in levels of 0 to 255, above 0.

    Raises SpecError on another backend of Keras than TensorFlow and JAX.
    """

    def __init__(self, model: keras.Model, alpha: float, epsilon: float) -> None:
        if keras.backend.backend() not in GRADIENTS:
            raise SpecError(
                f"Adversarial training needs the gradient of the loss by the pixels, which tlkit takes on "
                f"{' and '.join(GRADIENTS)}, but Keras runs on {keras.backend.backend()}. "
                "Use Stage(adversarial=0), or set KERAS_BACKEND."
            )
        super().__init__(inputs=model.input, outputs=model.output, name="adversarial")
        self.alpha, self.epsilon = alpha, epsilon

    def compute_loss(
        self, x: Any = None, y: Any = None, y_pred: Any = None, sample_weight: Any = None, training: bool = True
    ) -> Any:
        """Return the mixed loss in training, and the plain loss in evaluation."""
        clean = super().compute_loss(x, y, y_pred, sample_weight, training)
        if not training:
            return clean
        attacked = self.attacked(x, y)
        predicted = self(attacked, training=True)
        adversarial = super().compute_loss(attacked, y, predicted, sample_weight, training)
        return self.alpha * clean + (1 - self.alpha) * adversarial

    def attacked(self, images: Any, targets: Any) -> Any:
        """Move each value by epsilon in the direction in which the log loss rises.

        images: 0-255, shape (n, height, width, 3). targets: shape (n, classes), one-hot or mixed.

        Returns: float32, the images' shape, within 0 to 255.
        """
        images = keras.ops.cast(images, "float32")
        trained, others = (
            [variable.value for variable in some] for some in (self.trainable_variables, self.non_trainable_variables)
        )

        def loss(images: Any) -> Any:
            found, _ = self.stateless_call(trained, others, images, training=True)
            targets_of_loss = keras.ops.cast(targets, found.dtype)
            return keras.ops.sum(keras.ops.categorical_crossentropy(targets_of_loss, found))

        signs = keras.ops.sign(GRADIENTS[keras.backend.backend()](loss, images))
        return keras.ops.stop_gradient(keras.ops.clip(images + self.epsilon * signs, 0.0, HIGHEST))


def _by_tensorflow(loss: Callable[[Any], Any], images: Any) -> Any:
    import tensorflow as tf

    with tf.GradientTape(watch_accessed_variables=False) as tape:
        tape.watch(images)
        value = loss(images)
    return tape.gradient(value, images)


def _by_jax(loss: Callable[[Any], Any], images: Any) -> Any:
    import jax

    return jax.grad(loss)(images)


# Keras' backend -> the gradient of a scalar function of images by the images
GRADIENTS: dict[str, Callable[[Callable[[Any], Any], Any], Any]] = {"tensorflow": _by_tensorflow, "jax": _by_jax}
