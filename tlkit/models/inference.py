"""Inference with frozen weights, batch by batch: `frozen_call` is the fastest way that the Keras backend offers.

On TensorFlow the weights become constants of a separate graph, so that its optimiser can fuse each convolution with the
BatchNormalization and activation after it. On other backends, and for networks too large for this, Keras'
`predict_on_batch` is used. Processors with instructions for bfloat16 run the convolutions of heavy networks several
times as fast in it; this is used for what is only learned from, and never for what is reported or served.
"""

from __future__ import annotations

import contextlib
import functools
import math
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import keras
import numpy as np

from tlkit.devices import several_of_this_process

GPU_FACTOR = 8
# Multiplications an image from which bfloat16 is used. Measured on two cores with AMX, batches of 16 at 224 pixels:
# VGG16 (15 billion) 26.8 images/s instead of 4.9, ResNet50 (4 billion) 70.9 instead of 19.9, MobileNetV2 (0.3 billion)
# 83.5 instead of 84.0. Its features differ from those of float32 by up to 0.4 % of the largest.
HEAVY = 1e9
BFLOAT16_FLAGS = {"amx_bf16", "avx512_bf16"}  # in /proc/cpuinfo
FrozenCall = Callable[[np.ndarray | list[np.ndarray]], list[np.ndarray]]
MOST_BYTES = 300 * 2**20  # limit for weights as constants: they are copied, and a graph holds 2 GiB at most


def frozen_call(
    model: keras.Model, batch_size: int, *, bfloat16: bool = False, device: str | None = None
) -> FrozenCall:
    """Return the model as a function from one batch (an array for each input) to a list of arrays, one for each output.

    The weights are copied now: later changes have no effect. A batch smaller than batch_size is padded, so that the
    graph is traced only once. Larger batches are not expected.

    device: where it is computed, as `keras.distribution.list_devices` names it; None: where the backend computes.
    """
    if device is not None:
        run = ON_DEVICE[keras.backend.backend()](model, device)
    else:
        run = _with_weights_as_constants(model) if _fits_as_constants(model) else model.predict_on_batch

    def call(inputs: np.ndarray | list[np.ndarray]) -> list[np.ndarray]:
        arrays = inputs if isinstance(inputs, list) else [inputs]
        count = len(arrays[0])
        if count < batch_size:
            arrays = [np.concatenate([a, np.zeros((batch_size - count, *a.shape[1:]), a.dtype)]) for a in arrays]
        with _bfloat16_allowed() if bfloat16 else contextlib.nullcontext():
            outputs: Any = run(arrays if len(arrays) > 1 else arrays[0])
        outputs = outputs if isinstance(outputs, list | tuple) else [outputs]
        return [np.asarray(values)[:count] for values in outputs]

    return call


def frozen_calls(model: keras.Model, batch_size: int, *, bfloat16: bool = False) -> list[FrozenCall]:
    """Return `frozen_call` of each device of `tlkit.devices.use_devices`, to be called from a thread of its own each.

    bfloat16: whether it is allowed; then there is one call, as that is for a processor.
    """
    devices = several_of_this_process()
    if bfloat16 or not devices:
        return [frozen_call(model, batch_size, bfloat16=bfloat16)]
    return [frozen_call(model, batch_size, device=one) for one in devices]


def bfloat16_pays(model: keras.Model) -> bool:
    """Whether frozen layers run much faster in bfloat16: a heavy network in float32 on a processor made for it."""
    return (
        _fits_as_constants(model)
        and model.dtype_policy.name == "float32"
        and _processor_has_bfloat16()
        and inference_batch(1) == 1  # no GPU
        and multiplications(model) >= HEAVY
    )


def multiplications(model: keras.Model) -> float:
    """Count the multiplications that the convolutions and dense layers of a model take for one image."""
    total = 0.0
    for layer in model.layers:
        kernels = [one for one in layer.weights if len(one.shape) > 1]
        shape = layer.output.shape[1:-1] if kernels and hasattr(layer.output, "shape") else ()
        total += math.prod(side or 1 for side in shape) * sum(math.prod(one.shape) for one in kernels)
    return total


@functools.cache
def _processor_has_bfloat16() -> bool:
    with contextlib.suppress(OSError):
        return bool(BFLOAT16_FLAGS & set(Path("/proc/cpuinfo").read_text().split()))
    return False


@contextlib.contextmanager
def _bfloat16_allowed() -> Iterator[None]:
    """Let TensorFlow compute in bfloat16 what it runs in this block. Its graphs are optimised anew for it."""
    import tensorflow as tf

    option = "auto_mixed_precision_onednn_bfloat16"
    before = tf.config.optimizer.get_experimental_options().get(option, False)
    tf.config.optimizer.set_experimental_options({option: True})
    try:
        yield
    finally:
        tf.config.optimizer.set_experimental_options({option: before})


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


def _with_weights_as_constants(model: keras.Model, device: str | None = None) -> Callable[[Any], Any]:
    import tensorflow as tf

    trainable = [np.asarray(v) for v in model.trainable_variables]
    others = [np.asarray(v) for v in model.non_trainable_variables]
    kinds = [keras.backend.standardize_dtype(one.dtype) for one in model.inputs]

    @tf.function(autograph=False)
    def call(arrays: list[Any]) -> Any:
        with contextlib.nullcontext() if device is None else tf.device(device):
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


def _by_tensorflow(model: keras.Model, device: str) -> Callable[[Any], Any]:
    """A model on one of TensorFlow's devices. Too large for constants, its weights are copied there and handed over."""
    import tensorflow as tf

    if _fits_as_constants(model):
        return _with_weights_as_constants(model, device)
    with tf.device(device):
        weights = [
            [tf.constant(np.asarray(one)) for one in variables]
            for variables in (model.trainable_variables, model.non_trainable_variables)
        ]

    @tf.function(autograph=False, reduce_retracing=True)
    def call(weights: Any, inputs: Any) -> Any:
        with tf.device(device):
            return model.stateless_call(*weights, inputs, training=False)[0]

    return lambda arrays: call(weights, keras.tree.map_structure(tf.convert_to_tensor, arrays))


def _by_jax(model: keras.Model, device: str) -> Callable[[Any], Any]:
    """A model on one of JAX's devices."""
    import jax

    kind, number = device.split(":")
    place = next(one for one in jax.local_devices(backend=kind) if one.id == int(number))
    weights = [
        jax.device_put([np.asarray(one) for one in variables], place)
        for variables in (model.trainable_variables, model.non_trainable_variables)
    ]
    call = jax.jit(lambda weights, inputs: model.stateless_call(*weights, inputs, training=False)[0])
    return lambda arrays: call(weights, jax.device_put(arrays, place))


# Keras' backend -> a model, as a function of its inputs that is computed on a device
ON_DEVICE: dict[str, Callable[[keras.Model, str], Callable[[Any], Any]]] = {
    "tensorflow": _by_tensorflow,
    "jax": _by_jax,
}
