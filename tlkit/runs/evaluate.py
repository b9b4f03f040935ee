"""Evaluates a run on other data, or on its own validation split."""

from __future__ import annotations

import dataclasses
import time
import unicodedata
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from tlkit.data.classes import losses
from tlkit.data.examples import RowSource
from tlkit.data.images import LEFT_OUT, ImageSet
from tlkit.data.scan import scan
from tlkit.devices import while_memory_lasts
from tlkit.errors import DataError, SpecError, nearest, unknown
from tlkit.evaluation.predict import VIEWS, predict_averaged, predict_probabilities
from tlkit.evaluation.scores import evaluate
from tlkit.models.inference import inference_batch
from tlkit.plan.address import Address
from tlkit.plan.augmentation import Augmentation
from tlkit.plan.in_memory import InMemory
from tlkit.runs.folder import Run, open_run
from tlkit.runs.lineage import Lineage, lineage
from tlkit.runs.reading import BATCH, decoded, load_judged, load_model, own_part
from tlkit.safety.check import check_safety
from tlkit.stats import paired_difference
from tlkit.words import counted

if TYPE_CHECKING:
    import keras

    from tlkit.data.dataset import Dataset
    from tlkit.safety.verdict import Verdict


def evaluate_run(
    run: Run | str | Path,
    data: str | Path | Address | InMemory | None = None,
    *,
    views: str | None = None,
    columns: Mapping[str, str] | str | None = None,
) -> dict[str, Any]:
    """Evaluate a run's classifier on other data, or on its own validation split.

    Args:
        run: A finished run; `open_run(folder, moved_to)` if its own images are needed and were moved.
        data: As for `tlkit.scan`. None: the run's own validation images.
        views: Also average over views of each image, "flip" or "ten-crop" (see
            `tlkit.evaluation.predict.predict_averaged`). If the safety check finds that mirror images change the class,
            "flip" is refused, and "ten-crop" takes the five crops without mirror images.
        columns: As for `tlkit.scan`.

    Returns:
        The numbers of `tlkit.evaluate`, and how many files were left_out; lost, a sentence on each class of which half
        of the files or more were; how many of these images the run, or a run that it started from, was trained_on, and
        how many more it was chosen_by (validation images), by SHA-256. If it was trained on some, also
        without_trained_on: the numbers of the other images, None if there are none; if the run was trained on its
        validation images at the end, these are among them, predicted as before that, and judged_before is their number.
        gone: the folders of earlier runs
        that are not there any more, so that theirs could not be counted. With `views` also "views": accuracy, gain with
        its standard error, and how many times as long the prediction took.

    Raises:
        SpecError: "flip" is not safe.
        DataError: The data has a class that the run does not know, or the run's own images are gone or have changed.
    """
    if views is not None and views not in VIEWS:
        raise unknown("views", views, VIEWS)
    run = run if isinstance(run, Run) else open_run(run)
    plan = run.plan
    images = _named_as(scan(data, columns=columns), plan.classes) if data is not None else own_part(run, "validation")
    strange = sorted(set(images.class_names) - set(plan.classes))
    if strange:
        close = nearest(strange[0], plan.classes)
        raise DataError(
            f"'{images.root}' has {counted(len(strange), 'class', 'classes')} that the run does not know, "
            f"such as '{strange[0]}'"
            + (f" (nearest: '{close}')" if close else "")
            + f". Expected among: {', '.join(plan.classes[:20])}."
        )
    dataset = decoded(run, images)
    images, examples = dataset.images, dataset.examples()
    model = load_judged(run) if data is None else load_model(run)
    rows, labels = examples.pixels, examples.labels
    probabilities = while_memory_lasts(
        lambda batch: predict_probabilities(model, rows, batch_size=batch), inference_batch(BATCH)
    )
    left_out = images.problems[images.problems["action"] == LEFT_OUT]
    seen = lineage(run, served=data is not None)
    scores = {**_scores(probabilities, images, seen), "left_out": len(left_out)}
    if run.refitted and data is not None:
        scores |= _before_refit(run, images, rows, probabilities)
    scores["lost"] = [one.sentence() for one in losses(images)]
    scores["gone"] = [str(folder) for folder in seen.missing]
    if views is None:
        return scores
    mirror = _mirror_verdict(dataset)
    if mirror.verdict == "unsafe" or (mirror.verdict == "not_measurable" and mirror.hinted):
        if views == "flip":
            raise SpecError(
                f"Mirror images change the class here ({mirror.why}), so averaging over them would mix classes. "
                "`views=ten-crop` leaves mirror images out."
            )
        views = "five-crop"
    return {**scores, "views": {**_gain(model, rows, labels, views, examples.groups), "mirror_images": mirror.verdict}}


def _before_refit(run: Run, images: ImageSet, rows: RowSource, probabilities: np.ndarray) -> dict[str, Any]:
    """The scores without training images of a run whose delivered model was trained on its validation images too.

    These images are predicted by the model that they judged.
    """
    names, labels, groups = images.table["sha256"], images.labels(), images.groups()
    new = ~names.isin(lineage(run).trained_on).to_numpy()
    judged = np.flatnonzero(new & names.isin(lineage(run, served=True).trained_on).to_numpy())
    found, count = probabilities.copy(), {"judged_before": len(judged)}
    if len(judged):
        found[judged] = predict_probabilities(load_judged(run), rows.take(judged), batch_size=BATCH)
    if not new.any():
        return count
    return {**count, "without_trained_on": evaluate(found[new], labels[new], images.class_names, groups[new])}


def _mirror_verdict(dataset: Dataset) -> Verdict:
    """Check on these images, made square as the run does, whether a mirror image keeps its class."""
    images = dataclasses.replace(dataset.images, table=dataset.images.table.assign(split=""))
    return check_safety(
        dataclasses.replace(dataset, images=images), Augmentation(flip_horizontal=1.0), thorough=False
    ).verdicts[0]


def _named_as(images: ImageSet, classes: Sequence[str]) -> ImageSet:
    """The images with the class names of a run, which in earlier versions may be in another Unicode form."""
    forms = {unicodedata.normalize("NFC", name): name for name in classes}
    if all(form == name for form, name in forms.items()):
        return images
    names = {name: forms.get(name, name) for name in images.class_names}
    table = images.table.assign(label=images.table["label"].map(names))
    return dataclasses.replace(images, table=table, class_names=tuple(sorted(names.values())))


def _scores(probabilities: np.ndarray, images: ImageSet, seen: Lineage) -> dict[str, Any]:
    """The scores of all images, and of those that the run was not trained on."""
    labels, groups = images.labels(), images.groups()
    trained_on = images.table["sha256"].isin(seen.trained_on).to_numpy()
    scores = evaluate(probabilities, labels, images.class_names, groups)
    scores["trained_on"] = int(trained_on.sum())
    scores["chosen_by"] = int(images.table["sha256"].isin(seen.chosen_by).sum())
    if trained_on.any():
        new = ~trained_on
        others = evaluate(probabilities[new], labels[new], images.class_names, groups[new]) if new.any() else None
        scores["without_trained_on"] = others
    return scores


def _gain(model: keras.Model, rows: Any, labels: np.ndarray, views: str, groups: np.ndarray | None) -> dict[str, Any]:
    """Compare predictions averaged over views with plain ones."""
    seconds, correct = [], []
    for predicted in (
        lambda: predict_probabilities(model, rows, batch_size=BATCH),
        lambda: predict_averaged(model, rows, views, batch_size=BATCH),
    ):
        started = time.monotonic()
        correct.append(predicted().argmax(1) == labels)
        seconds.append(time.monotonic() - started)
    gain, error = paired_difference(correct[1], correct[0], groups)
    return {
        "views": views,
        "accuracy": float(correct[1].mean()),
        "gain": gain,
        "gain_error": error,
        "times_as_long": round(seconds[1] / seconds[0], 2),
    }
