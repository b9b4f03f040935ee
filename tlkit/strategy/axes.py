"""Measures the two axes of transfer learning: how much data there is, and how similar it is to the backbone's own.

Size: images per class, and whether accuracy still rises with more of them. Similarity: which block's features are the
most accurate, how far the last block's linear probe is above chance, and how far the activations are from those of the
images the backbone was trained on. All of it is measured on the backbone's pooled features, which the cache keeps for
the training that follows.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import keras
import numpy as np

from tlkit.backbones import Backbone, find_backbone
from tlkit.data.dataset import decode_images
from tlkit.data.examples import Examples
from tlkit.errors import DataError
from tlkit.features.linear import Solver, solve
from tlkit.features.table import PROBED, Table, feature_table, probe_blocks
from tlkit.models.classifier import build_classifier
from tlkit.models.inference import frozen_call
from tlkit.plan.recipe import Head
from tlkit.stats import AT_CHANCE, paired_difference, paired_p_value, wilson_interval
from tlkit.words import counted

if TYPE_CHECKING:
    from tlkit.cache import Cache
    from tlkit.data.images import ImageSet


CURVE = (0.25, 0.5, 1.0)  # shares of the training images for the learning curve
ACTIVATION_IMAGES = 256


def profile(tapped: keras.Model, backbone: Backbone, table: Table, pool: Examples, *, seed: int = 0) -> dict[str, Any]:
    """Measure both axes.

    Args:
        tapped, pool: As for `tlkit.features.table.feature_table`.
        table: The features that it returned.
        seed: Of the subsets for the learning curve.

    Returns:
        JSON values: each number with its interval and n, and "sentences" for a person to read.
    """
    started = time.monotonic()
    probes = probe_blocks(table)
    n = len(table.held_out)
    counts = np.bincount(table.labels, minlength=table.classes)
    distinct = len(set(pool.keys))
    per_class = float(table.classes / (1 / np.maximum(counts, 1)).sum()) * distinct / len(pool)
    chance = float(counts.max() / counts.sum())
    last, best = probes[-1], max(probes, key=lambda one: one.accuracy)
    ahead, error = paired_difference(best.right, last.right)
    p_value = min(1.0, paired_p_value(best.right, last.right) * max(len(probes) - 1, 1))  # the best of several blocks
    curve = learning_curve(table, last.validated.strength, seed)
    found = {
        "n": n,
        "how": table.how,
        "images": len(pool),
        "distinct_images": distinct,
        "effective_images_per_class": round(per_class, 1),
        "chance": round(chance, 4),
        "blocks": [
            {
                "block": one.block,
                "features": one.numbers,
                "accuracy": one.accuracy,
                "accuracy_95": list(wilson_interval(int(one.right.sum()), n)),
                "strength": one.validated.strength,
            }
            for one in probes
        ],
        "best_block": best.block,
        "best_ahead_of_last": ahead,
        "best_ahead_of_last_error": error,
        "best_ahead_of_last_p": p_value,
        "above_chance": (last.accuracy - chance) / max(1 - chance, 1e-9),
        "learning_curve": curve,
        "activation_distance": activation_distance(tapped, pool),
    }
    found["similar"] = is_similar(found)
    found["sentences"] = sentences(found)
    found["seconds"] = round(time.monotonic() - started, 2)
    return found


# Nats per channel. Photographs gave 0.03 to 0.06; cells, X-rays and letters 0.14 to 0.31 (three backbones).
DISTANT = 0.1


def is_similar(found: dict[str, Any]) -> bool | None:
    """Whether the images are similar to those the backbone was trained on. None if that is not known.

    Different: an earlier block is more accurate than the last (exact McNemar test at 5 %, Bonferroni-corrected for the
    number of blocks), or the activation distance is `DISTANT` or more. Similar: neither, and the distance was measured.

    found: from `profile`.
    """
    if _earlier_is_better(found):
        return False
    distance = found["activation_distance"]
    return None if distance is None else bool(distance < DISTANT)


def _earlier_is_better(found: Mapping[str, Any]) -> bool:
    return found["best_ahead_of_last"] > 0 and found["best_ahead_of_last_p"] < AT_CHANCE


def sentences(found: dict[str, Any]) -> list[str]:
    """The numbers of a `profile` in words."""
    last, curve = found["blocks"][-1], found["learning_curve"]
    n, (low, high) = found["n"], last["accuracy_95"]
    lines = [
        f"{counted(found['images'], 'image')}, effectively {found['effective_images_per_class']:g} per class "
        "(harmonic mean, so rare classes lower it; duplicate files count once)",
        f"a linear probe on the last block predicts {last['accuracy']:.1%} of {counted(n, 'held-out image')} correctly "
        f"(95 % interval {low:.1%} to {high:.1%}; always predicting the largest class gives {found['chance']:.1%}; "
        f"{found['how']})",
    ]
    gain, error = curve[-1]["gain"], curve[-1]["gain_error"]
    growth = (
        f"going from {curve[-2]['training_images']:,} to {curve[-1]['training_images']:,} training images changed "
        f"accuracy by {100 * gain:+.1f} points (95 % interval ±{196 * error:.1f}, n = {n:,})"
    )
    if still_climbing(found):
        lines.append(f"{growth}: it is still rising, so more images would help")
    else:
        lines.append(f"{growth}: no more than chance would")
    best, ahead, error = found["best_block"], found["best_ahead_of_last"], found["best_ahead_of_last_error"]
    if _earlier_is_better(found):
        why = "the last block is specific to the backbone's own classes"
        lines.append(
            f"block {best} of {last['block']} is {100 * ahead:.1f} points more accurate than the last block "
            f"(95 % interval ±{196 * error:.1f}, n = {n:,})"
            + (f": {why}" if ahead > 1.96 * error else ", which may be chance: the interval includes 0")
        )
    else:
        lines.append(
            f"no earlier block is more accurate than the last, block {last['block']}, by more than chance explains "
            f"(n = {n:,})"
        )
    distance = found["activation_distance"]
    if distance is None:
        lines.append("activation distance: not measured, because the backbone has no BatchNormalization layer")
    else:
        kind = "similar to" if distance < DISTANT else "different from"
        lines.append(
            f"the activations are {distance:.2f} nats per channel away from those on the backbone's own training "
            f"images (n = {min(found['images'], ACTIVATION_IMAGES):,}): by this measure the images are {kind} those "
            f"(similar: below {DISTANT:g})"
        )
    return lines


def still_climbing(found: Mapping[str, Any]) -> bool:
    """Whether the last doubling of the training images raised accuracy by more than chance would.

    found: from `profile`.
    """
    last = found["learning_curve"][-1]
    return bool(last["gain"] > 1.96 * last["gain_error"])


def learning_curve(table: Table, strength: float, seed: int = 0) -> list[dict[str, Any]]:
    """Measure the last block's probe with a quarter, half and all of the training images.

    Args:
        table: From `tlkit.features.table.feature_table`.
        strength: C of the probe, the inverse of its L2 penalty.
        seed: Of the order in which training images are added.

    Returns:
        A dict for each share: training_images, accuracy and accuracy_95; from the second on also gain, the paired
        difference to the point before on the same held-out images, and gain_error, its standard error.
    """
    table = table.fewer(PROBED)
    rows, order = table.blocks[-1], np.random.default_rng(seed).permutation(len(table.labels))
    held_out, points = table.held_out, []
    previous: np.ndarray | None = None
    for share in CURVE:
        correct = np.zeros(len(table.labels), bool)
        used = 0
        for number in np.unique(table.folds[held_out]):
            training = order[table.folds[order] != number]
            training = training[: max(round(share * len(training)), table.classes)]
            head = solve(
                rows[training], table.labels[training], table.classes, strength=strength, solver=Solver("ridge")
            )
            in_fold = table.folds == number
            correct[in_fold] = head.probabilities(rows[in_fold]).argmax(1) == table.labels[in_fold]
            used = max(used, len(training))
        point = {
            "training_images": used,
            "accuracy": float(correct[held_out].mean()),
            "accuracy_95": list(wilson_interval(int(correct[held_out].sum()), len(held_out))),
        }
        if previous is not None:
            point["gain"], point["gain_error"] = paired_difference(correct[held_out], previous)
        previous = correct[held_out]
        points.append(point)
    return points


def activation_distance(model: keras.Model, examples: Examples) -> float | None:
    """How far the images' activations are from those of the backbone's own training images, in nats per channel.

    The moving mean and variance of the backbone's last BatchNormalization describe each channel over ImageNet. The
    distance is the Kullback-Leibler divergence of a normal distribution with these images' mean and variance from the
    one with the moving statistics, as the median over the channels. This is the shift that Li et al. 2016
    (arXiv:1603.04779) correct. Measured on up to 256 images. None for a backbone without BatchNormalization.
    """
    layers = [layer for layer in model.layers if isinstance(layer, keras.layers.BatchNormalization)]
    layers = [layer for layer in layers if not layer.name.startswith("head_")]
    if not layers or not len(examples):
        return None
    before = keras.Model(model.input, layers[-1].input)
    chosen = np.random.default_rng(0).permutation(len(examples))[:ACTIVATION_IMAGES]
    call, sums, squares, count = frozen_call(before, 32), 0.0, 0.0, 0
    for start in range(0, len(chosen), 32):
        (values,) = call(examples.pixels.gather(chosen[start : start + 32]))
        values = values.reshape(-1, values.shape[-1]).astype("float64")
        sums, squares, count = sums + values.sum(0), squares + (values**2).sum(0), count + len(values)
    mean = sums / count
    variance = np.maximum(squares / count - mean**2, 0) + layers[-1].epsilon
    moving_mean = np.asarray(layers[-1].moving_mean, "float64")
    moving_variance = np.asarray(layers[-1].moving_variance, "float64") + layers[-1].epsilon
    ratio = variance / moving_variance
    divergence = 0.5 * (ratio - np.log(ratio) - 1 + (mean - moving_mean) ** 2 / moving_variance)
    return round(float(np.median(divergence)), 4)


def measure_axes(
    images: ImageSet,
    backbone: str,
    *,
    image_size: int | None = None,
    weights: str = "imagenet",
    seed: int = 0,
    cache: Cache | None = None,
) -> dict[str, Any]:
    """Measure how much data there is and how similar it is to what the backbone was trained on.

    The features that this computes are kept in the cache for the run that follows.

    Args:
        images: From `tlkit.scan`. They are split if they are not yet; the test split is left out.
        backbone: A name or a file, as for `tlkit.finetune`.
        image_size: Pixels of each side, default the backbone's own.
        weights: "imagenet", "none" or a file.
        seed: Of the split, the folds and the learning curve.
        cache: Where pixels and features are kept, default the user's.

    Returns:
        JSON values, see `tlkit.strategy.axes.profile`.

    Raises:
        DataError: The cache has no room for the features. Also the errors of `tlkit.build_classifier`.
    """
    network = find_backbone(backbone)
    size = image_size or network.size
    dataset = decode_images(images, size, cache=cache).split(seed=seed)
    tapped = build_classifier(
        network, len(dataset.class_names), head=Head(taps="all"), image_size=size, weights=weights, seed=seed
    )
    pool, training = dataset.part("train", "validation"), dataset.count("train")
    table = feature_table(tapped, network, pool, training, seed=seed)
    if table is None:
        raise DataError(
            f"The cache has no room for the features of {len(pool):,} images. Raise `cache_gb`, or clear the cache."
        )
    return profile(tapped, network, table, pool, seed=seed)
