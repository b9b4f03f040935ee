"""Few images, unlike ImageNet's: a linear head on the frozen features of every block.

When: fewer than 1,000 training images, from microscopy, X-ray, drawings or satellites.
When not: natural photographs, where the last block alone is as good or better; or thousands of images, which are enough
    to fine-tune the features.
Why: the higher a block, the more specific its features are to ImageNet's classes (Yosinski et al. 2014,
    arXiv:1411.1792). The edges, textures and shapes of earlier blocks suit images of another kind (Evci et al. 2022,
    arXiv:2201.03529). The head is solved, not trained.
Command: tlkit finetune data/ --recipe small_different
Measured: MobileNetV2 0.35, test accuracy in % by images per class: cats_dogs 77.5 (5; 3 seeds), 91.4 (20; 3 seeds),
    95.8 (all; 3 seeds), n = 120; clothing 45.6 (5; 3 seeds), 63.1 (20; 3 seeds), 79.1 (all; 3 seeds), n = 761;
    blood_cells 89.2 (5; 3 seeds), 100.0 (20; 3 seeds), 100.0 (all; 3 seeds), n = 120; chest_xray 82.6 (5; 3 seeds),
    89.0 (20; 3 seeds), 95.1 (all; 3 seeds), n = 1,039; latin_letters 70.0 (5; 3 seeds), 80.3 (20; 3 seeds), 79.2 (all;
    3 seeds), n = 130. 2026-11-21; benchmarks/recipes.csv has the rows of every seed.
"""

from tlkit.plan.recipe import Head, Recipe, Stage

small_different = Recipe(
    name="small_different",
    head=Head(taps="all"),
    stages=(Stage(epochs=60, learning_rate=1e-3, patience=10, solver="logistic"),),
    why="little data unlike ImageNet: the features of earlier blocks are less specific to its classes",
)
