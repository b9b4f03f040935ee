"""Small presets of KerasHub's image backbones with random weights, and the features that KerasHub finds with them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import keras
import numpy as np

_TRANSFORMER = {"num_layers": 5, "num_heads": 2, "hidden_dim": 16}
_DINO = {**_TRANSFORMER, "patch_size": 8, "intermediate_dim": 32, "image_shape": (32, 32, 3)}
_VIT = {**_TRANSFORMER, "patch_size": 8, "image_shape": (32, 32, 3)}

# Family -> settings of its backbone. Its class is f"{family}Backbone".
FAMILIES: dict[str, dict[str, Any]] = {
    "CSPNet": {
        "stem_filters": 8,
        "stem_kernel_size": 3,
        "stem_strides": 1,
        "stackwise_depth": [1, 2],
        "stackwise_strides": [2, 2],
        "stackwise_num_filters": [16, 16],
        "block_type": "dark_block",
        "stage_type": "dark",
    },
    "DINOV2": {**_DINO, "position_embedding_shape": (32, 32, 3)},
    "DINOV3": _DINO,
    "DeiT": {**_VIT, "intermediate_dim": 32},
    "DenseNet": {"stackwise_num_repeats": [1, 1, 1], "growth_rate": 8},
    "EfficientNet": {
        "stackwise_width_coefficients": [1.0] * 2,
        "stackwise_depth_coefficients": [1.0] * 2,
        "stackwise_kernel_sizes": [3, 3],
        "stackwise_num_repeats": [1, 1],
        "stackwise_input_filters": [8, 8],
        "stackwise_output_filters": [8, 16],
        "stackwise_expansion_ratios": [1, 4],
        "stackwise_squeeze_and_excite_ratios": [0.25, 0.25],
        "stackwise_strides": [1, 2],
        "stackwise_block_types": ["v1", "v1"],
        "num_features": 1280,
    },
    "HGNetV2": {
        "depths": [1, 1],
        "embedding_size": 8,
        "hidden_sizes": [16, 32],
        "stem_channels": [3, 8, 8],
        "hidden_act": "relu",
        "use_learnable_affine_block": True,
        "stackwise_stage_filters": [(8, 8, 16, 1, 1, 3), (16, 8, 32, 1, 1, 3)],
        "apply_downsample": [False, True],
        "use_lightweight_conv_block": [False, False],
    },
    "MiT": {
        "layerwise_depths": [1, 1],
        "num_layers": 2,
        "layerwise_num_heads": [1, 2],
        "layerwise_sr_ratios": [2, 1],
        "max_drop_path_rate": 0.1,
        "layerwise_patch_sizes": [7, 3],
        "layerwise_strides": [4, 2],
        "hidden_dims": [8, 16],
        "image_shape": (32, 32, 3),
    },
    "MobileNet": {
        "stackwise_expansion": [[16, 24], [32]],
        "stackwise_num_blocks": [2, 1],
        "stackwise_num_filters": [[8, 8], [16]],
        "stackwise_kernel_size": [[3, 3], [5]],
        "stackwise_num_strides": [[2, 1], [2]],
        "stackwise_se_ratio": [[None, None], [0.25]],
        "stackwise_activation": [["relu", "relu"], ["hard_swish"]],
        "stackwise_padding": [[1, 1], [2]],
        "output_num_filters": 32,
        "input_num_filters": 8,
        "depthwise_filters": 8,
        "depthwise_stride": 2,
        "depthwise_residual": False,
        "last_layer_filter": 24,
        "squeeze_and_excite": 0.5,
    },
    "MobileNetV5": {
        "stackwise_block_types": [["er"], ["uir", "uir"]],
        "stackwise_num_blocks": [1, 2],
        "stackwise_num_filters": [[8], [16, 16]],
        "stackwise_strides": [[2], [2, 1]],
        "stackwise_act_layers": [["relu"], ["relu", "relu"]],
        "stackwise_exp_ratios": [[4.0], [6.0, 6.0]],
        "stackwise_se_ratios": [[0.0], [0.0, 0.0]],
        "stackwise_dw_kernel_sizes": [[0], [5, 5]],
        "stackwise_dw_start_kernel_sizes": [[0], [0, 0]],
        "stackwise_dw_end_kernel_sizes": [[0], [0, 0]],
        "stackwise_exp_kernel_sizes": [[3], [0, 0]],
        "stackwise_pw_kernel_sizes": [[1], [0, 0]],
        "stackwise_num_heads": [[0], [0, 0]],
        "stackwise_key_dims": [[0], [0, 0]],
        "stackwise_value_dims": [[0], [0, 0]],
        "stackwise_kv_strides": [[0], [0, 0]],
        "stackwise_use_cpe": [[False], [False, False]],
        "use_msfa": False,
    },
    "ResNet": {
        "input_conv_filters": [64],
        "input_conv_kernel_sizes": [7],
        "stackwise_num_filters": [64, 16],
        "stackwise_num_blocks": [1, 1],
        "stackwise_num_strides": [1, 2],
        "block_type": "basic_block",
    },
    "SwinTransformer": {
        "image_shape": (32, 32, 3),
        "embed_dim": 8,
        "depths": (1, 1),
        "num_heads": (1, 2),
        "window_size": 4,
    },
    "VGG": {"stackwise_num_repeats": [1, 1], "stackwise_num_filters": [8, 16]},
    "ViT": {**_VIT, "mlp_dim": 32, "dropout_rate": 0.1},
    "Xception": {
        "stackwise_conv_filters": [[8, 8], [16, 16]],
        "stackwise_pooling": [True, False],
    },
}


def write_preset(folder: Path, family: str) -> Path:
    """Write a preset of a family, with random weights that no layer can hide, and return its folder."""
    import keras_hub

    keras.utils.set_random_seed(6201)
    network = getattr(keras_hub.models, f"{family}Backbone")(**FAMILIES[family])
    random = np.random.default_rng(6201)
    for weight in network.weights:
        if str(weight.dtype).startswith("float") and weight.path.endswith(("mean", "bias", "gamma", "scale", "beta")):
            weight.assign(weight + random.uniform(-0.2, 0.2, weight.shape))
    network.save_to_preset(str(folder))
    converter = getattr(keras_hub.layers, f"{family}ImageConverter")
    settings = {"scale": [0.017, 0.0175, 0.0174], "offset": [-2.1, -2.0, -1.8]}
    converter(image_size=(32, 32), **settings).save_to_preset(str(folder))
    return folder


def features_of_kerashub(folder: Path, images: np.ndarray) -> np.ndarray:
    """Compute KerasHub's own features: the class token of tokens, or the mean of the coarsest map.

    images: float32, raw RGB 0-255, shape (n, 32, 32, 3). Returns shape (n, features).
    """
    import keras_hub

    network = keras_hub.models.Backbone.from_preset(str(folder))
    scaled = keras_hub.layers.ImageConverter.from_preset(str(folder))(images)
    named = dict.fromkeys(network.input, scaled) if isinstance(network.input, dict) else scaled
    found = network.predict(named, verbose=0)
    if isinstance(found, dict):
        found = min(found.values(), key=lambda one: (one.shape[1] * one.shape[2], -one.shape[3]))
    return found[:, 0] if found.ndim == 3 else found.mean((1, 2))
