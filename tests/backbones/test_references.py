"""Networks against what PyTorch's libraries compute for them, on weights made by a rule; and counts by hand.

benchmarks/references.py compares all thirty, read from files. These are the smallest, with the figures as literals:
PyTorch 1.13 with torchvision 0.14, timm 0.9.16 and pretrainedmodels 0.7.4, in float32; SE-ResNet-50 in float64, since
float32 runs of it differ from one another by 1 % on such weights.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

import keras
import numpy as np
import pytest

from tests.reference_rule import pixels, value
from tests.tiny import predicted
from tlkit.backbones import BACKBONES
from tlkit.backbones.checkpoint import _variables
from tlkit.backbones.families.layers import local_response_normalisation, max_pool, mean_pool
from tlkit.backbones.normalise import NormalisedNetwork

# the row: (trainable parameters with 1,000 classes, first eight logits, mean, deviation, class) of the first image
FIGURES = {
    "resnet18": (
        11_689_512,
        [-12.21466, 37.24003, -128.4325, 15.99313, 9.436322, -148.6031, -63.77808, -58.43088],
        -1.415212,
        86.69345,
        910,
    ),
    "googlenet_bn": (
        6_624_904,
        [-4.239658, -4.639633, 1.512028, -15.66756, 19.39137, -2.923281, -10.40836, -10.22461],
        0.1106952,
        10.12283,
        217,
    ),
    "bn_inception": (
        11_295_240,
        [3.134273, -0.5895399, 12.42355, 7.710701, -11.37272, 6.157874, 2.54903, -10.84149],
        -0.08780389,
        8.987623,
        154,
    ),
    "densenet121": (
        7_978_856,
        [1.140434, 1.980755, -0.6760088, 0.2995664, -3.485831, -1.652869, 2.01206, 1.577133],
        0.007239102,
        3.415804,
        128,
    ),
    "alexnet_owt": (
        61_100_840,
        [0.02481034, -1.103092, -2.939028, 2.386966, 5.492582, 4.622177, -0.6028374, -7.286606],
        -0.1746097,
        5.082309,
        293,
    ),
    "seresnet50": (
        28_088_024,
        [-80.2269043, -515.289131, 778.297122, -139.199281, -14.7360236, -474.675398, -250.653395, 184.040833],
        8.65868545,
        494.852643,
        460,
    ),
}
IN_FLOAT64 = {"seresnet50"}

FROM_KERAS = (  # names of Keras' DenseNets into torchvision's, in this order
    (r"^conv1_conv\.", "features.conv0."),
    (r"^conv1_bn\.", "features.norm0."),
    (r"^bn\.", "features.norm5."),
    *((rf"^conv{b + 1}_block(\d+)_", rf"features.denseblock{b}.denselayer\1.") for b in (1, 2, 3, 4)),
    *((rf"^pool{b + 1}_(conv)\.", rf"features.transition{b}.\1.") for b in (1, 2, 3)),
    *((rf"^pool{b + 1}_bn\.", f"features.transition{b}.norm.") for b in (1, 2, 3)),
    (r"(denselayer\d+)\.0_bn\.", r"\1.norm1."),
    (r"(denselayer\d+)\.1_conv\.", r"\1.conv1."),
    (r"(denselayer\d+)\.1_bn\.", r"\1.norm2."),
    (r"(denselayer\d+)\.2_conv\.", r"\1.conv2."),
)


@pytest.fixture
def precision(request: pytest.FixtureRequest) -> Iterator[str]:
    """The type of numbers of the network, float64 if the test asks for it."""
    keras.backend.clear_session()
    keras.config.set_floatx(request.param)
    keras.config.set_dtype_policy(request.param)
    yield request.param
    keras.config.set_floatx("float32")
    keras.config.set_dtype_policy("float32")
    keras.backend.clear_session()


def public_state(name: str, model: keras.Model) -> dict[str, np.ndarray]:
    """What the library's state dict holds: PyTorch's names and layouts, and values by the rule."""
    shapes = {}
    for target, variable in _variables(model):
        if name.startswith("densenet"):
            for pattern, replacement in FROM_KERAS:
                target = re.sub(pattern, replacement, target)
        shape = tuple(variable.shape)
        shape = (shape[3], shape[2], *shape[:2]) if len(shape) == 4 else shape[::-1]
        if target.startswith("classifier.") and len(shape) == 4:  # in the files, a matrix
            shape = (shape[0], int(np.prod(shape[1:])))
        shapes[target] = shape
    return {target: value(target, shape) for target, shape in shapes.items()}


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "precision"),
    [(name, "float64" if name in IN_FLOAT64 else "float32") for name in FIGURES],
    indirect=["precision"],
)
def test_a_network_computes_what_pytorch_computes(name: str, precision: str) -> None:
    backbone, (parameters, first, mean, deviation, best) = BACKBONES[name], FIGURES[name]
    inputs, features = backbone.with_pixels("included").build(backbone.size)
    model = keras.Model(inputs, backbone.checkpoint.top(features, 1000))
    assert keras.Model(inputs, features).count_params() == backbone.parameters
    assert sum(int(np.prod(one.shape)) for one in model.trainable_variables) == parameters
    assert backbone.checkpoint.assign(model, public_state(name, model)) == ()
    logits = predicted(model, pixels(backbone.size)[:1].transpose(0, 2, 3, 1).astype(precision))[0]
    bar = (1e-8 if name in IN_FLOAT64 else 1e-4) * deviation
    assert np.abs(logits[:8] - first).max() < bar
    assert abs(logits.mean() - mean) < bar and abs(logits.std() - deviation) < bar and logits.argmax() == best


@pytest.mark.parametrize(
    ("row", "tensor", "ours"),
    [
        ("vgg16", "features.17.bias", "block4_conv1.bias"),
        ("vgg19", "features.34.weight", "block5_conv4.weight"),
        ("vgg11", "head.fc.weight", "classifier.6.weight"),  # timm's name
        ("vgg16", "pre_logits.fc1.bias", "classifier.0.bias"),
        (
            "densenet121",
            "features.denseblock2.denselayer10.norm.1.running_var",
            "conv3_block10_0_bn.running_var",
        ),  # old
        ("densenet121", "features.denseblock2.denselayer10.conv2.weight", "conv3_block10_2_conv.weight"),
        ("densenet201", "features.transition3.norm.bias", "pool4_bn.bias"),
        (
            "densenet161",
            "features.denseblock4.denselayer2.conv.2.weight",
            "features.denseblock4.denselayer2.conv2.weight",
        ),
        ("seresnet50", "layer1.0.se_module.fc1.weight", "layer1.0.se.fc1.weight"),
    ],
)
def test_other_libraries_and_older_files_names_are_known(row: str, tensor: str, ours: str) -> None:
    assert BACKBONES[row].checkpoint.layer_name(tensor) == ours


VGG = {  # channels of the convolutions by stage, from table 1 of the paper; C's last ones of a stage are 1x1
    "vgg11": ([64], [128], [256] * 2, [512] * 2, [512] * 2),
    "vgg11_lrn": ([64], [128], [256] * 2, [512] * 2, [512] * 2),
    "vgg13": ([64] * 2, [128] * 2, [256] * 2, [512] * 2, [512] * 2),
    "vgg16c": ([64] * 2, [128] * 2, [256] * 3, [512] * 3, [512] * 3),
    "vgg16": ([64] * 2, [128] * 2, [256] * 3, [512] * 3, [512] * 3),
    "vgg19": ([64] * 2, [128] * 2, [256] * 4, [512] * 4, [512] * 4),
}
MILLIONS = {"vgg11": 133, "vgg11_lrn": 133, "vgg13": 133, "vgg16c": 134, "vgg16": 138, "vgg19": 144}  # table 2


@pytest.mark.parametrize("name", VGG)
def test_parameters_of_vgg_are_the_papers(name: str) -> None:
    before, weights, channels_out = 3, 0, 0
    for stage in VGG[name]:
        for number, channels in enumerate(stage):
            window = 1 if name == "vgg16c" and number == 2 else 9
            weights += window * before * channels + channels
            channels_out += channels
            before = channels
    assert BACKBONES[name].parameters == weights
    top = 512 * 7 * 7 * 4096 + 4096 + 4096 * 4096 + 4096 + 4096 * 1000 + 1000
    assert round((weights + top) / 1e6) == MILLIONS[name]
    if f"{name}_bn" in BACKBONES:
        assert BACKBONES[f"{name}_bn"].parameters == weights + 4 * channels_out


@pytest.mark.slow
@pytest.mark.parametrize("name", ["vgg11_lrn", "vgg16c"])
def test_the_networks_of_vgg_without_a_reference_have_as_many_parameters_as_layers_say(name: str) -> None:
    keras.backend.clear_session()
    inputs, features = BACKBONES[name].build(32)
    model = keras.Model(inputs, features)
    assert model.count_params() == BACKBONES[name].parameters
    kernels = [layer.kernel_size[0] for layer in model.layers if isinstance(layer, keras.layers.Conv2D)]
    assert kernels == ([3] * 6 + [1] + [3, 3, 1] * 2 if name == "vgg16c" else [3] * 8)
    squares = [one for one in model.operations if "square" in one.name]
    assert len(squares) == (name == "vgg11_lrn")


def test_local_response_normalisation_divides_by_the_squares_of_the_channels_around() -> None:
    x = np.random.default_rng(0).standard_normal((2, 3, 3, 7)).astype("float32") * 30
    expected = np.empty_like(x)
    for channel in range(7):
        around = x[..., max(0, channel - 2) : channel + 3].astype("float64")
        expected[..., channel] = x[..., channel] / (2 + 1e-4 * (around**2).sum(-1)) ** 0.75
    assert np.allclose(np.asarray(local_response_normalisation(keras.ops.convert_to_tensor(x))), expected, rtol=1e-5)


@pytest.mark.parametrize(
    ("size", "kernel", "padding", "ceil", "expected"),
    [
        (8, 3, 0, False, [18, 20, 22]),
        (8, 3, 0, True, [18, 20, 22, 23]),
        (7, 3, 0, True, [16, 18, 20]),
        (8, 3, 1, False, [9, 11, 13, 15]),
        (7, 2, 0, True, [8, 10, 12, 13]),
    ],
)
def test_max_pools_end_where_pytorchs_do(size: int, kernel: int, padding: int, ceil: bool, expected: list[int]) -> None:
    """The first row of the pooled map; a pixel's value is its place in the map."""
    inputs = keras.Input((size, size, 1))
    model = keras.Model(inputs, max_pool(inputs, kernel, "pool", padding=padding, ceil=ceil))
    places = np.arange(size * size, dtype="float32").reshape(1, size, size, 1)
    assert predicted(model, places)[0, 0, :, 0].tolist() == expected


def test_mean_pools_count_the_zeros_at_the_edges_or_not() -> None:
    inputs = keras.Input((3, 3, 1))
    counted, not_counted = mean_pool(inputs, "a"), mean_pool(inputs, "b", counted=False)
    found = predicted(keras.Model(inputs, [counted, not_counted]), np.ones((1, 3, 3, 1), "float32"))
    assert np.allclose(found[0][0, :, :, 0] * 9, [[4, 6, 4], [6, 9, 6], [4, 6, 4]]) and np.allclose(found[1], 1)


def test_bn_inception_takes_blue_green_red_less_its_own_means() -> None:
    model = keras.Model(*NormalisedNetwork(BACKBONES["bn_inception"].pixels, lambda x: x)(2))
    raw = np.random.default_rng(0).integers(0, 256, (1, 2, 2, 3)).astype("float32")
    assert np.allclose(predicted(model, raw), raw[..., ::-1] - np.array([104, 117, 128], "float32"))
