"""DropConnect as a layer (Wan et al. 2013, "Regularization of neural networks using DropConnect").

Keras has no such layer, and one of its own is needed: a mask that is drawn anew in every step needs a random state,
which a graph of `keras.ops` alone cannot keep. To read a `.keras` file that holds the layer, import this module first.
The files of a finished run do not hold it: nothing is dropped in inference, so dense layers take its place there.
"""

from __future__ import annotations

from typing import Any

import keras


@keras.saving.register_keras_serializable("tlkit")
class DropConnect(keras.layers.Dense):
    """A dense layer that drops single weights in training, where Dropout drops whole inputs.

    One mask is drawn in each step for all images of the batch; the paper draws one for each image, which would take as
    many times the memory. The weights that stay are divided by 1 - rate, so that their mean is unchanged, and inference
    uses the weights as they are; the paper samples from a normal distribution with that mean. The bias is not dropped.

    The masks follow from the seed alone: that of `keras.utils.set_random_seed` at creation, or the layer's own.

    rate: share of the weights that are dropped, 0 to below 1.
    The other arguments are those of `keras.layers.Dense`.

    >>> keras.utils.set_random_seed(0)
    >>> layer = DropConnect(1, rate=0.5, use_bias=False, kernel_initializer="ones")
    >>> ones = keras.ops.ones((1, 1000))
    >>> float(layer(ones, training=False)[0, 0]), 800 < float(layer(ones, training=True)[0, 0]) < 1200
    (1000.0, True)
    """

    def __init__(self, units: int, rate: float = 0.5, *, seed: int | None = None, **of_dense: Any) -> None:
        super().__init__(units, **of_dense)
        if not 0 <= rate < 1:
            raise ValueError(f"rate is {rate}. Expected a number of at least 0 and below 1.")
        self.rate, self.seed = rate, seed
        self.seed_generator = keras.random.SeedGenerator(seed)

    def call(self, inputs: Any, training: bool | None = None) -> Any:
        if not training or not self.rate:
            return super().call(inputs)
        kernel = keras.random.dropout(keras.ops.convert_to_tensor(self.kernel), self.rate, seed=self.seed_generator)
        outputs = keras.ops.matmul(inputs, kernel)
        if self.bias is not None:
            outputs = keras.ops.add(outputs, self.bias)
        return outputs if self.activation is None else self.activation(outputs)

    def get_config(self) -> dict[str, Any]:
        """Return the settings of the layer."""
        return {**super().get_config(), "rate": self.rate, "seed": self.seed}
