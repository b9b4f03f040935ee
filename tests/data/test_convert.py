"""Formats that only Pillow reads: what they become, what they are called, and that nothing of Pillow's escapes."""

from __future__ import annotations

import contextlib
import io
import struct
import sys
import tracemalloc
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import tensorflow as tf
from PIL import Image, ImageOps

import tlkit.data.convert as convert_module
from tests.broken import encode
from tests.conftest import draw
from tests.heic import BLUE, RED
from tlkit.data.convert import Unreadable, convert, needs_conversion, read_header
from tlkit.data.decode import decode
from tlkit.data.foreign import HEIC, foreign
from tlkit.data.images import ImageSet
from tlkit.data.scan import scan
from tlkit.errors import DataError

IMAGE = draw((120, 90, 60), 26500, 60).resize((60, 40))
DEEP = Image.fromarray((np.arange(2400).reshape(40, 60) * 27).astype("uint16"))
GLASS = IMAGE.copy()
GLASS.putalpha(Image.fromarray(np.tile(np.arange(60) * 4, (40, 1)).astype("uint8")))
OVER_WHITE = Image.alpha_composite(Image.new("RGBA", IMAGE.size, "white"), GLASS).convert("RGB")
PALETTE, GREY, BITS = IMAGE.quantize(17), IMAGE.convert("L"), IMAGE.convert("1")


def converted(data: bytes) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(convert(data)))).astype(int)


def why(data: bytes) -> tuple[str, str]:
    with pytest.raises(Unreadable) as caught:
        convert(data)
    return caught.value.kind, caught.value.detail


LOSSLESS = [  # (format, file, pixels)
    ("tiff", encode(IMAGE, "TIFF"), IMAGE),
    ("tiff", encode(IMAGE, "TIFF", compression="tiff_lzw"), IMAGE),
    ("tiff", encode(IMAGE, "TIFF", compression="tiff_adobe_deflate"), IMAGE),
    ("tiff", encode(IMAGE, "TIFF", compression="packbits"), IMAGE),
    ("tiff", encode(IMAGE, "TIFF", big_tiff=True), IMAGE),
    ("tiff", encode(IMAGE, "TIFF", save_all=True, append_images=[IMAGE.rotate(90)]), IMAGE),
    ("tiff", encode(GREY, "TIFF"), GREY),
    ("tiff", encode(BITS, "TIFF", compression="group4"), BITS.convert("L")),
    ("tiff", encode(PALETTE, "TIFF"), PALETTE.convert("RGB")),
    ("tiff", encode(GLASS, "TIFF"), OVER_WHITE),
    ("tiff", encode(IMAGE.convert("CMYK"), "TIFF"), IMAGE.convert("CMYK").convert("RGB")),
    ("tiff", encode(DEEP, "TIFF"), DEEP),
    ("tiff", encode(DEEP, "TIFF", compression="tiff_lzw"), DEEP),
    ("jpeg2000", encode(IMAGE, "JPEG2000"), IMAGE),
    ("jpeg2000", encode(IMAGE, "JPEG2000", no_jp2=True), IMAGE),
    ("jpeg2000", encode(DEEP, "JPEG2000"), DEEP),
    ("pnm", encode(IMAGE, "PPM"), IMAGE),
    ("pnm", encode(GREY, "PPM"), GREY),
    ("pnm", encode(DEEP, "PPM"), DEEP),
    ("tga", encode(IMAGE, "TGA"), IMAGE),
    ("tga", encode(GLASS, "TGA", compression="tga_rle"), OVER_WHITE),
    ("tga", encode(PALETTE, "TGA"), PALETTE.convert("RGB")),
    ("sgi", encode(IMAGE, "SGI"), IMAGE),
    ("pcx", encode(IMAGE, "PCX"), IMAGE),
    ("pcx", encode(PALETTE, "PCX"), PALETTE.convert("RGB")),
    ("ico", encode(GLASS, "ICO", sizes=[GLASS.size]), OVER_WHITE),
    ("ico", encode(GLASS, "ICO", sizes=[GLASS.size], bitmap_format="bmp"), OVER_WHITE),
    ("qoi", encode(GLASS, "QOI"), OVER_WHITE),
]
NAMED = [f"{kind}-{i}" for i, (kind, _, _) in enumerate(LOSSLESS)]


@pytest.mark.parametrize(("kind", "data", "expected"), LOSSLESS, ids=NAMED)
def test_pixels_are_kept_exactly(kind: str, data: bytes, expected: Image.Image) -> None:
    header = read_header(data)
    assert (header.format, header.width, header.height) == (kind, *expected.size)
    assert needs_conversion(data) and not needs_conversion(convert(data))
    assert (converted(data) == np.asarray(expected).astype(int)).all()


@pytest.mark.parametrize(("kind", "data", "expected"), LOSSLESS, ids=NAMED)
def test_a_file_without_its_end_is_called_truncated(kind: str, data: bytes, expected: Image.Image) -> None:
    assert why(data[: 200 if read_header(data).detail.count("pages") else len(data) * 6 // 10])[0] == "truncated"


def test_what_the_model_decodes_stays_as_it_is() -> None:
    for kind in ("JPEG", "PNG", "GIF", "BMP", "WEBP"):
        data = encode(IMAGE, kind)
        assert convert(data) is data
    assert convert(b"junk") == b"junk"


@pytest.mark.parametrize("orientation", range(1, 9))
def test_the_orientation_is_applied(orientation: int) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    upright = ImageOps.exif_transpose(Image.open(io.BytesIO(encode(IMAGE, "PNG", exif=exif))))
    for compression in (None, "tiff_lzw"):
        data = encode(IMAGE, "TIFF", exif=exif, compression=compression)
        assert (converted(data) == np.asarray(upright)).all()
    deep = converted(encode(DEEP, "TIFF", exif=exif))
    turned = ImageOps.exif_transpose(Image.open(io.BytesIO(encode(GREY, "PNG", exif=exif))))
    assert deep.shape == turned.size[::-1]
    avif = converted(encode(IMAGE.resize((240, 160)), "AVIF", exif=exif, quality=100))
    assert np.abs(avif - np.asarray(upright.resize(avif.shape[1::-1]))).mean() < 4


@pytest.mark.parametrize("orientation", range(1, 9))
def test_blocks_of_rows_are_put_together_upright(orientation: int, monkeypatch: pytest.MonkeyPatch) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    data = encode(GLASS, "AVIF", exif=exif)
    whole = converted(data)
    monkeypatch.setattr(sys.modules["tlkit.data.convert"], "_BLOCK", 150)  # three rows, and a last block of one
    assert (converted(data) == whole).all()
    upright = ImageOps.exif_transpose(Image.open(io.BytesIO(data)))
    over_white = Image.alpha_composite(Image.new("RGBA", upright.size, "white"), upright)
    assert np.abs(whole - np.asarray(over_white)[..., :3]).max() <= 1


def test_a_bigtiff_in_the_other_byte_order_is_named() -> None:
    kind, detail = why(b"MM\x00\x2b\x00\x08\x00\x00" + bytes(7) + b"\x10" + bytes(40))
    assert kind == "unsupported-format" and "big-endian" in detail


@pytest.mark.parametrize("seed", range(40))
def test_a_damaged_file_is_named_however_it_is_damaged(seed: int) -> None:
    """Whatever bytes of the header are wrong, nothing but Unreadable comes out."""
    random = np.random.default_rng(seed)
    for _, data, _ in LOSSLESS[seed % 2 :: 4]:
        damaged = np.frombuffer(data, "uint8").copy()
        places = random.integers(4, min(len(data), 200), 6)
        damaged[places] = random.integers(0, 256, 6)
        with contextlib.suppress(Unreadable):
            convert(damaged.tobytes())


def test_a_large_image_is_converted_without_a_second_copy() -> None:
    data = encode(Image.radial_gradient("L").resize((3000, 3000)).convert("RGB"), "TIFF", compression="tiff_lzw")
    tracemalloc.start()
    convert(data)
    peak = tracemalloc.get_traced_memory()[1]  # of NumPy and of bytes, without Pillow's image
    tracemalloc.stop()
    assert peak < 20_000_000  # a copy takes 27


def tiff_of_16_bits(values: np.ndarray, order: str) -> bytes:
    """An uncompressed TIFF of uint16 values, shape (height, width, channels)."""
    height, width, channels = values.shape
    head = 8 + 2 + 12 * 10 + 4 + 2 * channels
    tags = [
        (256, 3, 1, width),
        (257, 3, 1, height),
        (258, 3, channels, head - 2 * channels),
        (259, 3, 1, 1),
        (262, 3, 1, 2),
        (273, 4, 1, head),
        (277, 3, 1, channels),
        (278, 3, 1, height),
        (279, 4, 1, values.nbytes),
        (338, 3, 1, 2),
    ]
    tags = tags if channels == 4 else [*tags[:-1], (284, 3, 1, 1)]
    entry = lambda tag, kind, count, value: struct.pack(  # noqa: E731
        f"{order}HHI" + ("HH" if kind == 3 and count == 1 else "I"),
        tag,
        kind,
        count,
        *((value, 0) if kind == 3 and count == 1 else (value,)),
    )
    body = struct.pack(f"{order}H", len(tags)) + b"".join(entry(*tag) for tag in tags) + bytes(4)
    bits = struct.pack(f"{order}{channels}H", *[16] * channels)
    magic = b"II*\x00" if order == "<" else b"MM\x00*"
    return magic + struct.pack(f"{order}I", 8) + body + bits + values.astype(f"{order}u2").tobytes()


@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.slow
def test_colours_of_16_bits_keep_their_lower_byte(order: str) -> None:
    values = np.random.default_rng(26501).integers(0, 4096, (20, 30, 3))
    png = tf.io.decode_png(convert(tiff_of_16_bits(values, order)), dtype=tf.uint16).numpy()
    assert (png == values).all()
    glass = np.concatenate([values, np.full((20, 30, 1), 65_535)], axis=2)
    glass[:10, :, 3] = 0
    png = convert(tiff_of_16_bits(glass, order))
    assert (tf.io.decode_png(png, dtype=tf.uint16).numpy() == glass).all()
    seen = decode(tf.constant(png), depth=12).numpy()
    assert (seen[:10] == 255).all() and (seen[10:] == values[10:] // 16).all()


def test_white_may_be_zero() -> None:
    data = bytearray(encode(DEEP, "TIFF"))
    at = data.index(struct.pack("<HHI", 262, 3, 1))
    data[at + 8] = 0
    assert (converted(bytes(data)) == 65_535 - np.asarray(DEEP).astype(int)).all()


def bmp(bits: int, compression: int, extra: bytes, pixels: bytes) -> bytes:
    """A BMP of 4 x 2 pixels; extra: masks or a palette."""
    info = struct.pack("<IiiHHIIiiII", 40, 4, 2, 1, bits, compression, len(pixels), 0, 0, len(extra) // 4, 0)
    begin = 54 + len(extra)
    return b"BM" + struct.pack("<IHHI", begin + len(pixels), 0, 0, begin) + info + extra + pixels


def test_kinds_of_bmp_and_webp_that_the_graph_refuses_are_converted() -> None:
    moving = encode(IMAGE, "WEBP", save_all=True, append_images=[IMAGE.rotate(90)], lossless=True)
    assert (converted(moving) == np.asarray(IMAGE)).all() and "first of several" in read_header(moving).detail
    masks = struct.pack("<III", 0xF800, 0x07E0, 0x001F)
    fields = bmp(16, 3, masks, struct.pack("<8H", *[0xF800] * 4, *[0x001F] * 4))
    assert (converted(fields)[0] == (0, 0, 255)).all() and (converted(fields)[1] == (255, 0, 0)).all()
    runs = bmp(8, 1, struct.pack("<2I", 0x0000FF00, 0x00FF0000), b"\x04\x00\x00\x00\x04\x01\x00\x01")
    assert (converted(runs)[1] == (0, 255, 0)).all() and (converted(runs)[0] == (255, 0, 0)).all()


def test_kinds_of_jpeg_that_pillow_cannot_read_either_are_named() -> None:
    data = bytearray(encode(IMAGE, "JPEG"))
    data[data.index(b"\xff\xc0") + 4] = 12
    assert why(bytes(data))[0] == "unsupported-format" and "12 bits" in why(bytes(data))[1]


def table_profile() -> bytes:
    """An ICC profile of tables (lut8Type) that takes red for blue: its two steps each way give CIE L*a*b* of sRGB."""
    corners = {  # (red, green, blue) of sRGB -> L*a*b* for D50, encoded in 8 bits
        (0, 0, 0): (0, 128, 128),
        (1, 0, 0): (138, 209, 198),
        (0, 1, 0): (224, 49, 209),
        (0, 0, 1): (75, 196, 16),
        (1, 1, 0): (249, 112, 221),
        (0, 1, 1): (231, 77, 113),
        (1, 0, 1): (154, 222, 67),
        (1, 1, 1): (255, 128, 128),
    }
    grid = b"".join(bytes(corners[b, g, r]) for r in (0, 1) for g in (0, 1) for b in (0, 1))
    unit = struct.pack(">9i", 65536, 0, 0, 0, 65536, 0, 0, 0, 65536)
    table = b"mft1" + bytes(4) + bytes((3, 3, 2, 0)) + unit + bytes(range(256)) * 3 + grid + bytes(range(256)) * 3
    white = b"XYZ " + bytes(4) + struct.pack(">3i", 63190, 65536, 54061)
    at = 128 + 4 + 24
    tags = struct.pack(">I4sII4sII", 2, b"wtpt", at, len(white), b"A2B0", at + len(white), len(table))
    head = struct.pack(">I4sI4s4s4s", at + len(white) + len(table), bytes(4), 0x02400000, b"scnr", b"RGB ", b"Lab ")
    head += bytes(12) + b"acsp" + bytes(28) + struct.pack(">3i", 63190, 65536, 54061)
    return head + bytes(128 - len(head)) + tags + white + table


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "TIFF", "WEBP"])
def test_profiles_of_tables_are_converted(kind: str) -> None:
    data = encode(Image.new("RGB", (16, 16), (255, 0, 0)), kind, icc_profile=table_profile())
    assert needs_conversion(data) and "colour profile" in read_header(data).detail
    assert np.abs(converted(data)[8, 8] - (0, 0, 255)).max() < 12


def test_heic_is_read_by_its_extra_and_named_without_it(monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as without:
        without.setitem(sys.modules, "pi_heif", None)
        assert why(RED) == ("unsupported-format", 'HEIC: install what reads it with `pip install "tlkit[heic]"`')
    pytest.importorskip("pi_heif")
    for data, colour in ((RED, (220, 40, 30)), (BLUE, (30, 40, 220))):
        pixels = converted(data)
        assert pixels.shape == (48, 64, 3) and np.abs(pixels[40, 60] - colour).max() < 6
        assert pixels[5, 5].min() > 245 and read_header(data).format == "heic"
        assert why(data[:400])[0] == "truncated"


def test_cielab_and_unreadable_profiles() -> None:
    lab = Image.merge("LAB", [Image.new("L", (4, 4), level) for level in (255, 128, 128)])
    assert converted(encode(lab, "TIFF")).min() > 250
    assert (converted(encode(IMAGE, "TIFF", icc_profile=b"\x00" * 200)) == np.asarray(IMAGE)).all()


NAMES = [
    (bytes(128) + b"DICM" + bytes(100), "DICOM"),
    (b"II*\x00\x10\x00\x00\x00CR\x02\x00" + bytes(100), "camera raw (CR2)"),
    (b"\x00\x00\x00\x18ftypcrx \x00\x00\x00\x01crx isom", "camera raw (CR3)"),
    (b"FUJIFILMCCD-RAW 0201", "camera raw (RAF)"),
    (b"\x76\x2f\x31\x01\x02\x00\x00\x00", "OpenEXR"),
    (b"#?RADIANCE\n", "Radiance HDR"),
    (b"SIMPLE  =                    T", "FITS"),
    (b"8BPS\x00\x01", "Photoshop (PSD)"),
    (b"%PDF-1.7", "PDF"),
    (b'<?xml version="1.0"?>\n<svg xmlns="http://www.w3.org/2000/svg"/>', "SVG"),
    (b"\x00\x00\x00\x20ftypisom\x00\x00\x02\x00isomiso2mp41", "video (MP4)"),
    (b"\x00\x00\x00\x14ftypqt  \x00\x00\x00\x00qt  ", "video (QuickTime)"),
    (b"\x1a\x45\xdf\xa3\x01", "video (Matroska or WebM)"),
    (b"RIFF\x00\x00\x00\x00AVI LIST", "video (AVI)"),
    (b"\xff\x0a\xfa\x00", "JPEG XL"),
    (b"version https://git-lfs.github.com/spec/v1\n", "a Git LFS pointer"),
]


@pytest.mark.parametrize(("data", "name"), NAMES, ids=[name for _, name in NAMES])
def test_formats_that_are_not_read_have_a_name_and_a_remedy(data: bytes, name: str) -> None:
    found = foreign(data)
    assert found is not None and found.name == name and found.remedy and not found.format
    assert not needs_conversion(data)


def test_brands_tell_avif_from_heic_and_video() -> None:
    for brands, expected in (
        (b"avifmif1", "avif"),
        (b"mif1avif", "avif"),
        (b"mif1heic", "heic"),
        (b"heicmif1", "heic"),
    ):
        head = b"\x00\x00\x00\x18ftyp" + brands[:4] + bytes(4) + brands
        found = foreign(head)
        assert found is not None and found.format == expected


def test_a_camera_raw_that_begins_like_tiff_is_not_taken_for_its_thumbnail() -> None:
    thumbnail = encode(IMAGE, "TIFF", tiffinfo={254: 1, 271: "NIKON CORPORATION", 330: 8})
    assert why(thumbnail)[1].startswith("camera raw (NEF)")
    assert why(encode(IMAGE, "TIFF", tiffinfo={50706: b"\x01\x04\x00\x00"}))[1].startswith("camera raw (DNG)")


def test_kinds_of_tiff_that_pillow_does_not_read_are_described() -> None:
    assert "floating-point" in why(encode(IMAGE.convert("F"), "TIFF"))[1]
    assert "channels" in why(tiff_of_16_bits(np.zeros((4, 4, 6), "uint16"), "<"))[1]


def test_large_images_are_refused_by_their_header() -> None:
    huge = [
        b"P6 60000 60000 255\n" + bytes(100),
        b"\x00\x00\x02" + bytes(9) + struct.pack("<HHBB", 60_000, 60_000, 24, 0) + bytes(100),
        b"qoif" + struct.pack(">II", 2000, 2000) + b"\x03\x00" + bytes(100),
    ]
    data = bytearray(encode(IMAGE, "TIFF"))
    at = data.index(struct.pack("<HHI", 256, 4, 1)) if struct.pack("<HHI", 256, 4, 1) in data else -1
    at = at if at >= 0 else data.index(struct.pack("<HHI", 256, 3, 1))
    data[at + 2 : at + 12] = struct.pack("<HII", 4, 1, 60_000_000)
    icon = bytearray(encode(IMAGE.resize((64, 64)), "ICO", sizes=[(64, 64)]))
    at = icon.index(b"IHDR") + 4
    icon[at : at + 8] = struct.pack(">II", 60_000, 60_000)
    for one in (*huge, bytes(data), bytes(icon)):
        kind, detail = why(one)
        assert kind in ("too-large", "corrupt") and (kind == "too-large" or b"IHDR" in one), detail


def test_nothing_of_pillows_escapes_from_damaged_files() -> None:
    rng = np.random.default_rng(26502)
    samples = [data for _, data, _ in LOSSLESS[::2]] + [encode(IMAGE, "AVIF"), RED]
    for number in range(150):
        data = bytearray(samples[number % len(samples)])
        for at in rng.integers(0, min(len(data), 160), 4):
            data[at] = rng.choice([0, 255, 128, int(rng.integers(256))])
        for act in (convert, read_header):
            try:
                act(bytes(data))
            except Unreadable as reason:
                assert reason.detail and "\n" not in reason.detail


# -- in image sets ----------------------------------------------------------------------------------------


def write_tiffs(root: Path, count: int = 3, start: int = 26510) -> Path:
    for number, name in enumerate(("blue", "red")):
        (root / name).mkdir(parents=True)
        for i in range(count):
            draw((40, 60, 90 + 100 * number), start + 10 * number + i).save(root / name / f"{i}.tif")
    return root


def problems_of(images: ImageSet) -> dict[str, str]:
    return dict(zip(images.problems["path"], images.problems["problem"], strict=True))


@pytest.mark.slow
def test_a_tiff_is_used_and_noted_and_strict_goes_on(tmp_path: Path) -> None:
    from tlkit.data.dataset import decode_images

    data = write_tiffs(tmp_path)
    (data / "red" / "slice.dcm").write_bytes(NAMES[0][0])
    assert problems_of(scan(data))["red/slice.dcm"] == "unsupported-format"
    (data / "red" / "slice.dcm").unlink()
    broken = bytearray(encode(IMAGE, "TIFF", compression="tiff_adobe_deflate"))
    broken[10:400] = bytes(390)
    (data / "red" / "broken.tif").write_bytes(broken)
    images = scan(data, strict=True)
    assert set(images.problems["problem"]) == {"converted"} and set(images.problems["severity"]) == {"note"}
    assert set(images.table["format"]) == {"tiff"} and set(images.table["width"]) == {40, 60}
    dataset = decode_images(images, 40)
    assert problems_of(dataset.images)["red/broken.tif"] == "corrupt" and len(dataset) == 6
    expected = [np.asarray(Image.open(file)) for file in dataset.images.files()]
    assert (dataset.examples().pixels.gather(np.arange(6)) == np.stack(expected)).all()


def test_a_folder_of_other_formats_says_what_it_holds(tmp_path: Path) -> None:
    for number, (data, _) in enumerate([NAMES[0]] * 3 + [NAMES[6]]):
        (tmp_path / "a").mkdir(exist_ok=True)
        (tmp_path / "a" / f"{number}.x").write_bytes(data + bytes([number]))
    with pytest.raises(DataError, match=r"Found: 3 DICOM, 1 FITS\. DICOM: convert it .* pydicom"):
        scan(tmp_path)


@pytest.mark.slow
def test_a_cleaned_copy_holds_what_a_model_sees(tmp_path: Path) -> None:
    from tlkit.data.clean import clean_copy

    data = write_tiffs(tmp_path / "data", count=1)
    draw((9, 9, 9), 26530).save(data / "red" / "0.png")
    GLASS.save(data / "red" / "glass.png")
    (data / "red" / "junk.png").write_bytes(b"junk")
    table = clean_copy(data, tmp_path / "clean").set_index("source")
    assert set(table.index) == {"blue/0.tif", "red/0.tif", "red/0.png", "red/glass.png"}
    assert table["copied"].to_dict()["red/0.png"] and not table["copied"].to_dict()["red/glass.png"]
    for source, row in table.iterrows():
        same = decode(tf.constant(convert((data / str(source)).read_bytes()))).numpy()
        assert (np.asarray(Image.open(tmp_path / "clean" / row["path"])) == same).all()
    assert len(scan(tmp_path / "clean")) == 4
    assert "junk" in (tmp_path / "clean" / "problems.csv").read_text()
    with pytest.raises(DataError, match="not empty"):
        clean_copy(data, tmp_path / "clean")


@pytest.mark.parametrize("mode", ["L", "LA", "RGB", "RGBA", "RGBa"])
def test_rows_of_a_heic_are_read_as_pillow_reads_them(mode: str) -> None:
    """Rows of pi-heif may be longer than the image is wide, and colours may be multiplied by alpha already."""
    width, height, stride = 5, 4, 24
    data = np.random.default_rng(0).integers(0, 256, height * stride, dtype="uint8").tobytes()

    def to_pillow() -> Image.Image:
        return Image.frombytes(mode, (width, height), data, "raw", mode, stride)

    image = SimpleNamespace(data=data, stride=stride, mode=mode, size=(width, height), info={}, to_pillow=to_pillow)
    found, expected = (
        np.concatenate(list(convert_module._blocks_of_rows(one, HEIC)))
        for one in (convert_module._loaded(image, HEIC), to_pillow())
    )
    assert found.shape[:2] == (height, width) and np.array_equal(found, expected)
