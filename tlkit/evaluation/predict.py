"""Predicts with a trained model: from pixels, averaged over views, or from cached features."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import keras
import numpy as np

from tlkit.backbones import Backbone
from tlkit.cluster import current
from tlkit.data.examples import Examples, RowSource, received, to_send
from tlkit.features.extract import extract_features
from tlkit.models.blocks import cut
from tlkit.models.inference import frozen_call
from tlkit.models.sending import sent_call
from tlkit.plan.recipe import Unfreeze
from tlkit.progress import bar


def predict_probabilities(model: keras.Model, pixels: RowSource, *, batch_size: int = 32) -> np.ndarray:
    """The classifier's probabilities for pixels in uint8 RGB: float32, shape (n, classes)."""
    count = len(pixels)
    result = np.zeros((count, model.output_shape[-1]), "float32")
    chunks = [np.arange(start, min(start + batch_size, count)) for start in range(0, count, batch_size)]
    with bar(count, "image") as update:
        for chunk, found in zip(chunks, _predicted(model, pixels, chunks, batch_size), strict=True):
            result[chunk] = found
            update(int(chunk[-1]) + 1)
    return result


def _predicted(
    model: keras.Model, pixels: RowSource, chunks: Sequence[np.ndarray], batch_size: int
) -> Iterator[np.ndarray]:
    """Yield the probabilities of each batch; computed on a cluster, in the same batches, if one is used."""
    workers = current()
    if workers is not None and len(chunks) > 1:
        items = (to_send(pixels, chunk) for chunk in chunks)
        yield from workers.map_ordered(_in_worker, items, sent_call(model, batch_size))
        return
    call = frozen_call(model, batch_size)
    for chunk in chunks:
        yield call(pixels.gather(chunk))[0]


def _in_worker(call: Callable[[np.ndarray], list[np.ndarray]], rows: Any) -> np.ndarray:
    return call(received(rows))[0]


def own_probabilities(
    model: keras.Model, pixels: RowSource, indices: Sequence[int], *, batch_size: int = 32
) -> np.ndarray:
    """The probabilities of Keras' own forward pass for some rows: float32, shape (len(indices), classes).

    Slower than `predict_probabilities`, whose graph fuses layers and therefore rounds differently.
    """
    chunks = [indices[start : start + batch_size] for start in range(0, len(indices), batch_size)]
    return np.concatenate([model.predict_on_batch(pixels.gather(np.asarray(chunk))) for chunk in chunks])


VIEWS = ("flip", "ten-crop")
CROP = 0.875  # of the side: 224 of 256, as in Krizhevsky, Sutskever and Hinton 2012


def predict_averaged(model: keras.Model, pixels: RowSource, views: str, *, batch_size: int = 32) -> np.ndarray:
    """Average probabilities over views of each image (test-time augmentation): float32, shape (n, classes).

    views: "flip" is the image and its mirror image, 2 forward passes. "ten-crop" is the four corners and the centre at
    7/8 of the side, enlarged to the full size, each with its mirror image, 10 passes. "five-crop" is the same without
    mirror images, 5 passes. Use mirror images only if they keep the class.
    """
    call, result = frozen_call(model, batch_size), np.zeros((len(pixels), model.output_shape[-1]), "float32")
    for start in range(0, len(pixels), batch_size):
        images = pixels.gather(np.arange(start, min(start + batch_size, len(pixels))))
        several = [images] if views == "flip" else _crops(images)
        if views != "five-crop":
            several = [view for one in several for view in (one, one[:, :, ::-1])]
        result[start : start + len(images)] = sum(call(view)[0] for view in several) / len(several)
    return result


def _crops(images: np.ndarray) -> list[np.ndarray]:
    side = images.shape[1]
    inner = round(CROP * side)
    margin = side - inner
    corners = [(0, 0), (0, margin), (margin, 0), (margin, margin), (margin // 2, margin // 2)]
    crops = [images[:, top : top + inner, left : left + inner] for top, left in corners]
    return [np.asarray(keras.ops.image.resize(one.astype("float32"), (side, side))) for one in crops]


def predict_from_cache(
    model: keras.Model,
    backbone: Backbone,
    unfreeze: Unfreeze,
    examples: Examples,
    batch_size: int = 32,
    *,
    fast: bool = False,
) -> tuple[np.ndarray, int]:
    """Predict with the outputs of the frozen blocks taken from the cache, or computed and kept there.

    unfreeze: as in the last stage. The blocks below it are frozen, so earlier stages and runs may have computed them.
    fast: as for `extract_features`.

    Returns:
        Probabilities, or whatever the model's one output is, float32, shape (n, classes), and how many images ran
        through the frozen blocks: all n if nothing is frozen or the cache has no room.
    """
    prefix, suffix = cut(model, backbone, unfreeze)
    features = None
    if prefix is not None:
        features = extract_features(prefix, examples, batch_size=batch_size, fast=fast)
    if features is None:
        return predict_probabilities(model, examples.pixels, batch_size=batch_size), len(examples)
    (sources,) = features.views
    call = frozen_call(suffix, batch_size)
    result = np.zeros((len(examples), model.output_shape[-1]), "float32")
    for start in range(0, len(examples), batch_size):
        indices = np.arange(start, min(start + batch_size, len(examples)))
        result[indices] = call([source.gather(indices) for source in sources])[0]
    return result, features.computed
