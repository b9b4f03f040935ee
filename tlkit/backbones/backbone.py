"""What a backbone is: its name, its size, where its blocks end, where its weights come from and under which licence."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from tlkit.errors import SpecError
from tlkit.plan.recipe import Unfreeze


@dataclass(frozen=True)
class Backbone:
    """A pretrained network without its top.

    name: as on the command line. application: the function in `keras.applications`, "" for nano and one's own file.
    preprocessing: "caffe" (BGR, means subtracted), "tf" (-1 to 1), "torch" (0 to 1, mean and deviation), "efficientnet", "unit"
        (0 to 1), or "included" when the network normalises by itself. The classifier holds it; its input is raw RGB 0-255.
    size: native image size in pixels. smallest: the least it takes.
    boundaries: "after LAYER" or "before LAYER", bottom first; the last block ends at the network's output.
    parameters: numbers without the top. weights_file, weights_url, weights_hash: the ImageNet weights without the top.
    alpha: width of a MobileNet. shipped: the weights come with tlkit.
    source: "table", or what it is read from: "keras" (one's own `.keras` file), "module" (a SavedModel, TF-Hub's or one's own) or
        "kerashub". file: that file, folder or preset, which brings its own weights; "" for a row of the table.
    frozen_because: why it cannot be fine-tuned, "" where it can.
    """

    name: str
    application: str
    preprocessing: str
    size: int
    smallest: int
    boundaries: tuple[str, ...]
    parameters: int
    weights_file: str
    weights_url: str
    weights_hash: str | None
    licence: str
    alpha: float | None = None
    file: str = ""
    shipped: bool = False
    source: str = "table"
    frozen_because: str = ""

    @property
    def blocks(self) -> int:
        """How many blocks there are."""
        return len(self.boundaries) + 1

    @property
    def blocks_to_unfreeze(self) -> int:
        """How many of them may train."""
        return 0 if self.frozen_because else self.blocks

    @property
    def short_name(self) -> str:
        """What a folder is named by: a row's name, or the last words of a file or an address."""
        where = self.name.removeprefix("hub:").removeprefix("kerashub:").rstrip("/")
        words = (
            where.split("/")[-3:]
            if "://" in where
            else [Path(where).stem if self.source == "keras" else Path(where).name]
        )
        return "-".join(words)

    def block_count(self, unfreeze: Unfreeze) -> int:
        """How many blocks from the top `Stage.unfreeze` reaches down. Raises SpecError when there are not that many, or none may train."""
        if self.frozen_because and unfreeze not in (0, ()):
            raise SpecError(
                f"unfreeze is {unfreeze}, and '{self.name}' cannot be fine-tuned: {self.frozen_because}. Use a recipe that trains the "
                "head alone, such as small_similar, or a module that is a TF2 reusable SavedModel."
            )
        if isinstance(unfreeze, tuple):
            if max(unfreeze) > self.blocks:
                raise SpecError(f"unfreeze names block {max(unfreeze)}, and {self.name} has {self.blocks} blocks.")
            return self.blocks - min(unfreeze) + 1
        count = self.blocks if unfreeze == "all" else int(unfreeze)
        if count > self.blocks:
            raise SpecError(
                f"unfreeze is {unfreeze}, and {self.name} has {self.blocks} blocks. Use at most {self.blocks}, or 'all'."
            )
        return count


def _before(*layers: str) -> tuple[str, ...]:
    return tuple(f"before {layer}" for layer in layers)


def _after(*layers: str) -> tuple[str, ...]:
    return tuple(f"after {layer}" for layer in layers)
