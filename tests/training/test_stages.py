"""The advanced fields of a stage: mixing, averaging, recalibration, single blocks, and interpolation."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest

from tests.tiny import predicted, tiny_file
from tests.training.test_training import BACKBONE, examples, recipe, tiny, weights_by_path
from tlkit import Augmentation, Head, Stage, build_classifier, cut, evaluate_run, finetune, set_trainable
from tlkit.backbones import find_backbone
from tlkit.cache import in_memory
from tlkit.errors import SpecError
from tlkit.evaluation.predict import predict_probabilities
from tlkit.models.batch_norm import batch_norms, fit_momentum
from tlkit.plan.recipe import recipe_from_dict, to_dict
from tlkit.stats import log_loss
from tlkit.training.batches import Batches, Targets
from tlkit.training.train import train, unfrozen

SOLVED = Stage(1, 1e-3, solver="logistic", strength=0.1)


def mixed(values: np.ndarray, **settings: Any) -> tuple[np.ndarray, np.ndarray]:
    batches = Batches([[in_memory(values)]], Targets(np.arange(len(values)) % 3, 3), batch_size=len(values), **settings)
    return batches[0][0], batches[0][1]


def test_mixup_blends_images_and_labels_by_one_share() -> None:
    values = np.arange(3.0).repeat(4).reshape(3, 4)  # row i is all i, of class i
    rows, labels = mixed(values, mixup=1.0, seed=3)
    np.testing.assert_allclose(labels.sum(1), 1, rtol=1e-5)
    np.testing.assert_allclose(rows[:, 0], labels @ np.arange(3.0), rtol=1e-5)
    assert ((labels > 0) & (labels < 1)).any()
    again, _ = mixed(values, mixup=1.0, seed=3)
    other, _ = mixed(values, mixup=1.0, seed=4)
    assert np.array_equal(rows, again) and not np.array_equal(rows, other)


def test_with_class_weights_the_loss_is_the_mixture_of_both_images_weighted_losses() -> None:
    values, class_weights = np.arange(3.0).repeat(4).reshape(3, 4), np.array([0.5, 1.0, 4.0], "float32")
    targets = Targets(np.arange(3), 3, class_weights)
    _, labels, weights = Batches([[in_memory(values)]], targets, batch_size=3, mixup=1.0, seed=3)[0]
    _, shares = mixed(values, mixup=1.0, seed=3)
    np.testing.assert_allclose(labels * weights[:, None], shares * class_weights, rtol=1e-5)
    np.testing.assert_allclose(labels.sum(1), 1, rtol=1e-5)


def test_cutmix_labels_are_the_share_of_each_image() -> None:
    values = np.arange(3, dtype="uint8").repeat(400).reshape(3, 20, 20, 1)
    for seed in range(8):
        images, labels = mixed(values, cutmix=1.0, seed=seed)
        found = np.stack([(images == one).mean((1, 2, 3)) for one in range(3)], axis=1)
        np.testing.assert_allclose(labels, found, atol=1e-5)
    assert images.dtype == np.uint8


@pytest.mark.slow
def test_recalibration_sees_images_that_are_not_mixed() -> None:
    values = np.arange(4.0).repeat(2).reshape(4, 2)
    batches = Batches([[in_memory(values)]], Targets(np.arange(4) % 2, 2), batch_size=4, mixup=1.0, seed=6332)
    assert np.array_equal(batches.unmixed(0), values) and not np.array_equal(batches[0][0], values)
    data, found = examples(16, 6333), []
    for mixup in (0.0, 1.0):
        model = tiny(seed=2)
        stage = Stage(1, 1e-9, unfreeze=1, batch_norm="recalibrated", optimizer="sgd", mixup=mixup)
        train(model, BACKBONE, recipe(stage, monitor="last"), data, examples(6, 6334))
        found.append(weights_by_path(model)["bn_32/moving_variance"])
    np.testing.assert_allclose(*found, rtol=1e-4)


@pytest.mark.slow
@pytest.mark.parametrize("what", ["regularizers", "label smoothing"])
def test_a_stage_after_a_solved_head_is_judged_by_the_log_loss_alone(what: str, tmp_path: Path) -> None:
    """The penalties of an own backbone are as large as the log loss, and the solved head's score has none."""
    backbone, head = BACKBONE, Head(label_smoothing=0.5 if what == "label smoothing" else 0.0)
    if what == "regularizers":
        inputs = keras.Input((32, 32, 3))
        x = keras.layers.Rescaling(1 / 127.5, offset=-1)(inputs)
        x = keras.layers.Conv2D(8, 3, strides=2, kernel_regularizer=keras.regularizers.L2(0.1), name="conv")(x)
        keras.Model(inputs, keras.layers.Activation("relu", name="relu")(x)).save(tmp_path / "own.keras")
        backbone = find_backbone(str(tmp_path / "own.keras"))
    model = build_classifier(backbone, 3, head=head, seed=2)
    first = Stage(1, 1e-3) if what == "label smoothing" else SOLVED
    stages = recipe(first, Stage(2, 1e-4, unfreeze="all"), head=head)
    validation = examples(12, 6336)
    history = train(model, backbone, stages, examples(24, 6335), validation)
    final = log_loss(predict_probabilities(model, validation.pixels, batch_size=8), validation.labels)
    assert history.best is not None and history.best["stage"] == 2
    assert history.best["val_loss"] == pytest.approx(final, abs=1e-4)


@pytest.mark.slow
def test_validation_is_not_mixed(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[tuple[bool, float]] = []
    original = Batches.__init__

    def spy(self: Batches, *args: Any, **settings: Any) -> None:
        seen.append((settings.get("shuffle", False), settings.get("mixup", 0.0)))
        original(self, *args, **settings)

    monkeypatch.setattr(Batches, "__init__", spy)
    train(tiny(), BACKBONE, recipe(Stage(1, 1e-3, mixup=0.4)), examples(12, 500), examples(6, 501))
    assert sorted(seen) == [(False, 0.0), (True, 0.4)]


@pytest.mark.parametrize("unfreeze", [pytest.param((2,), marks=pytest.mark.slow), (1, 3)])
def test_surgery_moves_the_named_blocks_and_no_other(unfreeze: tuple[int, ...]) -> None:
    model = tiny(seed=2)
    before = weights_by_path(model)
    stages = (SOLVED, Stage(2, 1e-3, unfreeze=unfreeze))
    train(model, BACKBONE, recipe(*stages, monitor="last"), examples(16, 502), examples(8, 503))
    moved = {p.split("/")[0] for p, v in weights_by_path(model).items() if not np.array_equal(v, before[p])}
    filters = (8, 16, 24, 32)
    assert moved == {"predictions", *(f"conv_{filters[block - 1]}" for block in unfreeze)}


@pytest.mark.slow
def test_what_lies_below_the_lowest_named_block_is_computed_once() -> None:
    model = tiny(seed=2)
    prefix, _ = cut(model, BACKBONE, (3,))
    assert prefix is not None and prefix.output_shape[-1] == 16
    stage = Stage(3, 1e-3, unfreeze=(3,))
    assert train(model, BACKBONE, recipe(stage), examples(9, 504), examples(6, 505)).images_computed == 15


@pytest.mark.slow
def test_recalibration_takes_the_statistics_of_the_training_images() -> None:
    data, model = examples(16, 506), tiny(seed=2)
    before = weights_by_path(model)
    stage = Stage(1, 1e-9, unfreeze=1, batch_norm="recalibrated", optimizer="sgd")
    train(model, BACKBONE, recipe(stage, monitor="last"), data, examples(6, 507))
    after = weights_by_path(model)
    moved = {p for p, v in after.items() if not np.allclose(v, before[p], atol=1e-7)}
    assert moved == {"bn_32/moving_mean", "bn_32/moving_variance"}
    activations = predicted(
        keras.Model(model.input, model.get_layer("conv_32").output), data.pixels.gather(slice(None))
    )
    np.testing.assert_allclose(after["bn_32/moving_mean"], activations.mean((0, 1, 2)), rtol=0.02, atol=0.02)
    assert not any(layer.trainable for layer in batch_norms(model, BACKBONE, 1))


def test_only_the_unfrozen_blocks_are_recalibrated() -> None:
    assert [layer.name for layer in batch_norms(tiny(), BACKBONE, (1, 3))] == ["bn_8", "bn_24"]
    assert len(batch_norms(tiny(), BACKBONE, "all")) == 4 and not batch_norms(tiny(), BACKBONE, 0)


@pytest.mark.slow
def test_moving_statistics_arrive_within_a_short_training() -> None:
    """At Keras' MobileNets' own momentum of 0.999 they would have gone 3 % of the way in 30 steps."""
    model, pool = tiny(), examples(24, 41)
    for layer in batch_norms(model, BACKBONE, "all"):
        layer.momentum = 0.999
    first = model.get_layer("bn_8")
    first.moving_variance.assign(np.full(8, 1e4, "float32"))
    moving = Stage(10, 1e-5, unfreeze="all", batch_norm="moving")
    train(model, BACKBONE, recipe(moving, monitor="last"), pool, pool)
    assert {layer.momentum for layer in batch_norms(model, BACKBONE, "all")} == {0.9}
    assert (first.moving_variance.numpy() < 1e3).all()


@pytest.mark.parametrize(("steps", "momentum"), [(1, 0.9), (100, 0.9), (400, 0.975), (10_000, 0.99)])
def test_the_momentum_fits_the_steps_and_is_never_raised(steps: int, momentum: float) -> None:
    layers = [keras.layers.BatchNormalization(momentum=m) for m in (0.999, 0.5)]
    fit_momentum(layers, steps)
    assert [layer.momentum for layer in layers] == [pytest.approx(momentum), 0.5]


@pytest.mark.slow
def test_the_moving_average_is_kept_and_lags_behind() -> None:
    def kernel(ema: float) -> np.ndarray:
        model = tiny(seed=2)
        train(
            model,
            BACKBONE,
            recipe(Stage(4, 1e-2, ema=ema), monitor="last"),
            examples(16, 508),
            examples(6, 509),
            seed=1,
        )
        return keras.ops.convert_to_numpy(model.get_layer("predictions").kernel)

    start = keras.ops.convert_to_numpy(tiny(seed=2).get_layer("predictions").kernel)
    plain, averaged = kernel(0.0), kernel(0.9)
    assert 0 < np.abs(averaged - start).sum() < 0.8 * np.abs(plain - start).sum()


@pytest.mark.slow
def test_half_the_way_is_half_the_way() -> None:
    def trained(share: float) -> dict[str, np.ndarray]:
        model = tiny(seed=2)
        stages = (SOLVED, Stage(2, 1e-3, unfreeze=2, interpolate=share))
        history = train(model, BACKBONE, recipe(*stages, monitor="last"), examples(16, 510), examples(6, 511))
        assert len(history.rows) == 3 + (share < 1)
        return weights_by_path(model)

    whole, half = trained(1.0), trained(0.5)
    start = tiny(seed=2)
    train(start, BACKBONE, recipe(SOLVED), examples(16, 510), examples(6, 511))
    for path, value in weights_by_path(start).items():
        np.testing.assert_allclose(half[path], (value + whole[path]) / 2, rtol=1e-3, atol=1e-5)


@pytest.mark.slow
def test_the_position_that_is_chosen_is_the_one_with_the_lowest_validation_loss() -> None:
    """The rate is so high that the end is far worse than the start."""
    validation, model = examples(9, 515), tiny(seed=2)
    stages = (SOLVED, Stage(1, 0.5, unfreeze=2, interpolate="chosen"))
    history = train(model, BACKBONE, recipe(*stages, monitor="last"), examples(16, 514), validation)
    solved, end, chosen = (row["val_loss"] for row in history.rows)
    assert end > solved + 0.5 and chosen <= solved + 1e-4
    found = predict_probabilities(model, validation.pixels)
    assert log_loss(found, validation.labels) == pytest.approx(chosen, abs=1e-4)


@pytest.mark.slow
def test_a_dense_units_weights_stay_within_max_norm_and_l1_empties_them() -> None:
    data, validation = examples(24, 512), examples(6, 513)
    kernels = []
    for head in (Head(), Head(max_norm=0.3), Head(l1=0.3)):
        model = tiny(head=head, seed=2)
        train(model, BACKBONE, recipe(Stage(6, 1e-2), head=head, monitor="last"), data, validation)
        kernels.append(keras.ops.convert_to_numpy(model.get_layer("predictions").kernel))
    plain, limited, sparse = kernels
    assert np.linalg.norm(limited, axis=0).max() <= 0.3001 < np.linalg.norm(plain, axis=0).max()
    assert (np.abs(sparse) < 0.02).mean() > (np.abs(plain) < 0.02).mean() + 0.3


def test_stages_with_new_fields_survive_json_and_say_what_they_train() -> None:
    plan = recipe(Stage(1, 1e-3, unfreeze=(2, 3), mixup=0.2, ema=0.99), head=Head(taps=(1, 2)))
    assert recipe_from_dict(to_dict(plan)) == plan
    assert [unfrozen(one) for one in (0, 1, "all", (2, 3))] == [
        "the head",
        "the head and the top block",
        "the head and all blocks",
        "the head and blocks 2, 3",
    ]


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"unfreeze": ()}, "Expected blocks"),
        ({"unfreeze": (0,)}, r"Stage\.unfreeze is 0"),
        ({"ema": 1.0}, r"Stage\.ema is 1"),
        ({"interpolate": 0.0}, r"Stage\.interpolate"),
        ({"mixup": -1.0}, r"Stage\.mixup"),
        ({"cutmix": 1.0}, "pooled features"),
    ],
)
def test_values_that_make_no_stage_are_refused(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(SpecError, match=message):
        Stage(1, 1e-3, **settings)


def test_a_block_that_is_not_there_is_refused() -> None:
    with pytest.raises(SpecError, match="names block 7"):
        set_trainable(tiny(), BACKBONE, unfreeze=(7,))


STRATEGIES = {
    "logistic head": recipe(SOLVED),
    "svm head": recipe(Stage(1, 1e-3, solver="svm")),
    "all blocks": recipe(SOLVED, head=Head(taps="all")),
    "an earlier block": recipe(SOLVED, head=Head(taps=(2,))),
    "top blocks": recipe(SOLVED, Stage(1, 1e-3, unfreeze=2, schedule="cosine", warmup=0.5, layer_decay=0.8)),
    "all blocks tuned": recipe(SOLVED, Stage(1, 1e-3, unfreeze="all", batch_norm="moving"), head=Head(taps="all")),
    "block by block": recipe(SOLVED, *[Stage(1, 1e-3, unfreeze=k) for k in (1, 2, 3, "all")]),
    "surgery": recipe(SOLVED, Stage(1, 1e-3, unfreeze=(2,))),
    "recalibrated": recipe(SOLVED, Stage(1, 1e-3, unfreeze="all", batch_norm="recalibrated")),
    "mixed": recipe(SOLVED, Stage(1, 1e-3, unfreeze=2, mixup=0.2, cutmix=1.0)),
    "averaged": recipe(SOLVED, Stage(2, 1e-3, unfreeze=2, ema=0.9, interpolate=0.5)),
    "regularised head": recipe(Stage(2, 1e-2), head=Head(hidden=(16,), dropout=0.2, l1=1e-4, l2=1e-4, max_norm=2.0)),
}
# the tests above train the others, whose models have no other layers than these
EXPORTED_IN_CI = ("logistic head", "all blocks tuned", "an earlier block", "top blocks", "averaged", "regularised head")


@pytest.mark.slow
@pytest.mark.parametrize(
    "name", [name if name in EXPORTED_IN_CI else pytest.param(name, marks=pytest.mark.long) for name in STRATEGIES]
)
def test_every_strategy_ends_in_a_model_that_exports_is_proven_and_reloads(
    name: str, folder: Path, tmp_path: Path
) -> None:
    run = finetune(folder, backbone=tiny_file(), image_size=32, recipe=STRATEGIES[name], out=tmp_path / "run")
    parity = run.metrics["parity"]
    assert parity["top1_agreement"] == 1.0 and parity["within_limit"]
    assert not keras.saving.load_model(run.model_file).compiled
    assert evaluate_run(run)["log_loss"] == pytest.approx(run.metrics["validation"]["log_loss"], rel=1e-4, abs=1e-6)


def test_views_of_an_image_do_not_weaken_the_penalty_of_a_solved_head() -> None:
    """Four views that hardly differ are four times as many rows: the head is still that of one view."""
    kernels = []
    pool = examples(24, 6302)
    for augmentation in (Augmentation(), Augmentation(brightness=(-1e-3, 1e-3))):
        model = tiny(seed=1)
        train(model, BACKBONE, recipe(SOLVED, augmentation=augmentation, monitor="last"), pool, pool, seed=2)
        kernels.append(model.get_layer("predictions").get_weights()[0])
    assert np.linalg.norm(kernels[1] - kernels[0]) < 0.05 * np.linalg.norm(kernels[0])
