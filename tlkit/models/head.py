"""The head of a classifier: the features it reads, how they are pooled, and its layers."""

from __future__ import annotations

import functools
from typing import Any

import keras

from tlkit.backbones import Backbone
from tlkit.backbones.graph import _boundary_tensors, ancestors_of, crossing_tensors, graph_nodes
from tlkit.errors import SpecError
from tlkit.models.drop_connect import DropConnect
from tlkit.plan.recipe import Head
from tlkit.words import counted

FEATURES = "head_features"  # the layer whose output is the pooled features
TAP = "head_tap_"  # prefix of the names of layers that pool the output of one block


def tapped_blocks(head: Head, backbone: Backbone) -> tuple[int, ...]:
    """Return the blocks whose pooled outputs a head reads, 1 = the bottom one.

    Raises SpecError for a block that does not exist.
    """
    if head.taps == "all":
        return tuple(range(1, backbone.blocks + 1))
    chosen = tuple(sorted({int(block) for block in head.taps})) or (backbone.blocks,)
    if chosen[-1] > backbone.blocks:
        raise SpecError(
            f"Head.taps names block {chosen[-1]}, but {backbone.name} has {counted(backbone.blocks, 'block')}."
        )
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
        for index, end in enumerate(ends):
            suffix = f"{block}" if len(ends) == 1 else f"{block}_{index}"
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
    dense = functools.partial(DropConnect, rate=head.drop_connect) if head.drop_connect else layers.Dense
    if head.batch_norm:
        x = layers.BatchNormalization(name="head_bn")(x)
    for number, units in enumerate(head.hidden, start=1):
        x = _drop(x, head.dropout, f"head_dropout_{number}")
        x = dense(units, use_bias=not head.batch_norm, name=f"head_dense_{number}", **limits)(x)
        if head.batch_norm:
            x = layers.BatchNormalization(name=f"head_bn_{number}")(x)
        x = layers.Activation(head.activation, name=f"head_{head.activation}_{number}")(x)
    x = _drop(x, head.dropout, "head_dropout")
    return dense(classes, activation="softmax", dtype="float32", name="predictions", **limits)(x)


def _pool(features: Any, pooling: str, name: str = FEATURES) -> Any:
    layers = keras.layers
    if len(features.shape) == 2:  # a backbone from a file or a module may end in a vector
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


def _head_layers(model: keras.Model) -> list[keras.layers.Layer]:
    return [layer for layer in model.layers if layer.name.startswith("head_") or layer.name == "predictions"]
