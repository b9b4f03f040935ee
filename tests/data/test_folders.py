"""Folders as people have them: which are parts and classes, what lies beside images, and names of every kind."""

from __future__ import annotations

import json
import os
import shutil
import unicodedata
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.conftest import COLOURS, draw, write_folder
from tlkit.data.classes import losses
from tlkit.data.images import ImageSet
from tlkit.data.scan import scan
from tlkit.data.sources.folder import _walk, files_below
from tlkit.data.split import split
from tlkit.errors import DataError, RunError
from tlkit.runs.folder import Run, check_out


def files(root: Path, *names: str) -> Path:
    """Empty files. A name that ends with * is two: "a/*.png" is "a/1.png" and "a/2.png"."""
    for name in names:
        for one in (name.replace("*", "1"), name.replace("*", "2")) if "*" in name else (name,):
            (root / one).parent.mkdir(parents=True, exist_ok=True)
            (root / one).touch()
    return root


def walked(root: Path) -> tuple[dict[str, int], Counter[str]]:
    """The number of files of each class, as "split/class" or "class", and of each problem."""
    problems: list[dict[str, str]] = []
    found = Counter("/".join(filter(None, (one.split, one.label))) for one in _walk(root, problems))
    return dict(found), Counter(one["problem"] for one in problems)


# The names of files, the number of files of each class ("split/class"), and of each problem.
LAYOUTS: list[tuple[str, str, str]] = [
    # a flat test part has no labels
    ("train/a/* train/b/* test/*", "train/a:2 train/b:2", "unlabelled:2"),
    ("train/a/* train/b/* test1/*", "train/a:2 train/b:2", "unlabelled:2"),
    ("train/a/* train/b/* test/unknown/*", "train/a:2 train/b:2", "unlabelled:2"),
    ("train/train/a/* train/train/b/1 test/test/*", "train/a:2 train/b:1", "unlabelled:2"),
    # names of parts
    ("training_set/a/* training_set/b/1 test_set/a/1 test_set/b/1", "train/a:2 train/b:1 test/a:1 test/b:1", ""),
    ("Training/a/1 Training/b/1 Testing/a/1 Testing/b/1", "train/a:1 train/b:1 test/a:1 test/b:1", ""),
    ("seg_train/seg_train/a/1 seg_train/seg_train/b/1 seg_test/seg_test/a/1", "train/a:1 train/b:1 test/a:1", ""),
    ("TRAIN/a/* TRAIN/b/1 valid/a/1", "train/a:2 train/b:1 validation/a:1", ""),
    ("train-data/a/1 train-data/b/1 validation_images/b/1", "train/a:1 train/b:1 validation/b:1", ""),
    ("train2017/a/1 train2017/b/1 val2017/b/1", "train/a:1 train/b:1 validation/b:1", ""),
    ("seg_train/s/a/1 seg_train/s/b/1 seg_test/s/a/1 seg_pred/*", "train/a:1 train/b:1 test/a:1", "outside-parts:2"),
    # wrappers
    ("images/train/a/1 images/train/b/1 images/test/a/1", "train/a:1 train/b:1 test/a:1", "wrapper-folder:1"),
    ("x/y/a/1 x/y/b/1", "a:1 b:1", "wrapper-folder:1"),
    ("train/images/a/1 train/images/b/1 test/images/a/1 test/images/b/1", "train/a:1 train/b:1 test/a:1 test/b:1", ""),
    ("images/a/1 images/b/1 Annotation/a/1.xml", "a:1 b:1", "wrapper-folder:1 beside-images:1"),
    # parts beside other things
    ("train/a/1 train/b/1 test/.keep", "a:1 b:1", "wrapper-folder:1 empty-part:1"),
    ("train/a/1 train/b/1 val/b/1 test/.keep", "train/a:1 train/b:1 validation/b:1", "empty-part:1"),
    ("train/a/1 train/b/1 test/b/1 annotations/1.xml", "train/a:1 train/b:1 test/b:1", "beside-images:1"),
    ("train/a/1 train/b/1 test/b/1 sample/*", "train/a:1 train/b:1 test/b:1", "outside-parts:2"),
    ("train/a/1 train/b/1 test/b/1 l.csv x", "train/a:1 train/b:1 test/b:1", "beside-images:1 outside-class-folder:1"),
    # the class first, then the part
    ("a/train/* a/test/1 b/train/1 b/test/1", "train/a:2 test/a:1 train/b:1 test/b:1", ""),
    # classes that only look like parts
    ("train/1 bus/1", "train:1 bus:1", ""),
    ("train_station/1 test_tube/1", "train_station:1 test_tube:1", ""),
    ("cat/1 contest/1", "cat:1 contest:1", ""),
    ("cat_test/1 dog_train/1", "cat_test:1 dog_train:1", ""),
    ("class1/x/1 class1/y/1 class2/z/1 class2/y/1", "class1:2 class2:2", "sub-folders:2"),
    ("cat/1 dog/1 test/1", "cat:1 dog:1 test:1", "named-as-part:1"),
    ("cat/1 dog/1 bird/.keep", "cat:1 dog:1", "empty-class:1"),
    # classes with folders of their own
    ("a/x/1 a/1 b/x/1", "a:2 b:1", ""),
    ("a/x/1 a/y/1 b/z/1 b/w/1", "a:2 b:2", "sub-folders:2"),
    # annotations among images are counted once
    ("a/* a/1.xml a/2.xml a/1.json b/1 b/1.txt", "a:2 b:1", "beside-images:2"),
]


@pytest.mark.parametrize(("names", "classes", "problems"), LAYOUTS)
def test_which_folders_are_parts_and_which_are_classes(names: str, classes: str, problems: str, tmp_path: Path) -> None:
    found, named = walked(files(tmp_path, *names.split()))
    assert found == counts(classes)
    assert {kind: count for kind, count in named.items() if kind != "system-file"} == counts(problems)


def counts(text: str) -> dict[str, int]:
    return {name: int(count) for name, _, count in (one.partition(":") for one in text.split())}


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (["train/*.png", "test/*.png"], r"part folders \(test, train\), but 'train' has no class folders"),
        (["my_train/*.png", "my_test/*.png"], "has no class folders"),
        (["test/a/1.png", "val/a/1.png"], r"there is no train folder"),
        (["site 1/a/1", "site 1/b/1", "site 2/a/1", "site 2/b/1"], r"folders of the same names \(a, b\)"),
        (["cat_train/1", "cat_val/1", "dog_train/1", "dog_val/1"], r"cat_train, cat_val in .* are not two classes"),
        (["bus/1", "test_cat/1", "train_cat/1"], r"train/cat and .*/test/cat"),
        (["fold1/a/1", "fold1/b/1", "fold2/b/1", "fold2/c/1", "fold3/a/1"], r"folders of the same names \(a, b\)"),
        (["labeled/a/1", "labeled/b/1", "unlabeled/1"], r"unlabeled beside it is no part. Give '.*labeled'"),
        (["images/a/1", "images/b/1", "masks/a/1", "masks/b/1"], "cannot be told which are the classes"),
        (["train/a/1.png", "train/b/1.png", "extra/1.png"], r"extra beside it is no part. Give '.*train'"),
        (["train/Disc/1.png", "train/b/1.png", "val/disc/1.png"], "differ in case only"),
        (["x.png", "y.png", "labels.csv"], r"Found 2 files and no folders. Did you mean '.*labels.csv'"),
        (["x.png", "a.csv", "sampleSubmission.csv", "train_labels.csv"], r"Did you mean '.*train_labels.csv'"),
        (["x.png", "README.txt", "metadata.jsonl"], r"Did you mean '.*metadata.jsonl'"),
        (["train/1.png", "test/1.png", "train/metadata.csv"], r"give a table such as '.*train/metadata.csv'"),
        (["train/1.png", "test/1.png", "sample_submission.csv"], "give a table with the columns path, label"),
        (["annotations/*.xml", "x.png"], r"1 folder without images \(annotations\)"),
    ],
)
def test_folders_that_are_neither_parts_nor_classes_are_an_error(
    names: list[str], message: str, tmp_path: Path
) -> None:
    with pytest.raises(DataError, match=message):
        walked(files(tmp_path, *names))


def kinds(images: ImageSet) -> dict[str, str]:
    return dict(zip(images.problems["path"], images.problems["problem"], strict=True))


def test_what_systems_and_programs_leave_is_a_note_and_a_hidden_image_a_problem(tmp_path: Path) -> None:
    left = ["__MACOSX/a/._1.png", ".ipynb_checkpoints/1-checkpoint.png", "a/Thumbs.db", "a/@eaDir/1.png", "a/.DS_Store"]
    files(tmp_path, "a/*.png", "b/1.png", "a/desktop.ini", "a/.ipynb_checkpoints/1.png", "a/._1.png", *left)
    draw((1, 2, 3), 26600).save(tmp_path / "a" / ".hidden.png")
    (tmp_path / "a" / ".more").mkdir()
    draw((1, 2, 3), 26601).save(tmp_path / "a" / ".more" / "1.png")
    found, named = walked(tmp_path)
    assert found == {"a": 2, "b": 1}
    assert named == {"system-file": 8, "hidden-file": 2}


def test_links_are_followed_once_and_loops_are_named_as_predict_sees_them(tmp_path: Path) -> None:
    data = files(tmp_path / "data", "a/1.png", "b/1.png")
    files(tmp_path / "elsewhere", "deep/*.png")
    (data / "c").symlink_to(tmp_path / "elsewhere", target_is_directory=True)
    (data / "a" / "again").symlink_to(data / "a", target_is_directory=True)
    (data / "a" / "up").symlink_to(data, target_is_directory=True)
    (data / "top").symlink_to(tmp_path, target_is_directory=True)
    for name in ("l", "m"):
        (data / "b" / name).symlink_to(tmp_path / "elsewhere", target_is_directory=True)
    (tmp_path / "elsewhere" / "back").symlink_to(tmp_path / "elsewhere" / "deep", target_is_directory=True)
    found, named = walked(data)
    assert found == {"a": 1, "b": 3, "c": 2}
    assert named == {"symlink-loop": 3, "repeated-link": 3, "sub-folders": 1}
    seen = {str(path.relative_to(data)) for path, aside in files_below(data / "b") if not aside}
    problems: list[dict[str, str]] = []
    assert seen == {one.path for one in _walk(data, problems) if one.label == "b"} and len(seen) == 3


def test_a_class_whose_link_leads_nowhere_or_whose_folder_cannot_be_read_is_lost(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_folder(tmp_path, 2, start=26630)
    (tmp_path / "cyan").symlink_to(tmp_path / "nowhere", target_is_directory=True)
    with pytest.raises(DataError, match=r"Class 'cyan': 1 of 1 file is left out \(1 broken-link\)"):
        split(scan(tmp_path))
    (tmp_path / "cyan").unlink()
    listed = Path.iterdir

    def refused(self: Path) -> Iterator[Path]:
        if self.name == "red":
            raise PermissionError(13, "Permission denied")
        return listed(self)

    monkeypatch.setattr(Path, "iterdir", refused)
    with pytest.raises(DataError, match=r"Class 'red': .*unreadable.* red: Permission denied"):
        split(scan(tmp_path))


def test_folders_that_are_nested_too_deep_are_named_and_stop_nothing(tmp_path: Path) -> None:
    files(tmp_path, "a/1.png", "b/1.png")
    deepest = tmp_path / "a"
    for _ in range(400):
        deepest /= "x"
        deepest.mkdir()
    files(deepest, "1.png")
    found, named = walked(tmp_path)
    assert found == {"a": 1, "b": 1} and named == {"unreadable": 1}


def test_links_of_each_to_all_others_end(tmp_path: Path) -> None:
    for i in range(12):
        files(tmp_path, f"a/{i}/1.png", "b/1.png")
    for i in range(12):
        for j in range(12):
            (tmp_path / "a" / str(i) / f"to {j}").symlink_to(tmp_path / "a" / str(j), target_is_directory=True)
    found, _ = walked(tmp_path)
    assert found == {"a": 12, "b": 1}


ODD = [
    "new\nline.png",
    "tab\t\x1b[31m.png",
    "-rf.png",
    "é.png",
    "e\u0301.png",
    "x" * 240 + ".png",
    "A.png",
    "a.png",
    " .png",
]


@pytest.mark.parametrize("odd", [b"caf\xe9.png", b"\xff\xfe.png"])
def test_a_file_name_that_is_not_utf_8_is_named_and_all_others_are_used(odd: bytes, tmp_path: Path) -> None:
    write_folder(tmp_path, 3, start=26610)
    (tmp_path / "red" / "000.png").rename(os.fsdecode(os.fsencode(tmp_path / "red") + b"/" + odd))
    for number, name in enumerate(ODD):
        draw(COLOURS["blue"], 26620 + number).save(tmp_path / "blue" / name)
    images = split(scan(tmp_path))
    assert len(images) == 8 + len(ODD) and {f"blue/{name}" for name in ODD} <= set(images.table["path"])
    (row,) = images.problems[images.problems["problem"] == "name-not-utf-8"].itertuples()
    assert row.path == "red/" + odd.decode("utf-8", "backslashreplace") and "rename it" in row.detail
    images.problems.to_csv(tmp_path / "problems.csv", index=False)  # every path is text


@pytest.mark.parametrize("name", [b"d\xefsc", b"caf\xe9/wrapped"])
def test_a_folder_whose_name_is_not_utf_8_is_an_error_that_names_it(name: bytes, tmp_path: Path) -> None:
    folder = Path(os.fsdecode(os.fsencode(tmp_path) + b"/" + name))
    files(folder, "1.png")
    files(folder.parent, "other/1.png")
    with pytest.raises(DataError, match=r"is not UTF-8\. Rename it") as error:
        walked(tmp_path)
    assert name.split(b"/")[0].decode("utf-8", "backslashreplace") in str(error.value)
    str(error.value).encode("utf-8")


def test_one_word_in_two_unicode_forms_is_one_class(tmp_path: Path) -> None:
    composed, apart = "caf\u00e9", "cafe\u0301"
    files(tmp_path, f"train/{composed}/*.png", "train/b/*.png", f"val/{apart}/*.png")
    found, named = walked(tmp_path)
    assert found == {f"train/{composed}": 2, "train/b": 2, f"validation/{composed}": 2}
    assert named == {"class-name": 1}


def test_class_names_are_one_line_of_text_and_names_alike_but_for_case_are_named(tmp_path: Path) -> None:
    files(tmp_path, "a\nb/1.png", " c /1.png", "-d/1.png", "Cat/1.png", "cat/1.png", "x" * 255 + "/1.png")
    found, named = walked(tmp_path)
    assert set(found) == {"a b", "c", "-d", "Cat", "cat", "x" * 255}
    assert named == {"class-name": 2, "alike-names": 1}
    assert all(unicodedata.is_normalized("NFC", one) for one in found)


@pytest.mark.slow
def test_data_below_a_path_that_is_not_utf_8_are_decoded_and_written(tmp_path: Path) -> None:
    from tlkit.data.dataset import decode_images

    root = Path(os.fsdecode(os.fsencode(tmp_path) + b"/caf\xe9"))
    write_folder(root, 2, classes=("red", "blue"), start=26690)
    (root / "red" / "000.png").rename(root / "red" / 'line\r\nbreak, "quoted".png')
    images = decode_images(scan(root), 16).images
    assert len(images) == 4 and images.problems.empty
    run = Run(tmp_path)
    run.write_table("split.csv", images.table)
    assert run.read_table("split.csv")["path"].tolist() == images.table["path"].tolist()
    run.write_json("data.json", {"data": str(root)})
    assert json.loads((tmp_path / "data.json").read_text(encoding="utf-8")) == {"data": str(root)}
    with pytest.raises(RunError, match=r"caf\\xe9.* is not UTF-8. Give another `out`"):
        check_out(root / "run", force=False)


def test_a_flat_test_folder_is_no_class_and_test_set_is_a_part(tmp_path: Path) -> None:
    write_folder(tmp_path / "data" / "train", 3, start=26600)
    (tmp_path / "data" / "test").mkdir()
    for number in range(4):
        draw((90, 90, 90), 26650 + number).save(tmp_path / "data" / "test" / f"{number}.png")
    images = split(scan(tmp_path / "data"))
    assert images.class_names == ("blue", "green", "red") and len(images) == 9
    assert images.problems["problem"].tolist() == ["unlabelled"] * 4 and set(images.problems["action"]) == {"left out"}
    (tmp_path / "data" / "train").rename(tmp_path / "data" / "training_set")
    shutil.rmtree(tmp_path / "data" / "test")
    write_folder(tmp_path / "data" / "test_set", 2, start=26670)
    images = split(scan(tmp_path / "data"))
    assert images.class_names == ("blue", "green", "red")
    assert len(images.part("test")) == 6 and len(images.part("train", "validation")) == 9


# -- what happened to whole classes ------------------------------------------------------------------------


def test_a_class_of_which_nothing_is_left_is_an_error_and_one_that_lost_most_is_named(tmp_path: Path) -> None:
    write_folder(tmp_path, 4, start=26640)
    for file in sorted((tmp_path / "red").iterdir()):
        file.write_bytes(b"%PDF-1.4\n" + file.name.encode())
    draw((1, 1, 1), 26650).save(tmp_path / "blue" / "good.png")
    for file in sorted((tmp_path / "blue").glob("0*"))[:3]:
        file.write_bytes(b"")
    assert [(one.label, one.used, one.lost) for one in losses(scan(tmp_path))] == [("red", 0, 4), ("blue", 2, 3)]
    with pytest.raises(DataError, match=r"Class 'red': 4 of 4 files are left out .*nothing is left.*red/000\.png: PDF"):
        split(scan(tmp_path))
    draw((1, 1, 1), 26651).save(tmp_path / "red" / "000.png")
    with pytest.raises(DataError, match=r"3 of 4 files .* 1 is used, too few to be in both train and validation"):
        split(scan(tmp_path))
    for file in (tmp_path / "red").iterdir():
        file.unlink()
    images = split(scan(tmp_path))
    (row,) = images.problems[images.problems["problem"] == "class-nearly-lost"].itertuples()
    assert row.label == "blue" and "3 of 5 files are left out (3 empty-file), 2 are used" in row.detail


@pytest.mark.parametrize("how", ["no folder", "empty folder", "broken files", "in train too"])
@pytest.mark.parametrize("part", ["validation", "test"])
def test_a_class_that_a_part_does_not_measure_is_named_however_that_came_about(
    how: str, part: str, tmp_path: Path
) -> None:
    write_folder(tmp_path / "train", 3, start=26660)
    write_folder(tmp_path / part, 2, classes=("red", "blue"), start=26680)
    if how != "no folder":
        (tmp_path / part / "green").mkdir()
    if how == "broken files":
        (tmp_path / part / "green" / "0.png").write_bytes(b"")
    images = scan(tmp_path)
    if how == "in train too":  # under another class, so both are left out
        (tmp_path / part / "green" / "0.png").write_bytes((tmp_path / "train" / "red" / "000.png").read_bytes())
        images = scan(tmp_path)
    images = split(images)
    (row,) = images.problems[images.problems["problem"] == "class-not-measured"].itertuples()
    assert row.label == "green" and f"class 'green' has no {part} images" in row.detail and "not measured" in row.detail
    assert split(images).problems["problem"].tolist().count("class-not-measured") == 1
