"""Turn a folder of images into a classifier that people can trust, understand and deploy.

    from tlkit import finetune
    run = finetune("data/", backbone="mobilenetv2")
    print(run.metrics["validation"]["accuracy"])

Every public name is imported when it is first used, so that `import tlkit` is fast.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

__version__ = "0.2.0"

_HOME = {
    "Augmentation": "plan.augmentation",
    "Head": "plan.recipe",
    "Job": "plan.job",
    "Plan": "plan.plan",
    "Deadline": "progress",
    "Recipe": "plan.recipe",
    "Stage": "plan.recipe",
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
    "read_weights": "backbones.files",
    "ImageSet": "data.images",
    "from_arrays": "data.arrays",
    "from_dataframe": "data.arrays",
    "from_dataset": "data.arrays",
    "scan": "data.scan",
    "split": "data.split",
    "augment": "data.augment",
    "check_safety": "safety.check",
    "draw_sheet": "data.preview",
    "explore_augmentation": "safety.explore",
    "clean_copy": "data.clean",
    "convert": "data.convert",
    "decode_and_resize": "data.decode",
    "preprocess": "data.reference",
    "Run": "runs.folder",
    "open_run": "runs.folder",
    "decode_images": "data.dataset",
    "Examples": "data.examples",
    "blocks": "models.blocks",
    "build_classifier": "models.classifier",
    "pretrained": "models.pretrained",
    "cut": "models.blocks",
    "set_trainable": "models.blocks",
    "extract_features": "features.extract",
    "train": "training.train",
    "train_on_machines": "training.machines",
    "use_devices": "devices",
    "Checkpoints": "checkpoints",
    "Resumable": "training.resume",
    "evaluate": "evaluation.scores",
    "predict_probabilities": "evaluation.predict",
    "export": "deployment.saved_model",
    "open_target": "deployment.formats",
    "write_target": "deployment.formats",
    "prove_parity": "deployment.parity",
    "choose_recipe": "strategy.recipes",
    "compare_backbones": "strategy.backbones",
    "compare_runs": "reporting.leaderboard",
    "ensemble": "runs.ensemble",
    "adapt": "runs.adapt",
    "check": "runs.check",
    "lr_find": "training.learning_rate",
    "measure_axes": "strategy.axes",
    "evaluate_run": "runs.evaluate",
    "export_run": "runs.export",
    "verify": "runs.verify",
    "inspect": "doctor.checkup",
    "load_model": "runs.reading",
    "predict": "runs.predict",
    "predict_to": "runs.batch",
    "embed": "runs.batch",
    "similar": "runs.similar",
    "slices": "runs.slices",
    "label_next": "runs.label_next",
    "finetune": "finetuning.finetune",
    "Cache": "cache",
    "Dataset": "data.dataset",
    "report": "reporting.report",
    "model_card": "reporting.card",
    "push": "reporting.push",
    "check_data": "doctor.checkup",
    "check_up": "doctor.checkup",
    "ClassActivationMaps": "evaluation.saliency",
    "occlusion_maps": "evaluation.saliency",
    "robustness": "evaluation.robustness",
    "demo": "finetuning.demo",
    "write_digits": "finetuning.demo",
}

__all__ = [*_HOME]

if TYPE_CHECKING:
    from tlkit.backbones import Backbone, find_backbone
    from tlkit.backbones.files import read_weights
    from tlkit.data.arrays import from_arrays, from_dataframe, from_dataset
    from tlkit.data.augment import augment
    from tlkit.data.clean import clean_copy
    from tlkit.data.convert import convert
    from tlkit.data.dataset import Dataset, decode_images
    from tlkit.data.decode import decode_and_resize
    from tlkit.data.examples import Examples
    from tlkit.data.images import ImageSet
    from tlkit.data.preview import draw_sheet
    from tlkit.data.reference import preprocess
    from tlkit.data.scan import scan
    from tlkit.data.split import split
    from tlkit.deployment.formats import open_target, write_target
    from tlkit.deployment.parity import prove_parity
    from tlkit.deployment.saved_model import export
    from tlkit.devices import use_devices
    from tlkit.doctor.checkup import check_data, check_up, inspect
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
    from tlkit.evaluation.predict import predict_probabilities
    from tlkit.evaluation.robustness import robustness
    from tlkit.evaluation.saliency import ClassActivationMaps, occlusion_maps
    from tlkit.evaluation.scores import evaluate
    from tlkit.features.extract import extract_features
    from tlkit.finetuning.demo import demo, write_digits
    from tlkit.finetuning.finetune import finetune
    from tlkit.models.blocks import blocks, cut, set_trainable
    from tlkit.models.classifier import build_classifier
    from tlkit.models.pretrained import pretrained
    from tlkit.plan.augmentation import Augmentation
    from tlkit.plan.job import Job
    from tlkit.plan.plan import Plan
    from tlkit.plan.recipe import Head, Recipe, Stage
    from tlkit.progress import Deadline
    from tlkit.reporting.card import model_card
    from tlkit.reporting.leaderboard import compare_runs
    from tlkit.reporting.push import push
    from tlkit.reporting.report import report
    from tlkit.runs.adapt import adapt
    from tlkit.runs.batch import embed, predict_to
    from tlkit.runs.check import check
    from tlkit.runs.ensemble import ensemble
    from tlkit.runs.evaluate import evaluate_run
    from tlkit.runs.export import export_run
    from tlkit.runs.folder import Run, open_run
    from tlkit.runs.label_next import label_next
    from tlkit.runs.predict import predict
    from tlkit.runs.reading import load_model
    from tlkit.runs.similar import similar
    from tlkit.runs.slices import slices
    from tlkit.runs.verify import verify
    from tlkit.safety.check import check_safety
    from tlkit.safety.explore import explore_augmentation
    from tlkit.strategy.axes import measure_axes
    from tlkit.strategy.backbones import compare_backbones
    from tlkit.strategy.recipes import choose_recipe
    from tlkit.training.learning_rate import lr_find
    from tlkit.training.machines import train_on_machines
    from tlkit.training.train import train


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module 'tlkit' has no attribute '{name}'")
    return getattr(importlib.import_module(f"tlkit.{_HOME[name]}"), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *_HOME})
