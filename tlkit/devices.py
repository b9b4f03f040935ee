"""What this machine computes on: its devices, the precision that suits them, and smaller batches when memory runs out."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import TypeVar

from tlkit.progress import log

T = TypeVar("T")


def while_memory_lasts(work: Callable[[int], T], batch_size: int) -> T:
    """`work(batch_size)`; when memory runs out, again with half of it, down to 1, which is logged each time."""
    while True:
        try:
            return work(batch_size)
        except Exception as error:
            if batch_size == 1 or not _out_of_memory(error):
                raise
        batch_size //= 2
        log.info(f"out of memory: going on with batches of {batch_size}")


def _out_of_memory(error: Exception) -> bool:
    """NumPy raises MemoryError; TensorFlow and JAX name it in the message, PyTorch in the error's name."""
    text = f"{type(error).__name__} {error}".lower()
    return isinstance(error, MemoryError) or any(
        sign in text for sign in ("resource_exhausted", "resourceexhausted", "outofmemory", "out of memory")
    )


def _use_devices() -> None:
    """Let TensorFlow take a GPU's memory as it needs it, not all at once. Harmless without a GPU."""
    import tensorflow as tf

    for gpu in tf.config.list_physical_devices("GPU"):
        try:
            tf.config.experimental.set_memory_growth(gpu, True)
        except RuntimeError:
            return  # TensorFlow is in use already, with the settings of the script that uses it


def _device() -> str:
    import tensorflow as tf

    gpus = tf.config.list_physical_devices("GPU")
    if not gpus:
        return f"CPU, {os.cpu_count()} cores"
    names = [tf.config.experimental.get_device_details(gpu).get("device_name", "unknown") for gpu in gpus]
    return f"GPU, {', '.join(names)}"


def _precision(asked: str) -> str:
    """A recipe's precision as a Keras dtype policy for the device there is."""
    if asked != "auto":
        return asked
    return "mixed_float16" if _device().startswith("GPU") else "float32"
