"""A program that trains in one process and in two of a local Ray cluster, and prints how much they differ.

KERAS_BACKEND=jax python -m tests.on_machines
"""

from __future__ import annotations

import json

import numpy as np
import ray

from tests.several_devices import RECIPES, difference
from tests.training.test_training import BACKBONE, examples, tiny
from tlkit import train
from tlkit.training.history import SCORES
from tlkit.training.machines import train_on_machines


def main() -> None:
    plan, found = RECIPES["held"], []
    for processes in (None, 2):
        model, data = tiny(head=plan.head, seed=1), (examples(43), examples(13, seed=1))
        if processes is None:
            history = train(model, BACKBONE, plan, *data, seed=3)
        else:
            history = train_on_machines(model, BACKBONE, plan, *data, processes=processes, seed=3)
        found.append((np.array([[row[name] for name in SCORES] for row in history.rows]), model.get_weights()))
    (scores, weights), (scores2, weights2) = found
    print(json.dumps({"held": [difference(scores, scores2), difference(weights, weights2)], "epochs": len(scores2)}))


if __name__ == "__main__":
    ray.init(address="local", include_dashboard=False, num_cpus=2, object_store_memory=100_000_000)
    main()
    ray.shutdown()
