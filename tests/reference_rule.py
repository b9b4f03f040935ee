"""The rule that makes the weights and the pixels on which reference outputs of public networks were computed.

So nobody needs the weights: PyTorch's networks and ours get the same from the tensors' names and shapes. NumPy only.
"""

from __future__ import annotations

import zlib
from collections.abc import Mapping, Sequence

import numpy as np


def value(name: str, shape: Sequence[int]) -> np.ndarray:
    """The values of a tensor of a state dict."""
    r = np.random.default_rng(zlib.crc32(name.encode()))
    last = name.rsplit(".", 1)[-1]
    if last == "num_batches_tracked":
        return np.zeros(shape, "int64")
    if len(shape) >= 2:
        return (r.standard_normal(shape) * np.sqrt(2 / np.prod(shape[1:]))).astype("float32")
    if last == "running_var":
        return r.uniform(0.5, 1.5, shape).astype("float32")
    if last == "running_mean":
        return (0.1 * r.standard_normal(shape)).astype("float32")
    if last == "weight":
        return r.uniform(0.8, 1.2, shape).astype("float32")
    return (0.05 * r.standard_normal(shape)).astype("float32")


def state(shapes: Mapping[str, Sequence[int]]) -> dict[str, np.ndarray]:
    """The tensors of a state dict, given their shapes."""
    return {name: value(name, shape) for name, shape in shapes.items()}


def pixels(size: int) -> np.ndarray:
    """Two images as the first convolution sees them, channels first: float32, shape (2, 3, size, size)."""
    return np.random.default_rng(0).standard_normal((2, 3, size, size)).astype("float32")
