"""Reads folders: which files of a folder may be images, and why any other entry is left aside.

`tlkit.scan` and `tlkit.predict` walk folders by this module, so that both see the same files.
"""

from __future__ import annotations

import itertools
import os
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from tlkit.data.foreign import foreign_file
from tlkit.data.headers import image_format
from tlkit.data.sources.member import Root, real_path
from tlkit.data.sources.names import BESIDE_IMAGES, is_system
from tlkit.words import text_of

LOOKED_INTO = 200  # files of a hidden folder
Odd = tuple[Root, str, str]  # an entry that is left aside, with the kind and detail of its problem


@dataclass(frozen=True)
class Listing:
    """One folder's entries, sorted by name.

    folders: those to be walked, links among them. files: those that may be images. odd: all others.
    """

    folders: tuple[Root, ...]
    files: tuple[Root, ...]
    odd: tuple[Odd, ...]


MOST_DEEP = 100  # folders in each other, below a class folder


@dataclass
class Tree:
    """Folders that are read once each, however often they are asked for.

    remember: whether listings are kept. `walk` alone asks for each folder once, so that it can do without.
    """

    remember: bool = True
    _listed: dict[Root, Listing] = field(default_factory=dict)
    _bearing: dict[str, bool] = field(default_factory=dict)

    def listing(self, folder: Root) -> Listing:
        """The entries of a folder. A folder that cannot be read has none, and is odd itself."""
        if not self.remember:
            return _list(folder)
        if folder not in self._listed:
            self._listed[folder] = _list(folder)
        return self._listed[folder]

    def holds_images(self, folder: Root, deep: int = 0) -> bool:
        """Whether a folder, or one below it, holds a file that may be an image, or cannot be read."""
        if deep > MOST_DEEP:
            return True  # `walk` names it
        real = real_path(folder)
        if real not in self._bearing:
            self._bearing[real] = False  # a link that leads back here finds nothing new
            here = self.listing(folder)
            unread = any(kind == "unreadable" for _, kind, _ in here.odd)
            self._bearing[real] = (
                unread or bool(here.files) or any(self.holds_images(one, deep + 1) for one in here.folders)
            )
        return self._bearing[real]

    def bearing(self, folder: Root) -> list[Root]:
        """The sub-folders of a folder that hold images."""
        return [one for one in self.listing(folder).folders if self.holds_images(one)]

    def walk(self, folder: Root) -> Iterator[Root | Odd]:
        """Yield every file below a folder that may be an image, and every entry that is left aside.

        Links to folders are followed. One that leads back to a folder that it is in, or to one that was walked before,
        is odd.
        """
        pending: list[tuple[Root, tuple[str, ...]]] = [(folder, (real_path(folder),))]
        walked = {pending[0][1][0]}
        while pending:
            here, above = pending.pop()
            listing = self.listing(here)
            yield from listing.odd
            for child in listing.folders:
                real = real_path(child)
                if real in above:
                    yield child, "symlink-loop", f"the link leads back to '{text_of(real)}'"
                elif real in walked:
                    yield child, "repeated-link", f"it leads to '{text_of(real)}', whose files are used already"
                elif len(above) > MOST_DEEP:
                    yield child, "unreadable", f"more than {MOST_DEEP} folders deep; move its files up"
                else:
                    walked.add(real)
                    pending.append((child, (*above, real)))
            yield from listing.files


def _list(folder: Root) -> Listing:
    folders: list[Root] = []
    files: list[Root] = []
    odd: list[Odd] = []
    beside: Counter[str] = Counter()
    try:
        entries: list[Root] = sorted(folder.iterdir())
    except OSError as error:
        return Listing((), (), ((folder, "unreadable", error.strerror or str(error)),))
    for entry in entries:
        if is_system(entry.name):
            odd.append((entry, "system-file", "written by the operating system or a program"))
        elif _is_dir(entry):
            loop = _leads_up(entry, folder)
            if loop:
                odd.append((entry, "symlink-loop", f"the link leads back to '{text_of(loop)}'"))
            elif not entry.name.startswith("."):
                folders.append(entry)
            elif _hides_images(entry):
                odd.append((entry, "hidden-file", "a folder whose name begins with a dot; rename it to use its images"))
            else:
                odd.append((entry, "system-file", "hidden, because its name begins with a dot, and without images"))
        elif entry.name.startswith(".") and not _is_image(entry):
            odd.append((entry, "system-file", "hidden, because its name begins with a dot, and not an image"))
        elif entry.name.startswith("."):
            odd.append((entry, "hidden-file", "an image whose name begins with a dot; rename it to use it"))
        elif entry.suffix.lower() in BESIDE_IMAGES and not entry.is_symlink() and not _is_image(entry):
            beside[entry.suffix.lower()] += 1
        else:
            files.append(entry)
    if beside:
        counts = ", ".join(f"{count:,} {suffix}" for suffix, count in beside.most_common())
        odd.append((folder, "beside-images", f"files that lie beside images: {counts}"))
    return Listing(tuple(folders), tuple(files), tuple(odd))


def _leads_up(entry: Root, folder: Root) -> str:
    """The folder that a link leads to, if that is the folder which the link is in, or one above it; else ""."""
    if not entry.is_symlink():
        return ""
    real, here = real_path(entry), real_path(folder)
    return real if here == real or here.startswith(real.rstrip(os.sep) + os.sep) else ""


def _is_dir(path: Root) -> bool:
    try:
        return path.is_dir()
    except OSError:  # a link that leads to itself, or a name that is too long
        return False


def _hides_images(folder: Root) -> bool:
    """Whether an image is among the first files of a hidden folder."""
    return any(_is_image(one) for one in itertools.islice(_all_below(folder), LOOKED_INTO))


def _all_below(folder: Root) -> Iterator[Root]:
    """Every file below a folder. Links to folders are not followed."""
    if isinstance(folder, Path):
        yield from (Path(here) / name for here, _, names in os.walk(folder) for name in names)
        return
    for one in folder.iterdir():
        if one.is_dir():
            yield from _all_below(one)
        else:
            yield one


def _is_image(path: Root) -> bool:
    """Whether a file begins as an image does. False for what cannot be read."""
    try:
        if not path.is_file():
            return False
        with path.open("rb") as stream:
            if image_format(stream.read(16)) is not None:
                return True
        other = foreign_file(path)
        return other is not None and not other.remedy  # it is converted, such as TIFF
    except OSError:
        return False
