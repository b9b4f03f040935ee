"""Pixels and bags of visual words: the layers against formulas and scikit-learn, and how words are learned."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
from sklearn.kernel_approximation import AdditiveChi2Sampler

from tests.conftest import draw
from tests.tiny import predicted
from tlkit.backbones import BACKBONES, Backbone, find_weights
from tlkit.backbones.families.bag_of_words import FAINTEST, MARGIN, RAREST, BagOfWords, _pyramid, additive_map
from tlkit.backbones.learning import learn_weights
from tlkit.backbones.weights import weights_sha256
from tlkit.cache import Cache
from tlkit.data.examples import Examples
from tlkit.errors import SpecError, WeightsError
from tlkit.models.classifier import as_float32, build_classifier
from tlkit.plan.recipe import Head

SIZE = 36


class Pixels(np.ndarray):
    """Pixels in memory, as a source of rows."""

    @property
    def row_shape(self) -> tuple[int, ...]:
        return self.shape[1:]

    def gather(self, indices: Any) -> np.ndarray:
        return np.asarray(self)[indices]

    def take(self, indices: Any) -> Pixels:  # type: ignore[override]
        return self[indices]


def examples(tmp_path: Path, count: int = 12, seed: int = 0) -> Examples:
    images = np.stack([np.asarray(draw((200, 60, 60), seed + one, SIZE)) for one in range(count)])
    keys = [f"{seed + one:064x}" for one in range(count)]
    return Examples(images.view(Pixels), np.arange(count) % 2, keys, made_by="drawn", cache=Cache(1, tmp_path))


def small(**settings: Any) -> Backbone:
    """A row with few words."""
    row = BACKBONES["bag_of_words"]
    bag = dataclasses.replace(BagOfWords(words=10), **settings)
    return dataclasses.replace(
        row, builder=dataclasses.replace(row.builder, network=bag), parameters=bag.parameters, smallest=bag.smallest
    )


def histograms(rows: int = 20) -> np.ndarray:
    return np.random.default_rng(0).dirichlet(np.full(500, 0.1), rows).astype("float32") + 1e-10


def test_every_small_number_of_the_graph_is_above_zero_in_float16() -> None:
    """LiteRT's float16 keeps constants in it, and 0 would be divided by, or a logarithm taken of it."""
    assert np.float16(FAINTEST) > 0 and np.float16(RAREST) > 0


def test_the_chi_squared_map_is_scikit_learns() -> None:
    x = histograms()
    theirs = AdditiveChi2Sampler(sample_steps=2, sample_interval=0.5).fit_transform(x)
    assert np.abs(np.asarray(additive_map(x, "chi2")) - theirs).max() < 1e-5


@pytest.mark.parametrize("kernel", ["chi2", "intersection"])
def test_inner_products_of_maps_are_close_to_the_kernel(kernel: str) -> None:
    x = histograms()
    a, b = x[:, None], x[None]
    exact = (2 * a * b / (a + b) if kernel == "chi2" else np.minimum(a, b)).sum(-1)
    mapped = np.asarray(additive_map(x, kernel))
    apart = ~np.eye(len(x), dtype=bool)
    error = np.abs(mapped @ mapped.T - exact)[apart].mean() / exact[apart].mean()
    assert error < 0.06
    assert error < 0.5 * np.abs(x @ x.T - exact)[apart].mean() / exact[apart].mean()  # better than a linear kernel


def test_descriptors_know_direction_and_forget_brightness() -> None:
    bag = BagOfWords(cell=4)
    model = keras.Model(inputs := keras.Input((24, 24, 3)), bag.descriptors(inputs))
    ramp = np.broadcast_to(np.linspace(0, 0.5, 24, dtype="float32")[None, :, None], (24, 24, 3))
    images = np.stack([ramp, ramp + 0.3, ramp.transpose(1, 0, 2), ramp[:, ::-1], np.full_like(ramp, 0.7)])
    right, brighter, down, left, blank = np.asarray(predicted(model, images))[:, 1, 1].reshape(5, 16, 8)
    assert [one[5].argmax() for one in (right, down, left)] == [0, 2, 4]  # eighths of a turn
    assert np.allclose(right, brighter, atol=1e-4)
    assert 0.9 < np.linalg.norm(right) <= 1
    assert np.linalg.norm(blank) < 0.2  # no gradient, no direction


def test_soft_assignment_is_the_kernel_codebook_of_van_gemert(tmp_path: Path) -> None:
    backbone = small()
    arrays = backbone.learn(backbone, examples(tmp_path), 0)
    kernel, bias = arrays["words/kernel"][0, 0].astype("float64"), arrays["words/bias"].astype("float64")
    # kernel = 2 s w and bias = -s |w|^2 give s, then w
    scale = (kernel**2).sum(0) / (-4 * bias)
    assert np.allclose(scale, scale[0], rtol=1e-4)
    words = (kernel / (2 * scale)).T
    x = np.random.default_rng(1).random((7, 128))
    squares = ((x[:, None] - words) ** 2).sum(-1)
    expected = np.exp(-scale[0] * (squares - squares.min(1, keepdims=True)))
    expected /= expected.sum(1, keepdims=True)
    found = backbone.builder.network._assigned((x @ kernel + bias).astype("float32"))
    assert np.allclose(found, expected, atol=1e-4)


def test_hard_assignment_takes_the_nearest_word_and_no_rounding_moves_it_far() -> None:
    assigned = BagOfWords(soft=False)._assigned
    scores = np.array([[0.5, 0.2, 0.1], [0.5, 0.5, 0.1]], "float32")
    shares = np.asarray(assigned(scores))
    assert np.allclose(shares, [[1, 0, 0], [0.5, 0.5, 0]])
    nudged = np.asarray(assigned(scores + np.array([0, 1e-7, 0], "float32")))
    assert np.abs(nudged - shares).max() < 2e-7 / MARGIN


@pytest.mark.parametrize("pooling", ["sum", "max"])
def test_cells_of_a_pyramid_are_pools_of_finer_cells(pooling: str) -> None:
    x = np.random.default_rng(0).random((2, 5, 7, 3)).astype("float32")
    model = keras.Model(inputs := keras.Input(x.shape[1:]), _pyramid(inputs, pooling, 3))
    cells = np.asarray(predicted(model, x)).reshape(2, 21, 3)
    whole = x.max((1, 2)) if pooling == "max" else x.mean((1, 2))
    first = x[:, :2, :4] if round(7 / 2) == 4 else x[:, :2, :3]
    assert np.allclose(cells[:, 0], whole, atol=1e-6)
    assert np.allclose(cells[:, 1], first.max((1, 2)) if pooling == "max" else first.sum((1, 2)) / 35, atol=1e-6)
    for level in (cells[:, 1:5], cells[:, 5:]):
        assert np.allclose(level.max(1) if pooling == "max" else level.sum(1), whole, atol=1e-6)


def test_words_depend_on_the_images_and_the_seed_and_not_on_order_or_labels(tmp_path: Path) -> None:
    given, backbone = examples(tmp_path / "a"), small()
    digests = [
        learn_weights(backbone, one, seed=seed).weights.digest
        for one, seed in (
            (given, 0),
            (dataclasses.replace(given.take(np.arange(12)[::-1]), cache=Cache(1, tmp_path / "b")), 0),
            (dataclasses.replace(given, labels=1 - given.labels, cache=Cache(1, tmp_path / "c")), 0),
            (given, 1),
            (examples(tmp_path / "a", seed=50), 0),
        )
    ]
    assert digests[0] == digests[1] == digests[2]
    assert len(set(digests)) == 3


def test_words_are_kept_in_the_cache_and_learned_again_where_the_file_is_damaged(tmp_path: Path) -> None:
    given, calls = examples(tmp_path), []
    row = small()

    def learn(*arguments: Any) -> dict[str, np.ndarray]:
        calls.append(arguments)
        return row.learn(*arguments)

    backbone = dataclasses.replace(row, learn=learn)
    first = learn_weights(backbone, given)
    assert learn_weights(backbone, given) == first and len(calls) == 1
    assert learn_weights(first, given) is first and learn_weights(backbone, given, weights="none") is backbone
    assert [one.kind for one in given.cache.entries()] == ["weights"]
    file = find_weights(first, "imagenet")
    assert weights_sha256(first, "imagenet") == first.weights.digest
    file.write_bytes(file.read_bytes()[:-200])
    with pytest.raises(WeightsError, match="damaged"):
        find_weights(first, "imagenet")
    assert learn_weights(backbone, given).weights == first.weights and len(calls) == 2
    given.cache.clear("weights")
    assert find_weights(first, "imagenet").is_file(), "what this process holds is not cleared"
    file.unlink()
    with pytest.raises(WeightsError, match="cache was cleared"):
        find_weights(first, "imagenet")


def test_a_cache_without_room_puts_the_words_elsewhere(tmp_path: Path) -> None:
    given = dataclasses.replace(examples(tmp_path), cache=Cache(0.0, tmp_path))
    assert find_weights(learn_weights(small(), given), "imagenet").is_file()
    assert not list(tmp_path.rglob("*.npz"))


@pytest.mark.parametrize("precision", ["float32", "mixed_bfloat16"])
def test_the_classifier_has_the_words_and_computes_them_in_float32(tmp_path: Path, precision: str) -> None:
    given = examples(tmp_path)
    backbone = learn_weights(small(), given)
    model = build_classifier(backbone, 2, image_size=SIZE, precision=precision)
    words = np.load(find_weights(backbone, "imagenet"))
    assert np.array_equal(model.get_layer("words").kernel, words["words/kernel"])
    plain = as_float32(model, backbone, Head())
    pair = [keras.Model(one.input, one.get_layer("head_features").output) for one in (model, plain)]
    images = given.pixels.gather(slice(4)).astype("float32")
    found, expected = (np.asarray(predicted(one, images)).astype("float32") for one in pair)
    assert np.allclose(found, expected, atol=1e-6 if precision == "float32" else 2e-3)


@pytest.mark.slow
def test_nothing_of_tlkit_is_needed_to_load_one(tmp_path: Path) -> None:
    for bag in (small(), small(soft=False, pooling="max", kernel="intersection", colour="opponent")):
        model = build_classifier(bag, 2, image_size=SIZE, weights="none")
        assert "tlkit" not in model.to_json()
        images = np.random.default_rng(0).integers(0, 256, (2, SIZE, SIZE, 3)).astype("float32")
        model.save(tmp_path / "m.keras")
        again = keras.saving.load_model(tmp_path / "m.keras", compile=False)
        assert np.allclose(predicted(again, images), predicted(model, images), atol=1e-6)


def test_words_that_were_not_learned_are_asked_for() -> None:
    with pytest.raises(WeightsError, match="learned from training images"):
        build_classifier("bag_of_words", 2)


@pytest.mark.parametrize(
    ("settings", "said"), [({"pooling": "avg"}, "sum, max"), ({"kernel": "rbf"}, "chi2"), ({"words": 1}, "2 or more")]
)
def test_a_setting_that_does_not_exist_is_refused(settings: dict[str, Any], said: str) -> None:
    with pytest.raises(SpecError, match=said):
        BagOfWords(**settings)


def test_pixels_are_features_and_have_no_weights(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = build_classifier("pixels", 2, head=Head(hidden=(4,)))  # a perceptron
    images = np.random.default_rng(0).integers(0, 256, (2, 32, 32, 3)).astype("float32")
    features = keras.Model(model.input, model.get_layer("head_features").output)
    assert np.allclose(predicted(features, images), images.reshape(2, -1) / 127.5 - 1, atol=1e-6)
    assert model.count_params() == 3072 * 4 + 4 + 4 * 2 + 2
    (tmp_path / "pixels").mkdir()
    monkeypatch.chdir(tmp_path)  # a folder of that name is not its weights
    assert weights_sha256(BACKBONES["pixels"], "imagenet") is None
    with pytest.raises(SpecError, match="has no weights"):
        BACKBONES["pixels"].block_count("all")
