"""Bytes to pixels: the one decoder that training, evaluation, prediction and the exported model share.

Everything here is TensorFlow graph operations on one encoded image, so the SavedModel holds the very function
that training used. Pixels are uint8 RGB in sRGB. The orientation in Exif or XMP is applied. Transparent images are
composited over white.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import tensorflow as tf

from tlkit.data.graph import bmp, gif, icc, jpeg, other, png
from tlkit.data.graph import webp as webp_format
from tlkit.data.graph.common import TEXT, checked, shared
from tlkit.data.graph.gif import first_frame as first_frame
from tlkit.data.limits import FULL_DEPTH
from tlkit.errors import unknown
from tlkit.plan.job import FITS


def decode_and_resize(
    data: tf.Tensor, size: int, fit: str = "squash", depth: int = FULL_DEPTH, *, webp: bool = True
) -> tf.Tensor:
    """Decode one image file to a square.

    The result is bit-identical when called eagerly, in a tf.function and in a SavedModel.

    Args:
        data: the file's bytes, a scalar string tensor: JPEG, PNG, GIF (first frame), BMP or WebP.
        size: pixels per side of the result.
        fit: "squash" stretches the image to the square; "crop" takes the central square; "pad" keeps the whole image
            and fills with black.
        depth: the bits that the data set's images of 16 bits use, 8 to 16; the upper eight of them remain.
        webp: whether WebP is decoded, for which TensorFlow has an operation from 2.20 on.

    Returns: uint8, shape (size, size, 3), RGB.

    Raises:
        tf.errors.InvalidArgumentError: if the data are not a whole image in one of the formats, or the header gives
            more than 50 megapixels (200 for a JPEG that is not progressive).
    """
    return fit_to_square(decode(data, depth, webp), size, fit)


@functools.cache
def square_decoder(size: int, fit: str, depth: int = FULL_DEPTH) -> Callable[[tf.Tensor], tf.Tensor]:
    """`decode_and_resize` as one function of the bytes. It is traced once, and may be called by several threads."""
    with tf.device("cpu"):
        return tf.function(
            lambda data: decode_and_resize(data, size, fit, depth),
            input_signature=[tf.TensorSpec((), tf.string)],
            autograph=False,
        ).get_concrete_function()


def decode_png_and_resize(data: tf.Tensor, size: int, fit: str, depth: int) -> tf.Tensor:
    """`decode_and_resize` for data that are known to be a PNG: a smaller graph, which starts sooner."""
    return fit_to_square(png.decoder(depth)(data), size, fit)


def decode(data: tf.Tensor, depth: int = FULL_DEPTH, webp: bool = True) -> tf.Tensor:
    """Decode one image file, upright, at its own size.

    A JPEG of more than 50 megapixels is decoded at half of its size, by libjpeg's inverse DCT. All others are decoded
    in full, because few other decoders can reproduce anything else (see docs/preprocessing.md).

    Returns: uint8, shape (height, width, 3), RGB.
    """
    return _traced(_decode, depth, webp)(data)


@functools.cache
def _traced(work: Callable[..., Any], *settings: Any) -> Callable[[tf.Tensor], Any]:
    """A function of the bytes with these settings, which is traced once in a process."""
    return shared(TEXT, inline=True)(lambda data: work(data, *settings))


def _decode(data: tf.Tensor, depth: int, webp: bool) -> tf.Tensor:
    branches = [
        lambda: jpeg.decode(data),
        lambda: png.decoder(depth)(data),
        lambda: gif.decode(data),
        lambda: bmp.decode(data),
        lambda: webp_format.decode(data) if webp else _refused(data, NO_WEBP),
        lambda: _refused(data, other.NO_FORMAT),
    ]
    image = tf.switch_case(_format(data), branches)
    image.set_shape((None, None, 3))
    return image


NO_WEBP = "WebP, which this model for earlier versions of TensorFlow does not decode: convert it to PNG"


def _refused(data: tf.Tensor, fault: str) -> tf.Tensor:
    """Pixels that fail with the fault when they are computed."""
    return tf.zeros((1, 1, 3), tf.uint8) * tf.cast(tf.strings.length(checked(data, fault)), tf.uint8)


def header_fault(data: tf.Tensor) -> tf.Tensor:
    """Why a file must not be decoded, by its header: a scalar string, empty if it may be.

    Never fails and decodes nothing.
    """
    return read_header(data)[0]


def read_header(data: tf.Tensor, webp: bool = True) -> tuple[tf.Tensor, tf.Tensor]:
    """The `header_fault`, and the number of pixels that a decoder would hold in memory, int64.

    Never fails and decodes nothing.
    """
    return _traced(_read_header, webp)(data)


def _read_header(data: tf.Tensor, webp: bool) -> tuple[tf.Tensor, tf.Tensor]:
    branches = [
        *(lambda module=module: module.header(data) for module in (jpeg, png, gif, bmp)),
        lambda: webp_format.header(data) if webp else (tf.constant(NO_WEBP), tf.constant(0, tf.int64)),
        lambda: other.header(data),
    ]
    return tf.switch_case(_format(data), branches)


def attempt(data: tf.Tensor, webp: bool = True) -> tf.Tensor:
    """Test cheaply whether `decode` will succeed once `header_fault` found no fault; fail if it will not.

    data: the file's bytes, of a GIF as `first_frame` returns them.

    Returns: a scalar string: a fault that is found only now, or nothing.
    """
    fault, image, packed = to_attempt(data)
    return tf.where(fault == b"", profile_fault(attempt_parts(image, packed, webp)), fault)


def to_attempt(data: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
    """(fault, image, packed): what of a file may fail to decode, for `attempt_parts`, and a fault if there is one.

    Never fails and decodes nothing. A BMP without fault decodes, so a file that does stands for it.
    """
    return _traced(_to_attempt)(data)


def _to_attempt(data: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
    nothing = tf.constant("")
    branches = [
        lambda: (nothing, data, nothing),
        lambda: (lambda fault, packed: (fault, data, packed))(*png.packed_profile(data)),
        lambda: (nothing, gif.placed(data), nothing),
        lambda: (nothing, tf.constant(_PIXEL), nothing),
        lambda: (nothing, data, nothing),
        lambda: (nothing, data, nothing),
    ]
    return tf.switch_case(_format(data), branches)


# a GIF of one pixel
_PIXEL = b"GIF89a\1\0\1\0\x80\0\0\0\0\0\xff\xff\xff,\0\0\0\0\1\0\1\0\0\2\2D\1\0;"


def attempt_parts(image: tf.Tensor, packed: tf.Tensor, webp: bool = True) -> tf.Tensor:
    """Decode an image, and unpack and return its colour profile; fail if either fails. Both are of `to_attempt`.

    It has only a few operations: a tf.data pipeline starts for each request that is served, and with the whole decoder
    that takes a second. By its documentation, TensorFlow's operation for JPEG decodes PNG, and GIF of one frame, too.
    """

    def pixels() -> tf.Tensor:
        return tf.size(tf.io.decode_jpeg(image, ratio=8))

    is_webp = tf.strings.substr(image, 0, 4) == b"RIFF"
    count = tf.cond(is_webp, lambda: tf.size(tf.io.decode_webp(image)), pixels) if webp else pixels()
    # by way of the pixels: a control dependency alone would be optimised away
    return tf.where(count > 0, tf.io.decode_compressed(packed, "ZLIB"), b"")


def profile_fault(profile: tf.Tensor) -> tf.Tensor:
    """Why a colour profile that `attempt_parts` returned cannot be used; nothing if it can. Never fails."""
    return icc.fault(profile)


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
