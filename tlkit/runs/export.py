"""Exports a run, proves the export on the run's own images, and notes what it was exported to."""

from __future__ import annotations

import functools
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from tlkit.deployment.formats import FORMATS, check_target, write_target
from tlkit.deployment.parity import prove_parity, prove_target
from tlkit.deployment.saved_model import export
from tlkit.errors import DataError
from tlkit.evaluation.predict import own_probabilities, predict_probabilities
from tlkit.evaluation.refusal import refusal_threshold
from tlkit.folders import EXPORTED
from tlkit.plan.job import check_max_error
from tlkit.runs.folder import Run, open_run
from tlkit.runs.reading import BATCH, PARITY_FILES, _some_pixels, decoded, load_model, own_part, parity_sample

if TYPE_CHECKING:
    import keras


def export_run(
    run: Run | str | Path,
    to: str | Path | None = None,
    *,
    target: str = "savedmodel",
    max_error: float | None = None,
    force: bool = False,
) -> tuple[Path, dict[str, Any] | None]:
    """Write a run's model for deployment, and prove it on the run's validation files.

    to: a folder, replaced if it holds an earlier export and nothing else; default RUN/saved_model, or RUN/TARGET. target: "savedmodel" takes encoded files; "litert", "litert-int8", "onnx" and "keras"
    take pixels (see `tlkit.deployment.formats`). max_error: what is not sure enough for this share of errors is served as "unsure" (see
    `tlkit.evaluation.refusal.refusal_threshold`); default as the run was made. force: keep 8-bit integers that agree with the model on less than 95 %.

    Returns the folder and the proof; None instead of the proof when the run's images are no longer there.

    Raises NameUnknown or ExportError for the target, SpecError for a share outside 0 to 1, ParityError for an export that disagrees, DataError where
    the run's images are needed (a new max_error, 8-bit integers) and gone.
    """

    run = run if isinstance(run, Run) else open_run(run)
    check_max_error(max_error)
    check_target(target)
    plan, model, fit = run.plan, load_model(run), run.plan.job.fit
    unsure_below = _unsure_below(run, model, max_error)
    default = run.saved_model if target == "savedmodel" else run.folder / target
    folder = Path(to) if to is not None else default
    if target == "savedmodel":
        export(model, plan.classes, folder, fit=fit, unsure_below=unsure_below)
        return folder, _noted(run, target, folder, _prove_served(run, model, folder))
    training = _some_pixels(run, "train", REPRESENTATIVE_IMAGES) if FORMATS[target].by_images else None
    representative = None if training is None else training[0]
    write_target(model, plan.classes, folder, target, fit=fit, unsure_below=unsure_below, representative=representative)
    return folder, _noted(run, target, folder, _prove_pixels(run, model, folder, training, force))


REPRESENTATIVE_IMAGES = 200
_EXPORT_COLUMNS = (
    "format",
    "n",
    "top1_agreement",
    "max_difference",
    "accuracy",
    "bytes",
    "milliseconds_an_image",
    "folder",
)


def _noted(run: Run, target: str, folder: Path, proof: dict[str, Any] | None) -> dict[str, Any] | None:
    """Keep a proof in the run's `exports.csv`, in the place of an earlier one of its format."""
    if proof is not None:
        table = exports_of(run)
        table = table[table["format"] != target]
        row = {**proof, "format": target, "folder": str(folder)}
        rows = [*table.to_dict("records"), {name: row.get(name) for name in _EXPORT_COLUMNS}]
        run.write_table(EXPORTED, _export_table(rows))
    return proof


def exports_of(run: Run | str | Path) -> pd.DataFrame:
    """What a run was exported to: format, n, top1_agreement, max_difference, accuracy (of formats that take pixels), bytes,
    milliseconds_an_image and folder, a row for each format.
    """

    run = run if isinstance(run, Run) else open_run(run)
    if (run.folder / EXPORTED).is_file():
        return pd.read_csv(run.folder / EXPORTED)
    parity = run.metrics.get("parity")
    own = {**parity, "format": "savedmodel", "folder": str(run.saved_model)} if parity else {}
    return _export_table([{name: own.get(name) for name in _EXPORT_COLUMNS}] if own else [])


def _export_table(rows: list[dict[str, Any]]) -> pd.DataFrame:

    return pd.DataFrame(rows, columns=list(_EXPORT_COLUMNS))


def _unsure_below(run: Run, model: keras.Model, max_error: float | None) -> float:
    """The run's own threshold, or that of a new share of errors."""
    if max_error is None:
        return (run.metrics.get("refusal") or {}).get("threshold", 0.0)

    pixels, labels = _some_pixels(run, "validation", None)
    return refusal_threshold(_answered(model, pixels), labels, max_error).threshold


def _answered(model: keras.Model, pixels: np.ndarray) -> np.ndarray:
    """Keras' own answers to pixels in memory."""

    return np.concatenate([model.predict_on_batch(pixels[at : at + BATCH]) for at in range(0, len(pixels), BATCH)])


def _prove_served(run: Run, model: keras.Model, folder: Path) -> dict[str, Any] | None:

    plan = run.plan
    try:
        images = own_part(run, "validation")
    except DataError:
        return None
    images = images.take(parity_sample(len(images)))
    dataset = decoded(run, images)
    rows = dataset.examples().pixels
    probabilities = predict_probabilities(model, rows, batch_size=BATCH)
    own = functools.partial(own_probabilities, model, rows)
    return prove_parity(folder, dataset.images.files(), probabilities, plan.classes, ask_again=own)


def _prove_pixels(
    run: Run, model: keras.Model, folder: Path, training: tuple[np.ndarray, np.ndarray] | None, force: bool
) -> dict[str, Any] | None:
    """On validation images, and on the training images that the converter saw where there are any."""

    try:
        pixels, labels = _some_pixels(run, "validation", PARITY_FILES)
    except DataError:
        return None
    if training is not None:
        pixels, labels = (np.concatenate(both) for both in zip((pixels, labels), training, strict=True))
    return prove_target(folder, pixels, _answered(model, pixels), labels, force=force)
