"""Random variation of training images: the only file that imports albumentations and cv2.

What a picture becomes depends on the augmentation and one seed alone, so any number of threads, in any order, give the
same pixels. Shift, zoom and rotation are one warp; the border is filled by reflection.
"""

from __future__ import annotations

import os
import threading
from typing import Any

import numpy as np

from tlkit.spec import Augmentation

_of_thread = threading.local()


def augment(image: np.ndarray, augmentation: Augmentation, seed: tuple[int, ...]) -> np.ndarray:
    """One random version of a picture.

    image: uint8, shape (height, width, 3), RGB. seed: whole numbers, such as (seed, epoch, index); the same numbers give
    the same version on every thread. Returns uint8 of the same shape.

    >>> image = np.zeros((8, 8, 3), "uint8")
    >>> int(augment(image, Augmentation(brightness=(0.2, 0.2)), (0, 0, 0)).max())
    51
    """
    if augmentation.is_identity():
        return image
    pipeline = _pipeline(augmentation)
    pipeline.set_random_seed(int(np.random.SeedSequence(seed).generate_state(1)[0]))
    return pipeline(image=np.ascontiguousarray(image))["image"]


def augment_all(images: np.ndarray, augmentation: Augmentation, seeds: list[tuple[int, ...]]) -> np.ndarray:
    """`augment` over a batch: uint8, shape (n, height, width, 3), one seed each."""
    return np.stack([augment(image, augmentation, seed) for image, seed in zip(images, seeds, strict=True)])


def _pipeline(augmentation: Augmentation) -> Any:
    """This thread's own pipeline: a shared one under threads is not repeatable."""
    known = _of_thread.__dict__.setdefault("pipelines", {})
    if augmentation not in known:
        known[augmentation] = _build(augmentation)
    return known[augmentation]


def _build(augmentation: Augmentation) -> Any:
    """The pipeline. Albumentations only warns of an argument it does not know: a test makes those warnings errors.

    It is not done here, because this runs on threads, and Python's warning filters are one for all of them.
    """
    os.environ.setdefault("NO_ALBUMENTATIONS_UPDATE", "1")  # importing it asks the network otherwise
    import albumentations as A
    import cv2

    cv2.setNumThreads(0)
    a, steps = augmentation, []
    if (a.shift_x, a.shift_y, a.zoom, a.rotate) != ((0, 0), (0, 0), (1, 1), (0, 0)):
        steps.append(
            A.Affine(
                scale=a.zoom,
                translate_percent={"x": a.shift_x, "y": a.shift_y},
                rotate=a.rotate,
                shear=0,
                border_mode=cv2.BORDER_REFLECT_101,
                keep_ratio=True,
                p=1.0,
            )
        )
    if a.flip_horizontal:
        steps.append(A.HorizontalFlip(p=a.flip_horizontal))
    if a.flip_vertical:
        steps.append(A.VerticalFlip(p=a.flip_vertical))
    if a.brightness != (0, 0):
        steps.append(
            A.RandomBrightnessContrast(
                brightness_limit=a.brightness, contrast_limit=(0, 0), brightness_by_max=True, p=1.0
            )
        )
    if a.colour_cast != (0, 0):
        limit = (a.colour_cast[0] * 255, a.colour_cast[1] * 255)
        steps.append(A.RGBShift(r_shift_limit=limit, g_shift_limit=limit, b_shift_limit=limit, p=1.0))
    return A.Compose(steps)
