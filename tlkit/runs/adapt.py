"""Adapts a run to the images of a new site without labels, where that probably helps, as a run of its own.

Two things are adapted: the statistics of BatchNormalization layers, and how common each class is. Both can do harm, so
both are held back unless the images differ from the run's own and the estimate of the accuracy says that it rises.
"""

from __future__ import annotations

import dataclasses
import functools
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import keras
import numpy as np

from tlkit.cache import Cache
from tlkit.data.appearance import measure_appearance
from tlkit.data.dataset import Dataset
from tlkit.data.examples import Examples, RowSource
from tlkit.data.unlabelled import scan_unlabelled
from tlkit.deployment.parity import FreshProcess, prove_parity
from tlkit.deployment.saved_model import export
from tlkit.errors import DataError, SpecError
from tlkit.evaluation.calibration import bake_without_prior
from tlkit.evaluation.drift import DriftTest, any_found, drift_tests
from tlkit.evaluation.predict import own_probabilities, predict_probabilities
from tlkit.evaluation.priors import Priors, estimate_priors
from tlkit.evaluation.scores import evaluate, prediction_table
from tlkit.evaluation.unlabelled import Seen
from tlkit.folders import KNOWN, removed_unless_proved
from tlkit.models.adapt import MOST, Moments, adapt_statistics, batch_norms_of, reference_moments
from tlkit.models.files import save_model
from tlkit.plan.decision import Decision
from tlkit.plan.in_memory import InMemory
from tlkit.runs.basis import Basis, Network, basis_of, sample_of
from tlkit.runs.check import Accuracy, decoded_as, estimated, training_shares
from tlkit.runs.folder import Run, check_out, finish_run, open_run, start_run
from tlkit.runs.reading import BATCH, decoded, load_judged, load_model, own_part, parity_sample
from tlkit.words import counted

FEWEST = 16  # images from which statistics are taken
LEAST_GAIN = 0.02  # of the estimated accuracy: less is not told from the estimate's own error


@dataclass(frozen=True)
class Adaptation:
    """What was adapted, and why.

    statistics: how many BatchNormalization layers were adapted; 0 if they were held back. priors: the shares of the
    classes that the head was adapted to; None if it was held back. before, after: the estimated accuracy on the new
    images; after is that with the adapted statistics, also where they were held back. drift: the tests whether the
    images differ. n: how many new images. why: the reasons, as sentences.
    """

    statistics: int
    priors: tuple[float, ...] | None
    before: Accuracy
    after: Accuracy | None
    drift: tuple[DriftTest, ...]
    n: int
    why: tuple[str, ...]

    @property
    def helps(self) -> bool:
        """Whether anything was adapted."""
        return bool(self.statistics) or self.priors is not None

    def to_dict(self) -> dict[str, Any]:
        """The numbers, as JSON values."""
        return {
            "adapted": self.helps,
            "layers": self.statistics,
            "shares": None if self.priors is None else list(self.priors),
            "estimate_before": self.before.value,
            "estimate_after": None if self.after is None else self.after.value,
            "drift": {one.what: one.corrected for one in self.drift},
            "n": self.n,
            "why": list(self.why),
        }


def adapt(
    run: Run | str | Path,
    data: str | Path | InMemory,
    out: str | Path,
    *,
    columns: Mapping[str, str] | str | None = None,
    force: bool = False,
    cache: Cache | None = None,
    seed: int = 0,
) -> tuple[Run | None, Adaptation]:
    """Adapt a run to images without labels, and write it as a run of its own if that probably helps.

    Args:
        run: A finished run of a network with BatchNormalization; `open_run(folder, moved_to)` if its data was moved.
        data: As for `tlkit.check`: images as the new site sends them, of all its classes.
        out: The new run's folder. It is not made where the adaptation is held back.
        columns: As for `tlkit.scan`.
        force: Replace an earlier run in `out` when the new one is finished.
        cache: As for `tlkit.check`.
        seed: As there.

    Returns:
        The new run, or None where nothing was adapted, and why. The scores in its metrics.json are those on the old
        site's held-out images, because no others have labels.

    Raises:
        DataError: There are fewer than 16 images.
        SpecError: The run is an ensemble, or has fewer than 4 held-out images.
    """
    run, out = run if isinstance(run, Run) else open_run(run), Path(out)
    if run.plan.ensemble_of:
        raise SpecError(f"'{run.folder}' is an ensemble. Adapt its members, and average these.")
    check_out(out, force, run.plan.job.data)
    if out.resolve() == run.folder.resolve():
        raise SpecError(f"'{out}' is the run that is to be adapted. Give another folder for the adapted one.")
    started = time.monotonic()
    basis = basis_of(run, cache, seed)
    dataset = decoded_as(basis, scan_unlabelled(data, run.plan.classes, columns=columns), cache)
    model, found = adapted(basis, dataset.examples(), seed=seed)
    if not found.helps:
        return None, found
    return _written(basis, dataset, model, found, (out, force, str(data), started)), found


def adapted(
    basis: Basis,
    examples: Examples,
    *,
    model: keras.Model | None = None,
    moments: Mapping[str, Moments] | None = None,
    seed: int = 0,
) -> tuple[keras.Model, Adaptation]:
    """Adapt a run's classifier to decoded images, in memory.

    Args:
        examples: Their labels are not used.
        model: The classifier, which is changed in place; by default it is loaded.
        moments: Of `moments_of`, if they were measured already.

    Returns:
        The classifier, which is the run's own if nothing was adapted, and what was adapted.

    Raises:
        DataError: There are fewer than 16 images.
    """
    if len(examples) < FEWEST:
        raise DataError(
            f"{counted(len(examples), 'image')} cannot be adapted to: statistics from so few are chance. Expected "
            f"{FEWEST} or more, better 64."
        )
    seen = basis.network.see(examples)
    measures = measure_appearance(examples.pixels)
    drift = tuple(drift_tests(basis.sample, sample_of(seen, measures), seed=seed))
    before = estimated(basis, seen)
    model = model or (load_model(basis.run) if basis.network is not basis.judge else load_judged(basis.run))
    if not any_found(drift):
        why = "the images do not differ from the held-out ones as far as the tests can tell, so nothing is adapted"
        return model, Adaptation(0, None, before, None, drift, len(seen), (why,))
    layers, after, why, seen = _statistics(basis, (model, moments), examples.pixels, seen, before)
    priors, reason = _priors(basis, seen, measures, seed)
    if priors is not None:
        bake_without_prior(model, training_shares(basis.run) / priors.shares)
    shares = None if priors is None else tuple(priors.shares.tolist())
    return model, Adaptation(layers, shares, before, after, drift, len(seen), (why, reason))


def _statistics(
    basis: Basis,
    model_and_moments: tuple[keras.Model, Mapping[str, Moments] | None],
    pixels: RowSource,
    seen: Seen,
    before: Accuracy,
) -> tuple[int, Accuracy | None, str, Seen]:
    """Adapt BatchNormalization, in place, and undo it unless the estimated accuracy rises."""
    model, moments = model_and_moments
    if not batch_norms_of(model):
        return 0, None, "the network has no BatchNormalization layer, so there are no statistics to adapt", seen
    weights, network = model.get_weights(), Network(model)
    drawn = np.sort(np.random.default_rng(0).permutation(len(pixels))[:MOST])
    whole = keras.Model(model.input, network.outputs)
    outputs = adapt_statistics(whole, moments or moments_of(basis, model), pixels.gather(drawn))
    layers = len(batch_norms_of(model))
    # the others, if there are more than the statistics are taken from, run through the adapted network now
    now = network.seen_from(outputs) if len(drawn) == len(pixels) else network.see_pixels(pixels)
    after = estimated(basis, now)
    change = f"the estimated accuracy goes from {before.value:.1%} to {after.value:.1%}"
    if after.value < before.value + LEAST_GAIN:
        model.set_weights(weights)
        return 0, after, f"the statistics are not adapted: {change}", seen
    return layers, after, f"the statistics of {counted(layers, 'layer')} are adapted: {change}", now


def _drawn(pixels: RowSource) -> np.ndarray:
    """The images whose statistics are taken, drawn at random if there are many."""
    return pixels.gather(np.sort(np.random.default_rng(0).permutation(len(pixels))[:MOST]))


def moments_of(basis: Basis, model: keras.Model) -> dict[str, Moments]:
    """What enters each BatchNormalization layer for images of the run's training split, drawn at random."""
    images = own_part(basis.run, "train")
    drawn = np.sort(np.random.default_rng(1).permutation(len(images))[:MOST])
    examples = decoded(basis.run, images.take(drawn.tolist()), basis.held_out.cache).examples()
    return reference_moments(model, examples.pixels.gather(slice(None)))


def _priors(basis: Basis, seen: Seen, measures: np.ndarray, seed: int) -> tuple[Priors | None, str]:
    """The shares of the classes, if a change of these alone explains how the new images differ."""
    source = training_shares(basis.run)
    found = estimate_priors(seen.probabilities, source)
    if not found.changed:
        return None, "the classes are as common as before, as far as their probabilities tell"
    labels = basis.labels
    weights = (found.shares / source)[labels]
    kept = np.random.default_rng(seed).random(len(labels)) < weights / weights.max()
    if kept.sum() < FEWEST:
        return None, "the classes seem to be differently common, but too few held-out images are left to prove it"
    test = drift_tests(basis.sample.take(np.flatnonzero(kept)), sample_of(seen, measures), seed=seed)[0]
    if test.found:
        return None, "the head is not adapted to other shares of the classes: these do not explain the difference"
    return found, "the head is adapted to other shares of the classes, which explain the difference"


def _written(
    basis: Basis, dataset: Dataset, model: keras.Model, found: Adaptation, to: tuple[Path, bool, str, float]
) -> Run:
    """Write the adapted classifier as a run, with its scores, its export and the proof of that."""
    out, force, name, started = to
    parent, plan = basis.run, basis.run.plan
    run = start_run(out, force)
    run.write_plan(_plan(parent, found, name))
    for table in ("split.csv", "problems.csv"):
        run.write_table(table, parent.read_csv(table))
    save_model(model, run.model_file)
    judge = model
    if parent.refitted:
        judge = load_judged(parent)
        if found.statistics:
            adapt_statistics(judge, moments_of(basis, judge), _drawn(dataset.examples().pixels))
        if found.priors is not None:
            bake_without_prior(judge, training_shares(parent) / np.array(found.priors))
        save_model(judge, run.judged_file)
    images = basis.held_out.images
    examples = basis.held_out.examples()
    with FreshProcess() as fresh:
        probabilities = predict_probabilities(judge, examples.pixels, batch_size=BATCH)
        table = prediction_table(list(images.table["path"]), probabilities, plan.classes)
        table.insert(1, "split", basis.split)
        table.insert(2, "label", list(images.table["label"]))
        run.write_table("predictions.csv", table)
        export(model, plan.classes, run.saved_model, fit=plan.job.fit, depth=plan.depth)
        chosen = dataset.take(parity_sample(len(dataset)))
        pixels = chosen.examples().pixels
        answers = predict_probabilities(model, pixels, batch_size=BATCH)
        own = functools.partial(own_probabilities, model, pixels)
        with removed_unless_proved(run.saved_model):
            files = chosen.images.files()
            parity = prove_parity(run.saved_model, files, answers, plan.classes, fresh, own)
    scores = evaluate(probabilities, examples.labels, plan.classes, examples.groups)
    notes = [f"adapted to {counted(found.n, 'image')} of '{name}' without labels; {one}" for one in found.why]
    notes += _not_kept(parent)
    metrics: dict[str, Any] = {
        basis.split: scores,
        "parity": parity,
        "refit": parent.metrics["refit"],
        "seconds": {"total": round(time.monotonic() - started, 2)},
        "images_decoded": dataset.pixels.decoded,
        "images_computed": len(dataset),
        "notes": notes,
    }
    run.write_metrics(metrics)
    return finish_run(run, out)


def _not_kept(parent: Run) -> list[str]:
    """What was found on the old site's images, and so is no part of the adapted run, as notes."""
    notes = []
    if parent.metrics["refusal"]:
        notes.append("the threshold below which the run was unsure is not kept: it was found on the old site's images")
    if (parent.folder / KNOWN).is_file():
        notes.append("`known` and prediction sets are not kept: they hold for images like those of the old site only")
    return notes


def _plan(parent: Run, found: Adaptation, name: str) -> Any:
    """The parent's plan with the decision to adapt it, and the parent as the run that it starts from."""
    plan = parent.plan
    evidence = {
        "adapted_from": str(parent.folder.absolute()),
        "images": found.n,
        "data": name,
        "layers": found.statistics,
        "shares": None if found.priors is None else dict(zip(plan.classes, found.priors, strict=True)),
        "estimate_before": found.before.value,
        "estimate_after": None if found.after is None else found.after.value,
        "drift": {one.what: one.corrected for one in found.drift},
    }
    choice = "BatchNormalization statistics" if found.statistics else "shares of the classes"
    decision = Decision("adapt", choice, "; ".join(found.why), evidence)
    job = plan.job
    if parent.moved_to is not None:
        moved = parent.moved_to
        job = dataclasses.replace(job, data=moved.absolute() if isinstance(moved, Path) else moved)
    return dataclasses.replace(plan, job=job, decisions=(*plan.decisions, decision))
