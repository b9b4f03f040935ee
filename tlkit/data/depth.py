"""How many bits the images of 16 bits in a data set use. Cameras store 10, 12 or 14 bits in files of 16."""

from __future__ import annotations

from collections.abc import Iterable

from tlkit.data.convert import Unreadable, convert, needs_conversion, read_header
from tlkit.data.headers import Status, examine
from tlkit.data.limits import DEPTHS, FULL_DEPTH
from tlkit.data.sources.member import Item


def depth_of(files: Iterable[Item]) -> int:
    """The bits that a set's images of 16 bits use together: 8, 10, 12, 14 or 16.

    Files of 8 bits, and those that do not decode, do not count; 16 if no file counts. Alpha does not count either.
    """
    highest = -1
    for file in files:
        highest = max(highest, _highest(file))
        if highest.bit_length() > DEPTHS[-2]:
            break
    return next(bits for bits in DEPTHS if highest < 2**bits) if highest >= 0 else FULL_DEPTH


def _highest(file: Item) -> int:
    """The highest value of colour or grey in a file of 16 bits; -1 for any other."""
    import tensorflow as tf

    try:
        data = file.read_bytes()
        if needs_conversion(data):
            data = convert(data) if read_header(data).deep else b""
        if data[:4] != b"\x89PNG" or data[24] != 16 or examine(data).status is not Status.DECODES:
            return -1
        with tf.device("cpu"):
            values = tf.io.decode_png(data, dtype=tf.uint16).numpy()
    except (OSError, Unreadable, IndexError, tf.errors.InvalidArgumentError):
        return -1
    return int(values[..., : values.shape[-1] - 1 + values.shape[-1] % 2].max())
