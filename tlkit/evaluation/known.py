"""Finds images that show none of the classes: a p-value for each image, by how far its features lie from the classes.

The features are those of the served network itself, pooled, before its head. Each class is described by a few
prototypes, each the mean of several training images. Held-out images say how far known images lie from them (conformal
prediction, Vovk, Gammerman and Shafer 2005). Imports Keras, NumPy and, to fit, scikit-learn.
"""

from __future__ import annotations

import io
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import keras
import numpy as np

from tlkit.errors import RunError, SpecError
from tlkit.evaluation.prediction_sets import SHARED_COUNTS
from tlkit.features.folds import ALWAYS_TRAINING
from tlkit.models.head import FEATURES
from tlkit.stats import wilson_interval

NONE_OF_THESE = "none of these"  # served instead of a class
FEWEST_HELD_OUT = 20  # images predicted as a class, from which that class has quantiles of its own
TAIL = 0.2  # p-value below which half of the quantiles are
FEWEST_IMAGES = 4  # of a class, and of a prototype: none may be the features of one image
IMAGES_A_PROTOTYPE = 8  # about
MOST_PROTOTYPES = 64
SHARE_OF_MODEL = 0.06  # of the numbers of the model that is served: what the prototypes may take
GRAPH_NUMBERS = 600_000  # the decoder's graph in a SavedModel, in float32 numbers
QUANTILES = 64  # of the distances of held-out images, for each class
UNCERTAINTY = 1.0  # see `Known.strangeness`
LEAST_SCALE = (
    1e-3  # a cosine is rounded by about 2e-7; divided by less, that would move scores by more than SCORE_ROUNDING
)
SCORE_ROUNDING = 1e-3  # of a score and of 1: by how much rounding may change it; 3e-5 was seen
TIED = 1e-4  # difference of the top two probabilities, below which rounding may change their order


@dataclass(frozen=True, eq=False)
class Known:
    """What tells known images from others.

    Attributes:
        basis: Unit vectors that span the prototypes, float32, shape (features, rank). None: the prototypes are not
            reduced, and rank is the number of features.
        prototypes: Of unit length before they were reduced, float32, shape (prototypes, rank).
        scale: The median distance of training images to their prototypes, or LEAST_SCALE.
        rows: For each class, the row of `scores`, int32, shape (classes,).
        scores: Quantiles of the held-out images' scores, ascending, float32, shape (rows, QUANTILES).
        levels: The p-value at each of these, float32, the same shape.
        held_out: How many images each row is of, int32, shape (rows,).
    """

    basis: np.ndarray | None
    prototypes: np.ndarray
    scale: float
    rows: np.ndarray
    scores: np.ndarray
    levels: np.ndarray
    held_out: np.ndarray

    def strangeness(self, features: Any, probabilities: Any) -> Any:
        """Score images: the higher, the less like the classes. Shape (n,), as a tensor of Keras' backend.

        It is the cosine distance of the features to the nearest prototype, divided by `scale`, plus 1 minus the top
        probability. The first finds images of another kind; the second, which is 1 at most, finds those that resemble
        the classes and that the head cannot tell (maximum softmax probability, Hendrycks and Gimpel 2017,
        arXiv:1610.02136).

        Args:
            features: Pooled, shape (n, features).
            probabilities: Calibrated, shape (n, classes).
        """
        ops = keras.ops
        features = ops.cast(features, "float32")
        length = ops.maximum(ops.sqrt(ops.sum(features**2, axis=1, keepdims=True)), 1e-6)
        units = features / length
        reduced = units if self.basis is None else units @ ops.convert_to_tensor(self.basis)
        nearest = ops.max(reduced @ ops.convert_to_tensor(self.prototypes.T), axis=1)
        return (1 - nearest) / self.scale + UNCERTAINTY * (1 - ops.max(probabilities, axis=1))

    def p_values(self, features: Any, probabilities: Any) -> Any:
        """The p-value of each image, for the hypothesis that it is like the known ones: float32, shape (n,).

        Of known images a share of about 5 % has a p-value below 0.05. Ranked are means of two ranks: that of the score
        among the held-out images that were predicted as the same class (a Mondrian taxonomy), and that among all, which
        count as n ** 2 and as 75 ** 2, n images of the class. Among few images the first is chance at its end, and it
        forgets that some classes are those that strange images are taken for. The p-value is the rank of the mean among
        those of the held-out images, interpolated. If fewer than 20 of them were predicted as a class, such classes are
        pooled. Beyond the strangest held-out image it only ranks: it falls as the score rises.
        """
        score = self.strangeness(features, probabilities)
        return self._p_values_at(score, keras.ops.argmax(probabilities, axis=1))

    def p_values_nearby(self, features: Any, probabilities: Any) -> np.ndarray:
        """The p-values, and those that rounding may give in their place: float32, shape (n, 4), the first its own.

        A p-value is steep in the score where many held-out images have about the same, and it jumps where the top two
        classes change places.
        """
        score = self.strangeness(features, probabilities)
        order = np.argsort(-keras.ops.convert_to_numpy(probabilities), axis=1, kind="stable")
        top = np.take_along_axis(keras.ops.convert_to_numpy(probabilities), order[:, :2], axis=1)
        second = np.where(top[:, 0] - top[:, -1] < TIED, order[:, :2][:, -1], order[:, 0])
        moved = SCORE_ROUNDING * (1 + score)
        own = [(score, order[:, 0]), (score - moved, order[:, 0]), (score + moved, order[:, 0]), (score, second)]
        found = [keras.ops.convert_to_numpy(self._p_values_at(at, classes)) for at, classes in own]
        return np.stack(found, axis=1).astype("float32")

    def _p_values_at(self, score: Any, classes: Any) -> Any:
        """The p-values of scores of images that were predicted as `classes`, both of shape (n,)."""
        ops = keras.ops
        score = score[:, None]
        row = ops.take(ops.convert_to_tensor(self.rows), classes, axis=0)
        scores = ops.take(ops.convert_to_tensor(self.scores), row, axis=0)
        levels = ops.take(ops.convert_to_tensor(self.levels), row, axis=0)
        above = ops.sum(ops.cast(scores < score, "int32"), axis=1, keepdims=True)
        high = ops.clip(above, 1, QUANTILES - 1)
        low = high - 1

        def at(table: Any, index: Any) -> Any:
            return ops.take_along_axis(table, index, axis=1)

        span = ops.maximum(at(scores, high) - at(scores, low), 1e-9)
        part = ops.clip((score - at(scores, low)) / span, 0, 1)
        inside = at(levels, low) + part * (at(levels, high) - at(levels, low))
        beyond = levels[:, -1:] * scores[:, -1:] / ops.maximum(score, 1e-9)
        return ops.where(score > scores[:, -1:], beyond, inside)[:, 0]

    def to_bytes(self) -> bytes:
        """The file known.npz of a run's folder."""
        out = io.BytesIO()
        arrays = {name: getattr(self, name) for name in self.__dataclass_fields__ if getattr(self, name) is not None}
        np.savez(out, allow_pickle=False, **arrays)
        return out.getvalue()

    @classmethod
    def from_bytes(cls, data: bytes) -> Known:
        """Read the file known.npz. Raises RunError if it is damaged."""
        try:
            with np.load(io.BytesIO(data), allow_pickle=False) as found:
                values: dict[str, Any] = {name: found[name] for name in found.files}
            return cls(**{"basis": None, **values, "scale": float(values["scale"])})
        except Exception as error:  # NumPy and zipfile raise many kinds for a damaged file
            raise RunError(f"known.npz is damaged ({error}). Repeat the run.") from error


@dataclass(frozen=True)
class Prototypes:
    """The prototypes of the classes, of unit length: float32, shape (prototypes, features). scale: as in `Known`."""

    vectors: np.ndarray
    scale: float

    def distances(self, features: np.ndarray) -> np.ndarray:
        """The cosine distance of each row to the nearest prototype, divided by the scale: shape (n,)."""
        return (1 - (unit(features) @ self.vectors.T).max(1)) / self.scale


def unit(features: np.ndarray) -> np.ndarray:
    """Rows divided by their length: float32, the same shape."""
    features = features.astype("float32", copy=False)
    return features / np.maximum(np.linalg.norm(features, axis=1, keepdims=True), 1e-6)


def class_prototypes(features: np.ndarray, labels: np.ndarray, classes: int, *, seed: int = 0) -> Prototypes:
    """Describe each class by the means of groups of similar images (k-means; MacQueen 1967).

    A class has one prototype for each 8 images, but all classes together have 64 at most, or one each. Groups of fewer
    than 4 images are left out.

    features: float32, shape (n, features). labels: int, shape (n,), each class with 4 images or more.
    """
    from sklearn.cluster import KMeans
    from threadpoolctl import threadpool_limits

    rows, found = unit(features), []
    for number in range(classes):
        mine = rows[labels == number]
        count = min(MOST_PROTOTYPES // classes, len(mine) // IMAGES_A_PROTOTYPE)
        if count < 2:
            found.append(mine.mean(0, keepdims=True))
            continue
        with threadpool_limits(1):  # beside other work, 1,000 rows of 40 features took 0.2 s of two cores, and 0.004 s
            groups = KMeans(count, n_init=1, max_iter=30, random_state=seed).fit(mine)
        sizes = np.bincount(groups.labels_, minlength=count)
        found.append(groups.cluster_centers_[sizes >= min(FEWEST_IMAGES, sizes.max())])
    vectors = unit(np.concatenate(found))
    inside = 1 - (rows @ vectors.T).max(1)
    return Prototypes(vectors, max(float(np.median(inside)), LEAST_SCALE))


def fit_known(
    features: np.ndarray,
    labels: np.ndarray,
    probabilities: np.ndarray,
    folds: np.ndarray,
    *,
    room: int,
    seed: int = 0,
) -> Known | None:
    """Fit prototypes to images, and quantiles to those among them that are held out.

    Args:
        features: Pooled, float32, shape (n, features).
        labels: int, shape (n,).
        probabilities: Calibrated, float, shape (n, classes): of held-out images by a head that was not trained on them;
            of others they are not looked at.
        folds: int, shape (n,): the fold in which an image is held out; -1 = never. If some never are, these alone give
            the prototypes, else all images do (cross-conformal prediction, Vovk 2015).
        room: How many numbers the prototypes may take; see `room_beside`.
        seed: Of k-means.

    Returns:
        None if a class has fewer than 4 images to learn from, fewer than 20 images are held out, or there is no room.
    """
    classes = probabilities.shape[1]
    held_out, always = folds != ALWAYS_TRAINING, folds == ALWAYS_TRAINING
    learned = always if always.any() else np.ones(len(labels), bool)
    if np.bincount(labels[learned], minlength=classes).min() < FEWEST_IMAGES or held_out.sum() < FEWEST_HELD_OUT:
        return None
    prototypes = _reduced(class_prototypes(features[learned], labels[learned], classes, seed=seed), room)
    if prototypes is None:
        return None
    scores = np.zeros(len(labels))
    for fold in np.unique(folds[held_out]):
        rows = folds == fold
        others = learned & ~rows
        if np.bincount(labels[others], minlength=classes).min() == 0:
            return None
        near = class_prototypes(features[others], labels[others], classes, seed=seed)
        scores[rows] = near.distances(features[rows])
    scores += UNCERTAINTY * (1 - probabilities.max(1))
    quantiles = _quantiles(scores[held_out], probabilities[held_out].argmax(1), classes)
    return Known(*prototypes, *quantiles)


def with_prototypes_of(known: Known, features: np.ndarray, labels: np.ndarray, *, room: int, seed: int = 0) -> Known:
    """The same quantiles, with the prototypes of another network's features: of one that was trained again."""
    reduced = _reduced(class_prototypes(features, labels, len(known.rows), seed=seed), room)
    assert reduced is not None  # as many numbers as before
    return Known(*reduced, known.rows, known.scores, known.levels, known.held_out)


def room_beside(model: keras.Model) -> int:
    """How many numbers prototypes may take, so that the SavedModel grows by less than a tenth."""
    return int(SHARE_OF_MODEL * (model.count_params() + GRAPH_NUMBERS))


def _reduced(found: Prototypes, room: int) -> tuple[np.ndarray | None, np.ndarray, float] | None:
    """Prototypes that fit the room: as they are, or in the basis of their largest principal directions."""
    count, size = found.vectors.shape
    if count * size <= room:
        return None, found.vectors, found.scale
    rank = min(room // (count + size), count)
    if rank < 1:
        return None
    basis = np.linalg.svd(found.vectors, full_matrices=False)[2][:rank].T
    return basis.astype("float32"), (found.vectors @ basis).astype("float32"), found.scale


def _quantiles(
    scores: np.ndarray, predicted: np.ndarray, classes: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """`rows`, `scores`, `levels` and `held_out` of `Known`."""
    counts = np.bincount(predicted, minlength=classes)
    own = np.flatnonzero(counts >= FEWEST_HELD_OUT)
    rows = np.zeros(classes, "int32")
    rows[own] = np.arange(1, len(own) + 1)
    few = ~np.isin(predicted, own)
    groups = [scores[few] if few.sum() >= FEWEST_HELD_OUT else scores, *[scores[predicted == one] for one in own]]
    counts = np.array([len(one) for one in groups], "int32")
    everything, of_group = np.sort(scores), [np.sort(one) for one in groups]
    mean = np.zeros(len(scores))
    for number, group in enumerate(of_group):
        mine = rows[predicted] == number
        mean[mine] = _mean_rank(group, everything, scores[mine])
    reached, times = np.unique(mean, return_counts=True)
    ranks = np.cumsum(times) / (len(scores) + 1)
    tables = [_table(group, everything, reached, ranks) for group in of_group]
    high, levels = (np.stack(both).astype("float32") for both in zip(*tables, strict=True))
    return rows, high, levels, counts


def _table(
    own: np.ndarray, everything: np.ndarray, reached: np.ndarray, ranks: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """QUANTILES scores, ascending, with the p-value at each: see `Known.p_values`. A score of 0 has 1.

    Half of them are where p-values are below TAIL, where thresholds are; the others are evenly spaced.

    own: the scores of the class. everything: of all held-out images. reached: the mean ranks of these, and ranks: how
    common it is to have one as low. All ascending.
    """
    places = np.unique(np.concatenate([own, everything]))
    levels = np.interp(_mean_rank(own, everything, places), np.r_[0.0, reached, 1.0], np.r_[0.0, ranks, 1.0])
    if len(places) > QUANTILES - 1:
        kept = QUANTILES // 2
        first = min(int((levels > TAIL).sum()), len(places) - kept)
        lower = np.linspace(0, first - 1, QUANTILES - 1 - kept).round().astype(int)
        chosen = np.concatenate([lower, np.linspace(first, len(places) - 1, kept).round().astype(int)])
        places, levels = places[chosen], levels[chosen]
    padding = QUANTILES - len(places)
    return np.r_[np.zeros(padding), places], np.r_[np.ones(padding), levels]


def _mean_rank(own: np.ndarray, everything: np.ndarray, places: np.ndarray) -> np.ndarray:
    """The mean of the ranks among a class and among all, weighted by how many images the class has."""
    weight = len(own) ** 2 / (len(own) ** 2 + SHARED_COUNTS**2)
    return weight * _ranks(own, places) + (1 - weight) * _ranks(everything, places)


def _ranks(scores: np.ndarray, places: np.ndarray) -> np.ndarray:
    """The p-value at each place among n ascending scores: 1 at 0, and (n + 1 - k) / (n + 1) at the k-th."""
    n = len(scores)
    return np.interp(places, np.r_[0.0, scores], np.r_[1.0, (n - np.arange(n)) / (n + 1)])


# -- the model that is served -----------------------------------------------------------------------------------


def features_model(model: keras.Model) -> keras.Model | None:
    """The part of a classifier from images to its pooled features. None for a model without a head from tlkit."""
    if not any(layer.name == FEATURES for layer in model.layers):
        return None
    pooled = model.get_layer(FEATURES).output
    return keras.Model(model.input, keras.layers.Identity(name="features")(pooled), name="features")  # may be cut there


def with_features(model: keras.Model) -> keras.Model:
    """A classifier with two outputs: its pooled features, and its probabilities."""
    return keras.Model(model.input, [model.get_layer(FEATURES).output, model.output], name=model.name)


def p_values_of(known: Known, model: keras.Model, pixels: np.ndarray, batch_size: int = 32) -> np.ndarray:
    """`Known.p_values_nearby` of pixels by Keras' own forward pass: float32, shape (n, 4).

    pixels: uint8 or float32, shape (n, size, size, 3), RGB 0-255.
    """
    both = with_features(model)
    found = [both.predict_on_batch(pixels[at : at + batch_size]) for at in range(0, len(pixels), batch_size)]
    features, probabilities = (np.concatenate(parts) for parts in zip(*found, strict=True))
    return known.p_values_nearby(features, probabilities)


# -- what is said of it -----------------------------------------------------------------------------------------


def check_no_class_is_none(class_names: Sequence[str]) -> None:
    """Raise SpecError if a class is named "none of these", the reserved answer."""
    if NONE_OF_THESE in class_names:
        raise SpecError(
            f"A class is named '{NONE_OF_THESE}', which is reserved for images that show none of the classes. "
            "Rename it."
        )


def refused(p_values: np.ndarray, below: float) -> dict[str, Any]:
    """How many known images were refused: JSON values."""
    count = int((p_values < below).sum())
    return {
        "n": len(p_values),
        "refused": count,
        "share": count / max(len(p_values), 1),
        "share_95": list(wilson_interval(count, len(p_values))),
    }


def pooled_classes(known: Known, class_names: Sequence[str]) -> list[str]:
    """The classes that have no quantiles of their own."""
    return [name for name, row in zip(class_names, known.rows, strict=True) if row == 0]
