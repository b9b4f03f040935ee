"""Multi-scale training: which sizes and places are drawn, from which pixels, and what a stage makes of them."""

from __future__ import annotations

import dataclasses
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from tests.training.test_training import BACKBONE, examples, recipe, tiny, weights_by_path
from tlkit import Stage
from tlkit.data.augment import scaled_crop
from tlkit.errors import SpecError
from tlkit.finetuning.fit import training_examples
from tlkit.finetuning.resolve import resolve
from tlkit.plan.job import Job
from tlkit.plan.recipe import recipe_from_dict, to_dict
from tlkit.training.batches import scaling
from tlkit.training.train import train

SIDE, SIZE = 64, 32
# The value is the column and the row, so that a crop tells its scale and its place
ROWS, COLUMNS = np.mgrid[:SIDE, :SIDE]
RAMP = np.stack([2 * COLUMNS, 2 * ROWS, 0 * ROWS], axis=2).astype("uint8")


def scale_and_place(crop: np.ndarray) -> tuple[float, float, float]:
    """The scaled image's side in pixels, and where the crop begins in shares of the image."""
    per_pixel = (int(crop[16, 28, 0]) - int(crop[16, 4, 0])) / 24 / 2  # original columns per pixel of the crop
    return SIDE / per_pixel, crop[16, 4, 0] / 2 / SIDE, crop[4, 16, 1] / 2 / SIDE


def test_sizes_vary_within_their_range_and_places_over_the_image() -> None:
    crops = [scaled_crop(RAMP, SIZE, (40, 120), (seed,)) for seed in range(60)]
    assert all(one.shape == (SIZE, SIZE, 3) and one.dtype == np.uint8 for one in crops)
    sides, left, top = np.array([scale_and_place(one) for one in crops]).T
    assert 37 < sides.min() < 55 and 105 < sides.max() < 135
    assert left.min() < 0.2 and left.max() > 0.5 and top.min() < 0.2 and top.max() > 0.5
    assert abs(np.corrcoef(left, top)[0, 1]) < 0.6


def test_at_the_images_own_size_the_whole_image_is_taken() -> None:
    assert np.array_equal(scaled_crop(RAMP, SIDE, (SIDE, SIDE), (0,)), RAMP)


def test_draws_follow_from_the_seed_the_epoch_and_the_content_alone() -> None:
    images, numbers, found = np.stack([RAMP] * 6), [5, 9, 5, 1, 2, 3], []
    for workers in (1, 3):
        with ThreadPoolExecutor(workers) as pool:
            transform = scaling(SIZE, (40, 120), numbers, 7, pool)
            found.append([transform([images], np.arange(6), epoch)[0] for epoch in (0, 1)])
            assert np.array_equal(transform([images[3:4]], np.array([3]), 1)[0][0], found[-1][1][3])
    assert np.array_equal(found[0], found[1])
    first, second = found[0]
    assert np.array_equal(first[0], first[2]), "the same content"
    assert not np.array_equal(first[0], first[1]) and not np.array_equal(first[0], second[0])


@pytest.mark.slow
def test_a_stage_trains_on_crops_of_the_sharper_pixels() -> None:
    plain, validation, found = examples(16, 1), examples(6, 2), []
    seen: list[tuple[int, ...]] = []

    class Spy:
        """Rows of 64 pixels that remember what was asked of them."""

        def __init__(self, values: np.ndarray) -> None:
            self.values, self.row_shape = values, values.shape[1:]

        def __len__(self) -> int:
            return len(self.values)

        def gather(self, indices: Any) -> np.ndarray:
            seen.append(self.values[indices].shape)
            return self.values[indices]

        def take(self, indices: Any) -> Spy:
            return Spy(self.values[indices])

    large = plain.pixels.gather(slice(None)).repeat(2, axis=1).repeat(2, axis=2)
    sharper = dataclasses.replace(plain, sharper=Spy(large))
    for data, scales in ((sharper, (40, 90)), (sharper, None), (plain, (40, 90))):
        model = tiny(seed=2)
        stage = Stage(1, 1e-2, unfreeze=1, optimizer="sgd", scales=scales)
        train(model, BACKBONE, recipe(stage, monitor="last"), data, validation)
        found.append(weights_by_path(model)["conv_32/kernel"])
    scaled, unscaled, from_plain = found
    assert seen and {one[1:] for one in seen} == {(64, 64, 3)}
    assert not np.array_equal(scaled, unscaled) and not np.array_equal(scaled, from_plain)


def test_scales_that_cannot_be_are_refused() -> None:
    for scales in ((512, 256), (0, 10), (30.5, 40), 256):
        with pytest.raises(SpecError, match=r"Stage\.scales"):
            Stage(1, 1e-3, scales=scales)  # type: ignore[arg-type]
    with pytest.raises(SpecError, match="draws a size in each epoch"):
        Stage(1, 1e-3, scales=(256, 512), solver="svm")
    stage = Stage(1, 1e-3, unfreeze="all", scales=(20, 64))
    with pytest.raises(SpecError, match=r"\(20, 64\), but squares of 32 pixels"):
        train(tiny(), BACKBONE, recipe(stage), examples(8), examples(4))
    assert recipe_from_dict(to_dict(recipe(stage))) == recipe(stage)


def test_finetune_decodes_the_training_images_at_the_largest_scale(
    folder: Path, tiny: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[tuple[Any, ...]] = []
    rows = SimpleNamespace(of=lambda images: f"larger pixels of {images}")

    def decoded(*what: Any) -> Any:
        asked.append(what)
        return SimpleNamespace(pixels=rows)

    monkeypatch.setattr("tlkit.finetuning.fit.decode_images", decoded)
    images = SimpleNamespace(part=lambda *splits: splits)
    dataset: Any = SimpleNamespace(
        part=lambda *splits: examples(4), images=images, pixels=SimpleNamespace(size=32, fit="pad"), cache="cache"
    )
    jittered = recipe(Stage(1, 1e-3, scales=(32, 40)), Stage(1, 1e-3, unfreeze="all", scales=(32, 48)))
    found = training_examples(dataset, jittered, "train", "validation")
    assert found.sharper == "larger pixels of ('train', 'validation')"  # type: ignore[comparison-overlap]
    assert asked == [(("train", "validation"), 48, "pad", "cache")]
    assert training_examples(dataset, recipe(Stage(1, 1e-3)), "train").sharper is None
    with pytest.raises(SpecError, match="squares of 40 pixels"):
        resolve(Job(folder, recipe=jittered, backbone=tiny["backbone"], image_size=40))
