"""Few images, unlike ImageNet's: a linear head, then the top block at a low rate.

When: fewer than 1,000 training images of microscopy, X-ray, drawings, satellites.
When not: natural photographs, where the frozen features do as well at a fraction of the time.
Why: the last block is the one most bound to ImageNet's classes (Yosinski et al. 2014, arXiv:1411.1792), so it is the one to
    adapt; it starts from a trained head, because a random head's gradients would wreck it (Kumar et al. 2022, arXiv:2202.10054).
Command: tlkit finetune data/ --recipe small_different
Measured: not measured; it has not yet been shown to beat a linear head alone.
"""

from tlkit.spec import Recipe, Stage

small_different = Recipe(
    name="small_different",
    stages=(
        Stage(epochs=60, learning_rate=1e-3, patience=10),
        Stage(epochs=15, learning_rate=1e-4, unfreeze=1, schedule="cosine", warmup=1, patience=5),
    ),
    why="little data unlike ImageNet: the features nearest to ImageNet's classes are adapted at a low rate",
)
