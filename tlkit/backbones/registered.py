"""Layers of networks that Keras has no layer for, registered with Keras as `tlkit>NAME`.

Only what has randomness, or is differentiated with respect to positions, is a layer here; all else is written with
Keras' own layers and operations in the graph, so that a `.keras` file of it loads without tlkit. A file that holds one
of these layers loads where this module has been imported, as `tlkit.load_model` does. Written with `keras.ops`, so
they run on every Keras backend.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import keras


@keras.saving.register_keras_serializable(package="tlkit")
class AffineSampler(keras.layers.Layer):
    """Samples an image at the points of an affine grid, bilinearly (Jaderberg et al. 2015, arXiv:1506.02025).

    Called with [images, theta]: images, shape (n, height, width, channels); theta, shape (n, 6), the matrix
    ((a, b, c), (d, e, f)) by rows. The output at (x, y) is the image at (a x + b y + c, d x + e y + f). Coordinates run
    from -1 to 1, between the centres of the first and the last pixel; x is the column. Outside the image, pixels are
    0. theta = (1, 0, 0, 0, 1, 0) with the image's own size is the identity. Differentiable in images and theta.

    height, width: size of the output in pixels, 2 or more. Returns shape (n, height, width, channels).
    """

    def __init__(
        self, height: int, width: int, name: str | None = None, dtype: Any = None, trainable: bool = True
    ) -> None:
        super().__init__(name=name, dtype=dtype, trainable=trainable)
        self.height, self.width = height, width

    def call(self, inputs: Sequence[Any]) -> Any:
        """Sample the images."""
        ops = keras.ops
        images, theta = inputs
        rows, columns = images.shape[1:3]
        # positions are computed in float32 at least: float16 has no fractions of a pixel beyond 1,024
        kind = "float64" if keras.backend.standardize_dtype(theta.dtype) == "float64" else "float32"
        theta = ops.cast(ops.reshape(theta, (-1, 2, 3)), kind)
        x, y = ops.meshgrid(_steps(self.width, kind), _steps(self.height, kind))
        grid = ops.stack([ops.reshape(one, (-1,)) for one in (x, y, ops.ones_like(x))])
        points = ops.matmul(theta, grid)  # (n, 2, height * width)
        column, row = (points[:, 0] + 1) * (columns - 1) / 2, (points[:, 1] + 1) * (rows - 1) / 2
        left, top = ops.floor(column), ops.floor(row)
        flat = ops.reshape(images, (-1, rows * columns, images.shape[3]))
        total = 0
        for down in (0, 1):
            for right in (0, 1):
                r, c = top + down, left + right
                inside = (r >= 0) & (r <= rows - 1) & (c >= 0) & (c <= columns - 1)
                weight = (1 - ops.abs(row - r)) * (1 - ops.abs(column - c)) * ops.cast(inside, kind)
                index = ops.clip(r, 0, rows - 1) * columns + ops.clip(c, 0, columns - 1)
                pixels = ops.take_along_axis(flat, ops.cast(index, "int32")[..., None], axis=1)
                total = total + pixels * ops.cast(weight, images.dtype)[..., None]
        return ops.reshape(total, (-1, self.height, self.width, images.shape[3]))

    def compute_output_shape(self, input_shape: Sequence[Any]) -> tuple[int | None, ...]:
        """Return (n, height, width, channels)."""
        images = input_shape[0]
        return (images[0], self.height, self.width, images[3])

    def get_config(self) -> dict[str, Any]:
        """Return what `from_config` makes an equal layer of."""
        return {**_config(self), "height": self.height, "width": self.width}


@keras.saving.register_keras_serializable(package="tlkit")
class FractionalMaxPooling2D(keras.layers.Layer):
    """Max pooling that divides the size by a fraction, over overlapping random regions (Graham 2014, arXiv:1412.6071).

    Of n pixels along a side it makes round(n / ratio). The regions begin at the pixels 0 = b(0) < b(1) < ..., one or
    two pixels apart; region i covers the pixels b(i) to b(i + 1), both included. The sequence is Graham's pseudo-random
    one: evenly spaced positions with an offset, rounded down. In training the offset is drawn anew for rows and columns
    of each batch; in inference it is fixed, at half its range.

    ratio: 1 to 2, such as 1.414. seed: of the offsets.
    """

    def __init__(
        self,
        ratio: float,
        seed: int | None = None,
        name: str | None = None,
        dtype: Any = None,
        trainable: bool = True,
    ) -> None:
        super().__init__(name=name, dtype=dtype, trainable=trainable)
        if not 1 <= ratio <= 2:
            raise ValueError(f"ratio is {ratio}. Expected 1 to 2.")
        self.ratio, self.seed = ratio, seed
        self.seed_generator = keras.random.SeedGenerator(seed)

    def call(self, images: Any, training: bool = False) -> Any:
        """Pool images of shape (n, height, width, channels)."""
        for axis in (1, 2):
            images = self._pooled(images, axis, bool(training))
        return images

    def _pooled(self, images: Any, axis: int, training: bool) -> Any:
        ops = keras.ops
        length = images.shape[axis]
        count = self._count(length)
        offset: Any = count // 2
        if training:
            offset = keras.random.randint((), 0, count, dtype="int32", seed=self.seed_generator)
        borders = (ops.arange(count + 1, dtype="int32") * (length - 1) + offset) // count  # exact, so the last is n - 1
        first, last = borders[:-1], borders[1:]
        chosen = [ops.take(images, index, axis=axis) for index in (first, first + 1, last)]
        return ops.maximum(ops.maximum(chosen[0], chosen[1]), chosen[2])

    def _count(self, length: int) -> int:
        """Return the number of regions. It is such that their starts are one or two pixels apart."""
        return min(max(round(length / self.ratio), length // 2, 1), length - 1)

    def compute_output_shape(self, input_shape: Sequence[Any]) -> tuple[int | None, ...]:
        """Return the shape of the pooled images."""
        batch, rows, columns, channels = input_shape
        return (batch, self._count(rows), self._count(columns), channels)

    def get_config(self) -> dict[str, Any]:
        """Return what `from_config` makes an equal layer of."""
        return {**_config(self), "ratio": self.ratio, "seed": self.seed}


def _steps(count: int, kind: str) -> Any:
    return keras.ops.cast(keras.ops.linspace(-1.0, 1.0, count), kind)


def _config(layer: keras.layers.Layer) -> dict[str, Any]:
    given = keras.layers.Layer.get_config(layer)
    return {key: given[key] for key in ("name", "dtype", "trainable")}
