"""Check that one data set through every source gives the same split, features, predictions and metrics.

    python benchmarks/sources.py [--every 10] [SOURCE ...]

Every n-th image of `clothing` (of `../shared`, or $TLKIT_SHARED) is packed into each source, and given to
`tlkit.finetune` with `nano` at 96 pixels and a solved head, each time with an empty cache; only the export and its
proof are left out. A row per source says what of the run equals, bit for bit, the run of the first row of its pixels:
the folder of the files for the sources that hand over the bytes of files, and a folder of lossless PNGs, as tlkit
itself writes them, for arrays. `same_split`: part and class of every image, by its content. `same_features`: what the
cache of features holds. `same_weights`: the arrays of the delivered network. `same_predictions`: predictions.csv, but
for paths. `same_metrics`: metrics.json, but for seconds and bytes; `same_evaluation`: what `tlkit evaluate` says of the
run on the same source. Remote sources are on fsspec's memory://, and s3:// on the loopback (moto). Rows are appended to
benchmarks/sources.csv; a source that has one of today is passed over.
"""

import argparse
import json
import os
import shutil
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import date
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from packing import PACKED
from PIL import Image
from rows import append_row, read_rows

import tlkit
from tlkit.data.arrays import png_bytes

sys.path.insert(0, str(Path(__file__).parent.parent))
from tests.conftest import leave_out_export

FILE = Path(__file__).with_suffix(".csv")
SHARED = Path(os.environ.get("TLKIT_SHARED", Path(__file__).parent.parent.parent / "shared"))
SIZE = 96
SAME = ("split", "features", "weights", "predictions", "metrics", "evaluation")
MEASURED = ("seconds", "bytes", "milliseconds_an_image")  # of a run's numbers, and differ between equal runs
REMOTE = ("folder", "table", "zip", "tgz", "parquet")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("sources", nargs="*")
    parser.add_argument("--every", type=int, default=10)
    arguments = parser.parse_args()
    done = {row["source"] for row in read_rows(FILE) if row["date"] == date.today().isoformat()}
    with tempfile.TemporaryDirectory() as scratch, s3() as endpoint:
        root = Path(scratch) / "clothing"
        table = _part(root, arguments.every)
        references: dict[str, dict[str, Any]] = {}
        for name, make in _sources(root, table, Path(scratch), endpoint).items():
            reference = "pngs" if name in ("pngs", "arrays") else "files"
            wanted = name in ("folder", "pngs") or (not arguments.sources or name in arguments.sources)
            if not wanted or (name in done and name not in ("folder", "pngs")):
                continue
            started = time.process_time()
            found = _learned(make(), Path(scratch))
            first = references.setdefault(reference, found)
            same = {f"same_{key}": found[key] == first[key] for key in SAME}
            seconds = round(time.process_time() - started, 1)
            row = {"date": date.today().isoformat(), "source": name, "images": found["images"], **same}
            row |= {name: found[name] for name in ("accuracy", "log_loss")}
            if name not in done:
                append_row(FILE, {**row, "cpu_seconds": seconds, "cores": os.cpu_count()})


def _part(root: Path, every: int) -> pd.DataFrame:
    """Copy every n-th image of the data set, in the order of its paths."""
    source = SHARED / "data" / "clothing" / "images"
    rows = []
    for file in sorted(source.glob("*/*"))[::every]:
        path = f"{file.parent.name}/{file.name}"
        (root / file.parent.name).mkdir(parents=True, exist_ok=True)
        shutil.copy(file, root / path)
        rows.append((path, file.parent.name))
    return pd.DataFrame(rows, columns=["path", "label"])


def _sources(root: Path, table: pd.DataFrame, scratch: Path, endpoint: str) -> dict[str, Callable[[], Any]]:
    """How each source is made, by its name. The first of each reference is a folder."""

    def packed(name: str) -> Path:
        (scratch / f"packed {name}").mkdir()
        return PACKED[name](root, table, scratch / f"packed {name}")

    def csv() -> Path:
        table.to_csv(root / "labels.csv", index=False)
        return root / "labels.csv"

    def at(base: str, name: str, **options: Any) -> str:
        import fsspec

        system, path = fsspec.core.url_to_fs(base, **options)
        if name in ("folder", "table"):
            system.put(str(root), f"{path}/clothing", recursive=True)
            if name == "table":
                system.put(str(csv()), f"{path}/clothing/labels.csv")
                return f"{base}/clothing/labels.csv"
            return f"{base}/clothing"
        (scratch / f"{base[:2]} {name}").mkdir()
        file = PACKED[name](root, table, scratch / f"{base[:2]} {name}")
        system.put(str(file), f"{path}/{file.name}")
        return f"{base}/{file.name}"

    def pixels() -> list[np.ndarray]:
        return [np.asarray(Image.open(root / path).convert("RGB")) for path in table["path"]]

    def pngs() -> Path:
        for path, image in zip(table["path"], pixels(), strict=True):
            (scratch / "pngs" / path).parent.mkdir(parents=True, exist_ok=True)
            (scratch / "pngs" / path).with_suffix(".png").write_bytes(png_bytes(image))
        return scratch / "pngs"

    found: dict[str, Callable[[], Any]] = {"folder": lambda: root, "table": csv}
    found |= {name: (lambda name=name: packed(name)) for name in PACKED}
    found |= {f"memory {name}": (lambda name=name: at("memory://bucket", name)) for name in REMOTE}
    if endpoint:
        found |= {f"s3 {name}": (lambda name=name: at("s3://clothes", name)) for name in REMOTE}
    found |= {"pngs": pngs, "arrays": lambda: tlkit.from_arrays(pixels(), list(table["label"]))}
    return found


@contextmanager
def s3() -> Iterator[str]:
    """A server of S3 on the loopback, with an empty bucket. Its address; "" without moto and s3fs."""
    try:
        import boto3
        import s3fs  # noqa: F401
        from moto.server import ThreadedMotoServer
    except ImportError:
        yield ""
        return
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    os.environ |= {
        "AWS_ENDPOINT_URL": f"http://{host}:{port}",
        "AWS_ACCESS_KEY_ID": "key-of-the-test",
        "AWS_SECRET_ACCESS_KEY": "secret-of-the-test",
        "AWS_DEFAULT_REGION": "us-east-1",
    }
    boto3.client("s3", endpoint_url=os.environ["AWS_ENDPOINT_URL"]).create_bucket(Bucket="clothes")
    try:
        yield os.environ["AWS_ENDPOINT_URL"]
    finally:
        server.stop()


def _learned(data: Any, scratch: Path) -> dict[str, Any]:
    """What comes of the data with an empty cache: the parts of a run that must be the same."""
    cache, folder = scratch / "cache", scratch / "run"
    shutil.rmtree(cache, ignore_errors=True)
    os.environ["TLKIT_CACHE"] = str(cache)
    given: dict[str, Any] = {"recipe": "small_similar", "image_size": SIZE, "report": False, "out": folder}
    with pytest.MonkeyPatch.context() as patch:
        leave_out_export(patch)
        run = tlkit.finetune(data, backbone="nano", force=True, **given)
    split = pd.read_csv(folder / "split.csv", dtype={"path": str})
    answers = pd.read_csv(folder / "predictions.csv", dtype=str).merge(split[["path", "sha256"]], on="path")
    metrics = json.loads((folder / "metrics.json").read_text())
    evaluated = tlkit.evaluate_run(run, data)
    return {
        "images": len(split),
        "split": split[["sha256", "label", "split"]].sort_values("sha256").to_csv(index=False),
        "features": _features(cache),
        "weights": [one.tobytes() for one in run.model.get_weights()],
        "predictions": answers.drop(columns="path").sort_values("sha256").to_csv(index=False),
        "metrics": _unmeasured(metrics),
        "evaluation": _unmeasured(evaluated),
        "accuracy": metrics["validation"]["accuracy"],
        "log_loss": metrics["validation"]["log_loss"],
    }


def _features(cache: Path) -> dict[tuple[str, str], bytes]:
    """Every row of features in a cache, by its entry and the image's key."""
    found = {}
    for file in cache.glob("features/*/*.npy"):
        keys = json.loads(file.with_suffix(".json").read_text())["keys"]
        found |= {(file.parent.name, key): row.tobytes() for key, row in zip(keys, np.load(file), strict=True)}
    assert found
    return found


def _unmeasured(value: Any) -> Any:
    """JSON values without seconds, and without what names the source."""
    if isinstance(value, dict):
        return {key: _unmeasured(one) for key, one in value.items() if key not in MEASURED}
    return [_unmeasured(one) for one in value] if isinstance(value, list) else value


if __name__ == "__main__":
    sys.exit(main())
