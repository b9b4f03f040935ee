"""What the formats share: numbers in headers, limits, white behind transparency, orientation, rows of large images."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import tensorflow as tf

from tlkit.data.limits import MAX_PIXELS

AT_ONCE = 4_000_000  # pixels; a larger image is worked on row by row
NO_SIZE = "no image size in the header"
CUT = "the end of the file is missing"


def check_size(width: tf.Tensor, height: tf.Tensor, limit: tf.Tensor | int = MAX_PIXELS) -> tuple[tf.Tensor, tf.Tensor]:
    """(fault, number of pixels) for an image's size."""
    pixels, limit = tf.cast(width, tf.int64) * tf.cast(height, tf.int64), tf.cast(limit, tf.int64)

    def fault() -> tf.Tensor:
        shown = [tf.as_string(width), " x ", tf.as_string(height), " pixels; at most "]
        too_many = tf.strings.join([*shown, tf.as_string(limit // 1_000_000), " megapixels are decoded"])
        return tf.where(pixels <= 0, NO_SIZE, too_many)

    return tf.cond((pixels > 0) & (pixels <= limit), lambda: tf.constant(""), fault), pixels


def apart(work: Callable[..., tf.Tensor], *arguments: tf.Tensor) -> tf.Tensor:
    """Call a function that stays one node of the graph.

    TensorFlow would otherwise put its operations into the caller's graph, where each costs time even in a branch that
    is not taken.
    """
    if tf.executing_eagerly():
        return work(*arguments)
    return tf.function(work, autograph=False, experimental_attributes={"_noinline": True})(*arguments)


def shared(*specs: tf.TensorSpec, inline: bool = False) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Make a function that is traced once in a process, and is in a graph once, however often it is called.

    Tracing all decoders takes seconds, and a `tf.function` is traced again by each `tf.saved_model.save`. It is one
    node where it is called, as `apart` explains, unless `inline`. It runs on the CPU.

    specs: of the tensors that the function takes.
    """

    def decorate(work: Callable[..., Any]) -> Callable[..., Any]:
        @functools.cache
        def traced() -> Any:
            with tf.init_scope(), tf.device("cpu"):
                return tf.function(
                    work,
                    input_signature=list(specs),
                    autograph=False,
                    experimental_attributes=None if inline else {"_noinline": True},
                ).get_concrete_function()

        @functools.wraps(work)
        def call(*arguments: Any) -> Any:
            pairs = zip(arguments, specs, strict=True)
            return traced()(*(tf.convert_to_tensor(one, spec.dtype) for one, spec in pairs))

        return call

    return decorate


TEXT, IMAGE = tf.TensorSpec((), tf.string), tf.TensorSpec((None, None, None), tf.uint8)
BYTES, PLACE = tf.TensorSpec((None,), tf.uint8), tf.TensorSpec((), tf.int32)


def head(data: tf.Tensor, length: int) -> tf.Tensor:
    """The first bytes of a file as int64, shape (length,); bytes past its end are zero."""
    padded = tf.strings.join([tf.strings.substr(data, 0, length), b"\x00" * length])
    values = tf.io.decode_raw(padded, tf.uint8)[:length]
    values.set_shape((length,))
    return tf.cast(values, tf.int64)


def number(values: tf.Tensor, *, big: bool = False) -> tf.Tensor:
    """An unsigned number from its bytes, int64 of known length."""
    powers = [256**i for i in range(values.shape[-1])]
    return tf.reduce_sum(values * tf.constant(powers[::-1] if big else powers, tf.int64), -1)


def checked(data: tf.Tensor, fault: tf.Tensor | str) -> tf.Tensor:
    """Return the same bytes; fail with the fault if there is one."""
    with tf.control_dependencies([tf.debugging.Assert(fault == b"", [fault])]):
        return tf.identity(data)


def piece(data: tf.Tensor, at: tf.Tensor, length: tf.Tensor) -> tf.Tensor:
    """Bytes of a file; shorter, or empty, where the file ends before them."""
    end = tf.cast(tf.strings.length(data), tf.int64)
    at = tf.clip_by_value(tf.cast(at, tf.int64), 0, end)
    return tf.strings.substr(data, at, tf.clip_by_value(tf.cast(length, tf.int64), 0, end - at))


def by_rows(work: Callable[[tf.Tensor], tf.Tensor], image: tf.Tensor) -> tf.Tensor:
    """Turn an image into RGB by a function of its pixels. A large image is processed row by row, to bound memory."""
    spec = tf.TensorSpec((None, 3), tf.uint8)
    return tf.cond(
        tf.reduce_prod(tf.shape(image)[:2]) > AT_ONCE,
        lambda: apart(lambda: tf.map_fn(work, image, fn_output_signature=spec, parallel_iterations=2)),
        lambda: work(image),
    )


def over_white(image: tf.Tensor) -> tf.Tensor:
    """Composite RGBA over white, rounded; an opaque image keeps its values exactly."""

    def lay(rows: tf.Tensor) -> tf.Tensor:
        values = tf.cast(rows, tf.int32)
        colour, alpha = values[..., :3], values[..., 3:]
        return tf.cast((colour * alpha + 255 * (255 - alpha) + 127) // 255, tf.uint8)

    return by_rows(lay, image)


# -- orientation ------------------------------------------------------------------------------------------

_XMP_ORIENTATION = r"\C*tiff:Orientation\s*(?:=\s*[\"']|>)\s*([1-8])\C*"


@shared(BYTES, PLACE)
def tiff_orientation(raw: tf.Tensor, start: tf.Tensor) -> tf.Tensor:
    """The orientation tag of Exif data (CIPA DC-008), which begin at `start`.

    Returns: 1 to 8; 1 if it is invalid; 0 if there is none.
    """
    last = tf.size(raw) - 2
    little = raw[tf.minimum(start, last)] == 0x49

    def two(at: tf.Tensor) -> tf.Tensor:
        at = tf.clip_by_value(at, 0, last)
        first, second = tf.cast(raw[at], tf.int32), tf.cast(raw[at + 1], tf.int32)
        return tf.where(little, first + 256 * second, 256 * first + second)

    low, high = tf.where(little, two(start + 4), two(start + 6)), tf.where(little, two(start + 6), two(start + 4))
    directory = tf.where(high > 0, last, start + low)  # a directory past 64 KiB holds no orientation
    entries = directory + 2 + 12 * tf.range(tf.minimum(two(directory), 256))
    which = tf.where(tf.map_fn(two, entries) == 0x0112)
    value = tf.cond(
        tf.size(which) > 0, lambda: two(entries[tf.cast(which[0, 0], tf.int32)] + 8), lambda: tf.constant(0)
    )
    return tf.where((value >= 0) & (value <= 8), value, 1)


@shared(TEXT)
def xmp_orientation(text: tf.Tensor) -> tf.Tensor:
    """The orientation in XMP, 1 to 8; 1 if there is none."""
    found = tf.strings.regex_full_match(text, _XMP_ORIENTATION)
    return tf.cond(
        found,
        lambda: tf.strings.to_number(tf.strings.regex_replace(text, _XMP_ORIENTATION, r"\1"), tf.int32),
        lambda: tf.constant(1),
    )


@shared(IMAGE, PLACE)
def turn_upright(image: tf.Tensor, orientation: tf.Tensor) -> tf.Tensor:
    """Turn and mirror an image by its orientation, 1 to 8."""
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
