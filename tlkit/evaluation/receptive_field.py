"""The receptive field of a position of a feature map: which pixels it sees. Computed from the model's graph."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import keras

from tlkit.backbones.graph import graph_nodes
from tlkit.errors import SpecError

Pair = tuple[int, int]  # of rows and columns


@dataclass(frozen=True)
class ReceptiveField:
    """What the positions of a feature map see of the image. Each pair is of rows and columns, in pixels.

    size: of the field. step: from one position's field to the next one's. start: where the first one begins, below 0 if
    it begins in the padding. whole: whether every position also sees the whole image through a vector, as behind
    squeeze and excitation; the size leaves this out.
    """

    size: Pair
    step: Pair
    start: Pair
    whole: bool = False

    def box(self, row: int, column: int, height: int, width: int) -> tuple[int, int, int, int]:
        """The field of a position, cut to an image: (top, left, bottom, right), in pixels.

        At a lower or right border the last pixels in it may be out of reach, where a stride leaves them over.
        """
        top, left = self.start[0] + row * self.step[0], self.start[1] + column * self.step[1]
        bottom, right = top + self.size[0], left + self.size[1]
        return max(top, 0), max(left, 0), min(bottom, height), min(right, width)


PIXEL = ReceptiveField((1, 1), (1, 1), (0, 0))


def receptive_field(model: keras.Model, tensor: Any) -> ReceptiveField:
    """Compute the receptive field of a feature map.

    Follows convolutions, pooling, padding and cropping; a layer that keeps the map's size, and has no kernel, is taken
    to act on each position by itself. Where branches meet, the field is the smallest box around theirs.

    Args:
        model: A functional model of one image.
        tensor: A tensor of its graph, shape (n, rows, columns, channels).

    Raises SpecError for a tensor of another shape, and for a layer that changes a map's size in another way.
    """
    fields: dict[int, ReceptiveField | None] = {}
    for operation, node in graph_nodes(keras.Model(model.inputs, tensor)).items():
        below = [fields[id(one)] for one in node.input_tensors]
        maps = [one for one in below if one is not None]
        found = _merged(maps, len(maps) < len(below)) if maps else None
        for out in node.output_tensors:
            if isinstance(operation, keras.layers.InputLayer):
                fields[id(out)] = PIXEL if len(out.shape) == 4 else None
                continue
            inputs = [one for one in node.input_tensors if fields[id(one)] is not None]
            if found is None or len(out.shape) != 4 or "Global" in type(operation).__name__:
                fields[id(out)] = None
            else:
                fields[id(out)] = _composed(found, _local(operation, inputs[0].shape, out.shape))
    result = fields[id(tensor)]
    if result is None:
        raise SpecError(
            f"'{tensor.name}' has shape {tuple(tensor.shape)}, which is no feature map. "
            "Expected (n, rows, columns, channels)."
        )
    return result


def _merged(fields: Sequence[ReceptiveField], whole: bool) -> ReceptiveField:
    """The smallest field around several. whole: whether a vector was among what they are merged with."""
    step = max((one.step for one in fields), key=sum)
    start = (min(one.start[0] for one in fields), min(one.start[1] for one in fields))
    end = [max(one.start[axis] + one.size[axis] for one in fields) for axis in (0, 1)]
    size = (end[0] - start[0], end[1] - start[1])
    return ReceptiveField(size, step, start, whole or any(one.whole for one in fields))


def _composed(below: ReceptiveField, above: ReceptiveField) -> ReceptiveField:
    """The field of a layer's output in pixels. above: in positions of the layer's input, which see `below`."""

    def pair(of_axis: Any) -> Pair:
        return of_axis(0), of_axis(1)

    return ReceptiveField(
        pair(lambda axis: below.size[axis] + (above.size[axis] - 1) * below.step[axis]),
        pair(lambda axis: below.step[axis] * above.step[axis]),
        pair(lambda axis: below.start[axis] + above.start[axis] * below.step[axis]),
        below.whole or above.whole,
    )


def _local(operation: Any, before: Sequence[Any], after: Sequence[Any]) -> ReceptiveField:
    """The field of one operation, in positions of its input. before, after: shapes of its input and output."""
    if isinstance(operation, keras.Model):
        return receptive_field(operation, operation.outputs[0])
    window = getattr(operation, "kernel_size", None) or getattr(operation, "pool_size", None)
    if window is not None and not isinstance(operation, keras.layers.Conv2DTranspose):
        dilation = getattr(operation, "dilation_rate", (1, 1))
        spread = [(int(k) - 1) * int(d) + 1 for k, d in zip(window, dilation, strict=True)]
        start = [0, 0]
        if operation.padding == "same":
            for axis, (size, stride) in enumerate(zip(spread, operation.strides, strict=True)):
                side, out = int(before[axis + 1]), int(after[axis + 1])
                start[axis] = -(max((out - 1) * stride + size - side, 0) // 2)
        return ReceptiveField((spread[0], spread[1]), tuple(operation.strides), (start[0], start[1]))
    if isinstance(operation, keras.layers.ZeroPadding2D):
        (top, _), (left, _) = operation.padding
        return ReceptiveField((1, 1), (1, 1), (-top, -left))
    if isinstance(operation, keras.layers.Cropping2D):
        (top, _), (left, _) = operation.cropping
        return ReceptiveField((1, 1), (1, 1), (top, left))
    if tuple(before[1:3]) == tuple(after[1:3]):
        return PIXEL
    raise SpecError(
        f"'{operation.name}' ({type(operation).__name__}) changes a feature map from {before[1]} x {before[2]} to "
        f"{after[1]} x {after[2]} positions in a way that is not known, so its receptive field is not known either."
    )
