"""Zip and tar archives are read in place, as the folder that was packed into them."""

from __future__ import annotations

import io
import pickle
import shutil
import tarfile
import zipfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from tests.data.drawn import draw_folder
from tlkit.data.scan import scan
from tlkit.data.sources.member import Item, Piece
from tlkit.errors import DataError

KINDS = ("zip", "tar", "gztar", "xztar")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two classes of four images, one of them in a sub-folder, and what must be passed over beside them."""
    return draw_folder(tmp_path_factory.mktemp("drawn") / "birds")


@pytest.mark.parametrize("kind", KINDS)
def test_an_archive_gives_what_its_folder_gives(folder: Path, tmp_path: Path, kind: str) -> None:
    archive = Path(shutil.make_archive(str(tmp_path / "birds"), kind, folder))
    expected, found = scan(folder), scan(archive)
    assert found.table.equals(expected.table) and found.class_names == expected.class_names
    assert list(found.problems["problem"]) == list(expected.problems["problem"])
    items = found.files()
    assert str(items[0]) == f"{archive}/{expected.table['path'][0]}" and all(isinstance(one, Item) for one in items)
    with ThreadPoolExecutor(4) as pool:
        read = list(pool.map(lambda one: one.read_bytes(), items))
    assert read == [one.read_bytes() for one in expected.files()]


def test_items_of_an_archive_go_to_another_process_without_its_index(folder: Path, tmp_path: Path) -> None:
    items = scan(shutil.make_archive(str(tmp_path / "birds"), "zip", folder)).files()
    sent = pickle.dumps(items[0])
    again = pickle.loads(sent)
    assert isinstance(again, Piece) and len(sent) < 500
    assert (again.name, str(again), again.read_bytes()) == (items[0].name, str(items[0]), items[0].read_bytes())


def test_a_folder_or_a_table_in_an_archive_is_named_by_its_path(folder: Path, tmp_path: Path) -> None:
    expected = scan(folder)
    expected.table[["path", "label"]].to_csv(folder.parent / "labels.csv", index=False)
    with zipfile.ZipFile(tmp_path / "all.zip", "w") as archive:
        archive.write(folder.parent / "labels.csv", "labels.csv")
        for path in expected.table["path"]:
            archive.write(folder / path, path)
    of_table = scan(tmp_path / "all.zip" / "labels.csv")
    assert of_table.table["sha256"].tolist() == expected.table["sha256"].tolist()
    assert len(scan(tmp_path / "all.zip")) == len(expected)
    archive_of_both = Path(shutil.make_archive(str(tmp_path / "two"), "tar", folder.parent, "birds"))
    assert len(scan(archive_of_both / "birds")) == len(expected)
    with pytest.raises(DataError, match="No such file or folder"):
        scan(archive_of_both / "bees")


def _tar(file: Path, *members: tuple[str, bytes, bytes]) -> Path:
    """A tar of (name, type, content)."""
    with tarfile.open(file, "w") as opened:
        for name, kind, data in members:
            one = tarfile.TarInfo(name)
            one.type, one.size, one.linkname = kind, len(data), "/etc/passwd"
            opened.addfile(one, io.BytesIO(data))
    return file


def test_links_and_paths_that_lead_out_of_an_archive_are_named_and_left_out(folder: Path, tmp_path: Path) -> None:
    images = [one.read_bytes() for one in scan(folder).files()]
    file = _tar(
        tmp_path / "odd.tar",
        *((f"{'ab'[i % 2]}/{i}.png", tarfile.REGTYPE, one) for i, one in enumerate(images)),
        ("a/../../evil.png", tarfile.REGTYPE, images[0]),
        ("/a/absolute.png", tarfile.REGTYPE, images[0]),
        ("a/link.png", tarfile.SYMTYPE, b""),
        ("a/hard.png", tarfile.LNKTYPE, b""),
        ("a/device", tarfile.CHRTYPE, b""),
        ("a/0.png", tarfile.REGTYPE, images[1]),
    )
    found = scan(file)
    kinds = found.problems.set_index("path")["problem"].to_dict()
    assert kinds["a/../../evil.png"] == kinds["/a/absolute.png"] == "outside-archive"
    assert kinds["a/link.png"] == kinds["a/hard.png"] == "link-in-archive" and kinds["a/device"] == "not-an-image"
    assert "2 members have this name; the last one is used" in set(found.problems["detail"])


def test_a_cut_tar_keeps_the_members_before_the_cut_and_a_cut_zip_is_refused(folder: Path, tmp_path: Path) -> None:
    tar = Path(shutil.make_archive(str(tmp_path / "birds"), "tar", folder))
    with tarfile.open(tar) as opened:
        last = max((one for one in opened if one.isreg()), key=lambda one: one.offset)
    tar.write_bytes(tar.read_bytes()[: last.offset_data + 10])
    found = scan(tar)
    assert len(found) == len(scan(folder)) - 1 and "truncated" in set(found.problems["problem"])
    zipped = Path(shutil.make_archive(str(tmp_path / "birds"), "zip", folder))
    zipped.write_bytes(zipped.read_bytes()[:-30])
    with pytest.raises(DataError, match="is not a zip archive, or is cut off"):
        scan(zipped)


def test_a_damaged_member_is_named_and_the_others_are_used(folder: Path, tmp_path: Path) -> None:
    zipped = Path(shutil.make_archive(str(tmp_path / "birds"), "zip", folder))
    with zipfile.ZipFile(zipped) as opened:
        one = max(opened.infolist(), key=lambda member: member.compress_size)
    data = bytearray(zipped.read_bytes())
    data[one.header_offset + 30 + len(one.filename) + one.compress_size // 2] ^= 0xFF
    zipped.write_bytes(data)
    found = scan(zipped)
    assert len(found) == len(scan(folder)) - 1
    assert "its checksum differs" in found.problems.set_index("path").loc[one.filename, "detail"]


def test_archives_that_fill_a_disk_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with zipfile.ZipFile(tmp_path / "bomb.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("a/0.png", bytes(10_000))
        archive.writestr("b/1.png", bytes(10_000))
    data = (tmp_path / "bomb.zip").read_bytes()
    second = data.index(b"PK\x03\x04", 4)
    at = data.rindex(second.to_bytes(4, "little"))
    (tmp_path / "shared.zip").write_bytes(data[:at] + (0).to_bytes(4, "little") + data[at + 4 :])
    with pytest.raises(DataError, match="share their bytes"):
        scan(tmp_path / "shared.zip")
    lying = data.replace((10_000).to_bytes(4, "little"), (5).to_bytes(4, "little"))
    (tmp_path / "lying.zip").write_bytes(lying)
    with pytest.raises(DataError, match="No usable images"):
        scan(tmp_path / "lying.zip")
    monkeypatch.setattr("tlkit.data.sources.archive.SMALL", 1000)
    _tar(tmp_path / "zeros.tar", ("a/0.png", tarfile.REGTYPE, bytes(10_000_000)))
    packed = Path(shutil.make_archive(str(tmp_path / "zeros"), "gztar", tmp_path, "zeros.tar"))
    with pytest.raises(DataError, match="as no images do"):
        scan(packed)
