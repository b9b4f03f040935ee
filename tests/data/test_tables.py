"""Tables as Excel, Windows, pandas and Hugging Face write them."""

from __future__ import annotations

import bz2
import gzip
import io
import json
import lzma
import zipfile
from collections import Counter
from pathlib import Path

import pandas as pd
import pytest
from click.testing import CliRunner

from tests.conftest import COLOURS, draw
from tlkit.cli.main import main
from tlkit.data.scan import scan
from tlkit.data.sources import places as places_module
from tlkit.data.sources import records
from tlkit.data.sources.item import SPLIT_FOLDERS
from tlkit.data.sources.places import IMAGE_EXTENSIONS, Places, Wanted
from tlkit.data.sources.records import JSON_LINES, PARQUET, TABLES
from tlkit.data.sources.table import _read_table
from tlkit.data.sources.table_columns import COLUMNS
from tlkit.data.split import split
from tlkit.errors import DataError, NameUnknown, SpecError
from tlkit.plan.columns import ROLES, named_columns

PAGE = Path(__file__).parents[2] / "docs" / "data.md"


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """A folder with img/a0.png to img/a2.png and img/b0.png to img/b2.png: empty files, which a table only names."""
    (tmp_path / "img").mkdir()
    for kind in "ab":
        for i in range(3):
            (tmp_path / "img" / f"{kind}{i}.png").touch()
    return tmp_path


def read(file: Path, content: str | bytes, **named: str) -> tuple[dict[str, str], list[str]]:
    """The label of each image in a table of this content, and what was said of its rows."""
    file.write_bytes(content.encode() if isinstance(content, str) else content)
    findings: list[dict[str, str]] = []
    found = _read_table(file, None, named, findings)
    return {one.path: one.label for one in found}, [f"{one['problem']}: {one['detail']}" for one in findings]


ALL = {f"img/{kind}{i}.png": label for kind, label in (("a", "Küche"), ("b", "001")) for i in range(3)}


def table(separator: str = ",", header: str = "path,label", shape: str = "{path},{label}", end: str = "\n") -> str:
    rows = [header, *[shape.format(path=path, label=label) for path, label in ALL.items()]]
    return end.join(row.replace(",", separator) for row in rows) + end


@pytest.mark.parametrize(
    "content",
    [
        pytest.param(table().encode("utf-8-sig"), id="utf-8 with a mark"),
        pytest.param(table("\t", end="\r\n").encode("utf-16"), id="utf-16"),
        pytest.param(b"\xfe\xff" + table(";").encode("utf-16-be"), id="utf-16, the other byte order"),
        pytest.param(table("|", end="\r"), id="old Mac line ends"),
        pytest.param("sep=;\r\n" + table(";", end="\r\n"), id="sep="),
        pytest.param('"sep=\t"\n' + table("\t"), id="sep= in quotes"),
        pytest.param(table(shape='{path}, "{label}" '), id="spaces and quotes"),
        pytest.param(table(header="path,label,", shape="{path},{label},"), id="a comma at every end"),
        pytest.param(table(shape="{path},{label},,"), id="commas behind the header's end"),
        pytest.param("\n\n" + table() + ",\n\n", id="empty rows"),
        pytest.param(table(header=" Image Path ,CLASS_NAME"), id="capitals and other names"),
        pytest.param(table(header=",Filename,Label", shape="0,{path},{label}"), id="an index column"),
        pytest.param(table(header="Unnamed: 0,id,file_name,class", shape="0,1,{path},{label}"), id="a better column"),
        pytest.param(
            table(header="path,note,label", shape='{path},"two\nlines, a "" mark",{label}'), id="lines in quotes"
        ),
    ],
)
def test_every_way_to_write_a_table_is_read_the_same(data: Path, content: str | bytes) -> None:
    assert read(data / "x.csv", content) == (ALL, [])


def test_text_that_is_not_utf8_is_never_guessed(data: Path) -> None:
    with pytest.raises(
        DataError, match=r"is not UTF-8; in Excel save as 'CSV UTF-8'. Row 2 .*0xfc.*'img/a0.png;Küche'"
    ):
        read(data / "x.csv", table(";").encode("cp1252"))
    with pytest.raises(DataError, match=r"save as 'CSV UTF-8'.*zero bytes"):
        read(data / "x.csv", table().replace("ü", "u").encode("utf-16-le"))
    with pytest.raises(DataError, match="is a workbook, not text; in Excel save as 'CSV UTF-8'"):
        read(data / "x.csv", b"PK\x03\x04rest")
    (data / "x.xlsx").write_bytes(b"PK\x03\x04rest")
    with pytest.raises(DataError, match="in Excel save as 'CSV UTF-8'"):
        scan(data / "x.xlsx")


@pytest.mark.parametrize(
    "written",
    [
        "img/{name}",
        "img\\{name}.png",
        "./img//{name}.PNG",
        "IMG/{name}.Png",
        "/img/{name}.png",
        "img/img/{name}.png",
        "{name}.png",
        "{name}",
        "/kaggle/input/x/img/{name}.png",
        "C:\\Users\\me\\my data\\img\\{name}.PNG",
        "file:///D:/x/img/{name}",
        "../input/img/{name}.png",
    ],
)
def test_a_path_leads_to_the_file_that_ends_like_it(data: Path, written: str) -> None:
    rows = [f"{written.format(name=f'{kind}{i}')},{kind}" for kind in "ab" for i in range(3)]
    found, said = read(data / "x.csv", "\n".join(["path,label", *rows]))
    assert found == {path: path[4] for path in ALL}
    assert len(said) == 1 and said[0].startswith("other-path: row 2: read as 'img/a0.png', and 5 paths like it")


@pytest.mark.parametrize("written", ["/x/train/P{i}/a.png", "train/P{i}/a.png", "/x/train/q{i}/a.png", "p{i}/a.png"])
def test_the_work_for_a_row_does_not_grow_with_the_table(
    written: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = Counter[str]()
    for name in ("fold", "_listing"):
        real = getattr(places_module, name)
        monkeypatch.setattr(
            places_module, name, lambda given, name=name, real=real: (asked.update([name]), real(given))[1]
        )
    work = []
    for count in (40, 160):  # a folder for each row
        for i in range(count):
            (tmp_path / str(count) / "train" / f"p{i}").mkdir(parents=True)
            (tmp_path / str(count) / "train" / f"p{i}" / "a.png").touch()
        asked.clear()
        found = Places(tmp_path / str(count)).find([Wanted(written.format(i=i)) for i in range(count)])
        assert [one.path for one in found] == ["" if "q" in written else f"train/p{i}/a.png" for i in range(count)]
        work.append(sum(asked.values()))
    assert work[1] < 5 * work[0], work


def test_a_path_that_could_be_several_files_is_not_guessed(tmp_path: Path) -> None:
    for name in ("train/cat/1.png", "test/cat/1.png", "test/dog/1.png", "9.png", "5.png", "5.jpg"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()

    def places(*wanted: Wanted) -> list[tuple[str, str]]:
        return [(place.path, place.how) for place in Places(tmp_path).find(wanted)]

    assert places(Wanted("cat/1.png")) == [("", "missing")]
    assert places(Wanted("cat/1.png", "cat", "test")) == [("test/cat/1.png", "moved")]
    assert places(Wanted("1.png", "dog")) == [("test/dog/1.png", "moved")]
    for swapped in ("train/dog/1.png", "/data/train/dog/1.png", "bird/dog/1.png"):
        assert places(Wanted(swapped)) == [("", "missing")], swapped
    assert places(Wanted("/data/dog/1.png")) == [("test/dog/1.png", "moved")]
    assert places(Wanted("5")) == [("", "missing")]
    assert places(Wanted("a/9.png"), Wanted("b/9.png")) == [("", "missing"), ("", "missing")]


def test_a_row_that_leads_nowhere_names_what_was_looked_for_and_the_nearest(data: Path) -> None:
    found, said = read(data / "x.csv", "path,label\nimg/a0.png,a\nimg/a7.png,a\nimg/b1.jpg,b\n")
    assert found == {"img/a0.png": "a"}
    assert f"row 3: no file '{data}/img/a7.png'; the nearest that exists: '{data}/img/a" in said[0]
    assert f"row 4: no file '{data}/img/b1.jpg'; the nearest that exists: '{data}/img/b1.png'" in said[1]
    (data / "x.csv").write_text("path,label\nimg/a7.png,a\n")
    with pytest.raises(DataError, match=r"1 missing-file. The first: 'img/a7.png', row 2: no file '.*img/a7.png'"):
        scan(data / "x.csv")


def test_one_bad_row_never_stops_the_others(data: Path) -> None:
    rows = [
        "path,label,split",
        "img/a0.png,a,train",
        'img/a1.png,"a,train',
        "img/a2.png,a, b,train",
        ",a,train",
        "img/b0.png,,train",
        "img/b1.png,b,somewhere",
        "img/b2.png,b,val",
        "img/a0.png,a,train",
    ]
    found, said = read(data / "x.csv", "\n".join(rows))
    assert found == {"img/a0.png": "a", "img/b2.png": "b"}
    kinds = [one.partition(":")[0] for one in said]
    assert sorted(kinds) == ["bad-row"] * 4 + ["no-label", "repeated-row"]
    for number in (3, 4, 5, 6, 7, 9):
        assert any(f"row {number}" in one for one in said), number


def test_one_cell_that_is_no_text_or_has_no_end_never_stops_the_others(data: Path) -> None:
    odd = [
        "img/a1.png,a\0",
        "img/\0.png,a",
        "x" * 200_000 + ",a",
        "/".join(["deep"] * 3000) + ".png,a",
        "n" * 300 + ",a",
    ]
    found, said = read(data / "x.csv", "\n".join(["path,label", "img/a0.png,a", *odd, 'img/b0.png,"b\nc"']))
    assert found == {"img/a0.png": "a", "img/b0.png": "b c"}
    assert sum("a zero" in one for one in said) == 2 and sum("131,072 characters" in one for one in said) == 1
    assert [one.partition(":")[0] for one in said].count("missing-file") == 2
    lines = ['{"path": "img/a0.png", "label": "a"}', '{"path": "img/b0.png", "label": "\\ud800"}']
    found, said = read(data / "x.jsonl", "\n".join([*lines, '{"path": "\\udce9.png", "label": "b"}']))
    assert found == {"img/a0.png": "a"} and [one.partition(":")[0] for one in said] == ["bad-row"] * 2


def test_a_column_for_each_class(data: Path) -> None:
    header, rows = "image_id,cat,dog,age", ["a0,1,0,3", "a1,0,1,4", "b0,1,1,5", "b1,0,0,6", "b2,TRUE,False,7"]
    found, said = read(data / "x.csv", "\n".join([header, *rows]))
    assert found == {"img/a0.png": "cat", "img/a1.png": "dog", "img/b2.png": "cat"}
    assert any("several labels in row 4: cat, dog" in one for one in said) and any("no-label" in one for one in said)
    with pytest.raises(DataError, match="have several labels"):
        read(data / "x.csv", "\n".join([header, "a0,1,1,3", "a1,1,1,3", "a2,1,0,3"]))
    with pytest.raises(DataError, match="no column 'label'"):
        read(data / "x.csv", "path,age\nimg/a0.png,3\n")


def test_json_lines_and_hugging_face_metadata(data: Path) -> None:
    rows = [{"file_name": path, "label": label} for path, label in ALL.items()]
    lines = [json.dumps(row, ensure_ascii=False) for row in rows]
    assert read(data / "metadata.jsonl", "\n".join(lines)) == (ALL, [])
    found, said = read(
        data / "x.jsonl", "\n".join([*lines[:2], "{broken", '{"file_name": "img/b0.png", "label": ["a", "b"]}'])
    )
    assert len(found) == 2 and "row 3: not a JSON object" in said[0] and "several labels in row 4: a, b" in said[1]
    numbers = [json.dumps({"file_name": path, "label": i % 2}) for i, path in enumerate(ALL)]
    assert set(read(data / "x.jsonl", "\n".join(numbers))[0].values()) == {"0", "1"}
    assert read(data / "metadata.csv", table(header="file_name,label")) == (ALL, [])


@pytest.mark.parametrize("kind", [".gz", ".bz2", ".xz", ".zip"])
def test_a_compressed_table_is_read_with_bounded_size(kind: str, data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    lines = "\n".join(json.dumps({"path": path, "label": label}) for path, label in ALL.items())
    for name, content in (("x.csv", table(";")), ("x.jsonl", lines)):
        packed = compressed(kind, content.encode())
        assert read(data / (name + kind), packed) == (ALL, [])
        with pytest.raises(DataError, match=r"Cannot (unpack|read) '.*x\."):
            read(data / (name + kind), packed[:-12])
    with pytest.raises(DataError, match=r"Cannot (unpack|read)"):
        read(data / f"x.csv{kind}", table())
    monkeypatch.setattr(records, "MOST_UNPACKED", 20)
    with pytest.raises(DataError, match=r"unpacks to more than 0 MiB\. Unpack it"):
        read(data / f"x.csv{kind}", packed)


def compressed(kind: str, content: bytes) -> bytes:
    if kind != ".zip":
        return {".gz": gzip, ".bz2": bz2, ".xz": lzma}[kind].compress(content)
    with zipfile.ZipFile(out := io.BytesIO(), "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("labels", content)
        archive.writestr("__MACOSX/._labels", b"x")
    return out.getvalue()


def test_a_packed_table_of_several_files_and_an_archive_of_another_kind_are_refused(data: Path) -> None:
    with zipfile.ZipFile(data / "x.csv.zip", "w") as archive:
        archive.writestr("a.csv", table())
        archive.writestr("b.csv", table())
    with pytest.raises(DataError, match=r"holds 2 files \(a.csv, b.csv\). Unpack it"):
        scan(data / "x.csv.zip")
    for name in ("photos.7z", "photos.tar.zst", "x.parquet.gz"):
        (data / name).touch()
        with pytest.raises(DataError, match=r"is an archive of a kind that is not read\. Expected \.zip, \.tar"):
            scan(data / name)


def test_parquet(data: Path) -> None:
    pytest.importorskip("pyarrow")
    frame = pd.DataFrame({"path": list(ALL), "label": [1, 1, 1, 2, 2, 2], "split": "train", "note": [None] * 6})
    frame.to_parquet(data / "x.parquet")
    assert read(data / "x.parquet", (data / "x.parquet").read_bytes())[0] == dict(zip(ALL, "111222", strict=True))
    pd.DataFrame({"image": [{"bytes": b"x", "path": "a"}], "label": ["a"]}).to_parquet(data / "y.parquet")
    with pytest.raises(DataError, match="holds the images themselves in its column 'image'"):
        read(data / "y.parquet", (data / "y.parquet").read_bytes())
    with pytest.raises(DataError, match="as Parquet"):
        read(data / "z.parquet", b"PAR1 nothing")


def test_other_column_names_can_be_given(data: Path) -> None:
    content = table(header="Photo No,path,species", shape="{path},nowhere.png,{label}")
    assert read(data / "x.csv", content, path="photo no", label="Species") == (ALL, [])
    with pytest.raises(NameUnknown, match="Did you mean 'species'"):
        read(data / "x.csv", content, label="speces")
    with pytest.raises(NameUnknown, match="Did you mean 'path'"):
        named_columns("pth=photo")
    for wrong in ("photo", "path=", "path=a,path=b"):
        with pytest.raises(SpecError, match="path=filename,label=class"):
            named_columns(wrong)
    with pytest.raises(DataError, match="is a folder"):
        scan(data, columns="path=photo")


def test_the_command_takes_other_column_names_and_names_the_option(tmp_path: Path) -> None:
    rows = []
    for number, name in enumerate(["red", "blue"] * 3):
        draw(COLOURS[name], 26700 + number).save(tmp_path / f"{number}.png")
        rows.append(f"{number}.png,{name}")
    (tmp_path / "x.csv").write_text("\n".join(["photo no,species", *rows]))
    words = ["inspect", str(tmp_path / "x.csv"), "--fast", "--image-size", "32"]
    refused = CliRunner().invoke(main, words)
    assert refused.exit_code == 1 and "name it: --columns path=NAME" in refused.stderr
    done = CliRunner().invoke(main, [*words, "--columns", "path=photo no,label=species"])
    assert done.exit_code == 0 and "6 usable images in 2 classes" in done.output, done.output


def names_on_page(section: str) -> set[str]:
    """The names in code quotes in the first table of a section of the page: the longest column of them."""
    first = PAGE.read_text(encoding="utf-8").split(f"## {section}\n")[1].split("| ---")[1:]
    lines = "".join(first).split("\n\n")[0].splitlines()[1:]
    columns = zip(*[line.split("|")[1:-1] for line in lines], strict=True)
    return max(({name for cell in column for name in cell.split("`")[1::2]} for column in columns), key=len)


def test_the_page_lists_what_the_code_accepts() -> None:
    assert names_on_page("Columns") == set().union(*COLUMNS.values())
    assert names_on_page("Tables") == {*TABLES}
    assert names_on_page("Extensions that a path may leave out") == set(IMAGE_EXTENSIONS)
    assert names_on_page("Part folders") == set(SPLIT_FOLDERS)
    assert set(ROLES) < set(COLUMNS) and {*JSON_LINES, *PARQUET} < set(TABLES)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("img/a0.png 0\nimg/b0.png 1\n", "spaces separate none, and path,label into the first line"),
        ("path label\nimg/a0.png 0\n", "spaces separate none"),
        ("img/a0.png,a\nimg/b0.png,b\n", "The first line is a row already. Put a line with the names"),
        ("img/a0,a\nimg/b0,b\n", "The first line is a row already. Put a line with the names"),
        ("picture no,label\nimg/a0.png,a\n", "If another column holds the paths"),
    ],
)
def test_a_first_line_without_names_of_columns_is_said(content: str, message: str, data: Path) -> None:
    with pytest.raises(DataError, match=message):
        read(data / "t.csv", content)


@pytest.mark.parametrize("folder", ["train", "Train_Images", "x/training"])
def test_the_name_of_a_table_decides_between_files_of_one_name(folder: str, tmp_path: Path) -> None:
    for one in (folder, "test", "test_images"):
        (tmp_path / one).mkdir(parents=True)
        for name in ("0", "1"):
            (tmp_path / one / f"{name}.png").touch()
    found, _ = read(tmp_path / "train_labels.csv", "id,label\n0,a\n1,b\n")
    assert found == {f"{folder}/0.png": "a", f"{folder}/1.png": "b"}
    assert read(tmp_path / "labels.csv", "id,label\n0,a\n1,b\n")[0] == {}
    assert set(read(tmp_path / "labels.csv", "id,label,split\n0,a,train\n1,b,Training Set\n")[0]) == set(found)


@pytest.mark.parametrize(
    ("labels", "said"),
    [
        (("Cat", "cat"), "the classes Cat, cat differ in case only"),
        (("big cat", "big\u00a0cat"), r"'big cat', 'big\xa0cat' differ in case, in kinds of spaces"),
        (("1", "1.0"), "'1', '1.0' differ in"),
        (("2.5", "2.05"), ""),
        (("a b", "ab"), ""),
    ],
)
def test_labels_that_look_alike_are_named(labels: tuple[str, str], said: str, data: Path) -> None:
    rows = "".join(f"img/{kind}0.png,{label}\n" for kind, label in zip("ab", labels, strict=True))
    found, named = read(data / "t.csv", f"path,label\n{rows}")
    assert set(found.values()) == set(labels)
    assert said in "".join(named) if said else not named


def test_a_table_is_not_proposed_instead_of_itself(tmp_path: Path) -> None:
    for i in range(4):
        draw(COLOURS["red"], 27200 + i).save(tmp_path / f"{i}.png")
    (tmp_path / "t.csv").write_text("path,label\n0.png,a\n1.png,a\n2.png,a\n3.png,a\n")
    with pytest.raises(DataError, match="1 usable class") as error:
        split(scan(tmp_path / "t.csv"))
    assert "Did you mean" not in str(error.value)


def test_inspect_refuses_a_class_without_training_images(tmp_path: Path) -> None:
    rows = ["path,label,split"]
    for i, (label, part) in enumerate((("a", "train"), ("b", "train"), ("c", "test"))):
        draw(COLOURS["red"], 27210 + i).save(tmp_path / f"{label}.png")
        rows.append(f"{label}.png,{label},{part}")
    (tmp_path / "t.csv").write_text("\n".join(rows))
    done = CliRunner().invoke(main, ["inspect", str(tmp_path / "t.csv"), "--fast", "--image-size", "32"])
    assert done.exit_code == 1 and "Class 'c' is in test but not in train. Add training images" in done.output
