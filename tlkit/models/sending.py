"""Sends a network to another process, as the files of `tlkit.models.files`, and calls it there."""

from __future__ import annotations

import functools
import tempfile
from collections.abc import Callable
from pathlib import Path

import keras
import numpy as np

from tlkit.models.files import open_model, save_model
from tlkit.models.inference import frozen_call

NAME = "model.keras"


def packed(model: keras.Model) -> dict[str, bytes]:
    """The files of a network, by their path: a `.keras` file, and its SavedModels."""
    with tempfile.TemporaryDirectory() as folder:
        save_model(model, Path(folder) / NAME)
        files = [one for one in Path(folder).rglob("*") if one.is_file()]
        return {one.relative_to(folder).as_posix(): one.read_bytes() for one in files}


def unpacked(files: dict[str, bytes]) -> keras.Model:
    """Read a network from its files, in safe mode."""
    with tempfile.TemporaryDirectory() as folder:
        for name, data in files.items():
            file = Path(folder) / name
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_bytes(data)
        return open_model(Path(folder) / NAME)


def sent_call(
    model: keras.Model, batch_size: int, *, bfloat16: bool = False
) -> Callable[[], Callable[[np.ndarray], list[np.ndarray]]]:
    """Return the set-up of a worker: it makes there what `frozen_call` makes here, and rounds as it does."""
    return functools.partial(_called, packed(model), batch_size, bfloat16)


def _called(files: dict[str, bytes], batch_size: int, bfloat16: bool) -> Callable[[np.ndarray], list[np.ndarray]]:
    return frozen_call(unpacked(files), batch_size, bfloat16=bfloat16)
