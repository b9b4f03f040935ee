"""KerasHub's image backbones (the extra `tlkit[kerashub]`), with the pixels they were trained on and their layers laid flat.

"kerashub:PRESET" is fetched by KerasHub into its own cache; "kerashub:FOLDER" is read from a folder that `save_to_preset` wrote.
"""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path
from typing import Any

from tlkit.backbones.own import boundaries_of, parameters_below
from tlkit.backbones.table import Backbone
from tlkit.errors import SpecError, WeightsError, nearest

PREFIX = "kerashub:"
_SIZE = 224  # of backbones that take any


def needed() -> Any:
    """The package keras_hub. Raises WeightsError when it is not installed."""
    try:
        import keras_hub
    except ImportError as error:
        raise WeightsError(
            f"'keras-hub' is not installed ({error}), which this backbone is from. Install it with: pip install 'tlkit[kerashub]'."
        ) from None
    return keras_hub


def kerashub_backbone(name: str) -> Backbone:
    """A preset as a backbone. Raises WeightsError when it cannot be fetched or read, or is not for images."""
    network, _ = _preset(name, _stamp(name), load_weights=False)
    fixed = network.input_shape[1]
    model = _flat(name, fixed or _SIZE, load_weights=False)
    boundaries, end, _ = boundaries_of(model)
    folder = _folder(name)
    return Backbone(
        name=name,
        application="",
        preprocessing="included",
        size=fixed or _native_size(name) or _SIZE,
        smallest=fixed or 32,
        boundaries=boundaries,
        parameters=parameters_below(model, end),
        weights_file=name.removeprefix(PREFIX),
        weights_url="",
        weights_hash=None,
        licence="the publisher's",
        file=str(folder) if folder else name.removeprefix(PREFIX),
        source="kerashub",
    )


def kerashub_graph(backbone: Backbone, size: int) -> tuple[Any, Any]:
    """The input tensor, raw RGB 0-255, and the preset's features with its weights."""
    network, _ = _preset(backbone.name, _stamp(backbone.name), load_weights=False)
    fixed = network.input_shape[1]
    if fixed and size != fixed:
        raise SpecError(
            f"'{backbone.name}' takes {fixed} x {fixed} pixels only. Leave --image-size out, or give {fixed}."
        )
    model = _flat(backbone.name, size, load_weights=True)
    _, _, features = boundaries_of(model)
    return model.input, features


def check_preset(name: str) -> None:
    """Raise WeightsError for a folder that is no preset, without importing Keras. A preset's name is looked up when it is fetched."""
    _folder(name)


def _folder(name: str) -> Path | None:
    """The preset's folder, or None for the name of one to fetch."""
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


def _stamp(name: str) -> tuple[int, ...]:
    folder = _folder(name)
    return tuple(p.stat().st_mtime_ns for p in sorted(folder.iterdir())) if folder else ()


def _native_size(name: str) -> int | None:
    _, converter = _preset(name, _stamp(name), load_weights=False)
    height, width = converter.image_size or (None, None)
    return int(height) if height and height == width else None


@lru_cache(maxsize=4)
def _described(name: str, stamp: tuple[int, ...]) -> tuple[Any, Any]:
    return _read(name, load_weights=False)


def _preset(name: str, stamp: tuple[int, ...], *, load_weights: bool) -> tuple[Any, Any]:
    return _read(name, load_weights=True) if load_weights else _described(name, stamp)


def _read(name: str, *, load_weights: bool) -> tuple[Any, Any]:
    """The preset's backbone and its image converter."""
    hub, preset = needed(), name.removeprefix(PREFIX)
    where = str(_folder(name) or preset)
    try:
        network = hub.models.Backbone.from_preset(where, load_weights=load_weights)
    except Exception as error:  # kagglehub, huggingface_hub, h5py and Keras raise what they will
        raise WeightsError(
            f"The KerasHub preset '{preset}' cannot be read ({_reason(error)}). Expected the name of an image backbone's preset, such as "
            "resnet_18_imagenet, or a folder that save_to_preset wrote. Without a network, fetch it elsewhere and give its folder."
        ) from error
    shape = network.input_shape
    if not isinstance(shape, tuple) or len(shape) != 4 or shape[-1] != 3:
        raise WeightsError(
            f"The KerasHub preset '{preset}' is a {type(network).__name__}, which takes {shape}. Expected a backbone of RGB images, shape "
            "(n, height, width, 3)."
        )
    try:
        converter = hub.layers.ImageConverter.from_preset(where)
    except Exception as error:
        raise WeightsError(
            f"The KerasHub preset '{preset}' says nothing of how its pixels are scaled ({_reason(error)}). Save its ImageConverter beside it: "
            "ImageConverter(...).save_to_preset(FOLDER)."
        ) from error
    return network, converter


def _reason(error: Exception) -> str:
    return next(iter(str(error).strip().splitlines()), type(error).__name__)[:200]


def _flat(name: str, size: int, *, load_weights: bool) -> Any:
    """The backbone behind its own scaling of pixels as one flat model of this size; encoders of tokens are opened into their blocks."""
    import keras

    network, converter = _preset(name, _stamp(name), load_weights=load_weights)
    inputs = x = keras.Input((size, size, 3), name="image")
    if converter.scale is not None or converter.offset is not None:
        scale = 1.0 if converter.scale is None else converter.scale
        offset = 0.0 if converter.offset is None else converter.offset
        x = keras.layers.Rescaling(scale, offset=offset, dtype="float32", name="normalise")(x)
    base = keras.models.clone_model(
        keras.Model(network.inputs, network.outputs),
        input_tensors=x,
        clone_function=lambda layer: layer,  # the layers themselves, with their weights
        call_function=_call_opened,
    )
    features = base.outputs[0]
    if len(features.shape) == 3:
        features = _of_tokens(network, features)
    return keras.Model(inputs, features)


def _call_opened(layer: Any, *arguments: Any, **named: Any) -> Any:
    """A layer's outputs; a ViT encoder is called block by block, so that each block is a layer of the model."""
    inner = getattr(layer, "encoder_layers", None)
    if inner is None or not hasattr(layer, "layer_norm") or not hasattr(layer, "dropout"):
        return layer(*arguments, **named)
    x = layer.dropout(arguments[0])
    for block in inner:
        x = block(x)
    return layer.layer_norm(x)


def _of_tokens(network: Any, tokens: Any) -> Any:
    """The class token where there is one, as ViT's classifier takes it (Dosovitskiy et al. 2021, arXiv:2010.11929), else the mean."""
    import keras

    first = getattr(
        network, "use_class_token", "deit" in type(network).__name__.lower() or "dino" in type(network).__name__.lower()
    )
    if first:
        return keras.layers.Flatten(name="class_token")(
            keras.layers.Cropping1D((0, tokens.shape[1] - 1), name="first_token")(tokens)
        )
    return keras.layers.GlobalAveragePooling1D(name="mean_token")(tokens)
