"""Which images are chosen to be labelled, and what a simulation says of it."""

from __future__ import annotations

import numpy as np
import pytest

from tlkit.strategy.active_learning import STRATEGIES, Pool, choose, scaled
from tlkit.strategy.simulation import Gain, curve, simulate


def pool(n: int = 60, seed: int = 0) -> Pool:
    random = np.random.default_rng(seed)
    rows = scaled(random.normal(size=(n + 10, 8)))
    return Pool(rows[:10], rows[10:], random.dirichlet(np.ones(3), n))


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_every_strategy_chooses_each_image_once_and_again_the_same(strategy: str) -> None:
    chosen = choose(strategy, pool(), 12, seed=3)
    assert len(set(chosen.tolist())) == 12 and set(chosen.tolist()) <= set(range(60))
    assert (choose(strategy, pool(), 12, seed=3) == chosen).all()
    assert sorted(choose(strategy, pool(), 100)) == list(range(60))
    assert len(choose(strategy, pool(), 0)) == 0


def test_the_most_uncertain_and_the_farthest_are_chosen() -> None:
    rows = np.zeros((5, 2), "float32")
    rows[3] = (9, 0)
    chances = np.array([[0.9, 0.1], [0.51, 0.49], [0.8, 0.2], [0.7, 0.3], [0.6, 0.4]])
    some = Pool(np.zeros((1, 2), "float32"), rows, chances)
    for strategy in ("margin", "entropy"):
        assert choose(strategy, some, 2).tolist() == [1, 4]
    assert choose("core_set", some, 1).tolist() == [3]


def test_typiclust_takes_one_image_of_each_cluster_without_labels() -> None:
    random = np.random.default_rng(0)
    centres = np.array([[0, 0], [20, 0], [0, 20], [20, 20]], "float32")
    rows = centres[np.arange(80) % 4] + random.normal(size=(80, 2)).astype("float32")
    some = Pool(centres[:1], rows, np.full((80, 2), 0.5))
    assert sorted(np.arange(80)[choose("typiclust", some, 3)] % 4) == [1, 2, 3]


def test_a_simulation_says_what_a_strategy_gains_and_finds_nothing_in_noise() -> None:
    random = np.random.default_rng(1)
    features, noise = random.normal(size=(90, 4)).astype("float32"), random.integers(0, 2, 90)
    found = simulate(features, noise, strategies=("margin",))
    assert found is not None and not found.beyond_chance and (found.start, found.images) == (10, 90)
    assert found.low <= found.gain <= found.high and found.end <= 40


def test_a_sentence_says_that_nothing_is_gained() -> None:
    facts = {"share": 1.1, "start": 10, "end": 40, "images": 90, "repetitions": 6}
    assert "at random" in Gain("random", 0.0, 0.0, 0.0, **facts).sentence()
    assert "no gain beyond chance" in Gain("margin", 0.01, -0.01, 0.03, **facts).sentence()
    assert "80%" in Gain("margin", 0.02, 0.01, 0.03, **{**facts, "share": 0.8}).sentence()


def test_too_few_labels_are_not_simulated_and_every_strategy_starts_alike() -> None:
    features, labels = np.random.default_rng(0).normal(size=(60, 4)).astype("float32"), np.arange(60) % 3
    assert simulate(features[:40], labels[:40]) is None
    first = {curve(features, scaled(features), labels, one, 5).accuracy[0] for one in ("random", "margin", "core_set")}
    assert len(first) == 1
