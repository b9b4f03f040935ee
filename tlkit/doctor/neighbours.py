"""The nearest neighbours of images in feature space, and outliers: images that are far from all others.

Imports scikit-learn.
"""

from __future__ import annotations

import numpy as np
import pandas as pd

USUAL = 6  # each image is compared with its sixth neighbour, so up to six copies of one image are found
WORKING_MEMORY = 256  # megabytes for one chunk of distances: 64 takes half as long again, 1,024 gains a tenth
FAR = 3.0  # interquartile ranges above the third quartile (Tukey's outer fence)


def _standardised_rows(features: np.ndarray) -> np.ndarray:
    """Standardised features, each row scaled to length 1."""
    return _unit_length((features - features.mean(0)) / np.maximum(features.std(0), 1e-6))


def _unit_length(rows: np.ndarray) -> np.ndarray:
    return (rows / np.maximum(np.linalg.norm(rows, axis=1, keepdims=True), 1e-6)).astype("float32")


def _neighbours(rows: np.ndarray, count: int) -> tuple[np.ndarray, np.ndarray]:
    """The indices of each row's nearest other rows by cosine distance, and the distances: shape (n, count) each."""
    from sklearn import config_context
    from sklearn.neighbors import NearestNeighbors

    search = NearestNeighbors(n_neighbors=count, metric="cosine", algorithm="brute").fit(rows)
    with config_context(working_memory=WORKING_MEMORY):
        distances, indices = search.kneighbors()
    return indices, distances


def outliers(features: np.ndarray) -> pd.DataFrame:
    """Find images whose distance to their third nearest neighbour is beyond Tukey's outer fence.

    Returns: a table with the columns row and distance (1 = the median over all images).
    """
    if len(features) < USUAL + 2:
        return pd.DataFrame({"row": np.zeros(0, int), "distance": np.zeros(0)})
    _, distances = _neighbours(_standardised_rows(features), USUAL)
    third = distances[:, 2]  # of the third nearest: an outlier may have two copies
    low, high = np.quantile(third, [0.25, 0.75])
    rows = np.flatnonzero(third > high + FAR * (high - low))
    return pd.DataFrame({"row": rows, "distance": (third[rows] / max(float(np.median(third)), 1e-6)).round(3)})
