from __future__ import annotations

import json
import os
import shutil
import warnings
from pathlib import Path

import pandas as pd
import pytest

from tests.broken import encode, left_out, png_header, used_with_a_note
from tests.conftest import COLOURS, draw, write_folder
from tlkit.data.images import ImageSet
from tlkit.data.scan import scan
from tlkit.data.split import split
from tlkit.errors import DataError, NameUnknown


def problems_of(images: ImageSet) -> dict[str, str]:
    return dict(zip(images.problems["path"], images.problems["problem"], strict=True))


def test_a_folder_of_class_folders(folder: Path) -> None:
    images = scan(folder)
    assert images.class_names == ("blue", "green", "red")
    assert len(images) == 24 and images.problems.empty
    assert list(images.labels()) == [0] * 8 + [1] * 8 + [2] * 8
    assert set(images.table["format"]) == {"png"} and set(images.table["width"]) == {40}


def test_images_deeper_in_a_class_folder_belong_to_it(folder: Path) -> None:
    (folder / "red" / "camera 2").mkdir()
    shutil.move(folder / "red" / "000.png", folder / "red" / "camera 2" / "000.png")
    assert list(scan(folder).table["label"]).count("red") == 8


def test_split_folders_give_the_split(tmp_path: Path) -> None:
    write_folder(tmp_path / "train", 6)
    write_folder(tmp_path / "valid", 2, start=100)
    write_folder(tmp_path / "test", 3, start=200)
    images = split(scan(tmp_path))
    with pytest.raises(NameUnknown, match="Did you mean 'validation'"):
        images.part("valid")
    assert images.table["split"].value_counts().to_dict() == {"train": 18, "test": 9, "validation": 6}


def test_a_class_called_train_is_a_class(tmp_path: Path) -> None:
    for name in ("train", "bus"):
        (tmp_path / name).mkdir()
        for i in range(3):
            draw((i * 50, 90, 90), i + len(name)).save(tmp_path / name / f"{i}.png")
    assert scan(tmp_path).class_names == ("bus", "train")


def csv_of(folder: Path, rows: list[dict[str, str]]) -> Path:
    file = folder / "labels.csv"
    pd.DataFrame(rows).to_csv(file, index=False)
    return file


def rows_of(folder: Path) -> list[dict[str, str]]:
    return [{"path": f"{c}/{i:03d}.png", "label": c} for c in COLOURS for i in range(8)]


def test_a_csv_with_labels_that_look_like_nothing(folder: Path) -> None:
    rows = rows_of(folder)
    for row in rows:
        row["label"] = {"red": "NA", "blue": "null", "green": "1"}[row["label"]]
    assert scan(csv_of(folder, rows)).class_names == ("1", "NA", "null")


@pytest.mark.parametrize("separator", [",", ";", "\t"])
def test_a_csv_as_spreadsheets_write_it(folder: Path, separator: str) -> None:
    lines = [separator.join(["path", "label"]), *[separator.join(row.values()) for row in rows_of(folder)]]
    (folder / "x.csv").write_text("\r\n".join(lines), encoding="utf-8-sig")
    assert len(scan(folder / "x.csv")) == 24


def test_an_image_with_two_labels_is_left_out_and_most_of_them_are_an_error(folder: Path) -> None:
    rows = [*rows_of(folder), {"path": "red/000.png", "label": "green"}]
    images = scan(csv_of(folder, rows))
    assert len(images) == 23 and problems_of(images) == {"red/000.png": "two-labels"}
    assert "several labels in rows 18, 26: green, red" in images.problems["detail"][0]
    rows = [{**row, "label": label} for row in rows_of(folder) for label in ("a", "b")]
    with pytest.raises(DataError, match=r"24 images of 24 .* have several labels.*single-label"):
        scan(csv_of(folder, rows))


def test_csv_rows_that_lead_nowhere_are_named(folder: Path) -> None:
    rows = [
        *rows_of(folder),
        {"path": "gone.png", "label": "red"},
        {"path": "red/000.png", "label": "red"},
        {"path": "red/001.png", "label": ""},
    ]
    found = scan(csv_of(folder, rows)).problems
    assert set(zip(found["path"], found["problem"], strict=True)) == {
        ("gone.png", "missing-file"),
        ("red/000.png", "repeated-row"),
        ("red/001.png", "no-label"),
    }


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("where,label\na.png,x\n", "no column 'path'"),
        ("path,label,split\nred/000.png,red,somewhere\n", "split is 'somewhere' in row 2"),
        ("", "Cannot read"),
    ],
)
def test_an_unusable_csv_says_why(folder: Path, text: str, message: str) -> None:
    (folder / "x.csv").write_text(text)
    with pytest.raises(DataError, match=message):
        scan(folder / "x.csv")


def test_every_broken_file_is_named_and_left_out(folder: Path) -> None:
    from tlkit.data.dataset import decode_images

    expected = {}
    for name, data, problem in left_out(1):
        (folder / "red" / name).write_bytes(data)
        expected[f"red/{name}"] = problem
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        images = decode_images(scan(folder), 32).images
    assert problems_of(images) == expected
    assert len(images) == 24
    assert set(images.problems["action"]) == {"left out"}


def test_odd_files_are_used_and_named(folder: Path) -> None:
    from tlkit.data.dataset import decode_images

    expected = set()
    for name, data, problem in used_with_a_note(1):
        (folder / "green" / name).write_bytes(data)
        expected.add((f"green/{name}", problem))
    images = decode_images(scan(folder), 32).images
    found = images.problems
    assert expected <= set(zip(found["path"], found["problem"], strict=True))
    assert set(found["action"]) == {"used"} and len(images) == 24 + len(expected)


def test_system_files_loops_and_strays_are_named(folder: Path) -> None:
    (folder / "__MACOSX").mkdir()
    (folder / "red" / ".DS_Store").write_bytes(b"x")
    (folder / "empty").mkdir()
    draw((9, 9, 9), 9).save(folder / "stray.png")
    (folder / "red" / "loop").symlink_to(folder, target_is_directory=True)
    (folder / "red" / "self").symlink_to(folder / "red" / "self")
    (folder / "red" / "nowhere.png").symlink_to(folder / "not there.png")
    os.mkfifo(folder / "red" / "pipe.png")
    assert problems_of(scan(folder)) == {
        "__MACOSX": "system-file",
        "red/.DS_Store": "system-file",
        "empty": "empty-class",
        "stray.png": "outside-class-folder",
        "red/loop": "symlink-loop",
        "red/self": "symlink-loop",
        "red/nowhere.png": "broken-link",
        "red/pipe.png": "not-an-image",
    }


@pytest.mark.parametrize("kind", ["JPEG", "GIF", "PNG", "BMP", "WEBP", "TIFF"])
def test_a_header_before_gigabytes_of_nothing_is_left_out_unread(folder: Path, kind: str) -> None:
    file = folder / "red" / f"preallocated.{kind.lower()}"
    file.write_bytes(encode(draw((90, 90, 90), 5), kind)[:300])
    os.truncate(file, 4_000_000_000)  # sparse: takes no space
    found = scan(folder).problems.set_index("path").loc[f"red/{file.name}"]
    assert found["problem"] == "too-large" and "3,815 MiB" in found["detail"]


def test_pipes_and_devices_are_not_opened(folder: Path, tmp_path: Path) -> None:
    (folder / "red" / "zero.png").symlink_to("/dev/zero")
    os.mkfifo(folder / "red" / "pipe.png")
    found = scan(folder).problems.set_index("path")
    for name in ("zero.png", "pipe.png"):
        assert found.loc[f"red/{name}", "detail"] == "not a regular file"
    os.mkfifo(tmp_path / "table.csv")
    with pytest.raises(DataError, match="not a regular file"):
        scan(tmp_path / "table.csv")


def test_the_same_bytes_under_two_labels_are_left_out_both(folder: Path) -> None:
    shutil.copy(folder / "red" / "000.png", folder / "green" / "copy.png")
    images = scan(folder)
    assert problems_of(images) == {"red/000.png": "two-labels", "green/copy.png": "two-labels"}
    assert len(images) == 23


def test_a_class_with_one_image_is_named_and_left_out(folder: Path) -> None:
    (folder / "lonely").mkdir()
    draw((1, 1, 1), 77).save(folder / "lonely" / "a.png")
    images = split(scan(folder))
    assert images.class_names == ("blue", "green", "red")
    assert problems_of(images) == {"lonely/a.png": "class-too-small"}


def test_strict_makes_a_problem_an_error_but_not_a_note(folder: Path) -> None:
    draw((1, 2, 3), 5).convert("L").save(folder / "red" / "grey.png")
    (folder / "red" / ".DS_Store").write_bytes(b"x")
    scan(folder, strict=True)
    (folder / "red" / "bad.png").write_bytes(png_header(30_000, 30_000))
    with pytest.raises(DataError, match=r"1 too-large.*bad.png"):
        scan(folder, strict=True)


def test_messages_for_data_that_is_not_there(tmp_path: Path, folder: Path) -> None:
    with pytest.raises(DataError, match=r"Did you mean '.*data'"):
        scan(tmp_path / "dta")
    (tmp_path / "flat").mkdir()
    draw((1, 1, 1), 1).save(tmp_path / "flat" / "a.png")
    with pytest.raises(DataError, match=r"No class folders in .*Found 1 file and no folders"):
        scan(tmp_path / "flat")
    (tmp_path / "one" / "a").mkdir(parents=True)
    (tmp_path / "one" / "a" / "b.jpg").write_bytes(b"")
    with pytest.raises(DataError, match=r"No usable images in .*1 empty-file"):
        scan(tmp_path / "one")
    with pytest.raises(DataError, match="needs a CSV"):
        scan(folder, group_by="patient")


# -- splitting --------------------------------------------------------------------------------------------


def test_the_split_is_stratified_seeded_and_keeps_every_class(tmp_path: Path) -> None:
    write_folder(tmp_path, 20)
    for i in range(2, 20):
        (tmp_path / "red" / f"{i:03d}.png").unlink()
    first, again, other = (split(scan(tmp_path), seed=s).table for s in (0, 0, 1))
    assert first["split"].equals(again["split"]) and not first["split"].equals(other["split"])
    counts = first.groupby("label")["split"].value_counts()
    for name in ("blue", "green"):
        assert counts[name].sum() == 20 and 2 <= counts[name]["validation"] <= 6
    assert counts["red"].to_dict() == {"train": 1, "validation": 1}


@pytest.mark.parametrize("seed", range(5))
def test_identical_files_stay_in_one_split(folder: Path, seed: int) -> None:
    for i in range(5):
        shutil.copy(folder / "red" / "000.png", folder / "red" / f"copy{i}.png")
    table = split(scan(folder), seed=seed, validation=0.4).table
    assert (table.groupby("sha256")["split"].nunique() == 1).all()


def test_given_splits_that_share_a_file_lose_it_from_training(tmp_path: Path) -> None:
    write_folder(tmp_path / "train", 6)
    write_folder(tmp_path / "test", 3, start=200)
    shutil.copy(tmp_path / "test" / "red" / "000.png", tmp_path / "train" / "red" / "leak.png")
    images = split(scan(tmp_path))
    assert problems_of(images)["train/red/leak.png"] == "duplicate-across-parts"
    assert "test/red/000.png" in set(images.table["path"])


@pytest.mark.parametrize("seed", range(5))
def test_groups_stay_whole(folder: Path, seed: int) -> None:
    rows = [{**row, "group": f"{row['label']}-{i % 8 // 2}"} for i, row in enumerate(rows_of(folder))]
    table = split(scan(csv_of(folder, rows)), seed=seed).table
    assert (table.groupby("group")["split"].nunique() == 1).all()
    assert (table.groupby("label")["split"].nunique() == 2).all()


@pytest.mark.parametrize("seed", range(3))
def test_groups_of_several_classes_stay_whole(folder: Path, seed: int) -> None:
    rows = [{**row, "patient": f"p{i % 8}"} for i, row in enumerate(rows_of(folder))]
    file = csv_of(folder, rows)
    table = split(scan(file, group_by="patient"), seed=seed, validation=0.25).table
    assert (table.groupby("group")["split"].nunique() == 1).all()
    assert (table.groupby("label")["split"].nunique() == 2).all()
    assert 3 <= (table["split"] == "validation").sum() <= 9
    with pytest.raises(NameUnknown, match=r"Did you mean 'patient'"):
        scan(file, group_by="pateint")


def test_groups_that_cannot_be_split_are_an_error(folder: Path) -> None:
    rows = [{**row, "group": "all"} for row in rows_of(folder)]
    with pytest.raises(DataError, match="usable class"):
        split(scan(csv_of(folder, rows)))


def test_a_test_class_without_training_images_is_an_error(tmp_path: Path) -> None:
    write_folder(tmp_path / "train", 3, classes=("red", "blue"))
    write_folder(tmp_path / "test", 2, start=50)
    with pytest.raises(DataError, match="'green' is in test but not in train"):
        split(scan(tmp_path))


def test_a_table_beside_folders_that_are_no_classes_is_pointed_at(tmp_path: Path) -> None:
    write_folder(tmp_path, 3, classes=("red",))
    (tmp_path / "splits.csv").write_text("path,label\n")
    with pytest.raises(DataError, match=r"1 usable class.*Did you mean '.*splits\.csv'"):
        split(scan(tmp_path))


@pytest.mark.parametrize("validation", [0, 1, -0.1, 5])
def test_a_share_outside_0_to_1_is_refused(folder: Path, validation: float) -> None:
    with pytest.raises(DataError, match="validation"):
        split(scan(folder), validation=validation)


def test_a_split_that_names_itself_as_its_data_is_read_beside_its_images(tmp_path: Path) -> None:
    write_folder(tmp_path, 2)
    rows = [f"{name}/{i:03d}.png,{name},train" for name in COLOURS for i in range(2)]
    file = tmp_path / "split.csv"
    file.write_text("\n".join(["path,label,split", *rows]))
    plan = {"tlkit": "0.2.0", "job": {"data": str(file)}, "recipe": None, "classes": sorted(COLOURS)}
    (tmp_path / "plan.json").write_text(json.dumps(plan))
    assert scan(file).root == tmp_path and len(scan(file)) == 6
