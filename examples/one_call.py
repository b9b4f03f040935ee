"""Fine-tune, evaluate and export in one call.

    python examples/one_call.py [DATA [BACKBONE]]

Without DATA, it uses scikit-learn's handwritten digits and the backbone `nano`, and downloads nothing.
"""

import logging
import sys
from pathlib import Path

from tlkit import finetune, write_digits

logging.basicConfig(level=logging.INFO, format="%(message)s")  # shows what tlkit does
if len(sys.argv) > 1:
    run = finetune(sys.argv[1], backbone=sys.argv[2] if len(sys.argv) > 2 else None)
else:
    run = finetune(write_digits(Path("digits"), per_class=50), backbone="nano")
print(f"validation accuracy {run.metrics['validation']['accuracy']:.3f}")
