"""Trains a classifier on several machines: Keras on JAX, with each batch split over the processes of a Ray cluster.

Each process has all examples, or finds them in a shared cache, and puts its part of a batch on its devices. All of them
have the same weights. Imports Keras and NumPy only.
"""

from __future__ import annotations

import dataclasses
from typing import Any

import keras

from tlkit.backbones import Backbone, find_backbone
from tlkit.cluster.processes import run_together
from tlkit.data.examples import Examples
from tlkit.devices import using
from tlkit.errors import SpecError
from tlkit.models.sending import packed, unpacked
from tlkit.plan.recipe import Recipe
from tlkit.training.history import History
from tlkit.training.train import train


def train_on_machines(
    model: keras.Model,
    backbone: Backbone | str,
    recipe: Recipe,
    training: Examples,
    validation: Examples,
    *,
    processes: int,
    seed: int = 0,
) -> History:
    """Train a classifier as `tlkit.train` does, in several processes of the Ray cluster that is in use.

    The batch is that of one process, and so are the losses, but for rounding. The processes run Keras on JAX, whatever
    it runs on here. A solved head is solved in each of them. There is no deadline, and there are no callbacks and
    checkpoints: the processes would have to agree when to end.

    Args:
        model, backbone, recipe, training, validation, seed: as for `train`. The model is trained in place.
        processes: how many, 1 or more. `recipe.batch_size` should divide by the number of devices that they have.

    Raises:
        SpecError: Ray is not installed, or `processes` is below 1.
        RunError: a process failed, or no cluster is in use: call `ray.init` first.
    """
    if processes < 1:
        raise SpecError(f"`processes` is {processes}. Expected 1 or more.")
    backbone = find_backbone(backbone) if isinstance(backbone, str) else backbone
    given = {
        "model": packed(model),
        "backbone": backbone,
        "recipe": recipe,
        "examples": (training, validation),
        "seed": seed,
    }
    found = run_together(_train, given, processes, {"KERAS_BACKEND": "jax"})
    model.set_weights(found["weights"])
    return History(**found["history"])


def _train(given: dict[str, Any]) -> dict[str, Any]:
    """Train in one of the processes, which JAX has connected."""
    keras.utils.set_random_seed(given["seed"])  # all begin with the same random states
    model = unpacked(given["model"])
    with using(tuple(keras.distribution.list_devices())):
        history = train(model, given["backbone"], given["recipe"], *given["examples"], seed=given["seed"])
    fields = {one.name: getattr(history, one.name) for one in dataclasses.fields(history)}
    return {"weights": model.get_weights(), "history": fields}
