"""Devices and their memory: choose GPUs and a precision, halve batches when memory runs out, limit threads."""

from __future__ import annotations

import contextlib
import functools
import os
import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any, TypeVar

from tlkit.errors import SpecError
from tlkit.progress import log
from tlkit.words import counted

T = TypeVar("T")


def while_memory_lasts(work: Callable[[int], T], batch_size: int) -> T:
    """Return `work(batch_size)`. When memory runs out, retry with half the batch size, down to 1, and log it."""
    while True:
        try:
            return work(batch_size)
        except Exception as error:
            if batch_size == 1 or not _out_of_memory(error):
                raise
        batch_size //= 2
        log.info(f"out of memory: going on with batches of {batch_size}")


def _out_of_memory(error: Exception) -> bool:
    """Whether memory ran out: a MemoryError of NumPy, or said in the message (TensorFlow, JAX) or type (PyTorch)."""
    text = f"{type(error).__name__} {error}".lower()
    return isinstance(error, MemoryError) or any(
        sign in text for sign in ("resource_exhausted", "resourceexhausted", "outofmemory", "out of memory")
    )


CGROUPS = (  # a container's limit in bytes, what it uses, and the line of its statistics on what may be dropped
    ("memory.max", "memory.current", "inactive_file"),
    ("memory/memory.limit_in_bytes", "memory/memory.usage_in_bytes", "total_inactive_file"),
)


def available_memory(proc: Path = Path("/proc/meminfo"), cgroup: Path = Path("/sys/fs/cgroup")) -> int:
    """The bytes of memory that may still be taken without swapping, within a container's limit.

    On a system without /proc: half of what the machine has, or 2 GiB where that is not known either.
    """
    try:
        found = 1024 * int(re.search(r"MemAvailable:\s+(\d+)", proc.read_text())[1])  # type: ignore[index]
    except (OSError, TypeError):
        try:
            found = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") // 2
        except (AttributeError, ValueError, OSError):
            found = 2**31
    for limit, used, droppable in CGROUPS:
        with contextlib.suppress(OSError, ValueError):  # no such file, or "max"
            statistics = (cgroup / used).with_name("memory.stat").read_text()
            dropped = re.search(rf"^{droppable} (\d+)", statistics, re.MULTILINE)
            taken = int((cgroup / used).read_text()) - (int(dropped[1]) if dropped else 0)
            found = min(found, max(0, int((cgroup / limit).read_text()) - taken))
    return found


FORMS = "a number, 'cpu', 'gpu' for all GPUs, or 'gpu:0,1' for these"
FRAMEWORKS = {"tensorflow": "TensorFlow", "jax": "JAX"}  # Keras' backends that compute on several devices here
_several: tuple[str, ...] = ()  # the devices of `use_devices`, if they are two or more


def parse_devices(asked: str | int | None) -> tuple[str | None, int | tuple[int, ...] | None]:
    """Return the kind of device that is asked for, and how many or which. None: any kind, and all.

    Raises SpecError for anything but a number, "cpu", "gpu" and "gpu:0,1".

    >>> parse_devices(2), parse_devices("cpu"), parse_devices("gpu:0,1"), parse_devices(None)
    ((None, 2), ('cpu', 1), ('gpu', (0, 1)), (None, None))
    """
    if asked is None:
        return None, None
    name = "" if isinstance(asked, bool) else str(asked).strip().lower()
    if name == "cpu":
        return "cpu", 1
    found = re.fullmatch(r"(?:([1-9]\d*)|gpu(?::(\d+(?:,\d+)*))?)", name)
    numbers = tuple(map(int, found[2].split(","))) if found and found[2] else ()
    if found is None or len(set(numbers)) < len(numbers):
        raise SpecError(f"`devices` is {asked!r}. Expected {FORMS}.")
    return (None, int(found[1])) if found[1] else ("gpu", numbers or None)


@contextlib.contextmanager
def use_devices(asked: str | int | None = None) -> Iterator[tuple[str, ...]]:
    """Train and compute features on these devices, in a `with` statement.

    With two or more, each batch of a training is split over them, and batches of images for frozen layers go to them in
    turn; see `tlkit.models.parallel`. With one, nothing is split.

    Args:
        asked: How many, of the GPUs if there are any, else of the processors that Keras' backend lists; "cpu" for the
            processor although there are GPUs; "gpu" for all GPUs; "gpu:0,1" for these. None: all GPUs, or the processor
            if there are none.

    Yields: The names of the devices if they are two or more, such as ("gpu:0", "gpu:1"); else ().

    Raises:
        SpecError: `asked` is none of these, or there are fewer devices; or more than one, and Keras runs on another
            backend than TensorFlow or JAX.
    """
    names = _chosen(asked)
    with _one_device(names) if asked is not None else contextlib.nullcontext(), using(names) as several:
        yield several


@contextlib.contextmanager
def using(names: tuple[str, ...]) -> Iterator[tuple[str, ...]]:
    """Compute on the devices with these names, as `use_devices` does. They may be of several connected processes."""
    global _several
    before, _several = _several, names if len(names) > 1 else ()
    try:
        yield _several
    finally:
        _several = before


def several_devices() -> tuple[str, ...]:
    """Return the devices of the `use_devices` in effect if they are two or more, else ()."""
    return _several


def several_of_this_process() -> tuple[str, ...]:
    """Return those of `several_devices` that are of this process if they are two or more, else ()."""
    import keras

    if not _several or keras.backend.backend() != "jax":
        return _several
    import jax

    here = {f"{one.platform}:{one.id}" for one in jax.local_devices()}
    found = tuple(one for one in _several if one in here)
    return found if len(found) > 1 else ()


def _chosen(asked: str | int | None) -> tuple[str, ...]:
    """Return the names of the devices that are asked for, as Keras lists them."""
    import keras

    kind, wanted = parse_devices(asked)
    backend = keras.backend.backend()
    if backend not in FRAMEWORKS:
        if kind == "gpu" or wanted not in (None, 1):
            raise SpecError(
                f"`devices` is {asked}, which needs Keras on {' or '.join(FRAMEWORKS.values())}, but it runs on "
                f"{backend}. Leave `devices` out, or set KERAS_BACKEND."
            )
        return ()
    if backend == "tensorflow":
        if wanted is None and kind is None and _gpus() < 2:
            return ()
        _show_gpus(kind, wanted)
    gpus = _listed("gpu")
    if kind == "cpu":
        return _listed("cpu")[:1]
    found = gpus if gpus or kind == "gpu" or wanted is None else _listed("cpu")
    if isinstance(wanted, tuple) and backend == "tensorflow" and len(found) == len(wanted):
        return found  # the others are hidden, and these are numbered anew
    needed = max(wanted) + 1 if isinstance(wanted, tuple) else wanted or (1 if kind else 0)
    if len(found) < needed:
        seen = counted(len(found), "GPU" if gpus or kind else "device") + (f" ({', '.join(found)})" if found else "")
        raise SpecError(
            f"`devices` is {asked}, but {FRAMEWORKS[backend]} sees {seen}. Ask for no more, or leave `devices` out."
        )
    return tuple(found[one] for one in wanted) if isinstance(wanted, tuple) else found[:wanted]


def _listed(kind: str) -> tuple[str, ...]:
    import keras

    try:
        return tuple(keras.distribution.list_devices(kind))
    except RuntimeError:  # JAX has no such backend
        return ()


def _gpus() -> int:
    import tensorflow as tf

    return len(tf.config.list_physical_devices("GPU"))


def _show_gpus(kind: str | None, wanted: int | tuple[int, ...] | None) -> None:
    """Let TensorFlow use no other GPUs, so that it takes no memory of these. Does nothing once it has started."""
    import tensorflow as tf

    gpus = tf.config.list_physical_devices("GPU")
    numbers = range(0) if kind == "cpu" else wanted if isinstance(wanted, tuple) else range(wanted or len(gpus))
    if gpus and all(one < len(gpus) for one in numbers):
        with contextlib.suppress(RuntimeError):
            tf.config.set_visible_devices([gpus[one] for one in numbers], "GPU")
    _use_devices()


@contextlib.contextmanager
def _one_device(names: Sequence[str]) -> Iterator[None]:
    """Compute on the first of these devices what is not split. TensorFlow's are chosen by `_show_gpus`."""
    import keras

    if keras.backend.backend() != "jax" or not names:
        yield
        return
    import jax

    kind, number = names[0].split(":")
    before = jax.config.jax_default_device
    jax.config.update("jax_default_device", next(one for one in jax.devices(kind) if one.id == int(number)))
    try:
        yield
    finally:
        jax.config.update("jax_default_device", before)


def _use_devices() -> None:
    """Let TensorFlow allocate GPU memory as needed, not all at once. Does nothing without a GPU."""
    import tensorflow as tf

    for gpu in tf.config.list_physical_devices("GPU"):
        try:
            tf.config.experimental.set_memory_growth(gpu, True)
        except RuntimeError:
            return  # the script has already started TensorFlow, with its own settings


def _device() -> str:
    """Describe the device that TensorFlow computes on, such as "CPU, 2 cores"."""
    import tensorflow as tf

    gpus = tf.config.list_physical_devices("GPU")
    if not gpus:
        return f"CPU, {os.cpu_count()} cores"
    names = [tf.config.experimental.get_device_details(gpu).get("device_name", "unknown") for gpu in gpus]
    return f"GPU, {', '.join(names)}"


def _precision(asked: str) -> str:
    """Return the Keras dtype policy for a recipe's precision.

    "auto" is float32 on a CPU, and on a GPU what it computes fast: mixed_bfloat16 from compute capability 8.0 on, which
    has the range of float32 and needs no scaling of the loss; mixed_float16 from 7.0 on; else float32.
    """
    if asked != "auto":
        return asked
    return _policy_of(_compute_capabilities())


def _compute_capabilities() -> list[tuple[int, int] | None]:
    """Return the CUDA compute capability of each GPU that Keras' backend uses; None for one that does not tell."""
    import keras

    if keras.backend.backend() == "jax":
        import jax

        told = [getattr(one, "compute_capability", None) for one in jax.local_devices() if one.platform == "gpu"]
        return [_capability(one) for one in told]
    import tensorflow as tf

    details = [tf.config.experimental.get_device_details(one) for one in tf.config.list_physical_devices("GPU")]
    return [one.get("compute_capability") for one in details]


def _capability(text: str | None) -> tuple[int, int] | None:
    """Parse a compute capability as JAX gives it.

    >>> _capability("8.0"), _capability("gfx90a")
    ((8, 0), None)
    """
    found = re.fullmatch(r"(\d+)\.(\d+)", text or "")
    return (int(found[1]), int(found[2])) if found else None


def _policy_of(capabilities: Sequence[tuple[int, int] | None]) -> str:
    """The precision that all GPUs compute fast. capabilities: (major, minor) of each, None where it is unknown.

    >>> _policy_of([]), _policy_of([(7, 5)]), _policy_of([(9, 0), (8, 0)]), _policy_of([(8, 0), (7, 0)])
    ('float32', 'mixed_float16', 'mixed_bfloat16', 'mixed_float16')
    """
    if not capabilities:
        return "float32"
    least = min(one or (7, 0) for one in capabilities)
    return "mixed_bfloat16" if least >= (8, 0) else "mixed_float16" if least >= (7, 0) else "float32"


def one_thread() -> AbstractContextManager[Any]:
    """Limit BLAS to one thread, in a `with` statement: in small products, more threads mostly wait for each other.

    Measured on two cores, 2 threads and 1 thread: 390 rows, 26 classes, all values of C of a logistic head: 13.6 s and
    0.9 s; 10,000 rows of 1,280 features, 10 classes, one value of C: 0.59 s and 0.25 s. Processor time beside other
    work: the QR decomposition of 390 rows of 2,600 features 0.78 and 0.07 s, their singular values 2.6 and 0.18 s.
    """
    return _libraries().limit(limits=1, user_api="blas")


@functools.cache
def _libraries() -> Any:
    from threadpoolctl import ThreadpoolController

    return ThreadpoolController()
