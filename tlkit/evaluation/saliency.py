"""Saliency maps: class activation maps and occlusion.

A map is float32, shape (rows, columns), 0 or more. A larger value means that the position supports the class more.
Works on every classifier of `tlkit.build_classifier` whose head reads feature maps. Needs the TensorFlow backend for
gradients.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence

import keras
import numpy as np

from tlkit.errors import SpecError
from tlkit.models.blocks import feature_maps
from tlkit.models.inference import frozen_call
from tlkit.progress import counted_off

COLOURS = ((0.0, (0, 0, 4)), (0.35, (120, 28, 109)), (0.65, (237, 105, 37)), (1.0, (252, 255, 164)))


class ClassActivationMaps:
    """Class activation maps of a classifier, over every block that its head reads.

    The contribution of a position is the sum over the channels of each feature map times the gradient of the class's
    logit with respect to it, at that position. The contributions of several blocks are averaged over the cells of the
    topmost block's grid and added; in a map, negative values are set to 0.

    For a head without hidden layers this is the class activation map (Zhou et al. 2016, arXiv:1512.04150), and exact:
    the mean of the contributions over the positions is the logit less its bias (its value where all features are 0).
    This holds for every pooling (average, maximum, both, flattened), and with BatchNormalization before the logits.
    For a head with hidden layers it is gradient times activation (HiResCAM, Draelos and Carin 2020,
    arXiv:2011.08891), which is exact for the linear function that the network is around the image's features.

    Where every position lowers the logit, which is then high through its bias alone, the map is empty. This happens to
    classes that are told by what an image lacks, more often with a head on several blocks.

    Attributes:
        method: "class activation map" or "gradient times activation".

    Raises SpecError for a model whose head reads anything but feature maps, such as an ensemble.
    """

    def __init__(self, model: keras.Model, batch_size: int = 16) -> None:
        ends = feature_maps(model)
        if not ends or any(len(end.shape) != 4 for end in ends):
            raise SpecError(
                f"The model '{model.name}' has no feature maps before its head, so no class activation map exists. "
                'Use occlusion (`method="occlusion"`).'
            )
        self._logits = model.get_layer("predictions")
        hidden = any(layer.name.startswith("head_dense_") for layer in model.layers)
        self.method = "gradient times activation" if hidden else "class activation map"
        self._batch, self._shape = batch_size, model.input_shape[1:]
        self._prefix = frozen_call(keras.Model(model.input, ends), batch_size)
        self._suffix = keras.Model(ends, self._logits.input)

    def milliseconds(self) -> float:
        """Milliseconds per image that the network takes on this machine, in batches: the best of three."""
        blank = np.zeros((self._batch, *self._shape), "uint8")
        self._prefix(blank)  # traces
        times = []
        for _ in range(3):
            before = time.perf_counter()
            self._prefix(blank)
            times.append(time.perf_counter() - before)
        return 1000 * min(times) / self._batch

    def __call__(self, images: np.ndarray, classes: Sequence[int] | None = None) -> tuple[np.ndarray, np.ndarray]:
        """Compute the maps of some images.

        Args:
            images: uint8 or float, RGB 0-255, shape (n, height, width, 3).
            classes: Index of the class to explain, for each image. Default: the most probable.

        Returns:
            Maps, shape (n, rows, columns), each with a maximum of 1, and the probabilities, shape (n, classes). The map
            is 0 everywhere if no position supports the class, see `has_map`.
        """
        signed, probabilities = self.contributions(images, classes)
        return _to_1(np.maximum(signed, 0)), probabilities

    def contributions(self, images: np.ndarray, classes: Sequence[int] | None = None) -> tuple[np.ndarray, np.ndarray]:
        """Compute how much each position adds to the logit of a class.

        Args: as of a call.

        Returns:
            Contributions, float32, shape (n, rows, columns), of either sign, and the probabilities, shape (n, classes).
        """
        found = [
            self._of_batch(
                images[start : start + self._batch],
                None if classes is None else classes[start : start + self._batch],
            )
            for start in range(0, len(images), self._batch)
        ]
        maps, probabilities = zip(*found, strict=True)
        return np.concatenate(maps), np.concatenate(probabilities)

    def _of_batch(self, images: np.ndarray, classes: Sequence[int] | None) -> tuple[np.ndarray, np.ndarray]:
        import tensorflow as tf

        ends = [tf.constant(one) for one in self._prefix(images)]
        with tf.GradientTape() as tape:
            tape.watch(ends)
            features = tf.cast(self._suffix(ends, training=False), tf.float32)
            logits = features @ tf.convert_to_tensor(self._logits.kernel) + tf.convert_to_tensor(self._logits.bias)
            chosen = tf.argmax(logits, axis=1) if classes is None else tf.constant(classes, tf.int64)
            picked = tf.gather(logits, chosen, batch_dims=1)
        rows, columns = ends[-1].shape[1:3]
        total = np.zeros((len(images), rows, columns))
        for end, slope in zip(ends, tape.gradient(picked, ends), strict=True):
            product = tf.cast(end, tf.float32) * tf.cast(slope, tf.float32)
            map_ = tf.reduce_sum(product, axis=-1).numpy().astype(float)
            positions = map_.shape[1] * map_.shape[2]
            total += positions * (_cells(rows, map_.shape[1]) @ map_ @ _cells(columns, map_.shape[2]).T)
        return total.astype("float32"), tf.nn.softmax(logits).numpy()


def _cells(count: int, length: int) -> np.ndarray:
    """The matrix that averages `length` positions over `count` equal cells: shape (count, length), rows of sum 1."""
    edges = np.linspace(0, length, count + 1)
    low, high = np.maximum(edges[:-1, None], np.arange(length)), np.minimum(edges[1:, None], np.arange(1, length + 1))
    return np.maximum(high - low, 0) * count / length


def has_map(maps: np.ndarray) -> np.ndarray:
    """Whether each map shows anything: bool, shape (n,). An empty one says that no position supports the class.

    maps: shape (n, rows, columns), 0 or more.
    """
    return np.asarray(maps.max(axis=(1, 2)) > 0)


def occlusion_maps(
    model: keras.Model, images: np.ndarray, classes: Sequence[int], *, patches: int = 8, batch_size: int = 32
) -> np.ndarray:
    """Compute how far a class's probability falls when a patch is covered (Zeiler and Fergus 2014, arXiv:1311.2901).

    A patch is covered with the image's mean colour. It is twice as wide as the step between patches. Takes patches² + 1
    forward passes for each image.

    Args:
        images: uint8, RGB, shape (n, height, width, 3).
        classes: Index of the class to explain, for each image.
        patches: Steps along each side.

    Returns:
        Maps, shape (n, patches, patches); negative values are set to 0. One that is 0 everywhere says that covering no
        patch lowers the probability, see `has_map`.
    """
    call = frozen_call(model, batch_size)
    pairs = counted_off(zip(images, classes, strict=True), len(images), "map")
    return np.stack([_occluded(call, *one, patches, batch_size) for one in pairs])


def _occluded(
    call: Callable[[np.ndarray], list[np.ndarray]], image: np.ndarray, chosen: int, patches: int, batch_size: int
) -> np.ndarray:
    height, width = image.shape[:2]
    covered = np.repeat(image[None], patches**2 + 1, axis=0)
    mean = image.reshape(-1, 3).mean(0).astype(image.dtype)
    for row in range(patches):
        for column in range(patches):
            top, left = (int((at - 0.5) * side / patches) for at, side in ((row, height), (column, width)))
            bottom, right = (int((at + 1.5) * side / patches) for at, side in ((row, height), (column, width)))
            covered[1 + row * patches + column, max(top, 0) : bottom, max(left, 0) : right] = mean
    found = [call(covered[start : start + batch_size])[0] for start in range(0, len(covered), batch_size)]
    probabilities = np.concatenate(found)[:, chosen]
    return np.maximum(probabilities[0] - probabilities[1:], 0).reshape(patches, patches)


def enlarged(maps: np.ndarray, size: int) -> np.ndarray:
    """Maps enlarged by bilinear interpolation: float32, shape (n, size, size)."""
    from PIL import Image

    box = (size, size)
    return np.stack([np.asarray(Image.fromarray(one).resize(box, Image.Resampling.BILINEAR)) for one in maps])


def overlay(image: np.ndarray, map_: np.ndarray) -> np.ndarray:
    """The image in grey with its map in colour over it: uint8, shape (height, width, 3)."""
    heat = enlarged(_to_1(map_[None].astype("float32")), image.shape[0])[0]
    return coloured(image, heat, heat)


def coloured(image: np.ndarray, heat: np.ndarray, weight: np.ndarray) -> np.ndarray:
    """The image in grey with colours over it: uint8, shape (height, width, 3).

    heat: 0 to 1, shape (height, width), black to light yellow. weight: 0 to 1, how much each pixel is coloured.
    """
    grey, share = image.mean(-1, keepdims=True), 0.6 * weight[..., None]
    colour = np.stack(
        [np.interp(heat, [at for at, _ in COLOURS], [one[c] for _, one in COLOURS]) for c in range(3)], -1
    )
    return (grey * (1 - share) + colour * share).clip(0, 255).astype("uint8")


def _to_1(maps: np.ndarray) -> np.ndarray:
    return maps / np.maximum(maps.max(axis=(1, 2), keepdims=True), 1e-12)
