"""How much of what corruptions cost does `tlkit adapt` win back with 64 images, and what does it lose without a shift?

    TLKIT_SHARED=folder python benchmarks/adapt.py [--data NAME ...] [--backbone NAME] [--severity N ...]

The runs of benchmarks/check.py. Test images are corrupted by each kind of `tlkit.data.corruptions`; 64 of them, drawn
at random, adapt the run without labels, and all others, at most 128, judge it: as it was, as `adapt` delivers it (its
gate may hold the adaptation back), with the adaptation forced, and, with --mixed, with the statistics mixed as in
Schneider et al. 2020, which takes the network's stored statistics for those of the source. Unshifted images are drawn
five times.

Appends a row per cell to benchmarks/adapt.csv, and skips those that are there.
"""

import argparse
import tempfile
from pathlib import Path

import check
import numpy as np
from rows import append_row, read_rows

FILE = Path(__file__).with_suffix(".csv")
GIVEN = 64
JUDGES = 128
DRAWS = 5


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", nargs="+", default=list(check.RECIPES))
    parser.add_argument("--backbone", default="mobilenetv2_0.35")
    parser.add_argument("--image-size", type=int, default=128)
    parser.add_argument("--severity", nargs="+", type=int, default=[3, 1])
    parser.add_argument("--mixed", action="store_true")
    parser.add_argument("--runs", help="folder in which the runs are kept; default a temporary one")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        for data in arguments.data:
            folder = Path(arguments.runs or scratch) / f"{data}-{arguments.backbone}"
            measure(check.run_of(data, folder, arguments), data, arguments)


def measure(run, data: str, arguments: argparse.Namespace) -> None:
    from tlkit.data.corruptions import CORRUPTIONS
    from tlkit.runs.adapt import moments_of
    from tlkit.runs.basis import basis_of
    from tlkit.runs.reading import decoded, load_model, own_part

    cells = [("unchanged", 0, draw) for draw in range(DRAWS)]
    cells += [(kind, severity, 0) for severity in arguments.severity for kind in CORRUPTIONS]
    names = ("data", "backbone", "corruption", "severity", "draw")
    there = {tuple(row[name] for name in names) for row in read_rows(FILE)}
    missing = [one for one in cells if (data, arguments.backbone, *map(str, one)) not in there]
    if not missing:
        return
    basis = basis_of(run)
    test = decoded(run, own_part(run, "test")).examples()
    model = load_model(run)
    moments = moments_of(basis, model)
    for what in missing:
        row = cell(basis, (model, moments), test, what, arguments.mixed)
        append_row(FILE, {**check.about(data, arguments), **row})


def cell(basis, model_and_moments, test, what: tuple[str, int, int], also_mixed: bool) -> dict[str, object]:
    from tlkit.cache import in_memory
    from tlkit.data.corruptions import corrupt
    from tlkit.data.examples import Examples
    from tlkit.models.adapt import adapt_statistics
    from tlkit.runs.adapt import adapted

    (model, moments), (kind, severity, draw) = model_and_moments, what
    rows = np.random.default_rng(draw).permutation(len(test))[: GIVEN + JUDGES]
    images, labels = test.pixels.gather(rows), test.labels[rows]
    if severity:
        images = corrupt(images, kind, severity, seed=1)
    keys = [f"{test.keys[row]}-{kind}-{severity}" for row in rows[:GIVEN]]
    given = Examples(in_memory(images[:GIVEN]), labels[:GIVEN], keys, made_by=f"{test.made_by}-corrupted-1")
    judges, truth = images[GIVEN:], labels[GIVEN:]
    weights = model.get_weights()
    plain = accuracy(model, judges, truth)
    _, found = adapted(basis, given, model=model, moments=moments)
    delivered = accuracy(model, judges, truth) if found.helps else plain
    forced = delivered
    if not found.statistics or found.priors is not None:
        model.set_weights(weights)
        adapt_statistics(model, moments, images[:GIVEN])
        forced = accuracy(model, judges, truth)
    model.set_weights(weights)
    mixed: object = ""
    if also_mixed:
        adapt_statistics(model, stored(model), images[:GIVEN])
        mixed = round(accuracy(model, judges, truth), 4)
        model.set_weights(weights)
    return {
        "corruption": kind,
        "severity": severity,
        "draw": draw,
        "n_given": GIVEN,
        "n": len(truth),
        "accuracy": round(plain, 4),
        "adapted": round(delivered, 4),
        "forced": round(forced, 4),
        "mixed": mixed,
        "layers": found.statistics,
        "priors": int(found.priors is not None),
        "estimate_before": round(found.before.value, 4),
        "estimate_after": "" if found.after is None else round(found.after.value, 4),
        "drift_found": int(any(one.found for one in found.drift)),
    }


def stored(model):
    """The statistics that the network holds, as if they were those of the run's own images."""
    from tlkit.models.adapt import Moments, statistics_of

    return {name: Moments(mean.astype(float), variance.astype(float)) for name, mean, variance in statistics_of(model)}


def accuracy(model, images: np.ndarray, labels: np.ndarray) -> float:
    return float((model.predict(images, batch_size=GIVEN, verbose=0).argmax(1) == labels).mean())


if __name__ == "__main__":
    main()
