"""Normalises raw RGB pixels, 0-255, as each family expects them, and builds a network after the normalisation."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from tlkit.errors import SpecError

_IMAGENET_MEAN = (0.485, 0.456, 0.406)  # RGB, of pixels in 0-1
_IMAGENET_DEVIATION = (0.229, 0.224, 0.225)
_CAFFE_MEANS = {  # BGR, of pixels in 0-255
    "caffe": (103.939, 116.779, 123.68),
    "bn_inception": (104, 117, 128),  # pretrainedmodels 0.7.4
}


@dataclass(frozen=True)
class NormalisedNetwork:
    """A network after its normalisation, so that its input is raw RGB 0-255.

    preprocessing: "caffe" (BGR, means subtracted), "bn_inception" (the same with other means), "tf" (-1 to 1), "torch"
        (0 to 1, mean and deviation), "efficientnet", "unit" (0 to 1), "included" if the network normalises its input
        itself, or another mean and deviation of RGB in 0 to 1, as "mean=0.5,0.4,0.4 deviation=0.2,0.2,0.2".
    network: a callable that takes normalised pixels, a Keras tensor of shape (n, size, size, 3), and returns features.
    """

    preprocessing: str
    network: Callable[[Any], Any]

    def __call__(self, size: int) -> tuple[Any, Any]:
        """Return the input, named "image", and the features at this image size."""
        import keras

        inputs = keras.Input((size, size, 3), name="image")
        return inputs, self.network(normalise(self.preprocessing, inputs))


def normalise(preprocessing: str, x: Any) -> Any:
    """Normalise pixels as `keras.applications` does for this kind of network, as float32 layers of the graph.

    EfficientNet's ImageNet weights store 0.229, 0.224, 0.225 as variances, though they are standard deviations. Keras
    corrects this by one more division, but only when it loads the weights itself by name
    (keras/src/applications/efficientnet.py). Here the pixels are scaled so that the network's own Normalization gives
    (pixel / 255 - mean) / deviation, whichever file the weights come from.
    """
    import keras

    layers = keras.layers
    if preprocessing in _CAFFE_MEANS:
        x = keras.ops.flip(x, axis=-1)  # RGB to BGR
        return layers.Rescaling(
            1.0, offset=[-m for m in _CAFFE_MEANS[preprocessing]], dtype="float32", name="normalise"
        )(x)
    if preprocessing == "unit":
        return layers.Rescaling(1 / 255, dtype="float32", name="normalise")(x)
    if preprocessing == "tf":
        return layers.Rescaling(1 / 127.5, offset=-1.0, dtype="float32", name="normalise")(x)
    if preprocessing == "torch":
        return _standardised(_IMAGENET_MEAN, _IMAGENET_DEVIATION, x)
    if preprocessing == "efficientnet":
        scale = [d**-0.5 for d in _IMAGENET_DEVIATION]
        offset = [255 * m * (1 - s) for m, s in zip(_IMAGENET_MEAN, scale, strict=True)]
        return layers.Rescaling(scale, offset=offset, dtype="float32", name="normalise")(x)
    return x if preprocessing == "included" else _standardised(*mean_and_deviation(preprocessing), x)


def _standardised(mean: Sequence[float], deviation: Sequence[float], x: Any) -> Any:
    import keras

    scale = [1 / (255 * d) for d in deviation]
    offset = [-m / d for m, d in zip(mean, deviation, strict=True)]
    return keras.layers.Rescaling(scale, offset=offset, dtype="float32", name="normalise")(x)


def pixels_of(mean: Sequence[float], deviation: Sequence[float]) -> str:
    """Return how pixels are normalised, as `NormalisedNetwork` takes it.

    mean, deviation: of R, G and B in 0 to 1.

    >>> pixels_of([0.5, 0.5, 0.5], [0.5, 0.5, 0.5]), pixels_of([0.5, 0.4, 0.4], [0.2, 0.2, 0.2])
    ('tf', 'mean=0.5,0.4,0.4 deviation=0.2,0.2,0.2')
    """
    pair = tuple(map(float, mean)), tuple(map(float, deviation))
    for name, known in _NAMED.items():
        if pair == known:
            return name
    return f"mean={','.join(map(repr, pair[0]))} deviation={','.join(map(repr, pair[1]))}"


_NAMED: dict[str, tuple[tuple[float, ...], tuple[float, ...]]] = {
    "torch": (_IMAGENET_MEAN, _IMAGENET_DEVIATION),
    "tf": ((0.5,) * 3, (0.5,) * 3),
    "unit": ((0.0,) * 3, (1.0,) * 3),
}


def mean_and_deviation(preprocessing: str) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Return the numbers that `pixels_of` was given. Raises SpecError for another text.

    >>> mean_and_deviation("tf")
    ((0.5, 0.5, 0.5), (0.5, 0.5, 0.5))
    """
    if preprocessing in _NAMED:
        return _NAMED[preprocessing]
    number = r"-?\d+(?:\.\d+)?(?:e-?\d+)?"
    triple = f"({number},{number},{number})"
    found = re.fullmatch(f"mean={triple} deviation={triple}", preprocessing)
    mean, deviation = (tuple(map(float, one.split(","))) for one in found.groups()) if found else ((), ())
    if not deviation or min(deviation) <= 0:
        raise SpecError(
            f"Pixels are normalised as '{preprocessing}', which is unknown. Expected caffe, tf, torch, efficientnet, "
            "unit, included, or 'mean=R,G,B deviation=R,G,B' with deviations above 0."
        )
    return mean, deviation
