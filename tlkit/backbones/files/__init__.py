"""Public weights files: tensors by name from PyTorch's `.pth`, safetensors and ONNX, without PyTorch.

`read_weights` recognises the format by what a file holds. Nothing in a file is executed, and nothing is written.
"""

from __future__ import annotations

import hashlib
import re
from io import BufferedIOBase
from pathlib import Path

import numpy as np

from tlkit.backbones.files.arrays import Unreadable
from tlkit.backbones.files.onnx import may_be_onnx, read_onnx
from tlkit.backbones.files.pytorch import read_legacy, read_zip
from tlkit.backbones.files.safetensors import is_safetensors, read_safetensors
from tlkit.errors import WeightsError, nearest
from tlkit.words import shown

__all__ = ["read_weights"]

_WRAPPED = "module."  # what torch.nn.DataParallel puts before every name


def read_weights(file: str | Path) -> dict[str, np.ndarray]:
    """Read the tensors of a public weights file by name, in the file's order.

    Reads safetensors; PyTorch's files in the zip layout and in the one before PyTorch 1.6, of a state dict, or of a
    dict with one under `state_dict`, `model_state_dict`, `model` or `state_dict_ema`, the first of these that there is;
    and the initialisers of ONNX files, with numbers in other files of the same folder. The file's name does not matter,
    but where it ends in `-` and eight hexadecimal digits, as torchvision's files do, these must begin its SHA-256.

    Shapes are the file's: PyTorch's kernels are (out, in / groups, height, width). bfloat16 becomes float32, other
    types stay. If all names begin with "module.", this is taken off. Arrays are read-only, and may share memory as the
    tensors in the file do.

    No pickle is executed: a file that names anything but tensors is refused. Takes at most twice the file's size and
    256 MiB of memory.

    Raises WeightsError, which says why, for a file that is missing, damaged, hostile or of another kind; for complex,
    quantized and sparse tensors; and if the digits in the file's name are not those of its SHA-256.

    >>> weights = read_weights("resnet18-f37072fd.pth")  # doctest: +SKIP
    >>> weights["conv1.weight"].shape  # doctest: +SKIP
    (64, 3, 7, 7)
    """
    path = Path(file)
    if not path.is_file():
        siblings = [one.name for one in path.parent.iterdir()] if path.parent.is_dir() else []
        close = nearest(path.name, siblings)
        hint = f"Did you mean '{path.parent / close}'?" if close else "Expected a .safetensors, .pth or .onnx file."
        raise WeightsError(f"No such weights file: '{path}'. {hint}")
    try:
        with path.open("rb") as stream:
            size = stream.seek(0, 2)
            _check_name(stream, path)
            tensors = _read(stream, size, path)
    except Unreadable as error:
        raise WeightsError(f"The weights file '{path}' {error}") from error
    except OSError as error:
        raise WeightsError(f"The weights file '{path}' cannot be read: {error.strerror or error}.") from error
    if all(name.startswith(_WRAPPED) for name in tensors):
        return {name.removeprefix(_WRAPPED): tensor for name, tensor in tensors.items()}
    return tensors


def _read(stream: BufferedIOBase, size: int, path: Path) -> dict[str, np.ndarray]:
    stream.seek(0)
    head = stream.read(512)
    stream.seek(0)
    if head[:4] == b"PK\x03\x04":
        return read_zip(stream, size)
    if is_safetensors(head):
        return read_safetensors(stream, size)
    if head[:1] == b"\x80":
        return read_legacy(stream, size)
    if head[:8] == b"\x89HDF\r\n\x1a\n":
        raise Unreadable("is an HDF5 file, Keras' own format: give it to the backbone that it belongs to.")
    if head[257:262] == b"ustar":
        raise Unreadable("is a tar archive, as PyTorch wrote before 0.1.10, which tlkit does not read.")
    if may_be_onnx(head):
        return read_onnx(stream, size, path.parent)
    start = f"begins with {shown(repr(head[:8]))}" if head else "is empty"
    raise Unreadable(f"{start}, so it is no weights file that tlkit reads: PyTorch's, safetensors or ONNX.")


def _check_name(stream: BufferedIOBase, path: Path) -> None:
    """Compare a file with the digits of its SHA-256 at the end of its name, if there are any."""
    given = re.search(r"-([0-9a-f]{8})$", path.name.partition(".")[0]) or re.search(r"-([0-9a-f]{8})$", path.stem)
    if given is None:
        return
    stream.seek(0)
    actual = hashlib.file_digest(stream, "sha256").hexdigest()
    if not actual.startswith(given[1]):
        raise Unreadable(
            f"is damaged: its name says that its SHA-256 begins with {given[1]}, but it begins with {actual[:8]}. "
            "Get it again, or rename it if these digits mean something else."
        )
