"""Measures robustness: accuracy on corrupted images, and against an attacker who knows the model.

Imports Keras and NumPy; the attacker's gradients need the TensorFlow backend.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from tlkit.data.corruptions import CORRUPTIONS, corrupt
from tlkit.models.inference import frozen_call, inference_batch
from tlkit.progress import bar
from tlkit.stats import paired_difference, proportion_interval

if TYPE_CHECKING:
    import keras


MEASURED = (1, 3)  # severities, of 5: at the fifth, people fail on small images too
STEPS = (1.0, 2.0, 4.0)  # of 255: how much the attacker may change every pixel


def robustness(
    model: keras.Model,
    images: np.ndarray,
    labels: np.ndarray,
    *,
    groups: np.ndarray | None = None,
    batch_size: int = 32,
    seed: int = 0,
) -> list[dict[str, Any]]:
    """Measure accuracy on clean images, under each corruption, and under FGSM.

    The corruptions are named after ImageNet-C, at severities 1 and 3 of 5, but are not its files: see
    `tlkit.data.corruptions`. FGSM (Goodfellow et al. 2014, arXiv:1412.6572) changes each pixel by 1, 2 and 4 of 255
    in the direction that makes the true class less probable.

    Args:
        images: uint8, shape (n, side, side, 3), RGB.
        labels: int, shape (n,).
        groups: Shape (n,); images with equal values belong together.
        batch_size: Images per forward pass.
        seed: Of the corruptions; the same seed gives the same rows.

    Returns:
        Rows of JSON values. what: "untouched", the corruption's name or "fgsm". severity: 0, 1 or 3; None for FGSM.
        strength: in the corruption's own unit, of 255 for FGSM. n, accuracy, accuracy_95. lost: how far the accuracy
        falls below that on the clean images (paired difference). lost_error: its standard error.
    """
    batch = inference_batch(batch_size)
    call = frozen_call(model, batch)
    versions = _versions(model, images, labels, seed)
    clean: np.ndarray | None = None
    rows = []
    with bar(1 + len(CORRUPTIONS) * len(MEASURED) + len(STEPS), "corruption") as update:
        for done, (about, changed) in enumerate(versions, start=1):
            correct = _predicted(call, changed, batch) == labels
            clean = correct if clean is None else clean
            lost, error = paired_difference(clean, correct, groups)
            interval = list(proportion_interval(correct, groups))
            scores = {"n": len(labels), "accuracy": float(correct.mean()), "accuracy_95": interval}
            rows.append({**about, **scores, "lost": lost, "lost_error": error})
            update(done)
    return rows


def _versions(
    model: keras.Model, images: np.ndarray, labels: np.ndarray, seed: int
) -> Iterator[tuple[dict[str, Any], np.ndarray]]:
    """The clean, corrupted and attacked images, each with a description. Made one at a time, to save memory."""
    yield {"what": "untouched", "severity": 0, "strength": 0.0}, images
    for name, strengths in CORRUPTIONS.items():
        for severity in MEASURED:
            about = {"what": name, "severity": severity, "strength": float(strengths[severity - 1])}
            yield about, corrupt(images, name, severity, seed)
    signs = gradient_signs(model, images, labels)
    for step in STEPS:
        attacked = (images + step * signs).clip(0, 255).astype("float32")
        yield {"what": "fgsm", "severity": None, "strength": step}, attacked


def gradient_signs(model: keras.Model, images: np.ndarray, labels: np.ndarray, batch_size: int = 16) -> np.ndarray:
    """The direction in which each pixel lowers the true class's probability: -1, 0 or 1, int8, the images' shape."""
    import tensorflow as tf

    @tf.function(autograph=False)
    def signs(images: Any, labels: Any) -> Any:
        with tf.GradientTape() as tape:
            tape.watch(images)
            probabilities = tf.gather(model(images, training=False), labels, batch_dims=1)
            loss = -tf.reduce_sum(tf.math.log(probabilities + 1e-12))
        return tf.sign(tape.gradient(loss, images))

    found = []
    for start in range(0, len(images), batch_size):
        some = tf.constant(images[start : start + batch_size], tf.float32)
        found.append(signs(some, tf.constant(labels[start : start + batch_size])).numpy().astype("int8"))
    return np.concatenate(found)


def _predicted(call: Callable[[np.ndarray], Sequence[np.ndarray]], images: np.ndarray, batch: int) -> np.ndarray:
    starts = range(0, len(images), batch)
    return np.concatenate([call(images[start : start + batch])[0].argmax(1) for start in starts])
