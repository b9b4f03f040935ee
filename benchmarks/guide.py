"""Time transfer learning as in Keras' own guide (keras.io/guides/transfer_learning), without tlkit.

    python benchmarks/guide.py DATA BACKBONE EPOCHS [--alpha A] [--augment] [--fine-tune EPOCHS] [--size 224]

DATA has train/, val/ and test/ folders of class folders. Prints one line of JSON. As in the guide, decoded images are
cached in memory, the frozen base runs inside the model with training=False in every epoch, and Adam has its default
rate; then, with --fine-tune, everything is unfrozen at 1e-5. Unlike the guide, the best epoch's weights are kept.
"""

import argparse
import json
import time

begun = time.monotonic()

import keras  # noqa: E402


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("data")
    parser.add_argument("backbone")
    parser.add_argument("epochs", type=int)
    parser.add_argument("--alpha", type=float, default=1.0)
    parser.add_argument("--augment", action="store_true")
    parser.add_argument("--fine-tune", type=int, default=0)
    parser.add_argument("--size", type=int, default=224)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    keras.utils.set_random_seed(arguments.seed)
    imported, started, size = time.monotonic() - begun, time.monotonic(), arguments.size

    parts = {
        part: keras.utils.image_dataset_from_directory(
            f"{arguments.data}/{part}", image_size=(size, size), batch_size=32, shuffle=part == "train", verbose=False
        )
        for part in ("train", "val", "test")
    }
    classes = len(parts["train"].class_names)
    parts = {part: dataset.cache().prefetch(2) for part, dataset in parts.items()}

    base = getattr(keras.applications, arguments.backbone)(
        weights="imagenet", include_top=False, input_shape=(size, size, 3), alpha=arguments.alpha
    )
    base.trainable = False
    inputs = keras.Input((size, size, 3))
    x = inputs
    if arguments.augment:
        for layer in (keras.layers.RandomFlip("horizontal"), keras.layers.RandomRotation(0.1)):
            x = layer(x)
    x = keras.layers.Rescaling(1 / 127.5, offset=-1)(x)
    x = base(x, training=False)
    x = keras.layers.GlobalAveragePooling2D()(x)
    x = keras.layers.Dropout(0.2)(x)
    model = keras.Model(inputs, keras.layers.Dense(classes, activation="softmax")(x))

    curve = []
    best = Best(started, curve)

    def fit(rate: float, epochs: int) -> None:
        model.compile(keras.optimizers.Adam(rate), "sparse_categorical_crossentropy", metrics=["accuracy"])
        model.fit(parts["train"], epochs=epochs, validation_data=parts["val"], callbacks=[best], verbose=0)

    fit(1e-3, arguments.epochs)
    if arguments.fine_tune:
        base.trainable = True
        fit(1e-5, arguments.fine_tune)
    trained = time.monotonic() - started
    model.set_weights(best.weights)
    accuracy = model.evaluate(parts["test"], verbose=0)[1]
    report = {
        "test_accuracy": accuracy,
        "import_seconds": imported,
        "train_seconds": trained,
        "whole_seconds": time.monotonic() - begun,
        "curve": curve,
    }
    print(json.dumps(report))


class Best(keras.callbacks.Callback):
    """Keep the weights of the epoch with the lowest validation loss, and the validation accuracy over time."""

    def __init__(self, started: float, curve: list) -> None:
        super().__init__()
        self.started, self.curve, self.loss = started, curve, float("inf")

    def on_epoch_end(self, epoch: int, logs: dict | None = None) -> None:
        self.curve.append([round(time.monotonic() - self.started, 2), round(logs["val_accuracy"], 4)])
        if logs["val_loss"] < self.loss:
            self.loss, self.weights = logs["val_loss"], self.model.get_weights()


if __name__ == "__main__":
    main()
