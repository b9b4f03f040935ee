"""Runs a SavedModel on files. A program for a separate process, in which Keras and tlkit cannot be imported.

Usage: python _worker.py, with this JSON on standard input:
{"saved_model": FOLDER, "files": [...], "answers": FILE.npz, "batch_size": N}
The input may come long after the start, so that TensorFlow is already imported by then.
"""

import ctypes
import json
import os
import signal
import sys
import threading
import time

given: list[str] = []


def read() -> None:
    """Read the question. If the process that started this one ends before it asks, end too, also during an import."""
    given.append(sys.stdin.read())
    if not given[0]:
        os._exit(1)


reader = threading.Thread(target=read, daemon=True)
reader.start()
if sys.platform == "linux":
    ctypes.CDLL(None).prctl(1, signal.SIGKILL)  # PR_SET_PDEATHSIG: end with that process at once, whatever ends it

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
for absent in ("keras", "tf_keras", "tlkit"):
    sys.modules[absent] = None  # type: ignore[assignment]  # importing one of them now fails

import numpy as np  # noqa: E402
import tensorflow as tf  # noqa: E402


def main() -> None:
    reader.join()
    question = json.loads(given[0])
    files, batch_size = question["files"], question["batch_size"]
    serve = tf.saved_model.load(question["saved_model"]).signatures["serving_default"]
    first = serve(image_bytes=tf.constant([b""]))  # the first call is slower; it is not timed
    found: dict[str, list[np.ndarray]] = {"probabilities": [], "class": [], "sure": [], "ok": []}
    found |= {name: [] for name in ("known", "prediction_set") if name in first}
    began = time.perf_counter()
    for start in range(0, len(files), batch_size):
        data = []
        for file in files[start : start + batch_size]:
            with open(file, "rb") as stream:
                data.append(stream.read())
        reply = serve(image_bytes=tf.constant(data))
        for name, parts in found.items():
            parts.append(reply[name if name in reply else "ok"].numpy())  # an older export has no `sure`
    joined = {name: np.concatenate(parts) for name, parts in found.items()}
    joined["class"] = np.array([name.decode("utf-8") for name in joined["class"]])
    joined["seconds"] = np.array(time.perf_counter() - began)
    np.savez(question["answers"], allow_pickle=False, **joined)


main()
