from __future__ import annotations

import hashlib
import re
import shutil
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
from click.testing import CliRunner

from tests.conftest import SHARED
from tests.tiny import predicted, tiny_file
from tlkit.backbones import BACKBONES, Backbone, cached_file, find_backbone, find_weights, named_backbones
from tlkit.backbones.applications import Application
from tlkit.backbones.download import NotDownloaded
from tlkit.backbones.normalise import NormalisedNetwork
from tlkit.backbones.weights import weights_sha256
from tlkit.cli.main import main
from tlkit.errors import NameUnknown, WeightsError
from tlkit.models.blocks import blocks, cut, set_trainable
from tlkit.models.classifier import build_classifier

PREPROCESSORS = {
    "vgg": "vgg16",
    "resnet1": "resnet",
    "inceptionv": "inception_v3",
    "inceptionr": "inception_resnet_v2",
    "xception": "xception",
    "densenet": "densenet",
    "mobilenetv3": "mobilenet_v3",
    "mobilenetv2": "mobilenet_v2",
    "mobilenet": "mobilenet",
    "efficientnetv2": "efficientnet_v2",
    "convnext": "convnext",
    "nasnet": "nasnet",
    "nano": "mobilenet",  # -1 to 1
}


def preprocessor(name: str) -> Any:
    """Return keras.applications' preprocess_input for a row of the table."""
    if name.startswith("resnet"):
        module = "resnet_v2" if name.endswith("v2") else "resnet"
    else:
        module = next(m for prefix, m in PREPROCESSORS.items() if name.startswith(prefix))
    return getattr(keras.applications, module).preprocess_input


APPLICATIONS: dict[str, Application] = {  # the rows that call a function of keras.applications
    name: one.builder.network for name, one in BACKBONES.items() if isinstance(one.builder.network, Application)
}


def test_the_table_has_every_classifier_of_keras_applications() -> None:
    functions = {n for n in dir(keras.applications) if callable(getattr(keras.applications, n)) and n[0].isupper()}
    assert functions == {one.function for one in APPLICATIONS.values()}
    assert all(name == one.name for name, one in BACKBONES.items())
    assert {"mobilenetv2", "mobilenetv2_0.35", "mobilenet_0.25", "efficientnetv2b0", "nasnetlarge"} <= set(BACKBONES)


@pytest.mark.parametrize("name", [n for n in ("nano", *APPLICATIONS) if not n.startswith("efficientnetb")])
def test_normalisation_is_keras_applications_own(name: str) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (2, 8, 8, 3)).astype("float32")
    expected = preprocessor(name)(pixels.copy())
    model = keras.Model(*NormalisedNetwork(BACKBONES[name].builder.preprocessing, lambda x: x)(8))
    assert np.abs(predicted(model, pixels) - expected).max() < 1e-4


@pytest.mark.slow
def test_efficientnet_gives_what_keras_gives_with_its_imagenet_weights(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Keras adds a division only if it loads by the name "imagenet". The same file must give equal features."""
    from keras.src.utils import file_utils

    theirs = keras.applications.EfficientNetB0(include_top=False, weights=None, input_shape=(64, 64, 3))
    norm = next(layer for layer in theirs.layers if isinstance(layer, keras.layers.Normalization))
    norm.set_weights([np.array([0.485, 0.456, 0.406]), np.array([0.229, 0.224, 0.225]), np.array(0)])
    file = tmp_path / "efficientnetb0_notop.h5"
    _save_legacy(theirs, file)
    monkeypatch.setattr(file_utils, "get_file", lambda *a, **k: str(file))
    reference = keras.applications.EfficientNetB0(include_top=False, weights="imagenet", input_shape=(64, 64, 3))
    ours = build_classifier("efficientnetb0", 2, image_size=64, weights=str(file))
    features = keras.Model(ours.input, ours.get_layer("top_activation").output)
    pixels = np.random.default_rng(0).integers(0, 256, (2, 64, 64, 3)).astype("float32")
    expected = predicted(reference, pixels)
    assert np.abs(predicted(features, pixels) - expected).max() < 1e-4 * max(1.0, np.abs(expected).max())


def _save_legacy(model: keras.Model, file: Path) -> None:
    import h5py
    from keras.src.legacy.saving import legacy_h5_format

    with h5py.File(file, "w") as stream:
        legacy_h5_format.save_weights_to_hdf5_group(stream, model)


@pytest.mark.slow
def test_weights_files_are_those_that_keras_asks_for(monkeypatch: pytest.MonkeyPatch) -> None:
    from keras.src.utils import file_utils

    class Asked(Exception):
        pass

    def answer(fname: str, origin: str, **settings: Any) -> str:
        raise Asked(fname, origin, settings.get("file_hash") or settings.get("md5_hash"))

    monkeypatch.setattr(file_utils, "get_file", answer)
    for name in ("vgg16", "resnet50", "mobilenetv2_0.35", "efficientnetb0", "mobilenetv3small", "nasnetmobile"):
        one = BACKBONES[name]
        called = APPLICATIONS[name]
        width = {"alpha": called.alpha} if called.alpha else {}
        with pytest.raises(Asked) as asked:
            getattr(keras.applications, called.function)(
                weights="imagenet", include_top=False, input_shape=(224, 224, 3), **width
            )
        assert asked.value.args == (one.weights.file, one.weights.url, one.weights.digest)


def test_an_unknown_name_offers_the_nearest() -> None:
    with pytest.raises(NameUnknown, match=r"Unknown backbone 'vgg61'. Did you mean 'vgg16'?"):
        find_backbone("vgg61")


# -- weights ----------------------------------------------------------------------------------------------


@pytest.fixture
def empty_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("KERAS_HOME", str(tmp_path))
    (tmp_path / "models").mkdir()
    return tmp_path / "models"


def test_with_no_network_the_message_says_what_where_and_what_else(
    empty_cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def unreachable(*a: object, **k: object) -> Path:
        raise NotDownloaded("Connection refused")

    monkeypatch.setattr("tlkit.backbones.weights.download", unreachable)
    (empty_cache / BACKBONES["mobilenetv2"].weights.file).write_bytes(b"x")
    with pytest.raises(WeightsError) as error:
        find_weights(BACKBONES["vgg16"], "imagenet")
    message = str(error.value)
    assert str(empty_cache / BACKBONES["vgg16"].weights.file) in message
    assert (
        "`weights=FILE`" in message and "are here: nano, mobilenetv2." in message and "(Connection refused)" in message
    )


def test_a_damaged_file_is_refused_with_both_hashes(empty_cache: Path) -> None:
    vgg16 = BACKBONES["vgg16"]
    (empty_cache / vgg16.weights.file).write_bytes(b"cut short")
    assert cached_file(vgg16)
    with pytest.raises(WeightsError, match=f"its md5 is [0-9a-f]{{32}}, expected {vgg16.weights.digest}"):
        find_weights(vgg16, "imagenet")


def test_one_changed_bit_of_weights_without_a_published_hash_is_found(empty_cache: Path) -> None:
    row = BACKBONES["mobilenetv2"]
    file = empty_cache / row.weights.file
    assert row.weights.digest is None
    file.write_bytes(bytes(1000))
    assert find_weights(row, "imagenet") == find_weights(row, "imagenet") == file
    note = file.with_name(f"{file.name}.sha256")
    assert note.read_text() == f"{hashlib.sha256(bytes(1000)).hexdigest()}  {file.name}\n"
    file.write_bytes(bytes(500) + b"\x01" + bytes(499))
    with pytest.raises(
        WeightsError, match=r"mobilenetv2, has changed since it was first used: its sha256 is .*expected"
    ):
        find_weights(row, "imagenet")
    note.write_text("\n")  # nothing to compare with: stored again
    find_weights(row, "imagenet")
    assert hashlib.sha256(file.read_bytes()).hexdigest() in note.read_text()


def test_a_truncated_file_is_refused_by_name_and_hash(tmp_path: Path) -> None:
    (tmp_path / "cut.h5").write_bytes(b"\x89HDF\r\n\x1a\n" + bytes(100))
    with pytest.raises(
        WeightsError, match=r"cut\.h5' \(108 bytes, SHA-256 [0-9a-f]{64}\) does not load into mobilenet_0.25"
    ):
        build_classifier("mobilenet_0.25", 2, image_size=32, weights=str(tmp_path / "cut.h5"))


def test_weights_of_another_network_are_refused(tmp_path: Path) -> None:
    other = keras.applications.MobileNet(alpha=0.5, include_top=False, weights=None, input_shape=(32, 32, 3))
    _save_legacy(other, tmp_path / "other.h5")
    with pytest.raises(WeightsError, match="without its top"):
        build_classifier("mobilenet_0.25", 2, image_size=32, weights=str(tmp_path / "other.h5"))


def test_a_wrong_weights_word_offers_the_nearest() -> None:
    with pytest.raises(WeightsError, match="imagenet"):
        find_weights(BACKBONES["vgg16"], "imagnet")


@pytest.mark.real
@pytest.mark.slow
def test_real_weights_load_and_know_a_cat_from_noise(imagenet: Path) -> None:
    build_classifier("mobilenetv2_0.35", 2)
    model = build_classifier("mobilenetv2", 2)
    file = imagenet / "models" / BACKBONES["mobilenetv2"].weights.file
    reference = keras.applications.MobileNetV2(
        include_top=False, weights=str(file), pooling="avg", input_shape=(224, 224, 3)
    )
    from PIL import Image

    cat = next((SHARED / "data" / "cats_dogs" / "images" / "cat").iterdir())
    pixels = np.asarray(Image.open(cat).resize((224, 224)))[None].astype("float32")
    ours = predicted(keras.Model(model.input, model.get_layer("head_features").output), pixels)
    theirs = predicted(reference, keras.applications.mobilenet_v2.preprocess_input(pixels.copy()))
    assert np.abs(ours - theirs).max() < 1e-4


# -- one's own --------------------------------------------------------------------------------------------


def own_model(size: int | None = 32) -> keras.Model:
    inputs = keras.Input((size, size, 3))
    x = keras.layers.Rescaling(1 / 255)(inputs)
    for filters in (4, 8, 16):
        x = keras.layers.Conv2D(filters, 3, strides=2, padding="same", activation="relu")(x)
        x = keras.layers.add([x, keras.layers.Conv2D(filters, 3, padding="same")(x)])
    x = keras.layers.GlobalAveragePooling2D()(x)
    return keras.Model(inputs, keras.layers.Dense(5, activation="softmax")(x))


@pytest.mark.parametrize("size", [32, None])
def test_ones_own_model_becomes_a_backbone_with_its_weights(tmp_path: Path, size: int | None) -> None:
    own = own_model(size)
    own.save(tmp_path / "own.keras")
    backbone = find_backbone(str(tmp_path / "own.keras"))
    assert len(backbone.boundaries) == 2
    model = build_classifier(backbone, 3, image_size=32)
    pixels = np.random.default_rng(0).integers(0, 256, (2, 32, 32, 3)).astype("float32")
    expected = predicted(keras.Model(own.input, own.layers[-3].output), pixels)
    features = next(layer for layer in model.layers if layer.name == "head_features").input
    assert np.allclose(predicted(keras.Model(model.input, features), pixels), expected, atol=1e-6)


@pytest.mark.parametrize("content", [None, b"not a model"])
def test_an_own_file_that_is_no_model_says_so(tmp_path: Path, content: bytes | None) -> None:
    if content:
        (tmp_path / "own.keras").write_bytes(content)
    with pytest.raises(WeightsError, match=r"own\.keras"):
        find_backbone(str(tmp_path / "own.keras"))


def test_building_gives_the_input_and_a_feature_map() -> None:
    inputs, features = BACKBONES["mobilenet_0.25"].build(32)
    assert inputs.shape == (None, 32, 32, 3) and len(features.shape) == 4


def small_family(x: Any) -> Any:
    """A new network, as a file beside nano.py would define it, here of two blocks."""
    x = keras.layers.Conv2D(4, 3, strides=2, activation="relu", name="block1_conv")(x)
    return keras.layers.Conv2D(8, 3, strides=2, activation="relu", name="block2_conv")(x)


@pytest.fixture
def small_row(monkeypatch: pytest.MonkeyPatch) -> Backbone:
    """The row that adds this network to the table."""
    row = Backbone(
        name="small",
        builder=NormalisedNetwork("tf", small_family),
        size=32,
        smallest=16,
        boundaries=("before block2_conv",),
        parameters=3 * 9 * 4 + 4 + 4 * 9 * 8 + 8,
    )
    monkeypatch.setitem(BACKBONES, "small", row)
    return row


def test_a_family_of_ones_own_is_one_function_and_one_row(small_row: Backbone) -> None:
    model = build_classifier("small", 3, weights="none")
    parts = blocks(model, small_row)
    assert [[layer.name for layer in part.layers if layer.weights] for part in parts] == [
        ["block1_conv"],
        ["block2_conv"],
    ]
    assert sum(layer.count_params() for part in parts for layer in part.layers) == small_row.parameters
    prefix, suffix = cut(model, small_row, 1)
    assert prefix is not None and prefix.output_shape == (None, 15, 15, 4)
    set_trainable(model, small_row, unfreeze=1)
    suffix.compile("sgd", "categorical_crossentropy")
    before = {layer.name: layer.get_weights() for layer in model.layers}
    images = np.random.default_rng(0).integers(0, 256, (6, 32, 32, 3)).astype("float32")
    suffix.train_on_batch(predicted(prefix, images), np.eye(3)[[0, 1, 2, 0, 1, 2]])
    moved = {
        layer.name
        for layer in model.layers
        if any(not np.array_equal(a, b) for a, b in zip(before[layer.name], layer.get_weights(), strict=True))
    }
    assert moved == {"block2_conv", "predictions"}


def test_a_family_without_pretrained_weights_says_so_and_is_listed(small_row: Backbone) -> None:
    with pytest.raises(WeightsError, match=r"small has no pretrained weights\..*`weights=none` trains from random"):
        build_classifier("small", 3)
    assert cached_file(small_row) is None and small_row not in named_backbones("auto")
    listed = CliRunner().invoke(main, ["backbones"]).output
    assert "small" in {line.split()[0] for line in listed.splitlines() if line}
    assert find_backbone("small").licence_line("none") == "your own" and small_row.weights_line("none") == "none"


@pytest.mark.parametrize("kind", ["whole.h5", "top.weights.h5"])
@pytest.mark.slow
def test_weights_with_a_top_are_loaded_without_it(kind: str, tmp_path: Path) -> None:
    source = keras.applications.MobileNet(alpha=0.25, weights=None, classes=7, input_shape=(32, 32, 3))
    for weight in source.weights:
        weight.assign(np.random.default_rng(len(weight.shape)).normal(size=weight.shape))
    if kind == "whole.h5":
        source.save(tmp_path / kind)
    else:
        source.save_weights(tmp_path / kind)
    model = build_classifier("mobilenet_0.25", 3, image_size=32, weights=str(tmp_path / kind))
    theirs = {layer.name: layer.get_weights() for layer in source.layers if layer.weights}
    mine = [layer for layer in model.layers if layer.weights and layer.name != "predictions"]
    assert len(mine) == 54
    for layer in mine:
        assert all(np.array_equal(a, b) for a, b in zip(layer.get_weights(), theirs[layer.name], strict=True)), (
            layer.name
        )


def test_weights_of_another_network_with_a_top_are_refused_with_both_shapes(tmp_path: Path) -> None:
    keras.applications.MobileNet(alpha=0.5, weights=None, classes=7, input_shape=(32, 32, 3)).save(
        tmp_path / "other.h5"
    )
    with pytest.raises(
        WeightsError, match=r"layer 'conv1' has shapes .*the file's .*Expected the weights of mobilenet_0\.25"
    ):
        build_classifier("mobilenet_0.25", 3, image_size=32, weights=str(tmp_path / "other.h5"))


@pytest.mark.slow
@pytest.mark.real
def test_the_published_weights_with_a_top_are_those_without(shared: Path, imagenet: Path) -> None:
    without = build_classifier("mobilenet_0.25", 3, image_size=64)
    file = shared / "weights" / "keras" / "models" / "mobilenet_2_5_224_tf.h5"
    given = build_classifier("mobilenet_0.25", 3, image_size=64, weights=str(file))
    image = np.random.default_rng(0).integers(0, 256, (2, 64, 64, 3)).astype("float32")
    outputs = [
        np.asarray(keras.Model(model.input, model.get_layer("head_features").output)(image))
        for model in (without, given)
    ]
    assert np.allclose(*outputs, atol=1e-4)


def test_what_a_plan_calls_a_backbones_source_is_a_record_that_nothing_asks() -> None:
    root = Path(__file__).parents[2] / "tlkit"
    readers = {
        str(file.relative_to(root))
        for file in root.rglob("*.py")
        if re.search(r"\.origin\b", file.read_text(encoding="utf-8"))
    }
    assert readers == {"finetuning/decide.py"}


def test_a_network_without_parameters_under_its_end_is_refused(tmp_path: Path) -> None:
    inputs = keras.Input((32, 32, 3))
    scaled = keras.layers.Rescaling(1 / 255, name="scaled")(inputs)
    vector = keras.layers.GlobalAveragePooling2D()(scaled)
    keras.Model(inputs, keras.layers.Dense(4)(keras.layers.Dense(4)(vector))).save(tmp_path / "colour.keras")
    with pytest.raises(WeightsError, match=r"up to 'scaled', .* have 0 parameters"):
        find_backbone(str(tmp_path / "colour.keras"))


def test_the_hash_of_weights_is_that_of_their_file(tmp_path: Path) -> None:
    nano = BACKBONES["nano"]
    assert nano.weights is not None and weights_sha256(nano, "imagenet") == nano.weights.digest
    assert weights_sha256(nano, "none") is None
    file = tmp_path / "mine.weights.h5"
    for content in (b"one", b"another"):
        file.write_bytes(content)
        assert weights_sha256(nano, str(file)) == hashlib.sha256(content).hexdigest()
    own = tmp_path / "own.keras"
    shutil.copyfile(tiny_file(), own)
    assert weights_sha256(find_backbone(str(own)), "imagenet") == hashlib.sha256(own.read_bytes()).hexdigest()
