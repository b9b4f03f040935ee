"""Draws saliency maps of a run's predictions."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from tlkit.deployment.exported import decoded_pixels
from tlkit.drawing import draw_rows
from tlkit.errors import DataError, unknown
from tlkit.evaluation.feature_visualization import first_filters, most_typical
from tlkit.evaluation.saliency import GradCam, occlusion_maps, overlay
from tlkit.runs.folder import Run, open_run
from tlkit.runs.predict import _expand, _read
from tlkit.runs.reading import load_model
from tlkit.words import counted

MOST_EXPLAINED = 64

METHODS = ("grad-cam", "occlusion")


def explain_files(
    run: Run | str | Path,
    files: Sequence[str | Path],
    out: str | Path = "explained.png",
    *,
    method: str = "grad-cam",
    of_class: str | None = None,
    filters: bool = False,
    typical: bool = False,
) -> list[str]:
    """Draw saliency maps of a run's predictions for image files.

    Args:
        run: A finished run.
        files: Image files, and folders, which are searched. Only the first 64 images are drawn.
        out: The image file to write.
        method: "grad-cam" or "occlusion" (see `tlkit.evaluation.saliency`).
        of_class: The class to explain. Default: the most probable class of each image.
        filters: Draw the filters of the first layer instead.
        typical: Draw synthetic images that maximise the score of a class instead: of `of_class`, else of the first 16
            classes.

    Returns:
        A line for each image, and one that names the file; lines for a person to read.

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
    if filters:
        kernels = first_filters(model)
        across = 8
        draw_rows([[(one, "") for one in kernels[at : at + across]] for at in range(0, len(kernels), across)], out, 96)
        return [f"{counted(len(kernels), 'filter')} of the first layer: {out}"]
    if typical:
        names = [of_class] if of_class else classes[:16]
        drawn = [(most_typical(model, classes.index(name)), name) for name in names]
        draw_rows([drawn[at : at + 4] for at in range(0, len(drawn), 4)], out)
        return [f"synthetic images that maximise the score of {', '.join(names)}: {out}"]
    found = _expand(files)[:MOST_EXPLAINED]
    if not found:
        raise DataError("No files to explain. Expected image files or folders.")
    images = np.stack([_decoded(file, plan.image_size, plan.job.fit, plan.depth) for file in found])
    probabilities = np.asarray(model.predict(images, verbose=0))
    chosen = [classes.index(of_class)] * len(found) if of_class else probabilities.argmax(1).tolist()
    if method == "grad-cam":
        maps, _ = GradCam(model)(images, chosen)
    else:
        maps = occlusion_maps(model, images, chosen)
    captions = [f"{classes[c]} {row[c]:.1%}" for c, row in zip(chosen, probabilities, strict=True)]
    rows = [
        [(image, file.name), (overlay(image, one), caption)]
        for image, file, one, caption in zip(images, found, maps, captions, strict=True)
    ]
    draw_rows([list(itertools.chain(*rows[at : at + 3])) for at in range(0, len(rows), 3)], out)
    return [*(f"{file}  {caption}" for file, caption in zip(found, captions, strict=True)), f"drawn to {out}"]


def _decoded(file: Path, size: int, fit: str, depth: int) -> np.ndarray:
    data = _read(file)
    if isinstance(data, str):
        raise DataError(f"'{file}' cannot be read: {data}. Expected an image file.")
    try:
        return decoded_pixels(data, size, fit, depth)
    except DataError as error:
        raise DataError(f"'{file}' is {error}") from None
