"""The names by which the columns of a table are known."""

from __future__ import annotations

import re

# what a column holds -> its names, the likeliest first; capitals, spaces, "_", "-" and "." do not count
COLUMNS: dict[str, tuple[str, ...]] = {
    "path": (
        *("path", "paths", "filepath", "filepaths", "filename", "filenames", "file", "files", "fname"),
        *("imagepath", "imagepaths", "imgpath", "imagefile", "imagefilename", "imagename", "imgname"),
        *("image", "images", "img", "photo", "picture", "imageid", "idcode", "id"),
    ),
    "label": (
        *("label", "labels", "labelname", "class", "classes", "classname", "category", "categories", "categoryname"),
        *("target", "labelid", "classid", "categoryid"),
    ),
    "split": ("split", "splits", "set", "subset", "dataset", "datasplit", "partition", "part"),
    "group": ("group",),
}


def plain(name: str) -> str:
    """A column's name without what does not count.

    >>> plain("File Name"), plain("file_name")
    ('filename', 'filename')
    """
    return re.sub(r"[\s_.\-]+", "", name).lower()
