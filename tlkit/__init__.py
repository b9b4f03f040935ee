"""tlkit: a folder of images in, a classifier that people can trust, understand and deploy out.

    from tlkit import finetune
    run = finetune("data/", backbone="mobilenetv2")
    print(run.metrics["validation"]["accuracy"])

Every public name is imported when it is first used, so `import tlkit` costs next to nothing.
"""

from __future__ import annotations

import importlib
import sys
from types import ModuleType
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

_HOME = {
    "Augmentation": "spec",
    "Head": "spec",
    "Recipe": "spec",
    "Stage": "spec",
    "TlkitError": "errors",
    "DataError": "errors",
    "ExportError": "errors",
    "NameUnknown": "errors",
    "ParityError": "errors",
    "RunError": "errors",
    "SpecError": "errors",
    "TrainingError": "errors",
    "WeightsError": "errors",
    "Backbone": "backbones",
    "find_backbone": "backbones",
    "ImageSet": "images",
    "scan": "images",
    "split": "images",
    "augment": "augment",
    "check_safety": "safety",
    "draw_sheet": "sheet",
    "explore_augmentation": "strategy",
    "decode_and_resize": "decode",
    "Run": "runs",
    "open_run": "runs",
    "decode_images": "pixels",
    "Examples": "batches",
    "blocks": "model",
    "build_classifier": "model",
    "cut": "model",
    "set_trainable": "model",
    "extract_features": "features",
    "train": "train",
    "evaluate": "evaluate",
    "predict_probabilities": "evaluate",
    "export": "export",
    "open_target": "targets",
    "write_target": "targets",
    "prove_parity": "export",
    "choose_recipe": "strategy",
    "compare_backbones": "strategy",
    "ensemble": "ensemble",
    "lr_find": "lr_find",
    "measure_axes": "strategy",
    "evaluate_run": "inference",
    "export_run": "inference",
    "inspect": "inference",
    "load_model": "inference",
    "predict": "inference",
    "finetune": "finetune",
    "examples_of": "inference",
    "report": "report",
    "check_data": "doctor",
    "check_up": "inference",
    "GradCam": "explain",
    "occlusion_maps": "explain",
    "robustness": "robustness",
    "demo": "demo",
    "write_digits": "demo",
}

__all__ = [*_HOME]

if TYPE_CHECKING:
    from tlkit.augment import augment
    from tlkit.backbones import Backbone, find_backbone
    from tlkit.batches import Examples
    from tlkit.decode import decode_and_resize
    from tlkit.demo import demo, write_digits
    from tlkit.doctor import check_data
    from tlkit.ensemble import ensemble
    from tlkit.errors import (
        DataError,
        ExportError,
        NameUnknown,
        ParityError,
        RunError,
        SpecError,
        TlkitError,
        TrainingError,
        WeightsError,
    )
    from tlkit.evaluate import evaluate, predict_probabilities
    from tlkit.explain import GradCam, occlusion_maps
    from tlkit.export import export, prove_parity
    from tlkit.features import extract_features
    from tlkit.finetune import finetune
    from tlkit.images import ImageSet, scan, split
    from tlkit.inference import check_up, evaluate_run, examples_of, export_run, inspect, load_model, predict
    from tlkit.lr_find import lr_find
    from tlkit.model import blocks, build_classifier, cut, set_trainable
    from tlkit.pixels import decode_images
    from tlkit.report import report
    from tlkit.robustness import robustness
    from tlkit.runs import Run, open_run
    from tlkit.safety import check_safety
    from tlkit.sheet import draw_sheet
    from tlkit.spec import Augmentation, Head, Recipe, Stage
    from tlkit.strategy import choose_recipe, compare_backbones, explore_augmentation, measure_axes
    from tlkit.targets import open_target, write_target
    from tlkit.train import train


class _Package(ModuleType):
    """Finds public names in their modules. Where a function has its module's name, the function is the public one."""

    def __getattr__(self, name: str) -> Any:
        if name not in _HOME:
            raise AttributeError(f"module 'tlkit' has no attribute '{name}'")
        return getattr(importlib.import_module(f"tlkit.{_HOME[name]}"), name)

    def __setattr__(self, name: str, value: object) -> None:
        if not (name in _HOME and isinstance(value, ModuleType)):  # importing tlkit.train must not hide train()
            super().__setattr__(name, value)

    def __dir__(self) -> list[str]:
        return sorted({*super().__dir__(), *_HOME})


sys.modules[__name__].__class__ = _Package
