"""How fragile is it? Accuracy on pictures that were worsened as cameras and networks worsen them, or by an opponent who knows the model.

Imports Keras, NumPy, Pillow and SciPy; the opponent's gradients need the TensorFlow backend.
"""

from __future__ import annotations

import io
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from tlkit.models.inference import frozen_call, inference_batch
from tlkit.progress import bar
from tlkit.stats import paired_difference, wilson_interval

if TYPE_CHECKING:
    import keras


PIXELS = 224  # of a side, for which blur is given
CORRUPTIONS: dict[str, tuple[float, float, float]] = {
    "blur": (1.0, 2.0, 4.0),  # pixels, the deviation of a Gaussian, at 224
    "noise": (10.0, 20.0, 40.0),  # of 255, the deviation of normal noise in each channel
    "jpeg": (40.0, 20.0, 10.0),  # quality
    "darker": (0.7, 0.5, 0.3),  # times
    "brighter": (1.3, 1.6, 2.0),
}
STEPS = (1.0, 2.0, 4.0)  # of 255, what the opponent may change in every pixel


def corrupt(pictures: np.ndarray, name: str, strength: float, seed: int = 0) -> np.ndarray:
    """Pictures, uint8, shape (n, side, side, 3), with one of CORRUPTIONS (after Hendrycks and Dietterich 2019, arXiv:1903.12261): uint8."""
    from PIL import Image
    from scipy.ndimage import gaussian_filter

    if name == "blur":
        width = strength * pictures.shape[1] / PIXELS
        return np.stack([gaussian_filter(one, (width, width, 0)) for one in pictures])
    if name == "jpeg":
        return np.stack([np.asarray(Image.open(_as_jpeg(one, int(strength)))) for one in pictures])
    values = pictures.astype("float32")
    if name == "noise":
        values = values + np.random.default_rng(seed).normal(0, strength, pictures.shape)
    else:
        values = values * strength
    return np.round(values).clip(0, 255).astype("uint8")


def _as_jpeg(picture: np.ndarray, quality: int) -> io.BytesIO:
    from PIL import Image

    stream = io.BytesIO()
    Image.fromarray(picture).save(stream, "JPEG", quality=quality)
    return stream


def sign_slopes(model: keras.Model, pictures: np.ndarray, labels: np.ndarray, batch_size: int = 16) -> np.ndarray:
    """In which direction each pixel makes the true class less probable: -1, 0 or 1, int8, the pictures' shape."""
    import tensorflow as tf

    @tf.function(autograph=False)
    def slope(images: Any, truth: Any) -> Any:
        with tf.GradientTape() as tape:
            tape.watch(images)
            right = tf.gather(model(images, training=False), truth, batch_dims=1)
            loss = -tf.reduce_sum(tf.math.log(right + 1e-12))
        return tf.sign(tape.gradient(loss, images))

    found = []
    for start in range(0, len(pictures), batch_size):
        images = tf.constant(pictures[start : start + batch_size], tf.float32)
        found.append(slope(images, tf.constant(labels[start : start + batch_size])).numpy().astype("int8"))
    return np.concatenate(found)


def robustness(
    model: keras.Model,
    pictures: np.ndarray,
    labels: np.ndarray,
    *,
    batch_size: int = 32,
    seed: int = 0,
) -> list[dict[str, Any]]:
    """Accuracy untouched, under each corruption at three strengths, and under FGSM (Goodfellow et al. 2014, arXiv:1412.6572) at three.

    pictures: uint8, shape (n, side, side, 3). labels: int, shape (n,).
    Returns rows of JSON values: what, strength, n, accuracy, accuracy_95, lost (against untouched, the same pictures) and its standard
    error, lost_error.
    """
    batch = inference_batch(batch_size)
    call = frozen_call(model, batch)
    todo: list[tuple[str, float]] = [("untouched", 0.0)]
    todo += [(name, strength) for name, strengths in CORRUPTIONS.items() for strength in strengths]
    todo += [("fgsm", step) for step in STEPS]
    slopes: np.ndarray | None = None
    untouched: np.ndarray | None = None
    rows = []
    with bar(len(todo), "corruption") as update:
        for done, (name, strength) in enumerate(todo, start=1):
            if name == "untouched":
                seen = pictures
            elif name == "fgsm":
                slopes = sign_slopes(model, pictures, labels) if slopes is None else slopes
                seen = (pictures + strength * slopes).clip(0, 255).astype("float32")
            else:
                seen = corrupt(pictures, name, strength, seed)
            right = _called(call, seen, batch) == labels
            untouched = right if untouched is None else untouched
            lost, error = paired_difference(untouched, right)
            rows.append(
                {
                    "what": name,
                    "strength": strength,
                    "n": len(labels),
                    "accuracy": float(right.mean()),
                    "accuracy_95": list(wilson_interval(int(right.sum()), len(labels))),
                    "lost": lost,
                    "lost_error": error,
                }
            )
            update(done)
    return rows


def _called(call: Callable[[np.ndarray], Sequence[np.ndarray]], pictures: np.ndarray, batch: int) -> np.ndarray:
    starts = range(0, len(pictures), batch)
    return np.concatenate([call(pictures[start : start + batch])[0].argmax(1) for start in starts])
