"""Heads that are solved shard by shard are those that are solved in memory, within a stated tolerance."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.special import softmax

from tlkit.cache import in_memory
from tlkit.features import shards
from tlkit.features.folds import ALWAYS_TRAINING
from tlkit.features.linear import LinearHead, Solver, choose_strength, solve
from tlkit.features.shards import Part, choose_strength_on_shards, scores_on_shards, solve_on_shards
from tlkit.stats import balancing_weights, log_loss, log_losses

OBJECTIVE = 1e-4  # how much the objectives may differ, as a share
PROBABILITY = 0.01  # how much probabilities may differ


@pytest.fixture(autouse=True)
def _small_shards(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shards, "AT_ONCE", 97)


def drawn(count: int, classes: int, width: int = 12, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    random = np.random.default_rng(seed)
    labels = random.integers(0, classes, count)
    centres = np.random.default_rng(1).normal(size=(classes, width))
    scale = np.linspace(0.1, 30, width)
    return ((centres[labels] + random.normal(size=(count, width)) * 1.5) * scale + 7).astype("float32"), labels


def parts(features: np.ndarray, labels: np.ndarray, pieces: int = 2, blocks: tuple[int, ...] = ()) -> list[Part]:
    """The rows in several parts, and the features in several blocks."""
    edges = np.cumsum(blocks)[:-1]
    return [
        Part([in_memory(block) for block in np.split(rows, edges, axis=1)], some)
        for rows, some in zip(np.array_split(features, pieces), np.array_split(labels, pieces), strict=True)
    ]


def objective(head: LinearHead, features: np.ndarray, labels: np.ndarray, strength: float, solver: Solver) -> float:
    """scikit-learn's: the log loss, and the penalty of the weights on standardised features."""
    deviation = features.std(0)
    if len(solver.sizes) > 1:
        sizes = solver.sizes
        deviation = deviation * (np.repeat(sizes, sizes) / (features.shape[1] / len(sizes))) ** 0.25
    kernel = head.kernel * deviation[:, None]
    losses = log_losses(softmax(features.astype("float64") @ head.kernel + head.bias, axis=1), labels)
    weights = balancing_weights(labels) if solver.balanced else 1.0
    half = 2 if len(np.unique(labels)) == 2 else 1
    return float((losses * weights).mean() + half * np.square(kernel).sum() / (2 * strength * len(labels)))


@pytest.mark.parametrize("classes", [2, 3, 10])
@pytest.mark.parametrize("balanced", [False, True])
@pytest.mark.parametrize("strength", [1e-4, 1e-2, 1.0])
def test_the_head_is_the_exact_one(classes: int, balanced: bool, strength: float) -> None:
    features, labels = drawn(1500, classes)
    labels = np.where(labels == 0, np.arange(1500) % classes, labels)
    solver = Solver(balanced=balanced)
    exact = solve(features, labels, classes, strength=strength, solver=solver)
    found = solve_on_shards(parts(features, labels), classes, strength=strength, solver=solver)
    best, other = (objective(one, features, labels, strength, solver) for one in (exact, found))
    assert other == pytest.approx(best, rel=OBJECTIVE)
    assert np.abs(exact.probabilities(features) - found.probabilities(features)).max() < PROBABILITY


def test_blocks_are_scaled_as_in_memory_and_an_absent_class_is_not_named() -> None:
    features, labels = drawn(1500, 4)
    solver = Solver(sizes=(2, 10))
    exact = solve(features, labels, 5, strength=0.01, solver=solver)
    found = solve_on_shards(parts(features, labels, 3, (2, 10)), 5, strength=0.01, solver=solver)
    assert np.abs(exact.probabilities(features) - found.probabilities(features)).max() < PROBABILITY
    assert not (found.probabilities(features).argmax(1) == 4).any()


@pytest.mark.slow
@pytest.mark.parametrize("classes", [3, 100])
def test_the_same_strength_is_chosen(classes: int) -> None:
    features, labels = drawn(2000, classes)
    more, true = drawn(400, classes, seed=9)
    folds = np.r_[np.full(2000, ALWAYS_TRAINING), np.zeros(400, int)]
    exact = choose_strength(np.r_[features, more], np.r_[labels, true], folds, classes)
    found = choose_strength_on_shards(parts(features, labels), parts(more, true), classes, solver=Solver())
    assert found.strength == exact.strength and found.edge == exact.edge and list(found.losses) == list(exact.losses)
    assert found.loss == pytest.approx(exact.loss, rel=1e-3) and found.factor == pytest.approx(exact.factor, rel=0.2)


def test_scores_are_those_of_all_rows() -> None:
    features, labels = drawn(500, 3)
    head = solve(features, labels, 3, strength=0.1)
    found = scores_on_shards(head, parts(features, labels, 3))
    probabilities = head.probabilities(features)
    assert found["loss"] == pytest.approx(log_loss(probabilities, labels), rel=1e-5)
    assert found["accuracy"] == (probabilities.argmax(1) == labels).mean()


def test_one_class_alone_is_always_answered() -> None:
    features, _ = drawn(50, 3)
    head = solve_on_shards(parts(features, np.full(50, 1)), 3, strength=1.0, solver=Solver())
    assert (head.probabilities(features).argmax(1) == 1).all()
