"""The main job in one call.

    python examples/one_call.py [DATA [BACKBONE]]

Without DATA it runs on scikit-learn's digits with random weights, so that it works with no network: everything is then trained
from nothing, which is no transfer. With your own DATA it transfers ImageNet weights.
"""

import sys
from pathlib import Path

from digits import write_digits

from tlkit import Recipe, Stage, finetune

FROM_NOTHING = Recipe(
    "from_nothing",
    stages=(Stage(epochs=12, learning_rate=3e-3, unfreeze="all", batch_norm="moving", schedule="cosine", warmup=1),),
    monitor="val_accuracy",
    why="random weights have nothing to keep, so every block trains from the start",
)

if len(sys.argv) > 1:
    run = finetune(sys.argv[1], backbone=sys.argv[2] if len(sys.argv) > 2 else None, say=print)
else:
    data = write_digits(Path("digits"), per_class=100)
    run = finetune(
        data, backbone="mobilenetv2_0.35", weights="none", image_size=32, recipe=FROM_NOTHING, batch_size=16, say=print
    )
print(f"validation accuracy {run.metrics['validation']['accuracy']:.3f}")
