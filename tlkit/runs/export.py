"""Exports a run, proves the export on the run's own images, and lists its exports."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from tlkit.data.preprocessing import preprocessing
from tlkit.deployment.formats import FORMATS, TARGETS, check_layout, check_target, known_target, write_target
from tlkit.deployment.parity import prove_parity, prove_target
from tlkit.deployment.saved_model import GRAPH_BYTES, Serving, export_served
from tlkit.disk import check_room, check_writable
from tlkit.errors import DataError, DiskError, SpecError
from tlkit.evaluation.known import NONE_OF_THESE, p_values_of
from tlkit.evaluation.predict import own_probabilities, predict_probabilities
from tlkit.evaluation.refusal import refusal_threshold
from tlkit.folders import DESCRIPTION, EXPORTED, add_to_description, own_manifest, until_proved
from tlkit.manifest import note_files
from tlkit.models.files import size_of
from tlkit.plan.job import check_max_error
from tlkit.progress import log
from tlkit.runs.folder import Run, open_run
from tlkit.runs.reading import (
    BATCH,
    PARITY_FILES,
    _some_pixels,
    decoded,
    groups_of,
    load_known,
    load_model,
    own_part,
    parity_sample,
)

if TYPE_CHECKING:
    import keras


def export_run(
    run: Run | str | Path,
    to: str | Path | None = None,
    *,
    target: str = "savedmodel",
    max_error: float | None = None,
    force: bool = False,
    layout: str = "nhwc",
    for_tensorflow: str | None = None,
) -> tuple[Path, dict[str, Any] | None]:
    """Write a run's model for deployment, and prove the export on the run's validation images.

    8-bit integers are proved on validation images alone. The training images that give the converter the ranges of
    activations take no part, because integers agree better on these than on others.

    Args:
        run: A finished run; `open_run(folder, moved_to)` if its data was moved.
        to: A folder, replaced if it holds an earlier export and nothing else. Default: RUN/saved_model, or RUN/TARGET.
        target: "savedmodel" takes encoded files. "litert", "litert-float16", "litert-int8", "onnx", "openvino" and
            "keras" take pixels (see `tlkit.deployment.formats`). Keras' names are known too: "tf_saved_model".
        max_error: Limit on the share of wrong predictions. Those that are not confident enough for it are served as
            "unsure" (see `tlkit.evaluation.refusal.refusal_threshold`). The threshold is found on the validation part
            of predictions.csv and is from then on the run's own, in `metrics["refusal"]` of the run. It is the default
            of later exports; `other_thresholds` names the earlier ones. Default: the run's own.
        force: Keep 8-bit integers that agree with the model on less than 95 % of the validation images, or that lose
            more than 1.5 points of accuracy on them.
        layout: "nchw" writes an ONNX file for images of shape (n, 3, size, size), as OpenCV's `blobFromImage` gives
            them. Default: "nhwc", (n, size, size, 3).
        for_tensorflow: The version of TensorFlow that will run the SavedModel: see `tlkit.export`.

    Returns:
        The folder and the proof. The proof is None if the run's images are no longer there.

    Raises:
        NameUnknown: The target is unknown.
        ExportError: The target's packages are not installed, or the model cannot be converted.
        SpecError: `max_error` is outside 0 to 1, or `layout` or `for_tensorflow` does not fit the format.
        ParityError: The export disagrees with the model. It is removed, and an earlier one in the folder is kept.
        DataError: The run's images are needed (for 8-bit integers) and gone.
    """
    run = run if isinstance(run, Run) else open_run(run)
    check_max_error(max_error)
    check_target(target)
    target = known_target(target)
    check_layout(target, layout)
    if for_tensorflow is not None and target != "savedmodel":
        raise SpecError(f"The format {target} takes no `for_tensorflow`, which is for the format savedmodel alone.")
    default = run.saved_model if target == "savedmodel" else run.folder / target
    folder = Path(to) if to is not None else default
    check_writable(folder, makes_folders=True)
    if max_error is not None:
        check_writable(run.folder / "metrics.json")
    plan, model, fit = run.plan, load_model(run), run.plan.job.fit
    check_room(folder, size_of(model) + GRAPH_BYTES, "the export")
    refusal = run.metrics.get("refusal") if max_error is None else _refusal(run, max_error)
    serving = serving_of(run, {**run.metrics, "refusal": refusal}, for_tensorflow)
    with until_proved(folder) as unproved:
        if target == "savedmodel":
            export_served(model, unproved, serving)
            proof = _prove_served(run, model, unproved)
        else:
            ranges = _representative_pixels(run) if FORMATS[target].by_images else None
            rule = preprocessing(plan.image_size, fit, plan.depth, layout.upper())
            settings: dict[str, Any] = {"unsure_below": serving.unsure_below, "refusal": refusal, "fit": rule}
            write_target(model, plan.classes, unproved, target, **settings, representative=ranges)
            add_to_description(unproved, {"prediction_sets": serving.prediction_sets})
            if serving.none_below:
                log.info(f"the format {target} has no p-values: it never answers '{NONE_OF_THESE}'")
            proof = _prove_pixels(run, model, unproved, force)
        add_to_description(unproved, {"proof": proof})
    if folder == default:
        note_files(run.folder, {}, [folder.name])
    if max_error is not None:
        run.write_json("metrics.json", {**run.metrics, "refusal": refusal})
    return folder, _recorded(run, target, folder, proof)


REPRESENTATIVE_IMAGES = 256  # at most, from which 8-bit integers take ranges and means of activations
_EXPORT_COLUMNS = (
    "format",
    "split",
    "n",
    "top1_agreement",
    "max_difference",
    "accuracy_before",
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
        row = {**proof, "format": target, "split": "validation", "folder": str(folder)}
        rows = [*table.to_dict("records"), {name: row.get(name) for name in _EXPORT_COLUMNS}]
        try:
            run.write_table(EXPORTED, _export_table(rows))
        except DiskError as error:  # the export itself is written, maybe elsewhere
            log.warning(f"the proof is not recorded in the run: {error}")
    return proof


def serving_of(run: Run, metrics: Mapping[str, Any], for_tensorflow: str | None = None) -> Serving:
    """How a run's SavedModel decodes and answers. metrics: as in metrics.json."""
    plan, refusal, measured = run.plan, metrics.get("refusal"), metrics.get("known") or {}
    known = load_known(run)
    return Serving(
        tuple(plan.classes),
        plan.job.fit,
        refusal["threshold"] if refusal else 0.0,
        refusal,
        plan.depth,
        for_tensorflow,
        known,
        measured.get("none_below", 0.0) if known is not None else 0.0,
        measured or None,
        metrics.get("prediction_sets"),
    )


def exports_of(run: Run | str | Path) -> pd.DataFrame:
    """List a run's exports, one row for each format.

    Columns: format, split (whose images it was proved on), n, top1_agreement, max_difference, accuracy_before (the
    model's) and accuracy (both only of formats that take pixels), bytes, milliseconds_an_image and folder. A SavedModel
    is timed with reading and decoding files, in batches of 16; other formats from pixels, in batches of 16 except
    LiteRT, which takes one at a time.
    """
    run = run if isinstance(run, Run) else open_run(run)
    if (run.folder / EXPORTED).is_file():
        table = run.read_csv(EXPORTED, text=False)
        if "split" not in table:  # before, 8-bit integers were also proved on images that the converter had used
            table["split"] = np.where(table["format"] == "litert-int8", "validation and train", "validation")
        return table.reindex(columns=list(_EXPORT_COLUMNS))
    parity = run.metrics.get("parity")
    own = {**parity, "format": "savedmodel", "split": "validation", "folder": str(run.saved_model)} if parity else {}
    return _export_table([{name: own.get(name) for name in _EXPORT_COLUMNS}] if own else [])


def _export_table(rows: list[dict[str, Any]]) -> pd.DataFrame:
    return pd.DataFrame(rows, columns=list(_EXPORT_COLUMNS))


def _refusal(run: Run, max_error: float) -> dict[str, Any]:
    """Find the threshold for a limit on the error from predictions.csv, as `tlkit.finetune` does. See `METRICS`."""
    table, classes = run.read_table("predictions.csv"), run.plan.classes
    found = {split: _answers(table[table["split"] == split], classes) for split in ("validation", "test")}
    held_out = table[table["split"] != "test"]  # training images are in it if they were held out once
    pooled, groups = _answers(held_out, classes), groups_of(run, held_out["path"])
    chosen = refusal_threshold(*pooled, max_error, class_names=classes, groups=groups)
    measured = {split: chosen.measured(*answers) if len(answers[1]) else None for split, answers in found.items()}
    return {**dataclasses.asdict(chosen), "chosen_on": len(pooled[1]), **measured}


def _answers(table: pd.DataFrame, classes: Sequence[str]) -> tuple[np.ndarray, np.ndarray]:
    """Labels, and probabilities of which only the highest are known and the others are 0: shape (n, classes)."""
    number = {name: index for index, name in enumerate(classes)}
    probabilities = np.zeros((len(table), len(classes)))
    probabilities[np.arange(len(table)), table["prediction"].map(number).to_numpy(int)] = table["probability"]
    return probabilities, table["label"].map(number).to_numpy(int)


def other_thresholds(run: Run | str | Path) -> dict[str, float]:
    """Name the exports in a run's folder whose threshold is not the run's own, and give theirs; 0 for none.

    An export keeps the threshold with which it was written. Write it again to give it the run's own.
    """
    run = run if isinstance(run, Run) else open_run(run)
    own = (run.metrics.get("refusal") or {}).get("threshold", 0.0)
    found = {}
    for target in TARGETS:
        description = own_manifest(run.saved_model if target == "savedmodel" else run.folder / target, DESCRIPTION)
        if description is not None and abs(description.get("unsure_below", 0.0) - own) > 1e-9:
            found[target] = float(description.get("unsure_below", 0.0))
    return found


def _representative_pixels(run: Run) -> np.ndarray:
    """The pixels of training images, as many of each class as there are, as far as possible."""
    images = own_part(run, "train")
    labels = images.labels()
    turn = np.zeros(len(labels), int)  # an image's place among those of its class
    for label in np.unique(labels):
        turn[labels == label] = np.arange((labels == label).sum())
    chosen = np.argsort(turn, kind="stable")[:REPRESENTATIVE_IMAGES]
    examples = decoded(run, images.take(chosen.tolist())).examples()
    return examples.pixels.gather(np.arange(len(examples)))


def _predicted(model: keras.Model, pixels: np.ndarray) -> np.ndarray:
    """The probabilities of Keras' own forward pass for pixels in memory."""
    return np.concatenate([model.predict_on_batch(pixels[at : at + BATCH]) for at in range(0, len(pixels), BATCH)])


def _prove_served(run: Run, model: keras.Model, folder: Path) -> dict[str, Any] | None:
    """Prove a SavedModel on validation files. None if the run's images are gone."""
    plan = run.plan
    try:
        images = own_part(run, "validation")
    except DataError as error:
        log.info(f"not proved: {error}")
        return None
    images = images.take(parity_sample(len(images)))
    dataset = decoded(run, images)
    rows = dataset.examples().pixels
    probabilities = predict_probabilities(model, rows, batch_size=BATCH)
    own, known = functools.partial(own_probabilities, model, rows), load_known(run)
    p_values = None if known is None else p_values_of(known, model, rows.gather(np.arange(len(images))))
    files = dataset.images.files()
    return prove_parity(folder, files, probabilities, plan.classes, ask_again=own, p_values=p_values)


def _prove_pixels(run: Run, model: keras.Model, folder: Path, force: bool) -> dict[str, Any] | None:
    """Prove an export that takes pixels on validation images. None if the run's images are gone."""
    try:
        pixels, labels = _some_pixels(run, "validation", PARITY_FILES)
    except DataError as error:
        log.info(f"not proved: {error}")
        return None
    proof = prove_target(folder, pixels, _predicted(model, pixels), labels, force=force)
    if run.refitted:  # the accuracy on images that the model was trained on says nothing
        del proof["accuracy"], proof["accuracy_before"]
    return proof
