"""Classify images with TensorFlow Serving, using only the standard library (and tlkit, if it is there, for TIFF).

python examples/serving_client.py http://localhost:8501/v1/models/classifier:predict IMAGE...
"""

import base64
import json
import sys
import urllib.request
from pathlib import Path

try:
    from tlkit import convert  # TIFF, HEIC, AVIF and others become PNG; JPEG, PNG, GIF, BMP and WebP stay as they are
except ImportError:
    convert = bytes  # the model then answers these formats with `problem`

url, *files = sys.argv[1:]
instances = [{"b64": base64.b64encode(convert(Path(file).read_bytes())).decode()} for file in files]
with urllib.request.urlopen(url, json.dumps({"instances": instances}).encode()) as reply:
    answers = json.load(reply)["predictions"]
for file, answer in zip(files, answers, strict=True):
    print(file, answer["class"] or answer["problem"], f"{answer['probability']:.3f}")
