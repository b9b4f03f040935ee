"""Which strategy serves these pictures best: a tournament on cached features and short trainings, decided by held-out images.

Linear strategies are solved on the features of every block, which are computed once. Fine-tuning strategies start from the solved
head; of a large set they see a part first, and the better half goes on (successive halving, Jamieson and Talwalkar 2016,
arXiv:1502.07943); what wins is trained already. The dearer strategy wins only if it is ahead by more than the standard error of the difference on the
same images (the one-standard-error rule, Breiman et al. 1984); where that cannot be told, the cheaper is taken, and it is said so.
Test images play no part. Imports Keras and NumPy, and scikit-learn through `linear`.
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

if TYPE_CHECKING:
    import keras


FEWEST_TO_JUDGE = (
    40  # validation images for fine-tuning to take part: with fewer, one in five strategies would win by chance
)
MOST_AT_FIRST = 1000  # training images in the first round of fine-tuning
STEPS = 120  # of fine-tuning at least, as far as MOST_EPOCHS allow
FEWEST_EPOCHS, MOST_EPOCHS = 6, 20


@dataclass
class Contender:
    """A strategy in the tournament.

    right: for the held-out images it was asked about, whether it was right (others: -1), int8. state: "standing", "not tried", "dropped" or
    "taken"; outcome: the same for a person, with the reason.
    """

    name: str
    recipe: Recipe
    right: np.ndarray
    loss: float = math.nan
    seconds: float = 0.0
    state: str = "standing"
    outcome: str = ""
    model: keras.Model | None = None
    history: History | None = None

    @property
    def asked(self) -> np.ndarray:
        return self.right >= 0

    def ends(self, state: str, why: str = "") -> None:
        """Leave the tournament, or win it."""
        self.state, self.outcome = state, state + why

    def evidence(self) -> dict[str, Any]:
        n, right = int(self.asked.sum()), int((self.right > 0).sum())
        return {
            "strategy": self.name,
            "accuracy": right / n if n else None,
            "accuracy_95": list(wilson_interval(right, n)) if n else None,
            "n": n,
            "log_loss": None if math.isnan(self.loss) else round(self.loss, 4),
            "seconds": round(self.seconds, 1),
            "outcome": self.outcome,
        }


@dataclass(frozen=True)
class Outcome:
    """The recipe that won, why, and a row for every contender. model, history: the winner's, where it was trained in full already."""

    recipe: Recipe
    why: str
    contenders: list[dict[str, Any]]
    model: keras.Model | None = None
    history: History | None = None
    images_computed: int = 0


@dataclass
class Tournament:
    """What every contender is judged on.

    build: gives a classifier with fresh pretrained weights for a head. table, pool: see `tlkit.features.table.feature_table`. deadline: fine-tuning that would pass it is not begun, or is cut short and does not count. similar: whether the pictures
    are like those the backbone knows, see `tlkit.strategy.axes.is_similar`.
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
        leader = self._lead(self.contenders)
        tuning = [Contender(r.name, r, self._nobody()) for r in self._tuning_recipes(leader)]
        self._tune(tuning)
        self.contenders += tuning
        winner = self._lead([one for one in self.contenders if one.asked.any() and one.state == "standing"])
        for one in self.contenders:
            if one is winner:
                one.ends("taken")
        rows, computed = [one.evidence() for one in self.contenders], self.table.images_computed + self.images_computed
        return Outcome(winner.recipe, self._why(winner), rows, winner.model, winner.history, computed)

    def _nobody(self) -> np.ndarray:
        return np.full(len(self.table.held_out), -1, "int8")

    # -- linear heads -------------------------------------------------------------------------------------

    def _linear(self) -> list[Contender]:
        """The last block, all together, and the best other block: the first of them leads if no other is ahead.

        For pictures unlike those the backbone knows all blocks come first, for the last is bound to what it knows; where there are few
        images, that is all there is to go by.
        """
        table, blocks = self.table, self.table.blocks
        probes = probe_blocks(table)
        found = [self._linear_on((), [blocks[-1]], "linear, last block")]
        if len(blocks) > 1:
            found.append(self._linear_on("all", blocks, "linear, all blocks"))
            if self.similar is False:
                found.reverse()
            other = max(probes[:-1], key=lambda probe: probe.accuracy)
            found.append(self._linear_on((other.block,), [blocks[other.block - 1]], f"linear, block {other.block}"))
        return found

    def _linear_on(self, taps: tuple[int, ...] | str, rows: list[np.ndarray], name: str) -> Contender:
        started = time.monotonic()
        table = self.table
        solver = Solver(sizes=tuple(one.shape[1] for one in rows))
        found = choose_strength(np.concatenate(rows, axis=1), table.labels, table.folds, table.classes, solver=solver)
        right = (found.probabilities.argmax(1) == table.labels[table.held_out]).astype("int8")
        recipe = Recipe(
            name,
            stages=(Stage(1, 1e-3, solver="logistic", strength=found.strength),),
            head=Head(taps=taps),
            batch_size=self.batch_size or 32,
        )
        seconds = time.monotonic() - started
        one = Contender(name, recipe, right, found.loss, seconds)
        self._tell(one)
        return one

    # -- fine-tuning --------------------------------------------------------------------------------------

    def _tuning_recipes(self, leader: Contender) -> list[Recipe]:
        """Cheapest first. All start from the solved head of the leader, or the last block's if the leader leaves that out."""
        head_of = leader if leader.recipe.head.taps in ((), "all") else self.contenders[0]
        count = self.backbone.blocks_to_unfreeze
        return [
            tuning_recipe(name, head_of.recipe, unfreeze, self.table.training, self.epochs, self.batch_size)
            for name, unfreeze in (("fine-tune top blocks", min(2, count)), ("fine-tune all blocks", "all"))
            if (unfreeze == "all" and count) or count > 2
        ]

    def _tune(self, running: list[Contender]) -> None:
        """Train on the training part, ask about the validation part. Of large sets a part comes first, after which half goes on."""
        validation = len(self.pool) - self.table.training
        if validation < FEWEST_TO_JUDGE:
            for one in running:
                one.ends("not tried", f": {validation} validation images are too few to judge it by")
                self._tell(one)
            return
        if self.table.training > MOST_AT_FIRST * 1.5:
            for one in running:
                self._tune_on(one, MOST_AT_FIRST)
            standing = [one for one in running if one.state == "standing"]
            standing.sort(key=lambda one: -(one.right > 0).sum())
            for place, one in enumerate(standing):
                if place >= max(1, len(standing) // 2):
                    one.ends("dropped", f" after {MOST_AT_FIRST:,} training images: behind {standing[0].name}")
                    self._tell(one)
        for one in running:
            if one.state == "standing":
                self._tune_on(one, self.table.training)
                self._tell(one)

    def _tune_on(self, one: Contender, count: int) -> None:
        """Train on so many training images, and ask about the validation part."""
        border = self.table.training
        left = self.deadline.left
        expected = one.seconds * count / MOST_AT_FIRST  # by the part that came first, if it did
        if left <= 0 or expected > left:
            one.ends("dropped", ": it would not have ended within the time limit")
            one.model = None
            return
        started = time.monotonic()
        chosen = np.arange(border)
        if count < border:
            chosen = np.sort(np.random.default_rng(self.seed).choice(border, count, replace=False))
        training, asked = self.pool.take(chosen), self.pool.take(np.arange(border, len(self.pool)))
        model = self.build(one.recipe.head)
        history = train(
            model,
            self.backbone,
            one.recipe,
            training,
            asked,
            seed=self.seed,
            deadline=self.deadline,
        )
        self.images_computed += history.images_computed
        if history.cut_short:
            one.ends("dropped", ": it did not end within the time limit")
        else:
            probabilities = predict_probabilities(
                model, asked.pixels, batch_size=inference_batch(one.recipe.batch_size)
            )
            one.right[self.table.held_out >= border] = probabilities.argmax(1) == asked.labels
            one.loss = log_loss(probabilities, asked.labels)
            one.model, one.history = (model, history) if count == border else (None, None)
        one.seconds += time.monotonic() - started

    # -- the decision -------------------------------------------------------------------------------------

    def _lead(self, contenders: list[Contender]) -> Contender:
        """From the cheapest up: a dearer one leads if it is ahead by more than a standard error."""
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
        said = f"right on {(winner.right > 0).sum() / n:.1%} of {n:,} held-out images ({self.table.how})"
        if best is not winner and _ahead(best, winner)[0] > 0:
            ahead, error = _ahead(best, winner)
            return (
                f"{said}; {best.name} is {100 * ahead:.1f} points ahead (±{196 * error:.1f}), which so few images cannot tell "
                "from chance, so the cheaper is taken"
            )
        second = [one for one in compared if one is not winner]
        if not second:
            return said
        rival = min(second, key=lambda one: _ahead(winner, one)[0])
        ahead, error = _ahead(winner, rival)
        return f"{said}; next is {rival.name}, {100 * ahead:.1f} points behind (±{196 * error:.1f})"

    def _tell(self, one: Contender) -> None:
        row = one.evidence()
        score = "not finished" if row["accuracy"] is None else f"{row['accuracy']:.1%} of {row['n']:,}"
        log.info(f"  {one.name:<24} {score}, {one.seconds:.1f} s" + (f"; {one.outcome}" if one.outcome else ""))


def tuning_recipe(
    name: str, start: Recipe, unfreeze: int | str, images: int, epochs: int | None = None, batch_size: int | None = None
) -> Recipe:
    """A solved head, then the blocks at discriminative rates; as many epochs as give a small set enough steps."""
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
    """By how much the first is better on the images both were asked about, and the standard error; (0, 1) where there are none."""
    both = first.asked & second.asked
    return paired_difference(first.right[both] > 0, second.right[both] > 0) if both.any() else (0.0, 1.0)
