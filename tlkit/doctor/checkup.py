"""Is the data the problem? Finds labels that are probably wrong, near duplicates, leakage, outliers and imbalance.

Works on cached features. Nothing is deleted and nothing is proven: every finding has a score, most suspicious first,
and is for a person to check. Imports Keras, NumPy, pandas, Pillow and, through `linear`, scikit-learn.
"""

from __future__ import annotations

import math
import time
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pandas as pd

from tlkit.backbones import Backbone, find_backbone
from tlkit.data.classes import about_classes
from tlkit.data.dataset import Dataset, decode_images
from tlkit.data.examples import Examples, RowSource
from tlkit.data.images import ImageSet, raise_if_strict
from tlkit.data.scan import scan
from tlkit.doctor.duplicates import _leaks_first, _pair_table, equal_files, near_duplicates
from tlkit.doctor.labels import FEWEST, LabelNoise, label_errors
from tlkit.doctor.neighbours import outliers
from tlkit.evaluation.predict import predict_probabilities
from tlkit.features.extract import all_cached, all_rows, extract_features
from tlkit.models.blocks import cut
from tlkit.models.classifier import build_classifier
from tlkit.models.inference import bfloat16_pays, inference_batch
from tlkit.notebook import card, lines, rows
from tlkit.plan.address import Address
from tlkit.plan.in_memory import InMemory
from tlkit.words import counted

JUDGE = "nano"  # the backbone whose features judge the labels by default
COMPARED_SIZE = 112  # pixels per side at which images are compared
IMBALANCED = 10.0  # ratio of the largest class to the smallest above which imbalance is named


@dataclass(frozen=True)
class Checkup:
    """The findings for an image set. Tables have one row per finding, worst first, with paths as in the set's table.

    label_errors: path, label, split, suggested, probability (of the given label, out of fold), suggested_probability,
        probable (bool: the label is probably wrong), wrong (the probability of that), surprising (bool: not probable,
        but another class is ten times as probable).
    duplicates: path, other, label, other_label, split, other_split, kind ("exact" or "near"), distance (0 = equal),
        leak (bool).
    outliers: path, label, split, distance (to its neighbours, 1 = the median over all images).
    classes: label, images, share.
    n: the number of images that were examined.
    judge: the backbone whose features judged the labels.
    noise: what the labels are like, as far as a linear probe on its features can tell.
    several_parts: whether the images are in more than one split.
    size: pixels per side of the images that were examined. Another size gives other findings.
    seconds: the time taken.
    drawn_from: the number of images from which the n were drawn at random; None if all were examined. Equal files are
        found among all of them.
    plain: the number of images of one colour, in which there is nothing to compare.
    """

    label_errors: pd.DataFrame
    duplicates: pd.DataFrame
    outliers: pd.DataFrame
    classes: pd.DataFrame
    n: int
    judge: str
    noise: LabelNoise
    several_parts: bool
    size: int
    seconds: float
    drawn_from: int | None = None
    plain: int = 0

    def sentences(self) -> list[str]:
        """The findings as sentences. Only what was found is named; if nothing was, one sentence says so."""
        pairs, leaks = len(self.duplicates), int(self.duplicates["leak"].sum())
        exact = int((self.duplicates["kind"] == "exact").sum())
        about_labels = self._about_labels()
        lines = [*about_labels]
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
        if len(lines) == len(about_labels):
            among = "" if self.drawn_from is None else f" among the {counted(self.n, 'image')} that were examined"
            among += (
                f", except that {counted(self.plain, 'image')} of one colour cannot be compared" if self.plain else ""
            )
            lines.append(f"no duplicates or outliers were found{among}")
        lines += self._about_sample()
        largest, smallest = self.classes["images"].max(), self.classes["images"].min()
        if largest > IMBALANCED * smallest:
            most, fewest = self.classes["label"].iloc[0], self.classes["label"].iloc[-1]
            lines.append(f"imbalance: {counted(largest, 'image')} of '{most}', {smallest:,} of '{fewest}'")
        return lines

    def _repr_html_(self) -> str:
        """Show in a notebook what was found, the most suspicious files first."""
        wrong = self.label_errors[self.label_errors["probable"]]
        labels = [(row.path, row.label, row.suggested, f"{row.wrong:.0%}") for row in wrong.itertuples(index=False)]
        pairs = [
            (row.path, row.other, row.kind, "across splits" if row.leak and self.several_parts else "")
            for row in self.duplicates.itertuples(index=False)
        ]
        alone = [(row.path, row.label, f"{row.distance:.1f}") for row in self.outliers.itertuples(index=False)]
        return card(
            f"Checkup of {counted(self.n, 'image')}",
            None,
            [
                lines(self.sentences()),
                rows(["probably wrong label", "label", "suggested", "probability that it is wrong"], labels),
                rows(["duplicate", "of", "kind", ""], pairs),
                rows(["outlier", "label", "distance (1 = the median)"], alone),
            ],
        )

    def _about_labels(self) -> list[str]:
        """How many labels are wrong or surprising, and how sure that is."""
        noise = self.noise
        if not noise.judged:
            few = f"fewer than two classes have {FEWEST} images or more"
            return [f"the labels were not judged, because {few}"]
        probable, surprising = int(self.label_errors["probable"].sum()), int(self.label_errors["surprising"].sum())
        probe = (
            f"the probe that judges labels, a linear head on the features of {self.judge} at {self.size} pixels, which "
            f"predicts {noise.accuracy:.1%} of all images as labelled"
        )
        share = (
            f"an estimated {noise.share:.1%} of the labels are wrong (95 % interval {noise.low:.1%} to "
            f"{noise.high:.1%}), if they are wrong at random; of such labels, about {noise.recall:.0%} would be named"
        )
        if probable:
            found = f"{probable:,} of {counted(self.n, 'label')} {'is' if probable == 1 else 'are'} probably wrong"
            lines = [f"{found}: of those named, about {noise.precision:.0%} are, by {probe}", share]
        else:
            lines = [f"no label is probably wrong, by {probe}", share]
        if surprising:
            lines.append(
                f"{counted(surprising, 'other label')} surprised the probe, which is sure of another class; most of "
                "these are hard images with the right label"
            )
        return lines

    def _about_sample(self) -> list[str]:
        if self.drawn_from is None:
            return []
        pairs = (self.n / self.drawn_from) ** 2
        return [
            f"near duplicates were looked for among {self.n:,} of {counted(self.drawn_from, 'image')}, drawn at "
            f"random, which hold {pairs:.1%} of all pairs, so there may be others; identical files among all"
        ]

    def to_dict(self) -> dict[str, Any]:
        """The numbers, as JSON values."""
        return {
            "n": self.n,
            "judge": self.judge,
            "image_size": self.size,
            "accuracy": _number(self.noise.accuracy),
            "label_errors": int(self.label_errors["probable"].sum()),
            "label_errors_precision": _number(self.noise.precision),
            "surprising_labels": int(self.label_errors["surprising"].sum()),
            "wrong_labels": _number(self.noise.share),
            "wrong_labels_95": [_number(self.noise.low), _number(self.noise.high)],
            "drawn_from": self.drawn_from,
            "duplicates": len(self.duplicates),
            "leaks": int(self.duplicates["leak"].sum()),
            "outliers": len(self.outliers),
            "seconds": round(self.seconds, 1),
            "sentences": self.sentences(),
        }


def _number(value: float) -> float | None:
    return None if math.isnan(value) else round(value, 4)


def check_data(
    dataset: Dataset,
    *,
    backbone: Backbone | str = JUDGE,
    prefix: keras.Model | None = None,
    compute: bool = True,
    most: int | None = None,
    seed: int = 0,
) -> Checkup:
    """Find label errors, duplicates, leakage, outliers and imbalance.

    Images are always compared by features of `nano`, which are more sensitive to small changes than a larger network's.

    Args:
        dataset: decoded images, split or not.
        backbone: the backbone, pretrained on ImageNet, whose features judge the labels.
        prefix: such a network up to its features, if it is already built (see `tlkit.cut`).
        compute: compute features that are not in the cache. If False and some are missing, `nano` judges the labels.
        most: examine at most so many images, drawn at random; default all. Identical files are found among all.
        seed: of the folds, and of the images that are drawn.
    """
    started, whole = time.monotonic(), dataset.images
    if most is not None and len(dataset) > most:
        drawn = np.sort(np.random.default_rng(seed).permutation(len(dataset))[:most])
        dataset = dataset.take(drawn.tolist())
    examples, size = dataset.examples(), dataset.pixels.size
    chosen = find_backbone(backbone) if isinstance(backbone, str) else backbone
    compared = _features(_comparing_network(size), examples)
    features, judge = compared, JUDGE
    if chosen.name != JUDGE or prefix is not None:
        prefix = prefix or _network(chosen, size)
        fast = _learned_from(dataset) & bfloat16_pays(prefix)
        parts = [(np.flatnonzero(fast == one), one) for one in (True, False) if (fast == one).any()]
        if compute or all(all_cached(prefix, examples.take(rows), fast=one) for rows, one in parts):
            parted = [_features(prefix, examples.take(rows), fast=one) for rows, one in parts]
            order = np.argsort(np.concatenate([rows for rows, _ in parts]))
            features, judge = np.concatenate(parted)[order], chosen.name
    found = examine(dataset.images, features, compared, examples.pixels, judge, seed, started)
    return found if len(whole) == len(dataset.images) else _of_a_sample(found, whole)


def _of_a_sample(found: Checkup, whole: ImageSet) -> Checkup:
    """The findings in a sample of a set, with the identical files and the class sizes of all of the set."""
    exact = np.array(equal_files(whole.keys()), "int64").reshape(-1, 2)
    near = found.duplicates[found.duplicates["kind"] == "near"]
    pairs = [one for one in (_pair_table(whole.table, exact, np.zeros(len(exact))), near) if len(one)]
    return replace(
        found,
        duplicates=_leaks_first(pd.concat(pairs)) if pairs else found.duplicates,
        classes=_class_sizes(whole.table),
        several_parts=whole.table["split"].nunique() > 1,
        drawn_from=len(whole),
    )


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
        errors, noise = judged.result()
    errors = _described(errors, table).sort_values("probability", kind="stable")
    far = outliers(compared)
    return Checkup(
        errors.reset_index(drop=True),
        _pair_table(table, pairs, distances),
        _described(far, table).sort_values("distance", ascending=False, kind="stable").reset_index(drop=True),
        _class_sizes(table),
        len(table),
        judge,
        noise,
        table["split"].nunique() > 1,
        pixels.row_shape[0],
        time.monotonic() - started,
        plain=images.problems.loc[images.problems["problem"] == "one-colour", "path"].nunique(),
    )


def _class_sizes(table: pd.DataFrame) -> pd.DataFrame:
    """The table `Checkup.classes`, the largest first."""
    counts = table["label"].value_counts()
    sizes = {"label": counts.index, "images": counts.to_numpy(), "share": (counts / len(table)).round(4)}
    return pd.DataFrame(sizes).reset_index(drop=True)


def _described(found: pd.DataFrame, table: pd.DataFrame) -> pd.DataFrame:
    """Replace row numbers with path, label and split."""
    rows = table.iloc[found["row"]][["path", "label", "split"]].reset_index(drop=True)
    return pd.concat([rows, found.drop(columns="row").reset_index(drop=True)], axis=1)


def inspect(
    data: str | Path | Address | InMemory,
    *,
    group_by: str | None = None,
    columns: Mapping[str, str] | str | None = None,
    strict: bool = False,
    size: int = 224,
) -> ImageSet:
    """Scan and decode every image, and name every problem, without a network.

    The decoded pixels are cached, so a later run at this size does not decode again.

    Args:
        data, group_by, columns, strict: as in `tlkit.scan`.
        size: pixels per side of the decoded images.
    """
    images = scan(data, group_by=group_by, columns=columns, strict=strict)
    images = about_classes(decode_images(images, size).images)
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
