"""Prepares a classifier for 8-bit integers, so that rounding changes its answers little.

`quantised` copies a model and, in this order:

1. folds BatchNormalization into the convolution before it;
2. equalises the channels of each tensor, because all of them share one range (cross-layer equalisation: Nagel et al.
   2019, arXiv:1906.04721, sections 4.1 and 5.1.1; here the ranges of activations and those of the weights that read
   them are balanced, as in SmoothQuant: Xiao et al. 2023, arXiv:2211.10438, equation 4);
3. rounds each output channel of a kernel to 255 levels of its own (Krishnamoorthi 2018, arXiv:1806.08342, section 3.1);
4. corrects biases by what rounding changes in the mean (Nagel et al. 2019, section 4.2);
5. marks the ranges of activations by fake quantisation (Jacob et al. 2018, arXiv:1712.05877, section 3), which LiteRT's
   converter turns into integers. Normalisation of pixels and the head are left in float32.

Steps 1 and 2 leave the model's answers as they are.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import keras
import numpy as np
from keras import layers

from tlkit.backbones.graph import graph_nodes

LEVELS = 127  # of 8-bit weights on each side of 0
BATCH = 16  # images
_WEIGHTED = (layers.Conv2D, layers.DepthwiseConv2D, layers.Dense)
_RELU = (layers.ReLU,)
_SAME_RANGE = (layers.ZeroPadding2D, layers.Dropout, layers.InputLayer)  # output holds its input's values, or 0
_POOLS = (layers.GlobalAveragePooling2D, layers.AveragePooling2D, layers.MaxPooling2D)
_SCALING = (layers.Add, layers.ZeroPadding2D, layers.Dropout, *_POOLS)  # f(s x) = s f(x) for every s > 0
_INTEGER = (*_WEIGHTED, *_RELU, *_SCALING, layers.Multiply, layers.Activation)
_ACTIVATIONS = ("linear", "relu", "relu6", "sigmoid")  # that integers compute in one operation


@dataclass(frozen=True)
class Graph:
    """Who feeds whom in a flat functional model. Attributes map names of layers to names of layers."""

    layers: dict[str, Any]
    inputs: dict[str, list[str]]
    users: dict[str, list[str]]

    @classmethod
    def of(cls, model: keras.Model) -> Graph:
        """Read a model's graph."""
        nodes = graph_nodes(model)
        maker = {id(tensor): one.name for one, node in nodes.items() for tensor in node.output_tensors}
        inputs = {one.name: [maker[id(tensor)] for tensor in node.input_tensors] for one, node in nodes.items()}
        users: dict[str, list[str]] = {name: [] for name in inputs}
        for name, sources in inputs.items():
            for source in sources:
                users[source].append(name)
        return cls({one.name: one for one in nodes}, inputs, users)

    def only_user(self, name: str) -> Any:
        """The layer that alone uses a layer's output, or None."""
        users = self.users[name]
        return self.layers[users[0]] if len(users) == 1 else None


def quantised(model: keras.Model, images: np.ndarray) -> tuple[keras.Model, bool]:
    """Return a copy of a classifier whose rounding to 8-bit integers is prepared, and whether ranges are marked.

    Args:
        model: A flat functional model, raw RGB 0-255 in. It is not changed.
        images: Training images, uint8, shape (n, size, size, 3), which give ranges and means of activations.

    Ranges are not marked if the model has layers that fake quantisation does not cover, such as those of a module or a
    transformer. LiteRT's converter must then measure them.
    """
    folded = fold_batch_norm(model)
    equalise(folded, images)
    rounded = with_rounded_weights(folded)
    correct_biases(folded, rounded, images)
    graph = Graph.of(rounded)
    if not _is_covered(graph):
        return rounded, False
    return with_ranges(rounded, activation_ranges(folded, _rounded_tensors(graph), images)), True


def fold_batch_norm(model: keras.Model) -> keras.Model:
    """Return a copy whose convolutions and dense layers contain the BatchNormalization that alone follows them."""
    graph = Graph.of(model)
    norms: dict[str, Any] = {}  # by the layer that each is folded into
    for name, layer in graph.layers.items():
        after, linear = graph.only_user(name), isinstance(layer, _WEIGHTED) and _activation(layer) == "linear"
        if linear and isinstance(after, layers.BatchNormalization) and _is_by_channel(after):
            norms[name] = after
    gone = {norm.name for norm in norms.values()}

    def clone(layer: Any) -> Any:
        config = layer.get_config() | ({"use_bias": True} if layer.name in norms else {})
        return type(layer).from_config(config)

    def call(layer: Any, *given: Any, **named: Any) -> Any:
        return given[0] if layer.name in gone else layer(*given, **named)

    copy = _copied(model, clone, call)
    for name, norm in norms.items():
        copy.get_layer(name).set_weights(_folded(graph.layers[name], norm))
    return copy


def _folded(layer: Any, norm: Any) -> list[np.ndarray]:
    """The kernel and the bias of a layer and the BatchNormalization after it."""
    kernel, *bias = layer.get_weights()
    scale = 1 / np.sqrt(norm.moving_variance.numpy() + norm.epsilon)
    scale = scale * norm.gamma.numpy() if norm.scale else scale
    offset = norm.beta.numpy() if norm.center else 0.0
    by_channel = scale.reshape(kernel.shape[2:]) if isinstance(layer, layers.DepthwiseConv2D) else scale
    return [kernel * by_channel, ((bias[0] if bias else 0.0) - norm.moving_mean.numpy()) * scale + offset]


def equalise(model: keras.Model, images: np.ndarray) -> None:
    """Balance the channels of activations, in place and without changing the answers.

    A channel is divided by s where it is made, and the weights that read it are multiplied by s. s is the square root
    of the channel's range over that of these weights. This is exact where all layers between are linear or ReLU.
    images: as for `quantised`.
    """
    graph = Graph.of(model)
    groups = [group for group in _channel_groups(graph) if group.makers and group.readers]
    found = _largest(model, sorted({name for group in groups for name in group.makers}), images)
    for group in groups:
        activations = np.max([found[name] for name in group.makers], axis=0)
        weights = np.max([_input_range(graph.layers[name]) for name in group.readers], axis=0)
        used = (activations > 0) & (weights > 0)
        scale = np.ones_like(activations)
        scale[used] = np.sqrt(activations[used] / weights[used])
        scale /= np.exp(np.log(scale).mean())
        for name in group.makers:
            _divide_outputs(graph.layers[name], scale)
        for name in group.readers:
            _multiply_inputs(graph.layers[name], scale)


@dataclass
class _Channels:
    """Layers whose channels must be scaled together: those that make them, and those whose weights read them."""

    makers: set[str]
    readers: set[str]


def _channel_groups(graph: Graph) -> list[_Channels]:
    """The groups of tensors that linear layers and ReLU connect. Those that anything else makes or reads are left out.

    Such as ReLU6, sigmoid, Multiply, the head and the output.
    """
    groups, seen = [], set()
    for start, layer in graph.layers.items():
        if start in seen or not isinstance(layer, _WEIGHTED):
            continue
        group, inside, waiting, closed = _Channels(set(), set()), set(), [start], True
        while waiting:
            name = waiting.pop()
            if name in inside:
                continue
            inside.add(name)
            one = graph.layers[name]
            if isinstance(one, _WEIGHTED):
                closed &= _activation(one) in ("linear", "relu")
                group.makers.add(name)
            elif _is_scaling(one):
                waiting += graph.inputs[name]
            else:
                closed = False
                continue
            closed &= bool(graph.users[name])
            for user in graph.users[name]:
                if isinstance(graph.layers[user], _WEIGHTED):
                    group.readers.add(user)
                else:
                    waiting.append(user)
        seen |= group.makers
        if closed:
            groups.append(group)
    return groups


def _is_scaling(layer: Any) -> bool:
    """Whether f(s x) = s f(x) for every s > 0, channel by channel."""
    plain_relu = isinstance(layer, layers.ReLU) and layer.max_value is None and not layer.threshold
    return plain_relu or isinstance(layer, _SCALING) or _activation(layer) in ("linear", "relu")


def with_rounded_weights(model: keras.Model) -> keras.Model:
    """Return a copy whose kernels, except the head's, hold 8-bit values: 255 levels for each output channel.

    LiteRT's converter finds the same levels again, because each channel's largest weight is kept.
    """
    copy = _copied(model)
    for layer in _rounded_layers(copy):
        kernel, *bias = layer.get_weights()
        axes = (0, 1) if isinstance(layer, layers.DepthwiseConv2D) else tuple(range(kernel.ndim - 1))
        step = np.abs(kernel).max(axis=axes, keepdims=True) / LEVELS
        step[step == 0] = 1.0
        layer.set_weights([np.round(kernel / step) * step, *bias])
    return copy


def correct_biases(model: keras.Model, rounded: keras.Model, images: np.ndarray) -> None:
    """Add to each bias of `rounded` what rounding the kernel takes from the layer's mean output.

    A layer without its activation is linear, so its mean output is its output for its mean input.
    images: as for `quantised`.
    """
    names = [layer.name for layer in _rounded_layers(rounded) if layer.use_bias]
    inputs = [model.get_layer(name).input for name in names]
    sums = _measured(model, inputs, images, lambda x: keras.ops.sum(x, axis=0, keepdims=True), np.add)
    for name, total in zip(names, sums, strict=True):
        own, layer = model.get_layer(name), rounded.get_layer(name)
        lost = _linear_part(own, total / len(images)) - _linear_part(layer, total / len(images))
        layer.bias.assign_add(lost.reshape(-1, lost.shape[-1]).mean(axis=0))


def _linear_part(layer: Any, values: np.ndarray) -> np.ndarray:
    activation, layer.activation = layer.activation, keras.activations.linear
    try:
        return np.asarray(layer(values))
    finally:
        layer.activation = activation


def activation_ranges(model: keras.Model, names: list[str], images: np.ndarray) -> dict[str, tuple[float, float]]:
    """The smallest and largest output of some layers on images, 0 included. images: as for `quantised`."""
    outputs = [model.get_layer(name).output for name in names]
    low = _measured(model, outputs, images, keras.ops.min, np.minimum)
    high = _measured(model, outputs, images, keras.ops.max, np.maximum)
    ranges = [(min(float(a), 0.0), max(float(b), 0.0)) for a, b in zip(low, high, strict=True)]
    return {name: (a, max(b, a + 1e-6)) for name, (a, b) in zip(names, ranges, strict=True)}


def with_ranges(model: keras.Model, ranges: dict[str, tuple[float, float]]) -> keras.Model:
    """Return a copy that rounds the outputs of some layers to 256 levels between two values. ranges: by name."""

    def call(layer: Any, *given: Any, **named: Any) -> Any:
        output = layer(*given, **named)
        return FakeQuantize(*ranges[layer.name])(output) if layer.name in ranges else output

    return _copied(model, call=call)


class FakeQuantize(layers.Layer):
    """Rounds to 256 levels from `low` to `high`, as 8-bit integers do. Its gradient is that of the identity there."""

    def __init__(self, low: float, high: float) -> None:
        super().__init__()
        self.low, self.high = low, high

    def call(self, inputs: Any) -> Any:
        import tensorflow as tf

        return tf.quantization.fake_quant_with_min_max_args(inputs, self.low, self.high)


def _rounded_tensors(graph: Graph) -> list[str]:
    """The layers whose output is rounded: those that integers compute, and those whose output they read."""
    found = []
    for name, layer in graph.layers.items():
        inside = _is_integer(layer)
        wanted = inside or any(_is_integer(graph.layers[user]) for user in graph.users[name])
        after = graph.only_user(name)
        fused = isinstance(layer, (*_WEIGHTED, layers.Add)) and after is not None and _is_relu(after)
        moved = isinstance(layer, _SAME_RANGE) and inside
        if wanted and not fused and not moved:
            found.append(name)
    return found


def _is_head(layer: Any) -> bool:
    return layer.name.startswith("head_") or layer.name == "predictions"


def _is_integer(layer: Any) -> bool:
    return isinstance(layer, _INTEGER) and not _is_head(layer)


def _is_relu(layer: Any) -> bool:
    return isinstance(layer, _RELU) or _activation(layer) in ("relu", "relu6")


def _is_covered(graph: Graph) -> bool:
    """Whether each layer is computed by one integer operation, is in the head, or normalises pixels before them."""
    before: set[str] = set()
    for name, layer in graph.layers.items():
        if _is_integer(layer):
            if _activation(layer) not in (None, *_ACTIVATIONS):
                return False
        elif before.issuperset(graph.inputs[name]):
            before.add(name)
        elif not _is_head(layer):
            return False
    return True


def _activation(layer: Any) -> str | None:
    """The name of a layer's activation function; None if it has none."""
    return getattr(getattr(layer, "activation", None), "__name__", None)


def _is_by_channel(norm: Any) -> bool:
    return norm.axis in (-1, len(norm.output.shape) - 1)


def _rounded_layers(model: keras.Model) -> list[Any]:
    return [layer for layer in model.layers if isinstance(layer, _WEIGHTED) and not _is_head(layer)]


def _copied(
    model: keras.Model, clone: Callable[[Any], Any] | None = None, call: Callable[..., Any] | None = None
) -> keras.Model:
    """Return a copy of a model. clone, call: how a layer is made and called, as for `keras.models.clone_model`."""
    inputs = keras.Input(model.input_shape[1:], name=model.inputs[0].name)
    copy = keras.models.clone_model(model, inputs, clone, call)
    for layer in copy.layers:
        own = model.get_layer(layer.name) if layer.weights else layer
        if len(own.weights) == len(layer.weights):
            layer.set_weights(own.get_weights())
    return copy


def _measured(
    model: keras.Model,
    tensors: list[Any],
    images: np.ndarray,
    reduce: Callable[[Any], Any],
    combine: Callable[[np.ndarray, np.ndarray], np.ndarray],
) -> list[np.ndarray]:
    """Reduce some tensors of a model over images.

    The graph reduces each batch, so that no whole tensor of activations is kept.

    Args:
        reduce: What to compute of a tensor in each batch, with `keras.ops`.
        combine: How the values of two batches become one.
    """
    if not tensors:
        return []
    reduced = keras.Model(model.input, [reduce(tensor) for tensor in tensors])
    found: list[np.ndarray] = []
    for at in range(0, len(images), BATCH):
        batch = reduced.predict_on_batch(images[at : at + BATCH].astype("float32"))
        batch = batch if isinstance(batch, list) else [batch]
        found = [combine(a, b) for a, b in zip(found, batch, strict=True)] if found else batch
    return found


def _largest(model: keras.Model, names: list[str], images: np.ndarray) -> dict[str, np.ndarray]:
    """The largest absolute output of each channel of some layers: shape (channels,)."""
    outputs = [model.get_layer(name).output for name in names]

    def largest(x: Any) -> Any:
        return keras.ops.max(keras.ops.absolute(x), axis=tuple(range(len(x.shape) - 1)))

    return dict(zip(names, _measured(model, outputs, images, largest, np.maximum), strict=True))


def _input_range(layer: Any) -> np.ndarray:
    """The largest absolute weight that reads each input channel, as a share of its output channel's: (channels,)."""
    kernel = np.abs(layer.get_weights()[0])
    if isinstance(layer, layers.DepthwiseConv2D):
        return np.ones(kernel.shape[2])  # each channel has levels of its own
    kernel = kernel.reshape(-1, kernel.shape[-2], kernel.shape[-1]).max(axis=0)
    return (kernel / np.maximum(kernel.max(axis=0), 1e-12)).max(axis=1)


def _divide_outputs(layer: Any, scale: np.ndarray) -> None:
    kernel, *bias = layer.get_weights()
    by_channel = scale.reshape(kernel.shape[2:]) if isinstance(layer, layers.DepthwiseConv2D) else scale
    layer.set_weights([kernel / by_channel, *[one / scale for one in bias]])


def _multiply_inputs(layer: Any, scale: np.ndarray) -> None:
    kernel, *bias = layer.get_weights()
    layer.set_weights([kernel * scale[:, None], *bias])
