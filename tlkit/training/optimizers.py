"""Optimizers and the learning rates of a stage. Imports Keras and NumPy only."""

from __future__ import annotations

from typing import Any

import keras

from tlkit.backbones import Backbone
from tlkit.errors import SpecError
from tlkit.models.blocks import blocks
from tlkit.plan.recipe import Stage
from tlkit.training.own_objects import made

LOSS_SCALE = 2.0**15  # the first that is tried; Keras' default
SCALE_TRIALS = 16  # each halves the loss scale, until it is 1
HEADROOM = 16.0  # by which the gradients of other batches may be larger than those of the batch that was tried


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


def make_optimizer(stage: Stage, steps: int, factors: dict[str, float]) -> keras.optimizers.Optimizer:
    """Make the optimizer of a stage.

    Keras' optimizers have no learning rates per layer, and scaling gradients has no effect with Adam, which divides by
    their magnitude. So the learning rate of each variable's update is scaled.

    Weight decay is decoupled from the gradient (Loshchilov and Hutter 2019, arXiv:1711.05101) and in proportion to the
    variable's own learning rate. It shrinks kernels only: variables of one dimension, which are biases and the scales
    and offsets of BatchNormalization, do not decay (He et al. 2019, arXiv:1812.01187).

    steps: batches per epoch. factors: the factor of the learning rate by variable path, 1 where it is absent.
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
        "adamw": (keras.optimizers.Adam, {}),
        "sgd": (keras.optimizers.SGD, {"momentum": 0.9}),
    }
    kind, settings = kinds[stage.optimizer] if isinstance(stage.optimizer, str) else _own(stage)
    if stage.ema:
        settings |= {"use_ema": True, "ema_momentum": stage.ema}

    class StageOptimizer(kind):  # type: ignore[misc, valid-type]
        def build(self, variables: Any) -> None:
            super().build(variables)
            self._factors = [factors.get(variable.path, 1.0) for variable in variables]
            # Keras' averages begin at zero until the first step, which loss scaling may skip
            for variable, average in zip(variables, getattr(self, "_model_variables_moving_average", ()), strict=False):
                average.assign(keras.ops.convert_to_numpy(variable))  # a copy: JAX gives a buffer away but once

        def update_step(self, gradient: Any, variable: Any, learning_rate: Any) -> None:
            factor = self._factors[self._get_variable_index(variable)]
            if factor != 1.0:
                learning_rate = learning_rate * factor
            if stage.weight_decay and len(variable.shape) > 1:
                shrinking = keras.ops.cast(learning_rate, variable.dtype) * stage.weight_decay
                self.assign_sub(variable, keras.ops.multiply(variable, shrinking))
            super().update_step(gradient, variable, learning_rate)

    return StageOptimizer(learning_rate=rate, **settings)


def _own(stage: Stage) -> tuple[type, dict[str, Any]]:
    """The class of a stage's own optimizer, and its settings without the learning rate."""
    found = made("Stage.optimizer", stage.optimizer, keras.optimizers.Optimizer)
    if isinstance(found, keras.optimizers.LossScaleOptimizer):
        raise SpecError("Stage.optimizer is a LossScaleOptimizer. Give the inner one: the scale is added where needed.")
    settings = {name: value for name, value in found.get_config().items() if name not in ("learning_rate", "name")}
    return type(found), settings


def with_loss_scale(optimizer: keras.optimizers.Optimizer, model: keras.Model) -> keras.optimizers.Optimizer:
    """Wrap the optimizer in a dynamic loss scale if a layer of the model computes in float16, else return it unchanged.

    Without it, small gradients underflow to 0 in float16 (Micikevicius et al. 2018, arXiv:1710.03740). Keras looks at
    the model's own dtype policy alone, which is float32 for a model made by `tlkit.cut`.
    """
    if not any(layer.compute_dtype == "float16" for layer in model.layers):
        return optimizer
    return keras.optimizers.LossScaleOptimizer(optimizer, initial_scale=LOSS_SCALE)


def find_loss_scale(model: keras.Model, batch: tuple[Any, ...]) -> None:
    """Lower the loss scale until the gradients of a batch are finite, and by HEADROOM more.

    So the first steps of a stage are not skipped, and a short stage moves in its warm-up.

    The model's weights and the optimizer's other variables stay as they are. Without a loss scale nothing is done.

    Args:
        model: compiled with an optimizer from `with_loss_scale`, which is built.
        batch: (inputs, targets) or (inputs, targets, weights), as given by `Batches`.
    """
    optimizer = model.optimizer
    if not isinstance(optimizer, keras.optimizers.LossScaleOptimizer):
        return
    weights, variables = model.get_weights(), [keras.ops.convert_to_numpy(one) for one in optimizer.variables]
    model.fit(_OneBatch(batch), epochs=SCALE_TRIALS, callbacks=[_StopWhenFinite()], shuffle=False, verbose=0)
    scale = float(keras.ops.convert_to_numpy(optimizer.dynamic_scale))
    model.set_weights(weights)
    for variable, value in zip(optimizer.variables, variables, strict=True):
        variable.assign(value)
    optimizer.dynamic_scale.assign(max(scale / HEADROOM, 1.0))


class _OneBatch(keras.utils.PyDataset):
    """One batch for `fit`. It has the form of `Batches`, so that Keras need not trace its functions anew for them."""

    def __init__(self, batch: tuple[Any, ...]) -> None:
        super().__init__()
        self._batch = batch

    def __len__(self) -> int:
        return 1

    def __getitem__(self, number: int) -> tuple[Any, ...]:
        return self._batch


class _StopWhenFinite(keras.callbacks.Callback):
    """Ends `fit` after the first epoch whose step was not skipped by the loss scale."""

    def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
        self.model.stop_training = int(keras.ops.convert_to_numpy(self.model.optimizer.iterations)) > 0
