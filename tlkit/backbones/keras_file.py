"""Your own `.keras` model as a backbone: its top is removed, and its blocks end where its resolution changes.

The file is read in Keras' safe mode, so no code in it is executed.
"""

from __future__ import annotations

from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import Any

from tlkit.backbones.backbone import Backbone
from tlkit.backbones.finite import check_finite
from tlkit.backbones.graph import ancestors_of, crossing_tensors, graph_nodes
from tlkit.backbones.grouped import compute_groups_of
from tlkit.errors import SpecError, WeightsError, nearest


def own_backbone(file: str) -> Backbone:
    """Read a `.keras` file as a backbone.

    The model must be functional, with one image input of shape (n, height, width, 3) that takes raw RGB 0-255.

    Raises WeightsError if the file cannot be used as a backbone.
    """
    model = _load(file)
    shape = model.input_shape
    if not isinstance(shape, tuple) or len(shape) != 4 or shape[-1] != 3 or len(model.outputs) != 1:
        raise WeightsError(
            f"'{file}' takes {shape}. "
            "Expected a functional model with one RGB image input, shape (n, height, width, 3)."
        )
    fixed = shape[1] if shape[1] and shape[1] == shape[2] else None
    if shape[1] and not fixed:
        raise WeightsError(f"'{file}' takes {shape[1]} x {shape[2]} pixels. Expected a square input.")
    if not fixed:
        model = _resized(model, 224)  # without a fixed size, the layers' resolutions are unknown
    boundaries, end, _ = boundaries_of(model)
    return Backbone(
        name=str(file),
        builder=partial(_graph, str(file)),
        size=fixed or 224,
        smallest=fixed or 32,
        boundaries=boundaries,
        parameters=parameters_below(model, end),
        brings_weights=True,
        licence="your own",
        origin="keras",
    )


def _graph(file: str, size: int) -> tuple[Any, Any]:
    """Return the model's input tensor, and the tensor that its head is attached to, at the given image size."""
    model = _load(file)
    fixed = model.input_shape[1]
    if fixed and size != fixed:
        raise SpecError(f"'{file}' takes {fixed} x {fixed} pixels only. Leave `image_size` out, or give {fixed}.")
    if not fixed:
        model = _resized(model, size)
    _, _, features = boundaries_of(model)
    return model.input, features


def _resized(model: Any, size: int) -> Any:
    """Copy a model that accepts any image size, with a fixed size."""
    import keras

    copy = keras.models.clone_model(model, input_tensors=keras.Input((size, size, 3), name="image"))
    compute_groups_of(copy)
    copy.set_weights(model.get_weights())
    return copy


def _load(file: str) -> Any:
    import keras

    path = Path(file)
    if not path.is_file():
        siblings = [str(p) for p in path.parent.glob("*.keras")] if path.parent.is_dir() else []
        close = nearest(str(path), siblings)
        hint = f"Did you mean '{close}'?" if close else "Expected a Keras model saved as .keras."
        raise WeightsError(f"No such backbone file: '{file}'. {hint}")
    try:
        model = compute_groups_of(keras.saving.load_model(file, compile=False, safe_mode=True))
    except Exception as error:  # Keras raises many kinds for a damaged or foreign file
        reason = str(error).splitlines()[0][:200] if str(error) else type(error).__name__
        raise WeightsError(f"'{file}' does not load as a Keras model: {reason}") from error
    if isinstance(model, keras.Sequential):
        model = keras.Model(model.inputs, model.outputs)
    if not getattr(model, "_is_graph_network", False) and not hasattr(model, "_nodes"):
        raise WeightsError(f"'{file}' is a {type(model).__name__}, not a functional model, so it has no graph to cut.")
    check_finite(model, f"The weights in '{file}'")
    return model


def boundaries_of(model: Any, *, has_top: bool = True) -> tuple[tuple[str, ...], Any, Any]:
    """Find where a model's blocks end: ("after LAYER", ...), the last backbone layer, and its output.

    has_top: whether the model may end in a head, which is then cut off. Without a top, the model's own output is the
        backbone's.

    Candidates are layers whose output is the only path to the layers above. The last candidate at each resolution ends
    a block, and the backbone ends at the last candidate that is a feature map. A transformer's layers on tokens are
    divided into four blocks of about equal length; it ends at the vector pooled from the tokens. Other models without
    feature maps are one block, which ends below the last dense layer.

    Raises WeightsError if no layer of the backbone has parameters: its features would be little more than pixels.
    """
    nodes = graph_nodes(model)
    boundaries, layer, tensor = _ends(model, nodes, has_top)
    if not parameters_below(model, layer):
        raise WeightsError(
            f"The layers up to '{layer.name}', where the features would be taken, have 0 parameters, so there is no "
            f"pretrained network in them. The whole model has {model.count_params():,}. "
            "Expected a network with its parameters below its head."
        )
    return boundaries, layer, tensor


def _ends(model: Any, nodes: dict[Any, Any], has_top: bool) -> tuple[tuple[str, ...], Any, Any]:
    """Return the boundaries, the last layer and its output, see `boundaries_of`."""
    output = model.outputs[0]
    candidates = []
    for layer in (op for op in nodes if hasattr(op, "trainable_weights") and op is not model.layers[0]):
        below = ancestors_of(nodes[layer].output_tensors, nodes)
        crossing = crossing_tensors(below, nodes)
        if len(nodes[layer].output_tensors) == 1 and (not crossing or _only(crossing, nodes[layer].output_tensors[0])):
            candidates.append((layer, nodes[layer].output_tensors[0]))
    maps = [(layer, tensor) for layer, tensor in candidates if len(tensor.shape) == 4]
    if not has_top and len(output.shape) == 4 and (not maps or maps[-1][1] is not output):
        maps.append((output._keras_history.operation, output))  # one of several outputs of its layer
    tokens = [(layer, tensor) for layer, tensor in candidates if len(tensor.shape) == 3 and layer.weights]
    if len(output.shape) == 2 and (len(tokens) > len(maps) or not has_top):
        ends = [tokens[quarter * len(tokens) // 4 - 1] for quarter in (1, 2, 3)] if len(tokens) >= 4 else []
        return tuple(f"after {layer.name}" for layer, _ in ends), *candidates[-1]
    if not maps:
        vectors = [(layer, tensor) for layer, tensor in candidates if len(tensor.shape) == 2]
        layer, tensor = vectors[-2] if len(vectors) > 1 else vectors[-1]
        return (), layer, tensor
    ends = [a for a, b in pairwise(maps) if a[1].shape[1:3] != b[1].shape[1:3]]
    ends = [
        end
        for end, before in zip(ends, [None, *ends], strict=False)
        if _adds_weights(nodes, end[1], before and before[1])
    ]
    layer, tensor = maps[-1]
    if ends and not _adds_weights(nodes, tensor, ends[-1][1]):
        ends = ends[:-1]
    return tuple(f"after {end.name}" for end, _ in ends), layer, tensor


def _only(tensors: tuple[Any, ...], tensor: Any) -> bool:
    return len(tensors) == 1 and tensors[0] is tensor


def _adds_weights(nodes: dict[Any, Any], tensor: Any, before: Any) -> bool:
    """Return whether any layer with weights lies between the tensor `before` (None: the input) and `tensor`."""
    lower = ancestors_of([before], nodes) if before is not None else set()
    return any(getattr(op, "weights", None) for op in ancestors_of([tensor], nodes) - lower)


def parameters_below(model: Any, end: Any) -> int:
    """Count the parameters of a layer and of all layers below it."""
    nodes = graph_nodes(model)
    below = ancestors_of(nodes[end].output_tensors, nodes)
    return sum(op.count_params() for op in below if hasattr(op, "count_params"))
