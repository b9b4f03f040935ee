"""Devices and their memory: detect GPUs, choose a precision, and halve batches when memory runs out."""

from __future__ import annotations

import os
import re
from collections.abc import Callable
from typing import TypeVar

from tlkit.progress import log

T = TypeVar("T")

BFLOAT16_SINCE = (8, 0)  # the compute capability of Ampere, the first of NVIDIA's GPUs with bfloat16 (CUDA C++ guide)


def while_memory_lasts(work: Callable[[int], T], batch_size: int) -> T:
    """Return `work(batch_size)`. When memory runs out, retry with half the batch size, down to 1, and log it."""
    while True:
        try:
            return work(batch_size)
        except Exception as error:
            if batch_size == 1 or not _out_of_memory(error):
                raise
        batch_size //= 2
        log.info(f"out of memory: going on with batches of {batch_size}")


def _out_of_memory(error: Exception) -> bool:
    """Whether memory ran out: a MemoryError of NumPy, or said in the message (TensorFlow, JAX) or type (PyTorch)."""
    text = f"{type(error).__name__} {error}".lower()
    return isinstance(error, MemoryError) or any(
        sign in text for sign in ("resource_exhausted", "resourceexhausted", "outofmemory", "out of memory")
    )


def _use_devices() -> None:
    """Let TensorFlow allocate GPU memory as needed, not all at once. Does nothing without a GPU."""
    import tensorflow as tf

    for gpu in tf.config.list_physical_devices("GPU"):
        try:
            tf.config.experimental.set_memory_growth(gpu, True)
        except RuntimeError:
            return  # the script has already started TensorFlow, with its own settings


def _device() -> str:
    """Describe the device that TensorFlow computes on, such as "CPU, 2 cores"."""
    import tensorflow as tf

    gpus = tf.config.list_physical_devices("GPU")
    if not gpus:
        return f"CPU, {os.cpu_count()} cores"
    names = [tf.config.experimental.get_device_details(gpu).get("device_name", "unknown") for gpu in gpus]
    return f"GPU, {', '.join(names)}"


def _compute_capabilities() -> list[tuple[int, int] | None]:
    """Return the CUDA compute capability of each GPU that Keras' backend uses; None for one that does not tell."""
    import keras

    if keras.backend.backend() == "jax":
        import jax

        told = [getattr(one, "compute_capability", None) for one in jax.local_devices() if one.platform == "gpu"]
        return [_capability(one) for one in told]
    import tensorflow as tf

    details = map(tf.config.experimental.get_device_details, tf.config.list_physical_devices("GPU"))
    return [one.get("compute_capability") for one in details]


def _capability(text: str | None) -> tuple[int, int] | None:
    """Parse a compute capability such as "8.0", as JAX gives it; None for another text, such as AMD's "gfx90a"."""
    found = re.fullmatch(r"(\d+)\.(\d+)", text or "")
    return (int(found[1]), int(found[2])) if found else None


def _precision(asked: str) -> str:
    """Return the Keras dtype policy for a recipe's precision; "auto" depends on the device.

    On GPUs that all compute in bfloat16 (NVIDIA's from compute capability 8.0, Ampere, on) it is mixed_bfloat16, whose
    range is that of float32, so that no gradient underflows. On other GPUs it is mixed_float16, with loss scaling.
    """
    if asked != "auto":
        return asked
    capabilities = _compute_capabilities()
    if not capabilities:
        return "float32"
    bfloat16 = all(one is not None and one >= BFLOAT16_SINCE for one in capabilities)
    return "mixed_bfloat16" if bfloat16 else "mixed_float16"
