"""Names files that are no JPEG, PNG, GIF, BMP or WebP by their bytes, and says what reads or converts them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from tlkit.data.sources.member import Root

HEIC, AVIF = "heic", "avif"  # formats whose first bytes are alike


@dataclass(frozen=True)
class Foreign:
    """What a file is.

    format: what stands in an image set's column `format`: "tiff", "heic" ...; "" if `tlkit.data.convert` does not read
        it.
    name: as people call it: "TIFF", "DICOM".
    remedy: what converts it, an imperative; "" if `tlkit.data.convert` reads it.
    problem: its kind of problem where it is left out, a key of `tlkit.data.images.PROBLEMS`.
    """

    format: str
    name: str
    remedy: str = ""
    problem: str = "unsupported-format"


_PICTURE = "convert it to PNG, such as with ImageMagick"
RAW = "develop it to JPEG or 16-bit TIFF, such as with darktable, dcraw or rawpy"
_LIGHT = "tone-map it to PNG, such as with ImageMagick or oiiotool"
_VIDEO = "take frames as JPEG or PNG, such as with ffmpeg"
_UNPACK = "unpack it into the class folders"
_ARRAY = "save each image in it as PNG"

# (offset, bytes) -> what it is; the first that fits
_SIGNATURES: tuple[tuple[int, bytes, Foreign], ...] = (
    (8, b"CR\x02\x00", Foreign("", "camera raw (CR2)", RAW)),
    (0, b"II*\x00", Foreign("tiff", "TIFF")),
    (0, b"MM\x00*", Foreign("tiff", "TIFF")),
    (0, b"II+\x00\x08\x00", Foreign("tiff", "BigTIFF")),
    (0, b"MM\x00+\x00\x08", Foreign("tiff", "BigTIFF")),
    (0, b"IIU\x00", Foreign("", "camera raw (RW2)", RAW)),
    (0, b"IIRO", Foreign("", "camera raw (ORF)", RAW)),
    (0, b"IIRS", Foreign("", "camera raw (ORF)", RAW)),
    (0, b"MMOR", Foreign("", "camera raw (ORF)", RAW)),
    (0, b"FUJIFILMCCD-RAW", Foreign("", "camera raw (RAF)", RAW)),
    (0, b"FOVb", Foreign("", "camera raw (X3F)", RAW)),
    (0, b"\x00MRM", Foreign("", "camera raw (MRW)", RAW)),
    (4, b"ftypcrx ", Foreign("", "camera raw (CR3)", RAW)),
    (0, b"II\xbc\x01", Foreign("", "JPEG XR", _PICTURE)),
    (0, b"\x00\x00\x00\x0cjP  \r\n\x87\n", Foreign("jpeg2000", "JPEG 2000")),
    (0, b"\xff\x4f\xff\x51", Foreign("jpeg2000", "JPEG 2000")),
    (0, b"\xff\x0a", Foreign("", "JPEG XL", "convert it to PNG, such as with djxl")),
    (0, b"\x00\x00\x00\x0cJXL ", Foreign("", "JPEG XL", "convert it to PNG, such as with djxl")),
    (0, b"qoif", Foreign("qoi", "QOI")),
    (0, b"DDS ", Foreign("", "DDS", _PICTURE)),
    (0, b"\x00\x00\x01\x00", Foreign("ico", "ICO")),
    (0, b"\x00\x00\x02\x00\x01\x00", Foreign("cur", "CUR")),
    (0, b"icns", Foreign("", "ICNS", _PICTURE)),
    (0, b"\x59\xa6\x6a\x95", Foreign("sun", "Sun raster")),
    (128, b"DICM", Foreign("", "DICOM", "convert it to PNG, such as with pydicom or dcmj2pnm")),
    (0, b"SIMPLE  =", Foreign("", "FITS", "scale it to 16-bit PNG, such as with astropy")),
    (0, b"\x76\x2f\x31\x01", Foreign("", "OpenEXR", _LIGHT)),
    (0, b"#?RADIANCE", Foreign("", "Radiance HDR", _LIGHT)),
    (0, b"#?RGBE", Foreign("", "Radiance HDR", _LIGHT)),
    (0, b"8BPS", Foreign("", "Photoshop (PSD)", _PICTURE)),
    (0, b"gimp xcf", Foreign("", "GIMP (XCF)", "export it as PNG, such as with GIMP")),
    (0, b"%PDF", Foreign("", "PDF", "convert its pages to PNG, such as with pdftoppm")),
    (0, b"%!PS", Foreign("", "PostScript", "convert it to PNG, such as with Ghostscript")),
    (0, b"\xc5\xd0\xd3\xc6", Foreign("", "PostScript", "convert it to PNG, such as with Ghostscript")),
    (0, b"\xd7\xcd\xc6\x9a", Foreign("", "WMF", _PICTURE)),
    (40, b" EMF", Foreign("", "EMF", _PICTURE)),
    (0, b"AT&TFORM", Foreign("", "DjVu", "convert its pages to TIFF, such as with ddjvu")),
    (0, b"BPG\xfb", Foreign("", "BPG", _PICTURE)),
    (0, b"FLIF", Foreign("", "FLIF", _PICTURE)),
    (0, b"\x8bJNG", Foreign("", "JNG", _PICTURE)),
    (0, b"\x8aMNG", Foreign("", "MNG", _VIDEO)),
    (0, b"KTX ", Foreign("", "KTX", _PICTURE)),
    (0, b"\xabKTX", Foreign("", "KTX", _PICTURE)),
    (0, b"/* XPM */", Foreign("", "XPM", _PICTURE)),
    (0, b"\x1a\x45\xdf\xa3", Foreign("", "video (Matroska or WebM)", _VIDEO)),
    (8, b"AVI ", Foreign("", "video (AVI)", _VIDEO)),
    (0, b"\x00\x00\x01\xba", Foreign("", "video (MPEG)", _VIDEO)),
    (0, b"\x00\x00\x01\xb3", Foreign("", "video (MPEG)", _VIDEO)),
    (0, b"FLV\x01", Foreign("", "video (FLV)", _VIDEO)),
    (0, b"\x30\x26\xb2\x75", Foreign("", "video (WMV)", _VIDEO)),
    (0, b"OggS", Foreign("", "video or sound (Ogg)", _VIDEO)),
    (4, b"moov", Foreign("", "video (QuickTime)", _VIDEO)),
    (4, b"mdat", Foreign("", "video (QuickTime)", _VIDEO)),
    (4, b"wide", Foreign("", "video (QuickTime)", _VIDEO)),
    (344, b"n+1\x00", Foreign("", "NIfTI", "save its slices as PNG, such as with nibabel")),
    (0, b"\x93NUMPY", Foreign("", "a NumPy array", _ARRAY, "not-an-image")),
    (0, b"\x89HDF\r\n", Foreign("", "HDF5", _ARRAY, "not-an-image")),
    (0, b"MATLAB 5.0", Foreign("", "a MATLAB file", _ARRAY, "not-an-image")),
    (0, b"PK\x03\x04", Foreign("", "a ZIP archive", _UNPACK, "not-an-image")),
    (0, b"\x1f\x8b", Foreign("", "a gzip archive", _UNPACK, "not-an-image")),
    (0, b"7z\xbc\xaf\x27\x1c", Foreign("", "a 7z archive", _UNPACK, "not-an-image")),
    (0, b"Rar!", Foreign("", "a RAR archive", _UNPACK, "not-an-image")),
    (257, b"ustar", Foreign("", "a tar archive", _UNPACK, "not-an-image")),
    (0, b"\x00\x05\x16\x07", Foreign("", "a macOS resource file", "delete it", "not-an-image")),
    (
        0,
        b"version https://git-lfs",
        Foreign("", "a Git LFS pointer", "fetch the file itself with `git lfs pull`", "not-an-image"),
    ),
)
_BRANDS = {  # of an ISO base media file (ISO/IEC 14496-12)
    b"avif": AVIF,
    b"avis": AVIF,
    **dict.fromkeys((b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"hevm", b"hevs", b"mif1", b"msf1"), HEIC),
}
NAMES = {HEIC: "HEIC", AVIF: "AVIF", "pnm": "PPM or PGM", "tga": "TGA", "sgi": "SGI", "pcx": "PCX"} | {
    one.format: one.name for _, _, one in _SIGNATURES[::-1] if one.format
}
HEAD = 512  # bytes that `foreign` looks at


def foreign(data: bytes) -> Foreign | None:
    """Name a file by its first HEAD bytes; None if they tell nothing.

    TGA has no signature. A file counts as one if its header's fields have values that TGA allows.
    """
    head = data[:HEAD]
    for at, signature, found in _SIGNATURES:
        if head.startswith(signature, at):
            return found
    for test in (_of_boxes, _without_signature, _of_text):
        if (other := test(head)) is not None:
            return other
    return None


def signatures() -> list[tuple[int, bytes, str]]:
    """(offset, bytes, name) of formats that few bytes tell, for the graph; the first that fits counts."""
    boxes = [(4, b"ftyp" + brand, NAMES[kind]) for brand, kind in _BRANDS.items()]
    boxes += [(4, b"ftypqt", "video (QuickTime)"), (4, b"ftyp", "video (MP4)"), (0, b"<svg", "SVG")]
    pnm = [
        (0, b"P%d" % number + space, NAMES["pnm"]) for number in range(1, 7) for space in (b" ", b"\n", b"\r", b"\t")
    ]
    short = [(0, b"\x01\xda\x00", NAMES["sgi"]), (0, b"\x01\xda\x01", NAMES["sgi"]), (0, b"\x0a\x05\x01", NAMES["pcx"])]
    return [(at, signature, found.name) for at, signature, found in _SIGNATURES] + boxes + pnm + short


def foreign_file(file: Root) -> Foreign | None:
    """Name a file; None if its first bytes tell nothing or cannot be read."""
    try:
        with file.open("rb") as stream:
            return foreign(stream.read(HEAD))
    except OSError:
        return None


def _of_boxes(head: bytes) -> Foreign | None:
    """HEIC, AVIF or video, by the brands of the first box. "mif1" is any still image; the others in the list tell."""
    if head[4:8] != b"ftyp":
        return None
    length = min(max(int.from_bytes(head[:4], "big"), 16), len(head))
    brands = [head[8:12], *(head[at : at + 4] for at in range(16, length - 3, 4))]
    if head[8:12] in _BRANDS:
        found = AVIF if AVIF in [_BRANDS.get(one) for one in brands] else HEIC
        return Foreign(found, NAMES[found])
    name = "QuickTime" if head[8:10] == b"qt" else "MP4"
    return Foreign("", f"video ({name})", _VIDEO)


def _without_signature(head: bytes) -> Foreign | None:
    """PNM, SGI, PCX and TGA, whose first bytes are short or none, by further fields of the header."""
    if len(head) < 8:
        return None
    if head[:1] == b"P" and head[1:2] in b"123456" and head[2:3] in b" \t\r\n":
        return Foreign("pnm", NAMES["pnm"])
    if head[:2] in (b"PF", b"Pf") and head[2:3] in b"\r\n":
        return Foreign("", "PFM", _LIGHT)
    if head[:3] == b"P7\n":
        return Foreign("", "PAM", _PICTURE)
    if head[:2] == b"\x01\xda" and head[2] <= 1 and head[3] in (1, 2):
        return Foreign("sgi", NAMES["sgi"])
    if head[0] == 10 and head[1] in (0, 2, 3, 4, 5) and head[2] == 1 and head[3] in (1, 2, 4, 8):
        return Foreign("pcx", NAMES["pcx"])
    return Foreign("tga", NAMES["tga"]) if _is_tga(head) else None


def _is_tga(head: bytes) -> bool:
    """Whether a header fits TGA (Truevision TGA file format specification 2.0)."""
    if len(head) < 18:
        return False
    mapped, kind, depth = head[1], head[2], head[16]
    palette = head[3:8]
    colours_fit = (mapped == 1 and palette[4] in (15, 16, 24, 32)) or (mapped == 0 and kind not in (1, 9))
    depths = {1: (8,), 9: (8,), 2: (15, 16, 24, 32), 10: (15, 16, 24, 32), 3: (8, 16), 11: (8, 16)}.get(kind, ())
    sized = int.from_bytes(head[12:14], "little") * int.from_bytes(head[14:16], "little") > 0
    return colours_fit and depth in depths and sized and head[17] & 0xC0 == 0


def _of_text(head: bytes) -> Foreign | None:
    text = head.lstrip(b"\xef\xbb\xbf\xff\xfe \t\r\n\x00").lower()
    if b"<svg" in text:
        return Foreign("", "SVG", "draw it as PNG, such as with rsvg-convert or Inkscape")
    if text.startswith((b"<!doctype html", b"<html", b"<head", b"<?xml")):
        return Foreign("", "an HTML or XML page", "fetch the image itself", "not-an-image")
    return None
