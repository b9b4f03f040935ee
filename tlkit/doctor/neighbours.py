"""The nearest neighbours of images in feature space, and the images that are far from all others.

Imports scikit-learn.
"""

from __future__ import annotations

import numpy as np
import pandas as pd

USUAL = 6  # up to so many copies of a picture are found, for each is compared with its sixth neighbour
WORKING_MEMORY = 256  # megabytes for the distances of a stretch of rows: 64 take half as long again, 1,024 gain a tenth
FAR = 3.0  # interquartile ranges above the third quartile (Tukey's outer fence)


def _standard_directions(features: np.ndarray) -> np.ndarray:
    """Standardised features, each picture's of length 1."""
    return _of_length_1((features - features.mean(0)) / np.maximum(features.std(0), 1e-6))


def _of_length_1(rows: np.ndarray) -> np.ndarray:
    return (rows / np.maximum(np.linalg.norm(rows, axis=1, keepdims=True), 1e-6)).astype("float32")


def _neighbours(rows: np.ndarray, count: int) -> tuple[np.ndarray, np.ndarray]:
    """The places of each row's nearest others by cosine distance, nearest first, and the distances: (n, count) each."""
    from sklearn import config_context
    from sklearn.neighbors import NearestNeighbors

    search = NearestNeighbors(n_neighbors=count, metric="cosine", algorithm="brute").fit(rows)
    with config_context(working_memory=WORKING_MEMORY):
        distances, places = search.kneighbors()
    return places, distances


def outliers(looks: np.ndarray) -> pd.DataFrame:
    """Pictures whose nearest other lies beyond Tukey's outer fence: row, distance in units of the median."""
    if len(looks) < USUAL + 2:
        return pd.DataFrame({"row": np.zeros(0, int), "distance": np.zeros(0)})
    _, distances = _neighbours(_standard_directions(looks), USUAL)
    apart = distances[:, 2]  # of the third nearest: of an outlier there may be two copies
    low, high = np.quantile(apart, [0.25, 0.75])
    rows = np.flatnonzero(apart > high + FAR * (high - low))
    return pd.DataFrame({"row": rows, "distance": (apart[rows] / max(float(np.median(apart)), 1e-6)).round(3)})
