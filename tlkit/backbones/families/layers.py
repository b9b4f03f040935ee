"""The layers that the families share, with the settings of PyTorch's layers: padding on both sides, epsilon 1e-5."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from tlkit.backbones.grouped import compute_groups


def convolution(
    x: Any,
    channels: int,
    kernel: int | Sequence[int],
    name: str,
    *,
    stride: int = 1,
    padding: int | Sequence[int] | None = None,
    groups: int = 1,
    bias: bool = False,
) -> Any:
    """Apply a convolution that pads with zeros on both sides, as PyTorch's does.

    Keras' "same" pads on the right only where it can, which moves the output of a stride of 2 by a pixel.

    kernel: (rows, columns), or one number for both. padding: the same; None pads by half the kernel.
    groups: the channels are divided into so many groups, which do not see each other (Krizhevsky et al. 2012).
    """
    import keras

    sizes = (kernel, kernel) if isinstance(kernel, int) else tuple(kernel)
    if padding is None:
        padding = tuple(side // 2 for side in sizes)
    pads = (padding, padding) if isinstance(padding, int) else tuple(padding)
    same = stride == 1 and all(2 * pad == side - 1 for pad, side in zip(pads, sizes, strict=True))
    if any(pads) and not same:
        x = keras.layers.ZeroPadding2D(pads, name=f"{name}.pad")(x)
    layer = keras.layers.Conv2D(
        channels,
        sizes,
        stride,
        padding="same" if same else "valid",
        groups=groups,
        use_bias=bias,
        kernel_initializer="he_normal",
        name=name,
    )
    return compute_groups(layer)(x)


def batch_norm(x: Any, name: str, *, scale: bool = True, epsilon: float = 1e-5) -> Any:
    """Apply BatchNormalization with PyTorch's epsilon and momentum."""
    import keras

    return keras.layers.BatchNormalization(momentum=0.9, epsilon=epsilon, scale=scale, name=name)(x)


def relu(x: Any, name: str) -> Any:
    """Apply a rectifier."""
    import keras

    return keras.layers.ReLU(name=name)(x)


def max_pool(x: Any, kernel: int, name: str, *, stride: int = 2, padding: int = 0, ceil: bool = False) -> Any:
    """Take the maximum over windows, as PyTorch does. x: not negative, since it is padded with zeros.

    ceil: whether a window that reaches beyond the right or lower edge counts, as in Caffe.
    """
    import keras

    after = padding
    if ceil:
        size = int(x.shape[1])
        after += -(size + 2 * padding - kernel) % stride
    if padding or after:
        x = keras.layers.ZeroPadding2D(((padding, after), (padding, after)), name=f"{name}.pad")(x)
    return keras.layers.MaxPooling2D(kernel, stride, name=name)(x)


def convolution_unit(
    x: Any,
    channels: int,
    kernel: int | Sequence[int],
    name: str,
    *,
    stride: int = 1,
    padding: int | Sequence[int] | None = None,
) -> Any:
    """Apply a convolution without bias, BatchNormalization with Inception's epsilon of 1e-3, and a rectifier.

    The layers are NAME.conv, NAME.bn and NAME.relu. Other arguments: see `convolution`.
    """
    x = convolution(x, channels, kernel, f"{name}.conv", stride=stride, padding=padding)
    return relu(batch_norm(x, f"{name}.bn", epsilon=1e-3), f"{name}.relu")


def mean_pool(x: Any, name: str, *, counted: bool = True) -> Any:
    """Take the mean over windows of 3 x 3, one pixel apart. The size stays.

    counted: whether the zeros around the map count at its edges, as they do in Caffe and by default in PyTorch.
    """
    import keras

    if counted:
        x = keras.layers.ZeroPadding2D(1, name=f"{name}.pad")(x)
    return keras.layers.AveragePooling2D(3, 1, padding="valid" if counted else "same", name=name)(x)


def concatenate(branches: Sequence[Any], name: str) -> Any:
    """Put the channels of several maps one after another."""
    import keras

    return keras.layers.Concatenate(name=name)(list(branches))


def linear_top(x: Any, classes: int, name: str) -> Any:
    """Average all positions, and apply one dense layer: logits, shape (n, classes)."""
    import keras

    x = keras.layers.GlobalAveragePooling2D(name=f"{name}.pool")(x)
    return keras.layers.Dense(classes, name=name)(x)


def connected_top(x: Any, classes: int, names: Sequence[str], hidden: int = 4096) -> Any:
    """Apply fully connected layers: logits, shape (n, classes).

    They are convolutions, the first as large as the map, so that larger images give a map of logits if the layers are
    applied to them. In a file, the first one's matrix has a column for each value of the flattened map.

    names: of the layers, the last of which puts out the logits. hidden: channels of the others.
    """
    import keras

    for name in names[:-1]:
        x = relu(convolution(x, hidden, x.shape[1:3], name, padding=0, bias=True), f"{name}.relu")
    x = convolution(x, classes, x.shape[1:3], names[-1], padding=0, bias=True)
    return keras.layers.Flatten(name=f"{names[-1]}.flat")(x)


def convolution_relu(
    x: Any, channels: int, kernel: int, name: str, *, stride: int = 1, padding: int | None = None
) -> Any:
    """Apply a convolution with a bias, then a rectifier. padding: see `convolution`."""
    x = convolution(x, channels, kernel, name, stride=stride, padding=padding, bias=True)
    return relu(x, f"{name}_relu")


def local_response_normalisation(x: Any, *, k: float = 2.0, n: int = 5, alpha: float = 1e-4, beta: float = 0.75) -> Any:
    """Divide each activation by (k + alpha s) ** beta (Krizhevsky et al. 2012, section 3.3, and its constants).

    s: the sum of the squares of the activations at the same position in the n channels around it, as many as there
    are. Some frameworks divide their alpha by n: with those, alpha is n times as large. Written with `keras.ops` in the
    graph, so it is no layer of our own.

    x: shape (n, rows, columns, channels). n: an odd number.
    """
    import keras

    ops = keras.ops
    channels = x.shape[-1]
    padded = ops.pad(ops.square(x), ((0, 0), (0, 0), (0, 0), (n // 2, n // 2)))
    total = padded[..., :channels]
    for shift in range(1, n):
        total = total + padded[..., shift : shift + channels]
    return x * (k + alpha * total) ** -beta


def drop_path(x: Any, rate: float, name: str) -> Any:
    """Drop a residual branch of each image with probability `rate` in training (Huang et al. 2016, arXiv:1603.09382).

    What is kept is divided by 1 - rate, so that nothing is scaled in inference. This is Keras' Dropout with one draw
    per image, as Keras' own EfficientNet uses it: it needs no layer of ours, and its file loads without tlkit.

    x: the branch before it is added to the identity, shape (n, rows, columns, channels). rate: 0 to below 1.
    """
    import keras

    return keras.layers.Dropout(rate, noise_shape=(None, 1, 1, 1), name=name)(x) if rate else x
