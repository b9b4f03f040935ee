"""Why did it say that? Grad-CAM, occlusion, and how much of the answer rests on the pixels they point at.

A map is float32, shape (rows, columns), 0 or more, the larger the more a place spoke for the class. Works on every classifier that
`tlkit.build_classifier` makes and that ends in feature maps. Needs the TensorFlow backend for gradients.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import keras
import numpy as np

from tlkit.errors import SpecError
from tlkit.files import temporary_beside
from tlkit.frozen import frozen_call
from tlkit.model import feature_maps

MASKED = 0.3  # share of the pixels that are taken away
CONTRAST = 45.0  # standard deviation of a drawn picture, of 255
EDGE = 0.125  # of the side: what lies further out is the picture's edge
COLOURS = ((0.0, (0, 0, 4)), (0.35, (120, 28, 109)), (0.65, (237, 105, 37)), (1.0, (252, 255, 164)))


class GradCam:
    """A classifier's Grad-CAM (Selvaraju et al. 2017, arXiv:1610.02391): the last feature maps, each weighed by the mean gradient of the class
    by it, what is below 0 left out.

    Where a head reads several blocks, the topmost one's maps are weighed.

    Raises SpecError for a model whose head reads no feature maps, such as an ensemble.
    """

    def __init__(self, model: keras.Model, batch_size: int = 16) -> None:
        ends = feature_maps(model)
        if not ends or len(ends[-1].shape) != 4:
            raise SpecError(
                f"The model '{model.name}' has no feature maps before its head, so Grad-CAM has nothing to weigh. Use occlusion (--method occlusion)."
            )
        self._batch, self._shape = batch_size, model.input_shape[1:]
        self._prefix = frozen_call(keras.Model(model.input, ends), batch_size)
        self._suffix = keras.Model(ends, model.output)

    def milliseconds(self) -> float:
        """How long the network takes for an image on this machine, in batches: the best of three."""
        blank = np.zeros((self._batch, *self._shape), "uint8")
        self._prefix(blank)  # traces
        times = []
        for _ in range(3):
            before = time.perf_counter()
            self._prefix(blank)
            times.append(time.perf_counter() - before)
        return 1000 * min(times) / self._batch

    def __call__(self, pictures: np.ndarray, classes: Sequence[int] | None = None) -> tuple[np.ndarray, np.ndarray]:
        """Maps, shape (n, rows, columns), the largest of each 1, and the probabilities, shape (n, classes).

        pictures: uint8 or float, RGB 0-255, shape (n, height, width, 3). classes: which to explain; default the most probable.
        """
        found = [
            self._of_batch(pictures[start : start + self._batch], classes and classes[start : start + self._batch])
            for start in range(0, len(pictures), self._batch)
        ]
        maps, probabilities = zip(*found, strict=True)
        return np.concatenate(maps), np.concatenate(probabilities)

    def _of_batch(self, pictures: np.ndarray, classes: Sequence[int] | None) -> tuple[np.ndarray, np.ndarray]:
        import tensorflow as tf

        ends = [tf.constant(one) for one in self._prefix(pictures)]
        with tf.GradientTape() as tape:
            tape.watch(ends)
            probabilities = self._suffix(ends, training=False)
            chosen = tf.argmax(probabilities, axis=1) if classes is None else tf.constant(classes, tf.int64)
            picked = tf.gather(probabilities, chosen, batch_dims=1)
            # the class against the others together: the log odds do not saturate where the probability is near 1
            odds = tf.math.log(picked + 1e-12) - tf.math.log(1 - picked + 1e-6)
        slopes = tape.gradient(odds, ends[-1])
        weights = tf.reduce_mean(slopes, axis=(1, 2), keepdims=True)
        maps = tf.nn.relu(tf.reduce_sum(weights * ends[-1], axis=-1)).numpy()
        return _to_1(maps), probabilities.numpy()


def occlusion_maps(
    model: keras.Model, pictures: np.ndarray, classes: Sequence[int], *, patches: int = 8, batch_size: int = 32
) -> np.ndarray:
    """By how much a class's probability falls when a patch is covered with the picture's mean colour (Zeiler and Fergus 2014,
    arXiv:1311.2901): shape (n, patches, patches), below 0 left out. Costs patches² + 1 forward passes for each picture.

    pictures: uint8, shape (n, height, width, 3). classes: one for each. A patch is twice as wide as its step.
    """
    call = frozen_call(model, batch_size)
    return np.stack([_occluded(call, *one, patches, batch_size) for one in zip(pictures, classes, strict=True)])


def _occluded(
    call: Callable[[np.ndarray], list[np.ndarray]], picture: np.ndarray, chosen: int, patches: int, batch_size: int
) -> np.ndarray:
    height, width = picture.shape[:2]
    covered = np.repeat(picture[None], patches**2 + 1, axis=0)
    mean = picture.reshape(-1, 3).mean(0).astype(picture.dtype)
    for row in range(patches):
        for column in range(patches):
            top, left = (int((at - 0.5) * side / patches) for at, side in ((row, height), (column, width)))
            bottom, right = (int((at + 1.5) * side / patches) for at, side in ((row, height), (column, width)))
            covered[1 + row * patches + column, max(top, 0) : bottom, max(left, 0) : right] = mean
    found = [call(covered[start : start + batch_size])[0] for start in range(0, len(covered), batch_size)]
    probabilities = np.concatenate(found)[:, chosen]
    return np.maximum(probabilities[0] - probabilities[1:], 0).reshape(patches, patches)


def enlarged(maps: np.ndarray, size: int) -> np.ndarray:
    """Maps as large as the pictures, bilinearly: float32, shape (n, size, size)."""
    from PIL import Image

    box = (size, size)
    return np.stack([np.asarray(Image.fromarray(one).resize(box, Image.Resampling.BILINEAR)) for one in maps])


def without(pictures: np.ndarray, maps: np.ndarray, share: float = MASKED) -> np.ndarray:
    """The pictures with the pixels of the highest evidence painted in the picture's mean colour: uint8, the same shape."""
    large = enlarged(maps.astype("float32"), pictures.shape[1])
    flat = large.reshape(len(large), -1)
    order = np.argsort(-flat, axis=1, kind="stable")[:, : round(share * flat.shape[1])]
    covered = np.zeros_like(flat, bool)
    np.put_along_axis(covered, order, True, axis=1)
    means = pictures.reshape(len(pictures), -1, 3).mean(1).astype(pictures.dtype)
    return np.where(covered.reshape(large.shape)[..., None], means[:, None, None, :], pictures)


@dataclass(frozen=True)
class Reliance:
    """How much of the classifier's answers rests on the evidence, over n pictures.

    accuracy, without_evidence, without_random: untouched, with the 30 % of highest evidence painted over, with a random 30 %.
    fall_evidence, fall_random: how far the probability of the class that was answered falls, on average.
    falls: by picture, of both, float (n, 2). at_edge: share of the evidence in the outermost eighth of the picture, which has 44 % of the area.
    maps: by class, the mean map of the pictures of that class.
    """

    n: int
    accuracy: float
    without_evidence: float
    without_random: float
    fall_evidence: float
    fall_random: float
    falls: np.ndarray
    at_edge: float
    maps: dict[int, np.ndarray]

    def sentences(self) -> list[str]:
        """For a person."""
        lines = [
            f"with the 30 % of the pixels that speak most for the answer painted over, accuracy is {self.without_evidence:.1%}; with a random "
            f"30 %, {self.without_random:.1%}; untouched {self.accuracy:.1%} (n = {self.n:,})",
            f"{self.at_edge:.0%} of the evidence lies in the outer eighth of the picture, which is 44 % of its area",
        ]
        if self.at_edge > 0.6:
            lines.append(
                "more of it lies at the edge than chance would put there: look for borders, marks or captions that give the class away"
            )
        if self.n >= 50 and self.accuracy - self.without_evidence < 0.02:
            lines.append(
                "taking the evidence away hardly hurts: the classes can be told from almost any part, perhaps from the background"
            )
        return lines

    def to_dict(self) -> dict[str, Any]:
        """The numbers, as JSON values."""
        names = ("n", "accuracy", "without_evidence", "without_random", "fall_evidence", "fall_random", "at_edge")
        return {name: getattr(self, name) for name in names} | {"sentences": self.sentences()}


def reliance(
    model: keras.Model, pictures: np.ndarray, labels: np.ndarray, *, cam: GradCam | None = None, seed: int = 0
) -> Reliance:
    """Paint evidence over and ask again. pictures: uint8, shape (n, height, width, 3). labels: int, shape (n,). Three forward passes each."""
    cam = cam or GradCam(model)
    maps, before = cam(pictures)
    random = np.random.default_rng(seed).random(maps.shape)
    called = before.argmax(1)
    answers = [cam(without(pictures, one))[1] for one in (maps, random)]
    rows = np.arange(len(pictures))
    falls = np.stack([before[rows, called] - after[rows, called] for after in answers], axis=1)
    large = enlarged(maps, 64)
    inner = slice(round(64 * EDGE), 64 - round(64 * EDGE))
    inside = large[:, inner, inner].sum((1, 2)) / np.maximum(large.sum((1, 2)), 1e-9)
    hidden, scattered = (float((after.argmax(1) == labels).mean()) for after in answers)
    return Reliance(
        n=len(pictures),
        accuracy=float((called == labels).mean()),
        without_evidence=hidden,
        without_random=scattered,
        fall_evidence=float(falls[:, 0].mean()),
        fall_random=float(falls[:, 1].mean()),
        falls=falls,
        at_edge=float(1 - inside.mean()),
        maps={int(c): maps[labels == c].mean(0) for c in np.unique(labels)},
    )


# -- pictures ---------------------------------------------------------------------------------------------


def overlay(picture: np.ndarray, map_: np.ndarray) -> np.ndarray:
    """The picture in grey with its map in colour over it: uint8, shape (height, width, 3)."""
    heat = enlarged(_to_1(map_[None].astype("float32")), picture.shape[0])[0]
    grey = picture.mean(-1, keepdims=True)
    colour = np.stack(
        [np.interp(heat, [at for at, _ in COLOURS], [one[c] for _, one in COLOURS]) for c in range(3)], -1
    )
    return (grey * (1 - 0.6 * heat[..., None]) + colour * 0.6 * heat[..., None]).clip(0, 255).astype("uint8")


def _to_1(maps: np.ndarray) -> np.ndarray:
    return maps / np.maximum(maps.max(axis=(1, 2), keepdims=True), 1e-12)


def first_filters(model: keras.Model) -> np.ndarray:
    """The filters of the first convolution that sees colours, each spread over 0-255: uint8, shape (filters, height, width, 3).

    Raises SpecError where there is none.
    """
    for layer in model.layers:
        if isinstance(layer, keras.layers.Conv2D) and layer.kernel.shape[2] == 3:
            filters = np.asarray(layer.kernel).transpose(3, 0, 1, 2)
            reach = np.abs(filters).max(axis=(1, 2, 3), keepdims=True)
            return ((filters / np.maximum(reach, 1e-12) + 1) * 127.5).astype("uint8")
    raise SpecError(f"The model '{model.name}' has no convolution over three colours.")


def most_typical(
    model: keras.Model,
    class_number: int,
    *,
    steps: int = 128,
    seed: int = 0,
    say: Callable[[int], None] = lambda step: None,
) -> np.ndarray:
    """A picture drawn by climbing a class's log odds from grey noise: uint8, shape (height, width, 3).

    As in Simonyan, Vedaldi and Zisserman 2013 (arXiv:1312.6034), with small shifts and smoothing between the steps, without which only
    speckles come out.
    """
    import tensorflow as tf
    from scipy.ndimage import gaussian_filter

    random = np.random.default_rng(seed)
    picture = (128 + random.normal(0, 12, (1, *model.input_shape[1:]))).astype("float32")

    @tf.function(autograph=False)
    def slope(image: Any) -> Any:
        with tf.GradientTape() as tape:
            tape.watch(image)
            chosen = model(image, training=False)[:, class_number]
            score = tf.math.log(chosen + 1e-9) - tf.math.log(1 - chosen + 1e-6)  # does not saturate near 1
        return tape.gradient(score, image)

    for step in range(steps):
        shift = tuple(random.integers(-8, 9, 2))
        moved = np.roll(picture, shift, (1, 2))
        gradient = slope(tf.constant(moved)).numpy()
        moved = moved + 6 * gradient / (np.abs(gradient).mean() * 4 + 1e-9)
        picture = np.roll(moved, (-shift[0], -shift[1]), (1, 2))
        if step % 4 == 3:
            picture = gaussian_filter(picture, (0, 0.7, 0.7, 0))
        picture = picture.clip(0, 255)
        say(step + 1)
    faint = picture[0] - picture[0].mean()
    return (128 + faint * max(1.0, CONTRAST / max(float(faint.std()), 1e-6))).clip(0, 255).astype("uint8")


def draw_rows(rows: Sequence[Sequence[tuple[np.ndarray, str]]], out: Path, side: int = 224) -> Path:
    """A picture file with rows of pictures, a line of text below each. out: its ending says the format."""
    from PIL import Image, ImageDraw, ImageFont

    font, gap, line = ImageFont.load_default(12), 8, 18
    wide = max(len(row) for row in rows)
    sheet = Image.new("RGB", (gap + wide * (side + gap), gap + len(rows) * (side + line + gap)), "white")
    pen = ImageDraw.Draw(sheet)
    for y, row in enumerate(rows):
        for x, (picture, said) in enumerate(row):
            left, top = gap + x * (side + gap), gap + y * (side + line + gap)
            enlarge = Image.Resampling.NEAREST if picture.shape[0] < 32 else Image.Resampling.BICUBIC
            sheet.paste(Image.fromarray(picture).resize((side, side), enlarge), (left, top))
            pen.text((left, top + side + 2), said, "black", font)
    out.parent.mkdir(parents=True, exist_ok=True)
    with temporary_beside(out) as temporary:
        sheet.save(temporary, format=Image.registered_extensions().get(out.suffix.lower(), "PNG"))
    return out
