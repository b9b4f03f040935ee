"""What is done with a run afterwards, and with data before one: evaluate, predict, export again, inspect."""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import itertools
import os
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tlkit.errors import DataError, RunError, SpecError, WeightsError, nearest, unknown
from tlkit.images import ImageSet, scan
from tlkit.runs import DESCRIPTION, EXPORTED, Run, open_run
from tlkit.spec import Augmentation, check_max_error

if TYPE_CHECKING:
    import keras
    import numpy as np
    import pandas as pd

    from tlkit.batches import Examples
    from tlkit.doctor import Checkup
    from tlkit.pixels import Pixels
    from tlkit.safety import Verdict

PARITY_FILES = 256
BATCH = 32
MAX_FILE_BYTES = 512 * 1024 * 1024
MOST_EXPLAINED = 64


def load_model(run: Run | str | Path) -> keras.Model:
    """A run's classifier: an ordinary Keras model, raw RGB 0-255 in, probabilities out."""
    from tlkit.keras_files import open_model

    run = run if isinstance(run, Run) else open_run(run)
    try:
        return open_model(run.model_file)
    except WeightsError:  # it says all
        raise
    except (OSError, ValueError) as error:
        raise RunError(f"'{run.model_file}' does not load: {str(error).splitlines()[0]}. Repeat the run.") from error


def inspect(data: str | Path, *, group_by: str | None = None, strict: bool = False, size: int = 224) -> ImageSet:
    """What is in the folder and what is wrong with it: scans and decodes every image, fits no network.

    The decoded pixels are kept, so a run at this size that follows does not decode again.
    """
    from tlkit.images import raise_if_strict
    from tlkit.pixels import decode_images

    images = scan(data, group_by=group_by, strict=strict)
    _, images = decode_images(images, size)
    if strict:
        raise_if_strict(images)
    return images


def check_up(images: ImageSet, *, backbone: str = "nano", size: int = 224, verbose: bool = False) -> Checkup:
    """Label errors, duplicates, leakage, outliers and imbalance in a scanned image set (see `tlkit.doctor`).

    backbone: whose features judge the labels; `nano` comes with tlkit, a larger one is right more often. size: pixels at which pictures are
    compared; those of `inspect` are decoded already.
    """
    from tlkit.doctor import check_data
    from tlkit.pixels import decode_images

    pixels, images = decode_images(images, size)
    return check_data(images, pixels, backbone=backbone, verbose=verbose)


def examples_of(images: ImageSet, pixels: Pixels, *parts: str) -> Examples:
    """The decoded images of one part, or of several behind each other, with their labels, as `tlkit.train` takes them."""
    from tlkit.batches import Examples

    chosen = images.part(*parts)
    return Examples(pixels.of(chosen), chosen.labels(), chosen.keys(), chosen.groups())


def evaluate_run(run: Run | str | Path, data: str | Path | None = None, *, views: str | None = None) -> dict[str, Any]:
    """A run's classifier on other data, or on its own validation part: the numbers of `tlkit.evaluate`.

    views: also average over views of each picture, "flip" or "ten-crop" (see `tlkit.evaluate.predict_averaged`), and give under "views"
    its accuracy, the gain with its standard error, and how many times as long it took. Where the safety check finds that mirror images
    become another class, flip is refused, and ten crops are the five without them.

    Raises SpecError for a flip that is not safe, DataError when the data holds a class that the run does not know, or the run's own images are gone or changed.
    """
    import numpy as np

    from tlkit.evaluate import VIEWS, evaluate, predict_probabilities
    from tlkit.features import while_memory_lasts
    from tlkit.frozen import inference_batch
    from tlkit.pixels import decode_images

    if views is not None and views not in VIEWS:
        raise unknown("views", views, VIEWS)
    run = run if isinstance(run, Run) else open_run(run)
    plan = run.plan
    images = scan(data) if data is not None else own_part(run, "val")
    strange = sorted(set(images.class_names) - set(plan["classes"]))
    if strange:
        close = nearest(strange[0], plan["classes"])
        raise DataError(
            f"'{images.root}' holds {len(strange)} classes that the run does not know, such as '{strange[0]}'"
            + (f" (nearest: '{close}')" if close else "")
            + f". Expected among: {', '.join(plan['classes'][:20])}."
        )
    pixels, images = decode_images(images, plan["image_size"], plan["settings"]["fit"])
    number = {name: i for i, name in enumerate(plan["classes"])}
    labels = np.array([number[label] for label in images.table["label"]], dtype="int64")
    model, rows = load_model(run), pixels.of(images)
    probabilities = while_memory_lasts(
        lambda batch: predict_probabilities(model, rows, batch_size=batch), inference_batch(BATCH), lambda line: None
    )
    scores = evaluate(probabilities, labels, plan["classes"])
    left_out = images.problems[images.problems["action"] == "left out"]
    scores = {**scores, "left_out": len(left_out)}
    if views is None:
        return scores
    mirror = _mirror_verdict(images)
    if mirror.verdict == "unsafe" or (mirror.verdict == "not_measurable" and mirror.hinted):
        if views == "flip":
            raise SpecError(
                f"Mirror images are another class here ({mirror.why}), so that averaging over them would mix classes. "
                "--views ten-crop leaves them out."
            )
        views = "five-crop"
    return {**scores, "views": {**_gain(model, rows, labels, views), "mirror_images": mirror.verdict}}


def _mirror_verdict(images: ImageSet) -> Verdict:
    """Whether a mirror image keeps its class, by these very pictures."""
    from tlkit.safety import check_safety

    labelled = dataclasses.replace(images, table=images.table.assign(part=""))
    return check_safety(labelled, Augmentation(flip_horizontal=1.0), thorough=False).verdicts[0]


def _gain(model: keras.Model, rows: Any, labels: np.ndarray, views: str) -> dict[str, Any]:
    from tlkit.evaluate import predict_averaged, predict_probabilities
    from tlkit.profile import paired_difference

    seconds, right = [], []
    for way in (
        lambda: predict_probabilities(model, rows, batch_size=BATCH),
        lambda: predict_averaged(model, rows, views, batch_size=BATCH),
    ):
        started = time.monotonic()
        right.append(way().argmax(1) == labels)
        seconds.append(time.monotonic() - started)
    gain, error = paired_difference(right[1], right[0])
    return {
        "views": views,
        "accuracy": float(right[1].mean()),
        "gain": gain,
        "gain_error": error,
        "times_as_long": round(seconds[1] / seconds[0], 2),
    }


def own_part(run: Run, part: str | None) -> ImageSet:
    """The images of one part of a run's own split, or of all. Raises DataError for files that are gone or have changed."""
    import pandas as pd

    from tlkit.images import PROBLEM_COLUMNS, TABLE_COLUMNS

    table = pd.read_csv(run.folder / "split.csv", dtype=str, keep_default_na=False)
    table = table if part is None else table[table["part"] == part].reset_index(drop=True)
    data = Path(run.plan["settings"]["data"])
    root = data if data.is_dir() else data.parent
    for row in table.itertuples():
        file = root / row.path
        if not file.is_file():
            raise DataError(
                f"'{file}', an image of the run '{run.folder}', is gone. Give DATA, or run where the data is."
            )
        with file.open("rb") as stream:
            if hashlib.file_digest(stream, "sha256").hexdigest() != row.sha256:
                raise DataError(
                    f"'{file}' has changed since the run '{run.folder}' was made. Give DATA, or repeat the run."
                )
    table = table.reindex(columns=list(TABLE_COLUMNS))
    problems = pd.DataFrame(columns=list(PROBLEM_COLUMNS))
    return ImageSet(root, table, tuple(sorted(set(table["label"]))), problems)


def whole_set(run: Run, cache_gb: float | None = None) -> tuple[ImageSet, Pixels]:
    """All images of a run's own split, and their pixels. Raises DataError for files that are gone or have changed."""
    from tlkit.pixels import decode_images

    pixels, images = decode_images(own_part(run, None), run.plan["image_size"], run.plan["settings"]["fit"], cache_gb)
    return images, pixels


def export_run(
    run: Run | str | Path,
    to: str | Path | None = None,
    *,
    target: str = "savedmodel",
    max_error: float | None = None,
    force: bool = False,
) -> tuple[Path, dict[str, Any] | None]:
    """Write a run's model for deployment, and prove it on the run's validation files.

    to: a folder, replaced if it holds an earlier export and nothing else; default RUN/saved_model, or RUN/TARGET. target: "savedmodel" takes encoded files; "litert", "litert-int8", "onnx" and "keras"
    take pixels (see `tlkit.targets`). max_error: what is not sure enough for this share of errors is served as "unsure" (see
    `tlkit.calibrate.refusal_threshold`); default as the run was made. force: keep 8-bit integers that agree with the model on less than 95 %.

    Returns the folder and the proof; None instead of the proof when the run's images are no longer there.

    Raises NameUnknown or ExportError for the target, SpecError for a share outside 0 to 1, ParityError for an export that disagrees, DataError where
    the run's images are needed (a new max_error, 8-bit integers) and gone.
    """
    from tlkit.export import export
    from tlkit.targets import check_target, write_target

    run = run if isinstance(run, Run) else open_run(run)
    check_max_error(max_error)
    check_target(target)
    plan, model, fit = run.plan, load_model(run), run.plan["settings"]["fit"]
    unsure_below = _unsure_below(run, model, max_error)
    default = run.saved_model if target == "savedmodel" else run.folder / target
    folder = Path(to) if to is not None else default
    if target == "savedmodel":
        export(model, plan["classes"], folder, fit=fit, unsure_below=unsure_below)
        return folder, _noted(run, target, folder, _prove_served(run, model, folder))
    training = _some_pixels(run, "train", REPRESENTATIVE_IMAGES) if target == "litert-int8" else None
    representative = None if training is None else training[0]
    write_target(
        model, plan["classes"], folder, target, fit=fit, unsure_below=unsure_below, representative=representative
    )
    return folder, _noted(run, target, folder, _prove_pixels(run, model, folder, training, force))


REPRESENTATIVE_IMAGES = 200
_EXPORT_COLUMNS = (
    "format",
    "n",
    "top1_agreement",
    "max_difference",
    "accuracy",
    "bytes",
    "milliseconds_an_image",
    "folder",
)


def _noted(run: Run, target: str, folder: Path, proof: dict[str, Any] | None) -> dict[str, Any] | None:
    """Keep a proof in the run's `exports.csv`, in the place of an earlier one of its format."""
    if proof is not None:
        table = exports_of(run)
        table = table[table["format"] != target]
        row = {**proof, "format": target, "folder": str(folder)}
        rows = [*table.to_dict("records"), {name: row.get(name) for name in _EXPORT_COLUMNS}]
        run.write_table(EXPORTED, _export_table(rows))
    return proof


def exports_of(run: Run | str | Path) -> pd.DataFrame:
    """What a run was exported to: format, n, top1_agreement, max_difference, accuracy (of formats that take pixels), bytes,
    milliseconds_an_image and folder, a row for each format.
    """
    import pandas as pd

    run = run if isinstance(run, Run) else open_run(run)
    if (run.folder / EXPORTED).is_file():
        return pd.read_csv(run.folder / EXPORTED)
    parity = run.metrics.get("parity")
    own = {**parity, "format": "savedmodel", "folder": str(run.saved_model)} if parity else {}
    return _export_table([{name: own.get(name) for name in _EXPORT_COLUMNS}] if own else [])


def _export_table(rows: list[dict[str, Any]]) -> pd.DataFrame:
    import pandas as pd

    return pd.DataFrame(rows, columns=list(_EXPORT_COLUMNS))


def _unsure_below(run: Run, model: keras.Model, max_error: float | None) -> float:
    """The run's own threshold, or that of a new share of errors."""
    if max_error is None:
        return (run.metrics.get("refusal") or {}).get("threshold", 0.0)
    from tlkit.calibrate import refusal_threshold

    pixels, labels = _some_pixels(run, "val", None)
    return refusal_threshold(_answered(model, pixels), labels, max_error).threshold


def _answered(model: keras.Model, pixels: np.ndarray) -> np.ndarray:
    """Keras' own answers to pixels in memory."""
    import numpy as np

    return np.concatenate([model.predict_on_batch(pixels[at : at + BATCH]) for at in range(0, len(pixels), BATCH)])


def _some_pixels(run: Run, part: str, most: int | None) -> tuple[np.ndarray, np.ndarray]:
    """Pixels of a part's images, evenly taken from all if there are more than so many, and their labels."""
    import numpy as np

    from tlkit.pixels import decode_images

    images, plan = own_part(run, part), run.plan
    if most is not None and len(images) > most:
        images = images.take(np.linspace(0, len(images) - 1, most).round().astype(int).tolist())
    pixels, images = decode_images(images, plan["image_size"], plan["settings"]["fit"])
    labels = np.array([plan["classes"].index(label) for label in images.table["label"]], dtype="int64")
    return pixels.of(images).gather(np.arange(len(images))), labels


def _prove_served(run: Run, model: keras.Model, folder: Path) -> dict[str, Any] | None:
    from tlkit.evaluate import own_probabilities, predict_probabilities
    from tlkit.export import prove_parity
    from tlkit.pixels import decode_images

    plan = run.plan
    try:
        images = own_part(run, "val")
    except DataError:
        return None
    images = images.take(parity_sample(len(images)))
    pixels, images = decode_images(images, plan["image_size"], plan["settings"]["fit"])
    probabilities = predict_probabilities(model, pixels.of(images), batch_size=BATCH)
    own = functools.partial(own_probabilities, model, pixels.of(images))
    return prove_parity(folder, images.files(), probabilities, plan["classes"], ask_again=own)


def _prove_pixels(
    run: Run, model: keras.Model, folder: Path, training: tuple[np.ndarray, np.ndarray] | None, force: bool
) -> dict[str, Any] | None:
    """On validation images, and on the training images that the converter saw where there are any."""
    import numpy as np

    from tlkit.targets import prove_target

    try:
        pixels, labels = _some_pixels(run, "val", PARITY_FILES)
    except DataError:
        return None
    if training is not None:
        pixels, labels = (np.concatenate(both) for both in zip((pixels, labels), training, strict=True))
    return prove_target(folder, pixels, _answered(model, pixels), labels, force=force)


def parity_sample(count: int) -> list[int]:
    """Up to 256 places among `count` images, spread evenly, so that every class takes part in the proof."""
    picked = min(count, PARITY_FILES)
    return [i * count // picked for i in range(picked)]


# -- predicting -------------------------------------------------------------------------------------------


def predict(model: str | Path, files: Sequence[str | Path], *, top: int = 3) -> pd.DataFrame:
    """Classes and probabilities for image files, by the exported SavedModel.

    model: a run's folder, or a folder that export wrote. files: files, and folders which are searched through.
    top: how many classes to give, 1 or more.

    Returns one row per file: path, prediction, probability, top2, top2_probability, ..., problem. A file that cannot be
    read has its reason under problem and no prediction.
    """
    import numpy as np
    import pandas as pd

    from tlkit.pixels import why_not

    if top < 1:
        raise DataError(f"top is {top}. Expected 1 or more.")
    found = _expand(files)
    if not found:
        raise DataError(f"No files in {', '.join(repr(str(f)) for f in files)}. Expected image files.")
    names, answer = open_exported(model)
    rows: list[dict[str, Any]] = []
    for start in range(0, len(found), BATCH):
        chunk = found[start : start + BATCH]
        data = [_read(file) for file in chunk]
        oks, sures, all_values = answer([one if isinstance(one, bytes) else b"" for one in data])
        for file, one, ok, sure, values in zip(chunk, data, oks, sures, all_values, strict=True):
            row: dict[str, Any] = {"path": str(file)}
            for place, best in enumerate(np.argsort(-values, kind="stable")[:top], start=1):
                column = "prediction" if place == 1 else f"top{place}"
                row[column] = names[best] if ok else None
                row["probability" if place == 1 else f"{column}_probability"] = float(values[best]) if ok else None
            row["sure"] = bool(sure) if ok else None
            row["problem"] = "" if ok else one if isinstance(one, str) else ": ".join(why_not(one))
            rows.append(row)
    return pd.DataFrame(rows)


Opened = Callable[[list[bytes]], tuple[Any, Any, Any]]


def open_exported(model: str | Path) -> tuple[list[str], Opened]:
    """A run's or an export's class names, and a function from files' bytes to (ok, sure, probabilities), whatever format it is in.

    Raises RunError for what is neither, or does not load.
    """
    import tensorflow as tf

    folder = Path(model)
    if (folder / DESCRIPTION).is_file() and not (folder / "saved_model.pb").is_file():
        return _opened_target(folder)
    folder = served_folder(model)
    try:
        serve = tf.saved_model.load(str(folder)).signatures["serving_default"]
    except (OSError, ValueError, KeyError) as error:
        raise RunError(f"'{folder}' does not load as a SavedModel: {error}. Export the run again.") from error
    names = [name.decode("utf-8") for name in serve(image_bytes=tf.constant([b""]))["classes"].numpy().ravel()]

    def answer(data: list[bytes]) -> tuple[Any, Any, Any]:
        reply = serve(image_bytes=tf.constant(data))
        return tuple(reply[name].numpy() for name in ("ok", "sure" if "sure" in reply else "ok", "probabilities"))

    return names, answer


def _opened_target(folder: Path) -> tuple[list[str], Opened]:
    import numpy as np

    from tlkit.targets import open_target

    description, ask = open_target(folder)
    size, names = description["image_size"], description["classes"]

    def decoded(data: bytes) -> np.ndarray | None:
        try:
            return decoded_pixels(data, size, description["fit"])
        except DataError:
            return None

    def answer(data: list[bytes]) -> tuple[Any, Any, Any]:
        pictures = [decoded(one) for one in data]
        ok = np.array([one is not None for one in pictures])
        values = np.zeros((len(data), len(names)), "float32")
        if ok.any():
            values[ok] = ask(np.stack([one for one in pictures if one is not None]))
        return ok, ok & (values.max(1) >= description["unsure_below"]), values

    return names, answer


METHODS = ("grad-cam", "occlusion")


def explain_files(
    run: Run | str | Path,
    files: Sequence[str | Path],
    out: str | Path = "explained.png",
    *,
    method: str = "grad-cam",
    of_class: str | None = None,
    filters: bool = False,
    typical: bool = False,
) -> list[str]:
    """Draw where the evidence for a run's answers lies in picture files, and return a line for each.

    out: a picture file, up to 64 pictures. method: "grad-cam" or "occlusion" (see `tlkit.explain`). of_class: whose evidence; default the
    most probable class's. filters: the first layer's filters instead; typical: pictures drawn to be the class's most typical instead.

    Raises SpecError for unknown names, DataError for files that do not decode.
    """
    import numpy as np

    from tlkit.explain import GradCam, draw_rows, first_filters, most_typical, occlusion_maps, overlay

    if method not in METHODS:
        raise unknown("method", method, METHODS)
    run = run if isinstance(run, Run) else open_run(run)
    plan, out = run.plan, Path(out)
    classes = plan["classes"]
    if of_class is not None and of_class not in classes:
        raise unknown("class", of_class, classes)
    model = load_model(run)
    if filters:
        kernels = first_filters(model)
        across = 8
        draw_rows([[(one, "") for one in kernels[at : at + across]] for at in range(0, len(kernels), across)], out, 96)
        return [f"{len(kernels)} filters of the first layer: {out}"]
    if typical:
        names = [of_class] if of_class else classes[:16]
        drawn = [(most_typical(model, classes.index(name)), name) for name in names]
        draw_rows([drawn[at : at + 4] for at in range(0, len(drawn), 4)], out)
        return [f"what is most typical of {', '.join(names)}: {out}"]
    found = _expand(files)[:MOST_EXPLAINED]
    if not found:
        raise DataError("No files to explain. Expected image files or folders.")
    pictures = np.stack([_decoded(file, plan["image_size"], plan["settings"]["fit"]) for file in found])
    probabilities = np.asarray(model.predict(pictures, verbose=0))
    chosen = [classes.index(of_class)] * len(found) if of_class else probabilities.argmax(1).tolist()
    if method == "grad-cam":
        maps, _ = GradCam(model)(pictures, chosen)
    else:
        maps = occlusion_maps(model, pictures, chosen)
    said = [f"{classes[c]} {row[c]:.1%}" for c, row in zip(chosen, probabilities, strict=True)]
    rows = [
        [(picture, file.name), (overlay(picture, one), words)]
        for picture, file, one, words in zip(pictures, found, maps, said, strict=True)
    ]
    draw_rows([list(itertools.chain(*rows[at : at + 3])) for at in range(0, len(rows), 3)], out)
    return [*(f"{file}  {words}" for file, words in zip(found, said, strict=True)), f"drawn to {out}"]


def _decoded(file: Path, size: int, fit: str) -> np.ndarray:
    data = _read(file)
    if isinstance(data, str):
        raise DataError(f"'{file}' cannot be read: {data}. Expected an image file.")
    try:
        return decoded_pixels(data, size, fit)
    except DataError as error:
        raise DataError(f"'{file}' is {error}") from None


def decoded_pixels(data: bytes, size: int, fit: str) -> np.ndarray:
    """An image file's bytes as a model sees them: uint8, shape (size, size, 3). Raises DataError for what does not decode."""
    import tensorflow as tf

    from tlkit.decode import decode_and_resize
    from tlkit.pixels import why_not

    try:
        return decode_and_resize(tf.constant(data), size, fit).numpy()
    except (tf.errors.InvalidArgumentError, ValueError):
        raise DataError(f"no image that decodes: {': '.join(why_not(data))}. Leave it out.") from None


def served_folder(model: str | Path) -> Path:
    """The SavedModel folder of a run, or the folder itself if it is one. Raises RunError otherwise."""
    folder = Path(model)
    if (folder / "saved_model.pb").is_file():
        return folder
    run = open_run(folder)
    if not (run.saved_model / "saved_model.pb").is_file():
        raise RunError(f"The run '{folder}' has no saved_model. Write it with `tlkit export {folder}`.")
    return run.saved_model


def _expand(files: Sequence[str | Path]) -> list[Path]:
    found: list[Path] = []
    for one in map(Path, files):
        if one.is_dir():
            for here, folders, names in os.walk(one):
                folders[:] = sorted(f for f in folders if not f.startswith("."))
                found += [Path(here) / name for name in sorted(names) if not name.startswith(".")]
        elif one.exists():
            found.append(one)
        else:
            siblings = [p.name for p in one.parent.iterdir()] if one.parent.is_dir() else []
            close = nearest(one.name, siblings)
            raise DataError(f"No such file: '{one}'." + (f" Did you mean '{one.parent / close}'?" if close else ""))
    return found


def _read(file: Path) -> bytes | str:
    """A file's bytes, or why not."""
    try:
        if not file.is_file():
            return "not a regular file"
        if file.stat().st_size > MAX_FILE_BYTES:
            return f"larger than {MAX_FILE_BYTES // 1024**2} MiB"
        return file.read_bytes()
    except OSError as error:
        return error.strerror or str(error)
