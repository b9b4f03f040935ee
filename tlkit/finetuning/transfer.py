"""Measures what transfer would have gained over training from scratch: a linear head on frozen pretrained features."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import pandas as pd

from tlkit.backbones import BACKBONES, Backbone, cached_file
from tlkit.data.dataset import Dataset, decode_images
from tlkit.evaluation.predict import predict_from_cache
from tlkit.finetuning.prepare import Prepared
from tlkit.models.classifier import build_classifier
from tlkit.plan.job import Job
from tlkit.progress import Clock, log
from tlkit.recipes import RECIPES
from tlkit.runs.folder import Run
from tlkit.stats import paired_difference
from tlkit.strategy.recipes import delivery_seconds
from tlkit.training.train import train

PROBE = RECIPES["small_similar"]  # what is compared: solved in seconds once the features are computed
FREE = "nano"  # a network whose weights need no download
SPARE = 2.0  # times the seconds of the delivery that must be left of a time limit
Z = 1.96


def from_scratch(job: Job) -> bool:
    """Whether a run begins from random weights."""
    return job.from_run is None and job.weights == "none"


def transfer_gain(prepared: Prepared, run: Run, clock: Clock | None = None) -> dict[str, Any] | None:
    """Compare a run from scratch with a linear head on frozen pretrained features, on the same held-out images.

    The features are the backbone's own if its ImageNet weights are on this machine, else nano's. Nothing is downloaded.

    Args:
        run: with its predictions.csv. The images are those of its test split, else of its validation split.

    Returns:
        backbone, image_size, split, n, accuracy (of the head), scratch (of the run), gain, gain_95, and a sentence.
        None if the run did not begin from random weights, or if the time limit leaves too little.
    """
    clock, job = clock or Clock(), prepared.job
    if not from_scratch(job) or clock.deadline.left < SPARE * delivery_seconds(len(prepared.dataset), job.report):
        return None
    backbone = prepared.backbone if cached_file(prepared.backbone) else BACKBONES[FREE]
    log.info(f"comparing with a linear head on the pretrained features of {backbone.name}")
    with clock.timed("transfer"):
        dataset = _at_size(prepared.dataset, backbone)
        split = "test" if dataset.count("test") else "validation"
        probabilities = _probed(dataset, backbone, split, job.seed)
    listed = dataset.images.part(split).table["path"]
    classes = np.array(dataset.class_names)
    probed = pd.Series(classes[probabilities.argmax(1)], index=listed)
    return _compared(run.read_table("predictions.csv"), probed, backbone, dataset, split)


def _at_size(dataset: Dataset, backbone: Backbone) -> Dataset:
    """The data set at a size that the backbone takes: its own if the run's is too small."""
    if dataset.pixels.size >= backbone.smallest:
        return dataset
    images = dataset.images
    pixels = decode_images(images, backbone.size, dataset.pixels.fit, dataset.cache).pixels
    return dataclasses.replace(dataset, pixels=pixels)


def _probed(dataset: Dataset, backbone: Backbone, split: str, seed: int) -> np.ndarray:
    """Probabilities of a split's images by a head that is solved on the training images."""
    size = dataset.pixels.size
    model = build_classifier(backbone, len(dataset.class_names), head=PROBE.head, image_size=size, seed=seed)
    train(model, backbone, PROBE, dataset.part("train"), dataset.part("validation"), seed=seed)
    return predict_from_cache(model, backbone, 0, dataset.part(split), PROBE.batch_size)[0]


def _compared(
    table: pd.DataFrame, probed: pd.Series, backbone: Backbone, dataset: Dataset, split: str
) -> dict[str, Any]:
    """The comparison, image by image. table: predictions.csv. probed: the head's answers by path."""
    rows = table[table["split"] == split]
    own = (rows["prediction"] == rows["label"]).to_numpy()
    theirs = (probed.reindex(rows["path"]).to_numpy() == rows["label"]).to_numpy()
    groups = dataset.images.part(split).groups()
    gain, error = paired_difference(theirs, own, groups)
    error = max(error, 1 / len(own))  # where both are right on the same images, one more could still tell them apart
    low, high = max(gain - Z * error, -1.0), min(gain + Z * error, 1.0)
    size, (with_head, without) = dataset.pixels.size, (float(theirs.mean()), float(own.mean()))
    verdict = "would have gained" if gain >= 0 else "would have lost"
    sentence = (
        f"transfer {verdict} {abs(gain) * 100:.1f} points (95 % interval {low * 100:+.1f} to {high * 100:+.1f}): a "
        f"linear head on {backbone.name}'s frozen ImageNet features at {size} px has an accuracy of {with_head:.1%} "
        f"on the same {len(own):,} {split} images, this network from scratch {without:.1%}"
    )
    return {
        "backbone": backbone.name,
        "image_size": size,
        "split": split,
        "n": len(own),
        "accuracy": with_head,
        "scratch": without,
        "gain": gain,
        "gain_95": [low, high],
        "sentence": sentence,
    }
