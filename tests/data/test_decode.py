from __future__ import annotations

import io
import time

import numpy as np
import pytest
import tensorflow as tf
from PIL import Image, ImageOps

from tests.broken import (
    bmp_of_endless_header,
    encode,
    gif_of_a_huge_later_frame,
    jpeg_of_size,
    jpeg_with_false_frames,
    left_out,
    png_header,
    used_with_a_note,
)
from tests.conftest import draw
from tlkit.data.decode import attempt, attempt_parts, decode, decode_and_resize, first_frame, header_fault, read_header
from tlkit.data.graph import common, jpeg
from tlkit.data.headers import examine

IMAGE = draw((120, 90, 60), 3, 90).resize((120, 80))
in_graph = tf.function(lambda data: decode_and_resize(data, 48), autograph=False)


def pixels(data: bytes) -> np.ndarray:
    return decode(tf.constant(data)).numpy().astype(int)


def by_pillow(data: bytes) -> np.ndarray:
    image = ImageOps.exif_transpose(Image.open(io.BytesIO(data)))
    if image.mode in ("RGBA", "LA", "PA") or "transparency" in image.info:
        white = Image.new("RGBA", image.size, "white")
        image = Image.alpha_composite(white, image.convert("RGBA"))
    return np.asarray(image.convert("RGB")).astype(int)


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("order", ["<", ">"])
def test_exif_orientation_is_applied(orientation: int, order: str) -> None:
    exif = Image.Exif()
    exif[0x010F] = "a maker's name"
    exif[0x0112] = orientation
    exif.endian = order
    data = encode(IMAGE, "JPEG", exif=exif)
    assert np.abs(pixels(data) - by_pillow(data)).max() <= 3


@pytest.mark.parametrize(
    "exif", [b"Exif\x00\x00", b"Exif\x00\x00II*\x00\xff\xff\xff\x7f", b"Exif\x00\x00MM\x00*" + b"\xff" * 30]
)
def test_broken_exif_turns_nothing(exif: bytes) -> None:
    plain = encode(IMAGE, "JPEG")
    assert (pixels(encode(IMAGE, "JPEG", exif=exif)) == pixels(plain)).all()


@pytest.mark.parametrize(
    ("kind", "mode", "settings"),
    [
        ("PNG", "RGB", {}),
        ("PNG", "L", {}),
        ("PNG", "1", {}),
        ("PNG", "P", {}),
        ("PNG", "P", {"bits": 2}),
        ("PNG", "P", {"bits": 4, "transparency": 1}),
        ("PNG", "RGBA", {}),
        ("PNG", "LA", {}),
        ("GIF", "P", {}),
        ("BMP", "RGB", {}),
        ("BMP", "L", {}),
        ("BMP", "P", {}),
        ("BMP", "RGBA", {}),
        ("WEBP", "RGB", {"lossless": True}),
        ("WEBP", "RGBA", {"lossless": True}),
        ("JPEG", "L", {}),
        ("JPEG", "CMYK", {}),
        ("JPEG", "RGB", {"progressive": True}),
    ],
)
def test_pixels_are_those_that_pillow_sees(kind: str, mode: str, settings: dict[str, object]) -> None:
    image = IMAGE.quantize(4) if "bits" in settings else IMAGE.convert(mode)
    if mode in ("RGBA", "LA"):
        image.putalpha(Image.fromarray(np.tile(np.arange(120), (80, 1)).astype("uint8")))
    data = encode(image, kind, **settings)
    expected = by_pillow(data) if kind != "BMP" else np.asarray(Image.open(io.BytesIO(data)).convert("RGB")).astype(int)
    assert np.abs(pixels(data) - expected).max() <= (1 if kind != "JPEG" else 3)


@pytest.mark.slow
def test_the_same_bits_eagerly_in_a_function_and_from_a_saved_model(tmp_path) -> None:  # type: ignore[no-untyped-def]
    module = tf.Module()
    module.decode = tf.function(
        lambda data: decode_and_resize(data, 48), input_signature=[tf.TensorSpec((), tf.string)], autograph=False
    )
    tf.saved_model.save(module, str(tmp_path / "m"))
    loaded = tf.saved_model.load(str(tmp_path / "m"))
    for name, data, _ in used_with_a_note(4):
        eager = decode_and_resize(tf.constant(data), 48).numpy()
        assert eager.shape == (48, 48, 3) and eager.dtype == np.uint8
        assert (eager == in_graph(tf.constant(data)).numpy()).all(), name
        assert (eager == loaded.decode(tf.constant(data)).numpy()).all(), name


@pytest.mark.parametrize("name", [name for name, _, _ in left_out(2)])
def test_what_does_not_decode_fails_and_never_gives_pixels(name: str) -> None:
    data = next(d for n, d, _ in left_out(2) if n == name)
    with pytest.raises(tf.errors.InvalidArgumentError):
        in_graph(tf.constant(data))


def test_what_a_request_tries_in_a_pipeline_is_a_few_operations() -> None:
    """A tf.data pipeline starts for each request: with the parsing of profiles in it, that took 0.1 s of CPU."""
    text = tf.TensorSpec((), tf.string)
    graph = tf.function(attempt_parts, input_signature=(text, text)).get_concrete_function().graph.as_graph_def()
    assert len(graph.node) + sum(len(function.node_def) for function in graph.library.function) < 50


@pytest.mark.parametrize("name", [name for name, _, _ in [*left_out(2), *used_with_a_note(2)]])
def test_header_and_attempt_foretell_whether_decoding_succeeds(name: str) -> None:
    """The exported graph decodes exactly what these two let through; a disagreement would fail a whole batch."""
    data = next(d for n, d, _ in [*left_out(2), *used_with_a_note(2)] if n == name)
    foretold = not header_fault(tf.constant(data)).numpy()
    if foretold:
        try:
            attempt(first_frame(tf.constant(data)))
        except tf.errors.InvalidArgumentError:
            foretold = False
    try:
        decode_and_resize(tf.constant(data), 32)
        succeeded = True
    except tf.errors.InvalidArgumentError:
        succeeded = False
    assert foretold == succeeded


@pytest.mark.parametrize(
    ("data", "refused"),
    [
        (png_header(7_000, 7_000), False),
        (png_header(7_100, 7_100), True),
        (jpeg_of_size(14_000, 14_000), False),
        (jpeg_of_size(14_200, 14_200), True),
        (jpeg_of_size(100, 0), True),
    ],
    ids=["png 49 MP", "png 50.4 MP", "jpeg 196 MP", "jpeg 202 MP", "jpeg without height"],
)
def test_the_size_limit_is_judged_by_the_header(data: bytes, refused: bool) -> None:
    assert bool(header_fault(tf.constant(data)).numpy()) == refused


@pytest.mark.parametrize(
    "before", [b"\xff\xd0", b"\xff\xd7", b"\xff\x01", b"\xff\xff\xff", b"\xff\x00", b"\xff\xd0\xff\x01\xff\xff"]
)
def test_markers_without_a_length_do_not_hide_the_frame_header(before: bytes) -> None:
    data = jpeg_with_false_frames(before, 14_200, 14_200)
    assert header_fault(tf.constant(data)).numpy().startswith(b"14200 x 14200 pixels; at most 200")
    assert examine(data).problem == "too-large"
    small = encode(IMAGE, "JPEG")
    assert np.array_equal(decode(tf.constant(small[:2] + before + small[2:])), decode(tf.constant(small)))


@pytest.mark.parametrize("filling", [b"\xff", b"\xff\xd0", b"\xff\x01", b"\x00"])
def test_megabytes_of_filling_before_a_frame_header_take_no_seconds(filling: bytes) -> None:
    data = b"\xff\xd8\xff" + filling * (4_000_000 // len(filling))
    header_fault(tf.constant(data[:100]))  # traced
    started = time.process_time()
    assert header_fault(tf.constant(data)).numpy() == b"no image size in the header"
    assert examine(data).problem in ("truncated", "corrupt")
    assert time.process_time() - started < 2


def test_a_photograph_is_decoded_in_full_and_halved_only_beyond_the_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    large = tf.constant(encode(IMAGE.resize((1920, 1280)), "JPEG", quality=95))
    whole = decode(large)
    assert whole.shape == (1280, 1920, 3) and read_header(large)[1] == 1920 * 1280
    assert (decode_and_resize(large, 48) == np.rint(tf.image.resize(whole, (48, 48), antialias=True))).numpy().all()
    monkeypatch.setattr(jpeg, "MAX_PIXELS", 1920 * 1280 - 1)
    # not the traced functions, which have the limit in them
    assert jpeg.decode(large).shape == (640, 960, 3) and jpeg.header.__wrapped__(large)[1] == 960 * 640


def test_how_the_image_is_fitted() -> None:
    wide = Image.new("RGB", (90, 30), (200, 0, 0))
    wide.paste((0, 0, 200), (30, 0, 60, 30))
    data = tf.constant(encode(wide, "PNG"))
    squash, crop, pad = (decode_and_resize(data, 30, fit).numpy() for fit in ("squash", "crop", "pad"))
    assert (crop == (0, 0, 200)).all()
    assert (squash[:, 2] == (200, 0, 0)).all() and (squash[:, 15] == (0, 0, 200)).all()
    assert (pad[:10] == 0).all() and (pad[20:] == 0).all() and (pad[15, 1] == (200, 0, 0)).all()


@pytest.mark.parametrize("shape", [(1, 1), (1, 500), (500, 1), (47, 48)])
@pytest.mark.parametrize("fit", ["squash", "crop", "pad"])
def test_odd_shapes_become_squares(shape: tuple[int, int], fit: str) -> None:
    data = encode(Image.new("RGB", shape, (10, 20, 30)), "PNG")
    assert decode_and_resize(tf.constant(data), 32, fit).shape == (32, 32, 3)


def test_a_progressive_jpeg_which_is_held_whole_may_not_be_larger_than_other_images() -> None:
    for side, progressive, limit in (
        (7_000, False, None),
        (7_000, True, None),
        (9_000, False, None),
        (9_000, True, 50),
        (15_000, False, 200),
        (15_000, True, 50),
    ):
        fault, held = read_header(tf.constant(jpeg_of_size(side, side, progressive=progressive)))
        expected = f"{side} x {side} pixels; at most {limit} megapixels are decoded" if limit else ""
        assert fault.numpy().decode() == expected
        assert held.numpy() == side**2 // (4 if side > 7_071 and not progressive else 1), "one beyond 50 MP is halved"


def test_transparency_is_composited_over_white_row_by_row_as_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    image = IMAGE.convert("RGBA")
    image.putalpha(Image.fromarray(np.arange(80 * 120, dtype="uint32").reshape(80, 120).astype("uint8")))
    for kind in ("PNG", "WEBP"):
        data = encode(image, kind)
        at_once = pixels(data)
        with monkeypatch.context() as patch:
            patch.setattr(common, "AT_ONCE", 100)
            assert np.array_equal(pixels(data), at_once)
    assert np.abs(pixels(encode(image, "PNG")) - by_pillow(encode(image, "PNG"))).max() <= 1


def test_a_bmp_whose_header_is_longer_than_the_file_is_refused_by_its_header() -> None:
    assert b"length of its header is wrong" in header_fault(tf.constant(bmp_of_endless_header())).numpy()


def test_frames_behind_the_first_are_not_decoded() -> None:
    small, bomb = gif_of_a_huge_later_frame(4000)
    assert tf.io.decode_gif(bomb).shape == (2, 4000, 4000, 3), "TensorFlow decodes them all"
    assert len(first_frame(tf.constant(bomb)).numpy()) < len(small) + 800
    assert tf.io.decode_gif(first_frame(tf.constant(bomb))).shape == (1, 20, 30, 3)
    assert np.array_equal(decode(tf.constant(bomb)), decode(tf.constant(small)))


def test_a_first_frame_ends_with_one_terminator_since_tensorflow_2_11_refuses_two() -> None:
    small, _ = gif_of_a_huge_later_frame(40)
    data = first_frame(tf.constant(small)).numpy()
    at = 13 + 3 * 256 + 10 + 1  # header, palette, descriptor, size of the first code
    while data[at]:
        at += 1 + data[at]
    assert data[at:] == b"\0;"


@pytest.mark.parametrize("keep", [0.5, 0.98])
def test_a_gif_that_ends_within_its_first_frame_does_not_decode(keep: float) -> None:
    small, _ = gif_of_a_huge_later_frame(40)
    with pytest.raises(tf.errors.InvalidArgumentError):
        decode(tf.constant(small[: int(keep * len(small))]))


def test_a_first_frame_larger_than_the_screen_is_held_to_the_limit() -> None:
    data = bytearray(encode(Image.new("L", (10, 10)), "GIF"))
    at = data.index(b"\x2c" + bytes(4) + b"\x0a\x00\x0a\x00")
    data[at + 5 : at + 9] = b"\xff\xff\xff\xff"
    assert b"65535 x 65535 pixels; at most 50 megapixels" in header_fault(tf.constant(bytes(data))).numpy()


def test_a_chain_of_millions_of_sub_blocks_takes_no_minutes() -> None:
    small, _ = gif_of_a_huge_later_frame(40)
    at = small.index(b"\x21\xfe") + 2
    data = tf.constant(small[:at] + b"\x01a" * 1_000_000 + small[at:])
    started = time.monotonic()
    assert decode(data).shape == (20, 30, 3)
    assert time.monotonic() - started < 10


def test_other_files_are_not_cut() -> None:
    whole = encode(Image.new("L", (10, 10)), "GIF")
    for data in (b"", b"GIF8", b"GIF88a" + whole[6:], b"\x89PNG rest", encode(Image.new("L", (10, 10)), "PNG")):
        assert first_frame(tf.constant(data)).numpy() == data
