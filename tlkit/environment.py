"""What tlkit runs on: the installed packages, the devices, and what is known to clash among them.

Asks only this machine. Importing this module starts neither Keras nor TensorFlow; `devices_found` does.
"""

from __future__ import annotations

import importlib.metadata
import os
import platform
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from packaging.requirements import Requirement
from packaging.version import Version

from tlkit.devices import _device, _precision

OPENCV = ("opencv-python", "opencv-python-headless", "opencv-contrib-python", "opencv-contrib-python-headless")
PACKAGES = (  # what tlkit uses, and what is known to clash with it
    *("tensorflow", "tensorflow-cpu", "keras", "tensorflow-hub", "tf-keras", "setuptools", "numpy", "pandas"),
    *("scikit-learn", "scipy", "pillow", "albumentations", *OPENCV, "jax", "torch"),
    *("ai-edge-litert", "openvino", "onnx", "onnxruntime", "tf2onnx", "keras-hub", "huggingface-hub", "pi-heif"),
    *("pyarrow", "ray", "usearch", "nvidia-cudnn-cu12"),
)
NVIDIA = ("/proc/driver/nvidia/version", "/dev/nvidia0", "/dev/nvidiactl")  # there, where Linux drives such a GPU


@dataclass(frozen=True)
class Clash:
    """Something that will stop or slow a run. what: what was found. remedy: what to do."""

    what: str
    remedy: str


def versions_installed(names: Sequence[str] = PACKAGES) -> dict[str, str]:
    """Return the version of each of these packages that is installed."""
    found = {}
    for name in names:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found


def requirements() -> list[str]:
    """Return what tlkit requires, as the metadata of its installed package states it; empty if it is not installed."""
    try:
        return importlib.metadata.requires("tlkit") or []
    except importlib.metadata.PackageNotFoundError:
        return []


def clashes(
    installed: Mapping[str, str], required: Sequence[str] = (), *, gpus: int = 0, gpu_driver: bool = False
) -> list[Clash]:
    """Return what is known to clash.

    Args:
        installed: version by package name.
        required: the requirements of tlkit, as `requirements` returns them. Those of an extra count only where the
            package is installed.
        gpus: how many GPUs TensorFlow sees.
        gpu_driver: whether this machine has the driver of an NVIDIA GPU.

    >>> clashes({"setuptools": "82.0.1", "tensorflow-hub": "0.16.1"})[0].remedy
    'pip install "setuptools<82"'
    """
    found = [*_several_opencv(installed), *_pkg_resources(installed)]
    if gpu_driver and not gpus:
        what = "this machine has an NVIDIA GPU, and TensorFlow finds no GPU library for it, so the CPU computes"
        found.append(Clash(what, 'pip install "tlkit[gpu]"'))
    if "tensorflow" in installed and "tensorflow-cpu" in installed:
        what = "tensorflow and tensorflow-cpu are both installed, and each overwrites the other's files"
        found.append(Clash(what, "pip uninstall tensorflow tensorflow-cpu, then pip install tensorflow"))
    told = {"setuptools"} if _pkg_resources(installed) else set()
    return found + [one for text in required for one in _out_of_range(text, installed, told)]


def _several_opencv(installed: Mapping[str, str]) -> list[Clash]:
    """OpenCV's packages all write the folder `cv2`: the one installed last wins, file by file."""
    several = [name for name in OPENCV if name in installed]
    if len(several) < 2:
        return []
    kept = next(name for name in ("opencv-python-headless", *several) if name in several)
    remedy = f"pip uninstall {' '.join(several)}, then pip install {kept}"
    return [Clash(f"{' and '.join(several)} are all installed, and write the same files", remedy)]


def _pkg_resources(installed: Mapping[str, str]) -> list[Clash]:
    """tensorflow-hub imports pkg_resources, which setuptools 82 no longer has."""
    version = installed.get("setuptools")
    if "tensorflow-hub" not in installed or version is None or Version(version) < Version("82"):
        return []
    what = f"setuptools {version} has no pkg_resources, which tensorflow-hub imports, so hub: backbones fail"
    return [Clash(what, 'pip install "setuptools<82"')]


def _out_of_range(text: str, installed: Mapping[str, str], told: set[str]) -> list[Clash]:
    """A requirement of tlkit that the installed version does not meet. told: packages that need no second word."""
    wanted = Requirement(text)
    name = re.sub(r"[-_.]+", "-", wanted.name).lower()
    version = installed.get(name)
    if version is None or name in told or wanted.specifier.contains(version, prereleases=True):
        return []
    return [Clash(f"{name} {version} is installed, and tlkit needs {wanted.specifier}", f'pip install "{text}"')]


def gpu_driver_found() -> bool:
    """Whether this machine has the driver of an NVIDIA GPU. Only Linux is known, where TensorFlow uses one."""
    return any(Path(file).exists() for file in NVIDIA)


def devices_found() -> dict[str, Any]:
    """Return what Keras and TensorFlow say: the backend, the device, the count of GPUs and what "auto" precision is.

    Starts TensorFlow. A failing import is returned as "error", since this is what is then asked about.
    """
    try:
        import keras
        import tensorflow as tf

        gpus = len(tf.config.list_physical_devices("GPU"))
        return {
            "backend": keras.backend.backend(),
            "device": _device(),
            "gpus": gpus,
            "precision": _precision("auto"),
            "image_data_format": keras.config.image_data_format(),
            "error": None,
        }
    except Exception as error:
        unknown = dict.fromkeys(("backend", "device", "precision", "image_data_format"))
        return {**unknown, "gpus": 0, "error": f"{type(error).__name__}: {error}".splitlines()[0]}


def system_found() -> dict[str, str | int]:
    """Return Python's version and the system's."""
    return {
        "python": platform.python_version(),
        "system": f"{platform.system()} {platform.release()} {platform.machine()}",
        "cores": os.cpu_count() or 1,
    }
