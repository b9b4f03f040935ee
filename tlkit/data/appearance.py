"""How images look: brightness, contrast, colour, sharpness and noise, as a few numbers for each image."""

from __future__ import annotations

import numpy as np

from tlkit.data.examples import RowSource

# name -> what it is, for a person
MEASURES: dict[str, str] = {
    "brightness": "mean grey level, 0-255",
    "contrast": "standard deviation of the grey levels",
    "saturation": "mean difference between a pixel's highest and lowest channel",
    "red": "mean red less mean green",
    "blue": "mean blue less mean green",
    "sharpness": "logarithm of the variance of the Laplacian: lower where an image is blurred",
    "edges": "mean difference of horizontal neighbours, in grey levels",
    "noise": "median size of the Laplacian, in grey levels",
}
BATCH = 256


def measure_appearance(pixels: RowSource) -> np.ndarray:
    """Measure how images look at the size at which the model sees them.

    Args:
        pixels: uint8 rows, shape (n, size, size, 3), RGB.

    Returns:
        float64, shape (n, measures), with the columns of MEASURES in their order.
    """
    starts = range(0, len(pixels), BATCH)
    rows = [_measured(pixels.gather(np.arange(start, min(start + BATCH, len(pixels))))) for start in starts]
    return np.concatenate(rows) if rows else np.zeros((0, len(MEASURES)))


def _measured(images: np.ndarray) -> np.ndarray:
    grey, channels = images.mean(-1, dtype="float32"), images.mean((1, 2), dtype="float64")
    laplacian = 4 * grey[:, 1:-1, 1:-1] - grey[:, :-2, 1:-1] - grey[:, 2:, 1:-1]
    laplacian -= grey[:, 1:-1, :-2] + grey[:, 1:-1, 2:]
    columns = {
        "brightness": grey.mean((1, 2)),
        "contrast": grey.std((1, 2)),
        "saturation": (images.max(-1).astype("int16") - images.min(-1)).mean((1, 2)),
        "red": channels[:, 0] - channels[:, 1],
        "blue": channels[:, 2] - channels[:, 1],
        "sharpness": np.log1p(laplacian.var((1, 2))),
        "edges": np.abs(np.diff(grey, axis=2)).mean((1, 2)),
        "noise": np.median(np.abs(laplacian), (1, 2)),
    }
    return np.stack([columns[name] for name in MEASURES], axis=1).astype("float64")
