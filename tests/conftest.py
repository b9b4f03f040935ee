"""Small drawn image folders, a separate cache for tests, and real weights and data where available."""

from __future__ import annotations

import contextlib
import gc
import logging
import os

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
os.environ.setdefault("NO_ALBUMENTATIONS_UPDATE", "1")
# the workers share the cores, so more threads in each would only wait for one another
if "PYTEST_XDIST_WORKER" in os.environ:
    for library in ("TF_NUM_INTRAOP_THREADS", "OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS"):
        os.environ.setdefault(library, "1")

import shutil
import signal
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from tests.tiny import tiny_file

gc.disable()  # until the tests are collected, see `pytest_collection_finish`

SHARED = Path(os.environ.get("TLKIT_SHARED", Path(__file__).parent.parent.parent / "shared"))
COLOURS = {"blue": (30, 40, 220), "green": (30, 200, 40), "red": (220, 40, 30)}


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Run the tests of a file, and of all files that share the trained run or a cluster, in one worker: once each."""
    sharing = {
        name: {item.path for item in items if name in getattr(item, "fixturenames", ())}
        for name in ("ray_cluster", "trained")
    }
    for item in items:
        group = next((name for name, paths in sharing.items() if item.path in paths), item.path.name)
        item.add_marker(pytest.mark.xdist_group(group))


def pytest_make_parametrize_id(val: object, argname: str) -> str | None:
    """Name a test after the length of a long text or of many bytes: of 32 MiB, the name itself would have 128 MiB."""
    return f"{argname} of {len(val)}" if isinstance(val, str | bytes) and len(val) > 200 else None


def pytest_collection_finish() -> None:
    """Leave out of each later search for garbage the millions of objects that the imports made.

    `keras.backend.clear_session` collects garbage, which took a third of a second each time.
    """
    gc.freeze()
    gc.enable()


@pytest.fixture(scope="session", autouse=True)
def _own_cache(tmp_path_factory: pytest.TempPathFactory) -> None:
    """Use temporary caches, so that no test reads or writes the user's."""
    os.environ["TLKIT_CACHE"] = str(tmp_path_factory.mktemp("cache"))
    os.environ["KERAS_HOME"] = str(tmp_path_factory.mktemp("keras"))


@pytest.fixture(scope="session", autouse=True)
def _one_process_proves() -> Iterator[None]:
    """Prove the exports of `finetune`, `ensemble` and `adapt` in one process, instead of starting one for each."""
    from tests.shared_process import SharedProcess

    patch = pytest.MonkeyPatch()
    for module in ("tlkit.finetuning.finetune", "tlkit.runs.ensemble", "tlkit.runs.adapt"):
        patch.setattr(f"{module}.FreshProcess", SharedProcess)
    yield
    patch.undo()
    SharedProcess.end()


def draw(colour: tuple[int, int, int], seed: int, size: int = 40) -> Image.Image:
    """A square of one colour with noise and a brighter disc; every seed gives another image."""
    rng = np.random.default_rng(seed)
    pixels = np.array(colour) + rng.integers(-25, 25, (size, size, 3))
    y, x = np.mgrid[:size, :size]
    disc = (x - rng.integers(10, size - 10)) ** 2 + (y - rng.integers(10, size - 10)) ** 2 < 40
    pixels[disc] += 60
    return Image.fromarray(pixels.clip(0, 255).astype("uint8"))


def write_folder(root: Path, per_class: int = 8, classes: tuple[str, ...] = tuple(COLOURS), start: int = 0) -> Path:
    for index, name in enumerate(classes):
        (root / name).mkdir(parents=True, exist_ok=True)
        for i in range(per_class):
            draw(COLOURS[name], start + 1000 * index + i).save(root / name / f"{i:03d}.png")
    return root


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """3 classes of 8 images, 40 x 40 pixels."""
    return write_folder(tmp_path / "data")


@pytest.fixture(scope="session")
def tiny() -> dict[str, Any]:
    """Settings for `finetune` with a backbone so small that a run takes seconds."""
    return {"backbone": tiny_file(), "image_size": 32}


@pytest.fixture(autouse=True)
def _unreported(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Skip the report of `finetune`, which takes seconds, except in tests that ask for `reported`."""
    if "reported" not in request.fixturenames:
        monkeypatch.setattr("tlkit.finetuning.deliver.analyse", lambda inputs, **settings: None)
        monkeypatch.setattr(
            "tlkit.finetuning.deliver.write_report", lambda material, *looked, **settings: Path("report.html")
        )


@pytest.fixture(scope="session")
def ray_cluster() -> Iterator[None]:
    """A Ray cluster of two workers on this machine, shared by all tests that need one."""
    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
    ray = pytest.importorskip("ray")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        before = signal.getsignal(signal.SIGTERM)  # Ray takes its place, and other tests of this process need it
        ray.init(address="local", include_dashboard=False, num_cpus=2, object_store_memory=200_000_000)
        signal.signal(signal.SIGTERM, before)
    yield
    ray.shutdown()


@pytest.fixture
def reported() -> None:
    """Let `finetune` write its report."""


@pytest.fixture
def said() -> Iterator[list[str]]:
    """The lines that tlkit logs during the test."""
    lines: list[str] = []
    log, handler = logging.getLogger("tlkit"), logging.Handler()
    handler.emit = lambda record: lines.append(record.getMessage())  # type: ignore[method-assign]
    level = log.level
    log.addHandler(handler)
    log.setLevel(logging.INFO)
    yield lines
    log.removeHandler(handler)
    log.setLevel(level)


def leave_out_export(monkeypatch: pytest.MonkeyPatch) -> None:
    """Skip the export and its proof in `finetune` and `ensemble`; they take most of a short run."""

    def export(model: object, class_names: object, folder: Path, **settings: object) -> Path:
        folder.mkdir(exist_ok=True)
        return folder

    proof = {"n": 0, "top1_agreement": 1.0, "max_difference": 0.0, "limit": 1e-5}
    proof |= {"asked_again": 0, "evaluated_difference": 0.0, "within_limit": True}
    monkeypatch.setattr("tlkit.finetuning.deliver.export_served", lambda model, to, serving: export(model, (), to))
    monkeypatch.setattr("tlkit.runs.ensemble.export", export)
    for module in ("tlkit.finetuning.deliver", "tlkit.runs.ensemble"):
        monkeypatch.setattr(f"{module}.prove_parity", lambda *a: proof)
    for module in ("tlkit.finetuning.finetune", "tlkit.runs.ensemble"):
        monkeypatch.setattr(f"{module}.FreshProcess", contextlib.nullcontext)


@pytest.fixture
def unserved(monkeypatch: pytest.MonkeyPatch) -> None:
    """Skip the export and its proof, see `leave_out_export`."""
    leave_out_export(monkeypatch)


@pytest.fixture(scope="session")
def shared() -> Path:
    if not (SHARED / "data").is_dir():
        pytest.skip(f"the real data sets are not at '{SHARED}' (set TLKIT_SHARED)")
    return SHARED


@pytest.fixture
def imagenet(shared: Path, monkeypatch: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Real ImageNet weights in a Keras cache of this test."""
    home = tmp_path_factory.mktemp("keras-home")
    shutil.copytree(shared / "weights" / "keras" / "models", home / "models")
    for file in (home / "models").iterdir():
        file.chmod(0o644)
    monkeypatch.setenv("KERAS_HOME", str(home))
    return home


@pytest.fixture(scope="session")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run of a tiny backbone on drawn images, shared by the tests that only read one."""
    from tlkit import Recipe, Stage, finetune

    base = tmp_path_factory.mktemp("trained")
    data = write_folder(base / "data", per_class=16)
    recipe = Recipe("test", stages=(Stage(epochs=40, learning_rate=5e-2),), batch_size=12)
    finetune(data, backbone=tiny_file(), image_size=32, out=base / "run", recipe=recipe, report=False)
    return base / "run"
