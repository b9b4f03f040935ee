"""How the tensors of a PyTorch file get into a network: each once, or a message and nothing changed."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest

import tlkit
from tests.reference_rule import state
from tests.tiny import predicted
from tests.torch_files import write_legacy, write_safetensors, write_zip
from tlkit.backbones import BACKBONES, Backbone
from tlkit.backbones.backbone import _before
from tlkit.backbones.checkpoint import Checkpoint
from tlkit.backbones.families.layers import batch_norm, connected_top, convolution, max_pool, relu
from tlkit.backbones.normalise import NormalisedNetwork
from tlkit.errors import SpecError, WeightsError

SHAPES = {  # of a public file of this network: with an auxiliary classifier, other names, and a matrix after flattening
    "stem.weight": (4, 3, 3, 3),
    "bn.weight": (4,),
    "bn.bias": (4,),
    "bn.running_mean": (4,),
    "bn.running_var": (4,),
    "bn.num_batches_tracked": (),
    "aux.fc.weight": (5, 4),
    "aux.fc.bias": (5,),
    "body.conv.weight": (6, 2, 3, 3),
    "head.0.weight": (8, 6 * 2 * 2),
    "head.0.bias": (8,),
    "head.2.weight": (5, 8),
    "head.2.bias": (5,),
}


def network(pixels: Any) -> Any:
    """Two convolutions, the second with two groups. 16 pixels give a map of 2 x 2."""
    x = relu(batch_norm(convolution(pixels, 4, 3, "stem", stride=2), "bn"), "relu")
    return max_pool(convolution(x, 6, 3, "body", stride=2, groups=2), 2, "pool")


def top(features: Any, classes: int) -> Any:
    return connected_top(features, classes, ("head.0", "head.2"), hidden=8)


CHECKPOINT = Checkpoint(
    top=top, top_names=("head.0", "head.2"), names=((r"^body\.conv\.", "body."),), auxiliary=("aux.",), pixels="torch"
)


@pytest.fixture
def row(monkeypatch: pytest.MonkeyPatch) -> Iterator[Backbone]:
    """A row whose own pixels are not those of its PyTorch files."""
    one = Backbone(
        name="twoconvs",
        builder=NormalisedNetwork("tf", network),
        size=16,
        smallest=16,
        boundaries=_before("body"),
        parameters=4 * 27 + 16 + 6 * 18,
        checkpoint=CHECKPOINT,
    )
    monkeypatch.setitem(BACKBONES, one.name, one)
    yield one
    keras.backend.clear_session()


def model_of(classes: int | None = 5) -> keras.Model:
    inputs = keras.Input((16, 16, 3))
    features = network(inputs)
    return keras.Model(inputs, features if classes is None else top(features, classes))


def by_hand(tensors: dict[str, np.ndarray], image: np.ndarray) -> np.ndarray:
    """The logits of one image, shape (3, 16, 16), in NumPy and PyTorch's layout."""

    def convolved(x: np.ndarray, kernel: np.ndarray) -> np.ndarray:
        x = np.pad(x, ((0, 0), (1, 1), (1, 1)))
        size = (x.shape[1] - 3) // 2 + 1
        windows = [[x[:, 2 * r : 2 * r + 3, 2 * c : 2 * c + 3] for c in range(size)] for r in range(size)]
        return np.einsum("rcikl,oikl->orc", np.array(windows), kernel)

    t = {name: array.astype("float64") for name, array in tensors.items()}
    x = convolved(image, t["stem.weight"])
    scale = t["bn.weight"] / np.sqrt(t["bn.running_var"] + 1e-5)
    x = x * scale[:, None, None] + (t["bn.bias"] - t["bn.running_mean"] * scale)[:, None, None]
    x = np.maximum(x, 0)
    x = np.concatenate([convolved(x[:2], t["body.conv.weight"][:3]), convolved(x[2:], t["body.conv.weight"][3:])])
    x = x.reshape(6, 2, 2, 2, 2).max((2, 4)).reshape(-1)
    x = np.maximum(t["head.0.weight"] @ x + t["head.0.bias"], 0)
    return t["head.2.weight"] @ x + t["head.2.bias"]


def test_all_tensors_arrive_in_their_places_and_what_is_left_out_is_named() -> None:
    tensors = state(SHAPES)
    model = model_of()
    left_out = CHECKPOINT.assign(model, tensors)
    assert left_out == ("bn.num_batches_tracked", "aux.fc.weight", "aux.fc.bias")
    image = np.random.default_rng(1).standard_normal((3, 16, 16)).astype("float32")
    found = predicted(model, image.transpose(1, 2, 0)[None])[0]
    assert np.allclose(found, by_hand(tensors, image), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("write", [write_zip, write_legacy, write_safetensors])
def test_a_file_gives_a_network_with_its_own_top(write: Any, row: Backbone, tmp_path: Path) -> None:
    tensors = state(SHAPES)
    file = write(tmp_path / ("w.safetensors" if write is write_safetensors else "w.pth"), tensors)
    image = np.random.default_rng(1).standard_normal((3, 16, 16)).astype("float32")
    model = tlkit.pretrained(row.name, weights=str(file), normalise=False)
    found = predicted(model, image.transpose(1, 2, 0)[None])[0]
    assert found.shape == (5,) and np.allclose(found, by_hand(tensors, image), rtol=1e-4, atol=1e-4)


def test_pixels_are_normalised_as_the_file_needs_not_as_the_rows_own_weights_do(row: Backbone, tmp_path: Path) -> None:
    file = str(write_safetensors(tmp_path / "w.safetensors", state(SHAPES)))
    raw = np.random.default_rng(1).integers(0, 256, (1, 16, 16, 3)).astype("float32")
    plain = tlkit.pretrained(row.name, weights=file, normalise=False)
    whole = tlkit.pretrained(row.name, weights=file)
    normalised = (raw / 255 - np.array([0.485, 0.456, 0.406])) / np.array([0.229, 0.224, 0.225])
    assert np.allclose(predicted(whole, raw), predicted(plain, normalised.astype("float32")), atol=1e-3)
    assert row.pixels == "tf" and row.taking(file).pixels == "torch"


def test_a_file_with_another_number_of_classes_is_taken_without_its_top(row: Backbone, tmp_path: Path) -> None:
    tensors = state(SHAPES | {"head.2.weight": (7, 8), "head.2.bias": (7,)})
    file = str(write_safetensors(tmp_path / "own.safetensors", tensors))
    model = tlkit.build_classifier(row.name, 3, weights=file)
    assert np.array_equal(model.get_layer("stem").kernel, tensors["stem.weight"].transpose(2, 3, 1, 0))
    assert model.output_shape == (None, 3)
    assert tlkit.pretrained(row.name, weights=file).output_shape == (None, 7)
    assert set(CHECKPOINT.assign(model_of(None), tensors)) >= {"head.0.weight", "head.2.weight", "head.2.bias"}


def test_a_file_without_a_top_fits_the_features_only(row: Backbone, tmp_path: Path) -> None:
    tensors = {name: one for name, one in state(SHAPES).items() if not name.startswith("head.")}
    file = str(write_safetensors(tmp_path / "features.safetensors", tensors))
    assert tlkit.build_classifier(row.name, 3, weights=file).output_shape == (None, 3)
    with pytest.raises(WeightsError, match=r"has no tensor 'head\.2\.weight'"):
        tlkit.pretrained(row.name, weights=file)


def test_a_row_that_takes_no_such_files_says_so() -> None:
    with pytest.raises(SpecError, match="nano takes no PyTorch weight files"):
        tlkit.pretrained("nano")


def test_a_row_whose_own_weights_have_no_top_asks_for_a_file() -> None:
    with pytest.raises(SpecError, match=r"vgg16_weights_tf.*has no top\. Give a PyTorch file"):
        tlkit.pretrained("vgg16")


BAD = {
    "missing": ({"bn.bias": None}, "1 tensor is missing: bn.bias"),
    "left over": ({"more.weight": np.zeros(3, "float32")}, "1 tensor is left over: more.weight"),
    "renamed": ({"bn.bias": None, "norm.bias": np.zeros(4, "float32")}, r"bn\.bias; 1 tensor is left over: norm\.bias"),
    "twice": ({"body.weight": np.zeros((6, 2, 3, 3), "float32")}, "1 tensor is left over: body.weight"),
    "other shape": ({"head.0.bias": np.zeros(9, "float32")}, r"'head\.0\.bias' has the shape \(9,\)\. Expected \(8,\)"),
    "other layout": ({"stem.weight": np.zeros((3, 3, 3, 4), "float32")}, r"\(3, 3, 3, 4\)\. Expected \(4, 3, 3, 3\)"),
    "as many numbers": ({"head.2.weight": np.zeros((8, 5), "float32")}, r"\(8, 5\)\. Expected \(5, 8, 1, 1\)"),
    "not finite": (
        {"head.2.bias": np.full(5, np.nan, "float32")},
        r"'head\.2\.bias' holds numbers that are not finite",
    ),
}


@pytest.mark.parametrize("case", BAD)
def test_what_does_not_fit_is_named_and_changes_nothing(case: str) -> None:
    changes, message = BAD[case]
    tensors = {name: one for name, one in (state(SHAPES) | changes).items() if one is not None}
    model = model_of()
    before = model.get_weights()
    with pytest.raises(WeightsError, match=message):
        CHECKPOINT.assign(model, tensors)
    assert all(np.array_equal(a, b) for a, b in zip(before, model.get_weights(), strict=True))


@pytest.mark.slow
def test_a_damaged_file_is_called_damaged_and_one_that_does_not_fit_is_not(tmp_path: Path) -> None:
    file = tmp_path / "weights.pth"
    write_zip(file, {f"{number}.weight": np.zeros(3, "float32") for number in range(6)})
    with pytest.raises(WeightsError, match=r"left over: .* and 2 more\. Expected the weights of resnet18"):
        tlkit.build_classifier("resnet18", 2, image_size=32, weights=str(file))
    file.write_bytes(file.read_bytes()[:-40])
    with pytest.raises(WeightsError) as refused:
        tlkit.build_classifier("resnet18", 2, image_size=32, weights=str(file))
    assert str(refused.value).startswith("The weights file") and "does not load into" not in str(refused.value)
