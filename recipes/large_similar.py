"""Many images, like ImageNet's: a linear head, then the top two blocks.

When: 1,000 training images or more, of things, animals or scenes.
When not: a few hundred images (the blocks overfit); pictures of another kind (more blocks should move).
Why: enough data to adapt the most specialised features, while the early ones serve as they are (Yosinski et al. 2014,
    arXiv:1411.1792). The frozen blocks run once; only what is above them is trained.
Command: tlkit finetune data/ --recipe large_similar
Measured: MobileNetV2 at 224, given splits, seed 0, 2026-11-21, TensorFlow 2.21, Keras 3.15.1, test accuracy with its 95 %
    interval: clothing 91.2 (89.0 to 93.0, n = 761), against 88.3 (85.8 to 90.4) for a linear head alone; chest_xray 97.6 (96.5 to
    98.4, n = 1,039), against 95.2 (93.7 to 96.3). One seed; benchmarks/main_job.csv; the linear heads were run once on the same day
    and are not in that table.
"""

from tlkit.spec import Recipe, Stage

large_similar = Recipe(
    name="large_similar",
    stages=(
        Stage(epochs=20, learning_rate=1e-3, patience=4),
        Stage(epochs=6, learning_rate=2e-4, unfreeze=2, schedule="cosine", warmup=0.5, layer_decay=0.7),
    ),
    monitor="val_accuracy",
    why="much data like ImageNet: the top blocks are adapted, the early ones serve as they are",
)
