"""Carries out a recipe's stages on a classifier. Imports Keras and NumPy only, so it runs on every Keras backend.

For each stage: set what trains, cut the model at the highest frozen boundary, compute the frozen part once (`features`),
train the rest on that, keep the best weights by validation. A stage that ends worse than it began leaves the model as it
was.
"""

from __future__ import annotations

import copy
import dataclasses
import math
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import keras
import numpy as np

from tlkit.backbones import Backbone, find_backbone
from tlkit.data.examples import Examples
from tlkit.devices import while_memory_lasts
from tlkit.features.extract import Features, all_rows, extract_features
from tlkit.features.folds import solving_folds
from tlkit.features.linear import Solver, choose_strength, solve
from tlkit.models.batch_norm import batch_norms, recalibrate
from tlkit.models.blocks import cut, set_trainable
from tlkit.plan.recipe import Recipe, Stage, Unfreeze
from tlkit.progress import NO_DEADLINE, Deadline, bars_shown, log
from tlkit.stats import log_loss
from tlkit.training.batches import Batches, FollowEpochs, augmenting, class_weights
from tlkit.training.callbacks import _KeepBest
from tlkit.training.history import History, epoch_line
from tlkit.training.inputs import _through
from tlkit.training.optimizers import make_optimizer, rate_factors

RECALIBRATION_BATCHES = 32
STEPS_AT_ONCE = 16  # of a head's steps, which are so short that calling each from Python takes longer than the step


def train(
    model: keras.Model,
    backbone: Backbone | str,
    recipe: Recipe,
    training: Examples,
    validation: Examples,
    *,
    seed: int = 0,
    deadline: Deadline = NO_DEADLINE,
) -> History:
    """Train a classifier in place, stage after stage; it ends with the best weights on validation.

    training, validation: decoded images with labels, raw RGB 0-255.
    seed: gives order, views and augmentation.
    deadline: when training ends; at least one epoch of the first stage is done.
    A line per stage and epoch is logged (see `tlkit.progress`).

    Raises SpecError when a stage asks for more blocks than there are, TrainingError when the loss is not a number.
    """
    backbone = find_backbone(backbone) if isinstance(backbone, str) else backbone
    for stage in recipe.stages:
        backbone.block_count(stage.unfreeze)
    training, validation = _mixed(training, seed), _mixed(validation, seed)
    history = History()
    for number, stage in enumerate(recipe.stages, start=1):
        if history.rows and deadline.over:
            history.cut(f"stage {number} of {len(recipe.stages)} was not begun: the time limit was reached")
            continue
        job = _StageJob(model, backbone, recipe, stage, number, seed, deadline)
        history = job.run(training, validation, history)
    return history


def _mixed(examples: Examples, seed: int) -> Examples:
    """The examples in a random order, so that the first of them, all that a time limit may leave, are of every class."""
    return examples.take(np.random.default_rng((seed, 2)).permutation(len(examples)))


@dataclass
class _StageJob:
    """One stage and what it needs to know."""

    model: keras.Model
    backbone: Backbone
    recipe: Recipe
    stage: Stage
    number: int
    seed: int
    deadline: Deadline

    def run(self, training: Examples, validation: Examples, history: History) -> History:
        """The history with this stage added. When memory runs out, the stage begins anew with half the batch."""
        weights, asked = self.model.get_weights(), self.recipe.batch_size

        def attempt(batch_size: int) -> History:
            after = copy.deepcopy(history)
            if batch_size < asked:
                self.model.set_weights(weights)
                after.notes.append(
                    f"stage {self.number} ran with batches of {batch_size}: memory did not suffice for {asked}"
                )
            job = dataclasses.replace(self, recipe=dataclasses.replace(self.recipe, batch_size=batch_size))
            try:
                job._attempt(training, validation, after)
            finally:
                history.images_computed = after.images_computed
            return after

        return while_memory_lasts(attempt, asked)

    def _attempt(self, training: Examples, validation: Examples, history: History) -> None:
        stage, recipe = self.stage, self.recipe
        weights = set_trainable(self.model, self.backbone, unfreeze=stage.unfreeze, batch_norm=stage.batch_norm)
        prefix, suffix = cut(self.model, self.backbone, stage.unfreeze)
        what = unfrozen(stage.unfreeze)
        log.info(
            f"stage {self.number} of {len(recipe.stages)}: {what}, {weights:,} weights train, up to {stage.epochs} epochs"
        )
        if stage.solver != "gradient" and prefix is not None and self._solve(prefix, training, validation, history):
            return
        with ThreadPoolExecutor() as pool:
            if prefix is None:
                log.info("  no layer is frozen, so nothing is cached")
            val_batches, held_out = self._batches(prefix, validation, history, pool, train=False)
            if held_out < len(validation) and self.number > 1:
                history.cut(f"stage {self.number} was not begun: the time limit left too few validation images")
                return
            batches, used = self._batches(prefix, training, history, pool, train=True)
            self._note_used(used, training, history)
            if stage.batch_norm == "recalibrated" and stage.unfreeze != 0:
                self._recalibrate(suffix, batches)
            first_epoch = len(history.rows)
            self._compile(suffix, steps=len(batches))
            bar = bars_shown() and stage.unfreeze != 0  # a head's epochs are over in a blink
            keeper = _KeepBest(recipe.monitor, stage, self.number, history, self.deadline, lines=not bar)
            began_with = suffix.get_weights()
            callbacks = [FollowEpochs(batches), keeper]
            if stage.ema:
                callbacks.insert(0, keras.callbacks.SwapEMAWeights(swap_on_epoch=True))
            if stage.schedule == "plateau":
                callbacks.append(keras.callbacks.ReduceLROnPlateau(monitor="val_loss", factor=0.2, patience=2))
            suffix.fit(
                batches,
                validation_data=val_batches,
                initial_epoch=first_epoch,
                epochs=first_epoch + stage.epochs,
                callbacks=callbacks,
                shuffle=False,  # Batches shuffles; Keras would only permute whole batches
                verbose=1 if bar else 0,
            )
            keeper.restore()
            if stage.interpolate < 1:
                self._interpolate(suffix, began_with, val_batches, history)

    def _recalibrate(self, suffix: keras.Model, batches: Batches) -> None:
        layers = batch_norms(self.model, self.backbone, self.stage.unfreeze)
        count = min(len(batches), RECALIBRATION_BATCHES)
        recalibrate(suffix, layers, (batches[number][0] for number in range(count)))
        log.info(f"  {len(layers)} BatchNormalization layers recalibrated on {count} batches")

    def _interpolate(self, suffix: keras.Model, began_with: list[np.ndarray], val: Batches, history: History) -> None:
        """Go back a part of the way; kept if it is the best so far, as an epoch would be."""
        started, ended_with = time.monotonic(), suffix.get_weights()
        share = self.stage.interpolate
        suffix.set_weights([start + share * (end - start) for start, end in zip(began_with, ended_with, strict=True)])
        found = suffix.evaluate(val, return_dict=True, verbose=0)
        scores = {"loss": math.nan, "accuracy": math.nan, "val_loss": found["loss"], "val_accuracy": found["accuracy"]}
        if not history.add(self.number, scores, self.recipe.monitor, seconds=time.monotonic() - started):
            suffix.set_weights(ended_with)
        row = history.rows[-1]
        log.info(
            f"  {share:g} of the way: val_loss {row['val_loss']:.4f}, val_accuracy {row['val_accuracy']:.4f}, "
            + ("kept" if row["best"] else "not better, so the whole way is kept")
        )

    def _solve(self, prefix: keras.Model, training: Examples, validation: Examples, history: History) -> bool:
        """Put a solved head into the model if it is the best so far; False if there was no room for the features."""
        held_out = self._features(prefix, validation, history, train=False)
        found = held_out and self._features(prefix, training, history, train=True)
        if held_out is None or found is None:
            return False
        self._note_used(found.count, training, history)
        started, stage, classes = time.monotonic(), self.stage, self.model.output_shape[-1]
        val, val_labels = all_rows(held_out), validation.labels[: held_out.count]
        features, labels = all_rows(found), np.tile(training.labels[: found.count], len(found.views))
        sizes = tuple(source.row_shape[-1] for source in found.views[0])
        solver = Solver(stage.solver, balanced=self.recipe.class_weights, sizes=sizes)
        strength, why = stage.strength, "given"
        if strength is None:
            used = training.take(np.arange(found.count)), validation.take(np.arange(held_out.count))
            folds, why = solving_folds(*[(one.labels, one.groups) for one in used], seed=self.seed)
            of_training = np.tile(folds[: found.count], len(found.views))
            rows, true = np.concatenate([features, val]), np.concatenate([labels, val_labels])
            strength = choose_strength(
                rows, true, np.concatenate([of_training, folds[found.count :]]), classes, solver=solver
            ).strength
        head = solve(features, labels, classes, strength=strength, validation=(val, val_labels), solver=solver)
        scores: dict[str, float] = {}
        for prefix_of_name, rows, true in (("", features, labels), ("val_", val, val_labels)):
            probabilities = head.probabilities(rows)
            scores[f"{prefix_of_name}loss"] = log_loss(probabilities, true)
            scores[f"{prefix_of_name}accuracy"] = float((probabilities.argmax(1) == true).mean())
        seconds = time.monotonic() - started
        line = f"  head solved in {seconds:.1f} s with C = {strength:.2g} ({why}); "
        if history.add(self.number, scores, self.recipe.monitor, seconds=seconds, strength=strength):
            self.model.get_layer("predictions").set_weights([head.kernel, head.bias])
            log.info(line + epoch_line(history.rows[-1]))
        else:
            log.info(line + "not better than the stage before, whose weights are kept")
        return True

    def _note_used(self, used: int, training: Examples, history: History) -> None:
        if used < len(training):
            history.cut(f"stage {self.number} trained on {used} of {len(training)} images: the time limit left no more")

    def _batches(
        self,
        prefix: keras.Model | None,
        examples: Examples,
        history: History,
        pool: ThreadPoolExecutor,
        *,
        train: bool,
    ) -> tuple[Batches, int]:
        """Batches of what the suffix takes: cached features where they fit, else pixels run through the prefix."""
        recipe, classes = self.recipe, self.model.output_shape[-1]
        features = self._features(prefix, examples, history, train=train) if prefix is not None else None
        augmented = train and not recipe.augmentation.is_identity()
        settings: dict[str, Any] = {
            "batch_size": min(recipe.batch_size, len(examples)),
            "seed": self.seed,
            "shuffle": train,
            "weights": class_weights(examples.labels, classes) if train and recipe.class_weights else None,
            "mixup": self.stage.mixup if train else 0.0,
            "cutmix": self.stage.cutmix if train else 0.0,
        }
        if features is not None:
            labels = examples.labels[: features.count]
            return Batches(features.views, labels, classes, **settings), features.count
        transform = augmenting(recipe.augmentation, examples.numbers(), self.seed, pool) if augmented else None
        if prefix is not None:
            transform = _through(prefix, transform, settings["batch_size"])
        return Batches([[examples.pixels]], examples.labels, classes, transform=transform, **settings), len(examples)

    def _features(self, prefix: keras.Model, examples: Examples, history: History, *, train: bool) -> Features | None:
        started = time.monotonic()
        # most of what is left is for the training images
        deadline = self.deadline if train else self.deadline.share(0.3)
        found = extract_features(
            prefix,
            examples,
            augmentation=self.recipe.augmentation if train else None,
            views=self.recipe.views,
            seed=self.seed,
            batch_size=self.recipe.batch_size,
            deadline=deadline,
        )
        part = "training" if train else "validation"
        if found is None:
            history.note(
                f"stage {self.number}: the frozen layers' outputs for {len(examples)} {part} images exceed the caches' "
                "limit, so they are computed in every epoch"
            )
            return None
        history.images_computed += found.computed
        asked = len(examples) * len(found.views)
        seconds = time.monotonic() - started
        log.info(
            f"  frozen layers on {part} images: {found.computed} computed, {asked - found.computed} cached, {seconds:.1f} s"
        )
        return found

    def _compile(self, suffix: keras.Model, steps: int) -> None:
        factors = rate_factors(self.model, self.backbone, self.stage)
        suffix.compile(
            optimizer=make_optimizer(self.stage, steps, factors),
            loss=keras.losses.CategoricalCrossentropy(label_smoothing=self.recipe.head.label_smoothing),
            metrics=[keras.metrics.CategoricalAccuracy(name="accuracy")],
            steps_per_execution=min(STEPS_AT_ONCE, steps) if self.stage.unfreeze == 0 else 1,
        )


def unfrozen(unfreeze: Unfreeze) -> str:
    """What a stage trains, for a person.

    >>> unfrozen(2), unfrozen((1,))
    ('the head and the top 2 blocks', 'the head and block 1')
    """
    if unfreeze == 0:
        return "the head"
    if isinstance(unfreeze, tuple):
        return f"the head and block{'s' if len(unfreeze) > 1 else ''} {', '.join(map(str, unfreeze))}"
    if unfreeze == "all":
        return "the head and all blocks"
    return f"the head and the top {unfreeze} blocks" if unfreeze != 1 else "the head and the top block"
