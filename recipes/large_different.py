"""Many images, unlike ImageNet's: unfreeze from the top down, deeper blocks at lower rates.

When: 1,000 training images or more of microscopy, X-ray, drawings, satellites.
When not: a few hundred images; natural photographs, where two blocks give nearly as much for a third of the time.
Why: the further from ImageNet, the earlier the layers that should change; gradual unfreezing and rates that fall with depth keep
    what is still of use (Howard and Ruder 2018, arXiv:1801.06146).
Command: tlkit finetune data/ --recipe large_different
Measured: not measured; it has not yet been shown to beat `large_similar` on its own kind of data.
"""

from tlkit.spec import Recipe, Stage

large_different = Recipe(
    name="large_different",
    stages=(
        Stage(epochs=20, learning_rate=1e-3, patience=4),
        Stage(epochs=4, learning_rate=3e-4, unfreeze=2, schedule="cosine", warmup=0.5, layer_decay=0.7),
        Stage(
            epochs=6,
            learning_rate=2e-4,
            unfreeze="all",
            schedule="cosine",
            warmup=0.5,
            layer_decay=0.7,
            batch_norm="moving",
        ),
    ),
    monitor="val_accuracy",
    why="much data unlike ImageNet: all blocks are adapted, from the top down and the deeper the slower",
)
