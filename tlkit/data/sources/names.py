"""What the names of files and folders say: whose they are, which part of the data they are, which class."""

from __future__ import annotations

import re
import unicodedata
from collections import defaultdict
from collections.abc import Iterable

from tlkit.data.sources.item import SPLIT_FOLDERS

SYSTEM_NAMES = {
    "__macosx",
    "__pycache__",
    "thumbs.db",
    "ehthumbs.db",
    "ehthumbs_vista.db",
    "desktop.ini",
    "picasa.ini",
    "icon\r",
    "@eadir",
    "@tmp",
    "#recycle",
    "@recycle",
    "@recently-snapshot",
    "$recycle.bin",
    "system volume information",
    "lost+found",
}
HIDDEN_SYSTEM_NAMES = re.compile(
    r"\._.*|\.(ds_store|ipynb_checkpoints|git|gitignore|gitkeep|gitattributes|svn|hg|keep|thumbnails?|trash.*|cache|idea"
    r"|vscode|fseventsd|spotlight-v100|temporaryitems|documentrevisions-v100|apdisk|directory|picasa.*|nfs.*|dvc.*"
    r"|(tmp|unfinished|old)-[0-9a-f]{8}-.*)",
    re.DOTALL,
)
# Suffixes of what lies beside images: annotations, tables, notes, archives. Such a file is an image only if its first
# bytes say so.
BESIDE_IMAGES = {
    *(
        ".xml",
        ".json",
        ".jsonl",
        ".txt",
        ".csv",
        ".tsv",
        ".yaml",
        ".yml",
        ".toml",
        ".mat",
        ".names",
        ".arff",
        ".geojson",
    ),
    *(".md", ".rst", ".html", ".htm", ".log", ".ini", ".cfg", ".doc", ".docx", ".xls", ".xlsx", ".ods", ".odt", ".rtf"),
    *(".py", ".ipynb", ".m", ".r", ".sh", ".bat", ".js", ".lnk", ".url", ".db", ".sqlite", ".xmp", ".aae", ".thm"),
    *(".zip", ".tar", ".gz", ".tgz", ".bz2", ".xz", ".rar", ".7z", ".md5", ".sha1", ".sha256", ".prototxt", ".pbtxt"),
}
# Names of the only folder in a part whose images have no labels, as Keras' loaders need it.
UNLABELLED = {"unknown", "unlabelled", "unlabeled", "images", "image", "imgs", "img", "all", "data", "dummy", "none"}
_KIND_OF_SET = r"[ _.-]*(set|data|dataset|split|folder|dir|images?|imgs?|pics|photos)?[ _.-]*\d*"
_PART = re.compile(f"({'|'.join(sorted(SPLIT_FOLDERS, key=len, reverse=True))}){_KIND_OF_SET}", re.IGNORECASE)
_WORDS = re.compile(r"[A-Z]?[a-z]+|[A-Z]+")
_BIDI = set("\u200e\u200f\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069")


def is_system(name: str) -> bool:
    """Whether an operating system or a program wrote a file or folder of this name beside the images."""
    low = name.lower()
    return low in SYSTEM_NAMES or bool(HIDDEN_SYSTEM_NAMES.fullmatch(low))


def part_of_name(name: str) -> str | None:
    """The split that a folder of this name holds, if its name says nothing else: None for any other name.

    >>> part_of_name("training_set"), part_of_name("Testing"), part_of_name("val"), part_of_name("train_station")
    ('train', 'test', 'validation', None)
    """
    found = _PART.fullmatch(name.strip())
    return SPLIT_FOLDERS[found[1].lower()] if found else None


def part_in_name(name: str) -> str | None:
    """The only split that a name has as one of its words.

    >>> part_in_name("seg_train"), part_in_name("chestTest"), part_in_name("contest"), part_in_name("train or test")
    ('train', 'test', None, None)
    """
    found = {SPLIT_FOLDERS[word.lower()] for word in _WORDS.findall(name) if word.lower() in SPLIT_FOLDERS}
    return part_of_name(name) or (found.pop() if len(found) == 1 else None)


def without_part(name: str) -> str:
    """A name without the words that name parts.

    >>> without_part("seg_train") == without_part("seg_test")
    True
    """
    return "".join("" if word.lower() in SPLIT_FOLDERS else word.lower() for word in _WORDS.findall(name))


def is_utf8(text: str) -> bool:
    """Whether a path is text. The file system gives bytes that are not UTF-8 as lone surrogates (PEP 383)."""
    return not any("\ud800" <= one <= "\udfff" for one in text)


def alike_labels(labels: Iterable[str]) -> list[tuple[str, str, str]]:
    """The classes whose names differ so little that they may be one: (class, class, what to say) of the first of each.

    >>> [one[0] for one in alike_labels(["Cat", "cat", "1", "1.0", "dog"])]
    ['1', 'Cat']
    """
    found: dict[str, set[str]] = defaultdict(set)
    for label in labels:
        plain = " ".join(unicodedata.normalize("NFKC", label).lower().split())
        found[re.sub(r"^(\d+)\.0+$", r"\1", plain)].add(label)
    said = []
    for names in sorted(sorted(one) for one in found.values() if len(one) > 1):
        if len({name.lower() for name in names}) == 1:
            detail = f"the classes {', '.join(names)} differ in case only"
        else:
            shown = ", ".join(ascii(name) if not name.isprintable() else f"'{name}'" for name in names)
            detail = f"the classes {shown} differ in case, in kinds of spaces and letters, or in .0 only"
        said.append((names[0], names[0], f"{detail}; give their images one label if they are one"))
    return said


def label_of_name(name: str) -> str:
    """The class that a folder's name gives: composed (Unicode NFC), without control characters or spaces around it.

    >>> label_of_name("cafe\\u0301"), label_of_name(" cat\\n1 ")
    ('café', 'cat 1')
    """
    text = unicodedata.normalize("NFC", name)
    text = "".join(" " if unicodedata.category(one) in ("Cc", "Zl", "Zp") or one in _BIDI else one for one in text)
    return text.strip() if text == name else " ".join(text.split())
