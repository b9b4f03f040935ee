"""How little changes a run's answers on its test images: `python benchmarks/fooling.py RUN`. See docs/explain.md."""

from __future__ import annotations

import sys

import numpy as np

from tlkit import load_model, open_run
from tlkit.evaluation.fooling import Fooling
from tlkit.runs.reading import decoded, own_part

LEVELS = (1, 2, 4, 8)


def main(folder: str) -> None:
    run = open_run(folder)
    examples = decoded(run, own_part(run, "test")).examples()
    images = examples.pixels.gather(np.arange(len(examples)))
    network = Fooling(load_model(run))
    confidence = np.array([network.answers(one[None].astype("float32")).max() for one in images])
    signs = [network.sign_step(one) for one in images]
    steps = [network.gradient_step(one) for one in images]
    for name, rows in (("all", confidence >= 0), ("99 % sure", confidence >= 0.99)):
        chosen = [one for one, kept in zip(signs, rows, strict=True) if kept]
        shares = [np.mean([one.found and one.amount <= level for one in chosen]) for level in LEVELS]
        print(f"{name}: {len(chosen)} images; another class within", end=" ")
        print(", ".join(f"{level} levels {share:.1%}" for level, share in zip(LEVELS, shares, strict=True)))
        along = [one for one, kept in zip(steps, rows, strict=True) if kept]
        print(f"  x + a w: {sum(one.kept for one in along)} found, median of a |w| and of the mean change:", end=" ")
        print(f"{np.median([one.amount for one in along]):.0f}, {np.median([one.mean for one in along]):.2f} levels")


if __name__ == "__main__":
    main(sys.argv[1])
