"""A network with its own top, for checks and for whoever wants ImageNet's answers. Imports Keras only."""

from __future__ import annotations

import keras

from tlkit.backbones import Backbone, find_backbone, find_weights
from tlkit.backbones.checkpoint import SUFFIXES
from tlkit.backbones.files import read_weights
from tlkit.backbones.weights import row_of_weights
from tlkit.errors import SpecError, WeightsError


def pretrained(
    name: str | None = None, weights: str = "imagenet", *, normalise: bool = True, accept_licence: bool = False
) -> keras.Model:
    """Build a network with the top that its weights file has, usually of ImageNet's 1,000 classes.

    Args:
        name: a row of `tlkit backbones` that takes PyTorch weight files. None: the one that weights by name belong to.
        weights: a `.pth`, `.safetensors` or `.onnx` file; a name, such as "timm:resnext50_32x4d.tv_in1k",
            "hf://USER/REPO" or "torchvision:resnext50_32x4d-7cdf4587.pth"; a folder with model.safetensors and
            config.json; "imagenet" for the row's own file; or "none" for random weights and 1,000 classes.
        normalise: whether the model takes raw RGB, 0-255. If not, it takes what the first convolution sees, channels
            last.
        accept_licence: whether you accept the licence of weights by name, if it forbids commercial use or has terms of
            its own.

    Returns:
        A model that takes images, shape (n, size, size, 3) at the network's native size, and returns logits, shape
        (n, classes). No softmax is applied.

    Raises:
        NameUnknown: no row has this name.
        SpecError: the row takes no PyTorch weight files, or "imagenet" is a file of Keras for it, without a top.
        WeightsError: the file is absent, is damaged, does not fit the network, or has no top; or its licence is not
            accepted.
    """
    backbone = _named(name, weights)
    checkpoint = backbone.checkpoint
    if checkpoint is None:
        raise SpecError(
            f"{backbone.name} takes no PyTorch weight files. Use `tlkit.build_classifier` for its features."
        )
    if weights == "imagenet" and backbone.weights and not backbone.weights.file.endswith(SUFFIXES):
        raise SpecError(
            f"'{backbone.weights.file}', the weights of {backbone.name}, has no top. Give a PyTorch file of the same "
            "network as `weights=FILE`, such as torchvision's."
        )
    file = find_weights(backbone, weights, accept_licence=accept_licence)
    tensors = read_weights(file) if file else None
    classes = checkpoint.classes(tensors) if tensors is not None else 1000
    if classes is None:
        raise WeightsError(
            f"'{file}' has no tensor '{checkpoint.top_names[-1]}.weight'. Expected {backbone.name} with its "
            "top. `tlkit.build_classifier` takes files without one."
        )
    backbone = backbone.taking(weights if weights != "imagenet" else str(file))
    backbone = backbone if normalise else backbone.with_pixels("included")
    inputs, features = backbone.build(backbone.size)
    model = keras.Model(inputs, checkpoint.top(features, classes), name=backbone.short_name)
    if tensors is not None:
        checkpoint.assign(model, tensors)
    return model


def _named(name: str | None, weights: str) -> Backbone:
    if name is not None:
        return find_backbone(name)
    row = row_of_weights(weights)
    if row is None:
        raise SpecError(f"`weights={weights}` does not say which network it is of. Give its name in `tlkit backbones`.")
    return row
