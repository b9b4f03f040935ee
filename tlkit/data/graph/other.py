"""Names a file of another format in the graph, by the first bytes that `tlkit.data.foreign` lists."""

from __future__ import annotations

import numpy as np
import tensorflow as tf

from tlkit.data.foreign import signatures
from tlkit.data.graph.common import TEXT, head, shared

NO_FORMAT = "not a JPEG, PNG, GIF, BMP or WebP file"


@shared(TEXT)
def header(data: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
    """(fault, 0): "TIFF, not a JPEG, ...", or no name where the bytes tell none."""
    listed = signatures()
    longest = max(len(signature) for _, signature, _ in listed)
    places, values = (np.zeros((len(listed), longest), "int64") for _ in range(2))
    for row, (at, signature, _) in enumerate(listed):
        places[row] = at  # behind the signature's end, its first byte is compared once more
        values[row] = signature[0]
        places[row, : len(signature)] += np.arange(len(signature))
        values[row, : len(signature)] = list(signature)
    fits = tf.reduce_all(tf.gather(head(data, int(places.max()) + 1), places) == values, 1)
    names = tf.constant([f"{name}, {NO_FORMAT}" for _, _, name in listed] + [NO_FORMAT])
    return names[tf.argmax(tf.concat([fits, [True]], 0))], tf.constant(0, tf.int64)
