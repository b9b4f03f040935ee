"""The backbones: what each is called, how it is built, where its blocks end, where its weights come from.

`find_backbone` turns a name or a `.keras` file into a `Backbone`. The table is `tlkit.backbones.table`; nothing in it is
registered by import, and Keras is imported only when something is built.
"""

from tlkit.backbones.own import own_backbone
from tlkit.backbones.table import BACKBONES, Backbone
from tlkit.backbones.weights import cached_file, find_weights, load_backbone_weights
from tlkit.errors import unknown

__all__ = ["BACKBONES", "Backbone", "cached_file", "find_backbone", "find_weights", "load_backbone_weights"]


def find_backbone(name: str) -> Backbone:
    """A row of the table by name, or one's own Keras model by its `.keras` file.

    Raises NameUnknown with the nearest name, before any file of the data is read.

    >>> find_backbone("vgg16").size
    224
    """
    if name.endswith(".keras"):
        return own_backbone(name)
    if name not in BACKBONES:
        raise unknown("backbone", name, BACKBONES, see="`tlkit backbones` lists them all.")
    return BACKBONES[name]
