"""The reference in NumPy and Pillow makes the pixels of the exported graph, of files of every kind."""

from __future__ import annotations

import struct
import subprocess
import sys
import zlib
from collections.abc import Iterator

import numpy as np
import pytest
import tensorflow as tf
from PIL import Image

import tlkit
from tests.broken import encode, left_out, used_with_a_note
from tests.data import test_convert as converted
from tests.data import test_files_people_have as people
from tests.data.test_decode import IMAGE
from tlkit.data.convert import convert
from tlkit.data.decode import decode_and_resize, fit_to_square
from tlkit.data.graph import jpeg
from tlkit.data.preprocessing import preprocessing
from tlkit.data.reference import decode_upright

RAMP = Image.fromarray(np.tile(np.arange(120), (80, 1)).astype("uint8"))
NOISE = np.random.default_rng(2)


def png(bits: int, colour: int, values: np.ndarray, clear: bytes = b"") -> bytes:
    """A PNG of 12 x 9 pixels from the bytes of its rows, with a transparent colour."""
    head = struct.pack(">IIBBBBB", 12, 9, bits, colour, 0, 0, 0)
    rows = b"".join(b"\0" + row.tobytes() for row in values)
    parts = [people.chunk(b"IHDR", head), people.chunk(b"tRNS", clear) if clear else b""]
    return (
        b"\x89PNG\r\n\x1a\n" + b"".join(parts) + people.chunk(b"IDAT", zlib.compress(rows)) + people.chunk(b"IEND", b"")
    )


def of_modes() -> Iterator[tuple[str, bytes]]:
    for kind, mode in (
        *(("PNG", mode) for mode in ("RGB", "L", "1", "P", "RGBA", "LA")),
        *(("BMP", mode) for mode in ("RGB", "L", "P", "RGBA")),
        *(("JPEG", mode) for mode in ("RGB", "L", "CMYK")),
        *(("WEBP", mode) for mode in ("RGB", "RGBA")),
        ("GIF", "P"),
        ("AVIF", "RGB"),
    ):
        image = IMAGE.convert(mode)
        if mode in ("RGBA", "LA"):
            image.putalpha(RAMP)
        yield f"{kind} {mode}", encode(image, kind)
    yield "PNG with a palette of 4 bits and alpha", encode(IMAGE.quantize(4), "PNG", bits=4, transparency=1)
    yield "progressive JPEG", encode(IMAGE, "JPEG", progressive=True, quality=40)
    for number, (kind, data, _) in enumerate(converted.LOSSLESS):
        yield f"{kind} {number}", data
    yield from ((name, data) for name, data, _ in used_with_a_note(3))
    yield "GIF in a screen", people.gif((30, 20), (7, 5), people.noise(10, 6))
    yield "GIF beyond its screen", people.gif((12, 8), (7, 5), people.noise(10, 6))
    yield "transparent GIF", encode(people.disc(), "GIF")
    yield "BMP of 4 bits", people.bmp_of_4_bits()
    yield "BMP of OS/2", people.os2_bmp()
    yield "moving WebP", encode(IMAGE, "WEBP", save_all=True, append_images=[IMAGE.rotate(90)])


def of_depths() -> Iterator[tuple[str, bytes]]:
    deep = NOISE.integers(0, 4096, (20, 30, 4)).astype("uint16")
    yield "RGB of 16 bits", people.deep_rgb(deep[..., :3])
    yield "RGBA of 16 bits", people.deep_rgb(deep * 16)
    yield "TIFF of 16 bits", converted.tiff_of_16_bits(deep[..., :3], ">")
    yield "TIFF of 16 bits with alpha", converted.tiff_of_16_bits(deep * 16, "<")
    yield "grey and alpha of 16 bits", png(16, 4, NOISE.integers(0, 65_536, (9, 24)).astype(">u2"))
    few = NOISE.integers(0, 4, (9, 12)).astype(">u2") * 1000
    yield "grey of 16 bits with a clear value", png(16, 0, few.astype(">u2"), struct.pack(">H", 2000))
    colours = NOISE.integers(0, 2, (9, 36)).astype(">u2") * 1000
    yield "RGB of 16 bits with a clear colour", png(16, 2, colours.astype(">u2"), struct.pack(">3H", 1000, 0, 1000))
    yield "RGB with a clear colour", png(8, 2, (colours // 10).astype("uint8"), struct.pack(">3H", 100, 0, 100))
    for bits in (2, 4):
        rows = NOISE.integers(0, 256, (9, 12 * bits // 8)).astype("uint8")
        yield f"grey of {bits} bits with a clear value", png(bits, 0, rows, struct.pack(">H", 2))


def of_metadata() -> Iterator[tuple[str, bytes]]:
    curves = {"P3": (people.P3, people.FUNCTION), "Adobe": (people.ADOBE, people.GAMMA)}
    curves["ProPhoto"] = (people.PROPHOTO, people.TABLE)
    for kind in ("PNG", "WEBP", "JPEG"):
        for name, (colorants, curve) in curves.items():
            yield f"{name} {kind}", encode(IMAGE, kind, icc_profile=people.profile(colorants, curve))
    yield "tables", encode(IMAGE, "PNG", icc_profile=converted.table_profile())
    grey = people.profile((), people.TABLE, b"GRAY")
    yield "grey profile", encode(IMAGE.convert("L"), "PNG", icc_profile=grey)
    yield "grey profile of colours", encode(IMAGE, "PNG", icc_profile=grey)
    for number, icc in enumerate([b"junk", bytes(131), people.profile(people.P3, people.FUNCTION)[:200]]):
        yield f"broken profile {number}", encode(IMAGE, "JPEG", icc_profile=icc)
    for orientation in range(2, 9):
        exif = Image.Exif()
        exif[0x0112] = orientation
        yield f"turned JPEG {orientation}", encode(IMAGE, "JPEG", exif=exif)
        yield f"turned TIFF {orientation}", encode(IMAGE, "TIFF", exif=exif)
        yield f"JPEG turned by XMP {orientation}", encode(IMAGE, "JPEG", xmp=people.XMP % orientation)


@pytest.mark.slow
@pytest.mark.parametrize(("fit", "depth"), [("squash", 16), ("pad", 12)])
def test_pixels_are_those_of_the_graph_within_one_level(fit: str, depth: int) -> None:
    in_graph = tf.function(
        lambda data: decode_and_resize(data, 48, fit, depth),
        input_signature=[tf.TensorSpec((), tf.string)],
        autograph=False,
    )
    rule = preprocessing(48, fit, depth)
    for name, data in (*of_modes(), *of_depths(), *of_metadata()):
        expected = in_graph(tf.constant(convert(data))).numpy().astype(int)
        found = tlkit.preprocess(data, rule)
        assert found.shape == (48, 48, 3) and found.dtype == np.uint8
        assert np.abs(found - expected).max() <= 1, name


@pytest.mark.parametrize("fit", ["squash", "crop", "pad"])
@pytest.mark.parametrize("shape", [(7, 100), (101, 64), (33, 32), (1, 9), (5, 5), (200, 199)])
def test_every_shape_becomes_square_as_in_the_graph(fit: str, shape: tuple[int, int]) -> None:
    image = NOISE.integers(0, 256, (*shape, 3)).astype("uint8")
    expected = fit_to_square(tf.constant(image), 32, fit).numpy().astype(int)
    found = tlkit.preprocess(encode(Image.fromarray(image), "PNG"), preprocessing(32, fit)).astype(int)
    assert (found == expected).all(), "halves are rounded as there, and the bars are in the same place"


def test_the_formula_of_the_triangle_in_the_documents_is_what_the_graph_does() -> None:
    def weights(given: int, wanted: int) -> np.ndarray:
        scale = given / wanted
        at = (np.arange(wanted)[:, None] + 0.5) * scale
        values = np.maximum(0, 1 - np.abs(np.arange(given) + 0.5 - at) / max(scale, 1))
        return values / values.sum(1, keepdims=True)

    image = NOISE.integers(0, 256, (50, 21, 3)).astype("uint8")
    expected = fit_to_square(tf.constant(image), 32, "squash").numpy().astype(int)
    found = np.rint(np.einsum("ri,cj,ijk->rck", weights(50, 32), weights(21, 32), image))
    assert np.abs(found - expected).max() <= 1


def test_a_jpeg_beyond_the_limit_is_halved_as_in_the_graph(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(jpeg, "MAX_PIXELS", 5_000)
    data = encode(IMAGE.resize((121, 83)), "JPEG", quality=95)
    expected = jpeg.decode(tf.constant(data)).numpy().astype(int)
    assert expected.shape == (42, 61, 3)
    found = decode_upright(data, reduce_jpeg={"above_pixels": 5_000, "by": 2})
    assert np.abs(found - expected).max() <= 2  # of the inverse DCT itself, before resizing
    assert decode_upright(data).shape == (83, 121, 3)


def test_what_cannot_be_read_is_a_value_error() -> None:
    for name, data, _ in left_out(4):
        with pytest.raises(ValueError):
            tlkit.preprocess(data, preprocessing(32, "squash"))
            pytest.fail(name)
    with pytest.raises(ValueError, match="version 1"):
        tlkit.preprocess(encode(IMAGE, "PNG"), {"version": 99, "size": 32, "fit": "squash"})


def test_the_reference_imports_no_tensorflow() -> None:
    code = "import sys, tlkit; tlkit.preprocess; assert not {'tensorflow', 'keras'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)
