"""Prepares a classifier for 8-bit integers, so that rounding changes its answers little.

`quantised` copies a model and, in this order:

1. folds BatchNormalization into the convolution before it;
2. equalises the channels of each tensor, because all of them share one range (cross-layer equalisation: Nagel et al.
   2019, arXiv:1906.04721, sections 4.1 and 5.1.1; here the ranges of activations and those of the weights that read
   them are balanced, as in SmoothQuant: Xiao et al. 2023, arXiv:2211.10438, equation 4);
3. rounds each output channel of a kernel to 255 levels of its own (Krishnamoorthi 2018, arXiv:1806.08342, section 3.1);
4. corrects biases by what rounding of weights and activations changes in the mean (Nagel et al. 2019, section 4.2 and
   appendix D, where means are measured, layer after layer);
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
from tlkit.backbones.grouped import compute_groups_of

LEVELS = 127  # of 8-bit weights on each side of 0
MOST_VALUES = 2**26  # of the largest activation, over all images: 256 MiB in float32
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
        images: Training images, uint8, shape (n, size, size, 3), which give ranges and means of activations. Those
            that would need more than about 2 GiB of memory are left out.

    The model itself is returned, and ranges are not marked, if it has layers that fake quantisation does not cover,
    such as those of a module or a transformer. LiteRT's converter must then measure them.
    """
    if not _is_covered(Graph.of(model)):
        return model, False
    folded = fold_batch_norm(model)
    graph = Graph.of(folded)
    largest = max(int(np.prod(layer.output.shape[1:])) for layer in graph.layers.values())
    images = images[: max(MOST_VALUES // largest, 1)].astype("float32")
    equalise(folded, images)
    rounded = with_rounded_weights(folded)
    return with_ranges(rounded, calibrate(folded, rounded, images)), True


def fold_batch_norm(model: keras.Model) -> keras.Model:
    """Return a copy whose convolutions and dense layers contain the BatchNormalization that alone follows them."""
    graph = Graph.of(model)
    norms = _foldable(graph)
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


def _foldable(graph: Graph) -> dict[str, Any]:
    """The BatchNormalization layers that can be folded, by the name of the layer before."""
    found = {}
    for name, layer in graph.layers.items():
        after, linear = graph.only_user(name), isinstance(layer, _WEIGHTED) and _activation(layer) == "linear"
        if linear and isinstance(after, layers.BatchNormalization) and _is_by_channel(after):
            found[name] = after
    return found


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
    images: float32, shape (n, size, size, 3).
    """
    graph = Graph.of(model)
    groups = [group for group in _channel_groups(graph) if group.makers and group.readers]
    makers, run, found = {name for group in groups for name in group.makers}, _Run(graph, images), {}
    for name in graph.layers:
        output = run.output(name)
        if name in makers:
            axes = tuple(range(len(output.shape) - 1))
            found[name] = keras.ops.convert_to_numpy(keras.ops.max(keras.ops.absolute(output), axis=axes))
        run.keep(name, output)
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


def calibrate(model: keras.Model, rounded: keras.Model, images: np.ndarray) -> dict[str, tuple[float, float]]:
    """Correct the biases of `rounded`, and return the ranges of activations, by the names of layers.

    Both models run layer by layer, `rounded` with rounded activations. The mean of what a layer gives too little is
    added to its bias before the next layer runs, so that each layer also makes up for the errors of those before it.
    These do not cancel out where much of an image has one colour. images: float32, shape (n, size, size, 3).
    """
    graph, other = Graph.of(model), Graph.of(rounded)
    names = set(_rounded_tensors(graph))
    own_run, other_run, ranges = _Run(graph, images), _Run(other, images), {}
    for name, layer in graph.layers.items():
        if isinstance(layer, _WEIGHTED) and layer.use_bias:
            lost = _linear_part(layer, own_run.inputs(name)) - _linear_part(other.layers[name], other_run.inputs(name))
            other.layers[name].bias.assign_add(keras.ops.mean(lost, axis=tuple(range(len(lost.shape) - 1))))
        output, approximate = own_run.output(name), other_run.output(name)
        if name in names:
            low, high = (float(reduce(output)) for reduce in (keras.ops.min, keras.ops.max))
            ranges[name] = (min(low, 0.0), max(high, 1e-6))
            approximate = FakeQuantize(*ranges[name])(approximate)
        own_run.keep(name, output)
        other_run.keep(name, approximate)
    return ranges


def _linear_part(layer: Any, inputs: list[Any]) -> Any:
    activation, layer.activation = layer.activation, keras.activations.linear
    try:
        return layer(*inputs)
    finally:
        layer.activation = activation


class _Run:
    """Runs a graph on images layer by layer, and keeps each output as long as a layer needs it."""

    def __init__(self, graph: Graph, images: np.ndarray) -> None:
        self.graph, self.images = graph, images
        self.kept: dict[str, Any] = {}
        self.waiting = {name: len(users) for name, users in graph.users.items()}

    def inputs(self, name: str) -> list[Any]:
        return [self.kept[source] for source in self.graph.inputs[name]]

    def output(self, name: str) -> Any:
        """What a layer gives for the kept outputs of those before it."""
        inputs = self.inputs(name)
        if not inputs:
            return keras.ops.convert_to_tensor(self.images)
        return self.graph.layers[name](inputs if len(inputs) > 1 else inputs[0])

    def keep(self, name: str, output: Any) -> None:
        """Keep a layer's output, and forget those that no layer needs any more."""
        self.kept[name] = output
        for source in self.graph.inputs[name]:
            self.waiting[source] -= 1
            if not self.waiting[source]:
                del self.kept[source]


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
    """Whether each layer is folded, is computed by one integer operation, is in the head, or normalises pixels."""
    folded = {norm.name for norm in _foldable(graph).values()}
    before: set[str] = set()
    for name, layer in graph.layers.items():
        if _is_integer(layer):
            if _activation(layer) not in (None, *_ACTIVATIONS):
                return False
        elif before.issuperset(graph.inputs[name]):
            before.add(name)
        elif not _is_head(layer) and name not in folded:
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
    copy = compute_groups_of(keras.models.clone_model(model, inputs, clone, call))
    for layer in copy.layers:
        own = model.get_layer(layer.name) if layer.weights else layer
        if len(own.weights) == len(layer.weights):
            layer.set_weights(own.get_weights())
    return copy


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
