"""Colour profiles of a matrix and curves, or of one curve for grey (ICC.1:2022), converted to sRGB.

Display P3, Adobe RGB and ProPhoto are of this kind. A profile that is sRGB, or is none, changes nothing; one of tables
is a fault.
"""

from __future__ import annotations

import tensorflow as tf

from tlkit.data.graph.common import IMAGE, TEXT, by_rows, head, number, piece, shared

# linear sRGB from XYZ under D50, by the sRGB profile's own colorants (chromatic adaptation by Bradford)
_FROM_XYZ = (
    (3.1338561, -1.6168667, -0.4906146),
    (-0.9787684, 1.9161415, 0.0334540),
    (0.0719453, -0.2289914, 1.4052427),
)
_SRGB = ((0.4360747, 0.3850649, 0.1430804), (0.2225045, 0.7168786, 0.0606169), (0.0139322, 0.0971045, 0.7141733))
_CLOSE = 0.003  # of a colorant, and of a curve at a half: nearer than this a profile is sRGB
_HALF = 0.2158605  # the curve of sRGB at 128 of 255
FAULT = "a colour profile of tables is not read"
TABLES = (
    bytes(16) + b"RGB XYZ " + bytes(12) + b"acsp" + bytes(88) + b"\0\0\0\1A2B0" + bytes(8)
)  # stands for one of tables


NAME = tf.TensorSpec((), tf.int32)  # of a tag: its four letters as a number


@shared(TEXT)
def fault(profile: tf.Tensor) -> tf.Tensor:
    """Why a profile cannot be converted; empty if it can, or says nothing."""
    tables = _is_valid(profile) & _has(profile, b"A2B0") & (_space(profile) == b"RGB ")
    return tf.where(tables, FAULT, "")


def fitting(profile: tf.Tensor, is_grey: tf.Tensor) -> tf.Tensor:
    """The profile, or nothing if it is one for grey and the image has colours: it says nothing of these."""
    return tf.where((_space(profile) == b"GRAY") & ~is_grey, b"", profile)


@shared(IMAGE, TEXT)
def to_srgb(image: tf.Tensor, profile: tf.Tensor) -> tf.Tensor:
    """Convert the colours of a uint8 image, shape (height, width, 3 or 4); an alpha channel stays."""
    return tf.cond(tf.strings.length(profile) >= 132, lambda: _by_profile(image, profile), lambda: image)


def _by_profile(image: tf.Tensor, profile: tf.Tensor) -> tf.Tensor:
    grey = (_space(profile) == b"GRAY") & _has(profile, b"kTRC")
    names = (b"rXYZ", b"gXYZ", b"bXYZ", b"rTRC", b"gTRC", b"bTRC")
    matrix = (_space(profile) == b"RGB ") & tf.reduce_all(tf.stack([_has(profile, name) for name in names]))

    def by_matrix() -> tf.Tensor:
        colorants = tf.stack([_fixed(_tag(profile, name), 8, 3) for name in names[:3]], 1)
        curves = tf.stack([_curve(_tag(profile, name)) for name in names[3:]], 1)
        off = tf.reduce_max(tf.abs(colorants - _SRGB)), tf.reduce_max(tf.abs(curves[128] - _HALF))
        same = (off[0] < _CLOSE) & (off[1] < _CLOSE)
        mixed = tf.matmul(tf.constant(_FROM_XYZ), colorants)
        return tf.cond(same, lambda: image, lambda: _converted(image, curves, mixed))

    def by_curve() -> tf.Tensor:
        curve = _curve(_tag(profile, b"kTRC"))
        same = tf.abs(curve[128] - _HALF) < _CLOSE
        return tf.cond(same, lambda: image, lambda: _converted(image, tf.repeat(curve[:, None], 3, 1), tf.eye(3)))

    which = tf.where(_is_valid(profile) & matrix, 1, tf.where(_is_valid(profile) & grey, 2, 0))
    return tf.switch_case(which, [lambda: image, by_matrix, by_curve])


def _converted(image: tf.Tensor, curves: tf.Tensor, mixed: tf.Tensor) -> tf.Tensor:
    def work(rows: tf.Tensor) -> tf.Tensor:
        numbers = tf.cast(rows[..., :3], tf.int32)
        linear = tf.stack([tf.gather(curves[:, i], numbers[..., i]) for i in range(3)], -1)
        linear = tf.clip_by_value(tf.tensordot(linear, mixed, [[-1], [1]]), 0, 1)
        encoded = tf.where(linear <= 0.0031308, 12.92 * linear, 1.055 * linear ** (1 / 2.4) - 0.055)
        return tf.cast(tf.round(255 * encoded), tf.uint8)

    colours = by_rows(work, image)
    return tf.concat([colours, image[..., 3:]], -1)


@shared(TEXT)
def _curve(tag: tf.Tensor) -> tf.Tensor:
    """The linear values of the codes 0 to 255: float32, shape (256,)."""
    x = tf.linspace(0.0, 1.0, 256)
    is_function = tf.strings.substr(tf.strings.join([tag, bytes(4)]), 0, 4) == b"para"

    def by_function() -> tf.Tensor:
        kind = tf.cast(_fixed(tag, 8, 1)[0], tf.int32)  # its upper half is the number of the function
        g, a, b, c, d, e, f = tf.unstack(_fixed(tag, 12, 7), 7)
        a, b = tf.where(kind >= 1, a, 1.0), tf.where(kind >= 1, b, 0.0)
        offset = tf.where(kind == 2, c, tf.where(kind == 4, e, 0.0))
        below = tf.where(kind == 2, c, tf.where(kind == 4, f, 0.0))
        limit = tf.where(kind >= 3, d, tf.where(kind >= 1, tf.math.divide_no_nan(-b, a), 0.0))
        slope = tf.where(kind >= 3, c, 0.0)
        return tf.where(x >= limit, tf.maximum(a * x + b, 0) ** g + offset, slope * x + below)

    def by_table() -> tf.Tensor:
        count = tf.cast(_words(tag, 10, tf.constant(1))[0], tf.int32)  # the lower half of 32 bits
        count = tf.minimum(count, tf.maximum(tf.strings.length(tag) - 12, 0) // 2)
        values = _words(tag, 12, count)
        gamma = values[:1] / 256

        def between() -> tf.Tensor:
            at = x * tf.cast(count - 1, tf.float32)
            low = tf.cast(tf.floor(at), tf.int32)
            high = tf.minimum(low + 1, count - 1)
            near, far = tf.gather(values, low), tf.gather(values, high)
            return (near + (far - near) * (at - tf.floor(at))) / 65535

        return tf.switch_case(tf.clip_by_value(count, 0, 2), [lambda: x, lambda: x ** gamma[0], between])

    return tf.clip_by_value(tf.cond(is_function, by_function, by_table), 0, 1)


def _fixed(tag: tf.Tensor, at: int, count: int) -> tf.Tensor:
    """Numbers of 16 bits before and 16 after the point, float32, shape (count,); zero past the end."""
    found = tf.strings.substr(tf.strings.join([piece(tag, at, 4 * count), bytes(4 * count)]), 0, 4 * count)
    return tf.cast(tf.io.decode_raw(found, tf.int32, little_endian=False), tf.float32) / 65536


def _words(tag: tf.Tensor, at: int, count: tf.Tensor) -> tf.Tensor:
    found = tf.strings.substr(tf.strings.join([piece(tag, at, 2 * count), bytes(2)]), 0, 2 * count)
    return tf.cast(tf.io.decode_raw(found, tf.uint16, little_endian=False), tf.float32)


def _is_valid(profile: tf.Tensor) -> tf.Tensor:
    """Whether a profile is one, and whole: Little CMS drops what a cut one lacks, and libpng the profile."""
    whole = number(head(profile, 4), big=True) <= tf.cast(tf.strings.length(profile), tf.int64)
    return whole & (piece(profile, 36, 4) == b"acsp")


def _space(profile: tf.Tensor) -> tf.Tensor:
    return piece(profile, 16, 4)


@shared(TEXT)
def _places(profile: tf.Tensor) -> tf.Tensor:
    """The table of tags, int32, shape (tags, 3): name, offset, length."""
    table = piece(profile, 132, 12 * 100)
    whole = tf.strings.length(table) // 12 * 12
    count = tf.cast(65536 * _fixed(profile, 128, 1)[0], tf.int32)
    table = tf.io.decode_raw(tf.strings.substr(table, 0, whole), tf.int32, little_endian=False)
    return tf.reshape(table, (-1, 3))[: tf.maximum(count, 0)]


@shared(TEXT, NAME)
def _has_number(profile: tf.Tensor, name: tf.Tensor) -> tf.Tensor:
    return tf.reduce_any(_places(profile)[:, 0] == name)


@shared(TEXT, NAME)
def _tag_number(profile: tf.Tensor, name: tf.Tensor) -> tf.Tensor:
    places = _places(profile)
    at = places[tf.argmax(places[:, 0] == name)]
    return piece(profile, at[1], at[2])


def _has(profile: tf.Tensor, name: bytes) -> tf.Tensor:
    return _has_number(profile, int.from_bytes(name, "big"))


def _tag(profile: tf.Tensor, name: bytes) -> tf.Tensor:
    return _tag_number(profile, int.from_bytes(name, "big"))
