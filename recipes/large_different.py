"""Many images, unlike ImageNet's: a linear head, then every block, the deeper the slower.

When: 1,000 training images or more of microscopy, X-ray, drawings, satellites.
When not: a few hundred images; natural photographs, where two blocks give nearly as much for a third of the time.
Why: the further from ImageNet, the earlier the layers that should change; rates that fall with depth keep what is still of use (Howard
    and Ruder 2018, arXiv:1801.06146).
Command: tlkit finetune data/ --recipe large_different
Measured: MobileNetV2 0.35, test accuracy in % with so many images per class: cats_dogs 86.7 (5; 1 seed), 94.2 (20; 1 seed),
    92.5 (all; 1 seed), n = 120; clothing 37.8 (5; 1 seed), 69.6 (20; 1 seed), 85.3 (all; 1 seed), n = 761; blood_cells 73.3 (5;
    1 seed), 98.3 (20; 1 seed), 100.0 (all; 1 seed), n = 120; chest_xray 80.8 (5; 1 seed), 83.3 (20; 1 seed), 97.4 (all; 1
    seed), n = 1,039; latin_letters 64.6 (5; 1 seed), n = 130. 2026-11-21; benchmarks/recipes.csv, where every seed's rows are.
"""

from tlkit.spec import Recipe, Stage

large_different = Recipe(
    name="large_different",
    stages=(
        Stage(epochs=20, learning_rate=1e-3, patience=4, solver="logistic"),
        Stage(epochs=8, learning_rate=5e-4, unfreeze="all", schedule="cosine", warmup=1, layer_decay=0.8),
    ),
    monitor="val_accuracy",
    why="much data unlike ImageNet: all blocks are adapted, the deeper the slower",
)
