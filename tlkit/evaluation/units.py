"""What activates a unit most: the image patches with its highest values, and what in them it responds to.

Nine patches per unit, as in Zeiler and Fergus 2014 (arXiv:1311.2901), each from another image and as large as the
unit's receptive field, beside their guided back-projections (Springenberg et al. 2015, arXiv:1412.6806).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import keras
import numpy as np

from tlkit.data.examples import RowSource
from tlkit.errors import SpecError
from tlkit.evaluation.gradients import as_picture, guided
from tlkit.evaluation.receptive_field import ReceptiveField, receptive_field
from tlkit.models.inference import frozen_call
from tlkit.progress import counted_off

PATCHES = 9
DRAWN = 0.998  # of the pixels of a back-projection; those beyond are as dark or bright as these
GREY = 128  # of 255, where a field reaches beyond the image


@dataclass(frozen=True)
class Unit:
    """A channel of a feature map, and the images that activate it most.

    number: of the channel, from 0. selectivity: how far its mean over these images lies above its mean over all, in
    standard deviations. rows: indices of the images, the highest activation first. activations: its highest value in
    each. places: where that is, row and column of the feature map.
    """

    number: int
    selectivity: float
    rows: tuple[int, ...]
    activations: tuple[float, ...]
    places: tuple[tuple[int, int], ...]


def most_active(
    model: keras.Model, tensor: Any, pixels: RowSource, *, count: int = 8, batch_size: int = 32
) -> tuple[list[Unit], int]:
    """Find the most selective units of a feature map, and the nine images that activate each most.

    Args:
        model: A functional model of one image.
        tensor: The feature map, shape (n, rows, columns, channels).
        pixels: uint8 images, RGB.
        count: How many units.
        batch_size: Images per forward pass.

    Returns:
        The units, most selective first, and how many of the channels are dead: they have the same value on all images.

    Raises SpecError for a tensor that is no feature map.
    """
    if len(tensor.shape) != 4:
        raise SpecError(
            f"'{tensor.name}' has shape {tuple(tensor.shape)}. Expected a feature map: (n, rows, columns, channels)."
        )
    call = frozen_call(keras.Model(model.input, tensor), batch_size)
    highest, where = [], []
    starts = range(0, len(pixels), batch_size)
    for start in counted_off(starts, len(starts), "batch of image"):
        maps = call(pixels.gather(np.arange(start, min(start + batch_size, len(pixels)))))[0]
        flat = maps.reshape(len(maps), -1, maps.shape[-1])
        where.append(flat.argmax(1))
        highest.append(flat.max(1))
    values, places, across = np.concatenate(highest).astype(float), np.concatenate(where), int(tensor.shape[2])
    top = np.argsort(-values, axis=0, kind="stable")[:PATCHES]
    deviation = values.std(0)
    ahead = np.take_along_axis(values, top, 0).mean(0) - values.mean(0)
    selectivity = np.where(deviation > 1e-6, ahead / np.maximum(deviation, 1e-6), -1)
    chosen = [one for one in np.argsort(-selectivity, kind="stable")[:count] if selectivity[one] >= 0]
    units = [
        Unit(
            int(one),
            float(selectivity[one]),
            tuple(top[:, one].tolist()),
            tuple(values[top[:, one], one].tolist()),
            tuple(divmod(int(places[row, one]), across) for row in top[:, one]),
        )
        for one in chosen
    ]
    return units, int((deviation <= 1e-6).sum())


class BackProjection:
    """Guided back-projections of the units of a feature map.

    Attributes:
        field: The receptive field; None if a layer below does what is not known, and patches are whole images.
        guided: How many layers below have their gradients guided. 0: the projections are plain gradients.
    """

    def __init__(self, model: keras.Model, tensor: Any) -> None:
        try:
            self.field: ReceptiveField | None = receptive_field(model, tensor)
        except SpecError:
            self.field = None
        self._model, self.guided = guided(keras.Model(model.input, tensor))

    def __call__(self, images: np.ndarray, unit: Unit) -> np.ndarray:
        """How much each pixel excites a unit at its places: float32, the images' shape. images: those of `unit.rows`"""
        import tensorflow as tf

        pixels = tf.constant(images, tf.float32)
        at = [(row, *place, unit.number) for row, place in enumerate(unit.places)]
        with tf.GradientTape() as tape:
            tape.watch(pixels)
            values = tf.gather_nd(self._model(pixels, training=False), at)
        return tape.gradient(values, pixels).numpy()

    def pictures(self, images: np.ndarray, unit: Unit) -> tuple[list[np.ndarray], list[np.ndarray]]:
        """The patches of a unit, and their back-projections as colours around grey: lists of uint8 images."""
        projected = self(images, unit)
        patches = [self._cut(image, place) for image, place in zip(images, unit.places, strict=True)]
        drawn = [self._cut(as_picture(one, DRAWN), place) for one, place in zip(projected, unit.places, strict=True)]
        return patches, drawn

    def _cut(self, image: np.ndarray, place: tuple[int, int]) -> np.ndarray:
        """The part of an image in the receptive field, grey beyond its border; the whole image if that is smaller."""
        height, width = image.shape[:2]
        if self.field is None or self.field.size[0] >= height or self.field.size[1] >= width:
            return image
        top, left, bottom, right = self.field.box(*place, height, width)
        patch = np.full((*self.field.size, 3), GREY, "uint8")
        down = top - (self.field.start[0] + place[0] * self.field.step[0])
        over = left - (self.field.start[1] + place[1] * self.field.step[1])
        patch[down : down + bottom - top, over : over + right - left] = image[top:bottom, left:right]
        return patch


def montage(pictures: Sequence[np.ndarray], side: int = 72, across: int = 3, gap: int = 4) -> np.ndarray:
    """Several small images as one, row by row: uint8, RGB, on white. side: pixels of each."""
    from PIL import Image

    rows = -(-len(pictures) // across)
    sheet = Image.new("RGB", (across * (side + gap) - gap, rows * (side + gap) - gap), "white")
    for place, picture in enumerate(pictures):
        row, column = divmod(place, across)
        small = Image.fromarray(picture).resize((side, side), Image.Resampling.BICUBIC)
        sheet.paste(small, (column * (side + gap), row * (side + gap)))
    return np.asarray(sheet)
