"""How far off is the accuracy that `tlkit check` estimates without labels, and how often do its tests find a shift?

    TLKIT_SHARED=folder python benchmarks/check.py [--data NAME ...] [--backbone NAME] [--severity N ...]

One run with a solved head for each of five data sets. Its test images, at most 250, are corrupted by each of the ten
kinds of `tlkit.data.corruptions`, and the accuracy is estimated from them without their labels: as shipped, where the
run's held-out images have taught every kind; and without the whole family of the kind (noise, blur, light, ...),
for shifts of a kind that nobody foresaw. The drift tests see 200 of the test images, or all if there are fewer, five
times. False alarms: the unshifted validation and test images are pooled, and parts drawn at random are compared.

Appends a row per cell to benchmarks/check.csv and per set to benchmarks/check_alarms.csv; skips those that are there.
"""

import argparse
import os
import tempfile
from datetime import date
from importlib.metadata import version
from pathlib import Path

import numpy as np
from rows import append_row, read_rows

FILE = Path(__file__).with_suffix(".csv")
ALARMS = FILE.with_name("check_alarms.csv")
RECIPES = {
    "blood_cells": "small_different",
    "cats_dogs": "small_similar",
    "latin_letters": "small_different",
    "clothing": "small_similar",
    "chest_xray": "small_different",
}
FAMILIES = (
    {"gaussian_noise", "shot_noise"},
    {"defocus_blur", "motion_blur", "pixelate"},
    {"fog", "brightness", "contrast"},
    {"elastic_transform"},
    {"jpeg_compression"},
)
MOST = 250  # test images of a cell
NEW = 200  # images of a drift test
DRAWS = 5  # drift tests of a cell
ALARM_TESTS = 200


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", nargs="+", default=list(RECIPES))
    parser.add_argument("--backbone", default="mobilenetv2_0.35")
    parser.add_argument("--image-size", type=int, default=128)
    parser.add_argument("--severity", nargs="+", type=int, default=[1, 3])
    parser.add_argument("--runs", help="folder in which the runs are kept; default a temporary one")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        for data in arguments.data:
            folder = Path(arguments.runs or scratch) / f"{data}-{arguments.backbone}"
            measure(run_of(data, folder, arguments), data, arguments)


def run_of(data: str, folder: Path, arguments: argparse.Namespace):
    import tlkit

    if (folder / "metrics.json").is_file():
        return tlkit.open_run(folder)
    source = Path(os.environ.get("TLKIT_SHARED", "../shared")) / "data" / data / "splits.csv"
    settings = {"backbone": arguments.backbone, "image_size": arguments.image_size, "recipe": RECIPES[data]}
    return tlkit.finetune(source, **settings, out=folder, report=False)


def measure(run, data: str, arguments: argparse.Namespace) -> None:
    from tlkit.data.corruptions import CORRUPTIONS, corrupt
    from tlkit.runs.basis import basis_of
    from tlkit.runs.reading import decoded, own_part

    cells = [("unchanged", 0), *[(kind, severity) for severity in arguments.severity for kind in CORRUPTIONS]]
    there = {(row["data"], row["backbone"], row["corruption"], int(row["severity"])) for row in read_rows(FILE)}
    missing = [cell for cell in cells if (data, arguments.backbone, *cell) not in there]
    alarmed = {(row["data"], row["backbone"]) for row in read_rows(ALARMS)}
    if not missing and (data, arguments.backbone) in alarmed:
        return
    basis = basis_of(run)
    test = decoded(run, own_part(run, "test")).examples()
    if (data, arguments.backbone) not in alarmed:
        append_row(ALARMS, {**about(data, arguments), **false_alarms(basis, test)})
    drawn = np.sort(np.random.default_rng(0).permutation(len(test))[:MOST])
    pixels, labels = test.pixels.gather(drawn), test.labels[drawn]
    for kind, severity in missing:
        images = pixels if severity == 0 else corrupt(pixels, kind, severity, seed=1)
        append_row(FILE, {**about(data, arguments), **cell(basis, images, labels, kind, severity)})


def about(data: str, arguments: argparse.Namespace) -> dict[str, object]:
    return {
        "date": date.today().isoformat(),
        "tlkit": version("tlkit"),
        "data": data,
        "backbone": arguments.backbone,
        "image_size": arguments.image_size,
    }


def cell(basis, images: np.ndarray, labels: np.ndarray, kind: str, severity: int) -> dict[str, object]:
    from tlkit.cache import in_memory
    from tlkit.data.appearance import measure_appearance
    from tlkit.evaluation.drift import any_found, drift_tests
    from tlkit.evaluation.unlabelled import AccuracyModel
    from tlkit.runs.basis import sample_of
    from tlkit.runs.check import estimated

    seen = basis.network.see_pixels(images)
    shipped = estimated(basis, seen)
    family = next((one for one in FAMILIES if kind in one), set())
    taught, classes = basis.taught.without(frozenset(family)), len(basis.run.plan.classes)
    other = AccuracyModel(taught, classes, unchanged=basis.unchanged).calibrated()
    blind = other.interval(basis.statistician.statistics(seen), len(seen))
    sample, found = sample_of(seen, measure_appearance(in_memory(images))), 0
    for draw in range(DRAWS):
        rows = np.random.default_rng(draw).permutation(len(seen))[:NEW]
        found += any_found(drift_tests(basis.sample, sample.take(rows), seed=draw, permutations=199))
    return {
        "corruption": kind,
        "severity": severity,
        "n_held_out": len(basis.reference),
        "n": len(seen),
        "accuracy": round(float((seen.predicted == labels).mean()), 4),
        "estimate": round(shipped.value, 4),
        "low": round(shipped.low, 4),
        "high": round(shipped.high, 4),
        "without_family": round(blind[0], 4),
        "without_family_low": round(blind[1], 4),
        "without_family_high": round(blind[2], 4),
        **{name.replace(" ", "_"): round(value, 4) for name, value in shipped.simple.items()},
        "drift_found": found,
        "drift_tests": DRAWS,
        "drift_n": min(NEW, len(seen)),
    }


def false_alarms(basis, test) -> dict[str, object]:
    """How often parts of one pool are called different."""
    from tlkit.data.appearance import measure_appearance
    from tlkit.evaluation.drift import Sample, any_found, drift_tests
    from tlkit.runs.basis import sample_of

    other = sample_of(basis.judge.see(test), measure_appearance(test.pixels))
    pool = Sample(*(np.concatenate([getattr(one, name) for one in (basis.sample, other)]) for name in PARTS))
    count, found = min(NEW, len(pool) // 2), 0
    for draw in range(ALARM_TESTS):
        rows = np.random.default_rng(draw).permutation(len(pool))
        new, reference = pool.take(rows[:count]), pool.take(rows[count : count + 300])
        found += any_found(drift_tests(reference, new, seed=draw, permutations=199))
    return {"n_pool": len(pool), "n_new": count, "false_alarms": found, "tests": ALARM_TESTS}


PARTS = ("features", "predicted", "measures")


if __name__ == "__main__":
    main()
