"""Finds, checks and loads a backbone's pretrained weights. Never falls back to random ones.

"imagenet" weights are looked up in Keras' own cache, which `keras.applications` uses too ($KERAS_HOME/models, else
~/.keras/models). They are downloaded to it if they are absent. The weights of `nano` are stored beside this file.
"""

from __future__ import annotations

import hashlib
import logging
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tlkit.backbones.backbone import Backbone, Weights
from tlkit.backbones.checkpoint import SUFFIXES
from tlkit.backbones.download import NotDownloaded, check_digest, check_unchanged, digits_in, download, models_folder
from tlkit.backbones.files import read_weights
from tlkit.backbones.finite import check_finite
from tlkit.backbones.published import Card, fetch, read_card
from tlkit.backbones.table import BACKBONES
from tlkit.errors import WeightsError, nearest
from tlkit.files import temporary_beside

if TYPE_CHECKING:
    import keras
    import numpy as np


_SHIPPED = Path(__file__).parent
_log = logging.getLogger("tlkit")


def find_weights(backbone: Backbone, weights: str, *, accept_licence: bool = False) -> Path | None:
    """Find the file of a backbone's weights, and download it if needed.

    weights: "imagenet", "none", a file, a folder with model.safetensors and config.json, or a name (see `published`).
    accept_licence: whether a licence that forbids commercial use, or has terms of its own, is accepted.

    Returns None for "none", and for a backbone that brings its own weights.

    Raises WeightsError if the file is absent, damaged or of another network, if its licence is not accepted, or if the
    download fails. The message says which file is missing, where to put it, and the backbones whose weights are already
    on this machine.
    """
    if weights == "none" or (backbone.brings_weights and weights == "imagenet"):
        return None
    if backbone.brings_weights:
        raise WeightsError(f"'{backbone.name}' brings its own weights: `weights={weights}` cannot be loaded into it.")
    if weights != "imagenet":
        card = read_card(weights)
        if card is None:
            return _given_file(weights)
        _check_fits(backbone, card)
        return fetch(card, accept_licence=accept_licence)
    if backbone.weights is None and backbone.learn is not None:
        raise WeightsError(
            f"The weights of {backbone.name} are learned from training images. `finetune` does that; elsewhere use "
            "`tlkit.backbones.learning.learn_weights` first, or `weights=none` for random weights."
        )
    if backbone.weights is None:
        raise WeightsError(
            f"{backbone.name} has no pretrained weights. Give a file of them as `weights=FILE`, or public ones by "
            "name, such as `weights=timm:NAME`; `weights=none` trains from random weights."
        )
    file = cached_file(backbone)
    if file is None and backbone.weights.come_with_tlkit:
        raise WeightsError(
            f"The weights of {backbone.name} are missing: expected '{_SHIPPED / backbone.weights.file}'. "
            "They come with tlkit; install it again."
        )
    if file is None and backbone.weights.learned_from:
        raise WeightsError(
            f"The weights of {backbone.name} that were learned from {backbone.weights.learned_from} are no longer in "
            f"'{backbone.weights.file}': the cache was cleared. Run it again."
        )
    if file is None:
        file = _download(backbone.name, backbone.weights)
    else:
        check_digest(file, _digest_of_row(backbone.weights), backbone.name)
    if _digest_of_row(backbone.weights) is None:
        check_unchanged(file, backbone.name)
    return file


def _check_fits(backbone: Backbone, card: Card) -> None:
    """Raise WeightsError, before the download, if weights by name are of another network."""
    if backbone.checkpoint is None:
        raise WeightsError(f"{backbone.name} takes no weights such as {card.name}. {_those_that_take_files()}")
    row = row_of(card)
    if not card.architecture or (row is not None and row.name == backbone.name):
        return
    if row is None and card.architecture in (backbone.name, *_other_names(backbone)):
        return
    what = f"the backbone {row.name}" if row is not None else "none of tlkit's backbones"
    do = "Leave `backbone` out, or choose other weights." if row is not None else "Choose other weights."
    raise WeightsError(
        f"The weights {card.name} are of the network {card.architecture}, which is {what}. Expected weights of "
        f"{backbone.name}. {do}"
    )


def row_of(card: Card) -> Backbone | None:
    """Return the backbone of the table that weights by name belong to, by the names that torchvision and timm have."""
    rows = [one for one in BACKBONES.values() if one.checkpoint is not None]
    by_file = {_without_digits(one.weights.file): one for one in rows if one.weights}
    by_name = {name: one for one in rows for name in _other_names(one)} | {one.name: one for one in rows}
    return by_file.get(card.architecture) or by_name.get(card.architecture)


def row_of_weights(weights: str) -> Backbone | None:
    """Return the backbone that weights by name belong to; None for weights that do not say what they are of.

    weights: as for `find_weights`.

    Raises WeightsError if they say it, and no backbone of the table is that network.
    """
    card = read_card(weights)
    if card is None or not card.architecture:
        return None
    row = row_of(card)
    if row is None:
        raise WeightsError(
            f"The weights {card.name} are of the network {card.architecture}, which is none of tlkit's backbones. "
            f"{_those_that_take_files()}"
        )
    return row


def _other_names(backbone: Backbone) -> tuple[str, ...]:
    return backbone.checkpoint.architectures if backbone.checkpoint else ()


def _without_digits(file: str) -> str:
    digits = digits_in(file)
    return file.partition(f"-{digits}")[0] if digits else file


def _those_that_take_files() -> str:
    named = [one.name for one in BACKBONES.values() if one.checkpoint]
    return f"Backbones that take them: {', '.join(named)}"


def cached_file(backbone: Backbone) -> Path | None:
    """Return the file of the pretrained weights if it is on this machine, else None."""
    weights = backbone.weights
    if weights is None:
        return None
    file = (_SHIPPED if weights.come_with_tlkit else models_folder()) / weights.file
    return file if file.is_file() else None


def weights_sha256(backbone: Backbone, weights: str) -> str | None:
    """Return the SHA-256 of the files that a backbone's weights are read from.

    weights: as for `find_weights`. A backbone that brings its weights has the hash of its own file or folder.
    Returns None for random weights, for a backbone without any, for a file that is not on this machine, and for a
    KerasHub preset that is known by its name only, since KerasHub keeps its files.
    """
    if not backbone.parameters:
        return None
    if backbone.brings_weights:
        source = Path(backbone.name.removeprefix("kerashub:"))
        if backbone.sha256 is not None:
            return backbone.sha256
        return sha256_of(source) if source.exists() else None
    if weights in ("none", "imagenet"):
        file = None if weights == "none" else cached_file(backbone)
    else:
        card = read_card(weights)
        file = Path(weights) if card is None else fetch(card, accept_licence=True)  # it is here since `find_weights`
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

    Raises WeightsError with both shapes, or with the file's hash, or with what a PyTorch file is damaged by.
    """
    tensors = _tensors(backbone, file) if file.suffix in SUFFIXES else None
    try:
        if tensors is not None:
            _assign(backbone, model, file, tensors)
        elif file.suffix == ".npz":
            _load_arrays(model, file)
        elif not _load_below_the_top(model, file):
            model.load_weights(str(file))
    except Exception as error:  # Keras and h5py raise OSError, ValueError, KeyError and others here
        reason = str(error).splitlines()[0][:300].rstrip(".") if str(error) else type(error).__name__
        like = f", such as {backbone.weights.file}" if backbone.weights else ""
        raise WeightsError(
            f"'{file}' ({file.stat().st_size:,} bytes, SHA-256 {_digest(file, 'sha256')}) "
            f"does not load into {backbone.name}: {reason}. Expected the weights of {backbone.name}, "
            f"which has {backbone.parameters:,} parameters without its top{like}. "
            "If the file is incomplete, delete it and download it again."
        ) from error
    check_finite(model, f"The weights in '{file}'")


def _tensors(backbone: Backbone, file: Path) -> dict[str, np.ndarray]:
    """Read a PyTorch, safetensors or ONNX file. Raises WeightsError if it is damaged, or if the backbone takes none."""
    if backbone.checkpoint is None:
        raise WeightsError(
            f"{backbone.name} takes no {file.suffix} files. Expected the .h5 or .weights.h5 file of a Keras network. "
            f"{_those_that_take_files()}"
        )
    return read_weights(file)


def _assign(backbone: Backbone, model: keras.Model, file: Path, tensors: dict[str, np.ndarray]) -> None:
    """Copy tensors into a backbone without its top, and log the names of those that were left out."""
    assert backbone.checkpoint is not None
    left_out = backbone.checkpoint.assign(model, tensors)
    others = [name for name in left_out if not name.endswith("num_batches_tracked")]
    if others:
        _log.info("Of %s, left out: %s", file.name, ", ".join(others))


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
        ".h5 or .weights.h5 of Keras, or .pth, .safetensors or .onnx. Or a name such as timm:resnet18.a1_in1k."
    )


def _download(name: str, weights: Weights) -> Path:
    target = models_folder() / weights.file
    try:
        return download(weights.url, target, _digest_of_row(weights))
    except NotDownloaded as reason:
        here = [one.name for one in BACKBONES.values() if cached_file(one)]
        raise WeightsError(
            f"The ImageNet weights of {name} are not on this machine and cannot be downloaded ({reason}). "
            f"Expected '{target}'. Download {weights.url} elsewhere and put it there, or give it as `weights=FILE`. "
            f"Backbones whose weights are here: {', '.join(here) or 'none'}. `weights=none` trains from random weights."
        ) from None


def _digest_of_row(weights: Weights) -> str | None:
    return weights.digest or digits_in(weights.file)


def _digest(file: Path, kind: str) -> str:
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, kind).hexdigest()
