"""Writes what lies beside every export, so that another program can use it: client.py, check.json and README.md."""

from __future__ import annotations

import base64
import io
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageDraw

from tlkit.data.decode import square_decoder
from tlkit.files import write_atomically
from tlkit.folders import BESIDE

_HERE = Path(__file__).parent
_REFERENCE = _HERE.parent / "data" / "reference.py"
_FROM_HERE = "# -- from here on also in client.py"
_IMPORTS = "from tlkit.data.reference import decode_upright, preprocess\n"
TOLERANCE = 0.01  # of a probability; 1 level of 255 in the pixels changes less, unless a model is very sensitive
ROUNDED_TOLERANCE = 0.05  # of models in 8-bit integers, whose kernels differ between processors


def write_client(
    folder: Path, description: dict[str, Any], answer: Callable[[np.ndarray], np.ndarray], *, rounds: bool = False
) -> None:
    """Write client.py, check.json and README.md into the folder of an export.

    Args:
        folder: of the export.
        description: as it will be in `tlkit.json`.
        answer: the model: uint8, shape (n, size, size, 3), to probabilities, shape (n, classes).
        rounds: whether the model has 8-bit integers.
    """
    rule, names = description["preprocessing"], description["classes"]
    square = square_decoder(rule["size"], rule["fit"], rule["depth"])
    images = check_images(rule["size"])
    values = np.asarray(answer(np.stack([square(data).numpy() for data in images.values()])), "float64")
    told = {
        "about": "Images drawn by tlkit, and the model's answers. The program client.py compares its own with them.",
        "tolerance": ROUNDED_TOLERANCE if rounds else TOLERANCE,
        "images": [
            {
                "name": name,
                "data": base64.b64encode(data).decode("ascii"),
                "class": names[int(row.argmax())],
                "probabilities": dict(zip(names, row.tolist(), strict=True)),
            }
            for (name, data), row in zip(images.items(), values, strict=True)
        ],
    }
    texts = (client_program(), json.dumps(told, indent=1, ensure_ascii=False) + "\n", readme(description))
    for name, text in zip(BESIDE, texts, strict=True):
        write_atomically(folder / name, text)


def client_program() -> str:
    """The source of client.py: the same for every export, with the source of `tlkit.data.reference` in it."""
    program = (_HERE / "client.py.txt").read_text(encoding="utf-8")
    reference = _REFERENCE.read_text(encoding="utf-8")
    shared = reference[reference.index(_FROM_HERE) :].partition("\n")[2]
    heading = (
        "# -- from a file to pixels, by `preprocessing` in tlkit.json -------------------------------------------\n"
    )
    return program.replace(_IMPORTS, heading + shared + "\n")


def check_images(size: int) -> dict[str, bytes]:
    """Images that reveal what differs: the first is already `size` pixels square, the others are not."""
    turned = Image.Exif()
    turned[0x0112] = 6
    wide, high = _drawn(3 * size // 2 + 7, size + 4, 1), _drawn(size // 2 + 3, 2 * size + 1, 2)
    glass = _drawn(size + 9, size + 30, 3)
    glass.putalpha(Image.linear_gradient("L").resize(glass.size))
    return {
        "square PNG": _encoded(_drawn(size, size, 0), "PNG"),
        "JPEG turned by Exif": _encoded(wide, "JPEG", exif=turned),
        "large JPEG": _encoded(_drawn(5 * size + 3, 4 * size + 1, 5), "JPEG", quality=40),
        "narrow PNG": _encoded(high, "PNG"),
        "transparent PNG": _encoded(glass, "PNG"),
        "grey JPEG": _encoded(_drawn(size + 40, size + 11, 4).convert("L"), "JPEG"),
    }


def _drawn(width: int, height: int, seed: int) -> Image.Image:
    """Discs of many colours on a gradient."""
    random = np.random.default_rng(seed)
    image = Image.merge("RGB", [Image.linear_gradient("L").rotate(90 * i).resize((width, height)) for i in range(3)])
    draw = ImageDraw.Draw(image)
    for _ in range(24):
        x, y, radius = random.integers(0, width), random.integers(0, height), random.integers(3, 4 + width // 5)
        colour = tuple(int(value) for value in random.integers(0, 256, 3))
        draw.ellipse((x - radius, y - radius, x + radius, y + radius), fill=colour)
    return image


def _encoded(image: Image.Image, kind: str, quality: int = 90, exif: Image.Exif | None = None) -> bytes:
    out = io.BytesIO()
    image.save(out, kind, **({"quality": quality, "exif": exif or Image.Exif()} if kind == "JPEG" else {}))
    return out.getvalue()


# -- README.md ----------------------------------------------------------------------------------------------

RUNS_WITH = {  # format -> what pip installs beside Pillow and NumPy
    "savedmodel": "tensorflow",
    "onnx": "onnxruntime",
    "litert": "ai-edge-litert",
    "litert-float16": "ai-edge-litert",
    "litert-int8": "ai-edge-litert",
    "openvino": "openvino",
    "keras": "keras jax",
}


def readme(description: dict[str, Any]) -> str:
    """The README.md of an export: its shapes, what runs it, and the lines for other languages."""
    target, rule = description["format"], description["preprocessing"]
    size, layout = rule["size"], rule["layout"]
    shape = f"(n, 3, {size}, {size})" if layout == "NCHW" else f"(n, {size}, {size}, 3)"
    values = {
        "target": target,
        "size": str(size),
        "count": str(len(description["classes"])),
        "shape": shape,
        "layout": layout,
        "fit": rule["fit"],
        "packages": RUNS_WITH[target],
        "keras": "KERAS_BACKEND=jax " if target == "keras" else "",
        "file": description.get("file", "saved_model.pb"),
        "batch": str(description["batch"]),
        "least": description.get("tensorflow", {}).get("least", ""),
        "transpose": ".transpose(0, 3, 1, 2)" if layout == "NCHW" else "",
    }
    parts = [part for part, formats in _PARTS if target in formats]
    texts = [(_HERE / "readme" / f"{part}.md").read_text(encoding="utf-8") for part in ("start", *parts)]
    text = "\n".join(texts)
    for name, value in values.items():
        text = text.replace(f"<<{name}>>", value)
    return text


_LITERT = ("litert", "litert-float16", "litert-int8")
_PARTS: Sequence[tuple[str, tuple[str, ...]]] = (
    ("savedmodel", ("savedmodel",)),
    ("onnx", ("onnx",)),
    ("litert", _LITERT),
    ("openvino", ("openvino",)),
    ("keras", ("keras",)),
    ("node", ("onnx",)),
    ("opencv", ("onnx",)),
    ("openvino_reads", ("onnx", *_LITERT)),
)
