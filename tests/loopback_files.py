"""A web server on the loopback with a few files, which can cut connections, ignore ranges, and answer like a hub."""

from __future__ import annotations

import contextlib
import hashlib
import re
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

COMMIT = "0123456789abcdef0123456789abcdef01234567"


@dataclass
class Files:
    """files: contents by path. cuts: after how many bytes the next connections end. asked: "GET /path bytes=5-"."""

    files: dict[str, bytes]
    cuts: list[int] = field(default_factory=list)
    ranges: bool = True
    asked: list[str] = field(default_factory=list)
    tokens: set[str] = field(default_factory=set)
    address: str = ""

    def got(self, end: str) -> list[str]:
        return [one for one in self.asked if one.startswith("GET") and end in one]


@contextlib.contextmanager
def served(given: dict[str, bytes], **settings: Any) -> Iterator[Files]:
    """Serve files while the block runs. Paths "/USER/REPO/FILE" are also a repository of one commit on a hub.

    The repository "me/closed" is open only to those who accepted its terms.
    """
    state = Files({f"/{path}": data for path, data in given.items()}, **settings)

    class Handler(BaseHTTPRequestHandler):
        def log_message(self, *words: Any) -> None:
            pass

        def do_HEAD(self) -> None:
            self._answer(body=False)

        def do_GET(self) -> None:
            self._answer(body=True)

        def _answer(self, body: bool) -> None:
            span = self.headers.get("Range") or ""
            state.asked.append(f"{self.command} {self.path} {span}".strip())
            state.tokens.add(self.headers.get("Authorization") or "")
            hub = re.fullmatch(r"(/[^/]+/[^/]+)/resolve/([^/]+)/(.+)", self.path)
            data = state.files.get(f"{hub[1]}/{hub[3]}" if hub else self.path)
            if data is None:
                known = hub and any(one.startswith(f"{hub[1]}/") for one in state.files)
                closed = hub is not None and hub[1] == "/me/closed"
                self.send_response(403 if closed else 404)
                self.send_header(
                    "X-Error-Code", "GatedRepo" if closed else "EntryNotFound" if known else "RepoNotFound"
                )
                self.send_header("X-Repo-Commit", COMMIT)
                self.send_header("Content-Length", "0")
                self.end_headers()
                return
            start = int(span.removeprefix("bytes=").partition("-")[0]) if span and state.ranges else 0
            if start >= len(data):
                self.send_response(416)
                self.send_header("Content-Range", f"bytes */{len(data)}")
                self.end_headers()
                return
            self.send_response(206 if start else 200)
            if start:
                self.send_header("Content-Range", f"bytes {start}-{len(data) - 1}/{len(data)}")
            if hub:
                self.send_header("X-Repo-Commit", COMMIT)
                self.send_header("ETag", f'"{hashlib.sha256(data).hexdigest()}"')
            self.send_header("Content-Length", str(len(data) - start))
            self.end_headers()
            if body:
                with contextlib.suppress(ConnectionError):  # the client may have seen enough
                    self.wfile.write(data[start : start + state.cuts.pop(0)] if state.cuts else data[start:])

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    state.address = f"http://127.0.0.1:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
    thread.start()
    try:
        yield state
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
