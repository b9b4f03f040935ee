"""The example page that classifies in a browser: it makes the pixels of training, and answers as the export does."""

from __future__ import annotations

import base64
import contextlib
import functools
import http.server
import io
import os
import shutil
import subprocess
import tarfile
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

import tlkit
from tlkit.data.preprocessing import preprocessing

EXAMPLE = Path(__file__).parent.parent / "examples" / "browser"
SIZE = 32

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not shutil.which("chromium"), reason="there is no chromium"),
]


@contextlib.contextmanager
def served(folder: Path) -> Iterator[str]:
    class Quiet(http.server.SimpleHTTPRequestHandler):
        def log_message(self, *words: Any) -> None:
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(Quiet, directory=folder)) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


@contextlib.contextmanager
def a_page(said: list[str] | None = None) -> Iterator[Any]:
    from playwright.sync_api import sync_playwright

    with sync_playwright() as tool:
        browser = tool.chromium.launch(executable_path=shutil.which("chromium"), args=["--no-sandbox", "--disable-gpu"])
        page = browser.new_page(viewport={"width": 390, "height": 800})
        heard: list[str] = [] if said is None else said
        page.on("console", lambda message: heard.append(message.text))
        page.on("pageerror", lambda error: heard.append(str(error)))
        yield page
        browser.close()


def pictures() -> dict[str, bytes]:
    """Images of other shapes and formats, wide and high, larger and smaller than the model's."""
    random, found = np.random.default_rng(0), {}
    for name, shape in {"wide.png": (45, 71, 3), "high.png": (51, 20, 4), "grey.png": (33, 300)}.items():
        file = io.BytesIO()
        Image.fromarray(random.integers(0, 256, shape, dtype="uint8")).save(file, "png")
        found[name] = file.getvalue()
    file = io.BytesIO()
    y, x = np.mgrid[:90, :120]
    Image.fromarray(np.stack([x * 2, y * 2, x + y], axis=2).astype("uint8")).save(file, "jpeg", quality=92)
    found["smooth.jpg"] = file.getvalue()
    return found


@pytest.mark.parametrize("fit", ["squash", "crop", "pad"])
def test_the_page_makes_the_pixels_of_training(fit: str, tmp_path: Path) -> None:
    rule = preprocessing(SIZE, fit)
    with served(EXAMPLE) as address, a_page() as page:
        page.goto(f"{address}/classify.js")
        for name, data in pictures().items():
            (tmp_path / name).write_bytes(data)
            given = [base64.b64encode(data).decode(), rule]
            found = page.evaluate(
                """async ([data, rule]) => {
                    const { preprocess } = await import("./classify.js");
                    const bytes = Uint8Array.from(atob(data), (one) => one.charCodeAt(0));
                    return [...await preprocess(new Blob([bytes]), rule)];
                }""",
                given,
            )
            expected = tlkit.preprocess(tmp_path / name, rule)
            difference = np.abs(np.array(found).reshape(SIZE, SIZE, 3) - expected)
            assert difference.max() <= 2 and difference.mean() < 0.2, (name, difference.max(), difference.mean())


@pytest.fixture(scope="session")
def runtime(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """ONNX Runtime Web: of $ONNXRUNTIME_WEB, a folder, or from the npm registry."""
    given = os.environ.get("ONNXRUNTIME_WEB")
    if given:
        return Path(given)
    if not shutil.which("npm"):
        pytest.skip("there is no npm to fetch onnxruntime-web with")
    folder = tmp_path_factory.mktemp("npm")
    done = subprocess.run(["npm", "pack", "onnxruntime-web"], cwd=folder, capture_output=True, timeout=120, check=False)
    if done.returncode:
        pytest.skip("onnxruntime-web cannot be fetched from the npm registry")
    with tarfile.open(next(folder.glob("*.tgz"))) as archive:
        archive.extractall(folder, filter="data")
    return folder / "package" / "dist"


@pytest.mark.long
def test_the_page_answers_as_the_export_does(trained: Path, runtime: Path, tmp_path: Path) -> None:
    site = tmp_path / "site"
    shutil.copytree(EXAMPLE, site)
    shutil.copytree(runtime, site / "ort")
    tlkit.export_run(trained, site / "model", target="onnx")
    files = [file for file, _ in zip(sorted(tlkit.open_run(trained).data_root.rglob("*.png")), range(4), strict=False)]
    expected, said = tlkit.predict(trained, files), []
    (tmp_path / "words.png").write_text("no image")
    with served(site) as address, a_page(said) as page:
        page.goto(f"{address}/index.html")
        page.wait_for_selector("body[data-ready]", timeout=30_000)
        page.set_input_files("#files", [*map(str, files), str(tmp_path / "words.png")])
        page.wait_for_function("document.querySelectorAll('figure table').length === 4", timeout=30_000)
        page.wait_for_selector("figure [role=alert]")
        rows = page.evaluate(
            "[...document.querySelectorAll('figure table')].map((t) => [...t.rows[0].cells].map((c) => c.innerText))"
        )
        assert page.evaluate("document.documentElement.scrollWidth") <= 390
    assert not said, said
    for (name, _, share), (_, row) in zip(reversed(rows), expected.iterrows(), strict=True):
        assert name == row["prediction"]
        assert abs(float(share.rstrip(" %")) / 100 - row["probability"]) < 0.02
