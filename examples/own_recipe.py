"""Define your own recipe: a head with dropout and mild augmentation, then the top block at a low learning rate.

python examples/own_recipe.py DATA
tlkit finetune DATA --recipe examples/own_recipe.py      # the same from the command line
"""

import logging
import sys

from tlkit import Augmentation, Head, Recipe, Stage, finetune

recipe = Recipe(
    name="own",
    head=Head(pooling="avg+max", dropout=0.2),
    augmentation=Augmentation(shift_x=(-0.1, 0.1), shift_y=(-0.1, 0.1), rotate=(-10, 10), brightness=(-0.1, 0.1)),
    stages=(
        Stage(epochs=20, learning_rate=1e-3, patience=5),
        Stage(epochs=5, learning_rate=1e-4, unfreeze=1, schedule="cosine", warmup=1, layer_decay=0.5),
    ),
    views=4,
)

if __name__ == "__main__":
    logging.basicConfig(level=logging.INFO, format="%(message)s")  # shows what tlkit does
    run = finetune(sys.argv[1], recipe=recipe)
    print(f"validation accuracy {run.metrics['validation']['accuracy']:.3f}")
