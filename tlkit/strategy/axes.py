"""The two axes of transfer learning, measured: how much data there is, and how like the pictures are to what the backbone knows.

Size: images per class, and whether accuracy still climbs with more of them. Similarity: which block's features serve best, how far
the last block's linear probe is above chance, and how far the activations lie from those the backbone was trained on. All of it from
the backbone's pooled features, which the cache keeps for whatever is trained next.
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
from tlkit.stats import paired_difference, wilson_interval

if TYPE_CHECKING:
    from tlkit.cache import Cache
    from tlkit.data.images import ImageSet


CURVE = (0.25, 0.5, 1.0)  # shares of the training images for the learning curve
ACTIVATION_IMAGES = 256


def profile(tapped: keras.Model, backbone: Backbone, table: Table, pool: Examples, *, seed: int = 0) -> dict[str, Any]:
    """The axes as JSON values, each number with its interval and n, and sentences a person understands.

    tapped, table, pool: as in and from `feature_table`.
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
        "above_chance": (last.accuracy - chance) / max(1 - chance, 1e-9),
        "learning_curve": curve,
        "activation_distance": activation_distance(tapped, pool),
    }
    found["similar"] = is_similar(found)
    found["sentences"] = sentences(found)
    found["seconds"] = round(time.monotonic() - started, 2)
    return found


DISTANT = (
    0.1  # nats per channel: photographs gave 0.03 to 0.06, cells, X-rays and letters 0.14 to 0.31 (three backbones)
)


def is_similar(found: dict[str, Any]) -> bool | None:
    """Whether the pictures are like those the backbone knows, by a `profile`'s numbers; None where they do not say.

    Different: an earlier block serves better than the last by more than a standard error of the difference, or the activations are
    far away. Similar: neither, and the distance was measured.
    """
    earlier = found["best_block"] != found["blocks"][-1]["block"]
    if earlier and found["best_ahead_of_last"] > found["best_ahead_of_last_error"]:
        return False
    distance = found["activation_distance"]
    return None if distance is None else bool(distance < DISTANT)


def sentences(found: dict[str, Any]) -> list[str]:
    """What the numbers of a `profile` say, for a person."""
    last, curve = found["blocks"][-1], found["learning_curve"]
    low, high = last["accuracy_95"]
    lines = [
        f"{found['images']:,} images, {found['effective_images_per_class']:g} per class (harmonic mean, equal files once)",
        f"a linear probe on the last block is right on {last['accuracy']:.1%} of {found['n']:,} ({low:.1%} to {high:.1%}; "
        f"chance {found['chance']:.1%}; {found['how']})",
    ]
    error = curve[-1]["gain_error"]
    gain = curve[-1]["gain"]
    grew = f"from {curve[-2]['training_images']:,} to {curve[-1]['training_images']:,} training images it changed by {100 * gain:+.1f} points"
    if still_climbing(found):
        lines.append(f"{grew}: still climbing, more pictures would help")
    else:
        lines.append(f"{grew}, not more than chance would (95 % interval ±{196 * error:.1f})")
    best, ahead, error = found["best_block"], found["best_ahead_of_last"], found["best_ahead_of_last_error"]
    if best != last["block"] and ahead > error:
        lines.append(
            f"block {best} of {last['block']} serves better than the last, by {100 * ahead:.1f} points (±{196 * error:.1f}): "
            "the last is bound to ImageNet's classes"
        )
    else:
        lines.append(f"no block serves better than the last of {last['block']} by more than its standard error")
    distance = found["activation_distance"]
    if distance is None:
        lines.append("distance from the backbone's own pictures: not measured, it has no BatchNormalization")
    else:
        kind = "like" if distance < DISTANT else "unlike"
        lines.append(
            f"distance from the backbone's own pictures: {distance:.2f} nats per channel, so they are {kind} those (border {DISTANT:g})"
        )
    return lines


def still_climbing(found: Mapping[str, Any]) -> bool:
    """Whether accuracy rose with the last doubling of the training images by more than chance would, by a `profile`'s numbers."""
    last = found["learning_curve"][-1]
    return bool(last["gain"] > 1.96 * last["gain_error"])


def learning_curve(table: Table, strength: float, seed: int = 0) -> list[dict[str, Any]]:
    """Accuracy of the last block's probe with a quarter, half and all of the training images, on the same held-out images."""
    table = table.fewer(PROBED)
    rows, order = table.blocks[-1], np.random.default_rng(seed).permutation(len(table.labels))
    held_out, points = table.held_out, []
    previous: np.ndarray | None = None
    for share in CURVE:
        right = np.zeros(len(table.labels), bool)
        used = 0
        for number in np.unique(table.folds[held_out]):
            training = order[table.folds[order] != number]
            training = training[: max(round(share * len(training)), table.classes)]
            head = solve(
                rows[training], table.labels[training], table.classes, strength=strength, solver=Solver("ridge")
            )
            mine = table.folds == number
            right[mine] = head.probabilities(rows[mine]).argmax(1) == table.labels[mine]
            used = max(used, len(training))
        point = {
            "training_images": used,
            "accuracy": float(right[held_out].mean()),
            "accuracy_95": list(wilson_interval(int(right[held_out].sum()), len(held_out))),
        }
        if previous is not None:
            point["gain"], point["gain_error"] = paired_difference(right[held_out], previous)
        previous = right[held_out]
        points.append(point)
    return points


def activation_distance(model: keras.Model, examples: Examples) -> float | None:
    """How far the pictures' activations lie from those of the backbone's own training images, in nats per channel.

    At the backbone's last BatchNormalization the moving mean and variance describe each channel over ImageNet; the distance is
    the median over channels of the Kullback-Leibler divergence between a normal distribution of these pictures' mean and variance
    and that one (what Li et al. 2016, arXiv:1603.04779, correct). Up to 256 images. None for a backbone that has none.
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
    """How much data there is and how like the pictures are to what the backbone knows: see `tlkit.strategy.axes.profile`.

    images: from `tlkit.scan`; they are split if they are not yet, and their test part is left out. What is computed is kept for the
    run that follows. Raises DataError when the cache has no room for the features, and the errors of `tlkit.build_classifier`.
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
            f"The cache has no room for the features of {len(pool):,} images. Raise `cache_gb`, or clear it."
        )
    return profile(tapped, network, table, pool, seed=seed)
