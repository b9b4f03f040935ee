"""Decides which folders are classes, which are parts of the data, and which only wrap others."""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from tlkit.data.sources.member import Root
from tlkit.data.sources.names import UNLABELLED, is_utf8, label_of_name, part_in_name, part_of_name, without_part
from tlkit.data.sources.records import likely_table
from tlkit.data.sources.tree import Tree
from tlkit.errors import DataError
from tlkit.words import counted, shown, text_of

NAMED = 4  # folders that a message names


@dataclass(frozen=True)
class ClassFolder:
    """A folder whose images are of one class. name: that gave the label. split: "" where the folders give none."""

    folder: Root
    name: str
    split: str = ""

    @property
    def label(self) -> str:
        return label_of_name(self.name)


@dataclass(frozen=True)
class Aside:
    """A folder that is no class: the kind and detail of its problem. each: whether its files have it."""

    folder: Root
    kind: str
    detail: str
    each: bool = False


@dataclass(frozen=True)
class Layout:
    """What the folders of a data set are.

    classes: the folders whose images are used.
    aside: the other folders, and those of which something is to be said.
    between: the folders above the classes. Files directly in them are in no class.
    """

    classes: tuple[ClassFolder, ...]
    aside: tuple[Aside, ...]
    between: tuple[Root, ...]


def layout_of(tree: Tree, data: Root) -> Layout:
    """Find the classes of a data set by the names of its folders and by which of them hold images.

    Raises DataError where this cannot be known: no class folders, parts without class folders or without a train part,
    folders that are neither parts nor classes because all have the same sub-folders, or a name that is not UTF-8.
    """
    top, between, aside = _unwrapped(tree, data)
    folders = tree.bearing(top)
    for one in [*between[1:], *folders]:
        _check_name(one)
    empty = [one for one in tree.listing(top).folders if one not in folders]
    if not folders:
        raise DataError(_no_class_folders(tree, top, empty))
    parts = _parts(tree, folders)
    if parts:
        found = _of_parts(tree, parts, [one for one in folders if one not in parts])
    elif _class_first(tree, folders):
        found = _of_classes_with_parts(tree, folders)
    else:
        found = Layout(tuple(ClassFolder(one, one.name) for one in folders), (), ())
    empty_ones = [_empty(tree, one, bool(parts)) for one in empty]
    _check_labels(found.classes)
    return Layout(found.classes, (*aside, *empty_ones, *found.aside), (*between, *found.between))


def _unwrapped(tree: Tree, data: Root) -> tuple[Root, list[Root], list[Aside]]:
    """Go down while a folder holds one folder and no images beside it: the last, those passed, what to say of them."""
    top, between, aside = data, [data], []
    while (inner := _only_folder(tree, top)) is not None:
        aside += [_empty(tree, one, True) for one in tree.listing(top).folders if one != inner]
        top = inner
        between.append(top)
    if top != data:
        aside.append(Aside(top, "wrapper-folder", "the class folders are in this folder"))
    return top, between, aside


def _only_folder(tree: Tree, folder: Root) -> Root | None:
    """The only sub-folder with images, if it has such sub-folders itself, and there are no images beside it."""
    inner = tree.bearing(folder)
    if len(inner) != 1 or tree.listing(folder).files:
        return None
    return inner[0] if tree.bearing(inner[0]) and not tree.listing(inner[0]).files else None


def _parts(tree: Tree, folders: Sequence[Root]) -> dict[Root, str]:
    """The folders that are parts of the data, with their splits. Empty if the folders are classes.

    Raises DataError where they are neither.
    """
    strict = {one: part for one in folders if (part := part_of_name(one.name))}
    loose = {one: part for one in folders if (part := part_in_name(one.name))}
    if len(loose) == len(folders) and len({without_part(one.name) for one in folders}) == 1:
        strict = loose  # as my_train and my_test
    strict = strict or _parts_beside_others(tree, loose)
    several = len(set(strict.values())) > 1
    if not several and len(loose) == len(folders):
        strict = loose if any(tree.bearing(one) for one, part in loose.items() if part == "train") else strict
    train = [one for one, part in strict.items() if part == "train"]
    nested = [one for one in train if tree.bearing(one)]
    if several:
        _check_train(strict, train, nested)
    if nested and len(set(strict.values())) > 1:
        return strict
    alike = _common(tree, folders)
    if len(alike) > 1 and not _class_first(tree, folders):
        raise DataError(
            f"{_quoted(folders)} hold folders of the same names ({_named(sorted(alike))}), so it cannot be told which "
            "are the classes. If the inner folders are, name the outer ones train, validation and test, or give one of "
            "them. Otherwise give a CSV with the columns path and label."
        )
    unlabelled = [one for one in folders if "unlabel" in one.name.lower()]
    if not nested and len(unlabelled) == len(folders) - 1:
        nested = [one for one in folders if one not in unlabelled]  # as labeled and unlabeled
    if len(folders) > 1 and nested and len(tree.bearing(nested[0])) > 1 and not tree.listing(nested[0]).files:
        others = [one.name for one in folders if one not in nested]
        raise DataError(
            f"'{nested[0]}' holds folders, as a part of the data does, but {_named(others)} beside it "
            f"{'is' if len(others) == 1 else 'are'} no part. Give '{nested[0]}' if its folders are the classes. "
            "If it is itself a class, give a CSV with the columns path and label."
        )
    _check_no_part_in_class(loose)
    return {}


def _by_rest(loose: dict[Root, str]) -> list[dict[Root, str]]:
    """The folders whose names differ in nothing but the part, where train and another part are among them."""
    found: dict[tuple[str, ...], dict[Root, str]] = defaultdict(dict)
    for one, part in loose.items():
        found[(without_part(one.name), *re.findall(r"\d+", one.name))][one] = part
    return [same for same in found.values() if "train" in same.values() and len(set(same.values())) > 1]


def _parts_beside_others(tree: Tree, loose: dict[Root, str]) -> dict[Root, str]:
    """The only parts named alike whose train part holds folders, as seg_train and seg_test beside seg_pred."""
    found = [
        same for same in _by_rest(loose) if any(tree.bearing(one) for one, part in same.items() if part == "train")
    ]
    return found[0] if len(found) == 1 else {}


def _check_no_part_in_class(loose: dict[Root, str]) -> None:
    """Raise DataError for folders such as cat_train and cat_test, which would become two classes."""
    found = _by_rest(loose)
    if found:
        one = next(iter(found[0]))
        raise DataError(
            f"The folders {_named([each.name for each in found[0]])} in '{text_of(one.parent)}' differ only in the "
            "name of a part of the data, so they are not two classes. Put the images of each class into a folder of "
            f"the class in each part, such as {text_of(one.parent)}/train/cat and {text_of(one.parent)}/test/cat."
        )


def _check_train(parts: dict[Root, str], train: Sequence[Root], nested: Sequence[Root]) -> None:
    """Raise DataError for several parts of which none is train, or whose train part has no class folders."""
    folders = list(parts)
    if not train:
        raise DataError(
            f"{_quoted(folders)} are parts of the data, and there is no train folder. Add train/ with one folder per "
            "class."
        )
    if not nested:
        likely = likely_table(train[0].parent) or likely_table(train[0])
        table = f" such as '{likely}'" if likely else ""
        raise DataError(
            f"'{text_of(train[0].parent)}' holds part folders ({_named([one.name for one in folders])}), but "
            f"'{train[0].name}' has no class folders. Make one folder per class in each, such as "
            f"{text_of(train[0])}/cat/001.jpg, or give a table{table} with the columns path, label and "
            "split."
        )


def _common(tree: Tree, folders: Sequence[Root]) -> set[str]:
    """The names of sub-folders that all of several folders have, if none of these has images of its own.

    Of folders that are numbered, such as fold1 and fold2, those that any two have.
    """
    if len(folders) < 2 or any(tree.listing(one).files for one in folders):
        return set()
    inner = [{label_of_name(child.name) for child in tree.bearing(one)} for one in folders]
    rest = {re.sub(r"\d+", "", one.name).lower() for one in folders}
    if len(rest) == 1 and re.search(r"[^\W\d_]", rest.pop()):
        return {name for name, count in Counter(name for names in inner for name in names).items() if count > 1}
    return set.intersection(*inner)


def _class_first(tree: Tree, folders: Sequence[Root]) -> bool:
    """Whether each folder holds part folders and nothing else, as in cat/train and cat/test."""
    if len(folders) < 2 or any(tree.listing(one).files for one in folders):
        return False
    parts = [[part_of_name(child.name) for child in tree.bearing(one)] for one in folders]
    found = {part for of_one in parts for part in of_one}
    return None not in found and "train" in found and len(found) > 1


def _of_classes_with_parts(tree: Tree, folders: Sequence[Root]) -> Layout:
    classes = [
        ClassFolder(part, one.name, part_of_name(part.name) or "") for one in folders for part in tree.bearing(one)
    ]
    return Layout(tuple(classes), (), tuple(folders))


def _of_parts(tree: Tree, parts: dict[Root, str], others: Sequence[Root]) -> Layout:
    """The classes of each part. others: folders with images that are no part."""
    classes: list[ClassFolder] = []
    names = ", ".join(shown(one.name) for one in parts)
    aside = [
        Aside(one, "outside-parts", f"images in '{shown(one.name)}', which is none of the parts {names}", each=True)
        for one in others
    ]
    between: list[Root] = []
    known: set[str] = set()
    for part, split in sorted(parts.items(), key=lambda item: (item[1] != "train", item[0])):
        inner = _classes_of_part(tree, part, known)
        if not inner:
            why = f"{shown(part.name)} has no class folders, so its images have no labels"
            aside.append(Aside(part, "unlabelled", why, each=True))
            continue
        between += [part, *{one.parent for one in inner if one.parent != part}]
        for one in inner:
            _check_name(one)
            classes.append(ClassFolder(one, one.name, split))
        aside += [_empty(tree, one, False) for one in tree.listing(inner[0].parent).folders if one not in inner]
        known |= {label_of_name(one.name) for one in inner} if split == "train" else set()
    return Layout(tuple(classes), tuple(aside), tuple(between))


def _classes_of_part(tree: Tree, part: Root, known: Iterable[str]) -> list[Root]:
    """The class folders of a part; none if its images are in no class folder. known: the classes of train."""
    inner = tree.bearing(part)
    while len(inner) == 1 and not tree.listing(part).files and label_of_name(inner[0].name) not in known:
        below = tree.bearing(inner[0])
        if below and not tree.listing(inner[0]).files:
            part, inner = inner[0], below
        elif known and (part_in_name(inner[0].name) or inner[0].name.lower() in UNLABELLED):
            return []
        else:
            break
    return inner


def _empty(tree: Tree, folder: Root, between_parts: bool) -> Aside:
    """What to say of a folder without images."""
    odd = [item for item in tree.walk(folder) if isinstance(item, tuple)]
    beside = [detail for _, kind, detail in odd if kind == "beside-images"]
    if beside:
        return Aside(folder, "beside-images", f"no class, because it holds no images: {beside[0]}")
    if between_parts and part_in_name(folder.name):
        return Aside(folder, "empty-part", "the folder holds no files")
    return Aside(folder, "empty-class", f"class '{label_of_name(folder.name)}': its folder holds no files")


def _no_class_folders(tree: Tree, top: Root, empty: Sequence[Root]) -> str:
    files = len(tree.listing(top).files)
    found = f"{counted(files, 'file')} and " + (
        f"{counted(len(empty), 'folder')} without images ({_named([one.name for one in empty])})"
        if empty
        else "no folders"
    )
    table = likely_table(top)
    hint = f" Did you mean '{table}'?" if table else ""
    return (
        f"No class folders in '{top}'. Expected one folder per class, such as {top}/cat/001.jpg, or a CSV with the "
        f"columns path and label. Found {found}.{hint}"
    )


def _check_name(folder: Root) -> None:
    """Raise DataError for a folder's name that no label and no table can hold."""
    if not is_utf8(folder.name):
        raise DataError(f"The name of the folder '{text_of(folder)}' is not UTF-8. Rename it.")
    if not label_of_name(folder.name):
        raise DataError(f"The name of the folder '{shown(folder)}' has no visible character. Rename it.")


def _check_labels(classes: Sequence[ClassFolder]) -> None:
    """Raise DataError for a class of a held-out part that differs from one of train in case only."""
    train = {one.label for one in classes if one.split in ("", "train")}
    low = {label.lower(): label for label in train}
    for one in classes:
        if one.label not in train and one.label.lower() in low:
            raise DataError(
                f"The folder '{shown(one.folder)}' is the class '{one.label}', but in train it is "
                f"'{low[one.label.lower()]}': the names differ in case only. Rename one of them."
            )


def _quoted(folders: Sequence[Root]) -> str:
    return f"The folders {_named([one.name for one in folders])} in '{text_of(folders[0].parent)}'"


def _named(names: Sequence[str]) -> str:
    more = f" and {len(names) - NAMED:,} more" if len(names) > NAMED else ""
    return ", ".join(shown(one) for one in names[:NAMED]) + more
