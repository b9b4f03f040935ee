"""Exports a run, proves the export on the run's own images, and lists its exports."""

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
    """Write a run's model for deployment, and prove the export on the run's validation files.

    Args:
        run: A finished run.
        to: A folder, replaced if it holds an earlier export and nothing else. Default: RUN/saved_model, or RUN/TARGET.
        target: "savedmodel" takes encoded files. "litert", "litert-int8", "onnx" and "keras" take pixels (see
            `tlkit.deployment.formats`).
        max_error: Limit on the share of wrong predictions. Those that are not confident enough for it are served as
            "unsure" (see `tlkit.evaluation.refusal.refusal_threshold`). Default: the run's own.
        force: Keep 8-bit integers that agree with the model on less than 95 % of the images.

    Returns:
        The folder and the proof. The proof is None if the run's images are no longer there.

    Raises:
        NameUnknown: The target is unknown.
        ExportError: The target's packages are not installed, or the model cannot be converted.
        SpecError: `max_error` is outside 0 to 1.
        ParityError: The export disagrees with the model.
        DataError: The run's images are needed (for a new `max_error` or 8-bit integers) and gone.
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
        return folder, _recorded(run, target, folder, _prove_served(run, model, folder))
    training = _some_pixels(run, "train", REPRESENTATIVE_IMAGES) if FORMATS[target].by_images else None
    representative = None if training is None else training[0]
    write_target(model, plan.classes, folder, target, fit=fit, unsure_below=unsure_below, representative=representative)
    return folder, _recorded(run, target, folder, _prove_pixels(run, model, folder, training, force))


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


def _recorded(run: Run, target: str, folder: Path, proof: dict[str, Any] | None) -> dict[str, Any] | None:
    """Write a proof to the run's `exports.csv`, instead of an earlier one for the same format."""
    if proof is not None:
        table = exports_of(run)
        table = table[table["format"] != target]
        row = {**proof, "format": target, "folder": str(folder)}
        rows = [*table.to_dict("records"), {name: row.get(name) for name in _EXPORT_COLUMNS}]
        run.write_table(EXPORTED, _export_table(rows))
    return proof


def exports_of(run: Run | str | Path) -> pd.DataFrame:
    """List a run's exports, one row for each format.

    Columns: format, n, top1_agreement, max_difference, accuracy (only of formats that take pixels), bytes,
    milliseconds_an_image and folder.
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
    """The run's own threshold, or one for a new limit on the error."""
    if max_error is None:
        return (run.metrics.get("refusal") or {}).get("threshold", 0.0)
    pixels, labels = _some_pixels(run, "validation", None)
    return refusal_threshold(_predicted(model, pixels), labels, max_error).threshold


def _predicted(model: keras.Model, pixels: np.ndarray) -> np.ndarray:
    """The probabilities of Keras' own forward pass for pixels in memory."""
    return np.concatenate([model.predict_on_batch(pixels[at : at + BATCH]) for at in range(0, len(pixels), BATCH)])


def _prove_served(run: Run, model: keras.Model, folder: Path) -> dict[str, Any] | None:
    """Prove a SavedModel on validation files. None if the run's images are gone."""
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
    """Prove an export that takes pixels on validation images, and on the training images that the converter used.

    None if the run's images are gone.
    """
    try:
        pixels, labels = _some_pixels(run, "validation", PARITY_FILES)
    except DataError:
        return None
    if training is not None:
        pixels, labels = (np.concatenate(both) for both in zip((pixels, labels), training, strict=True))
    return prove_target(folder, pixels, _predicted(model, pixels), labels, force=force)
