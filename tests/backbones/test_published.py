"""Weights by name: torchvision's, timm's and others of Hugging Face, from a server on the loopback, and folders."""

from __future__ import annotations

import hashlib
import json
import logging
import socket
import struct
import sys
from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest

from tests.conftest import write_folder
from tests.loopback_files import COMMIT, Files, served
from tlkit import WeightsError, build_classifier, finetune, pretrained
from tlkit.backbones import BACKBONES, Backbone, find_backbone, find_weights
from tlkit.backbones.checkpoint import Checkpoint
from tlkit.backbones.families.layers import convolution, linear_top, relu
from tlkit.backbones.normalise import NormalisedNetwork, normalise, pixels_of
from tlkit.backbones.published import Card, _public_card, parse_handle, read_card
from tlkit.backbones.weights import row_of, row_of_weights, weights_sha256
from tlkit.errors import SpecError
from tlkit.finetuning.decide import foresee
from tlkit.finetuning.prepare import prepare
from tlkit.finetuning.resolve import check_names, resolve
from tlkit.plan.job import Job

CONFIG = {
    "architecture": "tinynet",
    "num_classes": 5,
    "pretrained_cfg": {
        "input_size": [3, 24, 24],
        "interpolation": "bicubic",
        "crop_pct": 0.875,
        "mean": [0.5, 0.4, 0.4],
        "std": [0.2, 0.25, 0.3],
        "num_classes": 5,
        "first_conv": "conv1",
        "classifier": "fc",
        "license": "apache-2.0",
    },
}


def safetensors(**tensors: np.ndarray) -> bytes:
    header, data = {}, b""
    for name, array in tensors.items():
        raw = array.astype("<f4").tobytes()
        header[name] = {"dtype": "F32", "shape": list(array.shape), "data_offsets": [len(data), len(data) + len(raw)]}
        data += raw
    text = json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + data


def numbers(*shape: int) -> np.ndarray:
    return np.random.default_rng(len(shape)).standard_normal(shape).astype("float32")


WEIGHTS = safetensors(
    **{
        "conv1.weight": numbers(4, 3, 3, 3),
        "conv2.weight": numbers(6, 4, 3, 3),
        "fc.weight": numbers(5, 6),
        "fc.bias": numbers(5),
    }
)
SHA256 = hashlib.sha256(WEIGHTS).hexdigest()
TORCHVISION = f"tinynet-{SHA256[:8]}.pth"


def _network(pixels: Any) -> Any:
    x = relu(convolution(pixels, 4, 3, "conv1", stride=2), "relu1")
    return relu(convolution(x, 6, 3, "conv2", stride=2), "relu2")


@pytest.fixture(autouse=True)
def row(monkeypatch: pytest.MonkeyPatch) -> Backbone:
    """A row of two convolutions, native size 32."""
    one = Backbone(
        name="tiny",
        builder=NormalisedNetwork("torch", _network),
        size=32,
        smallest=8,
        boundaries=("before conv2",),
        parameters=4 * 3 * 9 + 6 * 4 * 9,
        checkpoint=Checkpoint(partial(linear_top, name="fc"), ("fc",), architectures=("tinynet",)),
    )
    monkeypatch.setitem(BACKBONES, "tiny", one)
    return one


@pytest.fixture(autouse=True)
def models(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("KERAS_HOME", str(tmp_path / "keras"))
    _public_card.cache_clear()
    return tmp_path / "keras" / "models"


def no_network() -> str:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return f"http://127.0.0.1:{free.getsockname()[1]}"


def folder_of(path: Path, config: Any = CONFIG, weights: str = "model.safetensors") -> Path:
    path.mkdir(parents=True)
    (path / weights).write_bytes(WEIGHTS)
    (path / "config.json").write_text(json.dumps(config))
    return path


def expected(model: keras.Model, mean: Any, deviation: Any, images: np.ndarray) -> np.ndarray:
    """The logits of the same weights on images that are normalised outside the model."""
    bare = keras.Model(model.get_layer("conv1.pad").input, model.output)
    return np.asarray(bare(((images / 255 - mean) / deviation).astype("float32")))


# -- pixels -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("mean", "deviation", "name"),
    [
        ([0.485, 0.456, 0.406], [0.229, 0.224, 0.225], "torch"),
        ([0.5, 0.5, 0.5], [0.5, 0.5, 0.5], "tf"),
        ([0, 0, 0], [1, 1, 1], "unit"),
        ([0.48145466, 1e-07, -0.2], [0.26862954, 2.5, 1 / 3], None),
    ],
)
def test_any_mean_and_deviation_normalise_pixels(mean: list[float], deviation: list[float], name: str | None) -> None:
    pixels, images = (
        pixels_of(mean, deviation),
        np.random.default_rng(0).uniform(0, 255, (2, 4, 4, 3)).astype("float32"),
    )
    assert name in (None, pixels)
    found = np.asarray(normalise(pixels, keras.ops.convert_to_tensor(images)))
    assert np.abs(found - (images / 255 - mean) / deviation).max() < 1e-5 * max(1, 1 / min(deviation))


@pytest.mark.parametrize(
    "pixels", ["", "imagenet", "mean=0,0,0", "mean=1,2 deviation=1,2", "mean=0,0,0 deviation=1,1,0"]
)
def test_pixels_that_nobody_knows_are_refused(pixels: str) -> None:
    with pytest.raises(SpecError, match="Pixels are normalised as"):
        normalise(pixels, keras.Input((4, 4, 3)))


# -- handles ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("given", "written"),
    [
        ("timm:resnet18.a1_in1k", "hf://timm/resnet18.a1_in1k"),
        ("hf://me/net/weights/last.bin@v1.0", "hf://me/net/weights/last.bin@v1.0"),
        (f"timm:net@{COMMIT}#sha256={SHA256}", f"hf://timm/net@{COMMIT}#sha256={SHA256}"),
        ("torchvision:resnet18-f37072fd.pth", "torchvision:resnet18-f37072fd.pth"),
    ],
)
def test_a_handle_is_read_and_written(given: str, written: str) -> None:
    assert str(parse_handle(given)) == written and parse_handle(written) == parse_handle(given)


@pytest.mark.parametrize(
    "given",
    [
        "timm:",
        "timm:../net",
        "hf://net",
        "hf://me/net/../../secret",
        "hf://me/net?x=1",
        "hf:///etc/passwd",
        "torchvision:resnet18.pth",
        "torchvision:../resnet18-f37072fd.pth",
        "torchvision:resnet18-f37072fd.zip",
    ],
)
def test_a_handle_that_is_written_wrongly_is_refused_before_anything_else(given: str, tmp_path: Path) -> None:
    with pytest.raises(WeightsError, match=r"is not the name of .* Expected .*such as"):
        check_names(Job(write_folder(tmp_path / "data", 1), weights=given))


def test_torchvisions_and_timms_names_lead_to_their_rows() -> None:
    for name, row in {"resnet50": "resnet50v1.5", "resnext50_32x4d": "resnext50_32x4d", "tinynet": "tiny"}.items():
        found = row_of_weights(f"torchvision:{name}-0123abcd.pth")
        assert found is not None and found.name == row
    for one in BACKBONES.values():  # the row's own file is the row's
        if one.weights and one.weights.url.startswith("https://download.pytorch.org/"):
            card = read_card(f"torchvision:{one.weights.file}")
            assert card is not None and row_of(card) is one
    with pytest.raises(WeightsError, match="network efficientnet_b0, which is none of tlkit's backbones"):
        row_of_weights("torchvision:efficientnet_b0-7f5810bc.pth")


# -- torchvision --------------------------------------------------------------------------------------------


def test_a_file_of_torchvision_is_downloaded_once_and_checked(models: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with served({TORCHVISION: WEIGHTS}) as server:
        monkeypatch.setenv("TLKIT_TORCHVISION", server.address)
        model = pretrained(weights=f"torchvision:{TORCHVISION}")
        pretrained(weights=f"torchvision:{TORCHVISION}")
    assert server.asked == [f"GET /{TORCHVISION}"] and (models / TORCHVISION).read_bytes() == WEIGHTS
    assert model.input_shape == (None, 32, 32, 3) and model.output_shape == (None, 5)
    (models / TORCHVISION).write_bytes(WEIGHTS[:-1])
    with pytest.raises(WeightsError, match=rf"is damaged .* expected that it begins with {SHA256[:8]}"):
        find_weights(find_backbone("tiny"), f"torchvision:{TORCHVISION}")


def test_without_a_network_the_message_says_which_file_to_put_where(
    models: Path, row: Backbone, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TLKIT_TORCHVISION", no_network())
    with pytest.raises(WeightsError) as error:
        find_weights(row, f"torchvision:{TORCHVISION}")
    for part in (
        f"{TORCHVISION} is not on this machine and cannot be downloaded (Connection refused)",
        f"Expected '{models / TORCHVISION}'",
        f"Download https://download.pytorch.org/models/{TORCHVISION} elsewhere and put it there",
    ):
        assert part in str(error.value)


def test_weights_of_another_network_are_refused_before_the_download(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TLKIT_TORCHVISION", no_network())
    with pytest.raises(
        WeightsError, match=r"are of the network resnet18, which is the backbone resnet18\. Expected .*34"
    ):
        build_classifier("resnet34", 2, weights="torchvision:resnet18-f37072fd.pth")
    with pytest.raises(WeightsError, match="nano takes no weights such as torchvision:"):
        build_classifier("nano", 2, weights="torchvision:resnet18-f37072fd.pth")


# -- folders ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("of", ["folder", "file"])
def test_a_folders_config_gives_pixels_size_and_licence(tmp_path: Path, of: str) -> None:
    folder = folder_of(tmp_path / "net")
    weights = str(folder if of == "folder" else folder / "model.safetensors")
    model = pretrained(weights=weights)
    assert model.input_shape == (None, 24, 24, 3)
    images = np.random.default_rng(0).uniform(0, 255, (2, 24, 24, 3)).astype("float32")
    theirs = expected(model, [0.5, 0.4, 0.4], [0.2, 0.25, 0.3], images)
    assert np.abs(np.asarray(model(images)) - theirs).max() < 1e-3 * theirs.std()
    resolved = resolve(Job(write_folder(tmp_path / "data", 1), weights=weights))
    (backbone,) = resolved.backbones
    assert (backbone.name, backbone.size) == ("tiny", 24) and resolved.job.weights == weights
    assert backbone.licence_line(weights) == "apache-2.0" and weights_sha256(backbone, weights) == SHA256
    said = next(one for one in resolved.decisions if one.about == "weights")
    assert said.why == (
        "tinynet, mean 0.5 0.4 0.4, deviation 0.2 0.25 0.3, 24 px, licence apache-2.0, interpolation bicubic, "
        "crop 0.875, classes 5"
    )


def test_an_image_size_that_was_asked_for_stays(tmp_path: Path) -> None:
    weights = str(folder_of(tmp_path / "net"))
    assert resolve(Job(write_folder(tmp_path / "data", 1), weights=weights, image_size=48)).image_size == 48
    assert build_classifier("tiny", 2, weights=weights, image_size=48).input_shape == (None, 48, 48, 3)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"mean": [0.5, 0.5]}, r"the mean \[0.5, 0.5\]. Expected three numbers"),
        ({"mean": "0.5"}, "the mean '0.5'"),
        ({"std": None}, "the std None"),
        ({"std": [0.2, 0.2, float("nan")]}, r"the std \[0.2, 0.2, nan\]"),
        ({"std": [0.2, 0.2, 0]}, "Expected numbers above 0"),
        ({"input_size": [1, 24, 24]}, r"the input_size \[1, 24, 24\]. Expected \[3, n, n\]"),
        ({"input_size": [3, 24, 32]}, "square RGB"),
        ({"input_size": [3, 1e9, 1e9]}, "square RGB"),
    ],
)
def test_a_config_that_cannot_be_honoured_is_refused(tmp_path: Path, changes: dict[str, Any], message: str) -> None:
    config = {**CONFIG, "pretrained_cfg": {**CONFIG["pretrained_cfg"], **changes}}  # type: ignore[dict-item]
    with pytest.raises(WeightsError, match=message):
        pretrained("tiny", str(folder_of(tmp_path / "net", config)))


def test_folders_without_one_weights_file_or_without_json_are_refused(tmp_path: Path) -> None:
    folder = folder_of(tmp_path / "net", weights="a.pth")
    assert pretrained("tiny", str(folder)).output_shape == (None, 5)
    (folder / "b.pth").write_bytes(WEIGHTS)
    with pytest.raises(WeightsError, match=r"has 2 weights files \(a.pth, b.pth\)"):
        pretrained("tiny", str(folder))
    (tmp_path / "empty").mkdir()
    with pytest.raises(WeightsError, match=r"has 0 weights files \(none\)"):
        pretrained("tiny", str(tmp_path / "empty"))
    (folder_of(tmp_path / "words") / "config.json").write_text("words")
    with pytest.raises(WeightsError, match=r"config\.json' cannot be read"):
        pretrained("tiny", str(tmp_path / "words"))
    (folder_of(tmp_path / "list") / "config.json").write_text("[]")
    with pytest.raises(WeightsError, match="holds no JSON object"):
        pretrained("tiny", str(tmp_path / "list"))


def test_a_file_on_this_machine_needs_no_acceptance_but_its_licence_is_named(tmp_path: Path, row: Backbone) -> None:
    folder = folder_of(tmp_path / "net", {"architecture": "tinynet", "license": "cc-by-nc-4.0"})
    (folder / "README.md").write_text("---\ntags:\n- x\nlicense: other\nlicense_name: dinov3-license\n---\n# Net\n")
    assert find_weights(row, str(folder)) == folder / "model.safetensors"
    assert row.licence_line(str(folder)) == "dinov3-license and cc-by-nc-4.0"


# -- the rows' own files ------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["vgg16", "mobilenet"])
def test_imagenet_weights_of_keras_are_downloaded_as_before(
    name: str, models: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    row = BACKBONES[name]
    assert row.weights is not None and (row.weights.digest is None) == (name == "mobilenet")
    with served({"net.h5": WEIGHTS}) as server:
        digest = hashlib.md5(WEIGHTS, usedforsecurity=False).hexdigest() if row.weights.digest else None
        weights = replace(row.weights, url=f"{server.address}/net.h5", digest=digest)
        assert find_weights(replace(row, weights=weights), "imagenet") == models / weights.file
        if digest:
            (models / weights.file).unlink()
            with pytest.raises(
                WeightsError, match=r"\(the MD5 of .* is .* expected 0{32}\)\. Expected .*Download http"
            ):
                find_weights(replace(row, weights=replace(weights, digest="0" * 32)), "imagenet")
            assert not list(models.iterdir())


# -- Hugging Face -------------------------------------------------------------------------------------------


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Files]:
    """The repositories me/tiny and timm/tiny.nc_in1k, the second with a licence for non-commercial use."""
    constants = pytest.importorskip("huggingface_hub.constants")
    restricted = {**CONFIG, "pretrained_cfg": {**CONFIG["pretrained_cfg"], "license": "cc-by-nc-4.0"}}  # type: ignore[dict-item]
    files = {
        "me/tiny/config.json": json.dumps(CONFIG).encode(),
        "me/tiny/model.safetensors": WEIGHTS,
        "me/tiny/README.md": b"---\nlicense: Apache-2.0\n---\n",
        "me/tiny/other/last.bin": WEIGHTS,
        "timm/tiny.nc_in1k/config.json": json.dumps(restricted).encode(),
        "timm/tiny.nc_in1k/model.safetensors": WEIGHTS,
        "me/empty/config.json": json.dumps(CONFIG).encode(),
        "me/bare/model.safetensors": WEIGHTS,
    }
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setenv("HF_TOKEN", "hf_secretsecretsecret")
    with served(files) as server:
        monkeypatch.setenv("HF_ENDPOINT", server.address)
        yield server


def unplug(hub: Files, monkeypatch: pytest.MonkeyPatch) -> None:
    import huggingface_hub.constants

    _public_card.cache_clear()
    hub.asked.clear()
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setenv("HF_ENDPOINT", no_network())


PINNED = f"hf://me/tiny/model.safetensors@{COMMIT}#sha256={SHA256}"


def test_the_commit_and_the_hash_of_a_repository_are_pinned(
    hub: Files, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = write_folder(tmp_path / "data", 1)
    resolved = resolve(Job(data, weights="hf://me/tiny"))
    assert resolved.job.weights == PINNED and [one.name for one in resolved.backbones] == ["tiny"]
    assert [(one.about, one.chosen) for one in resolved.decisions] == [
        ("backbone", "tiny"),
        ("weights", f"hf://me/tiny@{COMMIT[:8]}"),
    ]
    assert weights_sha256(resolved.backbones[0], PINNED) == SHA256
    assert resolved.backbones[0].licence_line(PINNED) == "apache-2.0", "in two spellings"
    assert hub.tokens == {"Bearer hf_secretsecretsecret"}
    unplug(hub, monkeypatch)
    again = resolve(resolved.job)
    assert again.job == resolved.job and hub.asked == []
    assert build_classifier("tiny", 2, weights=PINNED).input_shape == (None, 24, 24, 3)
    assert resolve(Job(data, weights="hf://me/tiny")).job.weights == PINNED, "as it was when last asked for"


def test_another_hash_than_the_plans_is_refused(hub: Files, row: Backbone) -> None:
    with pytest.raises(WeightsError, match=f"its sha256 is {SHA256}, expected {'0' * 64}"):
        find_weights(row, f"hf://me/tiny#sha256={'0' * 64}")


def test_a_file_and_a_revision_of_a_repository_can_be_named(hub: Files) -> None:
    assert pretrained(weights="hf://me/tiny/other/last.bin@main").output_shape == (None, 5)
    assert hub.got("last.bin") and not hub.got("model.safetensors")


def test_a_repository_without_config_needs_the_backbone_and_has_the_rows_pixels(hub: Files, tmp_path: Path) -> None:
    (tmp_path / "bare.safetensors").write_bytes(WEIGHTS)
    images = np.random.default_rng(0).uniform(0, 255, (1, 32, 32, 3)).astype("float32")
    found = [pretrained("tiny", one)(images) for one in ("hf://me/bare", str(tmp_path / "bare.safetensors"))]
    assert np.array_equal(*map(np.asarray, found))
    job = resolve(Job(write_folder(tmp_path / "data", 1), backbone="tiny", weights="hf://me/bare")).job
    assert job.weights == PINNED.replace("me/tiny", "me/bare")
    with pytest.raises(SpecError, match=r"`weights=hf://me/bare` does not say which network"):
        pretrained(weights="hf://me/bare")


@pytest.mark.parametrize(
    ("licence", "restricted"),
    [
        ("apache-2.0", False),
        ("mit", False),
        ("", False),
        ("cc-by-4.0", False),
        ("cc-by-nc-4.0", True),
        ("CC BY-NC-SA 4.0", True),
        ("dinov3-license", True),
        ("fair-noncommercial-research-license", True),
        ("apple-amlr", True),
        ("other", True),
    ],
)
def test_licences_that_have_to_be_accepted_are_known_by_their_names(licence: str, restricted: bool) -> None:
    assert Card(Path("net"), licence=licence).restricted == restricted


def test_torchvisions_swag_weights_are_not_for_commerce() -> None:
    card = read_card("torchvision:vit_b_16_swag-9ac1b537.pth")
    assert card is not None and card.restricted and "licence CC-BY-NC-4.0" in card.sentence()


def test_a_non_commercial_licence_is_named_before_the_download_and_must_be_accepted(hub: Files, tmp_path: Path) -> None:
    job = Job(write_folder(tmp_path / "data", 1), weights="timm:tiny.nc_in1k")
    for ask in (partial(resolve, job), partial(pretrained, "tiny", job.weights)):
        with pytest.raises(WeightsError, match=r"the licence cc-by-nc-4\.0, .*give `accept_licence` if you accept it"):
            ask()
    assert not hub.got("model.safetensors")
    accepted = resolve(Job(job.data, weights=job.weights, accept_licence=True))
    assert len(hub.got("model.safetensors")) == 1 and accepted.job.to_dict()["accept_licence"] is True
    assert Job.from_dict(accepted.job.to_dict()) == accepted.job
    assert accepted.backbones[0].licence_line(accepted.job.weights) == "cc-by-nc-4.0"
    assert pretrained(weights=job.weights, accept_licence=True).output_shape == (None, 5)


@pytest.mark.parametrize(
    ("handle", "message"),
    [
        ("hf://me/absent", "There is no repository 'me/absent' at Hugging Face, or it is private"),
        ("hf://me/closed", "accepted its terms. Accept them at https://huggingface.co/me/closed, and set .* HF_TOKEN"),
        ("hf://me/empty", "has none of model.safetensors, pytorch_model.bin, model.onnx"),
        ("hf://me/tiny/last.pth", "has no file 'last.pth'"),
    ],
)
def test_what_a_hub_does_not_have_is_said(hub: Files, row: Backbone, handle: str, message: str) -> None:
    with pytest.raises(WeightsError, match=message) as error:
        find_weights(row, handle)
    assert "secret" not in str(error.value)


@pytest.mark.parametrize("how", ["offline", "refused"])
def test_without_a_network_a_repository_that_is_not_here_is_told_to_be_a_folder(
    hub: Files, row: Backbone, monkeypatch: pytest.MonkeyPatch, how: str
) -> None:
    if how == "offline":
        unplug(hub, monkeypatch)
    else:
        monkeypatch.setenv("HF_ENDPOINT", no_network())
    with pytest.raises(WeightsError) as error:
        find_weights(row, "hf://me/tiny")
    assert "'config.json' of 'me/tiny' is not on this machine and cannot be downloaded (" in str(error.value)
    assert "from https://huggingface.co/me/tiny elsewhere" in str(error.value)
    assert "give that as `weights=FOLDER`" in str(error.value) and hub.asked == []


def test_without_huggingface_hub_the_message_says_what_to_install(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    with pytest.raises(WeightsError, match=r"needs? 'huggingface-hub', which is not installed .*'tlkit\[hf\]'"):
        check_names(Job(write_folder(tmp_path / "data", 1), weights="timm:tiny.nc_in1k"))


@pytest.mark.slow
def test_a_run_from_a_repository_keeps_no_token_and_repeats_without_a_network(
    hub: Files, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    data = write_folder(tmp_path / "data", 12)
    with caplog.at_level(logging.INFO, "tlkit"):
        run = finetune(data, weights="hf://me/tiny", effort="quick", out=tmp_path / "run")
    plan = run.plan
    assert plan.job.weights == PINNED and plan.image_size == 24
    assert plan.backbone.pixels == "mean=0.5,0.4,0.4 deviation=0.2,0.25,0.3"
    assert (plan.backbone.sha256, plan.backbone.licence_of_weights) == (SHA256, "apache-2.0")
    assert (
        f"backbone  tiny at 24 px, weights: hf://me/tiny/model.safetensors@{COMMIT[:8]} (apache-2.0)" in caplog.messages
    )
    written = [one.read_bytes() for one in run.folder.rglob("*") if one.is_file()]
    assert not any(b"secret" in one for one in written) and "secret" not in caplog.text
    unplug(hub, monkeypatch)
    again = resolve(Job.read(run.folder / "plan.json"))
    assert again.job.weights == PINNED and [one.pixels for one in again.backbones] == [plan.backbone.pixels]
    assert find_weights(again.backbones[0], PINNED) and hub.asked == []
    further = foresee(prepare(resolve(Job(data, from_run=run.folder, recipe="small_similar"))))
    assert further.backbone.licence_of_weights == "apache-2.0", "of the weights it began with"
    assert further.backbone.pixels == plan.backbone.pixels and further.image_size == 24
