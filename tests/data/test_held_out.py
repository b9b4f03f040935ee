"""Test images that are drawn by content and seed, before anything is learned."""

from __future__ import annotations

import numpy as np
import pytest

from tests.data.test_split import image_set, joined, parts
from tlkit.data.held_out import draw_test
from tlkit.data.images import ImageSet
from tlkit.data.split import split
from tlkit.errors import DataError


def drawn(images: ImageSet, share: float = 0.15, **settings: object) -> set[str]:
    table = draw_test(images, share, **settings).table  # type: ignore[arg-type]
    return set(table.loc[table["split"] == "test", "path"])


@pytest.mark.parametrize("seed", range(8))
def test_adding_images_moves_no_other(seed: int) -> None:
    few = image_set(["a"] * 250 + ["b"] * 300)
    before = parts(split(draw_test(few, 0.15, seed=seed), seed=seed))
    assert set(before.values()) == {"train", "validation", "test"}
    for more in (image_set(["a"], 1000), image_set(["b"] * 70 + ["a"] * 5 + ["c"] * 9, 2000)):
        after = parts(split(draw_test(joined(few, more), 0.15, seed=seed), seed=seed))
        assert {path: after[path] for path in before} == before


@pytest.mark.parametrize("seed", range(4))
def test_images_that_are_not_drawn_keep_their_split(seed: int) -> None:
    images = image_set(["a"] * 400 + ["b"] * 500)
    without, found = parts(split(images, seed=seed)), parts(split(draw_test(images, 0.15, seed=seed), seed=seed))
    others = {path for path, part in found.items() if part != "test"}
    assert {path: found[path] for path in others} == {path: without[path] for path in others}
    taken = [without[path] for path in set(found) - others]
    assert 0.1 < taken.count("validation") / len(taken) < 0.3, "test is not taken from one part alone"


@pytest.mark.parametrize("seed", range(4))
def test_groups_copies_and_pairs_stay_together(seed: int) -> None:
    groups = [f"p{i // 3}" if i < 300 else "" for i in range(600)]
    images = image_set(["a", "b"] * 300, groups=groups)
    images.table.loc[599, "sha256"] = images.table.loc[590, "sha256"]
    pairs = np.array([[400, 401], [401, 450], [300, 12]])
    table = split(draw_test(images, 0.15, seed=seed, pairs=pairs), seed=seed, pairs=pairs).table
    assert (table[table["group"] != ""].groupby("group")["split"].nunique() == 1).all()
    for rows in ([400, 401, 450], [300, 12], [590, 599]):
        assert table.loc[rows, "split"].nunique() == 1


@pytest.mark.parametrize("seed", range(4))
def test_what_was_seen_or_is_given_for_validation_is_never_drawn_nor_are_its_group_and_copies(seed: int) -> None:
    groups = ["p"] * 20 + [""] * 580
    images = image_set(["a", "b"] * 300, groups=groups)
    images.table["split"] = ["train"] * 500 + ["validation"] * 100
    seen = set(images.table["sha256"][15:200])
    found = draw_test(images, 0.4, seed=seed, seen=seen, pairs=np.array([[300, 550]])).table
    test = found.index[found["split"] == "test"]
    assert len(test) > 60 and not set(test) & {*range(200), 300, *range(500, 600)}
    assert (found["split"][500:] == "validation").all()


def test_a_class_keeps_two_images_outside_and_a_large_one_has_about_its_share() -> None:
    sizes = (2, 3, 5, 20, 60, 100)
    images = image_set([f"class {n}" for n in sizes for _ in range(n)])
    counts = []
    for seed in range(40):
        table = split(draw_test(images, 0.15, seed=seed), seed=seed).table
        held = (table["split"] == "test").groupby(table["label"]).sum()
        counts.append(held)
        assert all(held[f"class {n}"] <= n - 2 for n in sizes)
        assert all(n * 0.15 / 2 - 1 < held[f"class {n}"] <= n * 0.15 * 1.5 + 0.5 for n in (20, 60, 100))
        assert (table.groupby("label")["split"].unique().map(set) >= {"train", "validation"}).all()
    mean = sum(counts) / len(counts)
    assert mean["class 2"] == 0
    assert mean["class 100"] == pytest.approx(15, abs=1.5)


def test_another_seed_draws_other_images_and_the_order_of_files_does_not_count() -> None:
    images = image_set(["a", "b"] * 100)
    turned = ImageSet(images.root, images.table[::-1].reset_index(drop=True), images.class_names, images.problems)
    assert drawn(images) == drawn(turned) != drawn(images, seed=1)


@pytest.mark.parametrize("share", [0.0, 1.0, -0.1])
def test_a_share_out_of_range_is_an_error(share: float) -> None:
    with pytest.raises(DataError, match="Expected a share above 0 and below 1"):
        draw_test(image_set(["a", "b"]), share)
