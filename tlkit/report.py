"""The report of a run: one page that opens from disk with no network, and the same numbers as files beside it.

`report.html` holds its pictures in itself and needs no scripts; `report.json` has the numbers, and `mistakes.csv`, `label_errors.csv`,
`duplicates.csv` and `outliers.csv` name files. All of it is made from the run folder, so it can be made again.
"""

from __future__ import annotations

import base64
import contextlib
import functools
import io
import json
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from tlkit import charts
from tlkit.errors import DataError, SpecError
from tlkit.files import write_atomically
from tlkit.images import ImageSet
from tlkit.inference import load_model, whole_set
from tlkit.runs import Run, open_run

if TYPE_CHECKING:
    import keras
    import pandas as pd

    from tlkit.doctor import Checkup
    from tlkit.explain import GradCam, Reliance
    from tlkit.pixels import Pixels

SHOWN = 12  # pictures of a gallery
PAIRS, OF_PAIR = 40, 3  # confused pairs with pictures, and how many of each
MOST_CLASSES = 40  # in the confusion matrix
SIDE = 168  # pixels of a picture on the page
EXPLAINED = 200  # pictures at most for the test of what answers rest on ...
SECONDS = 1.0  # ... and about how long that may take in `finetune`
CHECKED = 10_000  # pictures at most for the data doctor; `tlkit inspect` looks at all
ROBUST = 500  # pictures at most for robustness
Say = Callable[[str], None]


@dataclass(frozen=True)
class Material:
    """What a report is made of. images, pixels: of all parts, None if the pictures are not where they were."""

    run: Run
    model: keras.Model
    images: ImageSet | None
    pixels: Pixels | None


def report(
    runs: Sequence[Run | str | Path],
    *,
    robustness: bool = False,
    out: str | Path | None = None,
    cache_gb: float | None = None,
    verbose: bool = False,
    say: Say = lambda line: None,
) -> Path:
    """Write a run's report again, or a leaderboard of several runs.

    runs: run folders; with one, its `report.html` is made again. robustness: also measure accuracy on worsened pictures, up to 500 (minutes).
    out: where the leaderboard goes, default leaderboard.html beside the first run. Returns the page's path.

    Raises RunError for what is no finished run, SpecError for runs that were not judged on the same images.
    """
    opened = [one if isinstance(one, Run) else open_run(one) for one in runs]
    if len(opened) > 1:
        return leaderboard(opened, out, say)
    (run,) = opened
    material = Material(run, load_model(run), None, None)
    try:
        material = Material(run, material.model, *whole_set(run, cache_gb))
    except DataError as error:
        say(f"without pictures: {error}")
    return write_report(material, seconds=15 * SECONDS, robust=robustness, cache_gb=cache_gb, verbose=verbose)


@dataclass(frozen=True)
class Looked:
    """What takes long in a report. checkup: of the data. cam: Grad-CAM of the model. reliance: what answers rest on. Each None where it cannot be."""

    checkup: Checkup | None
    cam: GradCam | None
    reliance: Reliance | None


def look_at(
    material: Material, *, seconds: float = SECONDS, cache_gb: float | None = None, verbose: bool = False
) -> Looked:
    """The data doctor's checkup, and what the model's answers rest on. Needs the run's plan and predictions.

    seconds: about how long the latter may take.
    """
    from tlkit.explain import GradCam

    checkup, cam, found = None, None, None
    if material.images is not None and material.pixels is not None:
        checkup = _checkup(material, material.run.plan, cache_gb, verbose)
    with contextlib.suppress(SpecError):  # an ensemble has no feature maps to weigh
        cam = GradCam(material.model)
    if cam is not None and material.images is not None:
        found = _reliance(material, _answers(material.run), cam, seconds)
    return Looked(checkup, cam, found)


def write_report(
    material: Material,
    looked: Looked | None = None,
    *,
    seconds: float = SECONDS,
    robust: bool = False,
    cache_gb: float | None = None,
    verbose: bool = False,
) -> Path:
    """Write `report.html` and the files beside it. looked: from `look_at`, if there is one already. The rest as there."""
    started = time.monotonic()
    run = material.run
    plan, metrics, answers = run.plan, run.metrics, _answers(run)
    part = "test" if metrics["test"] else "validation"
    looked = looked or look_at(material, seconds=seconds, cache_gb=cache_gb, verbose=verbose)
    checkup, cam = looked.checkup, looked.cam
    album = _Album(material)
    speed = round(cam.milliseconds(), 2) if cam else None
    numbers: dict[str, Any] = {"part": part, "milliseconds_an_image": speed}
    if checkup is not None:
        for name in ("label_errors", "duplicates", "outliers"):
            run.write_table(f"{name}.csv", getattr(checkup, name))
        numbers["data"] = checkup.to_dict()
    if looked.reliance is not None:
        numbers["explain"] = looked.reliance.to_dict()
    if robust and material.images is not None:
        numbers["robustness"] = _robustness(material, answers, verbose)
    elif (run.folder / "report.json").is_file():
        earlier = json.loads((run.folder / "report.json").read_text(encoding="utf-8"))
        numbers["robustness"] = earlier.get("robustness")
    table = numbers.get("robustness")
    mistakes = answers[answers["prediction"] != answers["label"]].sort_values("probability", ascending=False)
    run.write_table("mistakes.csv", mistakes.drop(columns="part"))
    reliability, numbers["reliability"] = _reliability(metrics, answers, part)
    page = _render(
        "report.html.jinja",
        title=f"{_data_name(plan)}: {len(plan['classes'])} classes, {plan['backbone']['name']}",
        sections=[
            *(("summary", "Summary"), ("curves", "Curves"), ("confusion", "Confusion"), ("mistakes", "Mistakes")),
            *(("data-problems", "Data"), ("explain", "Why"), ("reliability", "Trust"), ("safety", "Augmentation")),
            *((("robustness", "Robustness"),) if table else ()),
            ("decisions", "Decisions"),
        ],
        summary=_summary(run, plan, metrics, part, speed, checkup),
        curves=_curves(run),
        confusion=_confusion(metrics[part], answers, album),
        mistakes=_mistakes(answers, album, cam, part),
        data=_data(run, plan, checkup, album),
        explain=_explain(plan, answers, album, cam, looked.reliance),
        reliability=reliability,
        safety=_safety(plan, album),
        robustness=_robust_section(table) if table else None,
        decisions=_decisions(run, plan),
        footer=f"tlkit {plan['tlkit']}, {plan['started']}, {plan['device']}. Measured on the {part} part unless said otherwise.",
    )
    numbers["report_seconds"] = round(time.monotonic() - started, 1)
    run.write_json("report.json", numbers)
    write_atomically(run.folder / "report.html", page)
    return run.folder / "report.html"


def _data_name(plan: dict[str, Any]) -> str:
    """clothing/splits.csv is clothing, and so is clothing/."""
    data = Path(plan["settings"]["data"])
    return data.parent.name if data.suffix == ".csv" else data.name


def _render(template: str, **values: Any) -> str:
    from jinja2 import Environment, PackageLoader, StrictUndefined

    environment = Environment(
        loader=PackageLoader("tlkit", "."), autoescape=True, undefined=StrictUndefined, trim_blocks=True
    )
    return environment.get_template(template).render(**values)


# -- what it is made of -----------------------------------------------------------------------------------


def _answers(run: Run, part: str | None = None) -> pd.DataFrame:
    """The predictions of a part, "test" or "validation"; default test, where there is one."""
    import pandas as pd

    text = {"path": str, "label": str, "prediction": str, "top2": str}
    table = pd.read_csv(run.folder / "predictions.csv", keep_default_na=False, dtype=text)
    if part is None:
        part = "test" if (table["part"] == "test").any() else "validation"
    return table[table["part"] == {"validation": "val"}.get(part, part)].reset_index(drop=True)


def _checkup(material: Material, plan: dict[str, Any], cache_gb: float | None, verbose: bool) -> Checkup:
    """Labels judged by the run's own backbone, as pretrained, where its features are there; else by `nano`."""
    import keras

    from tlkit.doctor import check_data
    from tlkit.model import cut
    from tlkit.strategy import named_backbones

    assert material.images is not None and material.pixels is not None
    settings = plan["settings"]
    own = settings["backbone"] if settings["weights"] == "imagenet" and not settings["from_run"] else "nano"
    (network,) = named_backbones(own)
    untouched = own != "nano" and all(stage["unfreeze"] == 0 for stage in plan["recipe"]["stages"])
    prefix = cut(material.model, network, 0)[0] if untouched and "ensemble_of" not in plan else None
    if prefix is not None and len(prefix.outputs) > 1:
        prefix = keras.Model(prefix.input, prefix.outputs[-1])  # of a head on several blocks, the last
    images = material.images
    if len(images) > CHECKED:
        order = np.random.default_rng(settings["seed"]).permutation(len(images))[:CHECKED]
        images = images.take(np.sort(order).tolist())
    return check_data(
        images,
        material.pixels,
        backbone=network,
        prefix=prefix,
        compute=False,
        seed=settings["seed"],
        cache_gb=cache_gb,
        verbose=verbose,
    )


def _reliance(material: Material, answers: pd.DataFrame, cam: GradCam, seconds: float) -> Reliance:
    """What painting evidence over does to as many of the judged pictures as the time allows, 16 at least."""
    from tlkit.explain import reliance

    count = int(np.clip(seconds * 1000 / (3 * cam.milliseconds()), 16, EXPLAINED))
    order = np.random.default_rng(0).permutation(len(answers))[:count]
    chosen = answers.iloc[np.sort(order)]
    classes = material.run.plan["classes"]
    labels = np.array([classes.index(one) for one in chosen["label"]])
    return reliance(material.model, _pictures(material, list(chosen["path"])), labels, cam=cam)


def _pictures(material: Material, paths: Sequence[str]) -> np.ndarray:
    assert material.images is not None and material.pixels is not None
    place = {path: i for i, path in enumerate(material.images.table["path"])}
    return material.pixels.of(material.images).gather(np.array([place[path] for path in paths]))


def _robustness(material: Material, answers: pd.DataFrame, verbose: bool) -> list[dict[str, Any]]:
    import keras

    from tlkit.robustness import robustness

    order = np.sort(np.random.default_rng(0).permutation(len(answers))[:ROBUST])
    chosen, classes = answers.iloc[order], material.run.plan["classes"]
    bar: list[Any] = []

    def progress(done: int, of: int) -> None:
        if verbose:
            bar[:] = bar or [keras.utils.Progbar(of, unit_name="look")]
            bar[0].update(done)

    return robustness(
        material.model,
        _pictures(material, list(chosen["path"])),
        np.array([classes.index(one) for one in chosen["label"]]),
        progress=progress,
    )


class _Album:
    """Pictures as the model sees them, as small JPEGs inside the page."""

    def __init__(self, material: Material) -> None:
        self._rows, self._place, self._of_key = None, {}, {}
        if material.images is not None and material.pixels is not None:
            self._rows = material.pixels.of(material.images)
            self._place = {path: i for i, path in enumerate(material.images.table["path"])}
            self._of_key = {key: i for i, key in enumerate(material.images.keys())}

    def pixels(self, path: str) -> np.ndarray | None:
        place = self._place.get(path)
        return None if self._rows is None or place is None else self._rows.gather(np.array([place]))[0]

    def of_key(self, key: str) -> np.ndarray | None:
        place = self._of_key.get(key)
        return None if self._rows is None or place is None else self._rows.gather(np.array([place]))[0]

    def picture(self, path: str, alt: str) -> dict[str, Any]:
        return as_data(self.pixels(path), alt)

    def figure(self, path: str, alt: str, said: str) -> dict[str, Any]:
        return {"pictures": [self.picture(path, alt)], "said": said, "path": path}


def as_data(pixels: np.ndarray | None, alt: str, smooth: bool = True) -> dict[str, Any]:
    """A picture as the page embeds it: a data URI and its words. None gives the words alone."""
    from PIL import Image

    if pixels is None:
        return {"data": "", "alt": alt, "width": SIDE, "height": SIDE}
    image = Image.fromarray(pixels)
    if smooth or image.width > SIDE:
        image.thumbnail((SIDE, SIDE))
    stream = io.BytesIO()
    image.save(stream, "JPEG", quality=82)
    data = "data:image/jpeg;base64," + base64.b64encode(stream.getvalue()).decode("ascii")
    return {"data": data, "alt": alt, "width": image.width, "height": image.height}


# -- sections ---------------------------------------------------------------------------------------------


def _summary(
    run: Run, plan: dict[str, Any], metrics: dict[str, Any], part: str, speed: float | None, checkup: Checkup | None
) -> dict[str, Any]:
    score = metrics[part]
    low, high = score["accuracy_95"]
    size = sum(file.stat().st_size for file in run.saved_model.rglob("*") if file.is_file())
    parity = metrics["parity"]
    tiles = [
        ("accuracy", f"{score['accuracy']:.1%}", f"{low:.1%} to {high:.1%} (95 %), {score['n']:,} {part} images"),
        ("macro-F1", f"{score['macro_f1']:.3f}", f"mean over {len(plan['classes'])} classes"),
        ("log loss", f"{score['log_loss']:.3f}", f"calibration error {score['ece']:.3f}"),
        ("model", f"{size / 1e6:.1f} MB", f"{plan['backbone']['name']} at {plan['image_size']} px, as a SavedModel"),
        (
            "speed",
            "not measured" if speed is None else f"{speed:.1f} ms",
            f"an image in batches of 16, {plan['device']}",
        ),
        (
            "served = trained",
            f"{parity['top1_agreement']:.0%}",
            f"of {parity['n']} files, off by {parity['max_difference']:.0e} at most",
        ),
    ]
    chosen = next((one for one in plan["decisions"] if one["what"] == "recipe"), None)
    images = plan["images"]
    counts = ", ".join(f"{count:,} {name}" for name, count in images.items() if count)
    return {
        "what": f"{sum(images.values()):,} images ({counts}). Trained in {metrics['seconds']['total']:.0f} s.",
        "tiles": [{"name": name, "value": value, "about": about} for name, value, about in tiles],
        "recipe": f"Recipe {chosen['chosen']}: {chosen['why']}." if chosen else "",
        "next": next_steps(run, plan, metrics, part, checkup),
    }


def next_steps(
    run: Run, plan: dict[str, Any], metrics: dict[str, Any], part: str, checkup: Checkup | None
) -> list[str]:
    """What a person might do now, most urgent first."""
    score, steps = metrics[part], []
    low, high = score["accuracy_95"]
    if checkup is not None:
        leaks = checkup.duplicates[checkup.duplicates["leak"]]
        judged = int(leaks[["part", "other_part"]].isin(["test" if part == "test" else "val"]).any(axis=1).sum())
        if judged:
            steps.append(
                f"{judged} {part} images have a duplicate in another part, so that the accuracy above is too good: put each pair into one part (duplicates.csv, or a group column)."
            )
        wrong = int(checkup.label_errors["probable"].sum())
        if wrong > 0.02 * checkup.n:
            steps.append(
                f"Look at the {wrong:,} labels that are probably wrong (label_errors.csv) before you change anything else."
            )
    worst = min(score["per_class"].items(), key=lambda one: one[1]["f1"] if one[1]["support"] else 2)
    if worst[1]["f1"] < score["macro_f1"] - 0.1:
        steps.append(
            f"'{worst[0]}' is the weakest class (F1 {worst[1]['f1']:.2f}, {worst[1]['support']} images): look at its mistakes, and add pictures of it."
        )
    climbing = any(
        "still climbing" in line
        for one in plan["decisions"]
        for line in one["evidence"].get("sentences", ())
        if isinstance(line, str)
    )
    if climbing:
        steps.append("Accuracy still climbs with more training images: more pictures would help.")
    if high - low > 0.1:
        steps.append(
            f"The interval is {100 * (high - low):.0f} points wide: with {score['n']:,} {part} images, smaller differences cannot be seen."
        )
    if not metrics.get("refusal"):
        steps.append(f'To have it say "unsure" rather than be wrong: tlkit export {run.folder} --max-error 0.05.')
    steps.append(f"Try it: tlkit predict {run.folder} FILE... Deploy {run.saved_model}.")
    return steps


def _curves(run: Run) -> dict[str, Any]:
    import pandas as pd

    history = pd.read_csv(run.folder / "history.csv") if (run.folder / "history.csv").is_file() else pd.DataFrame()
    lines, drawn = [], []
    if len(history) > 1:
        place = np.arange(1, len(history) + 1)
        first = history["stage"].ne(history["stage"].shift()).to_numpy()
        marks = [(float(at), f"stage {stage}") for at, stage in zip(place[first], history["stage"][first], strict=True)]
        for name, percent in (("accuracy", True), ("loss", False)):
            series = {}
            for word, column in (("training", name), ("validation", f"val_{name}")):
                if column in history and history[column].notna().any():
                    known = history[column].notna().to_numpy()
                    series[word] = list(zip(place[known].tolist(), history[column][known].tolist(), strict=True))
            words = ", ".join(f"{word} ends at {points[-1][1]:.3f}" for word, points in series.items())
            drawn.append(
                charts.lines(
                    series,
                    title=f"{name} by epoch: {words}",
                    x_label="epoch, all stages",
                    y_label=name,
                    percent=percent,
                    marks=marks,
                )
            )
    for stage, rows in history.groupby("stage", sort=True) if len(history) else ():
        last = rows.iloc[-1]
        solved = "strength" in rows and rows["strength"].notna().any()
        how = f"solved at strength {last['strength']:g}" if solved else f"{len(rows)} epochs"
        lines.append(
            f"Stage {stage}: {how}, {rows['seconds'].sum():.0f} s; validation accuracy {last['val_accuracy']:.1%} at its end."
        )
    return {"charts": drawn, "lines": lines or ["This model was not trained; it averages others."]}


def _confusion(score: dict[str, Any], answers: pd.DataFrame, album: _Album) -> dict[str, Any]:
    names, matrix = score["classes"], np.array(score["confusion_matrix"])
    order = confusion_order(matrix)
    about = "A row is what the picture is, a column what was answered. Classes that are taken for each other stand together; a number leads to its pictures."
    if len(names) > MOST_CLASSES:
        off = matrix - np.diag(np.diag(matrix))
        kept = set(np.argsort(-(off.sum(0) + off.sum(1)), kind="stable")[:MOST_CLASSES].tolist())
        order = [i for i in order if i in kept]
        about += f" The {MOST_CLASSES} most confused of {len(names)} classes."
    wrong = answers[answers["prediction"] != answers["label"]].sort_values("probability", ascending=False)
    groups = sorted(wrong.groupby(["label", "prediction"]), key=lambda one: -len(one[1]))[:PAIRS]
    numbers = {pair: f"pair-{number}" for number, (pair, _) in enumerate(groups)}
    pairs = [
        {
            "id": numbers[a, b],
            "name": f"{a} taken for {b} ({len(rows)})",
            "figures": [_answered(row, album, f"at {row.probability:.0%}") for row in rows.head(OF_PAIR).itertuples()],
        }
        for (a, b), rows in groups
    ]
    rows = []
    for i in order:
        total = max(matrix[i].sum(), 1)
        cells = [
            {
                "count": int(matrix[i, j]),
                "shade": round(0.75 * (matrix[i, j] / total) ** 0.6, 3),
                "title": f"{matrix[i, j]} of {total} {names[i]} were called {names[j]}",
                "link": numbers.get((names[i], names[j])),
            }
            for j in order
        ]
        rows.append({"name": names[i], "cells": cells})
    classes = [{"name": name, **values} for name, values in score["per_class"].items()]
    return {
        "about": about,
        "names": [names[i] for i in order],
        "rows": rows,
        "pairs": pairs,
        "classes": sorted(classes, key=lambda one: one["f1"]),
    }


def confusion_order(matrix: np.ndarray) -> list[int]:
    """An order of classes in which those that are confused stand together: average linkage by how often two are taken for each other,
    leaves ordered (Bar-Joseph et al. 2001). matrix: int, shape (classes, classes).
    """
    from scipy.cluster.hierarchy import leaves_list, linkage
    from scipy.spatial.distance import squareform

    if len(matrix) < 3:
        return list(range(len(matrix)))
    shares = matrix / np.maximum(matrix.sum(1, keepdims=True), 1)
    apart = 1 - (shares + shares.T) / 2
    np.fill_diagonal(apart, 0)
    return [int(i) for i in leaves_list(linkage(squareform(apart, checks=False), "average", optimal_ordering=True))]


def _answered(row: Any, album: _Album, said: str | None = None) -> dict[str, Any]:
    words = said or f"{row.label}, called {row.prediction} at {row.probability:.0%}"
    return album.figure(row.path, f"{row.path}: labelled {row.label}, answered {row.prediction}", words)


def _mistakes(answers: pd.DataFrame, album: _Album, cam: Any, part: str) -> dict[str, Any]:
    wrong = answers[answers["prediction"] != answers["label"]].sort_values("probability", ascending=False).head(SHOWN)
    worst = [_answered(row, album) for row in wrong.itertuples()]
    for figure, evidence in zip(worst, _evidence(list(wrong["path"]), album, cam), strict=True):
        figure["pictures"] += evidence
    unsure = answers.sort_values("probability").head(8)
    least = [
        _answered(
            row,
            album,
            f"{row.prediction} {row.probability:.0%}, {row.top2} {row.top2_probability:.0%}; labelled {row.label}",
        )
        for row in unsure.itertuples()
    ]
    return {"worst": worst, "unsure": least, "part": part}


def _evidence(paths: Sequence[str], album: _Album, cam: Any) -> list[list[dict[str, Any]]]:
    """For each picture its evidence drawn over it; nothing where there is no map."""
    from tlkit.explain import overlay

    pictures = [album.pixels(path) for path in paths]
    if cam is None or not pictures or any(one is None for one in pictures):
        return [[] for _ in paths]
    maps, _ = cam(np.stack([one for one in pictures if one is not None]))
    return [
        [as_data(overlay(one, each), f"evidence in {path} for what was answered")]
        for path, one, each in zip(paths, pictures, maps, strict=True)
        if one is not None
    ]


def _data(run: Run, plan: dict[str, Any], checkup: Checkup | None, album: _Album) -> dict[str, Any]:
    import pandas as pd

    problems = pd.read_csv(run.folder / "problems.csv", keep_default_na=False, dtype=str)
    files = [
        f"{len(rows):,} {kind} ({action}), such as {rows.iloc[0]['path']}"
        for (kind, action), rows in problems.groupby(["problem", "action"], sort=True)
    ]
    if checkup is None:
        gone = "The pictures are not where they were, so that the data could not be looked at again."
        return {"lines": [gone], "labels": [], "duplicates": [], "outliers": [], "classes": [], "problems": files}
    everything = sum(plan["images"].values())
    if checkup.n < everything:
        files = [
            f"looked at {checkup.n:,} of {everything:,} pictures, drawn at random; tlkit inspect looks at all",
            *files,
        ]
    probable = checkup.label_errors[checkup.label_errors["probable"]].head(SHOWN)
    most = int(checkup.classes["images"].max())
    return {
        "lines": [*checkup.sentences(), *([] if files else ["every file was read and used"])],
        "labels": [
            album.figure(
                row.path,
                f"{row.path}: labelled {row.label}, perhaps {row.suggested}",
                f"labelled {row.label} ({row.probability:.1%}); perhaps {row.suggested} ({row.suggested_probability:.0%})",
            )
            for row in probable.itertuples()
        ],
        "duplicates": [
            {
                "pictures": [
                    album.picture(row.path, f"{row.path}, {row.part}, {row.label}"),
                    album.picture(row.other, f"{row.other}, {row.other_part}, {row.other_label}"),
                ],
                "said": f"{row.kind}: {_part(row.part)} {row.label} and {_part(row.other_part)} {row.other_label}",
                "path": f"{row.path} and {row.other}",
            }
            for row in checkup.duplicates.head(8).itertuples()
        ],
        "outliers": [
            album.figure(
                row.path,
                f"{row.path}: {row.label}, unlike all others",
                f"{row.label}: {row.distance:.1f} times the usual distance",
            )
            for row in checkup.outliers.head(8).itertuples()
        ],
        "classes": [
            {"label": row.label, "images": row.images, "width": round(220 * row.images / most)}
            for row in checkup.classes.head(60).itertuples()
        ],
        "problems": files,
    }


def _part(name: str) -> str:
    return {"val": "validation", "train": "training"}.get(name, name)


def _explain(
    plan: dict[str, Any], answers: pd.DataFrame, album: _Album, cam: Any, found: Reliance | None
) -> dict[str, Any]:
    from tlkit.explain import overlay

    if cam is None or found is None:
        return {
            "lines": ["Not measured: the model has no feature maps before its head, or the pictures are gone."],
            "figures": [],
        }
    figures = []
    right = answers[answers["prediction"] == answers["label"]].sort_values("probability", ascending=False)
    for number, name in enumerate(plan["classes"][:SHOWN]):
        mine = right[right["label"] == name].head(1)
        pixels = album.pixels(mine.iloc[0]["path"]) if len(mine) else None
        if pixels is None:
            continue
        path = mine.iloc[0]["path"]
        pictures = [as_data(pixels, f"{path}, {name}"), *_evidence([path], album, cam)[0]]
        if number in found.maps:
            flat = np.full_like(pixels, 110)
            pictures.append(as_data(overlay(flat, found.maps[number]), f"mean evidence over the class {name}"))
        figures.append({"pictures": pictures, "said": f"{name}, {mine.iloc[0]['probability']:.0%}", "path": path})
    return {"lines": found.sentences(), "figures": figures}


def _reliability(metrics: dict[str, Any], answers: pd.DataFrame, part: str) -> tuple[dict[str, Any], dict[str, Any]]:
    from tlkit.calibrate import calibration_error_of, coverage_and_risk
    from tlkit.evaluate import reliability_bins

    confidence, right = answers["probability"].to_numpy(float), (answers["prediction"] == answers["label"]).to_numpy()
    bins = reliability_bins(confidence, right)
    error, low, high = calibration_error_of(confidence, right)
    coverage, risk, thresholds = coverage_and_risk(confidence, right)
    lines = [
        f"Calibration error {error:.3f} (95 % interval {low:.3f} to {high:.3f}, n = {len(right):,}): what it says and how often that is so differ by that much on average."
    ]
    calibration = metrics.get("calibration")
    if calibration:
        before = calibration["before"][part]
        lines.append(
            f"A temperature of {calibration['temperature']:.2f}, fitted on {calibration['fitted_on']:,} validation images, is part of the model that is served: it moved the "
            f"calibration error from {before['ece']:.3f} to {metrics[part]['ece']:.3f}, and the log loss from {before['log_loss']:.3f} to {metrics[part]['log_loss']:.3f}."
        )
    refusal, here = metrics.get("refusal"), []
    if refusal and refusal.get(part):
        measured = refusal[part]
        here = [(measured["coverage"], measured["error"])] if measured["answered"] else []
        held = (
            "with 95 % confidence"
            if refusal["assured"]
            else "on the validation images seen, which are too few to assure it"
        )
        share = (
            f"; of the {part} images it answers {measured['coverage']:.1%}, {measured['error'] or 0:.1%} of those wrong"
        )
        lines.append(
            f'Below {min(refusal["threshold"], 1):.3f} it answers "unsure", to keep errors at {refusal["max_error"]:.1%} {held}{share}.'
        )
    else:
        wanted = next(
            ((c, r, t) for c, r, t in reversed(list(zip(coverage, risk, thresholds, strict=True))) if r <= 0.05), None
        )
        if wanted and wanted[0] < 1:
            lines.append(
                f"Were it to answer only when its probability is {wanted[2]:.2f} or more, it would answer {wanted[0]:.0%} of the {part} images, {wanted[1]:.1%} of them wrong."
            )
    values = {"ece": error, "ece_95": [low, high], "bins": [list(one) for one in bins]}
    risk_words = ", ".join(
        f"{risk[np.searchsorted(coverage, at)]:.1%} wrong at {at:.0%}" for at in (0.5, 0.8, 1.0) if len(coverage)
    )
    curve = charts.lines(
        {"share of the answers that is wrong": list(zip(coverage, risk, strict=True))},
        title=f"errors by coverage, the least sure left out first: {risk_words}",
        x_label="share of the pictures that are answered",
        y_label="wrong",
        percent=True,
        x_percent=True,
        dots=here,
    )
    diagram = charts.reliability(bins, title=f"reliability: calibration error {error:.3f}, n = {len(right)}")
    return {"diagram": diagram, "curve": curve, "lines": lines}, values


def _safety(plan: dict[str, Any], album: _Album) -> dict[str, Any]:
    from tlkit.augment import augment
    from tlkit.spec import augmentation_from_dict

    found = next((one for one in plan["decisions"] if one["what"] == "augmentation"), None)
    if found is None:
        quiet = "This recipe varies no pictures, so nothing was checked."
        line = f"{quiet} To see what your classes bear: tlkit augment {plan['settings']['data']} --check."
        return {"lines": [line], "rows": [], "figures": []}
    rows, figures = [], []
    for name, one in found["evidence"]["fields"].items():
        pair = one["pairs"][0] if one["pairs"] else None
        rows.append(
            {
                "field": name,
                "verdict": one["verdict"] + (" (allowed)" if one["allowed"] else ""),
                "asked": f"{one['asked']:g}",
                "limit": "" if one["limit"] is None else f"{one['limit']:g}",
                "pair": f"{pair[0]} becomes {pair[1]}, {pair[2]:.0%}" if pair else "",
                "why": f"{one['why']} (n = {one['n']})",
            }
        )
        for example in one["examples"] if one["verdict"] in ("unsafe", "limited") else ():
            picture, nearest = album.of_key(example["picture"]), album.of_key(example["nearest"])
            settings = {k: tuple(v) if isinstance(v, list) else v for k, v in example["augmentation"].items()}
            moved = (
                None if picture is None else augment(picture, augmentation_from_dict(settings), tuple(example["seed"]))
            )
            figures.append(
                {
                    "pictures": [
                        as_data(picture, f"a {example['label']} as it is"),
                        as_data(moved, f"the same with {name}"),
                        as_data(nearest, f"the nearest {example['became']}"),
                    ],
                    "said": f"{name}: {example['label']}, transformed, is nearest to this {example['became']}",
                    "path": "",
                }
            )
    order = ["unsafe", "limited", "not_measurable", "safe"]
    rows.sort(key=lambda row: order.index(row["verdict"].split(" ")[0]))
    return {"lines": [found["why"]], "rows": rows, "figures": figures[:SHOWN]}


def _robust_section(table: list[dict[str, Any]]) -> dict[str, Any]:
    units = {"blur": "px", "noise": "of 255", "jpeg": "quality", "darker": "x", "brighter": "x", "fgsm": "of 255"}
    names = {"fgsm": "opponent (FGSM)", "jpeg": "JPEG"}
    rows = []
    for one in table:
        low, high = one["accuracy_95"]
        rows.append(
            {
                "what": names.get(one["what"], one["what"]),
                "strength": f"{one['strength']:g} {units[one['what']]}" if one["what"] in units else "",
                "accuracy": f"{one['accuracy']:.1%}",
                "interval": f"{low:.1%} to {high:.1%}",
                "lost": f"{100 * one['lost']:.1f} ± {196 * one['lost_error']:.1f}" if one["what"] in units else "",
                "width": round(200 * one["accuracy"]),
            }
        )
    worst = max((one for one in table if one["what"] not in ("untouched", "fgsm")), key=lambda one: one["lost"])
    opponent = next(one for one in table if one["what"] == "fgsm")
    lines = [
        f"Of what cameras and networks do, {worst['what']} ({worst['strength']:g} {units[worst['what']]}) costs most: {100 * worst['lost']:.0f} points (n = {worst['n']:,}).",
        f"An opponent who knows the model and may change every pixel by {opponent['strength']:g} of 255 leaves {opponent['accuracy']:.0%} accuracy. No training here defends against that.",
    ]
    return {"rows": rows, "lines": lines}


def _decisions(run: Run, plan: dict[str, Any]) -> dict[str, Any]:
    log = [
        {
            "what": one["what"],
            "chosen": one["chosen"],
            "why": one["why"],
            "sentences": [line for line in one["evidence"].get("sentences", ()) if isinstance(line, str)],
        }
        for one in plan["decisions"]
    ]
    shown = {name: plan[name] for name in ("recipe", "settings", "versions", "device", "precision")}
    return {
        "log": log,
        "recipe": json.dumps(shown, indent=2, ensure_ascii=False),
        "repeat": f"tlkit finetune {run.folder}/plan.json",
    }


# -- several runs -----------------------------------------------------------------------------------------


def leaderboard(runs: Sequence[Run], out: str | Path | None = None, say: Say = lambda line: None) -> Path:
    """A page that ranks runs on the images on which all were judged, each against the best, paired.

    Test images where every run has some, else validation images. Raises SpecError where there are no common ones.
    """
    tables = {part: [_answers(run, part) for run in runs] for part in ("test", "validation")}
    judged = {
        part: functools.reduce(lambda one, other: one & other, [set(table["path"]) for table in answers])
        for part, answers in tables.items()
    }
    part = next((one for one, common in judged.items() if common), "")
    if not part:
        raise SpecError("The runs share no image on which they were judged. Expected runs on the same data and split.")
    common = judged[part]
    rows = rank([str(run.folder) for run in runs], tables[part], common)
    for row, run in zip(rows, [runs[row["place"]] for row in rows], strict=True):
        plan, metrics = run.plan, run.metrics
        row |= {
            "backbone": plan["backbone"]["name"],
            "recipe": plan["recipe"]["name"],
            "size": f"{sum(f.stat().st_size for f in run.saved_model.rglob('*') if f.is_file()) / 1e6:.1f} MB",
            "seconds": f"{metrics['seconds']['total']:.0f} s",
        }
        say(
            f"{row['accuracy']:>6.1%} ({row['low']:.1%} to {row['high']:.1%})  {row['behind']:>22}  {row['backbone']:<16} {row['recipe']:<16} {row['run']}"
        )
    path = Path(out) if out is not None else runs[0].folder.parent / "leaderboard.html"
    page = _render("leaderboard.html.jinja", rows=rows, n=len(common), part=part)
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(path, page)
    return path


def rank(names: Sequence[str], answers: Sequence[pd.DataFrame], common: set[str]) -> list[dict[str, Any]]:
    """Runs by accuracy on common images, with how far each is behind the best: paired differences, 95 % intervals."""
    from tlkit.evaluate import wilson_interval
    from tlkit.profile import paired_difference

    right = []
    for table in answers:
        mine = table[table["path"].isin(common)].sort_values("path")
        right.append((mine["prediction"] == mine["label"]).to_numpy())
    order = sorted(range(len(names)), key=lambda i: -right[i].mean())
    rows = []
    for i in order:
        low, high = wilson_interval(int(right[i].sum()), len(common))
        lost, error = paired_difference(right[i], right[order[0]])
        behind = "the best" if i == order[0] else f"{100 * lost:+.1f} ± {196 * error:.1f} points"
        sure = i != order[0] and lost + 1.96 * error < 0
        rows.append(
            {
                "place": i,
                "run": names[i],
                "accuracy": float(right[i].mean()),
                "low": low,
                "high": high,
                "behind": behind,
                "surely_behind": sure,
            }
        )
    return rows
