"""Features of a frozen backbone, and the probes, distances and saliency maps computed from them.

There are two kinds of features, because each is blind to something. "content" is the pooled features of the last block:
they encode what is in the image and change little when it is mirrored. "layout" is a grid of averages over the three
blocks before it: it keeps positions but encodes less of the class. All results are out of fold, so that classes with
only a dozen images can be used. Imports Keras, NumPy and, through `linear`, scikit-learn.
"""

from __future__ import annotations

from collections.abc import Sequence

import keras
import numpy as np

from tlkit.backbones import Backbone
from tlkit.devices import one_thread
from tlkit.features.linear import UNSCALED, LinearHead, choose_strength, solve
from tlkit.models.blocks import blocks
from tlkit.models.inference import frozen_call, inference_batch
from tlkit.safety.rules import Predictions, skill

GRID = 4  # cells per side
LAYOUT_BLOCKS = 3
COMPONENTS = 192  # principal components in which images are compared
USUAL = 0.95  # the share of held-out images whose distances count as usual

Features = dict[str, np.ndarray]  # kind -> float32, shape (n, features)


class FeatureExtractor:
    """A frozen backbone as a function from images to features.

    It maps uint8, shape (n, size, size, 3), to {"layout": (n, features), "content": (n, features)}, float32.

    weights: kind -> scale per feature, so that blocks with many channels do not dominate distances.

    Args:
        model: a classifier with that backbone; its head is not used.
        backbone: the backbone.
        batch_size: images per batch.
    """

    def __init__(self, model: keras.Model, backbone: Backbone, batch_size: int = 32) -> None:
        stack = blocks(model, backbone)
        grids = [_grid(block.end[0]) for block in stack[-1 - LAYOUT_BLOCKS : -1] or stack[-1:]]
        content = [keras.ops.mean(tensor, axis=(1, 2)) for tensor in stack[-1].end]
        self.size, self._grids = model.input_shape[1], len(grids)
        self._batch = inference_batch(batch_size)
        self._call = frozen_call(keras.Model(model.input, [*grids, *content]), self._batch)
        cell_weights = np.concatenate([np.full(grid.shape[-1], grid.shape[-1] ** -0.5) for grid in grids])
        content_size = sum(tensor.shape[-1] for tensor in content)
        cell_weights /= np.sqrt(np.square(cell_weights).mean())
        self.weights = {"layout": np.tile(cell_weights, GRID**2), "content": np.ones(content_size)}

    def __call__(self, images: np.ndarray) -> Features:
        starts = range(0, len(images), self._batch)
        rows = [self._call(images[start : start + self._batch]) for start in starts]
        joined = [np.concatenate(one).astype("float32") for one in zip(*rows, strict=True)]
        cells = np.concatenate(joined[: self._grids], axis=-1)  # (n, GRID, GRID, channels of all blocks)
        return {
            "layout": cells.reshape(len(images), -1),
            "content": np.concatenate(joined[self._grids :], axis=-1),
        }


def _grid(tensor: keras.KerasTensor) -> keras.KerasTensor:
    """Average a feature map of any size over GRID x GRID cells: shape (n, GRID, GRID, channels)."""
    rows = keras.ops.einsum("ih,bhwc->biwc", _cells(tensor.shape[1]), tensor)
    return keras.ops.einsum("jw,biwc->bijc", _cells(tensor.shape[2]), rows)


def _cells(side: int) -> np.ndarray:
    """Weights that average the pixels of cell i in row i, by their overlap with it: float32, shape (GRID, side)."""
    edges = np.linspace(0, side, GRID + 1)
    pixels = np.arange(side)
    overlap = np.minimum(edges[1:, None], pixels + 1) - np.maximum(edges[:-1, None], pixels)
    return (overlap.clip(0) / overlap.clip(0).sum(1, keepdims=True)).astype("float32")


class ProbeSet:
    """Cross-validated linear probes on one kind of features, one probe per fold, and distances to each class.

    They are fitted on the reference images. Some of these, the judged images, are later classified again in transformed
    versions.

    The usual distance of a class comes from its held-out images: their distances to the nearest image of the class in
    the other folds, divided by the class's median. The usual distance ends at the 95th percentile over all classes.

    Args:
        features: of the reference images, float32, shape (n, features).
        weights: scale per feature, shape (features,).
        labels: int, shape (n,).
        folds: int, shape (n,), see `tlkit.features.folds.stratified_folds`.
        judged: indices of the judged images among the reference.
    """

    def __init__(
        self, features: np.ndarray, weights: np.ndarray, labels: np.ndarray, folds: np.ndarray, judged: np.ndarray
    ) -> None:
        self.labels, self.folds, self.judged = labels, folds, judged
        self.classes = int(labels.max()) + 1
        self.truth = labels[judged]
        self._mean, deviation = features.mean(0), features.std(0)
        self._deviation = np.maximum(deviation, 0.1 * np.median(deviation) + 1e-6) / weights
        # scikit-learn's PCA agrees to 4e-12 on 800 random rows, but changed AUCs and effects on 72 and 28 images
        with one_thread():
            _, _, right = np.linalg.svd((features - self._mean) / self._deviation, full_matrices=False)
        self._basis = right[:COMPONENTS].T
        self.reference = self.project(features)
        self.strength = choose_strength(self.reference, labels, folds, self.classes, solver=UNSCALED).strength
        self.heads = self._solve(self.reference, labels, folds)
        self._unit = np.ones(self.classes)
        own = self._distances(self.reference[judged])
        true = own[np.arange(len(judged)), self.truth]
        medians = np.array([np.median(true[self.truth == c]) if (self.truth == c).any() else 1 for c in self._each])
        medians = np.maximum(medians, 1e-6)  # images that are in the data twice
        self._unit = medians * np.quantile(true / medians[self.truth], USUAL)
        self.untouched = self.predict(features[judged])

    @property
    def _each(self) -> range:
        return range(self.classes)

    def project(self, features: np.ndarray) -> np.ndarray:
        """Standardised and weighted features in their principal components: shape (n, components)."""
        return ((features - self._mean) / self._deviation) @ self._basis

    def predict(self, features: np.ndarray) -> Predictions:
        """Out-of-fold predictions and distances for versions of the judged images, in their order."""
        rows = self.project(features)
        return Predictions(self._predicted(rows, self.heads), self._distances(rows))

    def skill(self, predicted: np.ndarray) -> float:
        """Balanced accuracy, adjusted for chance: 0 is chance, 1 is perfect."""
        return skill(predicted, self.truth, self.classes)

    def learned(self, features: np.ndarray) -> float:
        """The out-of-fold skill of a probe that is trained on transformed images: are the classes still separable?"""
        rows, folds = self.project(features), self.folds[self.judged]
        return self.skill(self._predicted(rows, self._solve(rows, self.truth, folds)))

    def learned_with(self, features: np.ndarray) -> np.ndarray:
        """The predictions for untouched judged images of a probe trained on all images and these versions: int (n,)."""
        rows = np.concatenate([self.reference, self.project(features)])
        labels, folds = np.concatenate([self.labels, self.truth]), np.concatenate([self.folds, self.folds[self.judged]])
        return self._predicted(self.reference[self.judged], self._solve(rows, labels, folds))

    def losses_with(self, versions: Sequence[np.ndarray]) -> np.ndarray:
        """The log loss on each untouched judged image of a probe trained on all images and these versions."""
        mine = self.folds[self.judged]
        rows = np.concatenate([self.reference, *map(self.project, versions)])
        labels = np.concatenate([self.labels, np.tile(self.truth, len(versions))])
        heads = self._solve(rows, labels, np.concatenate([self.folds, np.tile(mine, len(versions))]))
        losses = np.zeros(len(self.judged))
        for fold, head in enumerate(heads):
            held_out = self.judged[mine == fold]
            of_label = head.probabilities(self.reference[held_out])[np.arange(len(held_out)), self.labels[held_out]]
            losses[mine == fold] = -np.log(np.maximum(of_label, 1e-7))
        return losses

    def maps(self) -> np.ndarray:
        """Saliency maps of the judged images for their own class, from layout features.

        Returns: float, shape (n, GRID, GRID), 0 or more, each with sum 1.
        """
        rows = self._basis @ self.reference[self.judged].T  # standardised features, reconstructed from the components
        found = np.zeros((len(self.judged), GRID, GRID))
        for fold, head in enumerate(self.heads):
            mine = np.flatnonzero(self.folds[self.judged] == fold)
            kernel = self._basis @ head.kernel
            contributions = rows[:, mine].T * kernel[:, self.truth[mine]].T
            found[mine] = contributions.reshape(len(mine), GRID, GRID, -1).sum(-1).clip(0)
        total = found.sum((1, 2), keepdims=True)
        return np.where(total > 0, found / np.where(total > 0, total, 1), 1 / GRID**2)

    def nearest(self, features: np.ndarray, index: int, of_class: int) -> int:
        """The index of the nearest reference image of a class to a version of judged image `index`, in other folds.

        features: of that version, shape (1, features).
        """
        row = self.project(features)[0]
        candidates = np.flatnonzero((self.labels == of_class) & (self.folds != self.folds[self.judged[index]]))
        return int(candidates[np.square(self.reference[candidates] - row).sum(1).argmin()])

    def _solve(self, rows: np.ndarray, labels: np.ndarray, folds: np.ndarray) -> list[LinearHead]:
        """Fit one probe per fold, on the rows of all other folds."""
        return [
            solve(rows[folds != fold], labels[folds != fold], self.classes, strength=self.strength, solver=UNSCALED)
            for fold in range(int(self.folds.max()) + 1)
        ]

    def _predicted(self, rows: np.ndarray, heads: Sequence[LinearHead]) -> np.ndarray:
        """Out-of-fold predictions for rows of the judged images: int, shape (n,)."""
        predicted = np.zeros(len(rows), "int64")
        for fold, head in enumerate(heads):
            mine = self.folds[self.judged] == fold
            predicted[mine] = head.probabilities(rows[mine]).argmax(1)
        return predicted

    def _distances(self, rows: np.ndarray) -> np.ndarray:
        """Distances to the nearest image of each class in other folds. Up to 1 is usual. Float, shape (n, classes)."""
        found = np.full((len(rows), self.classes), np.inf)
        for fold in range(int(self.folds.max()) + 1):
            mine, others = self.folds[self.judged] == fold, self.folds != fold
            if not mine.any():
                continue
            squares = (
                np.square(rows[mine]).sum(1)[:, None]
                + np.square(self.reference[others]).sum(1)
                - 2 * rows[mine] @ self.reference[others].T
            )
            for c in self._each:
                of_class = self.labels[others] == c
                if of_class.any():
                    found[mine, c] = np.sqrt(squares[:, of_class].min(1).clip(0))
        return found / self._unit
