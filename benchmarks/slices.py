"""Are planted slices found, by a column and without one, and what does balancing over a column gain?

    TLKIT_SHARED=folder python benchmarks/slices.py [--backbone NAME] [--size N] [--part hidden columns fair noise]

Up to 1,500 images, drawn at random, of each of five data sets; features of a frozen backbone; a logistic head whose C
is chosen by five folds; each image is predicted out of fold. What is planted, by part:

- hidden: 20 settings, each the first seed below 12 that makes the planted images' error 15 points higher than that of
  the others, or else 10 points (no other condition). class: 12 % of one class get a look (dark, blurred, noisy or
  tinted) that no training
  image has. site: 12 % of all images get a look, in training too. shortcut: a mark or a tint on 95 % of one class and
  5 % of the others; the planted slice is the images against that rule. labels: the 15 % of one class with the lowest
  value of one measure, three fifths of them labelled as another class. Found: one of the first three slices has at
  least half of its images from the planted ones, and at least a quarter of these. No column is given.
- columns: the same shortcut and a bad site (12 % of the images, blurred and noisy by turns), with a
  column for it and a column of three random values. Found: the first row is of the planted value.
- fair: what `fair_to` does about the shortcut (a mark, or a tint) among the two classes that are confused most often,
  out of fold: worst group and mean before and after.
- noise: nothing is planted, and the errors are permuted within each class, 20 times: how often a slice has p < 0.05.

A row per setting in slices.csv; those that are there are skipped. Nothing in tlkit was fitted to these settings but the
kinds of candidates (tree, tails of measures, tails of predicted errors), of which each alone found fewer.
"""

import argparse
import functools
import os
import tempfile
from collections.abc import Iterator
from datetime import date
from pathlib import Path

import cv2
import numpy as np
from rows import append_row, read_rows

FILE = Path(__file__).with_suffix(".csv")
DATA = ("latin_letters", "blood_cells", "cats_dogs", "clothing", "chest_xray")
KINDS = ("class", "site", "shortcut", "labels")
LOOKS = ("dark", "blur", "noise", "tint")
MOST, SEEDS, HARMS = 1500, 12, (0.15, 0.1)
STRENGTHS = (1e-3, 1e-2)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--backbone", default="mobilenetv2_0.35")
    parser.add_argument("--size", type=int, default=128)
    parser.add_argument("--part", nargs="+", default=["fair", "hidden", "columns", "noise"])
    arguments = parser.parse_args()
    parts = {"hidden": hidden, "columns": columns, "fair": fair, "noise": noise}
    there = {(row["part"], row["backbone"], row["data"], row["kind"]) for row in read_rows(FILE)}
    for part in arguments.part:
        for data in DATA:
            images = planted_images(data, arguments.backbone, arguments.size)
            for kind, row in parts[part](images, functools.partial(is_there, there, (part, arguments.backbone, data))):
                about = {"date": date.today().isoformat(), "part": part, "backbone": arguments.backbone}
                append_row(FILE, about | {"size": arguments.size, "data": data, "kind": kind} | EMPTY | row)


NAMES = "seed n planted error_planted error_others found precision recall p first"
EMPTY = dict.fromkeys([*NAMES.split(), "worst_before", "worst_after", "mean_before", "mean_after"], "")


def is_there(there: set[tuple[str, ...]], about: tuple[str, ...], kind: str) -> bool:
    return (*about, kind) in there


# -- images and looks ----------------------------------------------------------------------------------------


def planted_images(data: str, backbone: str, size: int) -> dict[str, np.ndarray]:
    """Features ("f_") and measures ("m_") of the images, plain and with each look; labels ("y") and "classes"."""
    import tlkit
    from tlkit.cache import in_memory
    from tlkit.data.appearance import measure_appearance
    from tlkit.models.blocks import feature_extractor
    from tlkit.models.inference import frozen_call

    file = Path(os.environ.get("TLKIT_CACHE", tempfile.gettempdir())) / "plants" / f"plant-{data}-{backbone}.npz"
    if file.exists():
        with np.load(file) as kept:
            return dict(kept)
    source = Path(os.environ.get("TLKIT_SHARED", "../shared")) / "data" / data / "splits.csv"
    dataset = tlkit.decode_images(tlkit.scan(source), size)
    model = tlkit.build_classifier(backbone, len(dataset.class_names), image_size=size)
    call, examples, random = frozen_call(feature_extractor(model), 64), dataset.examples(), np.random.default_rng(0)
    kept_rows = np.sort(random.permutation(len(examples))[:MOST])
    pixels, found = examples.pixels.gather(kept_rows), {}
    for look in ("plain", "mark", *LOOKS):
        seen = looking(pixels, look, random)
        found[f"f_{look}"] = np.concatenate([call(seen[at : at + 64])[0] for at in range(0, len(seen), 64)])
        found[f"m_{look}"] = measure_appearance(in_memory(seen))
    found |= {"y": examples.labels[kept_rows], "classes": np.array(dataset.class_names)}
    file.parent.mkdir(parents=True, exist_ok=True)
    np.savez(file, **found)
    return found


def looking(images: np.ndarray, look: str, random: np.random.Generator) -> np.ndarray:
    """Images with a look: uint8, the same shape."""
    images, side = images.copy(), images.shape[1]
    if look == "mark":
        images[:, 3 : 3 + side // 7, 3 : 3 + side // 7] = (255, 0, 255)
    elif look == "dark":
        images = (images * 0.3).astype("uint8")
    elif look == "blur":
        images = np.stack([cv2.GaussianBlur(one, (0, 0), side / 32) for one in images])
    elif look == "noise":
        images = np.clip(images + random.normal(0, 40, images.shape), 0, 255).astype("uint8")
    elif look == "tint":
        images = np.clip(images * np.array([1.0, 0.6, 0.35]) + np.array([30, 0, 0]), 0, 255).astype("uint8")
    return images


class Planted:
    """Features that are learned from and predicted, measures, labels, and which images are planted."""

    def __init__(self, images: dict[str, np.ndarray]) -> None:
        self.images, self.labels, self.classes = images, images["y"].copy(), len(images["classes"])
        self.learned, self.measures = images["f_plain"].copy(), images["m_plain"].copy()
        self.inside, self.value = np.zeros(len(self.labels), bool), np.zeros(len(self.labels), bool)
        self.predicted = self.learned

    def look(self, rows: np.ndarray, look: str, *, learned: bool = True) -> None:
        self.predicted = self.learned if learned else self.learned.copy()
        self.predicted[rows], self.measures[rows] = self.images[f"f_{look}"][rows], self.images[f"m_{look}"][rows]

    def right(self, seed: int) -> np.ndarray:
        """Whether each image is predicted correctly, out of fold."""
        from tlkit.features.folds import stratified_folds
        from tlkit.features.linear import choose_strength, solve

        folds = stratified_folds(self.labels, None, seed=seed)
        chosen = choose_strength(self.learned, self.labels, folds, self.classes, strengths=STRENGTHS)
        probabilities = chosen.probabilities
        if self.predicted is not self.learned:
            for fold in range(folds.max() + 1):
                here = folds == fold
                head = solve(self.learned[~here], self.labels[~here], self.classes, strength=chosen.strength)
                probabilities[here] = head.probabilities(self.predicted[here])
        return probabilities.argmax(1) == self.labels


def plant(images: dict[str, np.ndarray], kind: str, seed: int, looks: tuple[str, ...] = ()) -> Planted:
    made, random = Planted(images), np.random.default_rng((seed, KINDS.index(kind)))
    labels, n, of_class = made.labels, len(made.labels), int(random.integers(made.classes))
    mine = np.flatnonzero(labels == of_class)
    if kind in ("class", "site"):
        pool = mine if kind == "class" else np.arange(n)
        rows = random.permutation(pool)[: max(8, round(0.12 * len(pool)))]
        made.look(rows, str(random.choice(looks or LOOKS)), learned=kind == "site")
        made.inside[rows] = made.value[rows] = True
    elif kind == "shortcut":
        made.value = np.where(labels == of_class, random.random(n) < 0.95, random.random(n) < 0.05)
        made.look(np.flatnonzero(made.value), str(random.choice(looks or ("mark", "tint"))))
        made.inside = made.value != (labels == of_class)
    else:
        values = made.measures[mine, int(random.integers(made.measures.shape[1]))]
        rows = mine[np.argsort(values, kind="stable")][: max(8, round(0.15 * len(mine)))]
        made.inside[rows] = True
        labels[rows[random.random(len(rows)) < 0.6]] = (of_class + 1) % made.classes
    return made


def first_harmful(
    images: dict[str, np.ndarray], kind: str, looks: tuple[str, ...] = ()
) -> tuple[int, Planted, np.ndarray, tuple[float, float]] | None:
    """The first seed whose planted images are worse than the others by one of HARMS, with which images are right."""
    tried = []
    for seed in range(SEEDS):
        made = plant(images, kind, seed, looks)
        right = made.right(seed)
        tried.append((seed, made, right, errors(right, made.inside)))
        if tried[-1][3][0] - tried[-1][3][1] >= HARMS[0]:
            return tried[-1]
    return next((one for one in tried if one[3][0] - one[3][1] >= HARMS[1]), None)


# -- what is measured ----------------------------------------------------------------------------------------


def hidden(images, done) -> Iterator[tuple[str, dict[str, object]]]:
    from tlkit.data.appearance import MEASURES
    from tlkit.evaluation.slices import hidden_slices

    for kind in KINDS:
        if done(kind):
            continue
        harmful = first_harmful(images, kind)
        if harmful is None:
            yield kind, {"found": "no seed does harm"}
            continue
        seed, made, right, harm = harmful
        measures = dict(zip(MEASURES, made.measures.T, strict=True))
        slices = hidden_slices(made.predicted, right, made.labels, measures=measures)[:3]
        shares = [(made.inside[s.rows].mean(), made.inside[s.rows].sum() / made.inside.sum(), s.p) for s in slices]
        precision, recall, p = max(shares, key=lambda one: (one[0] >= 0.5 and one[1] >= 0.25, one[0]))
        row = facts(seed, made, harm) | {"found": precision >= 0.5 and recall >= 0.25}
        yield kind, row | {"precision": round(precision, 3), "recall": round(recall, 3), "p": p}


def columns(images, done) -> Iterator[tuple[str, dict[str, object]]]:
    from tlkit.evaluation.slices import slice_rows

    for kind, looks in (("shortcut", ("mark", "tint")), ("site", ("blur", "noise"))):
        if done(kind):
            continue
        harmful = first_harmful(images, kind, looks)
        if harmful is None:
            yield kind, {"found": "no seed does harm"}
            continue
        seed, made, right, harm = harmful
        chance = np.random.default_rng((seed, 9)).choice(["a", "b", "c"], len(right))
        names = images["classes"][made.labels]
        rows, _ = slice_rows({"planted": np.where(made.value, "yes", "no"), "chance": chance}, right, names)
        first = rows[0]
        text = f"{first.column} = {first.value}" + (f", {first.label}" if first.label else "")
        mine = made.value == (first.value == "yes")
        mine &= (names == first.label) | (not first.label)
        found = first.column == "planted" and first.worse and made.inside[mine].mean() >= 0.5
        yield kind, facts(seed, made, harm) | {"found": found, "p": round(first.p, 5), "first": text}


def fair(images, done) -> Iterator[tuple[str, dict[str, object]]]:
    from tlkit.features.folds import stratified_folds
    from tlkit.features.linear import Solver
    from tlkit.finetuning.fair import balanced_heads, compare

    for look in ("mark", "tint"):
        kind = f"shortcut by {look}"
        if done(kind):
            continue
        made = plant(two_classes(images), "shortcut", 0, (look,))
        value = np.where(made.value, "yes", "no")
        folds = stratified_folds(2 * made.labels + made.value, None)
        before, chosen = balanced_heads(made.learned, made.labels, value, folds, made.classes, Solver())
        right = [one.argmax(1) == made.labels for one in (before, chosen.probabilities)]
        found = compare(value, images["classes"][made.labels], right[0], right[1], "planted")
        row = facts(0, made, errors(right[0], made.inside))
        row |= dict(zip(("worst_before", "worst_after"), np.round(found.worst, 4), strict=True))
        yield kind, row | dict(zip(("mean_before", "mean_after"), np.round(found.mean, 4), strict=True))


def two_classes(images: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """The images of the two classes that are confused most often, numbered 0 and 1."""
    from tlkit.features.folds import stratified_folds
    from tlkit.features.linear import choose_strength

    labels, classes = images["y"], len(images["classes"])
    folds = stratified_folds(labels, None)
    found = choose_strength(images["f_plain"], labels, folds, classes, strengths=(1e-2,)).probabilities.argmax(1)
    counts = np.zeros((classes, classes), int)
    np.add.at(counts, (labels, found), 1)
    counts += counts.T
    np.fill_diagonal(counts, 0)
    pair = sorted(np.unravel_index(counts.argmax(), counts.shape))
    kept = np.isin(labels, pair)
    some = {name: values[kept] for name, values in images.items() if name not in ("y", "classes")}
    return some | {"y": (labels[kept] == pair[1]).astype("int64"), "classes": images["classes"][pair]}


def noise(images, done) -> Iterator[tuple[str, dict[str, object]]]:
    from tlkit.data.appearance import MEASURES
    from tlkit.evaluation.slices import hidden_slices

    if done("permuted errors"):
        return
    made = Planted(images)
    right, alarms = made.right(0), 0
    measures = dict(zip(MEASURES, made.measures.T, strict=True))
    for seed in range(20):
        random, permuted = np.random.default_rng((seed, 5)), right.copy()
        for label in range(made.classes):
            rows = np.flatnonzero(made.labels == label)
            permuted[rows] = right[random.permutation(rows)]
        found = hidden_slices(made.learned, permuted, made.labels, measures=measures, seed=seed)
        alarms += bool(found) and found[0].p < 0.05
    yield "permuted errors", {"n": len(right), "error_others": round(1 - right.mean(), 4), "found": f"{alarms} of 20"}


def errors(right: np.ndarray, inside: np.ndarray) -> tuple[float, float]:
    return 1 - float(right[inside].mean()), 1 - float(right[~inside].mean())


def facts(seed: int, made: Planted, harm: tuple[float, float]) -> dict[str, object]:
    counts = {"seed": seed, "n": len(made.labels), "planted": int(made.inside.sum())}
    return counts | {"error_planted": round(harm[0], 4), "error_others": round(harm[1], 4)}


if __name__ == "__main__":
    main()
