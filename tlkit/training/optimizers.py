"""Optimizers and the learning rates of a stage. Imports Keras and NumPy only."""

from __future__ import annotations

from typing import Any

import keras

from tlkit.backbones import Backbone
from tlkit.models.blocks import blocks
from tlkit.plan.recipe import Stage


def rate_factors(model: keras.Model, backbone: Backbone, stage: Stage) -> dict[str, float]:
    """Return the factor of the learning rate for each backbone variable, by path; {} if layer_decay is 1.

    The factor is layer_decay to the power of the block's distance from the head: `layer_decay` for the top block, its
    square for the next one. The head's factor is 1.
    """
    if stage.layer_decay == 1.0:
        return {}
    factors = {}
    for distance, block in enumerate(reversed(blocks(model, backbone)), start=1):
        for layer in block.layers:
            factors.update({weight.path: stage.layer_decay**distance for weight in layer.weights})
    return factors


# The first factor of the loss in float16. Keras' own, 32,768, often makes the first five steps overflow, which are then
# skipped. A short stage would not move in its warmup.
FIRST_SCALE = 1024.0


def make_optimizer(
    stage: Stage, steps: int, factors: dict[str, float], *, scale_loss: bool = False
) -> keras.optimizers.Optimizer:
    """Make the optimizer of a stage.

    Keras' optimizers have no learning rates per layer, and scaling gradients has no effect with Adam, which divides by
    their magnitude. So the learning rate of each variable's update is scaled.

    The moving average of the weights (`Stage.ema`) begins at the initial weights. Keras begins at zero and replaces it
    in the first step, which float16 may skip.

    Args:
        stage: the stage.
        steps: batches per epoch.
        factors: the factor of the learning rate by variable path, 1 where it is absent.
        scale_loss: whether the loss is scaled, so that small gradients do not vanish in float16 (Micikevicius et al.
            2018, arXiv:1710.03740).
    """
    rate: Any = stage.learning_rate
    total_steps, warmup_steps = stage.epochs * steps, round(stage.warmup * steps)
    if stage.schedule == "cosine":
        rate = keras.optimizers.schedules.CosineDecay(
            0.0 if warmup_steps else rate,
            max(total_steps - warmup_steps, 1),
            warmup_target=stage.learning_rate if warmup_steps else None,
            warmup_steps=warmup_steps,
        )
    elif warmup_steps:
        rate = keras.optimizers.schedules.PolynomialDecay(rate / warmup_steps, warmup_steps, end_learning_rate=rate)
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
            if self.use_ema:
                for average, variable in zip(self._model_variables_moving_average, variables, strict=True):
                    if average is not None:
                        average.assign(variable)

        def update_step(self, gradient: Any, variable: Any, learning_rate: Any) -> None:
            factor = self._factors[self._get_variable_index(variable)]
            super().update_step(gradient, variable, learning_rate * factor)

    optimizer = (WithFactors if factors or stage.ema else kind)(learning_rate=rate, **settings)
    return keras.optimizers.LossScaleOptimizer(optimizer, FIRST_SCALE) if scale_loss else optimizer
