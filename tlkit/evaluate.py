"""How good a classifier is: every number with its n, accuracy with its interval."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import keras
import numpy as np

from tlkit.backbones import Backbone
from tlkit.batches import Examples, RowSource
from tlkit.features import extract_features
from tlkit.frozen import frozen_call
from tlkit.model import cut
from tlkit.spec import Unfreeze

if TYPE_CHECKING:
    import pandas as pd

ECE_BINS = 15


def predict_probabilities(
    model: keras.Model, pixels: RowSource, *, batch_size: int = 32, verbose: bool = False
) -> np.ndarray:
    """The classifier's probabilities: float32, shape (n, classes), from pixels in uint8 RGB."""
    count = len(pixels)
    result = np.zeros((count, model.output_shape[-1]), "float32")
    call = frozen_call(model, batch_size)
    bar = keras.utils.Progbar(count, unit_name="image", verbose=1 if verbose and count else 0)
    for start in range(0, count, batch_size):
        images = pixels.gather(np.arange(start, min(start + batch_size, count)))
        result[start : start + len(images)] = call(images)[0]
        bar.update(start + len(images))
    return result


def own_probabilities(
    model: keras.Model, pixels: RowSource, places: Sequence[int], *, batch_size: int = 32
) -> np.ndarray:
    """What Keras' own forward pass gives for some rows: slower than `predict_probabilities`, whose graph joins layers and rounds
    otherwise. float32, shape (len(places), classes).
    """
    chunks = [places[start : start + batch_size] for start in range(0, len(places), batch_size)]
    return np.concatenate([model.predict_on_batch(pixels.gather(np.asarray(chunk))) for chunk in chunks])


VIEWS = ("flip", "ten-crop")
CROP = 0.875  # of the side: 224 of 256, as in Krizhevsky, Sutskever and Hinton 2012


def predict_averaged(model: keras.Model, pixels: RowSource, views: str, *, batch_size: int = 32) -> np.ndarray:
    """Probabilities averaged over views of each picture: "flip" = it and its mirror image; "ten-crop" = the corners and the middle
    at 7/8 of the side, enlarged to the whole, each with its mirror image; "five-crop" = without. float32, shape (n, classes).

    Costs 2, 10 or 5 times the forward passes. Only for classes that a mirror image does not change.
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
    places = [(0, 0), (0, margin), (margin, 0), (margin, margin), (margin // 2, margin // 2)]
    crops = [images[:, top : top + inner, left : left + inner] for top, left in places]
    return [np.asarray(keras.ops.image.resize(one.astype("float32"), (side, side))) for one in crops]


def predict_from_cache(
    model: keras.Model,
    backbone: Backbone,
    unfreeze: Unfreeze,
    examples: Examples,
    batch_size: int = 32,
    *,
    pixels_key: str,
    cache_gb: float | None = None,
    verbose: bool = False,
) -> tuple[np.ndarray, int]:
    """The classifier's probabilities, its frozen blocks' outputs taken from the cache or computed and kept.

    unfreeze: as in the last stage: what lies below is what earlier stages and runs have computed already.
    pixels_key, cache_gb: see `extract_features`. Returns float32, shape (n, classes), and how many images ran through the
    frozen blocks (all n when nothing is frozen, or the cache has no room).
    """
    prefix, suffix = cut(model, backbone, unfreeze)
    features = None
    if prefix is not None:
        features = extract_features(
            prefix, examples, pixels_key=pixels_key, batch_size=batch_size, cache_gb=cache_gb, verbose=verbose
        )
    if features is None:
        return predict_probabilities(model, examples.pixels, batch_size=batch_size, verbose=verbose), len(examples)
    (sources,) = features.views
    call = frozen_call(suffix, batch_size)
    result = np.zeros((len(examples), model.output_shape[-1]), "float32")
    for start in range(0, len(examples), batch_size):
        places = np.arange(start, min(start + batch_size, len(examples)))
        result[places] = call([source.gather(places) for source in sources])[0]
    return result, features.computed


def evaluate(probabilities: np.ndarray, labels: np.ndarray, class_names: Sequence[str]) -> dict[str, Any]:
    """Numbers about a classifier's answers.

    probabilities: shape (n, classes), rows sum to 1. labels: int, shape (n,). class_names: in class order.

    Returns JSON values: n, accuracy, accuracy_95 (Wilson 1927), macro_f1 (mean over the classes that occur), top_k
    (accuracy among the k most probable, k = 2, 3, 5), log_loss (natural, probabilities held above 1e-7), ece (15 equal
    bins of the top probability; Naeini et al. 2015), per_class (precision, recall, f1, support) and
    confusion_matrix (rows: true, columns: predicted).
    """
    from sklearn.metrics import confusion_matrix, precision_recall_fscore_support

    n, k = probabilities.shape
    predicted = probabilities.argmax(axis=1)
    right = predicted == labels
    precision, recall, f1, support = precision_recall_fscore_support(
        labels, predicted, labels=range(k), zero_division=0.0
    )
    ranked = np.argsort(-probabilities, axis=1, kind="stable")
    picked = np.clip(probabilities[np.arange(n), labels], 1e-7, 1.0)
    return {
        "n": n,
        "accuracy": float(right.mean()),
        "accuracy_95": list(wilson_interval(int(right.sum()), n)),
        "macro_f1": float(f1[support > 0].mean()),
        "top_k": {str(top): float((ranked[:, :top] == labels[:, None]).any(1).mean()) for top in (2, 3, 5) if top < k},
        "log_loss": float(-np.log(picked).mean()),
        "ece": expected_calibration_error(probabilities, labels),
        "per_class": {
            name: {"precision": float(p), "recall": float(r), "f1": float(f), "support": int(s)}
            for name, p, r, f, s in zip(class_names, precision, recall, f1, support, strict=True)
        },
        "confusion_matrix": confusion_matrix(labels, predicted, labels=range(k)).tolist(),
        "classes": list(class_names),
    }


def wilson_interval(right: int, n: int) -> tuple[float, float]:
    """The 95 % interval of a share, by Wilson's score method; (0, 1) for n = 0.

    >>> [round(x, 3) for x in wilson_interval(93, 100)]
    [0.863, 0.966]
    """
    if n == 0:
        return 0.0, 1.0
    z, p = 1.959963984540054, right / n
    middle = (p + z * z / (2 * n)) / (1 + z * z / n)
    half = z / (1 + z * z / n) * (p * (1 - p) / n + z * z / (4 * n * n)) ** 0.5
    return max(0.0, middle - half), min(1.0, middle + half)


def expected_calibration_error(probabilities: np.ndarray, labels: np.ndarray, bins: int = ECE_BINS) -> float:
    """Mean distance between confidence and accuracy over equal bins of the top probability, weighted by their images."""
    return calibration_gap(probabilities.max(axis=1), probabilities.argmax(axis=1) == labels, bins)


def calibration_gap(confidence: np.ndarray, right: np.ndarray, bins: int = ECE_BINS) -> float:
    """The same from top probabilities, shape (n,), and whether each answer was right."""
    return sum(abs(said - was) * count for said, was, count in reliability_bins(confidence, right, bins)) / len(right)


def reliability_bins(confidence: np.ndarray, right: np.ndarray, bins: int = ECE_BINS) -> list[tuple[float, float, int]]:
    """(mean confidence, share right, images) of each of the equal bins that holds an image."""
    place = np.minimum((confidence * bins).astype(int), bins - 1)
    chosen = [place == b for b in sorted(set(place.tolist()))]
    return [(float(confidence[one].mean()), float(right[one].mean()), int(one.sum())) for one in chosen]


def prediction_table(
    paths: Sequence[str], probabilities: np.ndarray, class_names: Sequence[str], top: int = 3
) -> pd.DataFrame:
    """One row per image: path, prediction, probability, top2, top2_probability, ... up to `top`."""
    import pandas as pd

    ranked = np.argsort(-probabilities, axis=1, kind="stable")
    columns: dict[str, Any] = {"path": list(paths)}
    for place in range(min(top, len(class_names))):
        name, value = (
            ("prediction", "probability") if place == 0 else (f"top{place + 1}", f"top{place + 1}_probability")
        )
        columns[name] = [class_names[i] for i in ranked[:, place]]
        columns[value] = [round(float(p), 6) for p in probabilities[np.arange(len(ranked)), ranked[:, place]]]
    return pd.DataFrame(columns)
