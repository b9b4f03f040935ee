"""BatchNormalization in fine-tuning: its momentum, and the recalibration of its statistics."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import keras

from tlkit.backbones import Backbone
from tlkit.models.blocks import _inner_layers, blocks
from tlkit.plan.recipe import Unfreeze


def _lower_batch_norm_momentum(network: keras.Model) -> None:
    """Set BatchNormalization's momentum to 0.9, for networks with random weights.

    Their initial statistics mean nothing, and at Keras' momentum of 0.99 to 0.999 the moving statistics need thousands
    of steps. Measured: mobilenetv2_0.35 from random weights on 960 digits, 20 epochs of 60 steps: training accuracy
    99.8 %, validation accuracy 10.0 % (chance), because the moving statistics had not converged.
    """
    for layer in network.layers:
        if isinstance(layer, keras.layers.BatchNormalization):
            layer.momentum = 0.9


def fit_momentum(layers: Iterable[keras.layers.Layer], steps: int) -> None:
    """Lower BatchNormalization's momentum so that the moving statistics follow a training of so many steps.

    They then average over about the last tenth of the steps: momentum 0.9 for up to 100 steps, 0.99 from 1,000 on.
    Keras' MobileNets come with 0.999, an average over 1,000 steps: after a short training it still describes the
    pretrained weights. A momentum that is lower already is kept.

    layers: BatchNormalization layers. steps: gradient steps, 1 or more.
    """
    momentum = min(max(1 - 10 / steps, 0.9), 0.99)
    for layer in layers:
        layer.momentum = min(layer.momentum, momentum)


def _copy_momentum(source: keras.Model, target: keras.Model) -> None:
    """Copy BatchNormalization's momentum. It is not a weight, and it is lower for networks with random weights."""
    pairs = [[x for x in m.layers if isinstance(x, keras.layers.BatchNormalization)] for m in (source, target)]
    for theirs, ours in zip(*pairs, strict=False):  # heads may differ; their layers come last
        ours.momentum = theirs.momentum


def recalibrate(model: keras.Model, layers: Sequence[keras.layers.Layer], inputs: Iterable[Any]) -> None:
    """Set the statistics of BatchNormalization layers to the mean over some batches.

    model: the model that holds the layers. inputs: batches of its inputs.
    """
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
    """Return the BatchNormalization layers of the blocks that a stage unfreezes."""
    all_blocks, count = blocks(model, backbone), backbone.block_count(unfreeze)
    chosen = unfreeze if isinstance(unfreeze, tuple) else range(len(all_blocks) - count + 1, len(all_blocks) + 1)
    inner = [one for n in chosen if n >= 1 for layer in all_blocks[n - 1].layers for one in _inner_layers(layer)]
    return [layer for layer in inner if isinstance(layer, keras.layers.BatchNormalization)]


def _inner_batch_norms(model: keras.Model) -> list[keras.layers.BatchNormalization]:
    """Return all BatchNormalization layers of a model, also those inside other layers."""
    inner = [one for layer in model.layers for one in _inner_layers(layer)]
    return [layer for layer in inner if isinstance(layer, keras.layers.BatchNormalization)]
