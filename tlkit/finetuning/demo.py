"""A first run without a download: scikit-learn's handwritten digits, and the backbone that comes with tlkit."""

from __future__ import annotations

from pathlib import Path

from tlkit.disk import check_writable
from tlkit.errors import RunError
from tlkit.files import temporary_beside
from tlkit.finetuning.finetune import finetune
from tlkit.folders import PLAN, own_manifest
from tlkit.progress import log
from tlkit.runs.folder import Run


def write_digits(folder: str | Path, per_class: int | None = None) -> Path:
    """Write scikit-learn's digits (1,797 scans of 8 x 8 pixels, 10 classes), one folder per digit. Returns the folder.

    They are written as PNG files, enlarged to 32 x 32 pixels. Files that exist already are kept.
    per_class: images of each digit, default all.

    Source: E. Alpaydin, C. Kaynak 1998, Optical Recognition of Handwritten Digits, UCI, doi 10.24432/C50P49, CC BY 4.0.
    """
    import numpy as np
    from PIL import Image
    from sklearn.datasets import load_digits

    digits = load_digits()
    written = [0] * 10
    for number, (pixels, label) in enumerate(zip(digits.images, digits.target, strict=True)):
        if per_class is not None and written[label] >= per_class:
            continue
        written[label] += 1
        file = Path(folder) / str(label) / f"{number:04d}.png"
        if not file.exists():
            file.parent.mkdir(parents=True, exist_ok=True)
            image = Image.fromarray((pixels * 255 / 16).astype(np.uint8)).convert("RGB")
            with temporary_beside(file, durable=False) as temporary:
                image.resize((32, 32), Image.Resampling.BICUBIC).save(temporary)
    return Path(folder)


def demo(folder: str | Path = "tlkit-demo") -> Run:
    """Write the digits to `folder`/digits, and fine-tune `nano` on them in `folder`/run.

    An earlier demo's run is replaced. Raises RunError if `folder`/run is anything else.
    """
    out, data = Path(folder) / "run", Path(folder) / "digits"
    earlier = Run(out).plan.job.data if own_manifest(out, PLAN) else data
    if Path(str(earlier)).resolve() != data.resolve():
        raise RunError(f"'{out}' holds a run on other data, '{earlier}'. Give the demo another `out`.")
    check_writable(data, makes_folders=True)
    write_digits(data)
    log.info(f"wrote scikit-learn's 1,797 handwritten digits to {data}/0 to {data}/9\n")
    recipe = "large_similar"  # the default's tournament would take a minute more
    run = finetune(data, backbone="nano", recipe=recipe, out=out, force=True)
    log.info("\nWith your own images, one folder per class:\n  tlkit inspect FOLDER\n  tlkit finetune FOLDER")
    log.info(f"With the model for digits:\n  tlkit predict {run.folder} {data}/7\n  tlkit evaluate {run.folder}")
    return run
