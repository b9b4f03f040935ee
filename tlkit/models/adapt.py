"""Adapts BatchNormalization to images of a new site, without labels. Imports Keras and NumPy only."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import keras
import numpy as np

from tlkit.backbones.graph import graph_nodes, walk
from tlkit.errors import SpecError

SOURCE = 16  # images that the model's own statistics count for, as in Schneider et al. 2020
MOST = 128  # images at most whose statistics are taken: their activations are in memory at the same time
LEAST_VARIANCE = 1e-6  # of what a channel's variance is compared with


@dataclass(frozen=True)
class Moments:
    """The mean and variance of each channel that enters a BatchNormalization layer: float64, shape (channels,)."""

    mean: np.ndarray
    variance: np.ndarray


def batch_norms_of(model: keras.Model) -> list[keras.layers.BatchNormalization]:
    """The BatchNormalization layers of a model's graph, inputs first. Those inside other layers are left out."""
    return [one for one in graph_nodes(model) if isinstance(one, keras.layers.BatchNormalization)]


def reference_moments(model: keras.Model, images: np.ndarray) -> dict[str, Moments]:
    """Measure what enters each BatchNormalization layer, for images like those that the model was trained on.

    images: uint8 or float, shape (n, height, width, 3), RGB 0-255; the first MOST are used.

    Returns:
        The moments by the layer's name.
    """
    found: dict[str, Moments] = {}

    def apply(operation: Any, args: Sequence[Any], kwargs: Mapping[str, Any]) -> Any:
        if isinstance(operation, keras.layers.BatchNormalization):
            found[operation.name] = _moments(operation, args[0])
        return _called(operation, args, kwargs)

    walk(model, _as_input(model, images), apply)
    return found


def adapt_statistics(
    model: keras.Model, reference: Mapping[str, Moments], images: np.ndarray, *, source: float = SOURCE
) -> list[np.ndarray]:
    """Set the statistics of every BatchNormalization layer so that new images leave it as the model's own images do.

    With frozen layers, the stored statistics are those of the images on which the network was pretrained, and the head
    has learned from what the run's own images make of them. So they are not replaced by the new images' statistics, but
    moved by the difference between these and the reference's: afterwards the mean and variance of each channel that
    leaves the layer are as they were for the reference. Each layer sees the new images as the adapted layers below it
    hand them on. The new images count for n / (source + n) of the change (Schneider et al. 2020, arXiv:2006.16971,
    whose mixture this is where the reference's statistics are the stored ones).

    Args:
        model: Changed in place.
        reference: Of `reference_moments`.
        images: As there, from the new site.
        source: How many images the model's own statistics count for.

    Returns:
        The outputs of the adapted model for the images that were used, an array for each output.

    Raises:
        SpecError: The model has no BatchNormalization layer.
    """
    if not batch_norms_of(model):
        raise SpecError(
            f"'{model.name}' has no BatchNormalization layer, so there are no statistics to adapt. "
            "Expected a network such as MobileNetV2, ResNet or EfficientNet."
        )
    share = min(len(images), MOST) / (min(len(images), MOST) + source)

    def apply(operation: Any, args: Sequence[Any], kwargs: Mapping[str, Any]) -> Any:
        if isinstance(operation, keras.layers.BatchNormalization):
            _move(operation, reference[operation.name], _moments(operation, args[0]), share)
        return _called(operation, args, kwargs)

    outputs = walk(model, _as_input(model, images), apply)
    return [keras.ops.convert_to_numpy(one) for one in (outputs if isinstance(outputs, list) else [outputs])]


def _move(layer: keras.layers.BatchNormalization, before: Moments, now: Moments, share: float) -> None:
    """Move a layer's stored statistics by a share of the way from the reference's moments to those of new images."""
    mean, variance = (np.asarray(one, "float64") for one in (layer.moving_mean, layer.moving_variance))
    scale = np.sqrt((now.variance + LEAST_VARIANCE) / (before.variance + LEAST_VARIANCE))
    moved_variance = (variance + layer.epsilon) * scale**2 - layer.epsilon
    moved_mean = now.mean - scale * (before.mean - mean)
    layer.moving_mean.assign(((1 - share) * mean + share * moved_mean).astype("float32"))
    mixed = (1 - share) * variance + share * np.maximum(moved_variance, 0)
    layer.moving_variance.assign(mixed.astype("float32"))


def _moments(layer: keras.layers.BatchNormalization, values: Any) -> Moments:
    axis = layer.axis[0] if isinstance(layer.axis, list | tuple) else layer.axis
    others = [i for i in range(len(values.shape)) if i != axis % len(values.shape)]
    values = keras.ops.cast(values, "float32")
    mean, variance = keras.ops.mean(values, others), keras.ops.var(values, others)
    return Moments(*(np.asarray(keras.ops.convert_to_numpy(one), "float64") for one in (mean, variance)))


def _called(operation: Any, args: Sequence[Any], kwargs: Mapping[str, Any]) -> Any:
    if isinstance(operation, keras.layers.Layer) and "training" in kwargs:
        kwargs = {**kwargs, "training": False}
    return operation(*args, **kwargs)


def _as_input(model: keras.Model, images: np.ndarray) -> Any:
    return keras.ops.convert_to_tensor(np.asarray(images[:MOST]), dtype=model.inputs[0].dtype)


def statistics_of(model: keras.Model) -> Iterator[tuple[str, np.ndarray, np.ndarray]]:
    """The name, moving mean and moving variance of each BatchNormalization layer."""
    for layer in batch_norms_of(model):
        yield layer.name, np.array(layer.moving_mean), np.array(layer.moving_variance)
