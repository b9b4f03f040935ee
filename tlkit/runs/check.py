"""Checks a run on images without labels: how accurate it probably is there, whether they differ, and in what."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from tlkit.cache import Cache
from tlkit.data.appearance import MEASURES, measure_appearance
from tlkit.data.dataset import Dataset, decode_images
from tlkit.data.examples import RowSource
from tlkit.data.images import LEFT_OUT, ImageSet
from tlkit.data.near import LIMIT, near_duplicates
from tlkit.data.rows import row_of
from tlkit.data.sources.item import _Found
from tlkit.data.unlabelled import UnlabelledImages, scan_unlabelled
from tlkit.errors import DataError
from tlkit.evaluation.drift import DriftTest, drift_tests
from tlkit.evaluation.priors import estimate_priors
from tlkit.evaluation.unlabelled import Seen
from tlkit.notebook import card, lines
from tlkit.plan.in_memory import InMemory
from tlkit.runs.basis import Basis, Power, basis_of, sample_of
from tlkit.runs.folder import Run, open_run
from tlkit.runs.lineage import lineage
from tlkit.runs.reading import decoded, load_known, own_part
from tlkit.stats import wilson_interval
from tlkit.words import counted, shown

MEASURED_SIZES = 300  # held-out files at most whose headers are read for their size
UNSURE_WITHIN = 0.10  # half width of the interval above which an estimate is called rough
CHANGED = 0.5  # standard deviations by which a mean must differ to be named
WORDS = {
    "features": "what they show (features)",
    "classes": "which classes are predicted",
    "appearance": "how they look (brightness, sharpness, colour, ...)",
}


@dataclass(frozen=True)
class Accuracy:
    """An accuracy, estimated without labels, 0 to 1.

    value, low, high: with a 95 % interval. simple: other estimates by name, for comparison. held_out: the accuracy on
    the run's own held-out images, of which there are n. mean_error: of this estimate under synthetic shifts of a kind
    that it did not learn from; NaN if that could not be measured.
    """

    value: float
    low: float
    high: float
    simple: Mapping[str, float]
    held_out: float
    n: int
    mean_error: float


@dataclass(frozen=True)
class Change:
    """A measure of the images: its name, what it is, its mean among the held-out and among the new images.

    shift: the difference in standard deviations of the held-out images; None if these do not vary.
    """

    name: str
    about: str
    before: float
    now: float
    shift: float | None


@dataclass(frozen=True)
class ClassShare:
    """How often a class is predicted among the held-out and among the new images, and its estimated share there."""

    name: str
    before: float
    now: float
    estimated: float


@dataclass(frozen=True)
class Checked:
    """What a check found. `to_dict` gives it as JSON values, `sentences` in words.

    run, data: what was checked on what. n: how many images. problems: how many files were left out.
    accuracy: the estimate. truth: the accuracy by labels where the data had some, with its interval and their number.
    drift: the tests whether the images differ. power: how often these tests find harmful synthetic shifts.
    changes: how the images' looks and sizes differ. classes: which are predicted.
    known, near: new images that are training images by their bytes, and (new, training) pairs that are near duplicates;
    near is None where the training images are gone or too many. none_of_these: the share of images that show none of
    the classes; None where the run has no such test.
    lowest: the images of lowest confidence: path, prediction, confidence.
    """

    run: Path
    data: str
    n: int
    problems: int
    accuracy: Accuracy
    truth: tuple[float, float, float, int] | None
    drift: tuple[DriftTest, ...]
    power: Power
    changes: tuple[Change, ...]
    classes: tuple[ClassShare, ...]
    known: tuple[str, ...]
    near: tuple[tuple[str, str], ...] | None
    none_of_these: float | None
    lowest: tuple[tuple[str, str, float], ...]

    @property
    def drifted(self) -> bool:
        """Whether a test found that the images differ from the held-out ones."""
        return any(one.found for one in self.drift)

    def sentences(self) -> list[str]:
        """What was found, for a person to read."""
        found = self.accuracy
        told = [
            f"an estimated {found.value:.1%} of these {counted(self.n, 'image')} are predicted correctly (95 % "
            f"interval {found.low:.1%} to {found.high:.1%}); of {counted(found.n, 'held-out image')}, "
            f"{found.held_out:.1%} are"
        ]
        if found.high - found.value > UNSURE_WITHIN or found.value - found.low > UNSURE_WITHIN:
            told.append("this estimate is rough: label some of these images to know more")
        if self.truth is not None:
            value, low, high, n = self.truth
            told.append(
                f"by the labels that are there, {value:.1%} are predicted correctly (95 % interval {low:.1%} to "
                f"{high:.1%}, n = {n:,})"
            )
        differing = [WORDS[one.what] for one in self.drift if one.found]
        if differing:
            told.append(f"they differ from the held-out images in {' and '.join(differing)}")
        else:
            told.append("no difference from the held-out images was found, at 5 % false alarms for all tests together")
        if self.power.shifts:
            told.append(
                f"with {self.power.n:,} against {counted(self.power.n, 'image')}, these tests found "
                f"{self.power.found} of {counted(self.power.shifts, 'synthetic shift')} that cost 5 points of accuracy "
                "or more"
            )
        moved = [one for one in self.changes if one.shift is not None and abs(one.shift) >= CHANGED]
        if differing and moved:
            named = (f"{one.name} {'higher' if one.now > one.before else 'lower'}" for one in moved)
            told.append(f"what changed: {', '.join(named)}")
        if self.none_of_these is not None:
            told.append(f"an estimated {self.none_of_these:.1%} show none of the classes")
        if self.known:
            are = "is a training image" if len(self.known) == 1 else "are training images"
            told.append(f"{counted(len(self.known), 'image')} {are}, so accuracy on them says little")
        if self.near:
            told.append(f"{counted(len({new for new, _ in self.near}), 'image')} nearly equal training images")
        if self.near is None:
            told.append("near duplicates of training images were not looked for")
        return told

    def to_dict(self) -> dict[str, Any]:
        """The numbers, as JSON values."""
        found = self.accuracy
        return {
            "run": shown(self.run),
            "data": self.data,
            "n": self.n,
            "left_out": self.problems,
            "accuracy": found.value,
            "accuracy_95": [found.low, found.high],
            "other_estimates": dict(found.simple),
            "held_out": {"accuracy": found.held_out, "n": found.n},
            "mean_error": None if np.isnan(found.mean_error) else found.mean_error,
            "truth": None
            if self.truth is None
            else {"accuracy": self.truth[0], "accuracy_95": list(self.truth[1:3]), "n": self.truth[3]},
            "drifted": self.drifted,
            "drift": {one.what: {"p_value": one.p_value, "corrected": one.corrected} for one in self.drift},
            "power": {"found": self.power.found, "of": self.power.shifts, "n": self.power.n},
            "changes": {one.name: {"held_out": one.before, "new": one.now, "shift": one.shift} for one in self.changes},
            "classes": {
                one.name: {"held_out": one.before, "new": one.now, "estimated_share": one.estimated}
                for one in self.classes
            },
            "none_of_these": self.none_of_these,
            "training_images": list(self.known),
            "near_duplicates": None if self.near is None else [list(pair) for pair in self.near],
            "sentences": self.sentences(),
        }

    def _repr_html_(self) -> str:
        """Show in a notebook what was found."""
        return card(f"{self.run} on {self.data}", None, [lines(self.sentences())])


def check(
    run: Run | str | Path,
    data: str | Path | InMemory,
    *,
    columns: Mapping[str, str] | str | None = None,
    cache: Cache | None = None,
    seed: int = 0,
) -> Checked:
    """Check a run on images without labels: its probable accuracy there, and how they differ from its own.

    The accuracy is estimated from the features and probabilities of the images. How these tell it is learned from the
    run's held-out images, corrupted in many ways: see `tlkit.evaluation.unlabelled`. The estimate's interval is that of
    kinds of corruption that it did not learn from. It cannot see a shift that leaves features as they were.

    Args:
        run: A finished run; `open_run(folder, moved_to)` if its data was moved.
        data: A folder of images, with sub-folders or without; or any data that `tlkit.scan` takes. Labels are not used,
            except for `Checked.truth`.
        columns: As for `tlkit.scan`.
        cache: Where pixels and features are kept; default the user's. The shifts are learned from once for each run.
        seed: Of what is drawn at random.

    Raises:
        DataError: There are no images in the data, or the run's own images are gone or have changed.
        SpecError: The run has fewer than 4 held-out images.
    """
    run = run if isinstance(run, Run) else open_run(run)
    found = scan_unlabelled(data, run.plan.classes, columns=columns)
    basis = basis_of(run, cache, seed)
    return checked_on(basis, found, decoded_as(basis, found, cache), str(data), seed)


def decoded_as(basis: Basis, found: UnlabelledImages, cache: Cache | None = None) -> Dataset:
    """Decode unlabelled images as the run sees them. Raises DataError if none can be decoded."""
    plan = basis.run.plan
    images = dataclasses.replace(found.images, depth=plan.depth)
    dataset = decode_images(images, plan.image_size, plan.job.fit, cache)
    if not len(dataset):
        raise DataError(f"None of {counted(len(images), 'image')} in '{images.root}' can be decoded.")
    return dataset


def checked_on(basis: Basis, found: UnlabelledImages, dataset: Dataset, name: str, seed: int = 0) -> Checked:
    """Check images that are decoded already. name: of the data."""
    run, examples, classes = basis.run, dataset.examples(), basis.run.plan.classes
    seen = basis.network.see(examples)
    measures = measure_appearance(examples.pixels)
    tests = drift_tests(basis.sample, sample_of(seen, measures), seed=seed)
    known, near = _duplicates(run, dataset)
    lowest = np.argsort(seen.confidence, kind="stable")[:12]
    paths = list(dataset.images.table["path"])
    left_out = dataset.images.problems[dataset.images.problems["action"] == LEFT_OUT]
    return Checked(
        run.folder,
        name,
        len(seen),
        len(left_out),
        estimated(basis, seen),
        _truth(seen, found.class_numbers(dataset.images, classes)),
        tuple(tests),
        basis.power,
        (*_changes(basis.sample.measures, measures), *_sizes(basis, dataset.images)),
        _classes(basis, seen),
        known,
        near,
        _strangers(run, seen),
        tuple((paths[i], classes[seen.predicted[i]], float(seen.confidence[i])) for i in lowest),
    )


def estimated(basis: Basis, seen: Seen) -> Accuracy:
    """Estimate the accuracy on images from how the run's network sees them."""
    statistics = basis.statistician.statistics(seen)
    value, low, high = basis.model.interval(statistics, len(seen))
    simple = basis.statistician.simple_estimates(statistics)
    held_out, n = basis.statistician.accuracy, len(basis.reference)
    return Accuracy(value, low, high, simple, held_out, n, basis.model.mean_error)


def _strangers(run: Run, seen: Seen) -> float | None:
    """The share of images that show none of the classes; None for a run that cannot tell."""
    known = load_known(run)
    if known is None:
        return None
    return share_of_strangers(np.asarray(known.p_values(seen.features, seen.probabilities)))


def share_of_strangers(p_values: np.ndarray, level: float = 0.05) -> float:
    """Estimate the share of images that show none of the classes, 0 to 1.

    p_values: of each image, for being like the known ones, shape (n,). Of known images a share of `level` is below it.

    >>> round(share_of_strangers(np.array([0.01, 0.02, 0.5, 0.9])), 3)
    0.474
    """
    return float(np.clip(((p_values < level).mean() - level) / (1 - level), 0, 1))


def _truth(seen: Seen, labels: np.ndarray) -> tuple[float, float, float, int] | None:
    """The accuracy of the images whose class is known, its interval and their number. None if there are none."""
    there = labels >= 0
    if not there.any():
        return None
    correct = seen.predicted[there] == labels[there]
    return (float(correct.mean()), *wilson_interval(int(correct.sum()), len(correct)), len(correct))


def _changes(before: np.ndarray, now: np.ndarray) -> list[Change]:
    """The means of measures, columns as in MEASURES."""
    changes = []
    for i, (name, about) in enumerate(MEASURES.items()):
        spread = float(before[:, i].std())
        difference = float(now[:, i].mean() - before[:, i].mean())
        shift = difference / spread if spread > 0 else None
        changes.append(Change(name, about, float(before[:, i].mean()), float(now[:, i].mean()), shift))
    return changes


def _sizes(basis: Basis, images: ImageSet) -> list[Change]:
    """The widths and heights of the files. Those of held-out files are read from their headers."""
    own = basis.held_out.images
    drawn = np.random.default_rng(0).permutation(len(own))[:MEASURED_SIZES]
    rows = [row_of(own.root, _Found(path, ""), []) for path in own.table["path"].iloc[drawn]]
    before = np.array([[row["width"], row["height"]] for row in rows if row is not None], float).reshape(-1, 2)
    now = images.table[["width", "height"]].to_numpy(float)
    changes = []
    for i, name in enumerate(("width", "height")):
        spread = float(before[:, i].std()) if len(before) else 0.0
        mean = float(before[:, i].mean()) if len(before) else float("nan")
        difference = float(now[:, i].mean()) - mean
        shift = difference / spread if spread > 0 else None
        changes.append(Change(name, "pixels of the files", mean, float(now[:, i].mean()), shift))
    return changes


def _classes(basis: Basis, seen: Seen) -> tuple[ClassShare, ...]:
    names = basis.run.plan.classes
    before, now = (np.bincount(one.predicted, minlength=len(names)) / len(one) for one in (basis.reference, seen))
    shares = estimate_priors(seen.probabilities, training_shares(basis.run)).shares
    return tuple(map(ClassShare, names, before.tolist(), now.tolist(), shares.tolist()))


def training_shares(run: Run) -> np.ndarray:
    """The share of each class among a run's training images, each a little above 0: shape (classes,)."""
    table = run.read_table("split.csv")
    counts = table.loc[table["split"] == "train", "label"].value_counts()
    found = np.array([counts.get(name, 0) for name in run.plan.classes], float) + 0.5
    return found / found.sum()


def _duplicates(run: Run, dataset: Dataset) -> tuple[tuple[str, ...], tuple[tuple[str, str], ...] | None]:
    """New images that the run was trained on, and pairs (new, training) that nearly equal each other."""
    table = dataset.images.table
    same = table["sha256"].isin(lineage(run, served=True).trained_on)
    known = tuple(table.loc[same, "path"])
    try:
        training = decoded(run, own_part(run, "train"), dataset.cache)
    except DataError:
        return known, None
    new = dataset.take(np.flatnonzero(~same).tolist())
    if len(new) + len(training) > LIMIT or new.pixels.streamed or training.pixels.streamed:
        return known, None
    pairs = (
        near_duplicates(_Joined(new.examples().pixels, training.examples().pixels)) if len(new) else np.zeros((0, 2))
    )
    across = [(i, j - len(new)) for i, j in pairs.astype("int64").tolist() if i < len(new) <= j]
    names = [list(one.images.table["path"]) for one in (new, training)]
    return known, tuple((names[0][i], names[1][j]) for i, j in across)


@dataclass(frozen=True)
class _Joined:
    """The rows of two sources, one after the other."""

    first: RowSource
    second: RowSource

    def __len__(self) -> int:
        return len(self.first) + len(self.second)

    @property
    def row_shape(self) -> tuple[int, ...]:
        return self.first.row_shape

    def gather(self, indices: Any) -> np.ndarray:
        rows, n = np.arange(len(self))[indices], len(self.first)
        found = np.zeros((len(rows), *self.row_shape), "uint8")
        found[rows < n] = self.first.gather(rows[rows < n])
        found[rows >= n] = self.second.gather(rows[rows >= n] - n)
        return found

    def take(self, indices: Any) -> Any:
        raise NotImplementedError
