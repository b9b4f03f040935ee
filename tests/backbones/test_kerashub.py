"""KerasHub's image backbones from local preset folders: their pixels, their blocks, and runs that load again."""

from __future__ import annotations

import shutil
from pathlib import Path

import keras
import numpy as np
import pytest

from tests.backbones.kerashub_presets import features_of_kerashub, write_preset
from tests.backbones.test_hub import random_images
from tests.tiny import predicted
from tlkit import Recipe, Stage, finetune, load_model
from tlkit.backbones import check_backbone_name, find_backbone
from tlkit.errors import SpecError, WeightsError
from tlkit.models.blocks import blocks, cut, set_trainable
from tlkit.models.classifier import build_classifier
from tlkit.runs.predict import predict

keras_hub = pytest.importorskip("keras_hub")


def preset(folder: Path, network: keras.Model, converter: str, **scaling: object) -> Path:
    network.save_to_preset(str(folder))
    getattr(keras_hub.layers, converter)(image_size=(32, 32), **scaling).save_to_preset(str(folder))
    return folder


def reference(folder: Path, images: np.ndarray) -> np.ndarray:
    """KerasHub's own features of images: from its converter and its backbone."""
    network = keras_hub.models.Backbone.from_preset(str(folder))
    return predicted(network, keras_hub.layers.ImageConverter.from_preset(str(folder))(images))


@pytest.fixture(scope="module")
def resnet(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """ResNet18's shape with fewer channels above."""
    network = keras_hub.models.ResNetBackbone(
        input_conv_filters=[64],
        input_conv_kernel_sizes=[7],
        stackwise_num_filters=[64, 32, 32, 32],
        stackwise_num_blocks=[2, 2, 2, 2],
        stackwise_num_strides=[1, 2, 2, 2],
        block_type="basic_block",
    )
    scaling = {"scale": [0.017, 0.0175, 0.0174], "offset": [-2.1, -2.0, -1.8]}
    return preset(tmp_path_factory.mktemp("presets") / "resnet", network, "ResNetImageConverter", **scaling)


@pytest.fixture(scope="module")
def vit(tmp_path_factory: pytest.TempPathFactory) -> Path:
    network = keras_hub.models.ViTBackbone(
        image_shape=(32, 32, 3), patch_size=8, num_layers=6, num_heads=2, hidden_dim=16, mlp_dim=32, dropout_rate=0.1
    )
    scaling = {"scale": 1 / 127.5, "offset": -1.0}
    return preset(tmp_path_factory.mktemp("presets") / "vit", network, "ViTImageConverter", **scaling)


@pytest.mark.slow
def test_features_are_kerashubs_own(resnet: Path, vit: Path) -> None:
    images = random_images(4)[0].astype("float32")
    for folder, expected in ((resnet, reference(resnet, images).mean((1, 2))), (vit, reference(vit, images)[:, 0])):
        model = build_classifier(f"kerashub:{folder}", 3)
        features = predicted(keras.Model(model.input, model.get_layer("head_features").output), images)
        assert expected.std() > 0.01
        np.testing.assert_allclose(features, expected, atol=1e-5)


@pytest.mark.parametrize(
    ("family", "count"),
    [
        pytest.param("ResNet", 3, marks=pytest.mark.slow),
        ("VGG", 2),
        pytest.param("DINOV2", 4, marks=pytest.mark.slow),
        pytest.param("DINOV3", 1, marks=pytest.mark.slow),  # its position embeddings reach every block
        pytest.param("HGNetV2", 2, marks=pytest.mark.slow),
    ],
)
def test_a_familys_features_are_kerashubs_own(family: str, count: int, tmp_path: Path) -> None:
    """The other families: benchmarks/kerashub.py."""
    check_features(family, tmp_path / "preset", count)


def check_features(family: str, folder: Path, count: int | None = None) -> tuple[int, float]:
    """Compare the features of a small preset with KerasHub's. Returns its blocks and the largest difference."""
    images = np.random.default_rng(6202).integers(0, 256, (4, 32, 32, 3)).astype("float32")
    expected = features_of_kerashub(write_preset(folder, family), images)
    backbone = find_backbone(f"kerashub:{folder}")
    model = build_classifier(backbone, 3, image_size=32)
    features = predicted(keras.Model(model.input, model.get_layer("head_features").output), images)
    assert expected.std() > 0.01 and backbone.parameters > 1000
    assert count in (None, backbone.blocks)
    assert all(any(layer.weights for layer in part.layers) for part in blocks(model, backbone))
    np.testing.assert_allclose(features, expected, atol=1e-5)
    return backbone.blocks, float(np.abs(features - expected).max())


@pytest.mark.slow
def test_blocks_are_found_and_hold_every_weight(resnet: Path, vit: Path) -> None:
    for folder, count in ((resnet, 5), (vit, 4)):
        backbone = find_backbone(f"kerashub:{folder}")
        model = build_classifier(backbone, 3)
        parts = blocks(model, backbone)
        assert len(parts) == backbone.blocks == count and backbone.size == 32
        assert all(any(layer.weights for layer in part.layers) for part in parts)
        weights = {id(w) for part in parts for layer in part.layers for w in layer.weights}
        assert sum(int(np.prod(w.shape)) for w in model.weights if id(w) in weights) == backbone.parameters
        images = random_images(4)[0].astype("float32")
        expected = predicted(model, images)
        for unfreeze in range(count):
            prefix, suffix = cut(model, backbone, unfreeze)
            assert prefix is not None
            np.testing.assert_allclose(predicted(suffix, predicted(prefix, images)), expected, atol=1e-5)


@pytest.mark.slow
def test_the_top_block_trains_alone(vit: Path) -> None:
    model = build_classifier(f"kerashub:{vit}", 3)
    backbone = find_backbone(f"kerashub:{vit}")
    set_trainable(model, backbone, unfreeze=1)
    before = [[w.numpy().copy() for layer in part.layers for w in layer.weights] for part in blocks(model, backbone)]
    model.compile(keras.optimizers.Adam(1e-2), "sparse_categorical_crossentropy", run_eagerly=True)
    model.fit(*random_images(), verbose=0)
    after = [[w.numpy() for layer in part.layers for w in layer.weights] for part in blocks(model, backbone)]
    still = [all(np.array_equal(a, b) for a, b in zip(x, y, strict=True)) for x, y in zip(before, after, strict=True)]
    assert still == [True, True, True, False]


@pytest.mark.slow
@pytest.mark.parametrize("which", [pytest.param("resnet", marks=pytest.mark.long), "vit"])
def test_a_run_loads_again_without_its_preset(
    which: str, request: pytest.FixtureRequest, folder: Path, tmp_path: Path
) -> None:
    copy = shutil.copytree(request.getfixturevalue(which), tmp_path / "preset")
    recipe = Recipe("two", stages=(Stage(1, 1e-2), Stage(1, 1e-3, unfreeze=2)), batch_size=12)
    run = finetune(folder, backbone=f"kerashub:{copy}", recipe=recipe, out=tmp_path / "run")
    assert run.metrics["parity"]["top1_agreement"] == 1.0 and run.metrics["parity"]["within_limit"]
    assert "preset" in next(iter(run.plan.backbone.name.split("/")[-1:]))
    shutil.rmtree(copy)
    model = load_model(run)
    images = random_images(6)[0]
    assert predicted(model, images).shape == (6, 3)
    assert predict(run.folder, [folder])["problem"].eq("").all()


def test_what_is_no_preset_says_so(resnet: Path, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    bare = tmp_path / "bare"
    shutil.copytree(resnet, bare)
    (bare / "image_converter.json").unlink()
    text = tmp_path / "text"
    keras_hub.models.BertBackbone(
        vocabulary_size=8, num_layers=1, num_heads=1, hidden_dim=4, intermediate_dim=4
    ).save_to_preset(str(text))
    for name, words in (
        (resnet.parent / "resnte", f"No such preset folder: .* Did you mean '{resnet}'"),
        (tmp_path / "empty", "holds no config.json. Expected a folder that KerasHub's save_to_preset wrote"),
        (bare, "does not say how its pixels are scaled .* Save its ImageConverter beside it"),
        (text, "is a BertBackbone, which takes .* Expected a backbone of RGB images"),
    ):
        with pytest.raises(WeightsError, match=words):
            find_backbone(f"kerashub:{name}")
    with pytest.raises(WeightsError, match="holds no config"):
        check_backbone_name(f"kerashub:{tmp_path / 'empty'}")


@pytest.mark.slow
def test_a_fixed_size_is_said(vit: Path) -> None:
    with pytest.raises(SpecError, match=r"takes 32 or more|takes 32 x 32 pixels only"):
        build_classifier(f"kerashub:{vit}", 3, image_size=64)


@pytest.mark.slow
def test_a_backbone_whose_layers_do_not_come_back_is_refused_before_anything_trains(tmp_path: Path) -> None:
    network = keras_hub.models.DeiTBackbone(
        image_shape=(32, 32, 3), patch_size=8, num_layers=2, num_heads=2, hidden_dim=16, intermediate_dim=32
    )
    folder = preset(tmp_path / "deit", network, "DeiTImageConverter", scale=1 / 255)
    try:
        backbone = find_backbone(f"kerashub:{folder}")
    except WeightsError as error:
        assert "cannot be saved one by one" in str(error) or "come back from their config" in str(error)
    else:  # a later KerasHub may have fixed it: then the backbone must hold all its weights
        assert backbone.parameters == network.count_params()
