"""Finds the best strategy for a data set: linear heads on cached features, and fine-tuning where it can pay.

Linear strategies fit a head on the features of every block, which are computed once. They are compared on held-out
images; test images are not used. Another head than the first leads only if its log loss is lower by more than the
standard error of the paired difference on the same images.

If classes differ much in size, each counts equally in the log loss, and a model may predict as if all classes were
equally common, see `tlkit.evaluation.calibration.without_prior`.

Fine-tuning trains the upper two thirds of the blocks, with augmentation that keeps the classes, see
`tlkit.strategy.tuning`. It takes part if the validation images could show that it is better. If it would not end within
the time limit, which shows after its first steps, it trains for as many epochs as fit, or only the top blocks. Cost
counts until it is spent: between models that are trained, the better estimate wins, and the winner is trained already.
Imports Keras and NumPy, and scikit-learn through `linear`.
"""

from __future__ import annotations

import dataclasses
import functools
import math
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from tlkit.backbones import Backbone
from tlkit.checkpoints import Checkpoints
from tlkit.cluster import Pool, current
from tlkit.data.examples import Examples
from tlkit.errors import TrainingError
from tlkit.evaluation.calibration import without_prior
from tlkit.evaluation.criterion import Criterion, is_imbalanced
from tlkit.evaluation.estimate import CROSS_FITTED_SPREAD, Estimate, estimate_from, selection_optimism
from tlkit.evaluation.predict import predict_probabilities
from tlkit.features.linear import CrossValidation, Solver
from tlkit.features.table import Table, cross_validated, probe_blocks
from tlkit.models.inference import inference_batch, seconds_per_image
from tlkit.plan.augmentation import Augmentation
from tlkit.plan.job import Job
from tlkit.plan.recipe import Head, Recipe, Stage
from tlkit.progress import NO_DEADLINE, Deadline, log
from tlkit.stats import (
    AT_CHANCE,
    balancing_weights,
    log_loss,
    log_losses,
    paired_difference,
    paired_p_value,
    wilson_interval,
)
from tlkit.strategy.tuning import (
    TOP,
    expected_seconds,
    patient_recipes,
    tuning_recipe,
    upper_blocks,
    why_not_tuned,
    with_fewer_epochs,
    with_lower_rate,
)
from tlkit.training.history import History
from tlkit.training.resume import resumable
from tlkit.training.several import Training, train_several
from tlkit.training.train import train
from tlkit.words import counted, roughly

if TYPE_CHECKING:
    import keras


# Validation images that the leading head gets wrong, at least: a model that mends fewer and breaks none could not be
# told from it by a sign test (5 of 5 by chance: 1 in 32).
FEWEST_TO_MEND = 5
MOST_TRIED = 5  # fine-tunings
SAFELY = 0.7  # the share of the time left that a shortened training may take: tracing and validation come on top
# Standard errors by which another head must be ahead. One image that differs alone gives exactly 1, whatever n is.
CLEARLY = 1.05


def training_name(recipe: Recipe) -> str:
    """What the checkpoint of a fine-tuning in a tournament is called."""
    return f"tournament {recipe.name}"


@dataclass
class Contender:
    """A strategy in the tournament.

    Attributes:
        correct: int8, one for each held-out image: 1 if its prediction is correct, 0 if not, -1 if it was not asked.
        probabilities: float, shape (asked, classes), for the held-out images it was asked, in their order.
        shares: The classes' shares that its predictions are freed from, see `without_prior`; None keeps them.
        loss: Log loss of `probabilities`.
        tried: Of a linear head: probabilities of all held-out images for each C that was tried.
        state: "standing", "not tried", "dropped" or "taken".
        outcome: The state with its reason, for a person to read.
        diverged: Whether the loss became infinite or no number while it trained.
        too_long: Seconds that its last stage would have taken, if its first steps showed that it would not end in time.
        model, history: The trained model, if it was trained on all training images.
    """

    name: str
    recipe: Recipe
    correct: np.ndarray
    probabilities: np.ndarray | None = None
    shares: np.ndarray | None = None
    tried: dict[float, np.ndarray] = field(default_factory=dict)
    loss: float = math.nan
    seconds: float = 0.0
    state: str = "standing"
    outcome: str = ""
    diverged: bool = False
    too_long: float | None = None
    model: keras.Model | None = None
    history: History | None = None

    @property
    def asked(self) -> np.ndarray:
        return self.correct >= 0

    def ends(self, state: str, why: str = "") -> None:
        """Leave the tournament, or win it."""
        self.state, self.outcome = state, state + why

    def evidence(self) -> dict[str, Any]:
        n, correct = int(self.asked.sum()), int((self.correct > 0).sum())
        return {
            "strategy": self.name,
            "fine_tuned": self.recipe.stages[-1].unfreeze != 0,
            "accuracy": correct / n if n else None,
            "accuracy_95": list(wilson_interval(correct, n)) if n else None,
            "n": n,
            "log_loss": None if math.isnan(self.loss) else round(self.loss, 4),
            "prior_shift": self.recipe.prior_shift,
            "seconds": round(self.seconds, 1),
            "taken": self.state == "taken",
            "outcome": self.outcome,
        }


@dataclass(frozen=True)
class Outcome:
    """The recipe that won, why, and a row for every contender.

    model, history: the winner's, if it is trained on all training images already. images_computed: how many images ran
    through frozen layers. estimate: of the winner's accuracy on new images, corrected for having chosen among linear
    heads; None if it was fine-tuned.
    """

    recipe: Recipe
    why: str
    contenders: list[dict[str, Any]]
    model: keras.Model | None = None
    history: History | None = None
    images_computed: int = 0
    estimate: Estimate | None = None


@dataclass
class Tournament:
    """Judges every contender on the same images.

    Attributes:
        build: Makes a classifier for a head, with fresh pretrained weights.
        table, pool: See `tlkit.features.table.feature_table`.
        augmentation: Returns the augmentation of fine-tuning. It is asked only if fine-tuning takes part.
        job: Gives the seed, the effort, the metric and the balance, and epochs, learning rate and batch size of
            fine-tuning.
        deadline: Fine-tuning that would pass it ends after its first steps.
        similar: Whether the images are similar to the backbone's own, see `tlkit.strategy.axes.is_similar`.
        checkpoints: Of the run; None: a tournament that is stopped begins anew.
    """

    build: Callable[[Head], keras.Model]
    backbone: Backbone
    table: Table
    pool: Examples
    job: Job
    augmentation: Callable[[], Augmentation] = Augmentation
    deadline: Deadline = NO_DEADLINE
    similar: bool | None = None
    checkpoints: Checkpoints | None = None
    contenders: list[Contender] = field(default_factory=list)
    images_computed: int = 0
    interrupted: bool = False

    def run(self) -> Outcome:
        self.contenders = self._linear()
        leader = self._leader(self.contenders)
        tuning = self._tune(leader)
        self.contenders += tuning
        better = [one for one in tuning if one.asked.any() and self._serves_better(one, leader)]
        winner = min(better, key=self._validation_loss, default=leader)
        winner.ends("taken")
        rows, computed = [one.evidence() for one in self.contenders], self.table.images_computed + self.images_computed
        estimate = self._estimate(winner) if winner.model is None else None
        return Outcome(winner.recipe, self._why(winner), rows, winner.model, winner.history, computed, estimate)

    def _estimate(self, winner: Contender) -> Estimate:
        """The accuracy of a linear head, each image predicted by a head that was not trained on it.

        It is corrected for having chosen it among the linear strategies and values of C on the same images.
        """
        table = self.table
        labels, groups = table.labels[table.held_out], self.pool.groups
        groups = None if groups is None else groups[table.held_out]
        weights = balancing_weights(labels) if self.criterion.balanced else np.ones(len(labels))
        losses, correct = [], []
        for one in self.contenders:
            for found in one.tried.values():
                served = found if one.shares is None else without_prior(found, one.shares)
                losses.append(log_losses(served, labels) * weights)
                correct.append(served.argmax(1) == labels)
        optimism = selection_optimism(np.array(losses), np.array(correct), groups, seed=self.job.seed)
        how = f"each predicted by a head that was not trained on it, {table.how}, corrected for the choice of the head"
        spread = CROSS_FITTED_SPREAD if len(table.held_out) == len(table.labels) else 1.0
        return estimate_from(winner.correct > 0, labels, how, groups=groups, optimism=optimism, spread=spread)

    def _no_answers(self) -> np.ndarray:
        return np.full(len(self.table.held_out), -1, "int8")

    @functools.cached_property
    def criterion(self) -> Criterion:
        """What the contenders are compared by."""
        by_default = self.job.metric is None
        balanced = by_default and self.job.balance != "none" and is_imbalanced(self.table.labels)
        return Criterion("log_loss" if self.job.metric is None else self.job.metric, balanced)

    @functools.cached_property
    def _ways(self) -> list[np.ndarray | None]:
        """The shares of the classes that predictions may be freed from. None: they are kept."""
        table = self.table
        shares = np.bincount(table.labels[: table.training], minlength=table.classes) / table.training
        if self.job.balance == "prior":
            return [shares]
        return [None, shares] if self.job.balance is None and is_imbalanced(table.labels) else [None]

    def _judged(self, one: Contender, found: np.ndarray, asked: np.ndarray) -> None:
        """Set what a contender predicted, and choose whether it is freed from the classes' shares.

        It is, if it is then better by the criterion and its balanced accuracy rises by more than the standard error:
        without that, it would only answer another class than the commonest. But it is not if it is then less accurate,
        unless it was no more accurate than always predicting the commonest class.

        asked: which of the held-out images, bool.
        """
        labels = self.table.labels[self.table.held_out[asked]]
        one.probabilities, one.loss = found, log_loss(found, labels)
        served = [self.criterion.served(found, labels, shares) for shares in self._ways]
        correct = [one_way.argmax(1) == labels for one_way in served]
        chosen = min(range(len(served)), key=lambda way: self.criterion.loss(served[way], labels))
        commonest = labels == np.bincount(labels).argmax()
        p_value = paired_p_value(correct[0], commonest, self._groups(asked))
        useful = correct[0].mean() > commonest.mean() and p_value < AT_CHANCE
        gains = balancing_weights(labels) * (correct[chosen].astype(float) - correct[0])
        rises = gains.mean() > CLEARLY * gains.std() / len(gains) ** 0.5
        if chosen and (not rises or (useful and correct[0].mean() > correct[chosen].mean())):
            chosen = 0
        one.shares = self._ways[chosen]
        one.recipe = dataclasses.replace(one.recipe, prior_shift=one.shares is not None)
        one.correct = self._no_answers()
        one.correct[asked] = correct[chosen]

    # -- linear heads -------------------------------------------------------------------------------------

    def _linear(self) -> list[Contender]:
        """Heads on the last block, on all blocks, and on the best other block. The first leads if no other is ahead.

        If the images are different from the backbone's own, all blocks come first: the last block is specific to the
        backbone's classes.
        """
        table, last = self.table, len(self.table.blocks)
        entries: list[tuple[tuple[int, ...] | str, tuple[int, ...], str]] = [((), (last,), "linear, last block")]
        if last > 1:
            entries.append(("all", tuple(range(1, last + 1)), "linear, all blocks"))
            if self.similar is False:
                entries.reverse()
            other = max(probe_blocks(table)[:-1], key=lambda probe: probe.accuracy)
            entries.append(((other.block,), (other.block,), f"linear, block {other.block}"))
        found = cross_validated(table, [(blocks, self._solver(blocks)) for _, blocks, _ in entries])
        return [self._linear_contender(taps, name, *one) for (taps, _, name), one in zip(entries, found, strict=True)]

    def _solver(self, blocks: tuple[int, ...]) -> Solver:
        sizes = tuple(self.table.blocks[block - 1].shape[1] for block in blocks)
        return Solver(balanced=self.job.balance == "weights", sizes=sizes)

    def _linear_contender(
        self, taps: tuple[int, ...] | str, name: str, found: CrossValidation, seconds: float
    ) -> Contender:
        """A head whose C was chosen. seconds: that this took."""
        table = self.table
        recipe = Recipe(
            name,
            # epochs, rate and patience count only where the cache has no room for the features that it is solved on
            stages=(Stage(20, 1e-3, patience=4, solver="logistic", strength=found.strength),),
            head=Head(taps=taps),
            batch_size=self.job.batch_size or 32,
            class_weights=self.job.balance == "weights",
        )
        one = Contender(name, recipe, self._no_answers(), tried=found.tried, seconds=seconds)
        self._judged(one, found.probabilities, np.ones(len(table.held_out), bool))
        self._log(one)
        return one

    # -- fine-tuning --------------------------------------------------------------------------------------

    def _tuning(self) -> list[Contender]:
        """Fine-tuning of the upper blocks, then of the top ones only, which is cheaper."""
        count, weights = self.backbone.blocks_to_unfreeze, self.job.balance == "weights"
        recipes = [
            tuning_recipe(name, unfreeze, self.table.training, self.job)
            for name, unfreeze in (("fine-tune upper blocks", upper_blocks(count)), ("fine-tune top blocks", TOP))
            if (unfreeze != TOP and count) or count - count // 3 > TOP
        ]
        return [
            Contender(one.name, dataclasses.replace(one, class_weights=weights), self._no_answers()) for one in recipes
        ]

    def _tune(self, leader: Contender) -> list[Contender]:
        """Train the first that ends within the time limit on the training split, and predict the validation split.

        One that ends clearly less accurate than the leader, a head on features that were not trained, had too high a
        learning rate for this network. Then another is trained at a quarter of it.
        """
        why, waiting, tuning = self._why_not_tuned(leader), self._tuning(), []
        trained: Contender | None = None
        while waiting:
            one = waiting.pop(0)
            tuning.append(one)
            if why:
                one.ends("not tried", why)
            elif trained is not None:
                one.ends("not tried", f": {trained.name} fits into the time limit")
            else:
                self._tune_one(one)
                trained = one if one.diverged or one.asked.any() else None
                waiting = [*self._shorter(one), *waiting]
                why = ": the tournament was interrupted" if self.interrupted else ""
            self._log(one)
        further = self._further(trained, leader) if trained is not None else []
        workers = current()
        while further and not self.interrupted:
            at_once = 1 if workers is None else len(further)
            recipes, further = further[:at_once], further[at_once:]
            some = [Contender(recipe.name, recipe, self._no_answers()) for recipe in recipes]
            self._tune_these(some, workers)
            for one, recipe in zip(some, recipes, strict=True):
                self._log(one)
                tuning.append(one)
                if one.diverged and len(tuning) < MOST_TRIED:
                    further.append(with_lower_rate(recipe))
        return tuning

    def _shorter(self, one: Contender) -> list[Contender]:
        """The same with as many epochs as fit; none if these are too few, or their number was asked for."""
        if one.too_long is None or self.job.epochs:
            return []
        epochs = one.recipe.stages[-1].epochs
        fitting = {"epochs": int(SAFELY * self.deadline.left / one.too_long * epochs)}
        kept = self._once(f"{training_name(one.recipe)} shorter", lambda: fitting)
        recipe = with_fewer_epochs(one.recipe, kept["epochs"])
        return [Contender(recipe.name, recipe, self._no_answers())] if recipe is not None else []

    def _further(self, trained: Contender, leader: Contender) -> list[Recipe]:
        """What is trained after the first fine-tuning: a lower rate, or with the effort "best", patient variations."""
        if trained.diverged or self._clearly_behind(trained, leader):
            return [with_lower_rate(trained.recipe)]
        upper = trained.recipe.stages[-1].unfreeze == upper_blocks(self.backbone.blocks_to_unfreeze)
        return patient_recipes(trained.recipe) if upper and self.job.effort == "best" else []

    def _why_not_tuned(self, leader: Contender) -> str:
        """Why fine-tuning takes no part; empty if it does."""
        validation = int(self._validation_rows.sum())
        wrong = int((leader.correct[self._validation_rows] == 0).sum())
        if why := why_not_tuned(self.job, validation):
            return f": {why}"
        if wrong < FEWEST_TO_MEND:
            return (
                f": {leader.name} predicts all but {wrong} of {counted(validation, 'validation image')} correctly, "
                "too few to show that another is better"
            )
        return ""

    @property
    def _validation_rows(self) -> np.ndarray:
        """Which of the held-out images are of the validation split: bool, shape (held out,)."""
        return self.table.held_out >= self.table.training

    def _tune_these(self, some: list[Contender], workers: Pool | None) -> None:
        """Train contenders that do not depend on each other: on a cluster at once, if one is used."""
        if workers is None or len(some) == 1:
            for one in some:
                self._tune_one(one)
            return
        started = time.monotonic()
        models = [(one, model) for one in some if (model := self._ready(one)) is not None]
        (training, validation), seed, deadline = self._split, self.job.seed, self.deadline.or_not_at_all()
        trainings = [
            Training(model, self.backbone, one.recipe, training, validation, seed, deadline) for one, model in models
        ]
        try:
            for (one, model), found in zip(models, train_several(workers, trainings), strict=True):
                self._trained(one, model, found)
                one.seconds = time.monotonic() - started
        except KeyboardInterrupt:
            self._drop(one for one in some if one.history is None and one.state == "standing")

    def _tune_one(self, one: Contender) -> None:
        """Train one contender. Ctrl-C drops it, or ends its training after an epoch, and the tournament is decided."""
        try:
            started = time.monotonic()
            model = self._ready(one)
            if model is not None:
                self._train(one, model)
            one.seconds = time.monotonic() - started
        except KeyboardInterrupt:
            self._drop([one])

    def _drop(self, some: Iterable[Contender]) -> None:
        """Leave out the contenders that were interrupted."""
        self.interrupted = True
        log.info("interrupted: the best model so far is delivered; interrupt again to give it up")
        for one in some:
            one.ends("dropped", ": it was interrupted before its first epoch")

    def _ready(self, one: Contender) -> keras.Model | None:
        """Build the model of a contender, and complete its recipe; None if the time does not suffice for it."""
        model = self.build(one.recipe.head)
        found = self._once(f"{training_name(one.recipe)} fits", lambda: self._fits(one, model))
        if found["dropped"]:
            one.ends("dropped", found["dropped"])
            return None
        seconds = roughly(expected_seconds(one.recipe, found["forward"]))
        log.info(f"{one.name}: {counted(one.recipe.stages[-1].epochs, 'epoch')}, {seconds}")
        one.recipe = self._augmented(one.recipe, found["views"])
        return model

    def _fits(self, one: Contender, model: keras.Model) -> dict[str, Any]:
        """By the time of a forward pass: why a contender is dropped, or how many cached views of an image it gets."""
        if self.deadline.over:
            return {"dropped": ": the time limit was reached"}
        forward, stage = seconds_per_image(model) * self.table.training, one.recipe.stages[-1]
        # A lower bound: a training step of all blocks takes more than two forward passes, and frozen blocks one.
        least = 2 * forward * stage.epochs if stage.unfreeze == "all" else forward
        late = least > self.deadline.left
        why = f": it would take {least / 60:.1f} minutes or more, past the time limit" if late else ""
        views = int(min(self.deadline.left / 3 / max(forward, 1e-9), one.recipe.views))
        return {"dropped": why, "forward": forward, "views": views}

    def _once(self, name: str, compute: Callable[[], dict[str, Any]]) -> dict[str, Any]:
        """What was decided by a measured time is not decided otherwise after the run was resumed."""
        return compute() if self.checkpoints is None else self.checkpoints.once(name, compute)

    @functools.cached_property
    def _split(self) -> list[Examples]:
        """The training images, and the validation images."""
        return [self.pool.take(rows) for rows in np.split(np.arange(len(self.pool)), [self.table.training])]

    def _train(self, one: Contender, model: keras.Model) -> None:
        settings: dict[str, Any] = {"seed": self.job.seed, "deadline": self.deadline.or_not_at_all()}
        place = resumable(self.checkpoints, training_name(one.recipe))
        try:
            history = train(model, self.backbone, one.recipe, *self._split, callbacks=place, **settings)
        except TrainingError as error:
            self._trained(one, model, error)
            return
        self._trained(one, model, history)

    def _trained(self, one: Contender, model: keras.Model, history: History | TrainingError) -> None:
        """Judge a contender that was trained, or drop it."""
        if isinstance(history, TrainingError):
            one.diverged = True
            one.ends("dropped", f": {history}")
            return
        self.images_computed += history.images_computed
        self.interrupted |= history.interrupted
        if history.interrupted and history.rows[-1]["stage"] < len(one.recipe.stages):
            raise KeyboardInterrupt
        if history.expected_seconds is not None:
            one.too_long = history.expected_seconds
            one.ends("dropped", f": it would take {history.expected_seconds / 60:.1f} minutes, past the time limit")
            return
        pixels = self._split[1].pixels
        found = predict_probabilities(model, pixels, batch_size=inference_batch(one.recipe.batch_size))
        self._judged(one, found, self._validation_rows)
        one.model, one.history = model, history

    def _augmented(self, recipe: Recipe, views: int) -> Recipe:
        """Return the recipe with the augmentation, and with the number of cached views that there is time for.

        If there is no time for a view of every image, frozen blocks see images without augmentation.
        """
        if recipe.stages[-1].unfreeze == "all":
            return dataclasses.replace(recipe, augmentation=self.augmentation())
        return dataclasses.replace(recipe, augmentation=self.augmentation(), views=views) if views else recipe

    # -- the decision -------------------------------------------------------------------------------------

    def _leader(self, contenders: list[Contender]) -> Contender:
        """The best by the criterion on all held-out images.

        By log loss, the first leads unless another is ahead by more than the standard error of the paired difference:
        with few images, their order often decides.
        """
        everything = np.ones(len(self.table.held_out), bool)
        if self.criterion.metric != "log_loss":
            return min(contenders, key=lambda one: self._loss(one, everything))
        labels, leader = self.table.labels[self.table.held_out], contenders[0]
        for one in contenders[1:]:
            better = self._losses(leader, labels) - self._losses(one, labels)
            if better.mean() > CLEARLY * better.std(ddof=1) / len(better) ** 0.5:
                leader = one
        return leader

    def _losses(self, one: Contender, labels: np.ndarray) -> np.ndarray:
        """The log loss of each held-out image as the contender would be served, weighted as the criterion does."""
        assert one.probabilities is not None
        losses = log_losses(self.criterion.served(one.probabilities, labels, one.shares), labels)
        return losses * balancing_weights(labels) if self.criterion.balanced else losses

    def _serves_better(self, tuned: Contender, head: Contender) -> bool:
        """Whether a fine-tuned model is better by the criterion on validation images, and not clearly less accurate.

        Both are compared with their own temperatures, as they would be served. Less accurate by more than one standard
        error of the paired difference counts as clearly. If classes differ much in size, accuracy does not count,
        because the largest class decides it: the balanced log loss is the criterion then.
        """
        behind = self.criterion == Criterion() and self._clearly_behind(tuned, head)
        return self._validation_loss(tuned) < self._validation_loss(head) and not behind

    def _clearly_behind(self, first: Contender, second: Contender) -> bool:
        """Whether the first is less accurate by more than the standard error of the paired difference."""
        ahead, error = self._ahead(first, second)
        return ahead < -CLEARLY * error

    def _ahead(self, first: Contender, second: Contender) -> tuple[float, float]:
        """The paired difference in accuracy on the images that both were asked, and its standard error.

        (0, 1) if there are no such images.
        """
        both = first.asked & second.asked
        if not both.any():
            return 0.0, 1.0
        return paired_difference(first.correct[both] > 0, second.correct[both] > 0, self._groups(both))

    def _groups(self, rows: np.ndarray) -> np.ndarray | None:
        """The groups of held-out images; None if there are none. rows: which of them, bool."""
        groups = self.pool.groups
        return None if groups is None else groups[self.table.held_out[rows]]

    def _validation_loss(self, one: Contender) -> tuple[float, float]:
        return self._loss(one, self._validation_rows)

    def _loss(self, one: Contender, rows: np.ndarray) -> tuple[float, float]:
        """The criterion's loss on held-out images, as the contender would be served. rows: which of them, bool."""
        assert one.probabilities is not None
        found, labels = one.probabilities[rows[one.asked]], self.table.labels[self.table.held_out[rows]]
        return self.criterion.loss(self.criterion.served(found, labels, one.shares), labels)

    def _why(self, winner: Contender) -> str:
        """The reason in words, with the rival that is the most accurate of the others."""
        n = int(winner.asked.sum())
        accuracy = (winner.correct > 0).sum() / n
        how = self.table.how if winner.model is None else "the validation images"
        score = f"predicts {accuracy:.1%} of {counted(n, 'held-out image')} correctly ({how})"
        others = [one for one in self.contenders if one is not winner and one.asked.any() and one.state != "dropped"]
        if not others:
            return score
        rival = max(others, key=lambda one: self._ahead(one, winner)[0])
        ahead, error = self._ahead(rival, winner)
        both = rival.asked & winner.asked
        p = paired_p_value(rival.correct[both] > 0, winner.correct[both] > 0, self._groups(both))
        beside = f"95 % interval ±{196 * error:.1f}, n = {int(both.sum()):,}; exact paired test: p = {p:.2g}, " + (
            "more than chance" if p < AT_CHANCE else "which these images cannot tell from chance"
        )
        if ahead <= 0:
            return f"{score}; next is {rival.name}, {abs(100 * ahead):.1f} points behind ({beside})"
        tuned = rival.model is not None or winner.model is not None
        rows = self._validation_rows if tuned else np.ones(len(self.table.held_out), bool)
        (own, _), (other, _) = self._loss(winner, rows), self._loss(rival, rows)
        kind = str(self.criterion) if self.criterion.metric == "log_loss" else f"1 - {self.criterion}"
        but = f"the {kind} is lower" if own < other else f"its {kind} is not clearly lower"
        return (
            f"{score}; {rival.name} is {100 * ahead:.1f} points more accurate ({beside}), but {but}: {own:.3f} against "
            f"{other:.3f}"
        )

    def _log(self, one: Contender) -> None:
        row = one.evidence()
        score = "not measured" if row["accuracy"] is None else f"accuracy {row['accuracy']:.1%} (n = {row['n']:,})"
        log.info(f"  {one.name:<24} {score}, {one.seconds:.1f} s" + (f"; {one.outcome}" if one.outcome else ""))
