"""Finds weights that are no numbers (NaN) or infinite, before anything is computed with them."""

from __future__ import annotations

from typing import Any

from tlkit.errors import WeightsError


def check_finite(model: Any, source: str) -> None:
    """Raise WeightsError with the layer's name if a weight of a network is NaN or infinite.

    Args:
        model: a Keras model.
        source: what the weights were read from, as the message begins: "The weights in 'a.h5'".
    """
    import numpy as np

    for variable in model.variables:
        check_array(np.asarray(variable), variable.path, source)


def check_array(values: Any, name: str, source: str) -> None:
    """Raise WeightsError if one of the numbers of an array is NaN or infinite. name: of the weight."""
    import numpy as np

    values = np.asarray(values)
    if values.dtype.kind not in "fcV":  # bfloat16 is of kind V
        return
    wrong = ~np.isfinite(values.astype("float32") if values.dtype.kind == "V" else values)
    if wrong.any():
        raise WeightsError(
            f"{source} hold numbers that are not finite: {wrong.sum():,} of {wrong.size:,} in '{name}' (NaN or "
            "infinite). Expected trained weights. The file is damaged, or its training diverged: get another one."
        )
