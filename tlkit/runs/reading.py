"""Opens the results of a run: its model, the images of its split, and its export."""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import io
import zipfile
import zlib
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import keras
import numpy as np
import pandas as pd

from tlkit.backbones import find_backbone
from tlkit.backbones.operations import check_operations
from tlkit.data.dataset import decode_images
from tlkit.data.images import PROBLEM_COLUMNS, TABLE_COLUMNS, ImageSet
from tlkit.data.sources.member import Root
from tlkit.deployment.exported import Opened, Reply, _opened_target
from tlkit.errors import DataError, RunError, TlkitError, WeightsError
from tlkit.evaluation.known import NONE_OF_THESE, Known
from tlkit.folders import DESCRIPTION, check_export, own_manifest, read_description
from tlkit.manifest import check_file, known_manifest
from tlkit.models.blocks import set_trainable
from tlkit.models.files import open_model
from tlkit.plan.in_memory import InMemory
from tlkit.progress import counted_off
from tlkit.runs.folder import Run, open_run
from tlkit.runs.hub import local_folder
from tlkit.training.own_objects import loss_of, made
from tlkit.words import counted

if TYPE_CHECKING:
    from tlkit.cache import Cache
    from tlkit.data.dataset import Dataset


PARITY_FILES = 256  # images at most for the proof of an export
BATCH = 32


def load_model(run: Run | str | Path) -> keras.Model:
    """Load a run's classifier: an ordinary Keras model, raw RGB 0-255 in, probabilities out.

    Raises RunError for a file that is damaged or does not load.
    """
    run = run if isinstance(run, Run) else open_run(run)
    _check_model(run, run.model_file)
    return _open_model(run.model_file)


def _open_model(file: Path) -> keras.Model:
    try:
        return open_model(file)
    except WeightsError:  # its message is complete
        raise
    except (OSError, ValueError) as error:
        raise RunError(f"'{file}' cannot be loaded: {str(error).splitlines()[0]}. Repeat the run.") from error


def _check_model(run: Run, file: Path) -> None:
    """Raise RunError if a model's file, or a module of a SavedModel beside it, is damaged, where a manifest tells."""
    manifest = known_manifest(run.folder)
    modules = [name for name in manifest.files if name.startswith("modules/")] if manifest else []
    for name in (file.name, *modules):
        if (run.folder / name).is_file():  # otherwise what opens it says so
            check_file(run.folder, name)


CONTINUED_RATE = 1e-4  # of Adam, to train a head further that was solved
DECAYED = 0.1  # times the highest learning rate of a stage, after a schedule that ended at zero


def compiled_model(run: Run | str | Path) -> keras.Model:
    """Load a run's classifier, compiled so that `evaluate` and `fit` go on where the run ended.

    What the last stage trained is trainable, and BatchNormalization is as that stage had it. The optimizer is new: the
    stage's kind, with its learning rate, or a tenth of it if that decayed; Adam at 1e-4 if the head was solved. The
    loss is the cross-entropy with class numbers as labels, as `keras.utils.image_dataset_from_directory` gives them; or
    the recipe's own loss, with one-hot labels. Compile the model again for anything else.
    """
    run = run if isinstance(run, Run) else open_run(run)
    model, plan = load_model(run), run.plan
    assert plan.recipe is not None
    stage = plan.recipe.stages[-1]
    if not plan.ensemble_of:
        with contextlib.suppress(TlkitError):  # the backbone's file is gone: it is trainable as it was saved
            backbone = find_backbone(plan.backbone.name)
            set_trainable(model, backbone, unfreeze=stage.unfreeze, batch_norm=stage.batch_norm)
    rate = stage.learning_rate * (DECAYED if stage.schedule == "cosine" else 1)
    if isinstance(stage.optimizer, Mapping):
        optimizer = made("Stage.optimizer", stage.optimizer, keras.optimizers.Optimizer)
        optimizer.learning_rate = rate
    elif stage.solver != "gradient":
        optimizer = keras.optimizers.Adam(CONTINUED_RATE)
    elif stage.optimizer == "sgd":
        optimizer = keras.optimizers.SGD(rate, momentum=0.9, weight_decay=stage.weight_decay or None)
    else:
        optimizer = keras.optimizers.Adam(rate, weight_decay=stage.weight_decay or None)
    if plan.recipe.loss is None:
        model.compile(optimizer, loss="sparse_categorical_crossentropy", metrics=["accuracy"])
    else:
        model.compile(optimizer, loss=loss_of(plan.recipe, len(plan.classes)), metrics=["accuracy"])
    return model


def load_judged(run: Run | str | Path) -> keras.Model:
    """Load the classifier that a run's validation images may judge, because it was not trained on them.

    It is the classifier of `load_model`, unless that was trained again on training and validation images together.
    """
    run = run if isinstance(run, Run) else open_run(run)
    if run.judged_file.is_file():
        _check_model(run, run.judged_file)
        return _open_model(run.judged_file)
    model = load_model(run)
    if run.judged_head.is_file():
        data = run.read(run.judged_head.name)
        try:
            with np.load(io.BytesIO(data), allow_pickle=False) as head:
                model.get_layer("predictions").set_weights([head["kernel"], head["bias"]])
        except (OSError, ValueError, KeyError, TypeError, EOFError, zipfile.BadZipFile, zlib.error) as error:
            raise RunError(f"'{run.judged_head}' is damaged ({error}). Repeat the run.") from error
    return model


def load_known(run: Run) -> Known | None:
    """What tells images of a run's classes from others; None if it has not got it. Raises RunError if it is damaged."""
    return Known.from_bytes(run.read(run.known_file.name)) if run.known_file.is_file() else None


def own_part(run: Run, part: str | None) -> ImageSet:
    """The images of one split of a run: part is "train", "validation" or "test"; None for all.

    Raises DataError for files that are gone or have changed, with the place where they were looked for.
    """
    if not (run.folder / "split.csv").is_file() and known_manifest(run.folder) is not None:
        raise DataError(
            f"The run '{run.folder}' has no split.csv, as one that was downloaded has none: which images it was made "
            "from is not known. Give images as `data`."
        )
    table = run.read_table("split.csv")
    table = table if part is None else table[table["split"] == part].reset_index(drop=True)
    root = run.data_root
    files: list[Root] = [root / path for path in table["path"]]
    gone = [file for file in files if not file.is_file()]
    if gone:
        raise DataError(_gone(run, root, gone, len(files)))
    for file, sha256 in counted_off(zip(files, table["sha256"], strict=True), len(files), "file"):
        with file.open("rb") as stream:
            if hashlib.file_digest(stream, "sha256").hexdigest() != sha256:
                if isinstance(run.moved_to, InMemory):
                    raise DataError(
                        f"'{file.name}' of {run.moved_to} has other pixels than in the run '{run.folder}'. Give the "
                        "same images in the same order."
                    )
                raise DataError(
                    f"'{file}' has changed since the run '{run.folder}' was made. Restore it, give `moved_to` if the "
                    "run's images are elsewhere, or repeat the run."
                )
    table = table.reindex(columns=list(TABLE_COLUMNS))
    problems = pd.DataFrame(columns=list(PROBLEM_COLUMNS))
    source = run.moved_to if isinstance(run.moved_to, InMemory) else None
    return ImageSet(root, table, tuple(run.plan.classes), problems, run.plan.depth, source)


def groups_of(run: Run, paths: Iterable[str]) -> np.ndarray:
    """The group of each of a run's images, or its content's hash if it has none: shape (n,)."""
    split = run.read_table("split.csv").set_index("path")
    names = split["sha256"]
    if "group" in split:
        names = split["group"].where(split["group"] != "", names)
    return names.reindex(list(paths)).to_numpy(str)


def _gone(run: Run, root: Root, gone: Sequence[Root], count: int) -> str:
    """What to say of a run's images that are not where they were."""
    number = f"{len(gone):,} of the {counted(count, 'image')}" if count > 1 else "The image"
    if run.moved_to is not None:
        remedy = "Expected the folder or CSV that the run was made from, with its files under the same names."
    else:
        remedy = "If they were moved, give `moved_to`: the folder or CSV that the run was made from, where it is now."
    there = "" if root.is_dir() else f" The folder '{root}' does not exist."
    return (
        f"{number} of the run '{run.folder}' {'are' if len(gone) > 1 else 'is'} gone, such as '{gone[0]}'.{there} "
        f"{remedy}"
    )


def decoded(run: Run, images: ImageSet, cache: Cache | None = None) -> Dataset:
    """Decode images as the run's model sees them: at its image size and fit, with its class indices as labels."""
    plan = run.plan
    images = dataclasses.replace(images, class_names=tuple(plan.classes), depth=plan.depth)
    return decode_images(images, plan.image_size, plan.job.fit, cache)


def _some_pixels(run: Run, split: str, most: int | None) -> tuple[np.ndarray, np.ndarray]:
    """The pixels and labels of a split's images: at most `most`, evenly spaced."""
    images = own_part(run, split)
    if most is not None and len(images) > most:
        images = images.take(np.linspace(0, len(images) - 1, most).round().astype(int).tolist())
    examples = decoded(run, images).examples()
    return examples.pixels.gather(np.arange(len(examples))), examples.labels


def parity_sample(count: int) -> list[int]:
    """Up to 256 evenly spaced indices of `count` images, so that every class is in the proof."""
    picked = min(count, PARITY_FILES)
    return [i * count // picked for i in range(picked)]


def open_exported(model: str | Path) -> tuple[list[str], Opened]:
    """Open a run or an export of any format.

    Returns its class names, and a function from files' bytes to (ok, sure, probabilities). Raises RunError if the
    folder is neither, or cannot be loaded.
    """
    folder = local_folder(model, whole=False)
    if is_target(folder):
        return _opened_target(folder)
    return opened_default(load_signatures(folder))


def is_target(folder: Path) -> bool:
    """Whether a folder is an export that takes pixels: any format but the SavedModel."""
    return (folder / DESCRIPTION).is_file() and not (folder / "saved_model.pb").is_file()


def load_signatures(model: str | Path) -> dict[str, Any]:
    """The signatures of a run's SavedModel, or of a SavedModel, by name. Raises RunError if it cannot be loaded."""
    import tensorflow as tf

    folder = served_folder(model)
    check_export(folder)
    check_operations(folder, str(folder), RunError)
    try:
        signatures = tf.saved_model.load(str(folder)).signatures
        return {"serving_default": signatures["serving_default"], **signatures}
    except Exception as error:  # TensorFlow raises many kinds for a damaged or foreign folder
        reason = str(error).strip().splitlines() or [type(error).__name__]
        raise RunError(f"'{folder}' cannot be loaded as a SavedModel: {reason[0]}. Export the run again.") from error


def opened_default(signatures: dict[str, Any]) -> tuple[list[str], Opened]:
    """The class names of a loaded SavedModel, and the function of `open_exported`."""
    import tensorflow as tf

    serve = signatures["serving_default"]
    names = [name.decode("utf-8") for name in serve(image_bytes=tf.constant([b""]))["classes"].numpy().ravel()]

    def answer(data: list[bytes]) -> Reply:
        outputs = serve(image_bytes=tf.constant(data))
        main = ("ok", "sure" if "sure" in outputs else "ok", "probabilities")
        reply = Reply(outputs[name].numpy() for name in main)
        if "known" in outputs:
            reply.known = outputs["known"].numpy()
            if NONE_OF_THESE not in names:
                reply.none = outputs["class"].numpy() == NONE_OF_THESE.encode()
        if "prediction_set" in outputs:
            reply.prediction_set = outputs["prediction_set"].numpy()
        return reply

    return names, answer


def unsure_below(model: str | Path) -> float | None:
    """The threshold of a run or an export: the probability below which it is unsure; 0 if it never is.

    None if that is not known: an export without a description, which tlkit did not write.
    """
    folder = local_folder(model, whole=False)
    if not (folder / DESCRIPTION).is_file():
        folder = served_folder(model)
    if own_manifest(folder, DESCRIPTION) is None:
        return None
    return float(read_description(folder).get("unsure_below", 0.0))


def served_folder(model: str | Path) -> Path:
    """The SavedModel folder of a run, or the folder itself if it is a SavedModel. Raises RunError otherwise."""
    folder = local_folder(model, whole=False)
    if (folder / "saved_model.pb").is_file():
        return folder
    run = open_run(folder)
    if not (run.saved_model / "saved_model.pb").is_file():
        raise RunError(f"The run '{folder}' has no saved_model. Write it with `tlkit export {folder}`.")
    return run.saved_model
