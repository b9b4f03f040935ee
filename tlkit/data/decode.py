"""Bytes to pixels: the one decoder that training, evaluation, prediction and the exported model share.

Everything here is TensorFlow graph operations on one encoded image, so the SavedModel holds the very function
that training used. Pixels are uint8 RGB. The EXIF orientation of JPEG files is applied. Transparent images are
composited over white.
"""

from __future__ import annotations

import tensorflow as tf

from tlkit.data.limits import MAX_JPEG_PIXELS, MAX_PIXELS
from tlkit.errors import unknown
from tlkit.plan.job import FITS

_FORMATS = ("jpeg", "png", "gif", "bmp", "webp")
_RATIOS = (1, 2, 4, 8)
_AT_ONCE = 4_000_000  # pixels
_TOO_LARGE, _NOT_READ = " megapixels are decoded", "is not read"  # endings of the faults that have their own kind
_NO_FORMAT = "not a JPEG, PNG, GIF, BMP or WebP file"


def decode_and_resize(data: tf.Tensor, size: int, fit: str = "squash") -> tf.Tensor:
    """Decode one image file to a square.

    The result is bit-identical when called eagerly, in a tf.function and in a SavedModel.

    Args:
        data: the file's bytes, a scalar string tensor: JPEG, PNG, GIF (first frame), BMP or WebP.
        size: pixels per side of the result.
        fit: "squash" stretches the image to the square; "crop" takes the central square; "pad" keeps the whole image
            and fills with black.

    Returns: uint8, shape (size, size, 3), RGB.

    Raises:
        tf.errors.InvalidArgumentError: if the data are not a whole image in one of the formats, or the header gives
            more than 50 megapixels (200 for a JPEG that is not progressive).
    """
    return fit_to_square(decode(data, size), size, fit)


def decode(data: tf.Tensor, size: int = 0) -> tf.Tensor:
    """Decode one image file, upright, at its own size.

    A JPEG is decoded at a half, a quarter or an eighth of its size where both sides are then still at least twice
    `size`. The inverse DCT does this, as in libjpeg, and it is several times faster. `size` 0 decodes in full.

    Returns: uint8, shape (height, width, 3), RGB.
    """
    branches = [
        lambda: _decode_jpeg(data, size),
        lambda: _decode_png(_checked(data, _png_header(data)[0])),
        lambda: _decode_gif(data),
        lambda: _decode_bmp(_checked(data, _bmp_header(data)[0])),
        lambda: _decode_webp(_checked(data, _webp_header(data)[0])),
        lambda: tf.zeros((1, 1, 3), tf.uint8) * tf.cast(tf.strings.length(_checked(data, _NO_FORMAT)), tf.uint8),
    ]
    image = tf.switch_case(_format(data), branches)
    image.set_shape((None, None, 3))
    return image


def header_fault(data: tf.Tensor) -> tf.Tensor:
    """Why a file must not be decoded, by its header: a scalar string, empty if it may be.

    Never fails and decodes nothing.
    """
    return read_header(data)[0]


def kind_of_fault(fault: str) -> str:
    """The kind of problem of a `header_fault`: "too-large", "unsupported-format" or "corrupt"."""
    kinds = {_TOO_LARGE: "too-large", _NOT_READ: "unsupported-format"}
    return next((kind for words, kind in kinds.items() if fault.endswith(words)), "corrupt")


def read_header(data: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
    """The `header_fault`, and the number of pixels that a decoder would hold in memory, int64.

    Never fails and decodes nothing. A JPEG counts as decoded at an eighth of its size, except for a progressive one,
    which is held in full at any scale.
    """
    branches = [
        lambda: _jpeg_header(*_walk_jpeg(data)[::2]),
        lambda: _png_header(data),
        lambda: _gif_header(data),
        lambda: _bmp_header(data),
        lambda: _webp_header(data),
        lambda: (tf.constant(_NO_FORMAT), tf.constant(0, tf.int64)),
    ]
    return tf.switch_case(_format(data), branches)


def _checked(data: tf.Tensor, fault: tf.Tensor | str) -> tf.Tensor:
    """Return the same bytes; fail with the fault if there is one."""
    with tf.control_dependencies([tf.debugging.Assert(fault == b"", [fault])]):
        return tf.identity(data)


def attempt(data: tf.Tensor) -> tf.Tensor:
    """Test cheaply whether `decode` will succeed once `header_fault` found no fault; fail if it will not.

    It has only a few operations: a tf.data pipeline with the whole decoder takes a second to start, for each request
    that is served.
    """
    is_jpeg = tf.strings.substr(data, 0, 3) == b"\xff\xd8\xff"
    return tf.cond(
        is_jpeg,
        lambda: tf.size(tf.io.decode_jpeg(data, ratio=8)),
        lambda: tf.size(tf.io.decode_image(data, expand_animations=False)),
    )


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
    """The index in `_FORMATS` by the first bytes; one past the end if none fits."""
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


def _check_size(
    width: tf.Tensor, height: tf.Tensor, limit: tf.Tensor | int = MAX_PIXELS
) -> tuple[tf.Tensor, tf.Tensor]:
    """(fault, number of pixels) for an image's size."""
    pixels, limit = tf.cast(width, tf.int64) * tf.cast(height, tf.int64), tf.cast(limit, tf.int64)
    shown = [tf.as_string(width), " x ", tf.as_string(height), " pixels; at most "]
    too_many = tf.strings.join([*shown, tf.as_string(limit // 1_000_000), _TOO_LARGE])
    return tf.where(pixels <= 0, "no image size in the header", tf.where(pixels > limit, too_many, "")), pixels


def _number(data: tf.Tensor, at: int, length: int, *, big: bool = False) -> tf.Tensor:
    """An unsigned number in a header, as int64; bytes past the end of the file read as zero."""
    padded = tf.strings.join([tf.strings.substr(data, 0, at + length), b"\x00" * (at + length)])
    digits = tf.cast(tf.io.decode_raw(tf.strings.substr(padded, at, length), tf.uint8), tf.int64)
    powers = [256**i for i in range(length)]
    return tf.reduce_sum(digits * tf.constant(powers[::-1] if big else powers, tf.int64))


def _png_header(data: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
    return _check_size(_number(data, 16, 4, big=True), _number(data, 20, 4, big=True))


def _gif_header(data: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
    """Check the size of the logical screen and of the first frame, and count the larger one's pixels."""
    at, _ = _walk_gif(data)
    frame = tf.strings.substr(tf.strings.join([data, b"\x00" * 16]), at, 10)
    fault, pixels = _check_size(_number(data, 6, 2), _number(data, 8, 2))
    frame_fault, frame_pixels = _check_size(_number(frame, 5, 2), _number(frame, 7, 2))
    frame_fault = tf.where(at > 0, frame_fault, "no image in it")
    return tf.where(fault == b"", frame_fault, fault), tf.maximum(pixels, frame_pixels)


def _decode_gif(data: tf.Tensor) -> tf.Tensor:
    data = first_frame(_checked(data, _gif_header(data)[0]))
    return tf.io.decode_image(data, channels=3, expand_animations=False)


def _decode_jpeg(data: tf.Tensor, size: int) -> tf.Tensor:
    """Walk the segments once for fault, size and orientation, because a walk takes as long as decoding."""
    raw, exif, frame = _walk_jpeg(data)
    data = _checked(data, _jpeg_header(raw, frame)[0])
    width, height = _jpeg_size(raw, frame)
    shorter = tf.minimum(width, height)
    which = tf.constant(0)
    if size:
        for index, ratio in enumerate(_RATIOS):
            which = tf.where(shorter // ratio >= 2 * size, index, which)

    def at(ratio: int) -> tf.Tensor:
        return tf.io.decode_jpeg(data, channels=3, ratio=ratio, dct_method="INTEGER_ACCURATE")

    image = tf.switch_case(which, [lambda r=r: at(r) for r in _RATIOS])
    return _turn_upright(image, _exif_orientation(raw, exif))


def _decode_png(data: tf.Tensor) -> tf.Tensor:
    """Decode a PNG.

    Where a file of 1, 2 or 4 bits has no alpha, TensorFlow fills in 1, 3 or 15 instead of 255. That counts as opaque.
    """
    image = tf.io.decode_png(data, channels=4)
    bits = tf.cast(tf.minimum(_number(data, 24, 1), 8), tf.int32)
    filler = tf.cast(tf.bitwise.left_shift(1, bits) - 1, tf.uint8)
    opaque = tf.reduce_all(image[..., 3] == filler)
    return tf.cond(opaque, lambda: image[..., :3], lambda: _over_white(image))


def _bmp_header(data: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
    width, height = _number(data, 18, 4), _number(data, 22, 4)
    height = tf.where(height >= 2**31, 2**32 - height, height)  # negative: rows are stored from the top
    bits, compression = _number(data, 28, 2), _number(data, 30, 4)
    plain = tf.reduce_all(tf.stack([tf.reduce_any(bits == [8, 24, 32]), compression == 0, _number(data, 14, 4) >= 40]))
    kind = tf.strings.join(
        ["BMP of ", tf.as_string(bits), " bits, compression ", tf.as_string(compression), f", {_NOT_READ}"]
    )
    fault, pixels = _check_size(width, height)
    damaged = 14 + _number(data, 14, 4) > tf.cast(tf.strings.length(data), tf.int64)
    fault = tf.where(damaged, "the BMP header is longer than the file", fault)
    return tf.where(plain, fault, kind), pixels


def _decode_bmp(data: tf.Tensor) -> tf.Tensor:
    """Decode 24 and 32 bits per pixel directly (the fourth byte is padding) and 8 bits through the palette."""
    image = tf.io.decode_bmp(data)

    def through_palette() -> tf.Tensor:
        length = tf.cast(tf.strings.length(data), tf.int64)
        begin, end = (
            tf.cast(tf.minimum(at, length), tf.int32) for at in (14 + _number(data, 14, 4), _number(data, 10, 4))
        )
        entries = tf.io.decode_raw(tf.strings.substr(data, begin, tf.maximum(end - begin, 0)), tf.uint8)
        colours = tf.reshape(entries[: tf.size(entries) // 4 * 4], (-1, 4))[:, 2::-1]
        colours = tf.concat([colours, tf.zeros((256, 3), tf.uint8)], 0)
        return tf.gather(colours, tf.cast(image[..., 0], tf.int32))

    return tf.cond(_number(data, 28, 2) == 8, through_palette, lambda: image[..., :3])


def _webp_header(data: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
    """Refuse animated files: TensorFlow 2.21 writes past the end of its buffer when it decodes one."""
    extended = tf.strings.substr(tf.strings.join([data, b"\x00" * 16]), 12, 4) == b"VP8X"
    animated = tf.logical_and(extended, tf.bitwise.bitwise_and(_number(data, 20, 1), 2) > 0)
    fault, pixels = _check_size(*_webp_size(data))
    return tf.where(animated, f"animated WebP {_NOT_READ}", fault), pixels


def _webp_size(data: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
    """Width and height from a lossy, lossless or extended WebP header (RFC 9649)."""
    kind = tf.strings.substr(tf.strings.join([data, b"\x00" * 16]), 12, 4)
    lossy, lossless = _number(data, 26, 4), _number(data, 21, 4)
    low14 = lambda value, shift: tf.bitwise.bitwise_and(tf.bitwise.right_shift(value, shift), 0x3FFF)  # noqa: E731
    zero, fourteen, sixteen = (tf.constant(n, tf.int64) for n in (0, 14, 16))
    width = tf.where(kind == b"VP8 ", low14(lossy, zero), low14(lossless, zero) + 1)
    height = tf.where(kind == b"VP8 ", low14(lossy, sixteen), low14(lossless, fourteen) + 1)
    width = tf.where(kind == b"VP8X", _number(data, 24, 3) + 1, width)
    height = tf.where(kind == b"VP8X", _number(data, 27, 3) + 1, height)
    return width, height


def _decode_webp(data: tf.Tensor) -> tf.Tensor:
    image = tf.io.decode_webp(data)  # one frame, three or four channels as in the file
    image = tf.reshape(image, tf.shape(image)[-3:])
    return tf.cond(tf.shape(image)[-1] == 4, lambda: _over_white(image), lambda: image[..., :3])


def _over_white(image: tf.Tensor) -> tf.Tensor:
    """Composite RGBA over white, rounded; an opaque image keeps its values exactly.

    Large images are processed row by row, because the whole image at once would take 36 bytes per pixel.
    """

    def lay(rows: tf.Tensor) -> tf.Tensor:
        values = tf.cast(rows, tf.int32)
        colour, alpha = values[..., :3], values[..., 3:]
        return tf.cast((colour * alpha + 255 * (255 - alpha) + 127) // 255, tf.uint8)

    spec = tf.TensorSpec((None, 3), tf.uint8)
    return tf.cond(
        tf.size(image) > 4 * _AT_ONCE,
        lambda: tf.map_fn(lay, image, fn_output_signature=spec, parallel_iterations=2),
        lambda: lay(image),
    )


_CHUNKS = (4096, 65_536)  # bytes of sub-blocks read in one step: at the beginning of a chain, and in a long one
_MARGIN = _CHUNKS[-1] + 256
_MOST_EXTENSIONS = 256  # before the first frame


# -- GIF blocks -------------------------------------------------------------------------------------------


def first_frame(data: tf.Tensor) -> tf.Tensor:
    """Cut a GIF after its first frame; leave the bytes of any other file unchanged.

    TensorFlow decodes every frame before it takes the first, and a frame may be far larger than the logical screen: a
    file of 0.4 MB took 2.3 GB of memory.
    """

    def cut() -> tf.Tensor:
        _, end = _walk_gif(data)
        return tf.where(end > 0, tf.strings.join([tf.strings.substr(data, 0, end), b"\x3b"]), data)

    return tf.cond(tf.strings.substr(data, 0, 4) == b"GIF8", cut, lambda: data)


@tf.function(
    input_signature=[tf.TensorSpec((), tf.string)], autograph=False
)  # kept once in a graph, however often called
def _walk_gif(data: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
    """Walk a GIF's blocks (GIF89a specification, sections 17 to 26) up to the end of its first frame.

    Returns: the offsets of the first frame's descriptor and of the first byte after its data, int32; 0 where there is
        none.
    """
    raw = tf.concat([tf.io.decode_raw(data, tf.uint8), tf.zeros((_MARGIN,), tf.uint8)], 0)
    length = tf.size(raw) - _MARGIN

    def after_colours(at: tf.Tensor, flags: tf.Tensor) -> tf.Tensor:
        flags = tf.cast(flags, tf.int32)
        return at + tf.where(flags >= 128, 3 * 2 ** (flags % 8 + 1), 0)

    def is_extension(at: tf.Tensor) -> tf.Tensor:
        return (at < length) & (raw[tf.minimum(at, length)] == 0x21)

    start = after_colours(tf.constant(13), raw[10])
    (at,) = tf.while_loop(
        is_extension, lambda at: (_after_sub_blocks(raw, at + 2),), (start,), maximum_iterations=_MOST_EXTENSIONS
    )
    at = tf.minimum(at, length)
    found = (at + 10 < length) & (raw[at] == 0x2C)
    begin = after_colours(at + 10, raw[tf.minimum(at + 9, length)]) + 1  # after the code size
    end = tf.cond(found, lambda: _after_sub_blocks(raw, begin), lambda: tf.constant(0))
    return tf.where(found, at, 0), tf.where(found, tf.minimum(end, length), 0)


def _after_sub_blocks(raw: tf.Tensor, at: tf.Tensor) -> tf.Tensor:
    """The offset after a chain of sub-blocks.

    Each sub-block is a length byte and that many bytes; a length of 0 ends the chain. A chain may have as many links as
    a third of the file's bytes, so it is followed in chunks. First, for each byte of a chunk: where would it lead if it
    were a length? Then, by doubling: where do 2, 4, 8, ... links lead?
    """
    last = tf.size(raw) - _MARGIN
    begin = at

    def ends(at: tf.Tensor, ended: tf.Tensor) -> tf.Tensor:
        return ~ended & (at < last)

    def step(at: tf.Tensor, ended: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        chunk = tf.where(at - begin < _CHUNKS[-1], *_CHUNKS)
        window = tf.cast(raw[at : at + chunk + 256], tf.int32)
        offsets = tf.range(chunk + 256)
        inside = (offsets < chunk) & (window > 0)
        leads_to = tf.where(inside, offsets + 1 + window, offsets)
        for _ in range(_CHUNKS[-1].bit_length()):
            leads_to = tf.gather(leads_to, leads_to)
        reached = leads_to[0]
        ended = (reached < chunk) & (window[reached] == 0)
        return at + reached + tf.cast(ended, tf.int32), ended

    at, _ = tf.while_loop(ends, step, (at, tf.constant(False)))
    return at


# -- JPEG segments ----------------------------------------------------------------------------------------


def _walk_jpeg(data: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
    """Walk a JPEG's segments (ITU-T T.81) up to its frame header.

    Returns: the file as uint8 followed by 64 zeros, and the offsets of the first Exif segment and of the frame header;
        0 where there is none.
    """
    raw = tf.concat([tf.io.decode_raw(data, tf.uint8), tf.zeros((64,), tf.uint8)], 0)
    length = tf.size(raw) - 64
    frames = tf.constant([0xC0 <= code <= 0xCF and code not in (0xC4, 0xC8, 0xCC) for code in range(256)])
    exif_mark = tf.constant([0x45, 0x78, 0x69, 0x66, 0, 0], tf.uint8)

    def keep_walking(at: tf.Tensor, exif: tf.Tensor, frame: tf.Tensor) -> tf.Tensor:
        inside = (at >= 2) & (at + 9 < length)
        marker = raw[tf.where(inside, at, 0) : tf.where(inside, at, 0) + 2]
        return inside & (marker[0] == 0xFF) & (marker[1] != 0xDA) & (frame == 0)

    def step(at: tf.Tensor, exif: tf.Tensor, frame: tf.Tensor) -> tuple[tf.Tensor, ...]:
        window = raw[at : at + 10]
        code, high, low = tf.unstack(tf.cast(window[1:4], tf.int32), 3)
        is_exif = (code == 0xE1) & (exif == 0) & tf.reduce_all(window[4:] == exif_mark)
        after = tf.where(code == 0xFF, at + 1, at + 2 + high * 256 + low)  # FF is padding
        return after, tf.where(is_exif, at, exif), tf.where(tf.gather(frames, code), at, frame)

    start = (tf.constant(2), tf.constant(0), tf.constant(0))
    _, exif, frame = tf.while_loop(keep_walking, step, start, maximum_iterations=1024)
    return raw, exif, frame


def _byte(raw: tf.Tensor, at: tf.Tensor) -> tf.Tensor:
    return tf.cast(raw[at], tf.int32)


def _jpeg_size(raw: tf.Tensor, frame: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
    upper, lower, left, right = tf.unstack(tf.cast(raw[frame + 5 : frame + 9], tf.int32), 4)
    return tf.where(frame > 0, left * 256 + right, 0), tf.where(frame > 0, upper * 256 + lower, 0)


def _jpeg_header(raw: tf.Tensor, frame: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
    """Check a JPEG's size.

    A progressive file (SOF2, 6, 10, 14) needs all its coefficients in memory, 6 bytes per pixel, so it has the limit of
    the other formats.
    """
    progressive = (frame > 0) & (tf.bitwise.bitwise_and(_byte(raw, frame + 1), 3) == 2)
    fault, pixels = _check_size(*_jpeg_size(raw, frame), tf.where(progressive, MAX_PIXELS, MAX_JPEG_PIXELS))
    return fault, tf.where(progressive, pixels, pixels // _RATIOS[-1] ** 2)


def _exif_orientation(raw: tf.Tensor, exif: tf.Tensor) -> tf.Tensor:
    """The orientation tag (1 to 8) of a JPEG's Exif segment; 1 if there is none or it is invalid (CIPA DC-008)."""
    return tf.cond(exif > 0, lambda: _tiff_orientation(raw, exif + 10), lambda: tf.constant(1))


def _tiff_orientation(raw: tf.Tensor, start: tf.Tensor) -> tf.Tensor:
    last = tf.size(raw) - 2
    little = raw[start] == 0x49

    def two(at: tf.Tensor) -> tf.Tensor:
        at = tf.clip_by_value(at, 0, last)
        first, second = _byte(raw, at), _byte(raw, at + 1)
        return tf.where(little, first + 256 * second, 256 * first + second)

    low, high = tf.where(little, two(start + 4), two(start + 6)), tf.where(little, two(start + 6), two(start + 4))
    directory = tf.where(high > 0, last, start + low)  # a directory past 64 KiB cannot be in this segment
    entries = directory + 2 + 12 * tf.range(tf.minimum(two(directory), 256))
    which = tf.where(tf.map_fn(two, entries) == 0x0112)
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
