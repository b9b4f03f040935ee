"""How the weights that PyTorch's libraries publish fit a network built here: names, layouts, and which are left over.

A network's layers are named as the modules in the public files: the layer "layer1.0.conv1" has the tensor
"layer1.0.conv1.weight".
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from tlkit.errors import WeightsError
from tlkit.words import counted

if TYPE_CHECKING:
    import keras

SUFFIXES = (".pth", ".pt", ".bin", ".safetensors", ".onnx", ".tar")

_KINDS = {  # the name of a Keras variable -> the last part of a tensor's name
    "kernel": "weight",
    "gamma": "weight",
    "bias": "bias",
    "beta": "bias",
    "moving_mean": "running_mean",
    "moving_variance": "running_var",
}
_COUNTER = "num_batches_tracked"  # of a BatchNormalization of PyTorch; Keras has none


@dataclass(frozen=True)
class Checkpoint:
    """How a row of the table takes PyTorch weight files.

    top: a callable that takes the features and a number of classes, and returns logits, shape (n, classes).
    top_names: the names of the top's layers.
    names: pairs of a regular expression and its replacement. Applied in this order, they turn the name of a tensor in a
        file into "LAYER.weight", "LAYER.bias", "LAYER.running_mean" or "LAYER.running_var".
    auxiliary: beginnings of the names of tensors that only training uses, such as a second classifier's.
    pixels: how the images were normalised on which the files were trained, see `NormalisedNetwork`. The config.json of
        weights by name takes precedence.
    architectures: the names of the network in torchvision and timm, beside the row's own name and the one in the name
        of the row's own file.
    """

    top: Callable[..., Any]
    top_names: tuple[str, ...]
    names: tuple[tuple[str, str], ...] = ()
    auxiliary: tuple[str, ...] = ()
    pixels: str = "torch"
    architectures: tuple[str, ...] = ()

    def layer_name(self, tensor: str) -> str:
        """Return "LAYER.weight" and so on for the name of a tensor in a file."""
        for pattern, replacement in self.names:
            tensor = re.sub(pattern, replacement, tensor)
        return tensor

    def assign(self, model: keras.Model, tensors: Mapping[str, np.ndarray]) -> tuple[str, ...]:
        """Copy a file's tensors into a network, with or without its top. Each is used exactly once.

        tensors: by name, in PyTorch's layouts: kernels are (out, in / groups, rows, columns).

        Returns the names of the tensors that were left out: counters of BatchNormalization, auxiliary classifiers, and
        the top's if the network has none. Nothing is changed if the tensors do not fit.

        Raises WeightsError that names what is missing, left over, or of another shape.
        """
        ours = dict(_variables(model))
        theirs, left_out, unknown = {}, [], []
        for name in tensors:
            target = self.layer_name(name)
            if target in ours and target not in theirs:
                theirs[target] = name
            elif self._may_be_left_out(name, target, ours):
                left_out.append(name)
            else:
                unknown.append(name)
        missing = [name for name in ours if name not in theirs]
        if missing or unknown:
            raise WeightsError(_misfit(missing, unknown))
        values = [(ours[target], _in_layout(ours[target], tensors[name], name)) for target, name in theirs.items()]
        for variable, value in values:
            variable.assign(value)
        return tuple(left_out)

    def _may_be_left_out(self, name: str, target: str, ours: Mapping[str, Any]) -> bool:
        if name.rsplit(".", 1)[-1] == _COUNTER or name.startswith(self.auxiliary or ("\0",)):
            return True
        layer = target.rsplit(".", 1)[0]
        return layer in self.top_names and not any(one.rsplit(".", 1)[0] == layer for one in ours)

    def classes(self, tensors: Mapping[str, np.ndarray]) -> int | None:
        """Return the number of classes of the top in a file; None if it has no top."""
        found = [array.shape[0] for name, array in tensors.items() if self._is_top_kernel(name)]
        return int(found[-1]) if found else None

    def _is_top_kernel(self, name: str) -> bool:
        return self.layer_name(name) == f"{self.top_names[-1]}.weight"


def _variables(model: keras.Model) -> list[tuple[str, Any]]:
    """Return a model's variables by the names that PyTorch's files would have: "LAYER.weight" and so on."""
    found = []
    for layer in model.layers:
        for variable in layer.weights:
            if variable.name in _KINDS:
                found.append((f"{layer.name}.{_KINDS[variable.name]}", variable))
    return found


def _in_layout(variable: Any, array: np.ndarray, name: str) -> np.ndarray:
    """Return a tensor in the layout of a Keras variable.

    A dense layer's matrix and a convolution's kernel may stand for each other: the convolution of a whole feature map
    is a dense layer on the flattened map, and a convolution of 1 x 1 is a dense layer at each position.

    Raises WeightsError for another shape.
    """
    shape = tuple(variable.shape)
    if len(shape) == 4:
        rows, columns, inputs, outputs = shape
        wanted: tuple[int, ...] = (outputs, inputs, rows, columns)
        fits = array.shape == wanted or array.shape == (outputs, inputs * rows * columns)
        laid_out = array.reshape(wanted).transpose(2, 3, 1, 0) if fits else array
    elif len(shape) == 2:
        wanted = shape[::-1]
        fits = array.shape in (wanted, (*wanted, 1, 1))
        laid_out = array.reshape(wanted).T if fits else array
    else:
        wanted, fits, laid_out = shape, array.shape == shape, array
    if not fits:
        raise WeightsError(f"The tensor '{name}' has the shape {array.shape}. Expected {wanted}.")
    if not np.isfinite(laid_out).all():
        raise WeightsError(f"The tensor '{name}' holds numbers that are not finite. Expected trained weights.")
    return laid_out


def _misfit(missing: list[str], unknown: list[str]) -> str:
    parts = []
    for names, what in ((missing, "missing"), (unknown, "left over")):
        if names:
            listed = ", ".join(names[:4]) + (f" and {len(names) - 4} more" if len(names) > 4 else "")
            parts.append(f"{counted(len(names), 'tensor')} {'is' if len(names) == 1 else 'are'} {what}: {listed}")
    return "; ".join(parts) + "."
