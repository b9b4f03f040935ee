"""Writes `.keras` files atomically, with the SavedModels of a model beside them, and reads them in safe mode."""

from __future__ import annotations

import contextlib
import json
import shutil
import zipfile
import zlib
from pathlib import Path

import keras

from tlkit.backbones import registered as _registered  # noqa: F401  registers tlkit's own layers with Keras
from tlkit.backbones.finite import check_finite
from tlkit.backbones.grouped import compute_groups_of
from tlkit.backbones.kerashub import kerashub_layers
from tlkit.backbones.saved_model_layer import MODULES, SavedModelLayer, module_files, modules_in
from tlkit.errors import WeightsError
from tlkit.files import temporary_beside
from tlkit.models import drop_connect as drop_connect  # so that Keras knows the layer


def save_model(model: keras.Model, file: Path) -> None:
    """Write a model as `.keras`, under a temporary name first, and copy its SavedModels beside it."""
    with temporary_beside(file, needed=size_of(model)) as temporary:
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


def size_of(model: keras.Model) -> int:
    """About how many bytes a model takes on disk: 4 for each weight, and 2,000 for each layer's settings."""
    return 4 * model.count_params() + 2000 * len(model.layers)


def open_model(file: Path) -> keras.Model:
    """Read a `.keras` file in safe mode, with the SavedModels beside it.

    Raises OSError if the file cannot be read, ValueError if it is damaged or no Keras file, and WeightsError if a
    SavedModel is missing or a weight is NaN or infinite.
    """
    with file.open("rb"):  # Keras says of a damaged file that it is not found
        if not zipfile.is_zipfile(file):
            raise ValueError("it is cut off, or not a Keras file")
    with modules_in(file.parent / MODULES), _kerashub_layers_of(file):
        try:
            model = compute_groups_of(keras.saving.load_model(file, compile=False, safe_mode=True))
        except TypeError as error:  # Keras wraps whatever a layer raises while it is read
            cause: BaseException | None = error
            while cause is not None and not isinstance(cause, WeightsError):
                cause = cause.__context__
            raise cause or ValueError(_first_line(error)) from None
        except _DAMAGED as error:
            raise ValueError(f"it is damaged ({_first_line(error)})") from error
    check_finite(model, f"The weights in '{file}'")
    return model


# what zipfile, h5py and Keras raise for a damaged file, beside OSError and ValueError
_DAMAGED = (
    zipfile.BadZipFile,
    zlib.error,
    AttributeError,
    EOFError,
    IndexError,
    KeyError,
    NotImplementedError,
    RuntimeError,
)


def _first_line(error: BaseException) -> str:
    return next(iter(str(error).splitlines()), type(error).__name__)


def _kerashub_layers_of(file: Path) -> contextlib.AbstractContextManager[None]:
    """A context for reading KerasHub's layers, if the file holds any; KerasHub is imported only then."""
    if zipfile.is_zipfile(file):
        with zipfile.ZipFile(file) as inside:
            settings = inside.read("config.json") if "config.json" in inside.namelist() else b""
        if b'"keras_hub' in settings:
            return kerashub_layers(json.loads(settings))
    return contextlib.nullcontext()
