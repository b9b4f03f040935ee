"""Is the data the problem? Probable label errors, near duplicates, leakage between parts, outliers and imbalance, from cached features.

Nothing is deleted and nothing is proven: everything found is named with a number, most suspicious first, for a person to look at.
Imports Keras, NumPy, pandas, Pillow and, through `linear`, scikit-learn.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import keras
import numpy as np
import pandas as pd

from tlkit.backbones import Backbone, find_backbone
from tlkit.batches import Examples, RowSource
from tlkit.evaluate import predict_probabilities
from tlkit.features import all_cached, all_rows, extract_features
from tlkit.frozen import inference_batch
from tlkit.images import ImageSet
from tlkit.linear import choose_strength, stratified_folds
from tlkit.model import build_classifier, cut
from tlkit.pixels import Pixels

DIRECTIONS = 256  # principal directions on which labels are judged
STRENGTHS = (1e-4, 1e-3, 1e-2, 1e-1)  # C of the head that judges labels
SURELY = 10  # times as probable as the given label is the one for which it may be mistaken
FEWEST = 5  # images of a class for its labels to be judged out of fold
DUPLICATE = 0.28  # see `near_duplicates`
NEIGHBOURS = (6, 3)  # nearest by thumbnail and by features that are compared in full
USUAL = 6  # up to so many copies of a picture are found, for each is compared with its sixth neighbour
THUMB = 32
LOOKS = 112  # pixels of a side
SMALLEST_PLACE, LARGEST_PLACE = (0.7, -0.3, 0.7, -0.3), (1.43, 0.3, 1.43, 0.3)  # scale and shift, x and y
DETAIL = 2.0  # pixels of a thumbnail: what is smoother counts as no detail
IMBALANCED = 10.0  # times as many images in the largest class as in the smallest
FAR = 3.0  # interquartile ranges above the third quartile (Tukey's outer fence)


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
        """What was found, for a person."""
        probable = self.label_errors[self.label_errors["probable"]]
        leaks = self.duplicates[self.duplicates["leak"]]
        exact = int((self.duplicates["kind"] == "exact").sum())
        largest, smallest = self.classes["images"].max(), self.classes["images"].min()
        lines = [
            f"{len(probable):,} of {self.n:,} labels are probably wrong ({self.judge} calls these pictures something else; out of fold it "
            f"is right on {self.accuracy:.1%})",
            f"{len(self.duplicates):,} pairs of duplicates, {exact:,} of them equal file for file",
            f"{len(leaks):,} pairs lie across the parts, so that a score on the one knows the other from training"
            if len(leaks)
            else "no duplicate lies across the parts",
            f"{len(self.outliers):,} pictures lie far from all others",
        ]
        if not self.several_parts:
            del lines[2]
        if largest > IMBALANCED * smallest:
            lines.append(
                f"imbalance: {largest:,} images of '{self.classes['label'].iloc[0]}', {smallest:,} of "
                f"'{self.classes['label'].iloc[-1]}'"
            )
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
    images: ImageSet,
    pixels: Pixels,
    *,
    backbone: Backbone | str = "nano",
    prefix: keras.Model | None = None,
    compute: bool = True,
    seed: int = 0,
    cache_gb: float | None = None,
    verbose: bool = False,
) -> Checkup:
    """Look for label errors, duplicates, leakage, outliers and imbalance.

    backbone: whose features judge the labels, as pretrained on ImageNet. prefix: such a network, if there is one already (see `tlkit.cut`).
    How like two pictures are is for `nano` in any case, whose features are less blind to small changes than a larger network's.
    compute: if features of the backbone are not all in the cache, compute them; else `nano` judges the labels too.
    """
    started = time.monotonic()
    examples = Examples(pixels.of(images), images.labels(), images.keys(), images.groups())
    chosen = find_backbone(backbone) if isinstance(backbone, str) else backbone
    settings = (pixels.key, cache_gb, verbose)
    looks = _features(_looking(pixels.size), examples, *settings)
    features, judge = looks, "nano"
    if chosen.name != "nano" or prefix is not None:
        prefix = prefix or _network(chosen, pixels.size)
        if compute or all_cached(prefix, examples, pixels.key):
            features, judge = _features(prefix, examples, *settings), chosen.name
    return examine(images, features, looks, examples.pixels, judge, seed, started)


def _features(prefix: keras.Model, examples: Examples, key: str, cache_gb: float | None, verbose: bool) -> np.ndarray:
    batch = inference_batch(32)
    found = extract_features(prefix, examples, pixels_key=key, batch_size=batch, cache_gb=cache_gb, verbose=verbose)
    if found is None:  # the cache has no room
        return predict_probabilities(prefix, examples.pixels, batch_size=batch, verbose=verbose)
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
    prefix = _network(find_backbone("nano"), inner)
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
    judge: str = "nano",
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
        table["part"].nunique() > 1,
        time.monotonic() - started,
    )


def _described(found: pd.DataFrame, table: pd.DataFrame) -> pd.DataFrame:
    """With path, label and part in the place of row numbers."""
    rows = table.iloc[found["row"]][["path", "label", "part"]].reset_index(drop=True)
    return pd.concat([rows, found.drop(columns="row").reset_index(drop=True)], axis=1)


# -- labels -----------------------------------------------------------------------------------------------


def label_errors(
    features: np.ndarray,
    labels: np.ndarray,
    class_names: tuple[str, ...],
    groups: np.ndarray | None = None,
    seed: int = 0,
) -> tuple[pd.DataFrame, float]:
    """Images that a probe which did not see them calls something else, the label's probability beside; and the probe's accuracy.

    features: float32, shape (n, numbers). labels: int, shape (n,). groups: equal ones stay in one fold.
    A logistic head on 256 principal directions, five folds. `probable`: the other class is at least as probable as it is on average where
    it is given (confident learning, Northcutt et al. 2021, arXiv:1911.00068), and ten times as probable as the label: with 5 % of the labels
    flipped, 49 to 100 % of those called so were (three data sets, two backbones). Ranked by the label's probability.
    """
    columns = ["row", "suggested", "probability", "suggested_probability", "probable"]
    counts = np.bincount(labels, minlength=len(class_names))
    judged = np.flatnonzero(counts[labels] >= FEWEST)
    if len(np.unique(labels[judged])) < 2:
        return pd.DataFrame(columns=columns).astype({"probable": bool, "row": int}), float("nan")
    rows, given = _principal(features[judged]), labels[judged]
    folds = stratified_folds(given, None if groups is None else groups[judged], seed=seed)
    found = choose_strength(rows, given, folds, len(class_names), strengths=STRENGTHS, standardise=False)
    probabilities, n = found.probabilities, len(given)
    own = probabilities[np.arange(n), given]
    usual = np.array([own[given == c].mean() if (given == c).any() else 1.0 for c in range(len(class_names))])
    called = probabilities.argmax(1)
    sure = (probabilities >= usual) & (probabilities >= SURELY * own[:, None])
    sure[np.arange(n), given] = False
    wrong = np.flatnonzero(called != given)
    frame = pd.DataFrame(
        {
            "row": judged[wrong],
            "suggested": [class_names[c] for c in called[wrong]],
            "probability": own[wrong].round(5),
            "suggested_probability": probabilities.max(1)[wrong].round(5),
            "probable": sure[wrong, called[wrong]],
        }
    )
    return frame, float((called == given).mean())


def _principal(features: np.ndarray) -> np.ndarray:
    """Standardised features in their principal directions: fewer numbers, and fewer of them noise."""
    rows = (features - features.mean(0)) / np.maximum(features.std(0), 1e-6)
    _, vectors = np.linalg.eigh(rows.T @ rows)
    return (rows @ vectors[:, ::-1][:, :DIRECTIONS]).astype("float32")


# -- duplicates -------------------------------------------------------------------------------------------


def near_duplicates(
    pixels: RowSource, looks: np.ndarray, keys: list[str] | tuple[str, ...]
) -> tuple[np.ndarray, np.ndarray]:
    """Pairs of pictures that are one: equal, or encoded, resized or cropped again: int (pairs, 2) and float distances, 0 = equal.

    pixels: uint8 rows of squares. looks: features, float32, shape (n, numbers). keys: equal ones are equal files.
    Each picture's nearest by thumbnail and by features are laid over it (shift and scale by Gauss-Newton steps, Lucas and Kanade 1981) and
    compared in colour and in fine detail. What is left in colour is divided by what is left for its sixth neighbour, what is left in detail
    by the median over all that were compared, and the distance of features by that of the sixth nearest; a pair's distance is the geometric
    mean of the three, so that "alike" is judged by how alike this set's pictures are anyway. Below DUPLICATE two pictures are called one:
    of 50 copies in each of four data sets (clothes, cats and dogs, X-rays, cells; see benchmarks/faults.py) 50, 50, 50 and 49 lay below it.
    """
    first: dict[str, int] = {}
    equal = [(first[key], i) for i, key in enumerate(keys) if first.setdefault(key, i) != i]
    single = np.array(sorted(first.values()))
    thumbs = _thumbnails(pixels, single)
    found, distances = _alike(thumbs, _standard_directions(looks[single]))
    pairs = [*equal, *(tuple(pair) for pair in single[found].tolist())]
    return np.array(pairs, "int64").reshape(-1, 2), np.concatenate([np.zeros(len(equal)), distances])


def _thumbnails(pixels: RowSource, places: np.ndarray) -> np.ndarray:
    """float32, shape (n, THUMB, THUMB, 3), 0-255."""
    from PIL import Image

    result = np.zeros((len(places), THUMB, THUMB, 3), "float32")

    def shrink(here: slice) -> None:
        for i, picture in enumerate(pixels.gather(places[here]), start=here.start):
            result[i] = np.asarray(Image.fromarray(picture).resize((THUMB, THUMB), Image.Resampling.BOX))

    _in_threads(shrink, len(places), 256)
    return result


def _in_threads(work: Callable[[slice], None], count: int, step: int) -> None:
    """`work` on stretches of so many rows; NumPy and Pillow let threads run beside each other."""
    with ThreadPoolExecutor() as pool:
        list(pool.map(work, (slice(start, start + step) for start in range(0, count, step))))


def _alike(thumbs: np.ndarray, looks: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    n = len(thumbs)
    if n < USUAL + 2:
        return np.zeros((0, 2), "int64"), np.zeros(0)
    grey = thumbs.mean(-1)
    small = grey.reshape(n, THUMB // 2, 2, THUMB // 2, 2).mean((2, 4))
    flat = small.reshape(n, -1)
    by_thumb, _ = _neighbours(_of_length_1(flat - flat.mean(1, keepdims=True)), NEIGHBOURS[0])
    by_look, likeness = _neighbours(looks, USUAL)
    codes = [
        np.minimum(row, others) * n + np.maximum(row, others)
        for row, others in ((np.arange(n)[:, None], by_thumb), (np.arange(n)[:, None], by_look[:, : NEIGHBOURS[1]]))
    ]
    unique = np.unique(np.concatenate([one.ravel() for one in codes]))
    pairs = np.stack([unique // n, unique % n], axis=1)
    place, alike = _lay_over(small, pairs, np.tile(np.array([1, 0, 1, 0], "float32"), (len(pairs), 1)))
    usual = _usual(1 - alike, pairs, n)
    best = np.full(n, -1.0)
    for column in (0, 1):
        np.maximum.at(best, pairs[:, column], alike)
    near = (alike > 0.8) & (alike > best[pairs].min(1) - 0.02)
    pairs, place, alike = pairs[near], place[near], alike[near]
    again = np.flatnonzero(alike < 0.98)
    for scale in (0.92, 1.09):  # a crop's scale may be too far for a start from 1
        start = np.tile(np.array([scale, 0, scale, 0], "float32"), (len(again), 1))
        other, found = _lay_over(small, pairs[again], start)
        better = found > alike[again]
        place[again[better]], alike[again[better]] = other[better], found[better]
    place, _ = _lay_over(grey, pairs, place, steps=6)
    left, detail_left = _left_over(thumbs, pairs, place)
    apart = 1 - np.einsum("ij,ij->i", looks[pairs[:, 0]], looks[pairs[:, 1]])
    shares = (
        left / usual[pairs].min(1),
        detail_left / max(float(np.median(detail_left)), 1e-6),
        apart / np.maximum(1 - likeness[:, -1][pairs].max(1), 1e-6),
    )
    distance = np.cbrt(np.prod([np.maximum(one, 0) for one in shares], axis=0))
    order = np.argsort(distance, kind="stable")
    order = order[distance[order] < DUPLICATE]
    return pairs[order], distance[order].round(4)


def _standard_directions(features: np.ndarray) -> np.ndarray:
    """Standardised features, each picture's of length 1."""
    return _of_length_1((features - features.mean(0)) / np.maximum(features.std(0), 1e-6))


def _of_length_1(rows: np.ndarray) -> np.ndarray:
    return (rows / np.maximum(np.linalg.norm(rows, axis=1, keepdims=True), 1e-6)).astype("float32")


def _neighbours(rows: np.ndarray, count: int) -> tuple[np.ndarray, np.ndarray]:
    """The places of each row's nearest others by cosine, nearest first, and the cosines: (n, count) each."""
    places, cosines = np.zeros((len(rows), count), "int64"), np.zeros((len(rows), count), "float32")
    for start in range(0, len(rows), 1024):
        near = rows[start : start + 1024] @ rows.T
        mine = np.arange(len(near))
        near[mine, mine + start] = -2
        top = np.argpartition(-near, count, axis=1)[:, :count]
        found = np.take_along_axis(near, top, 1)
        order = np.argsort(-found, axis=1, kind="stable")
        places[start : start + 1024] = np.take_along_axis(top, order, 1)
        cosines[start : start + 1024] = np.take_along_axis(found, order, 1)
    return places, cosines


def _usual(left: np.ndarray, pairs: np.ndarray, n: int) -> np.ndarray:
    """What is left when a picture is laid over its sixth best neighbour: (n,)."""
    rows, values = np.concatenate([pairs[:, 0], pairs[:, 1]]), np.concatenate([left, left])
    order = np.lexsort((values, rows))
    rows, values = rows[order], values[order]
    starts, counts = np.searchsorted(rows, np.arange(n)), np.bincount(rows, minlength=n)
    return np.maximum(values[starts + np.minimum(USUAL, counts) - 1], 1e-4)


def _lay_over(grey: np.ndarray, pairs: np.ndarray, place: np.ndarray, steps: int = 4) -> tuple[np.ndarray, np.ndarray]:
    """Fit the first of each pair onto the second: the places (scale x, shift x, scale y, shift y), the picture being from -1 to 1, and
    the correlations there.
    """
    place, alike = place.copy(), np.zeros(len(pairs))
    x = _middles(grey.shape[1])

    def fit(here: slice) -> None:
        moving, fixed = grey[pairs[here, 0]], grey[pairs[here, 1]]
        at = place[here]
        for _ in range(steps):
            moved, inside = _warped(moving, at)
            moved, target = _standardised(moved, inside), _standardised(fixed, inside)
            down, right = np.gradient(moved, 2 / grey.shape[1], axis=(1, 2))
            slopes = np.stack([right * x, right, down * x[:, None], down], 1) * inside[:, None]
            slopes = slopes.reshape(len(moving), 4, -1)
            curvature = slopes @ slopes.transpose(0, 2, 1) + 0.1 * np.eye(4, dtype="float32")
            step = np.linalg.solve(curvature, slopes @ (target - moved).reshape(len(moving), -1, 1))[..., 0]
            at = np.clip(at + np.clip(step, -0.1, 0.1), SMALLEST_PLACE, LARGEST_PLACE).astype("float32")
        moved, inside = _warped(moving, at)
        place[here], alike[here] = at, _correlation(moved, fixed, inside)

    _in_threads(fit, len(pairs), 1000)
    return place, alike


def _left_over(thumbs: np.ndarray, pairs: np.ndarray, place: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """What correlation lacks to 1 in colour, and in fine detail, when the pictures of each pair are laid over each other."""
    from scipy.ndimage import gaussian_filter

    alike, alike_detail = np.zeros(len(pairs)), np.zeros(len(pairs))

    def compare(here: slice) -> None:
        moving, fixed = thumbs[pairs[here, 0]], thumbs[pairs[here, 1]]
        channels = [_warped(moving[..., c], place[here]) for c in range(3)]
        moved = np.concatenate([one for one, _ in channels], 1)
        inside = np.concatenate([one for _, one in channels], 1)
        alike[here] = _correlation(moved, np.concatenate([fixed[..., c] for c in range(3)], 1), inside)
        mask = channels[0][1]
        both = [one * mask for one in (np.mean([one for one, _ in channels], axis=0), fixed.mean(-1))]
        first, second = (one - gaussian_filter(one, (0, DETAIL, DETAIL)) for one in both)
        alike_detail[here] = _correlation(first, second, mask)

    _in_threads(compare, len(pairs), 1000)
    return 1 - alike, 1 - alike_detail


def _middles(side: int) -> np.ndarray:
    return ((np.arange(side) + 0.5) / side * 2 - 1).astype("float32")


def _warped(pictures: np.ndarray, place: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Pictures (n, side, side) sampled at scale * x + shift, bilinearly, and which samples lie inside, as 0 or 1."""
    across, inside_x = _sampling(place[:, 0], place[:, 1], pictures.shape[1])
    down, inside_y = _sampling(place[:, 2], place[:, 3], pictures.shape[1])
    inside = inside_y[:, :, None] & inside_x[:, None, :]
    return down @ pictures @ across.transpose(0, 2, 1), inside.astype("float32")


def _sampling(scale: np.ndarray, shift: np.ndarray, side: int) -> tuple[np.ndarray, np.ndarray]:
    at = ((scale[:, None] * _middles(side) + shift[:, None] + 1) / 2 * side) - 0.5
    inside = (at > -0.5) & (at < side - 0.5)
    weights = np.maximum(0, 1 - np.abs(np.clip(at, 0, side - 1)[:, :, None] - np.arange(side)))
    return weights.astype("float32"), inside


def _standardised(pictures: np.ndarray, inside: np.ndarray) -> np.ndarray:
    count = inside.sum((1, 2), keepdims=True)
    centred = (pictures - (pictures * inside).sum((1, 2), keepdims=True) / count) * inside
    # a picture of one colour stays one: what little it varies is no likeness to anything
    return centred / np.sqrt(np.square(centred).sum((1, 2), keepdims=True) / count + 1.0)


def _correlation(first: np.ndarray, second: np.ndarray, inside: np.ndarray) -> np.ndarray:
    both = _standardised(first, inside) * _standardised(second, inside)
    return both.sum((1, 2)) / inside.sum((1, 2))


def _pair_table(table: pd.DataFrame, pairs: np.ndarray, distances: np.ndarray) -> pd.DataFrame:
    one, other = (table.iloc[pairs[:, column]].reset_index(drop=True) for column in (0, 1))
    keys = one["sha256"] == other["sha256"]
    frame = pd.DataFrame(
        {
            "path": one["path"],
            "other": other["path"],
            "label": one["label"],
            "other_label": other["label"],
            "part": one["part"],
            "other_part": other["part"],
            "kind": np.where(keys, "exact", "near"),
            "distance": distances,
            "leak": one["part"] != other["part"],
        }
    )
    return frame.sort_values(["leak", "distance"], ascending=[False, True], kind="stable").reset_index(drop=True)


# -- outliers ---------------------------------------------------------------------------------------------


def outliers(looks: np.ndarray) -> pd.DataFrame:
    """Pictures whose nearest other lies beyond Tukey's outer fence: row, distance in units of the median."""
    if len(looks) < USUAL + 2:
        return pd.DataFrame({"row": np.zeros(0, int), "distance": np.zeros(0)})
    _, cosines = _neighbours(_standard_directions(looks), USUAL)
    # the third nearest: of an outlier there may be two copies
    apart = 1 - cosines[:, 2]
    low, high = np.quantile(apart, [0.25, 0.75])
    rows = np.flatnonzero(apart > high + FAR * (high - low))
    return pd.DataFrame({"row": rows, "distance": (apart[rows] / max(float(np.median(apart)), 1e-6)).round(3)})
