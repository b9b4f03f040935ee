"""What `finetune` does, written out: each line is yours to change.

python examples/own_loop.py DATA OUT [BACKBONE] [IMAGE_SIZE] [WEIGHTS]
"""

import logging
import sys
from pathlib import Path

import tlkit


def main(data: str, out: Path, backbone: str = "nano", size: int = 96, weights: str = "imagenet") -> list[dict]:
    dataset = tlkit.decode_images(tlkit.scan(data), size).split(validation=0.2, seed=0)
    training, validation = dataset.part("train"), dataset.part("val")
    recipe, decision = tlkit.choose_recipe(len(training))
    print(decision.why)

    model = tlkit.build_classifier(
        backbone, len(dataset.class_names), head=recipe.head, image_size=size, weights=weights, seed=0
    )
    history = tlkit.train(model, backbone, recipe, training, validation, seed=0)

    probabilities = tlkit.predict_probabilities(model, validation.pixels)
    scores = tlkit.evaluate(probabilities, validation.labels, dataset.class_names)
    print(f"validation accuracy {scores['accuracy']:.3f}, 95 % interval {scores['accuracy_95']}")

    model.save(out / "model.keras", include_optimizer=False)
    served = tlkit.export(model, dataset.class_names, out / "saved_model")
    print(tlkit.prove_parity(served, dataset.images.part("val").files(), probabilities, dataset.class_names))
    return history.rows


if __name__ == "__main__":
    logging.basicConfig(level=logging.INFO, format="%(message)s")  # what tlkit does, line by line
    folder = Path(sys.argv[2])
    folder.mkdir(parents=True, exist_ok=True)
    main(sys.argv[1], folder, *sys.argv[3:4], *map(int, sys.argv[4:5]), *sys.argv[5:6])
