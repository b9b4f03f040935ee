"""How files become pixels, as the fields that stand in the `tlkit.json` of every export (docs/preprocessing.md)."""

from __future__ import annotations

from typing import Any

from tlkit.data.limits import FULL_DEPTH, MAX_PIXELS, REDUCED_BY
from tlkit.data.reference import RULE_VERSION


def preprocessing(size: int, fit: str, depth: int = FULL_DEPTH, layout: str = "NHWC") -> dict[str, Any]:
    """The rule for one model.

    Args:
        size: pixels per side.
        fit: "squash", "crop" or "pad".
        depth: the bits that images of 16 bits use.
        layout: of the model's input: "NHWC" or "NCHW".
    """
    rule = {
        "version": RULE_VERSION,
        "size": size,
        "color": "RGB",
        "range": [0, 255],
        "frame": 0,
        "orientation": "upright",
        "profile": "sRGB",
        "alpha": {"over": [255, 255, 255]},
        "depth": depth,
        "reduce_jpeg": {"above_pixels": MAX_PIXELS, "by": REDUCED_BY},
        "fit": fit,
        "filter": "triangle",
        "antialias": True,
        "rounding": "half-to-even",
        "layout": layout,
        "dtype": "float32",
    }
    if fit == "crop":
        rule["crop"] = {"take": "central-square", "odd_pixel_cut_off": "bottom-right"}
    if fit == "pad":
        rule["pad"] = {"color": [0, 0, 0], "odd_pixel_added": "bottom-right", "side_rounding": "half-to-even"}
    return rule
