"""The ways by which a file enters tlkit, in a process of their own that is asked file after file.

    python benchmarks/files_doors.py doors EXPORT | reference SIZE

A line of JSON on standard input, {"door", "files", "depth"}, is answered by one on standard output: ok, problem, notes,
pixels (base64), seconds, memory (bytes of peak above what the process held before) and, if an exception came out, its
trace. The door "batch" asks the SavedModel about several files in one request; its answers to the same bytes are then
kept for the other doors until the next batch. Linux only, because peaks are read from /proc.
"""

import base64
import ctypes
import dataclasses
import gc
import importlib
import json
import os
import sys
import tempfile
import time
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

Answer = dict[str, Any]


class Doors:
    """scan, decode, model (the SavedModel alone), predict and serve, of one export."""

    def __init__(self, export: str) -> None:
        import tensorflow as tf
        from PIL import Image

        predict_room, serve_room = (importlib.import_module(f"tlkit.runs.{name}") for name in ("predict", "serve"))

        self.export, self.bits = Path(export), 16
        self.size = json.loads((self.export / "tlkit.json").read_text())["image_size"]
        self.signatures = tf.saved_model.load(export).signatures
        self.known: dict[bytes, tuple[Any, ...]] = {}
        names = json.loads((self.export / "tlkit.json").read_text())["classes"]
        predict_room.open_exported = lambda _: (names, self.asked)  # one model for all doors
        serve_room.opened_default = lambda _: (names, self.asked)
        serve_room.load_signatures = lambda _: dict(self.signatures)
        app = serve_room.make_app(export)
        app.config["PROPAGATE_EXCEPTIONS"] = True
        self.client = app.test_client()
        self.scratch = Path(tempfile.mkdtemp())
        self.good = self.scratch / "good.png"
        Image.radial_gradient("L").resize((20, 20)).save(self.good)
        self.scanned: tuple[str, Any, list[str]] = ("", None, [])
        for door in (self.scan, self.decode, self.model, self.predict, self.serve):
            door(self.good)
        gc.freeze()  # what is loaded by now is not looked through again

    def scan(self, file: Path) -> Answer:
        """The file in a class folder, beside a good one, under a plain name with its own extension."""
        import tlkit

        folder = Path(tempfile.mkdtemp(dir=self.scratch)) / "data" / "class"
        folder.mkdir(parents=True)
        (folder / "good.png").symlink_to(self.good)
        name = f"class/file{file.suffix.lower()}"
        (folder.parent / name).symlink_to(file.absolute())
        images = tlkit.scan(folder.parent)
        rows = images.problems[images.problems["path"] == name]
        notes = [f"{one.problem}: {one.detail}" for one in rows.itertuples() if one.action == "used"]
        left_out = [f"{one.problem}: {one.detail}" for one in rows.itertuples() if one.action != "used"]
        table = images.table[images.table["path"] == name]
        self.scanned = (str(file), images, notes)
        sizes = {"width": int(table["width"].iloc[0]), "height": int(table["height"].iloc[0])} if len(table) else {}
        return {"ok": bool(len(table)), "problem": "; ".join(left_out), "notes": notes, **sizes}

    def decode(self, file: Path) -> Answer:
        """The decoder that fills the cache, and what the model answers to its pixels."""
        import tensorflow as tf

        from tlkit.cache import Cache
        from tlkit.data.pixels import decode

        if self.scanned[0] != str(file):
            self.scan(file)
        images = self.scanned[1]
        name = f"class/file{file.suffix.lower()}"
        row = list(images.table["path"]).index(name) if name in set(images.table["path"]) else None
        if row is None:
            return {"ok": False, "problem": "left out by scan"}
        cache = Cache(root=Path(tempfile.mkdtemp(dir=self.scratch)))
        images = dataclasses.replace(images, depth=self.bits)
        pixels, findings = decode(images, self.size, "squash", cache)
        mine = [one for one in findings if one["path"] == name]
        lost = [f"{one['problem']}: {one['detail']}" for one in mine if one["action"] != "used"]
        if lost:
            return {"ok": False, "problem": "; ".join(lost)}
        values = pixels.of(images).gather([row])
        seen = self.signatures["serve"](image=tf.constant(values))["probabilities"].numpy()[0]
        notes = [f"{one['problem']}: {one['detail']}" for one in mine]
        return {"ok": True, "problem": "", "notes": notes, "answer": seen.tolist(), **packed(values[0])}

    def depth(self, files: list[Path]) -> Answer:
        """The bits that the 16-bit files of a corpus use together."""
        from tlkit.data.depth import depth_of

        return {"ok": True, "problem": "", "depth": depth_of(files)}

    def batch(self, files: list[Path]) -> Answer:
        self.known.clear()
        self.asked([file.read_bytes() for file in files])
        return {"ok": True, "problem": ""}

    def asked(self, data: list[bytes]) -> Any:
        """The SavedModel's ok, sure and probabilities, as `tlkit.deployment.exported.Reply`."""
        import tensorflow as tf

        from tlkit.deployment.exported import Reply

        new = [one for one in dict.fromkeys(data) if one not in self.known]
        if new:
            reply = self.signatures["serving_default"](image_bytes=tf.constant(new))
            columns = [reply[name].numpy() for name in ("ok", "sure", "probabilities", "problem")]
            self.known.update(zip(new, zip(*columns, strict=True), strict=True))
        oks, sures, values, _ = zip(*(self.known[one] for one in data), strict=True)
        return Reply((np.array(oks), np.array(sures), np.stack(values)))

    def model(self, file: Path) -> Answer:
        data = file.read_bytes()
        self.asked([data])
        ok, _, values, problem = self.known[data]
        return {"ok": bool(ok), "problem": problem.decode("utf-8", "replace"), "answer": values.tolist()}

    def predict(self, file: Path) -> Answer:
        import tlkit

        row = tlkit.predict(self.export, [file], top=1).iloc[0]
        ok = row["prediction"] is not None
        return {"ok": ok, "problem": row["problem"], "answer": [row["probability"]] if ok else []}

    def serve(self, file: Path) -> Answer:
        reply = self.client.post("/predict", data=file.read_bytes(), content_type="application/octet-stream")
        told = reply.get_json()
        if reply.status_code != 200:
            return {"ok": False, "problem": f"status {reply.status_code}: {told['error']}"}
        (one,) = told["predictions"]
        return {"ok": one["ok"], "problem": one["problem"], "answer": [one["probability"]] if one["ok"] else []}


class Pillow:
    """The reference."""

    def __init__(self, size: str) -> None:
        from pi_heif import register_heif_opener

        register_heif_opener()
        self.size, self.bits = int(size), 16

    def reference(self, file: Path) -> Answer:
        from files_reference import reference

        try:
            pixels, kind, stored = reference(file.read_bytes(), self.size, self.bits)
        except Exception as error:  # Pillow raises many kinds, and is not on trial
            return {"ok": False, "problem": f"{type(error).__name__}: {error}"[:200]}
        return {"ok": True, "problem": "", "format": kind, "stored": stored, **packed(pixels)}


def packed(pixels: Any) -> Answer:
    return {"pixels": base64.b64encode(pixels.tobytes()).decode()}


def measured(door: Callable[[Any], Answer], file: Path | list[Path]) -> Answer:
    """A door's answer with its seconds, its processor's seconds, and its peak of memory."""
    gc.collect()
    ctypes.CDLL(None).malloc_trim(0)
    Path("/proc/self/clear_refs").write_text("5")  # the peak begins anew
    before, started, worked = resident("VmRSS"), time.monotonic(), time.process_time()
    try:
        answer = door(file)
    except Exception as error:
        trace = traceback.format_exc(limit=-4)
        answer = {"ok": False, "problem": f"{type(error).__name__}: {error}"[:300], "trace": trace}
    answer["seconds"], answer["worked"] = time.monotonic() - started, time.process_time() - worked
    answer["memory"] = max(0, resident("VmHWM") - before)
    return answer


def resident(name: str) -> int:
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(name):
            return int(line.split()[1]) * 1024
    raise RuntimeError(f"no {name} in /proc/self/status")


def main() -> None:
    kind, *arguments = sys.argv[1:]
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # what libraries print is no answer
    asked = Doors(*arguments) if kind == "doors" else Pillow(*arguments)
    print("ready", file=answers, flush=True)
    for line in sys.stdin:
        question = json.loads(line)
        files = [Path(file) for file in question["files"]]
        asked.bits = question["depth"]
        takes_all = question["door"] in ("batch", "depth")
        answer = measured(getattr(asked, question["door"]), files if takes_all else files[0])
        print(json.dumps(answer), file=answers, flush=True)


if __name__ == "__main__":
    main()
