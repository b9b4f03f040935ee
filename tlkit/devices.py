"""Devices and their memory: detect GPUs, choose a precision, and halve batches when memory runs out."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import TypeVar

from tlkit.progress import log

T = TypeVar("T")


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


def _precision(asked: str) -> str:
    """Return the Keras dtype policy for a recipe's precision; "auto" depends on the device."""
    if asked != "auto":
        return asked
    return "mixed_float16" if _device().startswith("GPU") else "float32"
