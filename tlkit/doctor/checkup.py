"""Is the data the problem? Probable label errors, near duplicates, leakage between parts, outliers and imbalance, from cached features.

Nothing is deleted and nothing is proven: everything found is named with a number, most suspicious first, for a person to look at.
Imports Keras, NumPy, pandas, Pillow and, through `linear`, scikit-learn.
"""

from __future__ import annotations

import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pandas as pd

from tlkit.backbones import Backbone, find_backbone
from tlkit.data.dataset import Dataset, decode_images
from tlkit.data.examples import Examples, RowSource
from tlkit.data.images import ImageSet, raise_if_strict
from tlkit.data.scan import scan
from tlkit.doctor.duplicates import _pair_table, near_duplicates
from tlkit.doctor.labels import label_errors
from tlkit.doctor.neighbours import outliers
from tlkit.evaluation.predict import predict_probabilities
from tlkit.features.extract import all_cached, all_rows, extract_features
from tlkit.models.blocks import cut
from tlkit.models.classifier import build_classifier
from tlkit.models.inference import inference_batch
from tlkit.words import counted

JUDGE = "nano"  # what judges where no other backbone does
LOOKS = 112  # pixels of a side
IMBALANCED = 10.0  # times as many images in the largest class as in the smallest


@dataclass(frozen=True)
class Checkup:
    """What was found in an image set. Tables have a row for each finding, worst first, paths as in the set's table.

    label_errors: path, label, part, suggested, probability (of the given label, out of fold), suggested_probability, probable (bool).
    duplicates: path, other, label, other_label, part, other_part, kind ("exact" or "near"), distance (0 = equal), leak (bool).
    outliers: path, label, part, distance (to the nearest other picture, 1 = usual).
    classes: label, images, share.
    n: pictures. judge, accuracy: whose features judged the labels, and the share that its probe has right out of fold.
    """

    label_errors: pd.DataFrame
    duplicates: pd.DataFrame
    outliers: pd.DataFrame
    classes: pd.DataFrame
    n: int
    judge: str
    accuracy: float
    several_parts: bool
    seconds: float

    def sentences(self) -> list[str]:
        """What was found, for a person. What was not found is not named, unless it is all."""
        probable = int(self.label_errors["probable"].sum())
        pairs, leaks = len(self.duplicates), int(self.duplicates["leak"].sum())
        exact = int((self.duplicates["kind"] == "exact").sum())
        lines = []
        if probable:
            lines.append(
                f"{probable:,} of {counted(self.n, 'label')} {'is' if probable == 1 else 'are'} suspicious: a linear probe "
                f"on the features of {self.judge} predicts another class (its cross-validated accuracy is "
                f"{self.accuracy:.1%})"
            )
        if pairs:
            identical = "" if not exact else ", identical" if exact == pairs else f", {exact:,} of them identical"
            lines.append(f"{counted(pairs, 'pair')} of duplicates{identical}")
        if leaks and self.several_parts:
            lines.append(
                f"{counted(leaks, 'pair')} of duplicates {'lies' if leaks == 1 else 'lie'} across splits, so scores on "
                "the validation or test images are too high"
            )
        if len(self.outliers):
            lines.append(f"{counted(len(self.outliers), 'outlier')}, unlike all other images")
        if not lines:
            lines.append("no suspicious labels, duplicates or outliers")
        largest, smallest = self.classes["images"].max(), self.classes["images"].min()
        if largest > IMBALANCED * smallest:
            most, fewest = self.classes["label"].iloc[0], self.classes["label"].iloc[-1]
            lines.append(f"imbalance: {counted(largest, 'image')} of '{most}', {smallest:,} of '{fewest}'")
        return lines

    def to_dict(self) -> dict[str, Any]:
        """The numbers, as JSON values."""
        return {
            "n": self.n,
            "judge": self.judge,
            "accuracy": self.accuracy,
            "label_errors": int(self.label_errors["probable"].sum()),
            "duplicates": len(self.duplicates),
            "leaks": int(self.duplicates["leak"].sum()),
            "outliers": len(self.outliers),
            "seconds": round(self.seconds, 1),
            "sentences": self.sentences(),
        }


def check_data(
    dataset: Dataset,
    *,
    backbone: Backbone | str = JUDGE,
    prefix: keras.Model | None = None,
    compute: bool = True,
    seed: int = 0,
) -> Checkup:
    """Look for label errors, duplicates, leakage, outliers and imbalance.

    backbone: whose features judge the labels, as pretrained on ImageNet. prefix: such a network, if there is one already (see `tlkit.cut`).
    How like two pictures are is for `nano` in any case, whose features are less blind to small changes than a larger network's.
    compute: if features of the backbone are not all in the cache, compute them; else `nano` judges the labels too.
    """
    started = time.monotonic()
    examples, size = dataset.examples(), dataset.pixels.size
    chosen = find_backbone(backbone) if isinstance(backbone, str) else backbone
    looks = _features(_looking(size), examples)
    features, judge = looks, JUDGE
    if chosen.name != JUDGE or prefix is not None:
        prefix = prefix or _network(chosen, size)
        if compute or all_cached(prefix, examples):
            features, judge = _features(prefix, examples), chosen.name
    return examine(dataset.images, features, looks, examples.pixels, judge, seed, started)


def _features(prefix: keras.Model, examples: Examples) -> np.ndarray:
    batch = inference_batch(32)
    found = extract_features(prefix, examples, batch_size=batch)
    if found is None:  # the cache has no room
        return predict_probabilities(prefix, examples.pixels, batch_size=batch)
    return all_rows(found)


def _network(backbone: Backbone, size: int, weights: str = "imagenet") -> keras.Model:
    """The backbone up to its pooled features, for pictures of a size; smaller ones than it takes are enlarged."""
    inner = max(size, backbone.smallest)
    prefix, _ = cut(build_classifier(backbone, 2, image_size=inner, weights=weights), backbone, 0)
    assert prefix is not None
    return prefix if inner == size else _resizing(prefix, size)


def _looking(size: int) -> keras.Model:
    """`nano` on pictures shrunk to LOOKS pixels: enough to tell whether two are one, and quick."""
    inner = min(size, LOOKS)
    prefix = _network(find_backbone(JUDGE), inner)
    return prefix if inner == size else _resizing(prefix, size)


def _resizing(prefix: keras.Model, size: int) -> keras.Model:
    image = keras.Input((size, size, 3), name="image")
    inner = prefix.input_shape[1]
    if size % inner == 0:
        smaller = keras.layers.AveragePooling2D(size // inner)(image)
    else:
        smaller = keras.layers.Resizing(inner, inner)(image)
    return keras.Model(image, prefix(smaller))


def examine(
    images: ImageSet,
    features: np.ndarray,
    looks: np.ndarray,
    pixels: RowSource,
    judge: str = JUDGE,
    seed: int = 0,
    started: float | None = None,
) -> Checkup:
    """The same from features that are there: features for the labels, looks for what is alike, float32, shape (n, numbers) each."""
    started = time.monotonic() if started is None else started
    table, labels = images.table, images.labels()
    with ThreadPoolExecutor(1) as beside:  # solving heads keeps one core busy
        judged = beside.submit(label_errors, features, labels, images.class_names, images.groups(), seed)
        pairs, distances = near_duplicates(pixels, looks, images.keys())
        errors, accuracy = judged.result()
    errors = _described(errors, table).sort_values("probability", kind="stable")
    far = outliers(looks)
    counts = table["label"].value_counts()
    classes = pd.DataFrame(
        {"label": counts.index, "images": counts.to_numpy(), "share": (counts / len(table)).round(4)}
    )
    return Checkup(
        errors.reset_index(drop=True),
        _pair_table(table, pairs, distances),
        _described(far, table).sort_values("distance", ascending=False, kind="stable").reset_index(drop=True),
        classes.reset_index(drop=True),
        len(table),
        judge,
        accuracy,
        table["split"].nunique() > 1,
        time.monotonic() - started,
    )


def _described(found: pd.DataFrame, table: pd.DataFrame) -> pd.DataFrame:
    """With path, label and part in the place of row numbers."""
    rows = table.iloc[found["row"]][["path", "label", "split"]].reset_index(drop=True)
    return pd.concat([rows, found.drop(columns="row").reset_index(drop=True)], axis=1)


def inspect(data: str | Path, *, group_by: str | None = None, strict: bool = False, size: int = 224) -> ImageSet:
    """What is in the folder and what is wrong with it: scans and decodes every image, fits no network.

    The decoded pixels are kept, so a run at this size that follows does not decode again.
    """

    images = scan(data, group_by=group_by, strict=strict)
    images = decode_images(images, size).images
    if strict:
        raise_if_strict(images)
    return images


def check_up(images: ImageSet, *, backbone: str = JUDGE, size: int = 224) -> Checkup:
    """Label errors, duplicates, leakage, outliers and imbalance in a scanned image set (see `tlkit.doctor`).

    backbone: whose features judge the labels; `nano` comes with tlkit, a larger one is right more often. size: pixels at which pictures are
    compared; those of `inspect` are decoded already.
    """
    return check_data(decode_images(images, size), backbone=backbone)
