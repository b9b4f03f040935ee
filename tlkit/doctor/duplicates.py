"""Near duplicates: images with similar features whose pixels match once one is laid over the other."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pandas as pd

from tlkit.data.examples import RowSource
from tlkit.doctor.neighbours import USUAL, _neighbours, _of_length_1, _standard_directions

DUPLICATE = 0.28  # see `near_duplicates`
NEIGHBOURS = (6, 3)  # nearest by thumbnail and by features that are compared in full
THUMB = 32
SMALLEST_PLACE, LARGEST_PLACE = (0.7, -0.3, 0.7, -0.3), (1.43, 0.3, 1.43, 0.3)  # scale and shift, x and y
DETAIL = 2.0  # pixels of a thumbnail: what is smoother counts as no detail


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
    by_look, distances = _neighbours(looks, USUAL)
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
        detail_left / max(float(np.median(detail_left)), 1e-6) if len(detail_left) else detail_left,
        apart / np.maximum(distances[:, -1][pairs].min(1), 1e-6),
    )
    distance = np.cbrt(np.prod([np.maximum(one, 0) for one in shares], axis=0))
    order = np.argsort(distance, kind="stable")
    order = order[distance[order] < DUPLICATE]
    return pairs[order], distance[order].round(4)


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
            "split": one["split"],
            "other_split": other["split"],
            "kind": np.where(keys, "exact", "near"),
            "distance": distances,
            "leak": one["split"] != other["split"],
        }
    )
    return frame.sort_values(["leak", "distance"], ascending=[False, True], kind="stable").reset_index(drop=True)
