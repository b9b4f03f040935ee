"""Compares backbones by linear probes on held-out images. Where these cannot tell them apart, the faster one wins."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from tlkit.backbones.learning import learn_weights
from tlkit.data.dataset import decode_images
from tlkit.errors import DataError
from tlkit.features.linear import choose_strength
from tlkit.features.table import feature_table
from tlkit.models.classifier import build_classifier
from tlkit.models.inference import frozen_call
from tlkit.plan.decision import Decision
from tlkit.progress import log
from tlkit.stats import AT_CHANCE, paired_difference, paired_p_value, wilson_interval
from tlkit.words import counted

if TYPE_CHECKING:
    import keras

    from tlkit.backbones import Backbone
    from tlkit.cache import Cache
    from tlkit.data.images import ImageSet
    from tlkit.plan.job import Job


def compare_backbones(
    networks: Sequence[Backbone],
    images: ImageSet,
    job: Job,
    cache: Cache | None = None,
) -> tuple[Backbone, Decision]:
    """Compare backbones by linear probes on their last block, on held-out images.

    A slower backbone wins only if it is more accurate than chance explains (exact McNemar test at 5 %,
    Bonferroni-corrected for the number of slower backbones).

    Args:
        networks: The backbones to compare.
        images: Split or not; test images are not used.
        job: Gives seed, fit, weights, validation and image_size.
        cache: Where pixels and features are kept, default the user's.

    Returns:
        The backbone, and the decision with its evidence for the plan.

    Raises:
        DataError: The cache has no room for the features of a backbone.
    """
    rows: list[dict[str, Any]] = []
    correct: dict[str, np.ndarray] = {}
    groups: np.ndarray | None = None
    log.info(f"comparing {len(networks)} backbones by linear probes on held-out images")
    for network in networks:
        size = job.image_size or network.size
        dataset = decode_images(images, size, job.fit, cache)
        dataset = dataset.split(validation=job.validation, seed=job.seed)
        learned = learn_weights(network, dataset.part("train"), weights=job.weights, seed=job.seed)
        model = _classifier(learned, len(dataset.class_names), size, job)
        pool, training = dataset.part("train", "validation"), dataset.count("train")
        table = feature_table(model, network, pool, training, seed=job.seed)
        if table is None:
            raise DataError(
                f"The cache has no room for {network.name}'s features. Raise `cache_gb`, or name one backbone."
            )
        found = choose_strength(table.blocks[0], table.labels, table.folds, table.classes)
        hits = found.probabilities.argmax(1) == table.labels[table.held_out]
        correct[network.name] = hits
        groups = None if pool.groups is None else pool.groups[table.held_out]  # the same for every backbone
        call, batch = frozen_call(model, 32), np.zeros((32, size, size, 3), "uint8")
        call(batch)  # the first call traces
        started = time.monotonic()
        call(batch)
        milliseconds = 1000 * (time.monotonic() - started) / 32
        low, high = wilson_interval(int(hits.sum()), len(hits))
        rows.append(
            {
                "backbone": network.name,
                "image_size": size,
                "accuracy": float(hits.mean()),
                "accuracy_95": [low, high],
                "n": len(hits),
                "milliseconds_per_image": round(milliseconds, 2),
            }
        )
        log.info(
            f"  {network.name:<22} accuracy {hits.mean():.1%} (95 % interval {low:.1%} to {high:.1%}, "
            f"n = {len(hits):,}), {milliseconds:.1f} ms per image"
        )
    rows.sort(key=lambda row: row["milliseconds_per_image"])
    leader = rows[0]
    for row in rows[1:]:
        first, second = correct[row["backbone"]], correct[leader["backbone"]]
        if _surely_ahead(first, second, challengers=len(rows) - 1, groups=groups):
            leader = row
    best = max(rows, key=lambda row: row["accuracy"])
    why = (
        f"a linear probe predicts {leader['accuracy']:.1%} of {counted(leader['n'], 'held-out image')} correctly, "
        f"at {leader['milliseconds_per_image']:.1f} ms per image"
    )
    if best is not leader:
        ahead, error = paired_difference(correct[best["backbone"]], correct[leader["backbone"]], groups)
        why += (
            f"; {best['backbone']}, at {best['milliseconds_per_image']:.1f} ms per image, is {100 * ahead:.1f} points "
            f"more accurate (95 % interval ±{196 * error:.1f}), which these images cannot tell from chance"
        )
    chosen = next(network for network in networks if network.name == leader["backbone"])
    return chosen, Decision("backbone", chosen.name, why, {"compared": rows})


def _classifier(network: Backbone, classes: int, size: int, job: Job) -> keras.Model:
    return build_classifier(
        network, classes, image_size=size, weights=job.weights, seed=job.seed, accept_licence=job.accept_licence
    )


def _surely_ahead(first: np.ndarray, second: np.ndarray, challengers: int, groups: np.ndarray | None = None) -> bool:
    """Whether the first is more accurate, by an exact test that is corrected for the number of challengers."""
    return bool(first.mean() > second.mean()) and paired_p_value(first, second, groups) * challengers < AT_CHANCE
