"""On which kinds of image a run fails: by the columns of its table, and in hidden slices that no column names."""

from __future__ import annotations

import warnings
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from PIL import Image

from tlkit.data.appearance import MEASURES as APPEARANCE
from tlkit.data.appearance import measure_appearance
from tlkit.errors import DataError, SpecError, unknown
from tlkit.evaluation.slices import ALPHA, MOST, HiddenSlice, SliceRow, hidden_slices, slice_rows, standing_out
from tlkit.notebook import card, lines, rows
from tlkit.runs.features import pooled_features
from tlkit.runs.folder import Run, open_run
from tlkit.runs.reading import decoded, groups_of, load_judged, own_part
from tlkit.words import counted, shown

if TYPE_CHECKING:
    from pathlib import Path

    import keras

    from tlkit.data.dataset import Dataset

MOST_VALUES = 20  # of a column that is looked at without being asked for
OWN = ("path", "label", "split", "sha256")  # columns of split.csv that are no slices
NO_VALUE = "(none)"
CLEAR = 0.75  # probability of superiority from which a measure is named
COMMON = 0.6  # share of a slice that a class, a prediction or a value has, to be named
TOLD = 3  # measures named of a slice
WORDS = {  # measure -> what it is called where it is low, and where it is high
    "brightness": ("darker", "brighter"),
    "contrast": ("of less contrast", "of more contrast"),
    "saturation": ("greyer", "more colourful"),
    "red": ("less red", "redder"),
    "blue": ("less blue", "bluer"),
    "sharpness": ("more blurred", "sharper"),
    "edges": ("smoother", "of more edges"),
    "noise": ("less noisy", "noisier"),
    "size": ("smaller as files", "larger as files"),
}


@dataclass(frozen=True)
class Hidden:
    """A hidden slice, described.

    Attributes:
        paths: Its images, the most typical first.
        n, errors, expected, p: As in `tlkit.evaluation.slices.HiddenSlice`.
        shared: What its images share, in words.
    """

    paths: tuple[str, ...]
    n: int
    errors: int
    expected: float
    p: float
    shared: str

    @property
    def beyond_chance(self) -> bool:
        return self.p < ALPHA

    def sentence(self) -> str:
        """The slice, for a person to read."""
        found = f"{self.errors:,} of {counted(self.n, 'image')} wrong, where {self.expected:.1f} were to be expected"
        chance = "" if self.beyond_chance else "; chance would often give one like it"
        return f"{found} (p = {self.p:.3f}{chance}): {self.shared}"


@dataclass(frozen=True)
class Slices:
    """How well a run predicts the slices of its images.

    Attributes:
        by_column: The rows by the values of columns, those that are worse beyond chance first.
        comparisons: For how many comparisons their p-values are corrected.
        columns: Which columns were looked at.
        hidden: Hidden slices, the one that stands out most first; maybe none is beyond chance.
        n, accuracy: Of all images that were looked at, each predicted by a model that was not trained on it.
        notes: What could not be looked at, and why.
    """

    by_column: tuple[SliceRow, ...]
    comparisons: int
    columns: tuple[str, ...]
    hidden: tuple[Hidden, ...]
    n: int
    accuracy: float
    notes: tuple[str, ...] = ()

    @property
    def table(self) -> pd.DataFrame:
        """column, value, class ("" for all), images, accuracy, low, high, others, p (corrected), worse."""
        names = ["column", "value", "class", "images", "accuracy", "low", "high", "others", "p", "worse"]
        found = [
            (one.column, one.value, one.label, one.n, one.accuracy, one.low, one.high, one.others, one.p, one.worse)
            for one in self.by_column
        ]
        return pd.DataFrame(found, columns=names)

    def sentences(self) -> list[str]:
        """What was found, for a person to read: the slices that are worse beyond chance, or that there is none."""
        told = []
        worse = [one for one in self.by_column if one.worse]
        for one in worse:
            told.append(
                f"{named(one)}: {one.accuracy:.1%} of {counted(one.n, 'image')} are predicted correctly (95 % interval "
                f"{one.low:.1%} to {one.high:.1%}), and {one.others:.1%} of the others "
                f"(p = {one.p:.2g}, corrected for {counted(self.comparisons, 'comparison')})"
            )
        if self.columns and not worse:
            listed = ", ".join(f"'{one}'" for one in self.columns)
            compared = counted(self.comparisons, "comparison")
            told.append(f"no value of {listed} is worse than the others beyond chance ({compared})")
        clear = [one for one in self.hidden if one.beyond_chance]
        told += [f"hidden slice {number}: {one.sentence()}" for number, one in enumerate(clear, start=1)]
        if self.hidden and not clear:
            told.append("no hidden slice stands out beyond chance")
        return [*told, *self.notes]

    def to_dict(self) -> dict[str, Any]:
        """The numbers as JSON values."""
        return {
            "n": self.n,
            "accuracy": self.accuracy,
            "columns": list(self.columns),
            "comparisons": self.comparisons,
            "by_column": self.table.to_dict("records"),
            "hidden": [
                {"n": one.n, "errors": one.errors, "expected": round(one.expected, 2), "p": one.p, "shared": one.shared}
                | {"paths": list(one.paths)}
                for one in self.hidden
            ],
            "notes": list(self.notes),
        }

    def _repr_html_(self) -> str:
        """Show in a notebook what was found, and the rows."""
        cells = [
            (named(one), one.n, f"{one.accuracy:.1%}", f"{one.low:.1%} to {one.high:.1%}") for one in self.by_column
        ]
        parts = [lines(self.sentences()), rows(["slice", "images", "accuracy", "95 % interval"], cells)]
        return card(f"Slices of {counted(self.n, 'image')}, accuracy {self.accuracy:.1%}", None, parts)


def named(row: SliceRow) -> str:
    """A row in words: "site = B", or "site = B, of class cat"."""
    value = row.value if row.pooled else f"= {row.value}"
    return f"{row.column} {value}" + (f", of class {row.label}" if row.label else "")


def slices(run: Run | str | Path, columns: Sequence[str] | str | None = None, *, hidden: bool = True) -> Slices:
    """Find the slices of a run's images on which it is worse.

    Every image in predictions.csv counts: the run predicted it by a model that was not trained on it. Features come
    from the cache; those of a network that was fine-tuned are computed once.

    Args:
        run: A finished run; `open_run(folder, moved_to)` if its images were moved.
        columns: Columns of the table that the run was made from; as text, separated by commas. A column of numbers with
            more than 20 values is cut at its quartiles. None: every further column with 2 to 20 values, and "group" if
            it has as few.
        hidden: Whether hidden slices are looked for, which needs the images.

    Raises:
        NameUnknown: One of `columns` is no column of the run's split.csv.
    """
    run = run if isinstance(run, Run) else open_run(run)
    if not hidden:
        return measure_slices(run, columns)
    try:
        dataset = decoded(run, own_part(run, None))
    except DataError as error:
        return measure_slices(run, columns, notes=[f"hidden slices were not looked for: {error}"])
    return measure_slices(run, columns, load_judged(run), dataset)


def measure_slices(
    run: Run,
    columns: Sequence[str] | str | None = None,
    model: keras.Model | None = None,
    dataset: Dataset | None = None,
    *,
    compute: bool = True,
    notes: Sequence[str] = (),
) -> Slices:
    """Find the slices of a run that need not be finished, as `slices` does.

    Args:
        model, dataset: The classifier, and all images of the run as it sees them; without them no hidden slices are
            looked for.
        compute: Whether features that are not cached are computed. Otherwise hidden slices are not looked for if some
            are missing.
        notes: What is said beside what is found.
    """
    predictions = run.read_table("predictions.csv")
    split = run.read_table("split.csv").set_index("path")
    correct = (predictions["prediction"] == predictions["label"]).to_numpy()
    labels, groups = predictions["label"].to_numpy(str), groups_of(run, predictions["path"])
    grouped = groups if len(np.unique(groups)) < len(groups) else None
    chosen = {name: values.loc[predictions["path"]].tolist() for name, values in _columns(split, columns).items()}
    table, comparisons = slice_rows(chosen, correct, labels, grouped)
    found: tuple[Hidden, ...] = ()
    said = list(notes)
    if model is not None and dataset is not None:
        found, more = _hidden(model, dataset, predictions, grouped, chosen, compute)
        said += more
    if columns is None and not chosen:
        said.append("the run's table has no further column with 2 to 20 values, such as a site, a camera or a year")
    settings = (tuple(table), comparisons, tuple(chosen), found)
    return Slices(*settings, len(correct), float(correct.mean()), tuple(said))


def _columns(split: pd.DataFrame, asked: Sequence[str] | str | None) -> dict[str, pd.Series]:
    """The columns that are looked at, with the value of each image as text, by its path."""
    further = [name for name in split.columns if name not in OWN]
    if asked is None:
        few = [name for name in further if 2 <= split[name].nunique() <= MOST_VALUES]
        return {name: split[name].where(split[name] != "", NO_VALUE) for name in few}
    names = [one.strip() for one in asked.split(",")] if isinstance(asked, str) else list(asked)
    for name in names:
        if name not in further:
            if further:
                raise unknown("column", name, further, see="(`slices`)")
            raise DataError(
                f"There is no column '{name}': the run's data had no further columns. Expected a table with such a "
                "column."
            )
    return {name: pd.Series(_binned([str(one) for one in split[name]]), index=split.index) for name in names}


def _binned(values: list[str]) -> list[str]:
    """Values as they are, or by quartiles if they are numbers and many."""
    given = [one for one in values if one]
    if len(set(given)) > MOST_VALUES:
        try:
            numbers = np.array([float(one) for one in given])
        except ValueError:
            numbers = np.array([np.nan])
        if np.isfinite(numbers).all():
            edges = np.unique(np.quantile(numbers, [0, 0.25, 0.5, 0.75, 1]))
            place = {one: int(np.clip(np.searchsorted(edges, float(one), "left"), 1, len(edges) - 1)) for one in given}
            texts = {k: f"{'above ' if k > 1 else ''}{edges[k - 1]:g} to {edges[k]:g}" for k in range(1, len(edges))}
            return [texts[place[one]] if one else NO_VALUE for one in values]
    return [one or NO_VALUE for one in values]


# -- hidden slices -------------------------------------------------------------------------------------------


def _hidden(
    model: keras.Model,
    dataset: Dataset,
    predictions: pd.DataFrame,
    groups: np.ndarray | None,
    columns: Mapping[str, Sequence[str]],
    compute: bool,
) -> tuple[tuple[Hidden, ...], list[str]]:
    """The hidden slices, described, and what is to be said if they were not looked for."""
    place = {path: i for i, path in enumerate(dataset.images.table["path"])}
    kept = np.array([i for i, path in enumerate(predictions["path"]) if path in place], "int64")
    if len(kept) > MOST:
        kept = np.sort(np.random.default_rng(0).permutation(kept)[:MOST])
    some = predictions.iloc[kept].reset_index(drop=True)
    dataset = dataset.take([place[path] for path in some["path"]])
    try:
        can = compute or not dataset.pixels.streamed  # otherwise every image would be decoded again
        features = pooled_features(model, dataset, compute=compute) if can else None
    except SpecError as error:
        return (), [f"hidden slices were not looked for: {error}"]
    if features is None:
        return (), ["hidden slices were not looked for, because they need features that are not cached: `tlkit slices`"]
    measures = dict(zip(APPEARANCE, measure_appearance(dataset.examples().pixels).T, strict=True))
    sizes = _sizes(dataset)
    if sizes is not None:
        measures["size"] = sizes
    correct = (some["prediction"] == some["label"]).to_numpy()
    numbers = pd.factorize(some["label"])[0]
    found = hidden_slices(
        features, correct, numbers, groups=None if groups is None else groups[kept], measures=measures
    )
    facts = {name: np.asarray(values, str)[kept] for name, values in columns.items()}
    return tuple(_described(one, some, measures, facts) for one in found), []


def _sizes(dataset: Dataset) -> np.ndarray | None:
    """The side of a square with as many pixels as each file's image has; None if one is not known."""
    found = []
    for file in dataset.images.files():
        try:
            with warnings.catch_warnings(), file.open("rb") as stream, Image.open(stream) as image:
                warnings.simplefilter("ignore")
                found.append((image.width * image.height) ** 0.5)
        except (OSError, ValueError, Image.DecompressionBombError):
            return None
    return np.array(found)


def _described(
    one: HiddenSlice, predictions: pd.DataFrame, measures: Mapping[str, np.ndarray], facts: Mapping[str, np.ndarray]
) -> Hidden:
    """A hidden slice with what its images share."""
    inside = np.zeros(len(predictions), bool)
    inside[one.rows] = True
    mine = predictions.iloc[one.rows]
    wrong = mine[mine["prediction"] != mine["label"]]
    told = [*_commonest("labelled", mine["label"])]
    told += [f"the wrong ones {text}" for text in _commonest("predicted", wrong["prediction"])]
    for name, values in facts.items():
        (value, count), *_ = Counter(values[inside].tolist()).most_common(1)
        share, others = count / len(mine), float((values[~inside] == value).mean()) if not inside.all() else 1.0
        if share >= COMMON and share >= 2 * others:
            told.append(f"{share:.0%} with {name} = {value} ({others:.0%} of the others)")
    same = np.isin(predictions["label"].to_numpy(str), mine["label"].unique().astype(str))
    told += _looks(inside, same, measures, one.tail)
    shared = "; ".join(told) or "nothing that was measured sets its images apart"
    return Hidden(tuple(mine["path"]), len(mine), one.errors, one.expected, one.p, shared)


def _commonest(verb: str, values: pd.Series) -> list[str]:
    """ "all labelled 'cat'", or "80 % labelled 'cat'", if one value is that common."""
    if not len(values):
        return []
    (value, count), *_ = Counter(values.tolist()).most_common(1)
    share = count / len(values)
    if share < COMMON:
        return []
    return [f"{'all' if share == 1 else f'{share:.0%}'} {verb} '{shown(value)}'"]


def _looks(
    inside: np.ndarray, same: np.ndarray, measures: Mapping[str, np.ndarray], tail: tuple[str, str] | None
) -> list[str]:
    """The measures in which a slice differs most from other images of its classes."""
    if not (same & ~inside).any():
        return []
    clear = []
    for name, values in measures.items():
        above = standing_out(values[same], inside[same])
        if max(above, 1 - above) >= CLEAR or (tail is not None and tail[0] == name):
            clear.append((max(above, 1 - above), name, above > 0.5))
    told = []
    for _, name, high in sorted(clear, reverse=True)[:TOLD]:
        here, there = np.median(measures[name][inside]), np.median(measures[name][same & ~inside])
        told.append(f"{WORDS[name][high]} ({name} {here:.3g}, others of these classes {there:.3g})")
    return told
