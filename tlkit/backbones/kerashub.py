"""KerasHub's image backbones (the extra `tlkit[kerashub]`), with their own pixel scaling, as flat Keras models.

"kerashub:PRESET" is downloaded by KerasHub into its own cache. "kerashub:FOLDER" is read from a folder that
`save_to_preset` wrote.
"""

from __future__ import annotations

import contextlib
import inspect
import sys
from collections.abc import Iterator
from functools import lru_cache, partial
from pathlib import Path
from typing import Any

from tlkit.backbones.backbone import Backbone
from tlkit.backbones.keras_file import boundaries_of, parameters_below
from tlkit.errors import SpecError, WeightsError, nearest

PREFIX = "kerashub:"
_SIZE = 224  # pixels, for backbones that accept any size


def import_keras_hub() -> Any:
    """Import the package keras_hub. Raises WeightsError if it is not installed."""
    try:
        import keras_hub
    except ImportError as error:
        raise WeightsError(
            f"This backbone needs 'keras-hub', which is not installed ({error}). "
            "Install it with: pip install 'tlkit[kerashub]'."
        ) from None
    return keras_hub


def kerashub_backbone(name: str) -> Backbone:
    """Read a preset as a backbone.

    Raises WeightsError if it cannot be downloaded or read, is not for images, or cannot be saved and loaded again.
    """
    return _backbone(name, _modification_times(name))


@lru_cache(maxsize=8)
def _backbone(name: str, modification_times: tuple[int, ...]) -> Backbone:
    network, converter = _preset(name, load_weights=False)
    fixed = _image_shape(network)[1]
    height, width = converter.image_size or (None, None)
    size = fixed or (int(height) if height and height == width else _SIZE)
    model = _flat_model(name, size, load_weights=False)
    _check_serialization(name, model)
    boundaries, end = _blocks_of(name, model)
    return Backbone(
        name=name,
        builder=partial(_graph, name),
        size=size,
        smallest=fixed or 32,
        boundaries=boundaries,
        parameters=parameters_below(model, end),
        brings_weights=True,
        licence="the publisher's",
        origin="kerashub",
    )


def _check_serialization(name: str, model: Any) -> None:
    """Raise WeightsError, before any training, if the saved model could not be loaded again."""
    import keras

    try:
        settings = model.get_config()
        with kerashub_layers(settings):
            again = keras.Model.from_config(settings)
    except Exception as error:  # layers raise many kinds: DeiT's an AttributeError, Swin's a TypeError (KerasHub 0.32)
        raise WeightsError(
            f"The layers of the KerasHub preset '{name.removeprefix(PREFIX)}' cannot be saved one by one "
            f"({_reason(error)}). Expected a backbone whose layers can be created from their own config, "
            "such as a ResNet, a DenseNet or a ViT."
        ) from error
    shapes = [[tuple(w.shape) for w in one.weights] for one in (model, again)]
    if shapes[0] != shapes[1]:
        raise WeightsError(
            f"The layers of the KerasHub preset '{name.removeprefix(PREFIX)}' come back from their config with other "
            "weights, so a saved model could not be loaded. Expected a backbone such as a ResNet or a ViT."
        )


@contextlib.contextmanager
def kerashub_layers(settings: Any) -> Iterator[None]:
    """A context in which Keras can create KerasHub's layers from a model's config.

    Some of these layers write keys into their config that their constructor does not accept, such as num_patches of
    ViTPatchingAndEmbedding. These keys are left out.
    """
    import keras

    import_keras_hub()
    found: dict[str, Any] = {}

    def collect(value: Any) -> None:
        if isinstance(value, dict):
            module = str(value.get("module", ""))
            kind = getattr(sys.modules.get(module), str(value.get("class_name")), None)
            if module.startswith("keras_hub.") and isinstance(kind, type) and issubclass(kind, keras.Layer):
                found[str(value.get("registered_name") or kind.__name__)] = _ignoring_unknown_keys(kind)
            for inner in value.values():
                collect(inner)
        elif isinstance(value, list | tuple):
            for inner in value:
                collect(inner)

    collect(settings)
    with keras.saving.custom_object_scope(found):
        yield


def _ignoring_unknown_keys(kind: type) -> type:
    """Return a subclass whose `from_config` ignores keys that the constructor does not accept."""
    known = set(inspect.signature(kind.__init__).parameters) | {"name", "dtype", "trainable"}  # type: ignore[misc]

    def from_config(cls: type, settings: dict[str, Any]) -> Any:
        return kind.from_config({key: value for key, value in settings.items() if key in known})  # type: ignore[attr-defined]

    return type(kind.__name__, (kind,), {"from_config": classmethod(from_config)})


def _graph(name: str, size: int) -> tuple[Any, Any]:
    """Return the input tensor, raw RGB 0-255, and the features of the preset with its weights."""
    network, _ = _preset(name, load_weights=False)
    fixed = _image_shape(network)[1]
    if fixed and size != fixed:
        raise SpecError(f"'{name}' takes {fixed} x {fixed} pixels only. Leave `image_size` out, or give {fixed}.")
    model = _flat_model(name, size, load_weights=True)
    return model.input, model.output


def _blocks_of(name: str, model: Any) -> tuple[tuple[str, ...], Any]:
    """Return the boundaries of the flat model's blocks, and its last layer.

    Raises WeightsError if the features do not come from the preset's parameters.
    """
    try:
        boundaries, end, _ = boundaries_of(model, has_top=False)
    except WeightsError as error:
        raise WeightsError(f"The KerasHub preset '{name.removeprefix(PREFIX)}' cannot be used. {error}") from None
    return boundaries, end


def check_preset(name: str) -> None:
    """Raise WeightsError for a folder that is not a preset, without importing Keras.

    The name of a preset is not checked here, but when it is downloaded.
    """
    _folder(name)


def _folder(name: str) -> Path | None:
    """Return the preset's folder, or None for the name of a preset to download."""
    preset = name.removeprefix(PREFIX)
    folder = Path(preset)
    if folder.is_dir():
        if not (folder / "config.json").is_file():
            raise WeightsError(
                f"'{preset}' holds no config.json. Expected a folder that KerasHub's save_to_preset wrote."
            )
        return folder.absolute()
    if "/" in preset and "://" not in preset and folder.parent.is_dir():
        close = nearest(folder.name, [p.name for p in folder.parent.iterdir() if p.is_dir()])
        hint = f"Did you mean '{folder.parent / close}'?" if close else "Expected a folder, or the name of a preset."
        raise WeightsError(f"No such preset folder: '{preset}'. {hint}")
    return None


def _modification_times(name: str) -> tuple[int, ...]:
    folder = _folder(name)
    return tuple(p.stat().st_mtime_ns for p in sorted(folder.iterdir())) if folder else ()


@lru_cache(maxsize=4)
def _read_without_weights(name: str, modification_times: tuple[int, ...]) -> tuple[Any, Any]:
    return _read(name, load_weights=False)


def _preset(name: str, *, load_weights: bool) -> tuple[Any, Any]:
    """Return the preset's backbone and its image converter; without weights, cached while its files do not change."""
    if load_weights:
        return _read(name, load_weights=True)
    return _read_without_weights(name, _modification_times(name))


def _read(name: str, *, load_weights: bool) -> tuple[Any, Any]:
    hub, preset = import_keras_hub(), name.removeprefix(PREFIX)
    location = str(_folder(name) or preset)
    try:
        network = hub.models.Backbone.from_preset(location, load_weights=load_weights)
    except Exception as error:  # kagglehub, huggingface_hub, h5py and Keras raise many kinds
        raise WeightsError(
            f"The KerasHub preset '{preset}' cannot be read ({_reason(error)}). "
            "Expected the name of an image backbone's preset, such as resnet_18_imagenet, "
            "or a folder that save_to_preset wrote. "
            "Without internet access, download it elsewhere and give its folder."
        ) from error
    shape = _image_shape(network)
    if not isinstance(shape, tuple) or len(shape) != 4 or shape[-1] != 3:
        raise WeightsError(
            f"The KerasHub preset '{preset}' is a {type(network).__name__}, which takes {shape}. "
            "Expected a backbone of RGB images, shape (n, height, width, 3)."
        )
    try:
        converter = hub.layers.ImageConverter.from_preset(location)
    except Exception as error:
        raise WeightsError(
            f"The KerasHub preset '{preset}' does not say how its pixels are scaled ({_reason(error)}). "
            "Save its ImageConverter beside it: ImageConverter(...).save_to_preset(FOLDER)."
        ) from error
    return network, converter


def _image_shape(network: Any) -> Any:
    """Return the shape of the only input, which may be in a dict by its name."""
    shape = network.input_shape
    return next(iter(shape.values())) if isinstance(shape, dict) and len(shape) == 1 else shape


def _reason(error: Exception) -> str:
    return next(iter(str(error).strip().splitlines()), type(error).__name__)[:200]


def _flat_model(name: str, size: int, *, load_weights: bool) -> Any:
    """Return the backbone, after its own pixel scaling, as one flat model of this size, which ends at its features.

    The encoders of ViT and DINOv2 are expanded into their blocks.
    """
    import keras

    network, converter = _preset(name, load_weights=load_weights)
    inputs = scaled = keras.Input((size, size, 3), name="image")
    if converter.scale is not None or converter.offset is not None:
        scale = 1.0 if converter.scale is None else converter.scale
        offset = 0.0 if converter.offset is None else converter.offset
        scaled = keras.layers.Rescaling(scale, offset=offset, dtype="float32", name="normalise")(inputs)

    def call(layer: Any, *arguments: Any, **named: Any) -> Any:
        """Call a layer, with the scaled image as its input instead of the raw one.

        An encoder whose blocks need nothing but tokens is called block by block, so that each is a layer of the model.
        """
        arguments, named = keras.tree.map_structure(lambda x: scaled if x is inputs else x, (arguments, named))
        found = _block_by_block(layer, arguments)
        return layer(*arguments, **named) if found is None else found

    base = keras.models.clone_model(
        keras.Model(keras.tree.flatten(network.input)[0], network.output),
        input_tensors=inputs,
        clone_function=lambda layer: layer,  # the layers themselves, with their weights
        call_function=call,
    )
    features = _only_output(name, network, base.output)
    return keras.Model(inputs, _pool_tokens(network, features) if len(features.shape) == 3 else features)


def _block_by_block(layer: Any, arguments: Any) -> Any:
    """Call the blocks of an encoder of ViT or DINOv2 one after another. Returns None, and calls none, for other layers.

    DINOv3's blocks also need position embeddings, which are not of an image, so its encoder stays one layer.
    """
    kind = type(layer).__name__
    if kind == "DINOV2Encoder" and len(arguments) == 1:
        x, stages = arguments[0], {}
        for index, block in enumerate(layer.layers, start=1):
            stages[f"stage{index}"] = x = block(x)
        return x, stages
    blocks = getattr(layer, "encoder_layers", None)
    if blocks is None or not hasattr(layer, "layer_norm") or not hasattr(layer, "dropout"):
        return None
    x = layer.dropout(arguments[0])
    for block in blocks:
        x = block(x)
    return layer.layer_norm(x)


def _only_output(name: str, network: Any, outputs: Any) -> Any:
    """Return the tokens or the map that a network ends in; of several maps, such as HGNetV2's, the coarsest.

    Raises WeightsError if it ends in something else.
    """
    import keras

    found = keras.tree.flatten(outputs)
    if len(found) > 1 and all(len(one.shape) == 4 for one in found):
        found = [min(found, key=lambda one: (one.shape[1] * one.shape[2], -one.shape[3]))]
    if len(found) != 1 or len(found[0].shape) not in (2, 3, 4):
        raise WeightsError(
            f"The KerasHub preset '{name.removeprefix(PREFIX)}' is a {type(network).__name__}, which returns "
            f"{', '.join(str(one.shape) for one in found)}. "
            "Expected a backbone that returns one feature map, maps at several resolutions, tokens or a vector."
        )
    return found[0]


def _pool_tokens(network: Any, tokens: Any) -> Any:
    """Return the class token if there is one, as in ViT (Dosovitskiy et al. 2021, arXiv:2010.11929), else the mean."""
    import keras

    kind = type(network).__name__.lower()
    if getattr(network, "use_class_token", "deit" in kind or "dino" in kind):
        return keras.layers.Flatten(name="class_token")(
            keras.layers.Cropping1D((0, tokens.shape[1] - 1), name="first_token")(tokens)
        )
    return keras.layers.GlobalAveragePooling1D(name="mean_token")(tokens)
