"""Corruptions of images: what must hold whatever a classifier makes of them."""

from __future__ import annotations

import numpy as np
import pytest

from tlkit.data.corruptions import CORRUPTIONS, SEVERITIES, corrupt
from tlkit.errors import NameUnknown, SpecError


def discs(side: int, count: int = 3) -> np.ndarray:
    """Images of coloured discs on a slope of light: uint8, shape (count, side, side, 3)."""
    random = np.random.default_rng(0)
    y, x = np.mgrid[:side, :side] / side
    images = np.repeat(np.stack([60 + 90 * x, 80 + 60 * y, 120 - 40 * x], -1)[None], count, axis=0)
    for image in images:
        for _ in range(6):
            across, down, wide = random.uniform(0.1, 0.9, 3)
            image[(x - across) ** 2 + (y - down) ** 2 < (0.04 + 0.1 * wide) ** 2] = random.uniform(0, 255, 3)
    return images.clip(0, 255).astype("uint8")


@pytest.mark.parametrize("name", CORRUPTIONS)
def test_a_corruption_changes_pixels_and_the_more_the_severer(name: str) -> None:
    images = discs(96)
    changed = [np.abs(corrupt(images, name, severity).astype(int) - images).mean() for severity in (1, 3, 5)]
    assert 0.5 < changed[0] < changed[1] < changed[2]


@pytest.mark.parametrize("name", CORRUPTIONS)
def test_the_same_seed_gives_the_same_pixels_in_any_company(name: str) -> None:
    images = discs(48)
    once = corrupt(images, name, 3, seed=7)
    assert np.array_equal(once, corrupt(images, name, 3, seed=7))
    assert np.array_equal(once[:1], corrupt(images[:1], name, 3, seed=7))


@pytest.mark.parametrize("name", ["gaussian_noise", "shot_noise", "motion_blur", "fog", "elastic_transform"])
def test_what_is_random_differs_by_seed_and_from_image_to_image(name: str) -> None:
    alike = np.repeat(discs(96, count=1), 2, axis=0)
    first = corrupt(alike, name, 3, seed=0)
    assert not np.array_equal(first, corrupt(alike, name, 3, seed=1))
    assert not np.array_equal(first[0], first[1])


@pytest.mark.parametrize("name", CORRUPTIONS)
@pytest.mark.parametrize("side", [16, 33])
def test_shape_and_dtype_are_kept_and_the_images_left_alone(name: str, side: int) -> None:
    images = discs(side)
    before = images.copy()
    for severity in SEVERITIES:
        found = corrupt(images, name, severity)
        assert found.shape == images.shape and found.dtype == np.uint8
    assert np.array_equal(images, before)


@pytest.mark.parametrize("name", CORRUPTIONS)
def test_severity_0_is_the_images_themselves(name: str) -> None:
    images = discs(32)
    assert np.array_equal(corrupt(images, name, 0), images)


def test_fog_lightens_a_black_image_and_leaves_a_white_one_within_its_range() -> None:
    black, white = np.zeros((1, 64, 64, 3), "uint8"), np.full((1, 64, 64, 3), 255, "uint8")
    assert corrupt(white, "fog", 3).min() > 60
    half = np.concatenate([black, white], axis=2)[:, :, 32:96]
    assert corrupt(half, "fog", 3)[:, :, :32].mean() > 40


def test_wrong_names_and_severities_are_refused() -> None:
    images = discs(16)
    with pytest.raises(NameUnknown, match="gaussian_noise"):
        corrupt(images, "gausian_noise", 1)
    with pytest.raises(SpecError, match="severity is 6"):
        corrupt(images, "fog", 6)
