"""What the formats share: the packages that each needs, and what an opened export is."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from typing import Any

import numpy as np

from tlkit.errors import ExportError

EXTRAS = {"litert": ("ai_edge_litert", "litert"), "onnx": ("onnxruntime", "onnx")}

Answer = Callable[[np.ndarray], np.ndarray]


def _needed(package: str, extra: str) -> Any:
    try:
        return importlib.import_module(package)
    except ImportError as error:
        raise ExportError(
            f"'{package}' is not installed ({error}). Install it with: pip install 'tlkit[{extra}]'."
        ) from None
