"""Few images, like ImageNet's: a linear head on frozen features.

When: fewer than 1,000 training images, of things, animals or scenes.
When not: pictures of another kind (microscopy, X-ray, drawings), or thousands of images: there the features themselves should move.
Why: with little data every weight that may move can overfit, and the last layer's features already separate natural
    classes (Kornblith, Shlens and Le 2019, arXiv:1805.08974). One view, no augmentation: the features are computed once and
    the head trains on them in seconds.
Command: tlkit finetune data/ --recipe small_similar
Measured: MobileNetV2 at 224, given splits, seed 0, 2026-11-21, TensorFlow 2.21, Keras 3.15.1, test accuracy with its 95 %
    interval: cats_dogs 97.5 (92.9 to 99.1, n = 120), blood_cells 100.0 (96.9 to 100.0, n = 120), latin_letters 81.5 (74.0 to 87.3,
    n = 130). One seed; see benchmarks/main_job.csv.
"""

from tlkit.spec import Recipe, Stage

small_similar = Recipe(
    name="small_similar",
    stages=(Stage(epochs=60, learning_rate=1e-3, patience=10),),
    why="little data like ImageNet: a linear head on frozen features overfits least",
)
