"""Tells labels that are quantities, such as an age or a price, from names of classes."""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Sequence
from statistics import median

FEWEST_NUMBERS = 10  # different numbers, from which labels may be quantities; fewer are often grades
FEW_IMAGES = 5  # of each number in the median, below which whole numbers are hardly the names of classes
_DECIMAL_COMMA = re.compile(r"^([+-]?\d+),(\d+)$")  # as Excel writes it in many countries


def about_regression(labels: Sequence[str]) -> str:
    """What to say where the labels are quantities, because regression is not supported; "" where they are classes.

    They are taken for quantities if all are numbers, ten or more different ones, and some have decimals or most have
    fewer than five images.

    labels: of each image.

    >>> about_regression(["1", "2", "2", "1"])
    ''
    """
    counts = Counter(labels)
    try:
        numbers = sorted(float(_DECIMAL_COMMA.sub(r"\1.\2", label)) for label in counts)
    except ValueError:
        return ""
    if len(numbers) < FEWEST_NUMBERS or not all(map(math.isfinite, numbers)):
        return ""
    each = median(counts.values())
    if each >= FEW_IMAGES and all(number.is_integer() for number in numbers):
        return ""
    images = "1 image" if each == 1 else f"{each:g} images"
    return (
        f"the labels are {len(numbers):,} different numbers, from {numbers[0]:g} to {numbers[-1]:g}, with {images} "
        "each in the median. If they are quantities, regression is not supported: each number is a class of its own, "
        "and near numbers are not alike. Give classes instead, such as ranges of the numbers"
    )
