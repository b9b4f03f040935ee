"""A SavedModel as a Keras layer.

`hub.KerasLayer` is not a layer of Keras 3, and a plain layer around a loaded SavedModel does not track its weights.
Here each of the module's variables is wrapped as a `keras.Variable` that shares its storage. So they are frozen,
trained, averaged, saved and exported like any other weights. A `.keras` file holds the weights but not the module's
graph: `tlkit.models.files` keeps the module beside it.
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

from tlkit.backbones.finite import check_array
from tlkit.backbones.operations import check_operations
from tlkit.errors import WeightsError

MODULES = "modules"  # the folder of SavedModels beside a `.keras` file
_modules_folder: contextvars.ContextVar[Path | None] = contextvars.ContextVar("_modules_folder", default=None)


@functools.lru_cache(maxsize=16)
def _digest(folder: str, stamps: tuple[tuple[str, int, int], ...]) -> str:
    whole = hashlib.sha256()
    for name, size, _ in stamps:
        whole.update(f"{name} {size}\n".encode())
        with (Path(folder) / name).open("rb") as stream:
            whole.update(hashlib.file_digest(stream, "sha256").digest())
    return whole.hexdigest()


def module_files(folder: Path) -> list[Path]:
    """Return the files of a SavedModel. Other files in its folder are left out."""
    files = [folder / "saved_model.pb", folder / "tfhub_module.pb"]
    files += [p for inner in ("variables", "assets") for p in (folder / inner).rglob("*")]
    return sorted(p for p in files if p.is_file())


def digest_of(folder: Path) -> str:
    """Compute the SHA-256 of a SavedModel's files and their names."""
    files = module_files(folder)
    stamps = [(p.relative_to(folder).as_posix(), p.stat().st_size, p.stat().st_mtime_ns) for p in files]
    return _digest(str(folder), tuple(stamps))


class Module:
    """A SavedModel read from a folder. Called with images, float32, shape (n, size, size, 3), it returns features.

    size: pixels of each side; None if it accepts any.
    variables: all its variables. trained: the ones that fine-tuning changes.
    losses: its regularisation losses, as functions without arguments.
    knows_training: whether its function takes the argument `training`.
    frozen_because: why it cannot be fine-tuned; "" if it can.

    Raises WeightsError if the folder holds no SavedModel, or if the SavedModel does not map images to features.
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
            self.frozen_because = "it has signatures only, traced for inference, as TF1 modules do"
        concrete = [self._signature] if self._signature else list(getattr(self._function, "concrete_functions", ()))
        self.size = _size_of(concrete, name)
        self.variables = _variables_of(self.loaded, concrete)
        for one in self.variables:
            check_array(one.numpy() if one.dtype.is_floating else (), one.name, f"The weights of '{name}'")
        trained = getattr(self.loaded, "trainable_variables", None)
        chosen = {id(one) for one in (trained if trained is not None else ()) if not self.frozen_because}
        self.trained = [one for one in self.variables if id(one) in chosen]
        if not self.trained and not self.frozen_because:
            self.frozen_because = "it lists no trainable variables"
        self.losses = [] if self.frozen_because else list(getattr(self.loaded, "regularization_losses", None) or ())
        # read from the signature: a trial call with an unknown argument would leave TensorFlow's lock on it taken
        self.knows_training = "training" in inspect.signature(self._function).parameters

    def __call__(self, images: Any, training: bool = False) -> Any:
        if self._signature is not None:
            argument = next(iter(self._signature.structured_input_signature[1]))
            outputs = self._signature(**{argument: images})
        elif self.knows_training:
            outputs = self._function(images, training=training)
        else:
            outputs = self._function(images)
        return self._features_of(outputs)

    def _features_of(self, outputs: Any) -> Any:
        """Return the features of a module with named outputs: "default", "feature_vector", or the only one."""
        if not isinstance(outputs, dict):
            return outputs
        for key in ("default", "feature_vector", *(outputs if len(outputs) == 1 else ())):
            if key in outputs:
                return outputs[key]
        raise WeightsError(
            f"'{self.name}' returns {', '.join(sorted(outputs))}. "
            "Expected one tensor of features, or one that is called 'default'. "
            "Use the module's feature-vector variant, or export it with one output."
        )

    def features_at(self, size: int) -> tuple[int, ...]:
        """Return the shape of one image's features: (features,) or (rows, columns, channels)."""
        try:
            shape = tuple(self(tf.zeros((1, size, size, 3))).shape[1:])
        except (TypeError, ValueError, tf.errors.OpError) as error:
            raise WeightsError(
                f"'{self.name}' does not accept images of {size} x {size} pixels: {_first_line(error)}. "
                "Expected a module of images, float32, shape (n, height, width, 3). Give its size as `image_size`."
            ) from error
        if len(shape) not in (1, 3) or None in shape:
            raise WeightsError(
                f"'{self.name}' returns the shape {shape} for an image. Expected a vector or feature maps. "
                "Use its feature-vector variant."
            )
        return shape


def _load(folder: Path, name: str) -> Any:
    check_operations(folder, name, WeightsError)
    try:
        return tf.saved_model.load(str(folder))
    except ValueError as error:  # perhaps it has no tag of TF2's
        untagged = error
    except Exception as error:  # TensorFlow raises OSError, its own errors and, for damaged files, protobuf's
        raise _unreadable(folder, name, error) from error
    try:
        return tf.saved_model.load(str(folder), tags=[])  # a TF1 module keeps its inference graph without a tag
    except Exception as error:
        raise _unreadable(folder, name, untagged) from error


def _unreadable(folder: Path, name: str, error: Exception) -> WeightsError:
    return WeightsError(
        f"'{name}' does not load as a SavedModel from '{folder}': {_first_line(error)}. Download or export it again."
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
        f"'{name}' cannot be called, and its signatures are {sorted(signatures) or 'none'}. "
        "Expected a reusable SavedModel, or a signature called 'default' or 'serving_default'."
    )


def _size_of(concrete: Sequence[Any], name: str) -> int | None:
    """Return the image size that a module is traced for; None for any. Raises WeightsError if it takes no images."""
    tensors = []
    for one in concrete:
        arguments, named = one.structured_input_signature
        tensors += [a for a in (*arguments, *named.values()) if isinstance(a, tf.TensorSpec)]
    images = [a for a in tensors if a.dtype == tf.float32 and a.shape.rank in (4, None)]
    if tensors and not images:
        raise WeightsError(
            f"'{name}' takes {tensors[0].dtype.name} of shape {tensors[0].shape}. "
            "Expected a module of images, float32, shape (n, height, width, 3). "
            "A classifier that tlkit exported takes files and is not a backbone: "
            "start from its run with `from_run=RUN`."
        )
    sides = {tuple(a.shape[1:3]) for a in images if a.shape.rank == 4}
    fixed = {side for side in sides if None not in side}
    if not fixed or len(sides) > 1:
        return None
    height, width = fixed.pop()
    if height != width:
        raise WeightsError(f"'{name}' takes {height} x {width} pixels. Expected a square input: export it with one.")
    return int(height)


def _variables_of(loaded: Any, concrete: Sequence[Any]) -> list[Any]:
    """Return all variables that a module lists or its functions read, each once."""
    found: dict[int, Any] = {}
    named = [*(getattr(loaded, "variables", None) or ()), *(getattr(loaded, "trainable_variables", None) or ())]
    for one in (*named, *(v for function in concrete for v in function.variables)):
        found.setdefault(id(one), one)
    return list(found.values())


@keras.saving.register_keras_serializable("tlkit")
class SavedModelLayer(keras.layers.Layer):
    """A SavedModel's function as a layer: images, float32, shape (n, size, size, 3), to features.

    handle: the name that the user gave. sha256: the hash of its files, see `digest_of`.
    module: a module that was read already; None to read it from the folder beside the `.keras` file that is being
        loaded, or else from the folder that `handle` names.
    inference_mode: whether its function runs in inference mode during training too, so that BatchNormalization uses its
        stored statistics and dropout is off (see `Stage.batch_norm`). A frozen layer always runs in inference mode.

    Raises WeightsError if the module is missing or its files have changed.
    """

    def __init__(self, handle: str, sha256: str, module: Module | None = None, **settings: Any) -> None:
        super().__init__(**{"dtype": "float32", "name": "module", **settings})
        self.handle, self.sha256, self.inference_mode = handle, sha256, True
        self.module = module or Module(_find_folder(handle, sha256), handle)
        trained = {id(one) for one in self.module.trained}
        self.wrapped = [_wrap(one, id(one) in trained) for one in self.module.variables]
        self.built = True

    def call(self, inputs: Any, training: bool = False) -> Any:
        in_training_mode = bool(training) and self.trainable and not self.inference_mode
        if training and self.trainable:
            for loss in self.module.losses:
                self.add_loss(loss())
        return self.module(inputs, training=in_training_mode)

    def compute_output_shape(self, input_shape: Sequence[int | None]) -> tuple[int | None, ...]:
        return (input_shape[0], *self.module.features_at(int(input_shape[1] or 224)))

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), "handle": self.handle, "sha256": self.sha256}


def _wrap(variable: Any, trained: bool) -> keras.Variable:
    """Wrap a TensorFlow variable as a Keras variable that uses it as its storage."""
    name = variable.name.split(":")[0].replace("/", ".")
    return keras.Variable(variable, trainable=trained, dtype=variable.dtype.name, autocast=False, name=name)


def _find_folder(handle: str, sha256: str) -> Path:
    modules = _modules_folder.get()
    folders = [modules / sha256[:16]] if modules else []
    folders.append(Path(handle.removeprefix("hub:")))
    for folder in folders:
        if (folder / "saved_model.pb").is_file() and digest_of(folder) == sha256:
            return folder
    raise WeightsError(
        f"The module '{handle}' (SHA-256 {sha256[:16]}...) is not at "
        f"{' or '.join(repr(str(folder)) for folder in folders)}, or its files have changed. "
        f"It is stored in the folder '{MODULES}' beside a run's model.keras: keep them together, "
        "and load them with tlkit.load_model."
    )


@contextlib.contextmanager
def modules_in(folder: Path) -> Iterator[None]:
    """A context in which layers that are loaded look for their modules in this folder first."""
    token = _modules_folder.set(folder if folder.is_dir() else None)
    try:
        yield
    finally:
        _modules_folder.reset(token)
