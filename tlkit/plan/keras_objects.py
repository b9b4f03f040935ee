"""Keras objects in a recipe, such as a loss: kept as Keras serialises them. Imports no Keras.

The values are JSON, so that plan.json holds them. `tlkit.training.own_objects` makes objects of them again, as Keras'
safe mode does: classes of Keras, and registered ones, and no other code.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping
from typing import Any

from tlkit.errors import SpecError


def serialised(field: str, value: Any) -> dict[str, Any]:
    """Return a Keras object as JSON values, or such values as they are.

    Args:
        field: for messages, such as "Recipe.loss".
        value: the object, or what `keras.saving.serialize_keras_object` gives.

    Raises:
        SpecError: it is neither, or its class is not Keras' own and not registered, or it holds a function.
    """
    if isinstance(value, Mapping) and isinstance(value.get("class_name"), str):
        return dict(value)
    kind, saving = type(value), getattr(sys.modules.get("keras"), "saving", None)
    if saving is None or not hasattr(value, "get_config"):
        raise SpecError(
            f"{field} is {value!r}. Expected a Keras object, such as keras.losses.CategoricalFocalCrossentropy()."
        )
    own = kind.__module__.split(".")[0] != "keras"
    if own and ">" not in saving.get_registered_name(kind):
        raise SpecError(
            f"{field} is of the class {kind.__name__}, which Keras cannot read back from the plan. Put "
            "@keras.saving.register_keras_serializable() above the class."
        )
    values = saving.serialize_keras_object(value)
    try:
        written = json.dumps(values)
    except (TypeError, ValueError) as error:
        raise SpecError(
            f"{field} cannot be kept in the plan: {error}. Expected a config of numbers and text."
        ) from None
    if '"__lambda__"' in written:
        raise SpecError(f"{field} holds a lambda, which the plan does not keep. Use a registered function or class.")
    return json.loads(written)


def name_of(values: Mapping[str, Any]) -> str:
    """The name of the class of a serialised object."""
    return str(values["class_name"])
