"""What a backbone is: how it is built, where its blocks end, where its weights come from and under which licence."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import InitVar, dataclass, field
from pathlib import Path
from typing import Any

from tlkit.errors import SpecError
from tlkit.plan.recipe import Unfreeze
from tlkit.plan.spelling import both_spellings, set_by_alias


@dataclass(frozen=True)
class Weights:
    """Pretrained weights in a file beside the architecture, without the top.

    file: its name. url: where it is downloaded from, "" for a file that comes with tlkit.
    digest: its MD5 or SHA-256 in hexadecimal, None where its publisher gives none.
    number_bytes: bytes of each number in it.
    """

    file: str
    url: str
    digest: str | None
    number_bytes: int = 4

    @property
    def come_with_tlkit(self) -> bool:
        """Whether the file is part of the package."""
        return not self.url


@both_spellings
@dataclass(frozen=True)
class Backbone:
    """A network without its top, pretrained or not.

    name: as on the command line.
    builder: called with an image size, gives the graph (see `build`), such as a `NormalisedNetwork`.
    size: native image size in pixels. smallest: the least it takes.
    boundaries: "after LAYER" or "before LAYER", bottom first; the last block ends at the network's output.
    parameters: numbers without the top.
    weights: its pretrained weights in a file of their own; None where it has none or brings them.
    brings_weights: `build` gives a network that is trained already.
    licence: of the pretrained weights, "" where there are none; `license` is another spelling of it.
    frozen_because: why it cannot be fine-tuned, "" where it can.
    sha256: of its files, where these are copied into a run; else None. note: what else a plan says of it.
    origin: what plan.json calls its source: "table", "keras", "module" or "kerashub". A record: nothing depends on it.
    """

    name: str
    builder: Callable[[int], tuple[Any, Any]] = field(repr=False)
    size: int
    smallest: int
    boundaries: tuple[str, ...]
    parameters: int
    weights: Weights | None = None
    brings_weights: bool = False
    licence: str = ""
    frozen_because: str = ""
    sha256: str | None = None
    note: str = ""
    origin: str = "table"
    license: InitVar[str | None] = None

    def __post_init__(self, license: str | None) -> None:
        set_by_alias(self, {"license": license})

    def build(self, size: int) -> tuple[Any, Any]:
        """The network at an image size: its input, raw RGB 0-255, shape (n, size, size, 3), and its features.

        The features have shape (n, rows, columns, channels) or (n, numbers). Weights are random until they are loaded,
        unless it brings them. Raises SpecError for a size that it cannot take.
        """
        return self.builder(size)

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
            else [Path(where).stem if where.endswith(".keras") else Path(where).name]
        )
        return "-".join(words)

    @property
    def weights_megabytes(self) -> float | None:
        """About the size of the weights' file, in 10^6 bytes; None where there is none."""
        return self.parameters * self.weights.number_bytes / 1e6 if self.weights else None

    def weights_line(self, weights: str) -> str:
        """Says which weights a run starts from that asks for `weights`: "imagenet", "none" or a file."""
        if self.brings_weights:
            return "its own"
        if weights == "imagenet" and self.weights and self.weights.come_with_tlkit:
            return "those that come with tlkit"
        return weights

    def licence_line(self, weights: str) -> str:
        """The licence of the weights a run starts from that asks for `weights`."""
        return self.licence if self.brings_weights or weights == "imagenet" else "your own"

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
