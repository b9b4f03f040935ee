"""The classifier: an ordinary functional Keras model whose backbone layers are its own layers.

Because the model is flat, a block boundary is a tensor of its graph, and cutting there gives two models that share
their weights. Unfreezing is done per layer, right before `compile`; nothing else in the library touches `trainable`.
Imports Keras only, so it runs on every Keras backend.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import keras

from tlkit.backbones import Backbone, find_backbone, find_weights, load_backbone_weights
from tlkit.backbones.own import own_graph
from tlkit.backbones.table import build_backbone
from tlkit.errors import SpecError
from tlkit.graph import ancestors_of, crossing_tensors, graph_nodes
from tlkit.spec import BATCH_NORMS, Head

FEATURES = "head_features"  # the layer whose output is the pooled features


@dataclass(frozen=True)
class Block:
    """A stretch of the backbone between two boundaries.

    layers: its layers, in graph order. end: the tensors that leave it, one for most networks and two for NASNet.
    """

    layers: tuple[keras.layers.Layer, ...]
    end: tuple[Any, ...]


def build_classifier(
    backbone: Backbone | str,
    classes: int,
    *,
    head: Head | None = None,
    image_size: int | None = None,
    weights: str = "imagenet",
    seed: int = 0,
    precision: str = "float32",
) -> keras.Model:
    """A backbone with a new head, as one flat functional model.

    backbone: a row of `tlkit.backbones`, or its name, or a `.keras` file.
    classes: 2 or more. image_size: pixels of each side; default the backbone's native size.
    weights: "imagenet", "none" for random ones, or a weights file of the backbone without its top.
    seed: sets Keras' global seed, so that initial weights repeat.
    precision: a Keras dtype policy for the layers; the softmax is float32 in any case.

    The model takes raw RGB, 0-255, shape (n, image_size, image_size, 3), and answers float32 probabilities, shape
    (n, classes). It normalises by itself. All layers are trainable: call `set_trainable` before `compile`.

    Raises SpecError for a size the backbone cannot take, WeightsError for absent or foreign weights.
    """
    backbone = find_backbone(backbone) if isinstance(backbone, str) else backbone
    head = head or Head()
    size = image_size or backbone.size
    if classes < 2:
        raise SpecError(f"classes is {classes}. Expected 2 or more.")
    if size < backbone.smallest:
        raise SpecError(f"image_size is {size}, and {backbone.name} takes {backbone.smallest} or more pixels.")
    file = find_weights(backbone, weights)
    keras.utils.set_random_seed(seed)
    with _dtype_policy(precision):
        if backbone.file:
            inputs, features = own_graph(backbone, size)
        else:
            inputs = keras.Input((size, size, 3), name="image")
            features = build_backbone(backbone, inputs)
            network = keras.Model(inputs, features)
            if file is not None:
                load_backbone_weights(backbone, network, file)
            else:
                _quicken_batch_norm(network)
        return keras.Model(inputs, _attach_head(features, head, classes), name="classifier")


def _quicken_batch_norm(network: keras.Model) -> None:
    """Random weights have no statistics worth keeping, and at a momentum of 0.99 to 0.999 new ones take thousands of steps.

    Measured: mobilenetv2_0.35 from random weights on 960 digits, 20 epochs of 60 steps: training accuracy 99.8 %,
    validation 10.0 % (chance), because the moving statistics had not arrived.
    """
    for layer in network.layers:
        if isinstance(layer, keras.layers.BatchNormalization):
            layer.momentum = 0.9


def _attach_head(features: Any, head: Head, classes: int) -> Any:
    layers, l2 = keras.layers, keras.regularizers.L2(head.l2) if head.l2 else None
    x = _pool(features, head.pooling)
    if head.batch_norm:
        x = layers.BatchNormalization(name="head_bn")(x)
    for number, units in enumerate(head.hidden, start=1):
        x = _drop(x, head.dropout, f"head_dropout_{number}")
        x = layers.Dense(units, kernel_regularizer=l2, use_bias=not head.batch_norm, name=f"head_dense_{number}")(x)
        if head.batch_norm:
            x = layers.BatchNormalization(name=f"head_bn_{number}")(x)
        x = layers.Activation("relu", name=f"head_relu_{number}")(x)
    x = _drop(x, head.dropout, "head_dropout")
    return layers.Dense(classes, activation="softmax", kernel_regularizer=l2, dtype="float32", name="predictions")(x)


def _pool(features: Any, pooling: str) -> Any:
    layers = keras.layers
    if len(features.shape) == 2:  # one's own backbone may end in a vector
        return layers.Activation("linear", name=FEATURES)(features)
    if pooling == "avg":
        return layers.GlobalAveragePooling2D(name=FEATURES)(features)
    if pooling == "max":
        return layers.GlobalMaxPooling2D(name=FEATURES)(features)
    if pooling == "flatten":
        return layers.Flatten(name=FEATURES)(features)
    average = layers.GlobalAveragePooling2D(name="head_avg")(features)
    highest = layers.GlobalMaxPooling2D(name="head_max")(features)
    return layers.Concatenate(name=FEATURES)([average, highest])


def _drop(x: Any, rate: float, name: str) -> Any:
    return keras.layers.Dropout(rate, name=name)(x) if rate else x


@contextmanager
def _dtype_policy(name: str):  # type: ignore[no-untyped-def]
    before = keras.config.dtype_policy()
    keras.config.set_dtype_policy(name)
    try:
        yield
    finally:
        keras.config.set_dtype_policy(before)


def as_float32(model: keras.Model, backbone: Backbone, head: Head) -> keras.Model:
    """The same classifier computing in float32 throughout, weights copied; for saving and serving."""
    size, classes = model.input_shape[1], model.output_shape[-1]
    plain = build_classifier(backbone, classes, head=head, image_size=size, weights="none")
    plain.set_weights(model.get_weights())
    _copy_momentum(model, plain)
    return plain


def _copy_momentum(source: keras.Model, target: keras.Model) -> None:
    """BatchNormalization's momentum is no weight, and depends on whether a network began with random ones."""
    kinds = [[x for x in m.layers if isinstance(x, keras.layers.BatchNormalization)] for m in (source, target)]
    for theirs, mine in zip(*kinds, strict=False):  # heads may differ, and come last
        mine.momentum = theirs.momentum


def copy_weights(source: keras.Model, target: keras.Model, *, with_head: bool) -> None:
    """Copy a classifier's backbone weights into another of the same backbone; with_head: and its head's, where they fit.

    Raises SpecError when the backbones differ.
    """
    theirs, ours = _backbone_weights(source), _backbone_weights(target)
    if [tuple(w.shape) for w in theirs] != [tuple(w.shape) for w in ours]:
        raise SpecError(
            "The earlier run's backbone has other weights than this one. Start from a run of the same backbone."
        )
    for mine, other in zip(ours, theirs, strict=True):
        mine.assign(other)
    _copy_momentum(source, target)
    if with_head:
        heads = [[w for layer in _head_layers(m) for w in layer.weights] for m in (source, target)]
        if [tuple(w.shape) for w in heads[0]] == [tuple(w.shape) for w in heads[1]]:
            for other, mine in zip(*heads, strict=True):
                mine.assign(other)


def _head_layers(model: keras.Model) -> list[keras.layers.Layer]:
    return [layer for layer in model.layers if layer.name.startswith("head_") or layer.name == "predictions"]


def _backbone_weights(model: keras.Model) -> list[Any]:
    head = {id(layer) for layer in _head_layers(model)}
    return [weight for layer in model.layers if id(layer) not in head for weight in layer.weights]


# -- blocks -----------------------------------------------------------------------------------------------


def blocks(model: keras.Model, backbone: Backbone) -> list[Block]:
    """The backbone's blocks in a classifier, bottom first; together they hold every weighted backbone layer."""
    nodes = graph_nodes(model)
    below: set[Any] = set()
    result = []
    for boundary in (*backbone.boundaries, _end_of_backbone(model)):
        ancestors = ancestors_of(_boundary_tensors(model, nodes, boundary), nodes)
        mine = [op for op in nodes if op in ancestors and op not in below]
        layers = tuple(op for op in mine if isinstance(op, keras.layers.Layer))
        result.append(Block(layers, crossing_tensors(ancestors, nodes)))
        below = ancestors
    return result


def set_trainable(
    model: keras.Model, backbone: Backbone | str, *, unfreeze: int | str = 0, batch_norm: str = "frozen"
) -> int:
    """Let the head and the top blocks train, and freeze everything else. Compile afterwards.

    unfreeze: how many blocks from the top; "all" for every one; 0 for the head alone.
    batch_norm: "frozen" holds the unfrozen blocks' BatchNormalization still (weights and moving statistics);
        "moving" trains them. Keras up to 3.15 ignores `training=False` during `fit`, so this is done per layer.

    Returns the number of trainable weights (numbers, not tensors). Raises SpecError when the backbone has fewer blocks.
    """
    if batch_norm not in BATCH_NORMS:
        raise SpecError(f"batch_norm is '{batch_norm}'. Expected one of {', '.join(BATCH_NORMS)}.")
    backbone = find_backbone(backbone) if isinstance(backbone, str) else backbone
    parts = blocks(model, backbone)
    count = backbone.block_count(unfreeze)
    of_backbone = {id(layer) for block in parts for layer in block.layers}
    for layer in model.layers:
        layer.trainable = id(layer) not in of_backbone
    for block in parts[len(parts) - count :]:
        for layer in block.layers:
            layer.trainable = True
            if batch_norm == "frozen":
                for inner in _inner_layers(layer):
                    if isinstance(inner, keras.layers.BatchNormalization):
                        inner.trainable = False
    return sum(math.prod(weight.shape) for weight in model.trainable_weights)


def cut(model: keras.Model, backbone: Backbone, unfreeze: int | str) -> tuple[keras.Model | None, keras.Model]:
    """Two models that share the classifier's weights: the frozen prefix, and what trains on its outputs.

    With unfreeze 0 the prefix ends at the pooled features; with k, below the top k blocks; with "all" (or every block)
    there is no prefix, and the second is the classifier itself.
    """
    parts = blocks(model, backbone)
    count = backbone.block_count(unfreeze)
    if count == len(parts):
        return None, model
    end = (model.get_layer(FEATURES).output,) if count == 0 else parts[len(parts) - count - 1].end
    prefix = keras.Model(model.input, list(end), name="prefix")
    return prefix, keras.Model(list(end), model.output, name="suffix")


def _inner_layers(layer: keras.layers.Layer) -> Sequence[keras.layers.Layer]:
    """A layer and, when it holds others (ConvNeXt's down-sampling), those too."""
    return [layer, *[inner for child in getattr(layer, "layers", ()) for inner in _inner_layers(child)]]


def _end_of_backbone(model: keras.Model) -> str:
    names = {layer.name for layer in model.layers}
    return "before head_avg" if "head_avg" in names else f"before {FEATURES}"


def _boundary_tensors(model: keras.Model, nodes: dict[Any, Any], boundary: str) -> Sequence[Any]:
    where, name = boundary.split(" ", 1)
    node = nodes[model.get_layer(name)]
    return node.output_tensors if where == "after" else node.input_tensors
