"""The contract that every row of the backbone table fulfils, and the head and the freezing of blocks."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
from scipy.special import softmax

from tests.tiny import predicted, tiny_file
from tlkit.backbones import BACKBONES, find_backbone
from tlkit.errors import SpecError
from tlkit.models.blocks import blocks, cut, feature_maps, set_trainable
from tlkit.models.classifier import as_float32, build_classifier, copy_weights
from tlkit.models.head import FEATURES, _attach_head, _pooled_taps
from tlkit.plan.recipe import Head

SMALLEST_OF_FAMILY = [
    "nano",
    "alexnet_owt",
    "googlenet_bn",
    "pixels",
    "bag_of_words",
    "resnet18",
    "resnext50_32x4d",
    "vgg16",
    "resnet50",
    "resnet50v2",
    "inceptionv3",
    "inceptionresnetv2",
    "xception",
    "densenet121",
    "mobilenet_0.25",
    "mobilenetv2_0.35",
    "mobilenetv3small_0.75",
    "mobilenetv3large_0.75",
    "efficientnetb0",
    "efficientnetv2b0",
    "convnexttiny",
    "nasnetmobile",
    "lenet5",
    "spatial_transformer",
    "fractional_pooling",
]
QUICK = ["nano", "mobilenet_0.25"]
DEEPEST = ["inceptionresnetv2", "nasnetmobile", "inception_resnet_v2", "densenet161"]  # over a minute each to train


# Built of the same layers, and with blocks that end in the same way, as a row that CI tests. The last two, the smallest
# of ConvNeXt and DenseNet, take half a minute each.
LEFT_TO_A_RELEASE = [
    "alexnet_owt",
    "googlenet_bn",
    "resnext50_32x4d",
    "resnet50",
    "inceptionv3",
    "inceptionresnetv2",
    "xception",
    "mobilenetv3large_0.75",
    "efficientnetv2b0",
    "convnexttiny",
    "densenet121",
]


def long_unless_smallest(name: str) -> Any:
    """Mark a row of the table as long, unless it is the smallest of its family and not in LEFT_TO_A_RELEASE.

    benchmarks/contract_all.py runs the long ones before a release.
    """
    short = name in SMALLEST_OF_FAMILY and name not in LEFT_TO_A_RELEASE
    return name if short else pytest.param(name, marks=pytest.mark.long)


def tiny(name: str, **settings: Any) -> keras.Model:
    keras.backend.clear_session()
    settings = {"head": Head(), "image_size": BACKBONES[name].smallest} | settings  # without the head of its paper
    return build_classifier(name, 3, weights="none", **settings)


def random_images(model: keras.Model, count: int = 4) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (count, *model.input_shape[1:])).astype("float32")


def batch_norms(model: keras.Model) -> list[keras.layers.Layer]:
    return [layer for layer in model.layers if isinstance(layer, keras.layers.BatchNormalization)]


def check_structure(name: str) -> keras.Model:
    """Boundaries cover every weighted layer, without overlap, and unfreezing more blocks trains strictly more.

    A backbone that must stay frozen trains the head alone, and refuses more.

    Returns the model, so that no check has to build it again.
    """
    model, backbone = tiny(name), BACKBONES[name]
    parts = blocks(model, backbone)
    covered = [id(layer) for block in parts for layer in block.layers]
    assert len(covered) == len(set(covered)), "a layer is in two blocks"
    weighted = [
        layer for layer in model.layers if layer.weights and not layer.name.startswith(("head_", "predictions"))
    ]
    assert [layer.name for layer in weighted if id(layer) not in set(covered)] == []
    assert sum(layer.count_params() for layer in weighted) == backbone.parameters
    if backbone.frozen_because:
        assert set_trainable(model, backbone) == model.get_layer("predictions").count_params()
        with pytest.raises(SpecError, match=re.escape(backbone.frozen_because)):
            set_trainable(model, backbone, unfreeze=1)
        return model
    counts = [set_trainable(model, backbone, unfreeze=k) for k in range(len(parts) + 1)]
    assert counts == sorted(set(counts)), "unfreezing a block trains nothing more"
    assert counts[-1] == set_trainable(model, backbone, unfreeze="all")
    assert (4 if backbone.weights else 2) <= len(parts) <= 7 and all(len(block.end) <= 2 for block in parts)
    return model


def check_contributions(name: str, model: keras.Model) -> None:
    """With a linear head on all blocks of the model, the contributions of all positions add up to a logit.

    The logit is taken less its bias. A backbone that ends in a vector has no positions, and says so.
    """
    import tensorflow as tf

    from tlkit.evaluation.saliency import ClassActivationMaps

    if any(len(one.shape) == 2 for one in feature_maps(model)):
        with pytest.raises(SpecError, match="Use occlusion"):
            ClassActivationMaps(model)
        return
    images = random_images(model, 2)
    network, head = keras.Model(model.input, feature_maps(model)), Head(taps="all")
    model = keras.Model(model.input, _attach_head(_pooled_taps(network, BACKBONES[name], head), head, 3))
    pooled, last = keras.Model(model.input, model.get_layer(FEATURES).output), model.get_layer("predictions")
    tf.config.run_functions_eagerly(True)  # tracing the large networks takes minutes, and is not tested here
    try:
        features = np.asarray(pooled(images, training=False), float)
        bias = np.array([0.5, -0.5, 1.0])
        largest = np.abs(features @ np.asarray(last.kernel)).max()
        last.set_weights([np.asarray(last.kernel) * 3 / largest, bias])
        contributions, probabilities = ClassActivationMaps(model, 2).contributions(images, [0, 2])
    finally:
        tf.config.run_functions_eagerly(False)
    logits = features @ np.asarray(last.kernel, float)  # less the bias
    assert contributions.ndim == 3
    assert np.allclose(contributions.mean(axis=(1, 2)), logits[[0, 1], [0, 2]], rtol=0, atol=1e-4)
    assert np.allclose(probabilities, softmax(logits + bias, axis=1), atol=1e-4)


def check_behaviour(name: str, tmp_path: Path, model: keras.Model | None = None, *, eagerly: bool = True) -> None:
    """`fit` changes the unfrozen layers only, BatchNorm obeys its mode, and both files give equal predictions.

    Eagerly, for tracing a large network four times took most of the minutes; one small network is traced.

    model: the row's, if it is built already. It is trained.
    """
    from tlkit.deployment.saved_model import export

    model, backbone = model or tiny(name), BACKBONES[name]
    images, labels = random_images(model), np.eye(3)[[0, 1, 2, 0]]
    parts = blocks(model, backbone)
    free = min(2, backbone.blocks_to_unfreeze, len(parts) - 1)  # one block stays frozen
    for mode in ("frozen", "moving"):
        set_trainable(model, backbone, unfreeze=free, batch_norm=mode)
        before = {w.path: w.numpy().copy() for w in model.weights}
        prefix, suffix = cut(model, backbone, free)
        # Adam's steps are bounded; plain gradients of a deep network with random weights are not
        suffix.compile(keras.optimizers.Adam(1e-3), "categorical_crossentropy", run_eagerly=eagerly)
        outputs = prefix(images, training=False)
        suffix.fit(outputs if isinstance(outputs, list) else [outputs], labels, epochs=1, verbose=0)
        moved = {w.path for w in model.weights if not np.array_equal(w.numpy(), before[w.path])}
        frozen = {w.path for block in parts[: len(parts) - free] for layer in block.layers for w in layer.weights}
        assert not moved & frozen, "a frozen weight moved"
        assert any("predictions" in path for path in moved)
        statistics = {w.path for layer in batch_norms(model) for w in layer.weights if "moving" in w.path}
        assert bool(moved & statistics) == (mode == "moving" and bool(statistics)), f"BatchNorm is not {mode}"
    expected = np.asarray(model(images, training=False))
    prefix, suffix = cut(model, backbone, min(1, free))
    outputs = prefix(images, training=False)
    joined = suffix(outputs if isinstance(outputs, list) else [outputs], training=False)
    assert np.allclose(joined, expected, atol=1e-5)
    model.save(tmp_path / "m.keras")
    again = keras.saving.load_model(tmp_path / "m.keras", compile=False)
    assert np.allclose(again(images, training=False), expected, atol=1e-5)
    assert [len(b.layers) for b in blocks(again, backbone)] == [len(b.layers) for b in parts]
    import tensorflow as tf

    served = tf.saved_model.load(str(export(model, ["a", "b", "c"], tmp_path / "served")))
    answer = served.signatures["serve"](image=tf.constant(images.astype("uint8")))
    assert np.allclose(answer["probabilities"].numpy(), expected, atol=1e-5)


def own_layers(model: keras.Model) -> bool:
    """Whether a model has a layer that Keras alone does not know."""
    return any(not type(layer).__module__.startswith("keras.") for layer in model._flatten_layers())


@pytest.mark.parametrize("name", QUICK)
@pytest.mark.slow
def test_blocks_cover_the_backbone_and_the_contributions_add_up_to_the_logit(name: str) -> None:
    model = check_structure(name)
    assert own_layers(model) == BACKBONES[name].own_layers
    check_contributions(name, model)


@pytest.mark.slow
@pytest.mark.parametrize("name", [long_unless_smallest(n) for n in BACKBONES if n not in QUICK])
def test_every_row_fulfils_the_contract(name: str, tmp_path: Path) -> None:
    """One network is built for all of it. Only the smallest of a family is trained and written too."""
    model = check_structure(name)
    assert own_layers(model) == BACKBONES[name].own_layers
    check_contributions(name, model)
    if name in SMALLEST_OF_FAMILY and name not in DEEPEST:
        check_behaviour(name, tmp_path, model)


@pytest.mark.slow
@pytest.mark.long
def test_fit_obeys_the_blocks_and_the_batch_norm_mode(tmp_path: Path) -> None:
    check_behaviour("mobilenet_0.25", tmp_path, eagerly=False)


@pytest.mark.slow
def test_fit_obeys_the_blocks_and_the_batch_norm_mode_in_nano(tmp_path: Path) -> None:
    check_behaviour("nano", tmp_path)


@pytest.mark.slow
@pytest.mark.long
@pytest.mark.parametrize("name", DEEPEST)
def test_fit_obeys_the_blocks_and_the_batch_norm_mode_in_the_deepest(name: str, tmp_path: Path) -> None:
    check_behaviour(name, tmp_path)


def test_unfreezing_two_blocks_of_vgg16_trains_six_conv_layers() -> None:
    model = tiny("vgg16")
    set_trainable(model, "vgg16", unfreeze=2)
    trainable = [layer.name for layer in model.layers if layer.trainable and isinstance(layer, keras.layers.Conv2D)]
    assert trainable == [f"block{b}_conv{c}" for b in (4, 5) for c in (1, 2, 3)]


def test_too_many_blocks_is_an_error_that_says_how_many_there_are() -> None:
    with pytest.raises(SpecError, match=r"lenet5 has 2 blocks"):
        set_trainable(tiny("lenet5"), "lenet5", unfreeze=3)


def test_cuts_share_their_weights_with_the_classifier() -> None:
    model = tiny("mobilenet_0.25")
    prefix, suffix = cut(model, BACKBONES["mobilenet_0.25"], 2)
    own = {id(w) for w in model.weights}
    assert prefix is not None and {id(w) for w in prefix.weights} | {id(w) for w in suffix.weights} == own
    assert not {id(w) for w in prefix.weights} & {id(w) for w in suffix.weights}
    assert cut(model, BACKBONES["mobilenet_0.25"], "all") == (None, model)


@pytest.mark.parametrize(
    ("head", "features"),
    [
        (Head(), 32),
        (Head(pooling="max"), 32),
        (Head(pooling="avg+max", batch_norm=True, dropout=0.2), 64),
        (Head(pooling="flatten", hidden=(8, 4), l2=1e-3), 32 * 4),
    ],
)
def test_the_head_is_configurable(head: Head, features: int) -> None:
    model = build_classifier(tiny_file(), 4, head=head)
    assert model.get_layer(FEATURES).output.shape[-1] == features
    dense = [layer for layer in model.layers if isinstance(layer, keras.layers.Dense)]
    assert [layer.units for layer in dense] == [*head.hidden, 4]
    assert all((layer.kernel_regularizer is not None) == bool(head.l2) for layer in dense)
    rates = [layer.rate for layer in model.layers if layer.name.startswith("head_dropout")]
    assert rates == ([head.dropout] * (len(head.hidden) + 1) if head.dropout else [])
    assert np.allclose(predicted(model, random_images(model)).sum(axis=1), 1, atol=1e-5)
    prefix, _ = cut(model, find_backbone(tiny_file()), 0)
    assert prefix is not None and prefix.outputs[0].shape[-1] == features


@pytest.mark.slow
def test_under_mixed_precision_the_softmax_is_float32_and_the_copy_is_float32_throughout() -> None:
    model = tiny("mobilenet_0.25", precision="mixed_bfloat16")
    assert model.get_layer("conv1").compute_dtype == "bfloat16"
    assert model.get_layer("predictions").compute_dtype == "float32" == model.get_layer("normalise").compute_dtype
    assert keras.config.dtype_policy().name == "float32"
    model.get_layer("conv1_bn").momentum = 0.123
    plain = as_float32(model, BACKBONES["mobilenet_0.25"], Head())
    assert plain.get_layer("conv1_bn").momentum == 0.123
    assert {layer.compute_dtype for layer in plain.layers} == {"float32"}
    assert all(np.array_equal(a, b) for a, b in zip(model.get_weights(), plain.get_weights(), strict=True))


@pytest.mark.slow
def test_the_seed_decides_the_initial_weights() -> None:
    first, same, other = (build_classifier(tiny_file(), 3, seed=s).get_weights() for s in (1, 1, 2))
    assert all(np.array_equal(a, b) for a, b in zip(first, same, strict=True))
    assert not all(np.array_equal(a, b) for a, b in zip(first, other, strict=True))


@pytest.mark.slow
def test_random_weights_get_statistics_that_arrive_in_time() -> None:
    """At Keras' own momentum a network with random weights had validation accuracy at chance level.

    See `_lower_batch_norm_momentum`.
    """
    assert {layer.momentum for layer in batch_norms(tiny("mobilenet_0.25"))} == {0.9}


@pytest.mark.slow
def test_weights_are_copied_with_or_without_the_head() -> None:
    source, target = tiny("lenet5", seed=1), tiny("lenet5", seed=2)
    assert not np.array_equal(source.get_layer("c1").kernel, target.get_layer("c1").kernel)
    copy_weights(source, target, with_head=False)
    assert np.array_equal(source.get_layer("c1").kernel, target.get_layer("c1").kernel)
    assert not np.array_equal(source.get_layer("predictions").kernel, target.get_layer("predictions").kernel)
    copy_weights(source, target, with_head=True)
    assert np.array_equal(source.get_layer("predictions").kernel, target.get_layer("predictions").kernel)
    with pytest.raises(SpecError, match="other weights"):
        copy_weights(tiny("nin"), target, with_head=False)


def test_a_size_below_the_smallest_is_refused() -> None:
    with pytest.raises(SpecError, match="takes 32 or more"):
        build_classifier("mobilenet_0.25", 2, image_size=31, weights="none")


@pytest.mark.slow
def test_layers_that_hold_layers_obey_too() -> None:
    model = tiny("convnexttiny")
    set_trainable(model, "convnexttiny", unfreeze=1)
    downsampling = [layer for layer in model.layers if "downsampling" in layer.name]
    assert [bool(layer.trainable_weights) for layer in downsampling] == [False, False, True]
