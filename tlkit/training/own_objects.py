"""Makes a recipe's losses, metrics and optimizers from what the plan keeps of them. Imports Keras and NumPy only."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import keras
import numpy as np

from tlkit.errors import SpecError
from tlkit.plan.keras_objects import name_of
from tlkit.plan.recipe import Recipe


def made(field: str, values: Mapping[str, Any], kind: type) -> Any:
    """Make a Keras object in safe mode.

    Args:
        field: for messages, such as "Recipe.loss".
        values: what `keras.saving.serialize_keras_object` gave.
        kind: what it must be an instance of.

    Raises SpecError if Keras cannot make it, or if it is something else.
    """
    try:
        found = keras.saving.deserialize_keras_object(dict(values), safe_mode=True)
    except Exception as error:  # constructors raise many kinds
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise SpecError(
            f"{field} '{name_of(values)}' cannot be made: {reason} Import the module that registers it first "
            "(@keras.saving.register_keras_serializable)."
        ) from error
    if not isinstance(found, kind):
        raise SpecError(f"{field} is a {type(found).__name__}. Expected a keras {kind.__name__}.")
    return found


def loss_of(recipe: Recipe, classes: int) -> keras.losses.Loss:
    """The loss of a recipe: its own, or the cross-entropy.

    Raises SpecError if its own does not take one-hot labels and probabilities, both of shape (n, classes).
    """
    if recipe.loss is None:
        return keras.losses.CategoricalCrossentropy(label_smoothing=recipe.head.label_smoothing)
    loss = made("Recipe.loss", recipe.loss, keras.losses.Loss)
    _check_takes_one_hot("Recipe.loss", loss, classes)
    return loss


def metrics_of(recipe: Recipe, classes: int) -> list[keras.metrics.Metric]:
    """The recipe's own metrics. Raises SpecError as `loss_of`."""
    found = [made("Recipe.metrics", one, keras.metrics.Metric) for one in recipe.metrics]
    for one in found:
        _check_takes_one_hot("Recipe.metrics", one, classes)
        one.reset_state()
    return found


def _check_takes_one_hot(field: str, work: Any, classes: int) -> None:
    labels = np.eye(classes, dtype="float32")[:2]
    probabilities = np.full(labels.shape, 1 / classes, "float32")
    try:
        value = np.asarray(work(labels, probabilities))
    except Exception as error:  # a shape that does not fit raises many kinds
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise SpecError(
            f"{field} '{type(work).__name__}' fails on one-hot labels and probabilities of shape {labels.shape}: "
            f"{reason} Expected one for one-hot labels, without 'Sparse' in its name."
        ) from error
    if field == "Recipe.loss" and not np.isfinite(value).all():
        raise SpecError(f"{field} '{type(work).__name__}' is {value} where all classes are equally probable.")
