"""`tlkit serve` under load: 50 clients at once, among them slow, silent and broken ones.

python benchmarks/serving.py [SECONDS] [NOTE] starts a server of an untrained `nano` at 96 pixels, which is as fast as a
trained one, and appends a row to serving.csv: whether every request of the good clients was answered as before the
load, their times, the times of /health, and the server's memory before and after.
"""

import base64
import contextlib
import datetime
import http.client
import io
import json
import re
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from rows import append_row

GOOD, SLOW, SILENT, BROKEN = 35, 5, 5, 5
WARM_UP = 20  # requests before the memory at the start is read


def photographs(count: int) -> list[bytes]:
    """JPEGs of 640 x 480 pixels: smooth colours with noise, so that they compress as photographs do."""
    made = []
    for seed in range(count):
        rng = np.random.default_rng(seed)
        small = Image.fromarray(rng.integers(0, 255, (6, 8, 3), dtype="uint8")).resize(
            (640, 480), Image.Resampling.BICUBIC
        )
        pixels = np.asarray(small).astype(int) + rng.integers(-8, 9, (480, 640, 3))
        stream = io.BytesIO()
        Image.fromarray(pixels.clip(0, 255).astype("uint8")).save(stream, "JPEG", quality=90)
        made.append(stream.getvalue())
    return made


def write_model(folder: Path) -> Path:
    """Export an untrained classifier of 10 classes."""
    from tlkit import build_classifier
    from tlkit.deployment.saved_model import export

    return export(build_classifier("nano", 10, image_size=96), [f"class {i}" for i in range(10)], folder)


class Load:
    """The clients, and what they saw."""

    def __init__(self, port: int, seconds: float, files: list[bytes]) -> None:
        self.port, self.files = port, files
        self.expected = [self.ask_file(one) for one in files]
        for one in (files * WARM_UP)[:WARM_UP]:
            self.ask_rest([one])
        self.end = time.monotonic() + seconds
        self.times: list[float] = []
        self.health: list[float] = []
        self.failed: list[str] = []
        self.others = 0  # requests of slow, silent and broken clients

    def post(self, path: str, body: bytes, kind: str) -> tuple[int, Any]:
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=120)
        try:
            connection.request("POST", path, body, {"Content-Type": kind})
            reply = connection.getresponse()
            return reply.status, json.loads(reply.read())
        finally:
            connection.close()

    def ask_file(self, data: bytes) -> list[float]:
        status, reply = self.post("/predict", data, "image/jpeg")
        assert status == 200, reply
        return list(reply["predictions"][0]["probabilities"].values())

    def ask_rest(self, many: list[bytes]) -> list[list[float]]:
        rows = [{"b64": base64.b64encode(one).decode("ascii")} for one in many]
        body = json.dumps({"instances": rows}).encode()
        status, reply = self.post("/v1/models/classifier:predict", body, "application/json")
        assert status == 200, reply
        return [row["probabilities"] for row in reply["predictions"]]

    def good(self, number: int) -> None:
        turn = number
        while time.monotonic() < self.end:
            picked = [(turn + i) % len(self.files) for i in range(4 if number % 3 == 0 else 1)]
            many = [self.files[one] for one in picked]
            began = time.monotonic()
            try:
                found = [self.ask_file(many[0])] if number % 3 == 1 else self.ask_rest(many)
                if not np.allclose(found, [self.expected[one] for one in picked[: len(found)]], atol=1e-5):
                    self.failed.append("another answer")
            except Exception as error:
                self.failed.append(f"{type(error).__name__}: {error}")
            self.times.append(time.monotonic() - began)
            turn += 1

    def watch(self, number: int) -> None:
        while time.monotonic() < self.end:
            began = time.monotonic()
            try:
                connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=60)
                connection.request("GET", "/health")
                if connection.getresponse().status != 200:
                    self.failed.append("not healthy")
                connection.close()
            except OSError as error:
                self.failed.append(f"health: {error}")
            self.health.append(time.monotonic() - began)
            time.sleep(1)

    def slow(self, number: int) -> None:
        """A byte every two seconds, again and again on new connections."""
        while time.monotonic() < self.end:
            self.others += 1
            with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", self.port), timeout=5) as one:
                one.sendall(b"POST /predict HTTP/1.1\r\nHost: localhost\r\nContent-Length: 100000\r\n\r\n")
                while time.monotonic() < self.end:
                    one.sendall(b"\xff")
                    time.sleep(2)

    def silent(self, number: int) -> None:
        """Forty connections that say nothing, or half a header."""
        while time.monotonic() < self.end:
            with contextlib.ExitStack() as stack, contextlib.suppress(OSError):
                for i in range(40):
                    self.others += 1
                    one = socket.create_connection(("127.0.0.1", self.port), timeout=5)
                    stack.enter_context(one)
                    if i % 2:
                        one.sendall(b"GET / HT")
                time.sleep(min(15, max(0, self.end - time.monotonic())))

    def broken(self, number: int) -> None:
        """Junk, cut requests, JPEGs of padding, and clients that hang up before the answer."""
        padding = b"\xff\xd8" + b"\xff" * 1100
        rows = [{"b64": base64.b64encode(padding).decode("ascii")}] * 8
        asked = json.dumps({"instances": rows}).encode()
        bodies: list[tuple[str, bytes]] = [
            ("/predict", b"junk"),
            ("/predict", self.files[0][:5000]),
            ("/predict", b"\xff\xd8" + b"\xff" * 2_000_000),
            ("/v1/models/classifier:predict", asked),
            ("/v1/models/classifier:predict", asked[:-200]),
            ("/v1/models/other:predict", b"{}"),
        ]
        turn = number
        while time.monotonic() < self.end:
            path, body = bodies[turn % len(bodies)]
            turn += 1
            self.others += 1
            with contextlib.suppress(OSError, http.client.HTTPException):
                if turn % 7 == 0:
                    with socket.create_connection(("127.0.0.1", self.port), timeout=5) as one:
                        head = (
                            f"POST /predict HTTP/1.1\r\nHost: localhost\r\nContent-Length: {len(self.files[0])}\r\n\r\n"
                        )
                        one.sendall(head.encode() + self.files[0])
                else:
                    self.post(path, body, "application/octet-stream")
            time.sleep(0.5)

    def run(self) -> None:
        kinds: list[tuple[Callable[[int], None], int]] = [
            (self.good, GOOD),
            (self.slow, SLOW),
            (self.silent, SILENT),
            (self.broken, BROKEN),
            (self.watch, 1),
        ]
        threads = [threading.Thread(target=kind, args=(i,)) for kind, count in kinds for i in range(count)]
        for one in threads:
            one.start()
        for one in threads:
            one.join()


def memory(process: int) -> float:
    """MB of memory that a process holds."""
    text = Path(f"/proc/{process}/status").read_text()
    return int(re.search(r"VmRSS:\s+(\d+)", text)[1]) / 1000  # type: ignore[index]


def descriptors_of(process: int) -> int:
    """How many files and connections a process has open."""
    return len(list(Path(f"/proc/{process}/fd").iterdir()))


def main(seconds: float, note: str) -> None:
    with tempfile.TemporaryDirectory() as base:
        model = write_model(Path(base) / "saved_model")
        command = [sys.executable, "-m", "tlkit", "serve", str(model), "--port", "0"]
        process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        assert process.stdout is not None
        line = process.stdout.readline()
        load = Load(int(re.search(r":(\d+)/", line)[1]), seconds, photographs(16))  # type: ignore[index]
        start, descriptors_start = memory(process.pid), descriptors_of(process.pid)
        load.run()
        end, descriptors_end = memory(process.pid), descriptors_of(process.pid)
        process.send_signal(signal.SIGTERM)
        code = process.wait(60)
    for reason in sorted(set(load.failed)):
        print(load.failed.count(reason), reason)
    append_row(
        Path(__file__).parent / "serving.csv",
        {
            "date": datetime.date.today().isoformat(),
            "seconds": seconds,
            "good clients": GOOD,
            "other clients": SLOW + SILENT + BROKEN,
            "good requests": len(load.times),
            "failed": len(load.failed),
            "others' requests": load.others,
            "p50 s": round(float(np.percentile(load.times, 50)), 3),
            "p99 s": round(float(np.percentile(load.times, 99)), 3),
            "most s": round(max(load.times), 3),
            "health p99 s": round(float(np.percentile(load.health, 99)), 3),
            "MB at start": round(start),
            "MB at end": round(end),
            "descriptors at start": descriptors_start,
            "at end": descriptors_end,
            "exit code at SIGTERM": code,
            "note": note,
        },
    )


if __name__ == "__main__":
    main(float(sys.argv[1]) if len(sys.argv) > 1 else 300, sys.argv[2] if len(sys.argv) > 2 else "")
