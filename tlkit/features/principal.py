"""Principal components of features: fewer numbers with less noise, by which images are compared."""

from __future__ import annotations

import numpy as np

from tlkit.devices import one_thread


def principal_components(features: np.ndarray, count: int) -> np.ndarray:
    """Return the first principal components of standardised features: float32, shape (n, count), or fewer if there are.

    scikit-learn's PCA uses an SVD, eleven times as slow for 1,280 features; its covariance_eigh (1.5) agrees only to
    2e-5.
    """
    rows = (features - features.mean(0)) / np.maximum(features.std(0), 1e-6)
    with one_thread():
        _, vectors = np.linalg.eigh(rows.T @ rows)
        return (rows @ vectors[:, ::-1][:, :count]).astype("float32")
