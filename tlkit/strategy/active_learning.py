"""Chooses which images to label next, from the features and the probabilities of a classifier.

Each strategy gets the same `Pool` and returns the images in the order in which to label them. Which of them is better
than a random choice depends on the data, so `tlkit.strategy.simulation` measures that on labels that are there.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType

import numpy as np

from tlkit.devices import one_thread
from tlkit.features.principal import principal_components

CANDIDATES = 10  # times as many uncertain images as are wanted, among which different ones are chosen
NEIGHBOURS = 20  # of which the mean distance says how typical an image is (Hacohen et al. 2022)
MOST_CLUSTERS = 500  # of TypiClust (Hacohen et al. 2022)


@dataclass(frozen=True)
class Pool:
    """Labelled and unlabelled images, as a strategy sees them.

    labelled: features of the labelled images, float32, shape (m, features). unlabelled: of the others, shape (n,
    features). Both are scaled by `scaled`. probabilities: of the unlabelled images, float, shape (n, classes).
    """

    labelled: np.ndarray
    unlabelled: np.ndarray
    probabilities: np.ndarray

    @property
    def margins(self) -> np.ndarray:
        """The difference of the two highest probabilities of each unlabelled image: small if it is uncertain."""
        highest = np.sort(self.probabilities, axis=1)[:, -2:]
        return highest[:, -1] - highest[:, 0] if self.probabilities.shape[1] > 1 else highest[:, -1]


Strategy = Callable[[Pool, int, np.random.Generator], np.ndarray]


def scaled(features: np.ndarray, components: int = 64) -> np.ndarray:
    """Return the principal components of standardised features, each row of length 1: float32, shape (n, components).

    Distances between such rows are those by which images are compared here.
    """
    rows = principal_components(features, components)
    return (rows / np.maximum(np.linalg.norm(rows, axis=1, keepdims=True), 1e-6)).astype("float32")


def choose(strategy: str, pool: Pool, count: int, *, seed: int = 0) -> np.ndarray:
    """Choose images to label.

    Args:
        strategy: One of STRATEGIES.
        pool: The images.
        count: How many to choose; all, if there are fewer.
        seed: Of what is drawn at random.

    Returns:
        Row numbers of unlabelled images, each once, the first to label first: int64, shape (count,).
    """
    count = min(count, len(pool.unlabelled))
    if count == 0:
        return np.zeros(0, "int64")
    return STRATEGIES[strategy](pool, count, np.random.default_rng(seed))


def _random(pool: Pool, count: int, random: np.random.Generator) -> np.ndarray:
    return random.permutation(len(pool.unlabelled))[:count]


def _margin(pool: Pool, count: int, random: np.random.Generator) -> np.ndarray:
    """The smallest margins (Scheffer et al. 2001)."""
    return np.argsort(pool.margins, kind="stable")[:count]


def _entropy(pool: Pool, count: int, random: np.random.Generator) -> np.ndarray:
    """The highest entropies (Shannon 1948; Settles 2009)."""
    chances = np.maximum(pool.probabilities, 1e-12)
    return np.argsort((chances * np.log(chances)).sum(1), kind="stable")[:count]


def _core_set(pool: Pool, count: int, random: np.random.Generator) -> np.ndarray:
    """One after another the image farthest from all that are labelled or chosen (Sener and Savarese 2018)."""
    rows, nearest = pool.unlabelled, np.full(len(pool.unlabelled), np.inf)
    for start in range(0, len(pool.labelled), 256):
        nearest = np.minimum(nearest, _squared(rows, pool.labelled[start : start + 256]).min(1))
    chosen: list[int] = []
    for _ in range(count):
        far = int(nearest.argmax()) if np.isfinite(nearest).all() else int(random.integers(len(rows)))
        chosen.append(far)
        nearest = np.minimum(nearest, _squared(rows, rows[far : far + 1])[:, 0])
        nearest[far] = -1.0
    return np.array(chosen)


def _badge(pool: Pool, count: int, random: np.random.Generator) -> np.ndarray:
    """k-means++ on the gradients of the last layer, as if each predicted class were right (Ash et al. 2020, BADGE).

    A gradient is the outer product of (probabilities - predicted class) and the features, so a dot product of two
    gradients is the product of two dot products, and no gradient is ever held.
    """
    errors = pool.probabilities.astype("float64").copy()
    errors[np.arange(len(errors)), errors.argmax(1)] -= 1
    rows = pool.unlabelled.astype("float64")
    norms = (errors**2).sum(1) * (rows**2).sum(1)
    chosen = [int(norms.argmax())]
    nearest = np.full(len(rows), np.inf)
    while True:
        last = chosen[-1]
        distance = norms + norms[last] - 2 * (errors @ errors[last]) * (rows @ rows[last])
        nearest = np.minimum(nearest, np.maximum(distance, 0))
        nearest[chosen] = 0.0
        if len(chosen) == count:
            return np.array(chosen)
        total = nearest.sum()
        if total > 0:
            chosen.append(int(random.choice(len(rows), p=nearest / total)))
        else:
            chosen.append(int(np.setdiff1d(np.arange(len(rows)), chosen)[0]))


def _typiclust(pool: Pool, count: int, random: np.random.Generator) -> np.ndarray:
    """The most typical image of each of the largest clusters without labels (Hacohen et al. 2022, arXiv:2202.02794)."""
    rows = np.concatenate([pool.labelled, pool.unlabelled])
    clusters = min(len(pool.labelled) + count, MOST_CLUSTERS, len(rows))
    found = _k_means(rows, clusters, random)
    labelled = np.bincount(found[: len(pool.labelled)], minlength=clusters)
    mine = found[len(pool.labelled) :]
    left = np.bincount(mine, minlength=clusters)
    chosen: list[int] = []
    free = np.ones(len(mine), bool)
    while len(chosen) < count:
        open_ones = np.flatnonzero(left > 0)
        fewest = labelled[open_ones].min()
        best = open_ones[labelled[open_ones] == fewest]
        cluster = int(best[left[best].argmax()])
        members = np.flatnonzero((mine == cluster) & free)
        one = int(members[_typicality(pool.unlabelled, members).argmax()])
        chosen.append(one)
        free[one], left[cluster], labelled[cluster] = False, left[cluster] - 1, labelled[cluster] + 1
    return np.array(chosen)


def _typicality(rows: np.ndarray, members: np.ndarray) -> np.ndarray:
    """One divided by the mean distance to the nearest others of the same cluster."""
    if len(members) < 2:
        return np.ones(len(members))
    members = members[:2000]
    distances = np.sqrt(np.maximum(_squared(rows[members], rows[members]), 0))
    count = min(NEIGHBOURS, len(members) - 1)
    nearest = np.sort(distances, axis=1)[:, 1 : count + 1]
    return 1 / np.maximum(nearest.mean(1), 1e-9)


def _cluster_margin(pool: Pool, count: int, random: np.random.Generator) -> np.ndarray:
    """Different images among those with the smallest margins: k-means weighted by 1 - margin (Zhdanov 2019)."""
    margins = pool.margins
    few = np.argsort(margins, kind="stable")[: CANDIDATES * count]
    if len(few) <= count:
        return few[:count]
    weights = np.maximum(1 - margins[few], 1e-3)
    found = _k_means(pool.unlabelled[few], count, random, weights)
    chosen = []
    for cluster in np.unique(found):
        members = np.flatnonzero(found == cluster)
        centre = np.average(pool.unlabelled[few[members]], axis=0, weights=weights[members])
        chosen.append(members[_squared(pool.unlabelled[few[members]], centre[None])[:, 0].argmin()])
    order = [*sorted(chosen, key=lambda one: margins[few[one]])]
    others = [one for one in range(len(few)) if one not in set(order)]
    return few[np.array([*order, *others][:count])]


def _k_means(
    rows: np.ndarray, clusters: int, random: np.random.Generator, weights: np.ndarray | None = None
) -> np.ndarray:
    from sklearn.cluster import KMeans, MiniBatchKMeans

    seed = int(random.integers(2**31))
    with one_thread():
        kind = KMeans(clusters, n_init=1, max_iter=50, random_state=seed)
        if len(rows) * clusters > 2_000_000:
            kind = MiniBatchKMeans(clusters, n_init=1, random_state=seed)
        return kind.fit_predict(rows, sample_weight=weights)


def _squared(rows: np.ndarray, others: np.ndarray) -> np.ndarray:
    """Squared distances, shape (rows, others)."""
    return (rows**2).sum(1)[:, None] + (others**2).sum(1)[None] - 2 * rows @ others.T


STRATEGIES: Mapping[str, Strategy] = MappingProxyType(
    {
        "random": _random,
        "margin": _margin,
        "entropy": _entropy,
        "core_set": _core_set,
        "badge": _badge,
        "typiclust": _typiclust,
        "cluster_margin": _cluster_margin,
    }
)
