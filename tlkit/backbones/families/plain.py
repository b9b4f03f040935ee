"""Plain networks, which are convolutions and pools in a row: VGG, and AlexNet as torchvision has it.

- Simonyan and Zisserman 2015, Very Deep Convolutional Networks for Large-Scale Image Recognition, arXiv:1409.1556. Its
  table 1 has the networks A (11 layers), A-LRN (with local response normalisation), B (13), C (16, three of them 1x1),
  D (16) and E (19). D and E are the rows `vgg16` and `vgg19` of `keras.applications`.
- Krizhevsky 2014, One weird trick for parallelizing convolutional neural networks, arXiv:1404.5997: AlexNet in one
  stream, without local response normalisation. The network of 2012 is the row `alexnet`.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any

from tlkit.backbones.backbone import Backbone, Weights, _before
from tlkit.backbones.checkpoint import Checkpoint
from tlkit.backbones.families.layers import (
    batch_norm,
    connected_top,
    convolution,
    local_response_normalisation,
    max_pool,
    relu,
)
from tlkit.backbones.normalise import NormalisedNetwork

_TORCHVISION = "https://download.pytorch.org/models/"
_VGG_TOP = 123_642_856  # parameters of a top with 1,000 classes
_ALEXNET_TOP = 58_631_144

Convolution = int | tuple[int, ...]
Step = Convolution | str


@dataclass(frozen=True)
class Plain:
    """Convolutions, each with a rectifier, and pools, without a top.

    Layers are named by their place, as in torchvision's files: features.0 is a convolution, features.1 its rectifier.

    steps: the number of channels of a 3x3 convolution; (channels, kernel) or (channels, kernel, stride, padding) of
        another; "pool"; or "lrn" for local response normalisation.
    batch_norm: whether BatchNormalization follows each convolution.
    pool: the side of the windows over which maxima are taken, two pixels apart.
    """

    steps: tuple[Step, ...]
    batch_norm: bool = False
    pool: int = 2

    def __call__(self, pixels: Any) -> Any:
        """Return the last feature map. pixels: normalised, a Keras tensor of shape (n, size, size, 3)."""
        x = pixels
        for place, step in self.places():
            if not isinstance(step, str):
                x = self._convolution(x, step, place)
            elif step == "pool":
                x = max_pool(x, self.pool, f"features.{place}")
            else:
                x = local_response_normalisation(x)
        return x

    def _convolution(self, x: Any, step: Convolution, place: int) -> Any:
        channels, kernel, *others = step if isinstance(step, tuple) else (step, 3)
        stride, padding = others or (1, kernel // 2)
        x = convolution(x, channels, kernel, f"features.{place}", stride=stride, padding=padding, bias=True)
        if self.batch_norm:
            place += 1
            x = batch_norm(x, f"features.{place}")
        return relu(x, f"features.{place + 1}")

    def places(self) -> Iterator[tuple[int, Step]]:
        """Yield the place of each step among torchvision's modules, and the step."""
        place = 0
        for step in self.steps:
            yield place, step
            place += 1 if isinstance(step, str) else 3 if self.batch_norm else 2

    def keras_names(self) -> tuple[tuple[str, str], ...]:
        """Return the pairs for `Checkpoint.names` that turn features.0 into block1_conv1, as Keras calls it."""
        names, block, number = [], 1, 0
        for place, step in self.places():
            block, number = (block + 1, 0) if step == "pool" else (block, number + 1)
            if number:
                names.append((rf"^features\.{place}\.", f"block{block}_conv{number}."))
        return tuple(names)


def connected_checkpoint(*numbers: int, names: tuple[tuple[str, str], ...] = ()) -> Checkpoint:
    """Return how files fit a network with fully connected layers. numbers: their places in torchvision's classifier."""
    top = tuple(f"classifier.{number}" for number in numbers)
    timms = zip(
        (r"^pre_logits\.fc1\.", r"^pre_logits\.fc2\.", r"^head\.fc\."), (f"{name}." for name in top), strict=True
    )
    return Checkpoint(top=partial(connected_top, names=top), top_names=top, names=(*names, *timms))


def _vgg(*blocks: tuple[Step, ...], batch_norm: bool = False) -> Plain:
    steps = tuple(step for block in blocks for step in (*block, "pool"))
    return Plain(steps, batch_norm=batch_norm)


# fmt: off
_A = ((64,), (128,), (256, 256), (512, 512), (512, 512))
_A_LRN = ((64, "lrn"), *_A[1:])
_B = ((64, 64), (128, 128), (256, 256), (512, 512), (512, 512))
_C = (*_B[:2], (256, 256, (256, 1)), (512, 512, (512, 1)), (512, 512, (512, 1)))
_D = (*_B[:2], (256,) * 3, (512,) * 3, (512,) * 3)
_E = (*_B[:2], (256,) * 4, (512,) * 4, (512,) * 4)
# fmt: on

VGG16_CHECKPOINT = connected_checkpoint(0, 3, 6, names=_vgg(*_D).keras_names())
VGG19_CHECKPOINT = connected_checkpoint(0, 3, 6, names=_vgg(*_E).keras_names())


def _row(name: str, network: Plain, parameters: int, file: str = "") -> Backbone:
    """Make a row of VGG. file: its default weights among torchvision's."""
    first = [place for place, _ in network.places()]
    after_pools = [
        first[index + 1] for index, step in enumerate(network.steps[:-1]) if step == "pool"
    ]  # the convolutions that follow a pool
    return Backbone(
        name=name,
        builder=NormalisedNetwork("torch", network),
        size=224,
        smallest=32,
        boundaries=_before(*(f"features.{place}" for place in after_pools)),
        parameters=parameters,
        weights=Weights(file, _TORCHVISION + file, None, also=_VGG_TOP) if file else None,
        checkpoint=connected_checkpoint(0, 3, 6),
        licence="BSD-3-Clause" if file else "",
        year=2014,
    )


_ALEXNET = Plain(
    ((64, 11, 4, 2), "pool", (192, 5, 1, 2), "pool", 384, 256, 256, "pool"),
    pool=3,
)

# fmt: off
ROWS = (
    Backbone(
        name="alexnet_owt",
        builder=NormalisedNetwork("torch", _ALEXNET),
        size=224,
        smallest=63,
        boundaries=_before("features.3", "features.6", "features.8", "features.10"),
        parameters=2_469_696,
        weights=Weights("alexnet-owt-7be5be79.pth", _TORCHVISION + "alexnet-owt-7be5be79.pth", None,
                        also=_ALEXNET_TOP),
        checkpoint=connected_checkpoint(1, 4, 6),
        licence="BSD-3-Clause",
        year=2014,
    ),
    _row("vgg11", _vgg(*_A), 9_220_480, "vgg11-8a719046.pth"),
    _row("vgg11_lrn", _vgg(*_A_LRN), 9_220_480),
    _row("vgg11_bn", _vgg(*_A, batch_norm=True), 9_231_488, "vgg11_bn-6002323d.pth"),
    _row("vgg13", _vgg(*_B), 9_404_992, "vgg13-19584684.pth"),
    _row("vgg13_bn", _vgg(*_B, batch_norm=True), 9_416_768, "vgg13_bn-abd245e5.pth"),
    _row("vgg16c", _vgg(*_C), 9_996_096),
    _row("vgg16_bn", _vgg(*_D, batch_norm=True), 14_731_584, "vgg16_bn-6c64b313.pth"),
    _row("vgg19_bn", _vgg(*_E, batch_norm=True), 20_046_400, "vgg19_bn-c79401a0.pth"),
)
# fmt: on
