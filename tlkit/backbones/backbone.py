"""The description of a backbone: how it is built, where its blocks end, its weights and their licence."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import InitVar, dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tlkit.backbones.checkpoint import SUFFIXES, Checkpoint
from tlkit.backbones.normalise import NormalisedNetwork
from tlkit.backbones.published import is_handle, parse_handle, read_card
from tlkit.errors import SpecError
from tlkit.plan.recipe import Head, Unfreeze
from tlkit.plan.spelling import both_spellings, set_by_alias
from tlkit.words import counted

if TYPE_CHECKING:
    import numpy as np

    from tlkit.data.examples import Examples


@dataclass(frozen=True)
class Weights:
    """Pretrained weights in a separate file, without the top.

    file: the file's name, or its absolute path if it was learned. url: where it is downloaded from; "" for a file that
        comes with tlkit or was learned.
    digest: the file's MD5 or SHA-256 in hexadecimal; None if its publisher gives none.
    number_bytes: bytes per parameter in the file.
    also: how many parameters the file holds besides the backbone's, such as those of a top.
    learned_from: the images that a run learned them from, in words; "" for weights that were published.
    """

    file: str
    url: str
    digest: str | None
    number_bytes: int = 4
    also: int = 0
    learned_from: str = ""

    @property
    def come_with_tlkit(self) -> bool:
        """Whether the file is part of the package."""
        return not self.url and not self.learned_from


@both_spellings
@dataclass(frozen=True)
class Backbone:
    """A network without its top, pretrained or not.

    name: the name on the command line.
    builder: a callable, such as a `NormalisedNetwork`, that takes an image size and returns the graph (see `build`).
    size: native image size in pixels. smallest: the smallest size it accepts.
    boundaries: "after LAYER" or "before LAYER", bottom first. The last block ends at the network's output.
    parameters: number of parameters without the top.
    weights: its pretrained weights in a separate file; None if it has none, or if `build` loads them.
    checkpoint: how PyTorch weight files fit it; None if it takes none.
    learn: learns its weights from a run's training images, without their labels: a callable that takes the backbone,
        the images and a seed, and returns arrays by the paths of its variables. None for most. See
        `tlkit.backbones.learning`.
    brings_weights: whether `build` returns a network that is already trained.
    year: when the network was first published; 0 if that is not known.
    licence: the licence of the pretrained weights, "" if there are none. `license` is another spelling of it.
    frozen_because: why it cannot be fine-tuned; "" if it can.
    sha256: the hash of its files if they are copied into a run, else None. note: what else the plan shows about it.
    own_head: the head of its paper, which replaces `Head()` when it is trained from random weights; None if that is
        `Head()` itself.
    own_layers: whether it has layers of tlkit's own: Keras then loads its `.keras` file only where tlkit is imported.
    origin: its source in plan.json: "table", "keras", "module" or "kerashub". It is only recorded: no code reads it.
    """

    name: str
    builder: Callable[[int], tuple[Any, Any]] = field(repr=False)
    size: int
    smallest: int
    boundaries: tuple[str, ...]
    parameters: int
    weights: Weights | None = None
    checkpoint: Checkpoint | None = None
    brings_weights: bool = False
    year: int = 0
    licence: str = ""
    frozen_because: str = ""
    sha256: str | None = None
    note: str = ""
    origin: str = "table"
    learn: Callable[[Backbone, Examples, int], dict[str, np.ndarray]] | None = field(default=None, repr=False)
    own_head: Head | None = None
    own_layers: bool = False
    license: InitVar[str | None] = None

    def __post_init__(self, license: str | None) -> None:
        set_by_alias(self, {"license": license})

    def build(self, size: int) -> tuple[Any, Any]:
        """Build the network at an image size. Returns its input and its features.

        The input is raw RGB 0-255, shape (n, size, size, 3). The features have shape (n, rows, columns, channels) or
        (n, features). Weights are random until they are loaded, unless the backbone brings them.

        Raises SpecError for a size that the backbone does not accept.
        """
        return self.builder(size)

    @property
    def pixels(self) -> str:
        """How pixels are normalised, see `NormalisedNetwork`; "" if only the network itself knows."""
        return self.builder.preprocessing if isinstance(self.builder, NormalisedNetwork) else ""

    def with_pixels(self, pixels: str) -> Backbone:
        """Return the same network with another normalisation. pixels: see `NormalisedNetwork`."""
        if not pixels or pixels == self.pixels or not isinstance(self.builder, NormalisedNetwork):
            return self
        return replace(self, builder=NormalisedNetwork(pixels, self.builder.network))

    def taking(self, weights: str) -> Backbone:
        """Return the network with the normalisation, native size and licence that belong to its weights.

        weights: "imagenet", "none", a file, a folder or a name. Only the files of PyTorch's libraries may ask for
        others.

        Raises WeightsError if what the publisher says of weights by name cannot be downloaded.
        """
        if self.checkpoint is None:
            return self
        card = read_card(weights)
        if card is not None:
            taken = self.with_pixels(card.pixels or self.checkpoint.pixels)
            return replace(taken, size=card.size or self.size, licence=card.licence)
        return self.with_pixels(self.checkpoint.pixels) if weights.lower().endswith(SUFFIXES) else self

    @property
    def blocks(self) -> int:
        """The number of blocks."""
        return len(self.boundaries) + 1

    @property
    def blocks_to_unfreeze(self) -> int:
        """The number of blocks that can be fine-tuned: all, or 0 for a backbone that must stay frozen."""
        return 0 if self.frozen_because else self.blocks

    @property
    def short_name(self) -> str:
        """The name used in folder names: a row's name, or the last components of a file or an address."""
        address = self.name.removeprefix("hub:").removeprefix("kerashub:").rstrip("/")
        if "://" in address:
            return "-".join(address.split("/")[-3:])
        return Path(address).stem if address.endswith(".keras") else Path(address).name

    @property
    def weights_megabytes(self) -> float | None:
        """The approximate size of the weights file, in 10^6 bytes; None if there is none."""
        if self.weights is None:
            return None
        return (self.parameters + self.weights.also) * self.weights.number_bytes / 1e6

    def weights_line(self, weights: str) -> str:
        """Describe the weights that a run starts from. weights: as asked for: "imagenet", "none", a file or a name."""
        if self.brings_weights:
            return "its own" if self.parameters else "it has none"
        if weights == "imagenet" and self.weights and self.weights.learned_from:
            return f"learned from {self.weights.learned_from}"
        if weights == "imagenet" and self.weights and self.weights.come_with_tlkit:
            return "those that come with tlkit"
        return parse_handle(weights).short if is_handle(weights) else weights

    def licence_line(self, weights: str) -> str:
        """Return the licence of the weights that a run starts from. weights: as for `weights_line`."""
        if self.learn is not None:
            return "your own"
        if self.brings_weights or weights == "imagenet":
            return self.licence
        card = read_card(weights)
        return (card.licence if card else "") or ("not stated" if is_handle(weights) else "your own")

    def block_count(self, unfreeze: Unfreeze) -> int:
        """Return how many blocks from the top `Stage.unfreeze` reaches down.

        Raises SpecError if there are not that many blocks, or if the backbone must stay frozen.
        """
        if self.frozen_because and unfreeze not in (0, ()):
            raise SpecError(
                f"unfreeze is {unfreeze}, but '{self.name}' cannot be fine-tuned: {self.frozen_because}. "
                "Use a recipe that trains the head alone, such as small_similar, "
                "or a module that is a TF2 reusable SavedModel."
            )
        if isinstance(unfreeze, tuple):
            if max(unfreeze) > self.blocks:
                raise SpecError(
                    f"unfreeze names block {max(unfreeze)}, but {self.name} has {counted(self.blocks, 'block')}."
                )
            return self.blocks - min(unfreeze) + 1
        count = self.blocks if unfreeze == "all" else int(unfreeze)
        if count > self.blocks:
            raise SpecError(
                f"unfreeze is {unfreeze}, but {self.name} has {counted(self.blocks, 'block')}. "
                f"Use at most {self.blocks}, or 'all'."
            )
        return count


def _before(*layers: str) -> tuple[str, ...]:
    return tuple(f"before {layer}" for layer in layers)


def _after(*layers: str) -> tuple[str, ...]:
    return tuple(f"after {layer}" for layer in layers)
