"""Formats by their first bytes: those that the graph decodes, those that Pillow may, and what else people have."""

from __future__ import annotations

import re

DECODED = (  # first bytes, format: what the graph decodes
    (b"\xff\xd8\xff", "jpeg"),
    (b"\x89PNG\r\n\x1a\n", "png"),
    (b"GIF87a", "gif"),
    (b"GIF89a", "gif"),
    (b"BM", "bmp"),
)
_CONVERTIBLE = (  # first bytes, format, its name
    (b"II*\x00", "tiff", "TIFF"),
    (b"MM\x00*", "tiff", "TIFF"),
    (b"II+\x00", "tiff", "BigTIFF"),
    (b"MM\x00+", "tiff", "BigTIFF"),
    (b"\x00\x00\x00\x0cjP  \r\n\x87\n", "jpeg2000", "JPEG 2000"),
    (b"\xff\x4f\xff\x51", "jpeg2000", "JPEG 2000 (code stream)"),
    (b"\x00\x00\x01\x00", "ico", "ICO"),
    (b"\x00\x00\x02\x00", "ico", "CUR"),
    (b"icns", "icns", "ICNS"),
    (b"\x01\xda", "sgi", "SGI"),
    (b"qoif", "qoi", "QOI"),
    (b"DDS ", "dds", "DDS"),
)
_NAMED = (  # first bytes, format, its name and what converts it: formats that neither decodes
    (b"8BPS", "psd", "Photoshop (PSD); export it as PNG"),
    (b"8BPB", "psd", "Photoshop (PSB); export it as PNG"),
    (b"\xff\x0a", "jxl", "JPEG XL; convert it with djxl"),
    (b"\x00\x00\x00\x0cJXL ", "jxl", "JPEG XL; convert it with djxl"),
    (b"%PDF", "pdf", "PDF; convert it with pdftoppm -png"),
    (b"%!PS", "eps", "PostScript (EPS); convert it with Ghostscript"),
    (b"\xc5\xd0\xd3\xc6", "eps", "PostScript (EPS); convert it with Ghostscript"),
    (b"SIMPLE  =", "fits", "FITS; save its array as PNG, with astropy"),
    (b"v/1\x01", "exr", "OpenEXR; convert it with oiiotool"),
    (b"#?RADIANCE", "hdr", "Radiance HDR; convert it with oiiotool"),
    (b"#?RGBE", "hdr", "Radiance HDR; convert it with oiiotool"),
    (b"FUJIFILMCCD-RAW", "raw", "camera raw; convert it with dcraw or darktable-cli"),
    (b"\x49\x49\x52\x4f", "raw", "camera raw; convert it with dcraw or darktable-cli"),
    (b"\x49\x49\x55\x00", "raw", "camera raw; convert it with dcraw or darktable-cli"),
    (b"\x00MRM", "raw", "camera raw; convert it with dcraw or darktable-cli"),
    (b"FOVb", "raw", "camera raw; convert it with dcraw or darktable-cli"),
    (b"gimp xcf", "xcf", "GIMP (XCF); export it as PNG"),
    (b"\x1aE\xdf\xa3", "video", "video (Matroska or WebM); save its frames with ffmpeg"),
    (b"\x00\x00\x01\xba", "video", "video (MPEG); save its frames with ffmpeg"),
    (b"\x00\x00\x01\xb3", "video", "video (MPEG); save its frames with ffmpeg"),
    (b"FLV\x01", "video", "video (FLV); save its frames with ffmpeg"),
    (b"PK\x03\x04", "zip", "a ZIP archive; unpack it"),
    (b"\x1f\x8b", "gzip", "a gzip archive; unpack it"),
    (b"Rar!", "rar", "a RAR archive; unpack it"),
    (b"7z\xbc\xaf\x27\x1c", "7z", "a 7z archive; unpack it"),
    (b"\x93NUMPY", "npy", "a NumPy array; save it as PNG"),
    (b"\x89HDF", "hdf5", "HDF5; save its images as PNG"),
    (b"\xd7\xcd\xc6\x9a", "wmf", "WMF; convert it with ImageMagick"),
)
_HEIF = {b"heic", b"heix", b"hevc", b"hevx", b"heim", b"heis", b"mif1", b"msf1"}
_AVIF = {b"avif", b"avis"}


def image_format(head: bytes) -> str | None:
    """The format by a file's first bytes: jpeg, png, gif, bmp or webp; None for any other."""
    for signature, kind in DECODED:
        if head.startswith(signature):
            return kind
    return "webp" if head[:4] == b"RIFF" and head[8:12] == b"WEBP" else None


def convertible(head: bytes) -> tuple[str, str] | None:
    """(format, name) of a file that Pillow may read, by its first bytes; None for any other."""
    for signature, kind, name in _CONVERTIBLE:
        if head.startswith(signature) and _fits(head, kind):
            return kind, _kind_of_raw(head) or name
    if head[4:8] == b"ftyp":
        brands = {head[at : at + 4] for at in range(8, min(int.from_bytes(head[:4], "big"), len(head), 256), 4)}
        if brands & _AVIF:
            return "avif", "AVIF"
        if brands & _HEIF:
            return "heic", "HEIC"
    if re.match(rb"P[1-7fF]\s|P[4-7]#|Pf\n|PF\n", head):
        return "pnm", {b"1": "PBM", b"4": "PBM", b"2": "PGM", b"5": "PGM", b"7": "PAM"}.get(head[1:2], "PPM")
    if head[:1] == b"\x0a" and head[1:2] in b"\0\2\3\4\5" and head[2:3] == b"\1" and head[3:4] in b"\1\2\4\x08":
        return "pcx", "PCX"
    return ("tga", "TGA") if _looks_like_tga(head) else None


def _fits(head: bytes, kind: str) -> bool:
    """Whether the bytes behind a signature that is short are those of the format as well."""
    if kind == "ico" and head[:1] == b"\x00":
        return 0 < int.from_bytes(head[4:6], "little") <= 256
    return kind != "sgi" or head[2:3] in (b"\x00", b"\x01")


def _kind_of_raw(head: bytes) -> str | None:
    """Camera raw files that begin as TIFF does: Canon's say so, and Pillow reads only their preview."""
    return "camera raw (CR2), of which Pillow reads a preview" if head[8:10] == b"CR" else None


def _looks_like_tga(head: bytes) -> bool:
    """TGA has no signature: a colour map type, an image type, a size, and a depth that fit each other."""
    if len(head) < 18 or head[1] > 1 or head[2] not in (1, 2, 3, 9, 10, 11) or head[17] & 0xC0:
        return False
    mapped = head[2] in (1, 9)
    depth = head[16] in ((8,) if mapped else (8, 16) if head[2] in (3, 11) else (15, 16, 24, 32))
    size = min(int.from_bytes(head[12:14], "little"), int.from_bytes(head[14:16], "little")) > 0
    return depth and size and (head[1] == 1) == mapped and (mapped or not any(head[3:8]))


def named(head: bytes) -> tuple[str, str]:
    """(format, detail) of a file that neither the graph nor Pillow decodes; format "" if it is not an image."""
    for signature, kind, name in _NAMED:
        if head.startswith(signature):
            return kind, name
    if head[128:132] == b"DICM":
        return "dicom", "DICOM; convert it with dcm2pnm or pydicom"
    if head[4:8] == b"ftyp":
        raw = head[8:11] == b"crx"
        return ("raw", "camera raw (CR3); convert it") if raw else ("video", "video (MP4); save its frames with ffmpeg")
    if head[4:8] in (b"moov", b"mdat", b"wide") or head[:4] == b"RIFF" and head[8:11] == b"AVI":
        return "video", "video; save its frames with ffmpeg"
    text = head.lstrip(b"\xef\xbb\xbf \t\r\n").lower()
    if b"<svg" in text:
        return "svg", "SVG; convert it with rsvg-convert"
    if text.startswith((b"<!doctype html", b"<html", b"<head", b"<?xml")):
        return "", "it is an HTML or XML page"
    if text.startswith((b"version https://git-lfs",)):
        return "", "it is a pointer of Git LFS; fetch the file with git lfs pull"
    if not any(head):
        return "", "it holds only zeros"
    return "", f"its first bytes are {head[:4].hex(' ')}; expected JPEG, PNG, GIF, BMP or WebP"
