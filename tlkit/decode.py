"""Bytes to pixels: the one decoder that training, evaluation, prediction and the exported model share.

Everything here is TensorFlow graph operations on one encoded image, so the SavedModel holds the very function
that training used. Pixels are uint8 RGB; EXIF orientation of JPEG files is honoured; transparency is laid over white.
"""

from __future__ import annotations

import tensorflow as tf

from tlkit.errors import unknown
from tlkit.spec import FITS, MAX_JPEG_PIXELS, MAX_PIXELS

_FORMATS = ("jpeg", "png", "gif", "bmp", "webp")
_RATIOS = (1, 2, 4, 8)


def decode_and_resize(data: tf.Tensor, size: int, fit: str = "squash") -> tf.Tensor:
    """Decode one image file to a square.

    data: the file's bytes, a scalar string tensor: JPEG, PNG, GIF (first frame), BMP or WebP.
    size: pixels of each side of the result.
    fit: "squash" stretches the picture to the square; "crop" takes the central square; "pad" keeps the whole
        picture and fills with black.

    Returns uint8, shape (size, size, 3), RGB. Works eagerly, in a tf.function and in a SavedModel, with the same bits.
    Raises tf.errors.InvalidArgumentError for anything that is not a whole image in one of the formats,
    or is over 50 megapixels (JPEG: 200) by its header.
    """
    return fit_to_square(decode(data, size), size, fit)


def decode(data: tf.Tensor, size: int = 0) -> tf.Tensor:
    """Decode one image file, upright, at its own size.

    A JPEG photograph whose sides are at least twice `size` at a half, quarter or eighth is decoded at that scale
    (by the inverse DCT, as libjpeg does), which is several times faster; 0 decodes in full.

    Returns uint8, shape (height, width, 3), RGB.
    """
    kind = _format(data)
    branches = [
        lambda: _decode_jpeg(data, size),
        lambda: _decode_png(data),
        lambda: _decode_gif(data),
        lambda: _decode_bmp(data),
        lambda: _decode_webp(data),
        lambda: _refuse("not a JPEG, PNG, GIF, BMP or WebP file"),
    ]
    image = tf.switch_case(kind, branches)
    image.set_shape((None, None, 3))
    return image


def fit_to_square(image: tf.Tensor, size: int, fit: str) -> tf.Tensor:
    """Resize one uint8 or float RGB image, shape (height, width, 3), to a square; uint8 in, uint8 out."""
    if fit not in FITS:
        raise unknown("fit", fit, FITS)
    shape = tf.shape(image)
    height, width = shape[0], shape[1]
    if fit == "crop":
        side = tf.minimum(height, width)
        image = tf.image.crop_to_bounding_box(image, (height - side) // 2, (width - side) // 2, side, side)
    if fit == "pad":
        scale = size / tf.maximum(height, width)
        target = tf.cast(tf.round(tf.cast(shape[:2], tf.float64) * scale), tf.int32)
        target = tf.clip_by_value(target, 1, size)
        resized = _resize(image, target)
        top, left = (size - target[0]) // 2, (size - target[1]) // 2
        result = tf.image.pad_to_bounding_box(resized, top, left, size, size)
    else:
        result = _resize(image, tf.constant([size, size]))
    result.set_shape((size, size, 3))
    return result


def _resize(image: tf.Tensor, target: tf.Tensor) -> tf.Tensor:
    resized = tf.image.resize(image, target, antialias=True)
    if image.dtype != tf.uint8:
        return resized
    return tf.cast(tf.clip_by_value(tf.round(resized), 0, 255), tf.uint8)


# -- one function per format ------------------------------------------------------------------------------


def _format(data: tf.Tensor) -> tf.Tensor:
    """Place in `_FORMATS` by the first bytes; one past the end if none fits."""
    head = tf.strings.substr(data, 0, 12)
    first = lambda n: tf.strings.substr(head, 0, n)  # noqa: E731
    tests = [
        first(3) == b"\xff\xd8\xff",
        first(8) == b"\x89PNG\r\n\x1a\n",
        tf.logical_or(first(6) == b"GIF87a", first(6) == b"GIF89a"),
        first(2) == b"BM",
        tf.logical_and(first(4) == b"RIFF", tf.strings.substr(tf.strings.join([head, "    " * 3]), 8, 4) == b"WEBP"),
    ]
    return tf.argmax(tf.stack([*tests, True]), output_type=tf.int32)


def _refuse(reason: str) -> tf.Tensor:
    with tf.control_dependencies([tf.debugging.Assert(False, [reason])]):
        return tf.zeros((1, 1, 3), tf.uint8)


def _check_size(width: tf.Tensor, height: tf.Tensor, limit: int = MAX_PIXELS) -> tf.Operation:
    pixels = tf.cast(width, tf.int64) * tf.cast(height, tf.int64)
    message = f"more than {limit // 1_000_000} megapixels, or none"
    return tf.debugging.Assert(tf.logical_and(pixels > 0, pixels <= limit), [message, width, height])


def _number(data: tf.Tensor, at: int, length: int, *, big: bool = False) -> tf.Tensor:
    """An unsigned number in a header, as int64; bytes past the end of the file read as zero."""
    padded = tf.strings.join([tf.strings.substr(data, 0, at + length), b"\x00" * (at + length)])
    digits = tf.cast(tf.io.decode_raw(tf.strings.substr(padded, at, length), tf.uint8), tf.int64)
    powers = [256**i for i in range(length)]
    return tf.reduce_sum(digits * tf.constant(powers[::-1] if big else powers, tf.int64))


def _decode_jpeg(data: tf.Tensor, size: int) -> tf.Tensor:
    shape = tf.image.extract_jpeg_shape(data)
    with tf.control_dependencies([_check_size(shape[1], shape[0], MAX_JPEG_PIXELS)]):
        shorter = tf.minimum(shape[0], shape[1])
    which = tf.constant(0)
    if size:
        for place, ratio in enumerate(_RATIOS):
            which = tf.where(shorter // ratio >= 2 * size, place, which)

    def at(ratio: int) -> tf.Tensor:
        return tf.io.decode_jpeg(data, channels=3, ratio=ratio, dct_method="INTEGER_ACCURATE")

    image = tf.switch_case(which, [lambda r=r: at(r) for r in _RATIOS])
    return _turn_upright(image, _exif_orientation(data))


def _decode_png(data: tf.Tensor) -> tf.Tensor:
    """Where a file of 1, 2 or 4 bits has no alpha, TensorFlow fills in 1, 3 or 15 instead of 255: taken as opaque."""
    with tf.control_dependencies([_check_size(_number(data, 16, 4, big=True), _number(data, 20, 4, big=True))]):
        image = tf.io.decode_png(data, channels=4)
    bits = tf.cast(tf.minimum(_number(data, 24, 1), 8), tf.int32)
    filler = tf.cast(tf.bitwise.left_shift(1, bits) - 1, tf.uint8)
    opaque = tf.reduce_all(image[..., 3] == filler)
    return tf.cond(opaque, lambda: image[..., :3], lambda: _over_white(image))


def _decode_gif(data: tf.Tensor) -> tf.Tensor:
    with tf.control_dependencies([_check_size(_number(data, 6, 2), _number(data, 8, 2))]):
        return tf.io.decode_image(data, channels=3, expand_animations=False)


def _decode_bmp(data: tf.Tensor) -> tf.Tensor:
    """24 and 32 bits a pixel as they are (the fourth byte is padding), 8 bits through the palette."""
    header, width, bits = _number(data, 14, 4), _number(data, 18, 4), _number(data, 28, 2)
    height, compression, start = _number(data, 22, 4), _number(data, 30, 4), _number(data, 10, 4)
    height = tf.where(height >= 2**31, 2**32 - height, height)  # negative: stored from the top
    plain = tf.reduce_all(tf.stack([tf.reduce_any(bits == [8, 24, 32]), compression == 0, header >= 40]))
    checks = [
        _check_size(width, height),
        tf.debugging.Assert(plain, ["BMP of a kind that is not read: bits, compression", bits, compression]),
    ]
    with tf.control_dependencies(checks):
        image = tf.io.decode_bmp(data)

    def through_palette() -> tf.Tensor:
        at = tf.cast(14 + header, tf.int32)
        entries = tf.io.decode_raw(tf.strings.substr(data, at, tf.cast(start, tf.int32) - at), tf.uint8)
        colours = tf.reshape(entries[: tf.size(entries) // 4 * 4], (-1, 4))[:, 2::-1]
        colours = tf.concat([colours, tf.zeros((256, 3), tf.uint8)], 0)
        return tf.gather(colours, tf.cast(image[..., 0], tf.int32))

    return tf.cond(bits == 8, through_palette, lambda: image[..., :3])


def _decode_webp(data: tf.Tensor) -> tf.Tensor:
    kind = tf.strings.substr(tf.strings.join([data, b"\x00" * 16]), 12, 4)
    lossy, lossless = _number(data, 26, 4), _number(data, 21, 4)
    low14 = lambda value, shift: tf.bitwise.bitwise_and(tf.bitwise.right_shift(value, shift), 0x3FFF)  # noqa: E731
    zero, fourteen, sixteen = (tf.constant(n, tf.int64) for n in (0, 14, 16))
    width = tf.where(kind == b"VP8 ", low14(lossy, zero), low14(lossless, zero) + 1)
    height = tf.where(kind == b"VP8 ", low14(lossy, sixteen), low14(lossless, fourteen) + 1)
    width = tf.where(kind == b"VP8X", _number(data, 24, 3) + 1, width)
    height = tf.where(kind == b"VP8X", _number(data, 27, 3) + 1, height)
    with tf.control_dependencies([_check_size(width, height)]):
        image = tf.io.decode_webp(data)  # the first frame's channels, three or four
    image = image[0] if image.shape.rank == 4 else image
    return tf.cond(tf.shape(image)[-1] == 4, lambda: _over_white(image), lambda: image[..., :3])


def _over_white(image: tf.Tensor) -> tf.Tensor:
    """RGBA laid over white, rounded; an opaque image keeps its values exactly."""
    values = tf.cast(image, tf.int32)
    colour, alpha = values[..., :3], values[..., 3:]
    return tf.cast((colour * alpha + 255 * (255 - alpha) + 127) // 255, tf.uint8)


# -- EXIF -------------------------------------------------------------------------------------------------


def _exif_orientation(data: tf.Tensor) -> tf.Tensor:
    """The orientation tag (1 to 8) of a JPEG's Exif segment; 1 when there is none or it makes no sense.

    Walks the JPEG's segments to the first APP1 that begins "Exif", then the TIFF directory in it (Exif 2.32, CIPA
    DC-008). EXIF comes within the first 64 KiB segments; the walk ends at the image data or after 64 segments.
    """
    raw = tf.io.decode_raw(tf.strings.substr(data, 0, 1 << 18), tf.uint8)
    raw = tf.cast(tf.concat([raw, tf.zeros((64,), tf.uint8)], 0), tf.int32)
    length = tf.size(raw) - 64

    def big(at: tf.Tensor) -> tf.Tensor:
        return raw[at] * 256 + raw[at + 1]

    def is_exif(at: tf.Tensor) -> tf.Tensor:
        mark = tf.reduce_all(raw[at + 4 : at + 10] == [0x45, 0x78, 0x69, 0x66, 0, 0])
        return tf.logical_and(raw[at + 1] == 0xE1, mark)

    def is_segment(at: tf.Tensor) -> tf.Tensor:
        inside = tf.logical_and(at >= 0, at + 10 < length)
        at = tf.where(inside, at, 0)
        return tf.logical_and(inside, tf.logical_and(raw[at] == 0xFF, raw[at + 1] != 0xDA))

    def keep_walking(at: tf.Tensor, turn: tf.Tensor) -> tf.Tensor:
        safe = tf.where(is_segment(at), at, 0)
        return tf.reduce_all(tf.stack([is_segment(at), tf.logical_not(is_exif(safe)), turn < 64]))

    def step(at: tf.Tensor, turn: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        return at + 2 + big(at + 2), turn + 1

    at, _ = tf.while_loop(keep_walking, step, (tf.constant(2), tf.constant(0)))
    found = tf.logical_and(is_segment(at), is_exif(tf.where(is_segment(at), at, 0)))
    return tf.cond(found, lambda: _tiff_orientation(raw, at + 10, length), lambda: tf.constant(1))


def _tiff_orientation(raw: tf.Tensor, start: tf.Tensor, length: tf.Tensor) -> tf.Tensor:
    little = raw[start] == 0x49

    def two(at: tf.Tensor) -> tf.Tensor:
        at = tf.clip_by_value(at, 0, length)
        return tf.where(little, raw[at] + 256 * raw[at + 1], 256 * raw[at] + raw[at + 1])

    def four(at: tf.Tensor) -> tf.Tensor:
        low, high = tf.where(little, two(at), two(at + 2)), tf.where(little, two(at + 2), two(at))
        return tf.where(high > 0, length, low)  # a directory past 64 KiB cannot be in this segment

    directory = start + four(start + 4)
    count = tf.minimum(two(directory), 256)
    entries = directory + 2 + 12 * tf.range(count)
    tags = tf.map_fn(two, entries)
    which = tf.where(tags == 0x0112)
    value = tf.cond(
        tf.size(which) > 0, lambda: two(entries[tf.cast(which[0, 0], tf.int32)] + 8), lambda: tf.constant(1)
    )
    return tf.where(tf.logical_and(value >= 1, value <= 8), value, 1)


def _turn_upright(image: tf.Tensor, orientation: tf.Tensor) -> tf.Tensor:
    flip_x, flip_y = (lambda x: x[:, ::-1]), (lambda x: x[::-1])
    transpose = lambda x: tf.transpose(x, (1, 0, 2))  # noqa: E731
    turns = [
        lambda: image,
        lambda: flip_x(image),
        lambda: flip_x(flip_y(image)),
        lambda: flip_y(image),
        lambda: transpose(image),
        lambda: flip_x(transpose(image)),
        lambda: transpose(flip_x(flip_y(image))),
        lambda: flip_y(transpose(image)),
    ]
    return tf.switch_case(orientation - 1, turns)
