"""Classifies image files with a run or an export."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from tlkit.data.arrays import as_pixels, highest_float, png_bytes
from tlkit.data.convert import Unreadable, convert
from tlkit.data.headers import why_not
from tlkit.data.limits import MAX_FILE_BYTES
from tlkit.data.sources.folder import files_below
from tlkit.data.sources.kinds import root_of_data
from tlkit.data.sources.member import Item, Root
from tlkit.data.sources.memory import InMemoryImages
from tlkit.deployment.exported import Opened, decoded_pixels
from tlkit.errors import DataError, nearest
from tlkit.evaluation.known import NONE_OF_THESE
from tlkit.plan.in_memory import InMemory, as_data
from tlkit.progress import counted_off
from tlkit.runs.hub import local_folder
from tlkit.runs.reading import BATCH, open_exported, unsure_below
from tlkit.words import shown, text_of

Named = tuple[str, Item | bytes | str]  # the name of an image, and its file, its bytes, or why it is left aside
Served = tuple[list[str], Opened, bool]
Images = str | Path | Sequence[Any] | np.ndarray | InMemoryImages


def predict(model: str | Path | Served, files: Images, *, top: int = 3) -> pd.DataFrame:
    """Predict classes and probabilities for image files or arrays, with a run's SavedModel or any export.

    Args:
        model: A run's folder, a folder that export wrote, or "hf://USER/NAME" (see `tlkit.push`); or what
            `tlkit.runs.predict.opened` makes of it, to load it once for several calls.
        files: Files, and folders and archives, which are searched as `tlkit.scan` does: links are followed, system
            files and files that lie beside images, such as annotations, are passed over. What the model itself does
            not decode, such as TIFF and HEIC, is converted first: see `tlkit.convert`. Or images in memory, raw RGB
            0-255: an array of shape (n, height, width, 3), a list of arrays, or what `tlkit.from_arrays` takes or
            returns. They reach the model as lossless PNGs.
        top: How many classes to give, 1 or more.

    Returns:
        One row per image: path (bytes that are not UTF-8 are escaped; of arrays "000000.png", "000001.png", ...),
        prediction, probability, top2, top2_probability, ..., sure, problem. `sure` is None where the model has no
        threshold below which it is unsure. Before it, where the model gives them: known, the p-value for being like the
        images that it knows, and prediction_set, a list of classes. The prediction is "none of these" if the run was
        made with `known` and the p-value is too low; the probabilities remain those of the classes. A file that cannot
        be read has its reason under problem and no prediction.

    Raises:
        DataError: There are no such files, an array is no image, or `top` is below 1.
        RunError: The model is neither a run nor an export.
    """
    if not isinstance(model, str | os.PathLike | tuple):
        raise TypeError(
            f"{type(model).__name__} was given. Expected the path of a run or an export. A model itself predicts "
            "pixels by its own `predict`."
        )
    if top < 1:
        raise DataError(f"top is {top}. Expected 1 or more.")
    return answered(_given(files), model if isinstance(model, tuple) else opened(model), top)


def opened(model: str | Path) -> Served:
    """A run or an export, loaded: its class names, the function of `open_exported`, and whether it has a threshold."""
    folder = local_folder(model, whole=False)
    return *open_exported(folder), unsure_below(folder) != 0


def answered(found: Sequence[Named], model: Served, top: int) -> pd.DataFrame:
    """The table of `predict` for images by a model that is loaded."""
    names, answer, has_threshold = model
    rows: list[dict[str, Any]] = []
    starts = range(0, len(found), BATCH)
    for start in counted_off(starts, len(starts), f"batch of {BATCH} image"):
        chunk = found[start : start + BATCH]
        data = [one if isinstance(one, bytes | str) else _read(one) for _, one in chunk]
        reply = answer([one if isinstance(one, bytes) else b"" for one in data])
        for index, ((name, _), one, ok, sure, values) in enumerate(zip(chunk, data, *reply, strict=True)):
            row: dict[str, Any] = {"path": name}
            for rank, best in enumerate(np.argsort(-values, kind="stable")[:top], start=1):
                column = "prediction" if rank == 1 else f"top{rank}"
                row[column] = names[best] if ok else None
                row["probability" if rank == 1 else f"{column}_probability"] = float(values[best]) if ok else None
            if ok and reply.none is not None and reply.none[index]:
                row["prediction"] = NONE_OF_THESE
            more = reply.of_image(index, names)
            row |= more if ok else dict.fromkeys(more)
            row["sure"] = bool(sure) if ok and has_threshold else None
            row["problem"] = "" if ok else one if isinstance(one, str) else ": ".join(why_not(one))
            rows.append(row)
    return pd.DataFrame(rows).astype({"sure": object})


def _given(images: Images) -> list[Named]:
    """The name of each image, and its file, its bytes, or why it is left aside."""
    if isinstance(images, InMemoryImages):
        return [(one.path, images.folder / one.path) for one in images.found]
    if isinstance(images, str | Path):
        images = [images]
    if isinstance(images, np.ndarray) and (images.ndim == 2 or (images.ndim == 3 and images.shape[-1] in (1, 3, 4))):
        images = [images]  # a single one
    items = list(images)
    if items and not any(isinstance(one, str | os.PathLike) for one in items):
        pixels = [as_pixels(one, f"Image {number}") for number, one in enumerate(items)]
        floats = [highest for one in items if (highest := highest_float(one)) is not None]
        if floats and max(floats) <= 1:
            raise DataError("The highest value of the images is 1 or less. Expected values from 0 to 255, as raw RGB.")
        return [(f"{number:06d}.png", png_bytes(one)) for number, one in enumerate(pixels)]
    found = _expand(items)
    if not found:
        raise DataError(f"No files in {', '.join(repr(text_of(f)) for f in items)}. Expected image files.")
    return [(text_of(file), aside or file) for file, aside in found]


def _expand(files: Sequence[str | Path] | InMemoryImages) -> list[tuple[Root, str]]:
    """The files, and those in the folders, each with why it is left aside, or "".

    Folders are searched as `tlkit.scan` searches a class folder. Raises DataError for one that does not exist.
    """
    if isinstance(files, InMemoryImages):
        files = files.files()
    found: list[tuple[Root, str]] = []
    for file in files:
        given = as_data(file)
        one = given.folder if isinstance(given, InMemory) else root_of_data(given)
        if one.is_dir():
            found += sorted(files_below(one))
        elif one.exists() or one.is_symlink():
            found.append((one, ""))
        else:
            above = one.parent
            close = nearest(one.name, [inner.name for inner in above.iterdir()] if above.is_dir() else [])
            hint = f" Did you mean '{shown(above / close)}'?" if close else ""
            raise DataError(f"No such file: '{shown(one)}'.{hint}")
    return found


def _read(item: Item) -> bytes | str:
    """A file's bytes, converted if the model does not decode its format, or why it cannot be read."""
    try:
        if isinstance(item, Root):
            if item.is_symlink() and not item.exists():
                return "the link leads nowhere"
            if not item.is_file():
                return "not a regular file"
            if item.stat().st_size > MAX_FILE_BYTES:
                return f"larger than {MAX_FILE_BYTES // 1024**2} MiB"
        return convert(item.read_bytes())
    except Unreadable as reason:
        return str(reason)
    except OSError as error:
        return error.strerror or str(error)


def decoded_image(name: str, one: Item | bytes | str, size: int, fit: str, depth: int) -> np.ndarray:
    """Decode an image as `fit` makes it square: uint8, shape (size, size, 3).

    one: its file, its bytes, or why it cannot be read. Raises DataError, with its name, if it does not decode.
    """
    data = one if isinstance(one, bytes | str) else _read(one)
    if isinstance(data, str):
        raise DataError(f"'{shown(name)}' cannot be read: {data}. Expected an image file.")
    try:
        return decoded_pixels(data, size, fit, depth)
    except DataError as error:
        raise DataError(f"'{shown(name)}' is {error}") from None
