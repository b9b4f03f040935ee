"""What a frozen backbone sees in images, as evidence about their classes: a probe, distances, and a map.

Two kinds are kept apart, for each is blind to something. "content" is the last block's pooled features: they tell what
is there and hardly notice a mirror image. "layout" is a grid of averages of three blocks below it: it keeps positions
and knows less of meaning. Everything is judged out of fold, so that classes of a dozen images can be judged at all.
Imports Keras, NumPy and, through `linear`, scikit-learn.
"""

from __future__ import annotations

from collections.abc import Sequence

import keras
import numpy as np

from tlkit.backbones import Backbone
from tlkit.features.linear import UNSCALED, LinearHead, choose_strength, solve
from tlkit.models.blocks import blocks
from tlkit.models.inference import frozen_call, inference_batch
from tlkit.safety.rules import Answers, skill

GRID = 4  # averages along each side
LAYOUT_BLOCKS = 3
DIRECTIONS = 192  # principal directions in which images are compared
USUAL = 0.95  # the share of held-out images whose distances are called usual

Seen = dict[str, np.ndarray]


class Eyes:
    """A frozen backbone as a function from images, uint8 (n, size, size, 3), to what it sees in them: {"layout":
    (n, numbers), "content": (n, numbers)}, float32. weights: what each number counts, so that a block of many channels
    has no more say than one of few.

    model: a classifier of that backbone; its head plays no part.
    """

    def __init__(self, model: keras.Model, backbone: Backbone, batch_size: int = 32) -> None:
        parts = blocks(model, backbone)
        grids = [_grid(block.end[0]) for block in parts[-1 - LAYOUT_BLOCKS : -1] or parts[-1:]]
        content = [keras.ops.mean(tensor, axis=(1, 2)) for tensor in parts[-1].end]
        self.size, self._grids = model.input_shape[1], len(grids)
        self._batch = inference_batch(batch_size)
        self._call = frozen_call(keras.Model(model.input, [*grids, *content]), self._batch)
        of_cell = np.concatenate([np.full(grid.shape[-1], grid.shape[-1] ** -0.5) for grid in grids])
        content_numbers = sum(tensor.shape[-1] for tensor in content)
        of_cell /= np.sqrt(np.square(of_cell).mean())
        self.weights = {"layout": np.tile(of_cell, GRID**2), "content": np.ones(content_numbers)}

    def __call__(self, images: np.ndarray) -> Seen:
        starts = range(0, len(images), self._batch)
        rows = [self._call(images[start : start + self._batch]) for start in starts]
        joined = [np.concatenate(one).astype("float32") for one in zip(*rows, strict=True)]
        cells = np.concatenate(joined[: self._grids], axis=-1)  # (n, GRID, GRID, channels of all blocks)
        return {
            "layout": cells.reshape(len(images), -1),
            "content": np.concatenate(joined[self._grids :], axis=-1),
        }


def _grid(tensor: keras.KerasTensor) -> keras.KerasTensor:
    """Averages over GRID x GRID cells of a feature map of any size: (n, GRID, GRID, channels)."""
    rows = keras.ops.einsum("ih,bhwc->biwc", _cells(tensor.shape[1]), tensor)
    return keras.ops.einsum("jw,biwc->bijc", _cells(tensor.shape[2]), rows)


def _cells(side: int) -> np.ndarray:
    """Row i averages the pixels of cell i, those on a border by their share: float32, shape (GRID, side)."""
    edges = np.linspace(0, side, GRID + 1)
    pixels = np.arange(side)
    overlap = np.minimum(edges[1:, None], pixels + 1) - np.maximum(edges[:-1, None], pixels)
    return (overlap.clip(0) / overlap.clip(0).sum(1, keepdims=True)).astype("float32")


class Evidence:
    """One kind of evidence about reference images, some of which, the judged, are asked about again in other versions.

    features: float32 (n, numbers). weights: what each number counts. labels: int (n,). folds: int (n,), see
    `tlkit.features.folds.stratified_folds`. judged: places of those asked about.

    The usual range of a class comes from its held-out images: their distances to the nearest image of the class in the
    other folds, divided by the class's median; the 95th percentile over all classes together is where unusual begins.
    """

    def __init__(
        self, features: np.ndarray, weights: np.ndarray, labels: np.ndarray, folds: np.ndarray, judged: np.ndarray
    ) -> None:
        self.labels, self.folds, self.judged = labels, folds, judged
        self.classes = int(labels.max()) + 1
        self.truth = labels[judged]
        self._mean, deviation = features.mean(0), features.std(0)
        self._deviation = np.maximum(deviation, 0.1 * np.median(deviation) + 1e-6) / weights
        # PCA agrees to 4e-12 on 800 random rows, but changed the AUCs and effects that were found on 72 and 28 images
        _, _, right = np.linalg.svd((features - self._mean) / self._deviation, full_matrices=False)
        self._basis = right[:DIRECTIONS].T
        self.reference = self.project(features)
        self.strength = choose_strength(self.reference, labels, folds, self.classes, solver=UNSCALED).strength
        self.heads = self._solve(self.reference, labels, folds)
        self._unit = np.ones(self.classes)
        own = self._distances(self.reference[judged])
        true = own[np.arange(len(judged)), self.truth]
        medians = np.array([np.median(true[self.truth == c]) if (self.truth == c).any() else 1 for c in self._each])
        medians = np.maximum(medians, 1e-6)  # images that lie in the data twice
        self._unit = medians * np.quantile(true / medians[self.truth], USUAL)
        self.untouched = self.ask(features[judged])

    @property
    def _each(self) -> range:
        return range(self.classes)

    def project(self, features: np.ndarray) -> np.ndarray:
        return ((features - self._mean) / self._deviation) @ self._basis

    def ask(self, features: np.ndarray) -> Answers:
        """About versions of the judged images, in their order."""
        rows = self.project(features)
        return Answers(self._called(rows, self.heads), self._distances(rows))

    def skill(self, called: np.ndarray) -> float:
        """Mean over classes of the share that is right, from 0 = chance to 1."""
        return skill(called, self.truth, self.classes)

    def learned(self, features: np.ndarray) -> float:
        """The skill of a probe that learns from such versions, out of fold: does what tells classes apart survive in them?"""
        rows, folds = self.project(features), self.folds[self.judged]
        return self.skill(self._called(rows, self._solve(rows, self.truth, folds)))

    def learned_with(self, features: np.ndarray) -> np.ndarray:
        """What a probe calls the untouched judged images if it learns from all and these versions: int (n,)."""
        rows = np.concatenate([self.reference, self.project(features)])
        labels, folds = np.concatenate([self.labels, self.truth]), np.concatenate([self.folds, self.folds[self.judged]])
        return self._called(self.reference[self.judged], self._solve(rows, labels, folds))

    def losses_with(self, versions: Sequence[np.ndarray]) -> np.ndarray:
        """The log loss of each untouched judged image by a probe that learns from all images and versions of them."""
        mine = self.folds[self.judged]
        rows = np.concatenate([self.reference, *map(self.project, versions)])
        labels = np.concatenate([self.labels, np.tile(self.truth, len(versions))])
        heads = self._solve(rows, labels, np.concatenate([self.folds, np.tile(mine, len(versions))]))
        losses = np.zeros(len(self.judged))
        for fold, head in enumerate(heads):
            asked = self.judged[mine == fold]
            right = head.probabilities(self.reference[asked])[np.arange(len(asked)), self.labels[asked]]
            losses[mine == fold] = -np.log(np.maximum(right, 1e-7))
        return losses

    def maps(self) -> np.ndarray:
        """Where the layout's evidence for each judged image's own class lies: float (n, GRID, GRID), 0 or more, sum 1."""
        rows = self._basis @ self.reference[self.judged].T  # standardised features, as far as the directions hold them
        found = np.zeros((len(self.judged), GRID, GRID))
        for fold, head in enumerate(self.heads):
            mine = np.flatnonzero(self.folds[self.judged] == fold)
            kernel = self._basis @ head.kernel
            said = rows[:, mine].T * kernel[:, self.truth[mine]].T
            found[mine] = said.reshape(len(mine), GRID, GRID, -1).sum(-1).clip(0)
        total = found.sum((1, 2), keepdims=True)
        return np.where(total > 0, found / np.where(total > 0, total, 1), 1 / GRID**2)

    def nearest(self, features: np.ndarray, place: int, of_class: int) -> int:
        """The reference image of a class, outside the judged image's fold, that is nearest to a version of it."""
        row = self.project(features)[0]
        there = np.flatnonzero((self.labels == of_class) & (self.folds != self.folds[self.judged[place]]))
        return int(there[np.square(self.reference[there] - row).sum(1).argmin()])

    def _solve(self, rows: np.ndarray, labels: np.ndarray, folds: np.ndarray) -> list[LinearHead]:
        return [
            solve(rows[folds != fold], labels[folds != fold], self.classes, strength=self.strength, solver=UNSCALED)
            for fold in range(int(self.folds.max()) + 1)
        ]

    def _called(self, rows: np.ndarray, heads: Sequence[LinearHead]) -> np.ndarray:
        called = np.zeros(len(rows), "int64")
        for fold, head in enumerate(heads):
            mine = self.folds[self.judged] == fold
            called[mine] = head.probabilities(rows[mine]).argmax(1)
        return called

    def _distances(self, rows: np.ndarray) -> np.ndarray:
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
