"""TF-Hub modules and your own SavedModels: downloaded, frozen, fine-tuned, and stored with the run.

The modules are written by tests/reusable.py.
"""

from __future__ import annotations

import shutil
import tarfile
import threading
from collections.abc import Iterator
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest

from tests.conftest import write_folder
from tests.reusable import unit_network, write_module, write_tf1_module
from tests.tiny import predicted, tiny_file
from tlkit import Recipe, Stage, finetune, load_model
from tlkit.backbones import check_backbone_name, find_backbone
from tlkit.errors import SpecError, WeightsError
from tlkit.finetuning.words import plan_lines
from tlkit.models.blocks import set_trainable
from tlkit.models.classifier import build_classifier
from tlkit.models.inference import frozen_call
from tlkit.runs.evaluate import evaluate_run
from tlkit.runs.export import export_run
from tlkit.runs.predict import predict

pytestmark = pytest.mark.slow
WHOLE = Recipe("whole", stages=(Stage(2, 1e-2), Stage(2, 1e-3, unfreeze="all")), batch_size=12)


def pooled_tiny() -> keras.Model:
    network = keras.saving.load_model(tiny_file())
    return keras.Model(network.input, keras.layers.GlobalAveragePooling2D()(network.output))


@pytest.fixture(scope="module")
def module(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A reusable SavedModel of pixels from 0 to 1 at 32 px, with regularisation."""
    return write_module(unit_network(pooled_tiny()), tmp_path_factory.mktemp("hub") / "tiny", size=32, l2=1e-3)


@pytest.fixture(scope="module")
def old_module(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tf1_module(tmp_path_factory.mktemp("hub1") / "old")


def random_images(count: int = 24) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(0)
    return rng.integers(0, 256, (count, 32, 32, 3)).astype("uint8"), np.arange(count) % 3


def moved(model: keras.Model, unfreeze: Any, batch_norm: str, backbone: str) -> tuple[int, int]:
    """Return how many of the module's variables changed in two epochs, and how many of these are moving statistics."""
    set_trainable(model, find_backbone(backbone), unfreeze=unfreeze, batch_norm=batch_norm)
    variables = model.get_layer("module").variables
    before = [v.numpy().copy() for v in variables]
    model.compile(keras.optimizers.Adam(1e-2), "sparse_categorical_crossentropy")
    model.fit(*random_images(), epochs=2, verbose=0)
    changed = [v.name for v, old in zip(variables, before, strict=True) if not np.array_equal(v.numpy(), old)]
    return len(changed), sum("moving" in name for name in changed)


def test_a_module_freezes_and_trains_as_a_whole(module: Path) -> None:
    name = f"hub:{module}"
    backbone = find_backbone(name)
    assert (backbone.size, backbone.blocks, backbone.boundaries, backbone.frozen_because) == (32, 1, (), "")
    assert backbone.parameters == sum(int(np.prod(v.shape)) for v in pooled_tiny().variables)
    model = build_classifier(backbone, 3)
    assert moved(model, 0, "frozen", name) == (0, 0)
    trained, statistics = moved(model, "all", "frozen", name)
    assert trained == len(pooled_tiny().trainable_variables) and statistics == 0
    everything, statistics = moved(model, "all", "moving", name)
    assert everything == len(pooled_tiny().variables) and statistics == 8


def test_a_module_brings_its_regularisation(module: Path) -> None:
    model = build_classifier(f"hub:{module}", 3)
    kernels = [v for v in model.get_layer("module").trainable_variables if len(v.shape) > 1]
    expected = sum(1e-3 * float(np.sum(v.numpy() ** 2)) for v in kernels)
    model(np.zeros((1, 32, 32, 3), "float32"), training=True)
    assert sum(float(one) for one in model.losses) == pytest.approx(expected, rel=1e-4)
    set_trainable(model, f"hub:{module}", unfreeze=0)
    model(np.zeros((1, 32, 32, 3), "float32"), training=True)
    assert not model.losses


def test_a_frozen_module_is_run_with_its_weights_of_now(module: Path) -> None:
    model = build_classifier(f"hub:{module}", 3)
    images = random_images(5)[0]
    before = predicted(model, images)
    call = frozen_call(model, 8)
    np.testing.assert_allclose(call(images)[0], before, atol=1e-5)
    for variable in model.get_layer("module").variables:
        variable.assign(variable * 0.5)
    np.testing.assert_allclose(call(images)[0], before, atol=1e-5)
    assert np.abs(predicted(model, images) - before).max() > 1e-3


def test_hub_modules_take_0_to_1_and_ones_own_take_0_to_255(module: Path, tmp_path: Path) -> None:
    own = write_module(pooled_tiny(), tmp_path / "own", size=32)
    images = random_images(4)[0]
    features = [
        predicted(keras.Model(m.input, m.get_layer("head_features").output), images)
        for m in (build_classifier(name, 3) for name in (f"hub:{module}", str(own)))
    ]
    np.testing.assert_allclose(features[0], predicted(pooled_tiny(), images), atol=1e-5)
    np.testing.assert_allclose(features[1], features[0], atol=1e-5)


def test_a_model_as_keras_exports_it_is_a_backbone_too(tmp_path: Path) -> None:
    network = pooled_tiny()
    network.export(tmp_path / "exported", verbose=False)
    images = random_images(4)[0]
    model = build_classifier(str(tmp_path / "exported"), 3)
    features = keras.Model(model.input, model.get_layer("head_features").output)
    np.testing.assert_allclose(predicted(features, images), predicted(network, images.astype("float32")), atol=1e-5)


def test_a_run_keeps_its_module(module: Path, folder: Path, tmp_path: Path) -> None:
    copy = shutil.copytree(module, tmp_path / "module")
    run = finetune(folder, backbone=f"hub:{copy}", recipe=WHOLE, out=tmp_path / "run")
    assert run.metrics["parity"]["top1_agreement"] == 1.0 and run.metrics["parity"]["within_limit"]
    plan, backbone = run.plan, find_backbone(f"hub:{copy}")
    assert plan.backbone.source == "module" and plan.backbone.sha256 == backbone.sha256
    assert any("as a whole or not at all" in line for line in plan_lines(plan, backbone))
    shutil.rmtree(copy)
    shutil.move(run.folder, tmp_path / "elsewhere")
    model = load_model(tmp_path / "elsewhere")
    assert len(model.variables) == len(pooled_tiny().variables) + 2
    answers = predict(tmp_path / "elsewhere", [folder])
    exported, _ = export_run(tmp_path / "elsewhere", tmp_path / "exported", target="keras")
    np.testing.assert_allclose(predict(exported, [folder])["probability"], answers["probability"], atol=1e-5)
    with pytest.raises(WeightsError, match="No such module"):
        find_backbone(f"hub:{copy}")
    shutil.rmtree(tmp_path / "elsewhere" / "modules")
    with pytest.raises(WeightsError, match=r"is not at .* keep them together"):
        load_model(tmp_path / "elsewhere")


def test_a_run_starts_from_a_module_that_was_trained(
    module: Path, folder: Path, tmp_path: Path, unserved: None
) -> None:
    first = finetune(folder, backbone=f"hub:{module}", recipe=WHOLE, out=tmp_path / "first")
    head = Recipe("head", stages=(Stage(1, 1e-3, solver="logistic"),))
    second = finetune(folder, from_run=first.folder, recipe=head, out=tmp_path / "second")
    theirs, mine = (load_model(one).get_layer("module").get_weights() for one in (first, second))
    assert all(np.array_equal(a, b) for a, b in zip(theirs, mine, strict=True))
    fresh = build_classifier(f"hub:{module}", 3).get_layer("module").get_weights()
    assert not all(np.array_equal(a, b) for a, b in zip(theirs, fresh, strict=True))


def test_a_tf1_module_gives_features_and_is_not_fine_tuned(old_module: Path, folder: Path, tmp_path: Path) -> None:
    name = f"hub:{old_module}"
    assert "signatures only" in find_backbone(name).frozen_because
    with pytest.raises(SpecError, match=r"cannot be fine-tuned: it has signatures only.*head\s+alone"):
        finetune(folder, backbone=name, recipe=WHOLE, out=tmp_path / "run")
    assert not (tmp_path / "run").exists()
    run = finetune(folder, backbone=name, out=tmp_path / "run")  # what is chosen for a person trains the head alone
    assert all(stage.unfreeze == 0 for stage in run.plan.recipe.stages)
    assert evaluate_run(run)["accuracy"] == run.metrics["validation"]["accuracy"]


@pytest.fixture
def served(module: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """The address of a local server with the archive of a module, and a file that is not an archive."""
    with tarfile.open(tmp_path / "tiny.tar.gz", "w:gz") as archive:
        archive.add(module, arcname=".")
    (tmp_path / "broken.tar.gz").write_bytes(b"no archive")
    monkeypatch.setenv("TFHUB_CACHE_DIR", str(tmp_path / "cache"))

    class Handler(SimpleHTTPRequestHandler):
        def log_message(self, *arguments: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(Handler, directory=str(tmp_path)))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_address[1]}"
    server.shutdown()
    server.server_close()


@pytest.mark.filterwarnings("ignore:pkg_resources is deprecated", "ignore:Deprecated call to `pkg_resources")
def test_a_module_is_fetched_by_its_handle(served: str, module: Path) -> None:
    backbone = find_backbone(f"hub:{served}/tiny.tar.gz")
    assert backbone.sha256 == find_backbone(f"hub:{module}").sha256
    assert backbone.short_name.endswith("tiny.tar.gz") and "/" not in backbone.short_name
    assert build_classifier(backbone, 3).output_shape == (None, 3)
    for wrong in ("absent.tar.gz", "broken.tar.gz"):
        with pytest.raises(WeightsError, match=rf"{wrong}' cannot be fetched \(.*give its folder"):
            find_backbone(f"hub:{served}/{wrong}")


def test_what_is_no_module_says_so(module: Path, trained: Path, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    damaged = shutil.copytree(module, tmp_path / "damaged")
    (damaged / "saved_model.pb").write_bytes(b"\x00 no graph")
    for name, words in (
        (f"hub:{module.parent / 'tiiny'}", f"No such module: .* Did you mean '{module}'"),
        (f"hub:{tmp_path / 'empty'}", "holds no saved_model.pb. Expected the folder of a SavedModel"),
        (str(damaged), "does not load as a SavedModel from .* Download or export it again"),
        (str(trained / "saved_model"), "returns class, classes, .* Expected one tensor"),
    ):
        with pytest.raises(WeightsError, match=words):
            find_backbone(name)
    with pytest.raises(WeightsError, match="No such module"):
        check_backbone_name(f"hub:{tmp_path / 'nowhere'}")
    with pytest.raises(SpecError, match=r"`weights=none` asks for random weights, but .* has its own"):
        finetune(tmp_path, backbone=f"hub:{module}", weights="none")
    with pytest.raises(SpecError, match=r"takes 32 x 32 pixels only\. Leave `image_size` out, or give 32"):
        build_classifier(f"hub:{module}", 3, image_size=64)


def test_a_module_of_any_size_and_without_training_is_taken(tmp_path: Path) -> None:
    inputs = keras.Input((None, None, 3))
    maps = keras.layers.Conv2D(6, 3, strides=2)(inputs)
    name = f"hub:{write_module(keras.Model(inputs, maps), tmp_path / 'any', training=False)}"
    assert find_backbone(name).size == 224
    model = build_classifier(name, 3, image_size=40)
    assert model.get_layer("module").output.shape == (None, 19, 19, 6)
    assert model.get_layer("head_features").output.shape == (None, 6)


@pytest.mark.long
@pytest.mark.real
def test_a_hub_module_is_as_good_as_the_native_backbone(imagenet: Path, shared: Path, tmp_path: Path) -> None:
    """The same weights as a module and as a Keras model give equal features.

    After fine-tuning, their accuracies are equal within noise, and far above chance.
    """
    native = build_classifier("mobilenetv2_0.35", 2, image_size=96)
    network = keras.Model(native.input, native.get_layer("head_features").output)
    module = write_module(unit_network(network), tmp_path / "mobilenetv2", size=96)
    recipe = Recipe("tune", stages=(Stage(1, 1e-3, solver="logistic"), Stage(2, 3e-4, unfreeze="all")), batch_size=32)
    table = (shared / "data" / "cats_dogs" / "splits.csv").read_text().splitlines()
    assert len(table) > 300
    accuracy, agreement = {}, []
    for name in ("mobilenetv2_0.35", f"hub:{module}"):
        run = finetune(
            shared / "data" / "cats_dogs" / "splits.csv",
            backbone=name,
            image_size=96,
            recipe=recipe,
            out=tmp_path / f"run{len(accuracy)}",
        )
        accuracy[name] = run.metrics["test"]["accuracy"]
        agreement.append(predict(run.folder, [write_folder(tmp_path / "drawn", 2)])["problem"].eq("").all())
    n = run.metrics["test"]["n"]
    low = min(accuracy.values())
    assert (
        low > 0.75 and abs(np.diff(list(accuracy.values()))[0]) <= 3 * np.sqrt(low * (1 - low) / n) and all(agreement)
    )
