"""What Pillow makes of an image file under the rules of docs/data.md: written apart from tlkit's decoder, to judge it.

Upright by Exif or XMP, the first frame on its screen, transparency over white, profiles converted to sRGB, 16 bits
scaled by the bits that the data set uses, squashed by an antialiased triangle. A large JPEG is decoded at a half, a
quarter or an eighth, where both sides are then still twice the size wanted.
"""

import io
from typing import Any

import numpy as np
from PIL import Image, ImageCms, ImageOps

FORMATS = {  # Pillow's names of those that docs/data.md calls used
    *("JPEG", "MPO", "PNG", "GIF", "BMP", "WEBP", "TIFF", "HEIF", "AVIF", "JPEG2000", "PPM", "TGA", "SGI", "PCX"),
    *("ICO", "CUR", "QOI", "SUN"),
}
MEGAPIXELS, MEGAPIXELS_JPEG, MEGAPIXELS_QOI = 50, 200, 2


class Refused(Exception):
    """The rules leave the file out, or Pillow does not read it."""


def reference(data: bytes, size: int, depth: int) -> tuple[np.ndarray, str, int]:
    """(pixels uint8, shape (size, size, 3); format; pixels as stored). Raises Refused, or what Pillow raises."""
    Image.MAX_IMAGE_PIXELS = None
    with Image.open(io.BytesIO(data)) as image:
        stored = check(image)
        if image.format == "PNG" and image.mode == "L" and isinstance(image.info.get("transparency"), int):
            image.info["transparency"] = image.info["transparency"] * 255 // (2 ** data[24] - 1)  # 2 and 4 bits too
        if image.format in ("JPEG", "MPO") and stored > MEGAPIXELS * 1_000_000 and not is_lossless(data):
            image.draft(image.mode, (image.width // 2, image.height // 2))
        colours = in_srgb(upright(image, depth), image.format in ("BMP", "TGA"))
        return np.asarray(colours.resize((size, size), Image.Resampling.BILINEAR)), str(image.format), stored


def is_lossless(data: bytes) -> bool:
    """Whether a JPEG is lossless (frame header SOF3), which libjpeg cannot scale."""
    at = 2
    while data[at : at + 1] == b"\xff" and data[at + 1] not in (0xC0, 0xC1, 0xC2, 0xC3, 0xDA):
        at += 2 + int.from_bytes(data[at + 2 : at + 4], "big")
    return data[at : at + 2] == b"\xff\xc3"


def check(image: Any) -> int:
    """The number of pixels; Refused if the rules leave the file out."""
    if image.format not in FORMATS:
        raise Refused(f"{image.format} is not read")
    most = {"QOI": MEGAPIXELS_QOI}.get(image.format, MEGAPIXELS)
    if image.format in ("JPEG", "MPO") and not image.info.get("progressive"):
        most = MEGAPIXELS_JPEG
    stored = image.width * image.height
    if stored > most * 1_000_000:
        raise Refused(f"{image.width} x {image.height} pixels")
    if image.mode == "F":
        raise Refused("floating-point numbers")
    if image.format == "TIFF" and (50706 in image.tag_v2 or image.tag_v2.get(262) in (32803, 34892)):
        raise Refused("camera raw")
    return stored


def upright(image: Any, depth: int) -> Any:
    """The first frame, upright, as RGB, RGBA, L, CMYK or LAB of 8 bits."""
    place = image.tile[0][1] if image.format == "GIF" and image.tile else None
    image.load()
    parts = [part for _, part in getattr(image, "applist", ()) if part.startswith(b"ICC_PROFILE\0")]
    if len(parts) == 1 and not image.info.get("icc_profile"):  # Pillow wants its number and count to be 1
        image.info["icc_profile"] = parts[0][14:]
    profile, mode = image.info.get("icc_profile"), image.mode
    if mode.startswith("I"):
        values = np.asarray(image).astype("int64")
        if values.min() < 0 or values.max() > 65_535:
            raise Refused("values outside 16 bits")
        if image.format == "TIFF" and image.tag_v2.get(262) == 0:
            values = 65_535 - values
        key = image.info.get("transparency")
        shown = Image.fromarray(np.minimum(values >> (depth - 8), 255).astype("uint8"))
        if isinstance(key, int):
            shown = Image.merge("LA", (shown, Image.fromarray(np.where(values == key, 0, 255).astype("uint8"))))
            shown = shown.convert("RGBA")
        shown.info = {"icc_profile": profile} if profile else {}
        exif = image.getexif()
        shown.getexif()[274] = exif.get(274, 1)
        image = shown
    elif "transparency" in image.info or mode in ("LA", "PA", "La", "RGBa"):
        image = image.convert("LA" if mode == "La" else "RGBA").convert("RGBA")
    elif mode not in ("L", "RGB", "RGBA", "CMYK", "LAB"):
        image = image.convert("L" if mode == "1" else "RGB")
    if place is not None:
        image = on_white(image, place)
    try:
        return ImageOps.exif_transpose(image)
    except Exception:  # a broken tag means no rotation
        return image


def on_white(image: Any, place: tuple[int, int, int, int]) -> Any:
    """White outside a GIF's first frame."""
    values = np.array(image.convert("RGBA"))
    outside = np.ones(values.shape[:2], bool)
    left, top, right, below = place
    outside[top:below, left:right] = False
    values[outside] = 255
    return Image.fromarray(values)


def in_srgb(image: Any, may_lack_alpha: bool) -> Any:
    """RGB in sRGB, over white. A profile that is broken, or for other channels, says nothing.

    may_lack_alpha: programs that know no alpha write 0 there.
    """
    profile, alpha = image.info.get("icc_profile"), image.getchannel("A") if image.mode == "RGBA" else None
    if image.mode == "LAB" or profile:
        try:
            image = converted(image, profile)
        except (ImageCms.PyCMSError, ValueError, OSError):
            image = image.convert("RGB")
    image = image.convert("RGB")
    if alpha is None or (may_lack_alpha and not np.asarray(alpha).any()):
        return image
    shares = np.asarray(alpha, "float64")[..., None] / 255
    return Image.fromarray(np.floor(np.asarray(image) * shares + 255 * (1 - shares) + 0.5).astype("uint8"))


def converted(image: Any, profile: bytes | None) -> Any:
    """Convert by Little CMS, perceptual intent."""
    if image.mode == "LAB":
        source = ImageCms.createProfile("LAB")
        return ImageCms.profileToProfile(image, source, ImageCms.createProfile("sRGB"), outputMode="RGB")
    opened = ImageCms.ImageCmsProfile(io.BytesIO(profile or b""))
    space = opened.profile.xcolor_space.strip()
    mode = {"RGB": "RGB", "GRAY": "L", "CMYK": "CMYK"}.get(space, "")
    colour = image.convert("RGB") if image.mode == "RGBA" or (image.mode, mode) == ("L", "RGB") else image
    if space == "GRAY" and colour.mode == "RGB":
        red, green, blue = (np.asarray(colour.getchannel(one)) for one in "RGB")
        if not ((red == green).all() and (green == blue).all()):
            raise ValueError("a profile for grey says nothing of colours")
        colour = colour.getchannel("R")
    if not mode or colour.mode != mode:
        raise ValueError("a profile for other channels")
    return ImageCms.profileToProfile(colour, opened, ImageCms.createProfile("sRGB"), outputMode="RGB")
