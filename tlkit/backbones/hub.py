"""TF-Hub modules and your own SavedModels as backbones.

tensorflow_hub, which finds and downloads the modules, is imported here only. A TF-Hub module is one block: its graph
cannot be cut, so it is fine-tuned as a whole or not at all.
"""

from __future__ import annotations

import os
from functools import lru_cache, partial
from pathlib import Path
from typing import Any

from tlkit.backbones.backbone import Backbone
from tlkit.errors import SpecError, WeightsError, nearest

PREFIX = "hub:"
_SIZE = 224  # pixels, for modules that accept any size


def hub_backbone(name: str) -> Backbone:
    """Read a module as a backbone.

    name: "hub:HANDLE", "hub:FOLDER" or the folder of your own SavedModel. With "hub:" the module receives pixels from 0
        to 1, as is the convention of TF-Hub's image modules (https://www.tensorflow.org/hub/common_signatures/images).
        Without "hub:" it receives raw RGB 0-255, like your own `.keras` file.

    Raises WeightsError if it cannot be fetched or read, or does not accept images.
    """
    folder = find_module(name)
    digest = _digest(folder)
    module = _module(str(folder), name, digest)
    preprocessing = "unit" if name.startswith(PREFIX) else "included"
    return Backbone(
        name=name,
        builder=partial(_graph, name, folder, digest, preprocessing),
        size=module.size or _SIZE,
        smallest=module.size or 32,
        boundaries=(),
        parameters=sum(int(v.shape.num_elements()) for v in module.variables if v.dtype.is_floating),
        brings_weights=True,
        licence="the publisher's" if name.startswith(PREFIX) else "your own",
        frozen_because=module.frozen_because,
        sha256=digest,
        note=f"SHA-256 {digest[:12]}; one block: it is fine-tuned as a whole or not at all",
        origin="module",
    )


def _graph(name: str, folder: Path, digest: str, preprocessing: str, size: int) -> tuple[Any, Any]:
    """Return an input tensor and the module's features: (n, features) or (n, rows, columns, channels)."""
    import keras

    from tlkit.backbones.normalise import normalise
    from tlkit.backbones.saved_model_layer import Module, SavedModelLayer

    module = Module(folder, name)  # a new one for each layer, since training changes its variables
    if module.size and size != module.size:
        raise SpecError(
            f"'{name}' takes {module.size} x {module.size} pixels only. Leave `image_size` out, or give {module.size}."
        )
    module.features_at(size)
    inputs = keras.Input((size, size, 3), name="image")
    layer = SavedModelLayer(name, digest, module)
    return inputs, layer(normalise(preprocessing, inputs))


def find_module(name: str) -> Path:
    """Return the folder of a module, downloaded first if a handle is given.

    Raises WeightsError with the handle, the cause and the remedy.
    """
    handle = name.removeprefix(PREFIX)
    if "://" in handle:
        return _fetch(handle)
    folder = Path(handle)
    if (folder / "saved_model.pb").is_file():
        return folder.absolute()
    if not folder.is_dir():
        siblings = [p.name for p in folder.parent.iterdir() if p.is_dir()] if folder.parent.is_dir() else []
        close = nearest(folder.name, siblings)
        hint = (
            f"Did you mean '{folder.parent / close}'?" if close else "Expected a folder, or a handle: hub:https://..."
        )
        raise WeightsError(f"No such module: '{handle}'. {hint}")
    raise WeightsError(
        f"'{handle}' holds no saved_model.pb. Expected the folder of a SavedModel. "
        "If you downloaded it as an archive, unpack it."
    )


@lru_cache(maxsize=8)
def _fetch(handle: str) -> Path:
    os.environ.setdefault("TFHUB_DOWNLOAD_PROGRESS", "1")  # tensorflow_hub then shows the download's progress
    try:
        import tensorflow_hub

        folder = Path(tensorflow_hub.resolve(handle))
    except Exception as error:  # urllib, tarfile, ssl and tensorflow_hub raise many kinds
        reason = next(iter(str(error).strip().splitlines()), type(error).__name__)[:200]
        raise WeightsError(
            f"The module '{handle}' cannot be fetched ({reason}). Expected the address of a TF-Hub module. "
            "Download it elsewhere, unpack it, and give its folder: `backbone=hub:FOLDER`."
        ) from error
    if not (folder / "saved_model.pb").is_file():
        raise WeightsError(
            f"The module '{handle}' was downloaded to '{folder}', which holds no saved_model.pb. "
            "Expected a TF2 SavedModel, or a TF1 module in that format."
        )
    return folder


def _digest(folder: Path) -> str:
    from tlkit.backbones.saved_model_layer import digest_of

    return digest_of(folder)


@lru_cache(maxsize=4)
def _module(folder: str, name: str, digest: str) -> Any:
    """Read a module to describe it; cached while its files do not change."""
    import keras

    from tlkit.backbones.saved_model_layer import Module

    if keras.backend.backend() != "tensorflow":
        raise WeightsError(
            f"'{name}' is a SavedModel, which runs on TensorFlow only, but Keras runs on {keras.backend.backend()}. "
            "Set KERAS_BACKEND=tensorflow."
        )
    module = Module(Path(folder), name)
    module.features_at(module.size or _SIZE)
    return module
