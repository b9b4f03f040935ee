"""The classifier: an ordinary functional Keras model whose backbone layers are its own layers.

Because the model is flat, a block boundary is a tensor of its graph, and cutting there gives two models that share
their weights. Unfreezing is done per layer, right before `compile`; nothing else in the library touches `trainable`.
Imports Keras only, so it runs on every Keras backend.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import keras

from tlkit.backbones import Backbone, find_backbone, find_weights, graph_of, load_backbone_weights
from tlkit.backbones.table import build_backbone
from tlkit.errors import SpecError
from tlkit.graph import ancestors_of, crossing_tensors, graph_nodes
from tlkit.spec import BATCH_NORMS, Head, Unfreeze

FEATURES = "head_features"  # the layer whose output is the pooled features
TAP = "head_tap_"  # begins the names of the layers that pool the ends of single blocks


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

    backbone: a row of `tlkit.backbones`, or its name, or what else `find_backbone` takes.
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
            inputs, features = graph_of(backbone, size)
        else:
            inputs = keras.Input((size, size, 3), name="image")
            features = build_backbone(backbone, inputs)
            network = keras.Model(inputs, features)
            if file is not None:
                load_backbone_weights(backbone, network, file)
            else:
                _quicken_batch_norm(network)
        x = _pooled_taps(keras.Model(inputs, features), backbone, head) if head.taps else _pool(features, head.pooling)
        return keras.Model(inputs, _attach_head(x, head, classes), name="classifier")


def _quicken_batch_norm(network: keras.Model) -> None:
    """Random weights have no statistics worth keeping, and at a momentum of 0.99 to 0.999 new ones take thousands of steps.

    Measured: mobilenetv2_0.35 from random weights on 960 digits, 20 epochs of 60 steps: training accuracy 99.8 %,
    validation 10.0 % (chance), because the moving statistics had not arrived.
    """
    for layer in network.layers:
        if isinstance(layer, keras.layers.BatchNormalization):
            layer.momentum = 0.9


def tapped_blocks(head: Head, backbone: Backbone) -> tuple[int, ...]:
    """The blocks whose pooled outputs a head reads, 1 = the bottom one. Raises SpecError for a block that is not there."""
    if head.taps == "all":
        return tuple(range(1, backbone.blocks + 1))
    chosen = tuple(sorted({int(block) for block in head.taps})) or (backbone.blocks,)
    if chosen[-1] > backbone.blocks:
        raise SpecError(f"Head.taps names block {chosen[-1]}, and {backbone.name} has {backbone.blocks} blocks.")
    return chosen


def _pooled_taps(network: keras.Model, backbone: Backbone, head: Head) -> Any:
    nodes, tapped = graph_nodes(network), tapped_blocks(head, backbone)
    pooled = []
    for block in tapped:
        if block == backbone.blocks:
            ends = tuple(network.outputs)
        else:
            boundary = _boundary_tensors(network, nodes, backbone.boundaries[block - 1])
            ends = crossing_tensors(ancestors_of(boundary, nodes), nodes)
        for place, end in enumerate(ends):
            suffix = f"{block}" if len(ends) == 1 else f"{block}_{place}"
            pooled.append(_pool(end, head.pooling, TAP + suffix))
    if len(pooled) == 1:
        return keras.layers.Activation("linear", name=FEATURES)(pooled[0])
    return keras.layers.Concatenate(name=FEATURES)(pooled)


def _attach_head(x: Any, head: Head, classes: int) -> Any:
    layers = keras.layers
    limits: dict[str, Any] = {
        "kernel_regularizer": keras.regularizers.L1L2(head.l1, head.l2) if head.l1 or head.l2 else None,
        "kernel_constraint": keras.constraints.MaxNorm(head.max_norm) if head.max_norm else None,
    }
    if head.batch_norm:
        x = layers.BatchNormalization(name="head_bn")(x)
    for number, units in enumerate(head.hidden, start=1):
        x = _drop(x, head.dropout, f"head_dropout_{number}")
        x = layers.Dense(units, use_bias=not head.batch_norm, name=f"head_dense_{number}", **limits)(x)
        if head.batch_norm:
            x = layers.BatchNormalization(name=f"head_bn_{number}")(x)
        x = layers.Activation("relu", name=f"head_relu_{number}")(x)
    x = _drop(x, head.dropout, "head_dropout")
    return layers.Dense(classes, activation="softmax", dtype="float32", name="predictions", **limits)(x)


def _pool(features: Any, pooling: str, name: str = FEATURES) -> Any:
    layers = keras.layers
    if len(features.shape) == 2:  # a backbone that is not of the table may end in a vector
        return layers.Activation("linear", name=name)(features)
    if len(features.shape) == 3:  # tokens
        return layers.GlobalAveragePooling1D(name=name)(features)
    if pooling == "avg":
        return layers.GlobalAveragePooling2D(name=name)(features)
    if pooling == "max":
        return layers.GlobalMaxPooling2D(name=name)(features)
    if pooling == "flatten":
        return layers.Flatten(name=name)(features)
    prefix = "head" if name == FEATURES else name
    average = layers.GlobalAveragePooling2D(name=f"{prefix}_avg")(features)
    highest = layers.GlobalMaxPooling2D(name=f"{prefix}_max")(features)
    return layers.Concatenate(name=name)([average, highest])


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
    there = {layer.name for layer in model.layers}
    below: set[Any] = set()
    result = []
    ends = [_boundary_tensors(model, nodes, one) for one in backbone.boundaries if one.split(" ", 1)[1] in there]
    for tensors in (*ends, _end_of_backbone(model, nodes)):
        ancestors = ancestors_of(tensors, nodes)
        if ancestors <= below:
            continue  # a head that taps a lower block leaves the ones above it out
        below_taps = ancestors | _taps_of(ancestors, nodes)
        mine = [op for op in nodes if op in ancestors and op not in below]
        layers = tuple(op for op in mine if isinstance(op, keras.layers.Layer))
        result.append(Block(layers, crossing_tensors(below_taps, nodes)))
        below = below_taps
    return result


def _taps_of(below: set[Any], nodes: dict[Any, Any]) -> set[Any]:
    """The layers that pool the ends of blocks below: beside the road upwards, and no longer than a vector."""
    found: set[Any] = set()
    for operation, node in nodes.items():
        if operation.name.startswith(TAP):
            makers = {tensor._keras_history.operation for tensor in node.input_tensors}
            if makers <= below | found:
                found.add(operation)
    return found


def set_trainable(
    model: keras.Model, backbone: Backbone | str, *, unfreeze: Unfreeze = 0, batch_norm: str = "frozen"
) -> int:
    """Let the head and the top blocks train, and freeze everything else. Compile afterwards.

    unfreeze: how many blocks from the top; "all" for every one; 0 for the head alone; a tuple for those blocks, 1 = the bottom one.
    batch_norm: "frozen" and "recalibrated" hold the unfrozen blocks' BatchNormalization still (weights and moving statistics);
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
    for number, block in enumerate(parts, start=1):
        if not (number in unfreeze if isinstance(unfreeze, tuple) else number > len(parts) - count):
            continue
        for layer in block.layers:
            layer.trainable = True
            if hasattr(layer, "hold_still"):  # a SavedModel, whose layers cannot be told apart
                layer.hold_still = batch_norm != "moving"
            if batch_norm != "moving":
                for inner in _inner_layers(layer):
                    if isinstance(inner, keras.layers.BatchNormalization):
                        inner.trainable = False
    return sum(math.prod(weight.shape) for weight in model.trainable_weights)


def recalibrate(model: keras.Model, layers: Sequence[keras.layers.Layer], inputs: Iterable[Any]) -> None:
    """Give BatchNormalization layers the mean of the batches' own statistics. inputs: what `model`, which holds them, takes."""
    momenta = [layer.momentum for layer in layers]
    for layer in layers:
        layer.trainable = True
    for count, batch in enumerate(inputs):
        for layer in layers:
            layer.momentum = count / (count + 1)
        model([batch] if isinstance(model.input, list) and not isinstance(batch, tuple) else batch, training=True)
    for layer, momentum in zip(layers, momenta, strict=True):
        layer.momentum, layer.trainable = momentum, False


def batch_norms(model: keras.Model, backbone: Backbone, unfreeze: Unfreeze) -> list[keras.layers.Layer]:
    """The BatchNormalization layers of the blocks that a stage unfreezes."""
    parts, count = blocks(model, backbone), backbone.block_count(unfreeze)
    chosen = unfreeze if isinstance(unfreeze, tuple) else range(len(parts) - count + 1, len(parts) + 1)
    inner = [one for n in chosen if n >= 1 for layer in parts[n - 1].layers for one in _inner_layers(layer)]
    return [layer for layer in inner if isinstance(layer, keras.layers.BatchNormalization)]


def cut(model: keras.Model, backbone: Backbone, unfreeze: Unfreeze) -> tuple[keras.Model | None, keras.Model]:
    """Two models that share the classifier's weights: the frozen prefix, and what trains on its outputs.

    With unfreeze 0 the prefix ends at the pooled features, one output for each tapped block; with k, below the top k blocks; with
    "all" (or every block) there is no prefix, and the second is the classifier itself.
    """
    parts = blocks(model, backbone)
    count = backbone.block_count(unfreeze)
    if count >= len(parts):
        return None, model
    end = _pooled(model) if count == 0 else parts[len(parts) - count - 1].end
    prefix = keras.Model(model.input, list(end), name="prefix")
    return prefix, keras.Model(list(end), model.output, name="suffix")


def _inner_layers(layer: keras.layers.Layer) -> Sequence[keras.layers.Layer]:
    """A layer and, when it holds others (ConvNeXt's down-sampling), those too."""
    return [layer, *[inner for child in getattr(layer, "layers", ()) for inner in _inner_layers(child)]]


def _pooled(model: keras.Model) -> Sequence[Any]:
    """The pooled features: one tensor, or one for each tapped block."""
    features = model.get_layer(FEATURES)
    inputs = features.input if isinstance(features.input, list) else [features.input]
    tapped = all(tensor._keras_history.operation.name.startswith(TAP) for tensor in inputs)
    return inputs if tapped else [features.output]


def tap_numbers(model: keras.Model) -> list[int]:
    """Which block each of the pooled features is of, as `cut` with unfreeze 0 puts them out; 0 for a head that does not tap."""
    names = [tensor._keras_history.operation.name for tensor in _pooled(model)]
    if names == [FEATURES]:
        return [0]
    return [int(name.removeprefix(TAP).split("_")[0]) for name in names]


def _end_of_backbone(model: keras.Model, nodes: dict[Any, Any]) -> Sequence[Any]:
    """The backbone's tensors that the head reads."""
    taps = [op for op in nodes if op.name.startswith(TAP)]
    if taps:
        return [t for op in taps for t in nodes[op].input_tensors if t._keras_history.operation not in taps]
    pooling = "head_avg" if any(op.name == "head_avg" for op in nodes) else FEATURES
    return nodes[model.get_layer(pooling)].input_tensors


def feature_maps(model: keras.Model) -> list[Any]:
    """The backbone's tensors that a classifier's head reads, the topmost last; none for a model without such a head."""
    if not any(layer.name == FEATURES for layer in model.layers):
        return []
    return list(_end_of_backbone(model, graph_nodes(model)))


def _boundary_tensors(model: keras.Model, nodes: dict[Any, Any], boundary: str) -> Sequence[Any]:
    where, name = boundary.split(" ", 1)
    node = nodes[model.get_layer(name)]
    return node.output_tensors if where == "after" else node.input_tensors
