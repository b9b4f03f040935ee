"""BMP without compression: 1, 4 and 8 bits through the palette, 24 and 32 bits directly.

The pixels are where the header says; what stands behind them does not matter. (TensorFlow's own decoder wants the exact
length and ignores palettes.)
"""

from __future__ import annotations

import tensorflow as tf

from tlkit.data.graph.common import CUT, TEXT, check_size, checked, head, number, piece, shared

_BITS = (1, 4, 8, 24, 32)


@shared(TEXT)
def header(data: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
    """(fault, number of pixels)."""
    info, width, height, bits, compression, begin, _, _ = _fields(data)
    fault, pixels = check_size(width, tf.abs(height))
    shown = ["a BMP of ", tf.as_string(bits), " bits a pixel, compression ", tf.as_string(compression)]
    unread = ~(tf.reduce_any(bits == _BITS) & (compression == 0))
    end = begin + _row_bytes(width, bits) * (tf.abs(height) - 1) + (width * bits + 7) // 8  # without the last padding
    fault = tf.where((fault == b"") & (end > tf.cast(tf.strings.length(data), tf.int64)), CUT, fault)
    fault = tf.where(unread, tf.strings.join([*shown, ", is not read"]), fault)
    sound = (info == 12) | ((info >= 40) & (14 + info <= tf.cast(tf.strings.length(data), tf.int64)))
    return tf.where(sound, fault, "the length of its header is wrong"), pixels


@shared(TEXT)
def decode(data: tf.Tensor) -> tf.Tensor:
    """uint8, shape (height, width, 3). The fourth byte of 32 bits is padding."""
    data = checked(data, header(data)[0])
    _, width, height, bits, _, begin, palette, entry = _fields(data)
    rows, row = tf.abs(height), _row_bytes(width, bits)
    found = piece(data, begin, rows * row)
    raw = tf.reshape(
        tf.io.decode_raw(tf.strings.join([found, b"\x00" * 3]), tf.uint8)[: rows * row], tf.stack([rows, row])
    )
    entries = tf.io.decode_raw(tf.strings.join([piece(data, palette, begin - palette), bytes(1024)]), tf.uint8)
    colours = tf.reshape(entries[: 256 * tf.cast(entry, tf.int32)], tf.stack([256, entry]))[:, 2::-1]

    def direct() -> tf.Tensor:
        used = raw[:, : width * bits // 8]
        return tf.reshape(used, tf.stack([rows, width, bits // 8]))[:, :, 2::-1]

    def through_palette() -> tf.Tensor:
        each = 8 // bits  # pixels in a byte
        shifts = tf.cast((each - 1 - tf.range(each)) * bits, tf.uint8)
        mask = tf.cast(tf.bitwise.left_shift(tf.constant(1, tf.int64), bits) - 1, tf.uint8)
        split = tf.bitwise.bitwise_and(tf.bitwise.right_shift(raw[:, :, None], shifts), mask)
        numbers = tf.reshape(split, tf.stack([rows, row * each]))[:, :width]
        return tf.gather(colours, tf.cast(numbers, tf.int32))

    image = tf.cond(bits <= 8, through_palette, direct)
    return tf.cond(height > 0, lambda: image[::-1], lambda: image)


def _row_bytes(width: tf.Tensor, bits: tf.Tensor) -> tf.Tensor:
    return (width * bits + 31) // 32 * 4


def _fields(data: tf.Tensor) -> tuple[tf.Tensor, ...]:
    """Read a header, of OS/2 (12 bytes) or of Windows.

    Returns: int64: the header's length, width, height (negative: rows are stored from the top), bits a pixel,
        compression, and the offsets of the pixels and the palette, and the bytes of a palette entry.
    """
    raw = head(data, 54)
    info = number(raw[14:18])
    old = info == 12
    width = tf.where(old, number(raw[18:20]), number(raw[18:22]))
    height = tf.where(old, number(raw[20:22]), number(raw[22:26]))
    height = tf.where(~old & (height >= 2**31), height - 2**32, height)
    bits = tf.where(old, number(raw[24:26]), number(raw[28:30]))
    compression = tf.where(old, tf.constant(0, tf.int64), number(raw[30:34]))
    entry = tf.where(old, tf.constant(3, tf.int64), tf.constant(4, tf.int64))
    palette = 14 + info
    used = tf.where(old, tf.constant(0, tf.int64), number(raw[46:50]))
    most = tf.bitwise.left_shift(tf.constant(1, tf.int64), tf.minimum(bits, 8))
    colours = tf.where(bits > 8, tf.constant(0, tf.int64), tf.where((used > 0) & (used < most), used, most))
    begin = number(raw[10:14])
    none = (begin == 0) | (begin == palette)  # some programs forget the palette
    begin = tf.where(none, palette + entry * colours, begin)
    return info, width, height, bits, compression, begin, palette, entry
