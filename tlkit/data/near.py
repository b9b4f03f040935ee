"""Near duplicates, from pixels alone: copies that were encoded again, resized, recoloured a little, or mirrored.

Whether two images are a pair depends on these two alone, so that adding images never makes or breaks a pair of others.
Crops, rotations and different photographs of one scene are not found.
"""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import numpy as np

from tlkit.data.examples import RowSource

LIMIT = 100_000  # images at most: comparing them takes time in proportion to the square of their number
SIDE = 32  # pixels per side of a thumbnail
COARSE = 0.85  # the least correlation of two images' coarse detail to be compared in full
ALIKE, DETAIL = 0.98, 0.95  # the least correlation of a pair in grey, and in fine detail
FAINT = 0.5  # grey levels: detail weaker than this correlates with nothing, so that plain images are not all alike
BLOCK = 2048  # rows of the images that are compared with each other at once


def near_duplicates(pixels: RowSource) -> np.ndarray:
    """Find pairs of images that show the same picture.

    Images are compared as grey thumbnails of 32 x 32 pixels. Coarse detail at 16 x 16 pixels (the thumbnail less its
    mean over 5 x 5 pixels) selects candidates; a pair must also agree in the thumbnail itself and in its fine detail
    (less its mean over 5 x 5), as they are or with one mirrored left to right. All pairs of at most LIMIT images are
    compared, by products of matrices.

    Args:
        pixels: uint8 rows, shape (n, size, size, 3), 0-255.

    Returns: pairs of indices, the smaller first, sorted: int64, shape (pairs, 2). None are found among more than LIMIT.
    """
    n = len(pixels)
    if not 2 <= n <= LIMIT:
        return np.zeros((0, 2), "int64")
    thumbs = _thumbnails(pixels)
    coarse = _detail(thumbs.reshape(n, SIDE // 2, 2, SIDE // 2, 2).mean((2, 4), dtype="float32"))
    mirrored = coarse.reshape(n, SIDE // 2, SIDE // 2)[:, :, ::-1].reshape(n, -1)
    kept = [_verified(thumbs, _candidates(coarse, coarse), mirror=False)]
    kept.append(_verified(thumbs, _candidates(coarse, np.ascontiguousarray(mirrored)), mirror=True))
    return np.unique(np.concatenate(kept), axis=0)


def _thumbnails(pixels: RowSource) -> np.ndarray:
    """Grey thumbnails: uint8, shape (n, SIDE, SIDE)."""
    from PIL import Image

    result = np.zeros((len(pixels), SIDE, SIDE), "uint8")

    def shrink(start: int) -> None:
        for i, image in enumerate(pixels.gather(slice(start, start + 256)), start=start):
            grey = Image.fromarray(image).convert("L")
            result[i] = np.asarray(grey.resize((SIDE, SIDE), Image.Resampling.BOX))

    with ThreadPoolExecutor() as pool:  # Pillow releases the GIL
        list(pool.map(shrink, range(0, len(pixels), 256)))
    return result


def _detail(images: np.ndarray) -> np.ndarray:
    """What differs from the mean over 5 x 5 pixels: rows of length 1, shorter where faint. (n, side * side)."""
    from scipy.ndimage import uniform_filter

    images = images.astype("float32")
    detail = (images - uniform_filter(images, (0, 5, 5), mode="nearest")).reshape(len(images), -1)
    return detail / np.sqrt(np.square(detail).sum(1, keepdims=True) + FAINT**2 * detail.shape[1])


def _candidates(rows: np.ndarray, others: np.ndarray) -> np.ndarray:
    """Pairs (i, j), i < j, whose rows correlate by COARSE or more: int64, shape (pairs, 2)."""
    found = []
    for start in range(0, len(rows), BLOCK):
        for first in range(start, len(rows), BLOCK):
            near = rows[start : start + BLOCK] @ others[first : first + BLOCK].T >= COARSE
            if near.any():
                i, j = np.nonzero(near)
                pairs = np.stack([i + start, j + first], axis=1)
                found.append(pairs[pairs[:, 0] < pairs[:, 1]])
    return np.concatenate(found) if found else np.zeros((0, 2), "int64")


def _verified(thumbs: np.ndarray, pairs: np.ndarray, *, mirror: bool) -> np.ndarray:
    """Those pairs that agree in the thumbnail and in its fine detail."""
    good = np.zeros(len(pairs), bool)
    for start in range(0, len(pairs), BLOCK):
        one, other = (thumbs[pairs[start : start + BLOCK, column]] for column in (0, 1))
        other = other[:, :, ::-1] if mirror else other
        fine = (_detail(one) * _detail(other)).sum(1)
        good[start : start + BLOCK] = (fine >= DETAIL) & (_correlation(one, other) >= ALIKE)
    return pairs[good].astype("int64")


def _correlation(one: np.ndarray, other: np.ndarray) -> np.ndarray:
    """The correlation of each two images: shape (n,)."""
    first, second = (np.reshape(x, (len(x), -1)).astype("float32") for x in (one, other))
    first, second = first - first.mean(1, keepdims=True), second - second.mean(1, keepdims=True)
    return (first * second).sum(1) / np.sqrt(np.square(first).sum(1) * np.square(second).sum(1) + 1e-6)
