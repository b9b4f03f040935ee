"""Prepares the data of a job: scans it, decodes it at the backbone's image size, and splits it."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass

from tlkit.backbones import Backbone
from tlkit.backbones.learning import learn_weights
from tlkit.cache import Cache
from tlkit.data.dataset import Dataset, decode_images
from tlkit.data.scan import at_depth, scan
from tlkit.deployment.saved_model import check_no_class_is_unsure
from tlkit.devices import _use_devices
from tlkit.evaluation.known import check_no_class_is_none
from tlkit.finetuning.groups import check_column
from tlkit.finetuning.held_out import hold_out
from tlkit.finetuning.parts import class_decisions, label_decisions, split_decisions
from tlkit.finetuning.resolve import Resolved
from tlkit.plan.augmentation import Augmentation
from tlkit.plan.decision import Decision
from tlkit.plan.job import Job
from tlkit.plan.recipe import Recipe
from tlkit.progress import Clock, log
from tlkit.runs.folder import Run
from tlkit.runs.lineage import Lineage, depth_of_run, lineage
from tlkit.strategy.backbones import compare_backbones
from tlkit.training.own_callbacks import Callbacks
from tlkit.words import counted


@dataclass(frozen=True)
class Prepared:
    """A job with its data.

    dataset: split already. decisions: those about the backbone and the split. callbacks: the user's, of the training.
    The rest as in `Resolved`.
    """

    job: Job
    dataset: Dataset
    backbone: Backbone
    recipe: Recipe | None
    augmentation: Augmentation | None
    decisions: tuple[Decision, ...]
    callbacks: Callbacks = ()

    def write(self, run: Run) -> None:
        """Write the split of each image, with the further columns of its table, and every problem of the data."""
        images = self.dataset.images
        split = images.table[["path", "label", "split", "group", "sha256"]]
        run.write_table("split.csv", split.join(images.further_columns()))
        run.write_table("problems.csv", images.problems)


def prepare(resolved: Resolved, clock: Clock | None = None) -> Prepared:
    """Scan the data, choose among several backbones, decode the images and split them.

    Raises DataError for data that cannot be learned from, or with any problem if the job is strict.
    """
    clock, job = clock or Clock(), resolved.job
    with clock.timed("scan"):
        images = scan(
            job.data, group_by=job.group_by, columns=job.columns, class_names=job.class_names, strict=job.strict
        )
        if job.from_run is not None and (depth := depth_of_run(job.from_run)) is not None:
            images = at_depth(images, depth)
    check_column(images, job.fair_to)
    if job.max_error is not None:  # before training, not after it
        check_no_class_is_unsure(images.class_names)
    if job.known is not None:
        check_no_class_is_none(images.class_names)
    _use_devices()
    cache = Cache(job.cache_gb)
    (backbone, *others), decisions = resolved.backbones, resolved.decisions
    with clock.timed("decode"):
        dataset = decode_images(images, resolved.image_size or backbone.size, job.fit, cache)
    with clock.timed("split"):
        seen = Lineage(frozenset()) if job.from_run is None else lineage(job.from_run)
        drawn = hold_out(dataset, resolved, seen)  # before backbones are compared, which takes no test images
    if others:
        with clock.timed("compare"):
            asked = dataclasses.replace(job, image_size=resolved.image_size)
            backbone, decision = compare_backbones(resolved.backbones, drawn.dataset.images, asked, cache)
            decisions = (*decisions, decision)
        with clock.timed("decode"):
            dataset = decode_images(drawn.dataset.images, resolved.image_size or backbone.size, job.fit, cache)
            drawn = dataclasses.replace(drawn, dataset=dataset, pairs=None)
    with clock.timed("split"):
        given = dataset.count("validation") > 0
        pairs = dataset.near_duplicates() if given or drawn.pairs is None else drawn.pairs
        parts = drawn.dataset.split(
            validation=job.validation if job.folds is None else 1 / job.folds,
            seed=job.seed,
            strict=job.strict,
            pairs=pairs,
            trained_on=seen.trained_on,
            test_drawn=drawn.share > 0,
        )
    if job.from_run is None and backbone.learn is not None and job.weights == "imagenet":
        with clock.timed("learn"):
            backbone, decision = _learned(backbone, parts, job)
            decisions = (*decisions, decision)
    before = (*class_decisions(parts.images), *decisions, *label_decisions(parts))
    decisions = (*before, *split_decisions(dataset, parts, pairs, seen, job, drawn))
    return Prepared(job, parts, backbone, resolved.recipe, resolved.augmentation, decisions)


def _learned(backbone: Backbone, dataset: Dataset, job: Job) -> tuple[Backbone, Decision]:
    """The backbone with weights learned from the training images alone, and what the plan says about them."""
    log.info(f"learning  the weights of {backbone.name} from {counted(dataset.count('train'), 'training image')}")
    learned = learn_weights(backbone, dataset.part("train"), weights=job.weights, seed=job.seed)
    assert learned.weights is not None
    why = (
        f"from {learned.weights.learned_from} without their labels, and from no validation or test image. An accuracy "
        "by folds is in part of images that the weights were learned from, so it may be a little too high"
    )
    evidence = {"images": dataset.count("train"), "seed": job.seed, "sha256": learned.weights.digest}
    return learned, Decision("weights", "learned", why, evidence)
