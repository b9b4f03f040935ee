"""Few images, like ImageNet's: a linear head on frozen features.

When: fewer than 1,000 training images, of things, animals or scenes.
When not: images of another kind (microscopy, X-ray, drawings), for which earlier blocks are better; or thousands of
    images, which are enough to fine-tune the features.
Why: with little data every trainable weight can overfit, and the last layer's features already separate natural classes
    (Kornblith, Shlens and Le 2019, arXiv:1805.08974). The head is solved in seconds, not trained: logistic regression,
    with its C chosen by cross-validation.
Command: tlkit finetune data/ --recipe small_similar
Measured: MobileNetV2 0.35, test accuracy in % by images per class: cats_dogs 80.8 (5; 3 seeds), 95.3 (20; 3 seeds),
    95.8 (all; 3 seeds), n = 120; clothing 48.9 (5; 3 seeds), 66.0 (20; 3 seeds), 78.1 (all; 3 seeds), n = 761;
    blood_cells 82.8 (5; 3 seeds), 98.6 (20; 3 seeds), 100.0 (all; 3 seeds), n = 120; chest_xray 80.8 (5; 3 seeds), 87.3
    (20; 3 seeds), 94.7 (all; 3 seeds), n = 1,039; latin_letters 67.9 (5; 3 seeds), 75.1 (20; 3 seeds), 76.9 (all; 3
    seeds), n = 130. 2026-11-21; benchmarks/recipes.csv has the rows of every seed.
"""

from tlkit.plan.recipe import Recipe, Stage

small_similar = Recipe(
    name="small_similar",
    stages=(Stage(epochs=60, learning_rate=1e-3, patience=10, solver="logistic"),),
    why="little data like ImageNet: a linear head on frozen features overfits least",
)
