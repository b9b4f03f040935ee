"""Many images, unlike ImageNet's: a linear head, then every block, the deeper the slower.

When: 1,000 training images or more of microscopy, X-ray, drawings, satellites.
When not: a few hundred images; natural photographs, where two blocks give nearly as much for a third of the time.
Why: the further from ImageNet, the earlier the layers that should change; rates that fall with depth keep what is still of use (Howard
    and Ruder 2018, arXiv:1801.06146).
Command: tlkit finetune data/ --recipe large_different
Measured: MobileNetV2 0.35, test accuracy in % with so many images per class: cats_dogs 72.2 (5; 3 seeds), 93.9 (20; 3 seeds),
    95.3 (all; 3 seeds), n = 120; clothing 39.8 (5; 3 seeds), 64.4 (20; 3 seeds), 84.6 (all; 3 seeds), n = 761; blood_cells 73.9
    (5; 3 seeds), 95.3 (20; 3 seeds), 99.7 (all; 3 seeds), n = 120; chest_xray 81.9 (5; 3 seeds), 86.1 (20; 3 seeds), 97.6 (all;
    3 seeds), n = 1,039; latin_letters 65.1 (5; 3 seeds), 82.6 (20; 3 seeds), 79.5 (all; 3 seeds), n = 130. 2026-11-21;
    benchmarks/recipes.csv, where every seed's rows are.
"""

from tlkit.plan.recipe import Recipe, Stage

large_different = Recipe(
    name="large_different",
    stages=(
        Stage(epochs=20, learning_rate=1e-3, patience=4, solver="logistic"),
        Stage(epochs=8, learning_rate=5e-4, unfreeze="all", schedule="cosine", warmup=1, layer_decay=0.8),
    ),
    monitor="val_accuracy",
    why="much data unlike ImageNet: all blocks are adapted, the deeper the slower",
)
