"""Does the 95 % interval of `estimate` hold the accuracy on images that nothing was chosen on?

    TLKIT_SHARED=folder python benchmarks/coverage.py [--sets NAME ...] [--sizes N ...] [--draws N] [--first N]
    python benchmarks/coverage.py --report

From all images of a set, 100, 200 or 400 are drawn and labelled; a fifth are validation images. The tournament solves
its linear heads, chooses one, and estimates its accuracy as a run without test images does. The truth is the accuracy
of the chosen head on all images that were not drawn, fitted on the training images alone (`judged`), and on training
and validation images, as it is delivered (`truth`). nano's features at 96 pixels. `spread` is the CROSS_FITTED_SPREAD
that a row's interval has.

Where few images are left, their accuracy differs by chance from that of all images of the kind. So a second share is of
intervals that allow for it too: they are wider by the standard error of an accuracy measured on those images.

Appends a row per draw to benchmarks/coverage.csv and skips those that are there, so it can be stopped and started
again.
"""

import argparse
import os
import time
from datetime import date
from pathlib import Path

import numpy as np
from rows import append_row, read_rows

import tlkit
from tlkit.backbones import find_backbone
from tlkit.evaluation.calibration import without_prior
from tlkit.evaluation.estimate import CROSS_FITTED_SPREAD
from tlkit.features.extract import extract_features, per_output
from tlkit.features.folds import solving_folds
from tlkit.features.linear import Solver, solve
from tlkit.features.table import Table, _by_block
from tlkit.models.blocks import cut
from tlkit.plan.job import Job
from tlkit.plan.recipe import Head
from tlkit.stats import wilson_interval
from tlkit.strategy.tournament import Tournament

FILE = Path(__file__).with_suffix(".csv")
BACKBONE = "nano"
SETS, SIZES = ("clothing", "chest_xray"), (100, 200, 400)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--sets", nargs="+", default=SETS)
    parser.add_argument("--sizes", nargs="+", default=SIZES, type=int)
    parser.add_argument("--draws", default=170, type=int, help="of each size from each set")
    parser.add_argument("--first", default=0, type=int, help="number of the first draw")
    parser.add_argument("--report", action="store_true")
    arguments = parser.parse_args()
    if not arguments.report:
        there = {(row["data"], int(row["images"]), int(row["draw"])) for row in read_rows(FILE)}
        for data in arguments.sets:
            everything = features(data)
            for draw in range(arguments.first, arguments.first + arguments.draws):
                for size in arguments.sizes:
                    if (data, size, draw) not in there:
                        append_row(FILE, {"data": data, **judge(everything, size, draw)})
    report(read_rows(FILE))


def features(data: str):  # type: ignore[no-untyped-def]
    """Return the examples of a set, and the features of every block."""
    backbone = find_backbone(BACKBONE)
    images = tlkit.scan(Path(os.environ.get("TLKIT_SHARED", "../shared")) / "data" / data / "splits.csv")
    dataset = tlkit.decode_images(images, backbone.size)
    examples = dataset.examples()
    tapped = tlkit.build_classifier(backbone, len(dataset.class_names), head=Head(taps="all"))
    prefix, _ = cut(tapped, backbone, 0)
    found = extract_features(prefix, examples)
    assert found is not None
    return backbone, examples, _by_block(tapped, [np.asarray(rows) for rows in per_output(found)]), tapped


def judge(everything, size: int, draw: int) -> dict[str, object]:  # type: ignore[no-untyped-def]
    backbone, examples, blocks, tapped = everything
    classes = tapped.output_shape[-1]
    order = np.random.default_rng((draw, size)).permutation(len(examples))
    drawn, others, training = order[:size], order[size:], size - size // 5
    labels = examples.labels[drawn]
    folds, how = solving_folds((labels[:training], None), (labels[training:], None), seed=draw)
    table = Table([rows[drawn] for rows in blocks], labels, folds, how, training, classes)
    started = time.monotonic()
    job = Job("data", effort="quick", seed=draw)
    outcome = Tournament(lambda head: tapped, backbone, table, examples.take(drawn), job).run()
    seconds = time.monotonic() - started
    estimate = outcome.estimate
    assert estimate is not None
    taps = outcome.recipe.head.taps
    chosen = range(len(blocks)) if taps == "all" else [block - 1 for block in taps] or [len(blocks) - 1]
    sizes = tuple(blocks[index].shape[1] for index in chosen)
    rows = np.concatenate([blocks[index] for index in chosen], axis=1)
    strength = outcome.recipe.stages[0].strength
    assert strength is not None

    def accuracy(count: int) -> float:
        """Of the head that was fitted on the first images that were drawn."""
        head = solve(rows[drawn[:count]], labels[:count], classes, strength=strength, solver=Solver(sizes=sizes))
        found = head.probabilities(rows[others])
        if outcome.recipe.prior_shift:
            found = without_prior(found, np.bincount(labels[:count], minlength=classes) / count)
        return round(float((found.argmax(1) == examples.labels[others]).mean()), 4)

    return {
        "date": date.today().isoformat(),
        "images": size,
        "draw": draw,
        "estimate": round(estimate.accuracy, 4),
        "low": round(estimate.low, 4),
        "high": round(estimate.high, 4),
        "optimism": round(estimate.optimism, 4),
        "truth": accuracy(size),
        "judged": accuracy(training),
        "unseen": len(others),
        "recipe": outcome.recipe.name,
        "prior_shift": outcome.recipe.prior_shift,
        "seconds": round(seconds, 1),
        "backbone": BACKBONE,
        "spread": CROSS_FITTED_SPREAD,
    }


def report(rows: list[dict[str, str]]) -> None:
    for spread in sorted({float(row["spread"]) for row in rows}):
        print(f"\nIntervals {spread:g} times as wide as for independent images")
        report_of([row for row in rows if float(row["spread"]) == spread])


def report_of(rows: list[dict[str, str]]) -> None:
    names = "data", "labelled images", "draws", "interval holds the truth", "allowing for its own error"
    names = (*names, "holds that of the head that was judged", "estimate minus truth", "correction", "width")
    names = (*names, "gained by the refit")
    print(f"| {' | '.join(names)} |")
    print("| --- " * len(names) + "|")
    for data, size in (*sorted({(row["data"], int(row["images"])) for row in rows}), ("all", 0)):
        chosen = [row for row in rows if data == "all" or (row["data"], int(row["images"])) == (data, size)]
        low, high, truth, estimate, judged, unseen = (
            np.array([float(row[name]) for row in chosen])
            for name in ("low", "high", "truth", "estimate", "judged", "unseen")
        )
        gained, held = truth - judged, (low <= truth) & (truth <= high)
        own = 1.96 * np.sqrt(truth * (1 - truth) / unseen)
        allowed = (truth >= estimate - np.hypot(estimate - low, own)) & (
            truth <= estimate + np.hypot(high - estimate, own)
        )
        plain = [wilson_interval(float(row["estimate"]) * int(row["images"]), int(row["images"])) for row in chosen]
        width = np.mean(high - low) / np.mean([upper - lower for lower, upper in plain])
        optimism = np.mean([float(row["optimism"]) for row in chosen])
        print(
            f"| {data} | {size or 'all'} | {len(held)} | {share(held)} | {share(allowed)} | "
            f"{share((low <= judged) & (judged <= high))} | "
            f"{100 * (estimate - truth).mean():+.2f} ± {100 * (estimate - truth).std():.2f} | {100 * optimism:.2f} | "
            f"{width:.2f} of a binomial interval | "
            f"{100 * gained.mean():+.2f} ± {196 * gained.std() / len(gained) ** 0.5:.2f} |"
        )


def share(held: np.ndarray) -> str:
    """The share that is true, with its 95 % interval."""
    low, high = wilson_interval(int(held.sum()), len(held))
    return f"{held.mean():.1%} ({low:.1%} to {high:.1%})"


if __name__ == "__main__":
    main()
