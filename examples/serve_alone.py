"""Classify images with an exported SavedModel and only TensorFlow: no tlkit, no Keras.

python examples/serve_alone.py RUN/saved_model IMAGE...
"""

import sys
from pathlib import Path

import tensorflow as tf

classify = tf.saved_model.load(sys.argv[1]).signatures["serving_default"]
files = sys.argv[2:]
answer = classify(image_bytes=tf.constant([Path(file).read_bytes() for file in files]))
for file, name, probability, problem in zip(
    files, answer["class"].numpy(), answer["probability"].numpy(), answer["problem"].numpy(), strict=True
):
    print(f"{file}: {name.decode()} {probability:.3f}" if not problem else f"{file}: {problem.decode()}")
