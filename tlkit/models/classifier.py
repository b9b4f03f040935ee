"""The classifier: an ordinary functional Keras model whose backbone layers are its own layers.

Because the model is flat, a block boundary is a tensor of its graph. Cutting the graph there gives two models that
share their weights (see `tlkit.models.blocks`). Imports Keras only, so it runs on every Keras backend.
"""

from __future__ import annotations

from contextlib import contextmanager
from typing import Any

import keras
import numpy as np

from tlkit.backbones import Backbone, find_backbone, find_weights, load_backbone_weights
from tlkit.errors import SpecError
from tlkit.models.batch_norm import _copy_momentum, _lower_batch_norm_momentum
from tlkit.models.head import _attach_head, _head_layers, _pool, _pooled_taps
from tlkit.plan.recipe import Head


def build_classifier(
    backbone: Backbone | str,
    classes: int,
    *,
    head: Head | None = None,
    image_size: int | None = None,
    weights: str = "imagenet",
    seed: int = 0,
    precision: str = "float32",
    accept_licence: bool = False,
) -> keras.Model:
    """Build a classifier: a backbone with a new head, as one flat functional model.

    The model takes raw RGB, 0-255, shape (n, image_size, image_size, 3), and normalises it itself. It returns float32
    probabilities, shape (n, classes). All layers are trainable: call `set_trainable` before `compile`.

    Args:
        backbone: a row of `tlkit.backbones`, its name, or anything that `find_backbone` accepts.
        classes: number of classes, 2 or more.
        head: what replaces the top; default `Head()`, or with `weights="none"` the backbone's own head, if it has one.
        image_size: pixels of each side; default the backbone's native size.
        weights: "imagenet", "none" for random ones, a weights file of the backbone with or without its top, or a name
            such as "timm:resnext50_32x4d.tv_in1k" (see `tlkit.pretrained`).
        seed: sets Keras' global seed, so that the initial weights are reproducible.
        precision: a Keras dtype policy for the layers. The softmax is always float32.
        accept_licence: as for `tlkit.pretrained`.

    Raises:
        SpecError: fewer than 2 classes, or an image size that the backbone does not accept.
        WeightsError: the weights are absent, or those of another network, or their licence is not accepted.
    """
    backbone = find_backbone(backbone) if isinstance(backbone, str) else backbone
    backbone = backbone.taking(weights)
    head = head or (backbone.own_head if weights == "none" else None) or Head()
    size = image_size or backbone.size
    if classes < 2:
        raise SpecError(f"classes is {classes}. Expected 2 or more.")
    if size < backbone.smallest:
        raise SpecError(f"image_size is {size}, but {backbone.name} takes {backbone.smallest} or more pixels.")
    file = find_weights(backbone, weights, accept_licence=accept_licence)
    keras.utils.set_random_seed(seed)
    with _dtype_policy(precision):
        inputs, features = backbone.build(size)
        network = keras.Model(inputs, features)
        if file is not None:
            load_backbone_weights(backbone, network, file)
        elif not backbone.brings_weights:
            _lower_batch_norm_momentum(network)
        x = _pooled_taps(network, backbone, head) if head.taps else _pool(features, head.pooling)
        return keras.Model(inputs, _attach_head(x, head, classes), name="classifier")


@contextmanager
def _dtype_policy(name: str):  # type: ignore[no-untyped-def]
    before = keras.config.dtype_policy()
    keras.config.set_dtype_policy(name)
    try:
        yield
    finally:
        keras.config.set_dtype_policy(before)


def as_float32(model: keras.Model, backbone: Backbone, head: Head) -> keras.Model:
    """Return a copy of the classifier that computes in float32 throughout, for saving and serving."""
    size, classes = model.input_shape[1], model.output_shape[-1]
    plain = build_classifier(backbone, classes, head=head, image_size=size, weights="none")
    plain.set_weights(model.get_weights())
    _copy_momentum(model, plain)
    return plain


def with_head(model: keras.Model, kernel: np.ndarray, bias: np.ndarray) -> keras.Model:
    """Return a classifier that shares all layers with another one but the last, which has these weights.

    kernel: shape (features, classes). bias: shape (classes,).
    """
    last = model.layers[-1]
    other = type(last).from_config(last.get_config())
    copy = keras.Model(model.input, other(last.input), name=model.name)
    other.set_weights([kernel, bias])
    return copy


def copy_weights(source: keras.Model, target: keras.Model, *, with_head: bool) -> None:
    """Copy a classifier's backbone weights into another classifier with the same backbone.

    with_head: copy the head's weights too, if their shapes agree.

    Raises SpecError if the backbones differ.
    """
    theirs, ours = _backbone_weights(source), _backbone_weights(target)
    if [tuple(w.shape) for w in theirs] != [tuple(w.shape) for w in ours]:
        raise SpecError(
            "The earlier run's backbone has other weights than this one. Start from a run of the same backbone."
        )
    for our_weight, their_weight in zip(ours, theirs, strict=True):
        our_weight.assign(their_weight)
    _copy_momentum(source, target)
    if with_head:
        heads = [[w for layer in _head_layers(m) for w in layer.weights] for m in (source, target)]
        if [tuple(w.shape) for w in heads[0]] == [tuple(w.shape) for w in heads[1]]:
            for their_weight, our_weight in zip(*heads, strict=True):
                our_weight.assign(their_weight)


def _backbone_weights(model: keras.Model) -> list[Any]:
    head = {id(layer) for layer in _head_layers(model)}
    return [weight for layer in model.layers if id(layer) not in head for weight in layer.weights]
