"""The recipes by which the default run fine-tunes a network: how many steps, at which rate, from which head.

The numbers come from `benchmarks/ablation.py`.
"""

from __future__ import annotations

import dataclasses
import math

from tlkit.plan.job import Job
from tlkit.plan.recipe import Recipe, Stage, Unfreeze

STEPS = 1200  # gradient steps, within FEWEST_EPOCHS and MOST_EPOCHS
FEWEST_EPOCHS, MOST_EPOCHS = 6, 24
SMALL = 1000  # training images below which a batch has SMALL_BATCH images
SMALL_BATCH, LARGE_BATCH = 16, 32
RATE = 7e-4  # of Adam, with frozen BatchNormalization
HEAD = Stage(3, 1e-3, augmented=False)
# What a training step of all blocks takes, in forward passes of frozen layers. Only for a forecast.
STEP_COST = 5


def tuning_recipe(name: str, unfreeze: Unfreeze, images: int, job: Job) -> Recipe:
    """A recipe that trains a head for a few epochs, then the head and the blocks.

    The head stays far from fitted. A head that fits the training images leaves next to no loss, and Adam, which divides
    by the size of the gradients, makes full steps of what noise is left: the features are lost before training begins
    to improve them. Measured on handwritten letters, 130 test images: 95.4 and 96.2 % (two seeds) from a head of three
    epochs; 63 to 94 % from solved ones, depending on rate, warmup and BatchNormalization. On larger sets it matters
    less: chest X-rays 97.0 against 96.2 %, clothing 87.9 % both (`benchmarks/ablation.csv`).

    unfreeze: how many blocks, or "all". images: for training. job: its epochs, learning rate and batch size, where they
    are given; else they follow from the number of images, so that a small set gets enough steps.
    """
    batch = job.batch_size or (SMALL_BATCH if images < SMALL else LARGE_BATCH)
    steps = max(1, math.ceil(images / batch))
    epochs = job.epochs or min(max(math.ceil(STEPS / steps), FEWEST_EPOCHS), MOST_EPOCHS)
    rate = job.learning_rate or RATE
    warmup = min(1.0, epochs / 10)
    tune = Stage(epochs, rate, unfreeze=unfreeze, schedule="cosine", warmup=warmup, interpolate="chosen")
    return Recipe(name, stages=(HEAD, tune), batch_size=batch, monitor="last")


def with_lower_rate(recipe: Recipe) -> Recipe:
    """Return a recipe whose last stage has a quarter of the learning rate."""
    *before, last = recipe.stages
    slower = dataclasses.replace(last, learning_rate=last.learning_rate / 4)
    return dataclasses.replace(recipe, name=f"{recipe.name}, lower rate", stages=(*before, slower))


def patient_recipes(recipe: Recipe) -> list[Recipe]:
    """The variations of a recipe that the effort "best" trains too: longer, at a lower rate, BatchNormalization moving.

    Each is one network to serve, and a recipe that can be repeated.
    """
    *before, last = recipe.stages
    longer = dataclasses.replace(last, epochs=2 * last.epochs)
    variations = {
        "twice the epochs": longer,
        "twice the epochs, a third of the rate": dataclasses.replace(longer, learning_rate=last.learning_rate / 3),
        "moving BatchNormalization": dataclasses.replace(last, batch_norm="moving"),
    }
    return [
        dataclasses.replace(recipe, name=f"{recipe.name}, {name}", stages=(*before, stage))
        for name, stage in variations.items()
    ]


def expected_seconds(recipe: Recipe, forward: float) -> float:
    """A forecast of the seconds that training all blocks takes. forward: seconds of a forward pass of all images."""
    return STEP_COST * forward * recipe.stages[-1].epochs
