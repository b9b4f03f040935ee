"""Finds images in a folder of class folders, or in train/, val/ and test/ folders of class folders."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

from tlkit.data.images import problem
from tlkit.data.sources.item import SPLIT_FOLDERS, _Found, _relative
from tlkit.errors import DataError
from tlkit.words import counted

SYSTEM_NAMES = {"__macosx", "thumbs.db", "desktop.ini", "@eadir", "$recycle.bin"}


def _walk(data: Path, findings: list[dict[str, str]]) -> Iterator[_Found]:
    """Yield the files of every class folder, sorted by folder, and append the problems to `findings`."""
    folders, loose = _children(data, data, "", findings)
    if not folders:
        raise DataError(
            f"No class folders in '{data}'. Expected one folder per class, such as {data}/cat/001.jpg. "
            f"Found {counted(len(loose), 'file')} and no folders."
        )
    splits = {f: SPLIT_FOLDERS.get(f.name.lower()) for f in folders}
    is_split = len(folders) > 1 and all(splits.values()) and all(_has_folder(f) for f in folders)
    if is_split and "train" not in splits.values():
        raise DataError(f"'{data}' holds {', '.join(f.name for f in folders)} but no train folder. Add train/.")
    for file in loose:
        findings.append(problem(_relative(file, data), "", "outside-class-folder", "not in a class folder"))
    for folder in folders:
        if not is_split:
            yield from _class_folder(folder, data, "", findings)
            continue
        classes, stray = _children(folder, data, "", findings)
        for file in stray:
            findings.append(problem(_relative(file, data), "", "outside-class-folder", "not in a class folder"))
        for child in classes:
            yield from _class_folder(child, data, splits[folder] or "", findings)


def _class_folder(folder: Path, root: Path, split: str, findings: list[dict[str, str]]) -> Iterator[_Found]:
    """Yield the files of a class folder and its sub-folders, following links that do not lead back."""
    found = 0
    pending: list[tuple[Path, tuple[str, ...]]] = [(folder, (os.path.realpath(folder),))]
    while pending:
        here, above = pending.pop()
        children, files = _children(here, root, folder.name, findings)
        for child in children:
            real = os.path.realpath(child)
            if any(real == one or one.startswith(real + os.sep) for one in above):
                detail = f"the link leads back to '{real}'"
                findings.append(problem(_relative(child, root), folder.name, "symlink-loop", detail))
            else:
                pending.append((child, (*above, real)))
        for file in files:
            found += 1
            yield _Found(_relative(file, root), folder.name, split)
    if not found:
        detail = "the class folder holds no files"
        findings.append(problem(_relative(folder, root), folder.name, "empty-class", detail))


def _children(folder: Path, root: Path, label: str, findings: list[dict[str, str]]) -> tuple[list[Path], list[Path]]:
    """The sub-folders and files of a folder, sorted. System files are left out and noted in `findings`."""
    folders, files = [], []
    try:
        entries = sorted(folder.iterdir())
    except OSError as error:
        findings.append(problem(_relative(folder, root), label, "unreadable", error.strerror or str(error)))
        return [], []
    for entry in entries:
        if entry.name.startswith(".") or entry.name.lower() in SYSTEM_NAMES:
            findings.append(problem(_relative(entry, root), label, "system-file", "written by the operating system"))
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
