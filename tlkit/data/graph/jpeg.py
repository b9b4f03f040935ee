"""JPEG: upright, in sRGB, at half of its size where it has more pixels than other formats may have."""

from __future__ import annotations

import tensorflow as tf

from tlkit.data.graph import icc
from tlkit.data.graph.common import (
    TEXT,
    apart,
    check_size,
    checked,
    piece,
    shared,
    tiff_orientation,
    turn_upright,
    xmp_orientation,
)
from tlkit.data.limits import MAX_JPEG_PIXELS, MAX_PIXELS, REDUCED_BY

_MARGIN = 64  # zeros behind the file
_MOST_SEGMENTS = 1024
_SEGMENTS = (0xE145, 0xE168, 0xE249)  # APP1 "Exif", APP1 "http" (XMP), APP2 "ICC_PROFILE": marker and first letter
_FRAMES = [0xC0 <= code <= 0xCF and code not in (0xC4, 0xC8, 0xCC) for code in range(256)]
_ALONE = [code == 0x01 or 0xD0 <= code <= 0xD8 for code in range(256)]  # TEM, RSTn, SOI: markers without a length
_NO_MARKER = (0x00, 0xFF)  # behind FF: a stuffed zero, and padding
_ENDS = (0xD9, 0xDA)  # EOI and SOS, behind which no frame header can stand
_READ = (0xC0, 0xC1, 0xC2, 0xC9, 0xCA)  # baseline, extended and progressive, by Huffman or arithmetic codes
_ADOBE = b"\xff\xee\x00\x0eAdobe\x00\x64\x00\x00\x00\x00\x00"  # CMYK whose values are inverted
_STRAY = 4096  # bytes in which the next marker is looked for at once


@shared(TEXT)
def header(data: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
    """(fault, number of pixels that a decoder would hold in memory)."""
    raw, found, frame = _walk(data)
    fault, pixels = _header(raw, frame)
    has_profile = (found[2] > 0) & (fault == b"")
    return tf.cond(has_profile, lambda: apart(lambda: icc.fault(_profile(data, raw, found))), lambda: fault), pixels


def decode(data: tf.Tensor) -> tf.Tensor:
    """uint8, shape (height, width, 3): at half of its size if it has more than `MAX_PIXELS`.

    Walks the segments once for fault, size and orientation, because a walk takes as long as decoding.
    """
    raw, found, frame = _walk(data)
    data = checked(data, _header(raw, frame)[0])
    # CMYK without Adobe's marker is inverted too, as in Pillow and browsers; a marker of the file itself comes later
    whole = data
    data = tf.cond(
        raw[frame + 9] == 4,
        lambda: tf.strings.join([b"\xff\xd8", _ADOBE, tf.strings.substr(whole, 2, -1)]),
        lambda: whole,
    )

    def at(ratio: int) -> tf.Tensor:
        return tf.io.decode_jpeg(data, channels=3, ratio=ratio, dct_method="INTEGER_ACCURATE")

    image = tf.cond(_is_huge(*_size(raw, frame)), lambda: at(REDUCED_BY), lambda: at(1))

    def with_metadata() -> tf.Tensor:
        profile = icc.fitting(_profile(whole, raw, found), raw[frame + 9] == 1)
        colours = icc.to_srgb(checked(image, icc.fault(profile)), profile)
        return turn_upright(colours, _orientation(whole, raw, found))

    return tf.cond(tf.reduce_any(found > 0), lambda: apart(with_metadata), lambda: image)


def _walk(data: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
    """Walk a JPEG's segments (ITU-T T.81) up to its frame header.

    Returns: the file as uint8 followed by zeros; the offsets of the first segments of Exif, XMP and colour profile,
        int32, shape (3,); and the offset of the frame header. 0 where there is none.
    """
    raw = tf.concat([tf.io.decode_raw(data, tf.uint8), tf.zeros((_MARGIN,), tf.uint8)], 0)
    length = tf.size(raw) - _MARGIN
    frames, segments, alone = tf.constant(_FRAMES), tf.constant(_SEGMENTS), tf.constant(_ALONE)

    def keep_walking(at: tf.Tensor, found: tf.Tensor, frame: tf.Tensor) -> tf.Tensor:
        inside = (at >= 2) & (at + 9 < length)
        marker = raw[tf.where(inside, at, 0) : tf.where(inside, at, 0) + 2]
        is_segment = (marker[0] == 0xFF) & ~tf.reduce_any(marker[1] == (*_NO_MARKER, *_ENDS))
        return inside & is_segment & (frame == 0)

    def step(at: tf.Tensor, found: tf.Tensor, frame: tf.Tensor) -> tuple[tf.Tensor, ...]:
        code, high, low, letter = tf.unstack(tf.cast(raw[at + 1 : at + 5], tf.int32), 4)
        after = at + 2 + tf.where(alone[code], 0, tf.maximum(high * 256 + low, 2))
        new = (segments == code * 256 + letter) & (found == 0)
        return after, tf.where(new, at, found), tf.where(tf.gather(frames, code), at, frame)

    start = (tf.constant(2), tf.constant([0, 0, 0]), tf.constant(0))
    at, found, frame = tf.while_loop(keep_walking, step, start, maximum_iterations=_MOST_SEGMENTS)

    def to_marker(at: tf.Tensor, found: tf.Tensor, frame: tf.Tensor) -> tuple[tf.Tensor, ...]:
        """Pass stray bytes and padding, as libjpeg does."""
        window = raw[at : at + _STRAY]
        is_marker = (window[:-1] == 0xFF) & (window[1:] != 0) & (window[1:] != 0xFF)
        none = ~tf.reduce_any(is_marker)
        return tf.where(none, at + _STRAY - 1, at + tf.argmax(is_marker, output_type=tf.int32)), found, frame

    def on(at: tf.Tensor, found: tf.Tensor, frame: tf.Tensor) -> tf.Tensor:
        inside = (at >= 2) & (at + 9 < length)
        place = tf.where(inside, at, 0)
        ends = (raw[place] == 0xFF) & tf.reduce_any(raw[place + 1] == _ENDS)
        return inside & (frame == 0) & ~ends

    def onward() -> tuple[tf.Tensor, ...]:
        def one(at: tf.Tensor, found: tf.Tensor, frame: tf.Tensor) -> tuple[tf.Tensor, ...]:
            is_segment = (raw[at] == 0xFF) & ~tf.reduce_any(raw[at + 1] == _NO_MARKER)
            return tf.cond(is_segment, lambda: step(at, found, frame), lambda: to_marker(at, found, frame))

        return tf.while_loop(on, one, (at, found, frame), maximum_iterations=_MOST_SEGMENTS)[1:]

    found, frame = tf.cond(frame == 0, lambda: tuple(apart(onward)), lambda: (found, frame))
    return raw, found, frame


def _size(raw: tf.Tensor, frame: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
    upper, lower, left, right = tf.unstack(tf.cast(raw[frame + 5 : frame + 9], tf.int32), 4)
    return tf.where(frame > 0, left * 256 + right, 0), tf.where(frame > 0, upper * 256 + lower, 0)


def _header(raw: tf.Tensor, frame: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
    """Check a JPEG's kind and size.

    A progressive file needs all its coefficients in memory, 6 bytes per pixel, so it has the limit of the other
    formats.
    """
    code, bits = tf.cast(raw[frame + 1], tf.int32), tf.cast(raw[frame + 4], tf.int32)
    progressive = (frame > 0) & ((code == 0xC2) | (code == 0xCA))
    fault, pixels = check_size(*_size(raw, frame), tf.where(progressive, MAX_PIXELS, MAX_JPEG_PIXELS))
    unread = (frame > 0) & ((bits != 8) | ~tf.reduce_any(code == _READ))

    def kind() -> tf.Tensor:
        shown = tf.strings.join(["a JPEG of ", tf.as_string(bits), " bits a sample is not read"])
        lossless = tf.bitwise.bitwise_and(code, 3) == 3
        other = tf.where(bits != 8, shown, "a hierarchical JPEG is not read")
        return tf.where(lossless, "a lossless JPEG is not read", other)

    fault = tf.cond(unread, kind, lambda: fault)
    return fault, tf.where(progressive | (pixels <= MAX_PIXELS), pixels, pixels // REDUCED_BY**2)


def _is_huge(width: tf.Tensor, height: tf.Tensor) -> tf.Tensor:
    return tf.cast(width, tf.int64) * tf.cast(height, tf.int64) > MAX_PIXELS


def _profile(data: tf.Tensor, raw: tf.Tensor, found: tf.Tensor) -> tf.Tensor:
    """The colour profile, empty if there is none. One in several segments is larger than a matrix: of tables."""
    at = found[2]
    named = piece(data, at + 4, 12) == b"ICC_PROFILE\x00"
    size = tf.cast(raw[at + 2], tf.int32) * 256 + tf.cast(raw[at + 3], tf.int32)
    many = tf.cast(raw[tf.where(at > 0, at + 17, 0)], tf.int32) > 1
    many &= (piece(data, at + 34, 4) == b"RGB ") & (piece(data, at + 54, 4) == b"acsp")
    whole = tf.where(many, icc.TABLES, piece(data, at + 18, size - 16))
    return tf.where((at > 0) & named, whole, b"")


def _orientation(data: tf.Tensor, raw: tf.Tensor, found: tf.Tensor) -> tf.Tensor:
    """The orientation by Exif, or else by XMP: 1 to 8."""
    named = piece(data, found[0] + 4, 6) == b"Exif\x00\x00"
    exif = tf.cond((found[0] > 0) & named, lambda: tiff_orientation(raw, found[0] + 10), lambda: tf.constant(0))
    return tf.cond(
        (exif == 0) & (found[1] > 0),
        lambda: xmp_orientation(piece(data, found[1] + 4, 65_536)),
        lambda: tf.maximum(exif, 1),
    )
