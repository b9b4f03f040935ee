"""Finds the best strategy for a data set: a tournament on cached features and short trainings.

Linear strategies fit a head on the features of every block, which are computed once. Fine-tuning strategies start from
the fitted head. On a large set they first train on a subset, and the better half goes on (successive halving, Jamieson
and Talwalkar 2016, arXiv:1502.07943). The winner is then trained already.

Held-out images decide; test images are not used. A more expensive strategy wins only if it is ahead by more than the
standard error of the paired difference on the same images (the one-standard-error rule, Breiman et al. 1984). Otherwise
the cheaper one is taken, and the decision says so. Imports Keras and NumPy, and scikit-learn through `linear`.
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
from tlkit.evaluation.predict import predict_probabilities
from tlkit.features.linear import Solver, choose_strength
from tlkit.features.table import Table, probe_blocks
from tlkit.models.inference import inference_batch
from tlkit.plan.recipe import Head, Recipe, Stage
from tlkit.progress import NO_DEADLINE, Deadline, log
from tlkit.stats import log_loss, paired_difference, wilson_interval
from tlkit.training.history import History
from tlkit.training.train import train
from tlkit.words import counted

if TYPE_CHECKING:
    import keras


# Validation images that fine-tuning needs to take part: with fewer, one in five strategies would win by chance.
FEWEST_TO_JUDGE = 40
MOST_AT_FIRST = 1000  # training images in the first round of fine-tuning
STEPS = 120  # gradient steps of fine-tuning, at least, within MOST_EPOCHS
FEWEST_EPOCHS, MOST_EPOCHS = 6, 20


@dataclass
class Contender:
    """A strategy in the tournament.

    Attributes:
        correct: int8, one for each held-out image: 1 if its prediction is correct, 0 if not, -1 if it was not asked.
        loss: Log loss on the images it was asked.
        state: "standing", "not tried", "dropped" or "taken".
        outcome: The state with its reason, for a person to read.
        model, history: The trained model, if it was trained on all training images.
    """

    name: str
    recipe: Recipe
    correct: np.ndarray
    loss: float = math.nan
    seconds: float = 0.0
    state: str = "standing"
    outcome: str = ""
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
            "accuracy": correct / n if n else None,
            "accuracy_95": list(wilson_interval(correct, n)) if n else None,
            "n": n,
            "log_loss": None if math.isnan(self.loss) else round(self.loss, 4),
            "seconds": round(self.seconds, 1),
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
        deadline: Fine-tuning that would pass it is not started; if it is cut short, it does not count.
        epochs, batch_size: Of fine-tuning, None: by the number of images.
        similar: Whether the images are similar to the backbone's own, see `tlkit.strategy.axes.is_similar`.
    """

    build: Callable[[Head], keras.Model]
    backbone: Backbone
    table: Table
    pool: Examples
    seed: int = 0
    deadline: Deadline = NO_DEADLINE
    epochs: int | None = None
    batch_size: int | None = None
    similar: bool | None = None
    contenders: list[Contender] = field(default_factory=list)
    images_computed: int = 0

    def run(self) -> Outcome:
        self.contenders = self._linear()
        leader = self._leader(self.contenders)
        tuning = [Contender(r.name, r, self._no_answers()) for r in self._tuning_recipes(leader)]
        self._tune(tuning)
        self.contenders += tuning
        winner = self._leader([one for one in self.contenders if one.asked.any() and one.state == "standing"])
        for one in self.contenders:
            if one is winner:
                one.ends("taken")
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
            batch_size=self.batch_size or 32,
        )
        seconds = time.monotonic() - started
        one = Contender(name, recipe, correct, found.loss, seconds)
        self._log(one)
        return one

    # -- fine-tuning --------------------------------------------------------------------------------------

    def _tuning_recipes(self, leader: Contender) -> list[Recipe]:
        """Fine-tuning recipes, cheapest first.

        All start from the leader's fitted head, or from the first contender's if the leader does not read the last
        block.
        """
        head_of = leader if leader.recipe.head.taps in ((), "all") else self.contenders[0]
        count = self.backbone.blocks_to_unfreeze
        return [
            tuning_recipe(name, head_of.recipe, unfreeze, self.table.training, self.epochs, self.batch_size)
            for name, unfreeze in (("fine-tune top blocks", min(2, count)), ("fine-tune all blocks", "all"))
            if (unfreeze == "all" and count) or count > 2
        ]

    def _tune(self, running: list[Contender]) -> None:
        """Train on the training split and predict the validation split.

        With more than 1,500 training images, all first train on 1,000 of them, and the better half goes on.
        """
        validation = len(self.pool) - self.table.training
        if validation < FEWEST_TO_JUDGE:
            for one in running:
                one.ends("not tried", f": it needs {FEWEST_TO_JUDGE} or more validation images, and has {validation}")
                self._log(one)
            return
        if self.table.training > MOST_AT_FIRST * 1.5:
            for one in running:
                self._tune_on(one, MOST_AT_FIRST)
            standing = [one for one in running if one.state == "standing"]
            standing.sort(key=lambda one: -(one.correct > 0).sum())
            for rank, one in enumerate(standing):
                if rank >= max(1, len(standing) // 2):
                    one.ends("dropped", f" after {MOST_AT_FIRST:,} training images: behind {standing[0].name}")
                    self._log(one)
        for one in running:
            if one.state == "standing":
                self._tune_on(one, self.table.training)
                self._log(one)

    def _tune_on(self, one: Contender, count: int) -> None:
        """Train on `count` training images, and predict the validation images."""
        training_count = self.table.training
        left = self.deadline.left
        expected = one.seconds * count / MOST_AT_FIRST  # from the first round, 0 if there was none
        if left <= 0 or expected > left:
            one.ends("dropped", ": it would not have finished within the time limit")
            one.model = None
            return
        started = time.monotonic()
        chosen = np.arange(training_count)
        if count < training_count:
            chosen = np.sort(np.random.default_rng(self.seed).choice(training_count, count, replace=False))
        training, validation = self.pool.take(chosen), self.pool.take(np.arange(training_count, len(self.pool)))
        model = self.build(one.recipe.head)
        history = train(
            model,
            self.backbone,
            one.recipe,
            training,
            validation,
            seed=self.seed,
            deadline=self.deadline,
        )
        self.images_computed += history.images_computed
        if history.cut_short:
            one.ends("dropped", ": it did not finish within the time limit")
        else:
            probabilities = predict_probabilities(
                model, validation.pixels, batch_size=inference_batch(one.recipe.batch_size)
            )
            one.correct[self.table.held_out >= training_count] = probabilities.argmax(1) == validation.labels
            one.loss = log_loss(probabilities, validation.labels)
            one.model, one.history = (model, history) if count == training_count else (None, None)
        one.seconds += time.monotonic() - started

    # -- the decision -------------------------------------------------------------------------------------

    def _leader(self, contenders: list[Contender]) -> Contender:
        """Start with the cheapest. A more expensive one takes over if it is ahead by more than one standard error."""
        leader = contenders[0]
        for one in contenders[1:]:
            ahead, error = _ahead(one, leader)
            if ahead > error:
                leader = one
        return leader

    def _why(self, winner: Contender) -> str:
        compared = [one for one in self.contenders if one.asked.any() and one.state != "dropped"]
        best = max(compared, key=lambda one: _ahead(one, winner)[0])
        n = int(winner.asked.sum())
        accuracy = (winner.correct > 0).sum() / n
        score = f"predicts {accuracy:.1%} of {counted(n, 'held-out image')} correctly ({self.table.how})"
        if best is not winner and _ahead(best, winner)[0] > 0:
            ahead, error = _ahead(best, winner)
            return (
                f"{score}; {best.name} is {100 * ahead:.1f} points more accurate "
                f"({_interval(error, best, winner)}), which these images cannot tell from chance, "
                "so the cheaper strategy is taken"
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


def tuning_recipe(
    name: str, start: Recipe, unfreeze: int | str, images: int, epochs: int | None = None, batch_size: int | None = None
) -> Recipe:
    """A recipe that fits the head of `start`, then trains the blocks at discriminative learning rates.

    unfreeze: how many blocks, or "all". epochs, batch_size: default by the number of training images, so that a small
    set gets enough steps.
    """
    batch = batch_size or (16 if images < 1000 else 32)
    steps = max(1, math.ceil(images / batch))
    count = epochs or min(max(math.ceil(STEPS / steps), FEWEST_EPOCHS), MOST_EPOCHS)
    tune = Stage(
        count,
        5e-4 if unfreeze == "all" else 2e-4,
        unfreeze=unfreeze,
        schedule="cosine",
        warmup=count / 10,
        layer_decay=0.8,
    )
    return dataclasses.replace(start, name=name, stages=(*start.stages, tune), batch_size=batch, monitor="last")


def _ahead(first: Contender, second: Contender) -> tuple[float, float]:
    """The paired difference in accuracy on the images that both were asked, and its standard error.

    (0, 1) if there are no such images.
    """
    both = first.asked & second.asked
    return paired_difference(first.correct[both] > 0, second.correct[both] > 0) if both.any() else (0.0, 1.0)


def _interval(error: float, first: Contender, second: Contender) -> str:
    """A standard error of `_ahead`, for a person to read."""
    return f"95 % interval ±{196 * error:.1f} points, n = {int((first.asked & second.asked).sum()):,}"
