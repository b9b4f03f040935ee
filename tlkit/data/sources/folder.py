"""Finds images in a folder of class folders, or in train/, val/ and test/ folders of class folders."""

from __future__ import annotations

import unicodedata
from collections.abc import Iterable, Iterator

from tlkit.data.images import problem
from tlkit.data.sources.item import _Found, _relative
from tlkit.data.sources.layout import Aside, ClassFolder, Layout, layout_of
from tlkit.data.sources.member import Member, Root
from tlkit.data.sources.names import alike_labels, is_utf8, label_of_name, part_of_name
from tlkit.data.sources.tree import Odd, Tree
from tlkit.words import counted, shown

NOT_UTF_8 = "the file name is not UTF-8; rename it"
Findings = list[dict[str, str]]


def _walk(data: Root, findings: Findings) -> Iterator[_Found]:
    """Yield the files of every class folder, sorted by folder, and append the problems to `findings`."""
    tree = Tree()
    layout = layout_of(tree, data)
    for here in layout.between:
        listing = tree.listing(here)
        for path, kind, detail in listing.odd:
            findings.append(problem(_relative(path, data), "", kind, detail))
        for file in listing.files:
            findings.append(_outside(file, data))
    for one in layout.aside:
        findings.extend(_aside(tree, one, data))
    findings.extend(_names(layout))
    for folder in layout.classes:
        yield from _class_folder(tree, folder, data, findings)


def files_below(folder: Root) -> Iterator[tuple[Root, str]]:
    """Yield each file below a folder that may be an image, as `tlkit.scan` finds them, and why it is left aside, or "".

    System files, and other files that lie beside images, are not named.
    """
    found: Iterable[Root | Odd] = Tree(remember=False).walk(folder)
    if isinstance(folder, Member):
        records = None if folder.inside else folder.members.records()
        found = list(found) if records is None else [folder / row.cells[0] for row in records.rows if not row.fault]
        folder.members.prepare([one.as_posix() for one in found if isinstance(one, Root)])
    for one in found:
        if isinstance(one, Root):
            yield one, ""
        elif one[1] not in ("system-file", "beside-images", "repeated-link"):
            yield one[0], one[2]


def _class_folder(tree: Tree, of: ClassFolder, root: Root, findings: Findings) -> Iterator[_Found]:
    """Yield the files of a class folder and its sub-folders."""
    found = 0
    for item in tree.walk(of.folder):
        if isinstance(item, tuple):
            path, kind, detail = item
            findings.append(problem(_relative(path, root), of.label, kind, detail))
            continue
        found += 1
        relative = _relative(item, root)
        if is_utf8(relative):
            yield _Found(relative, of.label, of.split)
        else:
            findings.append(problem(relative, of.label, "name-not-utf-8", NOT_UTF_8))
    if not found:
        detail = f"class '{of.label}': its folder holds no images"
        findings.append(problem(_relative(of.folder, root), of.label, "empty-class", detail))
    inner = tree.bearing(of.folder)
    if len(inner) > 1 and not tree.listing(of.folder).files:
        names = ", ".join(shown(one.name) for one in inner[:3]) + (", ..." if len(inner) > 3 else "")
        detail = f"all its images are in {counted(len(inner), 'folder')} below ({names}) and count as '{of.label}'"
        findings.append(problem(_relative(of.folder, root), of.label, "sub-folders", detail))


def _outside(file: Root, root: Root) -> dict[str, str]:
    """The problem of an entry beside class folders. A link without a suffix that leads nowhere was a class folder."""
    if file.is_symlink() and not file.exists():
        label = "" if file.suffix else label_of_name(file.name)
        return problem(_relative(file, root), label, "broken-link", "the link leads nowhere")
    return problem(_relative(file, root), "", "outside-class-folder", "not in a class folder")


def _aside(tree: Tree, one: Aside, root: Root) -> Findings:
    """The problems of a folder that is no class."""
    if not one.each:
        label = label_of_name(one.folder.name) if one.kind == "empty-class" else ""
        return [problem(_relative(one.folder, root), label, one.kind, one.detail)]
    found = []
    for item in tree.walk(one.folder):
        path, kind, detail = (item, one.kind, one.detail) if isinstance(item, Root) else item
        found.append(problem(_relative(path, root), "", kind, detail))
    return found


def _names(layout: Layout) -> Findings:
    """The problems of class names: changed for the class, or alike but for case."""
    found = []
    for label, name in sorted({(one.label, one.name) for one in layout.classes}):
        if unicodedata.normalize("NFC", name) != label:
            detail = f"the folder '{shown(name)}' is the class '{label}', without control characters and spaces around"
            found.append(problem(label, label, "class-name", detail))
        elif name != label:
            detail = f"the folder's name is in another Unicode form (decomposed); it is the class '{label}'"
            found.append(problem(label, label, "class-name", detail))
    for one in layout.classes:
        if not one.split and part_of_name(one.name) in ("validation", "test"):
            detail = (
                f"class '{one.label}' is named as a part of the data; if it is one, name the other folders train/CLASS"
            )
            found.append(problem(one.label, one.label, "named-as-part", detail))
    alike = alike_labels({one.label for one in layout.classes})
    return found + [problem(path, label, "alike-names", detail) for path, label, detail in alike]
