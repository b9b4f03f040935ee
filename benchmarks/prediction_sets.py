"""How often do prediction sets hold the true class, and how large are they?

    TLKIT_SHARED=folder python benchmarks/prediction_sets.py [--network nano:96 mobilenetv2:128] [--seed 0 1 2 3 4]

Heads on features of the frozen network are solved and calibrated as in known.py, on the same splits of five data sets.
Sets of coverage 0.9 are fitted to the calibrated probabilities of held-out images, and measured on the test images:

    shipped         a threshold for each class with 20 held-out images or more, drawn towards that of all
                    (`tlkit.evaluation.prediction_sets`; how far was chosen on clothing, seed 0)
    class by class  the same, not drawn towards it
    one threshold   the same threshold for all classes (Sadinle, Lei and Wasserman 2019)
    aps             adaptive sets, the true class's place drawn at random (Romano, Sesia and Candès 2020)
    raps            the same, with a penalty of 0.01 for each class after the fifth (Angelopoulos et al. 2021)
    raps whole      raps without drawing at random: the last class is in, and no set is empty

`missed` names the classes whose own 95 % interval of coverage does not hold 0.9. Appends to
benchmarks/prediction_sets.csv, and skips the networks and seeds that are there.
"""

import argparse
import math
from collections.abc import Callable
from datetime import date
from pathlib import Path

import numpy as np
from known import DATA, features, fit
from rows import append_row, read_rows

from tlkit.evaluation.prediction_sets import FEWEST_OF_A_CLASS, covered, fit_prediction_sets, threshold

FILE = Path(__file__).with_suffix(".csv")
COVERAGE = 0.9


def cumulated(probabilities: np.ndarray, drawn: np.ndarray, penalty: float, free: int) -> np.ndarray:
    """The score of each class: the probability of all classes above it and a part of its own, and the penalty."""
    order = np.argsort(-probabilities, axis=1, kind="stable")
    ranked = np.take_along_axis(probabilities, order, axis=1)
    scores = np.cumsum(ranked, axis=1) - ranked * drawn[:, None]
    scores += penalty * np.maximum(np.arange(1, ranked.shape[1] + 1) - free, 0)
    found = np.zeros_like(scores)
    np.put_along_axis(found, order, scores, axis=1)
    return found


def adaptive(held: np.ndarray, labels: np.ndarray, test: np.ndarray, seed: int, *, penalty: float = 0.0) -> np.ndarray:
    random = np.random.default_rng(seed)
    own = cumulated(held, random.random(len(held)), penalty, 5)[np.arange(len(labels)), labels]
    rank = min(math.ceil((len(own) + 1) * COVERAGE), len(own))
    return cumulated(test, random.random(len(test)), penalty, 5) <= np.sort(own)[rank - 1]


def whole(held: np.ndarray, labels: np.ndarray, test: np.ndarray, *, penalty: float = 0.01) -> np.ndarray:
    own = cumulated(held, np.zeros(len(held)), penalty, 5)[np.arange(len(labels)), labels]
    rank = min(math.ceil((len(own) + 1) * COVERAGE), len(own))
    inside = cumulated(test, np.zeros(len(test)), penalty, 5) <= np.sort(own)[rank - 1]
    inside[np.arange(len(test)), test.argmax(1)] = True
    return inside


def by_class(own: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """The thresholds of classes with 20 images or more alone; the others share one."""
    counts = np.bincount(labels)
    shared = threshold(
        own[(counts < FEWEST_OF_A_CLASS)[labels]] if (counts < FEWEST_OF_A_CLASS).any() else own, COVERAGE
    )
    alone = [threshold(own[labels == one], COVERAGE) for one in range(len(counts))]
    return np.where(counts < FEWEST_OF_A_CLASS, shared, alone)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--network", nargs="+", default=["nano:96", "mobilenetv2:128"])
    parser.add_argument("--seed", nargs="+", type=int, default=[0, 1, 2, 3, 4])
    asked = parser.parse_args()
    for network in asked.network:
        name, size = network.split(":")
        sets = features(name, int(size))
        for seed in asked.seed:
            if any(row["network"] == network and row["seed"] == str(seed) for row in read_rows(FILE)):
                continue
            for data in DATA:
                rows = sets[data].drawn(seed)
                fitted = fit(rows, name, seed)
                pixels, labels = rows.part("test")
                held, true, test = fitted.held_out, fitted.held_out_labels, fitted.probabilities(pixels)
                own = held[np.arange(len(true)), true]
                methods: dict[str, Callable[[], np.ndarray]] = {
                    "shipped": lambda h=held, t=true, x=test: fit_prediction_sets(h, t, COVERAGE).sets(x),
                    "class by class": lambda o=own, t=true, x=test: x >= by_class(o, t),
                    "one threshold": lambda o=own, x=test: x >= threshold(o, COVERAGE),
                    "aps": lambda h=held, t=true, x=test, s=seed: adaptive(h, t, x, s),
                    "raps": lambda h=held, t=true, x=test, s=seed: adaptive(h, t, x, s, penalty=0.01),
                    "raps whole": lambda h=held, t=true, x=test: whole(h, t, x),
                }
                for method, make in methods.items():
                    found = covered(make(), labels, [str(one) for one in range(held.shape[1])])
                    low, high = found["coverage_95"]
                    missed = [
                        one
                        for one, of in found["classes"].items()
                        if not of["coverage_95"][0] <= COVERAGE <= of["coverage_95"][1]
                    ]
                    row = {
                        "date": date.today().isoformat(),
                        "network": network,
                        "seed": seed,
                        "method": method,
                        "data": data,
                        "held_out": len(true),
                        "n": found["n"],
                        "covered": found["covered"],
                        "coverage": f"{found['coverage']:.4f}",
                        "low": f"{low:.4f}",
                        "high": f"{high:.4f}",
                        "mean_size": f"{found['mean_size']:.4f}",
                        "empty": found["empty"],
                        "classes": held.shape[1],
                        "missed": " ".join(missed),
                    }
                    append_row(FILE, row)


if __name__ == "__main__":
    main()
