"""What several families are made of: convolution with ReLU, local response normalisation, and stochastic depth."""

from __future__ import annotations

from typing import Any


def convolution(
    x: Any, filters: int, kernel: int, name: str, *, strides: int = 1, padding: str = "same", groups: int = 1
) -> Any:
    """Apply a convolution with a bias, then ReLU. Its initial weights are He's (arXiv:1502.01852)."""
    import keras

    x = keras.layers.Conv2D(
        filters, kernel, strides, padding=padding, groups=groups, kernel_initializer="he_normal", name=name
    )(x)
    return keras.layers.ReLU(name=f"{name}_relu")(x)


def max_pool(x: Any, name: str, *, padding: str = "valid") -> Any:
    """Take the maximum over overlapping regions of 3 x 3 pixels, two apart."""
    import keras

    return keras.layers.MaxPooling2D(3, 2, padding=padding, name=name)(x)


def local_response_normalisation(x: Any, *, k: float = 2.0, n: int = 5, alpha: float = 1e-4, beta: float = 0.75) -> Any:
    """Divide each activation by (k + alpha s) ** beta (Krizhevsky et al. 2012, section 3.3, and its constants).

    s: the sum of the squares of the activations at the same position in the n channels around it, as many as there
    are. Some frameworks divide their alpha by n: with those, alpha is n times as large. Written with `keras.ops` in the
    graph, so it has no layer of its own.

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
    per image, as Keras' own EfficientNet uses it: no layer of ours is needed, and the file loads without tlkit.

    x: the branch before it is added to the identity, shape (n, rows, columns, channels). rate: 0 to below 1.
    """
    import keras

    return keras.layers.Dropout(rate, noise_shape=(None, 1, 1, 1), name=name)(x) if rate else x
