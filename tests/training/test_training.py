"""Features and training: what is cached, which weights change, and which are kept."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import Any

import keras
import numpy as np
import pytest

from tests.tiny import predicted, tiny_file
from tlkit import Augmentation, Examples, Head, Recipe, Stage, build_classifier
from tlkit.backbones import BACKBONES, find_backbone
from tlkit.cache import in_memory
from tlkit.errors import SpecError, TrainingError
from tlkit.evaluation.predict import predict_from_cache, predict_probabilities
from tlkit.features.extract import extract_features, prefix_key
from tlkit.models.blocks import cut
from tlkit.plan.recipe import SOLVERS
from tlkit.progress import Deadline
from tlkit.stats import log_loss
from tlkit.training.batches import Batches, Targets, augmenting, class_weights
from tlkit.training.callbacks import FollowEpochs
from tlkit.training.history import History
from tlkit.training.inputs import StageInputs, StagePlan
from tlkit.training.optimizers import make_optimizer, rate_factors
from tlkit.training.train import ENGINES, _shuffled, train

BACKBONE = find_backbone(tiny_file())
SCORES = {"loss": 1.0, "accuracy": 0.5, "val_loss": 1.0, "val_accuracy": 0.5}
SHIFT = Augmentation(shift_x=(-0.2, 0.2), brightness=(-0.1, 0.1))


def examples(count: int = 24, seed: int = 0, made_by: str = "drawn") -> Examples:
    """Three classes by colour, with noise."""
    rng = np.random.default_rng(seed)
    labels = np.arange(count) % 3
    images = rng.integers(0, 80, (count, 32, 32, 3))
    images[np.arange(count), :, :, labels] += 150
    keys = [f"{seed:08x}{i:056x}" for i in range(count)]
    keys = [f"{i * 7919 + seed:08x}{key[8:]}" for i, key in enumerate(keys)]
    return Examples(in_memory(images.astype("uint8")), labels, keys, made_by=made_by)


def tiny(**settings: Any) -> keras.Model:
    return build_classifier(BACKBONE, 3, **settings)


def recipe(*stages: Stage, **settings: Any) -> Recipe:
    return Recipe("test", stages=stages, batch_size=8, **settings)


# -- batches ----------------------------------------------------------------------------------------------


def order_of(batches: Batches, epochs: int) -> list[list[int]]:
    found = []
    for epoch in range(epochs):
        batches.set_epoch(epoch)
        found.append([int(v) for i in range(len(batches)) for v in batches[i][0][:, 0]])
    return found


def numbered(count: int, views: int = 1, **settings: Any) -> Batches:
    sources = [[in_memory(np.arange(count).reshape(-1, 1) + 100 * v)] for v in range(views)]
    return Batches(sources, Targets(np.arange(count) % 2, 2), batch_size=4, **settings)


def test_every_epoch_has_each_image_once_in_an_order_of_its_own() -> None:
    first, second = order_of(numbered(10, seed=3, shuffle=True), 2)
    assert sorted(first) == sorted(second) == list(range(10)) and first != second
    assert order_of(numbered(10, seed=3, shuffle=True), 2) == [first, second]
    assert order_of(numbered(10, seed=4, shuffle=True), 1) != [first]


def test_views_take_turns_so_that_epochs_differ_and_each_is_used() -> None:
    epochs = np.array(order_of(numbered(6, views=3, seed=0), 3))
    assert (np.sort(epochs // 100, axis=0) == np.arange(3)[:, None]).all()
    assert (epochs % 100 == np.arange(6)).all()
    assert len(set((epochs[0] // 100).tolist())) > 1, "images start at different views"


def test_fit_sees_the_epochs_in_turn() -> None:
    """Keras fetches a batch before the first epoch to infer its shape; that must not shift the epochs."""
    seen: list[int] = []

    class Spy(Batches):
        def __getitem__(self, number: int) -> tuple[Any, ...]:
            seen.append(self.epoch)
            return super().__getitem__(number)

    inputs = keras.Input((1,))
    model = keras.Model(inputs, keras.layers.Dense(2, activation="softmax")(inputs))
    model.compile("sgd", "categorical_crossentropy")
    spy = Spy([[in_memory(np.zeros((8, 1), "float32"))]], Targets(np.zeros(8, int), 2), batch_size=4)
    model.fit(spy, initial_epoch=4, epochs=7, shuffle=False, verbose=0, callbacks=[FollowEpochs(spy)])
    assert seen[-6:] == [4, 4, 5, 5, 6, 6]


def test_class_weights_balance_the_classes() -> None:
    labels = np.array([0] * 6 + [1] * 2)
    weights = class_weights(labels, 3)
    assert weights[labels].sum() == pytest.approx(8 * 2 / 3) and weights.tolist() == pytest.approx([8 / 18, 8 / 6, 1.0])
    _, _, given = Batches([[in_memory(np.zeros((8, 1)))]], Targets(labels, 3, weights), batch_size=8)[0]
    assert given.tolist() == pytest.approx(weights[labels].tolist())


def test_fresh_augmentation_depends_on_seed_epoch_and_image_only() -> None:
    data = examples(6)
    images = data.pixels.gather(np.arange(6))
    found = []
    for workers in (1, 3):
        with ThreadPoolExecutor(workers) as pool:
            transform = augmenting(SHIFT, data.numbers(), 5, pool)
            found.append([transform([images], np.arange(6), epoch)[0] for epoch in (0, 1)])
            one = transform([images[2:3]], np.array([2]), 1)[0]
            assert (one == found[-1][1][2:3]).all()
    assert (np.array(found[0]) == np.array(found[1])).all() and (found[0][0] != found[0][1]).any()


# -- features ---------------------------------------------------------------------------------------------


def test_features_equal_the_prefix_and_are_computed_once() -> None:
    data, model = examples(10, seed=101), tiny(seed=3)
    prefix, _ = cut(model, BACKBONE, 1)
    first = extract_features(prefix, data, batch_size=4)
    again = extract_features(prefix, data, batch_size=4)
    assert first is not None and again is not None
    assert (first.computed, again.computed) == (10, 0)
    direct = predicted(prefix, data.pixels.gather(np.arange(10)))
    direct = direct[0] if isinstance(direct, list) else direct
    assert np.allclose(again.views[0][0].gather(np.arange(10)), direct, atol=1e-5)
    more = extract_features(prefix, examples(12, seed=101), batch_size=4)
    assert more is not None and more.computed == 2, "only new images are computed"


def test_the_key_is_of_what_is_computed_not_of_names() -> None:
    keys = [prefix_key(cut(tiny(seed=s), BACKBONE, 1)[0]) for s in (0, 0)]
    assert keys[0] == keys[1]
    other = tiny()
    other.get_layer("conv_8").kernel.assign(other.get_layer("conv_8").kernel + 1e-3)
    assert prefix_key(cut(other, BACKBONE, 1)[0]) != keys[0]
    assert prefix_key(cut(tiny(), BACKBONE, 2)[0]) != keys[0]


def test_the_key_is_of_connections_and_constants_too() -> None:
    def network(*, swapped: bool = False, constant: float = 2.0) -> keras.Model:
        """Two equal Dense layers without weights that differ, of whose outputs one is rectified."""
        inputs = keras.Input((3,))
        one, other = (keras.layers.Dense(3, kernel_initializer="ones", name=name)(inputs) for name in "ab")
        plain, rectified = (other, one) if swapped else (one, other)
        joined = keras.layers.Subtract()([plain, keras.layers.ReLU()(rectified)])
        return keras.Model(inputs, joined * constant + one)

    keys = [prefix_key(network()), prefix_key(network(swapped=True)), prefix_key(network(constant=3.0))]
    assert len(set(keys)) == 3 and prefix_key(network()) == keys[0]


def test_views_differ_and_are_kept_by_seed() -> None:
    data, model = examples(6, seed=102), tiny(seed=3)
    prefix, _ = cut(model, BACKBONE, 3)
    settings: dict[str, Any] = {"augmentation": SHIFT, "views": 3, "batch_size": 4}
    found = extract_features(prefix, data, seed=1, **settings)
    assert found is not None and len(found.views) == 3 and found.computed == 18
    first, second = (view[0].gather(np.arange(6)) for view in found.views[:2])
    assert np.abs(first - second).max() > 0
    assert extract_features(prefix, data, seed=1, **settings).computed == 0  # type: ignore[union-attr]
    assert extract_features(prefix, data, seed=2, **settings).computed == 18  # type: ignore[union-attr]


def test_extraction_stops_at_its_deadline_with_what_it_has() -> None:
    data, model = examples(20, seed=103), tiny(seed=3)
    prefix, _ = cut(model, BACKBONE, 1)
    found = extract_features(prefix, data, batch_size=4, deadline=Deadline.after(-1))
    assert found is not None and found.count == 4 and len(found.views[0][0]) == 4


@pytest.mark.slow
def test_two_tensor_boundaries_are_cached_too() -> None:
    nasnet = BACKBONES["nasnetmobile"]
    model = build_classifier(nasnet, 3, image_size=32, weights="none")
    prefix, suffix = cut(model, nasnet, 1)
    data = examples(3, seed=104)
    found = extract_features(prefix, data, batch_size=3)
    assert found is not None and len(found.views[0]) == 2
    joined = predicted(suffix, [source.gather(np.arange(3)) for source in found.views[0]])
    assert np.allclose(joined, predicted(model, data.pixels.gather(np.arange(3))), atol=1e-5)


# -- training ---------------------------------------------------------------------------------------------


def weights_by_path(model: keras.Model) -> dict[str, np.ndarray]:
    return {w.path: w.numpy().copy() for w in model.weights}


def test_a_head_stage_moves_the_head_alone_and_computes_each_image_once() -> None:
    model = tiny(seed=5, head=Head(batch_norm=True))
    before = weights_by_path(model)
    history = train(model, BACKBONE, recipe(Stage(3, 1e-2)), examples(24, 105), examples(9, 106))
    moved = {path for path, value in weights_by_path(model).items() if not np.array_equal(value, before[path])}
    assert moved and all(path.startswith(("head_", "predictions")) for path in moved)
    assert history.images_computed == 24 + 9 and len(history.rows) == 3


@pytest.mark.slow
def test_the_same_seed_gives_the_same_history() -> None:
    plan = recipe(Stage(2, 1e-3, unfreeze=1), augmentation=SHIFT, views=2)
    runs = []
    for seed in (0, 0, 1):
        history = train(tiny(seed=0), BACKBONE, plan, examples(24, 107), examples(9, 108), seed=seed)
        runs.append([{k: v for k, v in row.items() if "seconds" not in k} for row in history.rows])
    assert runs[0] == runs[1] != runs[2]


@pytest.mark.slow
def test_streaming_the_frozen_part_gives_what_caching_gives(monkeypatch: pytest.MonkeyPatch) -> None:
    plan, data, validation = recipe(Stage(2, 1e-2, unfreeze=1)), examples(24, 109), examples(9, 110)
    cached, streamed = tiny(seed=0), tiny(seed=0)
    monkeypatch.setattr("tlkit.cache.Cache.has_room_for", lambda *a: False)
    monkeypatch.setattr("tlkit.cache.available_memory", lambda: 0)
    history = train(streamed, BACKBONE, plan, data, validation)
    assert any("exceed the caches' limit" in note for note in history.notes) and history.images_computed == 0
    monkeypatch.undo()
    assert train(cached, BACKBONE, plan, data, validation).images_computed == 24 + 9
    for one, other in zip(cached.get_weights(), streamed.get_weights(), strict=True):
        assert np.allclose(one, other, atol=1e-4)


@pytest.mark.slow
def test_when_memory_runs_out_the_batch_is_halved_and_the_stage_begins_anew(
    monkeypatch: pytest.MonkeyPatch, said: list[str]
) -> None:
    plan, data, validation = recipe(Stage(2, 1e-2)), examples(24, 117), examples(9, 118)
    asked: list[int] = []
    fit = keras.Model.fit

    def small_memory(self: keras.Model, batches: Any, **settings: Any) -> Any:
        asked.append(len(batches[0][1]))
        if asked[-1] > 3:
            self.set_weights([w + 1 for w in self.get_weights()])  # whatever was trained until then
            raise RuntimeError("RESOURCE_EXHAUSTED: OOM when allocating tensor")
        return fit(self, batches, **settings)

    monkeypatch.setattr(keras.Model, "fit", small_memory)
    model, same = tiny(seed=0), tiny(seed=0)
    history = train(model, BACKBONE, replace(plan, batch_size=12), data, validation)
    assert asked == [12, 6, 3] and len(history.rows) == 2 and history.images_computed == 24 + 9
    assert "out of memory: going on with batches of 3" in said and "memory did not suffice" in history.notes[-1]
    train(same, BACKBONE, replace(plan, batch_size=3), data, validation)
    for one, other in zip(model.get_weights(), same.get_weights(), strict=True):
        assert np.allclose(one, other, atol=1e-6)


@pytest.mark.slow
def test_more_epochs_trace_nothing_anew(monkeypatch: pytest.MonkeyPatch) -> None:
    original, traced, counts = keras.layers.Dense.call, [], []

    def call(self: Any, inputs: Any, training: Any = None) -> Any:
        traced.append(1)
        return original(self, inputs)

    monkeypatch.setattr(keras.layers.Dense, "call", call)
    for epochs in (1, 5):
        model, data, validation = tiny(), examples(20, 122), examples(9, 123)
        traced.clear()
        train(model, BACKBONE, recipe(Stage(epochs, 1e-2), Stage(epochs, 1e-3, unfreeze=1)), data, validation)
        counts.append(len(traced))
    assert counts[0] == counts[1] > 0


def test_features_of_other_pixels_of_the_same_files_are_not_taken_from_the_cache() -> None:
    prefix, _ = cut(tiny(), BACKBONE, 0)
    squashed = examples(6, 123, made_by="32-squash")
    cropped = replace(squashed, pixels=in_memory(255 - squashed.pixels.gather(slice(None))), made_by="32-crop")
    first, other = (extract_features(prefix, one) for one in (squashed, cropped))
    assert (first.computed, other.computed) == (6, 6)
    assert not np.allclose(*(one.views[0][0].gather(slice(None)) for one in (first, other)))
    with pytest.raises(TypeError, match="made_by"):
        Examples(squashed.pixels, squashed.labels, squashed.keys)  # type: ignore[call-arg]


def test_another_error_is_not_taken_for_a_lack_of_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(keras.Model, "fit", lambda *a, **k: (_ for _ in ()).throw(RuntimeError("no room for doubt")))
    with pytest.raises(RuntimeError, match="no room for doubt"):
        train(tiny(), BACKBONE, recipe(Stage(1, 1e-2)), examples(12, 119), examples(6, 120))


@pytest.mark.parametrize("unfreeze", [0, 2, "all"])
def test_probabilities_from_cached_features_are_the_whole_models(unfreeze: int | str) -> None:
    model, data = tiny(seed=3), examples(21, 121, made_by=f"parity-{unfreeze}")
    whole = predict_probabilities(model, data.pixels, batch_size=8)
    settings: dict[str, Any] = {"batch_size": 8}
    first, computed = predict_from_cache(model, BACKBONE, unfreeze, data, **settings)
    again, computed_again = predict_from_cache(model, BACKBONE, unfreeze, data, **settings)
    assert np.allclose(first, whole, atol=1e-6) and np.array_equal(first, again)
    assert (computed, computed_again) == ((21, 21) if unfreeze == "all" else (21, 0))


@pytest.mark.slow
def test_a_stage_that_makes_it_worse_leaves_the_model_as_it_was() -> None:
    model = tiny(seed=0, head=Head(batch_norm=True))
    data, validation = examples(24, 113), examples(9, 114)
    good = recipe(Stage(5, 1e-2))
    train(model, BACKBONE, good, data, validation)
    expected = predicted(model, validation.pixels.gather(np.arange(9)))
    model = tiny(seed=0, head=Head(batch_norm=True))
    ruin = replace(good, stages=(*good.stages, Stage(2, 50.0, unfreeze="all", optimizer="sgd")))
    try:
        history = train(model, BACKBONE, ruin, data, validation)
        assert not any(row["best"] for row in history.rows if row["stage"] == 2)
    except TrainingError:
        pass  # the loss may become NaN; then too the best weights are restored
    assert np.allclose(predicted(model, validation.pixels.gather(np.arange(9))), expected, atol=1e-5)


def test_a_loss_that_is_not_a_number_is_an_error_with_advice() -> None:
    model = tiny()
    model.get_layer("predictions").bias.assign([np.nan] * 3)
    with pytest.raises(TrainingError, match="Lower its learning_rate"):
        train(model, BACKBONE, recipe(Stage(5, 1e-3)), examples(24, 115), examples(9, 116))


@pytest.mark.slow
def test_patience_ends_a_stage() -> None:
    history = train(tiny(), BACKBONE, recipe(Stage(30, 1e-12, patience=2)), examples(12, 117), examples(6, 118))
    assert 3 <= len(history.rows) < 30


@pytest.mark.slow
def test_a_passed_deadline_still_gives_one_epoch_and_says_so() -> None:
    plan = recipe(Stage(5, 1e-3), Stage(5, 1e-3, unfreeze=1))
    history = train(tiny(), BACKBONE, plan, examples(24, 119), examples(9, 120), deadline=Deadline.after(-1))
    assert len(history.rows) == 1
    assert any("time limit" in note for note in history.notes)


@pytest.mark.slow
def test_an_interrupted_training_keeps_its_best_epoch_and_skips_what_follows(monkeypatch: pytest.MonkeyPatch) -> None:
    from tlkit.training.callbacks import RecordEpochs

    def interrupted_in(epoch: int) -> None:
        def begin(self: RecordEpochs, number: int, logs: Any = None) -> None:
            self._started = 0.0
            if number == epoch:
                raise KeyboardInterrupt

        monkeypatch.setattr(RecordEpochs, "on_epoch_begin", begin)

    plan, model = recipe(Stage(5, 1e-2), Stage(5, 1e-3, unfreeze=1)), tiny()
    training, validation = examples(24, 5132), examples(9, 5133)
    interrupted_in(2)
    history = train(model, BACKBONE, plan, training, validation)
    assert history.epochs == 2 and history.interrupted and history.best is not None
    assert "interrupted after epoch 2" in history.notes[0] and "stage 2 of 2 was skipped" in history.notes[1]
    found = predict_probabilities(model, validation.pixels)
    assert log_loss(found, validation.labels) == pytest.approx(history.best["val_loss"], abs=1e-5)
    interrupted_in(0)
    with pytest.raises(KeyboardInterrupt):
        train(tiny(), BACKBONE, plan, training, validation)


@pytest.mark.slow
def test_what_a_time_limit_leaves_is_of_every_class() -> None:
    """Folders are read class by class; the first few images must not be of one class alone."""
    data = examples(60, 130)
    data = data.take(np.argsort(data.labels, kind="stable"))
    plan = replace(recipe(Stage(3, 1e-2)), batch_size=20)
    history = train(tiny(), BACKBONE, plan, data, examples(9, 131), deadline=Deadline.after(-1))
    assert "trained on 20 of 60 images" in history.notes[0]
    mixed = _shuffled(data, 0)
    assert set(mixed.labels[:20].tolist()) == {0, 1, 2}
    assert mixed.keys[0] == data.keys[int(np.random.default_rng((0, 2)).permutation(60)[0])]


def test_too_many_blocks_fail_before_anything_is_computed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tlkit.training.inputs.extract_features", lambda *a, **k: pytest.fail("something was computed"))
    with pytest.raises(SpecError, match="has 4 blocks"):
        train(tiny(), BACKBONE, recipe(Stage(1, 1e-3), Stage(1, 1e-3, unfreeze=9)), examples(6, 121), examples(3, 122))


def test_every_solver_of_a_stage_has_an_engine() -> None:
    assert set(ENGINES) == set(SOLVERS)


def test_another_engine_is_one_row_of_the_table(monkeypatch: pytest.MonkeyPatch) -> None:
    given: list[tuple[int, int, bool]] = []

    def engine(model: Any, plan: StagePlan, inputs: StageInputs, history: History, deadline: Deadline) -> History:
        given.append((plan.number, history.epochs, inputs.prefix is None))
        history.add(plan.number, SCORES, best=True, seconds=1.0, at_seconds=plan.clock.seconds)
        return history

    monkeypatch.setitem(ENGINES, "gradient", engine)
    plan = recipe(Stage(1, 1e-2), Stage(1, 1e-3, unfreeze="all"))
    history = train(tiny(), BACKBONE, plan, examples(6, 124), examples(3, 125))
    assert given == [(1, 0, False), (2, 1, True)]
    assert [row["epoch"] for row in history.rows] == [1, 2]


def test_an_attempt_that_ran_out_of_memory_leaves_only_what_it_computed(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[int] = []
    begun: list[np.ndarray] = []

    def engine(model: Any, plan: StagePlan, inputs: StageInputs, history: History, deadline: Deadline) -> History:
        asked.append(plan.recipe.batch_size)
        begun.append(model.get_layer("predictions").get_weights()[0])
        model.get_layer("predictions").kernel.assign_add(np.ones_like(begun[-1]))
        history.add(plan.number, SCORES, best=True, seconds=1.0, at_seconds=1.0)
        history.images_computed += 5
        if asked[-1] > 2:
            history.note("of an attempt that failed")
            raise MemoryError
        return history

    monkeypatch.setitem(ENGINES, "gradient", engine)
    history = train(tiny(), BACKBONE, recipe(Stage(1, 1e-2)), examples(6, 126), examples(3, 127))
    assert asked == [8, 4, 2] and all(np.array_equal(one, begun[0]) for one in begun)
    assert len(history.rows) == 1 and history.images_computed == 15
    assert history.notes == ["stage 1 ran with batches of 2: memory did not suffice for 8"]


# -- optimizers -------------------------------------------------------------------------------------------


def rates(stage: Stage, steps: int, at: Sequence[int]) -> list[float]:
    rate = make_optimizer(stage, steps, {})._learning_rate
    return [float(rate(step)) if callable(rate) else float(rate.numpy()) for step in at]


def test_schedules_warm_up_and_come_down() -> None:
    assert rates(Stage(2, 1.0, schedule="cosine", warmup=1), 10, [0, 5, 10, 15, 20]) == pytest.approx(
        [0, 0.5, 1, 0.5, 0], abs=1e-6
    )
    assert rates(Stage(2, 1.0, schedule="cosine"), 10, [0, 20]) == pytest.approx([1, 0], abs=1e-6)
    warm = rates(Stage(2, 1.0, warmup=1), 10, [0, 10, 19])
    assert warm[0] < 0.2 and warm[1:] == pytest.approx([1, 1])


@pytest.mark.parametrize("optimizer", ["adam", "adamw", "sgd"])
def test_layer_decay_scales_each_blocks_step(optimizer: str) -> None:
    """In one step with the same gradient, a variable's change is scaled by its factor."""
    steps = {}
    for factors in ({}, {"deep": 0.25}):
        deep, top = (keras.Variable(np.ones(3, "float32"), name=name) for name in ("deep", "top"))
        one = make_optimizer(Stage(1, 0.1, optimizer=optimizer), 10, factors)
        one.build([deep, top])
        one.apply([keras.ops.ones(3), keras.ops.ones(3)], [deep, top])
        steps[bool(factors)] = (1 - deep.numpy(), 1 - top.numpy())
    assert steps[True][0] == pytest.approx(0.25 * steps[False][0], rel=1e-4)
    assert steps[True][1] == pytest.approx(steps[False][1])


@pytest.mark.parametrize("optimizer", ["adamw", "sgd"])
def test_weight_decay_follows_the_layers_rate_and_leaves_vectors_alone(optimizer: str) -> None:
    """With gradients of zero, a step is the decay alone: rate * factor * weight_decay of the value."""
    names = ("deep", "top", "bias")
    deep, top = (keras.Variable(np.full((2, 3), 2.0, "float32"), name=name) for name in names[:2])
    bias = keras.Variable(np.full(3, 2.0, "float32"), name="bias")
    variables = [deep, top, bias]
    one = make_optimizer(Stage(1, 0.1, optimizer=optimizer, weight_decay=0.5), 10, {deep.path: 0.25})
    one.build(variables)
    one.apply([keras.ops.zeros(variable.shape) for variable in variables], variables)
    np.testing.assert_allclose(deep, 2 - 2 * 0.1 * 0.25 * 0.5, rtol=1e-6)
    np.testing.assert_allclose(top, 2 - 2 * 0.1 * 0.5, rtol=1e-6)
    np.testing.assert_array_equal(bias, 2.0)


def test_layer_decay_falls_block_by_block() -> None:
    model = tiny()
    factors = rate_factors(model, BACKBONE, Stage(1, 1e-3, unfreeze="all", layer_decay=0.5))
    assert sorted(set(factors.values())) == [0.5**k for k in (4, 3, 2, 1)]
    assert factors[model.get_layer("conv_32").kernel.path] == 0.5
    assert factors[model.get_layer("conv_8").kernel.path] == 0.5**4
    assert model.get_layer("predictions").kernel.path not in factors
