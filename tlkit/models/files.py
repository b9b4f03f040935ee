"""`.keras` files: written whole with the modules that a model holds beside them, and read in safe mode."""

from __future__ import annotations

import contextlib
import json
import shutil
import zipfile
from pathlib import Path

import keras

from tlkit.backbones.kerashub import its_layers
from tlkit.backbones.saved_model_layer import MODULES, SavedModelLayer, module_files, modules_in
from tlkit.errors import WeightsError
from tlkit.files import temporary_beside


def save_model(model: keras.Model, file: Path) -> None:
    """Write a model as `.keras`, under a temporary name first, and the modules that it holds beside it."""
    with temporary_beside(file) as temporary:
        model.save(temporary)
    for layer in model._flatten_layers():
        if isinstance(layer, SavedModelLayer):
            kept = file.parent / MODULES / layer.sha256[:16]
            if not kept.exists():
                kept.parent.mkdir(exist_ok=True)
                with temporary_beside(kept) as temporary:
                    for one in module_files(layer.module.folder):
                        copy = temporary / one.relative_to(layer.module.folder)
                        copy.parent.mkdir(parents=True, exist_ok=True)
                        shutil.copyfile(one, copy)


def open_model(file: Path) -> keras.Model:
    """Read a `.keras` file in safe mode, with the modules beside it.

    Raises OSError or ValueError, as Keras does, and WeightsError for a module that is gone.
    """
    with modules_in(file.parent / MODULES), _layers_of_kerashub(file):
        try:
            return keras.saving.load_model(file, compile=False, safe_mode=True)
        except TypeError as error:  # Keras wraps whatever a layer raises while it is read
            cause: BaseException | None = error
            while cause is not None and not isinstance(cause, WeightsError):
                cause = cause.__context__
            raise cause or ValueError(str(error).splitlines()[0]) from None


def _layers_of_kerashub(file: Path) -> contextlib.AbstractContextManager[None]:
    """What lets Keras read KerasHub's layers, if the file holds some: else KerasHub, which is an extra, is not asked for."""
    if zipfile.is_zipfile(file):
        with zipfile.ZipFile(file) as inside:
            settings = inside.read("config.json") if "config.json" in inside.namelist() else b""
        if b'"keras_hub' in settings:
            return its_layers(json.loads(settings))
    return contextlib.nullcontext()
