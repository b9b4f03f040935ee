"""`tlkit serve` under load, and asked with hostile requests. The server has an untrained `nano` at 96 pixels.

python benchmarks/serve_load.py [SECONDS] [NOTE]: 50 clients at once, among them slow, half-open and broken ones.
Appends a row to serve_load.csv: whether every request of the good clients was answered as before the load, their times,
the times of /health, and the server's memory and descriptors.

python benchmarks/serve_load.py fuzz [COUNT] [SEED] [NOTE]: requests of tests/hostile_requests.py, one after another.
Appends a row to serve_fuzz.csv: their statuses, the longest time, what failed, and the server's memory.
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
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from rows import append_row

sys.path.insert(0, str(Path(__file__).parent.parent))
from tests.hostile_requests import answer, hostile_requests

HERE = Path(__file__).parent
GOOD, SLOW, HALF_OPEN, BROKEN = 35, 5, 5, 5
WARM_UP = 20  # requests before the memory at the start is read


def photographs(count: int) -> list[bytes]:
    """JPEGs of 320 x 240 pixels: smooth colours with noise, so that they compress as photographs do."""
    made = []
    for seed in range(count):
        rng = np.random.default_rng(seed)
        small = Image.fromarray(rng.integers(0, 255, (6, 8, 3), dtype="uint8")).resize(
            (320, 240), Image.Resampling.BICUBIC
        )
        pixels = np.asarray(small).astype(int) + rng.integers(-8, 9, (240, 320, 3))
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

    def __init__(self, process: int, port: int, seconds: float, files: list[bytes]) -> None:
        self.process, self.port, self.files = process, port, files
        self.expected = [self.ask_file(one) for one in files]
        for one in (files * WARM_UP)[:WARM_UP]:
            self.ask_rest([one])
        self.end = time.monotonic() + seconds
        self.times: list[float] = []
        self.health: list[float] = []
        self.failed: list[str] = []
        self.others = 0  # requests of slow, half-open and broken clients
        self.states: list[tuple[float, int]] = []  # MB and descriptors of the server, once a second

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
            self.states.append((memory(self.process), descriptors_of(self.process)))
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

    def half_open(self, number: int) -> None:
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
            (self.half_open, HALF_OPEN),
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


class Served:
    """The server in a process of its own."""

    def __init__(self) -> None:
        self._base = tempfile.TemporaryDirectory()
        model = write_model(Path(self._base.name) / "saved_model")
        command = [sys.executable, "-m", "tlkit", "serve", str(model), "--port", "0"]
        self._said = Path(self._base.name) / "said"
        with self._said.open("w") as said:
            self.process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=said, text=True)
        assert self.process.stdout is not None
        self.port = int(re.search(r":(\d+)/", self.process.stdout.readline())[1])  # type: ignore[index]

    def end(self) -> tuple[int, int]:
        """Its exit code at SIGTERM, and how many exceptions it wrote."""
        self.process.send_signal(signal.SIGTERM)
        code = self.process.wait(60)
        said = self._said.read_text(errors="replace")
        self._base.cleanup()
        return code, len(re.findall("Traceback|exception", said))


def load(seconds: float, note: str) -> None:
    """Append a row to serve_load.csv."""
    served = Served()
    clients = Load(served.process.pid, served.port, seconds, photographs(16))
    clients.states.append((memory(clients.process), descriptors_of(clients.process)))
    clients.run()
    time.sleep(5)  # for connections whose clients are gone
    clients.states.append((memory(clients.process), descriptors_of(clients.process)))
    code, exceptions = served.end()
    for reason in sorted(set(clients.failed)):
        print(clients.failed.count(reason), reason)
    megabytes = [one for one, _ in clients.states]
    descriptors = [one for _, one in clients.states]
    append_row(
        HERE / "serve_load.csv",
        {
            "date": datetime.date.today().isoformat(),
            "seconds": seconds,
            "good clients": GOOD,
            "other clients": SLOW + HALF_OPEN + BROKEN,
            "good requests": len(clients.times),
            "failed": len(clients.failed),
            "others' requests": clients.others,
            "p50 s": round(float(np.percentile(clients.times, 50)), 3),
            "p99 s": round(float(np.percentile(clients.times, 99)), 3),
            "most s": round(max(clients.times), 3),
            "health p99 s": round(float(np.percentile(clients.health, 99)), 3),
            "MB at start": round(megabytes[0]),
            "MB in the middle": round(megabytes[len(megabytes) // 2]),
            "MB at end": round(megabytes[-1]),
            "descriptors at start": descriptors[0],
            "descriptors at most": max(descriptors),
            "descriptors at end": descriptors[-1],
            "exceptions": exceptions,
            "exit code at SIGTERM": code,
            "note": note,
        },
    )


def fuzz(count: int, seed: int, note: str) -> None:
    """Append a row to serve_fuzz.csv."""
    served = Served()
    photograph = photographs(1)[0]
    expected = ask_one(served.port, photograph)
    start, statuses, longest, kind_of_longest, failed = memory(served.process.pid), Counter[int](), 0.0, "", 0
    for index, (kind, sent) in enumerate(hostile_requests(count, seed)):
        status, seconds = answer(served.port, sent)
        statuses[status] += 1
        if seconds > longest:
            longest, kind_of_longest = seconds, kind
        if status in (-1, 500) or served.process.poll() is not None:
            failed += 1
            print(f"{kind} {status}: {sent[:300]!r}")
        if index % 50 == 49 and ask_one(served.port, photograph) != expected:
            failed += 1
            print("another answer")
    end, descriptors = memory(served.process.pid), descriptors_of(served.process.pid)
    code, exceptions = served.end()
    append_row(
        HERE / "serve_fuzz.csv",
        {
            "date": datetime.date.today().isoformat(),
            "requests": count,
            "seed": seed,
            "failed": failed,
            "exceptions": exceptions,
            "longest s": round(longest, 2),
            "of kind": kind_of_longest,
            "statuses": " ".join(f"{status}:{number}" for status, number in sorted(statuses.items())),
            "MB at start": round(start),
            "MB at end": round(end),
            "descriptors at end": descriptors,
            "exit code at SIGTERM": code,
            "note": note,
        },
    )


def ask_one(port: int, data: bytes) -> list[str]:
    """The class and the probabilities, to four places, of a file."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
    connection.request("POST", "/predict", data, {"Content-Type": "image/jpeg"})
    (row,) = json.loads(connection.getresponse().read())["predictions"]
    connection.close()
    return [row["class"], *(f"{one:.4f}" for one in row["probabilities"].values())]


if __name__ == "__main__":
    given = sys.argv[1:]
    if given[:1] == ["fuzz"]:
        number, seed, note = (*given[1:], *("1000", "0", "")[len(given) - 1 :])
        fuzz(int(number), int(seed), note)
    else:
        seconds, note = (*given, *("300", "")[len(given) :])
        load(float(seconds), note)
