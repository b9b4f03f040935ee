"""Near duplicates: images with similar features whose pixels match once one is aligned with the other."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pandas as pd

from tlkit.data.examples import RowSource
from tlkit.doctor.neighbours import USUAL, _neighbours, _standardised_rows, _unit_length

DUPLICATE = 0.28  # see `near_duplicates`
NEIGHBOURS = (6, 3)  # how many nearest neighbours, by thumbnail and by features, are compared in full
THUMB = 32  # pixels per side of a thumbnail
LOWER, UPPER = (0.7, -0.3, 0.7, -0.3), (1.43, 0.3, 1.43, 0.3)  # bounds of scale x, shift x, scale y, shift y
DETAIL = 2.0  # thumbnail pixels: sigma of the Gaussian that is subtracted to leave fine detail


def near_duplicates(
    pixels: RowSource, features: np.ndarray, keys: list[str] | tuple[str, ...]
) -> tuple[np.ndarray, np.ndarray]:
    """Find pairs of images that are equal, or re-encoded, resized or cropped copies of each other.

    Each image is compared with its nearest neighbours by thumbnail and by features. One image of a pair is aligned with
    the other by shift and scale (Gauss-Newton steps, Lucas and Kanade 1981). The distance of a pair is the geometric
    mean of three ratios, so that it is relative to how similar the images of this set are anyway:

    - the residual (1 - correlation) in colour, divided by that of the image's sixth neighbour;
    - the residual in fine detail, divided by the median over all compared pairs;
    - the distance of features, divided by that of the sixth nearest neighbour.

    Pairs below DUPLICATE are duplicates. Of 50 copies in each of four data sets (clothes, cats and dogs, X-rays, cells;
    see benchmarks/faults.py), 50, 50, 50 and 49 were below it.

    Args:
        pixels: uint8 rows, shape (n, size, size, 3).
        features: float32, shape (n, features).
        keys: content hashes; images with equal keys are equal files.

    Returns: pairs of indices, int, shape (pairs, 2), and their distances, float, shape (pairs,), 0 = equal.
    """
    equal = equal_files(keys)
    copies = {copy for _, copy in equal}
    single = np.array([i for i in range(len(keys)) if i not in copies])
    thumbs = _thumbnails(pixels, single)
    found, distances = _similar(thumbs, _standardised_rows(features[single]))
    pairs = [*equal, *(tuple(pair) for pair in single[found].tolist())]
    return np.array(pairs, "int64").reshape(-1, 2), np.concatenate([np.zeros(len(equal)), distances])


def equal_files(keys: list[str] | tuple[str, ...]) -> list[tuple[int, int]]:
    """The first image of each content hash with each later one of the same: pairs of indices."""
    first: dict[str, int] = {}
    return [(first[key], i) for i, key in enumerate(keys) if first.setdefault(key, i) != i]


def _thumbnails(pixels: RowSource, indices: np.ndarray) -> np.ndarray:
    """Thumbnails of images: float32, shape (n, THUMB, THUMB, 3), 0-255."""
    from PIL import Image

    result = np.zeros((len(indices), THUMB, THUMB, 3), "float32")

    def shrink(here: slice) -> None:
        for i, image in enumerate(pixels.gather(indices[here]), start=here.start):
            result[i] = np.asarray(Image.fromarray(image).resize((THUMB, THUMB), Image.Resampling.BOX))

    _in_threads(shrink, len(indices), 256)
    return result


def _in_threads(work: Callable[[slice], None], count: int, step: int) -> None:
    """Run `work` in threads on slices of `step` rows. NumPy and Pillow release the GIL."""
    with ThreadPoolExecutor() as pool:
        list(pool.map(work, (slice(start, start + step) for start in range(0, count, step))))


def _similar(thumbs: np.ndarray, features: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Pairs of images below DUPLICATE and their distances, nearest first. features: rows of length 1."""
    n = len(thumbs)
    if n < USUAL + 2:
        return np.zeros((0, 2), "int64"), np.zeros(0)
    grey = thumbs.mean(-1)
    small = grey.reshape(n, THUMB // 2, 2, THUMB // 2, 2).mean((2, 4))
    flat = small.reshape(n, -1)
    by_thumb, _ = _neighbours(_unit_length(flat - flat.mean(1, keepdims=True)), NEIGHBOURS[0])
    by_features, distances = _neighbours(features, USUAL)
    codes = [
        np.minimum(row, others) * n + np.maximum(row, others)
        for row, others in ((np.arange(n)[:, None], by_thumb), (np.arange(n)[:, None], by_features[:, : NEIGHBOURS[1]]))
    ]
    unique = np.unique(np.concatenate([one.ravel() for one in codes]))
    pairs = np.stack([unique // n, unique % n], axis=1)
    transform, correlation = _align(small, pairs, np.tile(np.array([1, 0, 1, 0], "float32"), (len(pairs), 1)))
    usual = _usual_residuals(1 - correlation, pairs, n)
    best = np.full(n, -1.0)
    for column in (0, 1):
        np.maximum.at(best, pairs[:, column], correlation)
    near = (correlation > 0.8) & (correlation > best[pairs].min(1) - 0.02)
    pairs, transform, correlation = pairs[near], transform[near], correlation[near]
    again = np.flatnonzero(correlation < 0.98)
    for scale in (0.92, 1.09):  # a crop's scale may be too far from 1 to be found from there
        start = np.tile(np.array([scale, 0, scale, 0], "float32"), (len(again), 1))
        other, found = _align(small, pairs[again], start)
        better = found > correlation[again]
        transform[again[better]], correlation[again[better]] = other[better], found[better]
    transform, _ = _align(grey, pairs, transform, steps=6)
    residual, detail_residual = _residuals(thumbs, pairs, transform)
    feature_distance = 1 - np.einsum("ij,ij->i", features[pairs[:, 0]], features[pairs[:, 1]])
    ratios = (
        residual / usual[pairs].min(1),
        detail_residual / max(float(np.median(detail_residual)), 1e-6) if len(detail_residual) else detail_residual,
        feature_distance / np.maximum(distances[:, -1][pairs].min(1), 1e-6),
    )
    distance = np.cbrt(np.prod([np.maximum(one, 0) for one in ratios], axis=0))
    order = np.argsort(distance, kind="stable")
    order = order[distance[order] < DUPLICATE]
    return pairs[order], distance[order].round(4)


def _usual_residuals(residuals: np.ndarray, pairs: np.ndarray, n: int) -> np.ndarray:
    """The residual of each image after alignment with its sixth best neighbour: float, shape (n,)."""
    rows, values = np.concatenate([pairs[:, 0], pairs[:, 1]]), np.concatenate([residuals, residuals])
    order = np.lexsort((values, rows))
    rows, values = rows[order], values[order]
    starts, counts = np.searchsorted(rows, np.arange(n)), np.bincount(rows, minlength=n)
    return np.maximum(values[starts + np.minimum(USUAL, counts) - 1], 1e-4)


def _align(grey: np.ndarray, pairs: np.ndarray, transform: np.ndarray, steps: int = 4) -> tuple[np.ndarray, np.ndarray]:
    """Align the first image of each pair with the second by Gauss-Newton steps from the given transforms.

    Returns: the transforms (scale x, shift x, scale y, shift y, in coordinates from -1 to 1), float32, shape (pairs,
        4), and the correlations after alignment, shape (pairs,).
    """
    transform, correlation = transform.copy(), np.zeros(len(pairs))
    x = _pixel_centres(grey.shape[1])

    def fit(here: slice) -> None:
        moving, fixed = grey[pairs[here, 0]], grey[pairs[here, 1]]
        current = transform[here]
        for _ in range(steps):
            moved, inside = _warped(moving, current)
            moved, target = _standardised(moved, inside), _standardised(fixed, inside)
            down, right = np.gradient(moved, 2 / grey.shape[1], axis=(1, 2))
            slopes = np.stack([right * x, right, down * x[:, None], down], 1) * inside[:, None]
            slopes = slopes.reshape(len(moving), 4, -1)
            curvature = slopes @ slopes.transpose(0, 2, 1) + 0.1 * np.eye(4, dtype="float32")
            step = np.linalg.solve(curvature, slopes @ (target - moved).reshape(len(moving), -1, 1))[..., 0]
            current = np.clip(current + np.clip(step, -0.1, 0.1), LOWER, UPPER).astype("float32")
        moved, inside = _warped(moving, current)
        transform[here], correlation[here] = current, _correlation(moved, fixed, inside)

    _in_threads(fit, len(pairs), 1000)
    return transform, correlation


def _residuals(thumbs: np.ndarray, pairs: np.ndarray, transform: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """1 - correlation of each aligned pair, in colour and in fine detail: shape (pairs,) each."""
    from scipy.ndimage import gaussian_filter

    colour, detail = np.zeros(len(pairs)), np.zeros(len(pairs))

    def compare(here: slice) -> None:
        moving, fixed = thumbs[pairs[here, 0]], thumbs[pairs[here, 1]]
        channels = [_warped(moving[..., c], transform[here]) for c in range(3)]
        moved = np.concatenate([one for one, _ in channels], 1)
        inside = np.concatenate([one for _, one in channels], 1)
        colour[here] = _correlation(moved, np.concatenate([fixed[..., c] for c in range(3)], 1), inside)
        mask = channels[0][1]
        both = [one * mask for one in (np.mean([one for one, _ in channels], axis=0), fixed.mean(-1))]
        first, second = (one - gaussian_filter(one, (0, DETAIL, DETAIL)) for one in both)
        detail[here] = _correlation(first, second, mask)

    _in_threads(compare, len(pairs), 1000)
    return 1 - colour, 1 - detail


def _pixel_centres(side: int) -> np.ndarray:
    """The pixel centres of a side whose edges are -1 and 1: float32, shape (side,)."""
    return ((np.arange(side) + 0.5) / side * 2 - 1).astype("float32")


def _warped(images: np.ndarray, transform: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Images (n, side, side) sampled bilinearly at scale * x + shift, and a mask: 1 for samples inside, else 0."""
    across, inside_x = _sampling(transform[:, 0], transform[:, 1], images.shape[1])
    down, inside_y = _sampling(transform[:, 2], transform[:, 3], images.shape[1])
    inside = inside_y[:, :, None] & inside_x[:, None, :]
    return down @ images @ across.transpose(0, 2, 1), inside.astype("float32")


def _sampling(scale: np.ndarray, shift: np.ndarray, side: int) -> tuple[np.ndarray, np.ndarray]:
    """Bilinear weights of one axis, float32 (n, side, side), and which samples are inside, bool (n, side)."""
    at = ((scale[:, None] * _pixel_centres(side) + shift[:, None] + 1) / 2 * side) - 0.5
    inside = (at > -0.5) & (at < side - 0.5)
    weights = np.maximum(0, 1 - np.abs(np.clip(at, 0, side - 1)[:, :, None] - np.arange(side)))
    return weights.astype("float32"), inside


def _standardised(images: np.ndarray, inside: np.ndarray) -> np.ndarray:
    """Images with mean 0 and standard deviation 1 over the pixels inside."""
    count = inside.sum((1, 2), keepdims=True)
    centred = (images - (images * inside).sum((1, 2), keepdims=True) / count) * inside
    # adding 1 keeps the noise of an image of nearly one colour small, so that it is not similar to anything
    return centred / np.sqrt(np.square(centred).sum((1, 2), keepdims=True) / count + 1.0)


def _correlation(first: np.ndarray, second: np.ndarray, inside: np.ndarray) -> np.ndarray:
    """The correlation of each two images over the pixels inside: shape (n,)."""
    both = _standardised(first, inside) * _standardised(second, inside)
    return both.sum((1, 2)) / inside.sum((1, 2))


def _pair_table(table: pd.DataFrame, pairs: np.ndarray, distances: np.ndarray) -> pd.DataFrame:
    """The table `Checkup.duplicates`: leaks first, then by distance."""
    one, other = (table.iloc[pairs[:, column]].reset_index(drop=True) for column in (0, 1))
    keys = one["sha256"] == other["sha256"]
    frame = pd.DataFrame(
        {
            "path": one["path"],
            "other": other["path"],
            "label": one["label"],
            "other_label": other["label"],
            "split": one["split"],
            "other_split": other["split"],
            "kind": np.where(keys, "exact", "near"),
            "distance": distances,
            "leak": one["split"] != other["split"],
        }
    )
    return _leaks_first(frame)


def _leaks_first(frame: pd.DataFrame) -> pd.DataFrame:
    return frame.sort_values(["leak", "distance"], ascending=[False, True], kind="stable").reset_index(drop=True)
