"""The nearest neighbours of images in feature space, and the images that are far from all others."""

from __future__ import annotations

import numpy as np
import pandas as pd

USUAL = 6  # up to so many copies of a picture are found, for each is compared with its sixth neighbour
FAR = 3.0  # interquartile ranges above the third quartile (Tukey's outer fence)


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
