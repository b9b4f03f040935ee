"""Measures the two axes of transfer learning: how much data there is, and how similar it is to the backbone's own.

Size: images per class, and whether accuracy still rises with more of them. Similarity: which block's features are the
most accurate, how far the last block's linear probe is above chance, and how far the activations are from those of the
images the backbone was trained on. All of it is measured on the backbone's pooled features, which the cache keeps for
the training that follows.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import keras
import numpy as np

from tlkit.backbones import Backbone, find_backbone
from tlkit.backbones.learning import learn_weights
from tlkit.data.dataset import decode_images
from tlkit.data.examples import Examples
from tlkit.errors import DataError
from tlkit.features.linear import Solver, solve
from tlkit.features.table import PROBED, Table, feature_table, probe_blocks
from tlkit.models.classifier import build_classifier
from tlkit.models.inference import frozen_call
from tlkit.plan.recipe import Head
from tlkit.stats import AT_CHANCE, log_loss, paired_difference, paired_p_value, wilson_interval
from tlkit.words import counted

if TYPE_CHECKING:
    from tlkit.cache import Cache
    from tlkit.data.images import ImageSet


CURVE = (0.25, 0.5, 1.0)  # shares of the training images for the learning curve
CURVE_IMAGES = 20_000  # training images at most for it
FACTORS = (0.01, 0.1, 1.0)  # on the C of all images
RIDGE = Solver("ridge")
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
    groups = None if pool.groups is None else pool.groups[table.held_out]
    ahead, error = paired_difference(best.right, last.right, groups)
    p_value = paired_p_value(best.right, last.right, groups)
    p_value = min(1.0, p_value * max(len(probes) - 1, 1))  # the best of several blocks
    curve = learning_curve(table, last.validated.strength, seed, groups)
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
        "a quick linear probe (ridge regression; a recipe's heads are logistic regressions) on the last block predicts "
        f"{last['accuracy']:.1%} of {counted(n, 'held-out image')} correctly "
        f"(95 % interval {low:.1%} to {high:.1%}; always predicting the largest class gives {found['chance']:.1%}; "
        f"{found['how']})",
    ]
    gain, error = curve[-1]["gain"], curve[-1]["gain_error"]
    growth = (
        f"going from {curve[-2]['training_images']:,} to {curve[-1]['training_images']:,} training images changed "
        f"accuracy by {100 * gain:+.1f} points (95 % interval ±{196 * error:.1f}, n = {n:,})"
    )
    if not _whole(curve[-1]):
        lines.append(f"{growth}; how it goes on up to {curve[-1].get('of', found['images']):,} was not measured")
    elif still_climbing(found):
        lines.append(f"{growth}: it is still rising, so more images would help")
    else:
        lines.append(f"{growth}: no more than chance would")
    best, ahead, error = found["best_block"], found["best_ahead_of_last"], found["best_ahead_of_last_error"]
    if _earlier_is_better(found):
        lines.append(
            f"block {best} of {last['block']} is {100 * ahead:.1f} points more accurate than the last block "
            f"(95 % interval ±{196 * error:.1f}, n = {n:,}): the last block is specific to the backbone's own classes"
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

    False if the curve ends before all training images are used, because the rest of it is not known.

    found: from `profile`.
    """
    last = found["learning_curve"][-1]
    return _whole(last) and bool(last["gain"] > 1.96 * last["gain_error"])


def _whole(last: Mapping[str, Any]) -> bool:
    """Whether the curve reaches all training images. Before version 0.3 it ended at PROBED without saying so."""
    return last["training_images"] >= last.get("of", last["training_images"] + (last["training_images"] == PROBED))


def learning_curve(
    table: Table, strength: float, seed: int = 0, groups: np.ndarray | None = None
) -> list[dict[str, Any]]:
    """Measure the last block's probe with a quarter, half and all of the training images, at most CURVE_IMAGES.

    The penalty is chosen for each size, because fewer images need a stronger one: with that of all images, small sizes
    would look worse than they are, and the gain larger.

    Args:
        table: From `tlkit.features.table.feature_table`.
        strength: C of the probe on all images, the inverse of its L2 penalty. 1, 0.1 and 0.01 times it are tried.
        seed: Of the order in which training images are added.
        groups: Of the held-out images, as in `tlkit.stats.effective_images`.

    Returns:
        A dict for each share: training_images, of (how many there are), accuracy, accuracy_95 and strength; from the
        second on also gain, the paired difference to the point before on the same held-out images, and gain_error, its
        standard error.
    """
    held_out = table.held_out
    everything = max(int((table.folds != number).sum()) for number in np.unique(table.folds[held_out]))
    table = table.fewer(CURVE_IMAGES)
    held_out, points = table.held_out, []
    order = np.random.default_rng(seed).permutation(len(table.labels))
    previous: np.ndarray | None = None
    for share in CURVE:
        tried = [_cross_validated(table, share, order, factor * strength) for factor in FACTORS]
        best = min(tried, key=lambda one: one.loss)
        correct = best.probabilities.argmax(1) == table.labels[held_out]
        point = {
            "training_images": best.used,
            "of": everything,
            "accuracy": float(correct.mean()),
            "accuracy_95": list(wilson_interval(int(correct.sum()), len(held_out))),
            "strength": best.strength,
        }
        if previous is not None:
            point["gain"], point["gain_error"] = paired_difference(correct, previous, groups)
        previous = correct
        points.append(point)
    return points


@dataclass(frozen=True)
class _Tried:
    """A probe on a share of the training images. used: how many. probabilities: of the held-out images."""

    strength: float
    used: int
    probabilities: np.ndarray
    loss: float


def _cross_validated(table: Table, share: float, order: np.ndarray, strength: float) -> _Tried:
    """The last block's probe at one C, each fold predicted by one on a share of the rows of the others."""
    rows, labels, held_out = table.blocks[-1], table.labels, table.held_out
    probabilities, used = np.zeros((len(labels), table.classes), "float32"), 0
    for number in np.unique(table.folds[held_out]):
        training = order[table.folds[order] != number]
        training = training[: max(round(share * len(training)), table.classes)]
        here = table.folds == number
        of_fold = rows[here], labels[here]
        head = solve(
            rows[training], labels[training], table.classes, strength=strength, solver=RIDGE, validation=of_fold
        )
        probabilities[here] = head.probabilities(rows[here])
        used = max(used, len(training))
    return _Tried(strength, used, probabilities[held_out], log_loss(probabilities[held_out], labels[held_out]))


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
    network = find_backbone(backbone).taking(weights)
    size = image_size or network.size
    dataset = decode_images(images, size, cache=cache).split(seed=seed)
    network = learn_weights(network, dataset.part("train"), weights=weights, seed=seed)
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
