"""Finds the training images that are most like given ones, by the features that the head of a run reads."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pandas as pd

from tlkit.data.dataset import Dataset
from tlkit.data.examples import Examples
from tlkit.doctor.checkup import _comparing_network, _features
from tlkit.drawing import draw_rows
from tlkit.errors import SpecError
from tlkit.features.extract import all_cached, feature_stores
from tlkit.features.nearest import nearest_rows
from tlkit.models.blocks import feature_extractor
from tlkit.models.inference import frozen_call
from tlkit.runs.folder import Run, open_run
from tlkit.runs.predict import Images, _given, decoded_image
from tlkit.runs.reading import BATCH, decoded, load_model, own_part
from tlkit.words import counted, shown

DRAWN = 64  # images on a sheet, each with its nearest ones
DRAWN_NEAREST = 8  # of each


@dataclass(frozen=True)
class Learned:
    """What a run's network makes of the images it learned from.

    network: the classifier up to its pooled features.
    dataset: the images. features: float32, shape (n, features).
    """

    network: keras.Model
    dataset: Dataset
    features: np.ndarray

    def like(self, features: np.ndarray, count: int) -> tuple[np.ndarray, np.ndarray]:
        """The indices of the nearest images, and their likeness: see `tlkit.features.nearest.nearest_rows`."""
        return nearest_rows(self.features, features, count)


def learned(run: Run | str | Path) -> Learned:
    """Open the images that a run learned from. Features that are cached are not computed again; the others are cached.

    Raises:
        SpecError: The run is an ensemble, which has no features.
        DataError: Its images are gone or have changed.
    """
    run = run if isinstance(run, Run) else open_run(run)
    network = feature_extractor(load_model(run))
    parts = [own_part(run, one) for one in run.learned_from]
    table = pd.concat([one.table for one in parts], ignore_index=True)
    dataset = decoded(run, dataclasses.replace(parts[0], table=table))
    return Learned(network, dataset, _features(network, dataset.examples(), fast=True))


def similar(run: Run | str | Path, images: Images, *, count: int = 5, out: str | Path | None = None) -> pd.DataFrame:
    """Find the training images that are most like given ones.

    Likeness is the cosine of the pooled features that the run's head reads, standardised over the training images: 1
    for equal features, about 0 for unrelated ones. Up to 100,000 training images are searched by scikit-learn, more by
    usearch (the extra `similar`); both compare all of them.

    Args:
        run: A finished run whose training images are still there; `open_run(folder, moved_to)` if they were moved.
        images: Files, folders or arrays, as `tlkit.predict` takes them.
        count: How many to find for each.
        out: An image file to draw: a row for each of the first 64 images, followed by up to 8 that are like it.

    Returns:
        One row per pair: image, rank (1 = the nearest), path (as in the run's split.csv), label, likeness.

    Raises:
        DataError: An image does not decode, there is none, or the run's images are gone.
        SpecError: The run is an ensemble, which has no features, or `count` is below 1.
        ExportError: There are more than 100,000 training images, and usearch is not installed.
    """
    run = run if isinstance(run, Run) else open_run(run)
    if count < 1:
        raise SpecError(f"`count` is {count}. Expected 1 or more.")
    plan, given = run.plan, _given(images)
    names = [name for name, _ in given]
    pixels = np.stack([decoded_image(name, one, plan.image_size, plan.job.fit, plan.depth) for name, one in given])
    known = run._learned
    indices, likeness = known.like(_features_of(known.network, pixels), count)
    table = known.dataset.images.table
    found = pd.DataFrame(
        {
            "image": np.repeat(names, indices.shape[1]),
            "rank": np.tile(np.arange(1, indices.shape[1] + 1), len(names)),
            "path": table["path"].to_numpy()[indices.ravel()],
            "label": table["label"].to_numpy()[indices.ravel()],
            "likeness": likeness.ravel().round(4),
        }
    )
    if out is not None:
        _draw(known, names, pixels, indices, likeness, Path(out))
    return found


def _features_of(network: keras.Model, pixels: np.ndarray) -> np.ndarray:
    """The pooled features of decoded images: float32, shape (n, features)."""
    call = frozen_call(network, BATCH)
    outputs = [call(pixels[start : start + BATCH]) for start in range(0, len(pixels), BATCH)]
    return np.concatenate([np.concatenate(one, axis=1) for one in outputs]).astype("float32", copy=False)


def _draw(
    known: Learned, names: Sequence[str], pixels: np.ndarray, indices: np.ndarray, likeness: np.ndarray, out: Path
) -> None:
    """Draw each image and, to its right, those that are like it."""
    rows, table = known.dataset.examples().pixels, known.dataset.images.table
    sheet = []
    for name, image, some, alike in zip(names[:DRAWN], pixels, indices, likeness, strict=False):
        chosen = some[:DRAWN_NEAREST]
        labels = [shown(table["label"].iloc[int(i)]) for i in chosen]
        captions = [f"{label} {one:.2f}" for label, one in zip(labels, alike, strict=False)]
        sheet.append([(image, shown(Path(name).name)), *zip(rows.gather(np.asarray(chosen)), captions, strict=True)])
    draw_rows(sheet, out, side=112)


# -- for the report ----------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Nearest:
    """The training images that are most like some others, for a page.

    by: whose features these are, in words. among: the training images that were searched, in words.
    pairs: of each image, by its path, (path, label, likeness) of the nearest, the nearest first.
    """

    by: str
    among: str
    pairs: dict[str, list[tuple[str, str, float]]]


def nearest_of_own(model: keras.Model, dataset: Dataset, paths: Sequence[str], count: int) -> Nearest | None:
    """Find the training images that are most like some images of the same data set, without computing their features.

    The features are those of the model itself, if the cache has them of every training image: it has where training
    left the backbone as it was. Otherwise they are those of `nano`, by which the data doctor compared the images.

    Args:
        model: a classifier. dataset: its data, with their splits. paths: of the images. count: how many for each.

    Returns None if the cache has no features of training images, or there are none, or no images are asked for.
    """
    table = dataset.images.table
    train = np.flatnonzero(table["split"] == "train")
    places = {path: i for i, path in enumerate(table["path"])}
    queries = [places[path] for path in paths if path in places]
    if not queries or not len(train):
        return None
    examples = dataset.examples()
    found = _network_with_features(model, examples, train)
    if found is None:
        return None
    network, by, rows = found
    features = _features(network, examples.take(rows), fast=True)
    indices, likeness = nearest_rows(features, _features(network, examples.take(np.array(queries))), count)
    whole = counted(len(train), "training image")
    among = f"all {whole}" if len(rows) == len(train) else f"{len(rows):,} of {whole} that the cache has features of"
    of, labels = table["path"].to_numpy()[rows], table["label"].to_numpy()[rows]
    pairs = {
        str(table["path"].iloc[query]): [
            (str(of[i]), str(labels[i]), float(one)) for i, one in zip(some, alike, strict=True)
        ]
        for query, some, alike in zip(queries, indices, likeness, strict=True)
    }
    return Nearest(by, among, pairs)


def _network_with_features(
    model: keras.Model, examples: Examples, train: np.ndarray
) -> tuple[keras.Model, str, np.ndarray] | None:
    """A network whose features of training images are cached, what to call it, and which images these are."""
    try:
        own: Any = feature_extractor(model)
    except SpecError:  # an ensemble
        own = None
    if own is not None and all_cached(own, examples.take(train), fast=True):
        return own, "the features that the head reads", train
    other = _comparing_network(examples.pixels.row_shape[0])
    (store,) = feature_stores(other, examples.made_by, examples.cache)
    rows = train[store.known([examples.keys[i] for i in train])]
    if not len(rows):
        return None
    return other, "features of the pretrained backbone nano, because the cache has none of the trained network", rows
