"""The main job in one call.

    python examples/one_call.py [DATA] [BACKBONE]

Without DATA it runs on scikit-learn's digits with random weights, so that it works with no network: the network is then trained
from nothing, which is no transfer. With your own DATA it transfers ImageNet weights.
"""

import sys
from pathlib import Path

from digits import write_digits

from tlkit import finetune

if len(sys.argv) > 1:
    run = finetune(sys.argv[1], backbone=sys.argv[2] if len(sys.argv) > 2 else None, say=print)
else:
    data = write_digits(Path("digits"), per_class=120)
    run = finetune(
        data,
        backbone="mobilenet_0.25",
        weights="none",
        image_size=32,
        recipe="large_different",
        epochs=8,
        say=print,
    )
print(f"validation accuracy {run.metrics['validation']['accuracy']:.3f}")
