"""Many images, like ImageNet's: a linear head, then the top two blocks.

When: 1,000 training images or more, of things, animals or scenes.
When not: a few hundred images (the blocks would overfit); or images of another kind (more blocks should be trained).
Why: there is enough data to fine-tune the most specialised features, while the earlier ones are useful as they are
    (Yosinski et al. 2014, arXiv:1411.1792). The head is solved first, because the gradients of a random head would
    distort the features of the blocks (Kumar et al. 2022, arXiv:2202.10054). The frozen blocks run only once per image.
Command: tlkit finetune data/ --recipe large_similar
Measured: MobileNetV2 0.35, test accuracy in % by images per class: cats_dogs 80.6 (5; 3 seeds), 90.6 (20; 3 seeds),
    95.6 (all; 3 seeds), n = 120; clothing 44.6 (5; 3 seeds), 65.8 (20; 3 seeds), 80.8 (all; 3 seeds), n = 761;
    blood_cells 81.7 (5; 3 seeds), 96.9 (20; 3 seeds), 98.9 (all; 3 seeds), n = 120; chest_xray 81.1 (5; 3 seeds), 87.3
    (20; 3 seeds), 96.5 (all; 3 seeds), n = 1,039; latin_letters 63.8 (5; 3 seeds), 75.9 (20; 3 seeds), 75.4 (all; 3
    seeds), n = 130. 2026-11-21; benchmarks/recipes.csv has the rows of every seed.
"""

from tlkit.plan.recipe import Recipe, Stage

large_similar = Recipe(
    name="large_similar",
    stages=(
        Stage(epochs=20, learning_rate=1e-3, patience=4, solver="logistic"),
        Stage(epochs=6, learning_rate=2e-4, unfreeze=2, schedule="cosine", warmup=0.5, layer_decay=0.8),
    ),
    monitor="val_accuracy",
    why="much data like ImageNet: the top blocks are fine-tuned, the earlier ones stay frozen",
)
