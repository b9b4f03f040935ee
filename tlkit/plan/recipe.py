"""Recipes: frozen dataclasses that describe what a run will do. Imports the standard library only.

`Head`, `Stage` and `Recipe` validate themselves when they are created, so an existing recipe can always be run. To vary
one, use `dataclasses.replace`. They convert to JSON values and back (`to_dict`, `recipe_from_dict`), so that a run can
be repeated from its `plan.json`.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from tlkit.errors import SpecError
from tlkit.plan.augmentation import Augmentation, augmentation_from_dict
from tlkit.plan.checks import _between, _from_dict, _one_of, _range, _whole
from tlkit.plan.keras_objects import name_of, serialised

Unfreeze = int | str | tuple[int, ...]

POOLINGS = ("avg", "max", "avg+max", "flatten")
ACTIVATIONS = ("relu", "tanh")
OPTIMIZERS = ("adam", "adamw", "sgd")
SCHEDULES = ("constant", "cosine", "plateau")
BATCH_NORMS = ("frozen", "moving", "recalibrated")
SOLVERS = ("gradient", "logistic", "svm")
PRECISIONS = ("auto", "float32", "mixed_float16", "mixed_bfloat16")
MONITORS = ("val_loss", "val_accuracy", "last")


@dataclass(frozen=True)
class Head:
    """The layers that replace the ImageNet top. The default is one dense softmax layer on average-pooled features.

    pooling: "avg", "max", "avg+max" (concatenated) or "flatten".
    taps: the blocks whose pooled outputs the head reads, concatenated: () = the last block only; "all"; or block
        numbers, 1 = the bottom one. Earlier blocks hold more general features, which suit images unlike ImageNet's
        (Evci et al. 2022, arXiv:2201.03529). Blocks above the highest tap are left out of the model.
    hidden: units of each layer between pooling and softmax. activation: of these layers, "relu" or "tanh".
    dropout: dropout rate before every dense layer, 0 to below 1.
    drop_connect: share of the dense layers' weights that are dropped in each training step, 0 to below 1 (Wan et al.
        2013); see `tlkit.models.drop_connect`.
    batch_norm: whether BatchNormalization follows pooling and each hidden layer.
    l1, l2: L1 and L2 penalty of the dense kernels, 0 or more.
    max_norm: the largest norm of a dense unit's weights, above 0 (Srivastava et al. 2014); None = no limit.
    label_smoothing: share of the target probability spread over all classes, 0 to below 1
        (Szegedy et al. 2016, arXiv:1512.00567).

    >>> Head(hidden=(256,), dropout=0.5).pooling
    'avg'
    """

    pooling: str = "avg"
    taps: tuple[int, ...] | str = ()
    hidden: tuple[int, ...] = ()
    dropout: float = 0.0
    drop_connect: float = 0.0
    batch_norm: bool = False
    l1: float = 0.0
    l2: float = 0.0
    max_norm: float | None = None
    label_smoothing: float = 0.0
    activation: str = "relu"

    def __post_init__(self) -> None:
        _one_of("Head.pooling", self.pooling, POOLINGS)
        _one_of("Head.activation", self.activation, ACTIVATIONS)
        _between("Head.dropout", self.dropout, 0, 1, open_end=True)
        _between("Head.drop_connect", self.drop_connect, 0, 1, open_end=True)
        _between("Head.label_smoothing", self.label_smoothing, 0, 1, open_end=True)
        _between("Head.l1", self.l1, 0, None)
        _between("Head.l2", self.l2, 0, None)
        if self.max_norm is not None:
            _between("Head.max_norm", self.max_norm, 0, None, open_start=True)
        for units in self.hidden:
            _whole("Head.hidden", units, 1)
        if isinstance(self.taps, str) and self.taps != "all":
            raise SpecError(f"Head.taps is '{self.taps}'. Expected 'all', or numbers of blocks such as (2, 4).")
        for block in () if self.taps == "all" else self.taps:
            _whole("Head.taps", block, 1)
        if self.taps and self.pooling == "flatten":
            raise SpecError(
                "Head.pooling 'flatten' of several blocks would give millions of features. Use 'avg' or 'max'."
            )


@dataclass(frozen=True)
class Stage:
    """One stage of training: which blocks train, with which learning rate, and for how long.

    epochs: passes over the training images, 1 or more.
    learning_rate: the highest learning rate of the stage. A stage that unfreezes blocks usually takes a tenth to a
        hundredth of the head stage's (keras.io/guides/transfer_learning).
    unfreeze: how many of the backbone's top blocks train: 0 = the head alone, "all" = every block. A tuple names single
        blocks: (2,) = block 2 and no other, 1 = the bottom one (surgical fine-tuning, Lee et al. 2023,
        arXiv:2210.11466).
    optimizer: "adam", "adamw" (decoupled weight decay, arXiv:1711.05101) or "sgd" (momentum 0.9). Or an optimizer
        object of Keras, or a registered one, which is kept as Keras serialises it; its learning rate is replaced by
        this stage's.
    weight_decay: for "adamw" and "sgd", 0 or more; not for "adam". It is decoupled, follows `layer_decay`, and shrinks
        kernels only, not biases and BatchNormalization.
    schedule: "constant"; "cosine" = cosine decay to zero; "plateau" = a fifth after two epochs without improvement.
    warmup: epochs over which the learning rate rises from zero, 0 or more; not with "plateau".
    layer_decay: factor of the learning rate from each block to the next one below, above 0 to 1 (discriminative
        learning rates, Howard and Ruder 2018, arXiv:1801.06146). 1 = the same rate for all.
    batch_norm: "frozen" keeps BatchNormalization in the unfrozen blocks as pretrained; "moving" trains it, with a
        momentum that fits the number of steps (see `tlkit.models.batch_norm`); "recalibrated" computes its statistics
        from the training images before the stage, then freezes it (Li et al. 2016, arXiv:1603.04779). Which is best
        depends on the learning rate and the data: measure it.
    patience: epochs without improvement on the validation images before the stage ends; None = never.
    mixup, cutmix: alpha of the Beta distribution; 0 = off. mixup blends two images and their labels (Zhang et al. 2018,
        arXiv:1710.09412); cutmix copies a rectangle of one image into the other (Yun et al. 2019, arXiv:1905.04899). If
        both are on, one of them is drawn at random for each batch.
    adversarial: epsilon of adversarial training, in levels of 0 to 255; 0 = off (Goodfellow et al. 2015,
        arXiv:1412.6572). In each step the images are also moved by epsilon along the sign of the loss's gradient, which
        takes about three times as long. The gradient reaches the pixels, so no features of frozen layers are cached: a
        stage that freezes blocks runs them in every step. Needs TensorFlow or JAX (see `tlkit.models.adversarial`).
    clean_share: alpha, the share of the loss on the images as they are, 0 to below 1; the rest is on the moved ones. It
        counts only with `adversarial`. The paper uses 0.5.
    scales: (low, high) in pixels: in each epoch every training image is scaled so that its shorter side is a whole
        number drawn between these, and cropped at random to the model's image size, before it is augmented; None = off
        (scale jittering, Simonyan and Zisserman 2015, arXiv:1409.1556, who take (256, 512) for 224). The draws follow
        from the seed, the epoch and the image's content. low is at least the image size. `finetune` decodes the
        training images once more for it, at the highest size, made square as its `fit` says; `train` scales the pixels
        that it is given. Frozen blocks run in every epoch, since no two epochs have the same pixels.
    ema: momentum of the exponential moving average of the weights, 0 to below 1; 0 = off. The averaged weights are the
        ones that are validated and kept.
    interpolate: position between the weights at the start of the stage (0) and at its end (1), above 0 to 1. 0.5 is the
        midpoint, which often generalises better to images from other sources (WiSE-FT, Wortsman et al. 2022,
        arXiv:2109.01903). "chosen" takes the position with the lowest validation log loss, of 8 from 0 to 1.
    solver: "gradient" trains by gradient descent. "logistic" and "svm" solve a linear head on cached features (see
        `tlkit.features.linear`); epochs and learning rate are then not used. If the cache has no room for the features
        of augmented images, those without augmentation are taken; if it has none for these either, the head is trained.
    augmented: whether this stage's training images are augmented, if the recipe has an augmentation.
    strength: C, the inverse of the solver's L2 penalty, above 0; None = chosen by cross-validation on the training and
        validation images. The penalty is weighed against the sum over images, so an image counts once, however many
        augmented views it has.

    >>> Stage(epochs=5, learning_rate=1e-4, unfreeze=2).schedule
    'constant'
    """

    epochs: int
    learning_rate: float
    unfreeze: Unfreeze = 0
    optimizer: Any = "adam"
    weight_decay: float = 0.0
    schedule: str = "constant"
    warmup: float = 0.0
    layer_decay: float = 1.0
    batch_norm: str = "frozen"
    patience: int | None = None
    mixup: float = 0.0
    cutmix: float = 0.0
    adversarial: float = 0.0
    clean_share: float = 0.5
    scales: tuple[int, int] | None = None
    ema: float = 0.0
    interpolate: float | str = 1.0
    solver: str = "gradient"
    augmented: bool = True
    strength: float | None = None

    def __post_init__(self) -> None:
        _whole("Stage.epochs", self.epochs, 1)
        _between("Stage.learning_rate", self.learning_rate, 0, None, open_start=True)
        if isinstance(self.unfreeze, tuple):
            for block in self.unfreeze:
                _whole("Stage.unfreeze", block, 1)
        if self.unfreeze == ():
            raise SpecError("Stage.unfreeze is (). Expected blocks such as (2,), or 0 for the head alone.")
        if isinstance(self.unfreeze, str) and self.unfreeze != "all":
            raise SpecError(
                f"Stage.unfreeze is '{self.unfreeze}'. Expected a number of blocks, 'all', or (2,) for block 2."
            )
        if not isinstance(self.unfreeze, str | tuple):
            _whole("Stage.unfreeze", self.unfreeze, 0)
        for name in ("mixup", "cutmix"):
            _between(f"Stage.{name}", getattr(self, name), 0, None)
        _between("Stage.ema", self.ema, 0, 1, open_end=True)
        if isinstance(self.interpolate, str):
            _one_of("Stage.interpolate", self.interpolate, ("chosen",))
        else:
            _between("Stage.interpolate", self.interpolate, 0, 1, open_start=True)
        if self.cutmix and self.unfreeze == 0:
            raise SpecError(
                "Stage.cutmix copies a rectangle of one image into another, but a head alone reads pooled features. "
                "Use mixup."
            )
        if isinstance(self.optimizer, str):
            _one_of("Stage.optimizer", self.optimizer, OPTIMIZERS)
        else:
            object.__setattr__(self, "optimizer", serialised("Stage.optimizer", self.optimizer))
        _between("Stage.weight_decay", self.weight_decay, 0, None)
        _one_of("Stage.schedule", self.schedule, SCHEDULES)
        _between("Stage.warmup", self.warmup, 0, None)
        _between("Stage.layer_decay", self.layer_decay, 0, 1, open_start=True)
        _one_of("Stage.batch_norm", self.batch_norm, BATCH_NORMS)
        _one_of("Stage.solver", self.solver, SOLVERS)
        if self.solver != "gradient" and self.unfreeze != 0:
            raise SpecError(f"Stage.solver '{self.solver}' solves a head alone. Use unfreeze=0, or solver='gradient'.")
        if self.strength is not None:
            _between("Stage.strength", self.strength, 0, None, open_start=True)
            if self.solver == "gradient":
                raise SpecError(
                    "Stage.strength is the C of a solver, but this stage trains. "
                    "Use solver='logistic' or 'svm', or strength=None."
                )
        if self.patience is not None:
            _whole("Stage.patience", self.patience, 1)
        if self.optimizer not in ("adamw", "sgd") and self.weight_decay:
            own = "" if isinstance(self.optimizer, str) else " An optimizer object has its own `weight_decay`."
            name = self.optimizer if isinstance(self.optimizer, str) else name_of(self.optimizer)
            raise SpecError(f"Stage.weight_decay is not applied by '{name}'. Use optimizer='adamw', or 0.{own}")
        if self.schedule == "plateau" and self.warmup:
            raise SpecError("Stage.warmup works with the schedules 'constant' and 'cosine', not with 'plateau'.")
        self._check_images()

    def _check_images(self) -> None:
        """Check what is done to the images in each step."""
        _between("Stage.adversarial", self.adversarial, 0, 255)
        _between("Stage.clean_share", self.clean_share, 0, 1, open_end=True)
        if self.scales is not None:
            _range("Stage.scales", self.scales, 1, 10_000)
            for side in self.scales:
                _whole("Stage.scales", side, 1)
        if self.solver != "gradient" and self.adversarial:
            raise SpecError(
                f"Stage.adversarial moves pixels along a gradient in each step, but solver '{self.solver}' takes no "
                "steps. Use solver='gradient', or adversarial=0."
            )
        if self.solver != "gradient" and self.scales:
            raise SpecError(
                f"Stage.scales draws a size in each epoch, but solver '{self.solver}' has none. "
                "Use solver='gradient', or scales=None."
            )


@dataclass(frozen=True)
class Recipe:
    """A whole training plan: a head, an augmentation, and stages in order.

    name: the recipe's name in tables and plans.
    stages: at least one; each later stage starts from the best weights so far.
    head: the layers on top of the backbone. augmentation: of the training images.
    batch_size: images per step, 1 or more.
    views: number of augmented versions of each image that are computed once and reused across epochs, if blocks are
        frozen (see `tlkit.train`); ignored without augmentation. More views are closer to a new augmentation in every
        epoch, and each costs one forward pass per image.
    class_weights: whether each class is weighted by n / (classes * n_class), for imbalanced data.
    prior_shift: whether the trained model predicts as if all classes were equally common (see
        `tlkit.evaluation.calibration.without_prior`), for imbalanced data. It has no effect in `tlkit.train`, only in
        `tlkit.finetune`.
    precision: "auto" = float32 on a CPU, and on a GPU mixed_bfloat16 where it has it, else mixed_float16; or a Keras
        dtype policy.
    restarts: how many more times the whole training is done, each with the next seed: other random weights, order and
        augmentation. The one that is best on the validation images by `monitor` (by the log loss with "last") is kept.
        A head that is solved first is found in the caches. It has no effect in `tlkit.train`, only in `tlkit.finetune`.
    monitor: the validation metric that decides which weights are best, "val_loss" (the log loss, without label
        smoothing and regularizers) or "val_accuracy"; the other breaks ties. "last" keeps the last epoch's weights
        whatever the metrics are: for schedules that end at a learning rate of zero, and for validation splits that are
        too small to choose by. No stage then ends early.
    loss: a loss object of Keras, or a registered one, for training by gradient descent; None = the cross-entropy. It
        takes one-hot labels and probabilities. It is kept as Keras serialises it. What is best, calibrated and reported
        is judged by the log loss all the same.
    metrics: metric objects of Keras, or registered ones, which are recorded per epoch in history.csv.
    why: one sentence for the plan and the report.

    >>> Recipe("probe", stages=(Stage(epochs=10, learning_rate=1e-3),)).batch_size
    32
    """

    name: str
    stages: tuple[Stage, ...]
    head: Head = field(default_factory=Head)
    augmentation: Augmentation = field(default_factory=Augmentation)
    batch_size: int = 32
    views: int = 4
    class_weights: bool = False
    prior_shift: bool = False
    precision: str = "auto"
    restarts: int = 0
    monitor: str = "val_loss"
    why: str = ""
    loss: Any = None
    metrics: tuple[Any, ...] = ()

    def __post_init__(self) -> None:
        if not self.stages:
            raise SpecError(f"Recipe '{self.name}' has no stages. Give at least one Stage.")
        head = self.head
        if any(stage.solver != "gradient" for stage in self.stages) and (
            head.hidden
            or head.batch_norm
            or head.dropout
            or head.drop_connect
            or head.label_smoothing
            or head.l1
            or head.l2
            or head.max_norm
        ):
            raise SpecError(
                f"Recipe '{self.name}' solves its head, which must then be one dense layer: "
                "Head(pooling=..., taps=...) and nothing more. The solver has its own L2 penalty, Stage.strength."
            )
        _whole("Recipe.batch_size", self.batch_size, 1)
        _whole("Recipe.views", self.views, 1)
        _whole("Recipe.restarts", self.restarts, 0)
        if self.restarts and all(stage.solver != "gradient" for stage in self.stages):
            raise SpecError(
                f"Recipe.restarts is {self.restarts}, but a head that is solved does not depend on the seed. "
                "Use restarts=0, or add a stage that trains."
            )
        if self.loss is not None:
            object.__setattr__(self, "loss", serialised("Recipe.loss", self.loss))
            if head.label_smoothing or any(stage.solver != "gradient" for stage in self.stages):
                raise SpecError(
                    "Recipe.loss is for stages that train by gradient descent, without Head.label_smoothing: give the "
                    "smoothing to the loss itself. A solver has its own loss."
                )
        object.__setattr__(self, "metrics", tuple(serialised("Recipe.metrics", one) for one in self.metrics))
        _one_of("Recipe.precision", self.precision, PRECISIONS)
        _one_of("Recipe.monitor", self.monitor, MONITORS)


def to_dict(plan: Head | Augmentation | Stage | Recipe) -> dict[str, Any]:
    """Convert a plan to JSON values; `recipe_from_dict` converts a recipe back."""
    return dataclasses.asdict(plan)


def recipe_from_dict(values: Mapping[str, Any]) -> Recipe:
    """Create a Recipe from the values of `to_dict`.

    Raises NameUnknown for a field that does not exist, and SpecError for an invalid value.

    >>> recipe = Recipe("probe", stages=(Stage(epochs=10, learning_rate=1e-3),))
    >>> recipe_from_dict(to_dict(recipe)) == recipe
    True
    """
    given = dict(values)
    given["head"] = _from_dict(Head, given.get("head", {}))
    given["augmentation"] = augmentation_from_dict(given.get("augmentation", {}))
    given["stages"] = tuple(_from_dict(Stage, stage) for stage in given.get("stages", ()))
    return _from_dict(Recipe, given)


def check_scales(stage: Stage, image_size: int) -> None:
    """Raise SpecError for a stage that scales images below the model's image size, in pixels."""
    if stage.scales is not None and stage.scales[0] < image_size:
        raise SpecError(
            f"Stage.scales is {stage.scales}, but squares of {image_size} pixels, the image size, are cut out of the "
            f"scaled images. Expected {image_size} or more."
        )


def with_epochs(recipe: Recipe, epochs: int) -> Recipe:
    """Return a copy of the recipe with this number of epochs in every stage."""
    return dataclasses.replace(
        recipe, stages=tuple(dataclasses.replace(stage, epochs=epochs) for stage in recipe.stages)
    )


def with_learning_rate(recipe: Recipe, rate: float) -> Recipe:
    """Return a copy of the recipe with this learning rate in its last stage; the others change by the same factor."""
    factor = rate / recipe.stages[-1].learning_rate
    stages = [dataclasses.replace(stage, learning_rate=factor * stage.learning_rate) for stage in recipe.stages[:-1]]
    last = dataclasses.replace(recipe.stages[-1], learning_rate=rate)
    return dataclasses.replace(recipe, stages=(*stages, last))
