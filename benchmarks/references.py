"""Compare tlkit's networks with what PyTorch's libraries compute, for thirty public networks.

    python benchmarks/references.py [--only NAME,NAME] [--formats zip,legacy,safetensors] [--torch OUTPUT.npz]

For each network of $TLKIT_SHARED/reference (see its README.md): a state dict is made by the rule of
tests/reference_rule.py, written as PyTorch and safetensors write it, read by `tlkit.pretrained(ROW, weights=FILE,
normalise=False)`, and applied to two images. Parameters must be equal, each tensor must be used once, the class must be
the same, and the first eight logits, the mean and the deviation of all must differ by 1e-4 of the deviation at most.

Some networks are ill-conditioned on such weights: float32 runs of one network that differ in the order of additions
only differ by more than that. So our own run in float64 is compared too: with the reference, with our float32 run,
and, given the file that references_torch.py writes, with PyTorch's run in float64, to 1e-9. It also says how many
times PyTorch's float64 run amplifies a change of the pixels; where that is too much for float64, each residual unit is
compared with PyTorch's, given PyTorch's input.

Appends a dated row per network and format to references.csv, skips those that are there with these versions, and exits
1 if any of the others is not equal.
"""

import argparse
import gc
import json
import os
import sys
import tempfile
import time
from datetime import date
from importlib.metadata import version
from pathlib import Path

import keras
import numpy as np
from rows import append_row, read_rows

sys.path.insert(0, str(Path(__file__).parent.parent))
import tlkit
from tests.reference_rule import pixels, state
from tests.torch_files import write_legacy, write_safetensors, write_zip
from tlkit.backbones import find_backbone
from tlkit.backbones.files import read_weights

FILE = Path(__file__).with_suffix(".csv")
FOLDER = Path(os.environ.get("TLKIT_SHARED", Path(__file__).parents[2] / "shared")) / "reference"
FORMATS = {
    "zip": (write_zip, "weights.pth"),
    "legacy": (write_legacy, "old.pth"),
    "safetensors": (write_safetensors, "weights.safetensors"),
}
ROWS = {  # where a row's name is not the network's
    "torchvision.alexnet": "alexnet_owt",
    "torchvision.googlenet": "googlenet_bn",
    "torchvision.resnet50": "resnet50v1.5",
    "torchvision.resnet101": "resnet101v1.5",
    "torchvision.resnet152": "resnet152v1.5",
    "pretrainedmodels.bninception": "bn_inception",
}
BAR, BAR_FLOAT64 = 1e-4, 1e-9


def main() -> None:
    given = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    given.add_argument("--only", help="these, separated by commas: vgg11 or torchvision.vgg11")
    given.add_argument("--formats", default=",".join(FORMATS))
    given.add_argument("--torch", type=Path, help="what references_torch.py wrote")
    asked = given.parse_args()
    theirs = dict(np.load(asked.torch)) if asked.torch else {}
    names = sorted(file.name.removesuffix(".json") for file in FOLDER.glob("*.json"))
    only = asked.only.split(",") if asked.only else names
    failed = []
    done = {(one["reference"], one["format"]) for one in read_rows(FILE) if versions().items() <= one.items()}
    for name in names:
        formats = [kind for kind in asked.formats.split(",") if (name, kind) not in done]
        if formats and {name, name.split(".")[1]} & set(only):
            known = {key.removeprefix(name): one for key, one in theirs.items() if f"{key}/".startswith(f"{name}/")}
            failed += [name for row in compare(name, formats, known) if row["equal"] == "no"]
    print(f"not equal: {', '.join(dict.fromkeys(failed)) or 'none'}")
    sys.exit(bool(failed))


def compare(name: str, formats: list[str], theirs: dict[str, np.ndarray]) -> list[dict[str, object]]:
    """Compare one network. theirs: what references_torch.py found for it, "" its logits; empty if it is not known."""
    reference = json.loads((FOLDER / f"{name}.json").read_text())
    tensors = state(reference["state"])
    images = pixels(reference["size"]).transpose(0, 2, 3, 1)
    row = ROWS.get(name, name.split(".")[1])
    exact, *_, units = logits(row, tensors, images, "safetensors", "float64", theirs)
    spread = max(reference["logits_std"])
    in_float64 = {
        "float64_from_reference": f"{difference(exact, reference):.1e}",
        "float64_from_pytorch_float64": f"{np.abs(exact - theirs['']).max() / spread:.1e}" if theirs else "",
        "pytorch_amplifies": f"{theirs['/amplified']:.1e}" if "/amplified" in theirs else "",
        "unit_from_pytorch_float64": f"{units:.1e}" if units is not None else "",
    }
    done = []
    for kind in formats:
        started = time.monotonic()
        ours, parameters, left_out, _ = logits(row, tensors, images, kind, "float32")
        counted = [one for one in left_out if not one.endswith("num_batches_tracked")]
        values = {
            "date": date.today().isoformat(),
            "reference": name,
            "row": row,
            "format": kind,
            "parameters": parameters,
            "parameters_equal": parameters == reference["parameters"],
            "tensors": len(tensors),
            "counters_left_out": len(left_out) - len(counted),
            "others_left_out": " ".join(sorted({one.split(".")[0] for one in counted})),
            "difference": f"{difference(ours, reference):.1e}",
            "argmax_equal": ours.argmax(1).tolist() == reference["argmax"],
            "float32_from_float64": f"{np.abs(ours - exact).max() / spread:.1e}",
            **in_float64,
        }
        append_row(
            FILE, {**values, "equal": verdict(values), "seconds": round(time.monotonic() - started), **versions()}
        )
        done.append({**values, "equal": verdict(values)})
    return done


def verdict(values: dict[str, object]) -> str:
    """Say whether a network is equal: in float32, only in float64, or only unit by unit."""
    if not values["parameters_equal"]:
        return "no"
    if float(values["difference"]) <= BAR and values["argmax_equal"]:
        return "yes"
    for key, word in (("float64_from_pytorch_float64", "in float64"), ("unit_from_pytorch_float64", "unit by unit")):
        if values[key] and float(str(values[key])) <= BAR_FLOAT64:
            return word
    return "no"


def versions() -> dict[str, str]:
    return {package: version(package) for package in ("keras", "tensorflow")}


def difference(ours: np.ndarray, reference: dict) -> float:
    """The largest difference of the first eight logits, the means and the deviations, in units of the deviation."""
    spread = max(reference["logits_std"])
    largest = np.abs(ours[:, :8] - np.array(reference["logits_first_8"])).max()
    means = np.abs(ours.mean(1) - np.array(reference["logits_mean"])).max()
    spreads = np.abs(ours.std(1) - np.array(reference["logits_std"])).max()
    return float(max(largest, means, spreads) / spread)


def logits(
    row: str,
    tensors: dict[str, np.ndarray],
    images: np.ndarray,
    kind: str,
    precision: str,
    theirs: dict[str, np.ndarray] | None = None,
) -> tuple[np.ndarray, int, tuple[str, ...], float | None]:
    """(logits, trainable parameters, names of the tensors left out, difference of a unit) with a file's tensors."""
    keras.backend.clear_session()
    gc.collect()
    keras.config.set_floatx(precision)
    keras.config.set_dtype_policy(precision)
    write, file_name = FORMATS[kind]
    try:
        with tempfile.TemporaryDirectory() as scratch:
            file = write(Path(scratch) / file_name, tensors)
            model = tlkit.pretrained(row, weights=str(file), normalise=False)
            left_out = find_backbone(row).checkpoint.assign(model, read_weights(file))
        if len(model.variables) != len(tensors) - len(left_out):
            raise SystemExit(f"{row}: {len(model.variables)} variables, {len(tensors) - len(left_out)} tensors")
        parameters = sum(int(np.prod(one.shape)) for one in model.trainable_variables)
        found = np.asarray(model(images.astype(precision), training=False))
        return found, parameters, left_out, unit_by_unit(model, theirs or {}, images[:1])
    finally:
        keras.config.set_floatx("float32")
        keras.config.set_dtype_policy("float32")


def unit_by_unit(model: keras.Model, theirs: dict[str, np.ndarray], images: np.ndarray) -> float | None:
    """The largest difference of a residual unit's output from PyTorch's, given PyTorch's input of it.

    In units of the output's deviation; None if PyTorch's are not known. The stem is compared too, and the top.
    """
    units = {key.removeprefix("/units/"): one for key, one in theirs.items() if key.startswith("/units/")}
    if not units:
        return None
    names = {"pool0": "layer0.pool", "logits": model.layers[-1].name}
    ends = [model.get_layer(names.get(unit, f"{unit}.relu")).output for unit in units]
    maps = [one.transpose(0, 2, 3, 1) if one.ndim == 4 else one for one in units.values()]
    steps = zip([model.input, *ends], ends, [images, *maps], maps, strict=False)
    largest = 0.0
    for start, end, given, wanted in steps:
        found = np.asarray(keras.Model(start, end)(given, training=False))
        largest = max(largest, float(np.abs(found - wanted).max() / wanted.std()))
    return largest


if __name__ == "__main__":
    main()
