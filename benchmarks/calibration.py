"""How well are the probabilities calibrated, before and after the temperature?

    TLKIT_SHARED=folder python benchmarks/calibration.py [--data NAME ...] [--backbone mobilenetv2] [--recipe NAME ...]

One run of `tlkit finetune` for each of five data sets and two recipes; all numbers are those of the exported model. The
temperature is fitted on the validation split. The calibration error (15 bins, with its interval by resampling) and the
log loss are those of the test split. The runs ask for `--max-error 0.05`; their errors and coverage on the test split
are measured. Appends a row per run to benchmarks/calibration.csv and skips those that are there.
"""

import argparse
import csv
import os
import tempfile
from datetime import date
from importlib.metadata import version
from pathlib import Path

import numpy as np
import pandas as pd
from rows import append_row

FILE = Path(__file__).with_suffix(".csv")
DATA = ("clothing", "chest_xray", "cats_dogs", "blood_cells", "latin_letters")
RECIPES = ("small_similar", "large_similar")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", nargs="+", default=list(DATA))
    parser.add_argument("--recipe", nargs="+", default=list(RECIPES))
    parser.add_argument("--backbone", default="mobilenetv2_0.35")
    parser.add_argument("--image-size", type=int, default=160)
    arguments = parser.parse_args()
    there = {(row["data"], row["backbone"], row["recipe"]) for row in read()}
    for recipe in arguments.recipe:
        for data in arguments.data:
            if (data, arguments.backbone, recipe) not in there:
                append_row(FILE, run(data, arguments.backbone, recipe, arguments.image_size))


def read() -> list[dict[str, str]]:
    if not FILE.exists():
        return []
    with FILE.open(newline="", encoding="utf-8") as stream:
        return list(csv.DictReader(stream))


def run(data: str, backbone: str, recipe: str, size: int) -> dict[str, object]:
    import tlkit
    from tlkit.evaluation.calibration import calibration_error_of

    source = Path(os.environ.get("TLKIT_SHARED", "../shared")) / "data" / data / "splits.csv"
    with tempfile.TemporaryDirectory() as scratch:
        made = tlkit.finetune(
            source,
            backbone=backbone,
            recipe=recipe,
            image_size=size,
            out=Path(scratch) / "run",
            max_error=0.05,
            report=False,
        )
        metrics = made.metrics
        answers = pd.read_csv(made.folder / "predictions.csv", keep_default_na=False)
    test = answers[answers["split"] == "test"]
    correct = (test["label"].astype(str) == test["prediction"].astype(str)).to_numpy()
    _, low, high = calibration_error_of(test["probability"].to_numpy(), correct)
    before, after, refusal = metrics["calibration"]["before"]["test"], metrics["test"], metrics["refusal"]
    return {
        "date": date.today().isoformat(),
        "data": data,
        "backbone": backbone,
        "image_size": size,
        "recipe": recipe,
        "n_validation": metrics["validation"]["n"],
        "n_test": after["n"],
        "accuracy": round(after["accuracy"], 4),
        "temperature": round(metrics["calibration"]["temperature"], 3),
        "ece_before": round(before["ece"], 4),
        "ece_after": round(after["ece"], 4),
        "ece_after_low": round(low, 4),
        "ece_after_high": round(high, 4),
        "log_loss_before": round(before["log_loss"], 4),
        "log_loss_after": round(after["log_loss"], 4),
        "threshold": round(refusal["threshold"], 4),
        "assured": refusal["assured"],
        "test_coverage": round(refusal["test"]["coverage"], 4),
        "test_error": np.nan if refusal["test"]["error"] is None else round(refusal["test"]["error"], 4),
        "parity_difference": f"{metrics['parity']['max_difference']:.1e}",
        "tlkit": version("tlkit"),
    }


if __name__ == "__main__":
    main()
