"""The recipes by which the default run fine-tunes a network: how many steps, at which rate, from which head.

The numbers come from `benchmarks/ablation.py`.
"""

from __future__ import annotations

import dataclasses
import math

from tlkit.plan.job import Job
from tlkit.plan.recipe import Recipe, Stage, Unfreeze

# Validation images that fine-tuning needs to take part: with fewer, one in five strategies would win by chance.
FEWEST_TO_JUDGE = 40
STEPS = 1200  # gradient steps, within FEWEST_EPOCHS and MOST_EPOCHS
FEWEST_EPOCHS, MOST_EPOCHS = 6, 24
SMALL = 1000  # training images below which a batch has SMALL_BATCH images
SMALL_BATCH, LARGE_BATCH = 16, 32
RATE = 7e-4  # of Adam, with frozen BatchNormalization
HEAD = Stage(3, 1e-3, augmented=False)
TOP = 2  # blocks of the cheaper fine-tuning
SMALL_VIEWS, LARGE_VIEWS = 8, 4  # augmented versions of each image, for which the frozen blocks run once
# What an epoch of all blocks, or of the upper ones, takes in forward passes of frozen layers. Only for a forecast.
ALL_COST, UPPER_COST = 5, 2
BEST_COST = 10  # what the variations of the effort "best" take, in trainings of the upper blocks


def why_not_tuned(job: Job, validation: int) -> str:
    """Why fine-tuning takes no part whatever the linear heads do; empty if it does.

    validation: number of validation images.

    >>> from pathlib import Path
    >>> why_not_tuned(Job(Path("pets")), 39)
    'it needs 40 or more validation images, and has 39'
    """
    if job.effort == "quick":
        return "the effort asked for is quick"
    if validation < FEWEST_TO_JUDGE:
        return f"it needs {FEWEST_TO_JUDGE} or more validation images, and has {validation}"
    return ""


def upper_blocks(count: int) -> Unfreeze:
    """The blocks that fine-tuning trains: the upper two thirds, or all if there are one or two.

    The lower blocks take most of a training step, since their images are large, and change least (Yosinski et al. 2014,
    arXiv:1411.1792). Frozen, they run once for each augmented view of an image instead of in every epoch. Measured with
    MobileNetV2 0.35 at 128 px, 12 epochs of the upper 4 of 6 blocks, and of all: chest X-rays 97.5 and 97.0 % in 90 and
    194 s (n = 1,039), clothing 89.2 and 87.9 % in 129 and 231 s (n = 761); handwritten letters, two seeds, 24 epochs:
    95.4 and 95.8 % in 45 and 69 s (n = 130). One seed where nothing else is said (`benchmarks/ablation.csv`).

    >>> upper_blocks(6), upper_blocks(5), upper_blocks(2)
    (4, 4, 'all')
    """
    return count - count // 3 if count > 2 else "all"


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
    warmup, views = min(1.0, epochs / 10), SMALL_VIEWS if images < SMALL else LARGE_VIEWS
    tune = Stage(epochs, rate, unfreeze=unfreeze, schedule="cosine", warmup=warmup, interpolate="chosen")
    return Recipe(name, stages=(HEAD, tune), batch_size=batch, views=views, monitor="last")


def with_lower_rate(recipe: Recipe) -> Recipe:
    """Return a recipe whose last stage has a quarter of the learning rate."""
    *before, last = recipe.stages
    slower = dataclasses.replace(last, learning_rate=last.learning_rate / 4)
    return dataclasses.replace(recipe, name=f"{recipe.name}, lower rate", stages=(*before, slower))


def with_fewer_epochs(recipe: Recipe, epochs: int) -> Recipe | None:
    """Return a recipe whose last stage has fewer epochs and a schedule as long. None below FEWEST_EPOCHS."""
    *before, last = recipe.stages
    if not FEWEST_EPOCHS <= epochs < last.epochs:
        return None
    shorter = dataclasses.replace(last, epochs=epochs, warmup=min(1.0, epochs / 10))
    return dataclasses.replace(recipe, name=f"{recipe.name}, {epochs} epochs", stages=(*before, shorter))


def patient_recipes(recipe: Recipe) -> list[Recipe]:
    """The variations of a recipe that the effort "best" trains too: longer, at a lower rate, and of all blocks.

    Each is one network to serve, and a recipe that can be repeated.
    """
    *before, last = recipe.stages
    longer = dataclasses.replace(last, epochs=2 * last.epochs)
    variations = {
        "twice the epochs": longer,
        "twice the epochs, a third of the rate": dataclasses.replace(longer, learning_rate=last.learning_rate / 3),
        "twice the epochs, all blocks": dataclasses.replace(longer, unfreeze="all"),
    }
    return [
        dataclasses.replace(recipe, name=f"{recipe.name}, {name}", stages=(*before, stage))
        for name, stage in variations.items()
    ]


def expected_seconds(recipe: Recipe, forward: float) -> float:
    """A forecast of the seconds that fine-tuning takes. forward: seconds of a forward pass of all images."""
    stage = recipe.stages[-1]
    if stage.unfreeze == "all":
        return ALL_COST * forward * stage.epochs
    return (recipe.views + UPPER_COST * stage.epochs) * forward
