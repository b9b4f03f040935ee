"""PNG: 8 and 16 bits a channel, over white, upright, in sRGB.

libpng believes the length of a chunk and takes memory for it, so the chunks are walked before they are decoded.
"""

from __future__ import annotations

import functools
from collections.abc import Callable

import tensorflow as tf

from tlkit.data.graph import icc
from tlkit.data.graph.common import (
    TEXT,
    apart,
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

_MOST_CHUNKS = 4096  # runs of chunks of equal type and length
_IN_A_RUN = 1024  # chunks of a run that are passed in one step
_MOST_PROFILE = 65_536  # bytes, compressed; a profile that is a matrix has a tenth of it
_IDAT, _IEND, _EXIF, _ICC, _TEXT = (
    int.from_bytes(name, "big") for name in (b"IDAT", b"IEND", b"eXIf", b"iCCP", b"iTXt")
)
_BEFORE_DATA = 41  # bytes: the signature, IHDR, and the length and type of the next chunk
_XMP = b"XML:com.adobe.xmp"


@shared(TEXT)
def header(data: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
    """(fault, number of pixels). A colour profile is not unpacked, because that may fail: see `packed_profile`."""
    raw = head(data, _BEFORE_DATA)
    fault, _ = _chunks(data, raw)
    size_fault, pixels = check_size(number(raw[16:20], big=True), number(raw[20:24], big=True))
    fault = tf.where(fault == b"", size_fault, fault)
    return tf.where(number(raw[12:16], big=True) == 0x43674249, "a PNG of an iOS app (CgBI) is not read", fault), pixels


@functools.cache
def decoder(depth: int) -> Callable[[tf.Tensor], tf.Tensor]:
    """`decode` for one depth, traced once."""
    return shared(TEXT, inline=True)(functools.partial(decode, depth=depth))


def decode(data: tf.Tensor, depth: int) -> tf.Tensor:
    """uint8, shape (height, width, 3).

    Where a file of 1, 2 or 4 bits has no alpha, TensorFlow fills in 1, 3 or 15 instead of 255. That counts as opaque.

    depth: the bits that the data set's images of 16 bits use. The upper eight of these remain.
    """
    raw = head(data, _BEFORE_DATA)
    fault, seen = _chunks(data, raw)
    size_fault, _ = check_size(number(raw[16:20], big=True), number(raw[20:24], big=True))
    data = checked(data, tf.strings.join([fault, size_fault]))
    if depth == 16:
        image = tf.io.decode_png(data, channels=4)
    else:
        image = tf.cond(raw[24] == 16, lambda: _deep(data, depth), lambda: tf.io.decode_png(data, channels=4))
    filler = tf.cast(tf.bitwise.left_shift(tf.constant(1, tf.int64), tf.minimum(raw[24], 8)) - 1, tf.uint8)

    def plain() -> tf.Tensor:
        opaque = tf.reduce_all(image[..., 3] == filler)
        return tf.cond(opaque, lambda: image[..., :3], lambda: over_white(image))

    def with_metadata() -> tf.Tensor:
        profile = icc.fitting(_profile(data, seen), (raw[25] == 0) | (raw[25] == 4))
        colours = icc.to_srgb(checked(image, icc.fault(profile)), profile)
        opaque = tf.reduce_all(colours[..., 3] == filler)
        upright = tf.cond(opaque, lambda: colours[..., :3], lambda: over_white(colours))
        return turn_upright(upright, _orientation(data, seen))

    return tf.cond(tf.reduce_any(seen > 0), lambda: apart(with_metadata), plain)


def packed_profile(data: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
    """(fault, packed): the colour profile in zlib's format, empty if there is none, and whether it is too large.

    Never fails. Unpacking it may; `icc.fault` then tells whether it can be used.
    """
    _, seen = _chunks(data, head(data, _BEFORE_DATA))
    large = seen[3] > _MOST_PROFILE
    packed = tf.cond((seen[2] > 0) & ~large, lambda: _packed(data, seen), lambda: tf.constant(b""))
    return tf.where((seen[2] > 0) & large, icc.FAULT, ""), packed


def _deep(data: tf.Tensor, depth: int) -> tf.Tensor:
    image = tf.io.decode_png(data, channels=4, dtype=tf.uint16)

    def shifted(rows: tf.Tensor) -> tf.Tensor:
        by = tf.constant([depth - 8] * 3 + [8], tf.uint16)
        return tf.cast(tf.minimum(tf.bitwise.right_shift(rows, by), 255), tf.uint8)

    return shifted(image)


def _chunks(data: tf.Tensor, raw: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
    """Check the lengths of all chunks, and find those that matter.

    Returns: the fault, and int64, shape (6,): offset and length of the data of eXIf, of iCCP, and of XMP; 0 for none.
    """
    length = tf.cast(tf.strings.length(data), tf.int64)
    first = number(raw[33:37], big=True)
    only_pixels = (number(raw[37:41], big=True) == _IDAT) & (33 + 12 + first + 12 == length)
    nothing = (tf.constant(""), tf.zeros((6,), tf.int64))
    is_sound = (number(raw[8:12], big=True) == 13) & (number(raw[12:16], big=True) == 0x49484452)
    walked = lambda: tf.cond(  # noqa: E731
        is_sound,
        lambda: tuple(_walk(data)),
        lambda: (tf.constant("its first chunk is not a header"), nothing[1]),
    )
    return tf.cond(is_sound & only_pixels, lambda: nothing, walked)


@shared(TEXT)
def _walk(data: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
    """Walk the chunks behind IHDR (PNG specification, section 5.3). A run of chunks of equal length is one step."""
    raw = tf.concat([tf.io.decode_raw(data, tf.uint8), tf.zeros((32,), tf.uint8)], 0)
    length = tf.cast(tf.size(raw) - 32, tf.int64)

    def inside(at: tf.Tensor, seen: tf.Tensor, ended: tf.Tensor) -> tf.Tensor:
        return ~ended & (at + 8 <= length)

    def step(at: tf.Tensor, seen: tf.Tensor, ended: tf.Tensor) -> tuple[tf.Tensor, ...]:
        block = raw[at : at + 8]
        size, kind = tf.unstack(number(tf.reshape(tf.cast(block, tf.int64), (2, 4)), big=True), 2)
        stride = size + 12
        starts = at + tf.range(tf.clip_by_value((length - at) // stride, 1, _IN_A_RUN)) * stride
        equal = tf.reduce_all(tf.gather(raw, starts[:, None] + tf.range(8, dtype=tf.int64)) == block, 1)
        run = tf.reduce_sum(tf.math.cumprod(tf.cast(equal, tf.int64)))
        lies = (at + stride > length) & (kind != _IEND)
        is_xmp = (kind == _TEXT) & tf.reduce_all(raw[at + 8 : at + 8 + len(_XMP)] == tf.constant(list(_XMP), tf.uint8))
        which = tf.stack([kind == _EXIF, kind == _ICC, is_xmp])
        new = tf.where(which, tf.stack([at + 8, size])[:, None], tf.zeros((2, 3), tf.int64))
        seen = tf.where(seen > 0, seen, tf.reshape(tf.transpose(new), (6,)))
        after = tf.where(kind == _IEND, length, at + run * stride)  # what stands behind the end does not matter
        return tf.where(lies, at, after), seen, lies | (kind == _IEND)

    # a block near the end of the file is shorter than 8 bytes, so the loop ends before it
    start = (tf.constant(33, tf.int64), tf.zeros((6,), tf.int64), tf.constant(False))
    at, seen, ended = tf.while_loop(inside, step, start, maximum_iterations=_MOST_CHUNKS)
    lies = "truncated: a chunk is longer than the file"
    fault = tf.where(ended & (at + 8 <= length) & (at < length), lies, "")
    return tf.where(~ended & (at + 8 <= length), f"more than {_MOST_CHUNKS} chunks", fault), seen


def _profile(data: tf.Tensor, seen: tf.Tensor) -> tf.Tensor:
    """The colour profile of an iCCP chunk, unpacked: bytes; empty if there is none."""

    def unpacked() -> tf.Tensor:
        return tf.io.decode_compressed(_packed(data, seen), "ZLIB")

    return tf.cond(
        seen[2] > 0,
        lambda: tf.cond(seen[3] > _MOST_PROFILE, lambda: tf.constant(icc.TABLES), unpacked),
        lambda: tf.constant(b""),
    )


def _packed(data: tf.Tensor, seen: tf.Tensor) -> tf.Tensor:
    """What stands behind the name and the method of an iCCP chunk."""
    start = tf.io.decode_raw(piece(data, seen[2], 82), tf.uint8)
    name = tf.argmax(tf.concat([start, [0]], 0) == 0)  # a name, a zero, and the method
    return piece(data, seen[2] + name + 2, seen[3] - name - 2)


def _orientation(data: tf.Tensor, seen: tf.Tensor) -> tf.Tensor:
    def by_exif() -> tf.Tensor:
        exif = piece(data, seen[0], tf.minimum(seen[1], 1_000_000))
        named = tf.strings.substr(tf.strings.join([exif, bytes(8)]), 0, 6) == b"Exif\x00\x00"
        raw = tf.io.decode_raw(tf.strings.join([exif, bytes(64)]), tf.uint8)
        return tiff_orientation(raw, tf.where(named, 6, 0))

    exif = tf.cond(seen[0] > 0, by_exif, lambda: tf.constant(0))
    return tf.cond(exif > 0, lambda: exif, lambda: xmp_orientation(piece(data, seen[4], seen[5])))
