"""Files as cameras, phones, scanners and editors write them: the pixels that a viewer shows, or the true reason."""

from __future__ import annotations

import io
import resource
import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf
from PIL import Image, ImageCms, ImageDraw, PngImagePlugin

from tests.broken import encode
from tests.conftest import draw
from tlkit import decode_images, scan
from tlkit.cache import Cache
from tlkit.data import looks
from tlkit.data.convert import convert
from tlkit.data.decode import attempt, decode, first_frame
from tlkit.data.decode import header_fault as fault_of
from tlkit.data.headers import Status, examine, why_not
from tlkit.errors import DataError

SEED = 26_400
BYTES = [tf.TensorSpec((), tf.string)]
decoded = tf.function(decode, input_signature=BYTES, autograph=False)
header_fault = tf.function(fault_of, input_signature=BYTES, autograph=False)
attempted = tf.function(lambda data: attempt(first_frame(data)), input_signature=BYTES, autograph=False)


def pixels(data: bytes) -> np.ndarray:
    return decoded(tf.constant(data)).numpy().astype(int)


def noise(width: int, height: int, channels: int = 3) -> np.ndarray:
    return np.random.default_rng(SEED).integers(0, 255, (height, width, channels)).astype("uint8").squeeze()


def chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def notes(data: bytes) -> set[str]:
    verdict = examine(data, look=True)
    assert verdict.status is Status.DECODES, verdict
    return {kind for kind, _ in verdict.notes}


def answers(data: bytes) -> bool:
    """Whether the exported graph would answer, which must not fail."""
    if header_fault(tf.constant(data)).numpy():
        return False
    try:
        return attempted(tf.constant(data)).numpy() == b""
    except tf.errors.OpError:
        return False


# -- GIF --------------------------------------------------------------------------------------------------


def disc() -> Image.Image:
    image = Image.new("RGBA", (64, 64), (0, 0, 0, 0))
    ImageDraw.Draw(image).ellipse((12, 12, 52, 52), fill=(255, 0, 0, 255))
    return image


@pytest.mark.slow
def test_a_transparent_gif_is_laid_over_white_as_a_png_is() -> None:
    gif, png = encode(disc(), "GIF"), encode(disc(), "PNG")
    assert (pixels(gif) == pixels(png)).all()
    assert (pixels(gif)[0, 0] == 255).all() and (pixels(gif)[32, 32] == (255, 0, 0)).all()
    assert notes(gif) == notes(png) == {"transparent"}


def gif(
    screen: tuple[int, int], at: tuple[int, int], frame: np.ndarray, *, more: bytes = b"", last: bytes = b";"
) -> bytes:
    """A GIF with a frame at a place of a screen, with a local palette, and with blocks before and behind it."""
    whole = encode(Image.fromarray(frame).quantize(8), "GIF")
    start = whole.index(b"\x2c\0\0\0\0" + struct.pack("<HH", frame.shape[1], frame.shape[0]))
    flags = whole[10]
    palette = whole[13 : 13 + 3 * 2 ** (flags % 8 + 1)]
    data = whole[start + 10 : -1]
    place = struct.pack("<HHHHB", *at, frame.shape[1], frame.shape[0], whole[start + 9] & 0x40 | 0x80 | flags % 8)
    return b"GIF89a" + struct.pack("<HH", *screen) + b"\x70\0\0" + more + b"\x2c" + place + palette + data + last


@pytest.mark.slow
def test_a_frame_stands_at_its_place_on_the_screen() -> None:
    frame = noise(10, 6)
    shown = pixels(encode(Image.fromarray(frame).quantize(8), "GIF"))
    small = gif((30, 20), (7, 5), frame)
    assert pixels(small).shape == (20, 30, 3)
    assert (pixels(small)[5:11, 7:17] == shown).all()
    outside = np.ones((20, 30), bool)
    outside[5:11, 7:17] = False
    assert (pixels(small)[outside] == 255).all() and notes(small) == {"transparent"}
    beyond = gif((12, 8), (7, 5), frame)  # as Pillow and browsers do, the screen grows
    assert pixels(beyond).shape == (11, 17, 3) and (pixels(beyond)[5:, 7:] == shown).all()


@pytest.mark.slow
def test_a_gif_frame_may_be_anywhere_but_the_screen_has_its_limit() -> None:
    far = gif((10, 10), (60_000, 60_000), noise(10, 6))
    assert header_fault(tf.constant(far)).numpy() == b"60010 x 60006 pixels; at most 50 megapixels are decoded"
    assert examine(far).problem == "too-large" and not answers(far)


@pytest.mark.parametrize("last", [b"", b"\x2c", b"\x2c\0\0", b"\x21", b"\x21\xf9\x04", b"\0\0\0;", b"\x21\xfe\0;"])
def test_what_stands_behind_the_first_frame_does_not_hurt(last: bytes) -> None:
    data, sound = gif((10, 6), (0, 0), noise(10, 6), last=last), gif((10, 6), (0, 0), noise(10, 6))
    assert (pixels(data) == pixels(sound)).all() and answers(data)
    assert examine(data).status is Status.DECODES


@pytest.mark.parametrize(
    "more", [b"\x21\xfe\0", b"\x21\xf9\0", b"\x21\xff\0", b"\0\0", b"\x21\xfe\x01a\0\x21\xff\x02bb\0"]
)
def test_empty_and_stray_blocks_before_a_frame_are_passed(more: bytes) -> None:
    data, sound = gif((10, 6), (0, 0), noise(10, 6), more=more), gif((10, 6), (0, 0), noise(10, 6))
    assert (pixels(data) == pixels(sound)).all() and answers(data)


@pytest.mark.slow
def test_a_folder_with_a_gif_cut_in_its_second_frame_is_read(tmp_path: Path) -> None:
    frames = [Image.new("P", (32, 32), i) for i in (1, 2)]
    for one in frames:
        one.putpalette([0, 0, 0, 255, 0, 0, 0, 255, 0] + [0] * 759)
    whole = encode(frames[0], "GIF", save_all=True, append_images=frames[1:], optimize=False)
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        for i in range(3):
            draw((i * 9, i, ord(name)), SEED + i).save(tmp_path / name / f"{i}.png")
    (tmp_path / "a" / "cut.gif").write_bytes(whole[: whole.rindex(b",") + 1])
    images = decode_images(scan(tmp_path), 32, cache=Cache(0)).images
    assert len(images) == 7 and "a/cut.gif" in set(images.table["path"])


# -- BMP --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("mode", ["1", "P", "L", "RGB", "RGBA"])
@pytest.mark.parametrize("tail", [0, 2, 500])
def test_bytes_behind_the_pixels_of_a_bmp_do_not_matter(mode: str, tail: int) -> None:
    image = Image.fromarray(noise(37, 21)).convert(mode)
    data = bytearray(encode(image, "BMP") + bytes(tail))
    data[2:6] = len(data).to_bytes(4, "little")
    expected = np.asarray(Image.open(io.BytesIO(data)).convert("RGB")).astype(int)
    assert (pixels(bytes(data)) == expected).all() and answers(bytes(data))
    assert examine(bytes(data)).status is Status.DECODES


def bmp_of_4_bits() -> bytes:
    rows = b"".join(bytes([0x12, 0x30, 0, 0]) for _ in range(2))
    palette = b"".join(bytes([10 * i, 20, 30, 0]) for i in range(16))
    head = struct.pack("<IiiHHIIiiII", 40, 3, 2, 1, 4, 0, len(rows), 0, 0, 16, 0)
    return b"BM" + struct.pack("<IHHI", 54 + 64 + len(rows), 0, 0, 54 + 64) + head + palette + rows


def os2_bmp() -> bytes:
    """24 bits a pixel, with the header of 12 bytes, rows padded to 4 bytes."""
    rows = b"\1\2\3\4\5\6\0\0" + b"\7\x08\x09\x0a\x0b\x0c\0\0"
    return b"BM" + struct.pack("<IHHI", 26 + 16, 0, 0, 26) + struct.pack("<IHHHH", 12, 2, 2, 1, 24) + rows


def test_bmps_of_4_bits_and_of_os2() -> None:
    assert pixels(bmp_of_4_bits())[..., 2].tolist() == [[10, 20, 30]] * 2
    assert pixels(os2_bmp()).tolist() == [[[9, 8, 7], [12, 11, 10]], [[3, 2, 1], [6, 5, 4]]]


@pytest.mark.parametrize(
    ("at", "value"),
    [(10, 2**31), (10, 2**32 - 1), (14, 13), (14, 2**31), (18, 2**31 - 1), (18, 2**32 - 1), (22, 2**31), (28, 7)],
)
def test_a_bmp_whose_header_lies_is_refused_and_does_not_fail_its_batch(at: int, value: int) -> None:
    data = bytearray(encode(Image.fromarray(noise(20, 20)), "BMP"))
    data[at : at + 4] = struct.pack("<I", value)
    assert not answers(bytes(data)) and examine(bytes(data)).status is not Status.DECODES


# -- PNG --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("what", ["text", "profile"])
@pytest.mark.slow
def test_large_text_and_profiles_do_not_matter(what: str) -> None:
    image = Image.linear_gradient("L")
    info = PngImagePlugin.PngInfo()
    info.add_itxt("XML:com.adobe.xmp", "x" * 1_100_000, zip=True)
    data = encode(image, "PNG", **({"pnginfo": info} if what == "text" else {"icc_profile": bytes(1_100_000)}))
    assert (pixels(data)[..., 0] == np.asarray(image)).all() and answers(data)
    assert notes(data) == {"grey"}


@pytest.mark.parametrize("where", ["before", "behind", "instead"])
@pytest.mark.parametrize("kind", [b"tEXt", b"IDAT", b"abCd"])
def test_a_chunk_that_is_longer_than_the_file_takes_no_memory(where: str, kind: bytes) -> None:
    whole = encode(Image.fromarray(noise(20, 20)), "PNG")
    lie = struct.pack(">I", 0x7FFFFFFF) + kind + bytes(10)
    data = {
        "before": whole[:33] + lie + whole[33:],
        "behind": whole[:-12] + lie + whole[-12:],
        "instead": whole[:33] + lie,
    }
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    assert b"chunk is longer than the file" in header_fault(tf.constant(data[where])).numpy()
    with pytest.raises(tf.errors.InvalidArgumentError):
        pixels(data[where])
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss < before + 200_000  # KiB
    assert why_not(data[where]) == ("truncated", "a chunk is longer than the file")


def test_a_png_of_many_chunks_is_walked_in_runs() -> None:
    whole = encode(Image.fromarray(noise(100, 100)), "PNG")
    size = int.from_bytes(whole[33:37], "big")
    data = whole[41 : 41 + size]
    parts = b"".join(chunk(b"IDAT", data[at : at + 16]) for at in range(0, size, 16))  # thousands
    split = whole[:33] + chunk(b"tEXt", b"a\0b") + parts + whole[-12:]
    assert (pixels(split) == pixels(whole)).all() and answers(split)


def test_a_png_of_an_ios_app_is_named() -> None:
    whole = encode(Image.linear_gradient("L"), "PNG")
    data = whole[:8] + chunk(b"CgBI", b"\x50\x00\x20\x06") + whole[8:]
    assert header_fault(tf.constant(data)).numpy() == b"a PNG of an iOS app (CgBI) is not read"
    kind, detail = why_not(data)
    assert kind == "unsupported-format" and "iOS app (CgBI)" in detail


def test_alpha_without_a_transparent_pixel_is_no_problem() -> None:
    opaque = noise(50, 50, 4)
    opaque[..., 3] = 255
    for kind in ("PNG", "WEBP"):
        assert notes(encode(Image.fromarray(opaque), kind, lossless=True)) == set()
        assert notes(encode(Image.fromarray(noise(50, 50, 4)), kind, lossless=True)) == {"transparent"}
    unused = Image.fromarray(noise(50, 50)).quantize(8)
    assert notes(encode(unused, "PNG", transparency=9)) == set()


@pytest.mark.parametrize("bits", [1, 2, 4, 8, 16])
def test_a_transparent_colour_of_grey_is_white_at_every_depth(bits: int) -> None:
    """The colour is a sample as stored: of 2 bits, 1 is 85 of 255."""
    packed = sum((i % 2) << bits * (7 - i) for i in range(8)).to_bytes(bits, "big")  # 0, 1, 0, 1 ...
    head, key = struct.pack(">IIBBBBB", 8, 1, bits, 0, 0, 0, 0), struct.pack(">H", 1)
    parts = ((b"IHDR", head), (b"tRNS", key), (b"IDAT", zlib.compress(b"\0" + packed)), (b"IEND", b""))
    data = b"\x89PNG\r\n\x1a\n" + b"".join(chunk(*part) for part in parts)
    assert pixels(data)[0, :, 0].tolist() == [0, 255] * 4
    assert "transparent" in notes(data)


# -- JPEG -------------------------------------------------------------------------------------------------


def jpeg(**settings: object) -> bytes:
    return encode(Image.linear_gradient("L").resize((48, 32)).convert("RGB"), "JPEG", **settings)


@pytest.mark.parametrize("stray", [b"\x12", b"\0\xff\0\x34", b"\xff\xff\xff", b"a" * 9000], ids=range(4))
def test_stray_bytes_between_segments_are_passed(stray: bytes) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    whole = jpeg(exif=exif)
    end = 2 + 2 + int.from_bytes(whole[4:6], "big")  # of the first segment
    data = whole[:end] + stray + whole[end:]
    assert (pixels(data) == pixels(whole)).all() and answers(data)
    assert notes(data) == {"exif-rotated"}


@pytest.mark.parametrize(
    ("marker", "bits", "words"),
    [(0xC0, 12, "12 bits"), (0xC3, 8, "lossless"), (0xC3, 12, "lossless"), (0xC5, 8, "hier")],
)
def test_a_jpeg_of_a_kind_that_is_not_read_is_named(marker: int, bits: int, words: str) -> None:
    data = bytearray(jpeg())
    at = data.index(b"\xff\xc0")
    data[at + 1], data[at + 4] = marker, bits
    verdict = examine(bytes(data))
    assert verdict.problem == "unsupported-format" and words in verdict.reason
    assert words in header_fault(tf.constant(bytes(data))).numpy().decode()


# -- orientation ------------------------------------------------------------------------------------------

XMP = b'<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:Description tiff:Orientation="%d"/></x:xmpmeta>'


@pytest.mark.parametrize("orientation", [2, 3, 6, 8])
@pytest.mark.parametrize("where", ["exif", "xmp", "behind"])
@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP"])
def test_every_format_is_turned_upright(kind: str, where: str, orientation: int) -> None:
    if where == "behind" and kind != "PNG":
        return
    image = Image.fromarray(noise(24, 16))
    exif = Image.Exif()
    exif[0x0112] = orientation
    settings: dict[str, object] = {"lossless": True} if kind == "WEBP" else {}
    plain = encode(image, kind, **settings)
    if where == "exif":
        settings["exif"] = exif
    elif where == "xmp" and kind == "PNG":
        settings["pnginfo"] = PngImagePlugin.PngInfo()
        settings["pnginfo"].add_itxt("XML:com.adobe.xmp", (XMP % orientation).decode())
    elif where == "xmp":
        settings["xmp"] = XMP % orientation
    data = encode(image, kind, **settings)
    if where == "behind":
        data = data[:-12] + chunk(b"eXIf", exif.tobytes().removeprefix(b"Exif\0\0")) + data[-12:]
    turns = {2: lambda x: x[:, ::-1], 3: lambda x: x[::-1, ::-1], 6: lambda x: np.rot90(x, -1), 8: np.rot90}
    assert (pixels(data) == turns[orientation](pixels(plain))).all()
    assert notes(data) == {"exif-rotated"}


# -- colour -----------------------------------------------------------------------------------------------


def fixed(*values: float) -> bytes:
    return struct.pack(f">{len(values)}i", *(round(value * 65536) for value in values))


def profile(colorants: tuple[tuple[float, ...], ...], curve: bytes, space: bytes = b"RGB ") -> bytes:
    """An ICC profile of a matrix and curves (or of tables, if `curve` is empty)."""
    tags = [(b"wtpt", b"XYZ " + bytes(4) + fixed(0.9642, 1, 0.8249))]
    if not curve:
        tags += [(b"A2B0", b"mft2" + bytes(60))]
    elif space == b"GRAY":
        tags += [(b"kTRC", curve)]
    else:
        names = (b"rXYZ", b"gXYZ", b"bXYZ")
        tags += [(name, b"XYZ " + bytes(4) + fixed(*one)) for name, one in zip(names, colorants, strict=True)]
        tags += [(name, curve) for name in (b"rTRC", b"gTRC", b"bTRC")]
    body = table = b""
    for name, tag in tags:
        table += name + struct.pack(">II", 132 + 12 * len(tags) + len(body), len(tag))
        body += tag + bytes(-len(tag) % 4)
    start = bytes(4) + struct.pack(">I", 0x02400000) + b"mntr" + space + b"XYZ " + bytes(12) + b"acsp" + bytes(28)
    rest = start + fixed(0.9642, 1, 0.8249) + bytes(48) + struct.pack(">I", len(tags)) + table + body
    return struct.pack(">I", 4 + len(rest)) + rest


P3 = ((0.51512, 0.2412, -0.00105), (0.29198, 0.69225, 0.04189), (0.1571, 0.06657, 0.78407))
ADOBE = ((0.60974, 0.31111, 0.01947), (0.20528, 0.62567, 0.06087), (0.14919, 0.06322, 0.74457))
PROPHOTO = ((0.79767, 0.28804, 0), (0.13519, 0.71188, 0), (0.03134, 0.00009, 0.82491))
FUNCTION = b"para" + bytes(4) + struct.pack(">HH", 3, 0) + fixed(2.4, 1 / 1.055, 0.055 / 1.055, 1 / 12.92, 0.04045)
GAMMA = b"curv" + bytes(4) + struct.pack(">IH", 1, 563)
TABLE = b"curv" + bytes(4) + struct.pack(">I", 512) + (np.linspace(0, 1, 512) ** 1.8 * 65535).astype(">u2").tobytes()


@pytest.mark.parametrize("kind", ["PNG", "WEBP", "JPEG"])
@pytest.mark.parametrize(
    ("colorants", "curve"), [(P3, FUNCTION), (ADOBE, GAMMA), (PROPHOTO, TABLE)], ids=["P3", "Adobe", "ProPhoto"]
)
def test_a_matrix_profile_is_converted_as_little_cms_does(
    kind: str, colorants: tuple[tuple[float, ...], ...], curve: bytes
) -> None:
    icc = profile(colorants, curve)
    image = Image.fromarray(noise(6, 4)).resize((24, 16), Image.Resampling.BICUBIC)
    settings = {"quality": 100, "subsampling": 0} if kind == "JPEG" else {"lossless": True}
    plain = Image.fromarray(pixels(encode(image, kind, **settings)).astype("uint8"))
    data = encode(image, kind, icc_profile=icc, **settings)
    wanted = ImageCms.profileToProfile(plain, ImageCms.ImageCmsProfile(io.BytesIO(icc)), ImageCms.createProfile("sRGB"))
    assert np.abs(np.asarray(wanted).astype(int) - np.asarray(plain)).max() > 20
    assert np.abs(pixels(data) - np.asarray(wanted).astype(int)).max() <= 2
    assert notes(data) == {"colour-profile"} and answers(data)


def test_srgb_changes_no_pixel_and_is_not_named() -> None:
    image, icc = Image.fromarray(noise(24, 16)), ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    for kind in ("PNG", "JPEG"):
        assert (pixels(encode(image, kind, icc_profile=icc)) == pixels(encode(image, kind))).all()
        assert notes(encode(image, kind, icc_profile=icc)) == set()


def test_a_grey_profile_is_converted_by_its_curve() -> None:
    image = Image.linear_gradient("L").resize((8, 256))
    data = encode(image, "PNG", icc_profile=profile((), TABLE, b"GRAY"))
    linear = (np.arange(256) / 255) ** 1.8
    encoded = np.where(linear <= 0.0031308, 12.92 * linear, 1.055 * linear ** (1 / 2.4) - 0.055)
    assert np.abs(pixels(data)[:, 0, 1] - (255 * encoded)[np.asarray(image)[:, 0]]).max() <= 1.5


@pytest.mark.parametrize("kind", ["PNG", "WEBP", "JPEG"])
def test_a_profile_of_tables_is_refused_by_the_graph_and_converted_by_pillow(kind: str) -> None:
    for icc in (profile((), b""), profile((), b"") + np.random.default_rng(SEED).bytes(70_000)):
        data = encode(Image.fromarray(noise(24, 16)), kind, icc_profile=icc)
        assert not answers(data)
        assert examine(data).status is Status.CONVERT and "tables" in examine(data).reason


@pytest.mark.parametrize("icc", [b"junk", bytes(131), profile(P3, FUNCTION)[:200], profile(P3, b"curv")], ids=range(4))
def test_a_broken_profile_fails_nothing(icc: bytes) -> None:
    for kind in ("PNG", "WEBP", "JPEG"):
        data = encode(Image.fromarray(noise(24, 16)), kind, icc_profile=icc)
        assert pixels(data).shape == (16, 24, 3) and answers(data)
        assert examine(data, look=True).status is Status.DECODES


def test_a_png_whose_profile_does_not_unpack_is_left_to_pillow() -> None:
    data = encode(Image.fromarray(noise(24, 16)), "PNG")
    data = data[:33] + chunk(b"iCCP", b"a\0\0not zlib") + data[33:]
    assert not answers(data) and examine(data).status is Status.CONVERT


# -- depth ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(  # each depth is a decoder that is traced
    ("factor", "depth"),
    [(16, 12), (257, 16), *(pytest.param(*one, marks=pytest.mark.slow) for one in ((1, 8), (4, 10), (64, 14)))],
)
def test_16_bits_are_scaled_by_those_that_the_set_uses(tmp_path: Path, factor: int, depth: int) -> None:
    grey = np.random.default_rng(SEED + 1).integers(0, 256, (3, 32, 32)).astype("uint16")
    grey[:, 0, 0] = 255
    for i, values in enumerate(grey):
        (tmp_path / "ab"[i % 2]).mkdir(exist_ok=True)
        Image.fromarray(values * factor).save(tmp_path / "ab"[i % 2] / f"{i}.png")
    images = scan(tmp_path)
    assert images.depth == depth
    details = images.problems.set_index("problem").loc["16-bit", "detail"]
    assert all((f"{depth} bits" in one) == (depth < 16) for one in details)
    if depth != 12:  # the others by the decoder alone
        data = tf.constant((tmp_path / "a" / "0.png").read_bytes())
        assert (decode(data, depth=depth).numpy() == grey[0][..., None]).all()
        return
    dataset = decode_images(images, 32, cache=Cache(0))
    seen = dataset.pixels.of(dataset.images).gather(slice(None))
    order = [int(Path(path).stem) for path in dataset.images.table["path"]]
    assert (seen == grey[order][..., None]).all()


def deep_rgb(values: np.ndarray) -> bytes:
    """A PNG of 16 bits a channel: RGB or RGBA, which Pillow does not write."""
    height, width, channels = values.shape
    head = struct.pack(">IIBBBBB", width, height, 16, {3: 2, 4: 6}[channels], 0, 0, 0)
    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in values)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")


@pytest.mark.slow
def test_rgb_of_16_bits_is_scaled_as_grey_is_and_its_alpha_is_not(tmp_path: Path) -> None:
    colour = noise(20, 16).astype("uint16")
    colour[0, 0] = 255
    alpha = np.full((16, 20, 1), 65_535, "uint16")
    alpha[:8] = 0
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "0.png").write_bytes(deep_rgb(colour * 16))
    (tmp_path / "a" / "1.png").write_bytes(deep_rgb(np.concatenate([colour * 16, alpha], 2)))
    assert scan(tmp_path).depth == 12
    opaque, half = (decode(tf.constant((tmp_path / "a" / f"{i}.png").read_bytes()), depth=12).numpy() for i in (0, 1))
    assert (opaque == colour).all()
    assert (half[8:] == colour[8:]).all() and (half[:8] == 255).all()
    brighter = decode(tf.constant(deep_rgb(np.full((4, 4, 3), 60_000, "uint16"))), depth=12).numpy()
    assert (brighter == 255).all(), "a later image that uses more bits is white there, never wrapped around"


# -- images that show nothing -------------------------------------------------------------------------------


def test_images_of_one_colour_are_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    said: list[str] = []
    monkeypatch.setattr(looks.log, "warning", said.append)
    for i in range(6):
        (tmp_path / "ab"[i % 2]).mkdir(exist_ok=True)
        white = np.full((32, 32, 4), 255, "uint8")
        white[..., 3] = np.random.default_rng(SEED + i).integers(0, 255, (32, 32))
        Image.fromarray(white).save(tmp_path / "ab"[i % 2] / f"{i}.png")
    for cache in (Cache(0), Cache(0)):
        found = decode_images(scan(tmp_path), 32, cache=cache).images.problems
        assert (found["problem"] == "one-colour").sum() == 6
    assert len(said) == 2 and said[0].startswith("6 of 6 images are of one colour after decoding")
    with pytest.raises(DataError, match="transparent"):
        scan(tmp_path, strict=True)


def test_files_that_differ_and_images_that_do_not_are_named(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    for i in range(3):
        info = PngImagePlugin.PngInfo()
        info.add_text("number", str(i))
        draw((90, 30, 60), SEED).save(tmp_path / "a" / f"{i}.png", pnginfo=info)
    draw((9, 130, 60), SEED + 1).save(tmp_path / "a" / "other.png")
    found = decode_images(scan(tmp_path), 32).images.problems
    again = decode_images(scan(tmp_path), 32).images.problems
    assert found["problem"].tolist() == again["problem"].tolist() == ["equal-pixels"] * 2
    assert set(found["detail"]) == {"decoded, it equals a/0.png"}
    draw((9, 130, 60), SEED + 2).save(tmp_path / "a" / "new.png")
    full = decode_images(scan(tmp_path), 32, cache=Cache(0)).images.problems  # some are cached, and no more can be
    assert full["problem"].tolist() == ["equal-pixels"] * 2


# -- a batch ----------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_one_bad_file_never_fails_the_batch_of_the_export(tmp_path: Path) -> None:
    import keras

    from tlkit.deployment.saved_model import export

    inputs = keras.Input((16, 16, 3))
    outputs = keras.layers.Dense(2, activation="softmax")(keras.layers.GlobalAveragePooling2D()(inputs))
    export(keras.Model(inputs, outputs), ["a", "b"], tmp_path / "m", depth=12)
    serve = tf.saved_model.load(str(tmp_path / "m")).signatures["serving_default"]
    lies = bytearray(encode(Image.fromarray(noise(20, 20)), "BMP"))
    lies[10:14] = b"\xff\xff\xff\x7f"
    whole = encode(Image.fromarray(noise(20, 20)), "PNG")
    tables = encode(Image.fromarray(noise(24, 16)), "PNG", icc_profile=profile((), b""))
    files = {
        "good": whole,
        "bmp": bytes(lies),
        "chunk": whole[:33] + struct.pack(">I", 0x7FFFFFFF) + b"tEXt" + bytes(10),
        "tables": tables,
        "profile": whole[:33] + chunk(b"iCCP", b"a\0\0not zlib") + whole[33:],
        "gif": gif((30, 20), (7, 5), noise(10, 6)),
        "cut": gif((30, 20), (7, 5), noise(10, 6))[:-30],
        "p3": encode(Image.fromarray(noise(24, 16)), "JPEG", icc_profile=profile(P3, FUNCTION)),
    }
    reply = serve(image_bytes=tf.constant(list(files.values())))
    problems = dict(zip(files, (one.decode() for one in reply["problem"].numpy()), strict=True))
    assert [name for name in files if not problems[name]] == ["good", "gif", "p3"]
    assert problems["tables"] == "a colour profile of tables is not read"
    assert problems["chunk"] == "truncated: a chunk is longer than the file"


def test_what_stands_behind_the_end_of_an_image_does_not_matter() -> None:
    """As the film behind a phone's motion photo. A cut file is named, whatever end marker its thumbnail has."""
    photo = draw((90, 140, 60), 27_100)
    film, thumbnail = bytes(9_000), b"\xff\xe1\x00\x0eExif\x00\x00\xff\xd8\xff\xd9\x00\x00"
    for kind in ("JPEG", "PNG"):
        data = encode(photo, kind)
        assert notes(data + film) == notes(data) and answers(data + film)
        assert (pixels(data + film) == pixels(data)).all()
    jpeg = encode(photo, "JPEG")
    jpeg = jpeg[:2] + thumbnail + jpeg[2:]
    assert why_not(jpeg + film) == ("corrupt", "the jpeg data do not decode")
    assert why_not(jpeg[: len(jpeg) * 2 // 3])[0] == "truncated" == why_not(jpeg[:20])[0]


def test_a_profile_for_grey_says_nothing_of_an_image_with_colours() -> None:
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    curve = b"curv" + struct.pack(">IIH", 0, 1, 256) + bytes(2)
    grey = (
        struct.pack(">I", 160)
        + profile[4:16]
        + b"GRAY"
        + profile[20:128]
        + struct.pack(">I4sII", 1, b"kTRC", 144, len(curve))
        + curve
    )
    photo = draw((90, 140, 60), 27_101)
    for kind in ("PNG", "JPEG", "WEBP"):
        options = {"lossless": True} if kind == "WEBP" else {}
        data = encode(photo, kind, icc_profile=grey, **options)
        assert "colour-profile" not in notes(data)
        assert (pixels(data) == pixels(encode(photo, kind, **options))).all()
    assert "colour-profile" in notes(encode(photo.convert("L"), "PNG", icc_profile=grey))


def test_cmyk_is_inverted_with_and_without_the_marker_of_adobe() -> None:
    inks = encode(draw((90, 140, 60), 27_102).convert("CMYK"), "JPEG")
    at = inks.index(b"\xff\xee")
    plain = inks[:at] + inks[at + 2 + int.from_bytes(inks[at + 2 : at + 4], "big") :]
    assert (pixels(plain) == pixels(inks)).all() and answers(plain)


def test_a_profile_that_ends_early_is_passed_over() -> None:
    photo = draw((90, 140, 60), 27_103)
    profile = zlib.compress(ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes())
    png = encode(photo, "PNG")
    for kept in (60, 200):
        data = png[:33] + chunk(b"iCCP", b"name\0\0" + profile[:kept]) + png[33:]
        assert notes(data) == set() and answers(data)
        assert (pixels(data) == pixels(png)).all()


def test_a_png_of_more_chunks_than_the_graph_walks_is_converted() -> None:
    png = encode(draw((90, 140, 60), 27_104), "PNG")
    for runs, status in ((4_000, Status.DECODES), (4_200, Status.CONVERT)):
        data = png[:33] + (chunk(b"tEXt", b"a\0") + chunk(b"tEXt", b"a\0b")) * (runs // 2) + png[33:]
        assert examine(data).status is status
    assert (pixels(convert(data)) == pixels(png)).all()


def test_a_bmp_whose_header_forgets_the_palette_is_shown_as_it_is() -> None:
    whole = encode(Image.fromarray(noise(40, 30)).quantize(64), "BMP")
    for begin in (0, 54):
        data = whole[:10] + begin.to_bytes(4, "little") + whole[14:]
        assert answers(data) and (pixels(data) == pixels(whole)).all() and notes(data) == notes(whole)


def test_a_bmp_may_lack_the_padding_of_its_last_row() -> None:
    photo = draw((90, 140, 60), 27_105, size=39)
    for image in (photo, photo.quantize(16), photo.convert("1")):
        data = encode(image, "BMP")
        row = -(-39 * {"RGB": 24, "P": 4, "1": 1}[image.mode] // 8) if image.mode != "P" else 39
        cut = data[: len(data) - -row % 4]
        assert notes(cut) == notes(data) and answers(cut) and (pixels(cut) == pixels(data)).all()
        assert why_not(cut[:-1])[0] == "truncated" and not answers(cut[:-1])
