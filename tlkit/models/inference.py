"""Inference with frozen weights, batch by batch: `frozen_call` is the fastest way that the Keras backend offers.

On TensorFlow the weights become constants of a separate graph, so that its optimiser can fuse each convolution with the
BatchNormalization and activation after it. On other backends, and for networks too large for this, Keras'
`predict_on_batch` is used.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import keras
import numpy as np

GPU_FACTOR = 8
MOST_BYTES = 300 * 2**20  # limit for weights as constants: they are copied, and a graph holds 2 GiB at most


def frozen_call(model: keras.Model, batch_size: int) -> Callable[[np.ndarray | list[np.ndarray]], list[np.ndarray]]:
    """Return the model as a function from one batch (an array for each input) to a list of arrays, one for each output.

    The weights are copied now: later changes have no effect. A batch smaller than batch_size is padded, so that the
    graph is traced only once. Larger batches are not expected.
    """
    run = _with_weights_as_constants(model) if _fits_as_constants(model) else model.predict_on_batch

    def call(inputs: np.ndarray | list[np.ndarray]) -> list[np.ndarray]:
        arrays = inputs if isinstance(inputs, list) else [inputs]
        count = len(arrays[0])
        if count < batch_size:
            arrays = [np.concatenate([a, np.zeros((batch_size - count, *a.shape[1:]), a.dtype)]) for a in arrays]
        outputs: Any = run(arrays if len(arrays) > 1 else arrays[0])
        outputs = outputs if isinstance(outputs, list | tuple) else [outputs]
        return [np.asarray(values)[:count] for values in outputs]

    return call


def seconds_per_image(model: keras.Model, batch_size: int = 16) -> float:
    """Measure how long inference of one image takes, in seconds: two batches of zeros, the first of which traces."""
    call, batch = frozen_call(model, batch_size), np.zeros((batch_size, *model.input_shape[1:]), "uint8")
    call(batch)
    before = time.monotonic()
    call(batch)
    return (time.monotonic() - before) / batch_size


def inference_batch(batch_size: int) -> int:
    """Return the batch size for inference: on a GPU 8 training batches, since no gradients are stored; else one."""
    lists_devices = keras.backend.backend() in ("tensorflow", "jax")
    on_gpu = lists_devices and not keras.distribution.list_devices()[0].startswith("cpu")
    return batch_size * (GPU_FACTOR if on_gpu else 1)


def _fits_as_constants(model: keras.Model) -> bool:
    size = sum(int(np.prod(v.shape)) * 4 for v in model.variables)
    return keras.backend.backend() == "tensorflow" and size <= MOST_BYTES


def _with_weights_as_constants(model: keras.Model) -> Callable[[Any], Any]:
    import tensorflow as tf

    trainable = [np.asarray(v) for v in model.trainable_variables]
    others = [np.asarray(v) for v in model.non_trainable_variables]
    kinds = [keras.backend.standardize_dtype(one.dtype) for one in model.inputs]

    @tf.function(autograph=False)
    def call(arrays: list[Any]) -> Any:
        inputs = [tf.cast(array, kind) for array, kind in zip(arrays, kinds, strict=True)]
        constants = [[tf.constant(value) for value in values] for values in (trainable, others)]
        return model.stateless_call(*constants, inputs if len(inputs) > 1 else inputs[0], training=False)[0]

    traced: dict[Any, Any] = {}
    # A SavedModel's function reads its own variables, so they are replaced in the traced graph.
    has_module = any(hasattr(layer, "inference_mode") for layer in model.layers)

    def run(arrays: Any) -> Any:
        tensors = [tf.convert_to_tensor(array) for array in (arrays if isinstance(arrays, list) else [arrays])]
        key = tuple((*one.shape, one.dtype) for one in tensors)
        if key not in traced:
            # Get the concrete function explicitly; otherwise TensorFlow warns about retracing.
            concrete = call.get_concrete_function([tf.TensorSpec(one.shape, one.dtype) for one in tensors])
            traced[key] = _with_variables_as_constants(concrete) if has_module else concrete
        return traced[key](tensors)

    return run


def _with_variables_as_constants(concrete: Any) -> Any:
    from tensorflow.python.framework.convert_to_constants import convert_variables_to_constants_v2

    flat = convert_variables_to_constants_v2(concrete)
    return lambda tensors: flat(*tensors)
