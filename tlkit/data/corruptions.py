"""Image corruptions named after ImageNet-C (Hendrycks and Dietterich 2019, arXiv:1903.12261), at five severities.

They are made with albumentations and are not ImageNet-C's files, so accuracies on them cannot be compared with
published ones. Sources of the strengths:

- gaussian_noise, defocus_blur, pixelate and jpeg_compression: ImageNet-C's code.
- brightness: ImageNet-C's code. It adds them to the value channel of HSV; here they are added to each RGB channel.
- shot_noise: ImageNet-C's number of photons. Albumentations draws them in linear light.
- motion_blur: a line about as long as ImageNet-C's, which is weighted by a Gaussian.
- contrast: ImageNet-C's factors. Albumentations moves values towards the mean grey, not towards each channel's mean.
- fog: ImageNet-C's formula and strengths with our own fractal noise, because the fog of albumentations is made of discs
  and is slow. The fourth strength is new: ImageNet-C's fourth equals its third.
- elastic_transform: our own, typical displacements as shares of the side.

Lengths are given for a side of 224 pixels, as in ImageNet-C, and are scaled to the image in whole pixels. Below about
100 pixels per side, neighbouring severities of a blur can be the same. The result depends only on the pixels, the
corruption, the severity, the seed and the image's index.
"""

from __future__ import annotations

import functools
import math
import os
from collections.abc import Callable
from types import ModuleType
from typing import Any

import numpy as np

from tlkit.errors import SpecError, unknown

SIDE = 224  # pixels: the image side for which lengths are given
SEVERITIES = (1, 2, 3, 4, 5)
CORRUPTIONS: dict[str, tuple[float, ...]] = {  # name -> strength at each severity
    "gaussian_noise": (0.08, 0.12, 0.18, 0.26, 0.38),  # standard deviation, values from 0 to 1
    "shot_noise": (60, 25, 12, 5, 3),  # photons per white pixel
    "defocus_blur": (3, 4, 6, 8, 10),  # pixels, radius of the disc
    "motion_blur": (10, 17, 24, 28, 37),  # pixels, length of the line
    "fog": (1.5, 2.0, 2.5, 2.75, 3.0),  # light added where the fog is thickest, values from 0 to 1
    "brightness": (0.1, 0.2, 0.3, 0.4, 0.5),  # added, values from 0 to 1
    "contrast": (0.4, 0.3, 0.2, 0.1, 0.05),  # factor
    "elastic_transform": (0.006, 0.009, 0.013, 0.018, 0.025),  # of the side: typical displacement
    "pixelate": (0.6, 0.5, 0.4, 0.3, 0.25),  # of the side: resolution that is left
    "jpeg_compression": (25, 18, 15, 10, 7),  # quality
}
SOFT = 0.5  # pixels: blur of the edge of the defocus_blur disc, as in most of ImageNet-C's severities
SMOOTH = 0.04  # of the side: the distance over which displacements of elastic_transform are similar
FRACTAL = 2.0  # exponent of the fog's spectrum: the higher, the larger the clouds


def corrupt(images: np.ndarray, name: str, severity: int, seed: int = 0) -> np.ndarray:
    """Corrupt images.

    Args:
        images: uint8, shape (n, height, width, 3), RGB.
        name: one of `CORRUPTIONS`.
        severity: 0 (unchanged images) to 5.
        seed: the same seed gives the same pixels.

    Returns: uint8, the same shape.

    Raises:
        NameUnknown: if there is no such corruption.
        SpecError: if there is no such severity.

    >>> images = np.full((1, 32, 32, 3), 100, "uint8")
    >>> int(corrupt(images, "brightness", 1).mean())
    125
    """
    if name not in CORRUPTIONS:
        raise unknown("corruption", name, CORRUPTIONS)
    if severity not in (0, *SEVERITIES):
        raise SpecError(f"severity is {severity}. Expected a whole number from 0 to {len(SEVERITIES)}.")
    if severity == 0 or not len(images):
        return images.copy()
    change = _corruption(name, severity, min(images.shape[1:3]))
    return np.stack([change(np.ascontiguousarray(one), _image_seed(seed, index)) for index, one in enumerate(images)])


def _image_seed(seed: int, index: int) -> int:
    return int(np.random.SeedSequence((seed, index)).generate_state(1)[0])


def _corruption(name: str, severity: int, side: int) -> Callable[[np.ndarray, int], np.ndarray]:
    """The function that corrupts one image, given the image and its own seed."""
    strength = CORRUPTIONS[name][severity - 1]
    if name == "fog":
        return functools.partial(_fog, amount=strength)
    library = _albumentations()
    pipeline = library.Compose([_transform(library, name, strength, side)])

    def change(image: np.ndarray, seed: int) -> np.ndarray:
        pipeline.set_random_seed(seed)
        return pipeline(image=image)["image"]

    return change


@functools.cache
def _albumentations() -> ModuleType:
    os.environ.setdefault("NO_ALBUMENTATIONS_UPDATE", "1")  # otherwise the import looks for updates on the network
    import albumentations

    return albumentations


def _transform(library: Any, name: str, strength: float, side: int) -> Any:
    """An albumentations transform of this strength that is always applied."""
    import cv2

    both = (strength, strength)
    smooth = max(1.0, SMOOTH * side)  # pixels
    radius, length = math.ceil(strength * side / SIDE), _odd(strength * side / SIDE)
    transforms: dict[str, Callable[[], Any]] = {
        "gaussian_noise": lambda: library.GaussNoise(std_range=both, per_channel=True, p=1.0),
        "shot_noise": lambda: library.ShotNoise(scale_range=(1 / strength, 1 / strength), p=1.0),
        "defocus_blur": lambda: library.Defocus(radius=(radius, radius), alias_blur=(SOFT, SOFT), p=1.0),
        "motion_blur": lambda: library.MotionBlur(
            blur_limit=(length, length),
            angle_range=(0, 360),
            direction_range=(0, 0),
            allow_shifted=False,
            p=1.0,
        ),
        "brightness": lambda: library.RandomBrightnessContrast(brightness_limit=both, contrast_limit=(0, 0), p=1.0),
        "contrast": lambda: library.ColorJitter(brightness=(1, 1), contrast=both, saturation=(1, 1), hue=(0, 0), p=1.0),
        "elastic_transform": lambda: library.ElasticTransform(
            alpha=_elastic_alpha(strength * side, smooth),
            sigma=smooth,
            noise_distribution="uniform",
            border_mode=cv2.BORDER_REFLECT_101,
            p=1.0,
        ),
        "pixelate": lambda: library.Downscale(
            scale_range=both,
            interpolation_pair={"downscale": cv2.INTER_AREA, "upscale": cv2.INTER_NEAREST_EXACT},
            p=1.0,
        ),
        "jpeg_compression": lambda: library.ImageCompression(
            compression_type="jpeg", quality_range=(int(strength), int(strength)), p=1.0
        ),
    }
    return transforms[name]()


def _odd(length: float) -> int:
    """Round up to an odd number of pixels, at least 3."""
    return max(3, 2 * math.ceil((length - 1) / 2) + 1)


def _elastic_alpha(displacement: float, sigma: float) -> float:
    """The `alpha` of ElasticTransform that gives this root mean square displacement.

    The transform multiplies white noise from -1 to 1, blurred by `sigma`, by alpha.
    """
    return displacement * 3**0.5 * 2 * np.pi**0.5 * sigma


def _fog(image: np.ndarray, seed: int, *, amount: float) -> np.ndarray:
    values = image.astype("float32") / 255
    brightest = max(float(values.max()), 1e-6)
    clouds = amount * _clouds(image.shape[0], image.shape[1], seed)[..., None]
    return np.rint(255 * (values + clouds) * brightest / (brightest + amount)).clip(0, 255).astype("uint8")


def _clouds(height: int, width: int, seed: int) -> np.ndarray:
    """Fractal noise from 0 to 1: float32, shape (height, width). Amplitudes fall with frequency."""
    noise = np.random.default_rng(seed).normal(size=(height, width))
    frequency = np.hypot(np.fft.fftfreq(height)[:, None], np.fft.rfftfreq(width))
    frequency[0, 0] = np.inf
    found = np.fft.irfft2(np.fft.rfft2(noise) / frequency**FRACTAL, s=(height, width))
    found -= found.min()
    return (found / max(found.max(), 1e-12)).astype("float32")
