"""Finds, checks and loads a backbone's pretrained weights. Never falls back to random ones.

"imagenet" weights are looked up in Keras' own cache, which `keras.applications` uses too ($KERAS_HOME/models, else
~/.keras/models). They are downloaded to it if they are absent. The weights of `nano` are stored beside this file.
"""

from __future__ import annotations

import hashlib
import logging
import os
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tlkit.backbones.backbone import Backbone, Weights
from tlkit.backbones.checkpoint import SUFFIXES
from tlkit.backbones.files import read_weights
from tlkit.backbones.table import BACKBONES
from tlkit.errors import WeightsError, nearest
from tlkit.files import temporary_beside

if TYPE_CHECKING:
    import keras


_SHIPPED = Path(__file__).parent
_log = logging.getLogger("tlkit")


def find_weights(backbone: Backbone, weights: str) -> Path | None:
    """Find the file of a backbone's weights, and download it if needed.

    weights: "imagenet", "none", or a file.

    Returns None for "none", and for a backbone that brings its own weights.

    Raises WeightsError if the file is absent or damaged, or if the download fails. The message says which file is
    missing, where to put it, and the backbones whose weights are already on this machine.
    """
    if weights == "none" or (backbone.brings_weights and weights == "imagenet"):
        return None
    if backbone.brings_weights:
        raise WeightsError(f"'{backbone.name}' brings its own weights: `weights={weights}` cannot be loaded into it.")
    if weights != "imagenet":
        return _given_file(weights)
    if backbone.weights is None:
        raise WeightsError(
            f"{backbone.name} has no pretrained weights. Give a file of them as `weights=FILE`; "
            "`weights=none` trains from random weights."
        )
    file = cached_file(backbone)
    if file is None and backbone.weights.come_with_tlkit:
        raise WeightsError(
            f"The weights of {backbone.name} are missing: expected '{_SHIPPED / backbone.weights.file}'. "
            "They come with tlkit; install it again."
        )
    if file is None:
        return _download(backbone.name, backbone.weights)
    _check_digest(backbone.name, backbone.weights, file)
    return file


def cached_file(backbone: Backbone) -> Path | None:
    """Return the file of the pretrained weights if it is on this machine, else None."""
    weights = backbone.weights
    if weights is None:
        return None
    file = (_SHIPPED if weights.come_with_tlkit else models_folder()) / weights.file
    return file if file.is_file() else None


def models_folder() -> Path:
    """Return the folder in which Keras stores downloaded weights."""
    home = os.environ.get("KERAS_HOME")
    return (Path(home) if home else Path.home() / ".keras") / "models"


def weights_sha256(backbone: Backbone, weights: str) -> str | None:
    """Return the SHA-256 of the files that a backbone's weights are read from.

    weights: "imagenet", "none", or a file. A backbone that brings its weights has the hash of its own file or folder.
    Returns None for random weights, for a file that is not on this machine, and for a KerasHub preset that is known by
    its name only, since KerasHub keeps its files.
    """
    if backbone.brings_weights:
        source = Path(backbone.name.removeprefix("kerashub:"))
        if backbone.sha256 is not None:
            return backbone.sha256
        return sha256_of(source) if source.exists() else None
    file = None if weights == "none" else cached_file(backbone) if weights == "imagenet" else Path(weights)
    return sha256_of(file) if file is not None and file.is_file() else None


def sha256_of(source: Path) -> str:
    """Return the SHA-256 of a file, or of a folder: of its files' names and hashes. Reads unchanged files once."""
    if source.is_file():
        found = source.stat()
        return _remembered(str(source.absolute()), found.st_size, found.st_mtime_ns)
    whole = hashlib.sha256()
    for file in sorted(one for one in source.rglob("*") if one.is_file()):
        whole.update(f"{file.relative_to(source).as_posix()} {sha256_of(file)}\n".encode())
    return whole.hexdigest()


@lru_cache(maxsize=256)
def _remembered(file: str, size: int, modified: int) -> str:
    return _digest(Path(file), "sha256")


def load_backbone_weights(backbone: Backbone, model: keras.Model, file: Path) -> None:
    """Load a weights file, with or without a top, into a backbone without a top.

    Raises WeightsError with both shapes, or with the file's hash.
    """
    try:
        if file.suffix == ".npz":
            _load_arrays(model, file)
        elif file.suffix in SUFFIXES:
            load_checkpoint(backbone, model, file)
        elif not _load_below_the_top(model, file):
            model.load_weights(str(file))
    except Exception as error:  # Keras and h5py raise OSError, ValueError, KeyError and others here
        reason = str(error).splitlines()[0][:240] if str(error) else type(error).__name__
        like = f", such as {backbone.weights.file}" if backbone.weights else ""
        raise WeightsError(
            f"'{file}' ({file.stat().st_size:,} bytes, SHA-256 {_digest(file, 'sha256')}) "
            f"does not load into {backbone.name}: {reason}. Expected the weights of {backbone.name}, "
            f"which has {backbone.parameters:,} parameters without its top{like}. "
            "If the file is incomplete, delete it and download it again."
        ) from error


def load_checkpoint(backbone: Backbone, model: keras.Model, file: Path) -> tuple[str, ...]:
    """Load a PyTorch, safetensors or ONNX file into a backbone with or without its top.

    Returns the names of the tensors that were left out, see `Checkpoint.assign`.

    Raises WeightsError if the backbone takes no such files, or if the file does not fit.
    """
    if backbone.checkpoint is None:
        named = [one.name for one in BACKBONES.values() if one.checkpoint]
        raise WeightsError(
            f"{backbone.name} takes no {file.suffix} files. Expected the .h5 or .weights.h5 file of a Keras network. "
            f"Backbones that take them: {', '.join(named)}"
        )
    left_out = backbone.checkpoint.assign(model, read_weights(file))
    others = [name for name in left_out if not name.endswith("num_batches_tracked")]
    if others:
        _log.info("Of %s, left out: %s", file.name, ", ".join(others))
    return left_out


def _load_below_the_top(model: keras.Model, file: Path) -> bool:
    """Load an HDF5 file by the order of its layers, if it holds more layers than the network.

    Such files hold whole models, or weights as Keras 2 wrote them. The layers after the network's are the top, and are
    skipped. Returns False, and loads nothing, for other files. Raises ValueError if a layer does not fit.
    """
    import h5py
    import numpy as np

    with h5py.File(file, "r") as opened:
        group = opened.get("model_weights", opened)
        if "layer_names" not in group.attrs:
            return False
        layers = [group[_text(name)] for name in group.attrs["layer_names"]]
        theirs = [[np.asarray(one[_text(name)]) for name in one.attrs["weight_names"]] for one in layers]
    theirs = [arrays for arrays in theirs if arrays]
    ours = [layer for layer in model.layers if layer.weights]
    if len(theirs) <= len(ours):
        return False
    pairs = []
    for layer, arrays in zip(ours, theirs, strict=False):
        weights = [*layer.trainable_weights, *layer.non_trainable_weights]  # the order in which such files keep them
        shapes = [tuple(w.shape) for w in weights], [one.shape for one in arrays]
        if shapes[0] != shapes[1]:
            raise ValueError(f"layer '{layer.name}' has shapes {shapes[0]}, the file's {shapes[1]}")
        pairs += list(zip(weights, arrays, strict=True))
    for weight, array in pairs:
        weight.assign(array)
    return True


def _text(name: bytes | str) -> str:
    return name.decode("utf-8") if isinstance(name, bytes) else str(name)


def save_arrays(model: keras.Model, file: Path) -> str:
    """Write a network's variables by their paths to a compressed `.npz`, in float16. Returns the file's SHA-256.

    Moving variances stay in float32, since float16 would round values below 6e-8 to 0.
    """
    import numpy as np

    values: dict[str, Any] = {}
    for variable in model.variables:
        kind = "float32" if variable.path.endswith("moving_variance") else "float16"
        values[variable.path] = np.asarray(variable).astype(kind)
    with temporary_beside(file) as temporary:
        np.savez_compressed(temporary, **values)
    return _digest(file, "sha256")


def _load_arrays(model: keras.Model, file: Path) -> None:
    import numpy as np

    with np.load(file, allow_pickle=False) as arrays:
        missing = {variable.path for variable in model.variables} ^ set(arrays.files)
        if missing:
            raise ValueError(f"{len(missing)} names differ, such as {sorted(missing)[0]}")
        for variable in model.variables:
            variable.assign(arrays[variable.path].astype("float32"))


def _given_file(weights: str) -> Path:
    path = Path(weights)
    if path.is_file():
        return path
    siblings = [p.name for p in path.parent.iterdir()] if path.parent.is_dir() else []
    close = nearest(path.name, siblings) or nearest(weights, ["imagenet", "none"])
    hint = f" Did you mean '{path.parent / close if close in siblings else close}'?" if close else ""
    raise WeightsError(
        f"No such weights file: '{weights}'.{hint} Expected imagenet, none, or a file: "
        ".h5 or .weights.h5 of Keras, or .pth, .safetensors or .onnx."
    )


def _download(name: str, weights: Weights) -> Path:
    import keras

    target = models_folder() / weights.file
    try:
        return Path(
            keras.utils.get_file(
                weights.file,
                weights.url,
                cache_subdir="models",
                cache_dir=str(models_folder().parent),
                file_hash=weights.digest,
                hash_algorithm="auto",
            )
        )
    except Exception as error:
        here = [one.name for one in BACKBONES.values() if cached_file(one)]
        reason = str(error).splitlines()[0][:160] if str(error) else type(error).__name__
        raise WeightsError(
            f"The ImageNet weights of {name} are not on this machine and cannot be downloaded ({reason}). "
            f"Expected '{target}'. Download {weights.url} elsewhere and put it there, or give it as `weights=FILE`. "
            f"Backbones whose weights are here: {', '.join(here) or 'none'}. `weights=none` trains from random weights."
        ) from error


def _check_digest(name: str, weights: Weights, file: Path) -> None:
    if weights.digest is None:
        return
    kind = "md5" if len(weights.digest) == 32 else "sha256"
    found = _digest(file, kind)
    if found != weights.digest:
        raise WeightsError(
            f"'{file}' is damaged or not the weights of {name}: its {kind} is {found}, expected {weights.digest}. "
            "Delete it and download it again, or give another file as `weights=FILE`."
        )


def _digest(file: Path, kind: str) -> str:
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, kind).hexdigest()
