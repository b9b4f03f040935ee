"""GIF: the first frame at its place on the logical screen, over white.

TensorFlow decodes every frame, ignores the screen, and makes transparent pixels black. So a file is first rewritten as
one with a single frame, whose palette has white for the transparent colour.
"""

from __future__ import annotations

import tensorflow as tf

from tlkit.data.graph.common import NO_SIZE, TEXT, check_size, checked, piece, shared

_CHUNKS = (4096, 65_536)  # bytes of sub-blocks read in one step: at the beginning of a chain, and in a long one
_MARGIN = _CHUNKS[-1] + 256
_MOST_EXTENSIONS = 256  # before the first frame
_TABLE = 13 + 3 * 256  # bytes before the frame of a rewritten file
_GREY = bytes(i for i in range(256) for _ in range(3))


@shared(TEXT)
def header(data: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
    """(fault, number of pixels) of the canvas: the logical screen, larger if the first frame reaches over its edge."""
    at = _walk(data)[0]
    left, top, width, height = tf.unstack(_words(data, at + 1, 4), 4)
    screen = _words(data, tf.constant(6), 2)
    fault, pixels = check_size(tf.maximum(screen[0], left + width), tf.maximum(screen[1], top + height))
    fault = tf.where((width > 0) & (height > 0), fault, NO_SIZE)
    return tf.where(at > 0, fault, "no image in it"), pixels


@shared(TEXT, inline=True)
def first_frame(data: tf.Tensor) -> tf.Tensor:
    """A GIF of the first frame alone, with one palette of 256 colours; a file without a whole frame is unchanged.

    The frame keeps its place, and its transparent colour becomes white.
    """
    places = tf.cond(_is_gif(data), lambda: _walk(data), lambda: tf.constant([0, 0, 0, -1]))
    at, begin, end, transparent = tf.unstack(places, 4)

    def rewritten() -> tf.Tensor:
        flags, screen = _byte(data, at + 9), _byte(data, tf.constant(10))
        local, general = flags >= 128, screen >= 128
        size = 3 * 2 ** (tf.where(local, flags, screen) % 8 + 1)
        table = tf.where(local | general, piece(data, tf.where(local, at + 10, 13), size), _GREY)
        colours = tf.io.decode_raw(tf.strings.substr(tf.strings.join([table, bytes(768)]), 0, 768), tf.uint8)
        is_white = tf.repeat(tf.range(256), 3) == transparent
        colours = tf.where(is_white, tf.constant(255, tf.uint8), colours)
        interlaced = tf.where(flags & 64 > 0, b"\x40", b"\x00")
        # one byte after the other, as strings
        table = tf.strings.reduce_join(tf.gather(_BYTES, tf.cast(colours, tf.int32)))
        head = [b"GIF89a", piece(data, 6, 4), b"\xf7\x00\x00", table, piece(data, at, 9), interlaced]
        return tf.strings.join([*head, piece(data, begin, end - begin), b"\x00\x3b"])

    return tf.cond(at > 0, rewritten, lambda: data)


def _is_gif(data: tf.Tensor) -> tf.Tensor:
    return tf.reduce_any(tf.strings.substr(data, 0, 6) == (b"GIF87a", b"GIF89a"))


@shared(TEXT)
def decode(data: tf.Tensor) -> tf.Tensor:
    """uint8, shape (height, width, 3), of the canvas."""
    data = first_frame(checked(data, header(data)[0]))
    left, top, width, height = tf.unstack(_words(data, tf.constant(_TABLE + 1), 4), 4)
    screen = _words(data, tf.constant(6), 2)
    right, below = (tf.maximum(screen[i] - near - size, 0) for i, near, size in ((0, left, width), (1, top, height)))
    image = frame(data)
    margins = [[top, below], [left, right], [0, 0]]
    return tf.cond(left + right + top + below > 0, lambda: tf.pad(image, margins, constant_values=255), lambda: image)


def frame(data: tf.Tensor) -> tf.Tensor:
    """The pixels of the frame of a file from `first_frame`."""
    return tf.io.decode_gif(placed(data))[0]


def placed(data: tf.Tensor) -> tf.Tensor:
    """A file from `first_frame` whose screen is its frame. Never fails."""
    size = piece(data, _TABLE + 5, 4)
    rest = piece(data, _TABLE + 5, tf.strings.length(data))
    return tf.strings.join([piece(data, 0, 6), size, piece(data, 10, _TABLE - 10), b"\x2c\x00\x00\x00\x00", rest])


_BYTES = [bytes([i]) for i in range(256)]


def _words(data: tf.Tensor, at: tf.Tensor, count: int) -> tf.Tensor:
    """Unsigned numbers of 16 bits, int32, shape (count,); zero past the end."""
    found = tf.strings.substr(tf.strings.join([piece(data, at, 2 * count), bytes(2 * count)]), 0, 2 * count)
    return tf.cast(tf.io.decode_raw(found, tf.uint16), tf.int32)


def _byte(data: tf.Tensor, at: tf.Tensor) -> tf.Tensor:
    return tf.cast(tf.io.decode_raw(tf.strings.join([piece(data, at, 1), b"\x00"]), tf.uint8)[0], tf.int32)


@shared(TEXT, inline=True)
def _walk(data: tf.Tensor) -> tf.Tensor:
    """Walk a GIF's blocks (GIF89a specification, sections 17 to 26) up to the end of its first frame.

    Returns: int32, shape (4,): the offsets of the first frame's descriptor, of its data and of the first byte after
        them (the terminator), 0 where there is none; and the transparent colour's number, -1 for none.
    """
    raw = tf.concat([tf.io.decode_raw(data, tf.uint8), tf.zeros((_MARGIN,), tf.uint8)], 0)
    length = tf.size(raw) - _MARGIN

    def after_colours(at: tf.Tensor, flags: tf.Tensor) -> tf.Tensor:
        flags = tf.cast(flags, tf.int32)
        return at + tf.where(flags >= 128, 3 * 2 ** (flags % 8 + 1), 0)

    def before_frame(at: tf.Tensor, transparent: tf.Tensor) -> tf.Tensor:
        return (at < length) & (raw[tf.minimum(at, length)] != 0x2C) & (raw[tf.minimum(at, length)] != 0x3B)

    def step(at: tf.Tensor, transparent: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        block = tf.cast(raw[at : at + 7], tf.int32)
        is_control = (block[0] == 0x21) & (block[1] == 0xF9) & (block[2] >= 4) & (block[3] % 2 == 1)
        after = tf.cond(block[0] == 0x21, lambda: _after_sub_blocks(raw, at + 2), lambda: at + 1)  # a stray byte
        return after, tf.where(is_control, block[6], transparent)

    start = (after_colours(tf.constant(13), raw[10]), tf.constant(-1))
    at, transparent = tf.while_loop(before_frame, step, start, maximum_iterations=_MOST_EXTENSIONS)
    at = tf.minimum(at, length)
    found = (at + 10 < length) & (raw[at] == 0x2C)
    begin = after_colours(at + 10, raw[tf.minimum(at + 9, length)])
    after = tf.cond(found, lambda: _after_sub_blocks(raw, begin + 1), lambda: tf.constant(0))
    end = tf.where(after <= length, after - 1, length)  # of a cut file, all that is there
    return tf.where(found, tf.stack([at, begin, end, transparent]), [0, 0, 0, -1])


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
