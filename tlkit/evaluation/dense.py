"""Dense maps: a classifier's answer at every position of a larger image, in one pass through its convolutions.

The backbone runs once over the larger image, with the same weights. The head then reads a window of the native size at
every position of the feature map: average pooling becomes average pooling over that window at stride 1, and a fully
connected layer on the flattened map becomes a convolution whose kernel has the window's size (OverFeat, Sermanet et al.
2014, arXiv:1312.6229).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import keras
import numpy as np

from tlkit.backbones.graph import ancestors_of, crossing_tensors, graph_nodes
from tlkit.errors import SpecError
from tlkit.evaluation.receptive_field import receptive_field
from tlkit.evaluation.saliency import coloured
from tlkit.models.blocks import feature_maps
from tlkit.models.inference import frozen_call
from tlkit.progress import counted_off

POSITIONS = 128  # through the head at a time


class DenseNetwork:
    """A classifier rebuilt for larger images; it shares the weights.

    The probabilities at a position are the model's answer on the crop of the native size there, `crop_at`, exactly so
    where no layer pads and none sees the whole image. Where layers pad, the crop's border is padded with zeros and the
    larger image's is not, so the answers differ by what a border is worth; behind squeeze and excitation, which
    averages over the whole image, they differ more. `compared` measures by how much.

    Attributes:
        size: Pixels of each side of the larger images.
        window: Pixels of each side of the model's own images.
        step: Pixels from one position to the next.

    Raises SpecError for a model without feature maps before its head, and for one that takes no larger images, such as
    a transformer with an embedding for each position.
    """

    def __init__(self, model: keras.Model, size: int, batch_size: int = 4) -> None:
        """model: a functional classifier of square images. size: raised to the next one that fits whole steps."""
        ends = _ends(model)
        steps = [_step(model, end) for end in ends]
        self.window, self.step, self._model = int(model.input_shape[1]), max(steps), model
        more = max(0, -(-(size - self.window) // self.step))
        self.size, self.side = self.window + more * self.step, more + 1
        large = _rebuilt(keras.Model(model.input, ends), self.size)
        self._strides = [self.step // one for one in steps]
        for end, grown, stride in zip(ends, large.outputs, self._strides, strict=True):
            expected = tuple(int(side) + more * stride for side in end.shape[1:3])
            if tuple(grown.shape[1:3]) != expected:
                raise SpecError(
                    f"At {self.size} pixels the feature maps of '{model.name}' have {grown.shape[1]} x "
                    f"{grown.shape[2]} positions. Expected {expected[0]} x {expected[1]}: a layer of it fixes the "
                    "size, so it gives no dense map."
                )
        self._windows = [tuple(map(int, end.shape[1:3])) for end in ends]
        self._prefix, self._batch = frozen_call(large, batch_size), batch_size
        self._suffix = frozen_call(keras.Model(ends, model.output), POSITIONS)

    def __call__(self, images: np.ndarray) -> np.ndarray:
        """The probabilities at each position: float32, shape (n, side, side, classes).

        images: uint8 or float, RGB 0-255, shape (n, size, size, 3).
        """
        starts = range(0, len(images), self._batch)
        parts = counted_off(starts, len(starts), "batch of image")
        return np.concatenate([self._of_batch(images[start : start + self._batch]) for start in parts])

    def _of_batch(self, images: np.ndarray) -> np.ndarray:
        views = []
        for end, window, stride in zip(self._prefix(images), self._windows, self._strides, strict=True):
            slid = np.lib.stride_tricks.sliding_window_view(end, window, axis=(1, 2))
            views.append(slid[:, ::stride, ::stride].transpose(0, 1, 2, 4, 5, 3))
        count = len(images) * self.side**2
        answers = []
        for start in range(0, count, POSITIONS):
            places = np.unravel_index(np.arange(start, min(start + POSITIONS, count)), views[0].shape[:3])
            answers.append(self._suffix([view[places] for view in views])[0])
        return np.concatenate(answers).reshape(len(images), self.side, self.side, -1)

    def crop_at(self, row: int, column: int) -> tuple[slice, slice]:
        """The rows and columns of the larger image that a position's window covers."""
        top, left = row * self.step, column * self.step
        return slice(top, top + self.window), slice(left, left + self.window)

    def compared(self, images: np.ndarray, maps: np.ndarray) -> dict[str, float]:
        """Compare maps with the model's answers on crops, at nine positions of each image: corners, edges, centre.

        Args: images as of a call; maps: what it returned.

        Returns:
            crops: how many were compared. mean, largest: the difference of probabilities. same_class: the share of
            crops that get the same class.
        """
        places = sorted({0, self.side // 2, self.side - 1})
        found = []
        call = frozen_call(self._model, len(places) ** 2)
        for image, map_ in zip(images, maps, strict=True):
            crops = np.stack([image[self.crop_at(row, column)] for row in places for column in places])
            found.append((call(crops)[0], map_[np.ix_(places, places)].reshape(len(crops), -1)))
        answers, dense = (np.concatenate(one) for one in zip(*found, strict=True))
        gap = np.abs(answers - dense)
        same = float((answers.argmax(1) == dense.argmax(1)).mean())
        return {"crops": len(answers), "mean": float(gap.mean()), "largest": float(gap.max()), "same_class": same}

    def drawn(self, image: np.ndarray, map_: np.ndarray) -> np.ndarray:
        """A larger image with a map over it: uint8, shape (size, size, 3). Black is 0, light yellow is 1.

        Every value is drawn at the centre of its crop, with smooth passages between. The margin, which is the centre of
        no crop, stays grey.

        map_: the probabilities of one class, shape (side, side).
        """
        at, centres = np.arange(self.size) + 0.5, self.window / 2 + self.step * np.arange(self.side)
        wide = np.stack([np.interp(at, centres, row) for row in map_])
        heat = np.stack([np.interp(at, centres, column) for column in wide.T], axis=1)
        inside = (at > centres[0] - self.step / 2) & (at < centres[-1] + self.step / 2)
        return coloured(image, heat, inside[:, None] & inside)


def _ends(model: keras.Model) -> Sequence[Any]:
    """The feature maps that the head reads; for any other model, those below its first flat layers."""
    ends = feature_maps(model)
    if not ends:
        nodes = graph_nodes(model)
        maps = [
            out
            for node in nodes.values()
            for out in node.output_tensors
            if len(out.shape) == 4 and (out.shape[1] or 0) > 1
        ]
        ends = list(crossing_tensors(ancestors_of(maps, nodes), nodes))
    if any(len(end.shape) != 4 for end in ends) or all(receptive_field(model, end).size == (1, 1) for end in ends):
        raise SpecError(
            f"The model '{model.name}' has no feature maps before its head, so it gives no dense map. Expected a "
            "convolutional network."
        )
    return ends


def _step(model: keras.Model, end: Any) -> int:
    rows, columns = receptive_field(model, end).step
    if rows != columns:
        raise SpecError(f"'{end.name}' has a position every {rows} x {columns} pixels. Expected the same both ways.")
    return rows


def _rebuilt(model: keras.Model, size: int) -> keras.Model:
    """The model with the same layers at another image size."""
    image = keras.Input((size, size, *model.input_shape[3:]), name="image")
    try:
        return keras.models.clone_model(model, input_tensors=image, clone_function=_of_any_size)
    except (ValueError, TypeError) as error:
        raise SpecError(
            f"The model '{model.name}' takes images of {model.input_shape[1]} pixels only, so it gives no dense map: "
            f"{str(error).splitlines()[0]}"
        ) from error


def _of_any_size(layer: keras.layers.Layer) -> keras.layers.Layer:
    """The layer itself; for a nested Sequential, which keeps the size it was built for, a new one of its layers."""
    return keras.Sequential(layer.layers, name=layer.name) if isinstance(layer, keras.Sequential) else layer
