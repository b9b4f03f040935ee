"""Many images, unlike ImageNet's: a linear head, then every block, with lower learning rates for lower blocks.

When: 1,000 training images or more, from microscopy, X-ray, drawings or satellites.
When not: a few hundred images; or natural photographs, where training two blocks is nearly as accurate in a third of
    the time.
Why: the less the images are like ImageNet's, the earlier the layers that should change. Learning rates that fall
    towards the input keep the features that are still useful (Howard and Ruder 2018, arXiv:1801.06146).
Command: tlkit finetune data/ --recipe large_different
Measured: MobileNetV2 0.35, test accuracy in % by images per class: cats_dogs 72.2 (5; 3 seeds), 93.9 (20; 3 seeds),
    95.3 (all; 3 seeds), n = 120; clothing 39.8 (5; 3 seeds), 64.4 (20; 3 seeds), 84.6 (all; 3 seeds), n = 761;
    blood_cells 73.9 (5; 3 seeds), 95.3 (20; 3 seeds), 99.7 (all; 3 seeds), n = 120; chest_xray 81.9 (5; 3 seeds), 86.1
    (20; 3 seeds), 97.6 (all; 3 seeds), n = 1,039; latin_letters 65.1 (5; 3 seeds), 82.6 (20; 3 seeds), 79.5 (all; 3
    seeds), n = 130. 2026-11-21; benchmarks/recipes.csv has the rows of every seed.
"""

from tlkit.plan.recipe import Recipe, Stage

large_different = Recipe(
    name="large_different",
    stages=(
        Stage(epochs=20, learning_rate=1e-3, patience=4, solver="logistic"),
        Stage(epochs=8, learning_rate=5e-4, unfreeze="all", schedule="cosine", warmup=1, layer_decay=0.8),
    ),
    monitor="val_accuracy",
    why="much data unlike ImageNet: all blocks are fine-tuned, with lower learning rates for lower blocks",
)
