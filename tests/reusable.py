"""Write Keras backbones as reusable SavedModels, as TF-Hub publishes them, or as signatures only, like TF1 modules."""

from __future__ import annotations

from pathlib import Path
from typing import Any


def write_module(
    network: Any, folder: Path, *, size: int | None = None, l2: float = 0.0, training: bool = True
) -> Path:
    """Write a TF2 reusable SavedModel (https://www.tensorflow.org/hub/reusable_saved_models) around a Keras network.

    Args:
        network: images to features.
        folder: where to write it.
        size: a fixed side in pixels, or None for any.
        l2: the module's own regularisation.
        training: whether the module's function has the argument `training`.
    """
    import tensorflow as tf

    module = tf.Module()
    module.held = [v.value for v in network.variables]
    module.variables_ = module.held
    shape = tf.TensorSpec((None, size, size, 3), tf.float32)

    if training:

        @tf.function(autograph=False)
        def call(inputs: Any, training: bool = False) -> Any:
            return network(inputs, training=training)

        for value in (True, False):
            call.get_concrete_function(shape, training=value)
    else:

        @tf.function(autograph=False)
        def call(inputs: Any) -> Any:
            return network(inputs, training=False)

        call.get_concrete_function(shape)
    root = tf.train.Checkpoint(held=module)
    root.__call__ = call
    root.variables = [v.value for v in network.variables]
    root.trainable_variables = [v.value for v in network.trainable_variables]
    kernels = [v.value for v in network.trainable_variables if len(v.shape) > 1]
    root.regularization_losses = [_penalty(one, l2) for one in kernels] if l2 else []
    tf.saved_model.save(root, str(folder))
    return folder


def _penalty(variable: Any, l2: float) -> Any:
    import tensorflow as tf

    loss = tf.function(lambda: l2 * tf.reduce_sum(variable**2), autograph=False)
    loss.get_concrete_function()
    return loss


def write_tf1_module(folder: Path, features: int = 12) -> Path:
    """A SavedModel as TF1 wrote them: a graph, its variables and signatures, and nothing that can be called."""
    import tensorflow as tf

    v1 = tf.compat.v1
    with v1.Graph().as_default(), v1.Session() as session:
        images = v1.placeholder(tf.float32, (None, 32, 32, 3), name="images")
        kernel = v1.get_variable(
            "kernel", (5, 5, 3, features), initializer=v1.random_normal_initializer(stddev=0.2, seed=1)
        )
        maps = tf.nn.relu(tf.nn.conv2d(images, kernel, 2, "SAME"))
        vector = tf.reduce_mean(maps, axis=(1, 2))
        session.run(v1.global_variables_initializer())
        v1.saved_model.simple_save(session, str(folder), {"images": images}, {"default": vector})
    return folder


def unit_network(network: Any) -> Any:
    """Turn a network for raw RGB 0-255 into one for pixels from 0 to 1, as TF-Hub's modules take them."""
    import keras

    inputs = keras.Input(network.input_shape[1:])
    return keras.Model(inputs, network(keras.layers.Rescaling(255.0)(inputs)))
