"""Is the data the problem? Finds probable label errors, near duplicates, leakage, outliers and imbalance.

Works on cached features. Nothing is deleted and nothing is proven: every finding has a score, most suspicious first,
and is for a person to check. Imports Keras, NumPy, pandas, Pillow and, through `linear`, scikit-learn.
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
from tlkit.models.inference import bfloat16_pays, inference_batch
from tlkit.words import counted

JUDGE = "nano"  # the backbone whose features judge the labels by default
COMPARED_SIZE = 112  # pixels per side at which images are compared
IMBALANCED = 10.0  # ratio of the largest class to the smallest above which imbalance is named


@dataclass(frozen=True)
class Checkup:
    """The findings for an image set. Tables have one row per finding, worst first, with paths as in the set's table.

    label_errors: path, label, split, suggested, probability (of the given label, out of fold), suggested_probability,
        probable (bool).
    duplicates: path, other, label, other_label, split, other_split, kind ("exact" or "near"), distance (0 = equal),
        leak (bool).
    outliers: path, label, split, distance (to its neighbours, 1 = the median over all images).
    classes: label, images, share.
    n: the number of images.
    judge: the backbone whose features judged the labels.
    accuracy: the out-of-fold accuracy of its linear probe, 0 to 1.
    several_parts: whether the images are in more than one split.
    seconds: the time taken.
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
        """The findings as sentences. Only what was found is named; if nothing was, one sentence says so."""
        probable = int(self.label_errors["probable"].sum())
        pairs, leaks = len(self.duplicates), int(self.duplicates["leak"].sum())
        exact = int((self.duplicates["kind"] == "exact").sum())
        lines = []
        if probable:
            lines.append(
                f"{probable:,} of {counted(self.n, 'label')} {'is' if probable == 1 else 'are'} suspicious: a linear "
                f"probe on the features of {self.judge} predicts another class (its cross-validated accuracy is "
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
    """Find label errors, duplicates, leakage, outliers and imbalance.

    Images are always compared by features of `nano`, which are more sensitive to small changes than a larger network's.

    Args:
        dataset: decoded images, split or not.
        backbone: the backbone, pretrained on ImageNet, whose features judge the labels.
        prefix: such a network up to its features, if it is already built (see `tlkit.cut`).
        compute: compute features that are not in the cache. If False and some are missing, `nano` judges the labels.
        seed: of the folds.
    """
    started = time.monotonic()
    examples, size = dataset.examples(), dataset.pixels.size
    chosen = find_backbone(backbone) if isinstance(backbone, str) else backbone
    compared = _features(_comparing_network(size), examples)
    features, judge = compared, JUDGE
    if chosen.name != JUDGE or prefix is not None:
        prefix = prefix or _network(chosen, size)
        fast = _learned_from(dataset) & bfloat16_pays(prefix)
        parts = [(np.flatnonzero(fast == one), one) for one in (True, False) if (fast == one).any()]
        if compute or all(all_cached(prefix, examples.take(rows), fast=one) for rows, one in parts):
            found = [_features(prefix, examples.take(rows), fast=one) for rows, one in parts]
            order = np.argsort(np.concatenate([rows for rows, _ in parts]))
            features, judge = np.concatenate(found)[order], chosen.name
    return examine(dataset.images, features, compared, examples.pixels, judge, seed, started)


def _learned_from(dataset: Dataset) -> np.ndarray:
    """Which images a run may have features of in bfloat16: all but those it evaluates on. bool, shape (n,)."""
    return ~np.asarray(dataset.images.table["split"].isin(("validation", "test")))


def _features(prefix: keras.Model, examples: Examples, *, fast: bool = False) -> np.ndarray:
    batch = inference_batch(32)
    found = extract_features(prefix, examples, batch_size=batch, fast=fast)
    if found is None:  # there is no room in the cache
        return predict_probabilities(prefix, examples.pixels, batch_size=batch)
    return all_rows(found)


def _network(backbone: Backbone, size: int, weights: str = "imagenet") -> keras.Model:
    """The backbone up to its pooled features, for images of a size. Images below its smallest size are enlarged."""
    inner = max(size, backbone.smallest)
    prefix, _ = cut(build_classifier(backbone, 2, image_size=inner, weights=weights), backbone, 0)
    assert prefix is not None
    return prefix if inner == size else _resizing(prefix, size)


def _comparing_network(size: int) -> keras.Model:
    """`nano` on images reduced to COMPARED_SIZE pixels: enough to recognise duplicates, and fast."""
    inner = min(size, COMPARED_SIZE)
    prefix = _network(find_backbone(JUDGE), inner)
    return prefix if inner == size else _resizing(prefix, size)


def _resizing(prefix: keras.Model, size: int) -> keras.Model:
    """The network with a layer in front that resizes images of `size` pixels to its input size."""
    image = keras.Input((size, size, 3), name="image")
    inner = prefix.input_shape[1]
    if size % inner == 0:
        resized = keras.layers.AveragePooling2D(size // inner)(image)
    else:
        resized = keras.layers.Resizing(inner, inner)(image)
    return keras.Model(image, prefix(resized))


def examine(
    images: ImageSet,
    features: np.ndarray,
    compared: np.ndarray,
    pixels: RowSource,
    judge: str = JUDGE,
    seed: int = 0,
    started: float | None = None,
) -> Checkup:
    """Check images whose features are already computed.

    Args:
        images: the set, n images.
        features: features that judge the labels, float32, shape (n, features).
        compared: features by which images are compared, float32, shape (n, features).
        pixels: uint8 rows, shape (n, size, size, 3).
        judge: the name of the backbone of `features`.
        seed: of the folds.
        started: `time.monotonic()` at the start of the check; default now.
    """
    started = time.monotonic() if started is None else started
    table, labels = images.table, images.labels()
    with ThreadPoolExecutor(1) as pool:  # fitting heads keeps only one core busy
        judged = pool.submit(label_errors, features, labels, images.class_names, images.groups(), seed)
        pairs, distances = near_duplicates(pixels, compared, images.keys())
        errors, accuracy = judged.result()
    errors = _described(errors, table).sort_values("probability", kind="stable")
    far = outliers(compared)
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
    """Replace row numbers with path, label and split."""
    rows = table.iloc[found["row"]][["path", "label", "split"]].reset_index(drop=True)
    return pd.concat([rows, found.drop(columns="row").reset_index(drop=True)], axis=1)


def inspect(data: str | Path, *, group_by: str | None = None, strict: bool = False, size: int = 224) -> ImageSet:
    """Scan and decode every image, and name every problem, without a network.

    The decoded pixels are cached, so a later run at this size does not decode again.

    Args:
        data, group_by, strict: as in `tlkit.scan`.
        size: pixels per side of the decoded images.
    """
    images = scan(data, group_by=group_by, strict=strict)
    images = decode_images(images, size).images
    if strict:
        raise_if_strict(images)
    return images


def check_up(images: ImageSet, *, backbone: str = JUDGE, size: int = 224) -> Checkup:
    """Find label errors, duplicates, leakage, outliers and imbalance in a scanned image set.

    Args:
        images: from `tlkit.scan` or `tlkit.inspect`.
        backbone: the backbone whose features judge the labels. `nano` comes with tlkit; a larger one is more accurate.
        size: pixels per side of the decoded images. At the size of `inspect` they are already decoded.
    """
    return check_data(decode_images(images, size), backbone=backbone)
