"""A model whose weights stand still, run batch by batch: `frozen_call` is the fastest way that the Keras backend offers.

On TensorFlow the weights become constants of a graph of their own, so that its optimiser joins each convolution with the
BatchNormalization and activation behind it. On other backends, and for networks too large for that, it is Keras' own `predict`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import keras
import numpy as np

GPU_FACTOR = 8
MOST_BYTES = 300 * 2**20  # of weights as constants: they are copied, and a graph holds 2 GiB at most


def frozen_call(model: keras.Model, batch_size: int) -> Callable[[np.ndarray | list[np.ndarray]], list[np.ndarray]]:
    """The model as a function of one batch (an array for each input) to a list of arrays, one for each output.

    Weights are those of now: what changes later is not seen. A batch shorter than batch_size is padded, so that nothing is
    traced twice; larger ones are not expected.
    """
    run = _of_constants(model) if _suits_constants(model) else model.predict_on_batch

    def call(inputs: np.ndarray | list[np.ndarray]) -> list[np.ndarray]:
        arrays = inputs if isinstance(inputs, list) else [inputs]
        count = len(arrays[0])
        if count < batch_size:
            arrays = [np.concatenate([a, np.zeros((batch_size - count, *a.shape[1:]), a.dtype)]) for a in arrays]
        outputs: Any = run(arrays if len(arrays) > 1 else arrays[0])
        outputs = outputs if isinstance(outputs, list | tuple) else [outputs]
        return [np.asarray(values)[:count] for values in outputs]

    return call


def inference_batch(batch_size: int) -> int:
    """How many images to run at once where nothing trains: 8 training batches on a GPU, which holds no gradients now; else one."""
    known = keras.backend.backend() in ("tensorflow", "jax")
    on_gpu = known and not keras.distribution.list_devices()[0].startswith("cpu")
    return batch_size * (GPU_FACTOR if on_gpu else 1)


def _suits_constants(model: keras.Model) -> bool:
    size = sum(int(np.prod(v.shape)) * 4 for v in model.variables)
    return keras.backend.backend() == "tensorflow" and size <= MOST_BYTES


def _of_constants(model: keras.Model) -> Callable[[Any], Any]:
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
    of_module = any(hasattr(layer, "hold_still") for layer in model.layers)  # a SavedModel reads its variables itself

    def run(arrays: Any) -> Any:
        tensors = [tf.convert_to_tensor(array) for array in (arrays if isinstance(arrays, list) else [arrays])]
        key = tuple((*one.shape, one.dtype) for one in tensors)
        if (
            key not in traced
        ):  # asked for by name, because TensorFlow takes many networks traced once for one traced many times, and warns
            concrete = call.get_concrete_function([tf.TensorSpec(one.shape, one.dtype) for one in tensors])
            traced[key] = concrete if not of_module else _with_variables_as_constants(concrete)
        return traced[key](tensors)

    return run


def _with_variables_as_constants(concrete: Any) -> Any:
    from tensorflow.python.framework.convert_to_constants import convert_variables_to_constants_v2

    flat = convert_variables_to_constants_v2(concrete)
    return lambda tensors: flat(*tensors)
