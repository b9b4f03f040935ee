"""Ask every export with its own client.py, and with Node, OpenCV, OpenVINO and JAX, for 200 real images.

    python benchmarks/clients.py [--count 200] [--size 128] [--venvs FOLDER] [--fits FIT ...]

The model is MobileNetV2 0.35 with a logistic head, fitted to 600 training images of clothing. It is exported with each
fit and asked about `count` test images of all five development sets, so most are unlike what it knows, and its
probabilities lie between 0 and 1. The files are made from these images, by their number modulo 8: as they are; as a
JPEG of about 12 megapixels; turned by Exif; as a transparent PNG; as a grey JPEG; as a JPEG of 1444 pixels; as a narrow
strip; as a WebP.

The client.py of each export, and the programs in its README.md, run in a virtual environment with nothing but Pillow,
NumPy and the runtime, and are compared with `tlkit.predict` of the same export; `parity` compares that with the model.
Continues where it stopped. Environments are made below --venvs, and
`node_modules` too. Appends a row for each stack, format and fit to benchmarks/clients.csv. `pixels` is the largest
difference of `tlkit.preprocess` from the exported graph, in levels of 255.
"""

import argparse
import csv
import io
import json
import os
import re
import subprocess
import sys
import tempfile
from datetime import date
from pathlib import Path

from rows import append_row

FILE = Path(__file__).with_suffix(".csv")
FITS = ("squash", "crop", "pad")
CALIBRATED = 256  # images that the converter of 8-bit integers sees, as for `tlkit export`
SETS = ("cats_dogs", "clothing", "blood_cells", "chest_xray", "latin_letters")
PACKAGES = {  # virtual environment -> what is installed in it beside Pillow and NumPy
    "onnx": ["onnxruntime"],
    "litert": ["ai-edge-litert"],
    "openvino": ["openvino"],
    "cv": ["opencv-python-headless"],
    "jax": ["keras", "jax"],
    "tf": ["tensorflow-cpu"],
}
STACKS = (  # name, format, layout, environment, program
    ("client.py", "savedmodel", "nhwc", "tf", "client"),
    ("client.py", "onnx", "nhwc", "onnx", "client"),
    ("client.py", "onnx", "nchw", "onnx", "client"),
    ("client.py", "litert", "nhwc", "litert", "client"),
    ("client.py", "litert-float16", "nhwc", "litert", "client"),
    ("client.py", "litert-int8", "nhwc", "litert", "client"),
    ("client.py", "openvino", "nhwc", "openvino", "client"),
    ("client.py, JAX", "keras", "nhwc", "jax", "client"),
    ("Node, sharp", "onnx", "nhwc", "node", "js"),
    ("Node, sharp", "onnx", "nchw", "node", "js"),
    ("OpenCV", "onnx", "nhwc", "cv", "python opencv"),
    ("OpenCV", "onnx", "nchw", "cv", "python opencv"),
    ("OpenVINO", "onnx", "nhwc", "openvino", "python openvino"),
    ("OpenVINO", "litert", "nhwc", "openvino", "python openvino"),
)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--count", type=int, default=200)
    parser.add_argument("--size", type=int, default=128)
    parser.add_argument("--venvs", type=Path, default=Path("build/clients"))
    parser.add_argument("--fits", nargs="*", default=list(FITS))
    arguments = parser.parse_args()
    shared = Path(os.environ.get("TLKIT_SHARED", "../shared")) / "data"
    with tempfile.TemporaryDirectory() as scratch:
        files = write_images(shared, arguments.count, Path(scratch) / "images")
        known = {tuple(row[n] for n in ("stack", "format", "layout", "fit")) for row in stored()}
        model, names, seen = trained(shared, arguments.size, 600)
        for fit in arguments.fits:
            for row in measure(model, names, seen, fit, files, arguments.venvs.resolve(), Path(scratch) / fit, known):
                append_row(FILE, row)
                print(row, flush=True)


def stored() -> list[dict[str, str]]:
    """The rows of the table that are there already; they are not measured again."""
    if not FILE.is_file():
        return []
    with FILE.open(newline="", encoding="utf-8") as stream:
        return list(csv.DictReader(stream))


def write_images(shared: Path, count: int, folder: Path) -> list[Path]:
    import pandas as pd

    folder.mkdir()
    written = []
    for name in SETS:
        table = pd.read_csv(shared / name / "splits.csv")
        paths = table[table["split"] == "test"]["path"].sample(-(-count // len(SETS)), random_state=1)
        for path in paths:
            data, suffix = changed(shared / name / path, len(written))
            written.append(folder / f"{len(written):03d}-{name}{suffix}")
            written[-1].write_bytes(data)
    return written[:count]


def changed(file: Path, number: int) -> tuple[bytes, str]:
    from PIL import Image

    image, out = Image.open(file).convert("RGB"), io.BytesIO()
    width, height = image.size
    kind, bicubic = number % 8, Image.Resampling.BICUBIC
    if kind == 0:
        return file.read_bytes(), file.suffix
    if kind in (1, 5):
        scale = (12e6 / (width * height)) ** 0.5 if kind == 1 else 1444 / max(width, height)
        image.resize((round(width * scale), round(height * scale)), bicubic).save(out, "JPEG", quality=90)
    elif kind == 2:
        exif = Image.Exif()
        exif[0x0112] = 2 + number // 8 % 7
        image.save(out, "JPEG", quality=90, exif=exif)
    elif kind == 3:
        image.putalpha(Image.radial_gradient("L").resize(image.size))
        image.save(out, "PNG")
    elif kind == 4:
        image.convert("L").save(out, "JPEG", quality=90)
    elif kind == 6:
        image.crop((0, 0, max(width // 4, 1), height)).save(out, "JPEG", quality=90)
    else:
        image.save(out, "WEBP", quality=90)
    return out.getvalue(), {3: ".png", 7: ".webp"}.get(kind, ".jpg")


def trained(shared: Path, size: int, count: int):  # type: ignore[no-untyped-def]
    """MobileNetV2 0.35 with a logistic head, fitted to `count` images of clothing; its class names; these pixels."""
    import keras
    import numpy as np
    import pandas as pd
    from sklearn.linear_model import LogisticRegression

    import tlkit
    from tlkit.data.preprocessing import preprocessing

    table = pd.read_csv(shared / "clothing" / "splits.csv")
    table = table[table["split"] == "train"].sample(count, random_state=0)
    names, labels = np.unique(table["label"], return_inverse=True)
    rule = preprocessing(size, "squash")
    pixels = np.stack([tlkit.preprocess(shared / "clothing" / path, rule) for path in table["path"]])
    model = tlkit.build_classifier("mobilenetv2_0.35", len(names), image_size=size)
    features = keras.Model(model.input, model.get_layer("head_features").output).predict(pixels, verbose=0)
    head = LogisticRegression(C=0.1, max_iter=1000).fit(features, labels)
    model.get_layer("predictions").set_weights([head.coef_.T, head.intercept_])
    return model, names.tolist(), pixels


def measure(model, names, seen, fit, files, venvs, scratch, known=frozenset()):  # type: ignore[no-untyped-def]
    import numpy as np

    import tlkit
    from tlkit.data.preprocessing import preprocessing
    from tlkit.deployment.exported import decoded_pixels
    from tlkit.deployment.parity import prove_target

    size = int(model.input_shape[1])
    graph = np.stack([decoded_pixels(file.read_bytes(), size, fit) for file in files])
    rule = preprocessing(size, fit)
    reference = np.stack([tlkit.preprocess(file, rule) for file in files])
    levels = int(np.abs(graph.astype(int) - reference).max())
    own = model.predict(graph, verbose=0)
    folders = {("savedmodel", "nhwc"): tlkit.export(model, names, scratch / "savedmodel", fit=fit)}
    table = tlkit.predict(folders["savedmodel", "nhwc"], files, top=len(names))
    expected = by_class(table, names)
    assert not (table["problem"] != "").any() and np.abs(own - expected).max() < 1e-4
    for stack, target, layout, environment, program in STACKS:
        if (stack, target, layout, fit) in known:
            continue
        if (target, layout) not in folders:
            folders[target, layout] = tlkit.write_target(
                model,
                names,
                scratch / f"{target}-{layout}",
                target,
                fit={**rule, "layout": layout.upper()},
                representative=seen[:CALIBRATED] if target == "litert-int8" else None,
            )
        folder = folders[target, layout]
        # forced: how far 8-bit integers are from the model is in `parity`, and here most images are unlike its own
        proof = {} if target == "savedmodel" else prove_target(folder, graph, own, own.argmax(1), force=True)
        answers, versions = ask(folder, files, venvs, environment, program)
        expected = by_class(tlkit.predict(folder, files, top=len(names)), names)
        found = np.array([[one["probabilities"][name] for name in names] for one in answers])
        differences, checked = np.abs(found - expected).max(1), ""
        if program == "client":
            asked = [*command(folder, venvs, environment, program), "--check"]
            checked = subprocess.run(asked, env=clean(), capture_output=True).returncode == 0
        yield {
            "date": date.today().isoformat(),
            "stack": stack,
            "format": target,
            "layout": layout,
            "fit": fit,
            "image_size": size,
            "n": len(files),
            "same_class": int((found.argmax(1) == expected.argmax(1)).sum()),
            "max_difference": f"{differences.max():.1e}",
            "median_difference": f"{np.median(differences):.1e}",
            "worst": files[int(differences.argmax())].name,
            "check": checked,
            "pixels": levels,
            "parity": f"{proof['max_difference']:.1e}" if proof else "",
            "megabytes": round(proof["bytes"] / 1e6, 2) if proof else "",
            "ms": proof["milliseconds_an_image"] if proof else "",
            "mean_confidence": round(float(expected.max(1).mean()), 3),
            "versions": versions,
        }


def by_class(table, classes):  # type: ignore[no-untyped-def]
    from targets import by_class as of_targets

    return of_targets(table, classes)


def ask(folder: Path, files: list[Path], venvs: Path, environment: str, program: str) -> tuple[list[dict], str]:
    versions = prepare(venvs, environment)
    if program != "client":
        name = "classify.mjs" if program == "js" else "program.py"
        code = re.search(f"```{program}\n(.*?)```", (folder / "README.md").read_text(encoding="utf-8"), re.DOTALL)
        assert code is not None, f"README.md of {folder} has no lines for {program}"
        (folder / name).write_text(code[1], encoding="utf-8")
        if program == "js" and not (folder / "node_modules").exists():
            (folder / "node_modules").symlink_to(venvs / "node" / "node_modules")
    done = subprocess.run(
        [*command(folder, venvs, environment, program), *map(str, files)],
        cwd=folder,
        env=clean(),
        capture_output=True,
        text=True,
    )
    answers = [json.loads(line) for line in done.stdout.splitlines() if line.startswith("{")]
    if len(answers) != len(files) or any(not one["probabilities"] for one in answers):
        raise RuntimeError(f"{program} in {environment}: {done.stdout[-500:]} {done.stderr[-2000:]}")
    return answers, versions


def command(folder: Path, venvs: Path, environment: str, program: str) -> list[str]:
    if program == "js":
        return ["node", "classify.mjs"]
    file = folder / ("client.py" if program == "client" else "program.py")
    return [str(venvs / f"v-{environment}" / "bin" / "python"), str(file)]


def clean() -> dict[str, str]:
    """Environment variables without those that would let tlkit in."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("PYTHON", "VIRTUAL_ENV"))}
    return {**kept, "KERAS_BACKEND": "jax", "TF_CPP_MIN_LOG_LEVEL": "3"}


def prepare(venvs: Path, environment: str) -> str:
    """Make an environment if it is not there yet; return the versions in it."""
    if environment == "node":
        folder = venvs / "node"
        if not (folder / "node_modules").is_dir():
            folder.mkdir(parents=True, exist_ok=True)
            subprocess.run(["npm", "install", "--prefix", str(folder), "onnxruntime-web", "sharp"], check=True)
        packages = {
            name: json.loads((folder / "node_modules" / name / "package.json").read_text())["version"]
            for name in ("onnxruntime-web", "sharp")
        }
        return " ".join(f"{name} {version}" for name, version in packages.items())
    folder = venvs / f"v-{environment}"
    python = str(folder / "bin" / "python")
    if not folder.is_dir():
        subprocess.run([sys.executable, "-m", "venv", str(folder)], check=True)
        subprocess.run([python, "-m", "pip", "install", "-q", "pillow", "numpy", *PACKAGES[environment]], check=True)
    listed = subprocess.run([python, "-m", "pip", "list", "--format=json"], capture_output=True, text=True, check=True)
    wanted = {*PACKAGES[environment], "pillow", "numpy"}
    found = {one["name"].lower().replace("_", "-"): one["version"] for one in json.loads(listed.stdout)}
    assert "tlkit" not in found and (environment == "tf" or "tensorflow" not in found)
    return " ".join(f"{name} {found[name]}" for name in sorted(wanted))


if __name__ == "__main__":
    main()
