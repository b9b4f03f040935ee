"""Draws saliency maps of a run's predictions."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from pathlib import Path

import keras
import numpy as np

from tlkit.data.sources.member import Item, Root
from tlkit.drawing import draw_rows
from tlkit.errors import DataError, unknown
from tlkit.evaluation.saliency import ClassActivationMaps, has_map, occlusion_maps, overlay
from tlkit.runs.folder import Run, open_run
from tlkit.runs.predict import _expand, decoded_image
from tlkit.runs.reading import load_model
from tlkit.words import shown

MOST_EXPLAINED = 64

NO_MAP = ", no saliency map"  # of an image in which no position supports the class

METHODS = ("cam", "occlusion")


def explain_files(
    run: Run | str | Path,
    files: Sequence[str | Path],
    out: str | Path = "explained.png",
    *,
    method: str = "cam",
    of_class: str | None = None,
) -> list[str]:
    """Draw saliency maps of a run's predictions for image files.

    Args:
        run: A finished run.
        files: Image files, and folders, which are searched. Only the first 64 images are drawn.
        out: The image file to write.
        method: "cam" (`ClassActivationMaps`) or "occlusion" (`occlusion_maps`).
        of_class: The class to explain. Default: the most probable class of each image.

    Returns:
        A line for each image, which says so if it has no saliency map, and one that names the method and the file;
        lines for a person to read.

    Raises:
        NameUnknown: The method or the class is unknown.
        DataError: A file does not decode, or there is none.
    """
    if method not in METHODS:
        raise unknown("method", method, METHODS)
    run = run if isinstance(run, Run) else open_run(run)
    plan, out = run.plan, Path(out)
    classes = plan.classes
    if of_class is not None and of_class not in classes:
        raise unknown("class", of_class, classes)
    model = load_model(run)
    found = image_files(files)
    images = decoded_files(run, found, plan.image_size)
    probabilities = np.asarray(model.predict(images, verbose=0))
    chosen = [classes.index(of_class)] * len(found) if of_class else probabilities.argmax(1).tolist()
    maps, name = _maps(model, images, chosen, method)
    has = has_map(maps)
    captions = [
        f"{classes[c]} {row[c]:.1%}{'' if mapped else NO_MAP}"
        for c, row, mapped in zip(chosen, probabilities, has, strict=True)
    ]
    pictures = [
        overlay(image, one) if mapped else np.full_like(image, 255)
        for image, one, mapped in zip(images, maps, has, strict=True)
    ]
    rows = [
        [(image, shown(file.name)), (picture, caption)]
        for image, file, picture, caption in zip(images, found, pictures, captions, strict=True)
    ]
    draw_rows([list(itertools.chain(*rows[at : at + 3])) for at in range(0, len(rows), 3)], out)
    return [
        *(f"{shown(file)}  {caption}" for file, caption in zip(found, captions, strict=True)),
        f"{name}, drawn to {out}",
    ]


def _maps(model: keras.Model, images: np.ndarray, chosen: Sequence[int], method: str) -> tuple[np.ndarray, str]:
    """Return the maps, shape (n, rows, columns), and the name of the method that made them."""
    if method == "occlusion":
        return occlusion_maps(model, images, chosen), "occlusion"
    cam = ClassActivationMaps(model)
    return cam(images, chosen)[0], cam.method


def image_files(files: Sequence[str | Path]) -> list[Root]:
    """The first 64 image files among some files and folders. Raises DataError if there is none."""
    found = [file for file, aside in _expand(files) if not aside][:MOST_EXPLAINED]
    if not found:
        raise DataError("No files to explain. Expected image files or folders.")
    return found


def decoded_files(run: Run, files: Sequence[Item], size: int) -> np.ndarray:
    """Image files as the run's model sees them, but for their size: uint8, shape (n, size, size, 3).

    Raises DataError for one that does not decode.
    """
    plan = run.plan
    return np.stack([decoded_image(str(file), file, size, plan.job.fit, plan.depth) for file in files])
