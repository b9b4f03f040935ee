"""Weights that are learned from a run's training images, without their labels, before features are computed.

They are kept in the cache by the content of these images, so the same images, settings and seed find the same file, and
everything that follows takes it as any other file of weights.
"""

from __future__ import annotations

import atexit
import contextlib
import dataclasses
import hashlib
import json
import os
import shutil
import tempfile
import zipfile
import zlib
from pathlib import Path
from typing import TYPE_CHECKING

from tlkit.backbones.backbone import Backbone, Weights
from tlkit.cache import describe, hold
from tlkit.files import temporary_beside, write_atomically
from tlkit.manifest import digest, sealed, unsealed
from tlkit.words import counted

if TYPE_CHECKING:
    import numpy as np

    from tlkit.data.examples import Examples

VERSION = 1  # of what is learned; a change of any `Backbone.learn` raises it
FILE = "weights.npz"


def learn_weights(backbone: Backbone, examples: Examples, *, weights: str = "imagenet", seed: int = 0) -> Backbone:
    """Return a backbone with the weights that it learns from training images; itself if it learns none.

    Args:
        backbone: a row of the table.
        examples: training images, RGB 0-255. Pass no others: what is learned from an image that is held out is not
            measured fairly on it, though labels are not read.
        weights: as for `tlkit.build_classifier`. Nothing is learned unless it is "imagenet".
        seed: of what is drawn at random.
    """
    if backbone.learn is None or backbone.weights is not None or weights != "imagenet":
        return backbone
    file = examples.cache.at("weights", _key(backbone, examples, seed)) / FILE
    hold(file)  # it is read again when the model is built
    if not is_sound(file):
        arrays = backbone.learn(backbone, examples, seed)
        file = _written(arrays, file, examples, f"weights of {backbone.name}, learned from {len(examples):,} images")
        hold(file)
    with contextlib.suppress(OSError):
        os.utime(file)  # marks it as in use
    digest = hashlib.sha256(file.read_bytes()).hexdigest()
    learned_from = counted(len(examples), "training image")
    found = Weights(str(file.absolute()), "", digest, learned_from=learned_from)
    return dataclasses.replace(backbone, weights=found)


def _key(backbone: Backbone, examples: Examples, seed: int) -> str:
    """A hash of all that the weights depend on; the order of the images is not part of it."""
    made_by = [VERSION, repr(backbone.builder), examples.made_by, list(examples.pixels.row_shape), seed]
    return hashlib.sha256(json.dumps([made_by, sorted(examples.keys)]).encode()).hexdigest()[:24]


def is_sound(file: Path) -> bool:
    """Whether a file of weights is there and not damaged: it has the SHA-256 that `weights.json` beside it tells.

    If there is none, as in early versions, the checksums of its parts are compared.
    """
    try:
        with contextlib.suppress(FileNotFoundError):
            return unsealed(file.with_suffix(".json").read_bytes()) == digest(file)
    except (OSError, ValueError):
        return False
    try:
        with zipfile.ZipFile(file) as opened:
            return opened.testzip() is None
    except (OSError, zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError):
        return False


def _written(arrays: dict[str, np.ndarray], file: Path, examples: Examples, about: str) -> Path:
    """Write arrays to the cache, or to a temporary folder if that has no room. The same arrays give the same bytes."""
    import numpy as np

    if not examples.cache.has_room_for(sum(one.nbytes for one in arrays.values())):
        folder = Path(tempfile.mkdtemp(prefix="tlkit-weights-"))
        atexit.register(shutil.rmtree, folder, ignore_errors=True)
        file = folder / FILE
    describe(file.parent, about)
    with temporary_beside(file) as temporary:
        np.savez(temporary, **{name: arrays[name] for name in sorted(arrays)})  # type: ignore[arg-type]
        write_atomically(file.with_suffix(".json"), sealed(digest(temporary)))
    return file
