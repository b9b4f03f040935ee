"""Are the features of every KerasHub image backbone family KerasHub's own?

    python benchmarks/kerashub.py [FAMILY ...]

Small presets with random weights, written and read without a network. The difference is the largest between tlkit's
pooled features and KerasHub's (the class token, or the mean of the coarsest map), over four random images of 32 pixels.
"refused" is what tlkit says before any training. Appends a dated row per family to benchmarks/kerashub.csv, and exits 1
if a family's features differ.
"""

import sys
import tempfile
from datetime import date
from importlib.metadata import version
from pathlib import Path

from rows import append_row

ROOT = Path(__file__).parent.parent
FILE = Path(__file__).with_suffix(".csv")


def main() -> None:
    sys.path.insert(0, str(ROOT))
    from tests.backbones.kerashub_presets import FAMILIES
    from tests.backbones.test_kerashub import check_features
    from tlkit.errors import WeightsError

    differ = []
    for family in sys.argv[1:] or FAMILIES:
        blocks, difference, outcome = 0, "", "equal"
        with tempfile.TemporaryDirectory() as scratch:
            folder = Path(scratch) / "preset"
            try:
                blocks, largest = check_features(family, folder)
                difference = f"{largest:.1e}"
            except WeightsError as error:
                outcome = "refused: " + str(error).replace(str(folder), "preset")
            except AssertionError as error:
                outcome = "differs: " + str(error).strip().splitlines()[0]
                differ.append(family)
        row = {
            "date": date.today().isoformat(),
            "family": family,
            "outcome": outcome,
            "blocks": blocks,
            "largest_difference": difference,
            "n": 4,
            "keras_hub": version("keras-hub"),
            "keras": version("keras"),
        }
        append_row(FILE, row)
    sys.exit(bool(differ))


if __name__ == "__main__":
    main()
