"""A head that is solved shard by shard is that of the same training in memory."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from tests.tiny import tiny_file
from tlkit import Augmentation, Examples, Head, Recipe, Stage, build_classifier
from tlkit.backbones import find_backbone
from tlkit.training import solve as solving
from tlkit.training.train import refit_head, train


def images(count: int, start: int) -> Examples:
    random = np.random.default_rng(start)
    labels = np.arange(count) % 3
    pixels = (40 * labels[:, None, None, None] + random.integers(0, 170, (count, 32, 32, 3))).astype("uint8")
    return Examples(pixels, labels, [f"{start + i:08x}" for i in range(count)], made_by="test")


@pytest.mark.slow
@pytest.mark.parametrize("views", [1, 2])
@pytest.mark.parametrize("strength", [None, 0.01])
def test_it_gives_the_same_scores_the_same_strength_and_the_same_refitted_head(
    views: int, strength: float | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    training, validation, network = images(90, 0), images(60, 500), find_backbone(tiny_file())
    stage = Stage(1, 1e-3, solver="logistic", strength=strength)
    augmentation = Augmentation(flip_horizontal=0.5) if views > 1 else Augmentation()
    recipe = Recipe("solved", (stage,), head=Head(taps="all"), augmentation=augmentation, views=views)
    for module in ("training.solve", "features.folds"):
        monkeypatch.setattr(f"tlkit.{module}.ENOUGH_VALIDATION", 50)
    found = {}
    for most in (2**29, 0):
        monkeypatch.setattr(solving, "MOST_IN_MEMORY", most)
        model = build_classifier(network, 3, head=recipe.head, image_size=32)
        history = train(model, network, recipe, training, validation)
        plain = dataclasses.replace(recipe, stages=(dataclasses.replace(stage, strength=0.01),))
        head = refit_head(model, network, plain, training, validation, strength=0.01)
        assert head is not None and head.out_of_fold is None
        found[most] = history.rows[0], head.head
    (exact, refitted), (sharded, again) = found[2**29], found[0]
    assert sharded["strength"] == exact["strength"]
    for name in ("loss", "val_loss"):
        assert sharded[name] == pytest.approx(exact[name], rel=1e-2)
    assert sharded["accuracy"] == pytest.approx(exact["accuracy"], abs=0.02)
    np.testing.assert_allclose(again.kernel, refitted.kernel, atol=0.02 * np.abs(refitted.kernel).max())
