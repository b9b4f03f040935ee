"""The pooled features of a run's images, from the cache wherever the run has computed them already."""

from __future__ import annotations

from typing import TYPE_CHECKING

import keras
import numpy as np

from tlkit.evaluation.predict import predict_probabilities
from tlkit.features.extract import all_cached, all_rows, extract_features
from tlkit.models.blocks import feature_extractor
from tlkit.models.inference import bfloat16_pays, inference_batch
from tlkit.runs.reading import BATCH

if TYPE_CHECKING:
    from tlkit.data.dataset import Dataset


def pooled_features(model: keras.Model, dataset: Dataset, *, compute: bool = True) -> np.ndarray | None:
    """Return the features that a classifier's head reads: float32, shape (n, features).

    Training images have theirs in bfloat16 where the run computed them so, see `tlkit.extract_features`.

    Args:
        model: A run's classifier.
        dataset: The images, as the model sees them.
        compute: Whether those that are not in the cache are computed. Otherwise the result is None if one is missing.

    Raises:
        SpecError: The model has no pooled features, as an ensemble.
    """
    prefix, examples = feature_extractor(model), dataset.examples()
    held_out = np.asarray(dataset.images.table["split"].isin(("validation", "test", "")))
    fast = ~held_out & bfloat16_pays(prefix)
    parts = [(np.flatnonzero(fast == one), one) for one in (True, False) if (fast == one).any()]
    if not compute and not all(all_cached(prefix, examples.take(rows), fast=one) for rows, one in parts):
        return None
    batch, tables = inference_batch(BATCH), []
    for rows, one in parts:
        some = examples.take(rows)
        found = extract_features(prefix, some, batch_size=batch, fast=one)
        tables.append(all_rows(found) if found is not None else _outputs(prefix, some.pixels, batch))
    order = np.argsort(np.concatenate([rows for rows, _ in parts]))
    return np.concatenate(tables)[order]


def _outputs(prefix: keras.Model, pixels: object, batch: int) -> np.ndarray:
    """The features where neither the caches nor the memory has room for them."""
    joined = prefix.outputs[0] if len(prefix.outputs) == 1 else keras.layers.Concatenate()(prefix.outputs)
    return predict_probabilities(keras.Model(prefix.input, joined), pixels, batch_size=batch)  # type: ignore[arg-type]


def probabilities_of(model: keras.Model, features: np.ndarray) -> np.ndarray:
    """Predict probabilities from pooled features, by the head alone: float32, shape (n, classes)."""
    prefix = feature_extractor(model)
    head = keras.Model(list(prefix.outputs), model.output, name="head")
    sizes = [int(one.shape[-1]) for one in prefix.outputs]
    parts = np.split(features, np.cumsum(sizes)[:-1], axis=1)
    return np.asarray(head.predict(parts if len(parts) > 1 else parts[0], batch_size=1024, verbose=0))
