"""How many labels does choosing images save, between 5 and 20 labels a class?

    TLKIT_SHARED=folder python benchmarks/label_next.py [--data NAME ...] [--backbone NAME] [--size N] [--seeds N]

Five data sets. All labels of train and validation are hidden but 5 of each class, drawn at random. A strategy asks for
labels in 6 batches, up to 20 a class (or four fifths of the images, if there are fewer), and a logistic head on cached
features is solved after each. The accuracy is that of the test split. `share` is how many labels a strategy needs for
the accuracy that a random choice has at the end, as a share of that one's labels, from the mean curves of all seeds
(inf: it never has it); its interval is that of 1,000 bootstrap samples of seeds. `gain` is the mean difference of
accuracy over the batches with its 95 % interval over seeds (t). `said` is what `tlkit label-next` says after such a
run with 20 labels a class, drawn at random (seed 0): its own simulation on these labels. A row per data set and
strategy in label_next.csv; those that are there are skipped.
"""

import argparse
import os
from datetime import date
from pathlib import Path

import numpy as np
from rows import append_row, read_rows
from scipy.stats import t

FILE = Path(__file__).with_suffix(".csv")
DATA = ("blood_cells", "cats_dogs", "latin_letters", "chest_xray", "clothing")
FEW, MANY, BATCHES = 5, 20, 6
STRENGTH = 0.01


def main() -> None:
    from tlkit.strategy.active_learning import STRATEGIES

    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", nargs="+", default=list(DATA))
    parser.add_argument("--backbone", default="mobilenetv2_0.35")
    parser.add_argument("--size", type=int, default=128)
    parser.add_argument("--seeds", type=int, default=8)
    arguments = parser.parse_args()
    for data in arguments.data:
        there = {
            row["strategy"] for row in read_rows(FILE) if (row["data"], row["backbone"]) == (data, arguments.backbone)
        }
        missing = [one for one in STRATEGIES if one not in there]
        if not missing:
            continue
        features, labels, test = images_of(data, arguments.backbone, arguments.size)
        baseline = curves(features, labels, test, "random", arguments.seeds)
        said = said_by_command(features[~test], labels[~test])
        for strategy in missing:
            found = baseline if strategy == "random" else curves(features, labels, test, strategy, arguments.seeds)
            row = {"date": date.today().isoformat(), "data": data, "backbone": arguments.backbone}
            row |= {"size": arguments.size, "strategy": strategy, "seeds": arguments.seeds, "n_test": int(test.sum())}
            append_row(FILE, row | measured(found, baseline) | {"said": said})


def images_of(data: str, backbone: str, size: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Features, labels, and which images are of the test split."""
    import tlkit
    from tlkit.features.extract import all_rows
    from tlkit.models.blocks import feature_extractor

    source = Path(os.environ.get("TLKIT_SHARED", "../shared")) / "data" / data / "splits.csv"
    dataset = tlkit.decode_images(tlkit.scan(source), size)
    model = tlkit.build_classifier(backbone, len(dataset.class_names), image_size=size)
    found = tlkit.extract_features(feature_extractor(model), dataset.examples(), batch_size=64)
    assert found is not None
    return all_rows(found), dataset.images.labels(), (dataset.images.table["split"] == "test").to_numpy()


def curves(
    features: np.ndarray, labels: np.ndarray, test: np.ndarray, strategy: str, seeds: int
) -> tuple[np.ndarray, np.ndarray]:
    """The numbers of labels, and the accuracy on the test images with each, shape (seeds, batches + 1)."""
    from tlkit.features.linear import solve
    from tlkit.strategy.active_learning import Pool, choose, scaled

    asked, classes = np.flatnonzero(~test), int(labels.max()) + 1
    rows, steps, found = scaled(features[asked]), label_counts(labels[asked]), []
    for seed in range(seeds):
        known, head, accuracies = first(labels[asked], FEW, seed), None, []
        for count in steps:
            if head is not None:
                free = np.setdiff1d(np.arange(len(asked)), known)
                pool = Pool(rows[known], rows[free], head.probabilities(features[asked[free]]))
                known = np.concatenate([known, free[choose(strategy, pool, int(count) - len(known), seed=seed)]])
            mine = asked[known]
            head = solve(features[mine], labels[mine], classes, strength=STRENGTH)
            accuracies.append((head.probabilities(features[test]).argmax(1) == labels[test]).mean())
        found.append(accuracies)
    return steps, np.array(found)


def label_counts(labels: np.ndarray) -> np.ndarray:
    classes = int(labels.max()) + 1
    most = min(MANY * classes, int(0.8 * len(labels)))
    return np.unique(np.linspace(FEW * classes, most, BATCHES + 1).round().astype(int))


def first(labels: np.ndarray, count: int, seed: int) -> np.ndarray:
    """`count` images of each class, drawn at random."""
    random = np.random.default_rng(seed)
    return np.concatenate([random.permutation(np.flatnonzero(labels == one))[:count] for one in np.unique(labels)])


def measured(found: tuple[np.ndarray, np.ndarray], baseline: tuple[np.ndarray, np.ndarray]) -> dict[str, object]:
    from tlkit.strategy.simulation import needed_share

    (steps, mine), (_, other) = found, baseline
    gains = (mine[:, 1:] - other[:, 1:]).mean(1)
    half = t.ppf(0.975, len(gains) - 1) * gains.std(ddof=1) / len(gains) ** 0.5
    random, shares = np.random.default_rng(0), []
    for _ in range(1000):
        drawn = random.integers(0, len(mine), len(mine))
        shares.append(needed_share(steps, mine[drawn].mean(0), other[drawn].mean(0)))
    low, high = np.quantile(shares, [0.025, 0.975], method="nearest")
    return {
        "first": int(steps[0]),
        "last": int(steps[-1]),
        "accuracy_first": round(mine[:, 0].mean(), 4),
        "accuracy_last": round(mine[:, -1].mean(), 4),
        "random_last": round(other[:, -1].mean(), 4),
        "share": round(needed_share(steps, mine.mean(0), other.mean(0)), 3),
        "share_low": round(float(low), 3),
        "share_high": round(float(high), 3),
        "gain": round(gains.mean(), 4),
        "gain_low": round(gains.mean() - half, 4),
        "gain_high": round(gains.mean() + half, 4),
    }


def said_by_command(features: np.ndarray, labels: np.ndarray) -> str:
    """What the simulation of `tlkit label-next` says after a run with MANY labels of each class."""
    from tlkit.strategy.simulation import simulate

    rows = first(labels, MANY, 0)
    gain = simulate(features[rows], labels[rows])
    return "too few labels to simulate" if gain is None else gain.sentence()


if __name__ == "__main__":
    main()
