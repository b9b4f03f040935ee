"""The blocks of a classifier: where they end, which of them train, and how a model is cut between two of them.

`trainable` is set per layer, just before `compile`. Imports Keras only.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import keras

from tlkit.backbones import Backbone, find_backbone
from tlkit.backbones.graph import _boundary_tensors, ancestors_of, crossing_tensors, graph_nodes
from tlkit.errors import SpecError
from tlkit.models.head import FEATURES, TAP
from tlkit.plan.recipe import BATCH_NORMS, Unfreeze


@dataclass(frozen=True)
class Block:
    """The part of the backbone between two boundaries.

    layers: its layers, in graph order. end: its output tensors, one for most networks and two for NASNet.
    """

    layers: tuple[keras.layers.Layer, ...]
    end: tuple[Any, ...]


def blocks(model: keras.Model, backbone: Backbone) -> list[Block]:
    """Return the backbone's blocks in a classifier, bottom first. Every layer with weights below the head is in one."""
    nodes = graph_nodes(model)
    names = {layer.name for layer in model.layers}
    below: set[Any] = set()
    result = []
    ends = [_boundary_tensors(model, nodes, one) for one in backbone.boundaries if one.split(" ", 1)[1] in names]
    for tensors in (*ends, _end_of_backbone(model, nodes)):
        ancestors = ancestors_of(tensors, nodes)
        if ancestors <= below:
            continue  # the model of a head that taps a lower block has no blocks above it
        below_taps = ancestors | _taps_of(ancestors, nodes)
        mine = [op for op in nodes if op in ancestors and op not in below]
        layers = tuple(op for op in mine if isinstance(op, keras.layers.Layer))
        result.append(Block(layers, crossing_tensors(below_taps, nodes)))
        below = below_taps
    return result


def _taps_of(below: set[Any], nodes: dict[Any, Any]) -> set[Any]:
    """Return the layers that pool the outputs of the blocks below for the head; each ends in a vector."""
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
    """Unfreeze the head and the chosen blocks, and freeze all other layers. Compile the model afterwards.

    Args:
        model: a classifier, see `tlkit.build_classifier`.
        backbone: the model's backbone, or its name.
        unfreeze: how many blocks from the top; "all" for every block; 0 for the head alone; a tuple for these blocks,
            1 = the bottom one.
        batch_norm: "frozen" and "recalibrated" freeze BatchNormalization in the unfrozen blocks (weights and moving
            statistics); "moving" trains it. Keras up to 3.15 ignores `training=False` during `fit`, so this is set per
            layer.

    Returns:
        The number of trainable parameters.

    Raises:
        SpecError: the backbone has fewer blocks, or `batch_norm` is unknown.
    """
    if batch_norm not in BATCH_NORMS:
        raise SpecError(f"batch_norm is '{batch_norm}'. Expected one of {', '.join(BATCH_NORMS)}.")
    backbone = find_backbone(backbone) if isinstance(backbone, str) else backbone
    all_blocks = blocks(model, backbone)
    count = backbone.block_count(unfreeze)
    of_backbone = {id(layer) for block in all_blocks for layer in block.layers}
    for layer in model.layers:
        layer.trainable = id(layer) not in of_backbone
    for number, block in enumerate(all_blocks, start=1):
        if not (number in unfreeze if isinstance(unfreeze, tuple) else number > len(all_blocks) - count):
            continue
        for layer in block.layers:
            layer.trainable = True
            if hasattr(layer, "inference_mode"):  # a SavedModel: its BatchNormalization layers cannot be found
                layer.inference_mode = batch_norm != "moving"
            if batch_norm != "moving":
                for inner in _inner_layers(layer):
                    if isinstance(inner, keras.layers.BatchNormalization):
                        inner.trainable = False
    return sum(math.prod(weight.shape) for weight in model.trainable_weights)


def cut(model: keras.Model, backbone: Backbone, unfreeze: Unfreeze) -> tuple[keras.Model | None, keras.Model]:
    """Cut a classifier into two models that share its weights: the frozen prefix, and the suffix that is trained.

    With unfreeze 0 the prefix ends at the pooled features, one output for each tapped block. With k it ends below the
    top k blocks. With "all", or as many as there are, the prefix is None and the suffix is the classifier itself.
    """
    all_blocks = blocks(model, backbone)
    count = backbone.block_count(unfreeze)
    if count >= len(all_blocks):
        return None, model
    end = _pooled(model) if count == 0 else all_blocks[len(all_blocks) - count - 1].end
    prefix = keras.Model(model.input, list(end), name="prefix")
    return prefix, keras.Model(list(end), model.output, name="suffix")


def feature_extractor(model: keras.Model) -> keras.Model:
    """Return the part of a classifier up to its pooled features: the prefix that `cut` with unfreeze 0 gives.

    Raises SpecError for a model without a head of tlkit's, such as an ensemble.
    """
    if not any(layer.name == FEATURES for layer in model.layers):
        raise SpecError("The model has no pooled features of its own. Expected a classifier of one backbone.")
    return keras.Model(model.input, list(_pooled(model)), name="prefix")


def _inner_layers(layer: keras.layers.Layer) -> Sequence[keras.layers.Layer]:
    """Return a layer and all layers inside it, as in ConvNeXt's down-sampling."""
    return [layer, *[inner for child in getattr(layer, "layers", ()) for inner in _inner_layers(child)]]


def _pooled(model: keras.Model) -> Sequence[Any]:
    """Return the pooled features: one tensor, or one for each tapped block."""
    features = model.get_layer(FEATURES)
    inputs = features.input if isinstance(features.input, list) else [features.input]
    tapped = all(tensor._keras_history.operation.name.startswith(TAP) for tensor in inputs)
    return inputs if tapped else [features.output]


def tap_numbers(model: keras.Model) -> list[int]:
    """Return the block number of each output of `cut`'s prefix with unfreeze 0; [0] for a head without taps."""
    names = [tensor._keras_history.operation.name for tensor in _pooled(model)]
    if names == [FEATURES]:
        return [0]
    return [int(name.removeprefix(TAP).split("_")[0]) for name in names]


def _end_of_backbone(model: keras.Model, nodes: dict[Any, Any]) -> Sequence[Any]:
    """Return the backbone's tensors that the head reads."""
    taps = [op for op in nodes if op.name.startswith(TAP)]
    if taps:
        return [t for op in taps for t in nodes[op].input_tensors if t._keras_history.operation not in taps]
    pooling = "head_avg" if any(op.name == "head_avg" for op in nodes) else FEATURES
    return nodes[model.get_layer(pooling)].input_tensors


def feature_maps(model: keras.Model) -> list[Any]:
    """Return the backbone's tensors that the head reads, each once, by block: the topmost last.

    [] for a model without a head from tlkit.
    """
    if not any(layer.name == FEATURES for layer in model.layers):
        return []
    nodes = graph_nodes(model)
    taps = sorted((op for op in nodes if op.name.startswith(TAP)), key=_tap_order)
    if not taps:
        return list(_end_of_backbone(model, nodes))
    tensors = [t for op in taps for t in nodes[op].input_tensors if not _is_tap(t)]
    return list({id(tensor): tensor for tensor in tensors}.values())


def _is_tap(tensor: Any) -> bool:
    return bool(tensor._keras_history.operation.name.startswith(TAP))


def _tap_order(operation: Any) -> tuple[int, ...]:
    """Return the block number in a tap's name, and the number of the block's tensor if it has several."""
    return tuple(int(part) for part in operation.name.removeprefix(TAP).split("_") if part.isdigit())
