"""Files to pixels without TensorFlow: the rule of docs/preprocessing.md in NumPy and Pillow.

Held to the pixels of the exported graph within 1 level of 255. The part below the line is also in each export's
`client.py`, so it imports nothing of tlkit.
"""

from __future__ import annotations

import io
import warnings
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageCms

# -- from here on also in client.py -------------------------------------------------------------------------

RULE_VERSION = 1  # of the preprocessing that this program can follow
_READ_BY_GRAPH = ("JPEG", "PNG", "GIF", "BMP", "WEBP")
# linear sRGB from XYZ under D50 (Bradford), and the sRGB profile's own colorants
_FROM_XYZ = np.array(
    [
        [3.1338561, -1.6168667, -0.4906146],
        [-0.9787684, 1.9161415, 0.0334540],
        [0.0719453, -0.2289914, 1.4052427],
    ],
    "float32",
)
_SRGB = np.array(
    [[0.4360747, 0.3850649, 0.1430804], [0.2225045, 0.7168786, 0.0606169], [0.0139322, 0.0971045, 0.7141733]],
    "float32",
)
_ROWS = 512  # rows whose colours are converted at once, to bound memory


def preprocess(image: str | Path | bytes, preprocessing: dict[str, Any]) -> np.ndarray:
    """Return an image file as the model sees it.

    Example:
        >>> import io
        >>> from PIL import Image
        >>> import tlkit
        >>> out = io.BytesIO()
        >>> Image.new("RGB", (60, 40), "red").save(out, "PNG")
        >>> tlkit.preprocess(out.getvalue(), {"version": 1, "size": 32, "fit": "squash"}).shape
        (32, 32, 3)

    Args:
        image: a file, or its bytes.
        preprocessing: the rule, as in `tlkit.json` of an export. `size` and `fit` are needed; `depth` is 16 by default.

    Returns:
        uint8, shape (size, size, 3), RGB.

    Raises:
        ValueError: if the file is not an image that can be read, or the rule is of a later version.
        OSError: if the file cannot be opened.
    """
    if preprocessing.get("version", RULE_VERSION) > RULE_VERSION:
        raise ValueError(f"This program follows preprocessing up to version {RULE_VERSION}. Update it.")
    data = image if isinstance(image, bytes) else Path(image).read_bytes()
    upright = decode_upright(data, preprocessing.get("depth", 16), preprocessing.get("reduce_jpeg"))
    return _fit(upright, preprocessing["size"], preprocessing["fit"])


def decode_upright(data: bytes, depth: int = 16, reduce_jpeg: dict[str, int] | None = None) -> np.ndarray:
    """Decode an image file at its own size: uint8, shape (height, width, 3), RGB in sRGB, upright, over white.

    Raises ValueError if it cannot be read.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of damaged metadata
        try:
            return _decode(data, depth, reduce_jpeg or {"above_pixels": 50_000_000, "by": 2})
        except ImportError:
            raise
        except Exception as error:  # Pillow's readers raise many kinds on damaged files
            raise ValueError(f"no image that can be read: {error}") from error


def _decode(data: bytes, depth: int, reduce_jpeg: dict[str, int]) -> np.ndarray:
    if data[4:8] == b"ftyp" and data[8:11] in (b"hei", b"hev", b"mif", b"msf"):
        from pi_heif import open_heif  # HEIC: pip install pi-heif

        image = open_heif(io.BytesIO(data), convert_hdr_to_8bit=True).to_pillow()  # upright already
        return _over_white(_in_srgb(_channels(image), image.info.get("icc_profile"), exact=False))
    image = Image.open(io.BytesIO(data))
    width, height = image.size
    by = reduce_jpeg["by"] if image.format == "JPEG" and width * height > reduce_jpeg["above_pixels"] else 1
    if width * height > 50_000_000 * by**2:
        raise ValueError(f"{width} x {height} pixels are too many")
    if by > 1:
        image.draft(None, (width // by, height // by))
    profile, kind = image.info.get("icc_profile"), image.format
    values = _deep(image, data, depth)
    if values is None:
        image.load()
        values = _channels(image, data[24] if kind == "PNG" else 8)
        if kind in ("BMP", "TGA") and values.shape[2] == 4 and not values[..., 3].any():
            values = values[..., :3]  # written as 0 by programs that know no alpha
    if kind == "GIF":
        values = _at_its_place(values, data)
    values = _over_white(_in_srgb(values, profile, exact=kind in _READ_BY_GRAPH))
    return _upright(values, image)


def _channels(image: Any, bits: int = 8) -> np.ndarray:
    """The values of an image of 8 bits: uint8, shape (height, width, 1, 3 or 4).

    bits: of a value in a PNG's file.
    """
    mode = image.mode
    if mode == "CMYK":
        inks = 255 - np.asarray(image, "int32")
        return (inks[..., :3] * inks[..., 3:] // 255).astype("uint8")
    scale = {2: 85, 4: 17}.get(bits, 0)
    if mode == "L" and scale and isinstance(image.info.get("transparency"), int):
        image.info["transparency"] *= scale  # Pillow scales the values, but not the transparent one
    if mode in ("LA", "La", "PA", "RGBa") or ("transparency" in image.info and mode in ("1", "L", "P", "RGB")):
        image = (image.convert("LA") if mode == "La" else image).convert("RGBA")
    elif mode == "LAB":
        image = ImageCms.profileToProfile(
            image, ImageCms.createProfile("LAB"), ImageCms.createProfile("sRGB"), outputMode="RGB"
        )
    elif mode == "F":
        raise ValueError("floating-point numbers: save it as 8 or 16 bits")
    elif mode not in ("L", "RGB", "RGBA"):
        image = image.convert("L" if mode == "1" else "RGB")
    return np.atleast_3d(np.asarray(image))


def _deep(image: Any, data: bytes, depth: int) -> np.ndarray | None:
    """The upper 8 of the `depth` bits that an image of 16 bits uses, shape (height, width, 1, 3 or 4); else None."""
    if image.mode.startswith("I"):
        values = np.asarray(image)
        if values.min() < 0 or values.max() > 65_535:
            raise ValueError("values beyond 16 bits: save it as 8 or 16 bits")
        values = values.astype("uint16")[..., None]
        if image.format == "TIFF" and image.tag_v2.get(262) == 0:
            values = 65_535 - values
        clear = values == image.info["transparency"] if isinstance(image.info.get("transparency"), int) else None
    elif (image.format == "PNG" and data[24] == 16) or (
        image.format == "TIFF" and set(image.tag_v2.get(258, ())) == {16} and image.mode in ("RGB", "RGBA", "RGBX")
    ):
        values = _both_bytes(image, data)
        key = image.info.get("transparency")
        clear = (values == np.array(key)).all(2, keepdims=True) if isinstance(key, tuple) else None
    else:
        return None
    grey_or_colour = values.shape[2] - 1 + values.shape[2] % 2
    shifted = np.minimum(values[..., :grey_or_colour] >> (depth - 8), 255).astype("uint8")
    alpha = values[..., grey_or_colour:] >> 8
    if clear is not None:
        alpha = np.where(clear, 0, 255)
    if alpha.shape[2] and grey_or_colour == 1:
        shifted = shifted.repeat(3, 2)
    return np.concatenate([shifted, alpha.astype("uint8")], 2)


def _both_bytes(image: Any, data: bytes) -> np.ndarray:
    """The 16 bits of colours, of which Pillow keeps the upper 8. Read in the other byte order, it keeps the lower 8."""
    lower = Image.open(io.BytesIO(data))
    if data[25] == 4 and image.format == "PNG":  # grey and alpha: two values of 16 bits, read as four of 8
        lower.tile = [one._replace(args="RGBA") for one in lower.tile]
        lower.load()
        image.load()
        both = np.asarray(lower).astype("uint16")
        return both[..., ::2] * 256 + both[..., 1::2]

    def other(args: Any) -> Any:
        rawmode = args if isinstance(args, str) else args[0]
        swapped = rawmode[:-1] + {"B": "L", "L": "B", "N": "B"}[rawmode[-1]]
        return swapped if isinstance(args, str) else (swapped, *args[1:])

    lower.tile = [one._replace(args=other(one.args)) for one in lower.tile]
    lower.load()
    image.load()
    values = np.asarray(image).astype("uint16") * 256 + np.asarray(lower)
    return values if image.mode == "RGBA" else values[..., :3]


def _at_its_place(values: np.ndarray, data: bytes) -> np.ndarray:
    """White around the first frame of a GIF, where it does not cover the screen."""
    left, top, right, bottom = Image.open(io.BytesIO(data)).tile[0].extents
    inside = np.zeros(values.shape[:2], bool)
    inside[top:bottom, left:right] = True
    if inside.all():
        return values
    values = values.repeat(3, 2) if values.shape[2] == 1 else values.copy()
    values[~inside] = 255
    return values


def _upright(values: np.ndarray, image: Any) -> np.ndarray:
    """Turn by the orientation in Exif, or else in XMP, 1 to 8."""
    try:
        orientation = image.getexif().get(0x0112, 1)
    except Exception:  # broken metadata turn nothing
        return values
    turns = {
        2: lambda x: x[:, ::-1],
        3: lambda x: x[::-1, ::-1],
        4: lambda x: x[::-1],
        5: lambda x: x.transpose(1, 0, 2),
        6: lambda x: x.transpose(1, 0, 2)[:, ::-1],
        7: lambda x: x[::-1, ::-1].transpose(1, 0, 2),
        8: lambda x: x.transpose(1, 0, 2)[::-1],
    }
    return turns.get(orientation, lambda x: x)(values)


def _over_white(values: np.ndarray) -> np.ndarray:
    """RGB from grey, RGB or RGBA: transparency over white, rounded to the nearest."""
    if values.shape[2] == 1:
        return values.repeat(3, 2)
    if values.shape[2] == 3:
        return values
    result = np.empty((*values.shape[:2], 3), "uint8")
    for at in range(0, len(values), _ROWS):
        part = values[at : at + _ROWS].astype("int32")
        result[at : at + _ROWS] = (part[..., :3] * part[..., 3:] + 255 * (255 - part[..., 3:]) + 127) // 255
    return result


def _in_srgb(values: np.ndarray, profile: bytes | None, *, exact: bool) -> np.ndarray:
    """Convert colours by a profile: one of a matrix and curves by its numbers, one of tables by Little CMS."""
    if not profile or len(profile) < 132:
        return values
    whole = int.from_bytes(profile[:4], "big") <= len(profile) and profile[36:40] == b"acsp"
    tags = _tags(profile) if whole else {}
    space, names = profile[16:20], ("rXYZ", "gXYZ", "bXYZ", "rTRC", "gTRC", "bTRC")
    tables = space == b"RGB " and "A2B0" in tags
    if not exact or tables:
        return _by_little_cms(values, profile)
    if space == b"GRAY" and "kTRC" in tags and values.shape[2] == 1:
        curves, mixed = np.stack([_curve(tags["kTRC"])] * 3, 1), np.eye(3, dtype="float32")
        same = True
    elif space == b"RGB " and all(name in tags for name in names):
        colorants = np.stack([_fixed(tags[name], 8, 3) for name in names[:3]], 1)
        curves, mixed = np.stack([_curve(tags[name]) for name in names[3:]], 1), _FROM_XYZ @ colorants
        same = bool(np.abs(colorants - _SRGB).max() < 0.003)
    else:
        return values
    if same and np.abs(curves[128] - 0.2158605).max() < 0.003:  # sRGB itself
        return values
    colours = values[..., :3] if values.shape[2] > 1 else values.repeat(3, 2)
    result = np.empty_like(colours)
    for at in range(0, len(values), _ROWS):
        part = colours[at : at + _ROWS]
        linear = np.stack([curves[part[..., i], i] for i in range(3)], -1) @ mixed.T
        linear = linear.clip(0, 1)
        encoded = np.where(linear <= 0.0031308, 12.92 * linear, 1.055 * linear ** np.float32(1 / 2.4) - 0.055)
        result[at : at + _ROWS] = np.rint(255 * encoded)
    return np.concatenate([result, values[..., 3:]], 2)


def _by_little_cms(values: np.ndarray, profile: bytes) -> np.ndarray:
    """By the profile's perceptual intent. Unchanged if it is damaged, or for other channels."""
    try:
        source = ImageCms.ImageCmsProfile(io.BytesIO(profile))
        mode = {"RGB": "RGB", "GRAY": "L"}.get(source.profile.xcolor_space.strip(), "")
        colours = Image.fromarray(values[..., 0] if values.shape[2] == 1 else values[..., :3])
        if "sRGB" in ImageCms.getProfileDescription(source):
            return values
        colours = colours.convert("RGB") if (colours.mode, mode) == ("L", "RGB") else colours
        if colours.mode != mode:
            return values
        transform = ImageCms.buildTransform(source, ImageCms.createProfile("sRGB"), mode, "RGB")
        result = np.asarray(ImageCms.applyTransform(colours, transform))
    except (ImageCms.PyCMSError, ValueError, OSError):
        return values
    return np.concatenate([result, values[..., 3:]], 2)


def _tags(profile: bytes) -> dict[str, bytes]:
    """The tags of an ICC profile (ICC.1:2022) by name."""
    count = min(int.from_bytes(profile[128:132], "big"), 100)
    rows = np.frombuffer(profile[132 : 132 + 12 * count].ljust(12 * count, b"\0"), ">u4").reshape(-1, 3)
    found: dict[str, bytes] = {}
    for name, at, length in rows.tolist():
        found.setdefault(name.to_bytes(4, "big").decode("latin-1"), profile[at : at + length])
    return found


def _curve(tag: bytes) -> np.ndarray:
    """The linear values of the codes 0 to 255: float32, shape (256,)."""
    x = np.linspace(0, 1, 256, dtype="float32")
    if tag[:4] == b"para":
        kind = int.from_bytes(tag[8:10], "big")
        g, a, b, c, d, e, f = _fixed(tag, 12, 7)
        a, b = (a, b) if kind >= 1 else (np.float32(1), np.float32(0))
        offset = {2: c, 4: e}.get(kind, 0)
        below = {2: c, 4: f}.get(kind, 0)
        limit = d if kind >= 3 else (-b / a if kind >= 1 and a else 0)
        slope = c if kind >= 3 else 0
        values = np.where(x >= limit, np.maximum(a * x + b, 0) ** g + offset, slope * x + below)
    else:
        count = min(int.from_bytes(tag[10:12], "big"), max(len(tag) - 12, 0) // 2)
        table = np.frombuffer(tag[12 : 12 + 2 * count], ">u2").astype("float32")
        if count == 0:
            values = x
        elif count == 1:
            values = x ** (table[0] / 256)
        else:
            values = np.interp(x * (count - 1), np.arange(count), table / 65535)
    return values.clip(0, 1).astype("float32")


def _fixed(tag: bytes, at: int, count: int) -> np.ndarray:
    """Numbers of 16 bits before and 16 after the point; zero past the end."""
    return np.frombuffer(tag[at : at + 4 * count].ljust(4 * count, b"\0"), ">i4").astype("float32") / 65536


def _fit(image: np.ndarray, size: int, fit: str) -> np.ndarray:
    """Make an image square: uint8, shape (size, size, 3)."""
    height, width = image.shape[:2]
    if fit == "squash":
        return _resize(image, size, size)
    if fit == "crop":  # the central square; of an odd rest, the larger half is cut off right and below
        side = min(height, width)
        top, left = (height - side) // 2, (width - side) // 2
        return _resize(image[top : top + side, left : left + side], size, size)
    if fit != "pad":
        raise ValueError(f"Unknown fit '{fit}'. Expected squash, crop or pad.")
    scale = size / max(height, width)
    rows, columns = (min(max(round(side * scale), 1), size) for side in (height, width))  # half to even
    top, left = (size - rows) // 2, (size - columns) // 2  # of an odd rest, the larger half is right and below
    result = np.zeros((size, size, 3), "uint8")
    result[top : top + rows, left : left + columns] = _resize(image, rows, columns)
    return result


def _resize(image: np.ndarray, rows: int, columns: int) -> np.ndarray:
    """Resize by a triangle that is widened where the image shrinks, and round once, at the end.

    The sums are in float32 and in the order of TensorFlow's, so that even a half is rounded as there.
    """
    height, width = image.shape[:2]
    lower = _resize_rows(image.reshape(height, -1), rows).reshape(rows, width, 3)
    turned = _resize_rows(lower.transpose(1, 0, 2).reshape(width, -1), columns)
    result = turned.reshape(columns, rows, 3).transpose(1, 0, 2)
    return np.rint(result).clip(0, 255).astype("uint8")


def _resize_rows(image: np.ndarray, wanted: int) -> np.ndarray:
    """Resize along the first axis: shape (given, columns) to float32, shape (wanted, columns)."""
    given, half, one = len(image), np.float32(0.5), np.float32(1)
    scale = one / (np.float32(wanted) / np.float32(given))
    reach = max(scale, one)
    result = np.empty((wanted, image.shape[1]), "float32")
    for i in range(wanted):
        centre = (np.float32(i) + half) * scale
        first, last = max(0, int(np.ceil(centre - reach - half))), min(given - 1, int(np.floor(centre + reach - half)))
        away = np.abs((np.arange(first, last + 1, dtype="float32") + half - centre) * (one / reach))
        weights = np.maximum(np.float32(0), one - away)
        weights *= one / np.add.accumulate(weights)[-1]
        result[i] = (weights[:, None] * image[first : last + 1].astype("float32")).sum(0)
    return result
