"""Optimizers and the learning rates of a stage. Imports Keras and NumPy only."""

from __future__ import annotations

from typing import Any

import keras

from tlkit.backbones import Backbone
from tlkit.models.blocks import blocks
from tlkit.plan.recipe import Stage


def rate_factors(model: keras.Model, backbone: Backbone, stage: Stage) -> dict[str, float]:
    """Each backbone variable's share of the learning rate, by path: layer_decay to the power of its distance from the head.

    The head's factor is 1, the top block's `layer_decay`, the next one's its square. Empty when layer_decay is 1.
    """
    if stage.layer_decay == 1.0:
        return {}
    parts = blocks(model, backbone)
    factors = {}
    for distance, block in enumerate(reversed(parts), start=1):
        for layer in block.layers:
            factors.update({weight.path: stage.layer_decay**distance for weight in layer.weights})
    return factors


def make_optimizer(stage: Stage, steps: int, factors: dict[str, float]) -> keras.optimizers.Optimizer:
    """A stage's optimizer. steps: batches per epoch. factors: by variable path, multiplied into that variable's update.

    No Keras optimizer has learning rates per layer, and scaling gradients does nothing under Adam, which divides by their
    size; so the rate of each variable's own update is scaled.
    """
    rate: Any = stage.learning_rate
    total, warm = stage.epochs * steps, round(stage.warmup * steps)
    if stage.schedule == "cosine":
        decay = max(total - warm, 1)
        rate = keras.optimizers.schedules.CosineDecay(
            0.0 if warm else rate,
            decay,
            warmup_target=stage.learning_rate if warm else None,
            warmup_steps=warm,
        )
    elif warm:
        rate = keras.optimizers.schedules.PolynomialDecay(rate / warm, warm, end_learning_rate=rate)
    kinds: dict[str, tuple[type, dict[str, Any]]] = {
        "adam": (keras.optimizers.Adam, {}),
        "adamw": (keras.optimizers.AdamW, {"weight_decay": stage.weight_decay}),
        "sgd": (keras.optimizers.SGD, {"momentum": 0.9, "weight_decay": stage.weight_decay or None}),
    }
    kind, settings = kinds[stage.optimizer]
    if stage.ema:
        settings |= {"use_ema": True, "ema_momentum": stage.ema}

    class WithFactors(kind):  # type: ignore[misc, valid-type]
        def build(self, variables: Any) -> None:
            super().build(variables)
            self._factors = [factors.get(variable.path, 1.0) for variable in variables]

        def update_step(self, gradient: Any, variable: Any, learning_rate: Any) -> None:
            factor = self._factors[self._get_variable_index(variable)]
            super().update_step(gradient, variable, learning_rate * factor)

    return (WithFactors if factors else kind)(learning_rate=rate, **settings)
