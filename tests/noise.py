"""Images of noise with labels at random: whoever has learned from one knows its label, and nobody else does."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from PIL import Image

from tests.tiny import tiny_file
from tlkit import Recipe, Stage, finetune
from tlkit.runs.folder import Run

SOLVED = Recipe("solved", stages=(Stage(1, 1e-3, solver="logistic", strength=1e4),))
TRAINED = Recipe("trained", stages=(Stage(2, 1e-2, unfreeze="all"),), batch_size=16)


def write_noise(root: Path, images: int = 80) -> Path:
    """Two classes of as many images each."""
    random = np.random.default_rng(26001)
    for number in range(images):
        folder = root / "ab"[number % 2]
        folder.mkdir(parents=True, exist_ok=True)
        Image.fromarray(random.integers(0, 256, (4, 4, 3)).astype("uint8")).resize((32, 32)).save(
            folder / f"{number}.png"
        )
    return root


def made(noise: Path, out: Path, recipe: Recipe | None = SOLVED, **settings: Any) -> Run:
    return finetune(noise, backbone=tiny_file(), image_size=32, recipe=recipe, out=out, report=False, **settings)


def rows(run: Run, split: str) -> pd.DataFrame:
    """The predictions of a split."""
    table = run.read_table("predictions.csv")
    return table[table["split"] == split]


def right(table: pd.DataFrame, column: str = "prediction") -> float:
    """The share of predictions that are correct."""
    return float((table[column] == table["label"]).mean())
