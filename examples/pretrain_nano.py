"""Train the backbone `nano` from random weights on a folder of images, as its published weights were trained.

    python examples/pretrain_nano.py CORPUS --work WORK [--teacher mobilenetv2] [--views 8] [--epochs 60]

CORPUS is a folder with one folder per class, or a folder of zip shards with a labels.csv (columns shard, name, label).

Each image has two targets: its label, and the output of the teacher, a larger network with ImageNet weights, for the
same crop (distillation: Hinton et al. 2015, arXiv:1503.02531; the same crop for teacher and student: Beyer et al. 2022,
arXiv:2106.05237). The teacher runs once over a few fixed crops of each image; its outputs are stored under WORK. If the
script is stopped and started again, it continues from its last epoch. At the end WORK/nano.npz holds the weights in
float16. The script needs only Keras, NumPy, Pillow and OpenCV, so it runs on any Keras backend.
"""

from __future__ import annotations

import argparse
import csv
import io
import json
import time
import zipfile
from pathlib import Path

import cv2
import keras
import numpy as np
from PIL import Image

from tlkit.backbones import BACKBONES, find_weights, load_backbone_weights
from tlkit.backbones.nano import nano
from tlkit.backbones.normalise import normalise
from tlkit.backbones.weights import save_arrays
from tlkit.files import temporary_beside, write_atomically

COMPONENTS = 640  # principal components of the teacher's features that nano learns to predict
BATCH = 128
LARGE = 0.2  # the share of epochs, at the end, with larger images


def main() -> None:
    arguments = _arguments()
    work = Path(arguments.work)
    work.mkdir(parents=True, exist_ok=True)
    cv2.setNumThreads(0)
    images, labels, names = read_corpus(Path(arguments.corpus))
    print(f"{len(images):,} images, {len(names)} labels", flush=True)
    views = Views(images, arguments.views, arguments.seed)
    features = teacher_features(views, arguments.teacher, arguments.teacher_size, work)
    targets = Targets(features, labels, len(names), arguments.seed)
    train(views, targets, arguments, work)


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("corpus")
    parser.add_argument("--work", required=True, help="folder for teacher outputs, checkpoints and nano.npz")
    parser.add_argument("--teacher", default="mobilenetv2")
    parser.add_argument("--teacher-size", type=int, default=160)
    parser.add_argument("--views", type=int, default=8)
    parser.add_argument("--epochs", type=int, default=60)
    parser.add_argument("--stop-after", type=int, metavar="N", help="stop after N epochs, to continue later")
    parser.add_argument("--sizes", type=int, nargs=2, default=(64, 96), help="pixels: most epochs, the last fifth")
    parser.add_argument("--learning-rate", type=float, default=2e-3)
    parser.add_argument("--policy", default="float32", help="float32, mixed_bfloat16 or mixed_float16")
    parser.add_argument("--seed", type=int, default=0)
    return parser.parse_args()


def read_corpus(corpus: Path) -> tuple[list[np.ndarray], np.ndarray, list[str]]:
    """Return every image as uint8 RGB, the index of its label, and the names of the labels."""
    table = corpus / "labels.csv"
    pairs: list[tuple[str, bytes]] = []
    if table.exists():
        shards = {path.name: zipfile.ZipFile(path) for path in corpus.glob("*.zip")}
        with table.open(newline="") as stream:
            pairs = [(row["label"], shards[row["shard"]].read(row["name"])) for row in csv.DictReader(stream)]
    else:
        files = sorted(path for path in corpus.glob("*/*") if path.is_file())
        pairs = [(path.parent.name, path.read_bytes()) for path in files]
    if not pairs:
        raise SystemExit(f"No images in '{corpus}'. Expected a folder per class, or zip shards and labels.csv.")
    names = sorted({label for label, _ in pairs})
    index_of = {name: index for index, name in enumerate(names)}
    images = [np.asarray(Image.open(io.BytesIO(data)).convert("RGB")) for _, data in pairs]
    return images, np.array([index_of[label] for label, _ in pairs]), names


class Views:
    """Fixed crops of every image, the same for teacher and student, determined by the seed.

    A view is a crop of 25 to 100 % of the area; one in ten is grey, one in thirty inverted.
    """

    def __init__(self, images: list[np.ndarray], count: int, seed: int) -> None:
        self.images, self.count = images, count
        random = np.random.default_rng(seed)
        shape = (count, len(images))
        self.area = random.uniform(0.25, 1.0, shape)
        self.ratio = np.exp(random.uniform(-0.29, 0.29, shape))
        self.offset = random.uniform(0, 1, (*shape, 2))
        self.grey = random.uniform(size=shape) < 0.1
        self.inverted = random.uniform(size=shape) < 1 / 30

    def render(self, view: int, index: int, size: int) -> np.ndarray:
        """Return one view of one image, uint8, shape (size, size, 3)."""
        image = self.images[index]
        height, width = image.shape[:2]
        side = np.sqrt(self.area[view, index] * height * width)
        h = min(height, round(side / np.sqrt(self.ratio[view, index])))
        w = min(width, round(side * np.sqrt(self.ratio[view, index])))
        top, left = (self.offset[view, index] * (height - h, width - w)).astype(int)
        crop = cv2.resize(image[top : top + h, left : left + w], (size, size), interpolation=cv2.INTER_CUBIC)
        if self.grey[view, index]:
            crop = cv2.cvtColor(cv2.cvtColor(crop, cv2.COLOR_RGB2GRAY), cv2.COLOR_GRAY2RGB)
        return 255 - crop if self.inverted[view, index] else crop


def teacher_features(views: Views, name: str, size: int, work: Path) -> list[np.ndarray]:
    """Return the teacher's pooled features of every view, float16, shape (n, channels) each.

    They are computed once and stored under `work`.
    """
    backbone = BACKBONES[name]
    file = find_weights(backbone, "imagenet")
    inputs, outputs = backbone.build(size)
    assert file is not None
    load_backbone_weights(backbone, keras.Model(inputs, outputs), file)
    teacher = keras.Model(inputs, keras.layers.GlobalAveragePooling2D()(outputs))
    found = []
    for view in range(views.count):
        path = work / f"{name}_{size}_view{view}.npy"
        if not path.exists():
            started = time.monotonic()
            rows = []
            for start in range(0, len(views.images), 64):
                indices = range(start, min(start + 64, len(views.images)))
                pixels = np.stack([views.render(view, i, size) for i in indices]).astype("float32")
                rows.append(np.asarray(teacher.predict_on_batch(pixels), "float16"))
            with temporary_beside(path) as temporary:
                np.save(temporary, np.concatenate(rows))
            print(f"view {view}: {time.monotonic() - started:.0f} s", flush=True)
        found.append(np.load(path))
    return found


class Targets:
    """The targets of a view: a distribution over labels, and the teacher's main principal components.

    labels: half the true label, half the prediction of a linear classifier on the teacher's features.
    components: principal components, each scaled by variance ** -0.25 (an exponent of 0 leaves them unscaled, -0.5
        makes all variances equal), and all together to mean square 1.
    """

    def __init__(self, features: list[np.ndarray], labels: np.ndarray, classes: int, seed: int) -> None:
        self.features, self.labels, self.classes = features, labels, classes
        sample = np.concatenate([view[:: max(1, len(features))] for view in features]).astype("float32")
        self.mean, deviation = sample.mean(0), sample.std(0) + 1e-4
        self.scale = 1 / deviation
        standard = (sample - self.mean) * self.scale
        variances, directions = np.linalg.eigh(standard.T @ standard / len(standard))
        keep = np.argsort(variances)[::-1][:COMPONENTS]
        weight = np.maximum(variances[keep], 1e-3) ** -0.25
        self.projection = (directions[:, keep] * weight).astype("float32")
        self.projection /= np.sqrt(np.mean((standard @ self.projection) ** 2))
        self.classifier = self._fit_classifier(seed)

    @property
    def components(self) -> int:
        return self.projection.shape[1]

    def of(self, view: int, indices: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return labels, shape (n, classes), and components, shape (n, components), float32."""
        standard = (self.features[view][indices].astype("float32") - self.mean) * self.scale
        logits = standard @ self.classifier[0] + self.classifier[1]
        logits = np.exp(logits - logits.max(-1, keepdims=True))
        truth = np.eye(self.classes, dtype="float32")[self.labels[indices]]
        return 0.5 * truth + 0.5 * logits / logits.sum(-1, keepdims=True), standard @ self.projection

    def _fit_classifier(self, seed: int) -> tuple[np.ndarray, np.ndarray]:
        keras.utils.set_random_seed(seed)
        model = keras.Sequential(
            [
                keras.Input((len(self.mean),)),
                keras.layers.Dropout(0.5),
                keras.layers.Dense(self.classes, activation="softmax"),
            ]
        )
        model.compile(
            keras.optimizers.AdamW(1e-3, weight_decay=0.01), "sparse_categorical_crossentropy", metrics=["acc"]
        )
        x = np.concatenate([(view.astype("float32") - self.mean) * self.scale for view in self.features[:2]])
        history = model.fit(x, np.tile(self.labels, len(self.features[:2])), batch_size=256, epochs=6, verbose=0)
        print(f"classifier on the teacher's features: training accuracy {history.history['acc'][-1]:.3f}", flush=True)
        kernel, bias = model.layers[-1].get_weights()
        return kernel, bias


class Batches(keras.utils.PyDataset):
    """One random view of every image per epoch, in random order, randomly flipped and with random colour changes."""

    def __init__(self, views: Views, targets: Targets, size: int, seed: int, epoch: int) -> None:
        super().__init__(workers=2, use_multiprocessing=False, max_queue_size=16)
        self.views, self.targets, self.size, self.seed = views, targets, size, seed
        random = np.random.default_rng((seed, epoch))
        self.epoch = epoch
        self.order = random.permutation(len(views.images))
        self.view = random.permutation(len(views.images)) % views.count

    def __len__(self) -> int:
        return len(self.order) // BATCH or 1

    def __getitem__(self, batch: int) -> tuple[np.ndarray, tuple[np.ndarray, np.ndarray]]:
        random = np.random.default_rng((self.seed, self.epoch, batch))
        indices = self.order[batch * BATCH : (batch + 1) * BATCH]
        pixels = np.stack([self.views.render(self.view[i], i, self.size) for i in indices]).astype("float32")
        flip = random.uniform(size=len(indices)) < 0.5
        pixels[flip] = pixels[flip, :, ::-1]
        shape = (len(indices), 1, 1, 1)
        mean = pixels.mean((1, 2, 3), keepdims=True)
        pixels = (pixels - mean) * random.uniform(0.7, 1.3, shape) + mean + random.uniform(-30, 30, shape)
        pixels *= random.uniform(0.9, 1.1, (len(indices), 1, 1, 3))
        np.clip(pixels, 0, 255, out=pixels)
        labels = np.empty((len(indices), self.targets.classes), "float32")
        components = np.empty((len(indices), self.targets.components), "float32")
        for view in range(self.views.count):
            here = self.view[indices] == view
            if here.any():
                labels[here], components[here] = self.targets.of(view, indices[here])
        return pixels.astype("float32"), (labels, components)


def train(views: Views, targets: Targets, arguments: argparse.Namespace, work: Path) -> None:
    """Train nano one epoch at a time, with a checkpoint after each."""
    keras.utils.set_random_seed(arguments.seed)
    keras.config.set_dtype_policy(arguments.policy)
    inputs = keras.Input((None, None, 3), dtype="float32")
    network = keras.Model(inputs, nano(normalise("tf", inputs)), name="nano")
    pooled = keras.layers.GlobalAveragePooling2D(dtype="float32")(network.output)
    labels = keras.layers.Dense(targets.classes, dtype="float32", name="labels")(pooled)
    components = keras.layers.Dense(targets.components, dtype="float32", name="components")(pooled)
    model = keras.Model(inputs, [labels, components])
    steps = max(1, len(views.images) // BATCH)
    rate = keras.optimizers.schedules.CosineDecay(
        arguments.learning_rate / 100,
        (arguments.epochs - 2) * steps if arguments.epochs > 2 else steps,
        alpha=0.01,
        warmup_target=arguments.learning_rate,
        warmup_steps=2 * steps,
    )
    optimizer = keras.optimizers.AdamW(rate, weight_decay=0.05)
    optimizer.exclude_from_weight_decay(var_names=["bias", "gamma", "beta"])
    model.compile(
        optimizer,
        loss=[keras.losses.CategoricalCrossentropy(from_logits=True), keras.losses.MeanSquaredError()],
        loss_weights=[1.0, 3.0],
    )
    checkpoint, progress = work / "training.keras", work / "progress.json"
    done = json.loads(progress.read_text())["epochs"] if progress.exists() else 0
    if done:
        model = keras.models.load_model(checkpoint)
        network = keras.Model(model.inputs, model.get_layer("top_relu").output)
    hours = json.loads(progress.read_text())["hours"] if done else 0.0
    for epoch in range(done, arguments.stop_after or arguments.epochs):
        started = time.monotonic()
        size = arguments.sizes[epoch >= (1 - LARGE) * arguments.epochs]
        history = model.fit(Batches(views, targets, size, arguments.seed, epoch), epochs=1, verbose=0).history
        seconds = time.monotonic() - started
        hours += seconds / 3600
        losses = {name: round(values[-1], 4) for name, values in history.items()}
        print(json.dumps({"epoch": epoch, "size": size, "seconds": round(seconds), **losses}), flush=True)
        with temporary_beside(checkpoint) as temporary:
            model.save(temporary)
        write_atomically(progress, json.dumps({"epochs": epoch + 1, "hours": round(hours, 3), **losses}))
    print("SHA-256", save_arrays(network, work / "nano.npz"), flush=True)


if __name__ == "__main__":
    main()
