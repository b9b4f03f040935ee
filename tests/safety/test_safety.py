"""The safety check: what it forbids, what it allows, and what it says if nothing can be measured."""

from __future__ import annotations

import dataclasses
import json
import shutil
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
from click.testing import CliRunner
from PIL import Image, ImageDraw

from tests.tiny import tiny_file
from tlkit import Augmentation, build_classifier, check_safety, decode_images, finetune, scan
from tlkit.backbones import find_backbone
from tlkit.cache import Cache
from tlkit.cli.main import main
from tlkit.data.examples import Examples
from tlkit.data.images import ImageSet
from tlkit.errors import NameUnknown
from tlkit.features.folds import stratified_folds
from tlkit.plan.augmentation import AUGMENTATION_LIMITS, PRESETS, held_to, scaled, size_of
from tlkit.progress import Deadline
from tlkit.safety.check import run_check
from tlkit.safety.evidence import FeatureExtractor, ProbeSet
from tlkit.safety.hints import name_hints
from tlkit.safety.measure import Sample, take_sample
from tlkit.safety.search import chance_of_first, held_out_losses, search
from tlkit.safety.verdict import Safety
from tlkit.stats import AT_CHANCE

ARROWS = ("left", "right", "ring")


class Held:
    """Pixels in memory, with the interface of cached ones."""

    def __init__(self, rows: np.ndarray) -> None:
        self.rows, self.row_shape = rows, rows.shape[1:]

    def __len__(self) -> int:
        return len(self.rows)

    def gather(self, indices: np.ndarray) -> np.ndarray:
        return self.rows[indices]

    def take(self, indices: np.ndarray) -> Held:
        return Held(self.rows[indices])


def arrow(kind: str, random: np.random.Generator, size: int = 96) -> np.ndarray:
    """A white arrow on a coloured background, off centre; or a ring, which no rotation changes."""
    ground = tuple(int(value) for value in random.integers(20, 140, 3))
    image = Image.new("RGB", (size, size), ground)
    pen = ImageDraw.Draw(image)
    x, y = size / 2 + random.uniform(-6, 6, 2)
    half = size * random.uniform(0.25, 0.35)
    if kind == "ring":
        pen.ellipse((x - half, y - half, x + half, y + half), outline="white", width=7)
    else:
        to = half if kind == "right" else -half
        pen.line((x - to, y, x + to * 0.5, y), fill="white", width=8)
        pen.polygon([(x + to * 0.2, y - half * 0.6), (x + to, y), (x + to * 0.2, y + half * 0.6)], fill="white")
    noisy = np.asarray(image).astype(float) + random.normal(0, 6, (size, size, 3))
    return noisy.clip(0, 255).astype("uint8")


def arrows(each: int = 24, kinds: tuple[str, ...] = ARROWS) -> Examples:
    random = np.random.default_rng(0)
    rows = np.stack([arrow(kind, random) for kind in kinds for _ in range(each)])
    labels = np.repeat(np.arange(len(kinds)), each)
    return Examples(Held(rows), labels, [f"{i:08x}" for i in range(len(labels))], made_by="drawn")


@pytest.fixture(scope="module")
def extractor() -> FeatureExtractor:
    network = find_backbone("nano")
    return FeatureExtractor(build_classifier(network, 2), network)


@pytest.fixture(scope="module")
def sample(extractor: FeatureExtractor) -> Sample:
    return take_sample(arrows(), ARROWS, extractor)


@pytest.fixture
def arrow_folder(tmp_path: Path) -> Path:
    examples = arrows()
    for number, (row, label) in enumerate(
        zip(examples.pixels.gather(np.arange(len(examples))), examples.labels, strict=True)
    ):
        file = tmp_path / "arrows" / ARROWS[label] / f"{number}.png"
        file.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(row).save(file)
    return tmp_path / "arrows"


# -- verdicts ---------------------------------------------------------------------------------------------


def test_a_mirror_image_that_is_another_class_is_found_with_both_classes(sample: Sample) -> None:
    safety = run_check(sample, Augmentation(flip_horizontal=0.5, flip_vertical=0.5, half_turn=0.5))
    verdicts = {one.field: one for one in safety.verdicts}
    pairs = {(a, b) for a, b, _ in verdicts["flip_horizontal"].pairs}
    assert verdicts["flip_horizontal"].verdict == "unsafe" and {("left", "right"), ("right", "left")} <= pairs
    assert not any("ring" in pair for pair in pairs), "a mirrored ring is a ring"
    assert all(share > 0.5 for _, _, share in verdicts["flip_horizontal"].pairs)
    assert verdicts["half_turn"].verdict == "unsafe"
    assert verdicts["flip_vertical"].verdict == "safe", "an arrow upside down points where it did"
    assert safety.augmentation.fields() == ("flip_vertical",)


@pytest.mark.slow
def test_what_images_differ_by_anyway_is_safe(sample: Sample) -> None:
    asked = Augmentation(brightness=(-0.1, 0.1), shift_x=(-0.05, 0.05), rotate=(-8, 8), colour_cast=(-0.05, 0.05))
    safety = run_check(sample, asked, thorough=False)
    assert [one.verdict for one in safety.verdicts] == ["safe"] * 4 and safety.augmentation == asked
    assert all(one.n == 72 and one.kept and one.kept[0] > 0.75 for one in safety.verdicts)


@pytest.mark.slow
def test_wide_turns_are_narrowed_to_what_keeps_the_class(sample: Sample) -> None:
    safety = run_check(sample, Augmentation(rotate=(-180, 180)), thorough=False)
    (verdict,) = safety.verdicts
    assert verdict.verdict == "limited" and verdict.limit is not None and 5 < verdict.limit < 90
    assert safety.augmentation.rotate == (-verdict.limit, verdict.limit)
    again = run_check(sample, safety.augmentation, thorough=False)
    assert again.verdicts[0].verdict == "safe", "what it was narrowed to passes"


@pytest.mark.slow
def test_ruin_is_no_change_of_class(sample: Sample) -> None:
    """Blank images also resemble some class."""
    safety = run_check(sample, Augmentation(brightness=(0.9, 1.0), crop=(0.01, 0.02)), thorough=False)
    for verdict in safety.verdicts:
        assert verdict.verdict in ("limited", "unsafe") and verdict.pairs == () and "become" not in verdict.why


@pytest.mark.slow
def test_a_shift_out_of_the_image_loses_the_object(sample: Sample) -> None:
    (verdict,) = run_check(sample, Augmentation(shift_x=(-0.9, 0.9), border="black"), thorough=False).verdicts
    assert verdict.verdict != "safe" and "leaves the image" in verdict.why
    assert verdict.in_frame is not None and verdict.in_frame < 0.3


@pytest.mark.slow
def test_a_thorough_look_says_how_it_is_told_apart_and_what_it_does_to_each_class(sample: Sample) -> None:
    safety = run_check(sample, Augmentation(flip_vertical=0.5, colour_cast=(-0.8, 0.8)))
    by_field = {one.field: one for one in safety.verdicts}
    flip, cast = by_field["flip_vertical"].told_apart, by_field["colour_cast"].told_apart
    assert flip is not None and cast is not None
    assert cast[0] > flip[0] and 0 <= flip[1] <= flip[0] <= flip[2] <= 1
    assert set(by_field["flip_vertical"].effect) == set(ARROWS)


@pytest.mark.slow
def test_two_flips_that_are_safe_alone_are_judged_together(extractor: FeatureExtractor) -> None:
    """Each flip moves the disc to a corner that is no class; both flips move it to the corner of the other class."""
    random = np.random.default_rng(1)
    rows, labels = [], []
    for label, (across, down) in enumerate([(1, 1), (-1, -1)]):
        for _ in range(24):
            image = Image.new("RGB", (96, 96), tuple(int(v) for v in random.integers(20, 120, 3)))
            x, y = 48 + across * random.uniform(18, 24), 48 + down * random.uniform(18, 24)
            ImageDraw.Draw(image).ellipse((x - 14, y - 14, x + 14, y + 14), fill="white")
            rows.append(np.asarray(image))
            labels.append(label)
    examples = Examples(Held(np.stack(rows)), np.array(labels), [f"{i:08x}" for i in range(48)], made_by="drawn")
    safety = run_check(take_sample(examples, ["here", "there"], extractor), Augmentation(half_turn=0.5))
    assert safety.verdicts[0].verdict == "unsafe" and len(safety.verdicts[0].pairs) == 2
    both = run_check(
        take_sample(examples, ["here", "there"], extractor), Augmentation(flip_horizontal=0.5, flip_vertical=0.5)
    )
    assert set(both.augmentation.fields()) != {"flip_horizontal", "flip_vertical"}


@pytest.mark.slow
def test_what_is_allowed_stays_and_is_noted(sample: Sample) -> None:
    asked = Augmentation(flip_horizontal=0.5, half_turn=0.5)
    safety = run_check(sample, asked, allow=["flip_horizontal"], thorough=False)
    assert safety.augmentation.fields() == ("flip_horizontal",)
    assert [one.allowed for one in safety.verdicts] == [True, False]
    assert safety.verdicts[0].verdict == "unsafe", "it is allowed, not called safe"


# -- where nothing can be said ----------------------------------------------------------------------------


def test_too_few_images_are_not_measurable_and_held_to_careful_sizes(extractor: FeatureExtractor) -> None:
    safety = run_check(take_sample(arrows(each=5), ARROWS, extractor), PRESETS["strong"])
    assert {one.verdict for one in safety.verdicts} == {"not_measurable"}
    assert "8 images" in safety.verdicts[0].why
    narrowed = safety.augmentation
    assert narrowed.rotate == (-10, 10) and not {"flip_horizontal", "flip_vertical", "half_turn"} & set(
        narrowed.fields()
    )


def test_labels_that_mean_nothing_are_not_measurable(extractor: FeatureExtractor) -> None:
    examples = arrows()
    shuffled = dataclasses.replace(examples, labels=np.random.default_rng(0).permutation(examples.labels))
    safety = run_check(take_sample(shuffled, ARROWS, extractor), Augmentation(flip_vertical=0.5))
    assert safety.verdicts[0].verdict == "not_measurable" and "skill" in safety.verdicts[0].why


def test_when_the_time_is_over_what_is_left_is_not_called_safe(sample: Sample) -> None:
    safety = run_check(sample, PRESETS["strong"], deadline=Deadline.after(-1))
    assert {one.verdict for one in safety.verdicts} == {"not_measurable"}
    assert "time" in safety.verdicts[0].why


def test_names_hint_where_images_are_too_few(extractor: FeatureExtractor) -> None:
    safety = run_check(take_sample(arrows(each=5), ARROWS, extractor), Augmentation(rotate=(-90, 90)))
    assert safety.augmentation.rotate == (-10, 10), "left and right say nothing of turns"
    safety = run_check(
        take_sample(arrows(each=5, kinds=("6", "9", "ring")), ("6", "9", "0"), extractor),
        Augmentation(rotate=(-90, 90)),
    )
    assert safety.augmentation.is_identity() and "'6' and '9'" in safety.verdicts[0].why


@pytest.mark.parametrize(
    ("names", "fields"),
    [
        (["turn left", "turn-right"], {"flip_horizontal", "half_turn"}),
        (["6", "9", "1"], {"half_turn", "rotate", "flip_vertical"}),
        (["B", "D"], {"flip_horizontal"}),
        (["cat", "dog"], set()),
        (["upright", "downtown"], set()),
    ],
)
def test_hints_from_names(names: list[str], fields: set[str]) -> None:
    assert {name for _, mine in name_hints(names) for name in mine} == fields


# -- sizes ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", AUGMENTATION_LIMITS)
def test_a_field_held_to_its_size_at_a_share_is_that_share_of_it(name: str) -> None:
    half = scaled(PRESETS["strong"], name, 0.5)
    held = held_to(PRESETS["strong"], name, size_of(half, name))
    if isinstance(getattr(half, name), tuple):
        assert np.allclose(size_of(held, name), size_of(half, name))
    assert scaled(PRESETS["strong"], name, 0.0).only(name).is_identity()
    assert scaled(PRESETS["strong"], name, 1.0) == PRESETS["strong"]


# -- features and probes ----------------------------------------------------------------------------------


def test_layout_keeps_positions_that_content_forgets(extractor: FeatureExtractor) -> None:
    images = arrows(each=8, kinds=("left",)).pixels.gather(np.arange(8))
    features, mirrored = extractor(images), extractor(np.ascontiguousarray(images[:, :, ::-1]))
    change = {
        kind: np.linalg.norm(features[kind] - mirrored[kind]) / np.linalg.norm(features[kind]) for kind in features
    }
    assert change["layout"] > change["content"]
    assert features["layout"].shape[1] == len(extractor.weights["layout"]) and features["content"].shape[1] == len(
        extractor.weights["content"]
    )


def test_probes_predict_out_of_fold(extractor: FeatureExtractor) -> None:
    """Images that are in the data twice, in one group, do not confirm each other."""
    random = np.random.default_rng(0)
    noise = random.normal(size=(40, 100)).astype("float32")
    features, labels = np.concatenate([noise, noise]), np.tile(random.integers(0, 2, 40), 2)
    groups = np.tile(np.arange(40), 2)
    skills = []
    for known in (groups, None):  # the distance to a copy is 0, and so is the usual distance
        folds = stratified_folds(labels, known)
        one = ProbeSet(features, np.ones(100), labels, folds, np.arange(80))
        skills.append(one.skill(one.untouched.predicted))
    assert skills[0] < 0.5 < skills[1]


def test_the_saliency_map_lies_where_the_object_is(extractor: FeatureExtractor) -> None:
    random = np.random.default_rng(0)
    rows, labels = [], np.repeat([0, 1], 30)
    for label in labels:
        image = random.integers(90, 130, (96, 96, 3)).astype("uint8")
        image[8:32, 64:88] = (250, 250, 250) if label else (5, 5, 5)  # the upper right corner tells them apart
        rows.append(image)
    features = extractor(np.stack(rows))["layout"]
    one = ProbeSet(features, extractor.weights["layout"], labels, stratified_folds(labels, None), np.arange(60))
    maps = one.maps()
    assert np.allclose(maps.sum((1, 2)), 1) and maps[:, :2, 2:].sum((1, 2)).mean() > 0.5


# -- through the front door -------------------------------------------------------------------------------


def test_a_cache_that_is_cleared_meanwhile_loses_only_what_it_kept(
    arrow_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected, cache = Safety(Augmentation(), Augmentation(), (), {}, 0), Cache(root=tmp_path / "cache")
    monkeypatch.setattr("tlkit.safety.check.prepare_sample", lambda *given, **settings: None)
    monkeypatch.setattr("tlkit.safety.check.run_check", lambda *given, **settings: expected)
    monkeypatch.setattr("tlkit.safety.check.describe", lambda folder, about: shutil.rmtree(tmp_path / "cache", True))
    assert check_safety(scan(arrow_folder), cache=cache) == expected


@pytest.mark.slow
def test_asking_again_takes_it_from_the_cache(arrow_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    images, asked = scan(arrow_folder), Augmentation(flip_horizontal=0.5, rotate=(-180, 180))
    first = check_safety(images, asked)

    def fail(*a: object, **k: object) -> None:
        raise AssertionError("it was computed again")

    monkeypatch.setattr("tlkit.safety.check.prepare_sample", fail)
    assert check_safety(images, asked) == first
    with pytest.raises(AssertionError, match="again"):
        check_safety(images, Augmentation(rotate=(-90, 90)))
    with pytest.raises(NameUnknown, match="Did you mean 'rotate'"):
        check_safety(images, asked, allow=["rotat"])


@pytest.mark.slow
def test_other_weights_and_another_fit_are_checked_anew(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fits: list[str] = []

    def sample(images: ImageSet, **settings: Any) -> None:
        fits.append(settings["fit"])

    result = Safety(Augmentation(), Augmentation(), (), {}, 0, (), 0.0)
    monkeypatch.setattr("tlkit.safety.check.prepare_sample", sample)
    monkeypatch.setattr("tlkit.safety.check.run_check", lambda *given, **settings: result)
    file, images, cache = tmp_path / "mine.keras", scan(folder), Cache(root=tmp_path / "cache")
    shutil.copyfile(tiny_file(), file)
    for _ in range(2):
        check_safety(images, backbone=str(file), cache=cache)
    assert fits == ["squash"]
    network = keras.saving.load_model(file)
    network.get_layer("conv_8").kernel.assign_add(keras.ops.ones_like(network.get_layer("conv_8").kernel))
    network.save(file)
    check_safety(images, backbone=str(file), cache=cache)
    assert fits == ["squash", "squash"], "the file has changed"
    for _ in range(2):
        check_safety(decode_images(images, 32, "crop", cache), backbone=str(file), cache=cache)
    assert fits[2:] == ["crop"], "the run crops"


@pytest.mark.usefixtures("unserved")
@pytest.mark.slow
def test_finetune_trains_with_what_is_safe_only_and_writes_down_why(arrow_folder: Path, tmp_path: Path) -> None:
    asked = Augmentation(flip_horizontal=0.5, brightness=(-0.1, 0.1))
    settings: dict[str, Any] = {"backbone": "nano", "recipe": "small_similar", "augment": asked}
    settings["max_minutes"] = 30  # a tenth is the check's; without a limit it has 15 s, too few on a busy machine
    run = finetune(arrow_folder, **settings, out=tmp_path / "run")
    decision = run.plan.decision("augmentation")
    assert decision is not None
    assert run.plan.recipe.augmentation.flip_horizontal == 0
    assert run.plan.recipe.augmentation.brightness == (-0.1, 0.1)
    assert (
        decision.evidence["fields"]["flip_horizontal"]["verdict"] == "unsafe"
        and "dropped: flip_horizontal" in decision.why
    )
    allowed = finetune(arrow_folder, **settings, allow=["flip_horizontal"], out=tmp_path / "b")
    assert allowed.plan.recipe.augmentation.flip_horizontal == 0.5
    assert "allowed by you" in allowed.plan.decision("augmentation").why
    again = finetune(tmp_path / "run" / "plan.json", out=tmp_path / "c")
    assert again.plan.recipe.augmentation == run.plan.recipe.augmentation


@pytest.mark.slow
def test_the_command_writes_verdicts_an_image_and_an_augmentation_that_finetune_reads(
    arrow_folder: Path, tmp_path: Path
) -> None:
    files = {name: tmp_path / name for name in ("verdicts.json", "sheet.png", "safe.json", "asked.json")}
    files["asked.json"].write_text(json.dumps({"flip_horizontal": 0.5, "flip_vertical": 0.5}))
    words = [
        "augment",
        str(arrow_folder),
        "--preset",
        str(files["asked.json"]),
        "--check",
        "--json",
        str(files["verdicts.json"]),
    ]
    done = CliRunner().invoke(main, [*words, "--out", str(files["sheet.png"]), "--write", str(files["safe.json"])])
    assert done.exit_code == 0, done.output
    verdicts = json.loads(files["verdicts.json"].read_text())
    assert set(verdicts) == {"flip_horizontal", "flip_vertical"}
    assert verdicts["flip_horizontal"]["verdict"] == "unsafe" and verdicts["flip_horizontal"]["limit"] is None
    assert {"verdict", "limit", "pairs", "n", "why"} <= set(verdicts["flip_vertical"])
    assert json.loads(files["safe.json"].read_text())["flip_vertical"] == 0.5
    with Image.open(files["sheet.png"]) as sheet:
        assert sheet.width > 7 * 160 and sheet.height > 3 * 160
    refused = CliRunner().invoke(main, ["augment", str(arrow_folder), "--preset", "strnog"])
    assert refused.exit_code == 1 and "Did you mean 'strong'" in refused.output


def test_the_best_of_many_fields_that_change_nothing_is_seldom_taken() -> None:
    """Sixteen fields without effect on 150 images: without correction the best is ahead in most searches."""
    random, plain, corrected = np.random.default_rng(26201), 0, 0
    for seed in range(60):
        gains = random.standard_t(4, (16, 150)) * 0.1
        gains = gains[np.argsort(-gains.mean(1))]
        plain += gains[0].mean() > gains[0].std() / 150**0.5
        corrected += chance_of_first(gains, seed=seed) < AT_CHANCE
    assert plain > 50 and corrected <= 7
    real = random.normal(0.05, 0.1, (1, 150))
    assert chance_of_first(np.concatenate([real, gains])) < 0.01
    assert chance_of_first(real.repeat(2, axis=0)) == chance_of_first(real), "fields that are alike count as one"
    assert chance_of_first(real, np.arange(150) // 50) > 0.1, "three patients tell nothing"


@pytest.mark.slow
def test_the_search_takes_what_helps_and_leaves_what_does_not(extractor: FeatureExtractor) -> None:
    """Brightness up to white would blank images, so the search leaves it out."""
    sample = take_sample(arrows(), ARROWS, extractor)
    without = held_out_losses(sample).mean()
    found = search(sample, Augmentation(flip_vertical=0.5, brightness=(-1.0, 1.0)))
    assert found.loss <= found.without == pytest.approx(without)
    assert found.gain <= found.without - found.loss, "corrected for being the best of several"
    assert "brightness" not in found.augmentation.fields(), "half of the images would be blank"
    assert found.tried and set(found.tried[0]) == {"flip_vertical", "brightness"}
