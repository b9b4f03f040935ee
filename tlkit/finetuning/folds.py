"""k-fold cross-validation of a run: the training images are judged too, and what is delivered learned from all.

The validation images are one fold, and the training images are divided into the others. A model is trained for each
fold, in the same way, on all images but the fold's. Each image is then predicted by the one model that did not learn
from it, and the mean of all models' weights is delivered (a model soup, Wortsman et al. 2022, arXiv:2203.05482).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import keras
import numpy as np

from tlkit.checkpoints import Checkpoints
from tlkit.cluster import current
from tlkit.data.examples import Examples
from tlkit.errors import TrainingError
from tlkit.evaluation.predict import predict_probabilities
from tlkit.features.folds import stratified_folds
from tlkit.finetuning.build import Trained, as_saved, build
from tlkit.finetuning.fit import training_deadline, training_examples
from tlkit.finetuning.prepare import Prepared
from tlkit.finetuning.refit import Refitted
from tlkit.plan.plan import Plan
from tlkit.progress import Clock, counted_off, log
from tlkit.training.history import History
from tlkit.training.own_callbacks import report_rows
from tlkit.training.resume import resumable
from tlkit.training.several import Training, train_several
from tlkit.training.train import train
from tlkit.words import counted

SPLITS = ("train", "validation")


def cross_validate(
    plan: Plan, trained: Trained, prepared: Prepared, clock: Clock, checkpoints: Checkpoints | None = None
) -> Refitted | None:
    """Train a model for each fold of the training images, and average the weights of all.

    trained: the model of the fold that is the validation images.

    Weights can be averaged because all models begin from the same ones, with the same seed; statistics of
    BatchNormalization are averaged too. Where the mean is nevertheless less accurate on the images that it learned
    from than the single models are on those that they did not, it is not delivered. This and a training that was cut
    short are noted, and the model of the first fold is delivered.

    Returns:
        The mean of the models, and the training images' probabilities out of fold; None if it is not delivered.
    """
    recipe, job, history = plan.recipe, plan.job, trained.history
    assert recipe is not None and job.folds is not None
    pool, count = training_examples(prepared.dataset, recipe, *SPLITS), prepared.dataset.count("train")
    groups = prepared.dataset.part("train").groups
    folds = stratified_folds(pool.labels[:count], groups, job.folds - 1, seed=job.seed)
    out_of_fold = np.zeros((count, len(prepared.dataset.class_names)), "float32")
    model = as_saved(trained.model, prepared.backbone, plan)
    right = _right(model, prepared.dataset.part("validation"))
    total, computed = [one.astype("float64") for one in model.get_weights()], 0
    numbers = range(int(folds.max(initial=0)) + 1)
    several = [np.flatnonzero(folds == number) for number in numbers]
    with clock.timed("folds"):
        trainings = (_training(plan, prepared, pool, rows, clock, history.restart) for rows in several)
        each = zip(numbers, several, _each_trained(trainings, len(several), checkpoints), strict=True)
        for number, rows, (model, found) in counted_off(each, len(several), "fold"):
            if found.cut_short or found.interrupted:
                history.note(
                    f"the folds were given up after {number + 1}: the time was over, so the first is delivered"
                )
                return None
            model = as_saved(model, prepared.backbone, plan)
            out_of_fold[rows] = predict_probabilities(model, pool.take(rows).pixels)
            total = [mean + one for mean, one in zip(total, model.get_weights(), strict=True)]
            computed += found.images_computed
            if found.best is not None:
                report_rows(prepared.callbacks, model, [{**found.best, "epoch": history.epochs + number + 1}])
    model.set_weights([one / (len(numbers) + 1) for one in total])
    right += int((out_of_fold.argmax(1) == pool.labels[:count]).sum())
    if _right(model, pool) < right:
        history.note(
            "the model of the first fold is delivered: the mean of the folds' weights predicts fewer of the images "
            "that it learned from correctly than the single models do out of fold"
        )
        return None
    return Refitted(
        model=model, out_of_fold=out_of_fold, images_computed=computed, splits=SPLITS, folds=len(numbers) + 1
    )


def _training(plan: Plan, prepared: Prepared, pool: Examples, rows: np.ndarray, clock: Clock, restart: int) -> Training:
    """The training of a fold. rows: of the images that are held out."""
    recipe, job = plan.recipe, plan.job
    assert recipe is not None
    model = build(prepared, recipe.head, plan.precision, restart=restart)
    deadline = training_deadline(clock.deadline, model, prepared.dataset, job.report)
    others = np.setdiff1d(np.arange(len(pool)), rows)
    return Training(model, prepared.backbone, recipe, pool.take(others), pool.take(rows), job.seed + restart, deadline)


def _each_trained(
    trainings: Iterable[Training], count: int, checkpoints: Checkpoints | None
) -> Iterator[tuple[keras.Model, History]]:
    """Train the models of `count` folds, at once on a cluster if one is used, else one after another."""
    workers = current()
    if workers is not None:
        together = list(trainings)
        for one, found in zip(together, train_several(workers, together), strict=True):
            if isinstance(found, TrainingError):
                raise found
            yield one.model, found
        return
    for number, one in enumerate(trainings, start=2):
        log.info(f"fold      {number} of {count + 1}: {counted(len(one.validation), 'image')} held out")
        place = resumable(checkpoints, f"fold {number}")
        given = (one.model, one.backbone, one.recipe, one.training, one.validation)
        yield one.model, train(*given, seed=one.seed, deadline=one.deadline, callbacks=place)


def _right(model: keras.Model, examples: Examples) -> int:
    """How many images a model predicts correctly."""
    return int((predict_probabilities(model, examples.pixels).argmax(1) == examples.labels).sum())
