"""A program that trains and computes features on one device and on several, and prints how much they differ.

    python -m tests.several_devices FOLDER PART...

Run with KERAS_BACKEND=jax XLA_FLAGS=--xla_force_host_platform_device_count=2 for JAX. FOLDER: of the caches. PART: of
features, held, moving and resumed.
"""

from __future__ import annotations

import contextlib
import json
import sys
from pathlib import Path
from typing import Any

import keras
import numpy as np

DEVICES = 2
if __name__ == "__main__" and keras.backend.backend() == "tensorflow":  # before anything is computed
    import tensorflow as tf

    logical = [tf.config.LogicalDeviceConfiguration()] * DEVICES
    tf.config.set_logical_device_configuration(tf.config.list_physical_devices("CPU")[0], logical)

from tests.training.test_training import BACKBONE, SHIFT, examples, recipe, tiny  # noqa: E402
from tlkit import Checkpoints, Head, Recipe, Resumable, Stage, extract_features, train  # noqa: E402
from tlkit.checkpoints import Checkpoint  # noqa: E402
from tlkit.devices import use_devices  # noqa: E402
from tlkit.features.extract import per_output  # noqa: E402
from tlkit.models.blocks import cut  # noqa: E402
from tlkit.training.history import SCORES  # noqa: E402
from tlkit.training.inputs import _run_prefix  # noqa: E402

HELD = Stage(2, 1e-3, unfreeze="all", mixup=0.2, ema=0.9, layer_decay=0.7, weight_decay=0.01, optimizer="adamw")
MOVING = Stage(2, 1e-2, unfreeze="all", batch_norm="moving", optimizer="sgd", interpolate="chosen")
RECIPES = {
    "held": recipe(Stage(1, 1e-2), HELD, augmentation=SHIFT),
    "moving": recipe(MOVING, class_weights=True, head=Head(hidden=(8,))),
}


class Weights(keras.callbacks.Callback):
    """Keeps what a user's callback sees of the classifier after each epoch."""

    def on_train_begin(self, logs: Any = None) -> None:
        self.seen = getattr(self, "seen", [])

    def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
        self.seen.append(np.concatenate([one.ravel() for one in self.model.get_weights()]))


def trained(plan: Recipe, devices: int | None, *callbacks: Any) -> tuple[Any, Any, Any]:
    """The scores of each epoch, the weights, and the weights after each epoch. The last batch has 3 of 8 images."""
    model, weights = tiny(head=plan.head, seed=1), Weights()
    with use_devices(devices):
        given = [*callbacks] or [weights]
        history = train(model, BACKBONE, plan, examples(43), examples(13, seed=1), seed=3, callbacks=given)
    scores = np.array([[row[name] for name in SCORES] for row in history.rows])
    return scores, model.get_weights(), getattr(weights, "seen", [])


def stopped_and_resumed(plan: Recipe, folder: Path) -> tuple[Any, Any, Any]:
    """Train on several devices, with an end after the fifth checkpoint, and go on."""
    place, save, saved = Checkpoints(folder, every=0.0), Checkpoint.save, 0

    def saving(self: Checkpoint, values: dict[str, Any]) -> None:
        nonlocal saved
        save(self, values)
        saved += 1
        if saved == 5:
            raise SystemExit

    Checkpoint.save = saving  # type: ignore[method-assign]
    with contextlib.suppress(SystemExit):
        trained(plan, DEVICES, Resumable(place.of("one")))
    return trained(plan, DEVICES, Resumable(place.of("one")))


def features(devices: int | None) -> list[np.ndarray]:
    """The outputs of frozen layers: 21 images in batches of 4."""
    prefix, _ = cut(tiny(seed=1), BACKBONE, 2)
    with use_devices(devices) as used:
        found = extract_features(prefix, examples(21, made_by=f"on {len(used)}"), batch_size=4)
    return per_output(found)


def streamed(devices: int | None) -> list[np.ndarray]:
    """The outputs of frozen layers that are computed for each batch of a training, here of 7 images."""
    prefix, _ = cut(tiny(seed=1), BACKBONE, 2)
    images = examples(7).pixels.gather(np.arange(7))
    with use_devices(devices):
        return _run_prefix(prefix, None, 7)([images], np.arange(7), 0)


def difference(one: Any, other: Any) -> float:
    """The largest difference. One that is NaN in both is none."""
    return max(float(np.nanmax(np.abs(a - b))) for a, b in zip(one, other, strict=True))


def main(folder: Path, parts: list[str]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    if "features" in parts:
        found["features"] = difference(features(None), features(DEVICES))
        found["streamed"] = difference(streamed(None), streamed(DEVICES))
    for name in [one for one in RECIPES if one in parts]:
        one, several = trained(RECIPES[name], None), trained(RECIPES[name], DEVICES)
        found[name] = [difference(*pair) for pair in zip(one, several, strict=True)]
    if "resumed" in parts:
        whole, resumed = trained(RECIPES["held"], DEVICES), stopped_and_resumed(RECIPES["held"], folder / "checkpoints")
        found["resumed"] = [difference(whole[0], resumed[0]), difference(whole[1], resumed[1])]
    return found


if __name__ == "__main__":
    print(json.dumps(main(Path(sys.argv[1]), sys.argv[2:])))
