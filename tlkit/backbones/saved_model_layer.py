"""A SavedModel as a Keras layer.

`hub.KerasLayer` is no layer of Keras 3, and a plain layer around a loaded SavedModel knows none of its weights. Here each of the module's
variables is wrapped as a `keras.Variable` that shares its storage, so they freeze, train, average, save and export as any others do.
A `.keras` file holds the weights but not the module's graph: `tlkit.models.files` keeps the module beside it.
"""

from __future__ import annotations

import contextlib
import contextvars
import functools
import hashlib
import inspect
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import keras
import tensorflow as tf

from tlkit.errors import WeightsError

MODULES = "modules"  # the folder beside a `.keras` file
_beside: contextvars.ContextVar[Path | None] = contextvars.ContextVar("_beside", default=None)


@functools.lru_cache(maxsize=16)
def _digest(folder: str, stamps: tuple[tuple[str, int, int], ...]) -> str:
    whole = hashlib.sha256()
    for name, size, _ in stamps:
        whole.update(f"{name} {size}\n".encode())
        with (Path(folder) / name).open("rb") as stream:
            whole.update(hashlib.file_digest(stream, "sha256").digest())
    return whole.hexdigest()


def module_files(folder: Path) -> list[Path]:
    """The files of a SavedModel; whatever else lies in its folder is not of it."""
    parts = [folder / "saved_model.pb", folder / "tfhub_module.pb"]
    parts += [p for inner in ("variables", "assets") for p in (folder / inner).rglob("*")]
    return sorted(p for p in parts if p.is_file())


def digest_of(folder: Path) -> str:
    """SHA-256 of a SavedModel's files and their names."""
    files = module_files(folder)
    stamps = [(p.relative_to(folder).as_posix(), p.stat().st_size, p.stat().st_mtime_ns) for p in files]
    return _digest(str(folder), tuple(stamps))


class Module:
    """A SavedModel read from a folder, as a function of pictures.

    function: pictures, float32, shape (n, size, size, 3), to features. size: pixels of each side, None where it takes any.
    variables, trained: its variables, and those of them that fine-tuning moves. losses: functions without arguments, its regularisation.
    knows_training: whether its function takes `training`. frozen_because: why it cannot be fine-tuned, "" where it can.

    Raises WeightsError for a folder that holds no SavedModel, or one that takes no pictures or puts out no features.
    """

    def __init__(self, folder: Path, name: str) -> None:
        self.folder, self.name = folder, name
        self.loaded = _load(folder, name)
        self.frozen_because = ""
        self._signature = None
        if callable(self.loaded):
            self._function = self.loaded.__call__
        elif callable(getattr(self.loaded, "serve", None)):  # as Keras 3 exports models
            self._function = self.loaded.serve
        else:
            self._signature = _only_signature(self.loaded, name)
            self._function = self._signature
            self.frozen_because = "it has signatures only, as TF1 modules do, which were traced for inference"
        concrete = [self._signature] if self._signature else list(getattr(self._function, "concrete_functions", ()))
        self.size = _size_of(concrete, name)
        self.variables = _variables_of(self.loaded, concrete)
        trained = getattr(self.loaded, "trainable_variables", None)
        chosen = {id(one) for one in (trained if trained is not None else ()) if not self.frozen_because}
        self.trained = [one for one in self.variables if id(one) in chosen]
        if not self.trained and not self.frozen_because:
            self.frozen_because = "it names no trainable variables"
        self.losses = [] if self.frozen_because else list(getattr(self.loaded, "regularization_losses", None) or ())
        # asked of its signature: calling a function with an argument that it does not have leaves TensorFlow's lock on it taken
        self.knows_training = "training" in inspect.signature(self._function).parameters

    def __call__(self, pictures: Any, training: bool = False) -> Any:
        if self._signature is not None:
            image = next(iter(self._signature.structured_input_signature[1]))
            answer = self._signature(**{image: pictures})
        elif self.knows_training:
            answer = self._function(pictures, training=training)
        else:
            answer = self._function(pictures)
        return self._chosen(answer)

    def _chosen(self, answer: Any) -> Any:
        """The features, where a module puts out several things: "default", or the only one."""
        if not isinstance(answer, dict):
            return answer
        for key in ("default", "feature_vector", *(answer if len(answer) == 1 else ())):
            if key in answer:
                return answer[key]
        raise WeightsError(
            f"'{self.name}' puts out {', '.join(sorted(answer))}. Expected one tensor of features, or one that is called "
            "'default': take the module's feature-vector variant, or export it with one output."
        )

    def features_at(self, size: int) -> tuple[int, ...]:
        """The shape of one picture's features: (numbers,) or (rows, columns, channels)."""
        try:
            shape = tuple(self(tf.zeros((1, size, size, 3))).shape[1:])
        except (TypeError, ValueError, tf.errors.OpError) as error:
            raise WeightsError(
                f"'{self.name}' does not take pictures of {size} x {size} pixels: {_first_line(error)}. Expected a module of "
                "images, float32, shape (n, height, width, 3); give its size as `image_size`."
            ) from error
        if len(shape) not in (1, 3) or None in shape:
            raise WeightsError(
                f"'{self.name}' puts out {shape} for a picture. Expected a vector or feature maps; take its feature-vector variant."
            )
        return shape


def _load(folder: Path, name: str) -> Any:
    try:
        return tf.saved_model.load(str(folder))
    except ValueError as error:  # perhaps it has no tag of TF2's
        untagged = error
    except Exception as error:  # TensorFlow raises OSError, its own errors and, for damaged files, protobuf's
        raise _unreadable(folder, name, error) from error
    try:
        return tf.saved_model.load(str(folder), tags=[])  # a TF1 module keeps the graph for inference without a tag
    except Exception as error:
        raise _unreadable(folder, name, untagged) from error


def _unreadable(folder: Path, name: str, error: Exception) -> WeightsError:
    return WeightsError(
        f"'{name}' does not load as a SavedModel from '{folder}': {_first_line(error)}. Fetch or export it again."
    )


def _first_line(error: Exception) -> str:
    return next(iter(str(error).strip().splitlines()), type(error).__name__)[:200]


def _only_signature(loaded: Any, name: str) -> Any:
    signatures = dict(getattr(loaded, "signatures", {}))
    for key in ("default", "image_feature_vector", "serving_default"):
        if key in signatures:
            return signatures[key]
    if len(signatures) == 1:
        return next(iter(signatures.values()))
    raise WeightsError(
        f"'{name}' cannot be called and has the signatures {sorted(signatures) or 'none'}. Expected a reusable SavedModel, or a "
        "signature called 'default' or 'serving_default'."
    )


def _size_of(concrete: Sequence[Any], name: str) -> int | None:
    """The side that a module is traced for. Raises WeightsError when it takes no pictures."""
    images = []
    for one in concrete:
        arguments, named = one.structured_input_signature
        images += [a for a in (*arguments, *named.values()) if isinstance(a, tf.TensorSpec)]
    pictures = [a for a in images if a.dtype == tf.float32 and a.shape.rank in (4, None)]
    if images and not pictures:
        raise WeightsError(
            f"'{name}' takes {images[0].dtype.name} of shape {images[0].shape}. Expected a module of images, float32, shape (n, height, width, 3); "
            "a classifier that tlkit exported takes files and is no backbone: start from its run with `from_run=RUN`."
        )
    sides = {tuple(a.shape[1:3]) for a in pictures if a.shape.rank == 4}
    fixed = {side for side in sides if None not in side}
    if not fixed or len(sides) > 1:
        return None
    height, width = fixed.pop()
    if height != width:
        raise WeightsError(f"'{name}' takes {height} x {width} pixels. Expected a square input; export it for one.")
    return int(height)


def _variables_of(loaded: Any, concrete: Sequence[Any]) -> list[Any]:
    """All variables that a module names or its functions read, each once."""
    found: dict[int, Any] = {}
    named = [*(getattr(loaded, "variables", None) or ()), *(getattr(loaded, "trainable_variables", None) or ())]
    for one in (*named, *(v for function in concrete for v in function.variables)):
        found.setdefault(id(one), one)
    return list(found.values())


@keras.saving.register_keras_serializable("tlkit")
class SavedModelLayer(keras.layers.Layer):
    """A SavedModel's function as a layer: pictures, float32, shape (n, size, size, 3), to features.

    module: read already, or None to read it from beside the `.keras` file that is being loaded, or from where `handle` says.
    handle: what the person named it by. sha256: of its files, see `digest_of`.
    hold_still: while it trains, its function is asked as for inference, so that BatchNormalization's statistics stand still and
        nothing is dropped (see `Stage.batch_norm`). Frozen, it always is.

    Raises WeightsError when the module is gone or another.
    """

    def __init__(self, handle: str, sha256: str, module: Module | None = None, **settings: Any) -> None:
        super().__init__(**{"dtype": "float32", "name": "module", **settings})
        self.handle, self.sha256, self.hold_still = handle, sha256, True
        self.module = module or Module(_where(handle, sha256), handle)
        trained = {id(one) for one in self.module.trained}
        self.wrapped = [_wrap(one, id(one) in trained) for one in self.module.variables]
        self.built = True

    def call(self, inputs: Any, training: bool = False) -> Any:
        moving = bool(training) and self.trainable and not self.hold_still
        if training and self.trainable:
            for loss in self.module.losses:
                self.add_loss(loss())
        return self.module(inputs, training=moving)

    def compute_output_shape(self, input_shape: Sequence[int | None]) -> tuple[int | None, ...]:
        return (input_shape[0], *self.module.features_at(int(input_shape[1] or 224)))

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), "handle": self.handle, "sha256": self.sha256}


def _wrap(variable: Any, trained: bool) -> keras.Variable:
    """A Keras variable that is the TensorFlow variable: Keras takes one that it is given as its storage."""
    name = variable.name.split(":")[0].replace("/", ".")
    return keras.Variable(variable, trainable=trained, dtype=variable.dtype.name, autocast=False, name=name)


def _where(handle: str, sha256: str) -> Path:
    beside = _beside.get()
    places = [beside / sha256[:16]] if beside else []
    places.append(Path(handle.removeprefix("hub:")))
    for place in places:
        if (place / "saved_model.pb").is_file() and digest_of(place) == sha256:
            return place
    raise WeightsError(
        f"The module '{handle}' (SHA-256 {sha256[:16]}...) is not at {' or '.join(repr(str(p)) for p in places)}, or is another now. "
        f"It lies in the folder '{MODULES}' beside a run's model.keras: keep them together, and load them with tlkit.load_model."
    )


@contextlib.contextmanager
def modules_in(folder: Path) -> Iterator[None]:
    """Within the block, layers that are read look for their modules in this folder first."""
    token = _beside.set(folder if folder.is_dir() else None)
    try:
        yield
    finally:
        _beside.reset(token)
