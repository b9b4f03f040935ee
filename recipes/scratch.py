"""Every weight from scratch: the whole network from random weights.

When: to learn what pretrained features are worth on your images, which the run says at its end; for a network without
    pretrained weights; or where the terms of pretrained weights are not acceptable.
When not: otherwise. Features learned from a million images are better than those of some thousands, and it takes ten to
    a hundred times the time.
Why: random weights need a high learning rate, which rises first and then falls to zero along a cosine (Loshchilov and
    Hutter 2017, arXiv:1608.03983), BatchNormalization that trains (Ioffe and Szegedy 2015, arXiv:1502.03167), many
    epochs, and augmentation against overfitting. With enough images and time it comes close to transfer (He, Girshick
    and Dollár 2019, arXiv:1811.08883). The last epoch is kept, since the rate ends at zero.
Command: tlkit finetune data/ --recipe scratch --weights none
Measured: nano at 64 px, test accuracy in % on scikit-learn's digits, 40 training and 10 validation images per class:
    91.6, where a linear head on nano's frozen ImageNet features has 90.0 (difference -4.1 to +0.9), n = 500, 1 seed,
    483 s on two busy cores. 2026-11-27, Keras 3.15.1, TensorFlow 2.21.0. On photographs: not measured.
"""

from tlkit.plan.augmentation import PRESETS
from tlkit.plan.recipe import Recipe, Stage

scratch = Recipe(
    name="scratch",
    stages=(
        Stage(
            epochs=60,
            learning_rate=2e-3,
            unfreeze="all",
            optimizer="adamw",
            weight_decay=0.05,
            schedule="cosine",
            warmup=3,
            batch_norm="moving",
        ),
    ),
    augmentation=PRESETS["standard"],
    monitor="last",
    why="random weights: the whole network is trained at a high rate, for many epochs",
)
