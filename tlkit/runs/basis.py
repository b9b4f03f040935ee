"""What a run knows of its held-out images, against which images without labels are judged.

The held-out images are also corrupted in many ways, once for each run, to learn what corruption does to its accuracy.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import keras
import numpy as np

from tlkit.cache import Cache, Wanted, in_memory, open_writers
from tlkit.data.appearance import measure_appearance
from tlkit.data.examples import Examples, RowSource
from tlkit.data.shifts import Shift, all_shifts
from tlkit.errors import SpecError
from tlkit.evaluation.drift import Sample, drift_tests
from tlkit.evaluation.unlabelled import STATISTICS, AccuracyModel, Committee, Seen, Statistician, Taught
from tlkit.features.extract import extract_features, per_output, prefix_key
from tlkit.models.blocks import _pooled
from tlkit.models.head import FEATURES
from tlkit.models.inference import frozen_call, inference_batch, multiplications
from tlkit.progress import bar, log
from tlkit.runs.folder import Run
from tlkit.runs.reading import BATCH, decoded, load_judged, load_model, own_part
from tlkit.words import counted

if TYPE_CHECKING:
    from tlkit.data.dataset import Dataset

VERSION = 2  # increase it when what is kept of a shift changes
TRAINING = 600  # training images at most to which the committee is fitted
SHIFTED = 150  # held-out images at most that are shifted
PASSES = (800, 10_000)  # images through the network for all shifts, of slow and of fast networks
WORK = 1e12  # multiplications for all shifts, between these
FEWEST = 4  # held-out images
FEWEST_SHIFTS = 21  # unchanged images, and each corruption at two strengths
PERMUTATIONS = 199  # of the drift tests that measure their power
HARM = 0.05  # fall of accuracy from which a shift should be found


class Network:
    """A classifier, cut where its head begins, so that features are computed once and cached."""

    def __init__(self, model: keras.Model) -> None:
        self.model = model
        self.outputs = [model.output]  # the features, and then the probabilities
        self.prefix: keras.Model | None = None
        self._head: Any = None
        if any(layer.name == FEATURES for layer in model.layers):
            end = list(_pooled(model))
            self.outputs = [*end, model.output]
            self.prefix = keras.Model(model.input, end, name="prefix")
            self._head = frozen_call(keras.Model(end, model.output, name="suffix"), BATCH)
        self._whole: Any = None

    def see(self, examples: Examples, *, fast: bool = False) -> Seen:
        """The features and probabilities of examples, from the cache where they are there.

        fast: as in `extract_features`, for training images only.
        """
        batch = inference_batch(BATCH)
        features = None
        if self.prefix is not None:
            features = extract_features(self.prefix, examples, batch_size=batch, fast=fast)
        if features is None:
            return self.see_pixels(examples.pixels)
        return self._seen(per_output(features))

    def see_pixels(self, images: RowSource | np.ndarray) -> Seen:
        """The same for uint8 images, without a cache."""
        pixels = in_memory(images) if isinstance(images, np.ndarray) else images
        if self._whole is None:
            self._whole = frozen_call(self.prefix or self.model, BATCH)
        starts = range(0, len(pixels), BATCH)
        chunks = [self._whole(pixels.gather(np.arange(at, min(at + BATCH, len(pixels))))) for at in starts]
        outputs = [np.concatenate(one).astype("float32") for one in zip(*chunks, strict=True)]
        return self.seen_from(outputs) if self.prefix is None else self._seen(outputs)

    def seen_from(self, outputs: Sequence[np.ndarray]) -> Seen:
        """The same from arrays for `outputs`. Of several networks in one there are no common features."""
        *features, probabilities = outputs
        if not features:
            return Seen(np.log(np.maximum(probabilities, 1e-7)), probabilities)
        return Seen(np.concatenate([one.reshape(len(one), -1) for one in features], axis=1), probabilities)

    def _seen(self, outputs: list[np.ndarray]) -> Seen:
        starts = range(0, len(outputs[0]), BATCH)
        rows = [self._head([one[start : start + BATCH] for one in outputs])[0] for start in starts]
        return self.seen_from([*outputs, np.concatenate(rows)])


@dataclass(frozen=True)
class Basis:
    """What new images are compared with.

    run: the run. network: the classifier that is asked. judge: the one that the held-out images may judge; the same,
    unless the run was trained on them at the end. held_out: these images, decoded. split: their split. reference: as
    the judge sees them. sample: for the drift tests. taught: what shifts do to the judge. unchanged: as in
    `AccuracyModel`. power: of the drift tests.
    """

    run: Run
    network: Network
    judge: Network
    held_out: Dataset
    split: str
    reference: Seen
    sample: Sample
    statistician: Statistician
    taught: Taught
    unchanged: tuple[float, float]
    model: AccuracyModel
    power: Power

    @property
    def labels(self) -> np.ndarray:
        return self.held_out.examples().labels


@dataclass(frozen=True)
class Power:
    """How often the drift tests found a synthetic shift that costs 5 points of accuracy or more.

    found, shifts: of so many shifts. n: images on each side of each test.
    """

    found: int
    shifts: int
    n: int


def sample_of(seen: Seen, measures: np.ndarray) -> Sample:
    """Images for the drift tests. measures: of `measure_appearance`."""
    return Sample(seen.features, seen.predicted, measures)


def basis_of(run: Run, cache: Cache | None = None, seed: int = 0) -> Basis:
    """Read a run's held-out images, and learn from shifts of them; what was learned before is in the cache.

    Raises:
        SpecError: The run has fewer than 4 held-out images.
        DataError: Its images are gone or have changed.
    """
    split, held_out = _held_out(run, cache)
    delivered = Network(load_model(run))
    judge = Network(load_judged(run)) if run.refitted else delivered
    # features of a network that was trained on the held-out images cannot be compared with theirs
    network = judge if run.judged_file.is_file() else delivered
    examples = held_out.examples()
    reference = judge.see(examples)
    committee = Committee(*_training(run, judge, cache), len(run.plan.classes), seed)
    statistician = Statistician(reference, examples.labels, committee)
    taught, p_values = _taught(judge, examples, statistician, seed)
    unchanged = _unchanged(run, split, statistician.accuracy)
    model = AccuracyModel(taught, len(run.plan.classes), unchanged=unchanged).calibrated()
    harmful = taught.accuracy <= taught.accuracy[0] - HARM
    power = Power(int((p_values[harmful] <= 1 / 20).sum()), int(harmful.sum()), taught.n // 2)
    sample = sample_of(reference, measure_appearance(examples.pixels))
    about = (run, network, judge, held_out, split, reference, sample, statistician)
    return Basis(*about, taught, unchanged, model, power)


def _unchanged(run: Run, split: str, accuracy: float) -> tuple[float, float]:
    """The accuracy on the held-out images, and on these and the training images that were predicted out of fold."""
    table = run.read_table("predictions.csv")
    table = table[table["split"].isin(("train", split))]
    return accuracy, float((table["label"] == table["prediction"]).mean()) if len(table) else accuracy


def _held_out(run: Run, cache: Cache | None) -> tuple[str, Dataset]:
    most = 0
    for split in ("validation", "test"):
        if split in run.learned_from and split != "validation":
            continue
        images = own_part(run, split)
        if len(images) >= FEWEST:
            return split, decoded(run, images, cache)
        most = max(most, len(images))
    raise SpecError(
        f"The run '{run.folder}' has {counted(most, 'held-out image')}. Expected a run with {FEWEST} or more in its "
        "validation split, against which new images can be judged."
    )


def _training(run: Run, judge: Network, cache: Cache | None) -> tuple[np.ndarray, np.ndarray]:
    """Features and labels of training images, drawn at random if there are many."""
    images = own_part(run, "train")
    drawn = np.sort(np.random.default_rng(0).permutation(len(images))[:TRAINING])
    examples = decoded(run, images.take(drawn.tolist()), cache).examples()
    return judge.see(examples, fast=True).features, examples.labels


def _taught(judge: Network, examples: Examples, statistician: Statistician, seed: int) -> tuple[Taught, np.ndarray]:
    """What each shift does to the held-out images, and the p-value by which the drift tests find it."""
    # the layers of an ensemble's members are not counted, so it is taken to be slow
    work = multiplications(judge.model) if judge.prefix is not None else WORK
    passes = int(np.clip(WORK / max(work, 1.0), *PASSES))
    count = min(len(examples), SHIFTED, max(1, passes // FEWEST_SHIFTS))
    shifts = all_shifts()[: max(FEWEST_SHIFTS, passes // count)]
    drawn = np.sort(np.random.default_rng(seed).permutation(len(examples))[:count])
    chosen = examples.take(drawn)
    about = [VERSION, prefix_key(judge.model), count, seed, examples.made_by, statistician.accuracy, *chosen.keys]
    folder = hashlib.sha256("\n".join(map(str, about)).encode()).hexdigest()[:24]
    store = examples.cache.store(examples.cache.at("features", f"{folder}-shifts"))
    names = [one.name for one in shifts]
    missing = [one for one, known in zip(shifts, store.known(names), strict=True) if not known]
    if not missing:
        rows = store.rows(names, lambda indices: _rows(judge, chosen, [shifts[i] for i in indices], statistician, seed))
        found = rows.gather(slice(None))
    else:
        log.info(
            f"learning from {counted(len(shifts), 'synthetic shift')} of {counted(count, 'held-out image')}, "
            "once for this run"
        )
        found = _rows(judge, chosen, shifts, statistician, seed)
        wanted = Wanted(store, len(shifts), found.shape[1:], "float64", "accuracy of a run under synthetic shifts")
        for writer in open_writers(examples.cache, [wanted]) or []:
            with writer:
                writer.add(names, found)
    k = len(STATISTICS)
    return Taught(found[:, :k], found[:, k], [one.kinds for one in shifts], count), found[:, k + 1]


def _rows(
    judge: Network, examples: Examples, shifts: Sequence[Shift], statistician: Statistician, seed: int
) -> np.ndarray:
    """For each shift its STATISTICS, the accuracy and the smallest p-value: float64, shape (shifts, 12)."""
    pixels, rows = examples.pixels.gather(slice(None)), []
    plain = sample_of(judge.see_pixels(pixels), measure_appearance(examples.pixels))
    half = np.arange(len(examples)) % 2 == 0
    with bar(len(shifts), "shift") as update:
        for done, shift in enumerate(shifts, start=1):
            images = shift.apply(pixels, seed)
            seen = judge.see_pixels(images)
            accuracy = float((seen.predicted == examples.labels).mean())
            new = sample_of(seen, _measures(images))
            tests = drift_tests(plain.take(half), new.take(~half), seed=seed, permutations=PERMUTATIONS)
            rows.append([*statistician.statistics(seen), accuracy, min(one.corrected for one in tests)])
            update(done)
    return np.array(rows, "float64")


def _measures(images: np.ndarray) -> np.ndarray:
    return measure_appearance(in_memory(images))
