"""Random augmentation of training images. Only this file and `corruptions` import albumentations and cv2.

The result depends on the image, the augmentation and one seed, so any number of threads, in any order, gives the same
pixels. Shift, zoom, rotation, stretch and crop are one warp. Brightness, contrast and colour shifts are one lookup
table.
"""

from __future__ import annotations

import functools
import math
import os
import threading
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from tlkit.plan.augmentation import Augmentation

# Variances of ImageNet's colours along their principal axes, for values from 0 to 1. The axes are columns, in red,
# green and blue. As published with the training code of Gross and Wilber 2016 for ResNets.
IMAGENET_COLOUR_VARIANCES = np.array([0.2175, 0.0188, 0.0045])
IMAGENET_COLOUR_AXES = np.array([[-0.5675, 0.7192, 0.4009], [-0.5808, -0.0045, -0.8140], [-0.5836, -0.6948, 0.4203]])

# Increase it when `augment` draws or computes another version from the same seed, so that old caches are not found.
AUGMENTATION_VERSION = 1

_VALUES = np.arange(256)[:, None]
_thread_local = threading.local()


def augment(image: np.ndarray, augmentation: Augmentation, seed: tuple[int, ...]) -> np.ndarray:
    """Augment one image at random.

    Args:
        image: uint8, shape (height, width, 3), RGB.
        augmentation: the fields and their ranges.
        seed: integers, such as (seed, epoch, index). The same integers give the same version on every thread.

    Returns: uint8, the same shape.

    >>> image = np.zeros((8, 8, 3), "uint8")
    >>> int(augment(image, Augmentation(brightness=(0.2, 0.2)), (0, 0, 0)).max())
    51
    """
    if augmentation.is_identity():
        return image
    pipeline = _pipeline(augmentation)
    pipeline.set_random_seed(int(np.random.SeedSequence(seed).generate_state(1)[0]))
    return pipeline(image=np.ascontiguousarray(image))["image"]


def augmentation_version() -> str:
    """What `augment` depends on beside its arguments: the versions of this file, albumentations and cv2."""
    A, cv2 = _libraries()
    return f"v{AUGMENTATION_VERSION}-{A.__version__}-{cv2.__version__}"


def augment_and_tell(
    image: np.ndarray, augmentation: Augmentation, seed: tuple[int, ...]
) -> tuple[np.ndarray, dict[str, float]]:
    """Augment one image as `augment` does, and return the drawn values too.

    Returns: the image, and field -> value in the field's unit. Colour cast and PCA colour are given as the value of the
        channel that changes most.

    >>> augment_and_tell(np.zeros((8, 8, 3), "uint8"), Augmentation(brightness=(0.2, 0.2)), (0,))[1]
    {'brightness': 0.2}
    """
    if augmentation.is_identity():
        return image, {}
    pipeline = _pipeline(augmentation, tell=True)
    pipeline.set_random_seed(int(np.random.SeedSequence(seed).generate_state(1)[0]))
    found = pipeline(image=np.ascontiguousarray(image))
    drawn: dict[str, float] = {}
    flips = {"HorizontalFlip": "flip_horizontal", "VerticalFlip": "flip_vertical", "HalfTurn": "half_turn"}
    for name, values in found["applied_transforms"]:
        drawn |= {flips[name]: 1.0} if name in flips else values.get("drawn", {})
    return found["image"], {
        name: drawn[name] for name in augmentation.fields() if _is_not_identity(name, drawn.get(name))
    }


def _is_not_identity(name: str, value: float | None) -> bool:
    off = getattr(Augmentation, name)
    return value is not None and abs(value - (off[0] if isinstance(off, tuple) else off)) > 1e-9


def scaled_crop(image: np.ndarray, size: int, scales: tuple[int, int], seed: tuple[int, ...]) -> np.ndarray:
    """Scale one image to a random size, and cut a random square out of it (Simonyan and Zisserman 2015).

    Args:
        image: uint8, shape (height, width, 3), RGB.
        size: pixels per side of the result.
        scales: the smallest and the largest length of the scaled image's shorter side, in pixels, size or more.
        seed: as for `augment`.

    Returns: uint8, shape (size, size, 3).

    >>> scaled_crop(np.zeros((8, 8, 3), "uint8"), 4, (4, 16), (0, 0, 0)).shape
    (4, 4, 3)
    """
    _, cv2 = _libraries()
    random = np.random.default_rng(seed)
    side = int(random.integers(scales[0], scales[1] + 1))
    height, width = (round(one * side / min(image.shape[:2])) for one in image.shape[:2])
    top, left = (int(random.integers(one - size + 1)) for one in (height, width))
    shrinks = side < min(image.shape[:2])
    scaled = cv2.resize(image, (width, height), interpolation=cv2.INTER_AREA if shrinks else cv2.INTER_LINEAR)
    return scaled[top : top + size, left : left + size]


def augment_all(images: np.ndarray, augmentation: Augmentation, seeds: Sequence[tuple[int, ...]]) -> np.ndarray:
    """Apply `augment` to a batch: uint8, shape (n, height, width, 3), one seed per image."""
    return np.stack([augment(image, augmentation, seed) for image, seed in zip(images, seeds, strict=True)])


def _pipeline(augmentation: Augmentation, tell: bool = False) -> Any:
    """This thread's own pipeline. One that threads share would not be reproducible."""
    known = _thread_local.__dict__.setdefault("pipelines", {})
    if (augmentation, tell) not in known:
        known[augmentation, tell] = _build(augmentation, tell)
    return known[augmentation, tell]


def _build(augmentation: Augmentation, tell: bool = False) -> Any:
    """Build the pipeline.

    Albumentations only warns about an argument that it does not know. A test turns these warnings into errors. That is
    not done here, because this runs on threads, and all threads share Python's warning filters.
    """
    A, _ = _libraries()
    if augmentation.policy == "all":
        return A.Compose(_steps(augmentation), save_applied_params=tell)
    single = [_steps(augmentation.only(name)) for name in augmentation.fields()]
    choices = [A.Sequential(steps or [A.NoOp()], p=1.0) for steps in [*single, []]]
    return A.Compose([A.OneOf(choices, p=1.0)], save_applied_params=tell)


def _steps(augmentation: Augmentation) -> list[Any]:
    on = set(augmentation.fields())
    return [build(augmentation) for fields, build in _BUILDERS.items() if on & set(fields)]


@functools.cache
def _libraries() -> tuple[Any, Any]:
    """Import albumentations and cv2 at first use. Our transforms subclass theirs, so they are made at first use too."""
    os.environ.setdefault("NO_ALBUMENTATIONS_UPDATE", "1")  # otherwise the import looks for updates on the network
    import albumentations as A
    import cv2

    cv2.setNumThreads(0)
    return A, cv2


@functools.cache
def _warp() -> Any:
    A, cv2 = _libraries()
    base: Any = A.Affine
    borders = {
        "reflect": cv2.BORDER_REFLECT_101,
        "replicate": cv2.BORDER_REPLICATE,
        "wrap": cv2.BORDER_WRAP,
        "black": cv2.BORDER_CONSTANT,
    }

    class Warp(base):
        """Shift, zoom, rotation, stretch and crop as one matrix, so that pixels are interpolated only once."""

        def __init__(self, a: Augmentation) -> None:
            super().__init__(
                scale=a.zoom,
                translate_percent={"x": a.shift_x, "y": a.shift_y},
                rotate=a.rotate,
                shear=0,
                border_mode=borders[a.border],
                keep_ratio=True,
                p=1.0,
            )
            self.stretch, self.crop = a.stretch, a.crop

        def get_params_dependent_on_data(self, params: dict[str, Any], data: dict[str, Any]) -> dict[str, Any]:
            found = super().get_params_dependent_on_data(params, data)
            height, width = params["shape"][:2]
            drawn = {"zoom": found["scale"]["x"], "rotate": found["rotate"]}
            middle = found["matrix"] @ [(width - 1) / 2, (height - 1) / 2, 1]
            drawn |= {"shift_x": middle[0] / width - (width - 1) / width / 2}
            drawn |= {"shift_y": middle[1] / height - (height - 1) / height / 2}
            found["drawn"] = drawn
            if self.stretch != (1, 1):
                drawn["stretch"] = self.py_random.uniform(*self.stretch)
                factor = drawn["stretch"] ** 0.5
                found["matrix"] = found["matrix"] @ _scale_about_centre(factor, 1 / factor, width, height)
            if self.crop != (1, 1):
                drawn["crop"] = self.py_random.uniform(*self.crop)
                found["matrix"] = found["matrix"] @ _crop_matrix(drawn["crop"], width, height, self.py_random.uniform)
            return found

    return Warp


@functools.cache
def _half_turn() -> Any:
    A, _ = _libraries()
    base: Any = A.ImageOnlyTransform

    class HalfTurn(base):
        """Rotation by 180 degrees."""

        def apply(self, img: np.ndarray, **params: Any) -> np.ndarray:
            return np.ascontiguousarray(img[::-1, ::-1])

    return HalfTurn


@functools.cache
def _tone() -> Any:
    A, cv2 = _libraries()
    base: Any = A.ImageOnlyTransform

    class Tone(base):
        """Brightness, contrast and both colour shifts as one lookup table of 256 values per channel."""

        def __init__(self, a: Augmentation) -> None:
            super().__init__(p=1.0)
            self.of = a

        def get_params(self) -> dict[str, Any]:
            a, draw = self.of, self.py_random.uniform
            drawn = {"brightness": draw(*a.brightness), "contrast": draw(*a.contrast)}
            cast = np.array([draw(*a.colour_cast) for _ in range(3)])
            shift = np.zeros(3)
            if a.pca_colour:
                alphas = np.array([self.py_random.gauss(0, a.pca_colour) for _ in range(3)])
                shift = IMAGENET_COLOUR_AXES @ (alphas * IMAGENET_COLOUR_VARIANCES)
            for name, one in (("colour_cast", cast), ("pca_colour", shift)):
                drawn[name] = float(one[np.abs(one).argmax()])
            added = 255 * (drawn["brightness"] + cast + shift)
            values = (_VALUES - 127.5) * (1 + drawn["contrast"]) + 127.5 + added
            return {"table": np.rint(values).clip(0, 255).astype("uint8"), "drawn": drawn}

        def apply(self, img: np.ndarray, table: np.ndarray, **params: Any) -> np.ndarray:
            return cv2.LUT(img, table[None])

    return Tone


@functools.cache
def _vignette() -> Any:
    A, cv2 = _libraries()
    base: Any = A.ImageOnlyTransform

    class Vignette(base):
        """Darkening that grows with the squared distance from the centre."""

        def __init__(self, a: Augmentation) -> None:
            super().__init__(p=1.0)
            self.range = a.vignette

        def get_params(self) -> dict[str, Any]:
            return {"drawn": {"vignette": self.py_random.uniform(*self.range)}}

        def apply(self, img: np.ndarray, drawn: dict[str, float], **params: Any) -> np.ndarray:
            light = 1 - drawn["vignette"] * _squared_distance(*img.shape[:2])
            return cv2.multiply(img, cv2.merge([light] * 3), dtype=cv2.CV_8U)

    return Vignette


# fields -> the function that builds one transform for all of them, in the order in which transforms are applied
_BUILDERS: dict[tuple[str, ...], Callable[[Augmentation], Any]] = {
    ("shift_x", "shift_y", "zoom", "rotate", "stretch", "crop"): lambda a: _warp()(a),
    ("flip_horizontal",): lambda a: _libraries()[0].HorizontalFlip(p=a.flip_horizontal),
    ("flip_vertical",): lambda a: _libraries()[0].VerticalFlip(p=a.flip_vertical),
    ("half_turn",): lambda a: _half_turn()(p=a.half_turn),
    ("brightness", "contrast", "colour_cast", "pca_colour"): lambda a: _tone()(a),
    ("vignette",): lambda a: _vignette()(a),
}


def _crop_matrix(area: float, width: int, height: int, draw: Callable[[float, float], float]) -> np.ndarray:
    """The matrix that enlarges a random crop to the whole image. area: the crop's share of the image."""
    ratio = math.exp(draw(math.log(3 / 4), math.log(4 / 3)))
    across, down = min(1.0, (area * ratio) ** 0.5), min(1.0, (area / ratio) ** 0.5)
    left, top = draw(0, 1 - across) * width, draw(0, 1 - down) * height
    x, y = left + across * width / 2 - width / 2, top + down * height / 2 - height / 2
    moved = np.array([[1, 0, -x], [0, 1, -y], [0, 0, 1]])
    return _scale_about_centre(1 / across, 1 / down, width, height) @ moved


def _scale_about_centre(across: float, down: float, width: int, height: int) -> np.ndarray:
    """The matrix that scales about the image centre. Pixel centres have integer coordinates."""
    x, y = (width - 1) / 2, (height - 1) / 2
    return np.array([[across, 0, x - across * x], [0, down, y - down * y], [0, 0, 1]])


@functools.lru_cache(maxsize=4)
def _squared_distance(height: int, width: int) -> np.ndarray:
    """The squared distance from the centre, scaled to 1 in the corners: float32, shape (height, width)."""
    y, x = np.linspace(-1, 1, height)[:, None], np.linspace(-1, 1, width)
    return ((x**2 + y**2) / 2).astype("float32")
