"""Counts and times of a server in Prometheus' text format.

https://prometheus.io/docs/instrumenting/exposition_formats
"""

from __future__ import annotations

import threading
import time
from collections import Counter
from pathlib import Path

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
_BOUNDS = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0)  # seconds


class Metrics:
    """Counts requests by endpoint and status, images by outcome, and seconds by endpoint. Safe between threads."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._requests: Counter[tuple[str, int]] = Counter()
        self._images: Counter[str] = Counter()
        self._seconds: dict[str, tuple[list[int], float]] = {}
        self._start = time.time()
        self._dropped = 0

    def request(self, endpoint: str, status: int, seconds: float) -> None:
        """Count a request. seconds: from its last byte being read to its answer, with the wait for its turn."""
        with self._lock:
            self._requests[endpoint, status] += 1
            counts, total = self._seconds.get(endpoint, ([0] * (len(_BOUNDS) + 1), 0.0))
            counts[next((i for i, bound in enumerate(_BOUNDS) if seconds <= bound), len(_BOUNDS))] += 1
            self._seconds[endpoint] = counts, total + seconds

    def refuse(self, status: int) -> None:
        """Count a request that was answered without being read: malformed, too large, too slow, or too many."""
        with self._lock:
            self._requests["unread", status] += 1

    def image(self, outcome: str, count: int = 1) -> None:
        """Count images. outcome: "answered", "unsure" or "unreadable"."""
        with self._lock:
            self._images[outcome] += count

    def drop(self) -> None:
        """Count a connection that was closed for a slow or idle client."""
        with self._lock:
            self._dropped += 1

    def text(self) -> str:
        """All of them, as Prometheus reads them."""
        with self._lock:
            lines = [
                "# HELP tlkit_requests_total Requests by endpoint and status.",
                "# TYPE tlkit_requests_total counter",
            ]
            lines += [
                f'tlkit_requests_total{{endpoint="{endpoint}",status="{status}"}} {count}'
                for (endpoint, status), count in sorted(self._requests.items())
            ]
            lines += ["# HELP tlkit_images_total Images by outcome.", "# TYPE tlkit_images_total counter"]
            lines += [f'tlkit_images_total{{outcome="{one}"}} {self._images[one]}' for one in _OUTCOMES]
            lines += [
                "# HELP tlkit_request_seconds Seconds from a request to its answer.",
                "# TYPE tlkit_request_seconds histogram",
            ]
            for endpoint, (counts, total) in sorted(self._seconds.items()):
                lines += _histogram(endpoint, counts, total)
        for name, kind, text, value in (
            (
                "tlkit_connections_dropped_total",
                "counter",
                "Connections of slow or idle clients closed.",
                self._dropped,
            ),
            ("process_start_time_seconds", "gauge", "Start, in seconds since 1970.", round(self._start, 3)),
            ("process_resident_memory_bytes", "gauge", "Memory of the process.", _resident()),
        ):
            if value is not None:
                lines += [f"# HELP {name} {text}", f"# TYPE {name} {kind}", f"{name} {value}"]
        return "\n".join(lines) + "\n"


_OUTCOMES = ("answered", "unsure", "unreadable")


def _histogram(endpoint: str, counts: list[int], total: float) -> list[str]:
    lines, seen = [], 0
    for bound, count in zip((*map(str, _BOUNDS), "+Inf"), counts, strict=True):
        seen += count
        lines.append(f'tlkit_request_seconds_bucket{{endpoint="{endpoint}",le="{bound}"}} {seen}')
    lines.append(f'tlkit_request_seconds_sum{{endpoint="{endpoint}"}} {total:.6f}')
    lines.append(f'tlkit_request_seconds_count{{endpoint="{endpoint}"}} {seen}')
    return lines


def _resident() -> int | None:
    """Bytes of memory of this process; None where /proc does not tell."""
    try:
        for entry in Path("/proc/self/status").read_text(encoding="ascii", errors="replace").splitlines():
            if entry.startswith("VmRSS:"):
                return int(entry.split()[1]) * 1024
    except (OSError, ValueError, IndexError):
        pass
    return None
