"""Normalises raw RGB pixels, 0-255, as each family expects them, and builds a network after the normalisation."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

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
        (0 to 1, mean and deviation), "efficientnet", "unit" (0 to 1), or "included" if the network normalises its
        input itself.
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
        scale = [1 / (255 * d) for d in _IMAGENET_DEVIATION]
        offset = [-m / d for m, d in zip(_IMAGENET_MEAN, _IMAGENET_DEVIATION, strict=True)]
        return layers.Rescaling(scale, offset=offset, dtype="float32", name="normalise")(x)
    if preprocessing == "efficientnet":
        scale = [d**-0.5 for d in _IMAGENET_DEVIATION]
        offset = [255 * m * (1 - s) for m, s in zip(_IMAGENET_MEAN, scale, strict=True)]
        return layers.Rescaling(scale, offset=offset, dtype="float32", name="normalise")(x)
    return x
