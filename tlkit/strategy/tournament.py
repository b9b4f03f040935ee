"""Finds the best strategy for a data set: linear heads on cached features, and fine-tuning where it can pay.

Linear strategies fit a head on the features of every block, which are computed once. They are compared on held-out
images; test images are not used. A head on more features leads only if it is ahead by more than the standard error of
the paired difference on the same images (the one-standard-error rule, Breiman et al. 1984).

Fine-tuning trains every block, with augmentation that keeps the classes, see `tlkit.strategy.tuning`. It takes part if
the validation images could show that it is better. If it would not end within the time limit, which shows after its
first steps, only the top blocks train. Cost counts until it is spent: between models that are trained, the better
estimate wins, and the winner is trained already. Imports Keras and NumPy, and scikit-learn through `linear`.
"""

from __future__ import annotations

import dataclasses
import math
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from tlkit.backbones import Backbone
from tlkit.data.examples import Examples
from tlkit.errors import TrainingError
from tlkit.evaluation.calibration import fit_temperature, temper
from tlkit.evaluation.predict import predict_probabilities
from tlkit.features.linear import Solver, choose_strength
from tlkit.features.table import Table, probe_blocks
from tlkit.models.inference import inference_batch, seconds_per_image
from tlkit.plan.augmentation import Augmentation
from tlkit.plan.job import Job
from tlkit.plan.recipe import Head, Recipe, Stage
from tlkit.progress import NO_DEADLINE, Deadline, log
from tlkit.stats import log_loss, paired_difference, wilson_interval
from tlkit.strategy.tuning import expected_seconds, patient_recipes, tuning_recipe, with_lower_rate
from tlkit.training.history import History
from tlkit.training.train import train
from tlkit.words import counted, roughly

if TYPE_CHECKING:
    import keras


# Validation images that fine-tuning needs to take part: with fewer, one in five strategies would win by chance.
FEWEST_TO_JUDGE = 40
# Validation images that the leading head gets wrong, at least: a model that mends fewer and breaks none could not be
# told from it by a sign test (5 of 5 by chance: 1 in 32).
FEWEST_TO_MEND = 5
MOST_TRIED = 5  # fine-tunings


@dataclass
class Contender:
    """A strategy in the tournament.

    Attributes:
        correct: int8, one for each held-out image: 1 if its prediction is correct, 0 if not, -1 if it was not asked.
        probabilities: float, shape (asked, classes), for the held-out images it was asked, in their order.
        loss: Log loss on the images it was asked.
        state: "standing", "not tried", "dropped" or "taken".
        outcome: The state with its reason, for a person to read.
        diverged: Whether the loss became infinite or no number while it trained.
        model, history: The trained model, if it was trained on all training images.
    """

    name: str
    recipe: Recipe
    correct: np.ndarray
    probabilities: np.ndarray | None = None
    loss: float = math.nan
    seconds: float = 0.0
    state: str = "standing"
    outcome: str = ""
    diverged: bool = False
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
            "seconds": round(self.seconds, 1),
            "taken": self.state == "taken",
            "outcome": self.outcome,
        }


@dataclass(frozen=True)
class Outcome:
    """The recipe that won, why, and a row for every contender.

    model, history: the winner's, if it is trained on all training images already. images_computed: how many images ran
    through frozen layers.
    """

    recipe: Recipe
    why: str
    contenders: list[dict[str, Any]]
    model: keras.Model | None = None
    history: History | None = None
    images_computed: int = 0


@dataclass
class Tournament:
    """Judges every contender on the same images.

    Attributes:
        build: Makes a classifier for a head, with fresh pretrained weights.
        table, pool: See `tlkit.features.table.feature_table`.
        augmentation: Returns the augmentation of fine-tuning. It is asked only if fine-tuning takes part.
        job: Gives the seed and the effort, and epochs, learning rate and batch size of fine-tuning.
        deadline: Fine-tuning that would pass it ends after its first steps.
        similar: Whether the images are similar to the backbone's own, see `tlkit.strategy.axes.is_similar`.
    """

    build: Callable[[Head], keras.Model]
    backbone: Backbone
    table: Table
    pool: Examples
    job: Job
    augmentation: Callable[[], Augmentation] = Augmentation
    deadline: Deadline = NO_DEADLINE
    similar: bool | None = None
    contenders: list[Contender] = field(default_factory=list)
    images_computed: int = 0
    interrupted: bool = False

    def run(self) -> Outcome:
        self.contenders = self._linear()
        leader = self._leader(self.contenders)
        tuning = self._tune(leader)
        self.contenders += tuning
        better = [one for one in tuning if one.asked.any() and self._serves_better(one, leader)]
        winner = min(better, key=self._served_loss, default=leader)
        winner.ends("taken")
        rows, computed = [one.evidence() for one in self.contenders], self.table.images_computed + self.images_computed
        return Outcome(winner.recipe, self._why(winner), rows, winner.model, winner.history, computed)

    def _no_answers(self) -> np.ndarray:
        return np.full(len(self.table.held_out), -1, "int8")

    # -- linear heads -------------------------------------------------------------------------------------

    def _linear(self) -> list[Contender]:
        """Heads on the last block, on all blocks, and on the best other block. The first leads if no other is ahead.

        If the images are different from the backbone's own, all blocks come first: the last block is specific to the
        backbone's classes. With few images, this order often decides.
        """
        table, blocks = self.table, self.table.blocks
        probes = probe_blocks(table)
        found = [self._fit_linear((), [blocks[-1]], "linear, last block")]
        if len(blocks) > 1:
            found.append(self._fit_linear("all", blocks, "linear, all blocks"))
            if self.similar is False:
                found.reverse()
            other = max(probes[:-1], key=lambda probe: probe.accuracy)
            found.append(self._fit_linear((other.block,), [blocks[other.block - 1]], f"linear, block {other.block}"))
        return found

    def _fit_linear(self, taps: tuple[int, ...] | str, rows: list[np.ndarray], name: str) -> Contender:
        started = time.monotonic()
        table = self.table
        solver = Solver(sizes=tuple(one.shape[1] for one in rows))
        found = choose_strength(np.concatenate(rows, axis=1), table.labels, table.folds, table.classes, solver=solver)
        correct = (found.probabilities.argmax(1) == table.labels[table.held_out]).astype("int8")
        recipe = Recipe(
            name,
            stages=(Stage(1, 1e-3, solver="logistic", strength=found.strength),),
            head=Head(taps=taps),
            batch_size=self.job.batch_size or 32,
        )
        seconds = time.monotonic() - started
        one = Contender(name, recipe, correct, found.probabilities, found.loss, seconds)
        self._log(one)
        return one

    # -- fine-tuning --------------------------------------------------------------------------------------

    def _tuning(self) -> list[Contender]:
        """Fine-tuning of all blocks, then of the top blocks, which is cheaper."""
        count = self.backbone.blocks_to_unfreeze
        return [
            Contender(name, tuning_recipe(name, unfreeze, self.table.training, self.job), self._no_answers())
            for name, unfreeze in (("fine-tune all blocks", "all"), ("fine-tune top blocks", min(2, count)))
            if (unfreeze == "all" and count) or count > 2
        ]

    def _tune(self, leader: Contender) -> list[Contender]:
        """Train the first that ends within the time limit on the training split, and predict the validation split.

        One that ends clearly less accurate than the leader, a head on features that were not trained, had too high a
        learning rate for this network. Then another is trained at a quarter of it.
        """
        why, tuning = self._why_not_tuned(leader), self._tuning()
        trained: Contender | None = None
        for one in tuning:
            if why:
                one.ends("not tried", why)
            elif trained is not None:
                one.ends("not tried", f": {trained.name} fits into the time limit")
            else:
                self._tune_one(one)
                trained = one if one.diverged or one.asked.any() else None
                why = ": the tournament was interrupted" if self.interrupted else ""
            self._log(one)
        further = self._further(trained, leader) if trained is not None else []
        while further and not self.interrupted:
            recipe = further.pop(0)
            one = Contender(recipe.name, recipe, self._no_answers())
            self._tune_one(one)
            self._log(one)
            tuning.append(one)
            if one.diverged and len(tuning) < MOST_TRIED:
                further.append(with_lower_rate(recipe))
        return tuning

    def _further(self, trained: Contender, leader: Contender) -> list[Recipe]:
        """What is trained after the first fine-tuning: a lower rate, or with the effort "best", patient variations."""
        if trained.diverged or _clearly_behind(trained, leader):
            return [with_lower_rate(trained.recipe)]
        whole = trained.recipe.stages[-1].unfreeze == "all"
        return patient_recipes(trained.recipe) if whole and self.job.effort == "best" else []

    def _why_not_tuned(self, leader: Contender) -> str:
        """Why fine-tuning takes no part; empty if it does."""
        validation = int(self._validation_rows.sum())
        wrong = int((leader.correct[self._validation_rows] == 0).sum())
        if self.job.effort == "quick":
            return ": the effort asked for is quick"
        if validation < FEWEST_TO_JUDGE:
            return f": it needs {FEWEST_TO_JUDGE} or more validation images, and has {validation}"
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

    def _tune_one(self, one: Contender) -> None:
        """Train one contender. Ctrl-C drops it, or ends its training after an epoch, and the tournament is decided."""
        try:
            self._tune_within_time(one)
        except KeyboardInterrupt:
            self.interrupted = True
            log.info("interrupted: the best model so far is delivered; interrupt again to give it up")
            one.ends("dropped", ": it was interrupted before its first epoch")

    def _tune_within_time(self, one: Contender) -> None:
        if self.deadline.over:
            one.ends("dropped", ": the time limit was reached")
            return
        started = time.monotonic()
        model = self.build(one.recipe.head)
        forward = seconds_per_image(model) * self.table.training
        # A lower bound: a training step takes more than two forward passes, and frozen blocks at least one.
        stage = one.recipe.stages[-1]
        least = 2 * forward * stage.epochs if stage.unfreeze == "all" else forward
        if least > self.deadline.left:
            one.ends("dropped", f": it would take {least / 60:.1f} minutes or more, past the time limit")
            one.seconds = time.monotonic() - started
            return
        if stage.unfreeze == "all":
            log.info(f"{one.name}: {counted(stage.epochs, 'epoch')}, {roughly(expected_seconds(one.recipe, forward))}")
        one.recipe = self._augmented(one.recipe, forward)
        self._train(one, model)
        one.seconds = time.monotonic() - started

    def _train(self, one: Contender, model: keras.Model) -> None:
        training, validation = (
            self.pool.take(rows) for rows in np.split(np.arange(len(self.pool)), [self.table.training])
        )
        settings: dict[str, Any] = {"seed": self.job.seed, "deadline": self.deadline, "whole": True}
        try:
            history = train(model, self.backbone, one.recipe, training, validation, **settings)
        except TrainingError as error:
            one.diverged = True
            one.ends("dropped", f": {error}")
            return
        self.images_computed += history.images_computed
        self.interrupted |= history.interrupted
        if history.interrupted and history.rows[-1]["stage"] < len(one.recipe.stages):
            raise KeyboardInterrupt
        if history.expected_seconds is not None:
            one.ends("dropped", f": it would take {history.expected_seconds / 60:.1f} minutes, past the time limit")
            return
        found = predict_probabilities(model, validation.pixels, batch_size=inference_batch(one.recipe.batch_size))
        one.correct[self._validation_rows] = found.argmax(1) == validation.labels
        one.probabilities, one.loss = found, log_loss(found, validation.labels)
        one.model, one.history = model, history

    def _augmented(self, recipe: Recipe, forward: float) -> Recipe:
        """Return the recipe with the augmentation, and as many cached views as a third of the time left allows.

        If there is no time for a view of every image, frozen blocks see images without augmentation.

        forward: seconds that a forward pass of all training images takes.
        """
        if recipe.stages[-1].unfreeze == "all":
            return dataclasses.replace(recipe, augmentation=self.augmentation())
        views = int(min(self.deadline.left / 3 / max(forward, 1e-9), recipe.views))
        return dataclasses.replace(recipe, augmentation=self.augmentation(), views=views) if views else recipe

    # -- the decision -------------------------------------------------------------------------------------

    def _leader(self, contenders: list[Contender]) -> Contender:
        """Start with the cheapest. A more expensive one takes over if it is ahead by more than one standard error."""
        leader = contenders[0]
        for one in contenders[1:]:
            ahead, error = _ahead(one, leader)
            if ahead > error:
                leader = one
        return leader

    def _serves_better(self, tuned: Contender, head: Contender) -> bool:
        """Whether a fine-tuned model has the lower log loss on the validation images, and is not clearly less accurate.

        Both are compared with their own temperatures, as they would be served. Less accurate by more than one standard
        error of the paired difference counts as clearly.
        """
        return self._served_loss(tuned) < self._served_loss(head) and not _clearly_behind(tuned, head)

    def _served_loss(self, one: Contender) -> float:
        """Log loss on the validation images, after the temperature that would be served."""
        assert one.probabilities is not None
        rows = self._validation_rows
        found, labels = one.probabilities[rows[one.asked]], self.table.labels[self.table.held_out[rows]]
        return log_loss(temper(found, fit_temperature(found, labels)), labels)

    def _why(self, winner: Contender) -> str:
        compared = [one for one in self.contenders if one.asked.any() and one.state != "dropped"]
        best = max(compared, key=lambda one: _ahead(one, winner)[0])
        n = int(winner.asked.sum())
        accuracy = (winner.correct > 0).sum() / n
        how = self.table.how if winner.model is None else "the validation images"
        score = f"predicts {accuracy:.1%} of {counted(n, 'held-out image')} correctly ({how})"
        if best is not winner and _ahead(best, winner)[0] > 0:
            ahead, error = _ahead(best, winner)
            reason = "so the cheaper strategy is taken"
            if best.history is not None or winner.history is not None:
                losses = f"{self._served_loss(winner):.3f} against {self._served_loss(best):.3f}"
                reason = f"and the log loss on the validation images is lower ({losses})"
            return (
                f"{score}; {best.name} is {100 * ahead:.1f} points more accurate "
                f"({_interval(error, best, winner)}), which these images cannot tell from chance, {reason}"
            )
        others = [one for one in compared if one is not winner]
        if not others:
            return score
        rival = min(others, key=lambda one: _ahead(winner, one)[0])
        ahead, error = _ahead(winner, rival)
        return f"{score}; next is {rival.name}, {100 * ahead:.1f} points behind ({_interval(error, winner, rival)})"

    def _log(self, one: Contender) -> None:
        row = one.evidence()
        score = "not measured" if row["accuracy"] is None else f"accuracy {row['accuracy']:.1%} (n = {row['n']:,})"
        log.info(f"  {one.name:<24} {score}, {one.seconds:.1f} s" + (f"; {one.outcome}" if one.outcome else ""))


def _clearly_behind(first: Contender, second: Contender) -> bool:
    """Whether the first is less accurate by more than one standard error of the paired difference."""
    ahead, error = _ahead(first, second)
    return ahead < -error


def _ahead(first: Contender, second: Contender) -> tuple[float, float]:
    """The paired difference in accuracy on the images that both were asked, and its standard error.

    (0, 1) if there are no such images.
    """
    both = first.asked & second.asked
    return paired_difference(first.correct[both] > 0, second.correct[both] > 0) if both.any() else (0.0, 1.0)


def _interval(error: float, first: Contender, second: Contender) -> str:
    """A standard error of `_ahead`, for a person to read."""
    return f"95 % interval ±{196 * error:.1f} points, n = {int((first.asked & second.asked).sum()):,}"
