"""The main job in one call.

    python examples/one_call.py [DATA [BACKBONE]]

Without DATA it runs on scikit-learn's handwritten digits with the backbone `nano`: nothing is downloaded.
"""

import logging
import sys
from pathlib import Path

from tlkit import finetune, write_digits

logging.basicConfig(level=logging.INFO, format="%(message)s")  # what tlkit does, line by line
if len(sys.argv) > 1:
    run = finetune(sys.argv[1], backbone=sys.argv[2] if len(sys.argv) > 2 else None)
else:
    run = finetune(write_digits(Path("digits"), per_class=50), backbone="nano")
print(f"validation accuracy {run.metrics['validation']['accuracy']:.3f}")
