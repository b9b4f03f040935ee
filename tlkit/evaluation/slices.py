"""Slices of the data on which a classifier is worse: by the values of a column, and hidden ones that no column names.

Imports NumPy and SciPy, and scikit-learn for the principal components. Knows neither Keras nor images.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from scipy.cluster.hierarchy import linkage
from scipy.sparse import csr_matrix
from scipy.stats import fisher_exact, rankdata

from tlkit.devices import one_thread
from tlkit.features.principal import principal_components
from tlkit.stats import effective_images, holm, proportion_interval

FEWEST = 10  # images of a value; smaller ones are pooled. With 10, half of an interval is about 25 points
ALPHA = 0.05  # a slice is worse if its corrected p-value is below this

SMALLEST = 8  # images of a hidden slice
LARGEST = 0.5  # share of its class, or of all images, that a hidden slice has at most
MOST = 4000  # images among which hidden slices are sought: the tree takes memory by their square
PERMUTED = 199  # permutations, so that the smallest p-value is 0.005
COMPONENTS = 128  # principal components that images are compared by
TAILS = (0.05, 0.1, 0.2, 0.33)  # shares of the images with the lowest and the highest measured values
OVERLAP = 0.3  # of the images of a hidden slice that a better one may share
FOUND = 5  # hidden slices at most
FOLDS = 5  # of the regression of errors on features
LIMITS = 16  # numbers of images whose errors it expects most, each a candidate
RIDGE = 0.3  # its penalty, times the variance of the features


@dataclass(frozen=True)
class SliceRow:
    """How well the images with one value of a column are predicted.

    Attributes:
        column, value: Which images.
        label: Only those of this class; "" for all classes.
        n, accuracy, low, high: How many, and their accuracy with its 95 % interval.
        others: The accuracy of the images that they are compared with: those with other values, of the same class if
            the row is of one class.
        p: Of Fisher's exact test against these, two-sided, corrected for all comparisons by Holm's method.
        pooled: How many values the row pools, because each has few images; 0 if it is one value.
    """

    column: str
    value: str
    label: str
    n: int
    accuracy: float
    low: float
    high: float
    others: float
    p: float
    pooled: int = 0

    @property
    def worse(self) -> bool:
        """Whether the accuracy is lower than that of the others, beyond chance."""
        return self.p < ALPHA and self.accuracy < self.others


def slice_rows(
    columns: Mapping[str, Sequence[str]], correct: np.ndarray, labels: Sequence[str], groups: np.ndarray | None = None
) -> tuple[list[SliceRow], int]:
    """Measure the accuracy by the values of columns, of all classes together and of each class.

    A value with fewer than FEWEST images is pooled with the other such values of its column. Within a class only values
    with FEWEST images are looked at. No value is compared where all others are too few.

    Args:
        columns: For each column the value of each image, as text.
        correct: Whether each image is predicted correctly, bool, shape (n,).
        labels: The class of each image.
        groups: As in `tlkit.stats.effective_images`: images of one group count for less.

    Returns:
        The rows, those that are worse beyond chance first, then by accuracy, the lowest first; and for how many
        comparisons their p-values are corrected.
    """
    of_class = np.asarray(labels, str)
    found: list[tuple[tuple[str, str, str, int], np.ndarray, np.ndarray]] = []
    for column, given in columns.items():
        values = np.asarray(given, str)
        for value, rows, pooled in _values(values):
            found.append(((column, value, "", pooled), rows, ~rows))
            for label in np.unique(of_class) if not pooled else ():
                mine = rows & (of_class == label)
                rest = ~rows & (of_class == label)
                if mine.sum() >= FEWEST and rest.sum() >= FEWEST:
                    found.append(((column, value, str(label), 0), mine, rest))
    found = [one for one in found if one[1].any() and one[2].sum() >= 1]
    chances = holm([_p_value(correct, rows, rest, groups) for _, rows, rest in found])
    table = []
    for ((column, value, label, pooled), rows, rest), p in zip(found, chances, strict=True):
        low, high = proportion_interval(correct[rows], None if groups is None else groups[rows])
        accuracy, others = float(correct[rows].mean()), float(correct[rest].mean())
        table.append(SliceRow(column, value, label, int(rows.sum()), accuracy, low, high, others, p, pooled))
    return sorted(table, key=lambda one: (not one.worse, one.accuracy, one.p)), len(found)


def _values(values: np.ndarray) -> list[tuple[str, np.ndarray, int]]:
    """The values of a column with their images, bool, and how many values each entry pools."""
    names, counts = np.unique(values, return_counts=True)
    small = set(names[counts < FEWEST].tolist())
    found = [(str(name), values == name, 0) for name in names if name not in small]
    if len(small) == 1:
        found.append((next(iter(small)), np.isin(values, list(small)), 0))
    elif small:
        found.append((f"{len(small)} values with fewer than {FEWEST} images", np.isin(values, list(small)), len(small)))
    return found


def _p_value(correct: np.ndarray, rows: np.ndarray, rest: np.ndarray, groups: np.ndarray | None) -> float:
    """Of Fisher's exact test, on as many images as these count for if they come in groups."""
    table = []
    for mine in (rows, rest):
        count = effective_images(correct[mine], None if groups is None else groups[mine])
        right = float(correct[mine].mean()) * count
        table.append([round(right), round(count - right)])
    return float(fisher_exact(table).pvalue)


@dataclass(frozen=True)
class HiddenSlice:
    """Images that are alike, and on which the classifier errs more than on their classes.

    Attributes:
        rows: Their row numbers, the most typical first: int64.
        errors: How many of them are predicted wrongly. expected: How many would be, if they were as hard as the rest
            of their classes.
        p: The share of permutations of the errors, within each class, in which any slice stands out as much.
        tail: (measure, "low" or "high") if they are the images with the lowest or highest values of it. None if they
            are alike in features.
    """

    rows: np.ndarray
    errors: int
    expected: float
    p: float
    tail: tuple[str, str] | None = None

    @property
    def accuracy(self) -> float:
        return 1 - self.errors / len(self.rows)


def hidden_slices(
    features: np.ndarray,
    correct: np.ndarray,
    labels: np.ndarray,
    *,
    groups: np.ndarray | None = None,
    measures: Mapping[str, np.ndarray] | None = None,
    seed: int = 0,
) -> list[HiddenSlice]:
    """Find groups of images that are alike and on which a classifier errs more than on the rest of their classes.

    Candidates are every branch of a tree of the images (Ward 1963) by their features, in each class and in all, as
    George clusters each class (Sohoni et al. 2020, arXiv:2011.12945); the images with the lowest and the highest values
    of what is measured; and those whose errors a ridge regression, fitted on others, expects most. Each is scored by
    the log likelihood ratio of its errors (as in a tree-based scan statistic, Kulldorff et al. 2003). The whole search
    is repeated with errors that are permuted within each class. A slice's p-value is the share of these in which any
    slice scores as high, so if errors are spread by chance, one with p below 0.05 is named in 5 % of data sets.

    Args:
        features: float32, shape (n, features).
        correct: Whether each image is predicted correctly by a model that was not trained on it, bool, shape (n,).
        labels: int, shape (n,).
        groups: Images of one group are permuted together: each group gets errors at the rate of another group.
        measures: What was measured of each image, such as its brightness, by name: float, shape (n,).
        seed: Of the permutations, and of the images that are drawn where there are more than MOST.

    Returns:
        The slices, the one that stands out most first, at most FOUND. No two share more than OVERLAP of the images of
        the smaller one. Empty if there are no errors. They are not all beyond chance: see `HiddenSlice.p`.
    """
    random, n = np.random.default_rng(seed), len(correct)
    if n > MOST:
        drawn = np.sort(random.permutation(n)[:MOST])
        some = {name: values[drawn] for name, values in (measures or {}).items()}
        less = None if groups is None else groups[drawn]
        found = hidden_slices(features[drawn], correct[drawn], labels[drawn], groups=less, measures=some, seed=seed)
        return [HiddenSlice(drawn[one.rows], one.errors, one.expected, one.p, one.tail) for one in found]
    wrong = (~correct.astype(bool)).astype("float32")
    if not wrong.any() or n < 2 * SMALLEST:
        return []
    rows = principal_components(features, COMPONENTS)
    _, index = np.unique(labels, return_inverse=True)
    rate = (np.bincount(index, weights=wrong) / np.bincount(index))[index]
    permuted = np.stack([wrong, *(_permuted(wrong, index, groups, random) for _ in range(PERMUTED))], axis=1)
    members, tails = _candidates(rows, index, measures or {})
    scored = [_Scored([], np.zeros(0), np.zeros(1 + PERMUTED))]
    if members:
        inside, sizes = _membership(members, n), np.array([[len(one)] for one in members], "float64")
        scores = _scores(inside @ permuted, sizes, (inside @ rate)[:, None])
        scored.append(_Scored(members, scores[:, 0], scores.max(0)))
    for part in _parts(index):
        scored.append(_by_predicted_errors(rows, permuted, rate, part, groups, random))
    members = [one for part in scored for one in part.members]
    scores = np.concatenate([part.scores for part in scored])
    highest = np.stack([part.highest for part in scored]).max(0)[1:]
    chosen: list[HiddenSlice] = []
    for k in np.argsort(-scores, kind="stable"):
        mine = members[k]
        if scores[k] <= 0 or len(chosen) == FOUND:
            break
        if any(len(np.intersect1d(mine, one.rows)) > OVERLAP * min(len(mine), len(one.rows)) for one in chosen):
            continue
        p = float((1 + (highest >= scores[k]).sum()) / (1 + PERMUTED))
        typical = mine[np.argsort(((rows[mine] - rows[mine].mean(0)) ** 2).sum(1), kind="stable")]
        chosen.append(HiddenSlice(typical, int(wrong[mine].sum()), float(rate[mine].sum()), p, tails.get(int(k))))
    return chosen


@dataclass(frozen=True)
class _Scored:
    """Candidates with their scores, and the highest score for the errors as they are and for each permutation."""

    members: list[np.ndarray]
    scores: np.ndarray
    highest: np.ndarray


def _parts(index: np.ndarray) -> list[np.ndarray]:
    """The images of each class, and all of them: row numbers. Those with too few images are left out."""
    parts = [np.flatnonzero(index == one) for one in range(int(index.max()) + 1)]
    parts = [*parts, np.arange(len(index))] if len(parts) > 1 else parts
    return [one for one in parts if len(one) >= 2 * SMALLEST]


def _by_predicted_errors(
    rows: np.ndarray,
    wrong: np.ndarray,
    rate: np.ndarray,
    part: np.ndarray,
    groups: np.ndarray | None,
    random: np.random.Generator,
) -> _Scored:
    """The images whose errors are most expected from their features, by a ridge regression that was not fitted on them.

    wrong: the errors and their permutations, shape (n, permutations). Each has a regression of its own, so that the
    search is permuted too.
    """
    folds = _folds(part, groups, random)
    mine = rows[part].astype("float64")
    mine = mine - mine.mean(0)
    centred = wrong[part] - rate[part][:, None]
    predicted = np.zeros_like(centred, "float64")
    penalty = RIDGE * (mine**2).sum() / mine.shape[1] * np.eye(mine.shape[1])
    with one_thread():
        for number in range(int(folds.max()) + 1):
            here = folds == number
            weights = np.linalg.solve(mine[~here].T @ mine[~here] + penalty, mine[~here].T @ centred[~here])
            predicted[here] = mine[here] @ weights
    order = np.argsort(-predicted, axis=0, kind="stable")
    errors = np.cumsum(np.take_along_axis(wrong[part], order, 0), 0)
    expected = np.cumsum(rate[part][order], 0)
    counts = np.unique(np.geomspace(SMALLEST, LARGEST * len(part), LIMITS).round().astype(int))
    scores = _scores(errors[counts - 1], counts[:, None].astype(float), expected[counts - 1])
    return _Scored([np.sort(part[order[:count, 0]]) for count in counts], scores[:, 0], scores.max(0))


def _folds(part: np.ndarray, groups: np.ndarray | None, random: np.random.Generator) -> np.ndarray:
    """A fold of each row, 0 to FOLDS - 1; images of one group are in one."""
    units = np.arange(len(part)) if groups is None else np.unique(groups[part], return_inverse=True)[1]
    return (random.permutation(int(units.max()) + 1) % FOLDS)[units]


def _candidates(
    rows: np.ndarray, labels: np.ndarray, measures: Mapping[str, np.ndarray]
) -> tuple[list[np.ndarray], dict[int, tuple[str, str]]]:
    """The row numbers of each candidate, and which of them are those with low or high values of a measure."""
    members: list[np.ndarray] = []
    tails: dict[int, tuple[str, str]] = {}
    for part in _parts(labels):
        members += [part[one] for one in _branches(rows[part])]
        for name, values in measures.items():
            order = part[np.argsort(values[part], kind="stable")]
            for share in TAILS:
                count = round(share * len(part))
                if count >= SMALLEST and values[order[0]] < values[order[-1]]:
                    for side, tail in (("low", order[:count]), ("high", order[-count:])):
                        tails[len(members)] = (name, side)
                        members.append(np.sort(tail))
    return members, tails


def _branches(rows: np.ndarray) -> list[np.ndarray]:
    """Every branch of a tree of rows that is neither too small nor too large: row numbers."""
    n = len(rows)
    with one_thread():
        merges = linkage(rows, "ward")
    branches: list[np.ndarray] = [np.array([i]) for i in range(n)]
    for first, second, *_ in merges:
        branches.append(np.concatenate([branches[int(first)], branches[int(second)]]))
    return [np.sort(one) for one in branches[n:] if SMALLEST <= len(one) <= LARGEST * n]


def _membership(members: Sequence[np.ndarray], n: int) -> csr_matrix:
    """1 where an image is in a candidate: sparse, shape (candidates, n)."""
    starts = np.concatenate([[0], np.cumsum([len(one) for one in members])])
    columns = np.concatenate(members)
    return csr_matrix((np.ones(len(columns), "float32"), columns, starts), shape=(len(members), n))


def _scores(wrong: np.ndarray, sizes: np.ndarray, expected: np.ndarray) -> np.ndarray:
    """The log likelihood ratio of a candidate's errors against those that are expected; 0 where there are no more."""
    right = sizes - wrong
    with np.errstate(divide="ignore", invalid="ignore"):
        first = np.where(wrong > 0, wrong * np.log(wrong / expected), 0.0)
        second = np.where(right > 0, right * np.log(right / np.maximum(sizes - expected, 1e-9)), 0.0)
    return np.where(wrong > expected, first + second, 0.0)


def _permuted(
    wrong: np.ndarray, index: np.ndarray, groups: np.ndarray | None, random: np.random.Generator
) -> np.ndarray:
    """The errors permuted within each class: of images, or of whole groups if images come in groups."""
    found = np.zeros_like(wrong)
    for label in range(int(index.max()) + 1):
        rows = np.flatnonzero(index == label)
        if groups is None or len(np.unique(groups[rows])) == len(rows):
            found[rows] = wrong[random.permutation(rows)]
            continue
        _, group = np.unique(groups[rows], return_inverse=True)
        donors = random.permutation(int(group.max()) + 1)
        order = np.argsort(group, kind="stable")
        counts = np.bincount(group)
        starts = np.cumsum(counts) - counts
        giving = donors[group]
        picked = starts[giving] + (random.random(len(rows)) * counts[giving]).astype(int)
        found[rows] = wrong[rows[order[picked]]]
    return found


def standing_out(values: np.ndarray, inside: np.ndarray) -> float:
    """How far the values of some rows lie above the others': the probability of superiority, 0 to 1.

    0.5 is no difference.

    values: float, shape (n,). inside: bool, shape (n,), some True and some False.

    >>> standing_out(np.array([1.0, 2.0, 3.0, 4.0]), np.array([False, False, True, True]))
    1.0
    """
    ranks, count = rankdata(values), int(inside.sum())
    others = len(values) - count
    return float((ranks[inside].sum() - count * (count + 1) / 2) / (count * others))
