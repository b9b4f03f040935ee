"""The engine that trains by gradient descent: Keras' `fit` on the outputs of the frozen layers.

Imports Keras and NumPy only.
"""

from __future__ import annotations

import math
import time
from concurrent.futures import ThreadPoolExecutor

import keras
import numpy as np

from tlkit.errors import TrainingError
from tlkit.models.batch_norm import batch_norms, fit_momentum, recalibrate
from tlkit.models.parallel import Spread, several_for, spread
from tlkit.progress import Deadline, bar, log
from tlkit.stats import chance_log_loss
from tlkit.stopping import STOPPING
from tlkit.training.batches import Batches, Targets, augmenting, class_weights, in_turn, scaling
from tlkit.training.callbacks import (
    LOG_LOSS,
    CountSteps,
    FollowEpochs,
    KeepBest,
    LogEpochs,
    RecordEpochs,
    StopAtDeadline,
    StopIfNothingLearned,
    StopIfTooLong,
    StopOnNaN,
    StopWithoutImprovement,
    TooLong,
    ValidateByLogLoss,
)
from tlkit.training.history import History
from tlkit.training.inputs import Source, StageInputs, StagePlan, training_source, validation_source
from tlkit.training.optimizers import find_loss_scale, make_optimizer, rate_factors, with_loss_scale
from tlkit.training.own_callbacks import own_callbacks
from tlkit.training.own_objects import loss_of, metrics_of
from tlkit.training.resume import Checkpointing, WithinStage
from tlkit.words import counted

RECALIBRATION_BATCHES = 32
POSITIONS = (0.0, 0.25, 0.5, 0.6, 0.7, 0.8, 0.9, 1.0)  # tried between initial and final weights
STEPS_AT_ONCE = 16  # steps_per_execution for a head: its steps are shorter than the overhead of a call from Python


def fit_stage(
    model: keras.Model, plan: StagePlan, inputs: StageInputs, history: History, deadline: Deadline
) -> History:
    """Train a stage by gradient descent. The model ends with the best weights so far.

    Args:
        model: the classifier; `trainable` is set for this stage.
        plan: the stage. `plan.recipe.batch_size` fits into memory.
        inputs: the classifier cut in two, and the examples.
        history: the stage's own history, which is returned.
        deadline: when the stage ends. One epoch is always completed, unless an earlier stage had one.

    Returns:
        `history`, with a row per epoch. After Ctrl-C it is `interrupted`, if an epoch was completed.

    Raises:
        TrainingError: the loss is not finite. The model then has the best weights so far.
        KeyboardInterrupt: Ctrl-C before the first epoch of the whole training was completed.
    """
    if inputs.prefix is None:
        why = "the images are moved in each step" if plan.stage.adversarial else "no layer is frozen"
        log.info(f"  {why}, so no features are cached")
    held_out = validation_source(plan, inputs, history, deadline)
    if held_out.count < len(inputs.validation) and plan.number > 1:
        history.cut(f"stage {plan.number} was skipped: the time limit left too few validation images")
        return history
    source = training_source(plan, inputs, history, deadline)
    for one, split in ((held_out, "validation"), (source, "training")):
        if one.streamed is not None and plan.stage.scales and one is source:
            log.info("  the images are scaled anew in each epoch, so no features of them are cached")
        elif one.streamed is not None:
            history.note(
                f"stage {plan.number}: the frozen layers' outputs for {counted(len(one.examples), f'{split} image')} "
                "exceed the caches' limit, so they are computed in every epoch"
            )
    classes, suffix, stage = model.output_shape[-1], inputs.suffix, plan.stage
    with ThreadPoolExecutor() as pool:
        batches = _training_batches(plan, source, classes, model.input_shape[1], pool)
        validation = _validation_batches(plan, held_out, classes)
        if stage.batch_norm == "recalibrated" and stage.unfreeze != 0:
            _recalibrate(model, plan, suffix, batches)
        if stage.batch_norm == "moving":
            fit_momentum(batch_norms(model, plan.backbone, stage.unfreeze), stage.epochs * len(batches))
        with spread(suffix, _devices(plan, suffix, source.count, history)) as copy:
            short = stage.unfreeze == 0 and source.features is not None and not copy.several
            at_once = min(STEPS_AT_ONCE, len(batches)) if short else 1
            with copy.scope():
                _compile(model, plan, (suffix, copy.model), len(batches), at_once=at_once)
            find_loss_scale(copy.model, batches[0])
            keeper, initial = KeepBest(plan.recipe.monitor, history.best), copy.model.get_weights()
            own = own_callbacks(plan.callbacks, model, history, plan.number)
            own = [*copy.callbacks, *own] if own else []
            chance = chance_log_loss(source.labels)
            _fit(copy, plan, (batches, validation), keeper, history, deadline, chance, own)
            if stage.interpolate != 1 and not history.interrupted:
                _interpolate(copy, plan, initial, validation, keeper, history)
    return history


def _devices(plan: StagePlan, suffix: keras.Model, count: int, history: History) -> tuple[str, ...]:
    """The devices that a stage of so many images is trained on, (): one.

    The history notes why it is one, if several were asked for.
    """
    devices, why = several_for(suffix, min(plan.recipe.batch_size, count))
    if why:
        history.note(f"stage {plan.number} was trained on one device: {why}")
    return devices


def _training_batches(plan: StagePlan, source: Source, classes: int, size: int, pool: ThreadPoolExecutor) -> Batches:
    recipe, examples = plan.recipe, source.examples
    batch_size = min(recipe.batch_size, len(examples))
    augmented = source.features is None and not plan.augmentation.is_identity()
    augment = augmenting(plan.augmentation, examples.numbers(), plan.seed, pool) if augmented else None
    scales = plan.stage.scales
    scale = scaling(size, scales, examples.numbers(), plan.seed, pool) if scales else None
    weights = class_weights(examples.labels, classes) if recipe.class_weights else None
    return Batches(
        source.views,
        Targets(source.labels, classes, weights),
        batch_size=batch_size,
        seed=plan.seed,
        shuffle=True,
        transform=source.transform(in_turn(scale, augment), batch_size),
        mixup=plan.stage.mixup,
        cutmix=plan.stage.cutmix,
    )


def _validation_batches(plan: StagePlan, source: Source, classes: int) -> Batches:
    batch_size = min(plan.recipe.batch_size, len(source.examples))
    return Batches(
        source.views,
        Targets(source.labels, classes),
        batch_size=batch_size,
        seed=plan.seed,
        transform=source.transform(None, batch_size),
    )


def _recalibrate(model: keras.Model, plan: StagePlan, suffix: keras.Model, batches: Batches) -> None:
    layers = batch_norms(model, plan.backbone, plan.stage.unfreeze)
    count = min(len(batches), RECALIBRATION_BATCHES)
    recalibrate(suffix, layers, (batches.unmixed(number) for number in range(count)))
    names = counted(len(layers), "BatchNormalization layer")
    log.info(f"  {names} recalibrated on {counted(count, 'batch', 'batches')}")


def _compile(
    model: keras.Model, plan: StagePlan, cut: tuple[keras.Model, keras.Model], steps: int, *, at_once: int
) -> None:
    """Compile what is fitted.

    cut: the suffix, and what is fitted: itself or its copy on several devices. steps: batches of an epoch.
    at_once: steps in a call.
    """
    original, suffix = cut
    factors, classes = rate_factors(model, plan.backbone, plan.stage), model.output_shape[-1]
    paths = {one.path: other.path for one, other in zip(original.weights, suffix.weights, strict=True)}
    factors = {paths[path]: factor for path, factor in factors.items() if path in paths}
    suffix.compile(
        optimizer=with_loss_scale(make_optimizer(plan.stage, steps, factors), suffix),
        loss=loss_of(plan.recipe, classes),
        metrics=[
            keras.metrics.CategoricalAccuracy("accuracy"),
            keras.metrics.CategoricalCrossentropy(LOG_LOSS),
            *metrics_of(plan.recipe, classes),
        ],
        steps_per_execution=at_once,
    )
    suffix.optimizer.build(suffix.trainable_variables)


def _fit(
    copy: Spread,
    plan: StagePlan,
    batches: tuple[Batches, Batches],
    keeper: KeepBest,
    history: History,
    deadline: Deadline,
    chance: float,
    own: list[keras.callbacks.Callback],
) -> None:
    """Fit, then restore the best weights.

    copy: of the suffix, on the devices that are used, or itself.
    batches: of the training and of the validation images. chance: the log loss of a classifier that learned nothing.
    own: see `tlkit.training.own_callbacks`.
    """
    training, validation = batches
    stage = plan.stage
    callbacks = _callbacks(plan, training, keeper, history, deadline, chance, own)
    place = None
    if plan.progress is not None:
        place = WithinStage(plan.progress, history, plan.clock, plan.recipe.batch_size)
    checkpointing = Checkpointing(place, training, callbacks)

    def fit(first: int, last: int) -> None:
        steps = CountSteps(update, len(history.earlier))
        copy.model.fit(
            copy.feed(training),
            validation_data=copy.feed(validation),
            initial_epoch=first,
            epochs=last,
            callbacks=[*callbacks, checkpointing, steps],
            shuffle=False,  # Batches shuffles the examples; Keras would only permute whole batches
            verbose=0,
        )

    try:
        with STOPPING.between_steps(), bar(stage.epochs * len(training), "step") as update:
            checkpointing.fit(fit, history.epochs, len(history.earlier) + stage.epochs)
    except TooLong as error:
        history.expected_seconds = error.seconds
        history.cut(
            f"stage {plan.number} was given up: it would take {error.seconds / 60:.1f} minutes, and the time limit "
            f"leaves {max(deadline.left, 0) / 60:.1f}"
        )
    except TrainingError:
        keeper.restore()
        raise
    except KeyboardInterrupt:
        if not history.epochs:
            raise
        history.interrupted = True
        history.cut(
            f"stage {plan.number} was interrupted after epoch {history.epochs}. The best model so far is kept and "
            "delivered; interrupt again to give it up"
        )
    keeper.restore()


def _callbacks(
    plan: StagePlan,
    training: Batches,
    keeper: KeepBest,
    history: History,
    deadline: Deadline,
    chance: float,
    own: list[keras.callbacks.Callback],
) -> list[keras.callbacks.Callback]:
    """The callbacks of a stage, in the order in which they work."""
    stage = plan.stage
    callbacks = [
        ValidateByLogLoss(),
        FollowEpochs(training),
        StopOnNaN(plan.number, stage.learning_rate),
        keeper,
        RecordEpochs(history, plan.number, keeper, plan.clock),
        LogEpochs(history),
        *own,
    ]
    if stage.ema:
        callbacks.insert(0, keras.callbacks.SwapEMAWeights(swap_on_epoch=True))
    if stage.patience is not None:
        callbacks.append(StopWithoutImprovement(plan.recipe.monitor, stage.patience))
    if deadline.whole:
        callbacks.append(StopIfTooLong(deadline, stage.epochs * len(training)))
        if stage.unfreeze != 0 and not stage.adversarial:  # the loss on moved images may well be above chance
            callbacks.append(StopIfNothingLearned(chance, plan.number, stage.learning_rate))
    callbacks.append(StopAtDeadline(deadline, history, plan.number))
    if stage.schedule == "plateau":
        callbacks.append(keras.callbacks.ReduceLROnPlateau(monitor="val_loss", factor=0.2, patience=2))
    return callbacks


def _interpolate(
    copy: Spread,
    plan: StagePlan,
    initial: list[np.ndarray],
    validation: Batches,
    keeper: KeepBest,
    history: History,
) -> None:
    """Interpolate between the initial and the final weights. The result is kept if it is the best so far.

    If the position is to be chosen, the result is the position with the lowest validation log loss.
    """
    suffix = copy.model
    started, final = time.monotonic(), suffix.get_weights()

    def scores_at(share: float) -> dict[str, float]:
        suffix.set_weights([start + share * (end - start) for start, end in zip(initial, final, strict=True)])
        found = suffix.evaluate(copy.feed(validation), return_dict=True, verbose=0)
        return {"loss": math.nan, "accuracy": math.nan, "val_loss": found[LOG_LOSS], "val_accuracy": found["accuracy"]}

    chosen = plan.stage.interpolate == "chosen"
    tried = {share: scores_at(share) for share in (POSITIONS if chosen else (float(plan.stage.interpolate),))}
    share = min(tried, key=lambda one: tried[one]["val_loss"])
    suffix.set_weights([start + share * (end - start) for start, end in zip(initial, final, strict=True)])
    best = keeper.consider(tried[share])
    if best:
        history.position = share
    else:
        keeper.restore()
    seconds = time.monotonic() - started
    row = history.add(plan.number, tried[share], best=best, seconds=seconds, at_seconds=plan.clock.seconds)
    how = f"{share:g}, the best position" if chosen else f"{share:g}"
    log.info(
        f"  weights interpolated by {how}: val_loss {row['val_loss']:.4f}, "
        f"val_accuracy {row['val_accuracy']:.4f}, "
        + ("kept" if best else "no improvement, so the weights before are kept")
    )
