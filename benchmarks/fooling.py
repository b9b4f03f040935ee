"""How little changes a run's answers on its test images?

    python benchmarks/fooling.py RUN

For all of them, and for those of which it was at least 99 % sure: the share that gets another class by a sign step of
1, 2, 4 and 8 levels of 255, and the medians of the smallest step x + a w. See docs/explain.md. Appends two rows to
benchmarks/fooling.csv.
"""

import sys
from datetime import date
from importlib.metadata import version
from pathlib import Path

import numpy as np
from rows import append_row

from tlkit import load_model, open_run
from tlkit.evaluation.fooling import Fooling
from tlkit.runs.reading import decoded, own_part

FILE = Path(__file__).with_suffix(".csv")
LEVELS = (1, 2, 4, 8)


def main(folder: str) -> None:
    run = open_run(folder)
    examples = decoded(run, own_part(run, "test")).examples()
    images = examples.pixels.gather(np.arange(len(examples)))
    network = Fooling(load_model(run))
    confidence = np.array([network.answers(one[None].astype("float32")).max() for one in images])
    signs = [network.sign_step(one) for one in images]
    steps = [network.gradient_step(one) for one in images]
    plan = run.plan
    of_run = {"backbone": plan.backbone.name, "image_size": plan.image_size, "seed": plan.job.seed}
    for least in (0.0, 0.99):
        rows = np.flatnonzero(confidence >= least)
        levels = np.array([signs[row].amount if signs[row].found else np.inf for row in rows])
        shares = {f"within_{level}": round(float((levels <= level).mean()), 4) for level in LEVELS}
        along = {
            "along_w": round(float(np.mean([steps[row].kept for row in rows])), 4),
            "a_w_median": round(float(np.median([steps[row].amount for row in rows])), 1),
            "mean_change_median": round(float(np.median([steps[row].mean for row in rows])), 3),
        }
        about = {"date": date.today().isoformat(), "data": plan.job.data.parent.name, **of_run}
        append_row(
            FILE, {**about, "sure_at_least": least, "n": len(rows), **shares, **along, "keras": version("keras")}
        )


if __name__ == "__main__":
    main(sys.argv[1])
