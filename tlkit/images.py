"""What is in the folder: finds the images, names every problem, splits into parts. Reads headers, decodes nothing.

`scan` turns a folder or CSV into an `ImageSet`; `split` gives every image its part. No file is dropped in
silence: whatever is not used, or not used as it is, gets a row in `ImageSet.problems`.
"""

from __future__ import annotations

import dataclasses
import hashlib
import os
import stat
import warnings
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tlkit.errors import DataError, unknown
from tlkit.spec import MAX_JPEG_PIXELS, MAX_PIXELS, PARTS

if TYPE_CHECKING:
    import numpy as np
    import pandas as pd

TABLE_COLUMNS = ("path", "label", "part", "group", "sha256", "format", "width", "height")
PROBLEM_COLUMNS = ("path", "label", "problem", "severity", "action", "detail")

# problem -> (severity, action). A note loses nothing; a problem does, and `strict` makes it an error.
PROBLEMS: dict[str, tuple[str, str]] = {
    "system-file": ("note", "ignored"),
    "grey": ("note", "used"),
    "exif-rotated": ("note", "used"),
    "duplicate": ("note", "used"),
    "cmyk": ("problem", "used"),
    "16-bit": ("problem", "used"),
    "transparent": ("problem", "used"),
    "animated": ("problem", "used"),
    "orientation-ignored": ("problem", "used"),
    "group-across-parts": ("problem", "used"),
    "empty-file": ("problem", "left out"),
    "not-an-image": ("problem", "left out"),
    "unsupported-format": ("problem", "left out"),
    "truncated": ("problem", "left out"),
    "corrupt": ("problem", "left out"),
    "too-large": ("problem", "left out"),
    "missing-file": ("problem", "left out"),
    "unreadable": ("problem", "left out"),
    "no-label": ("problem", "left out"),
    "repeated-row": ("problem", "left out"),
    "two-labels": ("problem", "left out"),
    "duplicate-across-parts": ("problem", "left out"),
    "outside-class-folder": ("problem", "left out"),
    "symlink-loop": ("problem", "left out"),
    "broken-link": ("problem", "left out"),
    "empty-class": ("problem", "left out"),
    "class-too-small": ("problem", "left out"),
}

PART_FOLDERS = {
    "train": "train",
    "training": "train",
    "val": "val",
    "valid": "val",
    "validation": "val",
    "test": "test",
    "testing": "test",
}
SYSTEM_NAMES = {"__macosx", "thumbs.db", "desktop.ini", "@eadir", "$recycle.bin"}

# first bytes -> format
_SIGNATURES = (
    (b"\xff\xd8\xff", "jpeg"),
    (b"\x89PNG\r\n\x1a\n", "png"),
    (b"GIF87a", "gif"),
    (b"GIF89a", "gif"),
    (b"BM", "bmp"),
)
_UNSUPPORTED = (
    (b"II*\x00", "TIFF"),
    (b"MM\x00*", "TIFF"),
    (b"8BPS", "Photoshop"),
    (b"\x00\x00\x01\x00", "ICO"),
    (b"\x00\x00\x00\x0cjP  ", "JPEG 2000"),
    (b"\xff\x0a", "JPEG XL"),
    (b"\x00\x00\x00\x0cJXL ", "JPEG XL"),
    (b"DDS ", "DDS"),
    (b"%PDF", "PDF"),
)


@dataclass(frozen=True)
class ImageSet:
    """Images with their labels and parts, and what was wrong on the way.

    root: the folder that paths are relative to.
    table: one row per usable image: path, label, part ("train", "val", "test" or "" before `split`), group,
        sha256 (of the file), format, width, height (pixels, as stored).
    class_names: sorted; an image's class number is its label's place here.
    problems: one row per finding: path, label, problem, severity, action, detail.
    """

    root: Path
    table: pd.DataFrame
    class_names: tuple[str, ...]
    problems: pd.DataFrame

    def __len__(self) -> int:
        return len(self.table)

    def part(self, *names: str) -> ImageSet:
        """Only the images of one part, or of several behind each other, with all class names kept."""
        import pandas as pd

        rows = pd.concat([self.table[self.table["part"] == name] for name in names], ignore_index=True)
        return dataclasses.replace(self, table=rows)

    def take(self, places: Sequence[int]) -> ImageSet:
        """The images at some places, with all class names kept."""
        return dataclasses.replace(self, table=self.table.iloc[list(places)].reset_index(drop=True))

    def labels(self) -> np.ndarray:
        """Class numbers: int64, shape (n,)."""
        import numpy as np

        number = {name: i for i, name in enumerate(self.class_names)}
        return np.array([number[label] for label in self.table["label"]], dtype="int64")

    def groups(self) -> np.ndarray:
        """A number for what belongs together: equal groups, else equal bytes. int64, shape (n,)."""
        import pandas as pd

        names = self.table["group"].where(self.table["group"] != "", self.table["sha256"])
        return pd.factorize(names)[0].astype("int64")

    def files(self) -> list[Path]:
        """The images' paths, ready to open."""
        return [self.root / path for path in self.table["path"]]

    def keys(self) -> list[str]:
        """The images' content hashes, by which everything computed from them is cached."""
        return list(self.table["sha256"])

    def without(self, findings: Iterable[Mapping[str, str]]) -> ImageSet:
        """The set with more problems named; images whose problem's action is "left out" leave the table."""
        findings = list(findings)
        if not findings:
            return self
        import pandas as pd

        gone = {f["path"] for f in findings if f["action"] == "left out"}
        table = self.table[~self.table["path"].isin(gone)].reset_index(drop=True)
        before = self.problems[~(self.problems["path"].isin(gone) & (self.problems["action"] == "used"))]
        more = pd.DataFrame(findings, columns=list(PROBLEM_COLUMNS))
        return dataclasses.replace(
            self,
            table=table,
            class_names=tuple(sorted(set(table["label"]))),
            problems=pd.concat([before, more], ignore_index=True),
        )


def problem(path: str, label: str, kind: str, detail: str) -> dict[str, str]:
    """One row for `ImageSet.problems`."""
    severity, action = PROBLEMS[kind]
    return {
        "path": path,
        "label": label,
        "problem": kind,
        "severity": severity,
        "action": action,
        "detail": detail,
    }


def scan(data: str | Path, *, group_by: str | None = None, strict: bool = False) -> ImageSet:
    """Find the images of a folder or CSV and name every problem, reading headers and hashes only.

    data: a folder of class folders; a folder of train/, val/, test/ folders of class folders; or a CSV with the
        columns path (relative to the CSV's folder), label and, if wanted, split (train, val, test) and group.
    group_by: the CSV's column whose equal values must stay in one part (patient, camera, site). A column called
        "group" is used without asking.
    strict: any problem that is more than a note raises DataError.

    Files are known by their first bytes, not by their extension: JPEG, PNG, GIF (first frame), BMP, WebP.
    Files that turn out not to decode are found by `tlkit.decode_images`.

    Raises DataError when nothing usable is there, NameUnknown for a group_by that is no column.
    """
    import pandas as pd

    data = Path(data)
    check_exists(data)
    findings: list[dict[str, str]] = []
    if data.is_dir():
        if group_by:
            raise DataError(
                f"--group-by {group_by} needs a CSV with that column, and '{data}' is a folder. "
                "Write a CSV with the columns path, label and the group."
            )
        root, found = data, _walk(data, findings)
    elif data.suffix.lower() in (".csv", ".tsv", ".txt"):
        root, found = data.parent, _read_csv(data, group_by, findings)
    else:
        raise DataError(
            f"'{data}' is a file but not a CSV. Expected a folder of class folders or a CSV with path,label."
        )
    rows = [row for item in found if (row := _look(root, item, findings)) is not None]
    table = pd.DataFrame(rows, columns=list(TABLE_COLUMNS)).sort_values("path", ignore_index=True)
    table, more = _same_bytes(table)
    findings += more
    problems = pd.DataFrame(findings, columns=list(PROBLEM_COLUMNS))
    names = tuple(sorted(set(table["label"])))
    images = ImageSet(root, table, names, problems)
    if not len(table):
        raise DataError(_nothing_found(data, problems))
    if strict:
        raise_if_strict(images)
    return images


def check_exists(data: str | Path) -> None:
    """Raise DataError, with the nearest path, if there is no such folder or file."""
    if not Path(data).exists():
        raise DataError(_no_such_path(Path(data)))


def raise_if_strict(images: ImageSet) -> None:
    """Raise DataError if any finding is more than a note; the message counts them by kind."""
    bad = images.problems[images.problems["severity"] == "problem"]
    if len(bad):
        first = bad.iloc[0]
        raise DataError(
            f"{len(bad)} problems in '{images.root}' ({summary(images)}), and --strict was given. "
            f"The first: {first['path']}: {first['problem']} ({first['detail']}). "
            "`tlkit inspect` lists them all."
        )


def summary(images: ImageSet) -> str:
    """The problems counted by kind, notes left out: "3 truncated, 1 cmyk"."""
    kinds = images.problems.loc[images.problems["severity"] == "problem", "problem"]
    return ", ".join(f"{n} {kind}" for kind, n in Counter(kinds).most_common())


def looks_truncated(data: bytes, kind: str) -> bool:
    """True if an image file's end is missing, by the end mark or length its format prescribes."""
    if kind == "jpeg":
        return b"\xff\xd9" not in data[-4096:]
    if kind == "png":
        return b"IEND" not in data[-64:]
    if kind == "gif":
        return not data.rstrip(b"\x00").endswith(b";")
    if kind == "bmp":
        return len(data) < int.from_bytes(data[2:6], "little") or len(data) < 54
    if kind == "webp":
        return len(data) < int.from_bytes(data[4:8], "little") + 8
    return False


def image_format(head: bytes) -> str | None:
    """The supported format that a file's first bytes show: jpeg, png, gif, bmp, webp, or None."""
    for signature, kind in _SIGNATURES:
        if head.startswith(signature):
            return kind
    return "webp" if head[:4] == b"RIFF" and head[8:12] == b"WEBP" else None


# -- finding files ----------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Found:
    path: str  # relative to the root, with forward slashes
    label: str
    part: str = ""
    group: str = ""


def _walk(data: Path, findings: list[dict[str, str]]) -> Iterator[_Found]:
    folders, loose = _children(data, data, "", findings)
    if not folders:
        raise DataError(
            f"No class folders in '{data}'. Expected one folder per class, such as {data}/cat/001.jpg. "
            f"Found {len(loose)} files and 0 folders."
        )
    parts = {f: PART_FOLDERS.get(f.name.lower()) for f in folders}
    in_parts = len(folders) > 1 and all(parts.values()) and all(_has_folder(f) for f in folders)
    if in_parts and "train" not in parts.values():
        raise DataError(f"'{data}' holds {', '.join(f.name for f in folders)} but no train folder. Add train/.")
    for file in loose:
        findings.append(problem(_relative(file, data), "", "outside-class-folder", "not in a class folder"))
    for folder in folders:
        if not in_parts:
            yield from _class_folder(folder, data, "", findings)
            continue
        classes, stray = _children(folder, data, "", findings)
        for file in stray:
            findings.append(problem(_relative(file, data), "", "outside-class-folder", "not in a class folder"))
        for child in classes:
            yield from _class_folder(child, data, parts[folder] or "", findings)


def _class_folder(folder: Path, root: Path, part: str, findings: list[dict[str, str]]) -> Iterator[_Found]:
    found = 0
    waiting: list[tuple[Path, tuple[str, ...]]] = [(folder, (os.path.realpath(folder),))]
    while waiting:
        here, above = waiting.pop()
        children, files = _children(here, root, folder.name, findings)
        for child in children:
            real = os.path.realpath(child)
            if any(real == one or one.startswith(real + os.sep) for one in above):
                detail = f"the link leads back to '{real}'"
                findings.append(problem(_relative(child, root), folder.name, "symlink-loop", detail))
            else:
                waiting.append((child, (*above, real)))
        for file in files:
            found += 1
            yield _Found(_relative(file, root), folder.name, part)
    if not found:
        detail = "the class folder holds no files"
        findings.append(problem(_relative(folder, root), folder.name, "empty-class", detail))


def _children(folder: Path, root: Path, label: str, findings: list[dict[str, str]]) -> tuple[list[Path], list[Path]]:
    """The sub-folders and files of a folder, sorted; system files are named and left out."""
    folders, files = [], []
    try:
        entries = sorted(folder.iterdir())
    except OSError as error:
        findings.append(problem(_relative(folder, root), label, "unreadable", error.strerror or str(error)))
        return [], []
    for entry in entries:
        if entry.name.startswith(".") or entry.name.lower() in SYSTEM_NAMES:
            findings.append(problem(_relative(entry, root), label, "system-file", "written by the system"))
        elif _is_dir(entry):
            folders.append(entry)
        else:
            files.append(entry)
    return folders, files


def _is_dir(path: Path) -> bool:
    try:
        return path.is_dir()
    except OSError:  # a link that leads to itself
        return False


def _has_folder(folder: Path) -> bool:
    return any(_is_dir(child) and not child.name.startswith(".") for child in folder.iterdir())


def _read_csv(file: Path, group_by: str | None, findings: list[dict[str, str]]) -> Iterator[_Found]:
    import pandas as pd

    try:
        with file.open(encoding="utf-8-sig") as stream:
            header = stream.readline()
        separator = max(",;\t", key=header.count)
        table = pd.read_csv(file, sep=separator, dtype=str, keep_default_na=False, encoding="utf-8-sig")
    except (OSError, ValueError) as error:  # pandas' errors are ValueErrors
        raise DataError(f"Cannot read '{file}' as a CSV: {error}. Expected the columns path,label[,split].") from None
    columns = [str(c) for c in table.columns]
    for needed in ("path", "label"):
        if needed not in columns:
            raise DataError(
                f"'{file}' has no column '{needed}'. Expected path,label[,split]; found {', '.join(columns)}."
            )
    if group_by and group_by not in columns:
        raise unknown("column", group_by, columns, see=f"('{file}')")
    group_column = group_by or ("group" if "group" in columns else None)
    seen: dict[str, str] = {}
    for number, row in enumerate(table.to_dict("records"), start=2):
        path, label = row["path"].strip(), row["label"].strip()
        part = _part_of(row["split"], file, number) if "split" in columns else ""
        if not label:
            findings.append(problem(path, "", "no-label", f"row {number} has an empty label"))
        elif path in seen and seen[path] != label:
            raise DataError(
                f"'{path}' has two labels in '{file}': '{seen[path]}' and '{label}' (row {number}). tlkit trains "
                "single-label classifiers only. Give each image one label."
            )
        elif path in seen:
            findings.append(problem(path, label, "repeated-row", f"row {number} repeats an earlier one"))
        else:
            seen[path] = label
            yield _Found(path, label, part, row[group_column].strip() if group_column else "")


def _part_of(value: str, file: Path, number: int) -> str:
    part = PART_FOLDERS.get(value.strip().lower())
    if part is None:
        raise DataError(f"split is '{value}' in row {number} of '{file}'. Expected one of {', '.join(PARTS)}.")
    return part


# -- looking at one file ----------------------------------------------------------------------------------


def _look(root: Path, found: _Found, findings: list[dict[str, str]]) -> dict[str, Any] | None:
    """A table row for one file from its header and hash, or None with the reason in `findings`."""

    def name(kind: str, detail: str) -> None:
        findings.append(problem(found.path, found.label, kind, detail))

    file = root / found.path
    try:
        mode = file.stat().st_mode
        if not stat.S_ISREG(mode):
            name("not-an-image", "not a regular file")
            return None
        with file.open("rb") as stream:
            head = stream.read(512)
            kind = image_format(head)
            if kind is None:
                name(*what_else(head))
                return None
            stream.seek(0)
            digest = hashlib.file_digest(stream, "sha256").hexdigest()
    except FileNotFoundError:
        name("broken-link", "the link leads nowhere") if file.is_symlink() else name("missing-file", "no such file")
        return None
    except OSError as error:
        name("symlink-loop" if file.is_symlink() else "unreadable", error.strerror or str(error))
        return None
    try:
        width, height, notes = _header(file, kind, head)
    except (
        OSError,
        ValueError,
        SyntaxError,
        EOFError,
        KeyError,
        IndexError,
        TypeError,
        OverflowError,
    ) as error:
        data = file.read_bytes()
        name(
            *(
                ("truncated", "the end of the file is missing")
                if looks_truncated(data, kind)
                else ("corrupt", str(error))
            )
        )
        return None
    if kind == "webp" and head[12:16] == b"VP8X" and head[20] & 2:
        name("unsupported-format", "animated WebP is not read; save its first frame")
        return None
    limit = MAX_JPEG_PIXELS if kind == "jpeg" else MAX_PIXELS
    if width * height > limit:
        name("too-large", f"{width} x {height} pixels; at most {limit // 1_000_000} megapixels are decoded")
        return None
    for note, detail in notes:
        name(note, detail)
    return {
        "path": found.path,
        "label": found.label,
        "part": found.part,
        "group": found.group,
        "sha256": digest,
        "format": kind,
        "width": width,
        "height": height,
    }


def _header(file: Path, kind: str, head: bytes) -> tuple[int, int, list[tuple[str, str]]]:
    from PIL import Image

    notes = []
    with _pillow_without_limit(), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        with Image.open(file) as image:
            width, height = image.size
            if image.mode == "CMYK":
                notes.append(("cmyk", "converted to RGB without its colour profile"))
            elif image.mode in ("L", "1", "I;16", "I", "LA"):
                notes.append(("grey", "one channel, repeated to three"))
            if (kind == "png" and head[24] == 16) or image.mode.startswith("I"):
                notes.append(("16-bit", "reduced to 8 bits a channel by dropping the lower byte"))
            if kind in ("png", "webp") and (image.mode in ("RGBA", "LA", "PA") or "transparency" in image.info):
                notes.append(("transparent", "laid over white"))
            if kind == "gif" and getattr(image, "is_animated", False):
                notes.append(("animated", "only the first frame is used"))
            orientation = _orientation(image)
            if orientation > 1 and kind == "jpeg":
                notes.append(("exif-rotated", f"turned upright (orientation {orientation})"))
            elif orientation > 1:
                notes.append(("orientation-ignored", f"orientation {orientation} is honoured in JPEG only"))
    return width, height, notes


def _orientation(image: Any) -> int:
    if "exif" not in image.info:
        return 1
    try:
        value = image.getexif().get(0x0112, 1)
    except Exception:  # Pillow raises many kinds on broken EXIF, and a broken tag turns nothing
        return 1
    return value if isinstance(value, int) and 1 <= value <= 8 else 1


@contextmanager
def _pillow_without_limit() -> Iterator[None]:
    """Pillow refuses large headers by its own limit; ours is judged after the header is read."""
    from PIL import Image

    limit, Image.MAX_IMAGE_PIXELS = Image.MAX_IMAGE_PIXELS, None
    try:
        yield
    finally:
        Image.MAX_IMAGE_PIXELS = limit


def what_else(head: bytes) -> tuple[str, str]:
    """(problem, detail) for the first bytes of a file that is no image of a supported format."""
    if not head:
        return "empty-file", "0 bytes"
    supported = "expected JPEG, PNG, GIF, BMP or WebP"
    for signature, kind in _UNSUPPORTED:
        if head.startswith(signature):
            return "unsupported-format", f"{kind}; {supported}"
    if head[4:8] == b"ftyp":
        return (
            "unsupported-format",
            f"{head[8:12].decode('latin-1').strip().upper()} (HEIC, AVIF or video); {supported}",
        )
    text = head.lstrip(b"\xef\xbb\xbf \t\r\n").lower()
    if b"<svg" in text:
        return "unsupported-format", f"SVG; {supported}"
    if text.startswith((b"<!doctype html", b"<html", b"<head", b"<?xml")):
        return "not-an-image", "it is an HTML or XML page"
    if not any(head):
        return "not-an-image", "it holds zeros"
    return "not-an-image", f"its first bytes are {head[:4].hex(' ')}; {supported}"


def _same_bytes(table: pd.DataFrame) -> tuple[pd.DataFrame, list[dict[str, str]]]:
    """Byte-identical files: under two labels all are left out, under one they are noted."""
    findings, gone = [], []
    for _, same in table[table.duplicated("sha256", keep=False)].groupby("sha256", sort=False):
        labels = sorted(set(same["label"]))
        paths = list(same["path"])
        for index, path, label in zip(same.index, paths, same["label"], strict=True):
            if len(labels) > 1:
                gone.append(index)
                others = ", ".join(f"{p} ({b})" for p, b in zip(paths, same["label"], strict=True) if p != path)
                findings.append(problem(path, label, "two-labels", f"the same bytes as {others}"))
            elif path != paths[0]:
                findings.append(problem(path, label, "duplicate", f"the same bytes as {paths[0]}"))
    return table.drop(index=gone).reset_index(drop=True), findings


# -- splitting --------------------------------------------------------------------------------------------


def split(images: ImageSet, *, validation: float = 0.2, seed: int = 0, strict: bool = False) -> ImageSet:
    """Give every image a part. Parts that the data came with are kept; a missing validation part is drawn from train.

    validation: share of the training images, above 0 to below 1.
    seed: the same seed and files give the same split, whatever the order of the files.

    Stratified: every class is in train and in validation. Byte-identical files and images of one group stay in one
    part. A class that cannot be in both parts is left out and named. Raises DataError if fewer than two classes
    remain, or a given test or validation part holds a class that train lacks.
    """
    if not 0 < validation < 1:
        raise DataError(f"validation is {validation!r}. Expected a share above 0 and below 1, such as 0.2.")
    given = set(images.table["part"]) - {""}
    if given:
        images = _check_given(images)
    if "val" not in given:
        images = _draw_validation(images, validation, seed)
    if len(images.class_names) < 2:
        raise DataError(
            f"{len(images.class_names)} usable class in '{images.root}' ({', '.join(images.class_names) or 'none'}). "
            f"Expected at least two classes with two images each. Problems: {summary(images) or 'none'}."
            + _elsewhere(images)
        )
    if strict:
        raise_if_strict(images)
    return images


def _check_given(images: ImageSet) -> ImageSet:
    table = images.table
    train = set(table.loc[table["part"] == "train", "label"])
    for part in ("val", "test"):
        for label in sorted(set(table.loc[table["part"] == part, "label"]) - train):
            raise DataError(f"Class '{label}' is in {part} but not in train. Add training images of it, or remove it.")
    findings = []
    rank = {"test": 0, "val": 1, "train": 2}
    for _, same in table[table.duplicated("sha256", keep=False)].groupby("sha256", sort=False):
        kept = min(same["part"], key=rank.__getitem__)
        for path, label, part in zip(same["path"], same["label"], same["part"], strict=True):
            if part != kept:
                detail = f"left out of {part}: the same bytes are in {kept}"
                findings.append(problem(path, label, "duplicate-across-parts", detail))
    for group, rows in table[table["group"] != ""].groupby("group", sort=True):
        if rows["part"].nunique() > 1:
            parts = ", ".join(sorted(set(rows["part"])))
            first = rows.iloc[0]
            detail = f"group '{group}' is in {parts}: accuracy will look better than it is"
            findings.append(problem(first["path"], first["label"], "group-across-parts", detail))
    return images.without(findings)


def _draw_validation(images: ImageSet, validation: float, seed: int) -> ImageSet:
    import numpy as np

    pool = images.table[images.table["part"].isin(["", "train"])]
    units = _units(pool)
    findings = []
    spread = pool.assign(unit=units).groupby("label")["unit"].nunique()
    for label in spread.index[spread < 2]:
        rows = images.table[images.table["label"] == label]
        why = "one image" if len(rows) == 1 else "images of one group only, or all alike"
        for path in rows["path"]:
            detail = f"class '{label}' has {why}, so it cannot be in both train and validation"
            findings.append(problem(path, label, "class-too-small", detail))
    images = images.without(findings)
    pool = images.table[images.table["part"].isin(["", "train"])]
    if pool.empty:
        return images
    units = _units(pool)
    labels = pool["label"].to_numpy()
    if (pool.assign(unit=units).groupby("unit")["label"].nunique() > 1).any():
        chosen = _grouped_validation(labels, units, validation, seed)
    else:
        chosen = _stratified_validation(labels, units, validation, np.random.default_rng(seed))
    table = images.table.copy()
    table.loc[pool.index, "part"] = np.where(chosen, "val", "train")
    return dataclasses.replace(images, table=table)


def _units(pool: pd.DataFrame) -> np.ndarray:
    """A number per image; images with the same number (same group, same bytes) must stay together."""
    import numpy as np

    parent = list(range(len(pool)))

    def find(i: int) -> int:
        while parent[i] != i:
            parent[i] = parent[parent[i]]
            i = parent[i]
        return i

    for column in ("sha256", "group"):
        first: dict[str, int] = {}
        for i, value in enumerate(pool[column]):
            if value:
                parent[find(i)] = find(first.setdefault(value, i))
    return np.array([find(i) for i in range(len(pool))], dtype="int64")


def _stratified_validation(labels: np.ndarray, units: np.ndarray, share: float, rng: np.random.Generator) -> np.ndarray:
    """Class by class, whole units at random until the share is reached; at least one and not all of them."""
    import numpy as np

    chosen = np.zeros(len(labels), dtype=bool)
    for label in sorted(set(labels)):
        sizes = Counter(units[labels == label].tolist())
        order = rng.permutation(sorted(sizes)).tolist()
        target = max(1, round(sum(sizes.values()) * share))
        taken: list[int] = []
        count = 0
        for unit in order:
            if count + sizes[unit] <= target and len(taken) < len(sizes) - 1:
                taken.append(unit)
                count += sizes[unit]
        if not taken:  # every group is larger than the share
            taken = [min(order, key=sizes.__getitem__)]
        chosen |= np.isin(units, taken)
    return chosen


def _grouped_validation(labels: np.ndarray, units: np.ndarray, share: float, seed: int) -> np.ndarray:
    """Groups that hold several classes: the best of scikit-learn's stratified group folds over a few shuffles."""
    import numpy as np
    from sklearn.model_selection import StratifiedGroupKFold

    folds = max(2, round(1 / share))
    classes = set(labels)
    best, best_miss = None, np.inf
    for attempt in range(20):
        splitter = StratifiedGroupKFold(folds, shuffle=True, random_state=seed + attempt)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # it warns about classes smaller than the number of folds
            for train, val in splitter.split(labels, labels, units):
                miss = abs(len(val) / len(labels) - share)
                if miss < best_miss and set(labels[val]) == classes == set(labels[train]):
                    best, best_miss = val, miss
    if best is None:
        raise DataError(
            f"No split keeps the {len(set(units.tolist()))} groups whole with every one of the {len(classes)} classes in "
            "train and validation. Use finer groups, or give the split yourself in a CSV column 'split'."
        )
    chosen = np.zeros(len(labels), dtype=bool)
    chosen[best] = True
    return chosen


# -- messages ---------------------------------------------------------------------------------------------


def _relative(path: Path, root: Path) -> str:
    return path.relative_to(root).as_posix()


def _no_such_path(data: Path) -> str:
    from tlkit.errors import nearest

    siblings = [p.name for p in data.parent.iterdir()] if data.parent.is_dir() else []
    close = nearest(data.name, siblings)
    hint = f"Did you mean '{data.parent / close}'?" if close else "Expected a folder of class folders, or a CSV."
    return f"No such file or folder: '{data}'. {hint}"


def _elsewhere(images: ImageSet) -> str:
    """A hint when the data are one step away: a CSV beside the folders, or class folders inside the only folder."""
    tables = sorted(images.root.glob("*.csv"))
    if tables:
        return f" Did you mean '{tables[0]}'?"
    deeper = {path.split("/")[0] for path in images.table["path"] if path.count("/") > 1}
    return f" Did you mean '{images.root / deeper.pop()}'?" if len(deeper) == 1 else ""


def _nothing_found(data: Path, problems: pd.DataFrame) -> str:
    counts = Counter(problems["problem"]).most_common()
    found = ", ".join(f"{n} {kind}" for kind, n in counts) or "no files at all"
    return f"No usable images in '{data}'. Found: {found}. Expected JPEG, PNG, GIF, BMP or WebP files in class folders."
