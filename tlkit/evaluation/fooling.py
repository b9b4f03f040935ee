"""What probabilities are worth away from the data: noise that a network is sure of, and small steps to another class.

Nguyen, Yosinski and Clune 2015 (arXiv:1412.1897) show images that mean nothing and get 99 %. Szegedy et al. 2013
(arXiv:1312.6199) and Goodfellow et al. 2014 (arXiv:1412.6572) show images that look the same and get another class.
The latter explain it by the linear part of networks: a small step along a weight vector, x + a w, adds
up over thousands of pixels. Needs the TensorFlow backend for gradients.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import keras
import numpy as np

from tlkit.evaluation.gradients import logits_of

SURE = 0.99
NEAREST = 5  # classes whose borders are tried, the most probable after the image's own
HALVINGS = 12
# times a step that are tried until the class outlasts rounding
LONGER = (1.0, 1.02, 1.05, 1.1, 1.25, 1.5, 2.0, 3.0, 4.0, 6.0, 8.0, 12.0, 16.0)


@dataclass(frozen=True)
class Change:
    """A changed image, its class, and by how much it differs from the one before.

    image: uint8, shape (height, width, 3). class_number, probability: the model's answer on it.
    before: the model's probability of `class_number` on the image before. mean, largest: of the absolute differences of
    pixels, in levels of 255. length: the Euclidean length of the difference (L2), in levels.
    found: whether what was sought was reached: being sure, or another class. amount: how far it went: steps of the
    ascent for `noise`; levels for `sign_step`; a |w|, in levels, for `gradient_step`, before pixels are rounded.
    kept: whether it is still so after rounding, in what an image file can hold.
    """

    image: np.ndarray
    class_number: int
    probability: float
    before: float
    mean: float
    largest: float
    length: float
    found: bool
    amount: float
    kept: bool

    @classmethod
    def between(
        cls,
        start: np.ndarray,
        changed: np.ndarray,
        answer: tuple[int, float, float],
        *,
        found: bool,
        amount: float,
        kept: bool,
    ) -> Change:
        """The change from one image to another, which is rounded. answer: class_number, probability, before."""
        image = changed.round().astype("uint8")
        gap = np.abs(image.astype(float) - start)
        size = float(gap.mean()), float(gap.max()), float(np.linalg.norm(gap))
        return cls(image, *answer, *size, found, amount, kept)

    def to_dict(self, classes: list[str]) -> dict[str, Any]:
        """The numbers as JSON values, with the class by name."""
        names = ("probability", "before", "mean", "largest", "length", "found", "amount", "kept")
        return {"class": classes[self.class_number], **{name: getattr(self, name) for name in names}}


class Fooling:
    """Images that fool a classifier. All answers are the model's own probabilities, calibrated if it is.

    Probabilities are those of images of whole pixels, 0 to 255, as a file holds them.
    """

    def __init__(self, model: keras.Model) -> None:
        import tensorflow as tf

        self._model, logits = model, logits_of(model)

        @tf.function(autograph=False, reduce_retracing=True)
        def slopes(pixels: Any, plus: Any, minus: Any) -> Any:
            """Logits, and the gradient of the sum of those in `plus` less that of those in `minus`."""
            with tf.GradientTape() as tape:
                tape.watch(pixels)
                values = logits(pixels)
                picked = tf.reduce_sum(values * (plus - minus), axis=1)
            return values, tape.gradient(picked, pixels)

        self._slopes = slopes
        self._answer = tf.function(lambda pixels: model(pixels, training=False), autograph=False, reduce_retracing=True)

    def answers(self, images: np.ndarray) -> np.ndarray:
        """The probabilities of images, shape (n, classes)."""
        return np.asarray(self._answer(images))

    def noise(
        self, class_number: int, *, sure: float = SURE, steps: int = 300, seed: int = 0
    ) -> tuple[np.ndarray, Change]:
        """Raise noise by gradient ascent until the network is sure that it shows a class.

        The start is uniform noise. Each step goes along the gradient of the class's logit, 1 level of 255 per pixel in
        the root of the mean square.

        Args:
            class_number: Index of the class.
            sure: The probability to reach.
            steps: At most.
            seed: Of the noise.

        Returns: the noise, uint8, and the change. `Change.amount` is the number of steps.
        """
        random = np.random.default_rng(seed)
        start = random.integers(0, 256, self._model.input_shape[1:]).astype("uint8")
        image, done = start.astype("float32"), 0
        (before,) = self.answers(image[None])
        probability = before[class_number]
        while probability < sure and done < steps:
            _, gradient = self._gradient(image, class_number, None)
            image = (image + gradient / max(float(np.sqrt((gradient**2).mean())), 1e-20)).clip(0, 255)
            done += 1
            probability = self.answers(image.round()[None])[0, class_number]
        found = bool(probability >= sure)
        answer = class_number, float(probability), float(before[class_number])
        return start, Change.between(start, image, answer, found=found, amount=float(done), kept=found)

    def sign_step(self, image: np.ndarray, target: int | None = None) -> Change:
        """Find the smallest step along the sign of the gradient that changes an image's class.

        Every pixel changes by the same whole number of levels, up or down as the gradient of the difference of two
        logits says (the fast gradient sign method, arXiv:1412.6572). The sizes 1, 2, 4, ... 128 are tried, then those
        between the first that succeeds and the one before it, by halving.

        Args:
            image: uint8, shape (height, width, 3).
            target: The class to reach. Default: any other one; the step goes towards the nearest of the most probable.
        """
        direction, own, aim = self._direction(image, target, 1)
        return self._smallest(image, np.sign(direction), own, aim, target, [2.0**k for k in range(8)], whole=True)

    def gradient_step(self, image: np.ndarray, target: int | None = None) -> Change:
        """Find the smallest step x + a w that changes an image's class; w is the gradient of a difference of logits.

        Where the network is linear in the pixels, no other change of the same Euclidean length does more, and
        a |w| is the distance to the border between two classes (unless pixels reach 0 or 255). Elsewhere this is the
        first step of DeepFool (Moosavi-Dezfooli et al. 2016, arXiv:1511.04599), made as long as it must be.

        Args: as of `sign_step`.

        Returns: the change. `amount` is a |w|. The image has whole pixels, and its step is longer, up to 16 times, if
            rounding would undo the change of class. If it still does, `kept` is False: the step is smaller than what an
            image file can hold.
        """
        direction, own, aim = self._direction(image, target, 2)
        unit = direction / max(float(np.linalg.norm(direction)), 1e-20)
        longest = 64 * float(np.sqrt(image.size))
        return self._smallest(image, unit, own, aim, target, [longest / 2.0**k for k in range(14, -1, -1)], whole=False)

    def _gradient(self, image: np.ndarray, plus: int, minus: int | None) -> tuple[np.ndarray, np.ndarray]:
        classes = np.eye(self._model.output_shape[-1], dtype="float32")
        below = 0 * classes[:1] if minus is None else classes[minus : minus + 1]
        values, gradient = self._slopes(image[None].astype("float32"), classes[plus : plus + 1], below)
        return values.numpy()[0].astype(float), gradient.numpy()[0]

    def _direction(self, image: np.ndarray, target: int | None, norm: int) -> tuple[np.ndarray, int, int]:
        """The gradient towards the class whose border is nearest, the image's own class, and that class.

        norm: in which the step is small: 1 for steps of equal size in all pixels, 2 for Euclidean length.
        """
        values = self.answers(image[None].astype("float32"))[0]
        ranked = np.argsort(-values, kind="stable")
        own = int(ranked[0])
        best: tuple[float, np.ndarray, int] | None = None
        for other in [target] if target is not None else ranked[1 : NEAREST + 1].tolist():
            logits, gradient = self._gradient(image, other, own)
            distance = (logits[own] - logits[other]) / max(float(np.linalg.norm(gradient.ravel(), norm)), 1e-20)
            if best is None or distance < best[0]:
                best = (distance, gradient, other)
        assert best is not None, "a classifier has two classes or more"
        return best[1], own, best[2]

    def _smallest(
        self,
        image: np.ndarray,
        direction: np.ndarray,
        own: int,
        aim: int,
        target: int | None,
        sizes: list[float],
        *,
        whole: bool,
    ) -> Change:
        """The smallest step along a direction that changes the class. sizes: tried first, ascending. whole: levels."""
        start = image.astype("float32")

        def moved(size: float) -> np.ndarray:
            return (start + size * direction).clip(0, 255).astype("float32")

        def reaches(changed: np.ndarray) -> bool:
            found = int(self.answers(changed[None])[0].argmax())
            return found != own if target is None else found == target

        low, high = 0.0, next((size for size in sizes if reaches(moved(size))), None)
        if high is not None:
            low = max([size for size in sizes if size < high], default=0.0)
            for _ in range(HALVINGS):
                if whole and high - low <= 1:
                    break
                middle = float(round((low + high) / 2)) if whole else (low + high) / 2
                low, high = (low, middle) if reaches(moved(middle)) else (middle, high)
        size = sizes[-1] if high is None else high
        for longer in LONGER if high is not None else LONGER[:1]:
            changed = moved(size * longer).round()
            if reaches(changed):
                break
        before, after = self.answers(np.stack([start, changed]))
        now = int(after.argmax())
        kept = now != own if target is None else now == target
        shown = now if kept else aim
        answer = shown, float(after[shown]), float(before[shown])
        return Change.between(image, changed, answer, found=high is not None, amount=size, kept=kept)


def feature_step(model: keras.Model, image: np.ndarray) -> float | None:
    """How far an image's features are from another class, as a share of their length.

    The last layer is linear in its inputs f. So the shortest change of these is f + a w, with w the difference of two
    classes' weights, and |a w| = (difference of the logits) / |w|, exactly. Returns |a w| / |f| for the nearest class;
    None for a model that does not end in a dense layer.
    """
    last = model.layers[-1]
    if not isinstance(last, keras.layers.Dense):
        return None
    features = np.asarray(keras.Model(model.input, last.input)(image[None].astype("float32"), training=False))[0]
    kernel, bias = (np.asarray(one, "float64") for one in last.get_weights())
    logits = features @ kernel + bias
    own = int(logits.argmax())
    others = [other for other in range(len(logits)) if other != own]
    lengths = np.linalg.norm(kernel[:, others] - kernel[:, [own]], axis=0)
    return float(
        ((logits[own] - logits[others]) / np.maximum(lengths, 1e-20)).min() / max(np.linalg.norm(features), 1e-20)
    )
