"""Compute the reference networks with PyTorch in float64, on the weights and pixels of tests/reference_rule.py.

    python benchmarks/references_torch.py OUTPUT.npz [NAME ...]

Needs PyTorch, torchvision, timm and pretrainedmodels, but not tlkit: run it in an environment of its own. Writes the
logits of each network by its name (SOURCE.NAME), float64, shape (2, 1000). `references.py --torch OUTPUT.npz` compares
them with tlkit's float64 runs: no rounding of float32 is in the way there.

NAME/amplified: pixels times 1 + 1e-12 change the largest logit by so many times 1e-12 of their deviation. Where that is
1e12, as in SENet-154, no two runs agree in float64 either. There, NAME/units/UNIT is the output of each residual unit
for the first image (and of the first pool and the top), so that they can be compared one by one, each with PyTorch's
input.
"""

import importlib.util
import re
import sys
import warnings
from pathlib import Path

import numpy as np
import timm
import torch
import torchvision

sys.path.insert(0, str(Path(__file__).parent.parent))
from tests.reference_rule import pixels, value

TORCHVISION = (
    "alexnet vgg11 vgg11_bn vgg13 vgg13_bn vgg16 vgg16_bn vgg19 vgg19_bn googlenet inception_v3 resnet18 resnet34 "
    "resnet50 resnet101 resnet152 resnext50_32x4d resnext101_32x8d densenet121 densenet161 densenet169 densenet201"
)
TIMM = (
    "legacy_senet154 legacy_seresnet50 legacy_seresnext50_32x4d seresnet50 seresnext50_32x4d resnext50_32x4d "
    "inception_resnet_v2"
)
NAMES = (
    *(f"torchvision.{name}" for name in TORCHVISION.split()),
    *(f"timm.{name}" for name in TIMM.split()),
    "pretrainedmodels.bninception",
)
UNIT_BY_UNIT = ("timm.legacy_senet154",)
CHANGE = 1e-12
SIZES = {"torchvision.inception_v3": 299, "timm.inception_resnet_v2": 299}


def network(full_name: str) -> torch.nn.Module:
    source, name = full_name.split(".")
    if source == "timm":
        return timm.create_model(name)
    if source == "torchvision":
        extra = {"aux_logits": True, "init_weights": False} if name in ("googlenet", "inception_v3") else {}
        return getattr(torchvision.models, name)(weights=None, **extra)
    package = importlib.util.find_spec("pretrainedmodels")  # its __init__ imports data sets, which need more packages
    file = Path(package.submodule_search_locations[0]) / "models" / f"{name}.py"
    spec = importlib.util.spec_from_file_location(name, file)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.BNInception()


def keep_units(model: torch.nn.Module, units: dict[str, np.ndarray]) -> None:
    """Have a residual network put the output of its first pool and of each unit into `units`."""
    for name, module in model.named_modules():
        if re.fullmatch(r"pool0|layer\d\.\d+", name):
            module.register_forward_hook(lambda _, given, out, name=name: units.update({name: out.numpy().copy()}))


def main() -> None:
    output, names = Path(sys.argv[1]), sys.argv[2:] or NAMES
    warnings.simplefilter("ignore")
    found = dict(np.load(output)) if output.exists() else {}
    for name in names:
        model = network(name).eval()
        tensors = {key: torch.from_numpy(value(key, tuple(one.shape))) for key, one in model.state_dict().items()}
        model.load_state_dict(tensors)
        images = torch.from_numpy(pixels(SIZES.get(name, 224))).double()
        units: dict[str, np.ndarray] = {}
        with torch.no_grad():
            found[name] = model.double()(images).numpy()
            changed = model(images * (1 + CHANGE)).numpy()
            if name in UNIT_BY_UNIT:
                keep_units(model, units)
                units["logits"] = model(images[:1]).numpy()
        found[f"{name}/amplified"] = np.abs(changed - found[name]).max() / found[name].std() / CHANGE
        found |= {f"{name}/units/{unit}": output for unit, output in units.items()}
        np.savez(output, **found)
        print(name, f"{found[name].std():.6g} {found[f'{name}/amplified']:.1e}", flush=True)


if __name__ == "__main__":
    main()
