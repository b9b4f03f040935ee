"""WebP (RFC 9649): one frame, over white, upright, in sRGB."""

from __future__ import annotations

import tensorflow as tf

from tlkit.data.graph import icc
from tlkit.data.graph.common import (
    TEXT,
    check_size,
    checked,
    head,
    number,
    over_white,
    piece,
    shared,
    tiff_orientation,
    turn_upright,
    xmp_orientation,
)

_ANIMATED, _XMP, _EXIF, _ICC = 2, 4, 8, 32  # flags of an extended header
_MOST_CHUNKS = 64


@shared(TEXT)
def header(data: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
    """(fault, number of pixels). Animated files are refused: TensorFlow 2.21 writes past the end of its buffer."""
    raw = head(data, 32)
    flags = _flags(raw)
    fault, pixels = check_size(*_size(raw))
    fault = tf.cond(
        (fault == b"") & (tf.bitwise.bitwise_and(flags, _ICC) > 0),
        lambda: icc.fault(_profile(data, raw)),
        lambda: fault,
    )
    return tf.where(tf.bitwise.bitwise_and(flags, _ANIMATED) > 0, "an animated WebP is not read", fault), pixels


@shared(TEXT)
def decode(data: tf.Tensor) -> tf.Tensor:
    """uint8, shape (height, width, 3)."""
    data = checked(data, header(data)[0])
    raw = head(data, 32)
    image = tf.io.decode_webp(data)  # one frame, three or four channels as in the file
    image = tf.reshape(image, tf.shape(image)[-3:])
    flags = _flags(raw)

    def opaque(image: tf.Tensor) -> tf.Tensor:
        return tf.cond(tf.shape(image)[-1] == 4, lambda: over_white(image), lambda: image[..., :3])

    def with_metadata() -> tf.Tensor:
        profile = tf.cond(
            tf.bitwise.bitwise_and(flags, _ICC) > 0, lambda: _profile(data, raw), lambda: tf.constant(b"")
        )
        return turn_upright(opaque(icc.to_srgb(image, icc.fitting(profile, tf.constant(False)))), _orientation(data))

    return tf.cond(tf.bitwise.bitwise_and(flags, _ICC | _EXIF | _XMP) > 0, with_metadata, lambda: opaque(image))


def _flags(raw: tf.Tensor) -> tf.Tensor:
    return tf.where(number(raw[12:16], big=True) == 0x56503858, raw[20], tf.zeros((), tf.int64))


def _size(raw: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
    """Width and height from a lossy, lossless or extended header."""
    kind, lossy, lossless = number(raw[12:16], big=True), number(raw[26:30]), number(raw[21:25])
    low14 = lambda value, shift: tf.bitwise.bitwise_and(tf.bitwise.right_shift(value, shift), 0x3FFF)  # noqa: E731
    zero, fourteen, sixteen = (tf.constant(n, tf.int64) for n in (0, 14, 16))
    is_lossy, extended = kind == 0x56503820, kind == 0x56503858
    width = tf.where(is_lossy, low14(lossy, zero), low14(lossless, zero) + 1)
    height = tf.where(is_lossy, low14(lossy, sixteen), low14(lossless, fourteen) + 1)
    return tf.where(extended, number(raw[24:27]) + 1, width), tf.where(extended, number(raw[27:30]) + 1, height)


def _profile(data: tf.Tensor, raw: tf.Tensor) -> tf.Tensor:
    """The colour profile, which stands directly behind the extended header; empty if it is not there."""
    follows = piece(data, 30, 8)
    size = number(head(piece(data, 34, 4), 4))
    return tf.cond(
        tf.strings.substr(tf.strings.join([follows, bytes(4)]), 0, 4) == b"ICCP",
        lambda: piece(data, 38, size),
        lambda: tf.constant(b""),
    )


def _orientation(data: tf.Tensor) -> tf.Tensor:
    """The orientation by the chunk EXIF, or else by the chunk XMP."""
    kinds = tf.constant([int.from_bytes(name, "little") for name in (b"EXIF", b"XMP ")], tf.int64)
    length = tf.cast(tf.strings.length(data), tf.int64)

    def step(at: tf.Tensor, seen: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        kind, size = tf.unstack(number(tf.reshape(head(piece(data, at, 8), 8), (2, 4))), 2)
        new = tf.where((kind == kinds)[:, None], tf.stack([at + 8, size])[None], 0)
        return at + 8 + size + size % 2, tf.where(seen > 0, seen, new)

    start = (tf.constant(12, tf.int64), tf.zeros((2, 2), tf.int64))
    _, seen = tf.while_loop(lambda at, _: at + 8 <= length, step, start, maximum_iterations=_MOST_CHUNKS)

    def by_exif() -> tf.Tensor:
        exif = piece(data, seen[0, 0], tf.minimum(seen[0, 1], 1_000_000))
        named = tf.strings.substr(tf.strings.join([exif, bytes(8)]), 0, 6) == b"Exif\x00\x00"
        return tiff_orientation(tf.io.decode_raw(tf.strings.join([exif, bytes(64)]), tf.uint8), tf.where(named, 6, 0))

    exif = tf.cond(seen[0, 0] > 0, by_exif, lambda: tf.constant(0))
    return tf.cond(exif > 0, lambda: exif, lambda: xmp_orientation(piece(data, seen[1, 0], seen[1, 1])))
