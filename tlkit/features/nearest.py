"""The nearest rows of features, by cosine: exact, whatever their number.

Imports scikit-learn; and usearch (the extra `similar`) for more rows than scikit-learn is used for.
"""

from __future__ import annotations

import numpy as np

from tlkit.errors import ExportError

MOST_EXACT = 100_000  # rows that scikit-learn searches
WORKING_MEMORY = 256  # megabytes for one chunk of distances


def nearest_rows(rows: np.ndarray, queries: np.ndarray, count: int) -> tuple[np.ndarray, np.ndarray]:
    """Find the rows that are most like each query.

    Features are first standardised by the mean and the deviation of `rows`: those of networks are 0 or more, so that
    without this all rows are alike, and a few features with large values decide.

    Args:
        rows: float32, shape (n, features), n at least 1.
        queries: float32, shape (m, features).
        count: how many, at most n.

    Returns:
        Their indices, the nearest first, int, shape (m, count), and the cosine of the standardised features: 1 for
        equal ones, about 0 for unrelated ones, float, shape (m, count).

    Raises:
        ExportError: There are more than 100,000 rows, and usearch is not installed.
    """
    mean, deviation = rows.mean(0), np.maximum(rows.std(0), 1e-6)
    rows, queries = (_unit((one - mean) / deviation) for one in (rows, queries))
    count = min(count, len(rows))
    return _by_sklearn(rows, queries, count) if len(rows) <= MOST_EXACT else _by_usearch(rows, queries, count)


def _unit(rows: np.ndarray) -> np.ndarray:
    """Rows scaled to length 1."""
    return (rows / np.maximum(np.linalg.norm(rows, axis=1, keepdims=True), 1e-6)).astype("float32")


def _by_sklearn(rows: np.ndarray, queries: np.ndarray, count: int) -> tuple[np.ndarray, np.ndarray]:
    from sklearn import config_context
    from sklearn.neighbors import NearestNeighbors

    search = NearestNeighbors(n_neighbors=count, metric="cosine", algorithm="brute").fit(rows)
    with config_context(working_memory=WORKING_MEMORY):
        distances, indices = search.kneighbors(queries)
    return indices, 1 - distances


def _by_usearch(rows: np.ndarray, queries: np.ndarray, count: int) -> tuple[np.ndarray, np.ndarray]:
    """Compare all pairs by usearch's own kernels. An index (HNSW) would take longer to build than the search does."""
    try:
        from usearch.index import MetricKind, search
    except ImportError:
        raise ExportError(
            f"{len(rows):,} images are searched by the package usearch. Install it with `pip install tlkit[similar]`."
        ) from None
    found = search(rows, queries, count, MetricKind.Cos, exact=True)
    keys, distances = np.asarray(found.keys).astype("int64"), np.asarray(found.distances)
    return keys.reshape(len(queries), count), 1 - distances.reshape(len(queries), count)
